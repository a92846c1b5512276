//! Encoding of segment files, and of the checksummed page that the small files consist of.
//! `format.md` has the byte tables.

use bytes::{Buf, Bytes};

use super::run_clock::ClosedAt;
use crate::batch::{BATCH_HEADER_BYTES, Batch, FIELD_LIMIT, LogPoint};
use crate::entry::NodeId;

/// The version of everything in the directory.
pub(super) const VERSION: u32 = 3;
/// The feature flags of this version: a reader must know those that are set. None so far.
pub(super) const FEATURES: u32 = 0;

/// Records begin at multiples of this.
pub(super) const ALIGN: u64 = 8;
/// The unit of small files, and the space before the first record of a segment.
pub(super) const PAGE_BYTES: usize = 4096;
/// Where the first record of a segment begins.
pub(super) const RECORDS_AT: u64 = PAGE_BYTES as u64;

const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"DLsg");
pub(super) const SEGMENT_HEADER_BYTES: usize = 32;

/// In a sector of its own, so that its write is atomic.
pub(super) const SEAL_AT: usize = 512;
const SEAL_MAGIC: u32 = u32::from_le_bytes(*b"DLse");
pub(super) const SEAL_BYTES: usize = 160;

const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"DLre");
/// The header of a record.
pub(super) const RECORD_HEADER_BYTES: usize = 96;
/// The most bytes that the checksum of a record header covers: the header, and the batch header at
/// the start of the body.
pub(super) const CHECKED_BYTES: usize = RECORD_HEADER_BYTES + BATCH_HEADER_BYTES;

/// One entry of the footer of a sealed segment.
pub(super) const INDEX_ENTRY_BYTES: usize = 32;

const POINT_BYTES: usize = 48;

/// The next multiple of [`ALIGN`].
pub(super) fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}

/// The bytes in a segment of a record whose body has this length.
pub(super) fn record_bytes(body_bytes: u64) -> u64 {
    aligned(RECORD_HEADER_BYTES as u64 + body_bytes)
}

/// The initial value of all checksums in a segment: a record of another directory, or of another
/// segment, does not match.
pub(super) fn checksum_seed(directory: u128, segment: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&directory.to_le_bytes());
    hasher.update(&segment.to_le_bytes());
    hasher.finalize()
}

#[inline]
fn checksum(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// The name of a segment: `<segment id>-<first raft index>.seg`, both as 16 hexadecimal digits, so
/// that names sort by id.
pub(super) fn segment_name(id: u64, first: u64) -> String {
    format!("{id:016x}-{first:016x}.seg")
}

/// The id and first raft index in the name of a segment. `None` if it is not such a name.
pub(super) fn parse_segment_name(name: &str) -> Option<(u64, u64)> {
    let (id, first) = name.strip_suffix(".seg")?.split_once('-')?;
    let number =
        |digits: &str| (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    let (id, first) = (number(id)?, number(first)?);
    ((1..FIELD_LIMIT).contains(&first) && id < u64::MAX && segment_name(id, first) == name)
        .then_some((id, first))
}

/// The header of every segment, the same for all in a directory: it is written and synced before
/// the file gets the name of a segment.
pub(super) fn segment_header(directory: u128) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut head = [0; SEGMENT_HEADER_BYTES];
    put(&mut head, 4, &SEGMENT_MAGIC.to_le_bytes());
    put(&mut head, 8, &VERSION.to_le_bytes());
    put(&mut head, 16, &directory.to_le_bytes());
    let crc = crc32fast::hash(&head[4..]);
    put(&mut head, 0, &crc.to_le_bytes());
    head
}

/// Why a segment header is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentHeaderError {
    UnknownVersion(u32),
    UnknownFeatures(u32),
    Corrupt(&'static str),
}

/// Checks the header of a segment, the first bytes of `page`. Its layout is the same in every
/// version.
pub(super) fn check_segment_header(
    page: &[u8; PAGE_BYTES],
    directory: u128,
) -> Result<(), SegmentHeaderError> {
    let head = &page[..SEGMENT_HEADER_BYTES];
    let version = u32_at(head, 8);
    let intact = u32_at(head, 4) == SEGMENT_MAGIC && crc32fast::hash(&head[4..]) == u32_at(head, 0);
    let features = u32_at(head, 12) & !FEATURES;
    match intact {
        true if version > VERSION => Err(SegmentHeaderError::UnknownVersion(version)),
        true if features != 0 => Err(SegmentHeaderError::UnknownFeatures(features)),
        _ if head != segment_header(directory) => {
            Err(SegmentHeaderError::Corrupt("the header of the segment is not one of this log"))
        }
        _ => Ok(()),
    }
}

/// The log is known to be durable up to this raft index, which was in this segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DurablePoint {
    pub(super) raft_index: u64,
    pub(super) segment: u64,
}

