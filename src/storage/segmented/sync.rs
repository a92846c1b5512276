//! Syncs: what is durable, and how it becomes so.
//!
//! Every change of the log (an append, a save, a purge ..) has a number, counted from 1 in each
//! run. A sync captures the files that were changed, and the number of the last change; when it
//! succeeds, all changes up to that number are durable. Work that must wait for a change to be
//! durable (removing a file, sealing a segment, overwriting an old state) compares numbers.
//!
//! Invariants:
//! 1. `fdatasync` runs under one lock, and a failure poisons the log before the lock is released.
//!    So an error that the kernel reports once is not missed by a second sync of the same file.
//! 2. `Durable::synced` is never above what a crash would leave. Truncating the log lowers it and
//!    begins a new epoch; a sync that was begun in an older epoch does not raise it again.

use std::sync::Arc;

use super::error::{broken, failed};
use super::format::DurablePoint;
use super::fs::{Disk, DiskFile};
use super::log_shared::LogShared;
use super::metadata::{STATE_NAME, write_watermark};
use crate::storage::{PendingSync, StorageError};

/// Something that was changed and is not synced yet.
pub(super) struct Dirty<D: Disk> {
    pub(super) target: Target<D>,
    /// The number of the last change to it.
    pub(super) change: u64,
}

pub(super) enum Target<D: Disk> {
    Metadata,
    Segment {
        name: String,
        file: Arc<D::File>,
    },
    /// The directory: files that were created, renamed or removed.
    Names,
}

impl<D: Disk> Clone for Target<D> {
    fn clone(&self) -> Self {
        match self {
            Target::Metadata => Target::Metadata,
            Target::Segment { name, file } => {
                Target::Segment { name: name.clone(), file: file.clone() }
            }
            Target::Names => Target::Names,
        }
    }
}

impl<D: Disk> PartialEq for Target<D> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Target::Metadata, Target::Metadata) | (Target::Names, Target::Names) => true,
            (Target::Segment { file, .. }, Target::Segment { file: other, .. }) => {
                Arc::ptr_eq(file, other)
            }
            _ => false,
        }
    }
}

impl<D: Disk> Target<D> {
    /// The name of the file. None for the directory.
    fn name(&self) -> &str {
        match self {
            Target::Metadata => STATE_NAME,
            Target::Segment { name, .. } => name,
            Target::Names => "",
        }
    }

    pub(super) fn sync(&self, shared: &LogShared<D>) -> Result<(), StorageError> {
        let sync = || match self {
            Target::Metadata => shared.state.sync_data(),
            Target::Segment { file, .. } => file.sync_data(),
            Target::Names => shared.disk.sync_dir(),
        };
        let done = sync();
        // An error of a sync is final, a full disk included: some of what was written is not there.
        done.map_err(|error| broken(&*shared.disk, "sync", self.name(), error))?;
        self.check_name(shared)
    }

    /// A durable file without a name is lost too: another process removed it, or the whole
    /// directory.
    fn check_name(&self, shared: &LogShared<D>) -> Result<(), StorageError> {
        let (disk, name) = (&*shared.disk, self.name());
        let held = match self {
            Target::Metadata => disk.holds(name, &shared.state),
            Target::Segment { file, .. } => disk.holds(name, file),
            Target::Names => Ok(true),
        };
        match held {
            Ok(true) => Ok(()),
            Ok(false) => Err(StorageError::Removed { path: disk.path(name) }),
            Err(error) => Err(broken(disk, "check the name of", name, error)),
        }
    }
}

/// A sync that was begun.
pub(super) struct SegmentSync<D: Disk> {
    pub(super) shared: Arc<LogShared<D>>,
    pub(super) dirty: Vec<Dirty<D>>,
    /// The last change that will be durable.
    change: u64,
    synced: DurablePoint,
    epoch: u64,
}

impl<D: Disk> SegmentSync<D> {
    pub(super) fn new(
        shared: Arc<LogShared<D>>,
        dirty: Vec<Dirty<D>>,
        change: u64,
        synced: DurablePoint,
    ) -> SegmentSync<D> {
        let epoch = shared.durable().epoch;
        SegmentSync { shared, dirty, change, synced, epoch }
    }

    fn run(&self) -> Result<(), StorageError> {
        let already = self.shared.durable();
        let dirty = &self.dirty[..];
        for dirty in dirty.iter().filter(|dirty| dirty.change > already.change) {
            dirty.target.sync(&self.shared)?;
        }
        if self.shared.raise_durable(self.change, self.synced, self.epoch) {
            self.write_watermark()?;
        }
        Ok(())
    }

    /// Writes how far the log is durable: evidence for a recovery that finds less.
    fn write_watermark(&self) -> Result<(), StorageError> {
        let written = write_watermark(&*self.shared.state, self.shared.directory, self.synced);
        written.map_err(|error| failed(&*self.shared.disk, "write", STATE_NAME, error))
    }
}

impl<D: Disk> PendingSync for SegmentSync<D> {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        self.shared.with_sync_lock(|| self.run())
    }
}
