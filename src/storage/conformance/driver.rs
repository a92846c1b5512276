//! Driver of a storage under test: makes the calls, and records the state that it must hold.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use super::by_position;
use super::expected::{HeldBatches, Log, batch_after, span};
use super::harness::Harness;
use super::rule::Rule;
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{
    Base, Batch, DirectoryIdentity, HardState, LogOwner, LogPoint, LogReader, PendingSync,
    Recovered, Storage, StorageError,
};

/// Reports a broken rule.
pub(super) fn broken(case: &str, rule: Rule, what: impl Display) -> ! {
    panic!("storage conformance, case \"{case}\": {what}. This breaks {rule}");
}

/// The owner of every log in the suite.
pub(super) fn owner() -> LogOwner {
    let membership = Membership::of_voters([1, 2, 3].map(NodeId::from));
    LogOwner::new("conformance", 2, 0xC0FFEE, membership)
}

/// One case of the suite, and the harness that it runs on.
pub(super) struct Case<'a> {
    pub(super) name: &'static str,
    pub(super) harness: &'a mut dyn Harness,
    /// Whether the harness could stage all that the case needs.
    pub(super) staged: bool,
}

impl<'a> Case<'a> {
    pub(super) fn new(name: &'static str, harness: &'a mut dyn Harness) -> Case<'a> {
        Case { name, harness, staged: true }
    }

    /// Opens a new storage.
    pub(super) fn begin(&mut self) -> StorageDriver {
        self.harness.fresh();
        self.reopen(PossibleStates::new())
    }

    /// Reopens the storage, and finds the one of its possible states that it has recovered.
    pub(super) fn reopen(&mut self, past: PossibleStates) -> StorageDriver {
        let mut storage = self.harness.handle();
        let recovered = match storage.open(&owner()) {
            Ok(recovered) => recovered,
            Err(error) => broken(self.name, past.rule(), format!("opening it failed: {error}")),
        };
        let reader = storage.reader();
        let past = past.settle(self.name, &recovered, &*reader);
        let mut driver = StorageDriver { case: self.name, storage, reader, past };
        driver.run_background_tasks();
        driver
    }

    /// Cuts the power if the harness can stage it, else closes the storage.
    pub(super) fn stop(&mut self, driver: StorageDriver) -> PossibleStates {
        self.staged &= self.harness.crash();
        driver.close()
    }
}

/// A state that a reopened storage may hold.
#[derive(Clone)]
struct StateSnapshot {
    log: Log,
    /// The raft index up to which the log of the previous state was kept.
    kept: u64,
    hard_state: HardState,
    peers: BTreeMap<NodeId, u128>,
}

impl StateSnapshot {
    /// The log of this state, cut to the `recovered` end, if that is possible; up to raft index
    /// `floor` it must be complete.
    fn recover(&self, recovered: &Recovered, floor: u64) -> Option<Log> {
        let mut log = self.log.clone();
        let last = recovered.last.raft_index;
        let not_beyond = recovered.base.point.raft_index <= self.log.base().point.raft_index;
        let fits = not_beyond
            && log.begin_at(&recovered.base)
            && log.point(last) == Some(recovered.last)
            && last >= floor;
        log.cut(last);
        fits.then_some(log)
    }
}

/// States of a storage since its last sync.
pub(super) struct PossibleStates {
    /// The first is durable, the last is what readers see.
    moments: Vec<StateSnapshot>,
    /// The number of the first state, counted from the beginning of the case.
    first: usize,
    /// The highest commit that the storage was given.
    commit_max: u64,
    /// The log points of all batches that it was given as committed.
    committed: BTreeMap<u64, LogPoint>,
    identity: Option<DirectoryIdentity>,
    /// Number of generated batches.
    drawn: u64,
}

impl PossibleStates {
    fn new() -> PossibleStates {
        let log = Log::new(Base { point: LogPoint::INITIAL, membership: owner().membership });
        let hard_state = HardState { term: 1, vote: None, commit: 1 };
        let moments = vec![StateSnapshot { log, kept: 1, hard_state, peers: BTreeMap::new() }];
        PossibleStates {
            moments,
            first: 0,
            commit_max: 1,
            committed: BTreeMap::new(),
            identity: None,
            drawn: 0,
        }
    }

