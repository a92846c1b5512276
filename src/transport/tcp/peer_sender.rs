//! Sends to one peer: what waits for it, and the thread that connects and writes.
//!
//! Urgent messages go before bulk, and bulk goes in rounds. So an urgent message waits behind two
//! rounds at most: the one that is being written, and the bytes that the operating system holds
//! unsent (see [`configure_stream`]).

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};

use self::queue::{Queue, Work};
use super::local_group::LocalGroup;
use super::outbound::Outbound;
use super::port::{LogRateLimit, Port, PortSettings, jitter};
use super::refusals::By;
use super::resolver::{Lookup, Resolver};
use super::stream::{
    CONNECT_TIMEOUT, ConnectError, HELLO_TIMEOUT, configure_stream, read_frame, write_frame,
};
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::Message;
use crate::transport::frame::{self, FrameReader, Frames, Kind, WHOLE_BYTES_MAX};
use crate::transport::hello::slots::{self, ConnectionHello};
use crate::transport::hello::{HandshakeRejection, ProcessId, Rejection};

mod queue;

#[cfg(feature = "sim")]
pub(crate) use self::queue::{Queue as PeerQueue, Work as QueueWork};

#[cfg(test)]
pub(super) use self::queue::{QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX};

/// The shortest and the longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// The longest pause between two introductions of a group that the peer does not have.
const ABSENT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Groups are opened one after the other: so long it is no news that the peer has not got one yet.
const ABSENT_QUIETLY: Duration =
    if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(5) };
/// On an idle connection a message up to this size is written by the thread that sends it: waking
/// another thread takes longer than the write.
const INLINE_WRITE_MAX: usize = 16 << 10;
/// Bytes of such a write: all of the message, but under loom few, so that some leave a rest.
#[cfg(target_os = "linux")]
const WRITE_BYTES_MAX: usize = if cfg!(all(test, loom)) {
    200
} else {
    INLINE_WRITE_MAX + frame::HEADER_BYTES + frame::SLOT_BYTES
};
/// This many connections in a row that fall silent are worth a warning.
const SILENCES_MIN: u32 = 3;

/// The senders of one port, one for each peer.
pub(super) struct PeerSenders(Vec<PeerSender>);

