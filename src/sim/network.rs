//! A bad network: it delays, loses, doubles, reorders, damages and replays what it is given, and can be cut in any direction.
//!
//! Messages travel as the frames that TCP would carry, on connections that open with a hello: so it is the real codec, the real frame checksum
//! and the real judgement of strangers that stand between a bad network and a node.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::agenda::{Agenda, Event, Micros};
use super::chance::Chance;
use super::swarm::Weather;
use crate::message::Promise;
use crate::transport::Identity;
use crate::transport::Message;
use crate::transport::frame::{self, FRAME_BYTES_MAX, FrameReader, Frames};
use crate::transport::hello::Hello;

/// How many old messages of each kind are kept to be replayed.
const ATTIC: usize = 64;
/// How many answers are kept to be given again.
const ANSWERS: usize = 256;
/// Votes are few and heartbeats are many: each kind has a place of its own in the attic.
const KINDS: usize = 5;

fn kind_of(promise: Promise) -> usize {
    match promise {
        Promise::Leads => 0,
        Promise::Stands | Promise::Nothing => 1,
        Promise::Votes => 2,
        Promise::Holds(_) => 3,
        Promise::Term => 4,
    }
}

/// One message under way, in one frame or in pieces.
#[derive(Clone)]
pub(crate) struct Parcel {
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
pub(crate) enum Opened {
    Message(Message),
    /// Damaged, and noticed.
    Noticed,
    /// Damaged, and not noticed.
    Overlooked,
}

impl Parcel {
    /// Reads the frame, as a connection would.
    pub(crate) fn open(&self) -> Opened {
        if !self.is_damaged && self.frame.len() <= FRAME_BYTES_MAX {
            // A sound frame needs no second opinion on its checksum.
            return Message::decode(self.frame.slice(frame::HEADER_BYTES..)).map_or(Opened::Overlooked, Opened::Message);
        }
        let mut reader = FrameReader::new();
        reader.admit(self.frame.len());
        let mut source = &self.frame[..];
        loop {
            match reader.next() {
                Ok(Some(frame)) if !self.is_damaged => {
                    return Message::decode(frame.content).map_or(Opened::Overlooked, Opened::Message);
                }
                Ok(Some(_)) => return Opened::Overlooked,
                Ok(None) if source.is_empty() => return Opened::Noticed,
                Err(_) => return Opened::Noticed,
                Ok(None) => {}
            }
            if reader.read_from(&mut source).is_err() {
                return Opened::Noticed;
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
    pub(crate) weather: Weather,
    chance: Chance,
    nodes: usize,
    links: Vec<Link>,
    attic: [Vec<Parcel>; KINDS],
    /// The first answer to each question.
    answers: BTreeMap<Vec<u8>, Parcel>,
}

impl Network {
    pub(crate) fn new(nodes: usize, weather: Weather, chance: Chance) -> Network {
        Network { weather, chance, nodes, links: vec![Link::default(); nodes * nodes], attic: Default::default(), answers: BTreeMap::new() }
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

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    pub(crate) fn clog(&mut self, from: usize, to: usize, until: Micros) {
        let link = self.link(from, to);
        link.clogged_until = link.clogged_until.max(until);
    }

    /// Ends every trouble, and lets the weather turn fine.
    pub(crate) fn heal(&mut self, calm: Weather) {
        self.weather = calm;
        self.attic.iter_mut().for_each(Vec::clear);
        self.answers.clear();
        for link in &mut self.links {
            (link.cuts, link.clogged_until, link.last_arrival) = (0, 0, 0);
        }
    }

    /// Takes a message on its way. False: it is lost already, and its sender notices.
    pub(crate) fn send(&mut self, agenda: &mut Agenda, from: usize, to: usize, hello: Hello, message: &Message, busy: Micros) -> bool {
        let frame = Bytes::from(Frames::of(message.encode()).concat());
        let mut parcel = Parcel { from, to, hello, frame, is_damaged: false, is_forged: false, is_replay: false };
        let capacity = self.weather.capacity;
        if self.is_cut(from, to) || self.link(from, to).under_way >= capacity {
            return !self.chance.percent(self.weather.told);
        }
        if self.weather.replays > 0 {
            self.haunt(agenda, &parcel, message);
        }
        self.impersonate(agenda, &parcel);
        if self.chance.happens(self.weather.loss) {
            return !self.chance.percent(self.weather.told);
        }
        if self.chance.happens(self.weather.duplication) {
            self.put_on_its_way(agenda, parcel.clone(), busy);
        }
        if self.chance.happens(self.weather.flips) {
            self.damage(&mut parcel);
        }
        self.put_on_its_way(agenda, parcel, busy);
        true
    }

    /// A message has reached the end of its link.
    pub(crate) fn arrived(&mut self, parcel: &Parcel) {
        if !parcel.is_replay {
            self.link(parcel.from, parcel.to).under_way -= 1;
        }
    }

    fn put_on_its_way(&mut self, agenda: &mut Agenda, parcel: Parcel, busy: Micros) {
        let is_late = self.chance.happens(self.weather.stragglers);
        let mean = if is_late { self.weather.straggle_mean } else { self.weather.delay_mean };
        let delay = busy + self.weather.delay_min + self.chance.around(mean);
        let (now, in_order) = (agenda.now, self.weather.in_order);
        let link = self.link(parcel.from, parcel.to);
        let mut arrival = (now + delay).max(link.clogged_until);
        if in_order {
            arrival = arrival.max(link.last_arrival);
            link.last_arrival = arrival;
        }
        link.under_way += 1;
        agenda.put(arrival, Event::Parcel(Box::new(parcel)));
    }

    /// One to three bits are not what they were.
    fn damage(&mut self, parcel: &mut Parcel) {
        let mut bytes = parcel.frame.to_vec();
        let first = self.chance.below(bytes.len() as u64 * 8) as usize;
        for bit in (first..bytes.len() * 8).take(self.chance.between(1, 3) as usize) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        parcel.frame = Bytes::from(bytes);
        parcel.is_damaged = true;
    }

    /// Old messages come back: at any time, and where they would do most harm if they counted.
    fn haunt(&mut self, agenda: &mut Agenda, parcel: &Parcel, message: &Message) {
        let promise = message.promise();
        let old = || Parcel { is_replay: true, ..parcel.clone() };
        if self.chance.percent(if promise == Promise::Votes { 50 } else { 20 }) {
            let place = self.chance.below(ATTIC as u64) as usize;
            let shelf = &mut self.attic[kind_of(promise)];
            match shelf.get_mut(place) {
                Some(other) => *other = old(),
                None => shelf.push(old()),
            }
        }
        match message.question() {
            Some((name, true)) if self.answers.len() < ANSWERS => drop(self.answers.entry(name.to_vec()).or_insert_with(old)),
            // Whoever asks the same question again gets the same answer again.
            Some((name, false)) if self.answers.contains_key(name) => {
                let answer = self.answers[name].clone();
                agenda.put_in(self.weather.delay_min, Event::Parcel(Box::new(answer)));
            }
            _ => {}
        }
        if self.chance.happens(self.weather.replays) {
            let shelf = &self.attic[self.chance.below(KINDS as u64) as usize];
            if !shelf.is_empty() {
                let old = self.chance.pick(shelf).clone();
                let delay = self.chance.around(self.weather.delay_mean);
                agenda.put_in(delay, Event::Parcel(Box::new(old)));
            }
        }
    }

    /// A node stands for election: votes that it was given before come again.
    pub(crate) fn haunt_candidate(&mut self, agenda: &mut Agenda, node: usize) {
        self.replay(agenda, Promise::Votes, |old| old.to == node);
    }

    /// A node leads: acknowledgements that it was given before come again, and to others what earlier leaders said.
    pub(crate) fn haunt_leader(&mut self, agenda: &mut Agenda, node: usize) {
        self.replay(agenda, Promise::Holds(0), |old| old.to == node);
        self.replay(agenda, Promise::Leads, |old| old.from != node);
    }

    fn replay(&mut self, agenda: &mut Agenda, kind: Promise, is_wanted: impl Fn(&Parcel) -> bool) {
        if self.weather.replays > 0 {
            for old in self.attic[kind_of(kind)].iter().filter(|old| is_wanted(old)) {
                let delay = self.weather.delay_min + self.chance.around(self.weather.delay_mean);
                agenda.put_in(delay, Event::Parcel(Box::new(old.clone())));
            }
        }
    }

    /// Messages come from somewhere else.
    fn impersonate(&mut self, agenda: &mut Agenda, parcel: &Parcel) {
        if self.chance.happens(self.weather.strangers) {
            let mut forged = Parcel { is_forged: true, is_replay: true, ..parcel.clone() };
            let hello = &mut forged.hello;
            match self.chance.below(5) {
                0 => hello.cluster ^= 1,
                1 => hello.group.push('x'),
                2 => {
                    let Identity { directory, incarnation, .. } = hello.identity;
                    hello.identity = Identity { directory: directory ^ 1, incarnation, complete: incarnation % 2 == 0 };
                }
                3 => hello.to = hello.from,
                _ => hello.from = crate::entry::NodeId::from(self.nodes as u64 + 1),
            }
            agenda.put_in(self.weather.delay_min, Event::Parcel(Box::new(forged)));
        }
    }
}
