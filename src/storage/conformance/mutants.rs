//! Tests of the suite: a correct storage with one fault at a time, and the rule that the suite must
//! name.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::rule::Rule;
use super::{Harness, run};
use crate::entry::NodeId;
use crate::storage::{
    Base, Batch, DirectoryIdentity, HardState, LogOwner, LogPoint, LogReader, MemoryLog,
    PendingSync, Recovered, SegmentInfo, Storage, StorageError,
};

/// Faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    OtherDirectoryEachTime,
    IncarnationStandsStill,
    AdmitsStrangers,
    LosesTheFirstPeer,
    KeepsTheDirectory,
    ForgetsThatItIsNotComplete,
    CommitBeyondTheLog,
    CommitOutlivesItsBatches,
    ForgetsTheVote,
    SavesTheOneBefore,
    ReaderDiesWithTheStorage,
    TakesBatchesOutOfLine,
    TakesHalfOfWhatIsOutOfLine,
    TakesNothingOfALongAppend,
    GivesNothingBeyondBytesMax,
    IgnoresBytesMax,
    IgnoresTo,
    ShowsNothingPurged,
    ShowsAMarkBehindTheLast,
    FindsTheBatchAfter,
    PurgesBeyondCommit,
    PurgesBeyondIndex,
    ResetKeepsTheMembership,
    ResetDoesNothing,
    SyncsNothing,
    SyncsLate,
    HidesAFailedSync,
    GoesOnAfterAFailedSync,
    FullTakesTheFirst,
    FullIsFinal,
    TakesASecondGroupUid,
    ForgetsTheGroupUidLater,
    FindsTheByteAfter,
    FindsALaterTime,
    BeginsAtZero,
    TellsOfSegmentsWithAGap,
    AgesByTheWallClock,
}

/// Each fault, the rule that it breaks, and the case that detects it first.
#[rustfmt::skip]
const FAULTS: &[(Fault, Rule, &str)] = &[
    (Fault::OtherDirectoryEachTime,     Rule::Open,       "opened again"),
    (Fault::IncarnationStandsStill,     Rule::Open,       "opened again"),
    (Fault::AdmitsStrangers,            Rule::Open,       "another's log"),
    (Fault::LosesTheFirstPeer,          Rule::Peers,      "hard state and peers"),
    (Fault::KeepsTheDirectory,          Rule::Complete,   "a log that is not complete"),
    (Fault::ForgetsThatItIsNotComplete, Rule::Complete,   "a log that is not complete"),
    (Fault::CommitBeyondTheLog,         Rule::Open,       "hard state and peers"),
    (Fault::CommitOutlivesItsBatches,   Rule::HardState,  "a crash after every step"),
    (Fault::ForgetsTheVote,             Rule::HardState,  "control records"),
    (Fault::SavesTheOneBefore,          Rule::HardState,  "control records"),
    (Fault::ReaderDiesWithTheStorage,   Rule::Read,       "a new log"),
    (Fault::TakesBatchesOutOfLine,      Rule::Append,     "batches out of line"),
    (Fault::TakesHalfOfWhatIsOutOfLine, Rule::Append,     "batches out of line"),
    (Fault::TakesNothingOfALongAppend,  Rule::Accepted,      "payloads of every size"),
    (Fault::GivesNothingBeyondBytesMax, Rule::Accepted,      "opened again"),
    (Fault::IgnoresBytesMax,            Rule::Read,       "the bounds of a read"),
    (Fault::IgnoresTo,                  Rule::Read,       "the bounds of a read"),
    (Fault::ShowsNothingPurged,         Rule::Open,       "a new log"),
    (Fault::ShowsAMarkBehindTheLast,    Rule::Open,       "a new log"),
    (Fault::FindsTheBatchAfter,         Rule::Accepted,      "opened again"),
    (Fault::PurgesBeyondCommit,         Rule::Purge,      "purge"),
    (Fault::PurgesBeyondIndex,          Rule::Purge,      "purge"),
    (Fault::ResetKeepsTheMembership,    Rule::Reset,      "reset"),
    (Fault::ResetDoesNothing,           Rule::Reset,      "reset"),
    (Fault::SyncsNothing,               Rule::Prefix,     "syncs under way"),
    (Fault::SyncsLate,                  Rule::Prefix,     "syncs under way"),
    (Fault::HidesAFailedSync,           Rule::FailedSync, "a failed sync"),
    (Fault::GoesOnAfterAFailedSync,     Rule::FailedSync, "a failed sync"),
    (Fault::FullTakesTheFirst,          Rule::Full,       "a full disk"),
    (Fault::FullIsFinal,                Rule::Full,       "a full disk"),
    (Fault::TakesASecondGroupUid,       Rule::GroupUid,   "the unique id of a group"),
    (Fault::ForgetsTheGroupUidLater,    Rule::GroupUid,   "the unique id of a group"),
    (Fault::FindsTheByteAfter,          Rule::Accepted,   "opened again"),
    (Fault::FindsALaterTime,            Rule::Accepted,   "opened again"),
    (Fault::BeginsAtZero,               Rule::Open,       "the first position of a group"),
    (Fault::TellsOfSegmentsWithAGap,    Rule::Segments,   "segments"),
    (Fault::AgesByTheWallClock,         Rule::Segments,   "segments"),
];

