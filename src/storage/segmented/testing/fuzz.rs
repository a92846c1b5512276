//! Fuzzing: any bytes in the files of a directory.

mod memory_dir;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

use self::memory_dir::MemoryDir;
use crate::batch::FIELD_LIMIT;
use crate::batch::fuzzing::with_sound_payloads;
use crate::entry::NodeId;
use crate::fuzzing::FuzzInput;
use crate::role::Membership;
use crate::storage::segmented::format::{
    self, CHECKED_BYTES, DurablePoint, IndexEntry, PAGE_BYTES, RECORD_HEADER_BYTES, RECORDS_AT,
    RecordHeader, SEAL_AT, SEAL_BYTES, Seal,
};
use crate::storage::segmented::identity::IdentityFile;
use crate::storage::segmented::metadata::{self, Metadata};
use crate::storage::segmented::recovery;
#[cfg(test)]
use crate::storage::segmented::run_clock::ClosedAt;
use crate::storage::segmented::segment::Maps;
use crate::storage::segmented::segment_set::SegmentReader;
use crate::storage::{Batch, LogPoint, LogReader, StorageError};

const DIRECTORY: u128 = 0x0123_4567_89ab_cdef;

/// Any bytes are either refused as a page, a header, a seal or an index entry, or decode to a value
/// that encodes to the same bytes.
pub fn page(input: &[u8]) {
    let mut fuzz_input = FuzzInput(input);
    let (what, segment, first) = (fuzz_input.byte(), fuzz_input.u64(), fuzz_input.u64());
    let mut page = [0; PAGE_BYTES];
    let given = fuzz_input.0.len().min(PAGE_BYTES);
    page[..given].copy_from_slice(&fuzz_input.0[..given]);
    for sound in [false, true] {
        match what % 6 {
            0 => a_state(page, sound),
            1 => an_identity(page, sound),
            2 => a_watermark(page, sound),
            3 => a_head(page, sound),
            4 => a_header(page, sound, segment),
            _ => a_seal(page, sound, segment, first),
        }
    }
    if let Some((id, first)) =
        std::str::from_utf8(fuzz_input.0).ok().and_then(format::parse_segment_name)
    {
        assert_eq!(format::segment_name(id, first).as_bytes(), fuzz_input.0);
    }
    if given >= format::INDEX_ENTRY_BYTES {
        assert_eq!(IndexEntry::decode(&page).encode(), page[..format::INDEX_ENTRY_BYTES]);
    }
}

