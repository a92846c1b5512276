//! Random histories: a storage is compared with the log in memory, the model.
//!
//! Both get the same calls. When the storage is reopened after a crash, the model returns to its
//! last sync and repeats the lost changes, one batch at a time, until it equals the storage. If it
//! never does, the storage has broken a rule.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::Harness;
use super::driver::owner;
use super::expected::batch_after;
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{
    Base, Batch, HardState, LogPoint, LogReader, MemoryLog, Recovered, Storage, StorageError,
};

/// One event of a history. Places are fractions, so that any history makes sense for any log.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Batches with payloads of these sizes, after the last.
    Append(Vec<Vec<usize>>),
    /// The same in a new term, anywhere after the commit.
    Cut(Index, Vec<Vec<usize>>),
    /// The commit advances.
    Commit(Index),
    Vote(u64),
    SavePeer(u64, u128),
    Purge(Index),
    Reset,
    Sync,
    FailedSync,
    /// The disk is full for a while, and then these batches are appended.
    Full(Vec<Vec<usize>>),
    Chores,
    Reopen,
    Crash,
}

/// Histories of up to `events_max` events.
pub(crate) fn histories(events_max: usize) -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(events(), 1..events_max)
}

fn events() -> impl Strategy<Value = Event> {
    let size = prop_oneof![4 => 0..40_usize, 2 => 400..600_usize, 1 => 4_000..5_000_usize];
    let batch = proptest::collection::vec(size, 0..5);
    let batches = || proptest::collection::vec(batch.clone(), 1..6);
    prop_oneof![
        12 => batches().prop_map(Event::Append),
        4 => (any::<Index>(), batches()).prop_map(|(at, batches)| Event::Cut(at, batches)),
        4 => any::<Index>().prop_map(Event::Commit),
        2 => (1..4_u64).prop_map(Event::Vote),
        1 => (1..4_u64, any::<u128>()).prop_map(|(peer, id)| Event::SavePeer(peer, id)),
        3 => any::<Index>().prop_map(Event::Purge),
        1 => Just(Event::Reset),
        8 => Just(Event::Sync),
        1 => Just(Event::FailedSync),
        2 => batches().prop_map(Event::Full),
        3 => Just(Event::Chores),
        3 => Just(Event::Reopen),
        4 => Just(Event::Crash),
    ]
}

/// Applies `history` to the storage of `harness` and to the model.
///
/// # Panics
/// If they differ.
pub(crate) fn live_through(harness: &mut dyn Harness, history: &[Event]) {
    let mut pair = Pair::new(harness);
    for event in history {
        pair.live(event);
        pair.compare();
    }
    pair.sync();
    pair.end(false);
    pair.compare();
}

/// A call that changes something.
#[derive(Clone, Debug)]
enum Change {
    Append(Vec<Batch>, u64),
    Save(HardState),
    SavePeer(NodeId, u128),
    Purge(u64, u64),
    Reset(Base),
}

fn make(storage: &mut dyn Storage, change: &Change) -> Result<(), StorageError> {
    match change {
        Change::Append(batches, commit) => storage.append(batches, *commit),
        Change::Save(hard_state) => storage.save_hard_state(*hard_state),
        Change::SavePeer(peer, directory) => storage.save_peer(*peer, *directory),
        Change::Purge(index, commit) => storage.purge(*index, *commit),
        Change::Reset(base) => storage.reset(base),
    }
}

/// A storage and the model, in the same state.
struct Pair<'a> {
    harness: &'a mut dyn Harness,
    /// `None` while it is being reopened.
    storage: Option<Box<dyn Storage>>,
    reader: Arc<dyn LogReader>,
    disk: MemoryLog,
    model: MemoryLog,
    /// Accepted changes since the last sync.
    unsynced: Vec<Change>,
    hard_state: HardState,
    /// The hard states and peers since the last sync.
    hard_states: Vec<HardState>,
    peers: Vec<Vec<(NodeId, u128)>>,
    /// The newest base that a purge or a reset may have led to.
    base_max: u64,
    incarnation: u64,
    drawn: u64,
}

