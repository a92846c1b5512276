//! What the writer, its syncs and its background tasks share: the open files, the durable point,
//! and the error that ended the log.

use std::sync::Arc;

use super::format::DurablePoint;
use super::fs::Disk;
use super::segment::Maps;
use super::spare::Spares;
use crate::log_prefix::log_prefix;
use crate::primitives::{Mutex, OnceLock};
use crate::storage::StorageError;

/// Shared by the writer, its syncs and its background tasks. While it is held, the directory stays
/// locked.
pub(super) struct LogShared<D: Disk> {
    pub(super) disk: Arc<D>,
    pub(super) directory: u128,
    pub(super) state: Arc<D::File>,
    pub(super) spares: Spares,
    pub(super) maps: Arc<Maps<D>>,
    poison: OnceLock<String>,
    syncing: Mutex<()>,
    durable: Mutex<Durable>,
    _lock: D::Lock,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Durable {
    /// All changes up to this number are durable.
    pub(super) change: u64,
    /// How far the log is durable.
    pub(super) synced: DurablePoint,
    /// How often the log was truncated.
    pub(super) epoch: u64,
}

impl<D: Disk> LogShared<D> {
    pub(super) fn new(
        disk: Arc<D>,
        directory: u128,
        state: Arc<D::File>,
        maps: Arc<Maps<D>>,
        synced: DurablePoint,
        lock: D::Lock,
    ) -> LogShared<D> {
        LogShared {
            disk,
            directory,
            state,
            spares: Spares::default(),
            maps,
            poison: OnceLock::new(),
            syncing: Mutex::new(()),
            durable: Mutex::new(Durable { synced, ..Durable::default() }),
            _lock: lock,
        }
    }

    /// Fails after any final error.
    pub(super) fn check_poison(&self) -> Result<(), StorageError> {
        self.poison.get().map_or(Ok(()), |reason| Err(StorageError::Poisoned(reason.clone())))
    }

    /// Makes every later write and sync fail because of `error`, and returns it.
    pub(super) fn poison(&self, error: StorageError) -> StorageError {
        if self.poison.set(error.to_string()).is_ok() {
            let path = self.disk.path("");
            log::error!("{}{} accepts no more writes: {error}", log_prefix(), path.display());
        }
        error
    }

    pub(super) fn durable(&self) -> Durable {
        *self.durable.lock()
    }

    /// The log is being truncated behind `point`, or begins there anew: no more than that counts as
    /// durable.
    pub(super) fn lower_durable(&self, point: DurablePoint) {
        let mut durable = self.durable.lock();
        if durable.synced.raft_index > point.raft_index {
            durable.synced = point;
        }
        durable.epoch += 1;
    }

    /// All changes up to `change` are durable now, and if the log was not truncated since `epoch`,
    /// so is the log up to `synced`. Whether that raised the durable point.
    pub(super) fn raise_durable(&self, change: u64, synced: DurablePoint, epoch: u64) -> bool {
        let mut durable = self.durable.lock();
        durable.change = durable.change.max(change);
        let is_raised = durable.epoch == epoch && synced.raft_index > durable.synced.raft_index;
        if is_raised {
            durable.synced = synced;
        }
        is_raised
    }

    /// Runs `sync` while no other sync runs. A failure is final.
    pub(super) fn with_sync_lock(
        &self,
        sync: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let _syncing = self.syncing.lock();
        self.check_poison()?;
        sync().map_err(|error| self.poison(error))
    }
}
