//! Every way to damage three entries on three replicas: 512 patterns, each on the real engines and storages, watched like any other run.
//!
//! Three nodes agree on three entries, each in a batch of its own. They end, the copies that the pattern names are damaged, and the nodes come back.
//! Then nothing acknowledged may be lost, nothing wrong shown, and no damaged node may take part: that is the watch's business. If every entry has an
//! intact copy, all nodes must be whole again and the group must work.

use std::time::Duration;

use super::agenda::Micros;
use super::book::Book;
use super::chance::Chance;
use super::node::Node;
use super::swarm::{MS, Swarm};
use super::watch::offer_bytes;
use super::world::World;
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
pub enum Harm {
    /// A bit of the payload: the record still says which it is.
    Payload,
    /// A bit of the header: the record cannot be found any more.
    Record,
}

/// How the nodes end before they are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// They are shut down.
    Stopped,
    /// They are killed as soon as all have the last entry: nobody has written down yet that it is committed.
    Killed,
    /// All lose their power at once, with everything that was not synced. One more entry follows, which says that the third was durable.
    PowerCut,
    /// They are shut down after more entries, so that the three are in sealed segments. They read everything when they are opened again.
    Sealed,
}

/// Which copies are damaged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Bit 3n + e: the copy of entry e on node n, both counted from 0. Below 512.
    pub copies: u16,
    /// What is changed of each.
    pub harm: Harm,
    /// How the nodes ended before.
    pub ending: Ending,
}

