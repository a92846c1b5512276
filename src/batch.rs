//! One batch: what Raft replicates as one entry of its own log, and what a storage keeps as one
//! record.
//!
//! A batch is encoded once, where it was appended. The same bytes are sent to every peer, written
//! to every disk and read back by every `get`; nothing on the way takes them apart. All integers
//! are little-endian.
//!
//! ```text
//! body of a batch of entries                    body of a control record (a new leader's first): empty
//!   0  u8   kind = 1
//!   1  [3]  zero
//!   4  u32  count                n >= 1
//!   8  u64  first index          of the first entry
//!  16  u64  first position       of the first entry
//!  24  u64  timestamp            milliseconds since 1970
//!  32  ...  payloads, back to back
//!   .  n x  { u32 end, u32 crc } where payload i ends, counted from byte 32; CRC-32 (IEEE) of payload i, bound to its index
//! ```
//!
//! The checksum is bound to the index (by an exclusive or) so that a table that comes back as
//! zeros, which is how disks lose sectors, does not read as entries without a payload: the CRC-32
//! of nothing is 0.
//!
//! The table stands behind the payloads so that a payload is copied once: from the host's buffer to
//! its final place.

mod crc_runs;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::ops::Range;

use bytes::Bytes;

pub(crate) use self::crc_runs::CrcShift;
use crate::entry::Entry;

const KIND_ENTRIES: u8 = 1;

/// No index, position or timestamp reaches this, so that sums of them never overflow whatever bytes
/// arrive.
pub(crate) const FIELD_LIMIT: u64 = 1 << 62;

/// Bytes before the first payload of a batch of entries.
pub(crate) const BATCH_HEADER_BYTES: usize = 32;
/// Bytes that each entry takes in the table.
pub(crate) const TABLE_ENTRY_BYTES: usize = 8;
/// The largest body, in bytes: a limit of the format. Every node takes, keeps and gives a batch up
/// to this size, whatever limits its own host was given: those bound what that host appends.
pub(crate) const BODY_BYTES_MAX: usize = 96 << 20;

/// A place between two batches: what the ledger amounts to after the batch `raft_index`.
///
/// The log begins after one such mark (its base) and ends at another (its last); a replica that is
/// moved forward is moved to a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogPoint {
    /// The batch after which this holds.
    pub raft_index: u64,
    /// The term of that batch.
    pub term: u64,
    /// The index that the next entry takes.
    pub next_index: u64,
    /// The position that the next entry takes.
    pub next_position: u64,
    /// The newest timestamp so far, in milliseconds since 1970.
    pub timestamp: u64,
    /// The chain value: a CRC-32 over every batch up to here. Two replicas agree if it agrees.
    pub chain: u32,
}

impl LogPoint {
    /// Where the log of a new group begins. Not at raft index 0, so that a later member always
    /// takes the group's membership along with its starting point.
    pub const INITIAL: LogPoint = LogPoint {
        raft_index: 1,
        term: 1,
        next_index: 0,
        next_position: 0,
        timestamp: 0,
        chain: 0,
    };

    /// A mark that was written down: after the batch `raft_index` of `term`, with this chain value.
    /// The rest is that of [`LogPoint::INITIAL`], to be set afterwards. A mark that comes to be is
    /// made by [`Batch::point_after`].
    pub fn new(raft_index: u64, term: u64, chain: u32) -> LogPoint {
        LogPoint { raft_index, term, chain, ..LogPoint::INITIAL }
    }
}

/// Why bytes are not the batch that they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The body is shorter than its own header says, or the header is not one that this version
    /// writes.
    #[error("the batch header is malformed: {0}")]
    Malformed(&'static str),
    /// The payload of this entry does not match its checksum.
    #[error("the payload of entry {index} does not match its checksum")]
    Checksum {
        /// The index of the entry.
        index: u64,
    },
    /// The batch does not continue the log at the place where it was put.
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

/// One record of the replicated log: 1..n ledger entries, or a control record with none. Immutable,
/// cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    raft_index: u64,
    term: u64,
    body: Bytes,
    prefix: Option<BatchHeader>,
}

