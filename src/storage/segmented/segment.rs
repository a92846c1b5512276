//! One segment, for readers: where its records lie, and the records themselves.
//!
//! A segment that this process wrote or scanned has its record index in memory: 16 bytes a record.
//! A sealed segment has it in its footer, and is mapped while it is read: see
//! [`map_cache`](super::map_cache). Apart from that it costs some 400 bytes.
//!

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;

use super::damaged_scan::scan_past_corruption;
use super::error::{corrupt, failed};
use super::file_io::read_full;
use super::format::{
    self, CHECKED_BYTES, INDEX_ENTRY_BYTES, IndexEntry, PAGE_BYTES, RECORD_HEADER_BYTES,
    RecordHeader, Seal,
};
use super::fs::{Disk, DiskFile, DiskMap, MapOf, MapRefs};
use super::map_cache::{MapCache, Mapped};
use super::record_index::{CORRUPT, RecordIndex};
use super::run_clock::ClosedAt;
use crate::log_prefix::log_prefix;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::primitives::{Mutex, OnceLock};
use crate::storage::{Batch, Corruption, LogPoint, StorageError};

/// The mapped sealed segments of one log.
pub(super) type Maps<D> = MapCache<Segment<D>>;

const UNREADABLE: &str = "the record cannot be read back";

/// One segment file of the log.
pub(super) struct Segment<D: Disk> {
    pub(super) id: u64,
    /// The raft index of its first record.
    pub(super) first: u64,
    /// The log point before its first record.
    pub(super) before: LogPoint,
    pub(super) name: String,
    pub(super) seed: u32,
    /// The length of the file.
    pub(super) bytes: u64,
    /// When it took its last record. Empty while it may take more.
    pub(super) closed: OnceLock<ClosedAt>,
    kept: Kept<D>,
    /// References to earlier maps that were evicted, and may still be in use.
    earlier: Mutex<Vec<MapRefs>>,
}

/// How long the contents are kept.
enum Kept<D: Disk> {
    /// Of an unsealed segment: as long as the segment.
    Always(SegmentContents<D>),
    /// Of a sealed segment: while it is mapped.
    WhileMapped {
        seal: Seal,
        contents: ArcSwapOption<SegmentContents<D>>,
        /// It was read since the clock hand passed.
        was_read: AtomicBool,
        /// A corrupt footer was logged.
        has_reported_corruption: AtomicBool,
        maps: Arc<Maps<D>>,
    },
}

/// The contents, kept mapped while this exists.
pub(super) enum View<'a, D: Disk> {
    Always(&'a SegmentContents<D>),
    WhileMapped(Guard<Option<Arc<SegmentContents<D>>>>),
}

impl<D: Disk> Deref for View<'_, D> {
    type Target = SegmentContents<D>;

    #[inline]
    fn deref(&self) -> &SegmentContents<D> {
        match self {
            View::Always(contents) => contents,
            View::WhileMapped(contents) => {
                contents.as_ref().expect("a view is made of contents that are there")
            }
        }
    }
}

pub(super) struct SegmentContents<D: Disk> {
    pub(super) map: MapOf<D>,
    pub(super) index: Index,
}

pub(super) enum Index {
    Memory(Box<RecordIndex>),
    Footer(Bytes),
}

impl<D: Disk> Segment<D> {
    /// An unsealed segment of `bytes` after the log point `before`, with its record index in
    /// memory.
    pub(super) fn open(
        directory: u128,
        id: u64,
        before: LogPoint,
        bytes: u64,
        map: MapOf<D>,
        records: Box<RecordIndex>,
    ) -> Segment<D> {
        let kept = Kept::Always(SegmentContents { map, index: Index::Memory(records) });
        Segment::new(directory, id, before, bytes, kept)
    }

    /// A sealed segment. It is mapped at its first read, within the limit of `maps`.
    pub(super) fn sealed(directory: u128, seal: Seal, maps: &Arc<Maps<D>>) -> Segment<D> {
        let kept = Kept::WhileMapped {
            seal,
            contents: ArcSwapOption::empty(),
            was_read: AtomicBool::new(false),
            has_reported_corruption: AtomicBool::new(false),
            maps: maps.clone(),
        };
        let segment = Segment::new(directory, seal.segment, seal.before, seal.file_bytes, kept);
        let _ = segment.closed.set(seal.closed);
        segment
    }

    /// This segment, now that it is sealed. It is mapped again at its next read, and needs no
    /// memory until then.
    pub(super) fn to_sealed(&self, directory: u128, seal: Seal, maps: &Arc<Maps<D>>) -> Segment<D> {
        let sealed = Segment::sealed(directory, seal, maps);
        if let Kept::Always(contents) = &self.kept {
            sealed.earlier.lock().push(contents.map.map_refs());
        }
        sealed
    }