fn with_magic(bytes: &mut [u8], magic: &[u8; 4], seed: u32) {
    bytes[4..8].copy_from_slice(magic);
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&bytes[4..]);
    bytes[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

fn a_state(mut page: [u8; PAGE_BYTES], sound: bool) {
    if sound {
        with_magic(&mut page, b"DLst", 0);
    }
    if let Some((generation, found)) = Metadata::decode(&page) {
        let page = found.encode(generation).expect("what came from a page fits one");
        assert_eq!(Metadata::decode(&page), Some((generation, found)));
    }
}

fn an_identity(mut page: [u8; PAGE_BYTES], sound: bool) {
    if sound {
        with_magic(&mut page, b"DLid", 0);
    }
    if let Some(Ok(found)) = IdentityFile::decode(&page) {
        let page = found.encode().expect("what came from a page fits one");
        assert_eq!(IdentityFile::decode(&page), Some(Ok(found)));
    }
}

fn a_watermark(mut page: [u8; PAGE_BYTES], sound: bool) {
    let sector = &mut page[..512];
    if sound {
        with_magic(sector, b"DLwm", 0);
        sector[8..24].copy_from_slice(&DIRECTORY.to_le_bytes());
        with_magic(sector, b"DLwm", 0);
    }
    let found = metadata::decode_watermark(sector, DIRECTORY);
    assert!(found.is_some() || !sound);
}

fn a_head(mut page: [u8; PAGE_BYTES], sound: bool) {
    if sound {
        with_magic(&mut page[..32], b"DLsg", 0);
    }
    if format::check_segment_header(&page, DIRECTORY).is_ok() {
        assert_eq!(page[..32], format::segment_header(DIRECTORY));
    }
}

fn a_header(mut page: [u8; PAGE_BYTES], sound: bool, segment: u64) {
    let seed = format::checksum_seed(DIRECTORY, segment);
    if sound {
        seal_header(&mut page, segment, seed);
    }
    if let Some(header) = RecordHeader::decode(&page, segment, seed) {
        let prefix = &page[RECORD_HEADER_BYTES
            ..CHECKED_BYTES.min(RECORD_HEADER_BYTES + header.body_bytes as usize)];
        assert_eq!(
            RecordHeader::decode(&[&header.encode(seed, prefix), prefix].concat(), segment, seed),
            Some(header)
        );
    }
}

fn a_seal(mut page: [u8; PAGE_BYTES], sound: bool, segment: u64, first: u64) {
    let seed = format::checksum_seed(DIRECTORY, segment);
    if sound {
        page[SEAL_AT + 8..SEAL_AT + 16].copy_from_slice(&segment.to_le_bytes());
        with_magic(&mut page[SEAL_AT..SEAL_AT + SEAL_BYTES], b"DLse", seed);
    }
    if let Some(seal) = Seal::decode(&page, segment, first, seed) {
        assert_eq!((seal.segment, seal.first()), (segment, first));
        page[SEAL_AT..SEAL_AT + SEAL_BYTES].copy_from_slice(&seal.encode(seed));
        assert_eq!(Seal::decode(&page, segment, first, seed), Some(seal));
    }
}

/// Writes magic number, segment and checksum into the header at the start of `record`. `None` if it
/// is cut short.
fn seal_header(record: &mut [u8], segment: u64, seed: u32) -> Option<()> {
    record.get_mut(4..8)?.copy_from_slice(b"DLre");
    record.get_mut(8..16)?.copy_from_slice(&segment.to_le_bytes());
    let body_bytes = u32::from_le_bytes([record[60], record[61], record[62], record[63]]) as usize;
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(
        record.get(4..RECORD_HEADER_BYTES + body_bytes.min(CHECKED_BYTES - RECORD_HEADER_BYTES))?,
    );
    record[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
    Some(())
}

/// A directory of up to four segments of any contents opens or is refused; if it opens, every batch
/// of it reads back, or is reported corrupt.
///
/// An input is u8 bits: 1 there is a watermark, 2 the log begins close to the highest raft index;
/// u8 and u8 of the watermark; for each segment: u8 `how`, u8 id, u8 first raft index, u16 length,
/// then the seal if it has one, then what follows page 0. Bits of `how`: 1 there is a segment, 2
/// with a seal, 4 its checksums are corrected, 8 and its log points too, 16 close to the highest
/// raft index.
pub fn segment(input: &[u8]) {
    let mut fuzz_input = FuzzInput(input);
    let mut dir = MemoryDir::default();
    let begins = fuzz_input.byte();
    let watermark = (begins & 1 == 1).then(|| DurablePoint {
        raft_index: fuzz_input.byte().into(),
        segment: fuzz_input.byte().into(),
    });
    for _ in 0..4 {
        let (how, id, first, len) =
            (fuzz_input.byte(), fuzz_input.byte(), fuzz_input.byte(), fuzz_input.u16());
        if how & 1 == 1 {
            let (id, first) = (
                u64::from(id),
                u64::from(first) + if how & 16 == 0 { 0 } else { FIELD_LIMIT - 256 },
            );
            let seal = if how & 2 == 0 { &[] } else { fuzz_input.bytes(SEAL_BYTES) };
            let contents = segment_of(
                id,
                first,
                seal,
                fuzz_input.bytes(len.into()),
                how & 4 != 0,
                how & 8 != 0,
            );
            dir.0.insert(format::segment_name(id, first), Bytes::from(contents));
        }
    }
    let names: Vec<String> = dir.0.keys().cloned().collect();
    let mut state = Metadata::new(DIRECTORY, Membership::of_voters([NodeId::from(1)]), 0);
    if begins & 2 == 2 {
        state.base.point.raft_index = FIELD_LIMIT - 255;
    }
    if let Ok(found) = recovery::recover(&dir, &Maps::new(2), &state, watermark, &names) {
        let sealed =
            dir.0.values().any(|file| file[SEAL_AT..SEAL_AT + SEAL_BYTES] != [0; SEAL_BYTES]);
        let reader = SegmentReader {
            disk: Arc::new(dir),
            live: Arc::new(ArcSwap::from_pointee(found.live)),
        };
        let length = found.last.raft_index - state.base.point.raft_index;
        assert!(length < 1 << 16 || sealed, "a log is not longer than its files");
        let readable = read_back(&reader, &found.last);
        assert!(
            readable.is_ok() || sealed || !found.corruption.is_empty(),
            "what was scanned reads back: {readable:?}"
        );
    }
}

/// The bytes of a segment file.
fn segment_of(
    id: u64,
    first: u64,
    seal: &[u8],
    records: &[u8],
    sound: bool,
    marked: bool,
) -> Vec<u8> {
    let seed = format::checksum_seed(DIRECTORY, id);
    let mut bytes = vec![0; RECORDS_AT as usize];
    bytes[..32].copy_from_slice(&format::segment_header(DIRECTORY));
    bytes.extend_from_slice(records);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let mut end = RECORDS_AT as usize;
    if sound {
        let mut point = LogPoint { raft_index: first.saturating_sub(1), ..LogPoint::INITIAL };
        while let Some(len) = put_right(&mut bytes[end..], id, seed, marked.then_some(&mut point)) {
            end += len;
        }
    }
    if let Some(place) =
        bytes.get_mut(SEAL_AT..SEAL_AT + seal.len()).filter(|place| place.len() == SEAL_BYTES)
    {
        place.copy_from_slice(seal);
        place[8..16].copy_from_slice(&id.to_le_bytes());
        with_magic(place, b"DLse", seed);
    }
    bytes
}

/// Corrects the checksums of the record at the start of `bytes`, and its log point if `point` is
/// the one before it. Returns its length.
fn put_right(bytes: &mut [u8], id: u64, seed: u32, point: Option<&mut LogPoint>) -> Option<usize> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let body_bytes = u32::from_le_bytes([header[60], header[61], header[62], header[63]]) as usize;
    let body = with_sound_payloads(
        bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body_bytes)?.to_vec(),
    );
    bytes[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body_bytes].copy_from_slice(&body);
    let field = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| bytes[at + i]));
    let raft_index = point.as_ref().map_or(field(16), |point| point.raft_index.wrapping_add(1));
    if let Ok(batch) = Batch::new(raft_index, field(24), Bytes::from(body)) {
        let synced = DurablePoint { raft_index: field(64), segment: field(72) };
        let mut own = point_of(bytes);
        if let Some(point) = point {
            *point = if point.raft_index < u64::MAX {
                batch.point_after(point).unwrap_or(own)
            } else {
                own
            };
            own = *point;
        }
        let header = RecordHeader::of(&batch, own, id, synced, field(80));
        bytes[..RECORD_HEADER_BYTES].copy_from_slice(&header.encode(seed, batch.prefix_bytes()));
    }
    seal_header(bytes, id, seed)?;
    Some(format::record_bytes(body_bytes as u64) as usize).filter(|&len| len <= bytes.len())
}

