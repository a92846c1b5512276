//! Starting again from the log as it is written, within the same run of the process.

use std::sync::Arc;

use super::adapter::RaftCore;
use super::{Effect, ProposalOutcome, Replica, Settings};
use crate::storage::{DirectoryIdentity, HardState, LogReader, Recovered, StorageError};

impl Replica {
    /// Restarts from the log as it is written, as after a crash, because the disk was full. The log
    /// must be durable; `saved` is the hard state, if it was written before the disk was full.
    /// Proposals are kept: peers may hold them, and only a commit decides. But proposals of a sole
    /// voter that were not written are dropped.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub(crate) fn restart(
        &mut self,
        settings: &Settings,
        identity: DirectoryIdentity,
        saved: Option<HardState>,
        reader: Arc<dyn LogReader>,
    ) -> Result<(), StorageError> {
        let base = reader.base();
        let last = match reader.point(self.core.last_written()) {
            Ok(Some(last)) => last,
            // The log was reset just before the disk was full.
            Ok(None) | Err(StorageError::Purged { .. }) => base.point,
            Err(error) => return Err(error),
        };
        let committed = if base.point.raft_index > self.committed.raft_index {
            base.point
        } else {
            self.committed
        };
        let hard_state =
            HardState { commit: committed.raft_index, ..saved.unwrap_or(self.core.hard_state()) };
        let recovered = Recovered {
            identity,
            hard_state,
            base,
            last,
            peers: Vec::new(),
            group_uid: self.core.group_uid(),
            corruption: Vec::new(),
        };
        let mut proposals = std::mem::take(&mut self.proposals);
        let lost = Some(())
            .filter(|()| self.members.is_sole_voter())
            .map(|()| proposals.drop_after(last.raft_index));
        // Responses to earlier read requests may still come, and must not be taken for responses to
        // new ones.
        let barriers = self.barriers.reset();
        let before = self.committed;
        let core = RaftCore::again(settings, &recovered, reader, &self.core);
        let mut anew = Replica {
            proposals,
            barriers,
            bound: self.bound,
            ..Replica::over(settings, &recovered, committed, core)
        };
        if saved.is_none() {
            anew.core.inherit_unsaved_term(&self.core);
        }
        let settled = std::mem::take(&mut self.effects);
        *self = anew;
        let is_settled = |effect: &Effect| {
            matches!(effect, Effect::GroupUid(_) | Effect::Resolve(_, ProposalOutcome::Dropped))
        };
        self.effects.extend(settled.into_iter().filter(is_settled));
        if committed != before {
            self.effects.push_back(Effect::Commit(committed));
        }
        self.effects.extend(
            lost.into_iter().flatten().map(|id| Effect::Resolve(id, ProposalOutcome::Dropped)),
        );
        Ok(())
    }
}