/// What came of a pattern.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Healing {
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
pub fn play(pattern: Pattern) -> Result<Healing, String> {
    stage(u64::from(pattern.copies), pattern.ending, |world| {
        for node in 0..3 {
            for entry in (0..ENTRIES).filter(|entry| pattern.is_hit(node, *entry)) {
                world.nodes[node].hit(entry, pattern.harm)?;
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
pub fn play_lost(disks: u8, ending: Ending) -> Result<Healing, String> {
    stage(u64::from(disks), ending, |world| {
        for node in (0..3).filter(|node| disks >> node & 1 == 1) {
            let (watch, nodes) = (world.watch.clone(), world.swarm.nodes);
            world.nodes[node].lose(nodes, 77 + node as u64, &mut watch.lock())?;
        }
        Ok(())
    })
}

fn stage(seed: u64, ending: Ending, harm: impl FnOnce(&mut World) -> Result<(), String>) -> Result<Healing, String> {
    let mut chance = Chance::new(seed);
    let swarm = Swarm::calm(&mut chance);
    let election = swarm.election;
    let mut world = World::of(swarm, chance, None);
    (0..3).for_each(|node| world.open(node));
    world.pass(20 * election, |world| world.leader().is_some())?;
    let entries = match ending {
        Ending::Stopped | Ending::Killed => ENTRIES,
        Ending::PowerCut => ENTRIES + 1,
        Ending::Sealed => ENTRIES + SEALING_ENTRIES,
    };
    for entry in 0..entries {
        world.append_one(if entry < ENTRIES { PAYLOAD_BYTES } else { SEALING_BYTES }, 20 * election)?;
        // A copy that was not durable, or of which nothing says that it was, is torn and not damaged.
        world.pass(20 * election, World::has_settled)?;
    }
    world.end_all(ending, election);
    harm(&mut world)?;
    (0..3).for_each(|node| world.open(node));
    let is_whole = world.pass(60 * election, World::is_whole).is_ok() && world.append_one(PAYLOAD_BYTES, 20 * election).is_ok();
    let accounts = world.nodes.iter().map(|node| node.life.as_ref().and_then(|life| life.shared.status().repair)).collect();
    let violation = world.watch().violation().cloned();
    Ok(Healing { violation, is_whole, accounts })
}

impl World {
    pub(super) fn pass(&mut self, within: Micros, enough: impl Fn(&World) -> bool) -> Result<(), String> {
        let end = self.agenda.now + within;
        if self.go_on_until(end, enough) { Ok(()) } else { Err(self.watch().violation().cloned().unwrap_or("it took too long".to_owned())) }
    }

    /// Appends an entry and waits for it to be acknowledged.
    pub(super) fn append_one(&mut self, bytes: usize, within: Micros) -> Result<(), String> {
        let leader = self.leader().ok_or("nobody leads")?;
        let offer = self.watch().offered.len() as u64;
        self.watch().offered.push(bytes as u32);
        let life = self.nodes[leader].life.as_ref().ok_or("the leader is gone")?;
        let future = life.shared.sequencer.append(&offer_bytes(offer, bytes), None);
        self.ring(leader);
        let outcome = |future: &AppendFuture| future.wait_timeout(Duration::ZERO);
        self.pass(within, |_| outcome(&future).is_some())?;
        let appended = outcome(&future).ok_or("not resolved")?.map_err(|error| error.to_string())?;
        self.watch().acknowledge(offer, bytes as u32, appended.index, appended.term);
        Ok(())
    }

    /// Whether all disks hold all that any of them holds.
    fn has_settled(&self) -> bool {
        let books = &self.watch().books;
        let last = books.iter().map(Book::last).max().unwrap_or(0);
        books.iter().all(|book| book.durable_last() == last)
    }

    fn end_all(&mut self, ending: Ending, patience: Micros) {
        if matches!(ending, Ending::Stopped | Ending::Sealed) {
            // The followers hear what is committed.
            let _ = self.pass(patience, |_| false);
        }
        for node in &mut self.nodes {
            if matches!(ending, Ending::Stopped | Ending::Sealed)
                && let Some(life) = &node.life
            {
                let (reply, _) = reply(Home::default());
                life.command(Command::Stop { hand_over: None, reply });
                let _ = node.turn(self.agenda.now);
                node.life = None;
            }
            match ending {
                Ending::PowerCut => node.cut_power(true),
                Ending::Stopped | Ending::Killed | Ending::Sealed => node.kill(),
            }
            node.life = None;
        }
    }

    pub(super) fn is_whole(world: &World) -> bool {
        let watch = world.watch();
        let end = watch.ledger.len() as u64;
        let shows_all = |node: &Node| node.life.as_ref().is_some_and(|life| life.shared.watermark.end() == end);
        watch.books.iter().all(|book| !book.is_damaged) && end >= ENTRIES && world.nodes.iter().all(shows_all) && {
            drop(watch);
            world.leader().is_some()
        }
    }
}

impl Node {
    fn hit(&mut self, entry: u64, harm: Harm) -> Result<(), String> {
        let place = self.medium.find(&offer_bytes(entry, PAYLOAD_BYTES));
        let (name, at) = place.ok_or_else(|| format!("node {} does not have entry {entry}", self.number + 1))?;
        let byte = match harm {
            Harm::Payload => at + 9,
            Harm::Record => at - HEADER_BEFORE + 20,
        };
        self.medium.flip(&name, byte * 8 + 3);
        self.is_harmed = true;
        Ok(())
    }
}

impl Swarm {
    /// Three nodes to which nothing happens.
    pub(super) fn calm(chance: &mut Chance) -> Swarm {
        let mut swarm = Swarm::draw(chance);
        swarm.nodes = 3;
        swarm.flush_interval = None;
        (swarm.heartbeat, swarm.election) = (20 * MS, 200 * MS);
        swarm.append_timeout = 10 * swarm.election;
        swarm.message_bytes = 4 << 10;
        swarm.window_bytes = 1 << 20;
        swarm.segments =
            SegmentOptions { segment_bytes: SegmentOptions::SEGMENT_BYTES_MIN, zeroed: false, verified: true, ..SegmentOptions::default() };
        swarm.drifts = vec![0; 3];
        (swarm.hosts, swarm.readers, swarm.upsets) = (0, 0, 0);
        swarm.weather = swarm.weather.calm(swarm.election);
        swarm.pace = swarm.pace.calm(swarm.election);
        swarm.troubles.fill(0);
        swarm
    }
}
