//! What recovery hands over: the log that the files hold, and what is wrong with it.

use std::ops::Range;

use super::active_segment::ActiveSegment;
use super::format::DurablePoint;
use super::fs::Disk;
use super::metadata::Metadata;
use super::retention::Unsealed;
use super::segment_set::SegmentSet;
use crate::storage::{Corruption, LogPoint};

/// What the files hold.
pub(super) struct RecoveredLog<D: Disk> {
    pub(super) live: SegmentSet<D>,
    pub(super) last: LogPoint,
    /// The newest commit that the last record knew of.
    pub(super) commit: u64,
    /// Where to go on. `None` if the next append must begin a new segment.
    pub(super) tail: Option<ActiveSegment<D>>,
    /// Segments of the log that are not sealed, the tail not included.
    pub(super) unsealed: Vec<Unsealed<D>>,
    /// Segments with nothing left of the log.
    pub(super) obsolete: Vec<String>,
    /// What is wrong with the log. If anything is, it is only read: there is neither a tail nor
    /// anything unsealed or dead.
    pub(super) corruption: Vec<Corruption>,
    /// Where batches go that are in no segment, if the log is damaged.
    pub(super) missing_ranges: Vec<MissingRange>,
    /// Segments whose heads are not intact, by id and first raft index.
    pub(super) bad_headers: Vec<(u64, u64)>,
    /// The furthest place that anything bears evidence to, if the log is damaged.
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

/// The file that batches go to which are in no segment that can be read.
#[derive(Clone, Debug)]
pub(super) struct MissingRange {
    pub(super) raft_indexes: Range<u64>,
    pub(super) id: u64,
    pub(super) first: u64,
}
