//! The way out to one peer: two bounded queues, and the thread that connects and writes.
//!
//! What is urgent goes before bulk, and bulk goes in rounds of at most [`ROUND_BYTES`], so that
//! nothing urgent waits behind more than two rounds: the one that is being written, and what the
//! operating system has taken and not sent (see [`prepare`]).

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};

use super::outbound::Outbound;
use super::refusals::By;
use super::resolver::{Lookup, Resolver};
use super::{
    CONNECT_TIMEOUT, ConnectError, HELLO_TIMEOUT, LogRateLimit, QUEUE_BYTES_MAX,
    QUEUE_MESSAGES_MAX, TcpState, configure_stream, random, read_frame, write_frame,
};
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::Message;
use crate::transport::frame::{self, FrameReader, Frames, Kind, WHOLE_BYTES_MAX};

/// The shortest and the longest pause before a connection is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// A message up to this size is written by the thread that sends it if the connection is idle: to
/// wake another thread takes longer than the write.
const INLINE_WRITE_MAX: usize = 16 << 10;
/// How much of one is written at once: all that the connection takes, but where every schedule is
/// tried so little that some leave a rest.
#[cfg(target_os = "linux")]
const WRITE_BYTES_MAX: usize =
    if cfg!(all(test, loom)) { 200 } else { INLINE_WRITE_MAX + frame::HEADER_BYTES };
/// So many connections in a row that fall silent have a reason of their own.
const SILENCES_MIN: u32 = 3;
/// How much bulk is written before it is looked whether anything urgent has come. One frame more at
/// most.
const ROUND_BYTES: usize = 64 << 10;

/// One life of a peer: its incarnation, and the number that it drew when it started.
pub(super) type ProcessId = (u64, u64);

pub(super) struct PeerSender {
    pub(super) peer: NodeId,
    address: String,
    resolver: Resolver,
    queue: Mutex<Queue>,
    /// Wakes the thread that writes.
    wake: Condvar,
    /// The connection was looked at, or is gone.
    looked: Condvar,
    complaints: LogRateLimit,
}

#[derive(Default)]
struct Queue {
    /// What is left of a frame whose begin is written. It goes before all that waits.
    rest: Bytes,
    urgent: Vec<Message>,
    bulk: VecDeque<Message>,
    /// The bulk that is being written, if it takes more than one frame.
    current: Option<Message>,
    /// The encoded length of all bulk that waits or is being written.
    bytes: usize,
    /// The thread that writes has something to write, or looks at the connection.
    is_busy: bool,
    /// Something was written since the connection was looked at.
    has_written: bool,
    /// Somebody wants to know whether the peer is there.
    is_asked: bool,
    /// How often the peer was heard on its connections.
    times_heard: u64,
    /// A handle to the connection, or to the attempt at one, so that another thread can end it.
    socket: Option<Socket>,
    /// Which life of the peer is at the other end of the connection, if there is one.
    connected_to: Option<ProcessId>,
    /// In which life the peer was heard of since the last attempt to connect.
    seen_process: Option<ProcessId>,
    stopped: bool,
}

/// What the log says of the connection. A loss is told once in a while, and a connection only after
/// the log has said that there is none: one that comes and goes does not fill it.
#[derive(Default)]
struct Told {
    says_connected: bool,
    was_connected: bool,
    losses: LogRateLimit,
}

impl Told {
    fn is_connection_news(&mut self) -> bool {
        self.was_connected = true;
        !std::mem::replace(&mut self.says_connected, true)
    }

    fn is_loss_news(&mut self) -> bool {
        let is_news = self.losses.permits();
        self.says_connected &= !is_news;
        is_news
    }
}

/// What the thread that writes does next.
enum Next {
    Write,
    Look,
    GiveUp,
}

/// What was taken from the queue to be written.
#[derive(Default)]
struct Work {
    rest: Bytes,
    urgent: Vec<Message>,
    /// Bulk that was begun, and the length of its message.
    current: Option<(Frames, usize)>,
    /// The bulk behind it.
    bulk: VecDeque<Message>,
    /// The length of the bulk messages that are written.
    written: usize,
}

impl PeerSender {
    pub(super) fn new(peer: NodeId, address: String, lookup: Lookup) -> PeerSender {
        PeerSender {
            peer,
            resolver: Resolver::new(address.clone(), lookup),
            address,
            queue: Mutex::default(),
            wake: Condvar::new(),
            looked: Condvar::new(),
            complaints: LogRateLimit::default(),
        }
    }

