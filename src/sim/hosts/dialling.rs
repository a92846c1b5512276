//! The side of a connection that dials: the writer, and what the peer says of slots.

use std::mem;

use bytes::Bytes;

use super::Hosts;
use super::event::{HostEvent, Way};
use super::host::{Sender, node_id};
use super::wire::{Connection, End};
use crate::entry::NodeId;
use crate::sim::time::Micros;
use crate::transport::frame::{self, Frame, Kind};
use crate::transport::hello::slots::{self, ConnectionHello};
use crate::transport::hello::{HandshakeRejection, Hello, Way as HelloWay, claim};
use crate::transport::tcp::LocalGroup;

/// The time of one write.
const WRITE_TIME: Micros = 20;

impl Hosts {
    /// The sender to a peer, of a running process.
    pub(super) fn sender(&mut self, host: usize, peer: usize) -> Option<&mut Sender> {
        self.hosts[host].process.as_mut()?.senders.get_mut(&peer)
    }

    /// Changes all queues of a process. Their writers look for work.
    pub(super) fn each_sender(&mut self, host: usize, mut change: impl FnMut(&mut Sender)) {
        let now = self.queue.now;
        let Some(process) = &mut self.hosts[host].process else { return };
        process.senders.values_mut().for_each(&mut change);
        let peers: Vec<usize> = process.senders.keys().copied().collect();
        peers.into_iter().for_each(|peer| self.wake_writer(host, peer, now));
    }

