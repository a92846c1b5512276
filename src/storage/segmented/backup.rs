//! Backups: a directory that holds the log up to a raft index, and opens like the original.
//!
//! A sealed segment that belongs to it as a whole gets another name there (a hard link), or is
//! copied where that is not possible. Of an unsealed segment, or one that ends behind the backup,
//! the records that belong to it are copied to a file of their own, without a seal. Names, and so
//! checksums, stay the same.
//!
//! Why a link is as good as a copy: no byte of a sealed segment is ever overwritten. Recycling,
//! which would, skips files that have other names.
//!
//! Why appends may continue meanwhile:
//! 1. Records at or before the commit never change.
//! 2. A reference to a segment keeps its file from being recycled. A purge may remove its name:
//!    then the log begins later now, and so does the backup.
//! 3. Of a file that may still grow, the first page is written anew and the records that were there
//!    are copied, nothing else.
//!
//! The copy is then read like any other log, every byte of it. Only after that the directory gets
//! its identity, and its name.

mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use self::target::Target;
use super::error::{failed, is_not_found, too_large};
use super::file_io::{read_exact, write_all};
use super::format::{self, PAGE_BYTES, RECORDS_AT};
use super::fs::Disk;
use super::identity::IdentityFile;
use super::metadata::{Metadata, MetadataFile, STATE_NAME, WriteError};
use super::real_disk::RealDisk;
use super::segment::Segment;
use super::segment_set::SegmentSet;
use super::tools::OpenedLog;
use crate::storage::{Backup, BackupError, HardState, PendingBackup, StorageError};

/// The most that is copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// A log that is backed up.
pub(super) struct Source<D: Disk> {
    pub(super) disk: Arc<D>,
    /// The current segment set.
    pub(super) live: Arc<ArcSwap<SegmentSet<D>>>,
    pub(super) state: Metadata,
    /// The newest raft index that is known to be committed.
    pub(super) commit: u64,
    /// The last raft index that goes into the backup.
    pub(super) last: u64,
    /// No other member relies on what the node promised since.
    pub(super) is_alone: bool,
}

