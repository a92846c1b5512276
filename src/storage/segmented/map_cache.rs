//! Which sealed segments are mapped: at most a given number, evicted by the CLOCK algorithm.
//!
//! A sealed segment is mapped when it is read and is not mapped. Above the limit, another one is
//! evicted: one that was not read since the clock hand last passed it. Its file is unmapped when
//! the last slice of the map is dropped, and mapped again at the next read.
//!
//! A read of a mapped segment takes no lock, and writes nothing that other threads read, except one
//! flag after each pass of the clock hand. The lock here is held for a few steps by a thread that
//! has just mapped a segment.

use std::sync::{Arc, Weak};

use crate::primitives::Mutex;

/// What can be mapped, and unmapped to map another.
pub(super) trait Mapped {
    /// What is there while it is mapped.
    type Contents;

    /// The contents, if it is mapped.
    fn cached(&self) -> Option<Arc<Self::Contents>>;
    fn cache(&self, mapped: Arc<Self::Contents>);
    /// Whether it was read since the previous call.
    fn was_read(&self) -> bool;
    /// Gives up the map, and returns what was mapped.
    fn unmap(&self) -> Option<Arc<Self::Contents>>;
}

/// The mapped ones.
pub(super) struct MapCache<S> {
    max: usize,
    ring: Mutex<Ring<S>>,
}

struct Ring<S> {
    mapped: Vec<Weak<S>>,
    /// The clock hand: the next one to check.
    hand: usize,
}

impl<S: Mapped> MapCache<S> {
    /// At most `max` at a time, and at least one.
    pub(super) fn new(max: usize) -> Arc<MapCache<S>> {
        Arc::new(MapCache {
            max: max.max(1),
            ring: Mutex::new(Ring { mapped: Vec::new(), hand: 0 }),
        })
    }

    /// Makes `contents` those of `segment`, unless another thread was faster, and evicts another
    /// segment if there are too many. Returns the contents that are in place now.
    pub(super) fn keep(&self, segment: &Arc<S>, contents: S::Contents) -> Arc<S::Contents> {
        let mut ring = self.ring.lock();
        if let Some(theirs) = segment.cached() {
            return theirs;
        }
        let contents = Arc::new(contents);
        let evicted = ring.enter(segment, self.max);
        segment.cache(contents.clone());
        drop(ring);
        // Unmapped here, not under the lock.
        drop(evicted);
        contents
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let ring = self.ring.lock();
        let segments = ring.mapped.iter().filter_map(Weak::upgrade);
        segments.filter(|segment| segment.cached().is_some()).count()
    }
}

impl<S: Mapped> Ring<S> {
    /// Puts `segment` in the place of one that was dropped, or that the hand finds unread.
    fn enter(&mut self, segment: &Arc<S>, max: usize) -> Option<Arc<S::Contents>> {
        let entered = Arc::downgrade(segment);
        if self.mapped.len() < max {
            self.mapped.push(entered);
            return None;
        }
        // Readers may set flags again as fast as they are cleared here: one round is enough.
        let mut second_chances = self.mapped.len();
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.mapped.len();
            let evicted = match self.mapped[at].upgrade() {
                Some(segment) if segment.was_read() && second_chances > 0 => {
                    second_chances -= 1;
                    continue;
                }
                Some(segment) => segment.unmap(),
                None => None,
            };
            self.mapped[at] = entered;
            return evicted;
        }
    }
}
