//! Opening takes time in proportion to the tail, not to the log: measured on 64 GiB, whose payloads
//! are holes in the files.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::super::format::{self, IndexEntry, RECORDS_AT, RecordHeader, SEAL_AT, Seal};
use super::super::run_clock::ClosedAt;
use super::*;
use crate::batch::{BATCH_HEADER_BYTES, TABLE_ENTRY_BYTES, index_mask};

const SEGMENT_BYTES: u64 = 64 << 20;
const RECORDS: u64 = 4;
/// Four of them fill a segment but for its first page and its footer.
const PAYLOAD_BYTES: usize = (16 << 20) - 4096;

/// Writes consecutive sealed segments of one log. Zeros are not written.
struct SparseLog<'a> {
    dir: &'a Path,
    directory: u128,
    point: LogPoint,
    /// The body of a batch of one large entry of zeros.
    body: BytesMut,
    /// The checksum of the zeros.
    crc: u32,
}

impl SparseLog<'_> {
    fn new(dir: &Path, directory: u128) -> SparseLog<'_> {
        let mut open = OpenBatch::with_capacity(PAYLOAD_BYTES + TABLE_ENTRY_BYTES);
        let payload = vec![0; PAYLOAD_BYTES];
        let crc = crc32fast::hash(&payload);
        open.push(&payload, crc);
        let body = open.close(0, 0, 1).try_into_mut().unwrap();
        SparseLog { dir, directory, point: LogPoint::INITIAL, body, crc }
    }

    fn next_batch(&mut self) -> Batch {
        self.body[8..16].copy_from_slice(&self.point.next_index.to_le_bytes());
        self.body[16..24].copy_from_slice(&self.point.next_position.to_le_bytes());
        let bound = self.crc ^ index_mask(self.point.next_index);
        self.body[BATCH_HEADER_BYTES + PAYLOAD_BYTES + 4..].copy_from_slice(&bound.to_le_bytes());
        Batch::new(self.point.raft_index + 1, 1, std::mem::take(&mut self.body).freeze()).unwrap()
    }

    fn seal_one(&mut self, id: u64) {
        let (before, seed) = (self.point, format::checksum_seed(self.directory, id));
        let path = self.dir.join(format::segment_name(id, before.raft_index + 1));
        let file = OpenOptions::new().write(true).create_new(true).open(path).unwrap();
        file.set_len(SEGMENT_BYTES).unwrap();
        let (mut offset, mut footer) = (RECORDS_AT, Vec::new());
        for _ in 0..RECORDS {
            let batch = self.next_batch();
            self.point = batch.point_after(&self.point).unwrap();
            let header =
                RecordHeader::of(&batch, self.point, id, format::DurablePoint::default(), 1);
            let place = IndexEntry {
                offset,
                next_index: self.point.next_index,
                term: 1,
                chain: self.point.chain,
                body_bytes: header.body_bytes,
            };
            footer.extend_from_slice(&place.encode());
            let head =
                [&header.encode(seed, batch.prefix_bytes())[..], batch.prefix_bytes()].concat();
            file.write_all_at(&head, offset).unwrap();
            file.write_all_at(batch.table(), offset + (head.len() + PAYLOAD_BYTES) as u64).unwrap();
            offset += header.record_bytes();
            self.body = {
                let body = batch.body().clone();
                drop(batch);
                body.try_into_mut().unwrap()
            };
        }
        let footer_crc = format::footer_crc(seed, &footer);
        let seal = Seal {
            segment: id,
            records: RECORDS,
            footer_at: offset,
            footer_crc,
            before,
            last: self.point,
            closed: ClosedAt::default(),
            file_bytes: offset + footer.len() as u64,
        };
        file.write_all_at(&footer, offset).unwrap();
        file.write_all_at(&seal.encode(seed), SEAL_AT as u64).unwrap();
        file.write_all_at(&format::segment_header(self.directory), 0).unwrap();
    }
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Opens a log of `segments` sealed segments and a short tail. Returns the shortest time, and the
/// memory that it took.
fn measure(segments: u64) -> (Duration, u64) {
    let dir = tempfile::tempdir().unwrap();
    let directory = open(dir.path()).1.identity.directory;
    let mut sparse = SparseLog::new(dir.path(), directory);
    (0..segments).for_each(|count| sparse.seal_one(1 << 32 | count));
    let mut point = sparse.point;
    drop(sparse);
    let memory = {
        let before = resident();
        let (mut log, recovered) = open(dir.path());
        let memory = resident().saturating_sub(before);
        assert_eq!((recovered.last, recovered.corruption), (point, Vec::new()));
        log.append(&singles(&mut point, 1, 3, 100), 1).unwrap();
        sync(&mut log);
        memory
    };
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        let (log, recovered) = open(dir.path());
        best = best.min(begun.elapsed());
        assert_eq!((recovered.last, recovered.corruption), (point, Vec::new()));
        let cold = segments / 2 * RECORDS + 1;
        let begun = Instant::now();
        let batch = log.reader().batch_containing(cold).unwrap().unwrap();
        let found = begun.elapsed();
        let entry = batch.entry(cold).unwrap().unwrap();
        assert_eq!((entry.index(), entry.len()), (cold, PAYLOAD_BYTES));
        println!("{segments} segments: a batch of a cold one found in {found:?}");
    }
    (best, memory)
}

#[test]
fn every_batch_of_a_sealed_segment_with_holes_is_sound() {
    const { assert!(BATCH_HEADER_BYTES + PAYLOAD_BYTES + TABLE_ENTRY_BYTES < 16 << 20) };
    measure(2);
}

#[test]
#[ignore = "makes a log of 64 GiB, sparse; asserts a time, so run it alone and with --release"]
fn a_log_of_64_gib_opens_in_a_tenth_of_a_second() {
    let (small, of_small) = measure(16);
    let (large, of_large) = measure((64 << 30) / SEGMENT_BYTES);
    println!(
        "1 GiB: {small:?} and {of_small} bytes of memory; 64 GiB: {large:?} and {of_large} bytes"
    );
    assert!(large < Duration::from_millis(100), "{large:?}");
    assert!(of_large < 4 << 20, "{of_large} bytes of memory");
}

/// Whatever is written to a file without a name goes with the process.
#[test]
fn a_sync_of_a_file_that_somebody_removed_is_no_success() {
    for lost in ["state", ".seg"] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, recovered) = open(dir.path());
        log.append(&singles(&mut LogPoint::INITIAL.clone(), 1, 1, 40), 1).unwrap();
        sync(&mut log);
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let path = names.into_iter().find(|path| path.to_str().unwrap().ends_with(lost)).unwrap();
        std::fs::remove_file(&path).unwrap();
        match lost {
            "state" => log.save_hard_state(HardState { term: 9, ..recovered.hard_state }).unwrap(),
            _ => log
                .append(&singles(&mut log.reader().point(2).unwrap().unwrap(), 1, 1, 40), 1)
                .unwrap(),
        }
        let failed = log.begin_sync().wait();
        assert!(
            matches!(&failed, Err(StorageError::Removed { path: told }) if *told == path),
            "{failed:?}"
        );
        assert!(
            matches!(log.begin_sync().wait(), Err(StorageError::Poisoned(_))),
            "and that is final"
        );
    }
}
