//! Scan of a corrupt segment: which records are readable, and which are missing.
//!
//! A plain scan ends at the first bad record. This one continues behind it: each record names its
//! segment and raft index, so later records are found by trying every aligned offset. The raft
//! indexes in between are corrupt.

use std::ops::Range;

use super::error::failed;
use super::format::{self, RECORD_HEADER_BYTES, RECORDS_AT, RecordHeader};
use super::fs::{Disk, DiskFile};
use super::record_index::RecordIndex;
use super::scan::{BodyError, Window, body_of, header_at, next_header};
use crate::storage::{Batch, LogPoint, StorageError};

/// The result.
pub(super) struct DamagedScan {
    /// All records up to the last one found, published. Unreadable ones in between have a slot that
    /// is marked corrupt.
    pub(super) records: Box<RecordIndex>,
    /// What is not wholly readable, in order. The last range may lie behind the last record found.
    pub(super) corrupt_ranges: Vec<CorruptRange>,
    /// The index of the first entry of the first intact record, or of the next entry if that record
    /// has none. `None` without an intact record.
    pub(super) first_index: Option<u64>,
    /// Where the last record found ends.
    pub(super) end: u64,
}

/// Adjacent records that do not read back, for one reason.
pub(super) struct CorruptRange {
    pub(super) offset: u64,
    pub(super) raft_indexes: Range<u64>,
    pub(super) term: Option<u64>,
    pub(super) chain: Option<u32>,
    pub(super) reason: &'static str,
}

/// Scans the segment `id`, whose first record has the raft index `first`. Records below `limit`
/// were durable: a bad or missing one there is corrupt. One at or behind `limit` was torn, and ends
/// the segment. Memory: as for a plain scan.
pub(super) fn scan_past_corruption<D: Disk>(
    disk: &D,
    file: &D::File,
    name: &str,
    id: u64,
    seed: u32,
    first: u64,
    limit: u64,
) -> Result<DamagedScan, StorageError> {
    let read_failed = |error| failed(disk, "read", name, error);
    let file_bytes = file.size().map_err(read_failed)?;
    let window = Window::new(file, file_bytes);
    let found = DamagedScan {
        records: RecordIndex::new(),
        corrupt_ranges: Vec::new(),
        first_index: None,
        end: RECORDS_AT,
    };
    let mut scanner =
        DamagedScanner { window, id, seed, first, limit, next: first, before: None, found };
    while scanner.step().map_err(read_failed)? {}
    scanner.end();
    Ok(scanner.found)
}

struct DamagedScanner<'a, F> {
    window: Window<'a, F>,
    id: u64,
    seed: u32,
    first: u64,
    limit: u64,
    /// The next raft index, expected at `found.end`.
    next: u64,
    /// The log point before it, if the record there was intact.
    before: Option<LogPoint>,
    found: DamagedScan,
}

impl<F: DiskFile> DamagedScanner<'_, F> {
    /// Advances past one record, or one unreadable range. False at the end.
    fn step(&mut self) -> std::io::Result<bool> {
        let at = self.found.end;
        match header_at(&mut self.window, at, self.id, self.seed)?
            .filter(|header| header.point.raft_index == self.next)
        {
            Some(header) => {
                let body = body_of(&mut self.window, at, &header)?;
                Ok(self.take(&header, body))
            }
            None => self.resume(),
        }
    }

    /// Adds the record at the end, whose header is intact.
    fn take(&mut self, header: &RecordHeader, body: Result<Batch, BodyError>) -> bool {
        let (at, ordinal, next_index) =
            (self.found.end, self.next - self.first, header.point.next_index);
        let torn = self.next >= self.limit;
        match body {
            Ok(batch) => {
                if self.before.is_some_and(|before| batch.point_after(&before) != Ok(header.point))
                {
                    return false;
                }
                self.found.first_index.get_or_insert(batch.first_index().unwrap_or(next_index));
                self.found.records.put(ordinal, at, header.body_bytes, next_index);
            }
            Err(_) if torn => return false,
            Err(error) => {
                let reason = match error {
                    BodyError::Payload => "a payload does not match its checksum",
                    BodyError::Table => "the table of the batch is corrupt",
                };
                match error {
                    BodyError::Payload => {
                        self.found.records.put(ordinal, at, header.body_bytes, next_index)
                    }
                    BodyError::Table => self.found.records.put_corrupt(ordinal, at, next_index),
                }
                let raft_indexes = self.next..self.next + 1;
                let (term, chain) = (Some(header.point.term), Some(header.point.chain));
                self.push(CorruptRange { offset: at, raft_indexes, term, chain, reason });
            }
        }
        self.before = Some(header.point);
        self.found.end += header.record_bytes();
        self.next += 1;
        true
    }

    /// Finds the next record behind an unreadable one. It must have a higher raft index, and enough
    /// space before it for the missing records: so a payload that looks like a record is rejected.
    fn resume(&mut self) -> std::io::Result<bool> {
        let mut at = self.found.end;
        while let Some((found_at, header)) =
            next_header(&mut self.window, at + format::ALIGN, self.id, self.seed)?
        {
            let raft_index = header.point.raft_index;
            let room = (found_at - self.found.end) / RECORD_HEADER_BYTES as u64;
            if raft_index > self.next
                && raft_index - self.next <= room
                && header_at(&mut self.window, found_at, self.id, self.seed)?.is_some()
            {
                if raft_index > self.limit {
                    return Ok(false);
                }
                let behind = body_of(&mut self.window, found_at, &header)?
                    .ok()
                    .and_then(|batch| batch.first_index());
                self.skip(raft_index, behind.unwrap_or(header.point.next_index));
                self.found.end = found_at;
                return Ok(true);
            }
            at = found_at;
        }
        Ok(false)
    }

    /// Enters the records up to `raft_index` as unreadable; the next entry after them has an index
    /// of at most `next_index`. Their number is bounded by the space for them.
    fn skip(&mut self, raft_index: u64, next_index: u64) {
        for missing in self.next..raft_index {
            self.found.records.put_corrupt(missing - self.first, self.found.end, next_index);
        }
        self.push_missing(raft_index);
        (self.next, self.before) = (raft_index, None);
    }

    /// What is missing below the limit is corrupt. The limit may come from other files, so no slots
    /// are allocated for it.
    fn end(&mut self) {
        self.found.records.publish(self.next - self.first);
        if self.next < self.limit {
            self.push_missing(self.limit);
        }
    }

    fn push_missing(&mut self, raft_index: u64) {
        let (offset, raft_indexes) = (self.found.end, self.next..raft_index);
        self.push(CorruptRange {
            offset,
            raft_indexes,
            term: None,
            chain: None,
            reason: "no record can be read here",
        });
    }

    /// Merges adjacent ranges with the same reason.
    fn push(&mut self, range: CorruptRange) {
        match self.found.corrupt_ranges.last_mut() {
            Some(last)
                if last.raft_indexes.end == range.raft_indexes.start
                    && last.reason == range.reason =>
            {
                last.raft_indexes.end = range.raft_indexes.end;
                last.term = last.term.filter(|_| last.term == range.term);
                last.chain = range.chain;
            }
            _ => self.found.corrupt_ranges.push(range),
        }
    }
}
