//! Entries of a batch, found by the position of one of their bytes.

use std::ops::Range;

use super::layout::{BATCH_HEADER_BYTES, TABLE_ENTRY_BYTES, read_u32, read_u64};
use super::{Batch, BatchError, BatchHeader, EntryLocation};
use crate::entry::Entry;

const ANOTHER_ENTRY: BatchError = BatchError::Malformed("its table names another entry there");

impl Batch {
    /// The positions of its payload bytes. Empty for a control record, and for a batch of empty
    /// entries.
    pub(crate) fn positions(&self) -> Range<u64> {
        let Some(header) = &self.header else { return 0..0 };
        header.first_position..header.first_position.saturating_add(self.payload_bytes())
    }

    /// The first index and the first position of a batch whose body begins with `prefix`. `None`
    /// for a control record.
    #[inline]
    pub(crate) fn first_place(prefix: &[u8]) -> Option<(u64, u64)> {
        (prefix.len() >= BATCH_HEADER_BYTES).then(|| (read_u64(prefix, 8), read_u64(prefix, 16)))
    }

    /// The entry that holds the byte at `position`, its payload checked against its checksum.
    /// `None` if the batch does not hold that byte. An empty entry holds none.
    ///
    /// # Errors
    /// [`BatchError::Checksum`] or [`BatchError::Malformed`] if the bytes have changed since they
    /// were appended.
    pub fn entry_at(&self, position: u64) -> Result<Option<Entry>, BatchError> {
        let Some(header) = &self.header else { return Ok(None) };
        let found = header.find_position(&self.body, position)?;
        Ok(found.map(|(index, found)| self.entry_in(index, found)))
    }

    /// [`entry_at`](Self::entry_at) on a body that is not shared: the index of the entry, and its
    /// location.
    ///
    /// # Errors
    /// Those of [`Batch::new`] and [`entry_at`](Self::entry_at).
    #[inline]
    pub(crate) fn find_position(
        body: &[u8],
        position: u64,
    ) -> Result<Option<(u64, EntryLocation)>, BatchError> {
        if body.is_empty() {
            return Ok(None);
        }
        BatchHeader::read(body)?.find_position(body, position)
    }

    /// The payload bytes of the batch from `position` on, at least one and at most `bytes_max`, as
    /// bytes of the [body](Self::body). Every entry that they touch is checked as a whole: they
    /// end before the first one that is corrupt. `None` if the batch does not hold that byte.
    ///
    /// # Errors
    /// Those of [`entry_at`](Self::entry_at), for the entry at `position`.
    pub(crate) fn payload_from(
        &self,
        position: u64,
        bytes_max: usize,
    ) -> Result<Option<Range<usize>>, BatchError> {
        let Some(header) = &self.header else { return Ok(None) };
        let Some(slot) = header.slot_at(&self.body, position)? else { return Ok(None) };
        let start = BATCH_HEADER_BYTES + (position - header.first_position) as usize;
        let wanted_end = start.saturating_add(bytes_max);
        let mut end = header.check(&self.body, slot)?.payload.end;
        for slot in slot + 1..header.count as usize {
            if end >= wanted_end {
                break;
            }
            match header.check(&self.body, slot) {
                Ok(found) if found.payload.start == end => end = found.payload.end,
                _ => break,
            }
        }
        Ok(Some(start..end.min(wanted_end)))
    }
}

impl BatchHeader {
    #[inline(always)]
    fn find_position(
        &self,
        body: &[u8],
        position: u64,
    ) -> Result<Option<(u64, EntryLocation)>, BatchError> {
        let Some(slot) = self.slot_at(body, position)? else { return Ok(None) };
        Ok(Some((self.first_index + slot as u64, self.check(body, slot)?)))
    }

