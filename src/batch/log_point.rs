//! The state of the log after a batch.

/// The state of the log after the batch `raft_index`.
///
/// The log begins at one log point (its base) and ends at another (its last); a snapshot moves a
/// replica to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogPoint {
    /// The batch after which this holds.
    pub raft_index: u64,
    /// The term of that batch.
    pub term: u64,
    /// The index that the next entry takes.
    pub next_index: u64,
    /// The position that the next entry takes.
    pub next_position: u64,
    /// The newest timestamp so far, in milliseconds since 1970.
    pub timestamp: u64,
    /// The chain value: a CRC-32 over every batch up to here. Two replicas agree if it agrees.
    pub chain: u32,
}

impl LogPoint {
    /// The base of the log of a new group that begins at position 0. Not at raft index 0, so that a
    /// later member always receives the group's membership along with its base.
    pub const INITIAL: LogPoint = LogPoint {
        raft_index: 1,
        term: 1,
        next_index: 0,
        next_position: 0,
        timestamp: 0,
        chain: 0,
    };

    /// The base of the log of a new group whose first byte is at `first_position`: see
    /// [`LogOwner::first_position`](crate::storage::LogOwner::first_position).
    pub const fn initial_at(first_position: u64) -> LogPoint {
        LogPoint { next_position: first_position, ..LogPoint::INITIAL }
    }

    /// Whether this is the base of the log of a new group, wherever its first byte is.
    pub(crate) fn is_initial(&self) -> bool {
        *self == LogPoint::initial_at(self.next_position)
    }

    /// A log point as it was saved: after the batch `raft_index` of `term`, with this chain value.
    /// The other fields are those of [`LogPoint::INITIAL`], to be set afterwards. A new log point
    /// is made by [`Batch::point_after`](crate::storage::Batch::point_after).
    pub fn new(raft_index: u64, term: u64, chain: u32) -> LogPoint {
        LogPoint { raft_index, term, chain, ..LogPoint::INITIAL }
    }
}