    fn new(directory: u128, id: u64, before: LogPoint, bytes: u64, kept: Kept<D>) -> Segment<D> {
        let (first, seed) = (before.raft_index + 1, format::checksum_seed(directory, id));
        let (name, earlier) = (format::segment_name(id, first), Mutex::new(Vec::new()));
        Segment { id, first, before, name, seed, bytes, closed: OnceLock::new(), kept, earlier }
    }

    fn seal(&self) -> Option<&Seal> {
        match &self.kept {
            Kept::Always(_) => None,
            Kept::WhileMapped { seal, .. } => Some(seal),
        }
    }

    /// The number of records. Grows in the active segment.
    pub(super) fn len(&self) -> u64 {
        match &self.kept {
            Kept::Always(contents) => contents.index.len(),
            Kept::WhileMapped { seal, .. } => seal.records,
        }
    }

    /// The record index of an unsealed segment.
    pub(super) fn records(&self) -> Option<&RecordIndex> {
        match &self.kept {
            Kept::Always(SegmentContents { index: Index::Memory(records), .. }) => Some(records),
            _ => None,
        }
    }

    /// The record of this ordinal, which is below `len()`. Header and batch header are checked,
    /// payloads are not.
    pub(super) fn record(
        self: &Arc<Self>,
        disk: &D,
        ordinal: u64,
    ) -> Result<(RecordHeader, Batch), StorageError> {
        let contents = self.contents(disk)?;
        let (offset, body_bytes) = self.location(disk, &contents, ordinal)?;
        let wrong = |reason| corrupt(disk, &self.name, offset, reason);
        let record = contents
            .map
            .slice(offset, RECORD_HEADER_BYTES as u64 + body_bytes)
            .ok_or_else(|| wrong("a record lies outside the file"))?;
        format::decode_record(record, self.id, self.seed, self.first + ordinal).map_err(wrong)
    }

    /// Offset and body length of the record of this ordinal, if it can be read.
    #[inline]
    pub(super) fn location(
        &self,
        disk: &D,
        contents: &SegmentContents<D>,
        ordinal: u64,
    ) -> Result<(u64, u64), StorageError> {
        if ordinal >= contents.index.len() {
            return Err(self.unreadable(disk));
        }
        let (offset, body_bytes) = contents.index.location(ordinal);
        if body_bytes == u64::from(CORRUPT) {
            return Err(corrupt(disk, &self.name, offset, UNREADABLE));
        }
        Ok((offset, body_bytes))
    }

    pub(super) fn unreadable(&self, disk: &D) -> StorageError {
        corrupt(disk, &self.name, 0, UNREADABLE)
    }

    /// The log point after the record of this ordinal.
    pub(super) fn point(
        self: &Arc<Self>,
        disk: &D,
        ordinal: u64,
    ) -> Result<LogPoint, StorageError> {
        match self.seal() {
            Some(seal) if ordinal + 1 == seal.records => Ok(seal.last),
            _ => Ok(self.record(disk, ordinal)?.0.point),
        }
    }

    /// The term of the record of this ordinal. Terms never descend, so mostly the seal tells it.
    pub(super) fn term(self: &Arc<Self>, disk: &D, ordinal: u64) -> Result<u64, StorageError> {
        match self.seal() {
            Some(seal) if seal.before.term == seal.last.term => Ok(seal.last.term),
            _ => Ok(self.point(disk, ordinal)?.term),
        }
    }

    /// The header of the record of this ordinal, even if its body is corrupt. `None` if it cannot
    /// be read.
    pub(super) fn header(
        self: &Arc<Self>,
        disk: &D,
        ordinal: u64,
    ) -> Result<Option<RecordHeader>, StorageError> {
        let contents = self.contents(disk)?;
        if ordinal >= contents.index.len() {
            return Ok(None);
        }
        let head = contents.map.slice(contents.index.location(ordinal).0, CHECKED_BYTES as u64);
        let header = head.and_then(|head| RecordHeader::decode(&head, self.id, self.seed));
        Ok(header.filter(|header| header.point.raft_index == self.first + ordinal))
    }

    /// Offset and body length of the record of this ordinal, if known for certain: an unreadable
    /// record may lie behind the offset in its slot.
    pub(super) fn known_location(
        self: &Arc<Self>,
        disk: &D,
        ordinal: u64,
    ) -> Result<Option<(u64, u64)>, StorageError> {
        let contents = self.contents(disk)?;
        let index = &contents.index;
        // In a sealed segment with a corrupt footer, fewer records may be found than the seal
        // counts.
        if ordinal >= index.len() {
            return Ok(None);
        }
        let (offset, body_bytes) = index.location(ordinal);
        Ok(match body_bytes == u64::from(CORRUPT) {
            false => Some((offset, body_bytes)),
            true => {
                self.header(disk, ordinal)?.map(|header| (offset, u64::from(header.body_bytes)))
            }
        })
    }

