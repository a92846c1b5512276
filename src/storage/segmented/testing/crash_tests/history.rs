//! The history of a log: what it was given, when, and so what it may hold after a crash.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::entry::NodeId;
use crate::storage::{
    Base, Batch, DirectoryIdentity, HardState, LogPoint, LogReader, Recovered, StorageError,
};

/// The contents of the log at one time.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// The number of changes of the disk when the step began that led to this.
    began: usize,
    pub(super) base: Base,
    /// The base of the last reset.
    origin: LogPoint,
    /// All records since then, including purged ones: a crash may undo a purge and keep later
    /// appends.
    records: Arc<Vec<(Batch, LogPoint)>>,
    /// The raft index up to which the previous log was kept.
    kept: u64,
    pub(super) hard_state: HardState,
    pub(super) peers: BTreeMap<NodeId, u128>,
    pub(super) group_uid: u128,
    /// The highest commit that was ever saved.
    commit_max: u64,
}

impl Moment {
    fn new(base: Base) -> Moment {
        let hard_state = HardState { term: 1, vote: None, commit: 1 };
        Moment {
            began: 0,
            kept: base.point.raft_index,
            origin: base.point,
            base,
            records: Arc::default(),
            hard_state,
            peers: BTreeMap::new(),
            group_uid: 0,
            commit_max: 1,
        }
    }

    /// Whether it may be on a disk that was changed `changes` times: a step that had not made its
    /// first change has left no trace. What began at 0 may stem from before a crash.
    fn is_visible(&self, changes: usize) -> bool {
        self.began == 0 || self.began < changes
    }

    pub(super) fn last(&self) -> LogPoint {
        self.records.last().map_or(self.origin, |(_, point)| *point)
    }

    /// The log point after the batch `raft_index`, also if that was purged.
    pub(super) fn point(&self, raft_index: u64) -> Option<LogPoint> {
        match raft_index.checked_sub(self.origin.raft_index)? {
            0 => Some(self.origin),
            n => self.records.get(n as usize - 1).map(|(_, point)| *point),
        }
    }

    /// Whether `reader` reads this log.
    pub(super) fn compare(&self, reader: &dyn LogReader) -> Result<(), String> {
        self.compare_part(reader, &self.base, self.last())
    }

    /// Whether all that `reader` can read of this log, on a disk that has lost some of it, is as it
    /// was appended.
    pub(super) fn compare_what_reads(&self, reader: &dyn LogReader) -> Result<(), String> {
        for (batch, point) in
            self.records.iter().filter(|(_, point)| point.raft_index > self.base.point.raft_index)
        {
            let whole =
                reader.batches(point.raft_index, point.raft_index + 1, 0).unwrap_or_default();
            for index in batch.first_index().unwrap_or(0)..batch.end_index().unwrap_or(0) {
                let alone = reader.entry(index).ok().flatten();
                let with_others =
                    whole.iter().filter_map(|found| found.entry(index).ok().flatten());
                if let Some(entry) = alone.into_iter().chain(with_others).find(|entry| {
                    Ok(Some(entry)) != batch.entry(index).as_ref().map(Option::as_ref)
                }) {
                    return Err(format!("entry {index} reads {entry:?}"));
                }
            }
            if let Ok(found) = reader.point(point.raft_index)
                && found != Some(*point)
            {
                return Err(format!("the mark {found:?} instead of {point:?}"));
            }
        }
        Ok(())
    }

    /// The batches behind the log point `last`, if it is one of this log's.
    pub(super) fn behind(&self, last: LogPoint) -> Vec<Batch> {
        let behind = self.records.iter().filter(|(_, point)| {
            point.raft_index > last.raft_index && self.point(last.raft_index) == Some(last)
        });
        behind.map(|(batch, _)| batch.clone()).collect()
    }

    /// The same, except for what follows the batch `last`.
    pub(super) fn cut_to(&self, last: u64) -> Moment {
        let kept =
            self.records.iter().filter(|(_, point)| point.raft_index <= last).cloned().collect();
        Moment { records: Arc::new(kept), ..self.clone() }
    }

    /// Whether every entry that `reader` returns passes its own checks.
    pub(super) fn verify(&self, reader: &dyn LogReader) -> Result<(), String> {
        let batches = reader
            .batches(self.base.point.raft_index + 1, u64::MAX, u64::MAX)
            .map_err(|error| error.to_string())?;
        batches.iter().try_for_each(|batch| batch.verify()).map_err(|error| error.to_string())
    }

