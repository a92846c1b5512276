//! What happens to the group: faults drawn from the seed, which begin, overlap and pass.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::environment::NODES;
use crate::hosts::ClientProfile;
use crate::links::{Noise, Passage};
use crate::rng::Rng;
use crate::world::{World, nodes, pairs};

type Pair = (u64, u64);

/// The kinds of faults. The first five need no more than a process may do to its children and its
/// own sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    Pause,
    Partition,
    Noise,
    Reset,
    Packets,
    PowerCut,
    FullDisk,
}

const ANYWHERE: [Kind; 5] = [Kind::Kill, Kind::Pause, Kind::Partition, Kind::Noise, Kind::Reset];
const WITH_VOLUMES: [Kind; 3] = [Kind::Packets, Kind::PowerCut, Kind::FullDisk];

/// What ends a fault.
enum Relief {
    Start(u64),
    Resume(u64),
    Open(Vec<Pair>),
    Quiet(Vec<Pair>),
    Pass(Vec<Pair>),
    Room(u64),
}

/// A time with its own kinds of faults, and its own pace.
struct Phase {
    kinds: Vec<Kind>,
    pause_ms: u64,
}

/// See the [module](self).
pub(crate) struct Trouble {
    world: Arc<World>,
    rng: Rng,
    reliefs: Vec<(Instant, Relief)>,
    next_purge: Instant,
    /// How many phases there were.
    phases: usize,
}

impl Trouble {
    pub(crate) fn new(world: Arc<World>, rng: Rng) -> Trouble {
        Trouble { world, rng, reliefs: Vec::new(), next_purge: Instant::now(), phases: 0 }
    }

    /// Makes trouble until then, and leaves the group healed.
    pub(crate) fn make(&mut self, until: Instant) {
        while Instant::now() < until && !self.world.is_closing() {
            let phase = self.draw_phase();
            *self.world.profile.lock() = ClientProfile::draw(&mut self.rng);
            let end = until.min(Instant::now() + self.ms(4_000, 15_000));
            self.strike(self.kinds()[self.phases % self.kinds().len()]);
            self.phases += 1;
            while Instant::now() < end && !self.world.is_closing() {
                let kind = phase.kinds[self.rng.below(phase.kinds.len() as u64) as usize];
                self.strike(kind);
                let pause = self.ms(phase.pause_ms / 4, phase.pause_ms * 2);
                self.pass(pause.min(end.saturating_duration_since(Instant::now())));
            }
            self.heal();
            let calm = self.ms(500, 2_500);
            self.pass(calm);
        }
    }

    fn kinds(&self) -> Vec<Kind> {
        let with_volumes =
            if self.world.environment.has_volumes() { &WITH_VOLUMES[..] } else { &[] };
        [&ANYWHERE, with_volumes].concat()
    }

