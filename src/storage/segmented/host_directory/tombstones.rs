//! The file `TOMBSTONES`: which groups were removed, the newest 65,536 of them.
//!
//! A ring of records of 128 bytes. Tombstone *n*, counted from 1, is in slot *n* - 1 modulo 65,536.
//! A record never crosses a sector, so it is written as a whole or not at all. One that is not
//! intact was being written, or is lost: then nothing is known of that group, as if its tombstone
//! had been the oldest one.

use std::collections::HashSet;
use std::io::IoSlice;
use std::sync::Arc;

use super::super::error::{broken, failed, not_written};
use super::super::file_io::{read_exact, write_all, write_zeros};
use super::super::format::{PAGE_BYTES, PageReader, PageWriter};
use super::super::fs::{Disk, DiskFile};
use crate::log_prefix::log_prefix;
use crate::primitives::Mutex;
use crate::storage::StorageError;

pub(crate) const TOMBSTONES_NAME: &str = "TOMBSTONES";
const MAGIC: &[u8; 4] = b"DLto";
const RECORD_BYTES: usize = 128;
/// The most tombstones that are kept.
const KEPT_MAX: u64 = 65_536;

const _: () = assert!(512 % RECORD_BYTES == 0 && KEPT_MAX as usize * RECORD_BYTES <= 8 << 20);

/// A group that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) group: String,
    /// The id under which peers knew the directory of its log. 0: not known.
    pub(crate) directory: u128,
    /// The unique id of the group. 0: not known.
    pub(crate) group_uid: u128,
}

/// How far the removal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The directory may still be in its place.
    Pending = 1,
    /// It is not.
    Done = 2,
    /// The group was not removed.
    Withdrawn = 3,
}

/// A tombstone in its slot.
#[derive(Clone, Debug)]
struct Record {
    number: u64,
    stage: Stage,
    tombstone: Tombstone,
}

/// All tombstones. While a change of one fails, the others are as before.
#[derive(Debug)]
pub(crate) struct Tombstones<D: Disk> {
    file: D::File,
    kept_max: u64,
    /// The number of the newest one.
    newest: u64,
    /// The unique id in each slot; 0 if there is none.
    uids: Vec<u128>,
    /// Behind a lock of its own: who looks up an id does not wait for a sync.
    removed: Arc<Mutex<HashSet<u128>>>,
    /// Those that are not done, by slot.
    pending: Vec<Record>,
}

impl<D: Disk> Tombstones<D> {
    /// Opens the file, or creates it.
    pub(crate) fn open(disk: &D) -> Result<Tombstones<D>, StorageError> {
        Tombstones::with_max(disk, KEPT_MAX)
    }

    fn with_max(disk: &D, kept_max: u64) -> Result<Tombstones<D>, StorageError> {
        let open_failed = |error| failed(disk, "open", TOMBSTONES_NAME, error);
        let names = disk.list().map_err(open_failed)?;
        let file = match names.iter().any(|name| name == TOMBSTONES_NAME) {
            true => disk.open(TOMBSTONES_NAME).map_err(open_failed)?,
            false => {
                let file = disk.create(TOMBSTONES_NAME).map_err(open_failed)?;
                write_zeros(&file, 0..PAGE_BYTES as u64).map_err(open_failed)?;
                file
            }
        };
        // What is read may be in memory only, since an earlier sync failed.
        file.sync_data().map_err(|error| broken(disk, "sync", TOMBSTONES_NAME, error))?;
        disk.sync_dir().map_err(|error| broken(disk, "sync", "", error))?;
        let mut tombstones = Tombstones {
            file,
            kept_max,
            newest: 0,
            uids: Vec::new(),
            removed: Arc::default(),
            pending: Vec::new(),
        };
        tombstones.load(disk)?;
        Ok(tombstones)
    }

    fn load(&mut self, disk: &D) -> Result<(), StorageError> {
        let read_failed = |error| failed(disk, "read", TOMBSTONES_NAME, error);
        let bytes = self.file.size().map_err(read_failed)? / RECORD_BYTES as u64;
        let mut all = vec![0; bytes.min(self.kept_max) as usize * RECORD_BYTES];
        read_exact(&self.file, &mut all, 0).map_err(read_failed)?;
        let mut lost = 0;
        for (slot, bytes) in (0..).zip(all.chunks_exact(RECORD_BYTES)) {
            match Record::decode(bytes).filter(|record| self.slot(record.number) == slot) {
                Some(record) => {
                    self.newest = self.newest.max(record.number);
                    self.note(record);
                }
                None if bytes.iter().all(|byte| *byte == 0) => {}
                None => lost += 1,
            }
        }
        if lost > 0 {
            let (path, log_prefix) = (disk.path(TOMBSTONES_NAME), log_prefix());
            log::warn!("{log_prefix}{lost} records of {} are not intact", path.display());
        }
        Ok(())
    }

