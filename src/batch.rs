//! One batch: an entry of Raft's own log, and a record of a storage.
//!
//! A batch is encoded once, where it was appended. The same bytes are sent to every peer, written
//! to every disk and read back by every `get`; no step on the way takes them apart. See [`layout`]
//! for the bytes.

mod by_position;
mod crc_runs;
mod entry_run;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod group_uid;
mod layout;
mod log_point;
mod open_batch;
mod read_run;

use std::ops::Range;

use bytes::Bytes;

pub(crate) use self::crc_runs::CrcShift;
pub(crate) use self::entry_run::EntryRun;
pub(crate) use self::group_uid::group_uid_body;
pub(crate) use self::layout::{
    BATCH_HEADER_BYTES, BODY_BYTES_MAX, FIELD_LIMIT, TABLE_ENTRY_BYTES, index_mask,
};
use self::layout::{KIND_ENTRIES, KIND_GROUP, read_u32, read_u64};
pub use self::log_point::LogPoint;
pub(crate) use self::open_batch::{OpenBatch, payload_crc, payload_len};
use crate::entry::Entry;

/// Why bytes are not the batch that they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The body is shorter than its header states, or the header is not one that this version
    /// writes.
    #[error("the batch header is malformed: {0}")]
    Malformed(&'static str),
    /// The payload of this entry does not match its checksum.
    #[error("the payload of entry {index} does not match its checksum")]
    Checksum {
        /// The index of the entry.
        index: u64,
    },
    /// The batch does not continue the log at its place.
    #[error("the batch does not continue the log: its {0} is out of line")]
    NotContiguous(&'static str),
}

/// The fixed part of a batch of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BatchHeader {
    count: u32,
    first_index: u64,
    first_position: u64,
    timestamp: u64,
}

/// One record of the replicated log: 1..n entries, or a control record without any. Immutable,
/// cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    raft_index: u64,
    term: u64,
    body: Bytes,
    header: Option<BatchHeader>,
}

