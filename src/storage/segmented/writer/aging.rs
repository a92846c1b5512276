//! What retention asks of the writer: the segments and their ages, the end of an active one, and
//! the removal of the oldest.

use std::sync::Arc;
use std::time::Duration;

use super::{Writer, segments_of};
use crate::log_prefix::log_prefix;
use crate::storage::segmented::active_segment::ActiveSegment;
use crate::storage::segmented::fs::Disk;
use crate::storage::segmented::retention::Unsealed;
use crate::storage::segmented::run_clock::RunClock;
use crate::storage::segmented::segment::Segment;
use crate::storage::segmented::segment_set::SegmentSet;
use crate::storage::{Base, LogPoint, SegmentInfo, StorageError};

/// What is lost of the age at least, if it is not written when the log is closed.
const UNSAVED_MS: u64 = 1_000;

impl<D: Disk> Writer<D> {
    /// Goes on from the newest seal, and from the file `state`. The active segment began after the
    /// segment before it was closed. If that makes it seem older than it is, it is closed sooner,
    /// and no earlier removed.
    pub(in super::super) fn begin_clock(&mut self) {
        let live = self.live.load();
        let closed = live.segments.iter().filter_map(|part| part.segment.closed.get());
        let newest_ms = closed.map(|closed| closed.ran_ms).max();
        self.clock = RunClock::from(self.state.state.ran_ms.max(newest_ms.unwrap_or(0)));
        if let Some(tail) = &mut self.tail {
            tail.began_ms = newest_ms.unwrap_or(0);
        }
        // One that was not sealed counts as closed just now.
        let active = self.tail.as_ref().map(|tail| tail.segment.id);
        for part in live.segments.iter().filter(|part| Some(part.segment.id) != active) {
            if part.segment.closed.get().is_none() {
                let _ = part.segment.closed.set(self.clock.now());
            }
        }
    }

    pub(in super::super) fn pass_time(&mut self, open_for: Duration, unix_ms: u64) {
        self.clock.pass(open_for, unix_ms);
    }

    /// The segments, oldest first.
    pub(in super::super) fn segments(&self) -> Vec<SegmentInfo> {
        let live = self.live.load();
        let began_ms = self.tail.as_ref().map_or(0, |tail| tail.began_ms);
        let nexts = live.segments.iter().skip(1).map(|next| next.segment.before);
        let info = |(segment, next): (&_, _)| self.info(segment, &next, began_ms);
        live.segments
            .iter()
            .map(|part| &*part.segment)
            .zip(nexts.chain([self.last]))
            .map(info)
            .collect()
    }

    fn info(&self, segment: &Segment<D>, next: &LogPoint, began_ms: u64) -> SegmentInfo {
        let closed = segment.closed.get();
        SegmentInfo {
            age: self.clock.since(closed.map_or(began_ms, |closed| closed.ran_ms)),
            is_closed: closed.is_some(),
            ..SegmentInfo::new(&segment.before, next, segment.bytes)
        }
    }

    /// Closes the active segment, if it holds anything. Nothing is written: it is sealed in the
    /// background, once it is durable.
    pub(in super::super) fn close_segment(&mut self) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        if self.tail.as_ref().is_none_or(|tail| tail.segment.len() == 0) {
            return Ok(());
        }
        // As many segments as an append may leave open.
        self.close_segments()?;
        let Some(ActiveSegment { segment, file, at, .. }) = self.tail.take() else {
            return Ok(());
        };
        // The next one has the same length: this one was not even full.
        self.newest_bytes = Some(segment.bytes / 2);
        let _ = segment.closed.set(self.clock.now());
        self.cleanup.seal(Unsealed { segment, file, end: at, change: self.change });
        Ok(())
    }

    pub(in super::super) fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        let live = self.live.load_full();
        // The new base can become durable before the segment that begins there. If that segment
        // came with a truncation, its predecessor was durable, and a crash could leave neither. So
        // a segment counts only once something in it is durable.
        let durable = self.shared.durable().synced.raft_index;
        let dispensable = |next: &Segment<D>| {
            let before = &next.before;
            before.next_index <= index
                && (before.raft_index <= commit)
                && before.raft_index < durable
        };
        let count =
            live.segments.iter().skip(1).take_while(|next| dispensable(&next.segment)).count();
        if self.is_dispensable_whole(&live, count, index, commit) {
            return self.purge_all(&live);
        }
        if count == 0 {
            return Ok(());
        }
        let kept = &live.segments[count..];
        let (point, first_segment) = (kept[0].segment.before, kept[0].segment.id);
        let base = Base { point, membership: live.base.membership.clone() };
        self.change_state(|state| {
            (state.base, state.first_segment) = (base.clone(), first_segment)
        })?;
        let gone = segments_of(&live.segments[..count]);
        self.live.store(Arc::new(SegmentSet { base, segments: kept.to_vec(), gaps: Vec::new() }));
        self.cleanup.retire(gone, self.change);
        Ok(())
    }

    /// Whether the last segment, before which all `count` go, may go too: it takes no more, and all
    /// of it is committed and durable. No segment follows that a crash could lose.
    fn is_dispensable_whole(
        &self,
        live: &SegmentSet<D>,
        count: usize,
        index: u64,
        commit: u64,
    ) -> bool {
        self.tail.is_none()
            && live.segments.len() == count + 1
            && self.last.next_index <= index
            && self.last.raft_index <= commit
            && self.last.raft_index <= self.shared.durable().synced.raft_index
    }

    /// The log begins anew at its end. The next segment begins there.
    fn purge_all(&mut self, live: &SegmentSet<D>) -> Result<(), StorageError> {
        let base = Base { point: self.last, membership: live.base.membership.clone() };
        let first_segment = self.next_segment();
        self.change_state(|state| {
            (state.base, state.first_segment) = (base.clone(), first_segment)
        })?;
        self.live.store(Arc::new(SegmentSet::new(base)));
        self.cleanup.retire(segments_of(&live.segments), self.change);
        Ok(())
    }

    /// Saves how long the log was open, when it is closed. Without it segments seem younger.
    pub(super) fn save_run_time(&mut self) {
        let saved_ms = self.state.state.ran_ms;
        if self.clock.now().ran_ms > saved_ms + UNSAVED_MS
            && let Err(error) = self.change_state(|_| {})
        {
            log::warn!("{}could not save how long the log was open: {error}", log_prefix());
        }
    }
}
