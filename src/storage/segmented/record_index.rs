//! Where the records of a segment lie, in memory: 16 bytes a record, written by one thread, read by
//! any, without a lock.
//!
//! Why no lock is needed:
//! 1. One thread writes. It stores the location of a record, then raises `published` with Release.
//!    Readers load `published` with Acquire, and read no slot behind it.
//! 2. A slot is written once. Chunks of slots never move: the next chunk is twice as large, and
//!    each is allocated once.
//! 3. The bytes of a record are in the file before its slot is published, and are never written
//!    again.

use super::format;
use crate::primitives::OnceLock;
use crate::primitives::atomic::{AtomicU64, Ordering};

/// The locations of the records of an unsealed segment, written by one thread and read by any.
pub(super) struct RecordIndex {
    published: AtomicU64,
    /// Chunk n holds `FIRST_CHUNK << n` slots.
    chunks: [OnceLock<Box<[IndexSlot]>>; CHUNKS],
}

/// In place of the length of an unreadable record. No body is as long.
pub(super) const CORRUPT: u32 = u32::MAX;

/// Small under loom, where all schedules of filling several chunks are tried.
const FIRST_CHUNK: u64 = if cfg!(all(test, loom)) { 2 } else { 64 };
const CHUNKS: usize = 26;

#[derive(Default)]
struct IndexSlot {
    /// The offset in units of [`format::ALIGN`], and the length of the body: 32 bits each.
    place: AtomicU64,
    next_index: AtomicU64,
}

impl RecordIndex {
    pub(super) fn new() -> Box<RecordIndex> {
        Box::new(RecordIndex {
            published: AtomicU64::new(0),
            chunks: std::array::from_fn(|_| OnceLock::new()),
        })
    }

    #[inline]
    pub(super) fn len(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Writes the location of record `ordinal`. Readers do not see it before it is published.
    pub(super) fn put(&self, ordinal: u64, offset: u64, body_bytes: u32, next_index: u64) {
        let (chunk, at) = slot_of(ordinal);
        let chunk = self.chunks[chunk]
            .get_or_init(|| (0..FIRST_CHUNK << chunk).map(|_| IndexSlot::default()).collect());
        chunk[at]
            .place
            .store((offset / format::ALIGN) << 32 | u64::from(body_bytes), Ordering::Relaxed);
        chunk[at].next_index.store(next_index, Ordering::Relaxed);
    }

    /// Writes that record `ordinal` is unreadable, and lies at `offset` or behind; `next_index` is
    /// not below the index after it.
    pub(super) fn put_corrupt(&self, ordinal: u64, offset: u64, next_index: u64) {
        self.put(ordinal, offset, CORRUPT, next_index);
    }

    /// Makes the first `count` records visible.
    pub(super) fn publish(&self, count: u64) {
        self.published.store(count, Ordering::Release);
    }

    /// Offset and body length of a record.
    #[inline]
    pub(super) fn location(&self, ordinal: u64) -> (u64, u64) {
        let place = self.slot(ordinal).place.load(Ordering::Relaxed);
        ((place >> 32) * format::ALIGN, place & u64::from(u32::MAX))
    }

    #[inline]
    pub(super) fn next_index(&self, ordinal: u64) -> u64 {
        self.slot(ordinal).next_index.load(Ordering::Relaxed)
    }

    #[inline]
    fn slot(&self, ordinal: u64) -> &IndexSlot {
        let (chunk, at) = slot_of(ordinal);
        &self.chunks[chunk].get().expect("a published record has its chunk")[at]
    }
}

#[inline]
fn slot_of(ordinal: u64) -> (usize, usize) {
    let chunk = (ordinal / FIRST_CHUNK + 1).ilog2();
    (chunk as usize, (ordinal - FIRST_CHUNK * ((1 << chunk) - 1)) as usize)
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ordinal_has_a_slot_of_its_own() {
        let mut expected = (0, 0);
        for ordinal in 0..10_000 {
            assert_eq!(slot_of(ordinal), expected, "ordinal {ordinal}");
            expected.1 += 1;
            if expected.1 == (FIRST_CHUNK << expected.0) as usize {
                expected = (expected.0 + 1, 0);
            }
        }
        assert!(slot_of(u64::from(u32::MAX)).0 <= CHUNKS);
    }

    #[test]
    fn places_come_back_as_they_were_put() {
        let records = RecordIndex::new();
        for ordinal in 0..1_000 {
            records.put(ordinal, ordinal * 4096, ordinal as u32, ordinal * 3);
        }
        records.publish(1_000);
        for ordinal in 0..records.len() {
            assert_eq!(
                (records.location(ordinal), records.next_index(ordinal)),
                ((ordinal * 4096, ordinal), ordinal * 3)
            );
        }
    }
}
