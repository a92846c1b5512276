//! The active segment: the file that takes records now.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::file_io::write_whole;
use super::format::{self, DurablePoint, INDEX_ENTRY_BYTES, RECORD_HEADER_BYTES, RecordHeader};
use super::fs::Disk;
use super::record_index::RecordIndex;
use super::segment::Segment;
use crate::storage::{Batch, LogPoint};

/// Append-only: no byte is overwritten. A failed write closes the segment; the next append begins a
/// new one. So old bytes never pass for newer ones.
pub(super) struct ActiveSegment<D: Disk> {
    pub(super) segment: Arc<Segment<D>>,
    pub(super) file: Arc<D::File>,
    pub(super) bytes: u64,
    /// Where the next record goes.
    pub(super) at: u64,
    /// Records written so far; the last of them may not be published yet.
    written: u64,
    /// No record is added any more.
    closed: bool,
    /// For how long the log had been open when it began: see [`run_clock`](super::run_clock).
    pub(super) began_ms: u64,
}

/// The bytes that a batch needs in a segment: its record, and its entry in the footer.
pub(super) fn bytes_needed(batch: &Batch) -> u64 {
    format::record_bytes(batch.body().len() as u64) + INDEX_ENTRY_BYTES as u64
}

/// What all records of one append carry.
#[derive(Clone, Copy)]
pub(super) struct AppendContext {
    pub(super) synced: DurablePoint,
    pub(super) commit: u64,
}

impl<D: Disk> ActiveSegment<D> {
    /// Continues a segment of `bytes` in which records end at `at`.
    pub(super) fn new(
        segment: Arc<Segment<D>>,
        file: Arc<D::File>,
        bytes: u64,
        at: u64,
    ) -> ActiveSegment<D> {
        let written = segment.len();
        ActiveSegment { segment, file, bytes, at, written, closed: false, began_ms: 0 }
    }

    /// It began when the log had been open for so long.
    pub(super) fn begun_at(mut self, began_ms: u64) -> ActiveSegment<D> {
        self.began_ms = began_ms;
        self
    }

    /// How many of `batches` fit. Space for the footer is kept: a file that grew by its footer
    /// would not have the length of a segment, and so could not be recycled.
    pub(super) fn room_for(&self, batches: &[Batch]) -> usize {
        if self.closed {
            return 0;
        }
        let mut room = self.bytes.saturating_sub(self.at + self.written * INDEX_ENTRY_BYTES as u64);
        batches
            .iter()
            .take_while(|batch| {
                let bytes = bytes_needed(batch);
                let fits = bytes <= room;
                room = room.saturating_sub(bytes);
                fits
            })
            .count()
    }

    /// Writes `batches` with as few system calls as possible; `points` are the log points after
    /// each of them. Readers do not see them before [`publish`](Self::publish). A failure closes
    /// the segment.
    pub(super) fn write(
        &mut self,
        batches: &[Batch],
        points: &[LogPoint],
        context: AppendContext,
    ) -> io::Result<()> {
        let segment = &self.segment;
        let headers: Vec<RecordHeader> = batches
            .iter()
            .zip(points)
            .map(|(batch, point)| {
                RecordHeader::of(batch, *point, segment.id, context.synced, context.commit)
            })
            .collect();
        let heads: Vec<[u8; RECORD_HEADER_BYTES]> = batches
            .iter()
            .zip(&headers)
            .map(|(batch, header)| header.encode(segment.seed, batch.prefix_bytes()))
            .collect();
        let mut parts = Vec::with_capacity(3 * batches.len());
        for (batch, head) in batches.iter().zip(&heads) {
            let padding = format::record_bytes(batch.body().len() as u64) as usize
                - RECORD_HEADER_BYTES
                - batch.body().len();
            parts.extend([
                IoSlice::new(head),
                IoSlice::new(batch.body()),
                IoSlice::new(&[0; format::ALIGN as usize][..padding]),
            ]);
        }
        self.closed = true;
        write_whole(&*self.file, &mut parts, self.at)?;
        self.closed = false;
        self.index_records(&headers);
        Ok(())
    }

    /// Enters the records just written into the index.
    fn index_records(&mut self, headers: &[RecordHeader]) {
        let records = self.records();
        let (mut at, mut ordinal) = (self.at, self.written);
        for header in headers {
            records.put(ordinal, at, header.body_bytes, header.point.next_index);
            at += header.record_bytes();
            ordinal += 1;
        }
        (self.at, self.written) = (at, ordinal);
    }

    /// Makes all written records visible to readers.
    pub(super) fn publish(&self) {
        self.records().publish(self.written);
    }

    fn records(&self) -> &RecordIndex {
        self.segment.records().expect(
            "the tail is a segment that this process writes, so its records are known from memory",
        )
    }
}
