//! Event queue, and virtual time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::event::Event;
use super::time::Micros;

/// Scheduled events in the order of their time; events of the same time in the order in which they
/// were scheduled.
pub(crate) struct EventQueue<E = Event> {
    pub(crate) now: Micros,
    scheduled: u64,
    heap: BinaryHeap<Entry<E>>,
}

struct Entry<E> {
    at: Micros,
    order: u64,
    event: E,
}

impl<E> Default for EventQueue<E> {
    fn default() -> EventQueue<E> {
        EventQueue { now: 0, scheduled: 0, heap: BinaryHeap::new() }
    }
}

impl<E> EventQueue<E> {
    /// Schedules `event` for the time `at`, or for now if that is past.
    pub(crate) fn put(&mut self, at: Micros, event: E) {
        self.scheduled += 1;
        self.heap.push(Entry { at: at.max(self.now), order: self.scheduled, event });
    }

    pub(crate) fn put_in(&mut self, delay: Micros, event: E) {
        self.put(self.now.saturating_add(delay), event);
    }

    /// The next event. Time advances to it.
    pub(crate) fn next(&mut self) -> Option<E> {
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }

    /// The time of the next event.
    pub(crate) fn next_at(&self) -> Option<Micros> {
        Some(self.heap.peek()?.at)
    }
}

/// Reversed: the heap gives the greatest first, which must be the earliest event.
impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<E> Eq for Entry<E> {}
