//! A corrupt log: it can be read, and repaired step by step until nothing is wrong.
//!
//! Each step replaces one segment file, durably, or leaves it as it was. After each step the log is
//! recovered again, as if it had just been opened: no list of what is still corrupt is kept.

use std::sync::Arc;

use super::error::{broken, failed, not_written, too_large};
use super::format;
use super::fs::{Disk, DiskFile};
use super::metadata::{MetadataFile, STATE_NAME, WriteError};
use super::recovered_log::{MissingRange, RecoveredLog};
use super::rewrite::{self, SegmentRewrite};
use super::segment::Segment;
use super::segment_set::{LiveSegment, SegmentSet};
use crate::storage::{Batch, BatchError, Corruption, LogPoint, StorageError};

/// See the [module](self).
pub(super) struct CorruptLog<D: Disk> {
    pub(super) directory: u128,
    pub(super) state: MetadataFile<D>,
    /// Keeps other processes out of the directory.
    pub(super) lock: D::Lock,
    /// The error that every write returns.
    refusal: StorageError,
    /// A step failed, and the state of the disk is unknown.
    poison: Option<String>,
    live: Arc<SegmentSet<D>>,
    missing_ranges: Vec<MissingRange>,
    bad_headers: Vec<(u64, u64)>,
    corruption: Vec<Corruption>,
}

impl<D: Disk> CorruptLog<D> {
    pub(super) fn new(
        found: RecoveredLog<D>,
        directory: u128,
        state: MetadataFile<D>,
        lock: D::Lock,
    ) -> CorruptLog<D> {
        let refusal = refusal(&found.corruption[0]);
        let RecoveredLog { live, missing_ranges, bad_headers, corruption, .. } = found;
        CorruptLog {
            directory,
            state,
            lock,
            refusal,
            poison: None,
            live: Arc::new(live),
            missing_ranges,
            bad_headers,
            corruption,
        }
    }

    pub(super) fn live(&self) -> Arc<SegmentSet<D>> {
        self.live.clone()
    }

    pub(super) fn refusal(&self) -> StorageError {
        self.refusal.clone()
    }

    pub(super) fn check_poison(&self) -> Result<(), StorageError> {
        self.poison.clone().map_or(Ok(()), |reason| Err(StorageError::Poisoned(reason)))
    }

    /// Remembers an error of the disk. Only a step that is known to have changed nothing may be
    /// retried.
    pub(super) fn record_failure<T>(
        &mut self,
        outcome: Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        match &outcome {
            Ok(_) | Err(StorageError::NotContiguous(_) | StorageError::InvalidState(_)) => {}
            Err(error) if error.is_temporary() => {}
            Err(error) => self.poison = Some(error.to_string()),
        }
        outcome
    }

    /// Restores the headers of all segments, if nothing else is wrong. A bad header proves that the
    /// segment is not a new one, so it is kept as long as any of its records is missing.
    pub(super) fn restore_headers(&self, disk: &D) -> Result<(), StorageError> {
        let heads = if self.first_corrupt_from(0).is_some() { &[] } else { &self.bad_headers[..] };
        heads.iter().try_for_each(|(id, first)| {
            SegmentRewrite::new_file(disk, self.directory, *id, *first, 0).restore_header()
        })
    }

    /// Writes the first of `batches` that are corrupt here to their file, as many as belong into
    /// one file. Returns how many of `batches` are done.
    pub(super) fn fill(
        &self,
        disk: &D,
        batches: &[Batch],
        file_bytes: u64,
    ) -> Result<usize, StorageError> {
        let mut before = None;
        for (at, batch) in batches.iter().enumerate() {
            if self.live.verify_batch(disk, batch.raft_index())?.is_some()
                || self.live.batch(disk, batch.raft_index())?.is_none()
            {
                return self.fill_from(disk, &batches[at..], file_bytes).map(|done| at + done);
            }
            let point = self.point(disk, batch.raft_index())?;
            if before.is_some_and(|before| batch.point_after(&before) != Ok(point)) {
                return Err(StorageError::NotContiguous(format!(
                    "raft index {} is intact here, and another",
                    batch.raft_index()
                )));
            }
            before = Some(point);
        }
        Ok(batches.len())
    }

