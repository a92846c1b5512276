//! Reads entries in a row: what a single read does for each entry is done once for a stretch of
//! equal payloads.

use std::ops::Range;

use super::crc_runs::CrcShift;
use super::entry_run::EntryRun;
use super::layout::BATCH_HEADER_BYTES;
use super::{Batch, BatchError, BatchHeader};
use crate::entry::Entry;

/// Bytes of payload that are checked in one pass at most, so that they are still in the L1 cache
/// when they are read.
const PASS_BYTES_MAX: usize = 16 << 10;

/// Room that is made at once for entries to come. It is an estimate from the length of the first:
/// an estimate that is wrong may cost this much, 256 KiB.
const ROOM_MAX: u64 = 4096;

impl Batch {
    /// Adds the entries of this batch with these indexes to `run`, each of them verified, as far as
    /// there is room for them. Returns the index after the last one.
    ///
    /// # Errors
    /// The first entry that is not intact. Those before it were added.
    pub(crate) fn read_run(
        &self,
        indexes: Range<u64>,
        shift: &mut Option<CrcShift>,
        run: &mut EntryRun,
    ) -> Result<u64, BatchError> {
        let Some(header) = &self.header else { return Ok(indexes.start) };
        let end = self.end_index().map_or(0, |end| end.min(indexes.end));
        let mut index = indexes.start;
        while let Some(slot) = header.table_entry_of(index).filter(|_| index < end) {
            let (start, stop, _) = header.slot(&self.body, slot)?;
            let room = run.room_for(stop - start).min(end - index);
            if room == 0 {
                break;
            }
            if run.entries.is_empty() {
                run.entries.reserve_exact(room.min(ROOM_MAX) as usize);
            }
            let pass = (stop - start).saturating_mul(room as usize).min(PASS_BYTES_MAX);
            let (count, are_intact) = header.check_ahead(&self.body, slot, pass, shift);
            let next = match are_intact {
                true => self.add_equal(header, slot, start..stop, room.min(count as u64), run),
                false => self.add_each(header, index..end.min(index + count as u64), run)?,
            };
            if next == index {
                break;
            }
            index = next;
        }
        Ok(index)
    }

    /// Adds `count` entries of one length that were checked. `first` is the payload of the first
    /// one, counted from the first payload of the batch. Returns the index after them.
    fn add_equal(
        &self,
        header: &BatchHeader,
        slot: usize,
        first: Range<usize>,
        count: u64,
        run: &mut EntryRun,
    ) -> u64 {
        let (each, index) = (first.len(), header.first_index + slot as u64);
        let position = header.first_position + first.start as u64;
        let from = BATCH_HEADER_BYTES + first.start;
        let (term, timestamp) = (self.term, header.timestamp);
        run.bytes_left = run.bytes_left.saturating_sub(each as u64 * count);
        run.entries.extend((0..count as usize).map(|nth| Entry {
            payload: self.body.slice(from + nth * each..from + (nth + 1) * each),
            index: index + nth as u64,
            position: position + (nth * each) as u64,
            term,
            timestamp,
        }));
        index + count
    }

    /// Checks and adds one entry after the other, while there is room. Returns the index after
    /// them.
    fn add_each(
        &self,
        header: &BatchHeader,
        indexes: Range<u64>,
        run: &mut EntryRun,
    ) -> Result<u64, BatchError> {
        for index in indexes.clone() {
            let Some(found) = header.find(&self.body, index)? else { return Ok(index) };
            if run.room_for(found.payload.len()) == 0 {
                return Ok(index);
            }
            run.push(self.entry_in(index, found));
        }
        Ok(indexes.end)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{OpenBatch, TABLE_ENTRY_BYTES};

    const FIRST: u64 = 100;

    fn batch_of(lengths: &[usize]) -> Batch {
        let mut open = OpenBatch::with_capacity(0);
        for (length, nth) in lengths.iter().zip(0..) {
            let payload = vec![nth as u8; *length];
            open.push(&payload, crc32fast::hash(&payload));
        }
        Batch::new(7, 3, open.close(FIRST, 5_000, 42)).unwrap()
    }

    /// What single reads give: the definition.
    fn one_by_one(batch: &Batch, indexes: Range<u64>, bytes_max: u64) -> Vec<Entry> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for index in indexes {
            let Some(entry) = batch.entry(index).unwrap() else { break };
            bytes += entry.len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        entries
    }

    fn at_once(batch: &Batch, indexes: Range<u64>, bytes_max: u64) -> Vec<Entry> {
        let mut run = EntryRun::new(bytes_max);
        let next = batch.read_run(indexes.clone(), &mut None, &mut run).unwrap();
        assert_eq!(next, indexes.start + run.entries.len() as u64);
        run.entries
    }

    proptest! {
        /// Stretches of one length, and lengths that differ.
        #[test]
        fn a_run_is_what_single_reads_give(
            stretches in prop::collection::vec((0..300usize, 1..60usize), 1..6),
            from in 0..70u64,
            count in 0..200u64,
            bytes_max in prop_oneof![0..2_000u64, Just(u64::MAX)],
        ) {
            let equal = |&(len, count): &(usize, usize)| std::iter::repeat_n(len, count);
            let lengths: Vec<usize> = stretches.iter().flat_map(equal).collect();
            let batch = batch_of(&lengths);
            let indexes = FIRST + from..FIRST + from + count;
            prop_assert_eq!(
                at_once(&batch, indexes.clone(), bytes_max),
                one_by_one(&batch, indexes, bytes_max)
            );
        }
    }

    #[test]
    fn long_payloads_and_runs_longer_than_one_pass_are_read_too() {
        for lengths in [vec![40 << 10; 3], vec![1000; 100], vec![128; 1000], vec![0; 50]] {
            let batch = batch_of(&lengths);
            let all = FIRST..FIRST + lengths.len() as u64;
            assert_eq!(at_once(&batch, all.clone(), u64::MAX), one_by_one(&batch, all, u64::MAX));
        }
    }

    #[test]
    fn a_run_ends_before_the_entry_that_is_not_intact_and_tells_it() {
        for lengths in [vec![100; 50], (1..50).collect()] {
            let good = batch_of(&lengths);
            for wrong in 0..lengths.len() {
                let mut body = good.body().to_vec();
                let checksum = body.len() - (lengths.len() - wrong) * TABLE_ENTRY_BYTES + 4;
                body[checksum] ^= 1;
                let batch = Batch::new(7, 3, Bytes::from(body)).unwrap();
                let mut run = EntryRun::new(u64::MAX);
                let told = batch.read_run(FIRST..FIRST + 50, &mut None, &mut run);
                assert_eq!(told, Err(BatchError::Checksum { index: FIRST + wrong as u64 }));
                assert_eq!(run.entries, one_by_one(&good, FIRST..FIRST + wrong as u64, u64::MAX));
            }
        }
    }

    #[test]
    fn a_batch_that_does_not_hold_the_index_adds_nothing() {
        let batch = batch_of(&[5; 3]);
        for indexes in [FIRST - 1..FIRST + 9, FIRST + 3..FIRST + 9, FIRST + 1..FIRST + 1] {
            assert_eq!(at_once(&batch, indexes, u64::MAX), []);
        }
        let control = Batch::new(7, 3, Bytes::new()).unwrap();
        assert_eq!(at_once(&control, 0..9, u64::MAX), []);
    }
}
