//! Lookup of one entry, read without the batch around it.
//!
//! A random read waits for memory: the index slot of the record, its header, the entry of the batch
//! table and the payload, none of which are close together. So nothing is read twice, only the
//! payload is reference-counted, and the rest is prefetched: the table entry can be located from
//! the record index alone, and the location of the payload can be guessed.
//!
//! The result is built once, in the caller's memory, and the parts are inlined into one function: a
//! processor that loads as a whole what it just stored in parts stalls until the stores are done,
//! which takes as long as a search.

use std::fmt;
use std::ops::Range;

use super::format::{self, INDEX_ENTRY_BYTES, IndexEntry, RECORD_HEADER_BYTES};
use super::fs::{Disk, DiskMap};
use super::segment::{Index, Segment, SegmentContents};
use crate::batch::{self, BATCH_HEADER_BYTES, BatchError, EntryLocation, TABLE_ENTRY_BYTES};
use crate::entry::Entry;
use crate::storage::StorageError;

/// The most bytes of a payload to prefetch. The processor detects by itself that a longer one
/// continues.
const AHEAD_BYTES_MAX: u64 = 1 << 10;

/// The result of a search: an ordinal, and the keys on both sides of it. For a record these are the
/// indexes at which its entries begin and end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SearchHit {
    pub(super) ordinal: u64,
    pub(super) indexes: Range<u64>,
}

impl<D: Disk> Segment<D> {
    /// The first record below `limit` whose next index is above `index`. The segment must not begin
    /// above `index`.
    #[inline]
    pub(super) fn find(
        &self,
        disk: &D,
        contents: &SegmentContents<D>,
        index: u64,
        limit: u64,
    ) -> Result<Option<SearchHit>, StorageError> {
        let known = contents.index.len();
        let end = limit.min(known);
        let found = match &contents.index {
            Index::Memory(records) => {
                search_first_above(index, self.before.next_index, end, |ordinal| {
                    records.next_index(ordinal)
                })
            }
            Index::Footer(footer) => {
                search_first_above(index, self.before.next_index, end, |ordinal| {
                    IndexEntry::decode(&footer[ordinal as usize * INDEX_ENTRY_BYTES..]).next_index
                })
            }
        };
        match found {
            None if known < limit.min(self.len()) => Err(self.unreadable(disk)),
            found => Ok(found),
        }
    }

    /// The entry at `index`, in the record of `hit`. Header, batch header and payload are checked.
    #[inline(always)]
    pub(super) fn entry(
        &self,
        disk: &D,
        contents: &SegmentContents<D>,
        hit: &SearchHit,
        index: u64,
    ) -> Result<Option<Entry>, StorageError> {
        let (offset, body_bytes) = self.location(disk, contents, hit.ordinal)?;
        prefetch(&contents.map, offset, body_bytes, hit, index);
        let find = |body: &[u8]| Ok(batch::find(body, index)?.map(|found| (index, found)));
        self.checked_entry(disk, contents, hit.ordinal, find).map(Some)
    }

    /// The entry that `find` finds in the body of this record. Header and batch header are checked;
    /// `find` checks the payload.
    #[inline(always)]
    pub(super) fn checked_entry(
        &self,
        disk: &D,
        contents: &SegmentContents<D>,
        ordinal: u64,
        find: impl FnOnce(&[u8]) -> Result<Option<(u64, EntryLocation)>, BatchError>,
    ) -> Result<Entry, StorageError> {
        let (offset, body_bytes) = self.location(disk, contents, ordinal)?;
        let check = |record: &[u8]| {
            let header = format::check_record(record, self.id, self.seed, self.first + ordinal)?;
            let found = find(&record[RECORD_HEADER_BYTES..]).map_err(LookupError::Batch)?;
            Ok((
                found.ok_or("the index of the segment points to the wrong record")?,
                header.point.term,
            ))
        };
        let checked = contents
            .map
            .with_bytes(offset, RECORD_HEADER_BYTES as u64 + body_bytes, check)
            .unwrap_or(Err(LookupError::Record(OUTSIDE)));
        let ((index, found), term) =
            checked.map_err(|wrong| self.corrupt_at(disk, ordinal, wrong.to_string()))?;
        let at = offset + (RECORD_HEADER_BYTES + found.payload.start) as u64;
        let payload = contents.map.slice(at, found.payload.len() as u64);
        let payload = payload.ok_or_else(|| self.corrupt_at(disk, ordinal, OUTSIDE))?;
        Ok(Entry { payload, index, position: found.position, term, timestamp: found.timestamp })
    }
}

