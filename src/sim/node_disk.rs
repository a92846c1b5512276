//! Disk of a node. It outlives the processes of the node, which may crash between any two calls.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use super::crash_point::CrashPoint;
use super::rng::Rng;
use super::time::{MS, Micros};
use crate::storage::segmented::DiskLog;
use crate::storage::segmented::fs::{Disk, DiskFile};
use crate::storage::segmented::testing::simulated_disk::{
    CallFailure, CallFault, CallKind, DiskImage, SimulatedDisk, SimulatedFile, SimulatedLock,
    SimulatedMap,
};
use crate::storage::{DiskUse, LogOwner, LogPoint, SegmentOptions, Storage, StorageError};

/// Disk of a node: see the [module](self).
pub(super) struct NodeDisk {
    disk: SimulatedDisk,
    options: SegmentOptions,
    /// Other users of the file system have taken all free space.
    is_full: bool,
    /// A copy of an earlier state of the disk.
    backup: Option<DiskImage>,
    /// Other parts of its process have taken all file descriptors.
    pub(super) lacks_descriptors: bool,
    /// Bytes that it reads in a millisecond. `None`: reads take no time.
    pub(super) read_rate: Option<u64>,
    /// The most bytes read in one turn of an engine.
    pub(super) most_read: u64,
}

impl NodeDisk {
    pub(super) fn new(seed: u64, options: SegmentOptions) -> NodeDisk {
        NodeDisk {
            disk: SimulatedDisk::new(seed),
            options,
            is_full: false,
            backup: None,
            lacks_descriptors: false,
            read_rate: None,
            most_read: 0,
        }
    }

    /// Takes a backup of a disk that is not in use.
    pub(super) fn back_up(&mut self) {
        self.backup = Some(self.disk.image());
    }

    /// The disk of a running process, as it is now.
    pub(super) fn image(&self) -> DiskImage {
        self.disk.image()
    }

    /// Takes this image for the backup.
    pub(super) fn set_backup(&mut self, image: DiskImage) {
        self.backup = Some(image);
    }

    pub(super) fn is_backed_up(&self) -> bool {
        self.backup.is_some()
    }

    /// Replaces the disk by one with its backup, or by an empty one. Returns whether there was a
    /// backup.
    pub(super) fn replace(&mut self, seed: u64) -> bool {
        let backup = self.backup.take();
        let is_backup = backup.is_some();
        self.disk = backup
            .map_or_else(|| SimulatedDisk::new(seed), |backup| SimulatedDisk::with(backup, seed));
        self.set_full(self.is_full);
        is_backup
    }

    /// The process begins to use the disk: from here on it may lack descriptors. Checks of the
    /// simulation never do.
    pub(super) fn begin_work(&self) {
        self.disk.take_bytes_read();
        self.disk.set_poor(self.lacks_descriptors);
    }

    pub(super) fn end_work(&self) {
        self.disk.set_poor(false);
    }

    /// The time of the reads since the work began. The process waits for them.
    pub(super) fn time_to_read(&mut self) -> Micros {
        let bytes = self.disk.take_bytes_read();
        self.most_read = self.most_read.max(bytes);
        self.read_rate.map_or(0, |rate| bytes * MS / rate)
    }

    /// A storage on this disk, for the next process.
    pub(super) fn storage(&self, crash_point: &CrashPoint) -> Box<dyn Storage> {
        Box::new(DiskLog::on(
            CrashableDisk { disk: self.disk.clone(), crash_point: crash_point.clone() },
            self.options,
        ))
    }

    /// Whether a log opened after a power cut now (or only a crash of the process) would hold the
    /// batch of this log point, or begin after it.
    pub(super) fn would_hold(&self, point: &LogPoint, owner: &LogOwner, power_cut: bool) -> bool {
        let mut log = DiskLog::on(self.disk.as_found_after(power_cut), self.options);
        let Ok(recovered) = log.open(owner) else { return false };
        recovered.base.point.raft_index > point.raft_index
            || matches!(log.reader().point(point.raft_index), Ok(Some(found)) if found == *point)
    }

    /// The process has ended. The unsynced writes are still in the page cache; the rest of the
    /// cache is dropped.
    pub(super) fn kill(&mut self) {
        self.disk = self.disk.kill();
        self.disk.evict();
    }

    /// As `kill`, after a failed sync. The cache still shows the lost writes, unless `evicts`.
    pub(super) fn kill_after_failure(&mut self, evicts: bool) {
        self.disk = self.disk.kill();
        if evicts {
            self.disk.evict();
        }
    }

    /// Whether the file system still takes changes.
    pub(super) fn is_writable(&self) -> bool {
        !self.disk.is_read_only()
    }

    /// Some writes find the disk full, even of allocated bytes, as on a file system that never
    /// writes in place.
    pub(super) fn reject_writes(&self, rng: &mut Rng) {
        let then = CallFailure::Error(io::ErrorKind::StorageFull);
        self.disk.plan(CallFault {
            on: CallKind::Write,
            after: rng.below(8),
            times: rng.between(1, 4),
            then,
        });
    }

    /// Unsynced writes may be lost. If `is_thorough`, all of them are.
    pub(super) fn cut_power(&mut self, is_thorough: bool) {
        self.disk = if is_thorough { self.disk.crash_keeping_nothing() } else { self.disk.crash() };
        self.set_full(self.is_full);
    }

