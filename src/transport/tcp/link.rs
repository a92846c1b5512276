//! The way out to one peer: a bounded queue, and the thread that connects and writes.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};

use super::address::resolve;
use super::{CONNECT_TIMEOUT, HELLO_TIMEOUT, QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, Refused, Station, Throttle, hear, prepare, random, say};
use crate::entry::NodeId;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::Message;
use crate::transport::frame::{self, FrameReader, HEADER_BYTES, Kind};
use crate::transport::hello::{Hello, Stranger};

/// The shortest and the longest pause before a connection is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A message up to this size is written by the thread that sends it if the connection is idle: to wake another thread takes longer than the write.
const DIRECT_BYTES_MAX: usize = 16 << 10;
/// How much of one is written at once: all that the connection takes, but where every schedule is tried so little that some leave a rest.
const WRITE_BYTES_MAX: usize = if cfg!(all(test, loom)) { 200 } else { DIRECT_BYTES_MAX + HEADER_BYTES };
/// The most pieces that one system call takes.
const PIECES_MAX: usize = 1024;

/// One life of a peer: its incarnation, and the number that it drew when it started.
pub(super) type Life = (u64, u64);

pub(super) struct Link {
    pub(super) peer: NodeId,
    address: String,
    queue: Mutex<Queue>,
    wake: Condvar,
    complaints: Throttle,
}

#[derive(Default)]
struct Queue {
    /// What is left of a frame whose begin is written. It goes before all that waits.
    rest: Bytes,
    waiting: Vec<Message>,
    /// The encoded length of all that waits or is being written.
    bytes: usize,
    /// A handle to the connection, or to the attempt at one, so that another thread can end it.
    socket: Option<Socket>,
    /// Which life of the peer is at the other end of the connection, if there is one.
    connected_to: Option<Life>,
    /// In which life the peer was heard of since the last attempt to connect.
    heard: Option<Life>,
    stopped: bool,
}

impl Link {
    pub(super) fn new(peer: NodeId, address: String) -> Link {
        Link { peer, address, queue: Mutex::default(), wake: Condvar::new(), complaints: Throttle::default() }
    }

    /// Queues a message of `len` bytes. False if it was dropped because too much is waiting already.
    pub(super) fn push(&self, message: Message, len: usize) -> bool {
        let mut queue = self.queue.lock();
        let fits = queue.bytes + len <= QUEUE_BYTES_MAX && queue.waiting.len() < QUEUE_MESSAGES_MAX;
        if queue.stopped || !(fits || queue.bytes == 0) {
            return false;
        }
        if len <= DIRECT_BYTES_MAX && queue.is_idle() {
            let frame = frame_of(&message);
            let written = queue.socket.as_ref().map_or(0, |socket| write_now(socket, &frame));
            if written == frame.len() {
                return true;
            }
            if written > 0 {
                queue.bytes += len;
                queue.rest = frame.slice(written..);
                self.wake.notify_one();
                return true;
            }
        }
        queue.bytes += len;
        queue.waiting.push(message);
        if queue.waiting.len() == 1 {
            self.wake.notify_one();
        }
        true
    }

    /// The peer has connected to this node, in this life.
    pub(super) fn heard_of(&self, life: Life) {
        let mut queue = self.queue.lock();
        queue.heard = Some(life);
        if queue.is_outlived() {
            queue.hang_up();
        }
        self.wake.notify_one();
    }

