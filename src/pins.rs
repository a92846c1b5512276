//! Pins: marks in the log, at and behind which a node removes nothing.

use std::fmt;
use std::sync::Arc;

use crate::fork::Home;
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::retention::Chosen;
use crate::storage::LogReader;

/// What pins may hold back unless the host says otherwise: 1 GiB.
pub(crate) const PIN_BYTES_MAX: u64 = 1 << 30;

/// Keeps a node from removing the entry at an index, and all behind it, by retention and by
/// [`DLedger::purge`](crate::DLedger::purge). Made by [`DLedger::pin`](crate::DLedger::pin).
/// Dropping it releases it.
///
/// All pins of a node together hold back at most
/// [`Builder::pin_bytes_max`](crate::Builder::pin_bytes_max). Beyond that the one that lies
/// furthest back is released, which is logged at WARN, and which [`is_released`](Self::is_released)
/// tells. A node that fell so far behind its group that it is [moved
/// forward](crate::Builder::on_moved) has nothing left to be held: that releases the pins before
/// its new first entry.
///
/// A pin is of this node and this process: it does not survive a restart, and other nodes know
/// nothing of it. It does not keep the node running. In a forked child it does nothing.
#[must_use = "a pin that is dropped holds nothing"]
pub struct Pin {
    mark: Arc<Mark>,
    board: Arc<PinBoard>,
}

impl Pin {
    /// The index that it holds.
    pub fn index(&self) -> u64 {
        self.mark.index.load(Ordering::Acquire)
    }

    /// Moves it forward to `index`: what lies before may be removed. It never moves back, so a
    /// lower index changes nothing. Neither blocks nor fails.
    pub fn advance(&self, index: u64) {
        self.mark.index.fetch_max(index, Ordering::AcqRel);
    }

    /// Whether it holds nothing any more, since all pins together held back more than they may, or
    /// since the log began anew behind it: the node was moved forward, or its damaged log was
    /// repaired without a part that the peers had purged. Then what lies behind it may be removed
    /// at any time. It stays so.
    pub fn is_released(&self) -> bool {
        self.mark.is_released.load(Ordering::Acquire)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.board.home.is_here() {
            self.board.marks.lock().retain(|mark| !Arc::ptr_eq(mark, &self.mark));
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin")
            .field("index", &self.index())
            .field("is_released", &self.is_released())
            .finish()
    }
}

struct Mark {
    index: AtomicU64,
    is_released: AtomicBool,
}

/// The pins of a node.
pub(crate) struct PinBoard {
    /// Oldest first. Locked while the log is purged, so that no pin is set in what goes.
    marks: Mutex<Vec<Arc<Mark>>>,
    /// What all of them together may hold back.
    bytes_max: u64,
    home: Home,
}

/// What became of the pins in a purge or a move.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReleasedPins {
    /// The indexes that they held.
    pub(crate) indexes: Vec<u64>,
}

impl PinBoard {
    pub(crate) fn new(bytes_max: u64, home: Home) -> PinBoard {
        PinBoard { marks: Mutex::new(Vec::new()), bytes_max, home }
    }

    /// Sets a pin.
    ///
    /// # Errors
    /// The first index that is kept, if that lies behind `index`.
    pub(crate) fn pin(self: &Arc<Self>, index: u64, reader: &dyn LogReader) -> Result<Pin, u64> {
        let mut marks = self.marks.lock();
        let first = reader.base().point.next_index;
        if index < first {
            return Err(first);
        }
        let mark = Mark { index: AtomicU64::new(index), is_released: AtomicBool::new(false) };
        let mark = Arc::new(mark);
        marks.push(mark.clone());
        drop(marks);
        Ok(Pin { mark, board: self.clone() })
    }

    /// Runs `purge` with the index up to which entries may be removed, of those below `index`.
    /// `chosen` are the segments that are to go. Pins that hold back more of them than they may are
    /// released, those furthest back first. No pin is set meanwhile.
    pub(crate) fn purge<T>(
        &self,
        index: u64,
        chosen: &[Chosen],
        purge: impl FnOnce(u64) -> T,
    ) -> (T, ReleasedPins) {
        let mut marks = self.marks.lock();
        let mut released = ReleasedPins::default();
        let limit = loop {
            let held = |mark: &Arc<Mark>| mark.index.load(Ordering::Acquire);
            // Each is read once: it may be advanced at any moment.
            let oldest = marks.iter().enumerate().map(|(at, mark)| (held(mark), at)).min();
            let Some((pinned, first)) = oldest else { break index };
            let back = chosen.iter().filter(|chosen| chosen.segment.end_index > pinned);
            let bytes: u64 = back.map(|chosen| chosen.segment.bytes).sum();
            if pinned >= index || bytes <= self.bytes_max {
                break index.min(pinned);
            }
            let mark = marks.remove(first);
            mark.is_released.store(true, Ordering::Release);
            released.indexes.push(pinned);
        };
        (purge(limit), released)
    }

    /// Runs `change`, which may begin the log anew, and releases the pins before its first index
    /// then.
    pub(crate) fn begin_anew<T>(
        &self,
        reader: &dyn LogReader,
        change: impl FnOnce() -> T,
    ) -> (T, ReleasedPins) {
        let mut marks = self.marks.lock();
        let outcome = change();
        let first = reader.base().point.next_index;
        let mut released = ReleasedPins::default();
        marks.retain(|mark| {
            let index = mark.index.load(Ordering::Acquire);
            if index < first {
                mark.is_released.store(true, Ordering::Release);
                released.indexes.push(index);
            }
            index >= first
        });
        (outcome, released)
    }
}