impl Batch {
    /// Decodes `body` as the batch at `raft_index`. Checks the header in constant time; [`verify`]
    /// checks the entries.
    ///
    /// [`verify`]: Batch::verify
    ///
    /// # Errors
    /// [`BatchError::Malformed`] if the body cannot be a batch.
    pub fn new(raft_index: u64, term: u64, body: Bytes) -> Result<Batch, BatchError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(BatchError::Malformed("larger than a batch may be"));
        }
        let header = BatchHeader::of(&body)?;
        Ok(Batch { raft_index, term, body, header })
    }

    /// The number of this batch in Raft's log.
    pub fn raft_index(&self) -> u64 {
        self.raft_index
    }

    /// The term of the leader that proposed it.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The encoded bytes, as a storage keeps and returns them. Of a control record there are 32 at
    /// most, or none.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// How many entries it holds. 0 for a control record.
    pub fn count(&self) -> u32 {
        self.header.map_or(0, |header| header.count)
    }

    /// The index of its first entry, if it holds any.
    pub fn first_index(&self) -> Option<u64> {
        self.header.map(|header| header.first_index)
    }

    /// The index after its last entry, if it holds any.
    pub fn end_index(&self) -> Option<u64> {
        self.header.map(|header| header.first_index.saturating_add(u64::from(header.count)))
    }

    /// The unique id that this batch proposes for its group, if it is a control record that does.
    pub fn group_uid(&self) -> Option<u128> {
        let names_it = self.body.first() == Some(&KIND_GROUP);
        if names_it { group_uid::decode(&self.body) } else { None }
    }

    /// The entry at `index`, its payload checked against its checksum. `None` if the batch does not
    /// hold that index.
    ///
    /// # Errors
    /// [`BatchError::Checksum`] or [`BatchError::Malformed`] if the bytes have changed since they
    /// were appended.
    #[inline]
    pub fn entry(&self, index: u64) -> Result<Option<Entry>, BatchError> {
        Ok(self.find(index)?.map(|found| self.entry_in(index, found)))
    }

    /// The location of the entry at `index`, its payload checked against its checksum. `None` if
    /// the batch does not hold that index.
    #[inline]
    pub(crate) fn find(&self, index: u64) -> Result<Option<EntryLocation>, BatchError> {
        let Some(header) = &self.header else { return Ok(None) };
        header.find(&self.body, index)
    }

    /// The location of the entry at `index`, whose payload was checked before.
    #[inline]
    pub(crate) fn find_checked(&self, index: u64) -> Result<Option<EntryLocation>, BatchError> {
        let Some((header, slot)) =
            self.header.as_ref().and_then(|header| Some((header, header.table_entry_of(index)?)))
        else {
            return Ok(None);
        };
        header.slot(&self.body, slot).map(|(start, end, _)| Some(header.found(start, end)))
    }

    /// The entry at that location.
    #[inline]
    pub(crate) fn entry_in(
        &self,
        index: u64,
        EntryLocation { payload, position, timestamp }: EntryLocation,
    ) -> Entry {
        Entry { payload: self.body.slice(payload), index, position, term: self.term, timestamp }
    }

    /// Checks every entry of the batch: the table is in order and each payload matches its
    /// checksum.
    ///
    /// # Errors
    /// The first defect found.
    pub fn verify(&self) -> Result<(), BatchError> {
        let Some(header) = self.header else { return Ok(()) };
        let mut end = BATCH_HEADER_BYTES;
        for slot in 0..header.count as usize {
            end = header.check(&self.body, slot)?.payload.end;
        }
        if end != header.table_start(&self.body) {
            return Err(BatchError::Malformed("payload bytes that belong to no entry"));
        }
        Ok(())
    }

    /// Checks the payloads of some entries from `index` on, of at most `bytes_max` bytes, in one
    /// pass. Returns the index after them and whether all are intact. If not, or if one pass would
    /// take longer, the caller should check the entries up to there one by one.
    pub(crate) fn check_ahead(
        &self,
        index: u64,
        bytes_max: usize,
        shift: &mut Option<CrcShift>,
    ) -> (u64, bool) {
        let nothing = (index, false);
        let Some(header) = &self.header else { return nothing };
        let Some(slot) = header.table_entry_of(index) else { return nothing };
        let (run, are_intact) = header.check_ahead(&self.body, slot, bytes_max, shift);
        (index + run as u64, are_intact)
    }

    /// Bytes of payload, all entries together.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.header.map_or(0, |header| (header.table_start(&self.body) - BATCH_HEADER_BYTES) as u64)
    }

    /// The table of ends and checksums.
    pub(crate) fn table(&self) -> &[u8] {
        self.header.map_or(&[], |header| &self.body[header.table_start(&self.body)..])
    }

    /// The fixed part of the body, the bytes before the first payload. All of a control record.
    pub(crate) fn prefix_bytes(&self) -> &[u8] {
        &self.body[..self.body.len().min(BATCH_HEADER_BYTES)]
    }

    /// The log point after this batch, if the batch directly follows `before`.
    ///
    /// # Errors
    /// [`BatchError::NotContiguous`] if it does not: raft index, term, index, position and
    /// timestamp must all continue.
    pub fn point_after(&self, before: &LogPoint) -> Result<LogPoint, BatchError> {
        if before.raft_index.checked_add(1) != Some(self.raft_index) {
            return Err(BatchError::NotContiguous("raft index"));
        }
        if self.term < before.term {
            return Err(BatchError::NotContiguous("term"));
        }
        let mut point = LogPoint {
            raft_index: self.raft_index,
            term: self.term,
            chain: self.chain(before.chain),
            ..*before
        };
        if let Some(header) = self.header {
            if header.first_index != before.next_index {
                return Err(BatchError::NotContiguous("index"));
            }
            if header.first_position != before.next_position {
                return Err(BatchError::NotContiguous("position"));
            }
            if header.timestamp < before.timestamp {
                return Err(BatchError::NotContiguous("timestamp"));
            }
            point.next_index += u64::from(header.count);
            point.next_position += self.payload_bytes();
            point.timestamp = header.timestamp;
        }
        Ok(point)
    }

    /// The checksum of the log up to and including this batch. It covers the entry table, hence
    /// every payload, and only what is the same on all replicas.
    fn chain(&self, before: u32) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(before);
        hasher.update(&self.raft_index.to_le_bytes());
        hasher.update(&self.term.to_le_bytes());
        hasher.update(self.prefix_bytes());
        hasher.update(self.table());
        hasher.finalize()
    }
}