    fn fill_from(
        &self,
        disk: &D,
        batches: &[Batch],
        file_bytes: u64,
    ) -> Result<usize, StorageError> {
        let first = batches[0].raft_index();
        let rewrite = SegmentRewrite::of(
            disk,
            self.directory,
            &self.live,
            &self.missing_ranges,
            first,
            file_bytes,
        );
        let rewrite = rewrite.ok_or_else(|| {
            StorageError::NotContiguous(format!("it is not known where raft index {first} belongs"))
        })?;
        let here: Vec<Batch> =
            batches.iter().take_while(|batch| batch.raft_index() < rewrite.end).cloned().collect();
        let before = self.point(disk, first - 1)?;
        let mut point = before;
        for batch in &here {
            batch
                .verify()
                .and_then(|()| batch.point_after(&point))
                .map(|next| point = next)
                .map_err(|error| not_contiguous(batch, &error))?;
        }
        self.check_next(disk, point.raft_index + 1, &point)?;
        rewrite.fill(&before, &here)
    }

    /// The next readable record must continue what is put before it.
    fn check_next(&self, disk: &D, raft_index: u64, before: &LogPoint) -> Result<(), StorageError> {
        let (Ok(Some(batch)), Ok(Some(known))) =
            (self.live.batch(disk, raft_index), self.live.point(disk, raft_index))
        else {
            return Ok(());
        };
        match batch.point_after(before) {
            Ok(point) if point == known => Ok(()),
            _ => Err(StorageError::NotContiguous(format!(
                "raft index {raft_index}, which is intact, does not continue what was to be put \
                 before it"
            ))),
        }
    }

