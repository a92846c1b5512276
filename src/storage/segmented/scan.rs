//! Scan of a segment from front to back, trusting nothing: which records are intact, where they
//! end, and what follows.

use std::io::{self, IoSlice};

use bytes::Bytes;

use super::error::{corrupt, failed};
use super::file_io::{read_exact, read_full, write_all};
use super::format::{
    self, CHECKED_BYTES, DurablePoint, RECORD_HEADER_BYTES, RECORDS_AT, RecordHeader,
};
use super::fs::{Disk, DiskFile};
use super::record_index::RecordIndex;
use crate::storage::{Batch, LogPoint, StorageError};

/// The result of a scan.
pub(super) struct Scan {
    /// The intact records from the first on, published in the index.
    pub(super) records: Box<RecordIndex>,
    /// The first of them.
    pub(super) head: Option<(RecordHeader, Batch)>,
    /// The last of them.
    pub(super) last: Option<RecordHeader>,
    /// Where the intact records end.
    pub(super) end: u64,
    /// Only zeros follow `end`: no write was begun there.
    pub(super) clean: bool,
    /// The newest durable point in any record, including those behind a bad one.
    pub(super) synced: DurablePoint,
    pub(super) file_bytes: u64,
}

impl Scan {
    /// The header of the record of this ordinal, which is one of `records`.
    pub(super) fn header<D: Disk>(
        &self,
        disk: &D,
        file: &D::File,
        name: &str,
        id: u64,
        seed: u32,
        ordinal: u64,
    ) -> Result<RecordHeader, StorageError> {
        match &self.last {
            Some(last) if ordinal + 1 == self.records.len() => return Ok(*last),
            _ => {}
        }
        let (offset, _) = self.records.location(ordinal);
        let mut bytes = [0; CHECKED_BYTES];
        let read = read_full(file, &mut bytes, offset)
            .map_err(|error| failed(disk, "read", name, error))?;
        RecordHeader::decode(&bytes[..read], id, seed)
            .ok_or_else(|| corrupt(disk, name, offset, "a record changed while it was read"))
    }

    /// Writes the records from this ordinal on again, byte for byte.
    pub(super) fn rewrite_unsynced(&self, file: &impl DiskFile, ordinal: u64) -> io::Result<()> {
        if ordinal >= self.records.len() {
            return Ok(());
        }
        let mut at = self.records.location(ordinal).0;
        let mut bytes = vec![0; (self.end - at).min(WINDOW_BYTES as u64) as usize];
        while at < self.end {
            let now = (self.end - at).min(bytes.len() as u64) as usize;
            read_exact(file, &mut bytes[..now], at)?;
            write_all(file, &mut [IoSlice::new(&bytes[..now])], at)?;
            at += now as u64;
        }
        Ok(())
    }
}

/// Scans the segment `id`, whose first record has the raft index `first`. Every record is wholly
/// checked: header, chain, batch table and payloads. Memory: one window of 1 MiB, or the largest
/// record if that is larger.
pub(super) fn scan<D: Disk>(
    disk: &D,
    file: &D::File,
    name: &str,
    id: u64,
    seed: u32,
    first: u64,
) -> Result<Scan, StorageError> {
    let read_failed = |error| failed(disk, "read", name, error);
    let file_bytes = file.size().map_err(read_failed)?;
    let mut window = Window::new(file, file_bytes);
    let mut scan = Scan {
        records: RecordIndex::new(),
        head: None,
        last: None,
        end: RECORDS_AT,
        clean: false,
        synced: DurablePoint::default(),
        file_bytes,
    };
    let mut count = 0;
    while let Some((header, batch)) =
        intact_record(&mut window, scan.end, id, seed).map_err(read_failed)?
    {
        if !continues(&header, &batch, scan.last.as_ref().map(|last| &last.point), first) {
            break;
        }
        scan.records.put(count, scan.end, header.body_bytes, header.point.next_index);
        count += 1;
        scan.end += header.record_bytes();
        scan.synced = newer(scan.synced, header.synced);
        scan.last = Some(header);
        scan.head.get_or_insert((header, batch));
    }
    scan.records.publish(count);
    scan.clean = window.zeros_from(scan.end).map_err(read_failed)?;
    if !scan.clean {
        scan.synced = newer(
            scan.synced,
            synced_behind(&mut window, scan.end, id, seed).map_err(read_failed)?,
        );
    }
    Ok(scan)
}

/// Whether a record is in its order: first in the segment, or directly after the log point
/// `before`.
fn continues(header: &RecordHeader, batch: &Batch, before: Option<&LogPoint>, first: u64) -> bool {
    match before {
        None => header.point.raft_index == first,
        Some(before) => batch.point_after(before) == Ok(header.point),
    }
}

fn intact_record<F: DiskFile>(
    window: &mut Window<'_, F>,
    at: u64,
    id: u64,
    seed: u32,
) -> io::Result<Option<(RecordHeader, Batch)>> {
    let Some(header) = header_at(window, at, id, seed)? else { return Ok(None) };
    Ok(body_of(window, at, &header)?.map(|batch| (header, batch)).ok())
}

