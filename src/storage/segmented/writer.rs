//! The one writer of an open log.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::SegmentOptions;
use super::active_segment::{ActiveSegment, AppendContext, bytes_needed};
use super::error::{broken, not_written, too_large};
use super::format::{self, DurablePoint};
use super::fs::Disk;
use super::metadata::{Metadata, MetadataFile, STATE_NAME, WriteError};
use super::retention::{CleanupQueue, Unsealed};
use super::segment::{RecordIndex, Segment};
use super::segment_set::{LiveSegment, SegmentSet};
use super::spare::{self, Spare, SpareRequest};
use super::sync::{Dirty, LogShared, SegmentSync, Target};
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::storage::{
    BackgroundTask, Base, Batch, DirectoryIdentity, HardState, LogPoint, PendingSync, StorageError,
};

/// The most that one record may take: its length is kept in 32 bits.
const BODY_BYTES_MAX: usize = u32::MAX as usize - 4096;

/// The size of the first segment of a run, unless segments are smaller. Each later one is at most
/// twice as large as the one before.
const FIRST_SEGMENT_BYTES: u64 = 8 << 20;

/// If so much is written between two syncs, over so many of them, zeros cost more than they gain.
/// Measured on ext4, with files that are filled with zeros meanwhile and files that are not: 1.24
/// times the bytes a second with 64 KiB a sync, 0.79 times with 512 KiB.
const LARGE_SYNC_BYTES: u64 = 192 << 10;
const WIDE_SYNCS_MIN: u64 = 8;

/// The state, the names, and the segment that is written to.
const DIRTY_MIN: usize = 3;

pub(super) struct Writer<D: Disk> {
    pub(super) shared: Arc<LogShared<D>>,
    pub(super) live: Arc<ArcSwap<SegmentSet<D>>>,
    pub(super) state: MetadataFile<D>,
    pub(super) options: SegmentOptions,
    pub(super) last: LogPoint,
    pub(super) tail: Option<ActiveSegment<D>>,
    pub(super) retired: CleanupQueue<D>,
    dirty: Vec<Dirty<D>>,
    /// The number of the newest change.
    change: u64,
    /// How many segments this run has begun.
    begun: u64,
    /// How many syncs were begun since the tail was.
    syncs: u64,
    /// Reused from one append to the next.
    points: Vec<LogPoint>,
}

/// What an append has written but not yet shown. Dropped, it leaves the log as it was.
struct PendingAppend<D: Disk> {
    live: Option<SegmentSet<D>>,
    /// Segments that will have nothing left of the log.
    obsolete: Vec<Arc<Segment<D>>>,
    /// The tail that was there before, if the log is cut.
    cut: Option<ActiveSegment<D>>,
    /// Tails that take no more, the one that was there before included if it is not cut.
    full: Vec<ActiveSegment<D>>,
    tail: Option<ActiveSegment<D>>,
}

impl<D: Disk> Writer<D> {
    pub(super) fn new(
        shared: Arc<LogShared<D>>,
        live: Arc<ArcSwap<SegmentSet<D>>>,
        state: MetadataFile<D>,
        options: SegmentOptions,
        last: LogPoint,
        tail: Option<ActiveSegment<D>>,
        begun: u64,
    ) -> Writer<D> {
        let retired = CleanupQueue::new(options.retry_calls);
        let (dirty, points) = (Vec::new(), Vec::new());
        Writer {
            shared,
            live,
            state,
            options,
            last,
            tail,
            retired,
            dirty,
            change: 0,
            begun,
            syncs: 0,
            points,
        }
    }