    fn point(&self, disk: &D, raft_index: u64) -> Result<LogPoint, StorageError> {
        match self.live.point(disk, raft_index) {
            Ok(Some(point)) => Ok(point),
            Ok(None) | Err(StorageError::Corrupt { .. } | StorageError::Purged { .. }) => {
                Err(StorageError::NotContiguous(format!(
                    "raft index {raft_index} has to be there first"
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// Replaces everything from the first of `batches` on.
    pub(super) fn replace(
        &self,
        disk: &D,
        batches: &[Batch],
        segment: u64,
        file_bytes: u64,
    ) -> Result<(), StorageError> {
        let Some(first) = batches.first().map(Batch::raft_index) else { return Ok(()) };
        let before = self.point(disk, first.saturating_sub(1))?;
        for batch in batches {
            batch.verify().map_err(|error| not_contiguous(batch, &error))?;
        }
        let needed = batches
            .iter()
            .map(|batch| format::record_bytes(batch.body().len() as u64))
            .sum::<u64>()
            + format::RECORDS_AT;
        SegmentRewrite::new_file(disk, self.directory, segment, first, file_bytes.max(needed))
            .fill(&before, batches)
            .map(drop)
    }
}

impl<D: Disk> CorruptLog<D> {
    /// Moves the base to `point`, which is committed. Only one segment is rewritten: the live part
    /// of the one that spans the new base. What is missing after `point` stays missing. If `point`
    /// belongs to another log than this one, nothing of this one counts, and the first segment will
    /// be `segment`.
    pub(super) fn rebase(
        &mut self,
        disk: &D,
        point: LogPoint,
        segment: u64,
    ) -> Result<(), StorageError> {
        let mut state = self.state.state.clone();
        state.base.point = point;
        if self.is_another(disk, &point)? {
            state.first_segment = segment;
        } else if let Some((cut, from)) = self.suffix_behind(disk, point.raft_index)? {
            rewrite::copy_suffix(disk, &cut, from)?;
            // The newer segment superseded these from its first record on, and from now on does so
            // only from a later record on.
            let is_beaten = |(id, first): &(u64, u64)| *id < cut.id && *first > point.raft_index;
            remove_segments(disk, is_beaten)?;
            // Batches missing before the suffix need a segment id that is older.
            state.first_segment = state.first_segment.min(cut.id - 1);
        }
        self.state.write(state, 0).map_err(|error| match error {
            WriteError::TooLarge => too_large(disk, STATE_NAME),
            WriteError::Io(error) => not_written(disk, "write", STATE_NAME, error),
        })?;
        self.state.file.sync_data().map_err(|error| broken(disk, "sync", STATE_NAME, error))
    }

    /// Whether `point` does not belong to this log, or lies beyond its end. If the log point is not
    /// readable here, the next batch decides; if that is missing too, the check is repeated when it
    /// is back.
    fn is_another(&self, disk: &D, point: &LogPoint) -> Result<bool, StorageError> {
        match self.live.point(disk, point.raft_index) {
            Ok(here) => Ok(here != Some(*point)),
            Err(StorageError::Corrupt { .. }) => {
                match self.check_next(disk, point.raft_index + 1, point) {
                    Err(StorageError::NotContiguous(_)) => Ok(true),
                    continued => continued.map(|()| false),
                }
            }
            Err(StorageError::Purged { .. }) => Err(StorageError::NotContiguous(format!(
                "raft index {} is purged here",
                point.raft_index
            ))),
            Err(error) => Err(error),
        }
    }

    /// The segment that spans `base`, and its first record after `base` whose location is known;
    /// those in between are missing. `None` if no segment spans it.
    fn suffix_behind(&self, disk: &D, base: u64) -> Result<Option<SegmentSuffix<D>>, StorageError> {
        let is_in_it = |part: &&LiveSegment<D>| {
            part.segment.first <= base && base + 1 < part.segment.first + part.len()
        };
        let Some(part) = self.live.segments.iter().find(is_in_it) else { return Ok(None) };
        for raft_index in base + 1..part.segment.first + part.len() {
            if part.segment.known_location(disk, raft_index - part.segment.first)?.is_some() {
                return Ok(Some((part.segment.clone(), raft_index)));
            }
        }
        Ok(None)
    }

    /// The first corrupt raft index at or after this one.
    fn first_corrupt_from(&self, raft_index: u64) -> Option<u64> {
        let corrupt_ranges = self
            .corruption
            .iter()
            .map(|corruption| &corruption.raft_indexes)
            .filter(|range| !range.is_empty() && range.end > raft_index);
        corrupt_ranges.map(|range| range.start.max(raft_index)).min()
    }
}

/// A segment, and the first raft index of it to keep.
type SegmentSuffix<D> = (Arc<Segment<D>>, u64);

/// Removes these segments durably.
fn remove_segments<D: Disk>(
    disk: &D,
    is_unwanted: impl Fn(&(u64, u64)) -> bool,
) -> Result<(), StorageError> {
    let names = disk.list().map_err(|error| failed(disk, "open", "", error))?;
    for name in names.iter().filter(|name| {
        format::parse_segment_name(name).is_some_and(|segment| is_unwanted(&segment))
    }) {
        disk.remove(name).map_err(|error| broken(disk, "remove", name, error))?;
    }
    disk.sync_dir().map_err(|error| broken(disk, "sync", "", error))
}

fn not_contiguous(batch: &Batch, error: &BatchError) -> StorageError {
    StorageError::NotContiguous(format!("raft index {}: {error}", batch.raft_index()))
}

/// The error of a corrupt log for every write.
fn refusal(corruption: &Corruption) -> StorageError {
    let Corruption { path, offset, reason, .. } = corruption;
    let reason = format!("{reason}; a corrupt log accepts repairs only");
    StorageError::Corrupt { path: path.clone(), offset: *offset, reason }
}