    /// Queues a message of `len` bytes. False if it was dropped because too much is waiting
    /// already.
    pub(super) fn push(&self, message: Message, len: usize) -> bool {
        let mut queue = self.queue.lock();
        let is_urgent = message.is_urgent();
        if !queue.stopped && len > WHOLE_BYTES_MAX && queue.holds(&message) {
            return true;
        }
        if queue.stopped || !queue.has_room(is_urgent, len) {
            return false;
        }
        if len <= INLINE_WRITE_MAX && queue.is_idle() {
            let frame = frame_of(&message);
            let written = queue.socket.as_ref().map_or(0, |socket| write_now(socket, &frame));
            queue.has_written |= written > 0;
            if written == frame.len() {
                return true;
            }
            if written > 0 {
                queue.rest = frame.slice(written..);
                self.wake.notify_one();
                return true;
            }
        }
        if is_urgent {
            queue.urgent.push(message);
        } else {
            queue.bytes += len;
            queue.bulk.push_back(message);
        }
        if queue.urgent.len() + queue.bulk.len() == 1 {
            self.wake.notify_one();
        }
        true
    }

    /// The peer has connected to this node, in this life.
    pub(super) fn heard_of(&self, life: ProcessId) {
        let mut queue = self.queue.lock();
        queue.seen_process = Some(life);
        if queue.is_outlived() {
            queue.close_connection();
        }
        self.wake.notify_one();
    }

    /// Whether the connection leads to another process than `life`, and that is there: it has been
    /// heard after this was asked. Blocks until then, at most until `deadline`.
    pub(super) fn is_answered_by_another(&self, life: ProcessId, deadline: Instant) -> bool {
        let mut queue = self.queue.lock();
        let Some(other) = queue.connected_to.filter(|(_, nonce)| *nonce != life.1) else {
            return false;
        };
        let (before, is_same) =
            (queue.times_heard, |queue: &Queue| queue.connected_to == Some(other));
        queue.is_asked = true;
        self.wake.notify_one();
        while is_same(&queue)
            && queue.times_heard == before
            && !self.looked.wait_until(&mut queue, deadline).timed_out()
        {}
        is_same(&queue) && queue.times_heard != before
    }

    /// Ends the connection. Another one is made.
    pub(super) fn close_connection(&self) {
        self.queue.lock().close_connection();
        self.wake.notify_one();
    }