fn point_of(header: &[u8]) -> LogPoint {
    let field = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| header[at + i]));
    LogPoint {
        raft_index: field(16),
        term: field(24),
        next_index: field(32),
        next_position: field(40),
        timestamp: field(48),
        chain: field(56) as u32,
    }
}

/// Reads everything up to `last`, in every way.
fn read_back(reader: &dyn LogReader, last: &LogPoint) -> Result<(), StorageError> {
    const READ_MAX: u64 = 2_000;
    let base = reader.base().point;
    let mut point = base;
    for raft_index in (base.raft_index + 1..=last.raft_index).take(READ_MAX as usize) {
        let batches = reader.batches(raft_index, raft_index + 1, 0)?;
        batches[0].verify().map_err(|error| StorageError::NotContiguous(error.to_string()))?;
        point = batches[0]
            .point_after(&point)
            .map_err(|error| StorageError::NotContiguous(error.to_string()))?;
        if reader.point(raft_index)? != Some(point) {
            return Err(StorageError::NotContiguous(format!(
                "the mark after {raft_index} is another one"
            )));
        }
    }
    for raft_index in (base.raft_index..=last.raft_index).take(READ_MAX as usize) {
        reader.verify_batch(raft_index)?;
    }
    for index in (base.next_index..last.next_index).take(READ_MAX as usize) {
        let batch = reader
            .batch_containing(index)?
            .ok_or_else(|| StorageError::NotContiguous(format!("index {index} is missing")))?;
        assert!(
            batch.first_index() <= Some(index) && batch.end_index() > Some(index),
            "the batch of another index"
        );
    }
    Ok(())
}

#[cfg(test)]
pub(crate) fn seeds_of_pages() -> Vec<Vec<u8>> {
    use crate::storage::{HardState, LogOwner};

    let membership = Membership {
        voters: [1, 2, 3].map(NodeId::from).to_vec(),
        learners: vec![NodeId::from(9)],
    };
    let mut state = Metadata::new(DIRECTORY, membership.clone(), 0);
    state.hard_state = HardState { term: 7, vote: Some(NodeId::from(2)), commit: 8 };
    state.peers = vec![(NodeId::from(3), 1 << 100)];
    let owner = LogOwner::new("orders", 2, 5, membership);
    let identity = IdentityFile { directory: DIRECTORY, owner };
    let sealed = segment_with_seal(3, 2);
    let header = &sealed[RECORDS_AT as usize..][..CHECKED_BYTES];
    let mut pages = vec![
        (0, state.encode(5).expect("it fits")[..200].to_vec()),
        (1, identity.encode().expect("it fits")[..200].to_vec()),
        (
            2,
            metadata::watermark(DIRECTORY, DurablePoint { raft_index: 9, segment: 3 })[..64]
                .to_vec(),
        ),
        (3, format::segment_header(DIRECTORY).to_vec()),
        (4, header.to_vec()),
        (5, sealed[..SEAL_AT + SEAL_BYTES].to_vec()),
        (5, format::segment_name(3, 2).into_bytes()),
    ];
    let far: Vec<_> = pages
        .iter()
        .map(|(what, page)| (*what, page.iter().map(|byte| byte | 0x80).collect()))
        .collect();
    pages.extend(far);
    pages
        .into_iter()
        .map(|(what, page)| {
            [&[what][..], &3_u64.to_le_bytes(), &2_u64.to_le_bytes(), &page].concat()
        })
        .collect()
}

