//! A bad network: it delays, loses, doubles, reorders, damages and replays what it is given, and
//! can be cut in any direction.
//!
//! Messages travel as the frames that TCP would carry, on connections that open with a hello: so it
//! is the real codec, the real frame checksum and the real judgement of strangers that stand
//! between a bad network and a node.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::config::NetworkFaults;
use super::event_queue::{Event, EventQueue, Micros};
use super::rng::Rng;
use crate::message::SenderClaim;
use crate::transport::DirectoryIdentity;
use crate::transport::Message;
use crate::transport::frame::{self, FRAME_BYTES_MAX, FrameReader, Frames};
use crate::transport::hello::Hello;

/// How many old messages of each kind are kept to be replayed.
const REPLAY_BUFFER: usize = 64;
/// How many answers are kept to be given again.
const ANSWERS: usize = 256;
/// Votes are few and heartbeats are many: each kind has a place of its own in the attic.
const KINDS: usize = 5;

fn kind_of(promise: SenderClaim) -> usize {
    match promise {
        SenderClaim::Leads => 0,
        SenderClaim::Stands | SenderClaim::Nothing => 1,
        SenderClaim::Votes => 2,
        SenderClaim::Holds(_) => 3,
        SenderClaim::Term => 4,
    }
}

/// One message under way, in one frame or in pieces.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Who the sender says it is, on the connection that this travels on.
    pub(crate) hello: Hello,
    pub(crate) frame: Bytes,
    pub(crate) is_damaged: bool,
    /// Made up by the network: nobody may take it.
    pub(crate) is_forged: bool,
    /// Not counted as under way on its link.
    is_replay: bool,
}

/// What came out of a frame.
pub(crate) enum Decoded {
    Message(Message),
    /// Damaged, and noticed.
    Noticed,
    /// Damaged, and not noticed.
    Overlooked,
}

impl Packet {
    /// Reads the frame, as a connection would.
    pub(crate) fn open(&self) -> Decoded {
        if !self.is_damaged && self.frame.len() <= FRAME_BYTES_MAX {
            // A sound frame needs no second opinion on its checksum.
            return Message::decode(self.frame.slice(frame::HEADER_BYTES..))
                .map_or(Decoded::Overlooked, Decoded::Message);
        }
        let mut reader = FrameReader::new();
        reader.set_len_max(self.frame.len());
        let mut source = &self.frame[..];
        loop {
            match reader.next() {
                Ok(Some(frame)) if !self.is_damaged => {
                    return Message::decode(frame.content)
                        .map_or(Decoded::Overlooked, Decoded::Message);
                }
                Ok(Some(_)) => return Decoded::Overlooked,
                Ok(None) if source.is_empty() => return Decoded::Noticed,
                Err(_) => return Decoded::Noticed,
                Ok(None) => {}
            }
            if reader.read_from(&mut source).is_err() {
                return Decoded::Noticed;
            }
        }
    }
}

/// One direction between two nodes.
#[derive(Clone, Default)]
struct Link {
    /// How many troubles cut it at the moment.
    cuts: u32,
    clogged_until: Micros,
    /// The arrival of the last message, if messages keep their order.
    last_arrival: Micros,
    under_way: usize,
}

/// See the [module](self).
pub(crate) struct Network {
    pub(crate) network_faults: NetworkFaults,
    rng: Rng,
    nodes: usize,
    links: Vec<Link>,
    attic: [Vec<Packet>; KINDS],
    /// The first answer to each question.
    answers: BTreeMap<Vec<u8>, Packet>,
}