    /// The slot of the entry that holds the byte at `position`.
    #[inline(always)]
    fn slot_at(&self, body: &[u8], position: u64) -> Result<Option<usize>, BatchError> {
        let table = self.table_start(body);
        let payloads = (table - BATCH_HEADER_BYTES) as u64;
        let Some(offset) =
            position.checked_sub(self.first_position).filter(|&offset| offset < payloads)
        else {
            return Ok(None);
        };
        let end = |slot: usize| u64::from(read_u32(body, table + slot * TABLE_ENTRY_BYTES));
        // Ends never descend. Payloads are mostly of one length, so the guess mostly fits.
        let count = self.count as usize;
        let guess = (offset * u64::from(self.count) / payloads) as usize;
        let fits = end(guess) > offset && (guess == 0 || end(guess - 1) <= offset);
        let slot = if fits { guess } else { first_above(count, offset, end) };
        let (start, end) = match slot < count {
            true => self.slot(body, slot).map(|(start, end, _)| (start as u64, end as u64))?,
            false => return Err(ANOTHER_ENTRY),
        };
        if (start..end).contains(&offset) { Ok(Some(slot)) } else { Err(ANOTHER_ENTRY) }
    }
}

/// The first of `count` slots whose `end` is above `offset`.
fn first_above(count: usize, offset: u64, end: impl Fn(usize) -> u64) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let probe = low + (high - low) / 2;
        if end(probe) > offset { high = probe } else { low = probe + 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::OpenBatch;
    use super::*;

    fn batch_of(payloads: &[&[u8]]) -> Batch {
        let mut open = OpenBatch::with_capacity(0);
        payloads.iter().for_each(|payload| open.push(payload, crc32fast::hash(payload)));
        Batch::new(7, 3, open.close(100, 5_000, 42)).unwrap()
    }

    #[test]
    fn each_byte_is_found_in_the_entry_that_holds_it() {
        let payloads: [&[u8]; 7] = [b"", b"one", b"", b"", b"three", b"x", b""];
        let batch = batch_of(&payloads);
        let all = payloads.concat();
        assert_eq!(batch.positions(), 5_000..5_009);
        for (at, byte) in all.iter().enumerate() {
            let entry = batch.entry_at(5_000 + at as u64).unwrap().unwrap();
            assert!(!entry.is_empty(), "an empty entry holds no byte");
            assert_eq!(&entry[at - (entry.position() - 5_000) as usize], byte);
            assert_eq!(batch.entry(entry.index()).unwrap(), Some(entry));
            for bytes_max in 1..12 {
                let bytes = batch.payload_from(5_000 + at as u64, bytes_max).unwrap().unwrap();
                let expected = &all[at..all.len().min(at + bytes_max)];
                assert_eq!(&batch.body()[bytes], expected, "{bytes_max} bytes from {at}");
            }
        }
        for outside in [0, 4_999, 5_009, u64::MAX] {
            assert_eq!(batch.entry_at(outside).unwrap(), None);
            assert_eq!(batch.payload_from(outside, 9).unwrap(), None);
        }
        for without in [batch_of(&[b"", b""]), Batch::new(7, 3, Bytes::new()).unwrap()] {
            assert!(without.positions().is_empty());
            assert_eq!(without.entry_at(5_000).unwrap(), None);
        }
    }

    #[test]
    fn no_flipped_bit_is_returned() {
        let whole = batch_of(&[b"one", b"", b"three", b"four"]);
        for bit in BATCH_HEADER_BYTES * 8..whole.body().len() * 8 {
            let mut body = whole.body().to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let flipped = Batch::new(7, 3, Bytes::from(body)).unwrap();
            for position in whole.positions() {
                if let Ok(found) = flipped.entry_at(position) {
                    assert_eq!(found, whole.entry_at(position).unwrap(), "bit {bit}");
                }
                if let Ok(Some(bytes)) = flipped.payload_from(position, 99) {
                    let intact = whole.payload_from(position, 99).unwrap().unwrap();
                    assert_eq!(bytes.start, intact.start);
                    assert_eq!(flipped.body()[bytes.clone()], whole.body()[bytes], "bit {bit}");
                }
            }
        }
    }
}
