//! Head truncation: a purge by a host, and the install of a snapshot.
//!
//! A segment is purged only once the batches after it are durable, and its file is deleted only
//! once the new base is durable. So a purge syncs first, then changes the base, and syncs that. The
//! files go without another append.

use super::Engine;
use super::requests::PendingPurge;
use crate::error::PurgeError;
use crate::reply::Reply;
use crate::storage::Base;

impl Engine {
    /// Resets the log to `base`, in front of the first batch that the leader keeps: the leader has
    /// purged the batches that this node lacks before it. Readers get
    /// [`Purged`](crate::ReadError::Purged) there, as after a purge.
    pub(super) fn move_forward(&mut self, base: &Base) {
        let (first, end) =
            (self.shared.reader.base().point.next_index, self.shared.watermark.end());
        let written = self.save_group_uid().and_then(|()| self.storage.reset(base));
        if written.is_ok() {
            self.inform(&format!(
                "moved forward: its log begins anew at entry {}, the first that its leader keeps; \
                 it had {first} to below {end}",
                base.point.next_index,
            ));
        }
        self.after_write(written, None);
    }

    /// Purges at once if a sync of all writes was begun. Otherwise syncs first.
    pub(super) fn begin_purge(&mut self, index: u64, reply: Reply<Result<u64, PurgeError>>) {
        if !self.dirty || self.check_purge().is_err() {
            return reply.send(self.purge(index));
        }
        self.begin_sync(0);
        self.purges.push(PendingPurge { sync: self.syncs, index, reply });
    }

    /// Carries out the purges that waited for this sync.
    pub(super) fn end_purges(&mut self, sync: u64) {
        for purge in self.purges.extract_if(.., |purge| purge.sync <= sync).collect::<Vec<_>>() {
            purge.reply.send(self.purge(purge.index));
        }
    }

    /// Rejects all waiting purges.
    pub(super) fn refuse_purges(&mut self) {
        let refusal = self.check_purge().err().unwrap_or(PurgeError::Stopped);
        for purge in std::mem::take(&mut self.purges) {
            purge.reply.send(Err(refusal.clone()));
        }
    }

    fn check_purge(&self) -> Result<(), PurgeError> {
        match (&self.fault, self.suspension_reason()) {
            _ if self.stopped => Err(PurgeError::Stopped),
            (Some(reason), _) => Err(PurgeError::Failed { reason: reason.clone() }),
            (_, Some(reason)) => Err(PurgeError::Failed { reason }),
            (None, None) => Ok(()),
        }
    }

    /// Purges the log below `index`, as far as it is committed, in whole segments. Returns the
    /// first index that is kept.
    fn purge(&mut self, index: u64) -> Result<u64, PurgeError> {
        self.check_purge()?;
        let before = self.shared.reader.base();
        let commit = self.replica.hard_state().commit;
        match self.save_group_uid().and_then(|()| self.storage.purge(index, commit)) {
            Ok(()) => {}
            Err(error) if error.is_temporary() => return Err(error.into()),
            Err(error) => {
                self.storage_failed(error.clone(), None);
                return Err(error.into());
            }
        }
        let base = self.shared.reader.base();
        let first = base.point.next_index;
        if base != before {
            self.report_purged(before.point.next_index, first);
            self.begin_sync(0);
            self.replica.handle_purged(base);
        }
        Ok(first)
    }
}
