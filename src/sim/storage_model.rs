//! What one node's storage owes, by its contract: an account that is kept beside the storage, of
//! what was taken and what was synced.

use std::collections::VecDeque;

use crate::batch::LogPoint;
use crate::storage::{Batch, HardState, LogReader, Recovered};

/// A log as the marks in it, and the hard state.
#[derive(Clone, Debug)]
struct Image {
    base: LogPoint,
    points: Vec<LogPoint>,
    hard_state: HardState,
}

enum Change {
    Append(Vec<LogPoint>),
    Save(HardState),
    Reset(LogPoint),
}

/// How much was taken at some moment.
pub(crate) struct Taken {
    /// Changes, counted in this life.
    changes: u64,
    cuts: u64,
    last: u64,
}

/// The account of one node. Purges do not appear in it: what was given up was held.
pub(crate) struct StorageModel {
    live: Image,
    durable: Image,
    /// What was taken and not yet synced.
    journal: VecDeque<Change>,
    /// How many changes have left the journal in this life.
    settled: u64,
    /// What the storage is being asked to take. A process that dies now has done it, or not, or in
    /// part.
    attempt: Option<Change>,
    /// The storage says that it is damaged: what it owes is asked for when it is mended.
    pub(crate) is_damaged: bool,
    /// What the node held on disks that it lost, live and durable, until its log is all that it has
    /// promised.
    lost: Vec<(Image, Image)>,
    /// What the storage holds is not what was taken: it is another disk.
    is_another: bool,
    /// How often a tail was cut off in this life, or the log begun anew.
    cuts: u64,
    /// Where the log ended when it was opened. Nothing bears witness to its last batches before
    /// something is appended behind them.
    found: u64,
    /// Up to here the storage must notice what is missing. A sync that was begun before a cut says
    /// nothing of what came after.
    witnessed: u64,
}

impl Image {
    fn new() -> Image {
        let hard_state = HardState {
            term: LogPoint::INITIAL.term,
            vote: None,
            commit: LogPoint::INITIAL.raft_index,
        };
        Image { base: LogPoint::INITIAL, points: Vec::new(), hard_state }
    }

    fn last(&self) -> LogPoint {
        self.points.last().copied().unwrap_or(self.base)
    }

    fn point(&self, raft_index: u64) -> Option<LogPoint> {
        match raft_index.checked_sub(self.base.raft_index)? {
            0 => Some(self.base),
            n => self.points.get(n as usize - 1).copied(),
        }
    }

    /// A log that begins behind a mark holds it: it was given up because it is committed.
    fn holds(&self, point: &LogPoint) -> bool {
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
    fn of(image: Image) -> StorageModel {
        StorageModel {
            found: image.last().raft_index,
            live: image.clone(),
            durable: image,
            journal: VecDeque::new(),
            settled: 0,
            attempt: None,
            is_damaged: false,
            lost: Vec::new(),
            is_another: false,
            cuts: 0,
            witnessed: 0,
        }
    }

    pub(crate) fn new() -> StorageModel {
        StorageModel::of(Image::new())
    }

    /// The disk is gone, and another one, empty or older, is in its place.
    pub(crate) fn lose(&mut self) {
        let StorageModel { live, durable, mut lost, .. } =
            std::mem::replace(self, StorageModel::new());
        lost.push((live, durable));
        (self.lost, self.is_another) = (lost, true);
    }

    /// The log holds all that its node has promised.
    pub(crate) fn complete(&mut self) {
        self.lost.clear();
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.lost.is_empty()
    }

    /// Whether a damaged log still gives all that was taken, or says that it cannot.
    pub(crate) fn is_accounted_for(&self, recovered: &Recovered, reader: &dyn LogReader) -> bool {
        let is_told = |raft_index| {
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
            is_told(raft_index) || (is_right() && is_intact())
        })
    }

    /// Up to which batch the storage cannot take damage for a write that was cut short.
    pub(crate) fn witnessed(&self) -> u64 {
        self.witnessed
    }

    pub(crate) fn point(&self, raft_index: u64) -> Option<LogPoint> {
        self.live.point(raft_index)
    }

    pub(crate) fn live_base(&self) -> u64 {
        self.live.base.raft_index
    }

    /// The storage was opened and says that it is damaged, and that its log begins behind `base`.
    /// If that lies in front of where it was last begun anew, a power cut took that: what it owes
    /// is what it had before.
    pub(crate) fn open_damaged(&mut self, base: LogPoint) {
        self.is_damaged = true;
        if base.raft_index < self.live.base.raft_index {
            self.live = self.durable.clone();
            let before =
                self.journal.iter().take_while(|change| !matches!(change, Change::Reset(_)));
            before.for_each(|change| self.live.apply(change));
        }
    }

    /// The place of the first of `batches` that is another than what was taken.
    pub(crate) fn first_other(&self, batches: &[Batch]) -> Option<usize> {
        let mut before = self.live.point(batches.first()?.raft_index() - 1)?;
        batches.iter().position(|batch| match batch.point_after(&before) {
            Ok(point) if self.live.point(batch.raft_index()) == Some(point) => {
                before = point;
                false
            }
            _ => true,
        })
    }