/// The header of a record. Little-endian; see `format.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) segment: u64,
    /// The log point after this batch; its raft index and term are those of the batch.
    pub(super) point: LogPoint,
    pub(super) body_bytes: u32,
    /// How far the log was known to be durable when this was written. Invariant: below
    /// `point.raft_index`.
    pub(super) synced: DurablePoint,
    /// The newest raft index known to be committed when this was written.
    pub(super) commit: u64,
    pub(super) table_crc: u32,
}

impl RecordHeader {
    /// The header of `batch`; `point` is the log point after it.
    pub(super) fn of(
        batch: &Batch,
        point: LogPoint,
        segment: u64,
        synced: DurablePoint,
        commit: u64,
    ) -> RecordHeader {
        let table_crc = crc32fast::hash(batch.table());
        RecordHeader {
            segment,
            point,
            body_bytes: batch.body().len() as u32,
            synced,
            commit,
            table_crc,
        }
    }

    /// Encodes it, for a body that begins with `prefix`.
    pub(super) fn encode(&self, seed: u32, prefix: &[u8]) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        put(&mut bytes, 4, &RECORD_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &self.segment.to_le_bytes());
        put(&mut bytes, 16, &point_bytes(&self.point));
        put(&mut bytes, 60, &self.body_bytes.to_le_bytes());
        put(&mut bytes, 64, &self.synced.raft_index.to_le_bytes());
        put(&mut bytes, 72, &self.synced.segment.to_le_bytes());
        put(&mut bytes, 80, &self.commit.to_le_bytes());
        put(&mut bytes, 88, &self.table_crc.to_le_bytes());
        let crc = checksum(seed, &[&bytes[4..], prefix]);
        put(&mut bytes, 0, &crc.to_le_bytes());
        bytes
    }

    /// Decodes the header at the start of `bytes`, which must reach to the end of the record or
    /// cover at least [`CHECKED_BYTES`]. `None` if it is not a header of `segment`. No field is
    /// used before the checksum matches, least of all the lengths.
    #[inline(always)]
    pub(super) fn decode(bytes: &[u8], segment: u64, seed: u32) -> Option<RecordHeader> {
        if bytes.len() < RECORD_HEADER_BYTES
            || u32_at(bytes, 4) != RECORD_MAGIC
            || u64_at(bytes, 8) != segment
        {
            return None;
        }
        let body_bytes = u32_at(bytes, 60);
        let prefix = bytes.get(
            RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + BATCH_HEADER_BYTES.min(body_bytes as usize),
        )?;
        if checksum(seed, &[&bytes[4..RECORD_HEADER_BYTES + prefix.len()]]) != u32_at(bytes, 0) {
            return None;
        }
        let (synced, commit) = (
            DurablePoint { raft_index: u64_at(bytes, 64), segment: u64_at(bytes, 72) },
            u64_at(bytes, 80),
        );
        let point = point_at(bytes, 16);
        (is_possible(&point) && synced.raft_index.max(commit) < FIELD_LIMIT).then(|| RecordHeader {
            segment,
            point,
            body_bytes,
            synced,
            commit,
            table_crc: u32_at(bytes, 88),
        })
    }

    /// Whether a record of `segment` may begin here: a cheap test before the checksum is computed.
    pub(super) fn may_begin(bytes: &[u8], segment: u64) -> bool {
        bytes.len() >= RECORD_HEADER_BYTES
            && u32_at(bytes, 4) == RECORD_MAGIC
            && u64_at(bytes, 8) == segment
    }

    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(u64::from(self.body_bytes))
    }
}

/// Checks a record of `segment` that must be the one of `raft_index`, and returns its header.
#[inline(always)]
pub(super) fn check_record(
    record: &[u8],
    segment: u64,
    seed: u32,
    raft_index: u64,
) -> Result<RecordHeader, &'static str> {
    let header = RecordHeader::decode(record, segment, seed)
        .ok_or("no record of this segment begins here")?;
    if header.point.raft_index != raft_index {
        return Err("the record belongs to another raft index");
    }
    if (record.len() - RECORD_HEADER_BYTES) as u64 != u64::from(header.body_bytes) {
        return Err("the record has another length than its place in the index says");
    }
    Ok(header)
}

