//! Inbound connections: the handshake, then a thread per connection that reads what groups are
//! introduced, and delivers their messages.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::connection::InboundConnection;
use super::local_group::LocalGroup;
use super::peer_sender::PeerSenders;
use super::pending::PendingConnections;
use super::port::Port;
use super::refusals::By;
use super::stream::{
    ConnectError, HELLO_TIMEOUT, SILENCE_TIMEOUT, configure_stream, is_timeout, read_frame,
    write_frame,
};
use crate::entry::NodeId;
use crate::primitives::{Instant, Mutex};
use crate::transport::frame::{self, Frame, FrameReader, Kind, beats};
use crate::transport::hello::slots::{self, ConnectionHello};
use crate::transport::hello::{HandshakeRejection, Hello, Rejection, claim};
use crate::transport::{Message, MessageError};

/// The longest pause before a message is offered to a full inbox again.
const INBOX_RETRY_MAX: Duration = Duration::from_millis(20);
/// The least time between two pongs that answer no ping.
const PONG_INTERVAL: Duration = Duration::from_millis(250);
/// A peer whose connection has ended makes another one within this time, if it is well.
const RECONNECT_TIME: Duration = Duration::from_millis(200);
/// Introductions that one connection may make in a second. Beyond, it waits.
const INTRODUCTIONS_PER_SECOND: u32 = 16 << 10;

/// Accepts and reads the connections that peers open.
pub(super) struct Inbound {
    pub(super) port: Arc<Port>,
    senders: Arc<PeerSenders>,
    /// The connections on which no group was accepted yet.
    pending: PendingConnections,
}

impl Inbound {
    pub(super) fn new(port: Arc<Port>, senders: Arc<PeerSenders>) -> Inbound {
        Inbound { port, senders, pending: PendingConnections::default() }
    }

    /// Gives a new connection a thread, once [`PendingConnections`] has room for it.
    pub(super) fn accept_connection(self: &Arc<Inbound>, stream: TcpStream, address: SocketAddr) {
        let connection = Arc::new(InboundConnection::new(stream));
        self.pending.enter(&connection, address);
        let (shared, own) = (self.clone(), connection.clone());
        if let Err(error) = self.port.spawner.spawn("from", move || shared.run(&own, address)) {
            self.pending.leave(&connection);
            self.port.log_rejection(&address.to_string(), &error.into());
        }
    }

    /// The thread of one connection: handshake, then frames until either side closes it.
    fn run(&self, connection: &Arc<InboundConnection>, address: SocketAddr) {
        let port = &*self.port;
        port.connections.lock().push(connection.clone());
        // A stop closes the connections of the list. One that is added later sees the stop here.
        if port.is_stopped() {
            connection.close();
        }
        let mut reader = FrameReader::new();
        let (mut is_pending, shaken) = (true, self.shake_hands(connection, &mut reader));
        let end = shaken.and_then(|peer| {
            let mut session = Session {
                inbound: self,
                connection,
                address,
                peer,
                reader,
                pongs: Pongs::new(),
                is_pending: &mut is_pending,
                pace: Pace::new(),
                heard: Instant::now(),
            };
            Ok(session.read()?)
        });
        if is_pending {
            self.pending.leave(connection);
        }
        if let Err(why) = end
            && !connection.is_closed()
        {
            port.log_rejection(&address.to_string(), &why);
        }
        connection.close();
        port.connections.lock().retain(|other| !Arc::ptr_eq(other, connection));
        self.report_end(connection);
    }

    /// The groups whose slots have ended with the connection learn of it, unless the peer makes
    /// another one soon.
    fn report_end(&self, connection: &InboundConnection) {
        let (groups, Some(peer)) = (connection.groups(), connection.peer()) else { return };
        if groups.is_empty() || self.port.wait_or_stopped(RECONNECT_TIME) {
            return;
        }
        groups.iter().for_each(|group| self.port.report_down(group, peer));
    }

