//! The log as raft-rs sees it.

use std::cell::RefCell;
use std::sync::Arc;

use raft::eraftpb::{Entry as RaftEntry, Snapshot};
use raft::{GetEntriesContext, RaftState};

use super::convert::{conf_state_of, entry_of};
use super::known_uid::GroupUid;
use super::reading::Reading;
use crate::batch::{Batch, LogPoint};
use crate::entry::NodeId;
use crate::replica::snapshot;
use crate::storage::{Base, HardState, LogReader, Recovered, StorageError};

/// The most committed entries that raft-rs is given at once. They have no payload: raft-rs only
/// counts them.
const COMMITTED_MAX: u64 = 1024;

/// The log as raft-rs sees it.
pub(super) struct LogView {
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) hard_state: HardState,
    pub(super) base: Base,
    pub(super) last: u64,
    /// The beginnings of terms in the tail of the log: (first raft index, term), ascending. Older
    /// terms are read from the storage.
    pub(super) terms: Vec<(u64, u64)>,
    /// The first error of a read whose result raft-rs requires. It restarts or ends the replica.
    pub(super) read_error: RefCell<Option<StorageError>>,
    pub(super) reading: Reading,
    pub(super) group_uid: GroupUid,
}

impl LogView {
    pub(super) fn new(
        recovered: &Recovered,
        new_group_uid: u128,
        reader: Arc<dyn LogReader>,
    ) -> LogView {
        let mut hard_state = recovered.hard_state;
        if hard_state.term < recovered.last.term {
            // A crash kept batches but not the term that came with them. The term was not durable,
            // so no vote or message of it was sent. But peers reject a candidate whose term is
            // below that of its log. The first ready writes the term.
            hard_state = HardState { term: recovered.last.term, vote: None, ..hard_state };
        }
        let (base, last) = (recovered.base.clone(), recovered.last.raft_index);
        LogView {
            reader,
            hard_state,
            base,
            last,
            terms: Vec::new(),
            read_error: RefCell::new(None),
            reading: Reading::default(),
            group_uid: GroupUid::new(recovered, new_group_uid),
        }
    }

    /// The beginnings of terms from raft index `first` on. raft-rs needs the term of its commit,
    /// and handles no error there.
    pub(super) fn terms_from(
        &self,
        first: u64,
        last: LogPoint,
    ) -> Result<Vec<(u64, u64)>, StorageError> {
        let mut terms: Vec<(u64, u64)> = Vec::new();
        for raft_index in first..=last.raft_index {
            let is_base = raft_index == self.base.point.raft_index;
            let point =
                if is_base { Some(self.base.point) } else { self.reader.point(raft_index)? };
            let term = point.expect("the commit and what follows it lie within the log").term;
            if terms.last().is_none_or(|(_, newest)| *newest != term) {
                terms.push((raft_index, term));
            }
            if term == last.term {
                break; // terms never go back along a log
            }
        }
        Ok(terms)
    }

    /// Truncates a conflicting tail: the batches from `raft_index` on.
    pub(super) fn truncate(&mut self, raft_index: u64) {
        if raft_index > self.last {
            return;
        }
        self.last = raft_index - 1;
        // The first beginning is at or before the commit, which is never truncated.
        self.terms.retain(|(first, _)| *first <= self.last);
    }

    pub(super) fn written(&mut self, batch: &Batch) {
        self.last = batch.raft_index();
        if self.terms.last().is_none_or(|(_, term)| *term != batch.term()) {
            self.terms.push((self.last, batch.term()));
        }
    }

    pub(super) fn installed(&mut self, base: Base) {
        self.last = base.point.raft_index;
        self.terms = vec![(base.point.raft_index, base.point.term)];
        self.group_uid.moved(base.point.raft_index);
        self.base = base;
    }

    pub(super) fn point(&self, raft_index: u64) -> Option<LogPoint> {
        if raft_index == self.base.point.raft_index {
            return Some(self.base.point);
        }
        self.reader.point(raft_index).unwrap_or_else(|error| {
            self.fail(error);
            None
        })
    }

    pub(super) fn term_of(&self, raft_index: u64) -> Option<u64> {
        if raft_index > self.last {
            return None;
        }
        match self.terms.partition_point(|(first, _)| *first <= raft_index) {
            0 if raft_index == self.base.point.raft_index => Some(self.base.point.term),
            0 => self.reader.term(raft_index).unwrap_or_else(|error| {
                self.fail(error);
                None
            }),
            at => Some(self.terms[at - 1].1),
        }
    }

    pub(super) fn fail(&self, error: StorageError) {
        self.read_error.borrow_mut().get_or_insert(error);
    }

    /// Entries without payload, for raft-rs to count.
    pub(super) fn headers(&self, low: u64, high: u64) -> raft::Result<Vec<RaftEntry>> {
        (low..high.min(low + COMMITTED_MAX))
            .map(|index| {
                let term = self
                    .term_of(index)
                    .ok_or(raft::Error::Store(raft::StorageError::Unavailable))?;
                Ok(RaftEntry { index, term, ..RaftEntry::default() })
            })
            .collect()
    }
}

impl raft::Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard_state = raft::eraftpb::HardState {
            term: self.hard_state.term,
            vote: self.hard_state.vote.map_or(0, NodeId::get),
            commit: self.hard_state.commit,
            ..Default::default()
        };
        Ok(RaftState::new(hard_state, conf_state_of(&self.base.membership)))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<RaftEntry>> {
        if low <= self.base.point.raft_index {
            return Err(raft::Error::Store(raft::StorageError::Compacted));
        }
        if !context.can_async() {
            return self.headers(low, high);
        }
        let unavailable = || Err(raft::Error::Store(raft::StorageError::LogTemporarilyUnavailable));
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if !self.reading.is_granted(bytes_max) {
            return unavailable();
        }
        match self.reader.batches(low, high, bytes_max) {
            Ok(batches) => {
                self.reading.count(&batches);
                Ok(batches.iter().map(entry_of).collect())
            }
            Err(StorageError::Purged { .. }) => {
                Err(raft::Error::Store(raft::StorageError::Compacted))
            }
            Err(error) => {
                // raft-rs sends them after the next heartbeat response of the peer, if they can be
                // read then.
                if !error.is_temporary() {
                    self.fail(error);
                }
                unavailable()
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base.point.raft_index {
            return Err(raft::Error::Store(raft::StorageError::Compacted));
        }
        self.term_of(index).ok_or(raft::Error::Store(raft::StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.point.raft_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.base.point.raft_index < request_index {
            return Err(raft::Error::Store(raft::StorageError::SnapshotTemporarilyUnavailable));
        }
        let data = snapshot::encode(&self.base.point, self.group_uid.known);
        let mut snapshot = Snapshot { data: data.into(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.base.point.raft_index;
        metadata.term = self.base.point.term;
        metadata.set_conf_state(conf_state_of(&self.base.membership));
        Ok(snapshot)
    }
}
