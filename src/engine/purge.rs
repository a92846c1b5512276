//! Giving up the head of the log: at the wish of a host, or all of it, to begin anew at the
//! leader's first retained entry.
//!
//! A segment goes only once what follows it is durable, and its file only once it is durable that
//! the log does without it. So a purge syncs what was not synced yet, changes the state, and syncs
//! that: nobody need append for the files to go.

use super::Engine;
use super::requests::PendingPurge;
use crate::error::PurgeError;
use crate::reply::Reply;
use crate::storage::Base;

impl Engine {
    /// Begins the log anew at `base`, the first batch that the leader keeps: what this node still
    /// lacked before it is kept by nobody that could send it. Readers there find
    /// [`Purged`](crate::ReadError::Purged), as after a purge.
    pub(super) fn move_forward(&mut self, base: &Base) {
        let (first, end) =
            (self.shared.reader.base().point.next_index, self.shared.watermark.end());
        let written = self.storage.reset(base);
        if written.is_ok() {
            self.inform(&format!(
                "moved forward: its log begins anew at entry {}, the first that its leader keeps; \
                 it had {first} to below {end}",
                base.point.next_index,
            ));
        }
        self.after_write(written, None);
    }

    /// Purges at once if all that was written is being synced, or else when it is durable.
    pub(super) fn begin_purge(&mut self, index: u64, reply: Reply<Result<u64, PurgeError>>) {
        if !self.dirty || self.check_purge().is_err() {
            return reply.send(self.purge(index));
        }
        self.begin_sync(0);
        self.purges.push(PendingPurge { sync: self.syncs, index, reply });
    }

    /// Purges what waited for this sync.
    pub(super) fn end_purges(&mut self, sync: u64) {
        for purge in self.purges.extract_if(.., |purge| purge.sync <= sync).collect::<Vec<_>>() {
            purge.reply.send(self.purge(purge.index));
        }
    }

    /// This node purges no more.
    pub(super) fn refuse_purges(&mut self) {
        let refusal = self.check_purge().err().unwrap_or(PurgeError::Stopped);
        for purge in std::mem::take(&mut self.purges) {
            purge.reply.send(Err(refusal.clone()));
        }
    }

    fn check_purge(&self) -> Result<(), PurgeError> {
        match (&self.fault, self.why_it_stands_still()) {
            _ if self.stopped => Err(PurgeError::Stopped),
            (Some(reason), _) => Err(PurgeError::Failed { reason: reason.clone() }),
            (_, Some(reason)) => Err(PurgeError::Failed { reason }),
            (None, None) => Ok(()),
        }
    }

    /// Gives up the log below `index`, as far as it is committed and whole segments allow. Returns
    /// the first index that is kept.
    fn purge(&mut self, index: u64) -> Result<u64, PurgeError> {
        self.check_purge()?;
        let before = self.shared.reader.base();
        match self.storage.purge(index, self.replica.hard_state().commit) {
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
            self.tell_purged(before.point.next_index, first);
            self.begin_sync(0);
            self.replica.handle_purged(base);
        }
        Ok(first)
    }
}