impl Batch {
    /// Takes `body` as the batch at `raft_index`. Checks the header in constant time; the entries
    /// are checked by [`verify`].
    ///
    /// [`verify`]: Batch::verify
    ///
    /// # Errors
    /// [`BatchError::Malformed`] if the body cannot be a batch.
    pub fn new(raft_index: u64, term: u64, body: Bytes) -> Result<Batch, BatchError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(BatchError::Malformed("larger than a batch may be"));
        }
        let prefix = if body.is_empty() { None } else { Some(BatchHeader::read(&body)?) };
        Ok(Batch { raft_index, term, body, prefix })
    }

    /// The number of this batch in Raft's log.
    pub fn raft_index(&self) -> u64 {
        self.raft_index
    }

    /// The term of the leader that proposed it.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The encoded bytes: what a storage keeps and gives back. Empty for a control record.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// How many entries it holds. 0 for a control record.
    pub fn count(&self) -> u32 {
        self.prefix.map_or(0, |prefix| prefix.count)
    }

    /// The index of its first entry, if it holds any.
    pub fn first_index(&self) -> Option<u64> {
        self.prefix.map(|prefix| prefix.first_index)
    }

    /// The index after its last entry, if it holds any.
    pub fn end_index(&self) -> Option<u64> {
        self.prefix.map(|prefix| prefix.first_index.saturating_add(u64::from(prefix.count)))
    }

    /// The entry at `index`, its payload checked against its checksum. `None` if the batch does not
    /// hold that index.
    ///
    /// # Errors
    /// [`BatchError::Checksum`] or [`BatchError::Malformed`] if the bytes have changed since they
    /// were appended.
    #[inline]
    pub fn entry(&self, index: u64) -> Result<Option<Entry>, BatchError> {
        Ok(self.find(index)?.map(|found| self.entry_at(index, found)))
    }

    /// Where the entry at `index` is, its payload checked against its checksum. `None` if the batch
    /// does not hold that index.
    #[inline]
    pub(crate) fn find(&self, index: u64) -> Result<Option<EntryLocation>, BatchError> {
        let Some(prefix) = &self.prefix else { return Ok(None) };
        prefix.find(&self.body, index)
    }

    /// Where the entry at `index` is, whose payload was checked before.
    #[inline]
    pub(crate) fn find_checked(&self, index: u64) -> Result<Option<EntryLocation>, BatchError> {
        let Some((prefix, slot)) =
            self.prefix.as_ref().and_then(|prefix| Some((prefix, prefix.table_entry_of(index)?)))
        else {
            return Ok(None);
        };
        prefix.slot(&self.body, slot).map(|(start, end, _)| Some(prefix.found(start, end)))
    }

    /// The entry that was found there.
    #[inline]
    pub(crate) fn entry_at(
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
    /// The first thing found wrong.
    pub fn verify(&self) -> Result<(), BatchError> {
        let Some(prefix) = self.prefix else { return Ok(()) };
        let mut end = BATCH_HEADER_BYTES;
        for slot in 0..prefix.count as usize {
            end = prefix.check(&self.body, slot)?.payload.end;
        }
        if end != prefix.table_start(&self.body) {
            return Err(BatchError::Malformed("payload bytes that belong to no entry"));
        }
        Ok(())
    }

    /// Checks the payloads of some entries from `index` on, no more than `bytes_max` bytes, in one
    /// pass. Returns the index behind them and whether all are intact. If they are not, or it would
    /// not be worth while, the entries up to there should be checked one by one.
    pub(crate) fn check_ahead(
        &self,
        index: u64,
        bytes_max: usize,
        shift: &mut Option<CrcShift>,
    ) -> (u64, bool) {
        let nothing = (index, false);
        let Some(prefix) = &self.prefix else { return nothing };
        let Some(slot) = prefix.table_entry_of(index) else { return nothing };
        let (run, are_intact) = prefix.check_ahead(&self.body, slot, bytes_max, shift);
        (index + run as u64, are_intact)
    }

    /// Bytes of payload, all entries together.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.prefix.map_or(0, |prefix| (prefix.table_start(&self.body) - BATCH_HEADER_BYTES) as u64)
    }

    /// The table of ends and checksums: the identifiers of the payloads, apart from the payloads.
    pub(crate) fn table(&self) -> &[u8] {
        self.prefix.map_or(&[], |prefix| &self.body[prefix.table_start(&self.body)..])
    }

    /// The fixed part of the body, the bytes before the first payload. Empty for a control record.
    pub(crate) fn prefix_bytes(&self) -> &[u8] {
        &self.body[..self.body.len().min(BATCH_HEADER_BYTES)]
    }

    /// The mark after this batch, if it stands directly behind `before`.
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
        if let Some(prefix) = self.prefix {
            if prefix.first_index != before.next_index {
                return Err(BatchError::NotContiguous("index"));
            }
            if prefix.first_position != before.next_position {
                return Err(BatchError::NotContiguous("position"));
            }
            if prefix.timestamp < before.timestamp {
                return Err(BatchError::NotContiguous("timestamp"));
            }
            point.next_index += u64::from(prefix.count);
            point.next_position += self.payload_bytes();
            point.timestamp = prefix.timestamp;
        }
        Ok(point)
    }

    /// The checksum of everything up to and including this batch. It covers the entry table, hence
    /// every payload, and nothing that differs from one replica to the next.
    fn chain(&self, before: u32) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(before);
        hasher.update(&self.raft_index.to_le_bytes());
        hasher.update(&self.term.to_le_bytes());
        hasher.update(self.prefix_bytes());
        hasher.update(self.table());
        hasher.finalize()
    }
}

