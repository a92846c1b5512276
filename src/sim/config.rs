//! The circumstances of a run, every one of them drawn from the seed. Each disturbance is absent
//! from about half of all runs, for some bugs show only where another disturbance does not cover
//! them.

use super::event_queue::Micros;
use super::rng::Rng;
use crate::storage::SegmentOptions;

pub(crate) const MS: Micros = 1_000;

/// What the network does to messages. Rates are in millionths.
#[derive(Clone, Debug)]
pub(crate) struct NetworkFaults {
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
    /// Messages that arrive long after others did: in the next term, or in the next life of whom
    /// they are for.
    pub(crate) stragglers: u64,
    pub(crate) straggle_mean: Micros,
    /// Messages under way on one link; beyond it they are dropped.
    pub(crate) capacity: usize,
    /// How often a sender is told of a loss, in percent.
    pub(crate) told: u64,
}

/// What a disk takes its time for.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    pub(crate) sync_min: Micros,
    pub(crate) sync_mean: Micros,
    pub(crate) background_task_mean: Micros,
    /// From the moment when something comes in until the engine is driven.
    pub(crate) late_mean: Micros,
    /// Now and then an engine is driven much later. In millionths of its turns.
    pub(crate) stalls: u64,
    pub(crate) stall_mean: Micros,
}

/// Kinds of trouble, by their place in [`RunConfig::troubles`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
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
    PausePastElection,
}

pub(crate) const TROUBLES: [Fault; 16] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::PowerCutOfAll,
    Fault::Stop,
    Fault::Pause,
    Fault::Isolation,
    Fault::Split,
    Fault::OneWay,
    Fault::Clog,
    Fault::SyncFailure,
    Fault::DiskFault,
    Fault::FullDisk,
    Fault::ClockJump,
    Fault::SlowDisk,
    Fault::Damage,
    Fault::PausePastElection,
];

/// What hosts do, by their place in [`RunConfig::wishes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationKind {
    Append,
    Batch,
    TooLarge,
    Get,
    Barrier,
    Tail,
    Transfer,
    Purge,
}

