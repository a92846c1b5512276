//! Lookup by position and by time.
//!
//! Neither is in the record index: the header of each record has both. So a search reads headers,
//! as few as a guess allows. The record index tells how many bytes of payload lie before a record,
//! but for the padding between records and for control records; spread evenly, the error is small.
//!
//! A log with corruption is searched too, but a search may fail at a corrupt record that is not the
//! one looked for. It never finds another record: what it returns was checked against the header.

use super::error::corrupt;
use super::format::{CHECKED_BYTES, RECORD_HEADER_BYTES, RECORDS_AT, RecordHeader};
use super::fs::{Disk, DiskMap};
use super::lookup::search_first_above;
use super::segment::{Segment, SegmentContents, View};
use super::segment_set::{LiveSegment, SegmentSet};
use crate::batch::{BATCH_HEADER_BYTES, TABLE_ENTRY_BYTES};
use crate::entry::Entry;
use crate::search::{Keys, search_keys};
use crate::storage::{Batch, StorageError};

/// Where a byte lies: the segment, the view of it, and the record.
type ByteHit<'l, D> = (&'l LiveSegment<D>, View<'l, D>, u64);

/// What the header of a record and that of its batch tell.
struct Place {
    /// The index and position of its first entry. `None` of a control record.
    first: Option<(u64, u64)>,
    next_position: u64,
    timestamp: u64,
}

impl<D: Disk> SegmentSet<D> {
    /// The entry that holds the byte at `position`.
    pub(super) fn entry_at(&self, disk: &D, position: u64) -> Result<Option<Entry>, StorageError> {
        let Some((part, view, ordinal)) = self.find_position(disk, position)? else {
            return Ok(None);
        };
        let find = |body: &[u8]| Batch::find_position(body, position);
        part.segment.checked_entry(disk, &view, ordinal, find).map(Some)
    }

    /// The batch that holds the byte at `position`.
    pub(super) fn batch_at(&self, disk: &D, position: u64) -> Result<Option<Batch>, StorageError> {
        let Some((part, _, ordinal)) = self.find_position(disk, position)? else {
            return Ok(None);
        };
        let (_, batch) = part.segment.record(disk, ordinal)?;
        Ok(Some(batch))
    }

    /// The index of the first entry of this time or later.
    pub(super) fn first_index_since(
        &self,
        disk: &D,
        timestamp: u64,
    ) -> Result<Option<u64>, StorageError> {
        let base = self.base.point;
        let Some(below) = timestamp.checked_sub(1).filter(|&below| base.timestamp <= below) else {
            let first = self.find(disk, base.next_index)?;
            return Ok(first.map(|_| base.next_index));
        };
        let begin = |at: u64| self.segments[at as usize].segment.before.timestamp;
        let next = self.segment_after(below, base.timestamp, begin);
        let Some(part) = next.checked_sub(1).map(|at| &self.segments[at]) else {
            return self.check_missing(disk, next).map(|()| None);
        };
        let view = part.segment.contents(disk)?;
        match part.segment.first_index_above(disk, &view, below, part.len())? {
            None => self.check_missing(disk, next).map(|()| None),
            found => Ok(found),
        }
    }

    /// The record with the byte at `position`. `None` beyond the end of the log.
    #[inline]
    fn find_position(
        &self,
        disk: &D,
        position: u64,
    ) -> Result<Option<ByteHit<'_, D>>, StorageError> {
        let base = self.base.point;
        if position < base.next_position {
            return Err(self.purged());
        }
        // Of several segments that begin at the same position, only the last can hold it: the
        // others have no byte of payload.
        let begin = |at: u64| self.segments[at as usize].segment.before.next_position;
        let next = self.segment_after(position, base.next_position, begin);
        let Some(part) = next.checked_sub(1).map(|at| &self.segments[at]) else {
            return self.check_missing(disk, next).map(|()| None);
        };
        let view = part.segment.contents(disk)?;
        match part.segment.record_at(disk, &view, position, part.len())? {
            Some(ordinal) => Ok(Some((part, view, ordinal))),
            None => self.check_missing(disk, next).map(|()| None),
        }
    }

    #[inline]
    fn segment_after(&self, wanted: u64, start: u64, begin: impl Fn(u64) -> u64) -> usize {
        let next = search_first_above(wanted, start, self.segments.len() as u64, begin);
        next.map_or(self.segments.len(), |next| next.ordinal as usize)
    }
}

