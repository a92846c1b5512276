//! Simulated network. It delays, drops, duplicates, reorders, corrupts, replays and forges
//! messages, and each direction of a link can be cut.
//!
//! Messages travel as the frames that TCP would carry, on connections that open with a hello. So
//! the real codec, the real frame checksum and the real handshake check stand between a bad network
//! and a node.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::config::NetworkFaults;
use super::event::{Event, Packet};
use super::event_queue::EventQueue;
use super::rng::Rng;
use super::time::Micros;
use crate::entry::NodeId;
use crate::message::SenderClaim;
use crate::transport::frame::Frames;
use crate::transport::hello::Hello;
use crate::transport::{DirectoryIdentity, Message};

/// Number of old messages of each kind that are kept for replay.
const REPLAY_BUFFER: usize = 64;
/// The slot of the group, on every connection.
const SLOT: u32 = 1;
/// Number of responses that are kept for replay.
const RESPONSES: usize = 256;
/// Votes are rare and heartbeats frequent: each kind has a replay buffer of its own.
const KINDS: usize = 5;

fn kind_of(claim: SenderClaim) -> usize {
    match claim {
        SenderClaim::Leads => 0,
        SenderClaim::Stands | SenderClaim::Nothing => 1,
        SenderClaim::Votes => 2,
        SenderClaim::Holds(_) => 3,
        SenderClaim::Term => 4,
    }
}

/// One direction between two nodes.
#[derive(Clone, Default)]
struct Link {
    /// Number of faults that cut it at present.
    cuts: u32,
    stalled_until: Micros,
    /// The arrival of the last message, if messages keep their order.
    last_arrival: Micros,
    in_flight: usize,
}

/// The network of a run: see the [module](self).
pub(crate) struct Network {
    pub(crate) network_faults: NetworkFaults,
    rng: Rng,
    nodes: usize,
    links: Vec<Link>,
    replay_buffers: [Vec<Packet>; KINDS],
    /// The first response to each request, by the context of the request.
    responses: BTreeMap<Vec<u8>, Packet>,
}

