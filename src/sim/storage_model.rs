//! Model of the storage of one node: what it must hold by its contract, from the calls that it
//! accepted and the syncs that succeeded.

use std::collections::VecDeque;

use crate::batch::LogPoint;
use crate::storage::{Batch, HardState, LogReader, Recovered};

/// A state of the log, as log points, and the hard state.
#[derive(Clone, Debug)]
pub(crate) struct LogState {
    base: LogPoint,
    points: Vec<LogPoint>,
    hard_state: HardState,
}

enum Change {
    Append(Vec<LogPoint>),
    Save(HardState),
    Reset(LogPoint),
}

/// Progress of the log when a sync began.
pub(crate) struct SyncTarget {
    /// Changes, counted since the log was opened.
    changes: u64,
    truncations: u64,
    last: u64,
}

/// Model of one node. Purges do not appear in it: a purged batch counts as held.
pub(crate) struct StorageModel {
    live: LogState,
    durable: LogState,
    /// Accepted changes that are not synced yet.
    unsynced: VecDeque<Change>,
    /// Number of changes synced since the log was opened.
    synced: u64,
    /// The change that the storage is asked for. A process that crashes now may have made it, or
    /// not, or in part.
    attempt: Option<Change>,
    /// The storage has reported corruption: what it owes is checked once it is repaired.
    pub(crate) is_corrupt: bool,
    /// The live and the durable states of lost disks, until the log is complete again.
    lost: Vec<(LogState, LogState)>,
    /// The disk was replaced: the log need not match this model.
    is_replaced: bool,
    /// Number of tail truncations and resets since the log was opened.
    truncations: u64,
    /// The last batch when the log was opened. Its last batches have no durability evidence before
    /// something is appended after them.
    recovered: u64,
    /// Batches up to here have durability evidence: the storage must detect their loss. A sync that
    /// began before a truncation proves nothing of the batches after it.
    evident: u64,
}

impl LogState {
    fn new() -> LogState {
        let hard_state = HardState {
            term: LogPoint::INITIAL.term,
            vote: None,
            commit: LogPoint::INITIAL.raft_index,
        };
        LogState { base: LogPoint::INITIAL, points: Vec::new(), hard_state }
    }

    pub(crate) fn last(&self) -> LogPoint {
        self.points.last().copied().unwrap_or(self.base)
    }

    fn point(&self, raft_index: u64) -> Option<LogPoint> {
        match raft_index.checked_sub(self.base.raft_index)? {
            0 => Some(self.base),
            n => self.points.get(n as usize - 1).copied(),
        }
    }

    /// A log that begins after a log point holds it: it was purged because it is committed.
    pub(crate) fn holds(&self, point: &LogPoint) -> bool {
        self.base.raft_index > point.raft_index
            || self.point(point.raft_index).as_ref() == Some(point)
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(points) => {
                if let Some(first) = points.first() {
                    self.points.truncate((first.raft_index - self.base.raft_index - 1) as usize);
                    self.points.extend_from_slice(points);
                }
            }
            Change::Save(hard_state) => self.hard_state = *hard_state,
            Change::Reset(base) => {
                self.base = *base;
                self.points.clear();
            }
        }
    }
}

impl StorageModel {
    fn of(state: LogState) -> StorageModel {
        StorageModel {
            recovered: state.last().raft_index,
            live: state.clone(),
            durable: state,
            unsynced: VecDeque::new(),
            synced: 0,
            attempt: None,
            is_corrupt: false,
            lost: Vec::new(),
            is_replaced: false,
            truncations: 0,
            evident: 0,
        }
    }

    pub(crate) fn new() -> StorageModel {
        StorageModel::of(LogState::new())
    }

    /// The disk is replaced by an empty one, or by an older copy.
    pub(crate) fn replace_disk(&mut self) {
        let StorageModel { live, durable, mut lost, .. } =
            std::mem::replace(self, StorageModel::new());
        lost.push((live, durable));
        (self.lost, self.is_replaced) = (lost, true);
    }

    /// The log holds again all that its node has acknowledged.
    pub(crate) fn set_complete(&mut self) {
        self.lost.clear();
    }

    /// Whether the durable log reaches the end of each log that was lost. It is compared as Raft
    /// compares the logs of candidates, so it holds all that was committed with their help.
    pub(crate) fn has_caught_up(&self) -> bool {
        let end = |state: &LogState| (state.last().term, state.last().raft_index);
        self.lost.iter().all(|(live, _)| end(live) <= end(&self.durable))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.lost.is_empty()
    }

