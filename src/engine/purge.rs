//! Head truncation: a purge by a host, and the install of a snapshot.
//!
//! A segment is purged only once the batches after it are durable, and its file is deleted only
//! once the new base is durable. So a purge syncs first, then changes the base, and syncs that. The
//! files go without another append.

use super::Engine;
use super::requests::PendingPurge;
use super::work::Notice;
use crate::error::PurgeError;
use crate::pins::ReleasedPins;
use crate::reply::Reply;
use crate::retention::choose_below;
use crate::storage::{Base, Recovered, RepairAction, StorageError};

impl Engine {
    /// Resets the log to `base`, in front of the first batch that the leader keeps: the leader has
    /// purged the batches that this node lacks before it. Readers get
    /// [`Purged`](crate::ReadError::Purged) there, as after a purge.
    pub(super) fn move_forward(&mut self, base: &Base) {
        let (first, end) =
            (self.shared.reader.base().point.next_index, self.shared.watermark.end());
        let saved = self.save_group_uid();
        let (pins, reader) = (self.shared.pins.clone(), self.shared.reader.clone());
        let (written, released) =
            pins.begin_anew(&*reader, || saved.and_then(|()| self.storage.reset(base)));
        self.report_released(&released, "the node is moved forward past it");
        if written.is_ok() {
            self.inform(&format!(
                "moved forward: its log begins anew at entry {}, the first that its leader keeps; \
                 it had {first} to below {end}",
                base.point.next_index,
            ));
            // The receiver is gone only after a shutdown.
            let _ = self.work.roles.send(Notice::Moved(base.point.next_index));
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

    pub(super) fn check_purge(&self) -> Result<(), PurgeError> {
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
        let chosen = choose_below(index, &self.segments(), self.replica.hard_state().commit);
        self.remove(index, &chosen)
    }

    /// One step of a repair. It may begin the log anew.
    pub(super) fn repair_log(
        &mut self,
        action: RepairAction<'_>,
    ) -> Result<Recovered, StorageError> {
        let (pins, reader) = (self.shared.pins.clone(), self.shared.reader.clone());
        let before = reader.base().point.next_index;
        let (outcome, released) = pins.begin_anew(&*reader, || self.storage.repair(action));
        self.report_released(&released, "the damaged log begins anew behind it");
        let first = reader.base().point.next_index;
        if first > before {
            let _ = self.work.roles.send(Notice::Moved(first));
        }
        outcome
    }

    /// What a pin held is gone, and the pin is released.
    pub(super) fn report_released(&self, released: &ReleasedPins, why: &str) {
        for index in &released.indexes {
            self.warn(&format!("the pin at entry {index} is released: {why}"));
        }
    }
}
