//! Recovery: from the files that a crash left to the log that they hold.
//!
//! A newer segment supersedes older ones from its first raft index on. A sealed segment is known by
//! its first page; an unsealed one is scanned from front to back. A segment that does not continue
//! the log before it is ignored: the crash took something that it depends on, so it was never
//! durable.
//!
//! Unless there is evidence of durability:
//!
//! > Evidence (s, d, w): when segment s was written, raft index w was already durable in segment d.
//! > The log must hold w in d, unless a segment begun after s truncated it at or before w. If not,
//! > the log is corrupt.
//!
//! Every record is evidence from the moment when it was written, every seal is for the last record
//! of its segment, and so is the watermark. If any is contradicted, the log is corrupt: nothing is
//! changed, and what is readable is salvaged. Without a contradiction, what is missing was torn by
//! the crash before it counted, and is cut.

use std::sync::Arc;

use super::active_segment::ActiveSegment;
use super::candidate::{Candidate, CandidateContents, DurabilityEvidence, newest_cover};
use super::error::{broken, corrupt, failed};
use super::format::{self, DurablePoint};
use super::fs::{Disk, DiskFile};
use super::metadata::Metadata;
use super::recovered_log::RecoveredLog;
use super::retention::Unsealed;
use super::salvage::salvage;
use super::segment::{Maps, Segment};
use super::segment_set::{LiveSegment, SegmentSet};
use crate::storage::{LogPoint, StorageError};

/// Recovers the log that `state` describes from the files `names`. Changes nothing, but syncs what
/// it accepts.
pub(super) fn recover<D: Disk>(
    disk: &D,
    maps: &Arc<Maps<D>>,
    state: &Metadata,
    watermark: Option<DurablePoint>,
    names: &[String],
) -> Result<RecoveredLog<D>, StorageError> {
    let mut segments: Vec<(u64, u64)> =
        names.iter().filter_map(|name| format::parse_segment_name(name)).collect();
    segments.sort_unstable();
    let newest = segments.last().map(|(id, _)| *id);
    let (old, present) =
        segments.split_at(segments.partition_point(|(id, _)| *id < state.first_segment));
    let mut obsolete: Vec<String> =
        old.iter().map(|(id, first)| format::segment_name(*id, *first)).collect();
    let mut candidates = present
        .iter()
        .map(|(id, first)| Candidate::read(disk, state.directory, *id, *first))
        .collect::<Result<Vec<_>, _>>()?;

    let mut all_evidence: Vec<DurabilityEvidence> =
        candidates.iter().map(Candidate::evidence).collect();
    all_evidence.extend(watermark.map(|synced| DurabilityEvidence { at: synced.segment, synced }));
    obsolete.extend(remove_superseded(&mut candidates, state.base.point.raft_index));
    let chain = match sound_chain(disk, state, &candidates, &all_evidence) {
        Err(cause @ StorageError::Corrupt { .. }) => {
            // The evidence of the corruption must be durable, or after a power cut the next opening
            // takes corrupt batches for torn ones.
            for candidate in &candidates {
                if let CandidateContents::Open { file, .. } = &candidate.contents {
                    file.sync_data()
                        .map_err(|error| broken(disk, "sync", &candidate.name, error))?;
                }
            }
            disk.sync_dir().map_err(|error| broken(disk, "sync", "", error))?;
            let max_evidence = all_evidence
                .iter()
                .map(|evidence| evidence.synced)
                .max_by_key(|synced| (synced.segment, synced.raft_index));
            return Ok(RecoveredLog {
                max_evidence,
                ..salvage(disk, maps, state, &candidates, &all_evidence, cause)?
            });
        }
        chain => chain?,
    };
    chain.sync(disk, &candidates, &all_evidence)?;
    obsolete.extend(
        candidates
            .iter()
            .enumerate()
            .filter(|(at, _)| !chain.links.iter().any(|link| link.at == *at))
            .map(|(_, obsolete)| obsolete.name.clone()),
    );
    let mut found = chain.into_log(disk, maps, state, candidates, newest)?;
    found.obsolete = obsolete;
    Ok(found)
}