/// Shows where the batch stands and how large it is, never its bytes.
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
    #[inline]
    fn read(body: &[u8]) -> Result<BatchHeader, BatchError> {
        if body.len() < BATCH_HEADER_BYTES {
            return Err(BatchError::Malformed("shorter than a batch header"));
        }
        if body[0] != KIND_ENTRIES || body[1..4] != [0; 3] {
            return Err(BatchError::Malformed("a kind of batch that this version does not know"));
        }
        let prefix = BatchHeader {
            count: read_u32(body, 4),
            first_index: read_u64(body, 8),
            first_position: read_u64(body, 16),
            timestamp: read_u64(body, 24),
        };
        if prefix.count == 0 {
            return Err(BatchError::Malformed("a batch without entries"));
        }
        if prefix.first_index.max(prefix.first_position).max(prefix.timestamp) >= FIELD_LIMIT {
            return Err(BatchError::Malformed("an index, position or timestamp beyond 2^62"));
        }
        if prefix.count as usize > (body.len() - BATCH_HEADER_BYTES) / TABLE_ENTRY_BYTES {
            return Err(BatchError::Malformed("more entries than bytes for them"));
        }
        Ok(prefix)
    }

    /// The entry at `index` in `body`, its payload checked against its checksum. `None` if the
    /// batch does not hold that index.
    #[inline(always)]
    fn find(&self, body: &[u8], index: u64) -> Result<Option<EntryLocation>, BatchError> {
        self.table_entry_of(index).map(|slot| self.check(body, slot)).transpose()
    }

    /// Which slot of the table is that of `index`, if the batch holds it.
    #[inline(always)]
    fn table_entry_of(&self, index: u64) -> Option<usize> {
        index
            .checked_sub(self.first_index)
            .filter(|&slot| slot < u64::from(self.count))
            .map(|slot| slot as usize)
    }

    /// Where the entry in `slot` is, its payload checked against its checksum.
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

    /// What [`Batch::check_ahead`] does, with slots instead of indexes. Returns how many entries it
    /// speaks of.
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

    /// Start, end (both counted from the first payload) and checksum of one entry. Bounds are
    /// checked: the bytes may be damaged.
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

/// Where an entry was found in the body of its batch, and what the batch says of it.
pub(crate) struct EntryLocation {
    /// The bytes of the body that are the payload. Their checksum was right.
    pub(crate) payload: Range<usize>,
    pub(crate) position: u64,
    pub(crate) timestamp: u64,
}

