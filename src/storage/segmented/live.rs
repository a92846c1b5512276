//! The log as readers see it: an immutable list of segments, exchanged as a whole by the one writer.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::format::Synced;
use super::fs::Disk;
use super::lookup::{Spot, first_beyond};
use super::segment::{Segment, View};
use crate::entry::Entry;
use crate::storage::{Base, Batch, Damage, LogReader, Mark, StorageError};

/// The list. Stretches follow each other without a gap: the first begins behind the base, each ends where the next begins. Only a damaged log has
/// gaps, and takes no more.
pub(super) struct Live<D: Disk> {
    pub(super) base: Base,
    pub(super) stretches: Vec<Stretch<D>>,
    /// What lies in gaps, by ascending raft index. The last may lie behind all stretches.
    pub(super) gaps: Vec<Damage>,
}

/// The part of one segment that belongs to the log.
pub(super) struct Stretch<D: Disk> {
    pub(super) segment: Arc<Segment<D>>,
    /// The raft index at which it ends; whatever the segment holds from there on was cut off. [`u64::MAX`] for the last stretch.
    pub(super) end: u64,
}

impl<D: Disk> Clone for Stretch<D> {
    fn clone(&self) -> Self {
        Stretch { segment: self.segment.clone(), end: self.end }
    }
}

impl<D: Disk> Stretch<D> {
    /// How many records of the segment belong to the log.
    pub(super) fn len(&self) -> u64 {
        self.segment.len().min(self.end - self.segment.first)
    }
}

/// Where an entry lies: in which stretch, in which view of it, in which record.
type Place<'l, D> = (&'l Stretch<D>, View<'l, D>, Spot);

impl<D: Disk> Live<D> {
    pub(super) fn new(base: Base) -> Live<D> {
        Live { base, stretches: Vec::new(), gaps: Vec::new() }
    }

    /// The same log with `segment` behind all others, which end where it begins. Those that have nothing left are given back.
    pub(super) fn with(&self, segment: Arc<Segment<D>>) -> (Live<D>, Vec<Arc<Segment<D>>>) {
        let kept = self.stretches.partition_point(|stretch| stretch.segment.first < segment.first);
        let dead = self.stretches[kept..].iter().map(|stretch| stretch.segment.clone()).collect();
        let mut stretches = Vec::with_capacity(kept + 1);
        stretches.extend_from_slice(&self.stretches[..kept]);
        if let Some(last) = stretches.last_mut() {
            last.end = segment.first;
        }
        stretches.push(Stretch { segment, end: u64::MAX });
        (Live { base: self.base.clone(), stretches, gaps: Vec::new() }, dead)
    }

    /// Where `raft_index` is. At the base it is nowhere: whoever finds the log after a crash may find it with an earlier base, and must not look
    /// for this one in a segment.
    pub(super) fn place(&self, raft_index: u64) -> Synced {
        let nowhere = if planted!("a base is looked for in a segment") { Synced { raft_index, segment: 0 } } else { Synced::default() };
        self.locate(raft_index).map_or(nowhere, |(stretch, _)| Synced { raft_index, segment: stretch.segment.id })
    }

    /// The stretch that holds `raft_index`, and its ordinal there. `None` at the base and below, and behind the last record.
    fn locate(&self, raft_index: u64) -> Option<(&Stretch<D>, u64)> {
        let at = self.stretches.partition_point(|stretch| stretch.segment.first <= raft_index).checked_sub(1)?;
        let stretch = &self.stretches[at];
        let ordinal = raft_index - stretch.segment.first;
        (ordinal < stretch.len()).then_some((stretch, ordinal))
    }

    pub(super) fn mark(&self, disk: &D, raft_index: u64) -> Result<Option<Mark>, StorageError> {
        match raft_index.cmp(&self.base.mark.raft_index) {
            std::cmp::Ordering::Less => Err(self.purged()),
            std::cmp::Ordering::Equal => Ok(Some(self.base.mark)),
            std::cmp::Ordering::Greater => {
                let Some((stretch, ordinal)) = self.locate(raft_index) else { return self.check_gaps(raft_index).map(|()| None) };
                stretch.segment.mark(disk, ordinal).map(Some)
            }
        }
    }

    fn term(&self, disk: &D, raft_index: u64) -> Result<Option<u64>, StorageError> {
        match self.locate(raft_index) {
            Some((stretch, ordinal)) => stretch.segment.term(disk, ordinal).map(Some),
            None => Ok(self.mark(disk, raft_index)?.map(|mark| mark.term)),
        }
    }

