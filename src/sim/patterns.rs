//! Every way to damage three entries on three replicas: 512 patterns, each on the real engines and
//! storages, watched like any other run.
//!
//! Three nodes agree on three entries, each in a batch of its own. They end, the copies that the
//! pattern names are damaged, and the nodes come back. Then nothing acknowledged may be lost,
//! nothing wrong shown, and no damaged node may take part: that is the watch's business. If every
//! entry has an intact copy, all nodes must be whole again and the group must work.

use std::time::Duration;

use super::cluster::Cluster;
use super::config::{MS, RunConfig};
use super::event_queue::Micros;
use super::monitor::offer_bytes;
use super::node::Node;
use super::rng::Rng;
use super::storage_model::StorageModel;
use crate::engine::Command;
use crate::fork::Home;
use crate::future::AppendFuture;
use crate::reply::reply;
use crate::storage::SegmentOptions;

const ENTRIES: u64 = 3;
const PAYLOAD_BYTES: usize = 40;
/// What fills a segment of the smallest size.
const SEALING_ENTRIES: u64 = 4;
const SEALING_BYTES: usize = 4000;
/// The header of a record, and the fixed part of its batch, lie in front of the payload.
const HEADER_BEFORE: u64 = 32 + 96;

/// What is changed of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorruptionKind {
    /// A bit of the payload: the record still says which it is.
    Payload,
    /// A bit of the header: the record cannot be found any more.
    Record,
}

/// How the nodes end before they are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopKind {
    /// They are shut down.
    Stopped,
    /// They are killed as soon as all have the last entry: nobody has written down yet that it is
    /// committed.
    Killed,
    /// All lose their power at once, with everything that was not synced. One more entry follows,
    /// which says that the third was durable.
    PowerCut,
    /// They are shut down after more entries, so that the three are in sealed segments. They read
    /// everything when they are opened again.
    Sealed,
}

/// Which copies are damaged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Bit 3n + e: the copy of entry e on node n, both counted from 0. Below 512.
    pub copies: u16,
    /// What is changed of each.
    pub corruption: CorruptionKind,
    /// How the nodes ended before.
    pub ending: StopKind,
}

/// What came of a pattern.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PatternReport {
    /// The first thing that must not be. `None` if everything was as it must be.
    pub violation: Option<String>,
    /// Every node was whole again, all showed the same, and the group took one more entry.
    pub is_whole: bool,
    /// What each node says that it waits for.
    pub accounts: Vec<Option<String>>,
}

impl Pattern {
    fn is_hit(&self, node: usize, entry: u64) -> bool {
        self.copies >> (3 * node as u64 + entry) & 1 == 1
    }

    /// Whether every entry has an intact copy somewhere.
    pub fn is_mendable(&self) -> bool {
        (0..ENTRIES).all(|entry| (0..3).any(|node| !self.is_hit(node, entry)))
    }
}

/// Plays a pattern.
///
/// # Errors
/// If the group did not come so far that it could be damaged.
pub fn run_pattern(pattern: Pattern) -> Result<PatternReport, String> {
    stage(u64::from(pattern.copies), pattern.ending, |world| {
        for node in 0..3 {
            for entry in (0..ENTRIES).filter(|entry| pattern.is_hit(node, *entry)) {
                world.nodes[node].hit(entry, pattern.corruption)?;
            }
        }
        Ok(())
    })
}

/// Plays the loss of whole disks at once: bit n says that of node n, counted from 0. Each is
/// replaced by an empty one, which its node marks as not complete.
///
/// # Errors
/// If the group did not come so far that a disk could be lost.
pub fn play_lost(disks: u8, ending: StopKind) -> Result<PatternReport, String> {
    stage(u64::from(disks), ending, |world| {
        for node in (0..3).filter(|node| disks >> node & 1 == 1) {
            let (monitor, nodes) = (world.monitor.clone(), world.config.nodes);
            world.nodes[node].lose(nodes, 77 + node as u64, &mut monitor.lock())?;
        }
        Ok(())
    })
}

fn stage(
    seed: u64,
    ending: StopKind,
    corruption: impl FnOnce(&mut Cluster) -> Result<(), String>,
) -> Result<PatternReport, String> {
    let mut rng = Rng::new(seed);
    let config = RunConfig::calm(&mut rng);
    let election = config.election;
    let mut world = Cluster::of(config, rng, None);
    (0..3).for_each(|node| world.open(node));
    world.pass(20 * election, |world| world.leader().is_some())?;
    let entries = match ending {
        StopKind::Stopped | StopKind::Killed => ENTRIES,
        StopKind::PowerCut => ENTRIES + 1,
        StopKind::Sealed => ENTRIES + SEALING_ENTRIES,
    };
    for entry in 0..entries {
        world.append_one(
            if entry < ENTRIES { PAYLOAD_BYTES } else { SEALING_BYTES },
            20 * election,
        )?;
        // A copy that was not durable, or of which nothing says that it was, is torn and not
        // damaged.
        world.pass(20 * election, Cluster::has_settled)?;
    }
    world.end_all(ending, election);
    corruption(&mut world)?;
    (0..3).for_each(|node| world.open(node));
    let is_whole = world.pass(60 * election, Cluster::is_whole).is_ok()
        && world.append_one(PAYLOAD_BYTES, 20 * election).is_ok();
    let accounts = world
        .nodes
        .iter()
        .map(|node| node.process.as_ref().and_then(|process| process.shared.status().repair))
        .collect();
    let violation = world.watch().violation().cloned();
    Ok(PatternReport { violation, is_whole, accounts })
}

