//! Work that the engine hands to other threads: syncs, background tasks and changes of the status.

use crate::primitives::channel::Sender;
use crate::role::Status;
use crate::storage::{BackgroundTask, PendingSync};

/// Names a sync. A replica that was begun anew counts from the start: its life tells its syncs from
/// those of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SyncId {
    pub(super) epoch: u64,
    pub(super) number: u64,
    /// Which sync of this engine it is, from 1, whoever asked for it.
    pub(super) count: u64,
}

impl SyncId {
    /// Of one sync that does for this one and `newer`.
    pub(crate) fn with(self, newer: SyncId) -> SyncId {
        let (epoch, number) = (self.epoch, self.number).max((newer.epoch, newer.number));
        SyncId { epoch, number, count: newer.count }
    }

    #[cfg(all(test, loom))]
    pub(crate) fn of(number: u64) -> SyncId {
        SyncId { epoch: 0, number, count: number }
    }
}

/// A sync for another thread to wait for; the outcome comes back as [`Input::Synced`].
pub(crate) struct SyncJob {
    pub(crate) number: SyncId,
    pub(crate) pending: Box<dyn PendingSync>,
}

/// Where the engine hands work that others do. Unbounded, and little: a sync at a time matters,
/// chores and role changes are rare.
pub(crate) struct WorkSenders {
    pub(crate) syncs: Sender<SyncJob>,
    pub(crate) background_tasks: Sender<BackgroundTask>,
    pub(crate) roles: Sender<Status>,
}