    /// The writer to a peer looks for work at this time. Without a connection it makes one.
    pub(super) fn wake_writer(&mut self, host: usize, peer: usize, at: Micros) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let id = process.id;
        let Some(sender) = process.senders.get_mut(&peer) else { return };
        if sender.connection.is_none() {
            if !sender.is_dialling && sender.queue.has_groups() {
                sender.is_dialling = true;
                self.queue.put(at, HostEvent::Dial { host, process: id, peer });
            }
        } else if at < sender.due {
            sender.due = at;
            self.queue.put(at, HostEvent::Write { host, process: id, peer });
        }
    }

    fn is_process(&self, host: usize, process: u64) -> bool {
        self.hosts[host].process.as_ref().is_some_and(|it| it.id == process)
    }

    /// Whether this process is there and runs. While it is paused, `event` waits.
    pub(super) fn is_running(&mut self, host: usize, process: u64, event: HostEvent) -> bool {
        if !self.is_process(host, process) {
            return false;
        }
        let until = self.hosts[host].paused_until;
        if until > self.queue.now {
            self.queue.put(until, event);
            return false;
        }
        true
    }

    pub(super) fn dial(&mut self, host: usize, process: u64, peer: usize) {
        if !self.is_running(host, process, HostEvent::Dial { host, process, peer }) {
            return;
        }
        let (now, instant) = (self.queue.now, self.instant(self.queue.now));
        let is_reached = self.links.carries(host, peer, now) && self.links.carries(peer, host, now);
        let answers = self.hosts[peer].paused_until <= now;
        let other = self.hosts[peer].process.as_ref().map(|it| it.id);
        let longest = self.config.backoff.1;
        let Some(sender) = self.sender(host, peer) else { return };
        sender.is_dialling = false;
        if sender.connection.is_some() || !sender.queue.has_groups() {
            return;
        }
        sender.queue.look_away();
        sender.has_seen_earlier = false;
        let Some(other) = other.filter(|_| is_reached && answers) else {
            let pause = sender.pause;
            (sender.pause, sender.is_dialling) = ((pause * 2).min(longest), true);
            let news = sender.queue.reset(instant);
            news.iter().for_each(|group| group.inbox.unreachable(node_id(peer)));
            self.wake_groups(host);
            return self.queue.put_in(pause, HostEvent::Dial { host, process, peer });
        };
        self.made += 1;
        let id = self.made;
        let end = |host, process| End { host, process, is_closed: false };
        let connection = Connection::new(now, end(host, process), end(peer, other));
        self.connections.insert(id, connection);
        let Some(sender) = self.sender(host, peer) else { return };
        sender.connection = Some(id);
        self.coverage.hit("connections made");
        let Some(process) = &self.hosts[host].process else { return };
        let hello = process.hello(host, peer).encode();
        self.transmit(id, Way::Forward, Some(frame::encode(Kind::Hello, hello).into()));
    }

    /// Sends bytes, or the end.
    pub(super) fn transmit(&mut self, id: u64, way: Way, part: Option<Bytes>) {
        let faults = &self.links.network_faults;
        let (least, mean) = (faults.delay_min, faults.delay_mean);
        let arrival = self.queue.now + least + self.rng.around(mean);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let arrival = connection.stream(way).send(arrival, part);
        self.queue.put(arrival, HostEvent::Arrive { connection: id, way });
    }

    /// The writer of a connection: introduces groups, and writes the next round.
    pub(super) fn write(&mut self, host: usize, process: u64, peer: usize) {
        let (now, time) = (self.instant(self.queue.now), self.queue.now);
        let window = self.config.window;
        if !self.is_process(host, process) {
            return;
        }
        let Some(sender) = self.sender(host, peer).filter(|sender| sender.due <= time) else {
            return;
        };
        sender.due = Micros::MAX;
        if !self.is_running(host, process, HostEvent::Write { host, process, peer }) {
            if let Some(sender) = self.sender(host, peer) {
                sender.due = time;
            }
            return;
        }
        let Some(sender) = self.sender(host, peer) else { return };
        let Some(id) = sender.connection.filter(|_| sender.queue.connected_to.is_some()) else {
            return;
        };
        let mut work = mem::take(&mut sender.work);
        sender.queue.take_back(&mut work);
        sender.work = work;
        let (is_replaced, is_needed) = (sender.queue.is_replaced, sender.queue.has_groups());
        if is_replaced || !is_needed {
            return self.end_own(id, host, peer, is_replaced);
        }
        sender.queue.introduce(node_id(peer), now);
        let is_full =
            self.connections.get(&id).is_none_or(|connection| connection.forward.bytes > window);
        let Some(sender) = self.sender(host, peer) else { return };
        let has_work =
            sender.queue.beats_due().is_some_and(|due| due <= now) || !sender.queue.is_empty();
        if has_work && !is_full {
            let mut parts = Vec::new();
            let mut work = mem::take(&mut sender.work);
            sender.queue.give(&mut work, now, 4 << 20);
            work.put_next_round(&mut parts);
            sender.work = work;
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            if !bytes.is_empty() {
                self.transmit(id, Way::Forward, Some(bytes.into()));
            }
            return self.wake_writer(host, peer, time + WRITE_TIME);
        }
        if is_full {
            self.coverage.hit("writers that waited for room");
            return; // the next arrival wakes it
        }
        let next = [sender.queue.next_introduction(), sender.queue.beats_due()];
        if let Some(next) = next.into_iter().flatten().min() {
            let next = next.saturating_duration_since(self.beginning).as_micros() as Micros;
            self.wake_writer(host, peer, next.max(time + 1));
        }
    }

    /// The process ends its connection by itself: the peer has another process, or no group needs
    /// the peer.
    fn end_own(&mut self, id: u64, host: usize, peer: usize, is_replaced: bool) {
        let Some(connection) = self.connections.get(&id) else { return };
        let other = connection.acceptor.process;
        let has_seen_earlier = self.sender(host, peer).is_some_and(|it| it.has_seen_earlier);
        if is_replaced && has_seen_earlier {
            self.coverage.hit("connections ended for a late process");
        } else if is_replaced && self.is_process(peer, other) {
            self.violated(format!(
                "A15: host {} ends its connection to the only process of host {}",
                host + 1,
                peer + 1
            ));
        }
        self.coverage.hit(if is_replaced {
            "connections to an earlier process"
        } else {
            "connections that no group needs"
        });
        self.close_dialled(id);
    }

    /// The process that dialled closes a connection, or finds it closed.
    pub(super) fn close_dialled(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (dialler, peer) = (connection.dialler, connection.acceptor.host);
        if dialler.is_closed {
            return;
        }
        connection.dialler.is_closed = true;
        self.transmit(id, Way::Forward, None);
        let (host, now) = (dialler.host, self.instant(self.queue.now));
        if !self.is_process(host, dialler.process) {
            return;
        }
        let Some(sender) = self.sender(host, peer).filter(|it| it.connection == Some(id)) else {
            return;
        };
        sender.connection = None;
        sender.work = Default::default();
        sender.due = Micros::MAX;
        let (news, pause) = (sender.queue.reset(now), sender.pause);
        news.iter().for_each(|group| group.inbox.unreachable(node_id(peer)));
        sender.is_dialling = true;
        let process = dialler.process;
        self.queue.put_in(pause, HostEvent::Dial { host, process, peer });
        self.wake_groups(host);
    }

    /// The process that dialled reads a frame.
    pub(super) fn handle_answer(&mut self, id: u64, frame: &Frame) -> Result<(), String> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.answered = self.queue.now;
        let (host, peer) = (connection.dialler.host, connection.acceptor.host);
        let process = connection.acceptor.process;
        let Some(sender) = self.sender(host, peer) else { return Ok(()) };
        if sender.queue.connected_to.is_none() {
            let hello = ConnectionHello::decode(&frame.content).map_err(|why| why.to_string())?;
            let expected = ConnectionHello { from: node_id(peer), to: node_id(host), process };
            if frame.kind != Kind::Hello || hello != expected {
                return Err(format!("{hello:?} in place of {expected:?}"));
            }
            sender.queue.connected_to = Some(hello.process);
            self.wake_writer(host, peer, self.queue.now);
            return Ok(());
        }
        match frame.kind {
            Kind::Pong | Kind::Ping => return Ok(()),
            Kind::Acceptance | Kind::Decline | Kind::Withdrawal => {}
            kind => return Err(format!("an answer of kind {kind:?}")),
        }
        let Some((slot, content)) = slots::split(&frame.content) else { return Ok(()) };
        let Some(local) = sender.queue.group_of(slot) else { return Ok(()) };
        let is_news = match frame.kind {
            Kind::Acceptance => self.handle_acceptance(host, peer, &local, slot, content),
            _ => self.handle_decline(host, peer, &local, slot, content),
        };
        if is_news {
            local.inbox.unreachable(node_id(peer));
        }
        self.wake_groups(host);
        self.wake_writer(host, peer, self.queue.now);
        Ok(())
    }

    fn handle_acceptance(
        &mut self,
        host: usize,
        peer: usize,
        local: &LocalGroup,
        slot: u32,
        hello: &[u8],
    ) -> bool {
        let Some(sender) = self.sender(host, peer) else { return false };
        if !sender.queue.is_introduced(slot) {
            return false;
        }
        match self.judge(host, local, hello, node_id(peer), HelloWay::Out) {
            Ok(hello) => {
                let pause = self.config.backoff.0;
                let Some(sender) = self.sender(host, peer) else { return false };
                sender.queue.accept(slot, hello.process());
                sender.pause = pause;
                false
            }
            Err(reason) => {
                let refusal = local.registry.lock().refusal(reason);
                self.close_slot(host, peer, slot, &refusal)
            }
        }
    }

    fn handle_decline(
        &mut self,
        host: usize,
        peer: usize,
        local: &LocalGroup,
        slot: u32,
        refusal: &[u8],
    ) -> bool {
        if !refusal.is_empty() {
            let reason = local.registry.lock().refused_by(refusal).reason;
            self.coverage.hit(&format!("slots declined: {reason:?}"));
            if reason != HandshakeRejection::NoSuchGroup {
                self.refuse(host, peer, local, reason);
            }
        } else {
            self.coverage.hit("slots given up by the peer");
        }
        self.close_slot(host, peer, slot, &[])
    }

    fn close_slot(&mut self, host: usize, peer: usize, slot: u32, refusal: &[u8]) -> bool {
        let (now, longest) = (self.instant(self.queue.now), self.config.backoff.1);
        let jitter = self.rng.between(50, 100) as u32;
        let Some(sender) = self.sender(host, peer) else { return false };
        let longest = std::time::Duration::from_micros(longest);
        sender.queue.close_slot(slot, refusal, longest, |pause| now + pause * jitter / 100)
    }

    /// The status of a group shows that a peer refuses it, or is refused.
    pub(super) fn refuse(
        &mut self,
        host: usize,
        peer: usize,
        local: &LocalGroup,
        reason: HandshakeRejection,
    ) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(joined) = process.by_number(local.number) else { return };
        if joined.refused.insert(peer) {
            local.inbox.refused(node_id(peer), reason.to_string());
        }
    }

    /// Decides on the hello of a peer for a group.
    pub(super) fn judge(
        &mut self,
        host: usize,
        local: &LocalGroup,
        hello: &[u8],
        peer: NodeId,
        way: HelloWay,
    ) -> Result<Hello, HandshakeRejection> {
        let decided = Hello::decode(hello).and_then(|decoded| {
            if claim(hello).is_none_or(|(_, from)| from != peer) {
                return Err(HandshakeRejection::WrongNode);
            }
            let mut registry = local.registry.lock();
            registry.admit(&decoded, way)?;
            if registry.knows(&decoded) {
                local.inbox.peer_identified(decoded.from, decoded.identity.directory);
            }
            local.inbox.advertised(decoded.from, &decoded.advertised);
            Ok(decoded)
        });
        let place = peer.get() as usize - 1;
        match &decided {
            Ok(hello) => {
                self.check_generation(host, local, hello);
                let Some(process) = &mut self.hosts[host].process else { return decided };
                if let Some(joined) = process.by_number(local.number)
                    && joined.refused.remove(&place)
                {
                    local.inbox.accepted(peer);
                }
            }
            Err(reason) => {
                self.coverage.hit(&format!("introductions refused: {reason:?}"));
                self.refuse(host, place, local, *reason);
            }
        }
        self.wake_groups(host);
        decided
    }

    /// A group meets no other generation of it.
    fn check_generation(&mut self, host: usize, local: &LocalGroup, hello: &Hello) {
        let theirs = self.directories.get(&hello.identity.directory).copied();
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(joined) = process.by_number(local.number) else { return };
        let ours = (joined.group, joined.generation);
        if theirs != Some(ours) {
            self.violated(format!(
                "A15: host {}: group and generation {ours:?} accept {theirs:?}: {hello:?}",
                host + 1
            ));
        }
    }
}