impl Network {
    pub(crate) fn new(nodes: usize, network_faults: NetworkFaults, rng: Rng) -> Network {
        Network {
            network_faults,
            rng,
            nodes,
            links: vec![Link::default(); nodes * nodes],
            replay_buffers: Default::default(),
            responses: BTreeMap::new(),
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    pub(crate) fn is_cut(&mut self, from: usize, to: usize) -> bool {
        self.link(from, to).cuts > 0
    }

    /// Whether a link is neither cut nor stalled.
    pub(crate) fn carries(&mut self, from: usize, to: usize, now: Micros) -> bool {
        let link = self.link(from, to);
        link.cuts == 0 && link.stalled_until <= now
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.link(from, to).cuts += 1;
    }

    pub(crate) fn reconnect(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    pub(crate) fn stall(&mut self, from: usize, to: usize, until: Micros) {
        let link = self.link(from, to);
        link.stalled_until = link.stalled_until.max(until);
    }

    /// Ends all faults. From now on those in `calm` apply.
    pub(crate) fn heal(&mut self, calm: NetworkFaults) {
        self.network_faults = calm;
        self.replay_buffers.iter_mut().for_each(Vec::clear);
        self.responses.clear();
        for link in &mut self.links {
            (link.cuts, link.stalled_until, link.last_arrival) = (0, 0, 0);
        }
    }

    /// Sends a message. False: it is dropped, and its sender notices.
    pub(crate) fn send(
        &mut self,
        queue: &mut EventQueue,
        from: usize,
        to: usize,
        hello: Hello,
        message: &Message,
        busy: Micros,
    ) -> bool {
        let frame = Bytes::from(Frames::of(SLOT, message.encode()).concat());
        let mut packet = Packet {
            from,
            to,
            hello,
            frame,
            is_corrupt: false,
            is_forged: false,
            is_replay: false,
        };
        let capacity = self.network_faults.capacity;
        if self.is_cut(from, to) || self.link(from, to).in_flight >= capacity {
            return !self.rng.percent(self.network_faults.noticed);
        }
        if self.network_faults.replays > 0 {
            self.replay_old(queue, &packet, message);
        }
        self.forge(queue, &packet);
        if self.rng.happens(self.network_faults.loss) {
            return !self.rng.percent(self.network_faults.noticed);
        }
        if self.rng.happens(self.network_faults.duplication) {
            self.transmit(queue, packet.clone(), busy);
        }
        if self.rng.happens(self.network_faults.flips) {
            self.corrupt(&mut packet);
        }
        self.transmit(queue, packet, busy);
        true
    }

    /// A message has arrived at the end of its link.
    pub(crate) fn arrived(&mut self, packet: &Packet) {
        if !packet.is_replay {
            self.link(packet.from, packet.to).in_flight -= 1;
        }
    }

    fn transmit(&mut self, queue: &mut EventQueue, packet: Packet, busy: Micros) {
        let is_late = self.rng.happens(self.network_faults.long_delays);
        let mean = if is_late {
            self.network_faults.long_delay_mean
        } else {
            self.network_faults.delay_mean
        };
        let delay = busy + self.network_faults.delay_min + self.rng.around(mean);
        let (now, in_order) = (queue.now, self.network_faults.in_order);
        let link = self.link(packet.from, packet.to);
        let mut arrival = (now + delay).max(link.stalled_until);
        if in_order {
            arrival = arrival.max(link.last_arrival);
            link.last_arrival = arrival;
        }
        link.in_flight += 1;
        queue.put(arrival, Event::Packet(Box::new(packet)));
    }

    /// Flips one to three bits.
    fn corrupt(&mut self, packet: &mut Packet) {
        let mut bytes = packet.frame.to_vec();
        let first = self.rng.below(bytes.len() as u64 * 8) as usize;
        for bit in (first..bytes.len() * 8).take(self.rng.between(1, 3) as usize) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        packet.frame = Bytes::from(bytes);
        packet.is_corrupt = true;
    }

    /// Replays old messages: at random, and a response to each request that is repeated, where a
    /// stale one would do most harm if it counted.
    fn replay_old(&mut self, queue: &mut EventQueue, packet: &Packet, message: &Message) {
        let claim = message.promise();
        let old = || Packet { is_replay: true, ..packet.clone() };
        if self.rng.percent(if claim == SenderClaim::Votes { 50 } else { 20 }) {
            let place = self.rng.below(REPLAY_BUFFER as u64) as usize;
            let buffer = &mut self.replay_buffers[kind_of(claim)];
            match buffer.get_mut(place) {
                Some(other) => *other = old(),
                None => buffer.push(old()),
            }
        }
        match message.question() {
            Some((context, true)) if self.responses.len() < RESPONSES => {
                self.responses.entry(context.to_vec()).or_insert_with(old);
            }
            // A repeated request gets the old response.
            Some((context, false)) if self.responses.contains_key(context) => {
                let response = self.responses[context].clone();
                queue.put_in(self.network_faults.delay_min, Event::Packet(Box::new(response)));
            }
            _ => {}
        }
        if self.rng.happens(self.network_faults.replays) {
            let buffer = &self.replay_buffers[self.rng.below(KINDS as u64) as usize];
            if !buffer.is_empty() {
                let old = self.rng.pick(buffer).clone();
                let delay = self.rng.around(self.network_faults.delay_mean);
                queue.put_in(delay, Event::Packet(Box::new(old)));
            }
        }
    }

    /// A node campaigns: old votes for it arrive again.
    pub(crate) fn replay_to_candidate(&mut self, queue: &mut EventQueue, node: usize) {
        self.replay(queue, SenderClaim::Votes, |old| old.to == node);
    }

    /// A node becomes leader: old acknowledgements to it arrive again, and messages of earlier
    /// leaders to the others.
    pub(crate) fn replay_to_leader(&mut self, queue: &mut EventQueue, node: usize) {
        self.replay(queue, SenderClaim::Holds(0), |old| old.to == node);
        self.replay(queue, SenderClaim::Leads, |old| old.from != node);
    }

    fn replay(
        &mut self,
        queue: &mut EventQueue,
        kind: SenderClaim,
        is_wanted: impl Fn(&Packet) -> bool,
    ) {
        if self.network_faults.replays > 0 {
            for old in self.replay_buffers[kind_of(kind)].iter().filter(|old| is_wanted(old)) {
                let delay =
                    self.network_faults.delay_min + self.rng.around(self.network_faults.delay_mean);
                queue.put_in(delay, Event::Packet(Box::new(old.clone())));
            }
        }
    }

    /// Sends a copy with a hello that no member could have sent.
    fn forge(&mut self, queue: &mut EventQueue, packet: &Packet) {
        if self.rng.happens(self.network_faults.forgeries) {
            let mut forged = Packet { is_forged: true, is_replay: true, ..packet.clone() };
            let hello = &mut forged.hello;
            match self.rng.below(5) {
                0 => hello.cluster ^= 1,
                1 => hello.group.push('x'),
                2 => {
                    let DirectoryIdentity { directory, incarnation, .. } = hello.identity;
                    hello.identity = DirectoryIdentity {
                        directory: directory ^ 1,
                        incarnation,
                        complete: incarnation % 2 == 0,
                    };
                }
                3 => hello.to = hello.from,
                _ => hello.from = NodeId::from(self.nodes as u64 + 1),
            }
            queue.put_in(self.network_faults.delay_min, Event::Packet(Box::new(forged)));
        }
    }
}
