//! An inbound connection: its stream, its peer after the handshake, and whether it is open.

use std::io;
use std::net::{Shutdown, TcpStream};

use super::stream::write_frame;
use crate::entry::NodeId;
use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::frame::{self, Kind};
use crate::transport::hello::Hello;

/// Shared by the thread that reads from it and by all that may close or ping it.
pub(super) struct InboundConnection {
    pub(super) stream: TcpStream,
    /// The peer and its process. 0 before the handshake.
    peer: AtomicU64,
    nonce: AtomicU64,
    closed: AtomicBool,
    /// Held while a frame is written.
    writing: Mutex<()>,
    /// The highest number of a ping that the peer has answered.
    answered: Mutex<u64>,
    /// Notified by each pong, and by the close.
    changed: Condvar,
}

impl InboundConnection {
    pub(super) fn new(stream: TcpStream) -> InboundConnection {
        InboundConnection {
            stream,
            peer: AtomicU64::new(0),
            nonce: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            writing: Mutex::default(),
            answered: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The handshake succeeded: the connection is that of the process that sent `hello`.
    pub(super) fn identify(&self, hello: &Hello) {
        self.nonce.store(hello.nonce, Ordering::Relaxed);
        self.peer.store(hello.from.get(), Ordering::Relaxed);
    }

    pub(super) fn is_from(&self, peer: NodeId) -> bool {
        self.peer.load(Ordering::Relaxed) == peer.get()
    }

    /// Whether it belongs to another process of the node that sent `hello`.
    pub(super) fn is_rival_of(&self, hello: &Hello) -> bool {
        self.is_from(hello.from) && self.nonce.load(Ordering::Relaxed) != hello.nonce
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Fails if the peer has closed it first: nothing is left to do then.
        let _ = self.stream.shutdown(Shutdown::Both);
        let _answered = self.answered.lock();
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether the peer is alive: sends a ping whose number is new, and waits for its pong. Older
    /// bytes of a process that has ended do not answer it.
    pub(super) fn is_alive(&self, number: u64, deadline: Instant) -> bool {
        if self.is_closed() || self.write_frame(&frame::numbered(Kind::Ping, number)).is_err() {
            return false;
        }
        let mut answered = self.answered.lock();
        while *answered < number
            && !self.is_closed()
            && !self.changed.wait_until(&mut answered, deadline).timed_out()
        {}
        *answered >= number && !self.is_closed()
    }

    /// The peer has answered the ping of that number.
    pub(super) fn handle_pong(&self, number: Option<u64>) {
        let mut answered = self.answered.lock();
        *answered = number.unwrap_or(0).max(*answered);
        self.changed.notify_all();
    }

    pub(super) fn write_frame(&self, frame: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock();
        write_frame(&self.stream, frame)
    }
}
