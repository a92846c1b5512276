//! What a node's log is kept on, from one life to the next: a simulated disk, on which a process may die between any two calls.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use super::agenda::Micros;
use super::chance::Chance;
use super::swarm::MS;
use super::witness::Fuse;
use crate::storage::segmented::DiskLog;
use crate::storage::segmented::fs::{Disk, DiskFile};
use crate::storage::segmented::simulated::{Call, Failure, Fault, Platter, SimulatedDisk, SimulatedFile, SimulatedLock, SimulatedMap};
use crate::storage::{Genesis, Mark, SegmentOptions, Storage, StorageError};

/// See the [module](self).
pub(super) struct Medium {
    disk: SimulatedDisk,
    options: SegmentOptions,
    /// Others have taken all the room there is.
    is_full: bool,
    /// What the disk held at some earlier time.
    backup: Option<Platter>,
    /// Others in its process have taken all descriptors.
    pub(super) is_poor: bool,
    /// How many bytes it reads in a millisecond. `None`: as many as are wanted.
    pub(super) read_rate: Option<u64>,
    /// The most that was read in one turn of an engine, in bytes.
    pub(super) most_read: u64,
}

impl Medium {
    pub(super) fn new(seed: u64, options: SegmentOptions) -> Medium {
        Medium { disk: SimulatedDisk::new(seed), options, is_full: false, backup: None, is_poor: false, read_rate: None, most_read: 0 }
    }

    /// Keeps what a closed disk holds, for a day on which it is lost.
    pub(super) fn back_up(&mut self) {
        self.backup = Some(self.disk.platter());
    }

    /// Whether there is a backup.
    pub(super) fn is_backed_up(&self) -> bool {
        self.backup.is_some()
    }

    /// Another disk, with the backup on it, if there is one. Whether there is.
    pub(super) fn replace(&mut self, seed: u64) -> bool {
        let backup = self.backup.take();
        let is_backup = backup.is_some();
        self.disk = backup.map_or_else(|| SimulatedDisk::new(seed), |backup| SimulatedDisk::with(backup, seed));
        self.set_full(self.is_full);
        is_backup
    }

    /// What the process does now it does without descriptors, if they are taken. Whoever only looks at it has some.
    pub(super) fn begin_work(&self) {
        self.disk.take_bytes_read();
        self.disk.set_poor(self.is_poor);
    }

    /// How long it took to read what was read since the work began. Whoever does the work waits for it.
    pub(super) fn time_to_read(&mut self) -> Micros {
        let bytes = self.disk.take_bytes_read();
        self.most_read = self.most_read.max(bytes);
        self.read_rate.map_or(0, |rate| bytes * MS / rate)
    }

    pub(super) fn end_work(&self) {
        self.disk.set_poor(false);
    }

    /// A storage on it, for the next life.
    pub(super) fn storage(&self, fuse: &Fuse) -> Box<dyn Storage> {
        Box::new(DiskLog::on(Mortal { disk: self.disk.clone(), fuse: fuse.clone() }, self.options))
    }

    /// Whether a log that is opened on what would be left, if the power failed now (or only the process died), has the batch of this mark, or
    /// begins behind it.
    pub(super) fn would_have(&self, mark: &Mark, genesis: &Genesis, power_cut: bool) -> bool {
        let mut log = DiskLog::on(self.disk.as_found_after(power_cut), self.options);
        let Ok(recovered) = log.open(genesis) else { return false };
        recovered.base.mark.raft_index > mark.raft_index || matches!(log.reader().mark(mark.raft_index), Ok(Some(found)) if found == *mark)
    }

    /// The process is gone, and the cache of its kernel is still there: at least what is in it and not on the disk.
    pub(super) fn kill(&mut self) {
        self.disk = self.disk.kill();
        self.disk.evict();
    }

    /// As `kill`, after a sync has failed. The cache still shows what was lost, unless the kernel `is_forgetful`.
    pub(super) fn kill_after_failure(&mut self, is_forgetful: bool) {
        self.disk = self.disk.kill();
        if is_forgetful {
            self.disk.evict();
        }
    }

    /// Whether the file system still takes changes.
    pub(super) fn is_writable(&self) -> bool {
        !self.disk.is_read_only()
    }

    /// As on a file system that never writes in place: some writes find no room where there was some before.
    pub(super) fn refuse_writes(&self, chance: &mut Chance) {
        let then = Failure::Error(io::ErrorKind::StorageFull);
        self.disk.plan(Fault { on: Call::Write, after: chance.below(8), times: chance.between(1, 4), then });
    }