/// Checks and decodes such a record.
pub(super) fn decode_record(
    mut record: Bytes,
    segment: u64,
    seed: u32,
    raft_index: u64,
) -> Result<(RecordHeader, Batch), &'static str> {
    let header = check_record(&record, segment, seed, raft_index)?;
    record.advance(RECORD_HEADER_BYTES);
    let batch = Batch::new(raft_index, header.point.term, record)
        .map_err(|_| "the record does not hold a batch")?;
    Ok((header, batch))
}

/// A record as the footer of a sealed segment lists it. It is kept apart from the record, so that a
/// corrupt record can still be identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) offset: u64,
    pub(super) next_index: u64,
    pub(super) term: u64,
    pub(super) chain: u32,
    pub(super) body_bytes: u32,
}

impl IndexEntry {
    pub(super) fn encode(&self) -> [u8; INDEX_ENTRY_BYTES] {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        put(&mut bytes, 0, &self.offset.to_le_bytes());
        put(&mut bytes, 8, &self.next_index.to_le_bytes());
        put(&mut bytes, 16, &self.term.to_le_bytes());
        put(&mut bytes, 24, &self.chain.to_le_bytes());
        put(&mut bytes, 28, &self.body_bytes.to_le_bytes());
        bytes
    }

    /// Decodes the entry at the start of `bytes`, which are at least [`INDEX_ENTRY_BYTES`].
    #[inline]
    pub(super) fn decode(bytes: &[u8]) -> IndexEntry {
        IndexEntry {
            offset: u64_at(bytes, 0),
            next_index: u64_at(bytes, 8),
            term: u64_at(bytes, 16),
            chain: u32_at(bytes, 24),
            body_bytes: u32_at(bytes, 28),
        }
    }
}

/// The checksum of a footer.
pub(super) fn footer_crc(seed: u32, footer: &[u8]) -> u32 {
    checksum(seed, &[footer])
}

/// Written into a segment when no more records are added and all are durable. Opening then reads
/// only the first page of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) segment: u64,
    /// How many records it holds. At least 1.
    pub(super) records: u64,
    pub(super) footer_at: u64,
    pub(super) footer_crc: u32,
    /// The log point before its first record.
    pub(super) before: LogPoint,
    /// The log point after its last record.
    pub(super) last: LogPoint,
    /// When it took its last record.
    pub(super) closed: ClosedAt,
    /// The length of the file.
    pub(super) file_bytes: u64,
}

impl Seal {
    pub(super) fn encode(&self, seed: u32) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        put(&mut bytes, 4, &SEAL_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &self.segment.to_le_bytes());
        put(&mut bytes, 16, &self.records.to_le_bytes());
        put(&mut bytes, 24, &self.footer_at.to_le_bytes());
        put(&mut bytes, 32, &self.footer_crc.to_le_bytes());
        put(&mut bytes, 40, &point_bytes(&self.before));
        put(&mut bytes, 88, &point_bytes(&self.last));
        put(&mut bytes, 136, &self.closed.ran_ms.to_le_bytes());
        put(&mut bytes, 144, &self.closed.unix_ms.to_le_bytes());
        put(&mut bytes, 152, &self.file_bytes.to_le_bytes());
        let crc = checksum(seed, &[&bytes[4..]]);
        put(&mut bytes, 0, &crc.to_le_bytes());
        bytes
    }

    /// Decodes the seal in the first page of a segment. `None` without a valid one.
    pub(super) fn decode(
        page: &[u8; PAGE_BYTES],
        segment: u64,
        first: u64,
        seed: u32,
    ) -> Option<Seal> {
        let bytes = &page[SEAL_AT..SEAL_AT + SEAL_BYTES];
        if u32_at(bytes, 4) != SEAL_MAGIC || checksum(seed, &[&bytes[4..]]) != u32_at(bytes, 0) {
            return None;
        }
        let seal = Seal {
            segment: u64_at(bytes, 8),
            records: u64_at(bytes, 16),
            footer_at: u64_at(bytes, 24),
            footer_crc: u32_at(bytes, 32),
            before: point_at(bytes, 40),
            last: point_at(bytes, 88),
            closed: ClosedAt { ran_ms: u64_at(bytes, 136), unix_ms: u64_at(bytes, 144) },
            file_bytes: u64_at(bytes, 152),
        };
        let ClosedAt { ran_ms, unix_ms } = seal.closed;
        let is_too_large = ran_ms.max(unix_ms).max(seal.file_bytes) >= FIELD_LIMIT;
        if !is_possible(&seal.before) || !is_possible(&seal.last) || is_too_large {
            return None;
        }
        let fits = seal.segment == segment && seal.first() == first && seal.records > 0;
        (fits && first.checked_add(seal.records - 1) == Some(seal.last.raft_index)).then_some(seal)
    }

    /// The raft index of its first record.
    pub(super) fn first(&self) -> u64 {
        self.before.raft_index + 1
    }

    pub(super) fn footer_bytes(&self) -> u64 {
        self.records.saturating_mul(INDEX_ENTRY_BYTES as u64)
    }
}

