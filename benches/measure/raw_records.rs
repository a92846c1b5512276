//! The raw memory, read in the same run: no figure of a read means anything without it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use memmap2::Mmap;

use super::scratch::scratch;

/// Records of one length, back to back in a mapped file, with a checksum for each: the least that a
/// verified read can be.
pub(crate) struct RawRecords {
    map: Mmap,
    len: usize,
    crcs: Vec<u32>,
    _dir: tempfile::TempDir,
}

impl RawRecords {
    pub(crate) fn new(count: u64, len: usize) -> RawRecords {
        let dir = scratch();
        let path = dir.path().join("records");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .expect("scratch space can be written");
        let mut record = vec![0x5a; len];
        let mut crcs = Vec::with_capacity(count as usize);
        let mut chunk = Vec::with_capacity(len << 10);
        let mut at = 0;
        for number in 0..count {
            record[..8].copy_from_slice(&number.to_le_bytes());
            crcs.push(crc32fast::hash(&record));
            chunk.extend_from_slice(&record);
            if chunk.len() == chunk.capacity() || number + 1 == count {
                file.write_all_at(&chunk, at).expect("scratch space can be written");
                at += chunk.len() as u64;
                chunk.clear();
            }
        }
        // SAFETY: no other process knows the file, and nothing writes it any more.
        let map = unsafe { Mmap::map(&file) }.expect("a file can be mapped");
        RawRecords { map, len, crcs, _dir: dir }
    }

    /// One record, verified.
    pub(crate) fn read(&self, number: u64) -> &[u8] {
        let at = number as usize * self.len;
        let record = &self.map[at..at + self.len];
        assert_eq!(crc32fast::hash(record), self.crcs[number as usize], "the record is whole");
        record
    }
}