/// Shows the place and the size of the batch, never its bytes.
impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("raft_index", &self.raft_index)
            .field("term", &self.term)
            .field("first_index", &self.first_index())
            .field("count", &self.count())
            .field("bytes", &self.body.len())
            .finish()
    }
}

impl BatchHeader {
    /// The header of a body, unless it is a control record.
    #[inline]
    fn of(body: &[u8]) -> Result<Option<BatchHeader>, BatchError> {
        match body.first() {
            None => Ok(None),
            Some(&KIND_GROUP) if group_uid::decode(body).is_some() => Ok(None),
            Some(_) => BatchHeader::read(body).map(Some),
        }
    }

    #[inline]
    fn read(body: &[u8]) -> Result<BatchHeader, BatchError> {
        if body.len() < BATCH_HEADER_BYTES {
            return Err(BatchError::Malformed("shorter than a batch header"));
        }
        if body[0] != KIND_ENTRIES || body[1..4] != [0; 3] {
            return Err(BatchError::Malformed("a kind of batch that this version does not know"));
        }
        let header = BatchHeader {
            count: read_u32(body, 4),
            first_index: read_u64(body, 8),
            first_position: read_u64(body, 16),
            timestamp: read_u64(body, 24),
        };
        if header.count == 0 {
            return Err(BatchError::Malformed("a batch without entries"));
        }
        if header.first_index.max(header.first_position).max(header.timestamp) >= FIELD_LIMIT {
            return Err(BatchError::Malformed("an index, position or timestamp beyond 2^62"));
        }
        if header.count as usize > (body.len() - BATCH_HEADER_BYTES) / TABLE_ENTRY_BYTES {
            return Err(BatchError::Malformed("more entries than bytes for them"));
        }
        Ok(header)
    }

    /// The entry at `index` in `body`, its payload checked against its checksum. `None` if the
    /// batch does not hold that index.
    #[inline(always)]
    fn find(&self, body: &[u8], index: u64) -> Result<Option<EntryLocation>, BatchError> {
        self.table_entry_of(index).map(|slot| self.check(body, slot)).transpose()
    }

    /// The place of `index` in the table, if the batch holds it.
    #[inline(always)]
    fn table_entry_of(&self, index: u64) -> Option<usize> {
        index
            .checked_sub(self.first_index)
            .filter(|&slot| slot < u64::from(self.count))
            .map(|slot| slot as usize)
    }

    /// The location of the entry in `slot`, its payload checked against its checksum.
    #[inline(always)]
    fn check(&self, body: &[u8], slot: usize) -> Result<EntryLocation, BatchError> {
        let (start, end, crc) = self.slot(body, slot)?;
        if crc32fast::hash(&body[BATCH_HEADER_BYTES + start..BATCH_HEADER_BYTES + end]) != crc {
            return Err(BatchError::Checksum { index: self.first_index + slot as u64 });
        }
        Ok(self.found(start, end))
    }

    #[inline(always)]
    fn found(&self, start: usize, end: usize) -> EntryLocation {
        EntryLocation {
            payload: BATCH_HEADER_BYTES + start..BATCH_HEADER_BYTES + end,
            position: self.first_position + start as u64,
            timestamp: self.timestamp,
        }
    }

