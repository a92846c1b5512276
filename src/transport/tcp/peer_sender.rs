//! Sends to one peer: two bounded queues, and the thread that connects and writes.
//!
//! Urgent messages go before bulk, and bulk goes in rounds of at most [`ROUND_BYTES`]. So an urgent
//! message waits behind two rounds at most: the one that is being written, and the bytes that the
//! operating system holds unsent (see [`configure_stream`]).

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};

use super::context::{LogRateLimit, TcpContext, random};
use super::outbound::Outbound;
use super::refusals::By;
use super::resolver::{Lookup, Resolver};
use super::stream::{
    CONNECT_TIMEOUT, ConnectError, HELLO_TIMEOUT, configure_stream, read_frame, write_frame,
};
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::frame::{self, FrameReader, Frames, Kind, WHOLE_BYTES_MAX};
use crate::transport::hello::ProcessId;
use crate::transport::{Message, TransportContext};

/// Bytes and messages that may wait for one peer. Beyond that, messages to it are dropped.
pub(super) const QUEUE_BYTES_MAX: usize = 64 << 20;
pub(super) const QUEUE_MESSAGES_MAX: usize = 8192;

/// The shortest and the longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// On an idle connection a message up to this size is written by the thread that sends it: waking
/// another thread takes longer than the write.
const INLINE_WRITE_MAX: usize = 16 << 10;
/// Bytes of such a write: all of the message, but under loom few, so that some leave a rest.
#[cfg(target_os = "linux")]
const WRITE_BYTES_MAX: usize =
    if cfg!(all(test, loom)) { 200 } else { INLINE_WRITE_MAX + frame::HEADER_BYTES };
/// This many connections in a row that fall silent are worth a warning.
const SILENCES_MIN: u32 = 3;
/// Bulk bytes between two checks for urgent messages. One frame more at most.
const ROUND_BYTES: usize = 64 << 10;

/// The senders of one transport, one for each peer.
pub(super) struct PeerSenders(Vec<PeerSender>);

impl PeerSenders {
    pub(super) fn new(context: &TransportContext, lookup: &Lookup) -> PeerSenders {
        let peers = context.addresses.iter().filter(|(node, _)| *node != context.node);
        let senders = peers
            .map(|(node, address)| PeerSender::new(*node, address.clone(), lookup.clone()))
            .collect();
        PeerSenders(senders)
    }

    pub(super) fn all(&self) -> &[PeerSender] {
        &self.0
    }

    pub(super) fn to(&self, peer: NodeId) -> Option<&PeerSender> {
        self.0.iter().find(|sender| sender.peer == peer)
    }
}

pub(super) struct PeerSender {
    pub(super) peer: NodeId,
    address: String,
    resolver: Resolver,
    queue: Mutex<Queue>,
    /// Wakes the thread that writes.
    wake: Condvar,
    /// Notified after a probe that heard the peer, and when the connection is closed.
    probed: Condvar,
    log_limit: LogRateLimit,
}

#[derive(Default)]
struct Queue {
    /// The unwritten part of a frame. It goes before all else.
    rest: Bytes,
    urgent: Vec<Message>,
    bulk: VecDeque<Message>,
    /// The bulk message that is being written, if it takes more than one frame.
    current: Option<Message>,
    /// The encoded length of all bulk that waits or is being written.
    bytes: usize,
    /// The thread is writing or probing.
    is_busy: bool,
    /// Something was written since the last probe.
    has_written: bool,
    /// A caller waits for a sign of life.
    is_probe_urgent: bool,
    /// The number of probes that heard the peer.
    times_heard: u64,
    /// The socket of the connection, or of the attempt, for other threads to close.
    socket: Option<Socket>,
    /// The process of the peer at the other end, once the handshake has succeeded.
    connected_to: Option<ProcessId>,
    /// The process of the peer that connected to this node since the last attempt to connect.
    seen_process: Option<ProcessId>,
    stopped: bool,
}

