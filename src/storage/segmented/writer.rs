//! The single writer of an open log.

mod aging;

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::active_segment::{ActiveSegment, AppendContext, bytes_needed};
use super::error::{broken, not_written, too_large};
use super::format::{self, DurablePoint};
use super::fs::{Disk, DiskFile};
use super::log_shared::LogShared;
use super::metadata::{Metadata, MetadataFile, STATE_NAME, WriteError};
use super::options::SegmentOptions;
use super::preallocate;
use super::record_index::RecordIndex;
use super::retention::{CleanupQueue, Unsealed};
use super::run_clock::RunClock;
use super::segment::Segment;
use super::segment_set::{LiveSegment, SegmentSet};
use super::spare::{Spare, SpareRequest};
use super::sync::{Dirty, SegmentSync, Target};
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::storage::{
    BackgroundTask, Base, Batch, DirectoryIdentity, HardState, LogPoint, PendingSync, Storage,
    StorageError,
};

/// The most bytes of one record: its length is stored in 32 bits.
const BODY_BYTES_MAX: usize = u32::MAX as usize - 4096;

/// The most bytes that an append zero-fills itself, when it is the first of a run and no spare is
/// ready.
const ZEROS_AT_ONCE_MAX: u64 = 512 << 10;

/// The most zeros written for a segment before anything is appended. A run that cannot continue the
/// last segment begins with one of full length, and need not use much of it.
const ZEROS_AHEAD_MAX: u64 = 8 << 20;

/// Above so many bytes between two syncs, on average over at least [`LARGE_SYNCS_MIN`] of them,
/// zero-filling costs more than it gains. Measured on ext4, with files that are zero-filled
/// meanwhile and files that are not: 1.24 times the bytes a second with 64 KiB a sync, 0.79 times
/// with 512 KiB.
const LARGE_SYNC_BYTES: u64 = 192 << 10;
const LARGE_SYNCS_MIN: u64 = 8;

/// The state, the directory, and the active segment.
const DIRTY_MIN: usize = 3;

pub(super) struct Writer<D: Disk> {
    pub(super) shared: Arc<LogShared<D>>,
    pub(super) live: Arc<ArcSwap<SegmentSet<D>>>,
    pub(super) state: MetadataFile<D>,
    pub(super) options: SegmentOptions,
    pub(super) last: LogPoint,
    pub(super) tail: Option<ActiveSegment<D>>,
    /// The length of the newest segment, from which that of the next one follows. `None`: the log
    /// has had none.
    pub(super) newest_bytes: Option<u64>,
    pub(super) cleanup: CleanupQueue<D>,
    /// By which segments age.
    pub(super) clock: RunClock,
    dirty: Vec<Dirty<D>>,
    /// The number of the last change.
    pub(super) change: u64,
    /// The number of segments begun in this run.
    begun: u64,
    /// The number of syncs begun since the active segment was.
    syncs: u64,
    /// Reused from one append to the next.
    points: Vec<LogPoint>,
}

