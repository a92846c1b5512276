//! The circumstances of a run, every one of them drawn from the seed. Each disturbance is absent from about half of all runs, for some bugs
//! show only where another disturbance does not cover them.

use super::agenda::Micros;
use super::chance::Chance;
use crate::storage::SegmentOptions;

pub(crate) const MS: Micros = 1_000;

/// What the network does to messages. Rates are in millionths.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) delay_min: Micros,
    /// On top of the least, exponentially distributed.
    pub(crate) delay_mean: Micros,
    /// Messages of one connection keep their order, as in a stream.
    pub(crate) in_order: bool,
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) flips: u64,
    /// Old messages come again.
    pub(crate) replays: u64,
    /// Messages of another group, another cluster, a clone.
    pub(crate) strangers: u64,
    /// Messages that arrive long after others did: in the next term, or in the next life of whom they are for.
    pub(crate) stragglers: u64,
    pub(crate) straggle_mean: Micros,
    /// Messages under way on one link; beyond it they are dropped.
    pub(crate) capacity: usize,
    /// How often a sender is told of a loss, in percent.
    pub(crate) told: u64,
}

/// What a disk takes its time for.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    pub(crate) sync_min: Micros,
    pub(crate) sync_mean: Micros,
    pub(crate) chore_mean: Micros,
    /// From the moment when something comes in until the engine is driven.
    pub(crate) late_mean: Micros,
    /// Now and then an engine is driven much later. In millionths of its turns.
    pub(crate) stalls: u64,
    pub(crate) stall_mean: Micros,
}

/// Kinds of trouble, by their place in [`Swarm::troubles`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Kill,
    PowerCut,
    PowerCutOfAll,
    Stop,
    Pause,
    Isolation,
    Split,
    OneWay,
    Clog,
    SyncFailure,
    DiskFault,
    FullDisk,
    ClockJump,
    SlowDisk,
    Damage,
    Trance,
}

pub(crate) const TROUBLES: [Trouble; 16] = [
    Trouble::Kill,
    Trouble::PowerCut,
    Trouble::PowerCutOfAll,
    Trouble::Stop,
    Trouble::Pause,
    Trouble::Isolation,
    Trouble::Split,
    Trouble::OneWay,
    Trouble::Clog,
    Trouble::SyncFailure,
    Trouble::DiskFault,
    Trouble::FullDisk,
    Trouble::ClockJump,
    Trouble::SlowDisk,
    Trouble::Damage,
    Trouble::Trance,
];

/// What hosts do, by their place in [`Swarm::wishes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Append,
    Batch,
    TooLarge,
    Get,
    Barrier,
    Tail,
    Transfer,
    Purge,
}

pub(crate) const WISHES: [Wish; 8] =
    [Wish::Append, Wish::Batch, Wish::TooLarge, Wish::Get, Wish::Barrier, Wish::Tail, Wish::Transfer, Wish::Purge];

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    pub(crate) nodes: usize,
    /// `None`: a batch counts once it is synced. Otherwise it counts once it is written, and is synced so often.
    pub(crate) flush_interval: Option<Micros>,
    pub(crate) heartbeat: Micros,
    pub(crate) election: Micros,
    pub(crate) append_timeout: Micros,
    pub(crate) entry_bytes: u64,
    pub(crate) window_bytes: u64,
    /// The most that one append message carries.
    pub(crate) message_bytes: u64,
    /// What a follower that lags may have in a tick.
    pub(crate) catch_up_bytes: u64,
    pub(crate) segments: SegmentOptions,
    /// The nodes differ in their limits, as in the course of a rolling restart.
    pub(crate) uneven: bool,
    pub(crate) weather: Weather,
    pub(crate) pace: Pace,
    /// How much faster than true time each node's clock runs, in millionths.
    pub(crate) drifts: Vec<i64>,
    pub(crate) troubles: [u64; 16],
    pub(crate) trouble_mean: Micros,
    pub(crate) outage_mean: Micros,
    /// How long a node that died stays down.
    pub(crate) restart_mean: Micros,
    /// How many new leaders are upset as soon as they say that they lead, in percent.
    pub(crate) upsets: u64,
    pub(crate) hosts: usize,
    /// So many of the hosts stay with their node whoever leads, wait until it is back, and read more than they append.
    pub(crate) readers: usize,
    pub(crate) wishes: [u64; 8],
    pub(crate) think_mean: Micros,
    pub(crate) payload_max: u64,
    /// Operations that one host has under way at most.
    pub(crate) depth: usize,
    /// How long there is trouble. Afterwards everything heals, and the group must work.
    pub(crate) duration: Micros,
}

/// `some` in about half of all runs, else nothing.
fn perhaps(chance: &mut Chance, some: u64) -> u64 {
    if chance.percent(50) { chance.below(some + 1) } else { 0 }
}

/// How many elections' time a run takes, and about how often its hosts act at most. Most runs are short, for most bugs need few events in the right
/// order; some are long, for others need many.
fn draw_length(chance: &mut Chance) -> (u64, u64) {
    match chance.below(100) {
        0..61 => (chance.between(2, 12), 400),
        61..95 => (chance.between(8, 40), 2_000),
        _ => (chance.between(30, 120), 20_000),
    }
}

