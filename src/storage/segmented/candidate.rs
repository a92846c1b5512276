//! A segment file as opening finds it: what it holds, and what it says about durability.

use std::sync::Arc;

use super::error::failed;
use super::file_io::read_full;
use super::format::{self, DurablePoint, PAGE_BYTES, RecordHeader, Seal, SegmentHeaderError};
use super::fs::Disk;
use super::scan::{Scan, scan};
use super::segment::{Maps, Segment};
use crate::log_prefix::log_prefix;
use crate::storage::{LogPoint, StorageError};

/// One segment file.
pub(super) struct Candidate<D: Disk> {
    pub(super) id: u64,
    pub(super) first: u64,
    pub(super) name: String,
    pub(super) contents: CandidateContents<D>,
    /// What is wrong with its header, unless a valid seal makes that irrelevant.
    pub(super) bad_header: Option<&'static str>,
}

pub(super) enum CandidateContents<D: Disk> {
    Sealed(Seal),
    Open { file: Arc<D::File>, scan: Box<Scan> },
}

/// While segment `at` was written, the log was already durable up to `synced`.
pub(super) struct DurabilityEvidence {
    pub(super) at: u64,
    pub(super) synced: DurablePoint,
}

impl<D: Disk> Candidate<D> {
    pub(super) fn read(
        disk: &D,
        directory: u128,
        id: u64,
        first: u64,
    ) -> Result<Candidate<D>, StorageError> {
        let (name, seed) = (format::segment_name(id, first), format::checksum_seed(directory, id));
        let read_failed = |error| failed(disk, "read", &name, error);
        let file = disk.open(&name).map_err(read_failed)?;
        let mut page = [0; PAGE_BYTES];
        read_full(&file, &mut page, 0).map_err(read_failed)?;
        let bad_header = match format::check_segment_header(&page, directory) {
            Ok(()) => None,
            Err(SegmentHeaderError::Corrupt(reason)) => Some(reason),
            Err(SegmentHeaderError::UnknownVersion(found)) => {
                return Err(StorageError::UnknownVersion {
                    path: disk.path(&name),
                    found,
                    known: format::VERSION,
                });
            }
            Err(SegmentHeaderError::UnknownFeatures(found)) => {
                return Err(StorageError::UnknownFeatures { path: disk.path(&name), found });
            }
        };
        if let Some(seal) = Seal::decode(&page, id, first, seed) {
            if let Some(reason) = bad_header {
                let path = disk.path(&name);
                log::warn!("{}{}: {reason}; its seal is intact", log_prefix(), path.display());
            }
            return Ok(Candidate {
                id,
                first,
                name,
                contents: CandidateContents::Sealed(seal),
                bad_header: None,
            });
        }
        let contents = CandidateContents::Open {
            scan: Box::new(scan(disk, &file, &name, id, seed, first)?),
            file: Arc::new(file),
        };
        Ok(Candidate { id, first, name, contents, bad_header })
    }

    /// The raft index after the last record of its intact prefix.
    pub(super) fn end(&self) -> u64 {
        match &self.contents {
            CandidateContents::Sealed(seal) => seal.last.raft_index + 1,
            CandidateContents::Open { scan, .. } => self.first + scan.records.len(),
        }
    }

    pub(super) fn evidence(&self) -> DurabilityEvidence {
        let synced = match &self.contents {
            CandidateContents::Sealed(seal) => {
                DurablePoint { raft_index: seal.last.raft_index, segment: self.id }
            }
            CandidateContents::Open { scan, .. } => scan.synced,
        };
        DurabilityEvidence { at: self.id, synced }
    }

    /// Whether its first record directly follows `before`.
    pub(super) fn continues(&self, before: &LogPoint) -> bool {
        match &self.contents {
            CandidateContents::Sealed(seal) => seal.before == *before,
            CandidateContents::Open { scan, .. } => scan
                .head
                .as_ref()
                .is_some_and(|(header, batch)| batch.point_after(before) == Ok(header.point)),
        }
    }

    /// The log point after its record `raft_index`.
    pub(super) fn point(
        &self,
        disk: &D,
        directory: u128,
        raft_index: u64,
    ) -> Result<LogPoint, StorageError> {
        match &self.contents {
            CandidateContents::Sealed(seal) if raft_index == seal.last.raft_index => Ok(seal.last),
            _ => self.header(disk, directory, raft_index).map(|header| header.point),
        }
    }

    /// The header of its record `raft_index`.
    pub(super) fn header(
        &self,
        disk: &D,
        directory: u128,
        raft_index: u64,
    ) -> Result<RecordHeader, StorageError> {
        let ordinal = raft_index - self.first;
        match &self.contents {
            CandidateContents::Sealed(seal) => {
                let segment = Arc::new(Segment::sealed(directory, *seal, &Maps::new(1)));
                segment.record(disk, ordinal).map(|(header, _)| header)
            }
            CandidateContents::Open { file, scan } => {
                let seed = format::checksum_seed(directory, self.id);
                scan.header(disk, file, &self.name, self.id, seed, ordinal)
            }
        }
    }
}

/// The candidates of `left`, in order, that no newer one supersedes; with each the raft index at
/// which the next one begins.
pub(super) fn newest_cover<D: Disk>(
    candidates: &[Candidate<D>],
    left: &[usize],
) -> Vec<(usize, u64)> {
    let mut newest_cover = Vec::new();
    let mut bound = u64::MAX;
    for &at in left.iter().rev().filter(|&&at| candidates[at].first < u64::MAX) {
        if candidates[at].first < bound {
            newest_cover.push((at, bound));
            bound = candidates[at].first;
        }
    }
    newest_cover.reverse();
    newest_cover
}