    /// Every phase begins with the next kind of all, so that none is left out by chance, and goes
    /// on with some of them.
    fn draw_phase(&mut self) -> Phase {
        let mut kinds: Vec<Kind> =
            self.kinds().into_iter().filter(|_| self.rng.once_in(2)).collect();
        if kinds.is_empty() {
            kinds.push(Kind::Kill);
        }
        Phase { kinds, pause_ms: [200, 600, 1_500, 3_000][self.rng.below(4) as usize] }
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.rng.below(to - from + 1))
    }

    /// Lets time pass: ends what is due to end, starts what should be up, gives up old entries.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            while let Some(due) = self.reliefs.iter().position(|(due, _)| *due <= now) {
                let (_, fault_end) = self.reliefs.swap_remove(due);
                self.relieve(fault_end);
            }
            self.world.start_what_is_wanted();
            self.purge_now_and_then(now);
            if now >= end || self.world.violation().is_some() {
                return;
            }
            thread::sleep(Duration::from_millis(10).min(end - now));
        }
    }

    /// Ends every fault at once.
    pub(crate) fn heal(&mut self) {
        for (_, fault_end) in std::mem::take(&mut self.reliefs) {
            self.relieve(fault_end);
        }
    }

    fn purge_now_and_then(&mut self, now: Instant) {
        if now < self.next_purge {
            return;
        }
        self.next_purge = now + self.ms(500, 3_000);
        let index = self
            .world
            .book
            .whole()
            .saturating_sub([5_000, 50_000, 200_000][self.rng.below(3) as usize]);
        if let Some(life) = self.world.life(1 + self.rng.below(NODES)) {
            let figures = self.world.figures.clone();
            life.ask(&format!("purge {index}"), move |answer| {
                figures.count("purges", u64::from(answer == Some("done")))
            });
        }
    }

    fn strike(&mut self, kind: Kind) {
        match kind {
            Kind::Kill => {
                let length = self.ms(0, 2_500);
                for node in self.victims() {
                    self.world.figures.fault("processes killed");
                    self.world.kill(node);
                    self.later(length, Relief::Start(node));
                }
            }
            Kind::Pause => {
                let length = self.ms(50, 3_000);
                for node in self.victims() {
                    self.world.figures.fault("processes stopped for a while");
                    self.world.with_process(node, |life| life.pause());
                    self.later(length, Relief::Resume(node));
                }
            }
            Kind::Partition => self.partition(),
            Kind::Noise => self.noise(),
            Kind::Reset => {
                self.world.figures.fault("all connections of some links broken");
                let pairs = self.some_pairs();
                pairs.iter().for_each(|&(from, to)| self.world.link(from, to).reset());
            }
            Kind::Packets => self.drop_packets(),
            Kind::PowerCut => {
                let (length, nodes) = (self.ms(0, 1_500), self.victims());
                nodes.iter().for_each(|&node| self.world.kill(node));
                for node in nodes {
                    self.world.figures.fault("power cuts");
                    self.world.environment.cut_power(node);
                    self.later(length, Relief::Start(node));
                }
            }
            Kind::FullDisk => {
                let (length, node) = (self.ms(500, 4_000), self.victims()[0]);
                self.world.figures.fault("disks filled up");
                let room = self.rng.below(3 << 20);
                self.world.environment.fill(node, room);
                self.later(length, Relief::Room(node));
            }
        }
    }

    /// The leader, or any node; now and then several of them, or all.
    fn victims(&mut self) -> Vec<u64> {
        let leader = self.world.leader();
        if leader != 0 && self.rng.once_in(2) {
            self.hit(leader);
            return vec![leader];
        }
        let count = [1, 1, 1, 2, 2, 3, NODES][self.rng.below(7) as usize];
        let victims = self.some_nodes(count);
        if let [only] = victims[..]
            && only == leader
        {
            self.hit(leader);
        }
        victims
    }

    fn hit(&self, leader: u64) {
        if let Some(life) = self.world.life(leader) {
            self.world.figures.hit(life.number);
        }
    }

    fn some_nodes(&mut self, count: u64) -> Vec<u64> {
        let mut all: Vec<u64> = nodes().collect();
        (0..count).map(|_| all.swap_remove(self.rng.below(all.len() as u64) as usize)).collect()
    }

    /// Links that part some nodes from the others: all ways between them, or one way only.
    fn some_cut(&mut self) -> (Vec<Pair>, bool) {
        let count = 1 + self.rng.below(2);
        let leader = self.world.leader();
        let inside =
            if leader != 0 && self.rng.once_in(2) { vec![leader] } else { self.some_nodes(count) };
        let leaves = |(from, to): &Pair| inside.contains(from) && !inside.contains(to);
        let enters = |(from, to): &Pair| inside.contains(to) && !inside.contains(from);
        let (ways, both) = match self.rng.below(4) {
            0 => (pairs().filter(leaves).collect(), false),
            1 => (pairs().filter(enters).collect(), false),
            _ => (pairs().filter(|pair| leaves(pair) || enters(pair)).collect(), true),
        };
        if inside == [leader] {
            self.hit(leader);
        }
        (ways, both)
    }

    /// One link, those of one node, or all.
    fn some_pairs(&mut self) -> Vec<Pair> {
        let (one, other) = (1 + self.rng.below(NODES), 1 + self.rng.below(NODES));
        match self.rng.below(3) {
            0 => pairs().filter(|pair| *pair == (one, other)).collect(),
            1 => pairs().filter(|(from, to)| *from == one || *to == one).collect(),
            _ => pairs().collect(),
        }
    }

    fn partition(&mut self) {
        let (length, (cut, both)) = (self.ms(100, 4_000), self.some_cut());
        let passage = if self.rng.once_in(2) { Passage::Silent } else { Passage::Shut };
        self.world.figures.fault(match (both, passage) {
            (true, Passage::Silent) => "partitions, both ways, connections silent",
            (true, _) => "partitions, both ways, connections shut",
            (false, Passage::Silent) => "partitions, one way, connections silent",
            (false, _) => "partitions, one way, connections shut",
        });
        cut.iter().for_each(|&(from, to)| self.world.link(from, to).set_passage(passage));
        self.later(length, Relief::Open(cut));
    }

    fn noise(&mut self) {
        let (length, some) = (self.ms(500, 5_000), self.some_pairs());
        let mut one_of = |choices: [u64; 4]| choices[self.rng.below(4) as usize];
        let drawn = Noise {
            delay_ms: one_of([0, 5, 50, 300]),
            overtake: one_of([0, 0, 1, 1]) == 1,
            repeat: one_of([0, 0, 50, 300]),
            corruption: one_of([0, 0, 5, 50]),
            lose: one_of([0, 0, 20, 200]),
            tear: one_of([0, 0, 0, 5]),
        };
        // The first time, some of everything.
        let everything =
            Noise { delay_ms: 50, overtake: true, repeat: 50, corruption: 50, lose: 50, tear: 5 };
        let is_first = self.world.figures.sheet().of("times of noise on some links") == 0;
        let (noise, length, pairs) = if is_first {
            (everything, Duration::from_secs(3), pairs().collect())
        } else {
            (drawn, length, some)
        };
        self.world.figures.fault("times of noise on some links");
        pairs.iter().for_each(|&(from, to)| self.world.link(from, to).set_noise(noise));
        self.later(length, Relief::Quiet(pairs));
    }

    fn drop_packets(&mut self) {
        let length = self.ms(200, 4_000);
        let (pairs, percent) = if self.rng.once_in(2) {
            let (cut, both) = self.some_cut();
            self.world.figures.fault(if both {
                "partitions of packets, both ways"
            } else {
                "partitions of packets, one way"
            });
            (cut, 100)
        } else {
            self.world.figures.fault("times of packet loss on some links");
            (self.some_pairs(), 1 + self.rng.below(30))
        };
        pairs.iter().for_each(|&(from, to)| self.world.environment.drop_packets(from, to, percent));
        self.later(length, Relief::Pass(pairs));
    }

    fn later(&mut self, length: Duration, fault_end: Relief) {
        self.reliefs.push((Instant::now() + length, fault_end));
    }

    fn relieve(&self, fault_end: Relief) {
        let world = &self.world;
        match fault_end {
            Relief::Start(node) => world.want(node),
            Relief::Resume(node) => world.with_process(node, |life| {
                life.resume();
                world.figures.relieve(life.number);
            }),
            Relief::Open(pairs) => {
                pairs
                    .iter()
                    .for_each(|&(from, to)| world.link(from, to).set_passage(Passage::Open));
                nodes().for_each(|node| {
                    world.with_process(node, |life| world.figures.relieve(life.number))
                });
            }
            Relief::Quiet(pairs) => pairs
                .iter()
                .for_each(|&(from, to)| world.link(from, to).set_noise(Noise::default())),
            Relief::Pass(pairs) => {
                pairs.iter().for_each(|&(from, to)| world.environment.drop_packets(from, to, 0))
            }
            Relief::Room(node) => world.environment.make_room(node),
        }
    }
}