/// Prefetches what a read of `index` needs of the record at `offset`: its header, the table entry,
/// and the payload as if all payloads in the batch had the same length.
#[inline]
fn prefetch(map: &impl DiskMap, offset: u64, body_bytes: u64, hit: &SearchHit, index: u64) {
    let count = hit.indexes.end.saturating_sub(hit.indexes.start);
    let table_bytes = count.saturating_mul(TABLE_ENTRY_BYTES as u64);
    let Some(payloads) =
        body_bytes.checked_sub((BATCH_HEADER_BYTES as u64).saturating_add(table_bytes))
    else {
        return;
    };
    let (Some(slot), Some(each)) =
        (index.checked_sub(hit.indexes.start), payloads.checked_div(count))
    else {
        return;
    };
    let body = offset + RECORD_HEADER_BYTES as u64;
    map.prefetch(body + BATCH_HEADER_BYTES as u64 + slot * each, each.min(AHEAD_BYTES_MAX));
    map.prefetch(offset, (RECORD_HEADER_BYTES + BATCH_HEADER_BYTES) as u64);
    map.prefetch(
        body + BATCH_HEADER_BYTES as u64 + payloads + slot * TABLE_ENTRY_BYTES as u64,
        TABLE_ENTRY_BYTES as u64,
    );
}

const OUTSIDE: &str = "a record lies outside the file";

/// Why an entry is rejected.
enum LookupError {
    Record(&'static str),
    Batch(BatchError),
}

impl From<&'static str> for LookupError {
    fn from(reason: &'static str) -> LookupError {
        LookupError::Record(reason)
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookupError::Record(reason) => f.write_str(reason),
            LookupError::Batch(error) => error.fmt(f),
        }
    }
}