/// The header at `at`, if it is one of segment `id` and the record ends within the file.
pub(super) fn header_at<F: DiskFile>(
    window: &mut Window<'_, F>,
    at: u64,
    id: u64,
    seed: u32,
) -> io::Result<Option<RecordHeader>> {
    let header = RecordHeader::decode(window.up_to(at, CHECKED_BYTES)?, id, seed);
    let room = window.file_bytes.saturating_sub(at);
    Ok(header.filter(|header| header.record_bytes() <= room))
}

/// The batch after the header at `at`, with every byte checked. The inner error says what is
/// corrupt.
pub(super) fn body_of<F: DiskFile>(
    window: &mut Window<'_, F>,
    at: u64,
    header: &RecordHeader,
) -> io::Result<Result<Batch, BodyError>> {
    let bytes = RECORD_HEADER_BYTES + header.body_bytes as usize;
    let Some(body) = window.up_to(at, bytes)?.get(RECORD_HEADER_BYTES..bytes) else {
        return Ok(Err(BodyError::Table));
    };
    let Ok(batch) =
        Batch::new(header.point.raft_index, header.point.term, Bytes::copy_from_slice(body))
    else {
        return Ok(Err(BodyError::Table));
    };
    if crc32fast::hash(batch.table()) != header.table_crc {
        return Ok(Err(BodyError::Table));
    }
    let verified = batch.verify();
    Ok(verified.map(|()| batch).map_err(|_| BodyError::Payload))
}

/// What is corrupt in a body whose header is intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// The batch table: the entries cannot be located.
    Table,
    /// A payload does not match its checksum: its readers notice, and the other entries are intact.
    Payload,
}

/// The first intact header of segment `id` at or after `from`. Every aligned offset is tried; the
/// checksum decides.
pub(super) fn next_header<F: DiskFile>(
    window: &mut Window<'_, F>,
    from: u64,
    id: u64,
    seed: u32,
) -> io::Result<Option<(u64, RecordHeader)>> {
    let mut at = from;
    while at < window.file_bytes {
        let whole = window.file_bytes - at <= WINDOW_BYTES as u64;
        let bytes = window.up_to(at, WINDOW_BYTES)?;
        // A header across the end of the window is tried again in the next one.
        let steps = if whole { bytes.len() } else { bytes.len().saturating_sub(CHECKED_BYTES) };
        if steps == 0 {
            break;
        }
        for step in (0..steps)
            .step_by(format::ALIGN as usize)
            .filter(|&step| RecordHeader::may_begin(&bytes[step..], id))
        {
            if let Some(header) = RecordHeader::decode(&bytes[step..], id, seed) {
                return Ok(Some((at + step as u64, header)));
            }
        }
        at += format::aligned(steps as u64);
    }
    Ok(None)
}

/// The newest durable point in the records behind a bad one.
fn synced_behind<F: DiskFile>(
    window: &mut Window<'_, F>,
    from: u64,
    id: u64,
    seed: u32,
) -> io::Result<DurablePoint> {
    let (mut synced, mut at) = (DurablePoint::default(), from);
    while let Some((found_at, header)) = next_header(window, at, id, seed)? {
        synced = newer(synced, header.synced);
        at = found_at + format::ALIGN;
    }
    Ok(synced)
}

fn newer(one: DurablePoint, other: DurablePoint) -> DurablePoint {
    if other.raft_index > one.raft_index { other } else { one }
}

const WINDOW_BYTES: usize = 1 << 20;
const ZEROS: [u8; 4096] = [0; 4096];

/// A window of a file in memory.
pub(super) struct Window<'a, F> {
    file: &'a F,
    pub(super) file_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a, F: DiskFile> Window<'a, F> {
    pub(super) fn new(file: &'a F, file_bytes: u64) -> Window<'a, F> {
        Window { file, file_bytes, start: 0, bytes: Vec::new() }
    }

    /// The bytes from `at`: `count` of them, or fewer at the end of the file. A corrupt length
    /// never makes this allocate more than the file is long.
    fn up_to(&mut self, at: u64, count: usize) -> io::Result<&[u8]> {
        let count = self.file_bytes.saturating_sub(at).min(count as u64) as usize;
        let held = at >= self.start && at + count as u64 <= self.start + self.bytes.len() as u64;
        if !held {
            self.start = at;
            self.bytes.resize(
                self.file_bytes.saturating_sub(at).min(count.max(WINDOW_BYTES) as u64) as usize,
                0,
            );
            let read = read_full(self.file, &mut self.bytes, at)?;
            self.bytes.truncate(read);
        }
        let from = ((at - self.start) as usize).min(self.bytes.len());
        let to = (from + count).min(self.bytes.len());
        Ok(&self.bytes[from..to])
    }

    /// Whether the file reads as zeros from here to its end.
    fn zeros_from(&mut self, from: u64) -> io::Result<bool> {
        let mut at = from;
        while at < self.file_bytes {
            let bytes = self.up_to(at, WINDOW_BYTES)?;
            // Compared page by page: byte by byte, opening a large segment would be slow in an
            // unoptimized build.
            if bytes.is_empty()
                || bytes.chunks(ZEROS.len()).any(|chunk| chunk != &ZEROS[..chunk.len()])
            {
                return Ok(bytes.is_empty());
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }
}
