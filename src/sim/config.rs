//! Configuration of a run, drawn from the seed. About half of all runs lack any given fault: some
//! bugs show only where another fault does not hide them.

use std::time::Duration;

use super::rng::Rng;
use super::time::{MS, Micros};
use crate::retention::Retention;
use crate::storage::SegmentOptions;

/// The group of a run with one group.
const GROUP: &str = "simulated";
const CLUSTER: u64 = 7;

/// Faults of the network. Rates are in millionths of the messages.
#[derive(Clone, Debug)]
pub(crate) struct NetworkFaults {
    pub(crate) delay_min: Micros,
    /// Added to the minimum, exponentially distributed.
    pub(crate) delay_mean: Micros,
    /// Messages of one connection keep their order, as on TCP.
    pub(crate) in_order: bool,
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) flips: u64,
    /// Old messages arrive again.
    pub(crate) replays: u64,
    /// Messages from another group, another cluster, or a clone of a directory.
    pub(crate) forgeries: u64,
    /// Messages that arrive long after later ones: in the next term, or at the next process of
    /// their receiver.
    pub(crate) long_delays: u64,
    pub(crate) long_delay_mean: Micros,
    /// Messages in flight on one link. More are dropped.
    pub(crate) capacity: usize,
    /// How many losses the sender notices, in percent.
    pub(crate) noticed: u64,
}

/// Latencies of a node: its disk and its threads.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    pub(crate) sync_min: Micros,
    pub(crate) sync_mean: Micros,
    pub(crate) background_task_mean: Micros,
    /// From the arrival of an input to the turn of the engine.
    pub(crate) late_mean: Micros,
    /// Turns that are much later, in millionths.
    pub(crate) stalls: u64,
    pub(crate) stall_mean: Micros,
}

/// Kinds of fault, by their place in [`RunConfig::fault_weights`].
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
    Stall,
    SyncFailure,
    DiskFailure,
    FullDisk,
    ClockJump,
    SlowDisk,
    Corruption,
    PausePastElection,
}

pub(crate) const FAULTS: [Fault; 16] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::PowerCutOfAll,
    Fault::Stop,
    Fault::Pause,
    Fault::Isolation,
    Fault::Split,
    Fault::OneWay,
    Fault::Stall,
    Fault::SyncFailure,
    Fault::DiskFailure,
    Fault::FullDisk,
    Fault::ClockJump,
    Fault::SlowDisk,
    Fault::Corruption,
    Fault::PausePastElection,
];

/// Operations of clients, by their place in [`RunConfig::operation_weights`].
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

pub(crate) const OPERATION_KINDS: [OperationKind; 8] = [
    OperationKind::Append,
    OperationKind::Batch,
    OperationKind::TooLarge,
    OperationKind::Get,
    OperationKind::Barrier,
    OperationKind::Tail,
    OperationKind::Transfer,
    OperationKind::Purge,
];

/// A group that sleeps when it is idle, and clients that let it.
#[derive(Clone, Debug)]
pub(crate) struct SleepConfig {
    /// How long the group is idle before it sleeps.
    pub(crate) after: Micros,
    /// For how long the clients work, and then do nothing, over and over.
    pub(crate) busy: Micros,
    pub(crate) lull: Micros,
}

