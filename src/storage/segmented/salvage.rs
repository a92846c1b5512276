//! Salvage of a corrupt log: what of it is readable, and what is not.
//!
//! Nothing is changed, and nothing is guessed. A segment takes part if that is proved: by a seal,
//! by evidence of durability, by continuing the segment before it, or by the next number on a
//! segment that follows where it cannot have been truncated: see [`Salvage::proved`]. A newer one
//! supersedes older ones from its first raft index on, as always. What is missing between two
//! segments, or behind the last, is a gap.
//!
//! If a whole file may be missing in a gap, it may have truncated older segments. Then only what
//! was known to be committed counts of those: committed batches are never truncated.

use std::cell::RefCell;
use std::sync::Arc;

use super::candidate::{Candidate, CandidateContents, DurabilityEvidence, newest_cover};
use super::damaged_scan::{CorruptRange, scan_past_corruption};
use super::error::failed;
use super::format;
use super::fs::{Disk, DiskFile};
use super::metadata::Metadata;
use super::recovered_log::{MissingRange, RecoveredLog};
use super::segment::{Maps, Segment};
use super::segment_set::{LiveSegment, SegmentSet};
use crate::storage::{Corruption, LogPoint, StorageError};

/// Salvages `candidates`, which are sorted by id, after recovery found `cause`.
pub(super) fn salvage<D: Disk>(
    disk: &D,
    maps: &Arc<Maps<D>>,
    state: &Metadata,
    candidates: &[Candidate<D>],
    all_evidence: &[DurabilityEvidence],
    cause: StorageError,
) -> Result<RecoveredLog<D>, StorageError> {
    let mut salvage = Salvage {
        disk,
        maps,
        state,
        candidates,
        all_evidence,
        pieces: Vec::new(),
        unread: RefCell::new(None),
    };
    for (at, bound, reaches) in salvage.choose() {
        salvage.add(&candidates[at], bound, reaches)?;
    }
    let end = salvage.drop_unproved();
    let (gaps, missing_ranges) = salvage.gaps(end);
    let mut corruption = salvage.corruption()?;
    corruption.extend(gaps.iter().cloned());
    if corruption.is_empty()
        && let StorageError::Corrupt { path, offset, reason } = cause
    {
        let behind = salvage.reached();
        corruption.push(Corruption {
            path,
            offset,
            raft_indexes: behind..behind,
            term: None,
            chain: None,
            reason,
        });
    }
    corruption.sort_by_key(|corruption| corruption.raft_indexes.start);
    salvage.into_log(gaps, corruption, missing_ranges)
}

struct Salvage<'a, D: Disk> {
    disk: &'a D,
    maps: &'a Arc<Maps<D>>,
    state: &'a Metadata,
    candidates: &'a [Candidate<D>],
    all_evidence: &'a [DurabilityEvidence],
    pieces: Vec<SalvagedSegment<'a, D>>,
    /// An error other than corruption. Then the result is discarded.
    unread: RefCell<Option<StorageError>>,
}

/// A candidate that takes part.
struct SalvagedSegment<'a, D: Disk> {
    candidate: &'a Candidate<D>,
    segment: Arc<Segment<D>>,
    /// The raft index after its last record that was found and belongs to the log.
    end: u64,
    /// No record at or behind this was durable.
    limit: u64,
    /// Nothing can be missing between it and the next one.
    reaches: bool,
    /// The offset at which the missing records behind it should be, if they are missing in its
    /// file.
    breaks_at: Option<u64>,
    corrupt_ranges: Vec<CorruptRange>,
}