/// The bytes of a sealed segment of three batches, without its zeros.
#[cfg(test)]
fn segment_with_seal(id: u64, first: u64) -> Vec<u8> {
    let seed = format::checksum_seed(DIRECTORY, id);
    let (records, footer, last) = records_of(id, first);
    let before = LogPoint { raft_index: first - 1, ..LogPoint::INITIAL };
    let footer_at = RECORDS_AT + records.len() as u64;
    let seal = Seal {
        segment: id,
        records: 3,
        footer_at,
        footer_crc: format::footer_crc(seed, &footer),
        before,
        last,
        closed: ClosedAt { ran_ms: 7, unix_ms: 8 },
        file_bytes: 1 << 20,
    };
    let mut bytes = vec![0; RECORDS_AT as usize];
    bytes[SEAL_AT..SEAL_AT + SEAL_BYTES].copy_from_slice(&seal.encode(seed));
    [bytes, records, footer].concat()
}

/// Three records, their footer, and the log point after them.
#[cfg(test)]
fn records_of(id: u64, first: u64) -> (Vec<u8>, Vec<u8>, LogPoint) {
    use crate::batch::fuzzing::body_of;

    let seed = format::checksum_seed(DIRECTORY, id);
    let mut point = LogPoint { raft_index: first - 1, ..LogPoint::INITIAL };
    let (mut records, mut footer) = (Vec::new(), Vec::new());
    for body in [Bytes::new(), body_of(&[b"one", b"", b"three"]), Bytes::new()] {
        let batch = Batch::new(point.raft_index + 1, 2, body).expect("it is one");
        point = batch.point_after(&point).expect("it follows");
        let header = RecordHeader::of(&batch, point, id, DurablePoint::default(), 1);
        let offset = RECORDS_AT + records.len() as u64;
        let place = IndexEntry {
            offset,
            next_index: point.next_index,
            term: 2,
            chain: point.chain,
            body_bytes: header.body_bytes,
        };
        footer.extend_from_slice(&place.encode());
        records.extend_from_slice(&header.encode(seed, batch.prefix_bytes()));
        records.extend_from_slice(batch.body());
        records.resize(records.len().next_multiple_of(8), 0);
    }
    (records, footer, point)
}

#[cfg(test)]
pub(crate) fn seeds_of_segments() -> Vec<Vec<u8>> {
    let segment = |how: u8, id: u8, first: u8| {
        let sealed = segment_with_seal(id.into(), first.into());
        let records = &sealed[RECORDS_AT as usize..];
        let seal = if how & 2 == 0 { &[] } else { &sealed[SEAL_AT..SEAL_AT + SEAL_BYTES] };
        [&[how, id, first][..], &(records.len() as u16).to_le_bytes(), seal, records].concat()
    };
    let unsealed = |how: u8, id: u8, first: u8| {
        let (records, ..) = records_of(id.into(), first.into());
        [&[how, id, first][..], &(records.len() as u16).to_le_bytes(), &records].concat()
    };
    let mut seeds = Vec::new();
    for watermark in [[0, 0, 0], [1, 4, 1], [2, 0, 0]] {
        for how in [1, 5, 13, 29] {
            seeds.push([&watermark[..], &unsealed(how, 1, 2)].concat());
            seeds.push([&watermark[..], &unsealed(how, 1, 2), &unsealed(how, 2, 4)].concat());
            seeds.push([&watermark[..], &unsealed(how, 1, 2), &unsealed(how, 2, 5)].concat());
            seeds.push([&watermark[..], &segment(how | 2, 1, 2), &unsealed(how, 2, 5)].concat());
            seeds.push(
                [
                    &watermark[..],
                    &segment(how | 2, 1, 2),
                    &segment(how | 2, 2, 3),
                    &unsealed(how, 3, 4),
                ]
                .concat(),
            );
        }
    }
    seeds
}