#[test]
fn every_fault_is_found_and_laid_to_the_rule_that_it_breaks() {
    for &(fault, rule, case) in FAULTS {
        let verdict = catch_unwind(AssertUnwindSafe(|| run(&mut FaultyHarness::new(Some(fault)))));
        let said =
            verdict.expect_err(&format!("{fault:?} was not found")).downcast::<String>().unwrap();
        assert!(
            said.contains(&rule.to_string()),
            "{fault:?} was laid to another rule than {rule:?}: {said}"
        );
        assert!(
            said.contains(&format!("case {case:?}")),
            "{fault:?} was found in another case than {case:?}: {said}"
        );
    }
}

#[test]
fn with_nothing_broken_nothing_is_found() {
    assert_eq!(run(&mut FaultyHarness::new(None)), [""; 0]);
}

pub(super) struct FaultyHarness {
    fault: Option<Fault>,
    disk: MemoryLog,
    /// The newest commit that any handle was given.
    commit: Arc<AtomicU64>,
}

impl FaultyHarness {
    pub(super) fn new(fault: Option<Fault>) -> FaultyHarness {
        FaultyHarness { fault, disk: MemoryLog::new(), commit: Arc::default() }
    }
}

impl Harness for FaultyHarness {
    fn fresh(&mut self) {
        self.disk = MemoryLog::new();
        self.commit = Arc::default();
    }

    fn handle(&mut self) -> Box<dyn Storage> {
        let (inner, commit) = (self.disk.clone(), self.commit.clone());
        Box::new(FaultyStorage {
            fault: self.fault,
            inner,
            commit,
            late: None,
            failed: false,
            saved: None,
            made_as: 0,
            alive: Arc::default(),
        })
    }

    fn crash(&mut self) -> bool {
        self.disk.crash();
        true
    }

    fn fail_next_sync(&mut self) -> bool {
        self.disk.fail_next_sync();
        true
    }

    fn fill(&mut self, full: bool) -> bool {
        self.disk.set_full(full);
        true
    }
}

/// A [`MemoryLog`] with a fault.
struct FaultyStorage {
    fault: Option<Fault>,
    inner: MemoryLog,
    commit: Arc<AtomicU64>,
    /// A sync that should have been returned already.
    late: Option<Box<dyn PendingSync>>,
    failed: bool,
    /// The directory id at the opening.
    made_as: u128,
    /// The hard state that was saved last.
    saved: Option<HardState>,
    /// Lives as long as the storage.
    alive: Arc<()>,
}

