//! The result of recovery: the log that the files hold, and what is corrupt.

use std::ops::Range;

use super::active_segment::ActiveSegment;
use super::format::DurablePoint;
use super::fs::Disk;
use super::metadata::Metadata;
use super::retention::Unsealed;
use super::segment_set::SegmentSet;
use crate::storage::{Corruption, LogPoint};

/// The log that the files hold.
pub(super) struct RecoveredLog<D: Disk> {
    pub(super) live: SegmentSet<D>,
    pub(super) last: LogPoint,
    /// The newest commit in the last record.
    pub(super) commit: u64,
    /// The active segment. `None` if the next append must begin a new one.
    pub(super) tail: Option<ActiveSegment<D>>,
    /// Unsealed segments of the log, without the active one.
    pub(super) unsealed: Vec<Unsealed<D>>,
    /// Names of segments with nothing left of the log.
    pub(super) obsolete: Vec<String>,
    /// What is corrupt. If anything is, the log is for reading only: there is no active, unsealed
    /// or obsolete segment.
    pub(super) corruption: Vec<Corruption>,
    /// In a corrupt log, the files that missing batches belong to.
    pub(super) missing_ranges: Vec<MissingRange>,
    /// Segments with a bad header, by id and first raft index.
    pub(super) bad_headers: Vec<(u64, u64)>,
    /// In a corrupt log, the furthest durable point in any evidence.
    pub(super) max_evidence: Option<DurablePoint>,
}

impl<D: Disk> RecoveredLog<D> {
    /// The newest raft index that is known to be committed, as far as the log reaches. In a corrupt
    /// log: as far as a log point can be read.
    pub(super) fn commit_with(&self, state: &Metadata) -> u64 {
        if !self.corruption.is_empty() {
            return self.commit;
        }
        let known = state.hard_state.commit.max(self.commit);
        known.clamp(self.live.base.point.raft_index, self.last.raft_index)
    }
}

/// Batches that are in no readable segment, and the file that they belong to.
#[derive(Clone, Debug)]
pub(super) struct MissingRange {
    pub(super) raft_indexes: Range<u64>,
    pub(super) id: u64,
    pub(super) first: u64,
}
