//! What is durable, and how it becomes so.
//!
//! Every change of the log (an append, a save, a purge ..) has a number, counted from 1 in this
//! run. A sync captures the files that were changed, and the number of the newest change; when it
//! has succeeded, all changes up to that number are durable. What must wait for a change to be
//! durable (removing a file, sealing a segment, overwriting an old state) compares numbers.
//!
//! Invariants:
//! 1. `fdatasync` runs under one lock, and a failure poisons the log before that lock is given
//!    back. So an error that the kernel reports once is never missed by a second sync of the same
//!    file.
//! 2. `Durable::synced` is never above what a crash would leave. Cutting the log lowers it and
//!    begins a new era; a sync that was begun in an older era does not raise it again.

use std::sync::Arc;

use super::error::{broken, failed};
use super::format::DurablePoint;
use super::fs::{Disk, DiskFile};
use super::maps::Maps;
use super::metadata::{STATE_NAME, write_watermark};
use super::spare::Spares;
use crate::log_prefix::log_prefix;
use crate::primitives::{Mutex, OnceLock};
use crate::storage::{PendingSync, StorageError};

/// What the writer, its syncs and its chores have in common. Whoever holds it keeps the directory
/// locked.
pub(super) struct LogShared<D: Disk> {
    pub(super) disk: Arc<D>,
    pub(super) directory: u128,
    pub(super) state: Arc<D::File>,
    pub(super) spares: Spares<D>,
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
    epoch: u64,
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

    /// Fails once anything has failed for good.
    pub(super) fn check_poison(&self) -> Result<(), StorageError> {
        self.poison.get().map_or(Ok(()), |reason| Err(StorageError::Poisoned(reason.clone())))
    }

    /// Refuses every later write and sync because of `error`, which is given back.
    pub(super) fn poison(&self, error: StorageError) -> StorageError {
        if self.poison.set(error.to_string()).is_ok() {
            let path = self.disk.path("");
            log::error!("{}{} takes no more writes: {error}", log_prefix(), path.display());
        }
        error
    }

    pub(super) fn durable(&self) -> Durable {
        *self.durable.lock()
    }

    /// The log is being cut behind `place`, or begun anew there: no more than that can still be
    /// counted as durable.
    pub(super) fn lower_durable(&self, place: DurablePoint) {
        let mut durable = self.durable.lock();
        if durable.synced.raft_index > place.raft_index {
            durable.synced = place;
        }
        durable.epoch += 1;
    }

    /// Runs `sync` while no other sync runs. Its failure is final.
    pub(super) fn with_sync_lock(
        &self,
        sync: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let _syncing = self.syncing.lock();
        self.check_poison()?;
        sync().map_err(|error| {
            if planted!("a failed sync is not final") { error } else { self.poison(error) }
        })
    }
}

/// Something that has been changed and not yet synced.
pub(super) struct Dirty<D: Disk> {
    pub(super) what: Target<D>,
    /// The number of the newest change to it.
    pub(super) change: u64,
}

pub(super) enum Target<D: Disk> {
    Metadata,
    Segment {
        name: String,
        file: Arc<D::File>,
    },
    /// Names: files that were created, renamed or removed.
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
            Target::Names if planted!("names are not synced") => Ok(()),
            Target::Metadata if planted!("votes are not synced") => Ok(()),
            Target::Metadata => shared.state.sync_data(),
            Target::Segment { file, .. } => file.sync_data(),
            Target::Names => shared.disk.sync_dir(),
        };
        let done = if planted!("a failed sync is tried again") {
            sync().or_else(|_| sync())
        } else {
            sync()
        };
        // A full disk at this point is no better than a broken one: some of what was written is not
        // there.
        done.map_err(|error| broken(&*shared.disk, "sync", self.name(), error))?;
        self.check_name(shared)
    }

    /// What is durable in a file that has no name is lost all the same: somebody else removed it,
    /// or all of the directory.
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
            Err(error) => Err(broken(disk, "look for", name, error)),
        }
    }
}

/// A sync under way.
pub(super) struct SegmentSync<D: Disk> {
    pub(super) shared: Arc<LogShared<D>>,
    pub(super) dirty: Vec<Dirty<D>>,
    /// What will be durable.
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
        let dirty =
            if planted!("acknowledged before it is synced") { &[] } else { &self.dirty[..] };
        for dirty in dirty.iter().filter(|dirty| dirty.change > already.change) {
            dirty.what.sync(&self.shared)?;
        }
        let mut durable = self.shared.durable.lock();
        durable.change = durable.change.max(self.change);
        if (durable.epoch == self.epoch || planted!("a sync speaks for what was cut off"))
            && self.synced.raft_index > durable.synced.raft_index
        {
            durable.synced = self.synced;
            drop(durable);
            self.witness()?;
        }
        Ok(())
    }

    /// Leaves a note of how far the log is durable, for a recovery that finds less.
    fn witness(&self) -> Result<(), StorageError> {
        let written = write_watermark(&*self.shared.state, self.shared.directory, self.synced);
        written.map_err(|error| failed(&*self.shared.disk, "write", STATE_NAME, error))
    }
}

impl<D: Disk> PendingSync for SegmentSync<D> {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        self.shared.with_sync_lock(|| self.run())
    }
}
