//! The one place with `unsafe`: a read-only view of a segment file, and a page that forked children
//! do not have.

use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use memmap2::{Mmap, MmapMut};

use super::fs::{DiskMap, MapRefs};
use crate::fork::Home;

/// A mapping of a whole file, read through the page cache. Slices share it; the last one unmaps it.
#[derive(Debug)]
pub(crate) struct FileMap {
    shares: [Bytes; REFCOUNT_SHARDS],
    map: Weak<Mmap>,
}

/// The number of reference counts of a map. With a single one, threads that read at the same time
/// would contend for it.
const REFCOUNT_SHARDS: usize = 1 << SHARES_LOG2;
const SHARES_LOG2: u32 = 3;

/// A reference to the mapping with a count of its own, on cache lines of its own: two lines, since
/// some processors fetch them in pairs.
#[repr(align(128))]
struct MapHandle(Arc<Mmap>);

impl AsRef<[u8]> for MapHandle {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// Its address differs in every thread; it has no other use.
thread_local!(static HERE: u8 = const { 0 });

impl FileMap {
    /// Maps `file` as long as it is now.
    pub(super) fn new(file: &File) -> io::Result<FileMap> {
        // SAFETY: a mapping is sound while the bytes that are read do not change, and the
        // file is not shortened.
        // 1. A segment's bytes are written once: `pwrite` puts a record behind all others, and only
        //    then is its location published, with Release; readers load locations with Acquire. A
        //    byte at a published location is not written while anyone holds the mapping: a file
        //    becomes another segment only when all `map_refs` of all its mappings are released,
        //    those of evicted and repeated mappings included, and when nothing holds the segment,
        //    which is needed to map the file again.
        // 2. Nothing in this crate shortens a file. A segment has its full length before it is
        //    mapped; unlinking it keeps the mapping.
        // 3. Other processes are kept out by the lock on the directory and by mode 0600. A process
        //    that ignores both can break this, as with any memory-mapped file.
        let map = Arc::new(unsafe { Mmap::map(file)? });
        Ok(FileMap {
            map: Arc::downgrade(&map),
            shares: std::array::from_fn(|_| Bytes::from_owner(MapHandle(map.clone()))),
        })
    }

    /// The whole mapping, by a reference count that few other threads use.
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

/// Identifies this process, so that forked children can be told apart from it.
pub(crate) fn home() -> Home {
    Home::here(wiped_page)
}

/// A page that reads as zeros in every forked child, whatever this process writes to it.
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