    /// Whether each batch of a corrupt log is read as it was accepted, or reported as corrupt.
    pub(crate) fn is_accounted_for(&self, recovered: &Recovered, reader: &dyn LogReader) -> bool {
        let is_reported = |raft_index| {
            recovered
                .corruption
                .iter()
                .any(|corruption| corruption.raft_indexes.contains(&raft_index))
        };
        let first = self.live.base.raft_index + 1;
        (first..=self.live.last().raft_index).all(|raft_index| {
            let is_intact =
                || reader.verify_batch(raft_index).is_ok_and(|corruption| corruption.is_none());
            let is_right = || {
                reader
                    .point(raft_index)
                    .is_ok_and(|point| point.is_some() && point == self.live.point(raft_index))
            };
            is_reported(raft_index) || (is_right() && is_intact())
        })
    }

    /// The last batch whose corruption the storage cannot take for a torn write.
    pub(crate) fn evident(&self) -> u64 {
        self.evident
    }

    pub(crate) fn point(&self, raft_index: u64) -> Option<LogPoint> {
        self.live.point(raft_index)
    }

    pub(crate) fn live_base(&self) -> u64 {
        self.live.base.raft_index
    }

    /// The storage was opened, is corrupt, and begins after `base`. If the latest reset was later,
    /// a power cut undid it: the storage owes the state before it.
    pub(crate) fn open_corrupt(&mut self, base: LogPoint) {
        self.is_corrupt = true;
        if base.raft_index < self.live.base.raft_index {
            self.live = self.durable.clone();
            let before =
                self.unsynced.iter().take_while(|change| !matches!(change, Change::Reset(_)));
            before.for_each(|change| self.live.apply(change));
        }
    }

    /// The place of the first of `batches` that differs from the accepted one.
    pub(crate) fn first_difference(&self, batches: &[Batch]) -> Option<usize> {
        let mut before = self.live.point(batches.first()?.raft_index() - 1)?;
        batches.iter().position(|batch| match batch.point_after(&before) {
            Ok(point) if self.live.point(batch.raft_index()) == Some(point) => {
                before = point;
                false
            }
            _ => true,
        })
    }

    /// An append begins.
    pub(crate) fn attempt_append(&mut self, batches: &[Batch]) -> Result<(), String> {
        let Some(first) = batches.first() else { return Ok(()) };
        let before = first.raft_index().checked_sub(1).and_then(|index| self.live.point(index));
        let mut point = before.ok_or_else(|| format!("{first:?} was appended out of order"))?;
        let mut points = Vec::with_capacity(batches.len());
        for batch in batches {
            point = batch
                .point_after(&point)
                .map_err(|error| format!("{batch:?} was appended: {error}"))?;
            points.push(point);
        }
        self.attempt = Some(Change::Append(points));
        Ok(())
    }

    pub(crate) fn attempt_save(&mut self, new: HardState) -> Result<(), String> {
        let old = self.live.hard_state;
        let revoted = new.term == old.term && old.vote.is_some() && new.vote != old.vote;
        self.attempt = Some(Change::Save(new));
        if new.term < old.term || revoted {
            Err(format!("the hard state went from {old:?} to {new:?}"))
        } else {
            Ok(())
        }
    }

    pub(crate) fn attempt_reset(&mut self, base: LogPoint) {
        self.attempt = Some(Change::Reset(base));
    }

    /// A rebase begins: the log begins after `base`, and keeps the batches that follow it. Returns
    /// whether the log does not hold `base`, and is reset.
    pub(crate) fn attempt_rebase(&mut self, base: LogPoint) -> bool {
        let is_reset = self.live.point(base.raft_index) != Some(base);
        if is_reset {
            self.attempt_reset(base);
        }
        is_reset
    }

    /// The storage has accepted the change. Returns how many batches it truncated.
    pub(crate) fn accept(&mut self) -> u64 {
        let Some(change) = self.attempt.take() else { return 0 };
        let before = self.live.last().raft_index;
        let truncated = match &change {
            Change::Append(points) => {
                points.first().map_or(0, |first| before + 1 - first.raft_index)
            }
            Change::Save(_) | Change::Reset(_) => 0,
        };
        self.lower_evidence(&change);
        self.live.apply(&change);
        self.unsynced.push_back(change);
        truncated
    }

    /// The storage has rejected the change, and is as before.
    pub(crate) fn reject(&mut self) {
        self.attempt = None;
    }

    /// The storage has failed in the middle of the change.
    pub(crate) fn fail(&mut self) {
        let change = self.attempt.take();
        change.iter().for_each(|change| self.lower_evidence(change));
        self.unsynced.extend(change);
    }

    /// Truncated batches need no longer be there.
    fn lower_evidence(&mut self, change: &Change) {
        let kept = match change {
            Change::Append(points) => points
                .first()
                .map(|first| first.raft_index - 1)
                .filter(|kept| *kept < self.live.last().raft_index),
            Change::Save(_) => None,
            Change::Reset(_) => Some(0),
        };
        if let Some(kept) = kept {
            (self.evident, self.recovered) = (self.evident.min(kept), self.recovered.min(kept));
            self.truncations += 1;
        }
    }