impl Cluster {
    fn pass(&mut self, within: Micros, enough: impl Fn(&Cluster) -> bool) -> Result<(), String> {
        let end = self.queue.now + within;
        if self.go_on_until(end, enough) {
            Ok(())
        } else {
            Err(self.watch().violation().cloned().unwrap_or("it took too long".to_owned()))
        }
    }

    /// Appends an entry and waits for it to be acknowledged.
    fn append_one(&mut self, bytes: usize, within: Micros) -> Result<(), String> {
        let leader = self.leader().ok_or("nobody leads")?;
        let offer = self.watch().offered.len() as u64;
        self.watch().offered.push(bytes as u32);
        let process = self.nodes[leader].process.as_ref().ok_or("the leader is gone")?;
        let future = process.shared.sequencer.append(&offer_bytes(offer, bytes), None);
        self.ring(leader);
        let outcome = |future: &AppendFuture| future.wait_timeout(Duration::ZERO);
        self.pass(within, |_| outcome(&future).is_some())?;
        let appended =
            outcome(&future).ok_or("not resolved")?.map_err(|error| error.to_string())?;
        self.watch().acknowledge(offer, bytes as u32, appended.index, appended.term);
        Ok(())
    }

    /// Whether all disks hold all that any of them holds.
    fn has_settled(&self) -> bool {
        let models = &self.watch().models;
        let last = models.iter().map(StorageModel::last).max().unwrap_or(0);
        models.iter().all(|model| model.durable_last() == last)
    }

    fn end_all(&mut self, ending: StopKind, patience: Micros) {
        if matches!(ending, StopKind::Stopped | StopKind::Sealed) {
            // The followers hear what is committed.
            let _ = self.pass(patience, |_| false);
        }
        for node in &mut self.nodes {
            if matches!(ending, StopKind::Stopped | StopKind::Sealed)
                && let Some(process) = &node.process
            {
                let (reply, _) = reply(Home::default());
                process.command(Command::Stop { hand_over: None, reply });
                let _ = node.turn(self.queue.now);
                node.process = None;
            }
            match ending {
                StopKind::PowerCut => node.cut_power(true),
                StopKind::Stopped | StopKind::Killed | StopKind::Sealed => node.kill(),
            }
            node.process = None;
        }
    }

    fn is_whole(world: &Cluster) -> bool {
        let monitor = world.watch();
        let end = monitor.ledger.len() as u64;
        let shows_all = |node: &Node| {
            node.process.as_ref().is_some_and(|process| process.shared.watermark.end() == end)
        };
        monitor.models.iter().all(|model| !model.is_damaged)
            && end >= ENTRIES
            && world.nodes.iter().all(shows_all)
            && {
                drop(monitor);
                world.leader().is_some()
            }
    }
}

impl Node {
    fn hit(&mut self, entry: u64, corruption: CorruptionKind) -> Result<(), String> {
        let place = self.disk.find(&offer_bytes(entry, PAYLOAD_BYTES));
        let (name, at) =
            place.ok_or_else(|| format!("node {} does not have entry {entry}", self.number + 1))?;
        let byte = match corruption {
            CorruptionKind::Payload => at + 9,
            CorruptionKind::Record => at - HEADER_BEFORE + 20,
        };
        self.disk.flip(&name, byte * 8 + 3);
        self.is_harmed = true;
        Ok(())
    }
}

impl RunConfig {
    /// Three nodes to which nothing happens.
    fn calm(rng: &mut Rng) -> RunConfig {
        let mut config = RunConfig::draw(rng);
        config.nodes = 3;
        config.flush_interval = None;
        (config.heartbeat, config.election) = (20 * MS, 200 * MS);
        config.append_timeout = 10 * config.election;
        config.message_bytes = 4 << 10;
        config.window_bytes = 1 << 20;
        config.segments =
            SegmentOptions { zero_fill: false, verify_on_open: true, ..SegmentOptions::small() };
        config.drifts = vec![0; 3];
        (config.clients, config.readers, config.upsets) = (0, 0, 0);
        config.network_faults = config.network_faults.calm(config.election);
        config.pace = config.pace.calm(config.election);
        config.troubles.fill(0);
        config
    }
}