    /// [`Batch::check_ahead`] with slots instead of indexes. Returns the number of entries that the
    /// result covers.
    fn check_ahead(
        &self,
        body: &[u8],
        slot: usize,
        bytes_max: usize,
        shift: &mut Option<CrcShift>,
    ) -> (usize, bool) {
        let alone = (crc_runs::ALONE.min(self.count as usize - slot), false);
        let Ok((start, end, _)) = self.slot(body, slot) else { return alone };
        let table = self.table_start(body);
        let (payloads, slots) =
            (&body[BATCH_HEADER_BYTES..table], &body[table + slot * TABLE_ENTRY_BYTES..]);
        let run = crc_runs::length(
            slots,
            start..end,
            payloads.len().min(start.saturating_add(bytes_max)),
        );
        let Some(shift) = CrcShift::worth_while(shift, end - start, run) else { return alone };
        let crcs =
            slots.chunks_exact(TABLE_ENTRY_BYTES).take(run).zip(self.first_index + slot as u64..);
        let joined = shift.joined(crcs.map(|(slot, index)| read_u32(slot, 4) ^ index_mask(index)));
        (run, joined == crc32fast::hash(&payloads[start..start + run * (end - start)]))
    }

    /// Start, end (both counted from the first payload) and checksum of one entry. Checks the
    /// bounds: the bytes may be corrupt.
    #[inline]
    fn slot(&self, body: &[u8], slot: usize) -> Result<(usize, usize, u32), BatchError> {
        let table = self.table_start(body);
        let at = table + slot * TABLE_ENTRY_BYTES;
        let start = if slot == 0 { 0 } else { read_u32(body, at - TABLE_ENTRY_BYTES) as usize };
        let end = read_u32(body, at) as usize;
        if start > end || end > table - BATCH_HEADER_BYTES {
            return Err(BatchError::Malformed("an entry ends outside the batch"));
        }
        Ok((start, end, read_u32(body, at + 4) ^ index_mask(self.first_index + slot as u64)))
    }

    #[inline]
    fn table_start(&self, body: &[u8]) -> usize {
        body.len() - self.count as usize * TABLE_ENTRY_BYTES
    }
}

/// The location of an entry in the body of its batch, and its metadata.
pub(crate) struct EntryLocation {
    /// The bytes of the payload in the body.
    pub(crate) payload: Range<usize>,
    pub(crate) position: u64,
    pub(crate) timestamp: u64,
}

