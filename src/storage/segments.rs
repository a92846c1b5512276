//! What retention needs of a storage: its segments, with their sizes and ages, and how full the
//! disk is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::LogPoint;

/// One segment of a log: what a purge removes as a whole. See
/// [`Storage::segments`](super::Storage::segments).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The index of its first entry, or where that would be.
    pub first_index: u64,
    /// The index after its last entry: a purge of that index removes the segment.
    pub end_index: u64,
    /// The raft index of its first batch, or the one that it would have.
    pub first_raft_index: u64,
    /// The raft index of its last batch; one less than the first, if it holds none. A purge removes
    /// the segment only if that is committed.
    pub last_raft_index: u64,
    /// The space that it takes on the disk, in bytes.
    pub bytes: u64,
    /// How long ago it was closed, if it takes no more batches; else how long ago it took its first
    /// one. Only time for which the storage was open counts, by a clock that is never set:
    /// see [`Storage::pass_time`](super::Storage::pass_time).
    pub age: Duration,
    /// Whether it takes no more batches. Only such segments are purged.
    pub is_closed: bool,
}

impl SegmentInfo {
    /// A segment of `bytes` between two log points, which takes no more, and has just been closed.
    /// The fields can be changed.
    #[must_use]
    pub fn new(before: &LogPoint, last: &LogPoint, bytes: u64) -> SegmentInfo {
        SegmentInfo {
            first_index: before.next_index,
            end_index: last.next_index,
            first_raft_index: before.raft_index + 1,
            last_raft_index: last.raft_index,
            bytes,
            age: Duration::ZERO,
            is_closed: true,
        }
    }
}

/// How full a disk is. What is reserved for the administrator counts as neither used nor free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskUse {
    /// The bytes that are in use, by whatever program.
    pub used: u64,
    /// The bytes that this process may still use.
    pub free: u64,
}

impl DiskUse {
    /// A disk of which `used` bytes are in use, and `free` are not.
    #[must_use]
    pub fn new(used: u64, free: u64) -> DiskUse {
        DiskUse { used, free }
    }

    /// By how many bytes more is used than `ratio` of the disk. 0: by none.
    pub(crate) fn excess(&self, ratio: f64) -> u64 {
        let all = self.used as f64 + self.free as f64;
        // Zero if it is negative.
        (self.used as f64 - ratio * all).ceil() as u64
    }
}

/// Asks how full the disk of a log is. Called on a thread for background tasks: it may block.
pub type DiskProbe = Arc<dyn Fn() -> io::Result<DiskUse> + Send + Sync>;