    /// The storage is asked to append.
    pub(crate) fn attempt_append(&mut self, batches: &[Batch]) -> Result<(), String> {
        let Some(first) = batches.first() else { return Ok(()) };
        let before = first.raft_index().checked_sub(1).and_then(|index| self.live.point(index));
        let mut point = before.ok_or_else(|| format!("{first:?} was appended out of line"))?;
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

    /// The storage is asked to begin its log behind `base`, and to keep what it has there. Whether
    /// it has nothing there.
    pub(crate) fn attempt_rebase(&mut self, base: LogPoint) -> bool {
        let has_nothing = self.live.point(base.raft_index) != Some(base);
        if has_nothing {
            self.attempt_reset(base);
        }
        has_nothing
    }

    /// The storage has taken what it was asked to take. Returns how many batches that cut off.
    pub(crate) fn take(&mut self) -> u64 {
        let Some(change) = self.attempt.take() else { return 0 };
        let before = self.live.last().raft_index;
        let cut = match &change {
            Change::Append(points) => {
                points.first().map_or(0, |first| before + 1 - first.raft_index)
            }
            Change::Save(_) | Change::Reset(_) => 0,
        };
        self.lower(&change);
        self.live.apply(&change);
        self.journal.push_back(change);
        cut
    }

    /// The storage has refused what it was asked to take, and is as before.
    pub(crate) fn refuse(&mut self) {
        self.attempt = None;
    }

    /// The storage has failed in the midst of what it was asked to take.
    pub(crate) fn fail(&mut self) {
        let change = self.attempt.take();
        change.iter().for_each(|change| self.lower(change));
        self.journal.extend(change);
    }

    /// What a change cuts off needs no longer be there.
    fn lower(&mut self, change: &Change) {
        let kept = match change {
            Change::Append(points) => points
                .first()
                .map(|first| first.raft_index - 1)
                .filter(|kept| *kept < self.live.last().raft_index),
            Change::Save(_) => None,
            Change::Reset(_) => Some(0),
        };
        if let Some(kept) = kept {
            (self.witnessed, self.found) = (self.witnessed.min(kept), self.found.min(kept));
            self.cuts += 1;
        }
    }

    /// What a sync that begins now makes durable.
    pub(crate) fn taken(&self) -> Taken {
        Taken {
            changes: self.settled + self.journal.len() as u64,
            cuts: self.cuts,
            last: self.live.last().raft_index,
        }
    }

    /// A sync has succeeded.
    pub(crate) fn settle(&mut self, taken: &Taken) {
        let until = taken.changes;
        if taken.cuts == self.cuts && taken.last > self.found {
            self.witnessed = self.witnessed.max(taken.last);
        }
        while self.settled < until
            && let Some(change) = self.journal.pop_front()
        {
            self.durable.apply(&change);
            self.settled += 1;
        }
    }

    /// Whether the mark would still be there if the power failed now.
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

    /// The mark after all that was taken.
    pub(crate) fn last_point(&self) -> LogPoint {
        self.live.last()
    }

    /// Compares what was recovered with what was owed, and goes on from there. `power_failed`: the
    /// unsynced may be gone.
    pub(crate) fn reopen(
        &mut self,
        recovered: &Recovered,
        reader: &dyn LogReader,
        power_failed: bool,
    ) -> Result<(), String> {
        let verdict = if self.is_another { Ok(()) } else { self.judge(recovered, power_failed) };
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
        let image = Image { base: recovered.base.point, points, hard_state: recovered.hard_state };
        if image.last() != recovered.last {
            return Err(format!(
                "the log was said to end at {:?}, and ends at {:?}",
                recovered.last,
                image.last()
            ));
        }
        let lost = std::mem::take(&mut self.lost);
        *self = StorageModel { lost, ..StorageModel::of(image) };
        verdict
    }

    fn judge(&self, recovered: &Recovered, power_failed: bool) -> Result<(), String> {
        let vote = |state: &HardState| (state.term, state.vote);
        let last = recovered.last;
        // What a dead process had taken is there; what a dead machine had taken and not synced may
        // be.
        let (start, journal) =
            if power_failed { (&self.durable, Some(&self.journal)) } else { (&self.live, None) };
        let mut known = vec![vote(&start.hard_state)];
        let mut ends = vec![start.point(last.raft_index)];
        let mut least = start.last().raft_index;
        for change in journal.into_iter().flatten().chain(&self.attempt) {
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
                "{:?} came back, where one of {known:?} was saved",
                recovered.hard_state
            ));
        }
        if last.raft_index < least {
            return Err(format!(
                "the log ends at batch {}, and should reach to {least} at least",
                last.raft_index
            ));
        }
        if !ends.contains(&Some(last)) {
            return Err(format!("the log ends with {last:?}, which was never there"));
        }
        Ok(())
    }
}