    /// Flips a bit or scrambles a sector of a segment, if `is_detected` when a log is opened on a
    /// copy. Returns whether it did.
    pub(super) fn corrupt(
        &mut self,
        rng: &mut Rng,
        mut is_detected: impl FnMut(&mut dyn Storage) -> bool,
    ) -> bool {
        let Ok(mut names) = self.disk.list() else { return false };
        names.retain(|name| name.ends_with(".seg"));
        names.sort();
        for _ in 0..8 {
            if names.is_empty() {
                return false;
            }
            let name =
                names[names.len() - 1 - rng.below(2.min(names.len() as u64)) as usize].clone();
            let bits: Vec<u64> = match rng.below(3) {
                0 => {
                    let sector = rng.below(self.disk.bytes_of(&name) / 512 + 1) * 512 * 8;
                    (0..512).map(|byte| sector + byte * 8 + rng.below(8)).collect()
                }
                _ => vec![rng.below(self.disk.bytes_of(&name).max(1)) * 8 + rng.below(8)],
            };
            let flip = |disk: &SimulatedDisk| {
                bits.iter()
                    .filter(|bit| **bit / 8 < disk.bytes_of(&name))
                    .for_each(|bit| disk.flip(&name, *bit))
            };
            let copy = SimulatedDisk::with(self.disk.image(), rng.next());
            flip(&copy);
            if is_detected(&mut DiskLog::on(copy, self.options)) {
                flip(&self.disk);
                return true;
            }
        }
        false
    }

    /// Where a segment holds these bytes.
    pub(super) fn find(&self, wanted: &[u8]) -> Option<(String, u64)> {
        let names = self.disk.list().ok()?.into_iter().filter(|name| name.ends_with(".seg"));
        names.into_iter().find_map(|name| {
            let mut bytes = vec![0; self.disk.bytes_of(&name) as usize];
            self.disk.open(&name).ok()?.read_at(&mut bytes, 0).ok()?;
            let at = bytes.windows(wanted.len()).position(|window| window == wanted)?;
            Some((name, at as u64))
        })
    }

    pub(super) fn flip(&self, name: &str, bit: u64) {
        self.disk.flip(name, bit);
    }

    pub(super) fn fail_next_sync(&self) {
        self.disk.plan(CallFault {
            on: CallKind::Sync,
            after: 0,
            times: 1,
            then: CallFailure::Error(io::ErrorKind::Other),
        });
    }

    /// One of the next calls of some kind fails, or writes only a part. Returns whether it fails.
    pub(super) fn fail_some_call(&self, rng: &mut Rng) -> bool {
        let on = *rng.pick(&[
            CallKind::Write,
            CallKind::Write,
            CallKind::Sync,
            CallKind::SyncDir,
            CallKind::Allocate,
            CallKind::Create,
            CallKind::Rename,
            CallKind::Remove,
        ]);
        let failures = [
            CallFailure::Error(io::ErrorKind::Other),
            CallFailure::Error(io::ErrorKind::StorageFull),
        ];
        let then = if on == CallKind::Write && rng.percent(50) {
            CallFailure::Short
        } else {
            *rng.pick(&failures)
        };
        self.disk.plan(CallFault { on, after: rng.below(8), times: 1, then });
        !matches!(then, CallFailure::Short)
    }

    /// Number of segments that were begun since the last crash.
    pub(super) fn segments_begun(&self) -> u64 {
        self.disk.count(CallKind::Rename)
    }

    /// Whether a planned failure has happened.
    pub(super) fn has_failed(&self) -> bool {
        self.disk.has_failed()
    }

    pub(super) fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
        if !is_full {
            self.disk.spare(CallKind::Write);
        }
        self.disk.set_room(is_full.then(|| self.disk.taken()));
    }
}

/// Disk of a process that may crash at any call.
#[derive(Debug)]
struct CrashableDisk {
    disk: SimulatedDisk,
    crash_point: CrashPoint,
}

impl Disk for CrashableDisk {
    type File = CrashableFile;
    type Lock = SimulatedLock;

    fn attach(&self, may_make: bool) -> Result<(), StorageError> {
        self.disk.attach(may_make)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }

    fn lock(&self) -> io::Result<Option<SimulatedLock>> {
        self.disk.lock()
    }

    fn lock_file(&self, _lock: &mut SimulatedLock, _file: &Arc<CrashableFile>) -> io::Result<bool> {
        Ok(true)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<CrashableFile> {
        self.crash_point.count_down();
        Ok(CrashableFile { file: self.disk.create(name)?, crash_point: self.crash_point.clone() })
    }

    fn open(&self, name: &str) -> io::Result<CrashableFile> {
        Ok(CrashableFile { file: self.disk.open(name)?, crash_point: self.crash_point.clone() })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.crash_point.count_down();
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.crash_point.count_down();
        self.disk.remove(name)
    }

    fn holds(&self, name: &str, file: &CrashableFile) -> io::Result<bool> {
        self.disk.holds(name, &file.file)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.crash_point.count_down();
        self.disk.sync_dir()
    }

    fn usage(&self) -> io::Result<DiskUse> {
        self.disk.usage()
    }

    fn random_id(&self) -> u128 {
        self.disk.random_id()
    }
}

struct CrashableFile {
    file: SimulatedFile,
    crash_point: CrashPoint,
}

impl DiskFile for CrashableFile {
    type Map = SimulatedMap;

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.crash_point.count_down();
        self.file.write_at(parts, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.crash_point.count_down();
        self.file.allocate(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.crash_point.count_down();
        self.file.sync_data()
    }

    fn begin_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.file.begin_writing(offset, bytes)
    }

    fn map(&self) -> io::Result<SimulatedMap> {
        self.file.map()
    }
}
