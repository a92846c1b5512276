//! Rewrites a corrupt segment: copy to `.mend`, put in the fetched records, sync, read back, rename
//! over the original.
//!
//! The new file is a byte-for-byte copy of the old one, except for its header and the records that
//! are put in. Readers of the old file are not affected, and a crash leaves one of the two files
//! whole.
//!
//! A record of which only a payload or the table is corrupt comes out bit for bit as it was. A
//! record whose header is lost lacks two numbers: how far the log was durable and committed when it
//! was written. It gets those of the record before it, which were true then.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{broken, corrupt, failed, not_written};
use super::file_io::{read_exact, write_all};
use super::format::{self, DurablePoint, RECORD_HEADER_BYTES, RECORDS_AT, RecordHeader};
use super::fs::{Disk, DiskFile, DiskMap};
use super::recovered_log::MissingRange;
use super::segment::Segment;
use super::segment_set::SegmentSet;
use crate::storage::{Batch, LogPoint, StorageError};

/// The suffix of segments that are being rewritten. Opening an intact log removes what a crash left
/// of them.
pub(super) const REWRITE_SUFFIX: &str = ".mend";

const COPY_CHUNK_BYTES: u64 = 1 << 20;

/// The rewrite of one segment.
pub(super) struct SegmentRewrite<'a, D: Disk> {
    pub(super) disk: &'a D,
    pub(super) directory: u128,
    pub(super) id: u64,
    pub(super) first: u64,
    /// The raft index after the last one that belongs to this file.
    pub(super) end: u64,
    /// The segment as it is now, if it can be read.
    pub(super) segment: Option<Arc<Segment<D>>>,
    /// The length of a file that does not exist yet.
    pub(super) file_bytes: u64,
}

/// A record and the offset to write it at.
struct Patch {
    at: u64,
    header: RecordHeader,
    batch: Batch,
}

impl<'a, D: Disk> SegmentRewrite<'a, D> {
    /// The rewrite of the file that `raft_index` belongs to, if that is known.
    pub(super) fn of(
        disk: &'a D,
        directory: u128,
        live: &SegmentSet<D>,
        missing_ranges: &[MissingRange],
        raft_index: u64,
        file_bytes: u64,
    ) -> Option<Self> {
        let held =
            live.segments.iter().map(|part| (&part.segment, part.segment.first + part.len()));
        let held = held.map(|(segment, end)| MissingRange {
            raft_indexes: segment.first..end,
            id: segment.id,
            first: segment.first,
        });
        let missing = held
            .chain(missing_ranges.iter().cloned())
            .find(|missing| missing.raft_indexes.contains(&raft_index))?;
        let MissingRange { raft_indexes, id, first } = missing;
        let segment = live
            .segments
            .iter()
            .map(|part| &part.segment)
            .find(|segment| segment.id == id)
            .cloned();
        Some(SegmentRewrite {
            disk,
            directory,
            id,
            first,
            end: raft_indexes.end,
            segment,
            file_bytes,
        })
    }

    /// A new file for batches that supersede everything from `first` on: `id` is newer than all
    /// others.
    pub(super) fn new_file(
        disk: &'a D,
        directory: u128,
        id: u64,
        first: u64,
        file_bytes: u64,
    ) -> Self {
        SegmentRewrite { disk, directory, id, first, end: u64::MAX, segment: None, file_bytes }
    }

    /// Writes `batches`, which follow the log point `before`, as many as belong to this file, and
    /// renames it durably. Returns how many those are.
    ///
    /// # Errors
    /// [`StorageError::NotContiguous`] if they contradict what the file holds, or do not fit in
    /// their space. After a temporary error, the disk is as before. Any other error is final.
    pub(super) fn fill(&self, before: &LogPoint, batches: &[Batch]) -> Result<usize, StorageError> {
        let here = batches.iter().take_while(|batch| batch.raft_index() < self.end).count();
        let (patches, reached) = self.patches(before, &batches[..here])?;
        let is_last = self.next_intact(before.raft_index + 1 + here as u64)?.is_none();
        self.write(&patches, is_last.then_some(reached))?;
        Ok(here)
    }