pub(crate) const WISHES: [OperationKind; 8] = [
    OperationKind::Append,
    OperationKind::Batch,
    OperationKind::TooLarge,
    OperationKind::Get,
    OperationKind::Barrier,
    OperationKind::Tail,
    OperationKind::Transfer,
    OperationKind::Purge,
];

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct RunConfig {
    pub(crate) nodes: usize,
    /// `None`: a batch counts once it is synced. Otherwise it counts once it is written, and is
    /// synced so often.
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
    pub(crate) network_faults: NetworkFaults,
    pub(crate) pace: Latencies,
    /// How much faster than true time each node's clock runs, in millionths.
    pub(crate) drifts: Vec<i64>,
    pub(crate) troubles: [u64; 16],
    pub(crate) trouble_mean: Micros,
    pub(crate) outage_mean: Micros,
    /// How long a node that died stays down.
    pub(crate) restart_mean: Micros,
    /// How many new leaders are upset as soon as they say that they lead, in percent.
    pub(crate) upsets: u64,
    pub(crate) clients: usize,
    /// So many of the hosts stay with their node whoever leads, wait until it is back, and read
    /// more than they append.
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
fn perhaps(rng: &mut Rng, some: u64) -> u64 {
    if rng.percent(50) { rng.below(some + 1) } else { 0 }
}

/// How many elections' time a run takes, and about how often its hosts act at most. Most runs are
/// short, for most bugs need few events in the right order; some are long, for others need many.
fn draw_length(rng: &mut Rng) -> (u64, u64) {
    match rng.below(100) {
        0..61 => (rng.between(2, 12), 400),
        61..95 => (rng.between(8, 40), 2_000),
        _ => (rng.between(30, 120), 20_000),
    }
}

impl RunConfig {
    pub(crate) fn draw(rng: &mut Rng) -> RunConfig {
        let nodes = *rng.pick(&[1, 3, 3, 3, 3, 5, 5]);
        let heartbeat = *rng.pick(&[20 * MS, 50 * MS, 100 * MS]);
        let election = heartbeat * rng.between(4, 12);
        let pace = Latencies::draw(rng, heartbeat);
        let (elections, operations) = draw_length(rng);
        let duration = election * elections;
        let clients = rng.between(1, 4);
        let flush_interval = if rng.percent(20) { Some(rng.between(1, 100) * MS) } else { None };
        let mut config = RunConfig {
            nodes,
            flush_interval,
            heartbeat,
            election,
            append_timeout: election * rng.between(1, 8),
            entry_bytes: 8 << 10,
            window_bytes: *rng.pick(&[256, 4 << 10, 1 << 20]),
            message_bytes: *rng.pick(&[200, 4 << 10, 1 << 20]),
            // Dice of its own, so that seeds of before mean what they meant.
            catch_up_bytes: *rng.fork(1).pick(&[u64::MAX, u64::MAX, 100, 2 << 10]),
            segments: SegmentOptions {
                segment_bytes: *rng.pick(&[8 << 10, 8 << 10, 16 << 10, 64 << 10]),
                zero_fill: rng.percent(50),
                ..SegmentOptions::small()
            },
            uneven: rng.fork(2).percent(30),
            network_faults: NetworkFaults::draw(rng, heartbeat),
            pace,
            drifts: Vec::new(),
            troubles: [0; 16],
            trouble_mean: election * rng.between(1, elections.min(24)) / 4,
            outage_mean: election * rng.between(1, 4),
            restart_mean: *rng.pick(&[heartbeat / 10, heartbeat, election, 3 * election]),
            upsets: if rng.percent(30) { rng.between(10, 80) } else { 0 },
            clients: clients as usize,
            readers: rng.below(clients) as usize,
            wishes: [0; 8],
            think_mean: (rng.between(1, 40) * MS).max(duration * clients / operations),
            payload_max: *rng.pick(&[16, 200, 4096]),
            depth: *rng.pick(&[1, 4, 32]),
            duration,
        };
        let drift = *rng.pick(&[0, 100, 20_000, 100_000]);
        config.drifts =
            (0..nodes).map(|_| rng.between(0, 2 * drift) as i64 - drift as i64).collect();
        for weight in &mut config.troubles {
            *weight = perhaps(rng, 10);
        }
        for weight in &mut config.wishes {
            *weight = perhaps(rng, 5);
        }
        config.wishes[OperationKind::Append as usize] = 20;
        config.wishes[OperationKind::Purge as usize] *= *rng.pick(&[1, 1, 4]);
        config.wishes[OperationKind::Transfer as usize] =
            config.wishes[OperationKind::Transfer as usize].min(1);
        config.segments.verify_on_open = rng.percent(30);
        config.settle();
        config
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
        if !self.network_faults.in_order && self.message_bytes < 1 << 10 {
            // Hundreds of small messages that overtake each other make each other be sent again,
            // and nothing else comes through.
            self.window_bytes = self.window_bytes.min(4 << 10);
        }
        if self.flush_interval.is_some() {
            // What counts unsynced is lost when the power fails.
            self.troubles[Fault::PowerCut as usize] = 0;
            self.troubles[Fault::PowerCutOfAll as usize] = 0;
            self.troubles[Fault::SyncFailure as usize] = 0;
            self.troubles[Fault::DiskFault as usize] = 0;
        }
    }
}

impl NetworkFaults {
    fn draw(rng: &mut Rng, heartbeat: Micros) -> NetworkFaults {
        NetworkFaults {
            delay_min: rng.between(10, 2 * MS),
            delay_mean: *rng.pick(&[100, MS, heartbeat / 10, heartbeat / 2]),
            in_order: rng.percent(50),
            loss: perhaps(rng, 200_000),
            duplication: perhaps(rng, 200_000),
            flips: perhaps(rng, 30_000),
            replays: perhaps(rng, 20_000),
            strangers: perhaps(rng, 5_000),
            stragglers: perhaps(rng, 10_000),
            straggle_mean: heartbeat * *rng.pick(&[1, 4, 16]),
            capacity: *rng.pick(&[4, 32, 1024]),
            told: *rng.pick(&[0, 50, 100]),
        }
    }

    /// What is left of it when everything has healed.
    pub(crate) fn calm(&self, election: Micros) -> NetworkFaults {
        let delay_mean = self.delay_mean.min(election / 40);
        NetworkFaults {
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

impl Latencies {
    fn draw(rng: &mut Rng, heartbeat: Micros) -> Latencies {
        Latencies {
            sync_min: rng.between(10, MS),
            sync_mean: *rng.pick(&[50, MS, 10 * MS, heartbeat]),
            background_task_mean: *rng.pick(&[100, 10 * MS, heartbeat]),
            late_mean: *rng.pick(&[1, 50, MS]),
            stalls: perhaps(rng, 2_000),
            stall_mean: heartbeat * rng.between(1, 10),
        }
    }

    pub(crate) fn calm(&self, election: Micros) -> Latencies {
        Latencies { sync_mean: self.sync_mean.min(election / 40), stalls: 0, ..self.clone() }
    }
}