impl Pair<'_> {
    fn new(harness: &mut dyn Harness) -> Pair<'_> {
        harness.fresh();
        let (mut storage, disk) = (harness.handle(), MemoryLog::new());
        let mut model = disk.clone();
        let recovered = storage.open(&owner()).unwrap();
        let wanted = model.open(&owner()).unwrap();
        assert_eq!(Recovered { identity: wanted.identity, ..recovered }, wanted);
        let hard_state = wanted.hard_state;
        Pair {
            harness,
            reader: storage.reader(),
            storage: Some(storage),
            disk,
            model,
            unsynced: Vec::new(),
            hard_state,
            hard_states: vec![hard_state],
            peers: vec![Vec::new()],
            base_max: 1,
            incarnation: 1,
            drawn: 0,
        }
    }

    fn storage(&mut self) -> &mut dyn Storage {
        &mut **self.storage.as_mut().expect("it is missing only while it is reopened")
    }

    fn live(&mut self, event: &Event) {
        match event {
            Event::Append(sizes) => self.append(self.last(), sizes),
            Event::Cut(at, sizes) => {
                self.vote(1);
                let committed = self.committed();
                let kept =
                    committed + at.index((self.last().raft_index - committed) as usize + 1) as u64;
                let kept = self
                    .model
                    .reader()
                    .point(kept)
                    .unwrap()
                    .expect("between the committed and the last");
                self.append(kept, sizes);
            }
            Event::Commit(at) => {
                let committed = self.committed();
                self.hard_state.commit =
                    committed + at.index((self.last().raft_index - committed) as usize + 1) as u64;
            }
            Event::Vote(vote) => self.vote(*vote),
            Event::SavePeer(peer, directory) => {
                _ = self.change(Change::SavePeer(NodeId::from(*peer), *directory))
            }
            Event::Purge(at) => {
                let index = at.index(self.last().next_index as usize + 2) as u64;
                self.change(Change::Purge(index, self.committed()));
            }
            Event::Reset => self.reset(),
            Event::Sync => self.sync(),
            Event::FailedSync => self.failed_sync(),
            Event::Full(sizes) => self.full(sizes),
            Event::Chores => self.background_tasks(),
            Event::Reopen => self.end(false),
            Event::Crash => self.end(true),
        }
    }

    fn append(&mut self, mut point: LogPoint, sizes: &[Vec<usize>]) {
        let mut batches = Vec::new();
        // A crash may keep a batch and lose its term.
        let term = self.hard_state.term.max(point.term);
        for sizes in sizes {
            self.drawn += 1;
            let batch = batch_after(&point, term, self.drawn, sizes);
            point = batch.point_after(&point).unwrap();
            batches.push(batch);
        }
        self.change(Change::Append(batches, self.committed()));
    }

    fn vote(&mut self, vote: u64) {
        let HardState { term, commit, .. } = self.hard_state;
        let hard_state = HardState { term: term + 1, vote: Some(NodeId::from(vote)), commit };
        if self.change(Change::Save(hard_state)) {
            self.hard_state = hard_state;
        }
    }

    fn reset(&mut self) {
        let last = self.last();
        let point = LogPoint {
            raft_index: last.raft_index + 100,
            next_index: last.next_index + 1_000,
            chain: !last.chain,
            ..last
        };
        let membership = Membership::of_voters([1, 2, 3, point.raft_index].map(NodeId::from));
        self.change(Change::Reset(Base { point, membership }));
    }

    fn full(&mut self, sizes: &[Vec<usize>]) {
        self.harness.fill(true);
        self.append(self.last(), sizes);
        self.vote(2);
        self.append(self.last(), sizes);
        self.compare();
        self.harness.fill(false);
        self.append(self.last(), sizes);
    }

    /// Applies a change to the storage, and to the model unless the disk was full. Returns whether
    /// it was applied.
    fn change(&mut self, change: Change) -> bool {
        match make(self.storage(), &change) {
            Ok(()) => {}
            Err(StorageError::Full { .. }) => return false,
            Err(error) => panic!("{change:?} failed: {error}"),
        }
        make(&mut self.model, &change).unwrap();
        self.note(&change);
        self.unsynced.push(change);
        true
    }

    fn note(&mut self, change: &Change) {
        match change {
            Change::Save(hard_state) => self.hard_states.push(*hard_state),
            Change::SavePeer(peer, directory) => {
                let mut peers = self.peers.last().cloned().unwrap_or_default();
                peers.retain(|(known, _)| known != peer);
                peers.push((*peer, *directory));
                peers.sort_unstable();
                self.peers.push(peers);
            }
            Change::Purge(..) | Change::Reset(_) => {
                self.base_max = self.base_max.max(self.model.reader().base().point.raft_index)
            }
            Change::Append(..) => {}
        }
    }

    fn sync(&mut self) {
        self.storage().begin_sync().wait().unwrap();
        self.model.begin_sync().wait().unwrap();
        self.unsynced.clear();
        self.hard_states.drain(..self.hard_states.len() - 1);
        self.peers.drain(..self.peers.len() - 1);
    }

    fn failed_sync(&mut self) {
        self.vote(1); // a sync without changes has nothing to do, and cannot fail
        if self.harness.fail_next_sync() {
            assert!(self.storage().begin_sync().wait().is_err(), "the harness made it fail");
            let hard_state = self.hard_state;
            assert!(matches!(
                self.storage().save_hard_state(hard_state),
                Err(StorageError::Poisoned(_))
            ));
            self.compare();
            self.end(false);
        }
    }

    fn background_tasks(&mut self) {
        for _ in 0..100 {
            let Some(background_task) = self.storage().next_task() else { break };
            background_task();
        }
    }

    /// Closes or crashes the storage, reopens it, and moves the model to the recovered state.
    fn end(&mut self, crash: bool) {
        if crash {
            self.harness.crash();
        }
        drop(self.storage.take());
        let mut storage = self.harness.handle();
        let recovered = storage.open(&owner()).unwrap();
        self.incarnation += 1;
        assert_eq!(recovered.identity.incarnation, self.incarnation);
        self.reader = storage.reader();
        self.storage = Some(storage);
        self.follow(&recovered);
    }

    fn follow(&mut self, recovered: &Recovered) {
        self.disk.crash();
        self.model = self.disk.clone();
        self.model.open(&owner()).unwrap();
        let lost: Vec<Change> = self.unsynced.drain(..).flat_map(one_batch_at_a_time).collect();
        let mut lost = lost.iter();
        while !self.is_at(recovered) {
            let change = lost.next().unwrap_or_else(|| {
                panic!("{recovered:?} is no state between the synced and the accepted one")
            });
            make(&mut self.model, change).unwrap();
        }
        self.take_over(recovered);
        self.model.begin_sync().wait().unwrap();
    }

    /// Whether the log of the model is the one that was recovered.
    fn is_at(&self, recovered: &Recovered) -> bool {
        let reader = self.model.reader();
        let point = recovered.last;
        reader.base().membership == recovered.base.membership
            && matches!(reader.point(point.raft_index), Ok(Some(found)) if found == point)
            && matches!(reader.point(point.raft_index + 1), Ok(None))
    }

    /// Term, vote and peers may be lost independently of the log.
    fn take_over(&mut self, recovered: &Recovered) {
        let HardState { term, vote, commit } = recovered.hard_state;
        assert!(
            self.hard_states.iter().any(|saved| (saved.term, saved.vote) == (term, vote)),
            "{term}, {vote:?} of {:?}",
            self.hard_states
        );
        assert!(
            recovered.base.point.raft_index <= commit && commit <= recovered.last.raft_index,
            "{recovered:?}"
        );
        let mut peers = recovered.peers.clone();
        peers.sort_unstable();
        assert!(self.peers.contains(&peers), "{peers:?} of {:?}", self.peers);
        peers.iter().for_each(|(peer, directory)| self.model.save_peer(*peer, *directory).unwrap());
        self.model.save_hard_state(recovered.hard_state).unwrap();
        let commit = commit.max(self.hard_state.commit).min(recovered.last.raft_index);
        self.hard_state = HardState { commit, ..recovered.hard_state };
        self.hard_states = vec![recovered.hard_state];
        self.peers = vec![peers];
    }

    fn last(&self) -> LogPoint {
        let reader = self.model.reader();
        let base = reader.base().point;
        let batches = reader.batches(base.raft_index + 1, u64::MAX, u64::MAX).unwrap();
        batches.last().map_or(base, |batch| reader.point(batch.raft_index()).unwrap().unwrap())
    }

    fn committed(&self) -> u64 {
        self.hard_state
            .commit
            .clamp(self.model.reader().base().point.raft_index, self.last().raft_index)
    }

    /// Compares the reads of both, from the later base on. A storage purges in larger steps than
    /// the model.
    fn compare(&self) {
        let (storage, model) = (&self.reader, self.model.reader());
        let (purged, base, last) = (storage.base(), model.base(), self.last().raft_index);
        assert!(
            purged.point.raft_index <= self.base_max && purged.membership == base.membership,
            "{purged:?} is beyond {}",
            self.base_max
        );
        let from = purged.point.raft_index.max(base.point.raft_index);
        for raft_index in from..=last + 1 {
            assert_eq!(storage.point(raft_index).unwrap(), model.point(raft_index).unwrap());
        }
        let read = |reader: &dyn LogReader| reader.batches(from + 1, u64::MAX, u64::MAX).unwrap();
        assert!(read(&**storage) == read(&*model), "other batches than the model has");
        for batch in read(&*model) {
            batch.verify().unwrap();
            for index in [batch.first_index(), batch.end_index()].into_iter().flatten() {
                assert_eq!(
                    storage.batch_containing(index).unwrap(),
                    model.batch_containing(index).unwrap(),
                    "the batch with entry {index}"
                );
            }
        }
    }
}