    fn now(&self) -> &StateSnapshot {
        self.moments
            .last()
            .expect("there is a moment from the beginning on, and `synced` leaves one")
    }

    /// The rule that a storage breaks if it recovers another log than that of one of these states.
    fn rule(&self) -> Rule {
        if self.identity.is_none() { Rule::Open } else { Rule::Prefix }
    }

    /// The number of the newest state.
    fn number(&self) -> usize {
        self.first + self.moments.len() - 1
    }

    /// All states up to `number` are durable.
    fn synced(&mut self, number: usize) {
        self.moments.drain(..number.saturating_sub(self.first));
        self.first = self.first.max(number);
        self.moments[0].kept = self.moments[0].log.last().raft_index;
    }

    /// Finds the state that the storage has recovered, which is durable from now on.
    fn settle(
        self,
        case: &'static str,
        recovered: &Recovered,
        reader: &dyn LogReader,
    ) -> PossibleStates {
        self.check_identity(case, recovered);
        if let Some(corruption) = recovered.corruption.first() {
            broken(
                case,
                self.rule(),
                format!("nothing was damaged, and it says that {corruption}"),
            );
        }
        let log = self.find_log(case, recovered);
        if let Err(difference) = log.compare(reader) {
            broken(case, self.rule(), format!("after opening it {difference}"));
        }
        self.check_hard_state(case, recovered, &log);
        let peers = self.check_peers(case, recovered);
        let now = StateSnapshot {
            kept: log.last().raft_index,
            log,
            hard_state: recovered.hard_state,
            peers,
        };
        PossibleStates {
            moments: vec![now],
            first: self.number() + 1,
            identity: Some(recovered.identity),
            ..self
        }
    }

    fn check_identity(&self, case: &str, recovered: &Recovered) {
        let incarnation = self.identity.map_or(1, |before| before.incarnation + 1);
        let directory =
            self.identity.map_or(recovered.identity.directory, |before| before.directory);
        let wanted = DirectoryIdentity { directory, incarnation, complete: true };
        if recovered.identity != wanted {
            broken(
                case,
                Rule::Open,
                format!("it was opened as {:?} instead of {wanted:?}", recovered.identity),
            );
        }
    }

    /// Finds a state whose log, cut at some batch, is the recovered one. Purged batches may be back
    /// as well.
    fn find_log(&self, case: &str, recovered: &Recovered) -> Log {
        let mut floor = self.moments[0].log.last().raft_index;
        let mut found = None;
        for moment in &self.moments {
            floor = floor.min(moment.kept);
            found = moment.recover(recovered, floor).or(found);
        }
        found.unwrap_or_else(|| {
            let (found, durable, taken) = (
                span(&recovered.base, recovered.last),
                self.moments[0].log.span(),
                self.now().log.span(),
            );
            broken(
                case,
                self.rule(),
                format!("it was opened with {found}; synced: {durable}, accepted: {taken}"),
            )
        })
    }

    fn check_hard_state(&self, case: &str, recovered: &Recovered, log: &Log) {
        let HardState { term, vote, commit } = recovered.hard_state;
        if !self
            .moments
            .iter()
            .any(|moment| (moment.hard_state.term, moment.hard_state.vote) == (term, vote))
        {
            let wanted = (self.moments[0].hard_state, self.now().hard_state);
            broken(
                case,
                Rule::HardState,
                format!(
                    "it was opened with term {term} and vote {vote:?}, neither of {wanted:?} \
                     nor between"
                ),
            );
        }
        let (base, last) = (recovered.base.point.raft_index, recovered.last.raft_index);
        if commit < base || commit > last || commit > self.commit_max.max(base) {
            let told = self.commit_max;
            broken(
                case,
                Rule::Open,
                format!(
                    "it was opened with commit {commit}, the log being {base} to {last} and \
                     {told} the highest that it was given"
                ),
            );
        }
        if commit > base && self.committed.get(&commit).copied() != log.point(commit) {
            let what = format!(
                "it was opened with commit {commit}, and the batch that it named is not the one \
                 that is there now"
            );
            broken(case, Rule::HardState, what);
        }
    }