/// [`Batch::find`] on a body that is not shared.
///
/// # Errors
/// Those of [`Batch::new`] and [`Batch::find`].
#[inline]
pub(crate) fn find(body: &[u8], index: u64) -> Result<Option<EntryLocation>, BatchError> {
    BatchHeader::of(body)?.map_or(Ok(None), |header| header.find(body, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch_of(payloads: &[&[u8]]) -> Batch {
        let mut open = OpenBatch::with_capacity(0);
        for payload in payloads {
            open.push(payload, crc32fast::hash(payload));
        }
        Batch::new(7, 3, open.close(100, 5_000, 42)).unwrap()
    }

    #[test]
    fn gives_back_every_entry_with_its_place() {
        let batch = batch_of(&[b"one", b"", b"three"]);
        batch.verify().unwrap();
        let places: Vec<_> = (100..103)
            .map(|i| batch.entry(i).unwrap().unwrap())
            .map(|e| (e.to_vec(), e.index(), e.position()))
            .collect();
        assert_eq!(
            places,
            [
                (b"one".to_vec(), 100, 5_000),
                (b"".to_vec(), 101, 5_003),
                (b"three".to_vec(), 102, 5_003)
            ]
        );
        assert_eq!(batch.entry(99).unwrap(), None);
        assert_eq!(batch.entry(103).unwrap(), None);
    }

    #[test]
    fn nothing_stands_behind_the_last_number_there_is() {
        let control = Batch::new(0, 1, Bytes::new()).unwrap();
        let before = LogPoint { raft_index: u64::MAX, ..LogPoint::INITIAL };
        assert_eq!(control.point_after(&before), Err(BatchError::NotContiguous("raft index")));
    }

    #[test]
    fn every_flipped_bit_of_payload_or_table_is_noticed() {
        let batch = batch_of(&[b"one", b"", b"three"]);
        for bit in BATCH_HEADER_BYTES * 8..batch.body.len() * 8 {
            let mut body = batch.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let flipped = Batch::new(7, 3, Bytes::from(body)).unwrap();
            assert!(flipped.verify().is_err(), "bit {bit}");
            for index in 100..103 {
                if let Ok(Some(entry)) = flipped.entry(index) {
                    assert_eq!(Some(entry), batch.entry(index).unwrap(), "bit {bit}");
                }
            }
        }
    }

    /// A run that is checked together, after and before payloads of other lengths.
    #[test]
    fn a_flipped_bit_among_many_payloads_of_one_length_is_found_where_it_is() {
        let payloads: Vec<Vec<u8>> = (0..40_u8)
            .map(|at| vec![at; if (3..39).contains(&at) { 24 } else { usize::from(at) }])
            .collect();
        let batch = batch_of(&payloads.iter().map(|payload| &payload[..]).collect::<Vec<_>>());
        batch.verify().unwrap();
        for bit in BATCH_HEADER_BYTES * 8..batch.body.len() * 8 {
            let mut body = batch.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let flipped = Batch::new(7, 3, Bytes::from(body)).unwrap();
            let alone = (100..140).find_map(|index| flipped.entry(index).err());
            assert_eq!(flipped.verify().err(), alone, "bit {bit}");
            for index in 100..140 {
                let (end, are_intact) = flipped.check_ahead(index, 512, &mut None);
                assert!(
                    !are_intact || (index..end).all(|index| flipped.entry(index).is_ok()),
                    "bit {bit}, from {index} to {end}"
                );
            }
        }
        assert_eq!(batch.check_ahead(103, 24 * 30, &mut None), (133, true));
        assert_eq!(batch.check_ahead(103, usize::MAX, &mut None), (139, true));
        assert_eq!(batch.check_ahead(130, usize::MAX, &mut None), (140, false), "too few for it");
        assert_eq!(batch.check_ahead(140, usize::MAX, &mut None), (140, false));
    }

    #[test]
    fn payloads_without_bytes_are_not_checked_together() {
        let batch = batch_of(&[&b""[..]; 40]);
        assert_eq!(batch.check_ahead(100, usize::MAX, &mut None), (116, false));
    }

    /// A fuzzer made this: the checksum of one payload makes up for damage to the next, in the sum
    /// of both. When all were checked together, it passed for sound, and two of its entries could
    /// never be read.
    #[test]
    fn a_batch_that_is_sound_as_a_whole_is_checked_payload_by_payload_all_the_same() {
        let payloads = [[9_u8; 8]; 20];
        let mut body = batch_of(&payloads.each_ref().map(|payload| &payload[..])).body.to_vec();
        let (at, slot) =
            (BATCH_HEADER_BYTES + 19 * 8, BATCH_HEADER_BYTES + 20 * 8 + 18 * TABLE_ENTRY_BYTES);
        body[at + 2] ^= 1;
        let change = crc32fast::hash(&body[at..at + 8]) ^ crc32fast::hash(&payloads[19]);
        // To move by 2^32 - 1 bytes changes nothing, so this moves back by the 8 of the last
        // payload.
        let crc = CrcShift::by(u32::MAX as usize - 8).joined([change, 0].into_iter());
        for (byte, flip) in body[slot + 4..slot + 8].iter_mut().zip(crc.to_le_bytes()) {
            *byte ^= flip;
        }
        let batch = Batch::new(7, 3, Bytes::from(body)).unwrap();
        assert_eq!(
            batch.check_ahead(100, usize::MAX, &mut None),
            (120, true),
            "nothing is wrong with the sum"
        );
        assert_eq!(batch.verify(), Err(BatchError::Checksum { index: 118 }));
    }

    /// A simulated disk lost the sectors that held a table, after a sync that failed, and the
    /// entries read as empty ones: the ends were 0, and so is the CRC-32 of nothing.
    #[test]
    fn a_table_of_zeros_holds_no_entry() {
        let batch = batch_of(&[b"one", b"", b"three"]);
        let mut body = batch.body.to_vec();
        let table = body.len() - 3 * TABLE_ENTRY_BYTES;
        body[table..].fill(0);
        let lost = Batch::new(7, 3, Bytes::from(body)).unwrap();
        assert!((100..103).all(|index| lost.entry(index) == Err(BatchError::Checksum { index })));
    }

    #[test]
    fn a_slot_of_another_entry_is_noticed() {
        let batch = batch_of(&[b"same", b"same"]);
        let mut body = batch.body.to_vec();
        let table = body.len() - 2 * TABLE_ENTRY_BYTES;
        let first = body[table + 4..table + 8].to_vec();
        body[table + 12..].copy_from_slice(&first);
        assert!(Batch::new(7, 3, Bytes::from(body)).unwrap().entry(101).is_err());
    }

    #[test]
    fn a_header_that_asks_for_more_than_there_is_gets_refused() {
        let good = batch_of(&[b"one"]).body.to_vec();
        for cut in 1..BATCH_HEADER_BYTES {
            assert!(Batch::new(7, 3, Bytes::copy_from_slice(&good[..cut])).is_err());
        }
        for (at, value) in [(0, 9), (1, 1), (4, 0), (4, 200), (7, 255)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Batch::new(7, 3, Bytes::from(bad)).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn a_batch_follows_only_the_point_before_it() {
        let batch = batch_of(&[b"one", b"two"]);
        let before = LogPoint {
            raft_index: 6,
            term: 3,
            next_index: 100,
            next_position: 5_000,
            timestamp: 42,
            chain: 9,
        };
        let after = batch.point_after(&before).unwrap();
        assert_eq!((after.raft_index, after.next_index, after.next_position), (7, 102, 5_006));
        assert_ne!(
            after.chain,
            batch.point_after(&LogPoint { chain: 10, ..before }).unwrap().chain
        );
        for wrong in [
            LogPoint { raft_index: 5, ..before },
            LogPoint { term: 4, ..before },
            LogPoint { next_index: 99, ..before },
            LogPoint { next_position: 1, ..before },
            LogPoint { timestamp: 43, ..before },
        ] {
            assert!(batch.point_after(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_id_comes_back_and_one_changed_bit_is_seen() {
        let body = group_uid_body(7 << 100 | 5);
        let batch = Batch::new(2, 1, body.clone()).unwrap();
        assert_eq!((batch.group_uid(), batch.count()), (Some(7 << 100 | 5), 0));
        assert_eq!((batch.first_index(), batch.entry(0).unwrap()), (None, None));
        assert!(find(&body, 0).unwrap().is_none());
        batch.verify().unwrap();
        for bit in 0..8 * body.len() {
            let mut changed = body.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Batch::new(2, 1, changed.into()).is_err(), "bit {bit}");
        }
        for len in 1..body.len() {
            assert!(Batch::new(2, 1, body.slice(..len)).is_err(), "{len} bytes");
        }
        assert!(Batch::new(2, 1, [&body[..], &[0]].concat().into()).is_err());
        assert_eq!(Batch::new(2, 1, Bytes::new()).unwrap().group_uid(), None);
        let nothing = [&[KIND_GROUP][..], &[0; 31]].concat();
        assert!(Batch::new(2, 1, nothing.into()).is_err(), "0 is the id of no group");
    }

    #[test]
    fn it_takes_no_index_and_counts_in_the_chain() {
        let before = LogPoint { raft_index: 1, term: 1, next_index: 9, ..LogPoint::INITIAL };
        let after = |uid| {
            let batch = Batch::new(2, 1, group_uid_body(uid)).unwrap();
            batch.point_after(&before).unwrap()
        };
        assert_eq!(after(5), LogPoint { raft_index: 2, chain: after(5).chain, ..before });
        assert_ne!(after(5).chain, after(6).chain);
    }
}