/// An append that is written, but not published. Rolled back, it leaves the log as it was.
struct PendingAppend<D: Disk> {
    live: Option<SegmentSet<D>>,
    /// Segments that will have nothing left of the log, and become obsolete.
    obsolete: Vec<Arc<Segment<D>>>,
    /// The previous active segment, if the log is truncated.
    cut: Option<ActiveSegment<D>>,
    /// Full segments, including the previous active one if it is not truncated.
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
        let cleanup = CleanupQueue::new(options.retry_calls);
        let (dirty, points) = (Vec::new(), Vec::new());
        let clock = RunClock::from(state.state.ran_ms);
        let newest_bytes = tail.as_ref().map(|tail| tail.bytes);
        Writer {
            shared,
            live,
            state,
            options,
            last,
            tail,
            newest_bytes,
            cleanup,
            clock,
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
            self.shared.lower_durable(self.live.load().durable_point(first.raft_index() - 1));
        }
        let context = AppendContext {
            synced: self.shared.durable().synced,
            commit: commit.max(self.state.state.hard_state.commit),
        };
        self.change += 1;
        let mut pending = PendingAppend {
            live: None,
            obsolete: Vec::new(),
            cut: None,
            full: Vec::new(),
            tail: self.tail.take(),
        };
        match self.write(&mut pending, batches, cut, context) {
            Ok(()) => self.publish(pending),
            Err(error) => return Err(self.roll_back(pending, error)),
        }
        Ok(())
    }

    /// Syncs and seals full segments, if too many are open. Mostly syncs and background tasks do so
    /// in time.
    fn close_segments(&mut self) -> Result<(), StorageError> {
        if !self.cleanup.is_at_limit() {
            return Ok(());
        }
        self.sync_all()?.wait()?;
        let sealed = self.cleanup.seal_all(&self.shared);
        self.apply_seals();
        sealed
    }

    /// Whether a sync is due, though none was requested.
    pub(super) fn is_behind(&self) -> bool {
        self.cleanup.is_behind(self.shared.durable().change)
    }

    /// Switches segments that were sealed meanwhile to their footers, and drops files that are
    /// durable from the dirty list.
    fn apply_seals(&mut self) {
        if let Some(updated) = self.cleanup.apply_seals(&self.shared, &self.live.load()) {
            self.live.store(Arc::new(updated));
        }
        if self.dirty.len() > DIRTY_MIN {
            self.forget_clean();
        }
    }

    fn forget_clean(&mut self) {
        let durable = self.shared.durable().change;
        self.dirty.retain(|dirty| dirty.change > durable);
    }

    /// Computes the log points before, between and after `batches`, if they continue the log.
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

    /// Writes `batches` into the active segment, and into new segments when it is full. A
    /// truncation always begins a new one.
    ///
    /// All segments are created before the first record is written, and the previous active segment
    /// is written last. So if the disk is full, records are left only in new segments, and these
    /// can be removed.
    fn write(
        &mut self,
        pending: &mut PendingAppend<D>,
        batches: &[Batch],
        cut: bool,
        context: AppendContext,
    ) -> Result<(), StorageError> {
        if cut {
            pending.cut = pending.tail.take();
        }
        let mut fitting = pending.tail.as_ref().map_or(0, |tail| tail.room_for(batches));
        while fitting < batches.len() {
            self.roll(pending, &batches[fitting], self.points[fitting])?;
            fitting += pending.tail.as_ref().map_or(0, |tail| tail.room_for(&batches[fitting..]));
        }
        let write = |tail: &mut ActiveSegment<D>, batches: &[Batch], points: &[LogPoint]| {
            let written = tail.write(batches, points, context);
            written.map_err(|error| {
                not_written(&*self.shared.disk, "write", &tail.segment.name, error)
            })
        };
        let mut tails = pending.full.iter_mut().chain(&mut pending.tail);
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

    /// Begins a new segment, with `next` as its first batch, after the log point `before`. Not yet
    /// visible to readers.
    fn roll(
        &mut self,
        pending: &mut PendingAppend<D>,
        next: &Batch,
        before: LogPoint,
    ) -> Result<(), StorageError> {
        let needed = format::RECORDS_AT + bytes_needed(next);
        let newest = pending.tail.as_ref().or(pending.cut.as_ref()).map(|newest| newest.bytes);
        let bytes = needed.max(self.options.next_segment_bytes(newest.or(self.newest_bytes)));
        let spare = match self.shared.spares.take(bytes) {
            Some(spare) => spare,
            // The first segment may not have been prepared yet: a small one is zero-filled at once.
            // A later one is not waited for.
            None => {
                let is_first = newest.is_none() && bytes <= ZEROS_AT_ONCE_MAX;
                let zero_fill = self.options.zero_fill && is_first;
                preallocate::make(&self.shared, self.incarnation(), bytes, zero_fill)?
            }
        };
        pending.full.extend(pending.tail.take());
        let segment = self.activate(spare, before)?;
        let (live, obsolete) =
            pending.live.as_ref().unwrap_or(&**self.live.load()).with(segment.segment.clone());
        pending.obsolete.extend(obsolete);
        pending.live = Some(live);
        pending.tail = Some(segment);
        Ok(())
    }

    /// Opens a spare, and renames it to the segment that follows the log point `before`.
    fn activate(
        &mut self,
        spare: Spare,
        before: LogPoint,
    ) -> Result<ActiveSegment<D>, StorageError> {
        let id = self.next_segment();
        self.begun += 1;
        self.syncs = 0;
        let disk = &*self.shared.disk;
        let open = || {
            let file = disk.open(&spare.name).map_err(|error| ("open", error))?;
            let map = file.map().map_err(|error| ("map", error))?;
            disk.rename(&spare.name, &format::segment_name(id, before.raft_index + 1))
                .map_err(|error| ("rename", error))?;
            Ok((file, map))
        };
        let (file, map) = open().map_err(|(action, error): (_, io::Error)| {
            let error = match error.kind() {
                // It existed: another process has removed it.
                io::ErrorKind::NotFound => StorageError::Removed { path: disk.path(&spare.name) },
                _ => not_written(disk, action, &spare.name, error),
            };
            self.shared.spares.put(Spare { name: spare.name.clone(), ..spare });
            error
        })?;
        let (directory, bytes) = (self.shared.directory, spare.bytes);
        let segment = Segment::open(directory, id, before, bytes, map, RecordIndex::new());
        let (segment, file) = (Arc::new(segment), Arc::new(file));
        let began_ms = self.clock.now().ran_ms;
        Ok(ActiveSegment::new(segment, file, bytes, format::RECORDS_AT).begun_at(began_ms))
    }

    /// Makes the append visible to readers.
    fn publish(&mut self, pending: PendingAppend<D>) {
        let PendingAppend { live, obsolete, cut, full, tail } = pending;
        let change = self.change;
        full.iter().chain(&tail).for_each(|tail| tail.publish());
        for tail in full.iter().chain(&tail) {
            self.mark_dirty(Target::Segment {
                name: tail.segment.name.clone(),
                file: tail.file.clone(),
            });
        }
        if let Some(live) = live {
            self.mark_dirty(Target::Names);
            self.live.store(Arc::new(live));
        }
        for ActiveSegment { segment, file, at, .. } in cut.into_iter().chain(full) {
            let _ = segment.closed.set(self.clock.now());
            self.cleanup.seal(Unsealed { segment, file, end: at, change });
        }
        self.cleanup.retire(obsolete, change);
        self.newest_bytes = tail.as_ref().map(|tail| tail.bytes);
        self.tail = tail;
        self.last = *self.points.last().expect("an append has batches");
    }

    /// Undoes an append. Segments that were begun are removed durably: recovery would count the
    /// records in them, and the append was refused.
    fn roll_back(&mut self, pending: PendingAppend<D>, error: StorageError) -> StorageError {
        let PendingAppend { cut, full, tail, .. } = pending;
        let before = self.live.load();
        let is_new = |tail: &ActiveSegment<D>| {
            !before.segments.iter().any(|part| Arc::ptr_eq(&part.segment, &tail.segment))
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

    /// Removes these segments durably. An error is final.
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
        // The saved commit never exceeds the durable log: after a power cut, this state may meet an
        // older log whose tail was truncated since, and was never committed.
        let durable = self.shared.durable().synced.raft_index;
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

    pub(super) fn save_group_uid(&mut self, uid: u128) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        match <dyn Storage>::check_group_uid(self.state.state.group_uid, uid)? {
            true => self.change_state(|state| state.group_uid = uid),
            false => Ok(()),
        }
    }

    pub(super) fn set_complete(
        &mut self,
        complete: bool,
    ) -> Result<DirectoryIdentity, StorageError> {
        let new = self.shared.disk.random_id();
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
        self.cleanup.retire(segments_of(&old.segments), self.change);
        self.tail = None;
        self.last = base.point;
        Ok(())
    }

    /// Writes a new state. On a temporary error the old one stays.
    pub(super) fn change_state(
        &mut self,
        change: impl FnOnce(&mut Metadata),
    ) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        let mut state = self.state.state.clone();
        change(&mut state);
        state.ran_ms = self.clock.now().ran_ms;
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
        self.mark_dirty(Target::Metadata);
        Ok(())
    }

    pub(super) fn begin_sync(&mut self) -> Box<SegmentSync<D>> {
        self.syncs += 1;
        self.forget_clean();
        let dirty = self
            .dirty
            .iter()
            .map(|Dirty { target, change }| Dirty { target: target.clone(), change: *change })
            .collect();
        let place = self.live.load().durable_point(self.last.raft_index);
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
            bytes: self.options.next_segment_bytes(self.newest_bytes),
            written: 0,
        };
        // Purged segments first, for a recycled one saves creating a spare.
        self.cleanup
            .next_task(&self.shared, purged)
            .or_else(|| preallocate::next_task(&self.shared, self.next_spare()?))
    }

    /// The spare that should exist by now. `None`: it is not due yet.
    fn next_spare(&self) -> Option<SpareRequest> {
        // At most twice as large as the one before, so that zero-filling keeps up.
        let bytes = self.options.next_segment_bytes(self.newest_bytes);
        let (incarnation, zero_fill) = (self.incarnation(), self.options.zero_fill);
        let Some(tail) = &self.tail else {
            let written = if zero_fill { bytes.min(ZEROS_AHEAD_MAX) } else { 0 };
            return Some(SpareRequest { incarnation, bytes, written });
        };
        let has_large_syncs = tail.at >= self.syncs.max(LARGE_SYNCS_MIN) * LARGE_SYNC_BYTES;
        let (begin, end) = (tail.bytes / 8, tail.bytes / 8 * 7);
        let used = tail.at.checked_sub(begin)?.min(end - begin);
        let written = if !zero_fill || has_large_syncs {
            0
        } else {
            (u128::from(bytes) * u128::from(used) / u128::from(end - begin)) as u64
        };
        Some(SpareRequest { incarnation, bytes, written })
    }

    fn mark_dirty(&mut self, target: Target<D>) {
        match self.dirty.iter_mut().find(|dirty| dirty.target == target) {
            Some(dirty) => dirty.change = self.change,
            None => self.dirty.push(Dirty { target, change: self.change }),
        }
    }

    /// The id of the next segment: the incarnation and a count. The incarnation is durable before
    /// the first segment of a run is begun, so no id is used twice, whatever files a crash removed
    /// or brought back.
    pub(super) fn next_segment(&self) -> u64 {
        self.incarnation() << 32 | self.begun
    }

    fn incarnation(&self) -> u64 {
        self.state.state.incarnation
    }
}

/// Closing syncs everything, and writes how far the log reaches, so that a later opening can detect
/// a loss.
impl<D: Disk> Drop for Writer<D> {
    fn drop(&mut self) {
        if self.shared.check_poison().is_err() {
            return;
        }
        self.save_run_time();
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

pub(super) fn segments_of<D: Disk>(segments: &[LiveSegment<D>]) -> Vec<Arc<Segment<D>>> {
    segments.iter().map(|part| part.segment.clone()).collect()
}

#[cfg(test)]
mod tests;
