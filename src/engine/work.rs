//! Work that the engine hands to other threads: syncs, background tasks and changes of the status.

use crate::primitives::channel::Sender;
use crate::role::Status;
use crate::storage::{BackgroundTask, PendingSync};

/// Id of a sync. A restarted replica counts its syncs from the start. The epoch tells them from
/// those before the restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SyncId {
    pub(super) epoch: u64,
    pub(super) number: u64,
    /// Count of all syncs of this engine, from 1.
    pub(super) count: u64,
}

impl SyncId {
    /// The id of one sync that covers this one and `newer`.
    pub(crate) fn with(self, newer: SyncId) -> SyncId {
        let (epoch, number) = (self.epoch, self.number).max((newer.epoch, newer.number));
        SyncId { epoch, number, count: newer.count }
    }

    #[cfg(all(test, loom))]
    pub(crate) fn of(number: u64) -> SyncId {
        SyncId { epoch: 0, number, count: number }
    }
}

/// A sync for another thread to wait for. Its outcome comes back as [`Input::Synced`].
///
/// [`Input::Synced`]: super::Input::Synced
pub(crate) struct SyncJob {
    pub(crate) number: SyncId,
    pub(crate) pending: Box<dyn PendingSync>,
}

/// What observers of the host are told, in order.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    /// Role, term or leader has changed.
    Role(Box<Status>),
    /// The log begins anew at this index: the node was moved forward.
    Moved(u64),
}

/// The queues for work of other threads. Unbounded, but short: a sync covers all syncs queued
/// before it, and background tasks and role changes are rare.
pub(crate) struct WorkSenders {
    pub(crate) syncs: Sender<SyncJob>,
    pub(crate) background_tasks: Sender<BackgroundTask>,
    pub(crate) roles: Sender<Notice>,
}
