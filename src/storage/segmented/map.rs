//! The one place with `unsafe`: a read-only view of a segment file.

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::Mmap;

use super::disk::DiskMap;

/// The bytes of a whole file, read through the page cache. Slices of it share one mapping, which goes when the last of them goes.
#[derive(Debug)]
pub struct FileMap(Bytes);

impl FileMap {
    /// Maps `file` as long as it is now.
    pub(super) fn new(file: &File) -> io::Result<FileMap> {
        // SAFETY: a mapping is sound as long as nobody changes the bytes that are looked at, and nobody shortens the file.
        // 1. A segment's bytes are written once: `pwrite` puts a record behind all others, and only then is its place published, with
        //    Release; readers learn places with Acquire. A place that was handed out is never written again.
        // 2. Nothing in this crate shortens a file. A segment has its full length before it is mapped; unlinking it keeps the mapping.
        // 3. Others are kept out by the lock on the directory and by mode 0600. Whoever ignores both can break this, as they could
        //    with any memory-mapped file.
        let map = unsafe { Mmap::map(file)? };
        Ok(FileMap(Bytes::from_owner(map)))
    }
}

impl DiskMap for FileMap {
    fn slice(&self, offset: u64, len: u64) -> Option<Bytes> {
        let end = offset.checked_add(len).filter(|&end| end <= self.0.len() as u64)?;
        Some(self.0.slice(offset as usize..end as usize))
    }
}