impl Swarm {
    pub(crate) fn draw(chance: &mut Chance) -> Swarm {
        let nodes = *chance.pick(&[1, 3, 3, 3, 3, 5, 5]);
        let heartbeat = *chance.pick(&[20 * MS, 50 * MS, 100 * MS]);
        let election = heartbeat * chance.between(4, 12);
        let pace = Pace::draw(chance, heartbeat);
        let (elections, operations) = draw_length(chance);
        let duration = election * elections;
        let hosts = chance.between(1, 4);
        let flush_interval = if chance.percent(20) { Some(chance.between(1, 100) * MS) } else { None };
        let mut swarm = Swarm {
            nodes,
            flush_interval,
            heartbeat,
            election,
            append_timeout: election * chance.between(1, 8),
            entry_bytes: 8 << 10,
            window_bytes: *chance.pick(&[256, 4 << 10, 1 << 20]),
            message_bytes: *chance.pick(&[200, 4 << 10, 1 << 20]),
            // Dice of its own, so that seeds of before mean what they meant.
            catch_up_bytes: *chance.fork(1).pick(&[u64::MAX, u64::MAX, 100, 2 << 10]),
            segments: SegmentOptions {
                segment_bytes: *chance.pick(&[8 << 10, 8 << 10, 16 << 10, 64 << 10]),
                zeroed: chance.percent(50),
                ..SegmentOptions::default()
            },
            uneven: chance.fork(2).percent(30),
            weather: Weather::draw(chance, heartbeat),
            pace,
            drifts: Vec::new(),
            troubles: [0; 16],
            trouble_mean: election * chance.between(1, elections.min(24)) / 4,
            outage_mean: election * chance.between(1, 4),
            restart_mean: *chance.pick(&[heartbeat / 10, heartbeat, election, 3 * election]),
            upsets: if chance.percent(30) { chance.between(10, 80) } else { 0 },
            hosts: hosts as usize,
            readers: chance.below(hosts) as usize,
            wishes: [0; 8],
            think_mean: (chance.between(1, 40) * MS).max(duration * hosts / operations),
            payload_max: *chance.pick(&[16, 200, 4096]),
            depth: *chance.pick(&[1, 4, 32]),
            duration,
        };
        let drift = *chance.pick(&[0, 100, 20_000, 100_000]);
        swarm.drifts = (0..nodes).map(|_| chance.between(0, 2 * drift) as i64 - drift as i64).collect();
        for weight in &mut swarm.troubles {
            *weight = perhaps(chance, 10);
        }
        for weight in &mut swarm.wishes {
            *weight = perhaps(chance, 5);
        }
        swarm.wishes[Wish::Append as usize] = 20;
        swarm.wishes[Wish::Purge as usize] *= *chance.pick(&[1, 1, 4]);
        swarm.wishes[Wish::Transfer as usize] = swarm.wishes[Wish::Transfer as usize].min(1);
        swarm.segments.verified = chance.percent(30);
        swarm.settle();
        swarm
    }

    /// What this node is told of segments.
    pub(crate) fn segments_of(&self, number: usize) -> SegmentOptions {
        let segment_bytes = self.segments.segment_bytes << if self.uneven { number % 4 } else { 0 };
        SegmentOptions { segment_bytes, ..self.segments }
    }

    /// What the hosts of this node may have under way, in bytes.
    pub(crate) fn window_of(&self, number: usize) -> u64 {
        if self.uneven && number % 2 == 1 { 1 } else { self.window_bytes }
    }

    /// Takes back what a group of this kind does not promise to survive.
    fn settle(&mut self) {
        if !self.weather.in_order && self.message_bytes < 1 << 10 {
            // Hundreds of small messages that overtake each other make each other be sent again, and nothing else comes through.
            self.window_bytes = self.window_bytes.min(4 << 10);
        }
        if self.flush_interval.is_some() {
            // What counts unsynced is lost when the power fails.
            self.troubles[Trouble::PowerCut as usize] = 0;
            self.troubles[Trouble::PowerCutOfAll as usize] = 0;
            self.troubles[Trouble::SyncFailure as usize] = 0;
            self.troubles[Trouble::DiskFault as usize] = 0;
        }
    }
}

impl Weather {
    fn draw(chance: &mut Chance, heartbeat: Micros) -> Weather {
        Weather {
            delay_min: chance.between(10, 2 * MS),
            delay_mean: *chance.pick(&[100, MS, heartbeat / 10, heartbeat / 2]),
            in_order: chance.percent(50),
            loss: perhaps(chance, 200_000),
            duplication: perhaps(chance, 200_000),
            flips: perhaps(chance, 30_000),
            replays: perhaps(chance, 20_000),
            strangers: perhaps(chance, 5_000),
            stragglers: perhaps(chance, 10_000),
            straggle_mean: heartbeat * *chance.pick(&[1, 4, 16]),
            capacity: *chance.pick(&[4, 32, 1024]),
            told: *chance.pick(&[0, 50, 100]),
        }
    }

    /// What is left of it when everything has healed.
    pub(crate) fn calm(&self, election: Micros) -> Weather {
        let delay_mean = self.delay_mean.min(election / 40);
        Weather {
            delay_mean,
            in_order: true,
            loss: 0,
            duplication: 0,
            flips: 0,
            replays: 0,
            strangers: 0,
            stragglers: 0,
            capacity: 1024,
            told: 100,
            ..self.clone()
        }
    }
}

impl Pace {
    fn draw(chance: &mut Chance, heartbeat: Micros) -> Pace {
        Pace {
            sync_min: chance.between(10, MS),
            sync_mean: *chance.pick(&[50, MS, 10 * MS, heartbeat]),
            chore_mean: *chance.pick(&[100, 10 * MS, heartbeat]),
            late_mean: *chance.pick(&[1, 50, MS]),
            stalls: perhaps(chance, 2_000),
            stall_mean: heartbeat * chance.between(1, 10),
        }
    }

    pub(crate) fn calm(&self, election: Micros) -> Pace {
        Pace { sync_mean: self.sync_mean.min(election / 40), stalls: 0, ..self.clone() }
    }
}
