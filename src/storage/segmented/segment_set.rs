//! The log as readers see it: an immutable list of segments, replaced as a whole by the single
//! writer.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::error::{corrupt, is_not_found};
use super::format::DurablePoint;
use super::fs::Disk;
use super::lookup::{SearchHit, search_first_above};
use super::segment::{Segment, View};
use crate::entry::Entry;
use crate::storage::{Base, Batch, Corruption, LogPoint, LogReader, StorageError};

/// The list. Invariant: segments follow each other without a gap. The first begins after the base,
/// each ends where the next begins. Only a corrupt log has gaps, and it accepts no appends.
pub(super) struct SegmentSet<D: Disk> {
    pub(super) base: Base,
    pub(super) segments: Vec<LiveSegment<D>>,
    /// What is missing in gaps, by ascending raft index. The last gap may lie behind all segments.
    pub(super) gaps: Vec<Corruption>,
}

/// The part of one segment that belongs to the log.
pub(super) struct LiveSegment<D: Disk> {
    pub(super) segment: Arc<Segment<D>>,
    /// The raft index at which it ends; what the segment holds from there on was truncated.
    /// [`u64::MAX`] for the last one.
    pub(super) end: u64,
}

impl<D: Disk> Clone for LiveSegment<D> {
    fn clone(&self) -> Self {
        LiveSegment { segment: self.segment.clone(), end: self.end }
    }
}

impl<D: Disk> LiveSegment<D> {
    /// The number of records of the segment that belong to the log.
    pub(super) fn len(&self) -> u64 {
        self.segment.len().min(self.end - self.segment.first)
    }
}

/// Where an entry lies: the segment, the view of it, and the record.
pub(super) type EntryHit<'l, D> = (&'l LiveSegment<D>, View<'l, D>, SearchHit);

impl<D: Disk> SegmentSet<D> {
    pub(super) fn new(base: Base) -> SegmentSet<D> {
        SegmentSet { base, segments: Vec::new(), gaps: Vec::new() }
    }

    /// The log with `segment` added at the end; the others end where it begins. Returns too the
    /// segments that have nothing left.
    pub(super) fn with(&self, segment: Arc<Segment<D>>) -> (SegmentSet<D>, Vec<Arc<Segment<D>>>) {
        let kept = self.segments.partition_point(|part| part.segment.first < segment.first);
        let obsolete = self.segments[kept..].iter().map(|part| part.segment.clone()).collect();
        let mut segments = Vec::with_capacity(kept + 1);
        segments.extend_from_slice(&self.segments[..kept]);
        if let Some(last) = segments.last_mut() {
            last.end = segment.first;
        }
        segments.push(LiveSegment { segment, end: u64::MAX });
        (SegmentSet { base: self.base.clone(), segments, gaps: Vec::new() }, obsolete)
    }

    /// The durable point at `raft_index`. The default at the base: recovery after a crash may see
    /// an earlier base, and must not expect this raft index in a segment.
    pub(super) fn durable_point(&self, raft_index: u64) -> DurablePoint {
        let nowhere = DurablePoint::default();
        self.find_segment(raft_index)
            .map_or(nowhere, |(part, _)| DurablePoint { raft_index, segment: part.segment.id })
    }

    /// The segment that holds `raft_index`, and the ordinal of its record. `None` up to the base,
    /// and behind the last record.
    fn find_segment(&self, raft_index: u64) -> Option<(&LiveSegment<D>, u64)> {
        let at = self
            .segments
            .partition_point(|part| part.segment.first <= raft_index)
            .checked_sub(1)?;
        let part = &self.segments[at];
        let ordinal = raft_index - part.segment.first;
        (ordinal < part.len()).then_some((part, ordinal))
    }

    pub(super) fn point(
        &self,
        disk: &D,
        raft_index: u64,
    ) -> Result<Option<LogPoint>, StorageError> {
        match raft_index.cmp(&self.base.point.raft_index) {
            std::cmp::Ordering::Less => Err(self.purged()),
            std::cmp::Ordering::Equal => Ok(Some(self.base.point)),
            std::cmp::Ordering::Greater => {
                let Some((part, ordinal)) = self.find_segment(raft_index) else {
                    return self.check_gaps(raft_index).map(|()| None);
                };
                part.segment.point(disk, ordinal).map(Some)
            }
        }
    }