    /// What a sync that begins now makes durable.
    pub(crate) fn sync_target(&self) -> SyncTarget {
        SyncTarget {
            changes: self.synced + self.unsynced.len() as u64,
            truncations: self.truncations,
            last: self.live.last().raft_index,
        }
    }

    /// A sync has succeeded.
    pub(crate) fn sync_succeeded(&mut self, target: &SyncTarget) {
        if target.truncations == self.truncations && target.last > self.recovered {
            self.evident = self.evident.max(target.last);
        }
        while self.synced < target.changes
            && let Some(change) = self.unsynced.pop_front()
        {
            self.durable.apply(&change);
            self.synced += 1;
        }
    }

    /// The log as it was accepted.
    pub(crate) fn log(&self) -> LogState {
        self.live.clone()
    }

    /// Whether the log would still hold this log point after a power cut now.
    pub(crate) fn holds_durably(&self, point: &LogPoint) -> bool {
        self.durable.holds(point) || self.lost.iter().any(|(_, durable)| durable.holds(point))
    }

    pub(crate) fn holds(&self, point: &LogPoint) -> bool {
        self.live.holds(point) || self.lost.iter().any(|(live, _)| live.holds(point))
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.live.hard_state
    }

    pub(crate) fn durable_hard_state(&self) -> HardState {
        self.durable.hard_state
    }

    pub(crate) fn durable_last(&self) -> u64 {
        self.durable.last().raft_index
    }

    pub(crate) fn last(&self) -> u64 {
        self.last_point().raft_index
    }

    /// The last log point.
    pub(crate) fn last_point(&self) -> LogPoint {
        self.live.last()
    }

    /// Checks the recovered log against the model, and continues from it. `power_failed`: unsynced
    /// changes may be lost.
    pub(crate) fn reopen(
        &mut self,
        recovered: &Recovered,
        reader: &dyn LogReader,
        power_failed: bool,
    ) -> Result<(), String> {
        let verdict =
            if self.is_replaced { Ok(()) } else { self.check_recovered(recovered, power_failed) };
        let mut points = Vec::new();
        for raft_index in recovered.base.point.raft_index + 1..=recovered.last.raft_index {
            let point = reader
                .point(raft_index)
                .map_err(|error| format!("batch {raft_index} of the recovered log: {error}"))?;
            points.push(
                point.ok_or_else(|| {
                    format!("batch {raft_index} of the recovered log is not there")
                })?,
            );
        }
        let state =
            LogState { base: recovered.base.point, points, hard_state: recovered.hard_state };
        if state.last() != recovered.last {
            return Err(format!(
                "the log is reported to end at {:?}, and ends at {:?}",
                recovered.last,
                state.last()
            ));
        }
        let lost = std::mem::take(&mut self.lost);
        *self = StorageModel { lost, ..StorageModel::of(state) };
        verdict
    }

    fn check_recovered(&self, recovered: &Recovered, power_failed: bool) -> Result<(), String> {
        let vote = |state: &HardState| (state.term, state.vote);
        let last = recovered.last;
        // After a crash of the process all accepted changes are there; after a power cut the
        // unsynced ones may be.
        let (start, unsynced) =
            if power_failed { (&self.durable, Some(&self.unsynced)) } else { (&self.live, None) };
        let mut known = vec![vote(&start.hard_state)];
        let mut ends = vec![start.point(last.raft_index)];
        let mut least = start.last().raft_index;
        for change in unsynced.into_iter().flatten().chain(&self.attempt) {
            match change {
                Change::Save(state) => known.push(vote(state)),
                Change::Append(points) => {
                    ends.push(
                        points.iter().find(|point| point.raft_index == last.raft_index).copied(),
                    );
                    least =
                        least.min(points.first().map_or(u64::MAX, |first| first.raft_index - 1));
                }
                Change::Reset(base) => {
                    ends.push(Some(*base).filter(|base| base.raft_index == last.raft_index));
                    least = least.min(base.raft_index);
                }
            }
        }
        if !known.contains(&vote(&recovered.hard_state)) {
            return Err(format!(
                "{:?} was recovered, where one of {known:?} was saved",
                recovered.hard_state
            ));
        }
        if last.raft_index < least {
            return Err(format!(
                "the log ends at batch {}, and must reach at least batch {least}",
                last.raft_index
            ));
        }
        if !ends.contains(&Some(last)) {
            return Err(format!("the log ends with {last:?}, which was never there"));
        }
        Ok(())
    }
}