/// What [`Batch::entry`] does, of a body that nobody shares.
///
/// # Errors
/// Those of [`Batch::new`] and [`Batch::entry`].
#[inline]
pub(crate) fn find(body: &[u8], index: u64) -> Result<Option<EntryLocation>, BatchError> {
    if body.is_empty() { Ok(None) } else { BatchHeader::read(body)?.find(body, index) }
}

/// A batch that is still being filled.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    /// Room for the prefix, then the payloads; the table is moved behind them when the batch
    /// closes.
    body: Vec<u8>,
    table: Vec<u8>,
}

impl OpenBatch {
    /// An empty batch with room for about `bytes` of payload and table.
    pub(crate) fn with_capacity(bytes: usize) -> OpenBatch {
        let mut body = Vec::with_capacity(BATCH_HEADER_BYTES + bytes);
        body.resize(BATCH_HEADER_BYTES, 0);
        OpenBatch { body, table: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn count(&self) -> u32 {
        (self.table.len() / TABLE_ENTRY_BYTES) as u32
    }

    /// Bytes of payload so far.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.body.len() - BATCH_HEADER_BYTES
    }

    /// What it will take when it is closed, but for the prefix.
    pub(crate) fn closed_bytes(&self) -> usize {
        self.payload_bytes() + self.table.len()
    }

    /// Takes a copy of `payload`, whose checksum is `crc`.
    pub(crate) fn push(&mut self, payload: &[u8], crc: u32) {
        self.push_parts(&[payload], crc);
    }

    /// Takes a copy of the payload that `parts` make one behind the other. Its checksum is `crc`.
    pub(crate) fn push_parts(&mut self, parts: &[&[u8]], crc: u32) {
        if self.table.is_empty() {
            // Most likely the others are as large as the first.
            let len = payload_len(parts);
            self.table
                .reserve(self.body.capacity() / (len + TABLE_ENTRY_BYTES) * TABLE_ENTRY_BYTES);
        }
        parts.iter().for_each(|part| self.body.extend_from_slice(part));
        let end = self.payload_bytes();
        assert!(
            end <= BODY_BYTES_MAX,
            "the limits of the builder keep a batch below that of the format"
        );
        let slot = end as u64 | u64::from(crc) << 32;
        self.table.extend_from_slice(&slot.to_le_bytes());
    }

    /// Closes the batch: its first entry stands at `first_index` and `first_position`.
    pub(crate) fn close(mut self, first_index: u64, first_position: u64, timestamp: u64) -> Bytes {
        assert!(!self.is_empty(), "a batch of no entries would be taken for a control record");
        let count = self.count();
        self.body[0] = KIND_ENTRIES;
        self.body[4..8].copy_from_slice(&count.to_le_bytes());
        self.body[8..16].copy_from_slice(&first_index.to_le_bytes());
        self.body[16..24].copy_from_slice(&first_position.to_le_bytes());
        self.body[24..32].copy_from_slice(&timestamp.to_le_bytes());
        for (slot, index) in self.table.chunks_exact_mut(TABLE_ENTRY_BYTES).zip(first_index..) {
            let crc = read_u32(slot, 4) ^ index_mask(index);
            slot[4..].copy_from_slice(&crc.to_le_bytes());
        }
        self.body.extend_from_slice(&self.table);
        Bytes::from(self.body)
    }
}

/// How long the payload is that `parts` make, in bytes. They may overlap in memory, and so come to
/// more than there are addresses: that is as good as too much.
#[inline]
pub(crate) fn payload_len(parts: &[&[u8]]) -> usize {
    parts.iter().fold(0, |len, part| len.saturating_add(part.len()))
}

/// The checksum of the payload that `parts` make: that of the parts joined.
#[inline]
pub(crate) fn payload_crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// What binds the checksum of a payload to its index. It is 0 for one index in four billion.
#[inline]
pub(crate) fn index_mask(index: u64) -> u32 {
    !((index as u32).wrapping_mul(0x9E37_79B1) ^ (index >> 32) as u32)
}

#[inline]
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

#[inline]
fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
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

    /// As many as are checked together, behind a few that are not as long and in front of one that
    /// is not.
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
}