    /// The handshake of the processes. Returns the peer, or sends it the reason of the rejection.
    fn shake_hands(
        &self,
        connection: &Arc<InboundConnection>,
        reader: &mut FrameReader,
    ) -> Result<NodeId, ConnectError> {
        let (port, stream) = (&*self.port, &connection.stream);
        configure_stream(stream)?;
        let frame = read_frame(stream, reader, Instant::now() + HELLO_TIMEOUT)?;
        let (judged, hello) = match frame.kind {
            Kind::Hello => (ConnectionHello::decode(&frame.content), &frame.content[..]),
            _ => (Err(HandshakeRejection::Protocol), &[][..]),
        };
        let for_here = |hello: ConnectionHello| match hello.to == port.node {
            true => Ok(hello),
            false => Err(HandshakeRejection::WrongNode),
        };
        let hello = judged.and_then(for_here).map_err(|reason| {
            let why = Rejection::of_connection(reason, hello);
            if let Some((_, peer)) = claim(hello) {
                port.refuse_process(peer, By::Us, &why);
            }
            let refusal = Rejection::bytes_of(reason);
            let _ = write_frame(stream, &frame::encode(Kind::Refusal, refusal));
            why
        })?;
        port.identify(connection, &hello);
        let response = port.hello_to(hello.from).encode();
        write_frame(stream, &frame::encode(Kind::Hello, response))?;
        stream.set_read_timeout(Some(port.silence.min(SILENCE_TIMEOUT)))?;
        Ok(hello.from)
    }
}

/// A connection after the handshake of its processes, as the thread that reads it sees it.
struct Session<'a> {
    inbound: &'a Inbound,
    connection: &'a Arc<InboundConnection>,
    address: SocketAddr,
    peer: NodeId,
    reader: FrameReader,
    pongs: Pongs,
    /// Whether no group was accepted yet.
    is_pending: &'a mut bool,
    pace: Pace,
    /// When something was read last.
    heard: Instant,
}