    /// Whether all but one batch of `reader` is intact.
    pub(super) fn compare_all_but_one(&self, reader: &dyn LogReader) -> Result<(), String> {
        let missing = self.missing(reader);
        if missing.len() <= 1 {
            Ok(())
        } else {
            Err(format!("one flip has taken the batches {missing:?}"))
        }
    }

    /// Whether all batches of `reader` are intact except `damaged`.
    pub(super) fn compare_all_but(
        &self,
        reader: &dyn LogReader,
        damaged: Range<u64>,
    ) -> Result<(), String> {
        let missing = self.missing(reader);
        let is_reported = missing.iter().all(|raft_index| damaged.contains(raft_index));
        if is_reported {
            Ok(())
        } else {
            Err(format!("the batches {missing:?} cannot be read, and it names {damaged:?}"))
        }
    }

    /// The batches that `reader` does not return as they were appended.
    fn missing(&self, reader: &dyn LogReader) -> Vec<u64> {
        let reads = |(batch, point): &&(Batch, LogPoint)| {
            reader
                .batches(point.raft_index, point.raft_index + 1, 0)
                .is_ok_and(|found| found == [batch.clone()])
        };
        let kept =
            self.records.iter().filter(|(_, point)| point.raft_index > self.base.point.raft_index);
        kept.filter(|record| !reads(record)).map(|(_, point)| point.raft_index).collect()
    }

