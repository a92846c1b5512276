//! Virtual time: what happens next, and when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::faults::FaultEnd;
use super::network::Packet;

/// Microseconds of virtual time.
pub(crate) type Micros = u64;

/// One life of one node: what is meant for an earlier life does not reach a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessRef {
    pub(crate) node: usize,
    pub(crate) process: u64,
}

pub(crate) enum Event {
    /// An engine is due, unless it was driven since.
    Turn(ProcessRef),
    /// The sync under way ends.
    Synced(ProcessRef),
    /// Somebody has time for a chore.
    BackgroundTask(ProcessRef),
    Packet(Box<Packet>),
    /// A host looks after its operations and thinks of another.
    Client(usize),
    /// Something bad happens.
    Fault,
    /// Something bad ends.
    FaultEnd(FaultEnd),
}

/// Events in the order of their time; those of the same time in the order in which they were put
/// down.
#[derive(Default)]
pub(crate) struct EventQueue {
    pub(crate) now: Micros,
    put_down: u64,
    heap: BinaryHeap<Entry>,
}

struct Entry {
    at: Micros,
    order: u64,
    event: Event,
}

impl EventQueue {
    /// Puts `event` down for the moment `at`, or for now if that is past.
    pub(crate) fn put(&mut self, at: Micros, event: Event) {
        self.put_down += 1;
        self.heap.push(Entry { at: at.max(self.now), order: self.put_down, event });
    }

    pub(crate) fn put_in(&mut self, delay: Micros, event: Event) {
        self.put(self.now.saturating_add(delay), event);
    }

    /// The next event; time moves to it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

/// The heap gives the greatest first, and the earliest is wanted.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}