impl Network {
    pub(crate) fn new(nodes: usize, network_faults: NetworkFaults, rng: Rng) -> Network {
        Network {
            network_faults,
            rng,
            nodes,
            links: vec![Link::default(); nodes * nodes],
            attic: Default::default(),
            answers: BTreeMap::new(),
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    pub(crate) fn is_cut(&mut self, from: usize, to: usize) -> bool {
        self.link(from, to).cuts > 0
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.link(from, to).cuts += 1;
    }

    pub(crate) fn repair(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    pub(crate) fn clog(&mut self, from: usize, to: usize, until: Micros) {
        let link = self.link(from, to);
        link.clogged_until = link.clogged_until.max(until);
    }

    /// Ends every trouble, and lets the weather turn fine.
    pub(crate) fn heal(&mut self, calm: NetworkFaults) {
        self.network_faults = calm;
        self.attic.iter_mut().for_each(Vec::clear);
        self.answers.clear();
        for link in &mut self.links {
            (link.cuts, link.clogged_until, link.last_arrival) = (0, 0, 0);
        }
    }

    /// Takes a message on its way. False: it is lost already, and its sender notices.
    pub(crate) fn send(
        &mut self,
        queue: &mut EventQueue,
        from: usize,
        to: usize,
        hello: Hello,
        message: &Message,
        busy: Micros,
    ) -> bool {
        let frame = Bytes::from(Frames::of(message.encode()).concat());
        let mut packet = Packet {
            from,
            to,
            hello,
            frame,
            is_damaged: false,
            is_forged: false,
            is_replay: false,
        };
        let capacity = self.network_faults.capacity;
        if self.is_cut(from, to) || self.link(from, to).under_way >= capacity {
            return !self.rng.percent(self.network_faults.told);
        }
        if self.network_faults.replays > 0 {
            self.replay_old(queue, &packet, message);
        }
        self.impersonate(queue, &packet);
        if self.rng.happens(self.network_faults.loss) {
            return !self.rng.percent(self.network_faults.told);
        }
        if self.rng.happens(self.network_faults.duplication) {
            self.put_on_its_way(queue, packet.clone(), busy);
        }
        if self.rng.happens(self.network_faults.flips) {
            self.corruption(&mut packet);
        }
        self.put_on_its_way(queue, packet, busy);
        true
    }

    /// A message has reached the end of its link.
    pub(crate) fn arrived(&mut self, packet: &Packet) {
        if !packet.is_replay {
            self.link(packet.from, packet.to).under_way -= 1;
        }
    }

    fn put_on_its_way(&mut self, queue: &mut EventQueue, packet: Packet, busy: Micros) {
        let is_late = self.rng.happens(self.network_faults.stragglers);
        let mean = if is_late {
            self.network_faults.straggle_mean
        } else {
            self.network_faults.delay_mean
        };
        let delay = busy + self.network_faults.delay_min + self.rng.around(mean);
        let (now, in_order) = (queue.now, self.network_faults.in_order);
        let link = self.link(packet.from, packet.to);
        let mut arrival = (now + delay).max(link.clogged_until);
        if in_order {
            arrival = arrival.max(link.last_arrival);
            link.last_arrival = arrival;
        }
        link.under_way += 1;
        queue.put(arrival, Event::Packet(Box::new(packet)));
    }

    /// One to three bits are not what they were.
    fn corruption(&mut self, packet: &mut Packet) {
        let mut bytes = packet.frame.to_vec();
        let first = self.rng.below(bytes.len() as u64 * 8) as usize;
        for bit in (first..bytes.len() * 8).take(self.rng.between(1, 3) as usize) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        packet.frame = Bytes::from(bytes);
        packet.is_damaged = true;
    }

    /// Old messages come back: at any time, and where they would do most harm if they counted.
    fn replay_old(&mut self, queue: &mut EventQueue, packet: &Packet, message: &Message) {
        let promise = message.promise();
        let old = || Packet { is_replay: true, ..packet.clone() };
        if self.rng.percent(if promise == SenderClaim::Votes { 50 } else { 20 }) {
            let place = self.rng.below(REPLAY_BUFFER as u64) as usize;
            let shelf = &mut self.attic[kind_of(promise)];
            match shelf.get_mut(place) {
                Some(other) => *other = old(),
                None => shelf.push(old()),
            }
        }
        match message.question() {
            Some((name, true)) if self.answers.len() < ANSWERS => {
                drop(self.answers.entry(name.to_vec()).or_insert_with(old))
            }
            // Whoever asks the same question again gets the same answer again.
            Some((name, false)) if self.answers.contains_key(name) => {
                let answer = self.answers[name].clone();
                queue.put_in(self.network_faults.delay_min, Event::Packet(Box::new(answer)));
            }
            _ => {}
        }
        if self.rng.happens(self.network_faults.replays) {
            let shelf = &self.attic[self.rng.below(KINDS as u64) as usize];
            if !shelf.is_empty() {
                let old = self.rng.pick(shelf).clone();
                let delay = self.rng.around(self.network_faults.delay_mean);
                queue.put_in(delay, Event::Packet(Box::new(old)));
            }
        }
    }

    /// A node stands for election: votes that it was given before come again.
    pub(crate) fn haunt_candidate(&mut self, queue: &mut EventQueue, node: usize) {
        self.replay(queue, SenderClaim::Votes, |old| old.to == node);
    }

    /// A node leads: acknowledgements that it was given before come again, and to others what
    /// earlier leaders said.
    pub(crate) fn haunt_leader(&mut self, queue: &mut EventQueue, node: usize) {
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
            for old in self.attic[kind_of(kind)].iter().filter(|old| is_wanted(old)) {
                let delay =
                    self.network_faults.delay_min + self.rng.around(self.network_faults.delay_mean);
                queue.put_in(delay, Event::Packet(Box::new(old.clone())));
            }
        }
    }

    /// Messages come from somewhere else.
    fn impersonate(&mut self, queue: &mut EventQueue, packet: &Packet) {
        if self.rng.happens(self.network_faults.strangers) {
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
                _ => hello.from = crate::entry::NodeId::from(self.nodes as u64 + 1),
            }
            queue.put_in(self.network_faults.delay_min, Event::Packet(Box::new(forged)));
        }
    }
}
