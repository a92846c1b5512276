//! Mending: a segment is written anew beside itself, with what was lost, and takes its own name
//! when all of that is durable.
//!
//! The new file is a copy of the old one, byte for byte, but for its head and for the records that
//! are put in their places. So whoever still reads the old file goes on, no byte of it changes, and
//! a crash leaves one of the two whole. What is written is read back and compared before it gets
//! the name.
//!
//! A record that could still be read but for its payload or its table comes out as it was, to the
//! last bit. Of one whose header was lost, two numbers are not known any more: how far the log was
//! durable and committed when it was written. It takes those of the record in front of it, which
//! were true then.

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

/// How the names of segments end that are being written anew. Every opening of a sound log removes
/// what a crash left of them.
pub(super) const REWRITE_SUFFIX: &str = ".mend";

const COPY_CHUNK_BYTES: u64 = 1 << 20;

/// One segment, to be written anew.
pub(super) struct SegmentRewrite<'a, D: Disk> {
    pub(super) disk: &'a D,
    pub(super) directory: u128,
    pub(super) id: u64,
    pub(super) first: u64,
    /// The raft index behind the last that belongs here.
    pub(super) end: u64,
    /// What is known of its records, if there are any.
    pub(super) segment: Option<Arc<Segment<D>>>,
    /// The length of a file that is made from nothing.
    pub(super) file_bytes: u64,
}

/// A record and the offset where it goes.
struct Patch {
    at: u64,
    header: RecordHeader,
    batch: Batch,
}

impl<'a, D: Disk> SegmentRewrite<'a, D> {
    /// The file that `raft_index` belongs to, if that is known.
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

    /// A file for batches that win over all that is there from `first` on: `id` is newer than any.
    pub(super) fn new_file(
        disk: &'a D,
        directory: u128,
        id: u64,
        first: u64,
        file_bytes: u64,
    ) -> Self {
        SegmentRewrite { disk, directory, id, first, end: u64::MAX, segment: None, file_bytes }
    }

    /// Puts `batches` where they belong, behind the mark `before`, and gives the file its name
    /// durably. As many of them as belong here; returns how many those are.
    ///
    /// # Errors
    /// [`StorageError::NotContiguous`] if they do not fit what the file holds of them, of what
    /// follows, or of their offset. Unless it is another, what is on the disk is as before.
    pub(super) fn fill(&self, before: &LogPoint, batches: &[Batch]) -> Result<usize, StorageError> {
        let here = batches.iter().take_while(|batch| batch.raft_index() < self.end).count();
        let (patches, reached) = self.patches(before, &batches[..here])?;
        let is_last = self.next_intact(before.raft_index + 1 + here as u64)?.is_none();
        self.write(&patches, is_last.then_some(reached))?;
        Ok(here)
    }

    /// Gives the segment its head back.
    pub(super) fn restore_header(&self) -> Result<(), StorageError> {
        self.write(&[], None)
    }

    fn checksum_seed(&self) -> u32 {
        format::checksum_seed(self.directory, self.id)
    }

    fn name(&self) -> String {
        format::segment_name(self.id, self.first)
    }

    /// What has to be written, and where the last of `batches` ends.
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
                return Err(wrong("the log knows another one by its header"));
            }
            stamp = known.map_or(stamp, |known| (known.synced, known.commit));
            let header = RecordHeader::of(batch, point, self.id, stamp.0, stamp.1);
            if known.is_some_and(|known| known != header) {
                return Err(wrong("a header does not come out as it was"));
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
                Err(wrong("there is no room for them in front of what follows"))
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

    /// The header that is there for this raft index, if it can be read.
    fn header(&self, raft_index: u64) -> Result<Option<RecordHeader>, StorageError> {
        let Some((segment, ordinal)) = self.ordinal(raft_index) else { return Ok(None) };
        segment.header(self.disk, ordinal)
    }

    /// Where the record of this raft index lies, if that is known for certain.
    fn location(&self, raft_index: u64) -> Result<Option<u64>, StorageError> {
        let Some((segment, ordinal)) = self.ordinal(raft_index) else { return Ok(None) };
        Ok(segment.known_location(self.disk, ordinal)?.map(|(offset, _)| offset))
    }

    /// Where the record `raft_index` ends, or where the first one begins.
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

    /// The first record at `raft_index` or behind that has a offset, and its offset. In a sealed
    /// segment every record has one.
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
        // What a sealed segment holds behind its records is kept: its footer.
        Ok(segment.footer_at().map(|footer_at| (self.first + segment.len(), footer_at)))
    }

    /// Writes the file, with zeros from `zeros_from` on, and puts it in offset of the old one.
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
            copy(old, 0..kept, &file, 0)
                .map_err(|error| not_written(self.disk, "copy", &name, error))?;
        }
        write_all(&file, &mut [IoSlice::new(&format::segment_header(self.directory))], 0)
            .map_err(write_failed)?;
        for patch in patches {
            self.put(&file, patch).map_err(write_failed)?;
        }
        // A full disk at this point is no better than a broken one.
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

/// Writes what `segment` holds from `from` on as a segment that begins there. It has the same id,
/// so that each record is the same to the last bit, and counts as soon as the log begins behind the
/// first record of the old one. It has no head: that says that it is no new segment, whatever is
/// missing in front of it, and is mended last.
///
/// # Errors
/// [`StorageError::Full`], and the log is as before. Any other is final.
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
        copy(&old, at..end, &file, RECORDS_AT)
            .map_err(|error| not_written(disk, "copy", name, error))?;
        file.sync_data().map_err(|error| broken(disk, "sync", temp, error))
    })
}

/// Lets `write` write a segment beside its offset, durably, and gives it its name, durably too.
fn replace_atomically<D: Disk>(
    disk: &D,
    id: u64,
    first: u64,
    write: impl FnOnce(&str) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let (name, temp) =
        (format::segment_name(id, first), format!("{id:016x}-{first:016x}{REWRITE_SUFFIX}"));
    // What a crash or a full disk left of an earlier attempt.
    match disk.remove(&temp) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(not_written(disk, "remove", &temp, error));
        }
        _ => {}
    }
    if let Err(error) = write(&temp) {
        // Gives the room back. If this fails too, the next opening removes it.
        let _ = disk.remove(&temp);
        return Err(error);
    }
    disk.rename(&temp, &name).map_err(|error| not_written(disk, "rename", &temp, error))?;
    disk.sync_dir().map_err(|error| broken(disk, "sync", "", error))
}

/// Copies what lies in `range`, to `to_at` on.
fn copy<F: DiskFile>(from: &F, range: Range<u64>, to: &F, to_at: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; COPY_CHUNK_BYTES.min(range.end.saturating_sub(range.start)) as usize];
    let mut at = range.start;
    while at < range.end {
        let now = &mut buffer[..COPY_CHUNK_BYTES.min(range.end - at) as usize];
        read_exact(from, now, at)?;
        write_all(to, &mut [IoSlice::new(now)], to_at + (at - range.start))?;
        at += now.len() as u64;
    }
    Ok(())
}