/// Removes from `candidates`, which are sorted, those that begin at or before `base`: the log no
/// longer needs them, but their evidence still holds. Of two with the same id, the second is what
/// [`copy_suffix`](super::rewrite::copy_suffix) kept of the first, and counts when the first does
/// not. Returns their names.
fn remove_superseded<D: Disk>(candidates: &mut Vec<Candidate<D>>, base: u64) -> Vec<String> {
    let (mut outlived, mut newest) = (Vec::new(), None);
    candidates.retain(|candidate| {
        let counts = candidate.first > base && newest != Some(candidate.id);
        match counts {
            true => newest = Some(candidate.id),
            false => outlived.push(candidate.name.clone()),
        }
        counts
    });
    outlived
}

/// The chain, if no evidence contradicts it.
fn sound_chain<D: Disk>(
    disk: &D,
    state: &Metadata,
    candidates: &[Candidate<D>],
    all_evidence: &[DurabilityEvidence],
) -> Result<SegmentChain, StorageError> {
    if let Some((name, reason)) =
        candidates.iter().find_map(|candidate| Some((&candidate.name, candidate.bad_header?)))
    {
        return Err(corrupt(disk, name, 0, reason));
    }
    let mut chain = chain(disk, state, candidates)?;
    let contradicts = |evidence: &&DurabilityEvidence| !chain.agrees_with(evidence, state);
    if let Some(evidence) = all_evidence.iter().find(contradicts) {
        return Err(contradiction(disk, candidates, &chain, evidence));
    }
    if let Some(last) = chain.links.last() {
        chain.commit = candidates[last.at].header(disk, state.directory, last.end - 1)?.commit;
    }
    Ok(chain)
}

/// The candidates that make up the log, in order.
struct SegmentChain {
    links: Vec<ChainSegment>,
    base: u64,
    last: LogPoint,
    /// The newest commit that the last record knew of.
    commit: u64,
}

/// A candidate in the chain.
struct ChainSegment {
    /// Its place among the candidates.
    at: usize,
    id: u64,
    first: u64,
    /// The raft index after the last record that belongs to the log.
    end: u64,
    before: LogPoint,
}

impl ChainSegment {
    /// The last raft index of it that is known to be durable. 0 if none is.
    fn durable(&self, all_evidence: &[DurabilityEvidence]) -> u64 {
        let of_it = |evidence: &DurabilityEvidence| match evidence.synced.segment.cmp(&self.id) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => evidence.synced.raft_index,
            std::cmp::Ordering::Greater => self.end - 1,
        };
        all_evidence.iter().map(of_it).max().unwrap_or(0)
    }
}

/// Puts the candidates, which are sorted by id, into a chain. Those that do not continue it are
/// left out.
fn chain<D: Disk>(
    disk: &D,
    state: &Metadata,
    candidates: &[Candidate<D>],
) -> Result<SegmentChain, StorageError> {
    let mut left: Vec<usize> =
        (0..candidates.len()).filter(|&at| candidates[at].end() > candidates[at].first).collect();
    'again: loop {
        let mut chain = SegmentChain {
            links: Vec::new(),
            base: state.base.point.raft_index,
            last: state.base.point,
            commit: 0,
        };
        for (at, end) in newest_cover(candidates, &left) {
            let candidate = &candidates[at];
            // Without it, older ones may reach further: start over.
            if candidate.first != chain.last.raft_index + 1 || !candidate.continues(&chain.last) {
                left.retain(|other| *other != at);
                continue 'again;
            }
            let (before, end) = (chain.last, end.min(candidate.end()));
            chain.last = candidate.point(disk, state.directory, end - 1)?;
            chain.links.push(ChainSegment {
                at,
                id: candidate.id,
                first: candidate.first,
                end,
                before,
            });
        }
        return Ok(chain);
    }
}

impl SegmentChain {
    /// Whether the log holds the durable point of `evidence`, or was truncated before it since.
    /// After a repair the log may hold it elsewhere: in a newer segment, written from what peers
    /// sent; or before what was kept of the same segment, whose chain value then vouches for it. A
    /// log that was never repaired has neither: what begins a newer segment, or the same one later,
    /// was not durable before in this one.
    fn agrees_with(&self, evidence: &DurabilityEvidence, state: &Metadata) -> bool {
        let DurablePoint { raft_index, segment } = evidence.synced;
        raft_index <= self.base
            || segment < state.first_segment
            || self
                .links
                .iter()
                .any(|link| link.id >= segment && (link.first..link.end).contains(&raft_index))
            || self.links.iter().any(|link| link.id > evidence.at && link.first <= raft_index)
            || self.links.iter().any(|link| link.id == segment && raft_index < link.first)
    }