fn point_bytes(point: &LogPoint) -> [u8; POINT_BYTES] {
    let mut bytes = [0; POINT_BYTES];
    put(&mut bytes, 0, &point.raft_index.to_le_bytes());
    put(&mut bytes, 8, &point.term.to_le_bytes());
    put(&mut bytes, 16, &point.next_index.to_le_bytes());
    put(&mut bytes, 24, &point.next_position.to_le_bytes());
    put(&mut bytes, 32, &point.timestamp.to_le_bytes());
    put(&mut bytes, 40, &point.chain.to_le_bytes());
    bytes
}

#[inline(always)]
fn point_at(bytes: &[u8], at: usize) -> LogPoint {
    LogPoint {
        raft_index: u64_at(bytes, at),
        term: u64_at(bytes, at + 8),
        next_index: u64_at(bytes, at + 16),
        next_position: u64_at(bytes, at + 24),
        timestamp: u64_at(bytes, at + 32),
        chain: u32_at(bytes, at + 40),
    }
}

/// Whether all fields are below [`FIELD_LIMIT`]. Then sums of fields never overflow, whatever a
/// file holds.
#[inline]
fn is_possible(point: &LogPoint) -> bool {
    point.raft_index.max(point.next_index).max(point.next_position).max(point.timestamp)
        < FIELD_LIMIT
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// A page under construction: a checksum, a magic number, then the fields in sequence.
pub(super) struct PageWriter(Vec<u8>);

impl PageWriter {
    pub(super) fn new(magic: &[u8; 4]) -> PageWriter {
        let mut bytes = Vec::with_capacity(PAGE_BYTES);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(magic);
        PageWriter(bytes)
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u128(&mut self, value: u128) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn point(&mut self, point: &LogPoint) -> &mut Self {
        self.bytes(&point_bytes(point))
    }

    pub(super) fn nodes(&mut self, nodes: &[NodeId]) -> &mut Self {
        nodes.iter().for_each(|node| self.0.extend_from_slice(&node.get().to_le_bytes()));
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The page, padded with zeros to `page_bytes`. `None` if the fields do not fit.
    pub(super) fn finish(&self, page_bytes: usize) -> Option<Vec<u8>> {
        let mut page = self.0.clone();
        if page.len() > page_bytes {
            return None;
        }
        page.resize(page_bytes, 0);
        let crc = crc32fast::hash(&page[4..]);
        put(&mut page, 0, &crc.to_le_bytes());
        Some(page)
    }
}

/// Reads the fields of a page with a valid checksum. `None` beyond the end.
pub(super) struct PageReader<'a>(&'a [u8]);

impl<'a> PageReader<'a> {
    /// `None` if `page` is not an intact page with this magic number.
    pub(super) fn new(page: &'a [u8], magic: &[u8; 4]) -> Option<PageReader<'a>> {
        let intact = page.len() >= 8
            && &page[4..8] == magic
            && crc32fast::hash(&page[4..]) == u32_at(page, 0);
        intact.then(|| PageReader(&page[8..]))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(|bytes| u32_at(bytes, 0))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes(8).map(|bytes| u64_at(bytes, 0))
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        let (low, high) = (self.u64()?, self.u64()?);
        Some(u128::from(low) | u128::from(high) << 64)
    }

    pub(super) fn point(&mut self) -> Option<LogPoint> {
        self.bytes(POINT_BYTES).map(|bytes| point_at(bytes, 0)).filter(is_possible)
    }

    pub(super) fn nodes(&mut self, count: u32) -> Option<Vec<NodeId>> {
        let bytes = self.bytes(count as usize * 8)?;
        Some(bytes.chunks_exact(8).map(|field| NodeId::from(u64_at(field, 0))).collect())
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(field)
    }
}