/// The first of `count` ordinals whose `key` is above `wanted`, with the key before it and its own.
/// Keys never descend, and none is below `start`, which is not above `wanted`. `None` if there is
/// none.
///
/// The keys of a log mostly rise evenly. So the search begins where `wanted` would be if they did,
/// and continues in steps that double: three probes if the guess was right, and never more than
/// about twice as many as a binary search.
#[inline]
pub(super) fn search_first_above(
    wanted: u64,
    start: u64,
    count: u64,
    key: impl Fn(u64) -> u64,
) -> Option<SearchHit> {
    let last = count.checked_sub(1)?;
    // Invariant: keys below `low` are not above `wanted`, `before` is the last of them; the key at
    // `high` is above, and `after` is that key.
    let (mut low, mut before, mut high, mut after) = (0, start, last, key(last));
    if after <= wanted {
        return None;
    }
    // Converted as signed numbers, which takes one instruction; an index is below 2^62.
    let share = wanted.saturating_sub(start) as i64 as f64
        / after.saturating_sub(start).max(1) as i64 as f64;
    let mut probe = ((share * count as i64 as f64) as i64 as u64).min(last);
    // Direction and length of the next leap; no more leaps once one went too far.
    let (mut way, mut leap) = (None, Some(1));
    while low < high {
        let found = key(probe);
        let is_beyond = found > wanted;
        if is_beyond {
            (high, after) = (probe, found)
        } else {
            (low, before) = (probe + 1, found)
        }
        leap = leap.filter(|_| *way.get_or_insert(is_beyond) == is_beyond);
        probe = match leap {
            None => low + (high - low) / 2,
            Some(leap) if is_beyond => high.saturating_sub(leap).max(low),
            Some(leap) => (low + leap - 1).min(high - 1),
        };
        leap = leap.map(|leap| leap * 2);
    }
    Some(SearchHit { ordinal: low, indexes: before..after })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::fs::MapRefs;
    use super::*;
    use crate::primitives::Mutex;

    proptest! {
        #[test]
        fn a_guess_finds_what_a_look_at_all_finds(
            steps in prop::collection::vec(
                prop_oneof![Just(0u64), Just(7), 1..3u64, 0..1_000_000u64],
                0..80,
            ),
            start in 0..50u64,
        ) {
            let mut key = start;
            let sum = |step: &u64| {
                key += step;
                key
            };
            let keys: Vec<u64> = steps.iter().map(sum).collect();
            let around = keys.iter().flat_map(|&key| [key.saturating_sub(1), key, key + 1]);
            for wanted in around.chain([0, u64::MAX]) {
                let key = |at| keys[at as usize];
                let found = search_first_above(wanted, start, keys.len() as u64, key);
                let at = keys.partition_point(|&key| key <= wanted);
                let before = if at == 0 { start } else { keys[at - 1] };
                let hit = |&after| SearchHit { ordinal: at as u64, indexes: before..after };
                let expected = keys.get(at).map(hit);
                prop_assert_eq!(found, expected, "{} in {:?}", wanted, keys);
            }
        }
    }

    /// A map that records what is prefetched.
    #[derive(Default)]
    struct Noting(Mutex<Vec<Range<u64>>>);

    impl DiskMap for Noting {
        fn slice(&self, _: u64, _: u64) -> Option<Bytes> {
            unreachable!()
        }
        fn prefetch(&self, offset: u64, len: u64) {
            self.0.lock().push(offset..offset + len);
        }
        fn map_refs(&self) -> MapRefs {
            unreachable!()
        }
    }

    fn asked(indexes: Range<u64>, index: u64, body_bytes: u64) -> Vec<Range<u64>> {
        let map = Noting::default();
        prefetch(&map, 8192, body_bytes, &SearchHit { ordinal: 3, indexes }, index);
        map.0.lock().clone()
    }

    #[test]
    fn what_is_asked_for_ahead_is_what_will_be_looked_at() {
        let (body, header) = (8192 + RECORD_HEADER_BYTES as u64, RECORD_HEADER_BYTES as u64);
        let (payloads, table) =
            (body + BATCH_HEADER_BYTES as u64, body + BATCH_HEADER_BYTES as u64 + 10 * 100);
        let sound = asked(50..60, 57, 32 + 10 * 100 + 10 * 8);
        assert_eq!(
            sound,
            [payloads + 700..payloads + 800, 8192..8192 + header + 32, table + 56..table + 64]
        );
    }

    #[test]
    fn nothing_is_asked_for_where_the_indexes_do_not_fit_the_record() {
        for (indexes, index) in
            [(50..50, 50), (50..60, 49), (0..1 << 61, 1 << 60), (0..u64::MAX, u64::MAX - 1)]
        {
            assert_eq!(asked(indexes.clone(), index, 1112), [], "{index} in {indexes:?}");
        }
        assert_eq!(asked(0..1, 0, 31), []);
    }

    #[test]
    fn even_keys_take_three_looks() {
        let looks = std::cell::Cell::new(0);
        let key = |at: u64| {
            looks.set(looks.get() + 1);
            (at + 1) * 256
        };
        for index in 0..256 * 1000 {
            looks.set(0);
            let ordinal = index / 256;
            assert_eq!(
                search_first_above(index, 0, 1000, key),
                Some(SearchHit { ordinal, indexes: ordinal * 256..(ordinal + 1) * 256 })
            );
            assert!(looks.get() <= 3, "{} looks for {index}", looks.get());
        }
    }
}