impl<D: Disk> PendingBackup for Source<D> {
    fn write(
        self: Box<Self>,
        to: &Path,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Backup, BackupError> {
        let identity = IdentityFile::read(&*self.disk)?;
        self.write_as(identity, to, is_stopped)
    }
}

impl<D: Disk> Source<D> {
    /// Writes the backup as one of the node in `identity`.
    pub(super) fn write_as(
        &self,
        identity: IdentityFile,
        to: &Path,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Backup, BackupError> {
        let target = Target::begin(to)?;
        let writer = BackupWriter {
            disk: target.disk(),
            directory: self.state.directory,
            done: BTreeMap::new(),
            is_stopped,
        };
        let backup = self.fill(writer, &identity)?;
        target.finish(&identity)?;
        Ok(backup)
    }

    fn fill(
        &self,
        mut writer: BackupWriter<'_>,
        identity: &IdentityFile,
    ) -> Result<Backup, BackupError> {
        let live = self.write_segments(&mut writer)?;
        self.write_state(writer.disk, &live)?;
        writer.disk.sync_dir().map_err(|error| failed(writer.disk, "sync", "", error))?;
        self.verify(&writer, identity, &live)?;
        let point = |raft_index| {
            live.point(&self.disk, raft_index)?.ok_or_else(|| self.ends_early(raft_index))
        };
        let (committed, last) =
            (point(self.commit.max(live.base.point.raft_index))?, point(self.last)?);
        Ok(Backup {
            committed: live.base.point.next_index..committed.next_index,
            position: committed.next_position,
            end_index: last.next_index,
            linked_bytes: writer.bytes(Taken::Linked),
            copied_bytes: writer.bytes(Taken::Copied),
        })
    }

    /// Links or copies the segments, and returns the segment set that they were taken from: the
    /// current one, if the log is purged meanwhile.
    fn write_segments(
        &self,
        writer: &mut BackupWriter<'_>,
    ) -> Result<Arc<SegmentSet<D>>, BackupError> {
        loop {
            let live = self.live.load_full();
            let first = live.base.point.next_index;
            if live.base.point.raft_index > self.last {
                return Err(BackupError::Storage(StorageError::Purged { first }));
            }
            if let Some(gap) = live.gaps.iter().find(|gap| gap.raft_indexes.start <= self.last) {
                return Err(StorageError::from(gap).into());
            }
            match self.take_segments(&live, writer) {
                Ok(()) => return Ok(live),
                // It was purged, or sealed and then purged.
                Err(error) if is_gone(&error) && !Arc::ptr_eq(&live, &self.live.load()) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_segments(
        &self,
        live: &SegmentSet<D>,
        writer: &mut BackupWriter<'_>,
    ) -> Result<(), BackupError> {
        let mut segments =
            live.segments.iter().filter(|part| part.segment.first <= self.last).peekable();
        writer.keep_only(live.segments.iter().map(|part| &*part.segment.name))?;
        while let Some(part) = segments.next() {
            if writer.done.contains_key(&part.segment.name) {
                continue;
            }
            let end = part.end.min(self.last + 1);
            // If its seal counts truncated records, the next segment supersedes them.
            let is_whole = part
                .segment
                .last_sealed()
                .is_some_and(|last| last < end || segments.peek().is_some());
            writer.go_on()?;
            let taken = match is_whole {
                true => writer.take_whole(&*self.disk, &part.segment)?,
                false => writer.take_records(&*self.disk, &part.segment, end)?,
            };
            writer.done.insert(part.segment.name.clone(), taken);
        }
        Ok(())
    }

    /// Term, base and watermark. A copy has no vote and no peers, for it may be older than what its
    /// node did since. So it is marked incomplete, unless no other member could rely on that.
    fn write_state(&self, disk: &RealDisk, live: &SegmentSet<D>) -> Result<(), StorageError> {
        let hard_state = HardState {
            vote: None,
            commit: self.commit.max(live.base.point.raft_index),
            ..self.state.hard_state
        };
        let first_segment =
            live.segments.first().map_or(self.state.first_segment, |part| part.segment.id);
        let (base, is_complete) =
            (live.base.clone(), self.is_alone || live.base.membership.voters.len() == 1);
        let copied =
            Metadata { hard_state, base, first_segment, peers: Vec::new(), ..self.state.clone() };
        let state = Metadata { known_as: disk.random_id(), is_complete, ..copied };
        let write_failed = |error| failed(disk, "write", STATE_NAME, error);
        let file =
            disk.create(STATE_NAME).map_err(|error| failed(disk, "create", STATE_NAME, error))?;
        let file =
            MetadataFile::<RealDisk>::fill(Arc::new(file), state).map_err(|error| match error {
                WriteError::TooLarge => too_large(disk, STATE_NAME),
                WriteError::Io(error) => write_failed(error),
            })?;
        let synced = live.durable_point(self.last);
        if synced.raft_index > 0 {
            file.write_watermark(synced).map_err(write_failed)?;
        }
        file.file.sync_data().map_err(write_failed)
    }

    /// Reads all that was written. Corruption is reported at its location in the original log.
    fn verify(
        &self,
        writer: &BackupWriter<'_>,
        identity: &IdentityFile,
        live: &SegmentSet<D>,
    ) -> Result<(), BackupError> {
        let copy = OpenedLog::unlocked(writer.disk.path("").as_path(), identity.clone())?;
        let (base, last) = (copy.inspection.base.clone(), copy.inspection.last);
        let found = copy.verify(|_| writer.go_on())?;
        if let Some(corruption) = found.corruption.into_iter().next() {
            let path = corruption
                .path
                .file_name()
                .map_or_else(|| self.disk.path(""), |name| self.disk.path(&name.to_string_lossy()));
            return Err(BackupError::Damaged {
                path,
                offset: corruption.offset,
                reason: corruption.reason,
            });
        }
        match base == live.base && last.raft_index == self.last {
            true => Ok(()),
            false => Err(self.ends_early(last.raft_index).into()),
        }
    }

    fn ends_early(&self, raft_index: u64) -> StorageError {
        let reason = format!(
            "the log was to be read up to raft index {}, and ends at {raft_index}",
            self.last
        );
        StorageError::Corrupt { path: self.disk.path(""), offset: 0, reason }
    }
}

/// How a file got into a backup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Linked,
    Copied,
}

/// A backup that is being written.
struct BackupWriter<'a> {
    disk: &'a RealDisk,
    /// The directory id of the log, with which checksums begin.
    directory: u128,
    /// The segments in it, and their lengths.
    done: BTreeMap<String, (Taken, u64)>,
    is_stopped: &'a dyn Fn() -> bool,
}

impl BackupWriter<'_> {
    fn go_on(&self) -> Result<(), BackupError> {
        if (self.is_stopped)() { Err(BackupError::Stopped) } else { Ok(()) }
    }

    fn bytes(&self, how: Taken) -> u64 {
        self.done.values().filter(|(taken, _)| *taken == how).map(|(_, bytes)| bytes).sum()
    }

    /// Removes segments that the log has purged meanwhile.
    fn keep_only<'n>(&mut self, names: impl Iterator<Item = &'n str>) -> Result<(), StorageError> {
        let kept: BTreeSet<&str> = names.collect();
        let gone: Vec<String> =
            self.done.keys().filter(|name| !kept.contains(&***name)).cloned().collect();
        for name in gone {
            self.disk.remove(&name).map_err(|error| failed(self.disk, "remove", &name, error))?;
            self.done.remove(&name);
        }
        Ok(())
    }