    fn check_peers(&self, case: &str, recovered: &Recovered) -> BTreeMap<NodeId, u128> {
        let found: BTreeMap<_, _> = recovered.peers.iter().copied().collect();
        let told = |(peer, directory)| {
            self.moments.iter().any(|moment| moment.peers.get(peer) == Some(directory))
        };
        let kept = self.moments[0].peers.keys().all(|peer| found.contains_key(peer));
        if found.len() != recovered.peers.len() || !found.iter().all(told) || !kept {
            let wanted = &self.moments[0].peers;
            broken(
                case,
                Rule::Peers,
                format!(
                    "it was opened with the peers {:x?} instead of {wanted:x?}",
                    recovered.peers
                ),
            );
        }
        found
    }
}

/// An open storage, and the state that it must hold. Each step is checked.
pub(super) struct StorageDriver {
    case: &'static str,
    pub(super) storage: Box<dyn Storage>,
    pub(super) reader: Arc<dyn LogReader>,
    past: PossibleStates,
}

impl StorageDriver {
    pub(super) fn log(&self) -> &Log {
        &self.past.now().log
    }

    pub(super) fn last(&self) -> u64 {
        self.log().last().raft_index
    }

    pub(super) fn hard_state(&self) -> HardState {
        self.past.now().hard_state
    }

    pub(super) fn identity(&self) -> DirectoryIdentity {
        self.past.identity.expect("it is known from the first opening on")
    }

    /// Appends one batch for each of `sizes` after the last.
    pub(super) fn append(&mut self, sizes: &[&[usize]]) {
        self.append_after(self.last(), sizes);
    }

    /// Appends one batch for each of `sizes` after the batch `kept`, and truncates those there.
    pub(super) fn append_after(&mut self, kept: u64, sizes: &[&[usize]]) {
        let batches = self.draw(kept, sizes);
        let commit = self.log().base().point.raft_index;
        let result = self.storage.append(&batches, commit);
        self.must(Rule::Append, "append", result);
        self.took(kept, batches);
    }

    /// Batches that can be appended after the batch `kept`, one for each of `sizes`.
    pub(super) fn draw(&mut self, kept: u64, sizes: &[&[usize]]) -> Vec<Batch> {
        let mut point = self.log().point(kept).expect("the suite appends within its own list");
        // A crash may keep a batch and lose its term.
        let term = self.hard_state().term.max(point.term);
        let draw = |sizes: &&[usize]| {
            self.past.drawn += 1;
            let batch = batch_after(&point, term, self.past.drawn, sizes);
            point = batch.point_after(&point).expect("it was made to follow");
            batch
        };
        sizes.iter().map(draw).collect()
    }

    /// Records that the storage accepted `batches` after the batch `kept`.
    pub(super) fn took(&mut self, kept: u64, batches: Vec<Batch>) {
        let mut moment = StateSnapshot { kept, ..self.past.now().clone() };
        moment.log.cut(kept);
        batches.into_iter().for_each(|batch| moment.log.push(batch));
        self.step(Rule::Accepted, moment);
    }

    pub(super) fn save_hard_state(&mut self, hard_state: HardState) {
        let result = self.storage.save_hard_state(hard_state);
        self.must(Rule::HardState, "save", result);
        self.saved(hard_state);
    }

    /// Records that the storage accepted `hard_state`.
    pub(super) fn saved(&mut self, hard_state: HardState) {
        self.told(hard_state.commit);
        let moment = StateSnapshot { hard_state, kept: self.last(), ..self.past.now().clone() };
        self.step(Rule::Accepted, moment);
    }

    /// Begins a new term for the batches that are appended from now on.
    pub(super) fn next_term(&mut self) {
        let HardState { term, commit, .. } = self.hard_state();
        self.save_hard_state(HardState {
            term: term + 1,
            vote: Some(NodeId::from(term % 3 + 1)),
            commit,
        });
    }

    pub(super) fn save_peer(&mut self, peer: u64, directory: u128) {
        let result = self.storage.save_peer(NodeId::from(peer), directory);
        self.must(Rule::Peers, "remember", result);
        self.remembered(peer, directory);
    }

    /// Records that the storage accepted the `directory` of `peer`.
    pub(super) fn remembered(&mut self, peer: u64, directory: u128) {
        let mut moment = StateSnapshot { kept: self.last(), ..self.past.now().clone() };
        moment.peers.insert(NodeId::from(peer), directory);
        self.step(Rule::Accepted, moment);
    }

