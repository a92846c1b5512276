//! The way in: the thread that accepts connections, and the threads that read from those who were admitted.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::address::resolve;
use super::refusals::By;
use super::{CONNECT_TIMEOUT, HELLO_TIMEOUT, Refused, SILENCE_TIMEOUT, Station, hear, prepare, say};
use crate::entry::NodeId;
use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::frame::{self, Frame, FrameReader, Kind};
use crate::transport::hello::{Hello, Stranger};
use crate::transport::{Message, MessageError};

/// Connections that wait in the operating system for us to accept them.
const BACKLOG: i32 = 1024;
/// The longest wait for room in the inbox before it is asked again.
const ROOM_PAUSE_MAX: Duration = Duration::from_millis(20);
/// The least time between two pongs that nobody asked for.
const PONG_INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Listener(TcpListener);

impl Listener {
    pub(super) fn bind(address: &str) -> io::Result<Listener> {
        let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "the address stands for no host");
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
        // Connections of our last life may linger for minutes; they must not keep us from coming back.
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
    pub(super) fn doorbell(&self) -> io::Result<Doorbell> {
        Ok(Doorbell(Mutex::new(Some(self.0.try_clone()?))))
    }

    /// Accepts connections until the transport is stopped.
    pub(super) fn run(self, station: &Arc<Station>) {
        loop {
            let accepted = self.0.accept();
            if station.is_stopped() {
                return;
            }
            match accepted {
                Ok((stream, address)) => receive(station, stream, address),
                // Too many open files, most likely. It takes a while to pass.
                Err(error) => {
                    station.complain("a connection", &error.into());
                    station.rest(Duration::from_millis(100));
                }
            }
        }
    }
}

/// Ends the wait for the next connection.
pub(super) struct Doorbell(Mutex<Option<TcpListener>>);