    fn term(&self, disk: &D, raft_index: u64) -> Result<Option<u64>, StorageError> {
        match self.find_segment(raft_index) {
            Some((part, ordinal)) => part.segment.term(disk, ordinal).map(Some),
            None => Ok(self.point(disk, raft_index)?.map(|point| point.term)),
        }
    }

    /// The segment with entry `index`, and the search hit in it. `None` beyond the end of the log.
    #[inline(always)]
    pub(super) fn find(
        &self,
        disk: &D,
        index: u64,
    ) -> Result<Option<EntryHit<'_, D>>, StorageError> {
        if index < self.base.point.next_index {
            return Err(self.purged());
        }
        // Of several segments that begin at the same index, only the last can hold it: the others
        // have control records only.
        let begin = |at: u64| self.segments[at as usize].segment.before.next_index;
        let next = search_first_above(
            index,
            self.base.point.next_index,
            self.segments.len() as u64,
            begin,
        );
        let next = next.map_or(self.segments.len(), |next| next.ordinal as usize);
        let Some(part) = next.checked_sub(1).map(|at| &self.segments[at]) else {
            return self.check_missing(disk, next).map(|()| None);
        };
        let view = part.segment.contents(disk)?;
        match part.segment.find(disk, &view, index, part.len())? {
            Some(hit) => Ok(Some((part, view, hit))),
            None => self.check_missing(disk, next).map(|()| None),
        }
    }

    #[inline(always)]
    fn entry(&self, disk: &D, index: u64) -> Result<Option<Entry>, StorageError> {
        let Some((part, view, hit)) = self.find(disk, index)? else { return Ok(None) };
        part.segment.entry(disk, &view, &hit, index)
    }

    fn batch_containing(&self, disk: &D, index: u64) -> Result<Option<Batch>, StorageError> {
        let Some((part, _, hit)) = self.find(disk, index)? else { return Ok(None) };
        let (_, batch) = part.segment.record(disk, hit.ordinal)?;
        if batch.first_index().is_none_or(|first| index < first)
            || batch.end_index().is_none_or(|end| index >= end)
        {
            return Err(corrupt(
                disk,
                &part.segment.name,
                0,
                "the index of the segment points to the wrong record",
            ));
        }
        Ok(Some(batch))
    }

    fn batches(
        &self,
        disk: &D,
        from: u64,
        to: u64,
        bytes_max: u64,
    ) -> Result<Vec<Batch>, StorageError> {
        if from <= self.base.point.raft_index {
            return Err(self.purged());
        }
        let mut batches = Vec::new();
        let mut bytes = 0;
        for raft_index in from..to {
            // Known without reading it: where disks are slow, what is read for nothing is dear.
            let is_beyond = |body_bytes: u64| bytes + body_bytes > bytes_max;
            if !batches.is_empty() && self.body_bytes(disk, raft_index).is_some_and(is_beyond) {
                break;
            }
            let batch = match self.batch(disk, raft_index) {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(StorageError::Corrupt { .. }) if !batches.is_empty() => break,
                Err(error) => return Err(error),
            };
            bytes += batch.body().len() as u64;
            batches.push(batch);
        }
        Ok(batches)
    }

    /// How long the body of a batch is, if that can be told.
    fn body_bytes(&self, disk: &D, raft_index: u64) -> Option<u64> {
        let (part, ordinal) = self.find_segment(raft_index)?;
        let contents = part.segment.contents(disk).ok()?;
        part.segment.location(disk, &contents, ordinal).ok().map(|(_, body_bytes)| body_bytes)
    }

    /// A batch, verified wholly: a peer that gets it could not tell where it was corrupted.
    pub(super) fn batch(&self, disk: &D, raft_index: u64) -> Result<Option<Batch>, StorageError> {
        let Some((part, ordinal)) = self.find_segment(raft_index) else {
            return self.check_gaps(raft_index).map(|()| None);
        };
        let (_, batch) = part.segment.record(disk, ordinal)?;
        batch
            .verify()
            .map_err(|error| part.segment.corrupt_at(disk, ordinal, error.to_string()))?;
        Ok(Some(batch))
    }

    /// The corruption of the batch at `raft_index`, if it is corrupt.
    pub(super) fn verify_batch(
        &self,
        disk: &D,
        raft_index: u64,
    ) -> Result<Option<Corruption>, StorageError> {
        match self.find_segment(raft_index) {
            Some((part, ordinal)) => part.segment.verify_batch(disk, ordinal),
            None => Ok(self.gap(raft_index).cloned()),
        }
    }

    /// For an entry that segment `next - 1` and those before do not hold: an error if it lies in a
    /// gap, and `Ok` if it is beyond the end of the log.
    pub(super) fn check_missing(&self, disk: &D, next: usize) -> Result<(), StorageError> {
        let reached = next.checked_sub(1).map_or(0, |at| self.segments[at].segment.first);
        match (
            self.gaps.iter().find(|gap| gap.raft_indexes.start > reached),
            self.segments.get(next),
        ) {
            (Some(gap), _) => Err(gap.into()),
            (None, Some(behind)) => Err(corrupt(
                disk,
                &behind.segment.name,
                0,
                "the entries in front of it are in no segment",
            )),
            (None, None) => Ok(()),
        }
    }

    fn gap(&self, raft_index: u64) -> Option<&Corruption> {
        self.gaps.iter().find(|gap| gap.raft_indexes.contains(&raft_index))
    }

    fn check_gaps(&self, raft_index: u64) -> Result<(), StorageError> {
        self.gap(raft_index).map_or(Ok(()), |gap| Err(gap.into()))
    }

    pub(super) fn purged(&self) -> StorageError {
        StorageError::Purged { first: self.base.point.next_index }
    }
}