    /// Restores the header of the segment.
    pub(super) fn restore_header(&self) -> Result<(), StorageError> {
        self.write(&[], None)
    }

    fn checksum_seed(&self) -> u32 {
        format::checksum_seed(self.directory, self.id)
    }

    fn name(&self) -> String {
        format::segment_name(self.id, self.first)
    }

    /// The records to write, and where the last of `batches` ends.
    fn patches(
        &self,
        before: &LogPoint,
        batches: &[Batch],
    ) -> Result<(Vec<Patch>, u64), StorageError> {
        let wrong = |why: &str| {
            StorageError::NotContiguous(format!("batches to repair {} with: {why}", self.name()))
        };
        let (mut at, mut point) = (self.end_of(before.raft_index)?, *before);
        let mut stamp = self
            .header(before.raft_index)?
            .map_or((DurablePoint::default(), 0), |header| (header.synced, header.commit));
        let mut patches = Vec::new();
        for batch in batches {
            point = batch.point_after(&point).map_err(|error| wrong(&error.to_string()))?;
            let known = self.header(batch.raft_index())?;
            if known.is_some_and(|known| known.point != point) {
                return Err(wrong("the header in the log is of another one"));
            }
            stamp = known.map_or(stamp, |known| (known.synced, known.commit));
            let header = RecordHeader::of(batch, point, self.id, stamp.0, stamp.1);
            if known.is_some_and(|known| known != header) {
                return Err(wrong("a header would not be as it was"));
            }
            match self.location(batch.raft_index())? {
                Some(offset) if offset != at => {
                    return Err(wrong("a record would not fit its place"));
                }
                _ => {}
            }
            patches.push(Patch { at, header, batch: batch.clone() });
            at += header.record_bytes();
        }
        match self.next_intact(point.raft_index + 1)? {
            Some((raft_index, offset)) if raft_index == point.raft_index + 1 && offset != at => {
                Err(wrong("they do not reach what follows"))
            }
            Some((_, offset)) if offset < at => {
                Err(wrong("there is no space for them before what follows"))
            }
            _ => Ok((patches, at)),
        }
    }

    fn ordinal(&self, raft_index: u64) -> Option<(&Arc<Segment<D>>, u64)> {
        let segment = self.segment.as_ref()?;
        let ordinal =
            raft_index.checked_sub(self.first).filter(|&ordinal| ordinal < segment.len())?;
        Some((segment, ordinal))
    }

    /// The header of the record at this raft index, if it can be read.
    fn header(&self, raft_index: u64) -> Result<Option<RecordHeader>, StorageError> {
        let Some((segment, ordinal)) = self.ordinal(raft_index) else { return Ok(None) };
        segment.header(self.disk, ordinal)
    }

    /// The offset of the record at this raft index, if known for certain.
    fn location(&self, raft_index: u64) -> Result<Option<u64>, StorageError> {
        let Some((segment, ordinal)) = self.ordinal(raft_index) else { return Ok(None) };
        Ok(segment.known_location(self.disk, ordinal)?.map(|(offset, _)| offset))
    }

    /// Where the record at `raft_index` ends, or where the first one begins.
    fn end_of(&self, raft_index: u64) -> Result<u64, StorageError> {
        if raft_index + 1 == self.first {
            return Ok(RECORDS_AT);
        }
        let offset = match self.ordinal(raft_index) {
            Some((segment, ordinal)) => segment.known_location(self.disk, ordinal)?,
            None => None,
        };
        let lost = || {
            StorageError::NotContiguous(format!("raft index {raft_index} must be repaired first"))
        };
        offset
            .map(|(offset, body_bytes)| offset + format::record_bytes(body_bytes))
            .ok_or_else(lost)
    }