    fn slot(&self, number: u64) -> u64 {
        number.wrapping_sub(1) % self.kept_max
    }

    /// Whether the group with this unique id was removed.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn contains(&self, group_uid: u128) -> bool {
        self.lookup()(group_uid)
    }

    /// Tells, now and later, whether the group with a unique id was removed. Waits for no sync.
    pub(crate) fn lookup(&self) -> impl Fn(u128) -> bool + Send + Sync + 'static + use<D> {
        let removed = self.removed.clone();
        move |group_uid| removed.lock().contains(&group_uid)
    }

    /// Those whose removal is not known to be done, with their numbers.
    pub(crate) fn pending(&self) -> Vec<(u64, Tombstone)> {
        let pending = self.pending.iter();
        pending.map(|record| (record.number, record.tombstone.clone())).collect()
    }

    /// Adds a tombstone, durably, whose removal is pending. Returns its number; after an error too,
    /// unless nothing was written.
    pub(crate) fn add(
        &mut self,
        disk: &D,
        tombstone: Tombstone,
    ) -> Result<u64, (Option<u64>, StorageError)> {
        let number = self.newest + 1;
        let record = Record { number, stage: Stage::Pending, tombstone };
        let before = self.pending.clone();
        // A record in the same slot is so old that it is not kept any more.
        self.pending.retain(|old| old.number % self.kept_max != number % self.kept_max);
        match self.write(disk, record) {
            Ok(()) => {
                self.newest = number;
                self.reserve(number + 1);
                Ok(number)
            }
            Err(error) if error.is_temporary() => {
                self.pending = before;
                Err((None, error))
            }
            Err(error) => Err((Some(number), error)),
        }
    }

    /// The directory of this tombstone is not in its place any more.
    pub(crate) fn mark_done(&mut self, disk: &D, number: u64) -> Result<(), StorageError> {
        self.advance(disk, number, Stage::Done)
    }

    /// The group was not removed.
    pub(crate) fn withdraw(&mut self, disk: &D, number: u64) -> Result<(), StorageError> {
        self.advance(disk, number, Stage::Withdrawn)
    }

    fn advance(&mut self, disk: &D, number: u64, stage: Stage) -> Result<(), StorageError> {
        let Some(record) = self.pending.iter().find(|record| record.number == number) else {
            return Ok(());
        };
        self.write(disk, Record { stage, ..record.clone() })
    }

    /// Writes a record to its slot, durably. After a final error it may be there or not: then it
    /// counts as pending.
    fn write(&mut self, disk: &D, record: Record) -> Result<(), StorageError> {
        let at = self.slot(record.number) * RECORD_BYTES as u64;
        let write = || {
            write_all(&self.file, &mut [IoSlice::new(&record.encode())], at)
                .map_err(|error| not_written(disk, "write", TOMBSTONES_NAME, error))?;
            let synced = self.file.sync_data();
            synced.map_err(|error| broken(disk, "sync", TOMBSTONES_NAME, error))
        };
        match write() {
            Ok(()) => self.note(record),
            Err(error) => {
                if !error.is_temporary() {
                    self.note(Record { stage: Stage::Pending, ..record });
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Enters a record that is in the file.
    fn note(&mut self, record: Record) {
        let slot = self.slot(record.number) as usize;
        if self.uids.len() <= slot {
            self.uids.resize(slot + 1, 0);
        }
        self.removed.lock().remove(&self.uids[slot]);
        let uid = record.tombstone.group_uid;
        self.uids[slot] = if record.stage == Stage::Withdrawn { 0 } else { uid };
        if self.uids[slot] != 0 {
            self.removed.lock().insert(uid);
        }
        self.pending.retain(|other| other.number != record.number);
        if record.stage == Stage::Pending {
            self.pending.push(record);
        }
    }

    /// Makes space for the next tombstone, so that groups can be removed from a disk that is full.
    fn reserve(&self, number: u64) {
        let at = self.slot(number) * RECORD_BYTES as u64;
        if self.file.size().is_ok_and(|bytes| bytes <= at) {
            // Without it the next one takes its space itself.
            let _ = write_zeros(&self.file, at..at + PAGE_BYTES as u64);
        }
    }
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let Tombstone { group, directory, group_uid } = &self.tombstone;
        PageWriter::new(MAGIC)
            .u64(self.number)
            .u32(self.stage as u32)
            .u32(group.len() as u32)
            .u128(*directory)
            .u128(*group_uid)
            .bytes(group.as_bytes())
            .finish(RECORD_BYTES)
            .expect("the name of a group has at most 63 bytes")
    }

    fn decode(bytes: &[u8]) -> Option<Record> {
        let mut page = PageReader::new(bytes, MAGIC)?;
        let (number, stage, name_bytes) = (page.u64()?, page.u32()?, page.u32()?);
        let (directory, group_uid) = (page.u128()?, page.u128()?);
        let group = String::from_utf8(page.bytes(name_bytes as usize)?.to_vec()).ok()?;
        let stage = match stage {
            1 => Stage::Pending,
            2 => Stage::Done,
            3 => Stage::Withdrawn,
            _ => return None,
        };
        Some(Record { number, stage, tombstone: Tombstone { group, directory, group_uid } })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::simulated_disk::{
        CallFailure, CallFault, CallKind, SimulatedDisk,
    };
    use super::*;

    fn tombstone(n: u128) -> Tombstone {
        Tombstone { group: format!("group-{n}"), directory: n << 64, group_uid: n }
    }

    fn removed<D: Disk>(tombstones: &Tombstones<D>, uids: std::ops::Range<u128>) -> Vec<u128> {
        uids.filter(|&uid| tombstones.contains(uid)).collect()
    }

    #[test]
    fn the_newest_are_kept_and_come_back() {
        let disk = SimulatedDisk::new(1);
        let mut tombstones = Tombstones::with_max(&disk, 8).unwrap();
        for n in 1..=21 {
            let number = tombstones.add(&disk, tombstone(n)).unwrap();
            assert_eq!(number as u128, n);
            tombstones.mark_done(&disk, number).unwrap();
            let kept: Vec<u128> = (n.saturating_sub(7).max(1)..=n).collect();
            assert_eq!(removed(&tombstones, 0..30), kept);
            let again = Tombstones::with_max(&disk, 8).unwrap();
            assert_eq!((removed(&again, 0..30), again.newest as u128), (kept, n));
            assert_eq!(again.pending(), []);
        }
        assert!(disk.bytes_of(TOMBSTONES_NAME) <= 4096, "{}", disk.bytes_of(TOMBSTONES_NAME));
        assert!(!tombstones.contains(0));
    }

    #[test]
    fn what_is_pending_or_withdrawn_comes_back_as_that() {
        let disk = SimulatedDisk::new(1);
        let mut tombstones = Tombstones::open(&disk).unwrap();
        for n in 1..=3 {
            tombstones.add(&disk, tombstone(n)).unwrap();
        }
        tombstones.mark_done(&disk, 1).unwrap();
        tombstones.withdraw(&disk, 2).unwrap();
        for tombstones in [tombstones, Tombstones::open(&disk.crash_keeping_nothing()).unwrap()] {
            assert_eq!(tombstones.pending(), [(3, tombstone(3))]);
            assert_eq!(removed(&tombstones, 0..9), [1, 3]);
        }
    }

    #[test]
    fn one_that_is_not_intact_takes_no_other_with_it() {
        let disk = SimulatedDisk::new(1);
        let mut tombstones = Tombstones::open(&disk).unwrap();
        for n in 1..=5 {
            tombstones.add(&disk, tombstone(n)).unwrap();
        }
        disk.flip(TOMBSTONES_NAME, (2 * RECORD_BYTES as u64 + 40) * 8);
        let mut again = Tombstones::open(&disk).unwrap();
        assert_eq!(removed(&again, 0..9), [1, 2, 4, 5]);
        assert_eq!(again.add(&disk, tombstone(6)).unwrap(), 6);
    }

    #[test]
    fn a_tombstone_needs_no_room_on_a_disk_that_is_full() {
        let disk = SimulatedDisk::new(1);
        let mut tombstones = Tombstones::open(&disk).unwrap();
        for n in 1..=31 {
            tombstones.add(&disk, tombstone(n)).unwrap();
        }
        tombstones.add(&disk, tombstone(32)).unwrap();
        disk.set_room(Some(disk.taken()));
        tombstones.add(&disk, tombstone(33)).unwrap();
    }

    #[test]
    fn what_was_not_written_is_not_there_and_what_was_not_synced_may_be() {
        let disk = SimulatedDisk::new(1);
        let mut tombstones = Tombstones::open(&disk).unwrap();
        let fault = |on, kind| CallFault { on, after: 0, times: 1, then: CallFailure::Error(kind) };
        disk.plan(fault(CallKind::Write, std::io::ErrorKind::StorageFull));
        let (slot, error) = tombstones.add(&disk, tombstone(1)).unwrap_err();
        assert!(slot.is_none() && error.is_temporary(), "{error}");
        disk.plan(fault(CallKind::Sync, std::io::ErrorKind::Other));
        let (slot, error) = tombstones.add(&disk, tombstone(1)).unwrap_err();
        assert!(slot == Some(1) && !error.is_temporary(), "{error}");
        tombstones.withdraw(&disk, 1).unwrap();
        assert_eq!(removed(&tombstones, 0..9), []);
        assert_eq!(removed(&Tombstones::open(&disk).unwrap(), 0..9), []);
    }
}