impl PeerSenders {
    pub(super) fn new(settings: &PortSettings, lookup: &Lookup) -> PeerSenders {
        let peers = settings.peers.iter().filter(|(node, _)| *node != settings.node);
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

/// What was logged of the connection. A loss is logged at a limited rate, and a connection only
/// after a loss was logged: an unstable connection does not fill the log.
#[derive(Default)]
struct ConnectionLog {
    /// A group was accepted on this connection.
    is_accepted: bool,
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
    /// Read answers.
    Poll,
    Probe,
    Close,
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

    /// A group has this peer for a member.
    pub(super) fn join(&self, group: &Arc<LocalGroup>) {
        self.queue.lock().join(group, Instant::now());
        self.wake.notify_one();
    }

    /// A group has ended. What waits of it is dropped.
    pub(super) fn leave(&self, group: &LocalGroup) {
        self.queue.lock().leave(group.number);
        self.wake.notify_one();
        self.probed.notify_all();
    }

    /// Queues a message of `len` bytes. False if it was dropped because the queue is full.
    pub(super) fn push(&self, group: u64, message: Message, len: usize) -> bool {
        let mut queue = self.queue.lock();
        if !queue.stopped && len > WHOLE_BYTES_MAX && queue.holds(group, &message) {
            return true;
        }
        if queue.stopped || !queue.has_room(group, message.is_urgent(), len) {
            return false;
        }
        let slot = queue.accepted(group).map(|(slot, _)| slot);
        if let (Some(slot), Some(beat)) = (slot, queue.gathers(&message)) {
            if queue.put_beat(slot, beat, Instant::now()) {
                self.wake.notify_one();
            }
            return true;
        }
        let is_behind = slot.is_some_and(|slot| queue.hurry_beats(slot, Instant::now()));
        if len <= INLINE_WRITE_MAX
            && !is_behind
            && queue.is_idle()
            && let Some(slot) = slot
        {
            let frame = frame_of(slot, &message);
            let written = queue.socket.as_ref().map_or(0, |socket| write_now(socket, &frame));
            if written == frame.len() {
                return true;
            }
            if written > 0 {
                queue.rest = frame.slice(written..);
                self.wake.notify_one();
                return true;
            }
        }
        if queue.put(group, message, len) {
            self.wake.notify_one();
        }
        true
    }

    /// The peer has introduced a group, and was accepted: from that connection, and by that
    /// process. A connection to another process is closed.
    pub(super) fn peer_introduced(&self, group: u64, connection: u64, process: ProcessId) {
        let mut queue = self.queue.lock();
        queue.see(group, connection, process, Instant::now());
        if queue.is_replaced {
            queue.close_connection();
        }
        self.wake.notify_one();
    }

    /// Whether the slot of a group leads to another process than `process`, and that one is alive:
    /// it was heard after this call. Blocks until then, at most until `deadline`.
    pub(super) fn is_answered_by_another(
        &self,
        group: u64,
        process: ProcessId,
        deadline: Instant,
    ) -> bool {
        let mut queue = self.queue.lock();
        let accepted = queue.accepted(group);
        if accepted.is_none_or(|(_, (_, nonce))| nonce == process.1) {
            return false;
        }
        let (before, is_same) =
            (queue.times_heard, |queue: &Queue| queue.accepted(group) == accepted);
        queue.is_probe_urgent = true;
        self.wake.notify_one();
        while is_same(&queue)
            && queue.times_heard == before
            && !self.probed.wait_until(&mut queue, deadline).timed_out()
        {}
        is_same(&queue) && queue.times_heard != before
    }

    /// A group speaks with another identity: it gets another slot.
    pub(super) fn introduce_again(&self, group: u64) {
        self.queue.lock().introduce_again(group, Instant::now());
        self.wake.notify_one();
        self.probed.notify_all();
    }

    pub(super) fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stopped = true;
        queue.close_connection();
        self.wake.notify_one();
        self.probed.notify_all();
        self.resolver.stop();
    }

    /// Connects while there are groups, and writes, until the port is closed.
    pub(super) fn run(&self, port: &Port) {
        let (mut pause, mut silences, mut log) = (BACKOFF.0, 0, ConnectionLog::default());
        while self.await_groups() {
            log.is_accepted = false;
            match self.connect(port) {
                Ok(mut outbound) => {
                    let end = self.write(&mut outbound, port, &mut log);
                    if log.is_accepted {
                        pause = BACKOFF.0;
                        self.log_lost(&mut log, &end);
                    }
                    let fell_silent =
                        end.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
                    silences = if fell_silent { silences + 1 } else { 0 };
                    if silences >= SILENCES_MIN {
                        self.warn_of_silence();
                    }
                    if let Some(refusal) = outbound.refusal() {
                        port.refuse_process(self.peer, By::Peer, &Rejection::by_peer(&refusal));
                    }
                }
                Err(why) => self.log_failure(&mut log, &why),
            }
            if self.close_and_clear() {
                return;
            }
            port.expire_refusals();
            if self.wait_or_stopped(jitter(pause)) {
                return;
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Waits until a group has this peer. False if the port was closed.
    fn await_groups(&self) -> bool {
        let mut queue = self.queue.lock();
        while !queue.stopped && !queue.has_groups() {
            self.wake.wait(&mut queue);
        }
        !queue.stopped
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
            Ok(()) if !self.queue.lock().has_groups() => "no group needs it".to_owned(),
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

    /// Closes the connection, drops all that waits, and tells the groups. Returns whether the port
    /// was closed.
    fn close_and_clear(&self) -> bool {
        let (news, stopped) = {
            let mut queue = self.queue.lock();
            queue.close_connection();
            (queue.reset(Instant::now()), queue.stopped)
        };
        self.probed.notify_all();
        if !stopped {
            news.iter().for_each(|group| group.inbox.unreachable(self.peer));
        }
        stopped
    }

    /// Waits before the next attempt, at most until the peer connects. Returns whether the port was
    /// closed.
    fn wait_or_stopped(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        let mut queue = self.queue.lock();
        while !queue.stopped
            && !queue.is_seen
            && !self.wake.wait_until(&mut queue, deadline).timed_out()
        {}
        queue.stopped
    }

    /// Connects, and completes the handshake of the processes.
    fn connect(&self, port: &Port) -> Result<Outbound, ConnectError> {
        self.queue.lock().look_away();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the address stands for no host");
        for address in self.resolver.resolve(&port.spawner)? {
            match self.dial(address) {
                Ok(stream) => return self.handshake(port, stream),
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

    fn handshake(&self, port: &Port, stream: TcpStream) -> Result<Outbound, ConnectError> {
        let (hello, mut reader) = (port.hello_to(self.peer), FrameReader::new());
        write_frame(&stream, &frame::encode(Kind::Hello, hello.encode()))?;
        let response = read_frame(&stream, &mut reader, Instant::now() + HELLO_TIMEOUT)?;
        if response.kind == Kind::Refusal {
            let why = Rejection::by_peer(&response.content);
            port.refuse_process(self.peer, By::Peer, &why);
            return Err(why.into());
        }
        let is_expected = |hello: ConnectionHello| match (hello.from, hello.to) {
            (from, to) if from == self.peer && to == port.node => Ok(hello),
            _ => Err(HandshakeRejection::WrongNode),
        };
        let judged = ConnectionHello::decode(&response.content).and_then(is_expected);
        let hello = judged.map_err(|reason| {
            let why = Rejection::of_connection(reason, &response.content);
            port.refuse_process(self.peer, By::Us, &why);
            // Otherwise the peer would count this connection as accepted.
            let refusal = Rejection::bytes_of(reason);
            let _ = write_frame(&stream, &frame::encode(Kind::Refusal, refusal));
            why
        })?;
        self.queue.lock().connected_to = Some(hello.process);
        Ok(Outbound::new(stream, reader)?)
    }

    /// Writes all that waits, until the connection breaks or is to be closed.
    fn write(
        &self,
        outbound: &mut Outbound,
        port: &Port,
        log: &mut ConnectionLog,
    ) -> io::Result<()> {
        let (mut work, mut parts) = (Work::default(), Vec::new());
        loop {
            match self.take(&mut work, outbound, port.message_bytes_max) {
                Next::Close => return Ok(()),
                Next::Probe => {
                    let probed = self.probe(outbound);
                    self.handle_answers(outbound, port, log);
                    probed?;
                    // While all connections work, only probes run often enough for this.
                    port.expire_refusals();
                }
                Next::Poll => {
                    let read = outbound.read_ready();
                    self.handle_answers(outbound, port, log);
                    read?;
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
    fn take(&self, work: &mut Work, outbound: &mut Outbound, message_bytes_max: usize) -> Next {
        let mut queue = self.queue.lock();
        queue.take_back(work);
        queue.is_busy = false;
        loop {
            if queue.stopped || queue.is_replaced || !queue.has_groups() {
                return Next::Close;
            }
            if std::mem::take(&mut queue.is_probe_urgent) {
                outbound.probe_urgently();
            }
            let now = Instant::now();
            if queue.introduce(self.peer, now) {
                outbound.expect_answers();
            }
            let is_due = now >= outbound.next_probe();
            let is_answer_due = outbound.next_poll().is_some_and(|at| now >= at);
            let are_beats_due = queue.beats_due().is_some_and(|at| now >= at);
            if is_due || is_answer_due || are_beats_due || !queue.is_empty() {
                queue.is_busy = true;
                if is_due {
                    return Next::Probe;
                }
                if is_answer_due {
                    return Next::Poll;
                }
                queue.give(work, now, message_bytes_max);
                return Next::Write;
            }
            let others = [outbound.next_poll(), queue.next_introduction(), queue.beats_due()];
            let next = others.into_iter().flatten().fold(outbound.next_probe(), Instant::min);
            self.wake.wait_until(&mut queue, next);
        }
    }

    /// Handles what the peer has said of slots.
    fn handle_answers(&self, outbound: &mut Outbound, port: &Port, log: &mut ConnectionLog) {
        for frame in outbound.take_answers() {
            let Some((slot, content)) = slots::split(&frame.content) else { continue };
            let Some(group) = self.queue.lock().group_of(slot) else { continue };
            let _logs = group.logs();
            let is_news = match frame.kind {
                Kind::Acceptance => self.handle_acceptance(&group, slot, content, port, log),
                _ => self.handle_decline(&group, slot, content),
            };
            if is_news {
                group.inbox.unreachable(self.peer);
            }
        }
        outbound.expect_more(self.queue.lock().awaits_answers());
    }

    /// Returns whether the group is to be told that it does not reach the peer.
    fn handle_acceptance(
        &self,
        group: &LocalGroup,
        slot: u32,
        hello: &[u8],
        port: &Port,
        log: &mut ConnectionLog,
    ) -> bool {
        if !self.queue.lock().is_introduced(slot) {
            return false;
        }
        match port.judge(group, hello, Some(self.peer), || (), |_, _| false) {
            Ok(hello) => {
                if self.queue.lock().accept(slot, hello.process()) {
                    group.refusals.clear(self.peer, By::Us);
                    group.refusals.clear(self.peer, By::Peer);
                    log.is_accepted = true;
                    self.log_connected(log);
                }
                false
            }
            Err(why) => {
                let refusal = group.registry.lock().refusal(why.reason);
                self.queue.lock().close_slot(slot, &refusal, BACKOFF.1, retry_at)
            }
        }
    }

    /// The peer has declined a slot, or given it up. Returns as above.
    fn handle_decline(&self, group: &LocalGroup, slot: u32, refusal: &[u8]) -> bool {
        let mut pause_max = BACKOFF.1;
        if !refusal.is_empty() {
            let why = group.registry.lock().refused_by(refusal);
            let mut is_quiet = false;
            if why.reason == HandshakeRejection::NoSuchGroup {
                pause_max = ABSENT_PAUSE_MAX;
                let absent = self.queue.lock().note_absence(slot, Instant::now());
                is_quiet = absent.is_none_or(|absent| absent < ABSENT_QUIETLY);
            }
            if !is_quiet {
                group.refusals.set(self.peer, By::Peer, why);
            }
        }
        self.queue.lock().close_slot(slot, &[], pause_max, retry_at)
    }

    /// Probes whether the peer is alive, and sends it a sign of life.
    fn probe(&self, outbound: &mut Outbound) -> io::Result<()> {
        let has_heard = outbound.probe()?;
        self.queue.lock().times_heard += u64::from(has_heard);
        if has_heard {
            self.probed.notify_all();
        }
        outbound.pong_and_ping()
    }
}

/// When a slot is asked for again, about `pause` after it was refused.
fn retry_at(pause: Duration) -> Instant {
    Instant::now() + jitter(pause)
}

/// A small message in one piece.
fn frame_of(slot: u32, message: &Message) -> Bytes {
    Bytes::from(Frames::of(slot, message.encode()).concat())
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