impl<'a, D: Disk> Salvage<'a, D> {
    /// The candidates that take part, in order. With each, where the next one begins, and whether
    /// it reaches up to there: nothing can be missing between a segment and the one with the next
    /// number.
    fn choose(&self) -> Vec<(usize, u64, bool)> {
        let proved = self.proved();
        let has_anything = |candidate: &Candidate<D>| candidate.end() > candidate.first;
        let counts = |&at: &usize| has_anything(&self.candidates[at]) || proved[at];
        let mut left: Vec<usize> = (0..self.candidates.len()).filter(counts).collect();
        loop {
            let chosen = newest_cover(self.candidates, &left);
            let mut before = Some(self.state.base.point);
            let unproved = chosen.iter().find(|(at, bound)| {
                let candidate = &self.candidates[*at];
                let proved =
                    proved[*at] || before.is_some_and(|before| candidate.continues(&before));
                before = self.point_of(candidate, (*bound).min(candidate.end()) - 1);
                !proved
            });
            // Without it, older ones may reach further: start over.
            if let Some((unproved, _)) = unproved {
                left.retain(|at| at != unproved);
                continue;
            }
            let ids = chosen.iter().map(|(at, _)| self.candidates[*at].id);
            let next_ids = ids.clone().skip(1).map(Some).chain([None]);
            let reaches = ids.zip(next_ids).map(|(id, next)| next == Some(id + 1));
            return chosen
                .iter()
                .zip(reaches)
                .map(|(&(at, bound), reaches)| (at, bound, reaches))
                .collect();
        }
    }

    /// Which candidates are known to have taken part. A segment gets its name when its header is
    /// durable, so one with a bad header is corrupt, never new. It may [never have
    /// counted](Self::never_counted) all the same.
    ///
    /// A segment begins where the log ends or is truncated at that time. So if one is known to have
    /// held something durable, and begins behind the one with the number before its own, that one
    /// held what lies between them, though nothing of it may be readable.
    fn proved(&self) -> Vec<bool> {
        let held = |candidate: &Candidate<D>| {
            matches!(candidate.contents, CandidateContents::Sealed(_))
                || self.durable_in(candidate) > candidate.first
        };
        let never_counted = self.never_counted();
        let mut proved = vec![false; self.candidates.len()];
        let mut next: Option<&Candidate<D>> = None;
        for (at, candidate) in self.candidates.iter().enumerate().rev() {
            let is_next =
                |next: &Candidate<D>| next.id == candidate.id + 1 && next.first > candidate.first;
            let has_held = held(candidate) || next.is_some_and(is_next);
            proved[at] = has_held || (candidate.bad_header.is_some() && !never_counted[at]);
            next = has_held.then_some(candidate);
        }
        proved
    }

    /// Which candidates were begun behind records that a crash took, so that nothing in them ever
    /// counted. The base says where the first segment begins, and a seal where a sealed one ends:
    /// with nothing lost, the one with the next number begins no later. What was begun after one
    /// that never counted did not count either.
    fn never_counted(&self) -> Vec<bool> {
        let mut next = Some((self.state.first_segment, self.state.base.point.raft_index + 1));
        let never_counted = self.candidates.iter().map(|candidate| {
            let is_behind_a_loss =
                next.is_some_and(|(id, end)| candidate.id == id && candidate.first > end);
            let end = match candidate.contents {
                CandidateContents::Sealed(_) => Some(candidate.end()),
                CandidateContents::Open { .. } => {
                    next.filter(|_| is_behind_a_loss).map(|(_, end)| end)
                }
            };
            next = end.map(|end| (candidate.id + 1, end));
            is_behind_a_loss
        });
        never_counted.collect()
    }

    /// The raft index up to which `candidate` is known to have been durable. 0 without evidence.
    fn durable_in(&self, candidate: &Candidate<D>) -> u64 {
        let of_it =
            self.all_evidence.iter().filter(|evidence| evidence.synced.segment == candidate.id);
        of_it.map(|evidence| evidence.synced.raft_index.saturating_add(1)).max().unwrap_or(0)
    }

    fn point_of(&self, candidate: &Candidate<D>, raft_index: u64) -> Option<LogPoint> {
        let within = (candidate.first..candidate.end()).contains(&raft_index);
        if within {
            self.unless_damaged(candidate.point(self.disk, self.state.directory, raft_index))
        } else {
            None
        }
    }