    /// Whether `reader` reads this log, from `base` to `last`. Every byte of it.
    fn compare_part(
        &self,
        reader: &dyn LogReader,
        from: &Base,
        last: LogPoint,
    ) -> Result<(), String> {
        let LogPoint { raft_index: base, next_index, .. } = from.point;
        same("base()", Ok(reader.base()), from)?;
        same("mark(base)", reader.point(base), &Some(from.point))?;
        let count = (last.raft_index - base) as usize;
        let batches = reader
            .batches(base + 1, u64::MAX, u64::MAX)
            .map_err(|error| format!("reading the log: {error}"))?;
        if batches.len() != count {
            return Err(format!(
                "the log from {base} to {} has {} batches",
                last.raft_index,
                batches.len()
            ));
        }
        let purged = (base - self.origin.raft_index) as usize;
        for (found, (wanted, point)) in batches.iter().zip(&self.records[purged..]) {
            if found != wanted {
                return Err(format!("{found:?} is not {wanted:?}, or has other bytes"));
            }
            same("mark", reader.point(point.raft_index), &Some(*point))?;
            if let Some(index) = wanted.first_index() {
                same("batch_with", reader.batch_containing(index), &Some(wanted.clone()))?;
                same(
                    "batch_with",
                    reader.batch_containing(wanted.end_index().unwrap_or(0) - 1),
                    &Some(wanted.clone()),
                )?;
                same(
                    "entry",
                    reader.entry(index),
                    &wanted.entry(index).expect("what was appended is intact"),
                )?;
            }
        }
        same("mark behind the last", reader.point(last.raft_index + 1), &None)?;
        same("batch_with behind the last", reader.batch_containing(last.next_index), &None)?;
        same("entry behind the last", reader.entry(last.next_index), &None)?;
        match next_index.checked_sub(1).map(|index| reader.batch_containing(index)) {
            None | Some(Err(StorageError::Purged { .. })) => Ok(()),
            Some(other) => Err(format!("before the base there is {other:?}")),
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(
    call: &str,
    found: Result<T, StorageError>,
    wanted: &T,
) -> Result<(), String> {
    match found {
        Ok(found) if found == *wanted => Ok(()),
        found => Err(format!("{call} gave {found:?} instead of {wanted:?}")),
    }
}

/// All moments, and which of them were known to be durable when.
#[derive(Clone, Debug)]
pub(super) struct History {
    moments: Vec<Moment>,
    /// After so many changes of the disk, so many moments (but one) were of the past.
    acknowledged: Vec<(usize, usize)>,
    /// After so many changes of the disk, an opening returned this incarnation of this directory.
    opened: Vec<(usize, u64, u128)>,
}

impl History {
    /// The history of a log that was never opened.
    pub(super) fn new(base: Base) -> History {
        History { moments: vec![Moment::new(base)], acknowledged: Vec::new(), opened: Vec::new() }
    }

    pub(super) fn now(&self) -> &Moment {
        self.moments.last().expect("there is a moment from the beginning on")
    }

    /// The number of the newest moment.
    pub(super) fn number(&self) -> usize {
        self.moments.len() - 1
    }

    fn push(&mut self, began: usize, change: impl FnOnce(&mut Moment)) {
        let mut moment = Moment { began, kept: self.now().last().raft_index, ..self.now().clone() };
        change(&mut moment);
        self.moments.push(moment);
    }

    /// Records an append of `batches` after the batch `kept`, with `commit`. Each batch is a moment
    /// of its own: a crash may leave any of them.
    pub(super) fn append(&mut self, began: usize, kept: u64, batches: &[Batch], commit: u64) {
        self.push(began, |moment| {
            let mut records = Vec::clone(&moment.records);
            records.retain(|(_, point)| point.raft_index <= kept);
            for batch in batches {
                let before = records.last().map_or(moment.origin, |(_, point)| *point);
                records.push((
                    batch.clone(),
                    batch.point_after(&before).expect("trials append what continues the log"),
                ));
            }
            moment.records = Arc::new(records);
            moment.kept = kept;
            moment.commit_max = moment.commit_max.max(commit);
        });
    }

    pub(super) fn save_hard_state(&mut self, began: usize, hard_state: HardState) {
        self.push(began, |moment| {
            (moment.hard_state, moment.commit_max) =
                (hard_state, moment.commit_max.max(hard_state.commit))
        });
    }

    pub(super) fn save_peer(&mut self, began: usize, peer: NodeId, directory: u128) {
        self.push(began, |moment| {
            moment.peers.insert(peer, directory);
        });
    }

    pub(super) fn save_group_uid(&mut self, began: usize, uid: u128) {
        self.push(began, |moment| moment.group_uid = uid);
    }

    pub(super) fn reset(&mut self, began: usize, base: &Base) {
        self.push(began, |moment| {
            (moment.kept, moment.origin) = (base.point.raft_index, base.point);
            moment.base = base.clone();
            moment.records = Arc::default();
        });
    }

    /// Purged up to `point`, which is the new base.
    pub(super) fn purge(&mut self, began: usize, point: LogPoint, commit: u64) {
        self.push(began, |moment| {
            (moment.base.point, moment.commit_max) = (point, moment.commit_max.max(commit))
        });
    }

    /// All up to the moment `number` was reported durable when the disk had been changed `changes`
    /// times.
    pub(super) fn acknowledge(&mut self, changes: usize, number: usize) {
        self.acknowledged.push((changes, number));
    }

    /// An opening returned `recovered`, which was checked, when the disk had been changed `changes`
    /// times.
    pub(super) fn open(&mut self, changes: usize, began: usize, recovered: &Recovered) {
        self.opened.push((changes, recovered.identity.incarnation, recovered.identity.directory));
        let found = find_log(&self.moments, recovered).expect("it was judged to be right").clone();
        let last = recovered.last.raft_index;
        self.push(began, |moment| {
            let mut records = Vec::clone(&found.records);
            records.retain(|(_, point)| point.raft_index <= last);
            moment.records = Arc::new(records);
            (moment.base, moment.origin) = (recovered.base.clone(), found.origin);
            moment.kept = last;
            moment.hard_state = recovered.hard_state;
            moment.peers = recovered.peers.iter().copied().collect();
            moment.group_uid = recovered.group_uid;
        });
        self.acknowledge(changes, self.number());
    }

    /// The history as it goes on after a crash, on a new disk. `changes` is how often the old one
    /// had been changed.
    pub(super) fn after_crash(&self, changes: usize) -> History {
        let mut moments: Vec<Moment> = self.moments[self.floor(changes)..]
            .iter()
            .filter(|moment| moment.is_visible(changes))
            .cloned()
            .collect();
        moments.iter_mut().for_each(|moment| moment.began = 0);
        let opened = self
            .opened
            .iter()
            .filter(|(at, ..)| *at <= changes)
            .map(|&(_, incarnation, directory)| (0, incarnation, directory));
        History { moments, acknowledged: vec![(0, 0)], opened: opened.collect() }
    }

    /// The identity at the last opening.
    pub(super) fn identity(&self) -> DirectoryIdentity {
        let &(_, incarnation, directory) = self.opened.last().expect("it was opened");
        DirectoryIdentity { directory, incarnation, complete: true }
    }

    /// The newest moment that was reported durable before.
    fn floor(&self, changes: usize) -> usize {
        self.acknowledged
            .iter()
            .filter(|(at, _)| *at <= changes)
            .map(|(_, number)| *number)
            .max()
            .unwrap_or(0)
    }

    /// Checks what a log holds when it is opened on a disk that had been changed `changes` times
    /// and then lost its power.
    pub(super) fn judge(
        &self,
        changes: usize,
        recovered: &Recovered,
        reader: &dyn LogReader,
    ) -> Result<(), String> {
        let floor = self.floor(changes);
        let visible = self
            .moments
            .iter()
            .rposition(|moment| moment.is_visible(changes))
            .unwrap_or(0)
            .max(floor);
        self.judge_among(floor..=visible, changes, recovered, reader)
    }

    /// Checks what a log holds when it is opened again without a crash: everything.
    pub(super) fn judge_now(
        &self,
        changes: usize,
        recovered: &Recovered,
        reader: &dyn LogReader,
    ) -> Result<(), String> {
        self.judge_among(self.number()..=self.number(), changes, recovered, reader)
    }

    fn judge_among(
        &self,
        numbers: std::ops::RangeInclusive<usize>,
        changes: usize,
        recovered: &Recovered,
        reader: &dyn LogReader,
    ) -> Result<(), String> {
        if !recovered.corruption.is_empty() {
            return Err(format!("an intact log is called corrupt: {:?}", recovered.corruption));
        }
        let moments = &self.moments[numbers];
        let Some(moment) = find_log(moments, recovered) else {
            let (first, now) = (&moments[0], &moments[moments.len() - 1]);
            return Err(format!(
                "the log is {:?} to {:?}; durable was {:?} to {:?}, taken was {:?} to {:?}",
                recovered.base.point,
                recovered.last,
                first.base.point,
                first.last(),
                now.base.point,
                now.last()
            ));
        };
        moment.compare_part(reader, &recovered.base, recovered.last)?;
        let HardState { term, vote, commit } = recovered.hard_state;
        if !moments
            .iter()
            .any(|moment| (moment.hard_state.term, moment.hard_state.vote) == (term, vote))
        {
            let wanted: Vec<HardState> = moments.iter().map(|moment| moment.hard_state).collect();
            return Err(format!(
                "the hard state is {:?}, and was none of {wanted:?}",
                recovered.hard_state
            ));
        }
        let (base, last, commit_max) = (
            recovered.base.point.raft_index,
            recovered.last.raft_index,
            moments[moments.len() - 1].commit_max,
        );
        if commit < base || commit > last || commit > commit_max.max(base) {
            return Err(format!(
                "commit {commit} in a log from {base} to {last}, and the highest that was saved \
                 is {commit_max}"
            ));
        }
        let peers: BTreeMap<_, _> = recovered.peers.iter().copied().collect();
        let group_uid = recovered.group_uid;
        if !moments.iter().any(|moment| moment.peers == peers && moment.group_uid == group_uid) {
            return Err(format!("the peers are {peers:x?}, the group is {group_uid:x}"));
        }
        let mut earlier = self.opened.iter().filter(|(at, ..)| *at <= changes);
        match earlier.next_back() {
            Some(&(_, incarnation, directory))
                if recovered.identity.directory != directory
                    || recovered.identity.incarnation <= incarnation =>
            {
                Err(format!(
                    "it calls itself {:?}, having been incarnation {incarnation} of {directory:x}",
                    recovered.identity
                ))
            }
            _ => Ok(()),
        }
    }
}

/// The newest of `moments`, the first of which is durable, that the recovered log is a prefix of.
fn find_log<'a>(moments: &'a [Moment], recovered: &Recovered) -> Option<&'a Moment> {
    let (base, last) = (&recovered.base, recovered.last);
    let mut floor = u64::MAX;
    let mut found = None;
    for (nth, moment) in moments.iter().enumerate() {
        floor = if nth == 0 { moment.last().raft_index } else { floor.min(moment.kept) };
        let has_base = |other: &Moment| other.origin == moment.origin && other.base == *base;
        if moment.point(last.raft_index) == Some(last)
            && last.raft_index >= floor.max(base.point.raft_index)
            && moments.iter().any(has_base)
        {
            found = Some(moment);
        }
    }
    found
}