/// Configuration of a run: see the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct RunConfig {
    /// The name of the group, and the number that tells it from others of that name.
    pub(crate) group: String,
    pub(crate) cluster: u64,
    pub(crate) nodes: usize,
    /// The position of the first byte of the group.
    pub(crate) first_position: u64,
    /// `None`: a batch counts once it is synced. Otherwise it counts once it is written, and the
    /// log is synced at this interval.
    pub(crate) flush_interval: Option<Micros>,
    pub(crate) heartbeat: Micros,
    pub(crate) election: Micros,
    pub(crate) append_timeout: Micros,
    /// The nodes have an append hook that marks each payload with its place.
    pub(crate) stamps: bool,
    /// Clients ask for a term with some of their appends.
    pub(crate) fences: bool,
    /// `None`: the group never sleeps.
    pub(crate) sleep: Option<SleepConfig>,
    pub(crate) entry_bytes: u64,
    pub(crate) window_bytes: u64,
    /// Limit for one append message.
    pub(crate) message_bytes: u64,
    /// Limit for a lagging follower in a tick.
    pub(crate) catch_up_bytes: u64,
    pub(crate) segments: SegmentOptions,
    /// What the nodes keep.
    pub(crate) retention: Retention,
    /// What pins may hold back, if each node has a consumer that reads through one.
    pub(crate) pin_bytes_max: Option<u64>,
    /// The nodes differ in their limits, as during a rolling restart.
    pub(crate) uneven: bool,
    pub(crate) network_faults: NetworkFaults,
    pub(crate) latencies: Latencies,
    /// Clock drift of each node, in millionths. Positive: fast.
    pub(crate) drifts: Vec<i64>,
    pub(crate) fault_weights: [u64; 16],
    /// Mean time between two faults.
    pub(crate) fault_mean: Micros,
    /// Mean duration of a fault.
    pub(crate) outage_mean: Micros,
    /// Mean time from the end of a process to the start of the next.
    pub(crate) restart_mean: Micros,
    /// Critical events, such as a new leader, that a fault follows at once, in percent.
    pub(crate) aimed_faults: u64,
    pub(crate) clients: usize,
    /// Number of clients that stay with their node, whichever node leads, wait until it is back,
    /// and mostly read.
    pub(crate) readers: usize,
    pub(crate) operation_weights: [u64; 8],
    pub(crate) think_mean: Micros,
    pub(crate) payload_max: u64,
    /// Limit for the pending operations of one client.
    pub(crate) depth: usize,
    /// Duration of the phase with faults. After it everything heals, and the group must work.
    pub(crate) duration: Micros,
}

/// 0 in about half of all runs, else 0 to `max`.
fn perhaps(rng: &mut Rng, max: u64) -> u64 {
    if rng.percent(50) { rng.below(max + 1) } else { 0 }
}

