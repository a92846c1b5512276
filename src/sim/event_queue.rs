//! Event queue, and virtual time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::event::Event;
use super::time::Micros;

/// Scheduled events in the order of their time; events of the same time in the order in which they
/// were scheduled.
#[derive(Default)]
pub(crate) struct EventQueue {
    pub(crate) now: Micros,
    scheduled: u64,
    heap: BinaryHeap<Entry>,
}

struct Entry {
    at: Micros,
    order: u64,
    event: Event,
}

impl EventQueue {
    /// Schedules `event` for the time `at`, or for now if that is past.
    pub(crate) fn put(&mut self, at: Micros, event: Event) {
        self.scheduled += 1;
        self.heap.push(Entry { at: at.max(self.now), order: self.scheduled, event });
    }

    pub(crate) fn put_in(&mut self, delay: Micros, event: Event) {
        self.put(self.now.saturating_add(delay), event);
    }

    /// The next event. Time advances to it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

/// Reversed: the heap gives the greatest first, which must be the earliest event.
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