    /// What was not synced may be gone, and sometimes is gone for certain.
    pub(super) fn cut_power(&mut self, is_thorough: bool) {
        self.disk = if is_thorough { self.disk.crash_keeping_nothing() } else { self.disk.crash() };
        self.set_full(self.is_full);
    }

    /// Flips a bit or empties a sector of a segment, if `is_noticed` by whoever opens a log on it. Whether that came about.
    pub(super) fn harm(&mut self, chance: &mut Chance, mut is_noticed: impl FnMut(&mut dyn Storage) -> bool) -> bool {
        let Ok(mut names) = self.disk.list() else { return false };
        names.retain(|name| name.ends_with(".seg"));
        names.sort();
        for _ in 0..8 {
            if names.is_empty() {
                return false;
            }
            let name = names[names.len() - 1 - chance.below(2.min(names.len() as u64)) as usize].clone();
            let bits: Vec<u64> = match chance.below(3) {
                0 => {
                    let sector = chance.below(self.disk.bytes_of(&name) / 512 + 1) * 512 * 8;
                    (0..512).map(|byte| sector + byte * 8 + chance.below(8)).collect()
                }
                _ => vec![chance.below(self.disk.bytes_of(&name).max(1)) * 8 + chance.below(8)],
            };
            let harm =
                |disk: &SimulatedDisk| bits.iter().filter(|bit| **bit / 8 < disk.bytes_of(&name)).for_each(|bit| disk.flip(&name, *bit));
            let copy = SimulatedDisk::with(self.disk.platter(), chance.next());
            harm(&copy);
            if is_noticed(&mut DiskLog::on(copy, self.options)) {
                harm(&self.disk);
                return true;
            }
        }
        false
    }

    /// Where these bytes are in a segment.
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
        self.disk.plan(Fault { on: Call::Sync, after: 0, times: 1, then: Failure::Error(io::ErrorKind::Other) });
    }

    /// One of the next calls of some kind fails (true), or does half of what it was asked for.
    pub(super) fn fail_some_call(&self, chance: &mut Chance) -> bool {
        let on =
            *chance.pick(&[Call::Write, Call::Write, Call::Sync, Call::SyncDir, Call::Allocate, Call::Create, Call::Rename, Call::Remove]);
        let failures = [Failure::Error(io::ErrorKind::Other), Failure::Error(io::ErrorKind::StorageFull)];
        let then = if on == Call::Write && chance.percent(50) { Failure::Short } else { *chance.pick(&failures) };
        self.disk.plan(Fault { on, after: chance.below(8), times: 1, then });
        !matches!(then, Failure::Short)
    }

    /// How many segments were made ready in this life.
    pub(super) fn segments_made(&self) -> u64 {
        self.disk.count(Call::Rename)
    }

    /// Whether a call has failed that was to fail.
    pub(super) fn has_failed(&self) -> bool {
        self.disk.has_failed()
    }

    pub(super) fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
        if !is_full {
            self.disk.spare(Call::Write);
        }
        self.disk.set_room(is_full.then(|| self.disk.taken()));
    }
}

/// A simulated disk in the hands of a process that may die at any call.
#[derive(Debug)]
struct Mortal {
    disk: SimulatedDisk,
    fuse: Fuse,
}

impl Disk for Mortal {
    type File = MortalFile;
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

    fn lock_file(&self, _lock: &mut SimulatedLock, _file: &Arc<MortalFile>) -> io::Result<bool> {
        Ok(true)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<MortalFile> {
        self.fuse.burn();
        Ok(MortalFile { file: self.disk.create(name)?, fuse: self.fuse.clone() })
    }

    fn open(&self, name: &str) -> io::Result<MortalFile> {
        Ok(MortalFile { file: self.disk.open(name)?, fuse: self.fuse.clone() })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.fuse.burn();
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.fuse.burn();
        self.disk.remove(name)
    }

    fn holds(&self, name: &str, file: &MortalFile) -> io::Result<bool> {
        self.disk.holds(name, &file.file)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.fuse.burn();
        self.disk.sync_dir()
    }

    fn draw(&self) -> u128 {
        self.disk.draw()
    }
}

struct MortalFile {
    file: SimulatedFile,
    fuse: Fuse,
}

impl DiskFile for MortalFile {
    type Map = SimulatedMap;

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.fuse.burn();
        self.file.write_at(parts, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.fuse.burn();
        self.file.allocate(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fuse.burn();
        self.file.sync_data()
    }

    fn begin_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.file.begin_writing(offset, bytes)
    }

    fn map(&self) -> io::Result<SimulatedMap> {
        self.file.map()
    }
}