    pub(super) fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stopped = true;
        queue.close_connection();
        self.wake.notify_one();
        self.looked.notify_all();
        self.resolver.stop();
    }

    /// Connects and writes until the transport is stopped.
    pub(super) fn run(&self, tcp: &TcpState) {
        let (mut pause, mut silences, mut told) = (BACKOFF.0, 0, Told::default());
        loop {
            match self.connect(tcp) {
                Ok(mut outbound) => {
                    pause = BACKOFF.0;
                    self.tell_connected(&mut told);
                    // Where every connection is in good order, nothing else comes to it.
                    let end = self.write(&mut outbound, || tcp.refusals.expire());
                    self.tell_lost(&mut told, &end);
                    let fell_silent =
                        end.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
                    silences = if fell_silent { silences + 1 } else { 0 };
                    if silences >= SILENCES_MIN {
                        self.warn_of_silence();
                    }
                    if let Some(refusal) = outbound.refusal() {
                        let why = tcp.acquaintances.lock().refused_by(&refusal);
                        tcp.refusals.set(self.peer, By::Peer, why);
                    }
                }
                Err(why) => self.log_rejection(&mut told, &why),
            }
            if self.hang_up_and_forget() {
                return;
            }
            tcp.refusals.expire();
            tcp.inbox.unreachable(self.peer);
            if self.wait_or_stopped(jitter(pause)) {
                return;
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Each time the two introduced themselves, so what is short arrives, and nothing was heard
    /// once there was more to say.
    fn warn_of_silence(&self) {
        if self.complaints.permits() {
            log::warn!(
                "{}reaches node {} at {}, and hears nothing more of it once messages follow: \
                 larger packets may not pass. Look for a \
                 largest packet (MTU) on the way that is smaller than at its ends, or set that of the interface lower",
                log_prefix(),
                self.peer,
                self.address
            );
        }
    }

    /// Who is refused, and why, is told with all refusals of the node.
    fn log_rejection(&self, told: &mut Told, why: &ConnectError) {
        let ConnectError::Io(error) = why else { return };
        if !self.is_stopped() && self.complaints.permits() {
            log::info!(
                "{}cannot reach node {} at {}: {error}",
                log_prefix(),
                self.peer,
                self.address
            );
            told.says_connected = false;
        }
    }

    /// Nothing new unless the log says that there is no connection.
    fn tell_connected(&self, told: &mut Told) {
        let again = if told.was_connected { " again" } else { "" };
        if told.is_connection_news() {
            log::info!(
                "{}connected to node {}{again} at {}",
                log_prefix(),
                self.peer,
                self.address
            );
        }
    }

    fn tell_lost(&self, told: &mut Told, end: &io::Result<()>) {
        if self.is_stopped() || !told.is_loss_news() {
            return;
        }
        let why = match end {
            Ok(()) => "the node was started anew".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "it was closed".to_owned()
            }
            Err(error) => error.to_string(),
        };
        log::info!(
            "{}lost the connection to node {} at {}: {why}",
            log_prefix(),
            self.peer,
            self.address
        );
    }

    fn is_stopped(&self) -> bool {
        self.queue.lock().stopped
    }

    /// Drops what waits. Returns whether the transport was stopped.
    fn hang_up_and_forget(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.close_connection();
        let (seen_process, times_heard, stopped) =
            (queue.seen_process, queue.times_heard, queue.stopped);
        *queue = Queue { seen_process, times_heard, stopped, ..Queue::default() };
        self.looked.notify_all();
        stopped
    }

    /// Waits before the next attempt, until something is heard of the peer. Returns whether the
    /// transport was stopped.
    fn wait_or_stopped(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        let mut queue = self.queue.lock();
        while !queue.stopped
            && queue.seen_process.is_none()
            && !self.wake.wait_until(&mut queue, deadline).timed_out()
        {}
        queue.stopped
    }

    /// Makes a connection and introduces this node on it.
    fn connect(&self, tcp: &TcpState) -> Result<Outbound, ConnectError> {
        self.queue.lock().seen_process = None;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the address stands for no host");
        for address in self.resolver.resolve(&tcp.spawner)? {
            match self.dial(address) {
                Ok(stream) => return self.introduce(tcp, stream),
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
        // Hanging up does nothing to a socket that has not begun to connect: who stops just then is
        // noticed here.
        if self.is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let stream = TcpStream::from(socket);
        configure_stream(&stream)?;
        Ok(stream)
    }

    fn introduce(&self, tcp: &TcpState, stream: TcpStream) -> Result<Outbound, ConnectError> {
        let (hello, mut reader) =
            (tcp.acquaintances.lock().hello_to(self.peer), FrameReader::new());
        write_frame(&stream, &frame::encode(Kind::Hello, hello.encode()))?;
        let answer = read_frame(&stream, &mut reader, Instant::now() + HELLO_TIMEOUT)?;
        if answer.kind == Kind::Refusal {
            let why = tcp.acquaintances.lock().refused_by(&answer.content);
            tcp.refusals.set(self.peer, By::Peer, why.clone());
            return Err(why.into());
        }
        let hello = tcp.judge(&answer.content, Some(self.peer)).inspect_err(|why| {
            // Else it would take this node for one that is content.
            let refusal = tcp.acquaintances.lock().refusal(why.reason);
            let _ = write_frame(&stream, &frame::encode(Kind::Refusal, refusal));
        })?;
        self.queue.lock().connected_to = Some((hello.identity.incarnation, hello.nonce));
        tcp.refusals.clear(self.peer, By::Us);
        tcp.refusals.clear(self.peer, By::Peer);
        Ok(Outbound::new(stream, reader)?)
    }

    /// Writes whatever waits until the connection breaks or should be given up.
    /// Calls `while_there` whenever it looks whether the peer is there.
    fn write(&self, outbound: &mut Outbound, while_there: impl Fn()) -> io::Result<()> {
        let (mut work, mut parts) = (Work::default(), Vec::new());
        loop {
            match self.take(&mut work, outbound) {
                Next::GiveUp => return Ok(()),
                Next::Look => {
                    self.look(outbound)?;
                    while_there();
                }
                Next::Write => {
                    work.put_next_round(&mut parts);
                    outbound.write(&parts)?;
                    parts.clear();
                }
            }
        }
    }

    /// Waits for something to do, and takes it. What was taken before is written.
    fn take(&self, work: &mut Work, outbound: &mut Outbound) -> Next {
        let mut queue = self.queue.lock();
        queue.bytes -= std::mem::take(&mut work.written);
        queue.is_busy = false;
        loop {
            if queue.stopped || queue.is_outlived() {
                return Next::GiveUp;
            }
            if std::mem::take(&mut queue.is_asked) {
                outbound.hurry();
            }
            let now = Instant::now();
            let is_due = now >= outbound.next_look();
            if is_due || !queue.is_empty() || work.is_begun() {
                queue.is_busy = true;
                if is_due {
                    return Next::Look;
                }
                queue.has_written = true;
                queue.give(work);
                return Next::Write;
            }
            self.wake.wait_until(&mut queue, outbound.next_look());
        }
    }

    /// Hears whether the peer is there, and lets it know that this node is.
    fn look(&self, outbound: &mut Outbound) -> io::Result<()> {
        let is_heard = outbound.look()?;
        let has_written = {
            let mut queue = self.queue.lock();
            queue.times_heard += u64::from(is_heard);
            std::mem::take(&mut queue.has_written)
        };
        if is_heard {
            self.looked.notify_all();
        }
        outbound.answer_and_ask(has_written)
    }
}

impl Work {
    /// Whether bulk that was taken is not written yet.
    fn is_begun(&self) -> bool {
        self.current.is_some() || !self.bulk.is_empty()
    }

    /// What is urgent, and bulk up to the length of a round, or a frame more.
    fn put_next_round(&mut self, parts: &mut Vec<Bytes>) {
        if !self.rest.is_empty() {
            parts.push(std::mem::take(&mut self.rest));
        }
        for message in self.urgent.drain(..) {
            let mut frames = Frames::of(message.encode());
            while frames.next(parts).is_some() {}
        }
        let mut round = 0;
        while round < ROUND_BYTES {
            let begin = || {
                self.bulk
                    .pop_front()
                    .map(|message| (Frames::of(message.encode()), message.encoded_len()))
            };
            let Some((mut frames, len)) = self.current.take().or_else(begin) else { break };
            round += frames.next(parts).unwrap_or(0);
            match frames.is_empty() {
                true => self.written += len,
                false => self.current = Some((frames, len)),
            }
        }
    }
}

impl Queue {
    /// A large message passes when it is alone.
    fn has_room(&self, is_urgent: bool, len: usize) -> bool {
        if is_urgent {
            return self.urgent.len() < QUEUE_MESSAGES_MAX;
        }
        let fits = self.bytes + len <= QUEUE_BYTES_MAX && self.bulk.len() < QUEUE_MESSAGES_MAX;
        fits || self.bytes == 0
    }

    /// Whether all that this message brings is on its way already: Raft repeats an append with
    /// every heartbeat that is answered, and over a slow connection the copies would pile up.
    fn holds(&self, message: &Message) -> bool {
        self.current.iter().chain(&self.bulk).any(|waiting| waiting.is_repeated_by(message))
    }

    /// Hands over what is urgent, and bulk for a round if none was begun.
    fn give(&mut self, work: &mut Work) {
        work.rest = std::mem::take(&mut self.rest);
        std::mem::swap(&mut self.urgent, &mut work.urgent);
        if work.is_begun() {
            return;
        }
        self.current = None;
        let mut given = 0;
        while given < ROUND_BYTES
            && let Some(message) = self.bulk.pop_front()
        {
            let len = message.encoded_len();
            given += len;
            if len > WHOLE_BYTES_MAX {
                self.current = Some(message.clone());
            }
            work.bulk.push_back(message);
        }
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.urgent.is_empty() && self.bulk.is_empty()
    }

    /// Whether there is a connection, and its thread has nothing to write.
    fn is_idle(&self) -> bool {
        !self.is_busy && self.is_empty() && self.connected_to.is_some() && !self.is_outlived()
    }

    /// Whether the peer has begun another life than the one that this is connected to.
    fn is_outlived(&self) -> bool {
        self.connected_to.is_some()
            && self.seen_process.is_some()
            && self.seen_process != self.connected_to
    }

    fn close_connection(&self) {
        if let Some(socket) = &self.socket {
            // It fails if the other end has hung up first, and then it is done already.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A small message in one piece.
fn frame_of(message: &Message) -> Bytes {
    Bytes::from(Frames::of(message.encode()).concat())
}

/// Writes as much as the connection takes at once, which may be nothing. If the connection is
/// broken, its thread finds out.
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

/// Between half of `pause` and all of it, so that nodes that lost each other at the same moment do
/// not keep meeting.
fn jitter(pause: Duration) -> Duration {
    pause / 2 + pause.mul_f64((random() % 1024) as f64 / 2048.0)
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_comes_and_goes_does_not_fill_the_log() {
        let mut told = Told::default();
        assert!(told.is_connection_news(), "the first one");
        assert!(told.is_loss_news() && told.is_connection_news(), "it is back");
        for _ in 0..99 {
            assert!(
                !told.is_loss_news() && !told.is_connection_news(),
                "all that was told within ten seconds"
            );
        }
    }
}