    pub(super) fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        let Some(first) = batches.first() else { return Ok(()) };
        self.close_segments()?;
        self.check_contiguous(batches)?;
        let cut = first.raft_index() <= self.last.raft_index;
        if cut {
            self.shared.lower_durable(self.live.load().place(first.raft_index() - 1));
        }
        let stamp = AppendContext {
            synced: self.shared.durable().synced,
            commit: commit.max(self.state.state.hard_state.commit),
        };
        self.change += 1;
        let mut draft = PendingAppend {
            live: None,
            obsolete: Vec::new(),
            cut: None,
            full: Vec::new(),
            tail: self.tail.take(),
        };
        match self.write(&mut draft, batches, cut, stamp) {
            Ok(()) => self.publish(draft),
            Err(error) => return Err(self.roll_back(draft, error)),
        }
        Ok(())
    }

    /// Makes durable and seals what is held open of full segments, if that is too many by now. Most
    /// often syncs and chores see to it in time.
    fn close_segments(&mut self) -> Result<(), StorageError> {
        if !self.retired.is_crowded() {
            return Ok(());
        }
        self.sync_all()?.wait()?;
        let sealed = self.retired.seal_all(&self.shared);
        self.apply_seals();
        sealed
    }

    /// Whether a sync is due, though nobody asked for one.
    pub(super) fn is_behind(&self) -> bool {
        self.retired.is_behind(self.shared.durable().change)
    }

    /// Reads from their footers what has been sealed meanwhile, and forgets files that are durable.
    fn apply_seals(&mut self) {
        if let Some(settled) = self.retired.apply_seals(&self.shared, &self.live.load()) {
            self.live.store(Arc::new(settled));
        }
        if self.dirty.len() > DIRTY_MIN {
            self.forget_clean();
        }
    }

    fn forget_clean(&mut self) {
        let durable = self.shared.durable().change;
        self.dirty.retain(|dirty| dirty.change > durable);
    }

    /// Computes the marks before, between and after `batches`, if they continue the log.
    fn check_contiguous(&mut self, batches: &[Batch]) -> Result<(), StorageError> {
        let first = batches[0].raft_index();
        let before = if first == self.last.raft_index + 1 {
            self.last
        } else {
            let live = self.live.load();
            if first <= live.base.point.raft_index || first > self.last.raft_index {
                let (base, last) = (live.base.point.raft_index, self.last.raft_index);
                return Err(StorageError::NotContiguous(format!(
                    "raft index {first} is not in {}..={}",
                    base + 1,
                    last + 1
                )));
            }
            live.point(&self.shared.disk, first - 1)?
                .expect("a raft index below the last one has its mark")
        };
        self.points.clear();
        self.points.push(before);
        for (at, batch) in batches.iter().enumerate() {
            if batch.body().len() > BODY_BYTES_MAX {
                return Err(StorageError::NotContiguous(format!(
                    "batch {} is larger than 4 GiB",
                    batch.raft_index()
                )));
            }
            let point = batch
                .point_after(&self.points[at])
                .map_err(|error| StorageError::NotContiguous(error.to_string()))?;
            self.points.push(point);
        }
        Ok(())
    }

    /// Writes `batches` into the tail of the draft, and into new segments where that has no room. A
    /// cut always begins a new one.
    ///
    /// All segments are there before the first record is written, and into the one that was there
    /// before it is written last. So what a disk is too full for leaves no record behind but in new
    /// segments, and these can be removed.
    fn write(
        &mut self,
        draft: &mut PendingAppend<D>,
        batches: &[Batch],
        cut: bool,
        stamp: AppendContext,
    ) -> Result<(), StorageError> {
        if cut && !planted!("a cut goes on in the same segment") {
            draft.cut = draft.tail.take();
        }
        let mut fitting = draft.tail.as_ref().map_or(0, |tail| tail.room_for(batches));
        while fitting < batches.len() {
            self.roll(draft, &batches[fitting], self.points[fitting])?;
            fitting += draft.tail.as_ref().map_or(0, |tail| tail.room_for(&batches[fitting..]));
        }
        let write = |tail: &mut ActiveSegment<D>, batches: &[Batch], points: &[LogPoint]| {
            let written = tail.write(batches, points, stamp);
            written.map_err(|error| {
                not_written(&*self.shared.disk, "write", &tail.segment.name, error)
            })
        };
        let mut tails = draft.full.iter_mut().chain(&mut draft.tail);
        let Some(first) = tails.next() else { return Ok(()) };
        let (share, mut rest) = batches.split_at(first.room_for(batches));
        let (share_points, mut points) = self.points[1..].split_at(share.len());
        for tail in tails {
            let (share, others) = rest.split_at(tail.room_for(rest));
            let (share_points, other_points) = points.split_at(share.len());
            write(tail, share, share_points)?;
            (rest, points) = (others, other_points);
        }
        write(first, share, share_points)
    }

    /// Begins a new segment with the batch `next`, behind the mark `before`. Readers do not see it
    /// yet.
    fn roll(
        &mut self,
        draft: &mut PendingAppend<D>,
        next: &Batch,
        before: LogPoint,
    ) -> Result<(), StorageError> {
        let needed = format::RECORDS_AT + bytes_needed(next);
        let spare = match self.shared.spares.take(needed) {
            Some(spare) => spare,
            // Nobody may have had time to make the first one ready, so it is small and made in full
            // at once. A later one that is not ready is not waited for.
            None if draft.tail.is_none() && draft.full.is_empty() && draft.cut.is_none() => {
                let bytes = needed.max(self.options.segment_bytes.min(FIRST_SEGMENT_BYTES));
                spare::make(&self.shared, self.incarnation(), bytes, self.options.zero_fill)?
            }
            None => spare::make(
                &self.shared,
                self.incarnation(),
                needed.max(self.options.segment_bytes),
                false,
            )?,
        };
        draft.full.extend(draft.tail.take());
        let segment = self.activate(spare, before)?;
        let (live, obsolete) =
            draft.live.as_ref().unwrap_or(&**self.live.load()).with(segment.segment.clone());
        draft.obsolete.extend(obsolete);
        draft.live = Some(live);
        draft.tail = Some(segment);
        Ok(())
    }

    /// Makes a spare the segment behind the mark `before`, by giving it that name.
    fn activate(
        &mut self,
        spare: Spare<D>,
        before: LogPoint,
    ) -> Result<ActiveSegment<D>, StorageError> {
        let id = self.next_segment();
        self.begun += 1;
        self.syncs = 0;
        let disk = &*self.shared.disk;
        if let Err(error) =
            disk.rename(&spare.name, &format::segment_name(id, before.raft_index + 1))
        {
            let error = match error.kind() {
                // It was there: somebody else has removed it.
                io::ErrorKind::NotFound => StorageError::Removed { path: disk.path(&spare.name) },
                _ => not_written(disk, "rename", &spare.name, error),
            };
            self.shared.spares.put(spare);
            return Err(error);
        }
        let Spare { file, map, bytes, .. } = spare;
        let segment =
            Segment::open_growing(self.shared.directory, id, before, map, RecordIndex::new());
        Ok(ActiveSegment::new(Arc::new(segment), file, bytes, format::RECORDS_AT))
    }

    /// Shows readers what was appended.
    fn publish(&mut self, draft: PendingAppend<D>) {
        let PendingAppend { live, obsolete, cut, full, tail } = draft;
        let change = self.change;
        full.iter().chain(&tail).for_each(|tail| tail.publish());
        for tail in full.iter().chain(&tail) {
            self.point_dirty(Target::Segment {
                name: tail.segment.name.clone(),
                file: tail.file.clone(),
            });
        }
        if let Some(live) = live {
            self.point_dirty(Target::Names);
            self.live.store(Arc::new(live));
        }
        for ActiveSegment { segment, file, at, .. } in cut.into_iter().chain(full) {
            self.retired.seal(Unsealed { segment, file, end: at, change });
        }
        self.retired.retire(obsolete, change);
        self.tail = tail;
        self.last = *self.points.last().expect("an append has batches");
    }

    /// Puts things back as they were. Segments that were begun are removed durably: a recovery that
    /// finds them would count what was written into them, and nobody took that.
    fn roll_back(&mut self, draft: PendingAppend<D>, error: StorageError) -> StorageError {
        let PendingAppend { cut, full, tail, .. } = draft;
        let before = self.live.load();
        let is_new = |tail: &ActiveSegment<D>| {
            !before.stretches.iter().any(|stretch| Arc::ptr_eq(&stretch.segment, &tail.segment))
        };
        let (new, old): (Vec<_>, Vec<_>) =
            cut.into_iter().chain(full).chain(tail).partition(is_new);
        drop(before);
        if !error.is_temporary() {
            return self.shared.poison(error);
        }
        self.tail = old.into_iter().next();
        match self.remove(&new) {
            Ok(()) => error,
            Err(error) => error,
        }
    }

    /// Removes these segments, durably. Whatever keeps them there is final.
    fn remove(&self, tails: &[ActiveSegment<D>]) -> Result<(), StorageError> {
        let shared = &self.shared;
        for ActiveSegment { segment, .. } in tails {
            shared.disk.remove(&segment.name).map_err(|error| {
                shared.poison(broken(&*shared.disk, "remove", &segment.name, error))
            })?;
        }
        if tails.is_empty() { Ok(()) } else { shared.with_sync_lock(|| Target::Names.sync(shared)) }
    }

    pub(super) fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        // Of the commit no more is kept than is durable: a power cut may leave this state beside an
        // older log, with a tail that was cut off since, and that was never committed.
        let durable = if planted!("a commit outlives the batches that it speaks of") {
            u64::MAX
        } else {
            self.shared.durable().synced.raft_index
        };
        let commit = hard_state.commit.min(durable);
        self.change_state(|state| state.hard_state = HardState { commit, ..hard_state })
    }

    pub(super) fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.change_state(|state| {
            state.peers.retain(|(node, _)| *node != peer);
            state.peers.push((peer, directory));
            state.peers.sort_unstable();
        })
    }

    pub(super) fn set_complete(
        &mut self,
        complete: bool,
    ) -> Result<DirectoryIdentity, StorageError> {
        let new = self.shared.disk.draw();
        self.change_state(|state| {
            state.is_complete = complete;
            if !complete {
                state.known_as = new;
                state.peers.clear();
            }
        })?;
        Ok(self.state.state.identity())
    }

    pub(super) fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        let first_segment = self.next_segment();
        self.change_state(|state| {
            (state.base, state.first_segment) = (base.clone(), first_segment)
        })?;
        let old = self.live.swap(Arc::new(SegmentSet::new(base.clone())));
        self.shared.lower_durable(DurablePoint::default());
        self.retired.retire(segments_of(&old.stretches), self.change);
        self.tail = None;
        self.last = base.point;
        Ok(())
    }

    pub(super) fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        let live = self.live.load_full();
        // The new base can be durable before the segment that begins there. If that one came with a
        // cut, what it replaced was durable, and a crash would leave neither. So a segment is
        // waited for until it holds something durable itself.
        let durable = self.shared.durable().synced.raft_index;
        let dispensable = |next: &Segment<D>| {
            let before = &next.before;
            before.next_index <= index
                && (before.raft_index <= commit || planted!("what is not committed is purged"))
                && before.raft_index < durable
        };
        let count =
            live.stretches.iter().skip(1).take_while(|next| dispensable(&next.segment)).count();
        if count == 0 {
            return Ok(());
        }
        let kept = &live.stretches[count..];
        let (point, first_segment) = (kept[0].segment.before, kept[0].segment.id);
        let base = Base { point, membership: live.base.membership.clone() };
        self.change_state(|state| {
            (state.base, state.first_segment) = (base.clone(), first_segment)
        })?;
        let gone = segments_of(&live.stretches[..count]);
        self.live.store(Arc::new(SegmentSet { base, stretches: kept.to_vec(), gaps: Vec::new() }));
        self.retired.retire(gone, self.change);
        Ok(())
    }

    /// Writes a new state. The old one stays if that fails for want of room.
    fn change_state(&mut self, change: impl FnOnce(&mut Metadata)) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        let mut state = self.state.state.clone();
        change(&mut state);
        if self.state.is_full(self.shared.durable().change) {
            self.sync_all()?.wait()?;
        }
        match self.state.write(state, self.change + 1) {
            Ok(()) => {}
            Err(WriteError::TooLarge) => return Err(too_large(&*self.shared.disk, STATE_NAME)),
            Err(WriteError::Io(error)) => {
                let error = not_written(&*self.shared.disk, "write", STATE_NAME, error);
                return Err(if error.is_temporary() { error } else { self.shared.poison(error) });
            }
        }
        self.change += 1;
        self.point_dirty(Target::Metadata);
        Ok(())
    }

    pub(super) fn begin_sync(&mut self) -> Box<SegmentSync<D>> {
        self.syncs += 1;
        self.forget_clean();
        let dirty = self
            .dirty
            .iter()
            .map(|Dirty { what, change }| Dirty { what: what.clone(), change: *change })
            .collect();
        let place = self.live.load().place(self.last.raft_index);
        Box::new(SegmentSync::new(self.shared.clone(), dirty, self.change, place))
    }

    fn sync_all(&mut self) -> Result<Box<dyn PendingSync>, StorageError> {
        self.shared.check_poison()?;
        Ok(self.begin_sync())
    }

    pub(super) fn next_task(&mut self) -> Option<BackgroundTask> {
        self.apply_seals();
        self.shared.check_poison().ok()?;
        let purged = SpareRequest {
            incarnation: self.incarnation(),
            bytes: self.options.segment_bytes,
            written: 0,
        };
        // First, for a segment that is used again is a spare that need not be made.
        self.retired
            .next_task(&self.shared, purged)
            .or_else(|| spare::background_task(&self.shared, self.next_spare()?))
    }

    /// What the next segment should be by now. `None`: there is time.
    fn next_spare(&self) -> Option<SpareRequest> {
        let SegmentOptions { segment_bytes, zero_fill, .. } = self.options;
        let incarnation = self.incarnation();
        let Some(tail) = &self.tail else {
            let bytes = segment_bytes.min(FIRST_SEGMENT_BYTES);
            return Some(SpareRequest {
                incarnation,
                bytes,
                written: if zero_fill { bytes } else { 0 },
            });
        };
        // At most twice as large as the one before, so that its zeros keep step.
        let bytes = segment_bytes.min(2 * tail.bytes);
        let is_wide = tail.at >= self.syncs.max(WIDE_SYNCS_MIN) * LARGE_SYNC_BYTES;
        let (begin, end) = (tail.bytes / 8, tail.bytes / 8 * 7);
        let used = tail.at.checked_sub(begin)?.min(end - begin);
        let written = if !zero_fill || is_wide {
            0
        } else {
            (u128::from(bytes) * u128::from(used) / u128::from(end - begin)) as u64
        };
        Some(SpareRequest { incarnation, bytes, written })
    }

    fn point_dirty(&mut self, what: Target<D>) {
        match self.dirty.iter_mut().find(|dirty| dirty.what == what) {
            Some(dirty) => dirty.change = self.change,
            None => self.dirty.push(Dirty { what, change: self.change }),
        }
    }

    /// The id of the next segment: the incarnation and a count. The incarnation is durable before
    /// the first segment of a run is begun, so no id is ever used again, whatever files a crash
    /// took or brought back.
    fn next_segment(&self) -> u64 {
        if planted!("segment ids are used again") {
            self.begun
        } else {
            self.incarnation() << 32 | self.begun
        }
    }

    fn incarnation(&self) -> u64 {
        self.state.state.incarnation
    }
}

/// Closing leaves nothing unsynced, and notes how far the log reaches, so that a later opening can
/// tell if any of it is missing.
impl<D: Disk> Drop for Writer<D> {
    fn drop(&mut self) {
        if self.shared.check_poison().is_err() {
            return;
        }
        let shared = self.shared.clone();
        let closed = self
            .begin_sync()
            .wait()
            .and_then(|()| shared.with_sync_lock(|| Target::Metadata.sync(&shared)));
        if let Err(error) = closed {
            log::error!("{}closing the log: {error}", log_prefix());
        }
    }
}

fn segments_of<D: Disk>(stretches: &[LiveSegment<D>]) -> Vec<Arc<Segment<D>>> {
    stretches.iter().map(|stretch| stretch.segment.clone()).collect()
}

#[cfg(test)]
mod tests;
