//! Corruption patterns: all 512 ways to corrupt three entries on three replicas, each on the real
//! engines and storages, and monitored like any other run.
//!
//! Three nodes agree on three entries, each in a batch of its own. The nodes stop, the copies that
//! the pattern names are corrupted, and the nodes restart. Then no acknowledged entry may be lost,
//! no wrong one shown, and no node with a corrupt log may take part: the monitor checks this. If
//! every entry has an intact copy, all nodes must be repaired and the group must work.

use std::time::Duration;

use super::cluster::Cluster;
use super::config::RunConfig;
use super::monitor::offer_bytes;
use super::node::Node;
use super::rng::Rng;
use super::storage_model::StorageModel;
use super::time::{MS, Micros};
use crate::engine::Command;
use crate::fork::Home;
use crate::future::AppendFuture;
use crate::reply::reply;
use crate::retention::Retention;
use crate::storage::SegmentOptions;

const ENTRIES: u64 = 3;
const PAYLOAD_BYTES: usize = 40;
/// Number of further entries that fill a segment of the smallest size.
const SEALING_ENTRIES: u64 = 4;
const SEALING_BYTES: usize = 4000;
/// Bytes before the payload: the header of the record, and the fixed part of its batch.
const HEADER_BEFORE: u64 = 32 + 96;

/// The part of a copy that is corrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorruptionKind {
    /// A bit of the payload: the record can still be identified.
    Payload,
    /// A bit of the header: the record can no longer be found.
    Record,
}

/// How the nodes stop before the corruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopKind {
    /// They are shut down.
    Stopped,
    /// They are killed as soon as all have the last entry: no node has saved yet that it is
    /// committed.
    Killed,
    /// All lose power at once, and all unsynced writes. One more entry follows, as evidence that
    /// the third was durable.
    PowerCut,
    /// They are shut down after more entries, so that the three are in sealed segments. At the next
    /// opening they verify the whole log.
    Sealed,
}

/// The corrupted copies, and how they are corrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Bit 3n + e: the copy of entry e on node n, both counted from 0. Below 512.
    pub copies: u16,
    /// The corrupted part of each.
    pub corruption: CorruptionKind,
    /// How the nodes stop before.
    pub stop: StopKind,
}

/// Result of a pattern.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PatternReport {
    /// The first violation.
    pub violation: Option<String>,
    /// Every node was repaired, all showed the same entries, and the group accepted one more.
    pub is_repaired: bool,
    /// The `repair` of the status of each node.
    pub repairs: Vec<Option<String>>,
}

impl Pattern {
    fn is_hit(&self, node: usize, entry: u64) -> bool {
        self.copies >> (3 * node as u64 + entry) & 1 == 1
    }

    /// Whether every entry has an intact copy.
    pub fn is_repairable(&self) -> bool {
        (0..ENTRIES).all(|entry| (0..3).any(|node| !self.is_hit(node, entry)))
    }
}

/// Runs a pattern.
///
/// # Errors
/// If the group did not agree on the entries in time.
pub fn run_pattern(pattern: Pattern) -> Result<PatternReport, String> {
    stage(u64::from(pattern.copies), pattern.stop, |cluster| {
        for node in 0..3 {
            for entry in (0..ENTRIES).filter(|entry| pattern.is_hit(node, *entry)) {
                cluster.nodes[node].corrupt_entry(entry, pattern.corruption)?;
            }
        }
        Ok(())
    })
}

/// Runs the loss of several disks at once: bit n stands for the disk of node n, counted from 0.
/// Each is replaced by an empty disk, which its node marks as incomplete.
///
/// # Errors
/// If the group did not agree on the entries in time.
pub fn run_disk_loss(disks: u8, stop: StopKind) -> Result<PatternReport, String> {
    stage(u64::from(disks), stop, |cluster| {
        for node in (0..3).filter(|node| disks >> node & 1 == 1) {
            let (monitor, nodes) = (cluster.monitor.clone(), cluster.config.nodes);
            cluster.nodes[node].lose_disk(nodes, 77 + node as u64, &mut monitor.lock())?;
        }
        Ok(())
    })
}

fn stage(
    seed: u64,
    stop: StopKind,
    corrupt: impl FnOnce(&mut Cluster) -> Result<(), String>,
) -> Result<PatternReport, String> {
    let mut rng = Rng::new(seed);
    let config = RunConfig::calm(&mut rng);
    let election = config.election;
    let mut cluster = Cluster::of(config, rng, None);
    (0..3).for_each(|node| cluster.open(node));
    cluster.pass(20 * election, |cluster| cluster.leader().is_some())?;
    let entries = match stop {
        StopKind::Stopped | StopKind::Killed => ENTRIES,
        StopKind::PowerCut => ENTRIES + 1,
        StopKind::Sealed => ENTRIES + SEALING_ENTRIES,
    };
    for entry in 0..entries {
        cluster.append_one(
            if entry < ENTRIES { PAYLOAD_BYTES } else { SEALING_BYTES },
            20 * election,
        )?;
        // A copy without durability evidence counts as torn, and not as corrupt.
        cluster.pass(20 * election, Cluster::is_synced)?;
    }
    cluster.stop_all(stop, election);
    corrupt(&mut cluster)?;
    (0..3).for_each(|node| cluster.open(node));
    let is_repaired = cluster.pass(60 * election, Cluster::is_repaired).is_ok()
        && cluster.append_one(PAYLOAD_BYTES, 20 * election).is_ok();
    let repairs = cluster
        .nodes
        .iter()
        .map(|node| node.process.as_ref().and_then(|process| process.shared.status().repair))
        .collect();
    let violation = cluster.monitor().violation().cloned();
    Ok(PatternReport { violation, is_repaired, repairs })
}