    pub(super) fn reset(&mut self, base: Base) {
        let result = self.storage.reset(&base);
        self.must(Rule::Reset, "reset", result);
        self.was_reset(base);
    }

    /// Records that the storage was reset to `base`.
    pub(super) fn was_reset(&mut self, base: Base) {
        let moment = StateSnapshot {
            kept: base.point.raft_index,
            log: Log::new(base),
            ..self.past.now().clone()
        };
        self.step(Rule::Reset, moment);
    }

    /// Purges, and records how far the storage did.
    pub(super) fn purge(&mut self, index: u64, commit: u64) {
        let result = self.storage.purge(index, commit);
        self.must(Rule::Purge, "purge", result);
        self.told(commit);
        let (old, new) = (self.log().base(), self.reader.base());
        let mut moment = StateSnapshot { kept: self.last(), ..self.past.now().clone() };
        let LogPoint { raft_index, next_index, .. } = new.point;
        let too_far =
            new != old && (next_index > index.max(old.point.next_index) || raft_index > commit);
        if raft_index < old.point.raft_index || !moment.log.begin_at(&new) || too_far {
            let what = format!(
                "purge({index}, {commit}) purged all below index {next_index}, up to raft \
                 index {raft_index}"
            );
            broken(self.case, Rule::Purge, what);
        }
        self.step(Rule::Purge, moment);
    }

    /// For calls that change nothing that the driver knows of.
    pub(super) fn storage(&mut self) -> &mut dyn Storage {
        &mut *self.storage
    }

    /// Syncs all changes.
    pub(super) fn sync(&mut self) {
        let (sync, number) = self.begin_sync();
        let result = sync.wait();
        self.must(Rule::Accepted, "the sync", result);
        self.synced(number);
    }

    /// Begins a sync. The number is that of the state that it covers.
    pub(super) fn begin_sync(&mut self) -> (Box<dyn PendingSync>, usize) {
        (self.storage.begin_sync(), self.past.number())
    }

    pub(super) fn synced(&mut self, number: usize) {
        self.past.synced(number);
        self.run_background_tasks();
        self.verify(Rule::Accepted);
    }

    /// Records a commit that the storage was given.
    pub(super) fn told(&mut self, commit: u64) {
        let points = self
            .log()
            .points()
            .filter(|point| point.raft_index <= commit)
            .map(|point| (point.raft_index, point));
        let points: Vec<_> = points.collect();
        self.past.committed.extend(points);
        self.past.commit_max = self.past.commit_max.max(commit);
    }

    /// Compares all reads with the expected log.
    pub(super) fn verify(&self, rule: Rule) {
        let compared = self.log().compare(&*self.reader);
        if let Err(difference) =
            compared.and_then(|()| by_position::compare(self.log(), &*self.reader))
        {
            broken(self.case, rule, difference);
        }
    }

    /// All batches of the log, for a later comparison.
    pub(super) fn hold(&self) -> HeldBatches {
        let from = self.log().base().point.raft_index + 1;
        HeldBatches::new(self.must(
            Rule::Read,
            "batches",
            self.reader.batches(from, u64::MAX, u64::MAX),
        ))
    }

    pub(super) fn unchanged(&self, held: &HeldBatches) {
        if let Err(difference) = held.compare() {
            broken(self.case, Rule::Unchanged, difference);
        }
    }

    /// Drops the storage. Its reader must still return the same.
    pub(super) fn close(self) -> PossibleStates {
        let StorageDriver { case, storage, reader, past } = self;
        drop(storage);
        if let Err(difference) = past.now().log.compare(&*reader) {
            broken(case, Rule::Read, format!("after the storage was dropped {difference}"));
        }
        past
    }

    pub(super) fn must<T>(&self, rule: Rule, call: &str, result: Result<T, StorageError>) -> T {
        result.unwrap_or_else(|error| broken(self.case, rule, format!("{call} failed: {error}")))
    }

    /// Runs the background tasks of the storage at once, up to a limit.
    pub(super) fn run_background_tasks(&mut self) {
        for _ in 0..100 {
            let Some(background_task) = self.storage.next_task() else { break };
            background_task();
        }
    }

    fn step(&mut self, rule: Rule, moment: StateSnapshot) {
        self.past.moments.push(moment);
        self.run_background_tasks();
        self.verify(rule);
    }
}