    pub(super) fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stopped = true;
        queue.hang_up();
        self.wake.notify_one();
    }

    /// Connects and writes until the transport is stopped.
    pub(super) fn run(&self, station: &Station) {
        let mut pause = PAUSE.0;
        loop {
            match self.connect(station) {
                Ok(stream) => {
                    pause = PAUSE.0;
                    log::debug!("node {} is connected to node {} at {}", station.node, self.peer, self.address);
                    let end = self.write(&stream);
                    log::debug!("node {} lost its connection to node {}: {end:?}", station.node, self.peer);
                }
                Err(why) => self.complain(station, &why),
            }
            if self.hang_up_and_forget() {
                return;
            }
            station.inbox.unreachable(self.peer);
            if self.rest(jitter(pause)) {
                return;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    fn complain(&self, station: &Station, why: &Refused) {
        if self.is_stopped() || !self.complaints.permits() {
            return;
        }
        let (node, peer, address) = (station.node, self.peer, &self.address);
        match why {
            Refused::Io(error) => log::info!("node {node} cannot reach node {peer} at {address}: {error}"),
            Refused::Stranger(stranger) => log::warn!("node {node} and node {peer} at {address} do not talk to each other: {stranger}"),
        }
    }

    fn is_stopped(&self) -> bool {
        self.queue.lock().stopped
    }

    /// Drops what waits. Returns whether the transport was stopped.
    fn hang_up_and_forget(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.hang_up();
        queue.socket = None;
        queue.connected_to = None;
        queue.rest.clear();
        queue.waiting.clear();
        queue.bytes = 0;
        queue.stopped
    }

    /// Waits before the next attempt, until something is heard of the peer. Returns whether the transport was stopped.
    fn rest(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        let mut queue = self.queue.lock();
        while !queue.stopped && queue.heard.is_none() && !self.wake.wait_until(&mut queue, deadline).timed_out() {}
        queue.stopped
    }

    /// Makes a connection and introduces this node on it.
    fn connect(&self, station: &Station) -> Result<TcpStream, Refused> {
        self.queue.lock().heard = None;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the address stands for no host");
        for address in resolve(&self.address)? {
            match self.dial(address) {
                Ok(stream) => return self.introduce(station, stream),
                Err(error) => failure = error,
            }
        }
        Err(failure.into())
    }

    fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        self.queue.lock().socket = Some(socket.try_clone()?);
        if !self.is_stopped() {
            socket.connect_timeout(&address.into(), CONNECT_TIMEOUT)?;
        }
        // Hanging up does nothing to a socket that has not begun to connect: who stops just then is noticed here.
        if self.is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let stream = TcpStream::from(socket);
        prepare(&stream)?;
        Ok(stream)
    }

    fn introduce(&self, station: &Station, stream: TcpStream) -> Result<TcpStream, Refused> {
        let hello = station.acquaintances.lock().hello_to(self.peer);
        say(&stream, &frame::whole(Kind::Hello, hello.encode()))?;
        let answer = hear(&stream, &mut FrameReader::new(), Instant::now() + HELLO_TIMEOUT)?;
        if answer.kind == Kind::Refusal {
            let code = answer.content.first().copied().unwrap_or_default();
            return Err(Stranger::from_code(code).unwrap_or(Stranger::Protocol).into());
        }
        let hello = Hello::decode(&answer.content)?;
        if hello.from != self.peer {
            return Err(Stranger::Misdirected.into());
        }
        station.acquaintances.lock().admit(&hello)?;
        self.queue.lock().connected_to = Some((hello.identity.incarnation, hello.nonce));
        station.inbox.met(self.peer, hello.identity.directory);
        Ok(stream)
    }

    /// Writes whatever waits, as much at once as there is, until the connection breaks or should be given up.
    fn write(&self, stream: &TcpStream) -> io::Result<()> {
        let mut batch = Vec::new();
        while let Some((rest, bytes_before)) = self.take(&mut batch) {
            say(stream, &rest)?;
            write_batch(stream, &batch)?;
            batch.clear();
            self.queue.lock().bytes -= bytes_before;
        }
        Ok(())
    }

    /// Waits for messages and takes all of them, with what is to be written before them. Returns how many bytes that counts, or `None` if the connection
    /// should be given up.
    fn take(&self, batch: &mut Vec<Message>) -> Option<(Bytes, usize)> {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() && queue.rest.is_empty() && !queue.stopped && !queue.is_outlived() {
            self.wake.wait(&mut queue);
        }
        if queue.stopped || queue.is_outlived() {
            return None;
        }
        std::mem::swap(&mut queue.waiting, batch);
        // Nothing else is being written, so all that is counted is what was just taken.
        Some((std::mem::take(&mut queue.rest), queue.bytes))
    }
}

impl Queue {
    /// Whether there is a connection, and its thread has nothing to write.
    fn is_idle(&self) -> bool {
        self.bytes == 0 && self.connected_to.is_some() && !self.is_outlived()
    }

    /// Whether the peer has begun another life than the one that this is connected to.
    fn is_outlived(&self) -> bool {
        self.connected_to.is_some() && self.heard.is_some() && self.heard != self.connected_to
    }

    fn hang_up(&self) {
        if let Some(socket) = &self.socket {
            // It fails if the other end has hung up first, and then it is done already.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A small message in one piece.
fn frame_of(message: &Message) -> Bytes {
    let content = message.encode();
    let header = frame::header(Kind::Message, &content);
    let pieces = std::iter::once(&header[..]).chain(content.iter().map(|piece| &piece[..]));
    Bytes::from(pieces.collect::<Vec<_>>().concat())
}

/// Writes as much as the connection takes at once, which may be nothing. If the connection is broken, its thread finds out.
#[cfg(target_os = "linux")]
fn write_now(socket: &Socket, bytes: &[u8]) -> usize {
    use rustix::net::SendFlags;
    let bytes = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
    rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or(0)
}

/// Where a single write cannot be told not to wait, none is made by a thread that must not.
#[cfg(not(target_os = "linux"))]
fn write_now(_socket: &Socket, _bytes: &[u8]) -> usize {
    0
}

fn write_batch(stream: &TcpStream, batch: &[Message]) -> io::Result<()> {
    let contents: Vec<Vec<Bytes>> = batch.iter().map(Message::encode).collect();
    let headers: Vec<[u8; HEADER_BYTES]> = contents.iter().map(|content| frame::header(Kind::Message, content)).collect();
    let frames = headers.iter().zip(&contents);
    let pieces = frames.flat_map(|(header, content)| std::iter::once(&header[..]).chain(content.iter().map(|piece| &piece[..])));
    let mut slices: Vec<IoSlice<'_>> = pieces.map(IoSlice::new).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let pieces = rest.len().min(PIECES_MAX);
        match write_pieces(stream, &rest[..pieces]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A connection that is gone is an error, also in a host that is to end when a pipe of it breaks: no signal.
#[cfg(target_os = "linux")]
fn write_pieces(stream: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    Ok(sendmsg(stream, pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
}

/// Elsewhere the socket says so for all that is written to it, or there are no such signals.
#[cfg(not(target_os = "linux"))]
fn write_pieces(mut stream: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    io::Write::write_vectored(&mut stream, pieces)
}

/// Between half of `pause` and all of it, so that nodes that lost each other at the same moment do not keep meeting.
fn jitter(pause: Duration) -> Duration {
    pause / 2 + pause.mul_f64((random() % 1024) as f64 / 2048.0)
}

#[cfg(all(test, loom))]
mod exhaustive;