impl Storage for FaultyStorage {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        let mut recovered = match self.inner.open(owner) {
            Err(StorageError::Mismatch { .. }) if self.fault == Some(Fault::AdmitsStrangers) => {
                self.inner.open(&super::driver::owner())?
            }
            other => other?,
        };
        self.made_as = recovered.identity.directory;
        match self.fault {
            Some(Fault::OtherDirectoryEachTime) => {
                recovered.identity.directory += u128::from(recovered.identity.incarnation)
            }
            Some(Fault::ForgetsTheGroupUidLater) if recovered.identity.incarnation > 2 => {
                recovered.group_uid = 0
            }
            Some(Fault::BeginsAtZero) if recovered.base.point.next_index == 0 => {
                recovered.base.point.next_position = 0
            }
            Some(Fault::IncarnationStandsStill) => recovered.identity.incarnation = 1,
            Some(Fault::LosesTheFirstPeer) if recovered.peers.len() > 1 => {
                _ = recovered.peers.remove(0)
            }
            Some(Fault::CommitOutlivesItsBatches) => {
                let Recovered { hard_state, last, .. } = &mut recovered;
                hard_state.commit =
                    self.commit.load(Ordering::Relaxed).clamp(hard_state.commit, last.raft_index);
            }
            Some(Fault::CommitBeyondTheLog) if recovered.hard_state.term > 9 => {
                recovered.hard_state.commit = u64::MAX
            }
            _ => {}
        }
        Ok(recovered)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(SabotagedReader {
            fault: self.fault,
            inner: self.inner.reader(),
            storage: Arc::downgrade(&self.alive),
        })
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        match (self.inner.append(batches, commit), self.fault) {
            (Err(StorageError::NotContiguous(_)), Some(Fault::TakesBatchesOutOfLine)) => Ok(()),
            (
                Err(error @ StorageError::NotContiguous(_)),
                Some(Fault::TakesHalfOfWhatIsOutOfLine),
            ) => {
                let _ = self.inner.append(&batches[..batches.len() - 1], commit);
                Err(error)
            }
            (Ok(()), Some(Fault::TakesNothingOfALongAppend)) if batches.len() > 2 => {
                let point = self.inner.reader().point(batches[0].raft_index() - 1)?.unwrap();
                let base = Base { point, membership: self.inner.reader().base().membership };
                self.inner.reset(&base)
            }
            (Err(error @ StorageError::Full { .. }), Some(Fault::FullTakesTheFirst)) => {
                self.inner.set_full(false);
                self.inner.append(&batches[..1], commit)?;
                self.inner.set_full(true);
                Err(error)
            }
            (Err(error @ StorageError::Full { .. }), Some(Fault::FullIsFinal)) => {
                self.failed = true;
                Err(error)
            }
            (Ok(()), Some(Fault::FullIsFinal)) if self.failed => {
                Err(StorageError::Poisoned("it was full once".into()))
            }
            (Err(StorageError::Poisoned(_)), Some(Fault::GoesOnAfterAFailedSync)) => Ok(()),
            (other, _) => other,
        }
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        let before = self.saved.replace(hard_state);
        self.commit.store(hard_state.commit, Ordering::Relaxed);
        match self.fault {
            Some(Fault::ForgetsTheVote) => {
                self.inner.save_hard_state(HardState { vote: None, ..hard_state })
            }
            Some(Fault::SavesTheOneBefore) => {
                before.map_or(Ok(()), |before| self.inner.save_hard_state(before))
            }
            _ => self.inner.save_hard_state(hard_state),
        }
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        match self.fault {
            Some(Fault::ResetKeepsTheMembership) => {
                let membership = self.inner.reader().base().membership;
                self.inner.reset(&Base { membership, ..base.clone() })
            }
            Some(Fault::ResetDoesNothing) => Ok(()),
            _ => self.inner.reset(base),
        }
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        match self.fault {
            Some(Fault::PurgesBeyondCommit) => self.inner.purge(index, u64::MAX),
            Some(Fault::PurgesBeyondIndex) => self.inner.purge(index.saturating_add(4), commit),
            _ => self.inner.purge(index, commit),
        }
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.inner.save_peer(peer, directory)
    }

    fn pass_time(&mut self, open_for: Duration, unix_ms: u64) {
        match self.fault {
            Some(Fault::AgesByTheWallClock) => {
                self.inner.pass_time(Duration::from_millis(unix_ms >> 1), unix_ms)
            }
            _ => self.inner.pass_time(open_for, unix_ms),
        }
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        let mut segments = self.inner.segments();
        if self.fault == Some(Fault::TellsOfSegmentsWithAGap) && segments.len() > 2 {
            segments.remove(1);
        }
        segments
    }

    fn close_segment(&mut self) -> Result<(), StorageError> {
        self.inner.close_segment()
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        let before = self.made_as;
        match self.fault {
            Some(Fault::KeepsTheDirectory) => self
                .inner
                .set_complete(complete)
                .map(|identity| DirectoryIdentity { directory: before, ..identity }),
            Some(Fault::ForgetsThatItIsNotComplete) => {
                let marked = self.inner.set_complete(complete)?;
                self.inner.set_complete(true).map(|_| marked)
            }
            _ => self.inner.set_complete(complete),
        }
    }

    fn save_group_uid(&mut self, uid: u128) -> Result<(), StorageError> {
        match (self.inner.save_group_uid(uid), self.fault) {
            (Err(StorageError::InvalidState(_)), Some(Fault::TakesASecondGroupUid)) => Ok(()),
            (other, _) => other,
        }
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        let sync = self.inner.begin_sync();
        match self.fault {
            Some(Fault::SyncsNothing) => Box::new(FakeSync(None)),
            Some(Fault::SyncsLate) => Box::new(FakeSync(self.late.replace(sync))),
            Some(Fault::HidesAFailedSync) => Box::new(FakeSync(Some(sync))),
            _ => sync,
        }
    }
}