impl Session<'_> {
    /// Reads until either side closes the connection, or it was silent for [`SILENCE_TIMEOUT`].
    /// Pongs report to the peer that its bytes arrive.
    fn read(&mut self) -> io::Result<()> {
        loop {
            while let Some(frame) = self.reader.next()? {
                if !self.handle(frame)? {
                    return Ok(());
                }
            }
            self.tell_given_up()?;
            match self.reader.read_from(&mut &self.connection.stream) {
                Ok(0) => return Ok(()),
                Ok(_) => {
                    self.end_silence();
                    self.pongs.send(self.connection)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) && self.heard.elapsed() < SILENCE_TIMEOUT => {
                    self.begin_silence();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Nothing was read for a while: the groups learn of it. The connection stays for now.
    fn begin_silence(&self) {
        if self.connection.set_silent(true) {
            let groups = self.connection.groups();
            groups.iter().for_each(|group| self.inbound.port.report_down(group, self.peer));
        }
    }

    fn end_silence(&mut self) {
        self.heard = Instant::now();
        if self.connection.set_silent(false) {
            self.connection.groups().iter().for_each(|group| group.set_up(self.peer));
        }
    }

    /// Returns whether the connection goes on.
    fn handle(&mut self, frame: Frame) -> io::Result<bool> {
        match frame.kind {
            Kind::Message => self.handle_message(&frame)?,
            Kind::Beats => self.handle_beats(&frame.content)?,
            Kind::Ping => send_pong(self.connection, frame.number())?,
            Kind::Pong => self.connection.handle_pong(frame.number()),
            Kind::Introduction => self.handle_introduction(&frame.content)?,
            Kind::Withdrawal => self.handle_withdrawal(&frame.content)?,
            // Who refuses the hello of this node: anybody could say so in the name of a peer. That
            // peer shows it in its own status.
            Kind::Refusal => return Ok(false),
            _ => return Err(invalid("another hello")),
        }
        Ok(true)
    }

    /// Tells the peer which slots this node has given up.
    fn tell_given_up(&mut self) -> io::Result<()> {
        for slot in self.connection.take_given_up() {
            self.say(Kind::Withdrawal, slots::with_bytes(slot, &[]))?;
        }
        Ok(())
    }

    fn say(&self, kind: Kind, content: Vec<u8>) -> io::Result<()> {
        self.connection.write_frame(&frame::encode(kind, content))
    }

    fn handle_introduction(&mut self, content: &[u8]) -> io::Result<()> {
        let Some((slot, hello)) = slots::split(content) else {
            return Err(invalid("an introduction without a slot"));
        };
        self.connection.introduce(slot).map_err(|why| invalid(why.text()))?;
        self.pace(Instant::now())?;
        let Some(group) = self.inbound.port.group_of(hello) else {
            let refusal = Rejection::bytes_of(self.inbound.port.absence(hello));
            return self.say(Kind::Decline, slots::with_bytes(slot, &refusal));
        };
        let _logs = group.logs();
        match self.judge(&group, hello) {
            Ok(hello) => self.accept(slot, &group, &hello),
            Err(why) => {
                let refusal = group.registry.lock().refusal(why.reason);
                self.inbound.port.log_rejection(&self.address.to_string(), &why.into());
                self.say(Kind::Decline, slots::with_bytes(slot, &refusal))
            }
        }
    }

    fn judge(&self, group: &LocalGroup, hello: &[u8]) -> Result<Hello, Rejection> {
        if claim(hello).is_some_and(|(_, from)| from != self.peer) {
            return Err(group.registry.lock().rejection(HandshakeRejection::WrongNode, hello));
        }
        let meanwhile = || drop(self.pongs.send(self.connection));
        let sender = self.inbound.senders.to(self.peer);
        self.inbound.port.judge(group, hello, None, meanwhile, |hello, deadline| {
            sender.is_some_and(|sender| {
                sender.is_answered_by_another(group.number, hello.process(), deadline)
            })
        })
    }

    fn accept(&mut self, slot: u32, group: &Arc<LocalGroup>, hello: &Hello) -> io::Result<()> {
        let Inbound { port, senders, pending } = self.inbound;
        if std::mem::take(self.is_pending) {
            pending.leave(self.connection);
            self.reader.set_len_max(port.message_bytes_max);
        }
        port.accept(self.connection, slot, group, hello);
        let response = group.registry.lock().hello_to(self.peer);
        self.say(Kind::Acceptance, slots::with_hello(slot, &response))?;
        group.refusals.clear(self.peer, By::Us);
        if let Some(sender) = senders.to(self.peer) {
            sender.peer_introduced(group.number, self.connection.process(), hello.process());
        }
        Ok(())
    }

    /// The peer has given a slot up, perhaps because it refuses this node.
    fn handle_withdrawal(&mut self, content: &[u8]) -> io::Result<()> {
        let Some((slot, refusal)) = slots::split(content) else {
            return Err(invalid("a withdrawal without a slot"));
        };
        let group = self.connection.group(slot);
        self.connection.remove(slot);
        self.reader.forget(slot);
        let Some(group) = group else { return Ok(()) };
        if !refusal.is_empty() {
            let why = group.registry.lock().refused_by(refusal);
            group.refusals.set(self.peer, By::Peer, why);
        }
        self.inbound.port.report_down(&group, self.peer);
        Ok(())
    }

    /// Waits if the peer has made too many introductions in this second.
    fn pace(&mut self, now: Instant) -> io::Result<()> {
        let Some(pause) = self.pace.count(now) else { return Ok(()) };
        if self.inbound.port.wait_or_stopped(pause) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }

    fn handle_message(&mut self, frame: &Frame) -> io::Result<()> {
        match self.connection.receiver(frame.slot).map_err(|why| invalid(why.text()))? {
            Some(group) => self.deliver(&group, frame),
            None => Ok(()),
        }
    }

    /// Delivers the messages of all rows. A group that is busy misses one: another one follows.
    fn handle_beats(&self, content: &[u8]) -> io::Result<()> {
        let Some(rows) = beats::rows(content) else { return Err(invalid("beats of no kind")) };
        for (slot, beat) in rows {
            let receiver = self.connection.receiver(slot).map_err(|why| invalid(why.text()))?;
            let Some(group) = receiver else { continue };
            let message = Message::of_beat(self.peer, self.inbound.port.node, &beat);
            if !group.deliver(message) {
                let _logs = group.logs();
                self.inbound.port.log_overload(self.peer);
            }
        }
        Ok(())
    }

    /// Delivers a message. While the inbox of the only group is full nothing more is read, which
    /// holds the peer back. If there are other groups, the message is dropped.
    fn deliver(&mut self, group: &Arc<LocalGroup>, frame: &Frame) -> io::Result<()> {
        let mut pause = Duration::from_millis(1);
        loop {
            let message = match self.message_of(frame) {
                Ok(message) => message,
                Err(why) => return self.refuse(group, frame.slot, why),
            };
            if group.deliver(message) {
                return Ok(());
            }
            if self.connection.slots() > 1 {
                let _logs = group.logs();
                self.inbound.port.log_overload(self.peer);
                return Ok(());
            }
            // A busy node is alive.
            self.pongs.send(self.connection)?;
            if self.inbound.port.wait_or_stopped(pause) || self.connection.is_closed() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            pause = (pause * 2).min(INBOX_RETRY_MAX);
        }
    }

    /// The message in a frame, if it goes from the peer to this node. Decoded again for each retry:
    /// retries are rare, and no payload is copied.
    fn message_of(&self, frame: &Frame) -> Result<Message, MessageError> {
        let message = Message::decode(frame.content.clone())?;
        if message.from() != self.peer || message.to() != self.inbound.port.node {
            return Err(MessageError("it does not go from that peer to this node"));
        }
        Ok(message)
    }

    /// Reports on both sides that this version does not understand the messages of a slot, and ends
    /// it. The connection ends with its last slot.
    fn refuse(&mut self, group: &LocalGroup, slot: u32, why: MessageError) -> io::Result<()> {
        let reason = HandshakeRejection::Unreadable;
        let (told, refusal) = {
            let registry = group.registry.lock();
            (registry.rejection(reason, &[]), registry.refusal(reason))
        };
        group.refusals.set(self.peer, By::Us, told);
        self.connection.remove(slot);
        self.reader.forget(slot);
        self.say(Kind::Decline, slots::with_bytes(slot, &refusal))?;
        if self.connection.slots() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let _logs = group.logs();
        let error = io::Error::new(io::ErrorKind::InvalidData, why);
        self.inbound.port.log_rejection(&self.address.to_string(), &error.into());
        Ok(())
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, MessageError(why))
}

/// Answers a ping with a number other than 0 at once.
fn send_pong(connection: &InboundConnection, number: Option<u64>) -> io::Result<()> {
    match number {
        Some(number @ 1..) => connection.write_frame(&frame::numbered(Kind::Pong, number)),
        _ => Ok(()),
    }
}

/// The time of the last pong that answered no ping.
struct Pongs(Mutex<Instant>);

impl Pongs {
    fn new() -> Pongs {
        Pongs(Mutex::new(Instant::now()))
    }

    fn send(&self, connection: &InboundConnection) -> io::Result<()> {
        let (mut last, now) = (self.0.lock(), Instant::now());
        if now.saturating_duration_since(*last) < PONG_INTERVAL {
            return Ok(());
        }
        *last = now;
        connection.write_frame(&frame::numbered(Kind::Pong, 0))
    }
}

/// Counts the introductions of a second.
struct Pace {
    since: Instant,
    count: u32,
}

impl Pace {
    fn new() -> Pace {
        Pace { since: Instant::now(), count: 0 }
    }

    /// Counts one. Returns how long it has to wait, if there were too many.
    fn count(&mut self, now: Instant) -> Option<Duration> {
        let second = Duration::from_secs(1);
        let passed = now.saturating_duration_since(self.since);
        if passed >= second {
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        if self.count <= INTRODUCTIONS_PER_SECOND {
            return None;
        }
        Some(second.saturating_sub(passed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_introduces_too_many_groups_in_a_second_waits_for_the_next_one() {
        let mut pace = Pace::new();
        let begin = pace.since;
        let at = |ms| begin + Duration::from_millis(ms);
        assert!((0..INTRODUCTIONS_PER_SECOND).all(|_| pace.count(at(300)).is_none()));
        assert_eq!(pace.count(at(300)), Some(Duration::from_millis(700)));
        assert_eq!(pace.count(at(1000)), None);
    }
}
