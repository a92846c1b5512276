//! Which sealed segments are mapped: never more than a stated number, whoever reads what.
//!
//! A sealed segment is mapped when it is read and is not. For each that is mapped beyond the number
//! another is given up: one that nobody has read since it was looked at last (CLOCK). What is given
//! up is unmapped once nobody has a slice of it any more, and mapped anew when it is read again.
//!
//! A read of a mapped segment takes no lock and writes nothing that other threads read, but for one
//! flag after each look at it. The lock here is taken by whoever has mapped a segment, for a few
//! steps.

use std::sync::{Arc, Weak};

use super::fs::Disk;
use super::segment::{Segment, SegmentContents};
use crate::primitives::Mutex;

/// The mapped segments of one log.
pub(super) struct Maps<D: Disk> {
    max: usize,
    ring: Mutex<Ring<D>>,
}

struct Ring<D: Disk> {
    mapped: Vec<Weak<Segment<D>>>,
    /// Which is looked at next.
    hand: usize,
}

impl<D: Disk> Maps<D> {
    /// At most `max` at a time, and at least one.
    pub(super) fn new(max: usize) -> Arc<Maps<D>> {
        Arc::new(Maps { max: max.max(1), ring: Mutex::new(Ring { mapped: Vec::new(), hand: 0 }) })
    }

    /// Makes `contents` those of `segment`, unless another thread was faster, and gives up another
    /// segment's if there are too many. Returns what is now there.
    pub(super) fn keep(
        &self,
        segment: &Arc<Segment<D>>,
        contents: SegmentContents<D>,
    ) -> Arc<SegmentContents<D>> {
        let mut ring = self.ring.lock();
        if let Some(theirs) = segment.cached() {
            return theirs;
        }
        let contents = Arc::new(contents);
        let given_up = ring.enter(segment, self.max);
        segment.cache(contents.clone());
        drop(ring);
        // Unmapped here, not under the lock.
        drop(given_up);
        contents
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let ring = self.ring.lock();
        let segments = ring.mapped.iter().filter_map(Weak::upgrade);
        segments.filter(|segment| segment.cached().is_some()).count()
    }
}

impl<D: Disk> Ring<D> {
    /// Puts `segment` where one is that is gone, or that nobody has read for longest.
    fn enter(&mut self, segment: &Arc<Segment<D>>, max: usize) -> Option<Arc<SegmentContents<D>>> {
        let entered = Arc::downgrade(segment);
        if self.mapped.len() < max {
            self.mapped.push(entered);
            return None;
        }
        // Readers may set flags again as fast as they are cleared here: one round of that is
        // enough.
        let mut mercies = self.mapped.len();
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.mapped.len();
            let given_up = match self.mapped[at].upgrade() {
                Some(segment) if segment.was_read() && mercies > 0 => {
                    mercies -= 1;
                    continue;
                }
                Some(segment) => segment.give_up_map(),
                None => None,
            };
            self.mapped[at] = entered;
            return given_up;
        }
    }
}
