//! Fault injection: faults drawn from the seed, which begin, overlap and end.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, nodes, pairs};
use crate::environment::NODES;
use crate::hosts::ClientProfile;
use crate::links::{Noise, Passage};
use crate::rng::Rng;

type Pair = (u64, u64);

/// The kinds of faults. The first five need no more than a process may do to its children and its
/// own sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultKind {
    Kill,
    Pause,
    Partition,
    Noise,
    Reset,
    Packets,
    PowerCut,
    FullDisk,
}

const ANYWHERE: [FaultKind; 5] =
    [FaultKind::Kill, FaultKind::Pause, FaultKind::Partition, FaultKind::Noise, FaultKind::Reset];
const WITH_VOLUMES: [FaultKind; 3] = [FaultKind::Packets, FaultKind::PowerCut, FaultKind::FullDisk];

/// What ends a fault.
enum FaultEnd {
    Start(u64),
    Resume(u64),
    Open(Vec<Pair>),
    Quiet(Vec<Pair>),
    Pass(Vec<Pair>),
    Room(u64),
}

/// A period with its own kinds of faults, and its own rate.
struct Phase {
    kinds: Vec<FaultKind>,
    pause_ms: u64,
}

/// See the [module](self).
pub(crate) struct FaultInjector {
    cluster: Arc<Cluster>,
    rng: Rng,
    fault_ends: Vec<(Instant, FaultEnd)>,
    next_purge: Instant,
    /// How many phases there were.
    phases: usize,
}

impl FaultInjector {
    pub(crate) fn new(cluster: Arc<Cluster>, rng: Rng) -> FaultInjector {
        FaultInjector {
            cluster,
            rng,
            fault_ends: Vec::new(),
            next_purge: Instant::now(),
            phases: 0,
        }
    }

    /// Injects faults until then, and ends all of them.
    pub(crate) fn run(&mut self, until: Instant) {
        while Instant::now() < until && !self.cluster.is_closing() {
            let phase = self.draw_phase();
            *self.cluster.profile.lock() = ClientProfile::draw(&mut self.rng);
            let end = until.min(Instant::now() + self.ms(4_000, 15_000));
            self.inject(self.kinds()[self.phases % self.kinds().len()]);
            self.phases += 1;
            while Instant::now() < end && !self.cluster.is_closing() {
                let kind = phase.kinds[self.rng.below(phase.kinds.len() as u64) as usize];
                self.inject(kind);
                let pause = self.ms(phase.pause_ms / 4, phase.pause_ms * 2);
                self.pass(pause.min(end.saturating_duration_since(Instant::now())));
            }
            self.heal();
            let calm = self.ms(500, 2_500);
            self.pass(calm);
        }
    }

    fn kinds(&self) -> Vec<FaultKind> {
        let with_volumes =
            if self.cluster.environment.has_volumes() { &WITH_VOLUMES[..] } else { &[] };
        [&ANYWHERE, with_volumes].concat()
    }

    /// Every phase begins with the next kind of all, so that none is left out by chance, and goes
    /// on with some of them.
    fn draw_phase(&mut self) -> Phase {
        let mut kinds: Vec<FaultKind> =
            self.kinds().into_iter().filter(|_| self.rng.once_in(2)).collect();
        if kinds.is_empty() {
            kinds.push(FaultKind::Kill);
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
            while let Some(due) = self.fault_ends.iter().position(|(due, _)| *due <= now) {
                let (_, fault_end) = self.fault_ends.swap_remove(due);
                self.end_fault(fault_end);
            }
            self.cluster.start_what_is_wanted();
            self.purge_now_and_then(now);
            if now >= end || self.cluster.violation().is_some() {
                return;
            }
            thread::sleep(Duration::from_millis(10).min(end - now));
        }
    }

    /// Ends every fault at once.
    pub(crate) fn heal(&mut self) {
        for (_, fault_end) in std::mem::take(&mut self.fault_ends) {
            self.end_fault(fault_end);
        }
    }

    fn purge_now_and_then(&mut self, now: Instant) {
        if now < self.next_purge {
            return;
        }
        self.next_purge = now + self.ms(500, 3_000);
        let index = self
            .cluster
            .seen
            .whole()
            .saturating_sub([5_000, 50_000, 200_000][self.rng.below(3) as usize]);
        if let Some(process) = self.cluster.process(1 + self.rng.below(NODES)) {
            let figures = self.cluster.figures.clone();
            process.ask(&format!("purge {index}"), move |answer| {
                figures.count("purges", u64::from(answer == Some("done")))
            });
        }
    }