/// Reader of the log, for any thread.
pub(super) struct SegmentReader<D: Disk> {
    pub(super) disk: Arc<D>,
    pub(super) live: Arc<ArcSwap<SegmentSet<D>>>,
}

impl<D: Disk> SegmentReader<D> {
    /// Runs `read` on the current segment set. If a segment is purged before `read` has opened it,
    /// `read` runs again on the set that there is then, which knows of the purge.
    #[inline(always)]
    fn read<T>(
        &self,
        read: impl Fn(&SegmentSet<D>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let live = self.live.load();
        match read(&live) {
            Ok(found) => Ok(found),
            Err(error) => self.read_again(&live, error, &read),
        }
    }

    #[cold]
    fn read_again<T>(
        &self,
        before: &Arc<SegmentSet<D>>,
        error: StorageError,
        read: &dyn Fn(&SegmentSet<D>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let now = self.live.load();
        if is_not_found(&error) && !Arc::ptr_eq(before, &now) { read(&now) } else { Err(error) }
    }
}

impl<D: Disk> LogReader for SegmentReader<D> {
    fn base(&self) -> Base {
        self.live.load().base.clone()
    }

    fn entry(&self, index: u64) -> Result<Option<Entry>, StorageError> {
        self.read(|live| live.entry(&self.disk, index))
    }

    fn batch_containing(&self, index: u64) -> Result<Option<Batch>, StorageError> {
        self.read(|live| live.batch_containing(&self.disk, index))
    }

    fn batch_at(&self, position: u64) -> Result<Option<Batch>, StorageError> {
        self.read(|live| live.batch_at(&self.disk, position))
    }

    fn entry_at(&self, position: u64) -> Result<Option<Entry>, StorageError> {
        self.read(|live| live.entry_at(&self.disk, position))
    }

    fn first_index_since(&self, timestamp: u64) -> Result<Option<u64>, StorageError> {
        self.read(|live| live.first_index_since(&self.disk, timestamp))
    }

    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        self.read(|live| live.batches(&self.disk, from, to, bytes_max))
    }

    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
        self.read(|live| live.point(&self.disk, raft_index))
    }

    fn term(&self, raft_index: u64) -> Result<Option<u64>, StorageError> {
        self.read(|live| live.term(&self.disk, raft_index))
    }

    fn verify_batch(&self, raft_index: u64) -> Result<Option<Corruption>, StorageError> {
        self.read(|live| live.verify_batch(&self.disk, raft_index))
    }
}

impl<D: Disk> fmt::Debug for SegmentReader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentReader").field("base", &self.base()).finish()
    }
}