/// The length of a run in election timeouts, and about how many operations its clients begin at
/// most. Most runs are short, as most bugs need few events in the right order; some are long, as
/// others need many.
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
        let latencies = Latencies::draw(rng, heartbeat);
        let (elections, operations) = draw_length(rng);
        let duration = election * elections;
        let clients = rng.between(1, 4);
        let flush_interval = if rng.percent(20) { Some(rng.between(1, 100) * MS) } else { None };
        let mut config = RunConfig {
            group: GROUP.to_owned(),
            cluster: CLUSTER,
            nodes,
            // A generator of its own: the other draws stay as they were.
            first_position: *rng.fork(4).pick(&[0, 0, 1, 1 << 40, 1 << 60]),
            flush_interval,
            heartbeat,
            election,
            append_timeout: election * rng.between(1, 8),
            // Generators of their own: the other draws stay as they were.
            stamps: rng.fork(21).percent(50),
            fences: rng.fork(22).percent(60),
            sleep: None,
            entry_bytes: 8 << 10,
            window_bytes: *rng.pick(&[256, 4 << 10, 1 << 20]),
            message_bytes: *rng.pick(&[200, 4 << 10, 1 << 20]),
            // A generator of its own: the other draws stay as they were.
            catch_up_bytes: *rng.fork(1).pick(&[u64::MAX, u64::MAX, 100, 2 << 10]),
            segments: SegmentOptions {
                segment_bytes: *rng.pick(&[8 << 10, 8 << 10, 16 << 10, 64 << 10]),
                zero_fill: rng.percent(50),
                ..SegmentOptions::small()
            },
            retention: Retention::keep_all(),
            pin_bytes_max: None,
            uneven: rng.fork(2).percent(30),
            network_faults: NetworkFaults::draw(rng, heartbeat),
            latencies,
            drifts: Vec::new(),
            fault_weights: [0; 16],
            fault_mean: election * rng.between(1, elections.min(24)) / 4,
            outage_mean: election * rng.between(1, 4),
            restart_mean: *rng.pick(&[heartbeat / 10, heartbeat, election, 3 * election]),
            aimed_faults: if rng.percent(30) { rng.between(10, 80) } else { 0 },
            clients: clients as usize,
            readers: rng.below(clients) as usize,
            operation_weights: [0; 8],
            think_mean: (rng.between(1, 40) * MS).max(duration * clients / operations),
            payload_max: *rng.pick(&[16, 200, 4096]),
            depth: *rng.pick(&[1, 4, 32]),
            duration,
        };
        let drift = *rng.pick(&[0, 100, 20_000, 100_000]);
        config.drifts =
            (0..nodes).map(|_| rng.between(0, 2 * drift) as i64 - drift as i64).collect();
        for weight in &mut config.fault_weights {
            *weight = perhaps(rng, 10);
        }
        for weight in &mut config.operation_weights {
            *weight = perhaps(rng, 5);
        }
        config.operation_weights[OperationKind::Append as usize] = 20;
        config.operation_weights[OperationKind::Purge as usize] *= *rng.pick(&[1, 1, 4]);
        config.operation_weights[OperationKind::Transfer as usize] =
            config.operation_weights[OperationKind::Transfer as usize].min(1);
        config.segments.verify_on_open = rng.percent(30);
        config.drop_unsupported();
        // A generator of its own: the other draws stay as they were.
        config.let_sleep(&mut rng.fork(3));
        config.let_forget(&mut rng.fork(21));
        config
    }

    /// In four of ten runs the group sleeps when it is idle.
    fn let_sleep(&mut self, rng: &mut Rng) {
        if rng.percent(40) {
            let after = self.election * rng.between(1, 3);
            let (busy, lull) = (self.election * rng.between(1, 3), after + self.outage_mean);
            let lull = lull + self.election * rng.between(1, 6);
            self.duration = self.duration.max(3 * (busy + lull));
            self.sleep = Some(SleepConfig { after, busy, lull });
        }
    }

    /// In three of ten runs the nodes remove what is old or too much. In half of these, and in a
    /// few others, consumers hold pins.
    fn let_forget(&mut self, rng: &mut Rng) {
        if rng.percent(30) {
            let mut policy = Retention::keep_all();
            if rng.percent(50) {
                policy = policy.max_age(Duration::from_micros(self.election * rng.between(1, 8)));
            }
            if rng.percent(50) {
                policy = policy.max_bytes(self.segments.segment_bytes * rng.between(0, 6));
            }
            if rng.percent(30) {
                policy = policy.disk_used_force(0.9);
            }
            if rng.percent(30) {
                policy = policy.disk_used(0.7);
            }
            self.retention = policy;
        }
        if rng.percent(if self.retention.keeps_all() { 10 } else { 50 }) {
            self.pin_bytes_max = Some(*rng.pick(&[u64::MAX, u64::MAX, 0, 32 << 10]));
        }
    }

    /// Segment options of this node.
    pub(crate) fn segments_of(&self, number: usize) -> SegmentOptions {
        let segment_bytes = self.segments.segment_bytes << if self.uneven { number % 4 } else { 0 };
        SegmentOptions { segment_bytes, ..self.segments }
    }

    /// Window for the pending appends of this node, in bytes.
    pub(crate) fn window_of(&self, number: usize) -> u64 {
        if self.uneven && number % 2 == 1 { 1 } else { self.window_bytes }
    }

    /// Removes the faults that a group of this kind does not promise to survive.
    fn drop_unsupported(&mut self) {
        if !self.network_faults.in_order && self.message_bytes < 1 << 10 {
            // Hundreds of small messages that overtake each other cause each other's
            // retransmission, and nothing else gets through.
            self.window_bytes = self.window_bytes.min(4 << 10);
        }
        if self.flush_interval.is_some() {
            // Batches that count before they are synced are lost in a power cut.
            self.fault_weights[Fault::PowerCut as usize] = 0;
            self.fault_weights[Fault::PowerCutOfAll as usize] = 0;
            self.fault_weights[Fault::SyncFailure as usize] = 0;
            self.fault_weights[Fault::DiskFailure as usize] = 0;
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
            forgeries: perhaps(rng, 5_000),
            long_delays: perhaps(rng, 10_000),
            long_delay_mean: heartbeat * *rng.pick(&[1, 4, 16]),
            capacity: *rng.pick(&[4, 32, 1024]),
            noticed: *rng.pick(&[0, 50, 100]),
        }
    }

    /// The same network after healing.
    pub(crate) fn calm(&self, election: Micros) -> NetworkFaults {
        let delay_mean = self.delay_mean.min(election / 40);
        NetworkFaults {
            delay_mean,
            in_order: true,
            loss: 0,
            duplication: 0,
            flips: 0,
            replays: 0,
            forgeries: 0,
            long_delays: 0,
            capacity: 1024,
            noticed: 100,
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