    fn inject(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::Kill => {
                let length = self.ms(0, 2_500);
                for node in self.victims() {
                    self.cluster.figures.fault("processes killed");
                    self.cluster.kill(node);
                    self.later(length, FaultEnd::Start(node));
                }
            }
            FaultKind::Pause => {
                let length = self.ms(50, 3_000);
                for node in self.victims() {
                    self.cluster.figures.fault("processes stopped for a while");
                    self.cluster.with_process(node, |process| process.pause());
                    self.later(length, FaultEnd::Resume(node));
                }
            }
            FaultKind::Partition => self.partition(),
            FaultKind::Noise => self.noise(),
            FaultKind::Reset => {
                self.cluster.figures.fault("all connections of some links broken");
                let pairs = self.some_pairs();
                pairs.iter().for_each(|&(from, to)| self.cluster.link(from, to).reset());
            }
            FaultKind::Packets => self.drop_packets(),
            FaultKind::PowerCut => {
                let (length, nodes) = (self.ms(0, 1_500), self.victims());
                nodes.iter().for_each(|&node| self.cluster.kill(node));
                for node in nodes {
                    self.cluster.figures.fault("power cuts");
                    self.cluster.environment.cut_power(node);
                    self.later(length, FaultEnd::Start(node));
                }
            }
            FaultKind::FullDisk => {
                let (length, node) = (self.ms(500, 4_000), self.victims()[0]);
                self.cluster.figures.fault("disks filled up");
                let room = self.rng.below(3 << 20);
                self.cluster.environment.fill(node, room);
                self.later(length, FaultEnd::Room(node));
            }
        }
    }

    /// The leader, or any node; now and then several of them, or all.
    fn victims(&mut self) -> Vec<u64> {
        let leader = self.cluster.leader();
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
        if let Some(process) = self.cluster.process(leader) {
            self.cluster.figures.leader_hit(process.number);
        }
    }

    fn some_nodes(&mut self, count: u64) -> Vec<u64> {
        let mut all: Vec<u64> = nodes().collect();
        (0..count).map(|_| all.swap_remove(self.rng.below(all.len() as u64) as usize)).collect()
    }

    /// Links that separate some nodes from the others: all ways between them, or one way only.
    fn some_cut(&mut self) -> (Vec<Pair>, bool) {
        let count = 1 + self.rng.below(2);
        let leader = self.cluster.leader();
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
        self.cluster.figures.fault(match (both, passage) {
            (true, Passage::Silent) => "partitions, both ways, connections silent",
            (true, _) => "partitions, both ways, connections shut",
            (false, Passage::Silent) => "partitions, one way, connections silent",
            (false, _) => "partitions, one way, connections shut",
        });
        cut.iter().for_each(|&(from, to)| self.cluster.link(from, to).set_passage(passage));
        self.later(length, FaultEnd::Open(cut));
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
        let is_first = self.cluster.figures.sheet().of("times of noise on some links") == 0;
        let (noise, length, pairs) = if is_first {
            (everything, Duration::from_secs(3), pairs().collect())
        } else {
            (drawn, length, some)
        };
        self.cluster.figures.fault("times of noise on some links");
        pairs.iter().for_each(|&(from, to)| self.cluster.link(from, to).set_noise(noise));
        self.later(length, FaultEnd::Quiet(pairs));
    }

    fn drop_packets(&mut self) {
        let length = self.ms(200, 4_000);
        let (pairs, percent) = if self.rng.once_in(2) {
            let (cut, both) = self.some_cut();
            self.cluster.figures.fault(if both {
                "partitions of packets, both ways"
            } else {
                "partitions of packets, one way"
            });
            (cut, 100)
        } else {
            self.cluster.figures.fault("times of packet loss on some links");
            (self.some_pairs(), 1 + self.rng.below(30))
        };
        pairs
            .iter()
            .for_each(|&(from, to)| self.cluster.environment.drop_packets(from, to, percent));
        self.later(length, FaultEnd::Pass(pairs));
    }

    fn later(&mut self, length: Duration, fault_end: FaultEnd) {
        self.fault_ends.push((Instant::now() + length, fault_end));
    }

    fn end_fault(&self, fault_end: FaultEnd) {
        let cluster = &self.cluster;
        match fault_end {
            FaultEnd::Start(node) => cluster.want(node),
            FaultEnd::Resume(node) => cluster.with_process(node, |process| {
                process.resume();
                cluster.figures.leader_recovered(process.number);
            }),
            FaultEnd::Open(pairs) => {
                pairs
                    .iter()
                    .for_each(|&(from, to)| cluster.link(from, to).set_passage(Passage::Open));
                nodes().for_each(|node| {
                    cluster.with_process(node, |process| {
                        cluster.figures.leader_recovered(process.number)
                    })
                });
            }
            FaultEnd::Quiet(pairs) => pairs
                .iter()
                .for_each(|&(from, to)| cluster.link(from, to).set_noise(Noise::default())),
            FaultEnd::Pass(pairs) => {
                pairs.iter().for_each(|&(from, to)| cluster.environment.drop_packets(from, to, 0))
            }
            FaultEnd::Room(node) => cluster.environment.make_room(node),
        }
    }
}
