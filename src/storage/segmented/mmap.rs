//! The one place with `unsafe`: a read-only view of a segment file.

use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use memmap2::Mmap;

use super::fs::{Claims, DiskMap};

/// The bytes of a whole file, read through the page cache. Slices of it share one mapping, which goes when the last of them goes.
#[derive(Debug)]
pub struct FileMap {
    shares: [Bytes; SHARES],
    map: Weak<Mmap>,
}

/// In how many places the slices of a map are counted. Threads that read at the same time would wait for each other at a single one.
const SHARES: usize = 1 << SHARES_LOG2;
const SHARES_LOG2: u32 = 3;

/// A claim on the mapping with a count of its own, on cache lines of its own: two lines, since some processors fetch them in pairs.
#[repr(align(128))]
struct Share(Arc<Mmap>);

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// Lies at another address in every thread, and is good for nothing else.
thread_local!(static HERE: u8 = const { 0 });

impl FileMap {
    /// Maps `file` as long as it is now.
    pub(super) fn new(file: &File) -> io::Result<FileMap> {
        // SAFETY: a mapping is sound as long as nobody changes the bytes that are looked at, and nobody shortens the file.
        // 1. A segment's bytes are written once: `pwrite` puts a record behind all others, and only then is its place published, with
        //    Release; readers learn places with Acquire. A place that was handed out is never written again as long as anybody has the
        //    mapping: a file is used for another segment only when all `claims` of all its mappings are gone.
        // 2. Nothing in this crate shortens a file. A segment has its full length before it is mapped; unlinking it keeps the mapping.
        // 3. Others are kept out by the lock on the directory and by mode 0600. Whoever ignores both can break this, as they could
        //    with any memory-mapped file.
        let map = Arc::new(unsafe { Mmap::map(file)? });
        Ok(FileMap { map: Arc::downgrade(&map), shares: std::array::from_fn(|_| Bytes::from_owner(Share(map.clone()))) })
    }

    /// The whole of it, with a count that few other threads use.
    #[inline]
    fn share(&self) -> &Bytes {
        const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
        let address = HERE.with(|here| std::ptr::from_ref(here).addr());
        &self.shares[((address as u64).wrapping_mul(MIX) >> (u64::BITS - SHARES_LOG2)) as usize]
    }
}

impl DiskMap for FileMap {
    #[inline]
    fn slice(&self, offset: u64, len: u64) -> Option<Bytes> {
        let share = self.share();
        let end = offset.checked_add(len).filter(|&end| end <= share.len() as u64)?;
        Some(share.slice(offset as usize..end as usize))
    }

    #[inline]
    fn look<T>(&self, offset: u64, len: u64, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let bytes = &self.shares[0];
        let end = offset.checked_add(len).filter(|&end| end <= bytes.len() as u64)?;
        Some(look(&bytes[offset as usize..end as usize]))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn ask_ahead(&self, offset: u64, len: u64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE_BYTES: usize = 64;
        let bytes = &self.shares[0];
        let Some(asked) = bytes.get(offset as usize..offset.saturating_add(len).min(bytes.len() as u64) as usize) else { return };
        for line in asked.chunks(LINE_BYTES) {
            // SAFETY: the address lies in the mapping; a prefetch changes nothing and never faults.
            unsafe { _mm_prefetch(line.as_ptr().cast(), _MM_HINT_T0) };
        }
    }

    fn claims(&self) -> Claims {
        Claims::of(self.map.clone())
    }
}