    /// Links or copies a sealed segment.
    fn take_whole<D: Disk>(
        &self,
        disk: &D,
        segment: &Segment<D>,
    ) -> Result<(Taken, u64), BackupError> {
        let bytes = segment.sealed_bytes().expect("a whole segment is sealed");
        if disk.link(&segment.name, &self.disk.path("")).is_ok() {
            return Ok((Taken::Linked, bytes));
        }
        let (from, to) = self.open(disk, &segment.name)?;
        self.copy(disk, &segment.name, &from, &to, 0..bytes)
    }

    /// Copies the records of a segment before raft index `end`, under a new header.
    fn take_records<D: Disk>(
        &self,
        disk: &D,
        segment: &Arc<Segment<D>>,
        end: u64,
    ) -> Result<(Taken, u64), BackupError> {
        let last = end - segment.first - 1;
        let (offset, body_bytes) = segment.location(disk, &*segment.contents(disk)?, last)?;
        let (from, to) = self.open(disk, &segment.name)?;
        let mut page = [0; PAGE_BYTES];
        page[..format::SEGMENT_HEADER_BYTES]
            .copy_from_slice(&format::segment_header(self.directory));
        write_all(&to, &mut [IoSlice::new(&page)], 0)
            .map_err(|error| failed(self.disk, "write", &segment.name, error))?;
        self.copy(
            disk,
            &segment.name,
            &from,
            &to,
            RECORDS_AT..offset + format::record_bytes(body_bytes),
        )
    }

    /// Opens a file of the log, and creates the one of the same name here.
    fn open<D: Disk>(
        &self,
        disk: &D,
        name: &str,
    ) -> Result<(D::File, <RealDisk as Disk>::File), StorageError> {
        let from = disk.open(name).map_err(|error| failed(disk, "read", name, error))?;
        let to =
            self.disk.create(name).map_err(|error| failed(self.disk, "create", name, error))?;
        Ok((from, to))
    }

    /// Copies these bytes to the same offsets, durably.
    fn copy<D: Disk>(
        &self,
        disk: &D,
        name: &str,
        from: &D::File,
        to: &<RealDisk as Disk>::File,
        range: Range<u64>,
    ) -> Result<(Taken, u64), BackupError> {
        let mut piece = vec![0; PIECE_BYTES.min(range.end - range.start) as usize];
        let mut at = range.start;
        while at < range.end {
            self.go_on()?;
            let now = (range.end - at).min(PIECE_BYTES) as usize;
            read_exact(from, &mut piece[..now], at)
                .map_err(|error| failed(disk, "read", name, error))?;
            let written = write_all(to, &mut [IoSlice::new(&piece[..now])], at);
            written.map_err(|error| failed(self.disk, "write", name, error))?;
            at += now as u64;
        }
        to.sync_data().map_err(|error| failed(self.disk, "sync", name, error))?;
        Ok((Taken::Copied, range.end))
    }
}

/// Whether a file did not exist any more.
fn is_gone(error: &BackupError) -> bool {
    matches!(error, BackupError::Storage(error) if is_not_found(error))
}
