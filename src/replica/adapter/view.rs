//! The log as raft-rs sees it.

use std::cell::RefCell;
use std::sync::Arc;

use raft::eraftpb::{Entry as RaftEntry, Snapshot};
use raft::{GetEntriesContext, RaftState};

use super::Reading;
use super::convert::{conf_state_of, entry_of};
use crate::batch::{Batch, Mark};
use crate::entry::NodeId;
use crate::replica::rebase;
use crate::storage::{Base, HardState, LogReader, Recovered, StorageError};

/// Committed entries are handed out header-only, and at most so many at once: nobody reads them, raft-rs only counts them.
const COMMITTED_MAX: u64 = 1024;

/// The log as raft-rs sees it.
pub(super) struct LogView {
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) hard_state: HardState,
    pub(super) base: Base,
    pub(super) last: u64,
    /// Where terms begin: (first raft index, term), ascending, for the tail of the log. Older terms are looked up.
    pub(super) terms: Vec<(u64, u64)>,
    /// raft-rs takes no I/O error for an answer: the first one is kept here, and ends the node's part in the group.
    pub(super) fault: RefCell<Option<StorageError>>,
    pub(super) reading: Reading,
}

impl LogView {
    pub(super) fn new(recovered: &Recovered, reader: Arc<dyn LogReader>) -> LogView {
        let mut hard_state = recovered.hard_state;
        if hard_state.term < recovered.last.term {
            // A crash kept batches and not the term that came with them. Nothing was promised in that term, a vote least of all, for it was
            // not durable. But nobody takes the word of a candidate whose term is below that of its log. The first turn writes it down.
            hard_state = HardState { term: recovered.last.term, vote: None, ..hard_state };
        }
        hard_state.vote = hard_state.vote.filter(|_| !planted!("a vote is forgotten at a restart"));
        let (base, last) = (recovered.base.clone(), recovered.last.raft_index);
        LogView { reader, hard_state, base, last, terms: Vec::new(), fault: RefCell::new(None), reading: Reading::default() }
    }

    /// Where terms begin from raft index `first` on. raft-rs asks for that of its commit, and takes no error for an answer.
    pub(super) fn terms_from(&self, first: u64, last: Mark) -> Result<Vec<(u64, u64)>, StorageError> {
        let mut terms: Vec<(u64, u64)> = Vec::new();
        for raft_index in first..=last.raft_index {
            let is_base = raft_index == self.base.mark.raft_index;
            let mark = if is_base { Some(self.base.mark) } else { self.reader.mark(raft_index)? };
            let term = mark.expect("the commit and what follows it lie within the log").term;
            if terms.last().is_none_or(|(_, newest)| *newest != term) {
                terms.push((raft_index, term));
            }
            if term == last.term {
                break; // terms never go back along a log
            }
        }
        Ok(terms)
    }

    /// Follows a conflicting tail being cut off: batches from `raft_index` on are no longer there.
    pub(super) fn cut(&mut self, raft_index: u64) {
        if raft_index > self.last {
            return;
        }
        self.last = raft_index - 1;
        // The first of them is of the commit or lies before, and what is committed is not cut off.
        self.terms.retain(|(first, _)| *first <= self.last);
    }

    pub(super) fn written(&mut self, batch: &Batch) {
        self.last = batch.raft_index();
        if self.terms.last().is_none_or(|(_, term)| *term != batch.term()) {
            self.terms.push((self.last, batch.term()));
        }
    }

    pub(super) fn rebased(&mut self, base: Base) {
        self.last = base.mark.raft_index;
        self.terms = vec![(base.mark.raft_index, base.mark.term)];
        self.base = base;
    }

    pub(super) fn mark(&self, raft_index: u64) -> Option<Mark> {
        if raft_index == self.base.mark.raft_index {
            return Some(self.base.mark);
        }
        self.reader.mark(raft_index).unwrap_or_else(|error| {
            self.fail(error);
            None
        })
    }

    pub(super) fn term_of(&self, raft_index: u64) -> Option<u64> {
        if raft_index > self.last {
            return None;
        }
        match self.terms.partition_point(|(first, _)| *first <= raft_index) {
            0 if raft_index == self.base.mark.raft_index => Some(self.base.mark.term),
            0 => self.reader.term(raft_index).unwrap_or_else(|error| {
                self.fail(error);
                None
            }),
            at => Some(self.terms[at - 1].1),
        }
    }

    pub(super) fn fail(&self, error: StorageError) {
        self.fault.borrow_mut().get_or_insert(error);
    }

    /// Entries without their payload: enough for whoever only counts them.
    pub(super) fn headers(&self, low: u64, high: u64) -> raft::Result<Vec<RaftEntry>> {
        (low..high.min(low + COMMITTED_MAX))
            .map(|index| {
                let term = self.term_of(index).ok_or(raft::Error::Store(raft::StorageError::Unavailable))?;
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

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, context: GetEntriesContext) -> raft::Result<Vec<RaftEntry>> {
        if low <= self.base.mark.raft_index {
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
            Err(StorageError::Purged { .. }) => Err(raft::Error::Store(raft::StorageError::Compacted)),
            Err(error) => {
                // The peer is sent them with the next heartbeat that it answers, if they can be read by then.
                if !error.is_temporary() {
                    self.fail(error);
                }
                unavailable()
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base.mark.raft_index {
            return Err(raft::Error::Store(raft::StorageError::Compacted));
        }
        self.term_of(index).ok_or(raft::Error::Store(raft::StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.mark.raft_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.base.mark.raft_index < request_index {
            return Err(raft::Error::Store(raft::StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot { data: rebase::encode(&self.base.mark).into(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.base.mark.raft_index;
        metadata.term = self.base.mark.term;
        metadata.set_conf_state(conf_state_of(&self.base.membership));
        Ok(snapshot)
    }
}