impl Doorbell {
    pub(super) fn ring(&self) {
        let Some(listener) = self.0.lock().take() else { return };
        // Where a socket that listens cannot be shut down, one more connection to it does as well.
        if SockRef::from(&listener).shutdown(Shutdown::Both).is_err()
            && let Ok(mut address) = listener.local_addr()
        {
            if address.ip().is_unspecified() {
                address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            let _ = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
        }
    }
}

/// Gives a new connection a thread, as soon as there is room for it.
fn receive(station: &Arc<Station>, stream: TcpStream, address: SocketAddr) {
    let guest = Arc::new(Guest::new(stream));
    station.lobby.enter(&guest, address);
    let (shared, own) = (station.clone(), guest.clone());
    if let Err(error) = station.spawner.spawn("from", move || own.serve(&shared, address)) {
        station.lobby.leave(&guest);
        station.complain(&address.to_string(), &error.into());
    }
}

/// A connection that was accepted.
pub(super) struct Guest {
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

impl Guest {
    pub(super) fn new(stream: TcpStream) -> Guest {
        Guest {
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
        self.peer.load(Ordering::Relaxed) == hello.from.get() && self.nonce.load(Ordering::Relaxed) != hello.nonce
    }

    /// Whether somebody is there: asks, under a number that was not used before, and waits for the
    /// answer. What was sent before, by a process that has ended since, answers nothing.
    pub(super) fn is_there(&self, number: u64, deadline: Instant) -> bool {
        if self.is_closed() || self.say(&frame::numbered(Kind::Ping, number)).is_err() {
            return false;
        }
        let mut answered = self.answered.lock();
        while *answered < number && !self.is_closed() && !self.news.wait_until(&mut answered, deadline).timed_out() {}
        *answered >= number && !self.is_closed()
    }

    fn say(&self, frame: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock();
        say(&self.stream, frame)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Hears who it is, then takes its messages until one of the two hangs up.
    fn serve(self: Arc<Guest>, station: &Station, address: SocketAddr) {
        station.guests.lock().push(self.clone());
        // Who stops the transport closes all guests that are here afterwards; who is late sees that it has been stopped.
        if station.is_stopped() {
            self.close();
        }
        let mut reader = FrameReader::new();
        let admitted = self.admit(station, &mut reader);
        station.lobby.leave(&self);
        let end = admitted.and_then(|peer| Ok(self.read(station, peer, &mut reader)?));
        if let Err(why) = end
            && !self.is_closed()
        {
            station.complain(&address.to_string(), &why);
        }
        self.close();
        station.guests.lock().retain(|other| !Arc::ptr_eq(other, &self));
    }

    fn admit(self: &Arc<Guest>, station: &Station, reader: &mut FrameReader) -> Result<NodeId, Refused> {
        prepare(&self.stream)?;
        let frame = hear(&self.stream, reader, Instant::now() + HELLO_TIMEOUT)?;
        let judged = match frame.kind {
            Kind::Hello => station.judge(&frame.content, None),
            _ => Err(station.acquaintances.lock().rejection(Stranger::Protocol, &[])),
        };
        let hello = match judged {
            Ok(hello) => hello,
            Err(why) => {
                let refusal = station.acquaintances.lock().refusal(why.reason);
                let _ = say(&self.stream, &frame::whole(Kind::Refusal, refusal));
                return Err(why.into());
            }
        };
        self.replace_earlier(station, &hello);
        let answer = station.acquaintances.lock().hello_to(hello.from);
        say(&self.stream, &frame::whole(Kind::Hello, answer.encode()))?;
        station.refusals.clear(hello.from, By::Us);
        if let Some(link) = station.link_to(hello.from) {
            link.heard_of((hello.identity.incarnation, hello.nonce));
        }
        reader.admit(station.message_bytes_max);
        self.stream.set_read_timeout(Some(SILENCE_TIMEOUT))?;
        Ok(hello.from)
    }

    /// A peer that connects anew has given its earlier connection up, whether or not that has been noticed here.
    fn replace_earlier(self: &Arc<Guest>, station: &Station, hello: &Hello) {
        let guests = station.guests.lock();
        let earlier = guests.iter().filter(|guest| guest.peer.load(Ordering::Relaxed) == hello.from.get());
        earlier.for_each(|guest| guest.close());
        self.nonce.store(hello.nonce, Ordering::Relaxed);
        self.peer.store(hello.from.get(), Ordering::Relaxed);
    }

    /// Takes what the peer sends until one of the two hangs up, or nothing has come for so long that
    /// nobody can be there. Whatever comes is answered, so that the peer knows that it arrives.
    fn read(&self, station: &Station, peer: NodeId, reader: &mut FrameReader) -> io::Result<()> {
        let mut pongs = Pongs(Instant::now());
        loop {
            while let Some(frame) = reader.next()? {
                match frame.kind {
                    Kind::Ping => self.pong(frame.number())?,
                    Kind::Pong => self.take_answer(frame.number()),
                    Kind::Refusal => return self.refused(station, peer, &frame),
                    _ => self.deliver(station, peer, &frame, &mut pongs)?,
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
            Some(number @ 1..) => self.say(&frame::numbered(Kind::Pong, number)),
            _ => Ok(()),
        }
    }

    fn take_answer(&self, number: Option<u64>) {
        let mut answered = self.answered.lock();
        *answered = number.unwrap_or(0).max(*answered);
        self.news.notify_all();
    }

    fn refused(&self, station: &Station, peer: NodeId, frame: &Frame) -> io::Result<()> {
        let why = station.acquaintances.lock().refused_by(&frame.content);
        station.refusals.set(peer, By::Peer, why);
        Ok(())
    }

    /// Hands a message over. While the node has no room for it nothing more is read, and so the peer has to wait.
    fn deliver(&self, station: &Station, peer: NodeId, frame: &Frame, pongs: &mut Pongs) -> io::Result<()> {
        let mut pause = Duration::from_millis(1);
        loop {
            let message = self.message_of(station, peer, frame)?;
            if station.inbox.deliver(message) {
                return Ok(());
            }
            // Busy is not gone.
            pongs.send(self)?;
            if station.rest(pause) || self.is_closed() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            pause = (pause * 2).min(ROOM_PAUSE_MAX);
        }
    }

    /// The message in a frame, if it is one from `peer` to this node. Taken from the frame anew each time: that costs nothing unless the
    /// node was too busy, and copies no payload.
    fn message_of(&self, station: &Station, peer: NodeId, frame: &Frame) -> io::Result<Message> {
        let invalid = |why: MessageError| io::Error::new(io::ErrorKind::InvalidData, why);
        if frame.kind != Kind::Message {
            return Err(invalid(MessageError("another hello")));
        }
        let decoded = Message::decode(frame.content.clone());
        let message = decoded.inspect_err(|_| self.refuse(station, peer)).map_err(invalid)?;
        if message.from() != peer || message.to() != station.node {
            return Err(invalid(MessageError("it does not go from that peer to this node")));
        }
        Ok(message)
    }

    /// Tells both ends that the peer sends what this version does not understand.
    fn refuse(&self, station: &Station, peer: NodeId) {
        let (why, refusal) = {
            let acquaintances = station.acquaintances.lock();
            let reason = Stranger::Unreadable;
            (acquaintances.rejection(reason, &[]), acquaintances.refusal(reason))
        };
        station.refusals.set(peer, By::Us, why);
        let _ = self.say(&frame::whole(Kind::Refusal, refusal));
    }
}

/// When the last pong was sent that nobody asked for.
struct Pongs(Instant);

impl Pongs {
    fn send(&mut self, guest: &Guest) -> io::Result<()> {
        let now = Instant::now();
        if now.saturating_duration_since(self.0) < PONG_INTERVAL {
            return Ok(());
        }
        self.0 = now;
        guest.say(&frame::numbered(Kind::Pong, 0))
    }
}