    /// The first readable record at or after `raft_index` whose offset is known, and that offset.
    /// In a sealed segment all offsets are known.
    fn next_intact(&self, raft_index: u64) -> Result<Option<(u64, u64)>, StorageError> {
        let Some(segment) = &self.segment else { return Ok(None) };
        for at in raft_index.max(self.first)..self.first + segment.len() {
            match segment.record(self.disk, at - self.first) {
                Err(StorageError::Corrupt { .. }) => continue,
                read => drop(read?),
            }
            if let Some((offset, _)) = segment.known_location(self.disk, at - self.first)? {
                return Ok(Some((at, offset)));
            }
        }
        // In a sealed segment, the footer follows the records, and is kept.
        Ok(segment.footer_at().map(|footer_at| (self.first + segment.len(), footer_at)))
    }

    /// Writes the new file, with zeros from `zeros_from` on, and replaces the old one.
    fn write(&self, patches: &[Patch], zeros_from: Option<u64>) -> Result<(), StorageError> {
        replace_atomically(self.disk, self.id, self.first, |temp| {
            self.write_beside(temp, patches, zeros_from)
        })
    }

    fn write_beside(
        &self,
        temp: &str,
        patches: &[Patch],
        zeros_from: Option<u64>,
    ) -> Result<(), StorageError> {
        let name = self.name();
        let old = match self.disk.open(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            file => Some(file.map_err(|error| failed(self.disk, "open", &name, error))?),
        };
        let old_bytes = match &old {
            Some(file) => file.size().map_err(|error| failed(self.disk, "read", &name, error))?,
            None => self.file_bytes,
        };
        let bytes = patches
            .last()
            .map_or(0, |last| last.at + last.header.record_bytes())
            .max(old_bytes)
            .max(RECORDS_AT);
        let write_failed = |error| not_written(self.disk, "write", temp, error);
        let file = self.disk.create(temp).map_err(write_failed)?;
        file.allocate(bytes).map_err(write_failed)?;
        if let Some(old) = &old {
            let kept = zeros_from.unwrap_or(old_bytes).min(old_bytes);
            copy_checked(self.disk, (&name, old, 0..kept), (temp, &file, 0))?;
        }
        write_all(&file, &mut [IoSlice::new(&format::segment_header(self.directory))], 0)
            .map_err(write_failed)?;
        for patch in patches {
            self.put(&file, patch).map_err(write_failed)?;
        }
        // An error of a sync is final, a full disk included.
        file.sync_data().map_err(|error| broken(self.disk, "sync", temp, error))?;
        self.read_back(&file, temp, patches)
    }

    fn put(&self, file: &D::File, patch: &Patch) -> std::io::Result<()> {
        let (header, body) = (
            patch.header.encode(self.checksum_seed(), patch.batch.prefix_bytes()),
            patch.batch.body(),
        );
        let padding = patch.header.record_bytes() as usize - RECORD_HEADER_BYTES - body.len();
        let padding = &[0; format::ALIGN as usize][..padding];
        write_all(
            file,
            &mut [IoSlice::new(&header), IoSlice::new(body), IoSlice::new(padding)],
            patch.at,
        )
    }

    fn read_back(&self, file: &D::File, temp: &str, patches: &[Patch]) -> Result<(), StorageError> {
        let map = file.map().map_err(|error| failed(self.disk, "map", temp, error))?;
        for Patch { at, header, batch } in patches {
            let record: Option<Bytes> =
                map.slice(*at, RECORD_HEADER_BYTES as u64 + u64::from(header.body_bytes));
            let read = record.map(|record| {
                format::decode_record(record, self.id, self.checksum_seed(), batch.raft_index())
            });
            if read != Some(Ok((*header, batch.clone()))) {
                return Err(corrupt(
                    self.disk,
                    temp,
                    *at,
                    "what was just written reads back as something else",
                ));
            }
        }
        Ok(())
    }
}

