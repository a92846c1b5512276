//! The unique id of the group: see [`Effect::GroupUid`] and the [`adapter`](super::adapter).

use super::{Effect, Replica};

impl Replica {
    /// Looks for the id in what is committed.
    pub(super) fn learn_group_uid(&mut self) {
        if let Some(uid) = self.core.learn_group_uid(self.committed.raft_index) {
            self.effects.push_back(Effect::GroupUid(uid));
        }
    }

    /// The id that comes with a snapshot.
    pub(super) fn take_group_uid(&mut self, uid: u128) {
        if let Some(uid) = self.core.take_group_uid(uid) {
            self.effects.push_back(Effect::GroupUid(uid));
        }
    }

    /// Whether the log names the group, in a batch that is not committed yet.
    pub(crate) fn awaits_group_uid(&mut self) -> bool {
        !self.failed && self.core.awaits_group_uid()
    }
}