    /// The value, if it is not corrupt.
    fn unless_damaged<T>(&self, read: Result<T, StorageError>) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(StorageError::Corrupt { .. }) => None,
            Err(error) => {
                self.unread.borrow_mut().get_or_insert(error);
                None
            }
        }
    }

    /// Adds the part of a candidate before `bound`.
    fn add(
        &mut self,
        candidate: &'a Candidate<D>,
        bound: u64,
        reaches: bool,
    ) -> Result<(), StorageError> {
        let (segment, corrupt_ranges, breaks_at, limit) = match &candidate.contents {
            CandidateContents::Sealed(seal) => (
                Segment::sealed(self.state.directory, *seal, self.maps),
                Vec::new(),
                None,
                candidate.end(),
            ),
            CandidateContents::Open { file, scan } => {
                let limit = if reaches { bound } else { self.durable_in(candidate).min(bound) };
                let (disk, directory) = (self.disk, self.state.directory);
                let seed = format::checksum_seed(directory, candidate.id);
                let found = scan_past_corruption(
                    disk,
                    file,
                    &candidate.name,
                    candidate.id,
                    seed,
                    candidate.first,
                    limit,
                )?;
                let map =
                    file.map().map_err(|error| failed(disk, "map", &candidate.name, error))?;
                // Only these two fields are known for certain. Position and time are those of no
                // place in a log, so that no search takes them for known.
                let next_index = found
                    .first_index
                    .filter(|_| candidate.first > self.reached())
                    .unwrap_or(self.next_index());
                let before = LogPoint {
                    raft_index: candidate.first - 1,
                    next_index,
                    next_position: u64::MAX,
                    timestamp: u64::MAX,
                    ..LogPoint::INITIAL
                };
                let (id, bytes) = (candidate.id, scan.file_bytes);
                let segment = Segment::open(directory, id, before, bytes, map, found.records);
                let is_short = candidate.first + segment.len() < limit || !scan.clean;
                (segment, found.corrupt_ranges, is_short.then_some(found.end), limit)
            }
        };
        let end = (candidate.first + segment.len()).min(bound);
        self.pieces.push(SalvagedSegment {
            candidate,
            segment: Arc::new(segment),
            end,
            limit: limit.min(bound),
            reaches,
            breaks_at,
            corrupt_ranges,
        });
        Ok(())
    }

    /// The raft index after all pieces so far.
    fn reached(&self) -> u64 {
        self.pieces.last().map_or(self.state.base.point.raft_index + 1, |piece| piece.end)
    }

    /// The next index after all pieces so far, as far as it can be read.
    fn next_index(&self) -> u64 {
        let mut known = self.pieces.iter().rev().filter_map(|piece| piece.last_point(self));
        known.next().map_or(self.state.base.point.next_index, |point| point.next_index)
    }

    /// Drops what a missing segment may have truncated. Returns the raft index after the log,
    /// according to the evidence.
    fn drop_unproved(&mut self) -> u64 {
        let missing: Vec<(u64, u64)> = self.missing().collect();
        let between = self
            .pieces
            .windows(2)
            .filter(|pair| self.lacks_a_segment(&pair[0], &pair[1]))
            .map(|pair| pair[0].candidate.id + 1);
        // All commits first: a truncation may drop the records that know them.
        let ids = between.chain(missing.iter().map(|(id, _)| *id));
        let cuts: Vec<(u64, u64)> = ids.map(|id| (id, self.committed_before(id))).collect();
        cuts.into_iter().for_each(|(id, committed)| self.truncate(id, committed));
        let held = missing.into_iter().map(|(_, raft_index)| raft_index.saturating_add(1));
        held.chain(self.pieces.last().map(|piece| piece.limit)).max().unwrap_or(0)
    }

    /// The segments that evidence names and that do not exist, and the raft index that they held.
    fn missing(&self) -> impl Iterator<Item = (u64, u64)> {
        let unknown = |id| !self.candidates.iter().any(|candidate| candidate.id == id);
        let superseded = |evidence: &DurabilityEvidence| {
            self.pieces.iter().any(|piece| {
                piece.candidate.id > evidence.at
                    && piece.candidate.first <= evidence.synced.raft_index
            })
        };
        let (base, first_segment) = (self.state.base.point.raft_index, self.state.first_segment);
        let held = move |evidence: &&DurabilityEvidence| {
            evidence.synced.raft_index > base && evidence.synced.segment >= first_segment
        };
        let gone = self
            .all_evidence
            .iter()
            .filter(held)
            .filter(move |evidence| unknown(evidence.synced.segment) && !superseded(evidence));
        gone.map(|evidence| (evidence.synced.segment, evidence.synced.raft_index))
    }

    /// Whether a segment must be missing between two pieces: they do not fit, and nothing else is
    /// wrong with the first.
    fn lacks_a_segment(
        &self,
        piece: &SalvagedSegment<'_, D>,
        next: &SalvagedSegment<'_, D>,
    ) -> bool {
        if piece.reaches {
            return false;
        }
        match self.point_of(piece.candidate, next.candidate.first - 1) {
            Some(point) => {
                next.candidate.end() > next.candidate.first && !next.candidate.continues(&point)
            }
            None => {
                piece.end < next.candidate.first
                    && piece.breaks_at.is_none()
                    && !self.is_filled_by_name(piece, next)
            }
        }
    }

    /// Whether each number between two pieces has a file that begins behind the first of them.
    /// Nothing in these files is readable, but by their names none has truncated anything that is.
    fn is_filled_by_name(
        &self,
        piece: &SalvagedSegment<'_, D>,
        next: &SalvagedSegment<'_, D>,
    ) -> bool {
        let begins_behind = |id| {
            self.candidates
                .iter()
                .any(|candidate| candidate.id == id && candidate.first >= piece.end)
        };
        (piece.candidate.id + 1..next.candidate.id).all(begins_behind)
    }

    /// The newest commit that the pieces older than segment `id` know of.
    fn committed_before(&self, id: u64) -> u64 {
        let older = self.pieces.iter().take_while(|piece| piece.candidate.id < id);
        let known = older.filter_map(|piece| piece.committed(self)).max();
        known.unwrap_or(0).max(self.state.base.point.raft_index)
    }

    /// Segment `missing` is missing. Of older ones only what they knew to be `committed` counts.
    fn truncate(&mut self, missing: u64, committed: u64) {
        let older = self.pieces.partition_point(|piece| piece.candidate.id < missing);
        for piece in &mut self.pieces[..older] {
            if piece.end > committed + 1 {
                (piece.end, piece.limit, piece.breaks_at) = (committed + 1, committed + 1, None);
            }
        }
        self.pieces.retain(|piece| piece.end > piece.candidate.first || piece.breaks_at.is_some());
    }

    /// The gaps between the pieces, and up to `end`, and the files that they belong to, where
    /// known.
    fn gaps(&self, end: u64) -> (Vec<Corruption>, Vec<MissingRange>) {
        let (mut gaps, mut missing_ranges) = (Vec::new(), Vec::new());
        let mut reached = self.state.base.point.raft_index + 1;
        let (mut broken, mut before): (_, Option<&SalvagedSegment<'_, D>>) = (None, None);
        let begins = self
            .pieces
            .iter()
            .map(|piece| (piece.candidate.first, Some(piece)))
            .chain([(end, None)]);
        for (begin, piece) in begins {
            if begin > reached {
                let (path, offset, reason) = match broken {
                    Some((name, offset)) => {
                        (self.disk.path(name), offset, "no record can be read here")
                    }
                    None => {
                        (self.disk.path(""), 0, "no segment holds these batches: a file is missing")
                    }
                };
                let raft_indexes = reached..begin;
                let place = match before.filter(|_| broken.is_some()) {
                    Some(before) => Some((before.candidate.id, before.candidate.first)),
                    None => self.unused_id(before, piece, reached).map(|id| (id, reached)),
                };
                missing_ranges.extend(place.map(|(id, first)| MissingRange {
                    raft_indexes: raft_indexes.clone(),
                    id,
                    first,
                }));
                gaps.push(Corruption {
                    path,
                    offset,
                    raft_indexes,
                    term: None,
                    chain: None,
                    reason: reason.to_owned(),
                });
            }
            if let Some(piece) = piece {
                reached = reached.max(piece.end);
                broken = piece.breaks_at.map(|offset| (piece.candidate.name.as_str(), offset));
                before = Some(piece);
            }
        }
        (gaps, missing_ranges)
    }

    /// The id for a segment with the first raft index `first` between two pieces, that supersedes
    /// everything else between them. Behind the last piece: the newest id that is missing.
    fn unused_id(
        &self,
        before: Option<&SalvagedSegment<'_, D>>,
        next: Option<&SalvagedSegment<'_, D>>,
        first: u64,
    ) -> Option<u64> {
        let least = before.map_or(self.state.first_segment, |before| before.candidate.id + 1);
        let Some(next) = next else {
            return self.missing().map(|(id, _)| id).max().filter(|id| *id >= least);
        };
        // A file with the right name and nothing readable in it may be replaced.
        let is_void =
            |candidate: &Candidate<D>| candidate.first == first && candidate.end() == first;
        let is_free =
            |id: &u64| self.candidates.iter().filter(|candidate| candidate.id == *id).all(is_void);
        (least..next.candidate.id).rev().find(is_free)
    }

    /// The corruption within the pieces.
    fn corruption(&self) -> Result<Vec<Corruption>, StorageError> {
        let mut corruption = Vec::new();
        for piece in &self.pieces {
            let path = self.disk.path(&piece.candidate.name);
            if let Some(reason) = piece.candidate.bad_header {
                let raft_indexes = piece.candidate.first..piece.candidate.first;
                corruption.push(Corruption {
                    path: path.clone(),
                    offset: 0,
                    raft_indexes,
                    term: None,
                    chain: None,
                    reason: reason.to_owned(),
                });
            }
            for range in
                piece.corrupt_ranges.iter().filter(|range| range.raft_indexes.start < piece.end)
            {
                let raft_indexes = range.raft_indexes.start..range.raft_indexes.end.min(piece.end);
                let (term, chain, reason) = (range.term, range.chain, range.reason.to_owned());
                corruption.push(Corruption {
                    path: path.clone(),
                    offset: range.offset,
                    raft_indexes,
                    term,
                    chain,
                    reason,
                });
            }
            // Opening reads the last record of a sealed segment, for its commit.
            let is_sealed = matches!(piece.candidate.contents, CandidateContents::Sealed(_));
            if let Some(last) = (piece.candidate.first..piece.end).last().filter(|_| is_sealed) {
                corruption
                    .extend(piece.segment.verify_batch(self.disk, last - piece.candidate.first)?);
            }
        }
        Ok(corruption)
    }

    fn into_log(
        self,
        gaps: Vec<Corruption>,
        corruption: Vec<Corruption>,
        missing_ranges: Vec<MissingRange>,
    ) -> Result<RecoveredLog<D>, StorageError> {
        let bad_headers = self.candidates.iter().filter(|candidate| candidate.bad_header.is_some());
        let bad_headers = bad_headers.map(|candidate| (candidate.id, candidate.first)).collect();
        let pieces = self.pieces.iter().filter(|piece| piece.end > piece.candidate.first);
        let segments: Vec<_> = pieces
            .map(|piece| LiveSegment { segment: piece.segment.clone(), end: piece.end })
            .collect();
        let live = SegmentSet { base: self.state.base.clone(), segments, gaps };
        let last = self
            .pieces
            .iter()
            .rev()
            .find_map(|piece| piece.last_point(&self))
            .unwrap_or(live.base.point);
        let known = self.pieces.iter().rev().find_map(|piece| piece.committed(&self)).unwrap_or(0);
        // Down to the newest readable log point.
        let mut commit = known
            .max(self.state.hard_state.commit)
            .clamp(live.base.point.raft_index, last.raft_index);
        while self.unless_damaged(live.point(self.disk, commit)).flatten().is_none() {
            commit -= 1;
        }
        if let Some(error) = self.unread.into_inner() {
            return Err(error);
        }
        Ok(RecoveredLog {
            live,
            last,
            commit,
            tail: None,
            unsealed: Vec::new(),
            obsolete: Vec::new(),
            corruption,
            missing_ranges,
            bad_headers,
            max_evidence: None,
        })
    }
}

impl<D: Disk> SalvagedSegment<'_, D> {
    fn ordinals(&self) -> impl DoubleEndedIterator<Item = u64> + use<D> {
        0..self.end.saturating_sub(self.candidate.first)
    }

    /// The last readable log point in it.
    fn last_point(&self, salvage: &Salvage<'_, D>) -> Option<LogPoint> {
        let point = |ordinal| salvage.unless_damaged(self.segment.point(salvage.disk, ordinal));
        self.ordinals().rev().find_map(point)
    }

    /// The commit in its last readable record.
    fn committed(&self, salvage: &Salvage<'_, D>) -> Option<u64> {
        let record = |ordinal| salvage.unless_damaged(self.segment.record(salvage.disk, ordinal));
        self.ordinals().rev().find_map(record).map(|(header, _)| header.commit)
    }
}