    /// The corruption of the record of this ordinal, which is below `len()`, if it is corrupt:
    /// every byte is read. Term and chain come from the footer, if there is one, so they are known
    /// even if the record is lost.
    pub(super) fn verify_batch(
        self: &Arc<Self>,
        disk: &D,
        ordinal: u64,
    ) -> Result<Option<Corruption>, StorageError> {
        let found = self.record(disk, ordinal).and_then(|(header, batch)| match batch.verify() {
            _ if crc32fast::hash(batch.table()) != header.table_crc => {
                Err(self.corrupt_at(disk, ordinal, "the table of the batch is corrupt"))
            }
            Ok(()) => Ok(()),
            Err(error) => Err(self.corrupt_at(disk, ordinal, error.to_string())),
        });
        let Err(StorageError::Corrupt { path, offset, reason }) = found else {
            return found.map(|()| None);
        };
        let place =
            self.contents(disk)?.index.index_entry(ordinal).map(|place| (place.term, place.chain));
        let raft_index = self.first + ordinal;
        let known = match place {
            None => {
                self.header(disk, ordinal)?.map(|header| (header.point.term, header.point.chain))
            }
            place => place,
        };
        let (term, chain) = known.unzip();
        Ok(Some(Corruption {
            path,
            offset,
            raft_indexes: raft_index..raft_index + 1,
            term,
            chain,
            reason,
        }))
    }

    /// The log point after its last record, if it is sealed and all its records are below `limit`.
    pub(super) fn sealed_end(&self, limit: u64) -> Option<LogPoint> {
        self.seal().filter(|seal| limit >= seal.records).map(|seal| seal.last)
    }

    /// Where its footer begins, if it is sealed: directly after its last record.
    pub(super) fn footer_at(&self) -> Option<u64> {
        self.seal().map(|seal| seal.footer_at)
    }

    /// The raft index of its last record according to its seal, if it has one.
    pub(super) fn last_sealed(&self) -> Option<u64> {
        self.seal().map(|seal| seal.last.raft_index)
    }

    /// The bytes of its file that count, if it is sealed: up to the end of the footer.
    pub(super) fn sealed_bytes(&self) -> Option<u64> {
        self.seal().map(|seal| seal.footer_at.saturating_add(seal.footer_bytes()))
    }

    /// Releases an obsolete segment. Whether nothing references its bytes any more.
    pub(super) fn try_release(self) -> bool {
        // It cannot be mapped again, for that takes a reference to the segment.
        let now = match &self.kept {
            Kept::Always(contents) => Some(contents.map.map_refs()),
            Kept::WhileMapped { contents, .. } => {
                contents.load().as_ref().map(|contents| contents.map.map_refs())
            }
        };
        let earlier = std::mem::take(&mut *self.earlier.lock());
        drop(self.kept);
        earlier.iter().chain(&now).all(MapRefs::are_released)
    }

    /// Whether it is sealed.
    pub(super) fn is_sealed(&self) -> bool {
        self.seal().is_some()
    }

    /// The first page of its file.
    pub(super) fn head(&self, disk: &D) -> Result<[u8; PAGE_BYTES], StorageError> {
        let read_failed = |error| failed(disk, "read", &self.name, error);
        let mut page = [0; PAGE_BYTES];
        read_full(&disk.open(&self.name).map_err(read_failed)?, &mut page, 0)
            .map_err(read_failed)?;
        Ok(page)
    }

    /// The offset of its footer, if it is sealed and the footer is corrupt.
    pub(super) fn bad_footer(self: &Arc<Self>, disk: &D) -> Result<Option<u64>, StorageError> {
        let is_lost = matches!(self.contents(disk)?.index, Index::Memory(_));
        Ok(self.seal().filter(|_| is_lost).map(|seal| seal.footer_at))
    }

    pub(super) fn corrupt_at(
        &self,
        disk: &D,
        ordinal: u64,
        reason: impl Into<String>,
    ) -> StorageError {
        let offset_in = |contents: &SegmentContents<D>| contents.index.location(ordinal).0;
        let offset = match &self.kept {
            Kept::Always(contents) => offset_in(contents),
            Kept::WhileMapped { contents, .. } => contents.load().as_deref().map_or(0, offset_in),
        };
        corrupt(disk, &self.name, offset, reason)
    }

