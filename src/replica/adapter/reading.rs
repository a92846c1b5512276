//! Bounds the reads for followers that lack batches.
//!
//! raft-rs reads the batches of a follower as soon as the follower can take more, until
//! [`MESSAGES_MAX`](super::MESSAGES_MAX) messages are in flight to it: tens of megabytes in one
//! call. A slow disk needs longer for that than an election timeout, and the silent leader is
//! deposed. So these reads are refused with `LogTemporarilyUnavailable`, and done later, in
//! [`RaftCore::read_for_followers`](super::RaftCore::read_for_followers), once in a turn, after all
//! other messages of the turn were sent.
//!
//! 1. No other code reads for followers. Batches that are not yet written are sent from memory, so
//!    a follower that keeps up never waits for a read.
//! 2. One call reads one message, or several small ones: at most an eighth of the limit of a
//!    message, and then one message more. It exceeds the limit only if it is a single batch. The
//!    number of followers does not matter.
//! 3. Followers take turns: a call begins with the follower after the one that was read for last.
//! 4. While a follower waits and can be sent batches, each call reads some.

use std::cell::Cell;

use crate::batch::Batch;

/// After this part of the limit of a message, nothing more is read in the same call.
const SMALL_PART: u64 = 8;

/// What a batch counts beside its body, in bytes: an empty one is read as well.
const BATCH_OVERHEAD: u64 = 32;

/// What was read, and whether more may be. Behind a shared reference, for that is what raft-rs has
/// of its storage.
#[derive(Debug, Default)]
pub(super) struct Reading {
    is_open: Cell<bool>,
    /// Read since it was opened.
    bytes: Cell<u64>,
    /// Something was refused since.
    is_owed: Cell<bool>,
}

impl Reading {
    pub(super) fn open(&self) {
        self.is_open.set(true);
        self.bytes.set(0);
        self.is_owed.set(false);
    }

    pub(super) fn close(&self) {
        self.is_open.set(false);
    }

    /// Whether a read was refused since it was opened.
    pub(super) fn is_owed(&self) -> bool {
        self.is_owed.get()
    }

    /// Bytes read since it was opened.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether a message of so many bytes at most may be read now. If not, it is owed.
    pub(super) fn is_granted(&self, bytes_max: u64) -> bool {
        let is_granted = self.is_open.get() && self.bytes.get() <= bytes_max / SMALL_PART;
        self.is_owed.set(self.is_owed.get() || !is_granted);
        is_granted
    }

    pub(super) fn count(&self, batches: &[Batch]) {
        let bytes: u64 =
            batches.iter().map(|batch| batch.body().len() as u64 + BATCH_OVERHEAD).sum();
        self.bytes.set(self.bytes.get() + bytes);
    }
}