/// Copies what `segment` holds from `from` on to a segment that begins there. It keeps the id, so
/// that each record is the same bit for bit, and counts once the base is behind the first record of
/// the old one. It gets no header: that marks it as not new, whatever is missing before it, and the
/// header is restored last.
///
/// # Errors
/// [`StorageError::Full`] leaves the log as before. Any other is final.
pub(super) fn copy_suffix<D: Disk>(
    disk: &D,
    segment: &Arc<Segment<D>>,
    from: u64,
) -> Result<(), StorageError> {
    let (name, id) = (&segment.name, segment.id);
    let lost = || corrupt(disk, name, 0, format!("where raft index {from} lies is not known"));
    let (at, _) = segment.known_location(disk, from - segment.first)?.ok_or_else(lost)?;
    replace_atomically(disk, id, from, |temp| {
        let old = disk.open(name).map_err(|error| failed(disk, "open", name, error))?;
        let old_bytes = old.size().map_err(|error| failed(disk, "read", name, error))?;
        let write_failed = |error| not_written(disk, "write", temp, error);
        let file = disk.create(temp).map_err(write_failed)?;
        file.allocate(old_bytes.max(RECORDS_AT)).map_err(write_failed)?;
        let end = segment.footer_at().unwrap_or(old_bytes).min(old_bytes);
        copy_checked(disk, (name, &old, at..end), (temp, &file, RECORDS_AT))?;
        file.sync_data().map_err(|error| broken(disk, "sync", temp, error))
    })
}

/// Has `write` write a segment to a temporary file, durably, and renames that, durably too.
fn replace_atomically<D: Disk>(
    disk: &D,
    id: u64,
    first: u64,
    write: impl FnOnce(&str) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let (name, temp) =
        (format::segment_name(id, first), format!("{id:016x}-{first:016x}{REWRITE_SUFFIX}"));
    // Left by an earlier attempt that ended in a crash or a full disk.
    match disk.remove(&temp) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(not_written(disk, "remove", &temp, error));
        }
        _ => {}
    }
    if let Err(error) = write(&temp) {
        // Frees the space. If this fails too, the next opening removes the file.
        let _ = disk.remove(&temp);
        return Err(error);
    }
    disk.rename(&temp, &name).map_err(|error| not_written(disk, "rename", &temp, error))?;
    disk.sync_dir().map_err(|error| broken(disk, "sync", "", error))
}

/// Copies a range of one file to another, from an offset on, and reads the copy back: records that
/// were intact must not become corrupt by their repair.
fn copy_checked<D: Disk>(
    disk: &D,
    (name, from, range): (&str, &D::File, Range<u64>),
    (temp, to, to_at): (&str, &D::File, u64),
) -> Result<(), StorageError> {
    let copy_failed = |error| not_written(disk, "copy", name, error);
    let write = |bytes: &[u8], at| write_all(to, &mut [IoSlice::new(bytes)], at).map(|()| true);
    for_chunks(from, range.clone(), to_at, write).map_err(copy_failed)?;
    let mut copied = Vec::new();
    let is_equal = |bytes: &[u8], at| {
        copied.resize(bytes.len(), 0);
        read_exact(to, &mut copied, at).map(|()| copied == bytes)
    };
    match for_chunks(from, range, to_at, is_equal).map_err(copy_failed)? {
        None => Ok(()),
        Some(at) => Err(corrupt(disk, temp, at, "the copy does not read back as it was written")),
    }
}

/// Calls `next` with each chunk of `range` and its offset in the other file, which begins at
/// `to_at`, while it returns true. Returns the offset of the chunk at which it did not.
fn for_chunks<F: DiskFile>(
    from: &F,
    range: Range<u64>,
    to_at: u64,
    mut next: impl FnMut(&[u8], u64) -> std::io::Result<bool>,
) -> std::io::Result<Option<u64>> {
    let mut buffer = vec![0; COPY_CHUNK_BYTES.min(range.end.saturating_sub(range.start)) as usize];
    let mut at = range.start;
    while at < range.end {
        let now = &mut buffer[..COPY_CHUNK_BYTES.min(range.end - at) as usize];
        read_exact(from, now, at)?;
        let to = to_at + (at - range.start);
        if !next(now, to)? {
            return Ok(Some(to));
        }
        at += now.len() as u64;
    }
    Ok(None)
}