impl Cluster {
    /// Runs until `enough`.
    pub(super) fn pass(
        &mut self,
        within: Micros,
        enough: impl Fn(&Cluster) -> bool,
    ) -> Result<(), String> {
        let end = self.queue.now + within;
        if self.run_until(end, enough) {
            Ok(())
        } else {
            Err(self.monitor().violation().cloned().unwrap_or("it took too long".to_owned()))
        }
    }

    /// Appends an entry and waits for it to be acknowledged.
    pub(super) fn append_one(&mut self, bytes: usize, within: Micros) -> Result<(), String> {
        let leader = self.leader().ok_or("no node leads")?;
        let offer = self.monitor().offered.len() as u64;
        self.monitor().offered.push(bytes as u32);
        let process = self.nodes[leader].process.as_ref().ok_or("the leader is down")?;
        let future = process.shared.sequencer.append(&offer_bytes(offer, bytes), None);
        self.wake_engine(leader);
        let outcome = |future: &AppendFuture| future.wait_timeout(Duration::ZERO);
        self.pass(within, |_| outcome(&future).is_some())?;
        let appended =
            outcome(&future).ok_or("not resolved")?.map_err(|error| error.to_string())?;
        self.monitor().acknowledge(offer, bytes as u32, appended.index, appended.term);
        Ok(())
    }

    /// Whether each disk holds durably all batches that any of them holds.
    fn is_synced(&self) -> bool {
        let models = &self.monitor().models;
        let last = models.iter().map(StorageModel::last).max().unwrap_or(0);
        models.iter().all(|model| model.durable_last() == last)
    }

    fn stop_all(&mut self, stop: StopKind, delay: Micros) {
        let is_shutdown = matches!(stop, StopKind::Stopped | StopKind::Sealed);
        if is_shutdown {
            // The followers learn the commit.
            let _ = self.pass(delay, |_| false);
        }
        for node in &mut self.nodes {
            if is_shutdown && let Some(process) = &node.process {
                let (reply, _) = reply(Home::default());
                process.command(Command::Stop { hand_over: None, reply });
                let _ = node.turn(self.queue.now);
                node.process = None;
            }
            match stop {
                StopKind::PowerCut => node.cut_power(true),
                StopKind::Stopped | StopKind::Killed | StopKind::Sealed => node.kill(),
            }
            node.process = None;
        }
    }

    pub(super) fn is_repaired(cluster: &Cluster) -> bool {
        let monitor = cluster.monitor();
        let end = monitor.ledger.len() as u64;
        let shows_all = |node: &Node| {
            node.process.as_ref().is_some_and(|process| process.shared.watermark.end() == end)
        };
        monitor.models.iter().all(|model| !model.is_corrupt)
            && end >= ENTRIES
            && cluster.nodes.iter().all(shows_all)
            && {
                drop(monitor);
                cluster.leader().is_some()
            }
    }
}

impl Node {
    fn corrupt_entry(&mut self, entry: u64, corruption: CorruptionKind) -> Result<(), String> {
        let place = self.disk.find(&offer_bytes(entry, PAYLOAD_BYTES));
        let (name, at) =
            place.ok_or_else(|| format!("node {} does not have entry {entry}", self.number + 1))?;
        let byte = match corruption {
            CorruptionKind::Payload => at + 9,
            CorruptionKind::Record => at - HEADER_BEFORE + 20,
        };
        self.disk.flip(&name, byte * 8 + 3);
        self.is_corrupted = true;
        Ok(())
    }
}

impl RunConfig {
    /// Three nodes without faults and clients.
    pub(super) fn calm(rng: &mut Rng) -> RunConfig {
        let mut config = RunConfig::draw(rng);
        config.nodes = 3;
        config.flush_interval = None;
        config.sleep = None;
        (config.stamps, config.fences) = (false, false);
        (config.retention, config.pin_bytes_max) = (Retention::keep_all(), None);
        (config.heartbeat, config.election) = (20 * MS, 200 * MS);
        config.append_timeout = 10 * config.election;
        config.message_bytes = 4 << 10;
        config.window_bytes = 1 << 20;
        config.segments =
            SegmentOptions { zero_fill: false, verify_on_open: true, ..SegmentOptions::small() };
        config.drifts = vec![0; 3];
        (config.clients, config.readers, config.aimed_faults) = (0, 0, 0);
        config.network_faults = config.network_faults.calm(config.election);
        config.latencies = config.latencies.calm(config.election);
        config.fault_weights.fill(0);
        config
    }
}
