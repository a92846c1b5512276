//! The one place with `unsafe`: a read-only view of a segment file, and a page that forked children
//! do not have.

use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use memmap2::{Mmap, MmapMut};

use super::fs::{DiskMap, MapRefs};
use crate::fork::Home;

/// The bytes of a whole file, read through the page cache. Slices of it share one mapping, which
/// goes when the last of them goes.
#[derive(Debug)]
pub(crate) struct FileMap {
    shares: [Bytes; REFCOUNT_SHARDS],
    map: Weak<Mmap>,
}

/// In how many places the slices of a map are counted. Threads that read at the same time would
/// wait for each other at a single one.
const REFCOUNT_SHARDS: usize = 1 << SHARES_LOG2;
const SHARES_LOG2: u32 = 3;

/// A claim on the mapping with a count of its own, on cache lines of its own: two lines, since some
/// processors fetch them in pairs.
#[repr(align(128))]
struct MapHandle(Arc<Mmap>);

impl AsRef<[u8]> for MapHandle {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// Lies at another address in every thread, and is good for nothing else.
thread_local!(static HERE: u8 = const { 0 });

impl FileMap {
    /// Maps `file` as long as it is now.
    pub(super) fn new(file: &File) -> io::Result<FileMap> {
        // SAFETY: a mapping is sound as long as nobody changes the bytes that are looked at, and
        // nobody shortens the file.
        // 1. A segment's bytes are written once: `pwrite` puts a record behind all others, and only
        //    then is its place published, with Release; readers learn places with Acquire. A place
        //    that was handed out is never written again as long as anybody has the mapping: a file
        //    is used for another segment only when all `map_refs` of all its mappings are gone, those
        //    that were given up and made anew since included, and when nobody has the segment,
        //    which is what it takes to map the file once more.
        // 2. Nothing in this crate shortens a file. A segment has its full length before it is
        //    mapped; unlinking it keeps the mapping.
        // 3. Others are kept out by the lock on the directory and by mode 0600. Whoever ignores
        //    both can break this, as they could with any memory-mapped file.
        let map = Arc::new(unsafe { Mmap::map(file)? });
        Ok(FileMap {
            map: Arc::downgrade(&map),
            shares: std::array::from_fn(|_| Bytes::from_owner(MapHandle(map.clone()))),
        })
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
    fn with_bytes<T>(&self, offset: u64, len: u64, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let bytes = &self.shares[0];
        let end = offset.checked_add(len).filter(|&end| end <= bytes.len() as u64)?;
        Some(read(&bytes[offset as usize..end as usize]))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn prefetch(&self, offset: u64, len: u64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE_BYTES: usize = 64;
        let bytes = &self.shares[0];
        let Some(asked) =
            bytes.get(offset as usize..offset.saturating_add(len).min(bytes.len() as u64) as usize)
        else {
            return;
        };
        for line in asked.chunks(LINE_BYTES) {
            // SAFETY: the address lies in the mapping; a prefetch changes nothing and never faults.
            unsafe { _mm_prefetch(line.as_ptr().cast(), _MM_HINT_T0) };
        }
    }

    fn map_refs(&self) -> MapRefs {
        MapRefs::of(self.map.clone())
    }
}

/// The process that runs, to be told from its forked children.
pub(crate) fn home() -> Home {
    Home::here(wiped_page)
}

/// A page that reads as zeros in every forked child, whatever is written to it here.
#[cfg(target_os = "linux")]
fn wiped_page() -> io::Result<MmapMut> {
    let mut page = MmapMut::map_anon(1)?;
    // SAFETY: the range is that of the mapping, which is private, anonymous and owned here. The
    // advice changes nothing in this process; what a child sees instead is a legal value of a byte
    // too, and the child has a mapping of its own.
    unsafe {
        rustix::mm::madvise(
            page.as_mut_ptr().cast(),
            page.len(),
            rustix::mm::Advice::LinuxWipeOnFork,
        )?
    };
    Ok(page)
}

#[cfg(not(target_os = "linux"))]
fn wiped_page() -> io::Result<MmapMut> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_its_own_home() {
        let (first, second) = (home(), home());
        assert!(first.is_here() && second.is_here());
        assert!(!Home::Id(u32::MAX).is_here());
        if cfg!(target_os = "linux") {
            let (Home::Page(first), Home::Page(second)) = (first, second) else {
                panic!("Linux wipes pages")
            };
            assert!(std::ptr::eq(first, second) || first[0] == second[0]);
        }
    }
}