/// What was logged of the connection. A loss is logged at a limited rate, and a connection only
/// after a loss was logged: an unstable connection does not fill the log.
#[derive(Default)]
struct ConnectionLog {
    says_connected: bool,
    was_connected: bool,
    loss_limit: LogRateLimit,
}

impl ConnectionLog {
    fn logs_connection(&mut self) -> bool {
        self.was_connected = true;
        !std::mem::replace(&mut self.says_connected, true)
    }

    fn logs_loss(&mut self) -> bool {
        let is_news = self.loss_limit.permits();
        self.says_connected &= !is_news;
        is_news
    }
}

/// The next step of the thread.
enum Next {
    Write,
    Probe,
    Close,
}

/// Messages taken from the queue, to be written.
#[derive(Default)]
struct Work {
    rest: Bytes,
    urgent: Vec<Message>,
    /// The unwritten frames of a bulk message, and the length of the message.
    current: Option<(Frames, usize)>,
    /// The bulk after it.
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
            probed: Condvar::new(),
            log_limit: LogRateLimit::default(),
        }
    }

    /// Queues a message of `len` bytes. False if it was dropped because the queue is full.
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

    /// That process of the peer has connected to this node. A connection to another one is closed.
    pub(super) fn peer_connected(&self, process: ProcessId) {
        let mut queue = self.queue.lock();
        queue.seen_process = Some(process);
        if queue.is_replaced() {
            queue.close_connection();
        }
        self.wake.notify_one();
    }

    /// Whether the connection leads to another process than `process`, and that one is alive: it
    /// was heard after this call. Blocks until then, at most until `deadline`.
    pub(super) fn is_answered_by_another(&self, process: ProcessId, deadline: Instant) -> bool {
        let mut queue = self.queue.lock();
        let Some(other) = queue.connected_to.filter(|(_, nonce)| *nonce != process.1) else {
            return false;
        };
        let (before, is_same) =
            (queue.times_heard, |queue: &Queue| queue.connected_to == Some(other));
        queue.is_probe_urgent = true;
        self.wake.notify_one();
        while is_same(&queue)
            && queue.times_heard == before
            && !self.probed.wait_until(&mut queue, deadline).timed_out()
        {}
        is_same(&queue) && queue.times_heard != before
    }

    /// Closes the connection. The thread makes another one.
    pub(super) fn close_connection(&self) {
        self.queue.lock().close_connection();
        self.wake.notify_one();
    }

    pub(super) fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stopped = true;
        queue.close_connection();
        self.wake.notify_one();
        self.probed.notify_all();
        self.resolver.stop();
    }

    /// Connects and writes until the transport is stopped.
    pub(super) fn run(&self, context: &TcpContext) {
        let (mut pause, mut silences, mut log) = (BACKOFF.0, 0, ConnectionLog::default());
        loop {
            match self.connect(context) {
                Ok(mut outbound) => {
                    pause = BACKOFF.0;
                    self.log_connected(&mut log);
                    // While all connections work, only probes run often enough to expire refusals.
                    let end = self.write(&mut outbound, || context.refusals.expire());
                    self.log_lost(&mut log, &end);
                    let fell_silent =
                        end.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
                    silences = if fell_silent { silences + 1 } else { 0 };
                    if silences >= SILENCES_MIN {
                        self.warn_of_silence();
                    }
                    if let Some(refusal) = outbound.refusal() {
                        let why = context.registry.lock().refused_by(&refusal);
                        context.refusals.set(self.peer, By::Peer, why);
                    }
                }
                Err(why) => self.log_failure(&mut log, &why),
            }
            if self.close_and_clear() {
                return;
            }
            context.refusals.expire();
            context.inbox.unreachable(self.peer);
            if self.wait_or_stopped(jitter(pause)) {
                return;
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Each time the handshake succeeded, so short packets arrive, and then nothing came back.
    fn warn_of_silence(&self) {
        if self.log_limit.permits() {
            log::warn!(
                "{}reaches node {} at {}, and hears nothing more of it once messages follow: \
                 larger packets may not pass. Look for a largest packet (MTU) on the way that is \
                 smaller than at its ends, or set that of the interface lower",
                log_prefix(),
                self.peer,
                self.address
            );
        }
    }

    /// The status of the node shows rejections; this logs all other failures.
    fn log_failure(&self, log: &mut ConnectionLog, why: &ConnectError) {
        let ConnectError::Io(error) = why else { return };
        if !self.is_stopped() && self.log_limit.permits() {
            log::info!(
                "{}cannot reach node {} at {}: {error}",
                log_prefix(),
                self.peer,
                self.address
            );
            log.says_connected = false;
        }
    }

    /// Logs the connection if the last line was of a loss.
    fn log_connected(&self, log: &mut ConnectionLog) {
        let again = if log.was_connected { " again" } else { "" };
        if log.logs_connection() {
            log::info!(
                "{}connected to node {}{again} at {}",
                log_prefix(),
                self.peer,
                self.address
            );
        }
    }

    fn log_lost(&self, log: &mut ConnectionLog, end: &io::Result<()>) {
        if self.is_stopped() || !log.logs_loss() {
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

    /// Closes the connection and drops all that waits. Returns whether the transport was stopped.
    fn close_and_clear(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.close_connection();
        let (seen_process, times_heard, stopped) =
            (queue.seen_process, queue.times_heard, queue.stopped);
        *queue = Queue { seen_process, times_heard, stopped, ..Queue::default() };
        self.probed.notify_all();
        stopped
    }

    /// Waits before the next attempt, at most until the peer connects. Returns whether the
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

    /// Connects, and completes the handshake.
    fn connect(&self, context: &TcpContext) -> Result<Outbound, ConnectError> {
        self.queue.lock().seen_process = None;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the address stands for no host");
        for address in self.resolver.resolve(&context.spawner)? {
            match self.dial(address) {
                Ok(stream) => return self.handshake(context, stream),
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
        // A shutdown has no effect on a socket that has not begun to connect: check for a stop
        // again.
        if self.is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let stream = TcpStream::from(socket);
        configure_stream(&stream)?;
        Ok(stream)
    }

    fn handshake(&self, context: &TcpContext, stream: TcpStream) -> Result<Outbound, ConnectError> {
        let (hello, mut reader) = (context.registry.lock().hello_to(self.peer), FrameReader::new());
        write_frame(&stream, &frame::encode(Kind::Hello, hello.encode()))?;
        let response = read_frame(&stream, &mut reader, Instant::now() + HELLO_TIMEOUT)?;
        if response.kind == Kind::Refusal {
            let why = context.registry.lock().refused_by(&response.content);
            context.refusals.set(self.peer, By::Peer, why.clone());
            return Err(why.into());
        }
        let hello =
            context.judge(&response.content, Some(self.peer), |_, _| false).inspect_err(|why| {
                // Otherwise the peer would count this connection as accepted.
                let refusal = context.registry.lock().refusal(why.reason);
                let _ = write_frame(&stream, &frame::encode(Kind::Refusal, refusal));
            })?;
        self.queue.lock().connected_to = Some(hello.process());
        context.refusals.clear(self.peer, By::Us);
        context.refusals.clear(self.peer, By::Peer);
        Ok(Outbound::new(stream, reader)?)
    }

    /// Writes all that waits, until the connection breaks or is to be closed. Calls `at_probe`
    /// after each probe.
    fn write(&self, outbound: &mut Outbound, at_probe: impl Fn()) -> io::Result<()> {
        let (mut work, mut parts) = (Work::default(), Vec::new());
        loop {
            match self.take(&mut work, outbound) {
                Next::Close => return Ok(()),
                Next::Probe => {
                    self.probe(outbound)?;
                    at_probe();
                }
                Next::Write => {
                    work.put_next_round(&mut parts);
                    outbound.write(&parts)?;
                    parts.clear();
                }
            }
        }
    }

    /// Waits for work and takes it. The work taken before is written.
    fn take(&self, work: &mut Work, outbound: &mut Outbound) -> Next {
        let mut queue = self.queue.lock();
        queue.bytes -= std::mem::take(&mut work.written);
        queue.is_busy = false;
        loop {
            if queue.stopped || queue.is_replaced() {
                return Next::Close;
            }
            if std::mem::take(&mut queue.is_probe_urgent) {
                outbound.probe_urgently();
            }
            let now = Instant::now();
            let is_due = now >= outbound.next_probe();
            if is_due || !queue.is_empty() || work.is_begun() {
                queue.is_busy = true;
                if is_due {
                    return Next::Probe;
                }
                queue.has_written = true;
                queue.give(work);
                return Next::Write;
            }
            self.wake.wait_until(&mut queue, outbound.next_probe());
        }
    }

    /// Probes whether the peer is alive, and sends it a sign of life.
    fn probe(&self, outbound: &mut Outbound) -> io::Result<()> {
        let has_heard = outbound.probe()?;
        let has_written = {
            let mut queue = self.queue.lock();
            queue.times_heard += u64::from(has_heard);
            std::mem::take(&mut queue.has_written)
        };
        if has_heard {
            self.probed.notify_all();
        }
        outbound.pong_and_ping(has_written)
    }
}

impl Work {
    /// Whether there is unwritten bulk.
    fn is_begun(&self) -> bool {
        self.current.is_some() || !self.bulk.is_empty()
    }

    /// Puts all urgent messages, and bulk up to the length of a round or a frame more.
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
    /// A message that exceeds the limit by itself is let in when the queue is empty.
    fn has_room(&self, is_urgent: bool, len: usize) -> bool {
        if is_urgent {
            return self.urgent.len() < QUEUE_MESSAGES_MAX;
        }
        let fits = self.bytes + len <= QUEUE_BYTES_MAX && self.bulk.len() < QUEUE_MESSAGES_MAX;
        fits || self.bytes == 0
    }

    /// Whether the queue holds all batches of this message: Raft repeats an append at each
    /// heartbeat response, and on a slow connection the copies would pile up.
    fn holds(&self, message: &Message) -> bool {
        self.current.iter().chain(&self.bulk).any(|waiting| waiting.is_repeated_by(message))
    }

    /// Hands over all urgent messages, and bulk for a round if none is left.
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

    /// Whether there is a connection and its thread has nothing to do.
    fn is_idle(&self) -> bool {
        !self.is_busy && self.is_empty() && self.connected_to.is_some() && !self.is_replaced()
    }

    /// Whether the peer has another process than the one at the other end.
    fn is_replaced(&self) -> bool {
        self.connected_to.is_some()
            && self.seen_process.is_some()
            && self.seen_process != self.connected_to
    }

    fn close_connection(&self) {
        if let Some(socket) = &self.socket {
            // Fails if the peer has closed it first: nothing is left to do then.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A small message in one piece.
fn frame_of(message: &Message) -> Bytes {
    Bytes::from(Frames::of(message.encode()).concat())
}

/// Writes as much as the connection takes without blocking, perhaps nothing. Its thread handles a
/// broken connection.
#[cfg(target_os = "linux")]
fn write_now(socket: &Socket, bytes: &[u8]) -> usize {
    use rustix::net::SendFlags;
    let bytes = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
    rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or(0)
}

/// Without a non-blocking send only the thread of the connection writes.
#[cfg(not(target_os = "linux"))]
fn write_now(_socket: &Socket, _bytes: &[u8]) -> usize {
    0
}

/// Between half of `pause` and all of it, so that two nodes do not retry in step.
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
        let mut log = ConnectionLog::default();
        assert!(log.logs_connection(), "the first one");
        assert!(log.logs_loss() && log.logs_connection(), "it is back");
        for _ in 0..99 {
            assert!(
                !log.logs_loss() && !log.logs_connection(),
                "all that was told within ten seconds"
            );
        }
    }
}
