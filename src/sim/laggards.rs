//! A leader whose disk reads slowly, and followers that lack more than may be under way to them.
//!
//! Five nodes, of which two followers are cut off while the others append. Then every disk becomes so
//! slow that to read what may be under way to one follower takes longer than an election timeout, and
//! the two are back. The leader must stay leader, and both must get what they lack.

use super::agenda::Micros;
use super::chance::Chance;
use super::swarm::{MS, Swarm};
use super::world::World;

const NODES: usize = 5;
const ENTRIES: usize = 200;
const PAYLOAD_BYTES: usize = 8000;
/// Two entries, each a batch of its own. 64 of these may be under way to a follower.
const MESSAGE_BYTES: u64 = 20_000;
const READ_BYTES_PER_MS: u64 = 2_000;
/// What a turn reads beside what it reads for followers, to know a term or where the log ends. Here a
/// record is read whole by whoever wants to see its header.
const OTHER_BYTES: u64 = 2 * 8_200;

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
pub fn play(seed: u64) -> Result<Outcome, String> {
    let mut chance = Chance::new(seed);
    let swarm = circumstances(&mut chance);
    let election = swarm.election;
    let mut world = World::of(swarm, chance, None);
    (0..NODES).for_each(|node| world.open(node));
    world.pass(20 * election, |world| world.leader().is_some())?;
    let leader = world.leader().ok_or("nobody leads")?;
    let away: Vec<usize> = (0..NODES).filter(|node| *node != leader).take(2).collect();
    let links: Vec<(usize, usize)> =
        away.iter().flat_map(|away| (0..NODES).filter(move |node| node != away).flat_map(|node| [(*away, node), (node, *away)])).collect();
    links.iter().for_each(|&(from, to)| world.network.cut(from, to));
    for _ in 0..ENTRIES {
        world.append_one(PAYLOAD_BYTES, 20 * election)?;
    }
    for node in &mut world.nodes {
        (node.medium.read_rate, node.medium.most_read) = (Some(READ_BYTES_PER_MS), 0);
    }
    links.iter().for_each(|&(from, to)| world.network.mend(from, to));
    let lacking = (2 * ENTRIES * PAYLOAD_BYTES) as Micros * MS / READ_BYTES_PER_MS;
    let is_level = world.pass(20 * election + 2 * lacking, World::is_whole).is_ok();
    let watch = world.watch();
    Ok(Outcome {
        violation: watch.violation().cloned(),
        leaders: watch.sightings.count("leaders announced"),
        is_level,
        most_read: world.nodes[leader].medium.most_read,
        read_max: MESSAGE_BYTES + MESSAGE_BYTES / 8 + OTHER_BYTES,
    })
}

/// Five nodes to which nothing happens but this.
fn circumstances(chance: &mut Chance) -> Swarm {
    let mut swarm = Swarm::calm(chance);
    swarm.nodes = NODES;
    swarm.drifts = vec![0; NODES];
    swarm.message_bytes = MESSAGE_BYTES;
    swarm.catch_up_bytes = u64::MAX;
    swarm.uneven = false;
    swarm.segments.segment_bytes = 64 << 10;
    swarm
}