impl<D: Disk> Segment<D> {
    /// The record below `limit` that holds the byte at `position`. The segment must not begin above
    /// it.
    fn record_at(
        &self,
        disk: &D,
        contents: &SegmentContents<D>,
        position: u64,
        limit: u64,
    ) -> Result<Option<u64>, StorageError> {
        let Some(last) = self.last_readable(disk, contents, limit)? else { return Ok(None) };
        let end = match self.sealed_end(limit) {
            Some(point) => point.next_position,
            None => self.place(disk, contents, last)?.next_position,
        };
        if position >= end {
            return Ok(None);
        }
        let start = self.before.next_position;
        let guess = self.guess_record(contents, last, position - start, end.saturating_sub(start));
        let found = search_keys::<_, StorageError>(0..last + 1, guess, position, |ordinal| {
            let place = self.place(disk, contents, ordinal)?;
            let before = place.first.map_or(place.next_position, |(_, position)| position);
            Ok(Keys { before: Some(before), key: place.next_position, found: () })
        })?;
        Ok(found.map(|(ordinal, ())| ordinal))
    }

    /// The index of the first entry below record `limit` whose timestamp is above `wanted`. That of
    /// the log point before the segment is not.
    fn first_index_above(
        &self,
        disk: &D,
        contents: &SegmentContents<D>,
        wanted: u64,
        limit: u64,
    ) -> Result<Option<u64>, StorageError> {
        let Some(last) = self.last_readable(disk, contents, limit)? else { return Ok(None) };
        let end = match self.sealed_end(limit) {
            Some(point) => point.timestamp,
            None => self.place(disk, contents, last)?.timestamp,
        };
        if wanted >= end {
            return Ok(None);
        }
        // As if batches were appended at an even rate.
        let start = self.before.timestamp;
        let guess = share(last + 1, wanted - start, end.saturating_sub(start));
        let found = search_keys::<_, StorageError>(0..last + 1, guess, wanted, |ordinal| {
            let Place { first, timestamp, .. } = self.place(disk, contents, ordinal)?;
            Ok(Keys { before: None, key: timestamp, found: first })
        })?;
        match found {
            None => Ok(None),
            Some((_, Some((index, _)))) => Ok(Some(index)),
            Some((ordinal, None)) => {
                Err(self.corrupt_at(disk, ordinal, "a control record has a time of its own"))
            }
        }
    }

    /// The last record below `limit`. `None` without one.
    fn last_readable(
        &self,
        disk: &D,
        contents: &SegmentContents<D>,
        limit: u64,
    ) -> Result<Option<u64>, StorageError> {
        let wanted = limit.min(self.len());
        if contents.index.len() < wanted {
            return Err(self.unreadable(disk));
        }
        Ok(wanted.checked_sub(1))
    }

    /// Which record probably holds the payload byte `offset` of the `total` up to the end of record
    /// `last`.
    fn guess_record(
        &self,
        contents: &SegmentContents<D>,
        last: u64,
        offset: u64,
        total: u64,
    ) -> u64 {
        let estimate = |ordinal: u64| {
            let (at, body_bytes, next_index) = contents.index.record(ordinal);
            let headers = (RECORD_HEADER_BYTES + BATCH_HEADER_BYTES) as u64 * (ordinal + 1);
            let tables =
                TABLE_ENTRY_BYTES as u64 * next_index.saturating_sub(self.before.next_index);
            (at.saturating_sub(RECORDS_AT) + RECORD_HEADER_BYTES as u64 + body_bytes)
                .saturating_sub(headers.saturating_add(tables))
        };
        // Padding and control records are spread evenly over the segment.
        let wanted = share(estimate(last), offset, total);
        search_first_above(wanted, 0, last + 1, estimate).map_or(last, |hit| hit.ordinal)
    }

    /// What the header of this record and that of its batch tell. Their checksum is verified.
    #[inline]
    fn place(
        &self,
        disk: &D,
        contents: &SegmentContents<D>,
        ordinal: u64,
    ) -> Result<Place, StorageError> {
        let (offset, body_bytes) = self.location(disk, contents, ordinal)?;
        let len = (RECORD_HEADER_BYTES as u64 + body_bytes).min(CHECKED_BYTES as u64);
        let read = |bytes: &[u8]| {
            let header = RecordHeader::decode(bytes, self.id, self.seed)?;
            let fits = header.point.raft_index == self.first + ordinal
                && u64::from(header.body_bytes) == body_bytes;
            let first = Batch::first_place(&bytes[RECORD_HEADER_BYTES..]);
            fits.then_some(Place {
                first,
                next_position: header.point.next_position,
                timestamp: header.point.timestamp,
            })
        };
        let place = contents.map.with_bytes(offset, len, read).flatten();
        place.ok_or_else(|| corrupt(disk, &self.name, offset, "the record is not the one indexed"))
    }
}

/// `part` of `of`, as a part of `whole`. Rounded, and never above `whole`.
fn share(whole: u64, part: u64, of: u64) -> u64 {
    if part >= of {
        return whole;
    }
    (whole as f64 * (part as f64 / of as f64)) as u64
}