    /// The stretch with entry `index`, and the spot of its record there. `None` if the log does not reach so far.
    #[inline(always)]
    fn find(&self, disk: &D, index: u64) -> Result<Option<Place<'_, D>>, StorageError> {
        if index < self.base.mark.next_index {
            return Err(self.purged());
        }
        // Of several segments that begin at the same index, only the last can hold it: the others hold control records alone.
        let begin = |at: u64| self.stretches[at as usize].segment.before.next_index;
        let next = first_beyond(index, self.base.mark.next_index, self.stretches.len() as u64, begin);
        let next = next.map_or(self.stretches.len(), |next| next.ordinal as usize);
        let Some(stretch) = next.checked_sub(1).map(|at| &self.stretches[at]) else { return self.beyond(disk, next).map(|()| None) };
        let view = stretch.segment.contents(disk)?;
        match stretch.segment.find(disk, &view, index, stretch.len())? {
            Some(spot) => Ok(Some((stretch, view, spot))),
            None => self.beyond(disk, next).map(|()| None),
        }
    }

    #[inline(always)]
    fn entry(&self, disk: &D, index: u64) -> Result<Option<Entry>, StorageError> {
        let Some((stretch, view, spot)) = self.find(disk, index)? else { return Ok(None) };
        stretch.segment.entry(disk, &view, &spot, index)
    }

    fn batch_with(&self, disk: &D, index: u64) -> Result<Option<Batch>, StorageError> {
        let Some((stretch, _, spot)) = self.find(disk, index)? else { return Ok(None) };
        let (_, batch) = stretch.segment.record(disk, spot.ordinal)?;
        if batch.first_index().is_none_or(|first| index < first) || batch.end_index().is_none_or(|end| index >= end) {
            return Err(super::error::damaged(disk, &stretch.segment.name, 0, "the index of the segment points to the wrong record"));
        }
        Ok(Some(batch))
    }

    fn batches(&self, disk: &D, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        if from <= self.base.mark.raft_index {
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
                Err(StorageError::Damaged { .. }) if !batches.is_empty() => break,
                Err(error) => return Err(error),
            };
            bytes += batch.body().len() as u64;
            batches.push(batch);
        }
        Ok(batches)
    }

    /// How long the body of a batch is, if that can be told.
    fn body_bytes(&self, disk: &D, raft_index: u64) -> Option<u64> {
        let (stretch, ordinal) = self.locate(raft_index)?;
        let contents = stretch.segment.contents(disk).ok()?;
        stretch.segment.place(disk, &contents, ordinal).ok().map(|(_, body_bytes)| body_bytes)
    }

    /// A batch for a peer. It is checked whole: nobody else could tell where the damage was done.
    pub(super) fn batch(&self, disk: &D, raft_index: u64) -> Result<Option<Batch>, StorageError> {
        let Some((stretch, ordinal)) = self.locate(raft_index) else { return self.check_gaps(raft_index).map(|()| None) };
        let (_, batch) = stretch.segment.record(disk, ordinal)?;
        batch.verify().map_err(|error| stretch.segment.damaged_at(disk, ordinal, error.to_string()))?;
        Ok(Some(batch))
    }

    /// What is wrong with the batch `raft_index`, if anything is.
    pub(super) fn examine(&self, disk: &D, raft_index: u64) -> Result<Option<Damage>, StorageError> {
        match self.locate(raft_index) {
            Some((stretch, ordinal)) => stretch.segment.examine(disk, ordinal),
            None => Ok(self.gap(raft_index).cloned()),
        }
    }

    /// An entry that stretch `next - 1` does not hold, nor any before: it lies in a gap, or the log does not reach so far.
    fn beyond(&self, disk: &D, next: usize) -> Result<(), StorageError> {
        let reached = next.checked_sub(1).map_or(0, |at| self.stretches[at].segment.first);
        match (self.gaps.iter().find(|gap| gap.raft_indexes.start > reached), self.stretches.get(next)) {
            (Some(gap), _) => Err(gap.into()),
            (None, Some(behind)) => {
                Err(super::error::damaged(disk, &behind.segment.name, 0, "the entries in front of it are in no segment"))
            }
            (None, None) => Ok(()),
        }
    }

    fn gap(&self, raft_index: u64) -> Option<&Damage> {
        self.gaps.iter().find(|gap| gap.raft_indexes.contains(&raft_index))
    }

    fn check_gaps(&self, raft_index: u64) -> Result<(), StorageError> {
        self.gap(raft_index).map_or(Ok(()), |gap| Err(gap.into()))
    }

    fn purged(&self) -> StorageError {
        StorageError::Purged { first: self.base.mark.next_index }
    }
}

/// Reads the log, from any thread.
pub(super) struct SegmentReader<D: Disk> {
    pub(super) disk: Arc<D>,
    pub(super) live: Arc<ArcSwap<Live<D>>>,
}

impl<D: Disk> SegmentReader<D> {
    /// Runs `read` on the log as it is now. A segment can be purged while `read` is on its way to open it; then the log as it is then
    /// says so.
    #[inline(always)]
    fn read<T>(&self, read: impl Fn(&Live<D>) -> Result<T, StorageError>) -> Result<T, StorageError> {
        let live = self.live.load();
        match read(&live) {
            Ok(found) => Ok(found),
            Err(error) => self.read_again(&live, error, &read),
        }
    }

    #[cold]
    fn read_again<T>(
        &self,
        before: &Arc<Live<D>>,
        error: StorageError,
        read: &dyn Fn(&Live<D>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let is_gone = matches!(&error, StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
        let now = self.live.load();
        if is_gone && !Arc::ptr_eq(before, &now) { read(&now) } else { Err(error) }
    }
}

impl<D: Disk> LogReader for SegmentReader<D> {
    fn base(&self) -> Base {
        self.live.load().base.clone()
    }

    fn entry(&self, index: u64) -> Result<Option<Entry>, StorageError> {
        self.read(|live| live.entry(&self.disk, index))
    }

    fn batch_with(&self, index: u64) -> Result<Option<Batch>, StorageError> {
        self.read(|live| live.batch_with(&self.disk, index))
    }

    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        self.read(|live| live.batches(&self.disk, from, to, bytes_max))
    }

    fn mark(&self, raft_index: u64) -> Result<Option<Mark>, StorageError> {
        self.read(|live| live.mark(&self.disk, raft_index))
    }

    fn term(&self, raft_index: u64) -> Result<Option<u64>, StorageError> {
        self.read(|live| live.term(&self.disk, raft_index))
    }

    fn examine(&self, raft_index: u64) -> Result<Option<Damage>, StorageError> {
        self.read(|live| live.examine(&self.disk, raft_index))
    }
}

impl<D: Disk> fmt::Debug for SegmentReader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentReader").field("base", &self.base()).finish()
    }
}