/// Reports success, whatever the result of the sync in it.
struct FakeSync(Option<Box<dyn PendingSync>>);

impl PendingSync for FakeSync {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        let _ = self.0.map(|sync| sync.wait());
        Ok(())
    }
}

/// Has what a storage must have, and for the rest the defaults of the trait.
struct Bare<'a>(&'a dyn LogReader);

impl LogReader for Bare<'_> {
    fn base(&self) -> Base {
        self.0.base()
    }

    fn batch_containing(&self, index: u64) -> Result<Option<Batch>, StorageError> {
        self.0.batch_containing(index)
    }

    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        self.0.batches(from, to, bytes_max)
    }

    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
        self.0.point(raft_index)
    }
}

struct SabotagedReader {
    fault: Option<Fault>,
    inner: Arc<dyn LogReader>,
    storage: Weak<()>,
}

impl LogReader for SabotagedReader {
    fn base(&self) -> Base {
        self.inner.base()
    }

    fn batch_containing(&self, index: u64) -> Result<Option<Batch>, StorageError> {
        match (self.inner.batch_containing(index), self.fault) {
            (Ok(Some(batch)), Some(Fault::FindsTheBatchAfter))
                if batch.end_index() == Some(index + 1) =>
            {
                self.inner.batch_containing(index + 1)
            }
            (Err(StorageError::Purged { .. }), Some(Fault::ShowsNothingPurged)) => Ok(None),
            (other, _) => other,
        }
    }

    fn batch_at(&self, position: u64) -> Result<Option<Batch>, StorageError> {
        let position = match self.fault {
            Some(Fault::FindsTheByteAfter) => position.saturating_add(1),
            _ => position,
        };
        Bare(&*self.inner).batch_at(position)
    }

    fn first_index_since(&self, timestamp: u64) -> Result<Option<u64>, StorageError> {
        let timestamp = match self.fault {
            Some(Fault::FindsALaterTime) => timestamp.saturating_add(1),
            _ => timestamp,
        };
        Bare(&*self.inner).first_index_since(timestamp)
    }

    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        match self.fault {
            Some(Fault::IgnoresBytesMax) => self.inner.batches(from, to, u64::MAX),
            Some(Fault::IgnoresTo) if to > from + 1 => {
                self.inner.batches(from, u64::MAX, bytes_max)
            }
            Some(Fault::GivesNothingBeyondBytesMax) if bytes_max == 0 => Ok(Vec::new()),
            Some(Fault::ShowsNothingPurged) => {
                self.inner.batches(from, to, bytes_max).or(Ok(Vec::new()))
            }
            _ => self.inner.batches(from, to, bytes_max),
        }
    }

    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
        match (self.inner.point(raft_index), self.fault) {
            (Ok(_), Some(Fault::ReaderDiesWithTheStorage)) if self.storage.strong_count() == 0 => {
                Ok(None)
            }
            (Ok(None), Some(Fault::ShowsAMarkBehindTheLast)) => self.inner.point(raft_index - 1),
            (other, _) => other,
        }
    }
}
