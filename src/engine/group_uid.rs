//! The unique id of the group: saved once it is committed and durable here, and told to peers and
//! hosts once that is durable too.
//!
//! Under an asynchronous flush policy what is committed may be lost with the power. So the log is
//! synced before the id is saved: a node that has lost the batch has not kept its id.

use super::Engine;
use crate::storage::StorageError;

impl Engine {
    /// The id is committed.
    pub(super) fn find_group_uid(&mut self, uid: u128) {
        self.begin_sync(0);
        self.group_uid.found = Some((uid, self.syncs));
    }

    /// The sync of this number has succeeded.
    pub(super) fn sync_group_uid(&mut self, sync: u64) {
        if self.group_uid.found.is_some_and(|(_, found)| found <= sync) {
            self.try_to_save_group_uid();
        }
        if let Some((uid, _)) = self.group_uid.untold.take_if(|(_, saved)| *saved <= sync) {
            self.shared.status.change(|status| status.group_uid = Some(uid));
            self.transport.set_group_uid(uid);
            self.inform(&format!("the unique id of its group is {uid:032x}"));
        }
    }

    /// Tries again what failed for a temporary reason.
    pub(super) fn tick_group_uid(&mut self) {
        if self.group_uid.found.is_some_and(|(_, sync)| sync == 0) && self.repair.is_none() {
            self.try_to_save_group_uid();
        }
    }

    fn try_to_save_group_uid(&mut self) {
        match self.save_group_uid() {
            Ok(()) => {}
            Err(error) if error.is_temporary() => {
                self.group_uid.found.iter_mut().for_each(|(_, sync)| *sync = 0);
            }
            Err(error) => self.fail(&format!("the id of its group could not be saved: {error}")),
        }
    }

    /// Saves the id, if it is known and was not saved yet. Called before the batch that names the
    /// group is given up.
    pub(super) fn save_group_uid(&mut self) -> Result<(), StorageError> {
        let Some((uid, _)) = self.group_uid.found else { return Ok(()) };
        self.storage.save_group_uid(uid)?;
        self.group_uid.found = None;
        self.begin_sync(0);
        self.group_uid.untold = Some((uid, self.syncs));
        Ok(())
    }

    /// Whether the id is about to be known, and not durable yet.
    pub(super) fn awaits_group_uid(&mut self) -> bool {
        self.group_uid.found.is_some()
            || self.group_uid.untold.is_some()
            || self.replica.awaits_group_uid()
    }
}