    /// Syncs what was accepted: a record that is only in the page cache must not count and then be
    /// lost.
    ///
    /// Records without evidence of durability are written again first: if an earlier run could not
    /// sync them, the kernel still shows them, considers them clean, and would report success
    /// without writing. The bytes are the same, so a torn write is harmless.
    fn sync<D: Disk>(
        &self,
        disk: &D,
        candidates: &[Candidate<D>],
        all_evidence: &[DurabilityEvidence],
    ) -> Result<(), StorageError> {
        for link in &self.links {
            let Candidate { name, contents, .. } = &candidates[link.at];
            if let CandidateContents::Open { file, scan } = contents {
                let durable = link.durable(all_evidence);
                let written =
                    scan.rewrite_unsynced(&**file, (durable + 1).saturating_sub(link.first));
                written.map_err(|error| failed(disk, "write", name, error))?;
                file.sync_data().map_err(|error| broken(disk, "sync", name, error))?;
            }
        }
        disk.sync_dir().map_err(|error| broken(disk, "sync", "", error))
    }

    fn into_log<D: Disk>(
        self,
        disk: &D,
        maps: &Arc<Maps<D>>,
        state: &Metadata,
        candidates: Vec<Candidate<D>>,
        newest: Option<u64>,
    ) -> Result<RecoveredLog<D>, StorageError> {
        let mut found = RecoveredLog {
            live: SegmentSet::new(state.base.clone()),
            last: self.last,
            commit: self.commit,
            tail: None,
            unsealed: Vec::new(),
            obsolete: Vec::new(),
            corruption: Vec::new(),
            missing_ranges: Vec::new(),
            bad_headers: Vec::new(),
            max_evidence: None,
        };
        let mut candidates: Vec<Option<Candidate<D>>> = candidates.into_iter().map(Some).collect();
        for (at, link) in self.links.iter().enumerate() {
            let candidate = candidates[link.at].take().expect("every candidate is linked once");
            let is_last = at + 1 == self.links.len();
            let segment = match candidate.contents {
                CandidateContents::Sealed(seal) => {
                    Arc::new(Segment::sealed(state.directory, seal, maps))
                }
                CandidateContents::Open { file, scan } => {
                    let map =
                        file.map().map_err(|error| failed(disk, "map", &candidate.name, error))?;
                    let segment = Arc::new(Segment::open(
                        state.directory,
                        link.id,
                        link.before,
                        scan.file_bytes,
                        map,
                        scan.records,
                    ));
                    // A newer segment, though obsolete, would supersede what is appended here. And
                    // nothing is written behind a torn record.
                    let clean = scan.clean;
                    let newest = newest == Some(link.id);
                    if is_last && clean && newest {
                        found.tail = Some(ActiveSegment::new(
                            segment.clone(),
                            file,
                            scan.file_bytes,
                            scan.end,
                        ));
                    } else {
                        found.unsealed.push(Unsealed {
                            segment: segment.clone(),
                            file,
                            end: scan.end,
                            change: 0,
                        });
                    }
                    segment
                }
            };
            found.live.segments.push(LiveSegment {
                segment,
                end: self.links.get(at + 1).map_or(u64::MAX, |next| next.first),
            });
        }
        Ok(found)
    }
}

/// The error for a contradiction: where the record should be.
fn contradiction<D: Disk>(
    disk: &D,
    candidates: &[Candidate<D>],
    chain: &SegmentChain,
    evidence: &DurabilityEvidence,
) -> StorageError {
    let DurablePoint { raft_index, segment } = evidence.synced;
    let reason = format!(
        "raft index {raft_index} was durable here, but the log cannot be read beyond {}",
        chain.last.raft_index
    );
    match candidates.iter().find(|candidate| candidate.id == segment) {
        Some(Candidate { name, contents: CandidateContents::Open { scan, .. }, .. }) => {
            corrupt(disk, name, scan.end, reason)
        }
        Some(Candidate { name, .. }) => corrupt(disk, name, 0, reason),
        None => corrupt(disk, "", 0, format!("segment {segment:016x} is missing: {reason}")),
    }
}
