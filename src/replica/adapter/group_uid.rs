//! The unique id of the group, as the log tells it.
//!
//! A leader that finds no id in its log proposes a random one, as the first batch of its term that
//! is not empty. The first batch of the log that names the group counts, once it is committed. What
//! is committed is the beginning of the log of every node, so all of them find the same id.

use std::ops::RangeInclusive;

use super::convert::{batch_of, group_uid_of};
use super::view::LogView;
use super::{RaftCore, RaftRole};
use crate::batch::group_uid_body;
use crate::storage::StorageError;

impl LogView {
    /// The id in the first of these batches that names the group.
    fn group_uid_in(&mut self, batches: RangeInclusive<u64>) -> Result<Option<u128>, StorageError> {
        let (mut at, end) = (*batches.start(), *batches.end());
        while at <= end {
            // One at a time: it is nearly always the second batch of the log.
            let found = self.reader.batches(at, at + 1, 1)?;
            if let Some(uid) = found.first().and_then(|batch| batch.group_uid()) {
                return Ok(Some(uid));
            }
            at += 1;
        }
        Ok(None)
    }

    /// The same of all batches up to `end` that were not searched yet. `None` if they cannot be
    /// read now.
    fn seek_group_uid(&mut self, end: u64) -> Option<Option<u128>> {
        match self.group_uid_in(self.group_uid.searched + 1..=end) {
            Ok(found) => Some(found),
            Err(StorageError::Purged { .. }) => {
                self.group_uid.is_from_the_start = false;
                None
            }
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }
}

impl RaftCore {
    /// The id of the group. 0: not known.
    pub(in crate::replica) fn group_uid(&self) -> u128 {
        self.node.store().group_uid.known
    }

    /// Looks for the id in what is committed up to `commit`. Returns it if it was not known before.
    pub(in crate::replica) fn learn_group_uid(&mut self, commit: u64) -> Option<u128> {
        let view = self.node.mut_store();
        if !view.group_uid.is_sought() {
            return None;
        }
        match view.seek_group_uid(commit)? {
            Some(uid) => view.group_uid.known = uid,
            None => view.group_uid.searched = commit.max(view.group_uid.searched),
        }
        Some(view.group_uid.known).filter(|uid| *uid != 0)
    }

    /// The id that a snapshot carries, if it was not known before. The snapshot was checked.
    pub(in crate::replica) fn take_group_uid(&mut self, uid: u128) -> Option<u128> {
        let known = &mut self.node.mut_store().group_uid.known;
        let is_new = *known == 0 && uid != 0;
        is_new.then(|| {
            *known = uid;
            uid
        })
    }

    /// Whether a batch of the log that is not committed yet names the group.
    pub(in crate::replica) fn awaits_group_uid(&mut self) -> bool {
        let settled = self.last_settled();
        let view = self.node.mut_store();
        view.group_uid.is_sought() && !matches!(view.seek_group_uid(settled), Some(None))
    }

    /// Proposes an id, if this node leads and its log names none.
    pub(in crate::replica) fn propose_group_uid(&mut self) {
        let (term, settled) = (self.term(), self.last_settled());
        let is_leader = self.role() == RaftRole::Leader;
        let view = self.node.mut_store();
        if !is_leader || !view.group_uid.is_sought() || view.group_uid.named_in == term {
            return;
        }
        let proposal = view.group_uid.proposal;
        let Some(written) = view.seek_group_uid(settled) else { return };
        let names_it = |entry| batch_of(entry).is_ok_and(|batch| batch.group_uid().is_some());
        let unwritten = self.node.raft.raft_log.unstable_entries().iter().any(names_it);
        if written.is_some() || unwritten || self.propose(group_uid_body(proposal)).is_some() {
            self.node.mut_store().group_uid.named_in = term;
        }
    }

    /// Whether a snapshot is that of another group.
    pub(super) fn is_of_another_group(&self, snapshot: &raft::eraftpb::Snapshot) -> bool {
        let (ours, theirs) = (self.group_uid(), group_uid_of(snapshot));
        ours != 0 && theirs != 0 && ours != theirs
    }
}
