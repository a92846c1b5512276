//! A leader whose disk reads slowly, and followers that lack more than may be under way to them.
//!
//! Five nodes, of which two followers are cut off while the others append. Then every disk becomes
//! so slow that to read what may be under way to one follower takes longer than an election
//! timeout, and the two are back. The leader must stay leader, and both must get what they lack.

use super::cluster::Cluster;
use super::config::RunConfig;
use super::rng::Rng;
use super::time::{MS, Micros};

const NODES: usize = 5;
const ENTRIES: usize = 200;
const PAYLOAD_BYTES: usize = 8000;
/// Two entries, each a batch of its own. 64 of these may be under way to a follower.
const MESSAGE_BYTES: u64 = 20_000;
const READ_BYTES_PER_MS: u64 = 2_000;
/// Other reads of a turn: to know a term and the end of the log, and what each of the two followers
/// has, for the log lines about them. The header of a record costs a whole record here.
const OTHER_BYTES: u64 = 4 * 8_200;

/// What came of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The first thing that must not be. `None` if everything was as it must be.
    pub violation: Option<String>,
    /// How many leaders there were, from the first on.
    pub leaders: u64,
    /// Whether all nodes have all entries.
    pub is_level: bool,
    /// The most that the leader has read in one turn, in bytes.
    pub most_read: u64,
    /// What it may read in one, in bytes.
    pub read_max: u64,
}

/// Plays it, with the chances of the network that `seed` stands for.
///
/// # Errors
/// If the group did not come so far.
pub fn run_pattern(seed: u64) -> Result<Outcome, String> {
    let mut rng = Rng::new(seed);
    let config = circumstances(&mut rng);
    let election = config.election;
    let mut cluster = Cluster::of(config, rng, None);
    (0..NODES).for_each(|node| cluster.open(node));
    cluster.pass(20 * election, |cluster| cluster.leader().is_some())?;
    let leader = cluster.leader().ok_or("no node leads")?;
    let away: Vec<usize> = (0..NODES).filter(|node| *node != leader).take(2).collect();
    let links: Vec<(usize, usize)> = away
        .iter()
        .flat_map(|away| {
            (0..NODES)
                .filter(move |node| node != away)
                .flat_map(|node| [(*away, node), (node, *away)])
        })
        .collect();
    links.iter().for_each(|&(from, to)| cluster.network.cut(from, to));
    for _ in 0..ENTRIES {
        cluster.append_one(PAYLOAD_BYTES, 20 * election)?;
    }
    for node in &mut cluster.nodes {
        (node.disk.read_rate, node.disk.most_read) = (Some(READ_BYTES_PER_MS), 0);
    }
    links.iter().for_each(|&(from, to)| cluster.network.reconnect(from, to));
    let lacking = (2 * ENTRIES * PAYLOAD_BYTES) as Micros * MS / READ_BYTES_PER_MS;
    let is_level = cluster.pass(20 * election + 2 * lacking, Cluster::is_repaired).is_ok();
    let monitor = cluster.monitor();
    Ok(Outcome {
        violation: monitor.violation().cloned(),
        leaders: monitor.coverage.count("leaders announced"),
        is_level,
        most_read: cluster.nodes[leader].disk.most_read,
        read_max: MESSAGE_BYTES + MESSAGE_BYTES / 8 + OTHER_BYTES,
    })
}

/// Five nodes to which nothing happens but this.
fn circumstances(rng: &mut Rng) -> RunConfig {
    let mut config = RunConfig::calm(rng);
    config.nodes = NODES;
    config.drifts = vec![0; NODES];
    config.message_bytes = MESSAGE_BYTES;
    config.catch_up_bytes = u64::MAX;
    config.uneven = false;
    config.segments.segment_bytes = 64 << 10;
    config
}