    /// The contents. Maps a sealed segment if it is not mapped.
    #[inline]
    pub(super) fn contents(self: &Arc<Self>, disk: &D) -> Result<View<'_, D>, StorageError> {
        match &self.kept {
            Kept::Always(contents) => Ok(View::Always(contents)),
            Kept::WhileMapped { contents, was_read, .. } => {
                let contents = contents.load();
                if contents.is_none() {
                    return self.map(disk);
                }
                // Mostly it is set already: then no shared cache line is written.
                if !was_read.load(Ordering::Relaxed) {
                    was_read.store(true, Ordering::Relaxed);
                }
                Ok(View::WhileMapped(contents))
            }
        }
    }

    #[cold]
    fn map(self: &Arc<Self>, disk: &D) -> Result<View<'_, D>, StorageError> {
        match &self.kept {
            Kept::Always(contents) => Ok(View::Always(contents)),
            Kept::WhileMapped { seal, has_reported_corruption, maps, .. } => {
                // Two threads may get here at once; one of the two maps is dropped.
                let contents = maps.keep(self, self.load(disk, seal, has_reported_corruption)?);
                Ok(View::WhileMapped(Guard::from_inner(Some(contents))))
            }
        }
    }

    /// Maps a sealed segment. If its footer is corrupt, its records are scanned.
    fn load(
        &self,
        disk: &D,
        seal: &Seal,
        has_reported_corruption: &AtomicBool,
    ) -> Result<SegmentContents<D>, StorageError> {
        let file =
            disk.open(&self.name).map_err(|error| failed(disk, "open", &self.name, error))?;
        let map = file.map().map_err(|error| failed(disk, "map", &self.name, error))?;
        let footer = map
            .slice(seal.footer_at, seal.footer_bytes())
            .filter(|footer| format::footer_crc(self.seed, footer) == seal.footer_crc);
        if let Some(footer) = footer {
            return Ok(SegmentContents { map, index: Index::Footer(footer) });
        }
        if !has_reported_corruption.swap(true, Ordering::Relaxed) {
            let path = disk.path(&self.name);
            let (log_prefix, path) = (log_prefix(), path.display());
            log::warn!(
                "{log_prefix}the footer of {path} is corrupt; its records are scanned instead"
            );
        }
        let found = scan_past_corruption(
            disk,
            &file,
            &self.name,
            self.id,
            self.seed,
            self.first,
            seal.last.raft_index + 1,
        )?;
        Ok(SegmentContents { map, index: Index::Memory(found.records) })
    }
}

impl<D: Disk> Mapped for Segment<D> {
    type Contents = SegmentContents<D>;

    fn cached(&self) -> Option<Arc<SegmentContents<D>>> {
        match &self.kept {
            Kept::Always(_) => None,
            Kept::WhileMapped { contents, .. } => contents.load_full(),
        }
    }

    fn cache(&self, mapped: Arc<SegmentContents<D>>) {
        if let Kept::WhileMapped { contents, .. } = &self.kept {
            contents.store(Some(mapped));
        }
    }

    fn was_read(&self) -> bool {
        match &self.kept {
            Kept::Always(_) => true,
            Kept::WhileMapped { was_read, .. } => was_read.swap(false, Ordering::Relaxed),
        }
    }

    /// References to the map are remembered: until all are released, the file is not used for
    /// anything else.
    fn unmap(&self) -> Option<Arc<SegmentContents<D>>> {
        let Kept::WhileMapped { contents, .. } = &self.kept else { return None };
        let given_up = contents.swap(None)?;
        let mut earlier = self.earlier.lock();
        earlier.retain(|map_refs| !map_refs.are_released());
        earlier.push(given_up.map.map_refs());
        Some(given_up)
    }
}

impl Index {
    #[inline]
    pub(super) fn len(&self) -> u64 {
        match self {
            Index::Memory(records) => records.len(),
            Index::Footer(footer) => (footer.len() / INDEX_ENTRY_BYTES) as u64,
        }
    }

    /// The entry of the footer, if there is one.
    fn index_entry(&self, ordinal: u64) -> Option<IndexEntry> {
        match self {
            Index::Memory(_) => None,
            Index::Footer(footer) => {
                footer.get(ordinal as usize * INDEX_ENTRY_BYTES..).map(IndexEntry::decode)
            }
        }
    }

    /// Offset and body length of a record, and the index after its entries.
    #[inline]
    pub(super) fn record(&self, ordinal: u64) -> (u64, u64, u64) {
        match self {
            Index::Memory(records) => {
                let (offset, body_bytes) = records.location(ordinal);
                (offset, body_bytes, records.next_index(ordinal))
            }
            Index::Footer(footer) => {
                let place = IndexEntry::decode(&footer[ordinal as usize * INDEX_ENTRY_BYTES..]);
                (place.offset, u64::from(place.body_bytes), place.next_index)
            }
        }
    }

    /// Offset and body length of a record.
    #[inline]
    pub(super) fn location(&self, ordinal: u64) -> (u64, u64) {
        match self {
            Index::Memory(records) => records.location(ordinal),
            Index::Footer(footer) => {
                let place = IndexEntry::decode(&footer[ordinal as usize * INDEX_ENTRY_BYTES..]);
                (place.offset, u64::from(place.body_bytes))
            }
        }
    }
}