/// A crash may have kept the first batches of an append.
fn one_batch_at_a_time(change: Change) -> Vec<Change> {
    match change {
        Change::Append(batches, commit) => {
            batches.into_iter().map(|batch| Change::Append(vec![batch], commit)).collect()
        }
        change => vec![change],
    }
}

mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    use super::super::mutants::{Fault, FaultyHarness};
    use super::*;

    fn run(fault: Option<Fault>, cases: u32) -> bool {
        let config =
            Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let mut runner =
            TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let lived = |history: Vec<Event>| {
            let lived = catch_unwind(AssertUnwindSafe(|| {
                live_through(&mut FaultyHarness::new(fault), &history)
            }));
            lived.map_err(|_| TestCaseError::fail("they differ"))
        };
        runner.run(&histories(60), lived).is_ok()
    }

    #[test]
    fn the_model_agrees_with_itself_through_any_history() {
        assert!(run(None, 200));
    }

    #[test]
    fn a_history_finds_a_storage_that_is_not_like_the_model() {
        for fault in [
            Fault::IncarnationStandsStill,
            Fault::LosesTheFirstPeer,
            Fault::SavesTheOneBefore,
            Fault::TakesNothingOfALongAppend,
            Fault::PurgesBeyondCommit,
            Fault::ResetDoesNothing,
            Fault::SyncsNothing,
            Fault::SyncsLate,
            Fault::HidesAFailedSync,
            Fault::FullTakesTheFirst,
            Fault::FullIsFinal,
        ] {
            assert!(!run(Some(fault), 200), "{fault:?} was not found");
        }
    }
}
