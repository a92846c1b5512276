//! The way in: the thread that accepts connections, and the threads that read from those who were
//! admitted.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::address::resolve;
use super::refusals::By;
use super::{
    CONNECT_TIMEOUT, ConnectError, HELLO_TIMEOUT, SILENCE_TIMEOUT, TcpState, configure_stream,
    read_frame, write_frame,
};
use crate::entry::NodeId;
use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::frame::{self, Frame, FrameReader, Kind};
use crate::transport::hello::{HandshakeRejection, Hello};
use crate::transport::{Message, MessageError};

/// Connections that wait in the operating system for us to accept them.
const BACKLOG: i32 = 1024;
/// The longest wait for room in the inbox before it is asked again.
const INBOX_RETRY_MAX: Duration = Duration::from_millis(20);
/// The least time between two pongs that nobody asked for.
const PONG_INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Listener(TcpListener);

impl Listener {
    pub(super) fn bind(address: &str) -> io::Result<Listener> {
        let mut failure =
            io::Error::new(io::ErrorKind::InvalidInput, "the address stands for no host");
        for address in resolve(address)? {
            match Listener::bind_to(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn bind_to(address: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of our last life may linger for minutes; they must not keep us from coming
        // back.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Listener(socket.into()))
    }

    /// Where it listens.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// What wakes the thread that accepts, from any other.
    pub(super) fn accept_waker(&self) -> io::Result<AcceptWaker> {
        Ok(AcceptWaker(Mutex::new(Some(self.0.try_clone()?))))
    }

    /// Accepts connections until the transport is stopped.
    pub(super) fn run(self, tcp: &Arc<TcpState>) {
        loop {
            let accepted = self.0.accept();
            if tcp.is_stopped() {
                return;
            }
            match accepted {
                Ok((stream, address)) => accept_connection(tcp, stream, address),
                // Too many open files, most likely. It takes a while to pass.
                Err(error) => {
                    tcp.log_rejection("a connection", &error.into());
                    tcp.wait_or_stopped(Duration::from_millis(100));
                }
            }
        }
    }
}

/// Ends the wait for the next connection.
pub(super) struct AcceptWaker(Mutex<Option<TcpListener>>);

impl AcceptWaker {
    pub(super) fn wake(&self) {
        let Some(listener) = self.0.lock().take() else { return };
        // Where a socket that listens cannot be shut down, one more connection to it does as well.
        if SockRef::from(&listener).shutdown(Shutdown::Both).is_err()
            && let Ok(mut address) = listener.local_addr()
        {
            if address.ip().is_unspecified() {
                address.set_ip(if address.is_ipv4() {
                    Ipv4Addr::LOCALHOST.into()
                } else {
                    Ipv6Addr::LOCALHOST.into()
                });
            }
            let _ = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
        }
    }
}

/// Gives a new connection a thread, as soon as there is room for it.
fn accept_connection(tcp: &Arc<TcpState>, stream: TcpStream, address: SocketAddr) {
    let connection = Arc::new(InboundConnection::new(stream));
    tcp.pending.enter(&connection, address);
    let (shared, own) = (tcp.clone(), connection.clone());
    if let Err(error) = tcp.spawner.spawn("from", move || own.run(&shared, address)) {
        tcp.pending.leave(&connection);
        tcp.log_rejection(&address.to_string(), &error.into());
    }
}

/// A connection that was accepted.
pub(super) struct InboundConnection {
    stream: TcpStream,
    /// Who it turned out to be, and which process of it. 0 until it is admitted.
    peer: AtomicU64,
    nonce: AtomicU64,
    closed: AtomicBool,
    /// Held while a frame is written to it.
    writing: Mutex<()>,
    /// The highest number of a ping that it has answered.
    answered: Mutex<u64>,
    /// It has answered, or is closed.
    news: Condvar,
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
            news: Condvar::new(),
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // It fails if the other end has hung up first, and then it is done already.
        let _ = self.stream.shutdown(Shutdown::Both);
        let _answered = self.answered.lock();
        self.news.notify_all();
    }

    /// Whether it is a connection of another process of the node that says `hello`.
    pub(super) fn is_rival_of(&self, hello: &Hello) -> bool {
        self.peer.load(Ordering::Relaxed) == hello.from.get()
            && self.nonce.load(Ordering::Relaxed) != hello.nonce
    }

    /// Whether somebody is there: asks, under a number that was not used before, and waits for the
    /// answer. What was sent before, by a process that has ended since, answers nothing.
    pub(super) fn is_there(&self, number: u64, deadline: Instant) -> bool {
        if self.is_closed() || self.write_frame(&frame::numbered(Kind::Ping, number)).is_err() {
            return false;
        }
        let mut answered = self.answered.lock();
        while *answered < number
            && !self.is_closed()
            && !self.news.wait_until(&mut answered, deadline).timed_out()
        {}
        *answered >= number && !self.is_closed()
    }

    fn write_frame(&self, frame: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock();
        write_frame(&self.stream, frame)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Hears who it is, then takes its messages until one of the two hangs up.
    fn run(self: Arc<InboundConnection>, tcp: &TcpState, address: SocketAddr) {
        tcp.connections.lock().push(self.clone());
        // Who stops the transport closes all guests that are here afterwards; who is late sees that
        // it has been stopped.
        if tcp.is_stopped() {
            self.close();
        }
        let mut reader = FrameReader::new();
        let admitted = self.admit(tcp, &mut reader);
        tcp.pending.leave(&self);
        let end = admitted.and_then(|peer| Ok(self.read(tcp, peer, &mut reader)?));
        if let Err(why) = end
            && !self.is_closed()
        {
            tcp.log_rejection(&address.to_string(), &why);
        }
        self.close();
        tcp.connections.lock().retain(|other| !Arc::ptr_eq(other, &self));
    }

    fn admit(
        self: &Arc<InboundConnection>,
        tcp: &TcpState,
        reader: &mut FrameReader,
    ) -> Result<NodeId, ConnectError> {
        configure_stream(&self.stream)?;
        let frame = read_frame(&self.stream, reader, Instant::now() + HELLO_TIMEOUT)?;
        let judged = match frame.kind {
            Kind::Hello => tcp.judge(&frame.content, None),
            _ => Err(tcp.acquaintances.lock().rejection(HandshakeRejection::Protocol, &[])),
        };
        let hello = match judged {
            Ok(hello) => hello,
            Err(why) => {
                let refusal = tcp.acquaintances.lock().refusal(why.reason);
                let _ = write_frame(&self.stream, &frame::encode(Kind::Refusal, refusal));
                return Err(why.into());
            }
        };
        self.replace_earlier(tcp, &hello);
        let answer = tcp.acquaintances.lock().hello_to(hello.from);
        write_frame(&self.stream, &frame::encode(Kind::Hello, answer.encode()))?;
        tcp.refusals.clear(hello.from, By::Us);
        if let Some(link) = tcp.link_to(hello.from) {
            link.heard_of((hello.identity.incarnation, hello.nonce));
        }
        reader.admit(tcp.message_bytes_max);
        self.stream.set_read_timeout(Some(SILENCE_TIMEOUT))?;
        Ok(hello.from)
    }

    /// A peer that connects anew has given its earlier connection up, whether or not that has been
    /// noticed here.
    fn replace_earlier(self: &Arc<InboundConnection>, tcp: &TcpState, hello: &Hello) {
        let connections = tcp.connections.lock();
        let earlier = connections
            .iter()
            .filter(|connection| connection.peer.load(Ordering::Relaxed) == hello.from.get());
        earlier.for_each(|connection| connection.close());
        self.nonce.store(hello.nonce, Ordering::Relaxed);
        self.peer.store(hello.from.get(), Ordering::Relaxed);
    }

    /// Takes what the peer sends until one of the two hangs up, or nothing has come for so long
    /// that nobody can be there. Whatever comes is answered, so that the peer knows that it
    /// arrives.
    fn read(&self, tcp: &TcpState, peer: NodeId, reader: &mut FrameReader) -> io::Result<()> {
        let mut pongs = Pongs(Instant::now());
        loop {
            while let Some(frame) = reader.next()? {
                match frame.kind {
                    Kind::Ping => self.pong(frame.number())?,
                    Kind::Pong => self.take_answer(frame.number()),
                    Kind::Refusal => return self.refused(tcp, peer, &frame),
                    _ => self.deliver(tcp, peer, &frame, &mut pongs)?,
                }
            }
            match reader.read_from(&mut &self.stream) {
                Ok(0) => return Ok(()),
                Ok(_) => pongs.send(self)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers a ping that wants to be answered at once.
    fn pong(&self, number: Option<u64>) -> io::Result<()> {
        match number {
            Some(number @ 1..) => self.write_frame(&frame::numbered(Kind::Pong, number)),
            _ => Ok(()),
        }
    }

    fn take_answer(&self, number: Option<u64>) {
        let mut answered = self.answered.lock();
        *answered = number.unwrap_or(0).max(*answered);
        self.news.notify_all();
    }

    fn refused(&self, tcp: &TcpState, peer: NodeId, frame: &Frame) -> io::Result<()> {
        let why = tcp.acquaintances.lock().refused_by(&frame.content);
        tcp.refusals.set(peer, By::Peer, why);
        Ok(())
    }

    /// Hands a message over. While the node has no room for it nothing more is read, and so the
    /// peer has to wait.
    fn deliver(
        &self,
        tcp: &TcpState,
        peer: NodeId,
        frame: &Frame,
        pongs: &mut Pongs,
    ) -> io::Result<()> {
        let mut pause = Duration::from_millis(1);
        loop {
            let message = self.message_of(tcp, peer, frame)?;
            if tcp.inbox.deliver(message) {
                return Ok(());
            }
            // Busy is not gone.
            pongs.send(self)?;
            if tcp.wait_or_stopped(pause) || self.is_closed() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            pause = (pause * 2).min(INBOX_RETRY_MAX);
        }
    }

    /// The message in a frame, if it is one from `peer` to this node. Taken from the frame anew
    /// each time: that costs nothing unless the node was too busy, and copies no payload.
    fn message_of(&self, tcp: &TcpState, peer: NodeId, frame: &Frame) -> io::Result<Message> {
        let invalid = |why: MessageError| io::Error::new(io::ErrorKind::InvalidData, why);
        if frame.kind != Kind::Message {
            return Err(invalid(MessageError("another hello")));
        }
        let decoded = Message::decode(frame.content.clone());
        let message = decoded.inspect_err(|_| self.refuse(tcp, peer)).map_err(invalid)?;
        if message.from() != peer || message.to() != tcp.node {
            return Err(invalid(MessageError("it does not go from that peer to this node")));
        }
        Ok(message)
    }

    /// Tells both ends that the peer sends what this version does not understand.
    fn refuse(&self, tcp: &TcpState, peer: NodeId) {
        let (why, refusal) = {
            let acquaintances = tcp.acquaintances.lock();
            let reason = HandshakeRejection::Unreadable;
            (acquaintances.rejection(reason, &[]), acquaintances.refusal(reason))
        };
        tcp.refusals.set(peer, By::Us, why);
        let _ = self.write_frame(&frame::encode(Kind::Refusal, refusal));
    }
}

/// When the last pong was sent that nobody asked for.
struct Pongs(Instant);

impl Pongs {
    fn send(&mut self, connection: &InboundConnection) -> io::Result<()> {
        let now = Instant::now();
        if now.saturating_duration_since(self.0) < PONG_INTERVAL {
            return Ok(());
        }
        self.0 = now;
        connection.write_frame(&frame::numbered(Kind::Pong, 0))
    }
}
