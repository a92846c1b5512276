//! Configuration of a run of hosts, drawn from the seed.

use super::super::config::{OperationKind, RunConfig, SleepConfig};
use super::super::rng::Rng;
use super::super::time::{MS, Micros};

/// Kinds of fault, by their place in [`HostsConfig::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostFault {
    Kill,
    PowerCut,
    PowerCutOfAll,
    Pause,
    Isolation,
    Split,
    OneWay,
    Stall,
    /// A connection breaks, and what is under way on it is lost.
    Reset,
    /// The disk of one group fails.
    DiskFailure,
    /// The disk is full, for one group or for all.
    FullDisk,
    SlowDisk,
    ClockJump,
    /// A group is shut down at one host, and opened again.
    Closing,
    /// A group sends what its peers do not understand.
    Garbage,
    /// A group is removed at all hosts, and made anew under its name.
    Removal,
}

pub(super) const HOST_FAULTS: [HostFault; 16] = [
    HostFault::Kill,
    HostFault::PowerCut,
    HostFault::PowerCutOfAll,
    HostFault::Pause,
    HostFault::Isolation,
    HostFault::Split,
    HostFault::OneWay,
    HostFault::Stall,
    HostFault::Reset,
    HostFault::DiskFailure,
    HostFault::FullDisk,
    HostFault::SlowDisk,
    HostFault::ClockJump,
    HostFault::Closing,
    HostFault::Garbage,
    HostFault::Removal,
];

/// Configuration of a run: see the [module](self).
#[derive(Clone, Debug)]
pub(super) struct HostsConfig {
    /// What all groups have in common. Its fault weights are not used.
    pub(super) base: RunConfig,
    pub(super) groups: Vec<RunConfig>,
    /// A peer that is not heard for so long is reported down.
    pub(super) silence: Micros,
    /// A peer whose connection has ended makes another one within this time, if it is well.
    pub(super) reconnect: Micros,
    /// The shortest and the longest pause between two attempts to connect.
    pub(super) backoff: (Micros, Micros),
    /// Bytes under way on a connection. Then its writer waits.
    pub(super) window: usize,
    pub(super) weights: [u64; HOST_FAULTS.len()],
}

impl HostsConfig {
    pub(super) fn draw(rng: &mut Rng) -> HostsConfig {
        let mut base = RunConfig::draw(&mut rng.fork(1));
        base.nodes = *rng.pick(&[2, 3, 3, 3, 3, 3, 5]);
        base.heartbeat = *rng.pick(&[50 * MS, 100 * MS]);
        base.election = base.heartbeat * rng.between(6, 12);
        let election = base.election;
        base.append_timeout = election * rng.between(2, 8);
        base.network_faults.delay_mean = base.network_faults.delay_mean.min(base.heartbeat / 4);
        // The network of hosts is TCP: nothing is lost or overtaken within a connection.
        base.network_faults.in_order = true;
        base.latencies.sync_mean = base.latencies.sync_mean.min(base.heartbeat / 4);
        base.message_bytes = base.message_bytes.max(4 << 10);
        base.window_bytes = base.window_bytes.max(4 << 10);
        let drift = *rng.pick(&[0, 100, 20_000]);
        base.drifts =
            (0..base.nodes).map(|_| rng.between(0, 2 * drift) as i64 - drift as i64).collect();
        base.duration = election * rng.between(4, 24);
        base.fault_mean = election * rng.between(1, 12) / 4;
        base.outage_mean = election * rng.between(1, 3);
        base.restart_mean = *rng.pick(&[base.heartbeat / 10, base.heartbeat, election]);
        let mut weights = [0; HOST_FAULTS.len()];
        for weight in &mut weights {
            *weight = if rng.percent(50) { rng.between(1, 10) } else { 0 };
        }
        weights[HostFault::PowerCutOfAll as usize] =
            weights[HostFault::PowerCutOfAll as usize].min(1);
        weights[HostFault::Removal as usize] = if rng.percent(60) { rng.between(1, 8) } else { 0 };
        if base.flush_interval.is_some() {
            // Batches that count before they are synced are lost in a power cut.
            for lost in [HostFault::PowerCut, HostFault::PowerCutOfAll, HostFault::DiskFailure] {
                weights[lost as usize] = 0;
            }
        }
        let count = rng.between(2, 4);
        let groups: Vec<RunConfig> = (1..=count).map(|n| of_group(&base, n, rng)).collect();
        let longest = groups.iter().map(|group| group.duration).max();
        base.duration = longest.unwrap_or(base.duration);
        HostsConfig {
            silence: election / 2 + rng.below(election),
            reconnect: base.heartbeat * rng.between(1, 3),
            backoff: (base.heartbeat / 2, election / 2),
            window: *rng.pick(&[1 << 10, 64 << 10, 256 << 10]),
            weights,
            base,
            groups,
        }
    }

    pub(super) fn hosts(&self) -> usize {
        self.base.nodes
    }
}

/// One of the groups: its load, and whether it sleeps.
fn of_group(base: &RunConfig, number: u64, rng: &mut Rng) -> RunConfig {
    let mut config = base.clone();
    (config.group, config.cluster) = (format!("group-{number}"), 100 + number);
    config.clients = rng.between(1, 3) as usize;
    config.readers = rng.below(config.clients as u64) as usize;
    config.think_mean = rng.between(5, 100) * MS;
    config.payload_max = *rng.pick(&[16, 200, 4096]);
    config.operation_weights = [0; 8];
    for weight in &mut config.operation_weights {
        *weight = if rng.percent(50) { rng.below(5) } else { 0 };
    }
    config.operation_weights[OperationKind::Append as usize] = 20;
    config.operation_weights[OperationKind::Transfer as usize] =
        config.operation_weights[OperationKind::Transfer as usize].min(1);
    config.sleep = rng.percent(75).then(|| {
        let after = config.election * rng.between(1, 2);
        let busy = config.election * rng.between(1, 3);
        let lull = 2 * after + config.election * rng.between(1, 6);
        config.duration = config.duration.max(2 * (busy + lull));
        SleepConfig { after, busy, lull }
    });
    // The hosts draw the faults. Some openings crash.
    config.fault_weights = [0; 16];
    config
}
