//! The default storage, as a host uses it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::disk_log::DiskLog;
use super::options::SegmentOptions;
use crate::entry::NodeId;
use crate::storage::{
    BackgroundTask, BackupError, Base, Batch, DirectoryIdentity, DiskProbe, HardState, LogOwner,
    LogReader, PendingBackup, PendingSync, Recovered, RepairAction, SegmentInfo, Storage,
    StorageError,
};

/// The default storage: a log in the segment files of one directory.
///
/// Batches are appended to files of fixed length, and read from them without copying. What was
/// synced survives a power cut; torn writes are cut off; corruption is reported with file and
/// offset, never cut, and can be repaired. Opening verifies every byte of what is not yet sealed;
/// sealed segments are verified as they are read.
///
/// # What is assumed of the disk
/// `fdatasync` returns when the data is durable; a sector of 512 bytes is written as a whole or
/// not at all; `rename` is atomic, and durable once the directory is synced. Nothing is assumed
/// of the order in which unsynced writes arrive.
///
/// # Limits
/// One process at a time, ensured by a lock on the directory and on the file `state` in it. Closing
/// the log releases it, whatever children the process has; of a process that was killed, forked
/// children that have not called `exec` keep it until they end. On a network file system it is as
/// good as `flock` is there. If another process removes or replaces a file of the log, the next
/// sync of it fails, before what was written to it counts: [`StorageError::Removed`]. A segment
/// that this process wrote takes 16 bytes of memory for each batch until it is sealed; a sealed one
/// takes some 400 bytes. At most [`SegmentOptions::mapped_segments_max`] sealed segments are
/// mapped, in addition to those that an [`Entry`](crate::Entry) or [`Batch`] points into. At most
/// 16 files are open. Members and peers together must fit a page of 4 KiB: 100 of each do. A batch
/// is at most 4 GiB. Background tasks ([`Storage::next_task`]) should be run: without them nothing
/// is lost, but syncs are slower, nothing is removed, and opening takes longer.
pub struct SegmentedLog(DiskLog);

impl SegmentedLog {
    /// A log in `dir`, which is resolved, and created if it is missing and
    /// [`Create`](super::Create) allows it, when the log is opened; its parent is never created.
    /// From then on the log stays in that directory, whatever becomes of its name. Touches no file.
    pub fn new(dir: impl Into<PathBuf>, options: SegmentOptions) -> SegmentedLog {
        SegmentedLog(DiskLog::new(dir, options))
    }

    /// A log that is placed already: in the directory of a host.
    pub(super) fn of(log: DiskLog) -> SegmentedLog {
        SegmentedLog(log)
    }
}

// Nothing else would notice a missing method that has a default.
#[warn(clippy::missing_trait_methods)]
impl Storage for SegmentedLog {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        self.0.open(owner)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.0.reader()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.0.append(batches, commit)
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.0.save_hard_state(hard_state)
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.0.reset(base)
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.0.purge(index, commit)
    }

    fn pass_time(&mut self, open_for: Duration, unix_ms: u64) {
        self.0.pass_time(open_for, unix_ms);
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.0.segments()
    }

    fn close_segment(&mut self) -> Result<(), StorageError> {
        self.0.close_segment()
    }

    fn disk_probe(&self) -> Option<DiskProbe> {
        self.0.disk_probe()
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.0.save_peer(peer, directory)
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        self.0.set_complete(complete)
    }

    fn save_group_uid(&mut self, uid: u128) -> Result<(), StorageError> {
        self.0.save_group_uid(uid)
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        self.0.begin_sync()
    }

    fn repair(&mut self, repair_action: RepairAction<'_>) -> Result<Recovered, StorageError> {
        self.0.repair(repair_action)
    }

    fn begin_backup(&mut self, commit: u64) -> Result<Box<dyn PendingBackup>, BackupError> {
        self.0.begin_backup(commit)
    }

    fn is_behind(&self) -> bool {
        self.0.is_behind()
    }

    fn next_task(&mut self) -> Option<BackgroundTask> {
        self.0.next_task()
    }
}

impl fmt::Debug for SegmentedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
