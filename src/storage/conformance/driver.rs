//! One storage on trial: it is driven, and what it must hold is written down along the way.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use super::expected::{HeldBatches, Log, batch_after, span};
use super::{Harness, Rule};
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
    LogOwner { group: "conformance".into(), node: NodeId::from(2), cluster: 0xC0FFEE, membership }
}

/// One case of the suite and the bench that it runs on.
pub(super) struct Case<'a> {
    pub(super) name: &'static str,
    pub(super) harness: &'a mut dyn Harness,
    /// Whether the bench could do all that it was asked for.
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

    /// Opens the storage of which `past` is known, and finds out which moment of its past it came
    /// back to.
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

    /// Ends the trial with a power cut if the bench can stage one, else by closing the storage.
    pub(super) fn stop(&mut self, driver: StorageDriver) -> PossibleStates {
        self.staged &= self.harness.crash();
        driver.close()
    }
}

/// Something that the storage may be found to hold when it is opened again.
#[derive(Clone)]
struct StateSnapshot {
    log: Log,
    /// The raft index up to which the log of the moment before was kept.
    kept: u64,
    hard_state: HardState,
    peers: BTreeMap<NodeId, u128>,
}

impl StateSnapshot {
    /// The log of this moment as it was `recovered`, if it can be; up to raft index `floor` it must
    /// be whole.
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

/// What happened to a storage since its last sync.
pub(super) struct PossibleStates {
    /// The first is durable, the last is what readers see.
    moments: Vec<StateSnapshot>,
    /// The number of the first moment, counted from the beginning of the trial.
    first: usize,
    /// The highest commit that the storage was ever told.
    commit_max: u64,
    /// The marks of all that it was told to be committed.
    committed: BTreeMap<u64, LogPoint>,
    identity: Option<DirectoryIdentity>,
    /// How many batches were drawn.
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

    /// What a storage breaks that comes up with another log than one of these moments.
    fn rule(&self) -> Rule {
        if self.identity.is_none() { Rule::Open } else { Rule::BatchHeader }
    }

    /// The number of the newest moment.
    fn number(&self) -> usize {
        self.first + self.moments.len() - 1
    }

    /// Everything up to the moment `number` is durable.
    fn synced(&mut self, number: usize) {
        self.moments.drain(..number.saturating_sub(self.first));
        self.first = self.first.max(number);
        self.moments[0].kept = self.moments[0].log.last().raft_index;
    }

    /// Finds the moment that the storage came back to, which is durable from now on.
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

    /// Finds a moment whose log, cut off at some place, is what came back. What was purged may have
    /// come back as well.
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
                format!("it was opened with {found}; synced was {durable}, and taken {taken}"),
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
                    "it was opened with term {term} and vote {vote:?}, neither of {wanted:?} nor between"
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
                    "it was opened with commit {commit}, the log being {base} to {last} and {told} the most it was told"
                ),
            );
        }
        if commit > base && self.committed.get(&commit).copied() != log.point(commit) {
            let what = format!(
                "it was opened with commit {commit}, and the batch that it was told of is not the one that is there now"
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

/// An open storage and what it must hold. Every step is checked as it is made.
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

    /// Appends one batch for each of `sizes` behind the last.
    pub(super) fn append(&mut self, sizes: &[&[usize]]) {
        self.append_after(self.last(), sizes);
    }

    /// Appends one batch for each of `sizes` behind the batch `kept`, which cuts off what stands
    /// there.
    pub(super) fn append_after(&mut self, kept: u64, sizes: &[&[usize]]) {
        let batches = self.draw(kept, sizes);
        let commit = self.log().base().point.raft_index;
        let result = self.storage.append(&batches, commit);
        self.must(Rule::Append, "append", result);
        self.took(kept, batches);
    }

    /// Batches that can be appended behind the batch `kept`, one for each of `sizes`.
    pub(super) fn draw(&mut self, kept: u64, sizes: &[&[usize]]) -> Vec<Batch> {
        let mut point = self.log().point(kept).expect("the suite appends within its own list");
        // A crash may keep a batch and lose the term that came with it.
        let term = self.hard_state().term.max(point.term);
        let draw = |sizes: &&[usize]| {
            self.past.drawn += 1;
            let batch = batch_after(&point, term, self.past.drawn, sizes);
            point = batch.point_after(&point).expect("it was made to follow");
            batch
        };
        sizes.iter().map(draw).collect()
    }

    /// Notes that the storage took `batches` behind the batch `kept`.
    pub(super) fn took(&mut self, kept: u64, batches: Vec<Batch>) {
        let mut moment = StateSnapshot { kept, ..self.past.now().clone() };
        moment.log.cut(kept);
        batches.into_iter().for_each(|batch| moment.log.push(batch));
        self.step(Rule::Taken, moment);
    }

    pub(super) fn save_hard_state(&mut self, hard_state: HardState) {
        let result = self.storage.save_hard_state(hard_state);
        self.must(Rule::HardState, "save", result);
        self.saved(hard_state);
    }

    /// Notes that the storage took `hard_state`.
    pub(super) fn saved(&mut self, hard_state: HardState) {
        self.told(hard_state.commit);
        let moment = StateSnapshot { hard_state, kept: self.last(), ..self.past.now().clone() };
        self.step(Rule::Taken, moment);
    }

    /// A term has passed, and what is appended from here on belongs to the next one.
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

    /// Notes that the storage took the `directory` of `peer`.
    pub(super) fn remembered(&mut self, peer: u64, directory: u128) {
        let mut moment = StateSnapshot { kept: self.last(), ..self.past.now().clone() };
        moment.peers.insert(NodeId::from(peer), directory);
        self.step(Rule::Taken, moment);
    }

    pub(super) fn reset(&mut self, base: Base) {
        let result = self.storage.reset(&base);
        self.must(Rule::Reset, "reset", result);
        self.was_reset(base);
    }

    /// Notes that the storage was reset to `base`.
    pub(super) fn was_reset(&mut self, base: Base) {
        let moment = StateSnapshot {
            kept: base.point.raft_index,
            log: Log::new(base),
            ..self.past.now().clone()
        };
        self.step(Rule::Reset, moment);
    }

    /// Purges, and notes how far the storage chose to go.
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
                "purge({index}, {commit}) gave up everything below index {next_index}, up to raft index {raft_index}"
            );
            broken(self.case, Rule::Purge, what);
        }
        self.step(Rule::Purge, moment);
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) {
        let (sync, number) = self.begin_sync();
        let result = sync.wait();
        self.must(Rule::Taken, "the sync", result);
        self.synced(number);
    }

    /// Begins a sync; the number tells [`synced`](Trial::synced) what it covers.
    pub(super) fn begin_sync(&mut self) -> (Box<dyn PendingSync>, usize) {
        (self.storage.begin_sync(), self.past.number())
    }

    pub(super) fn synced(&mut self, number: usize) {
        self.past.synced(number);
        self.run_background_tasks();
        self.verify(Rule::Taken);
    }

    /// Notes a commit that the storage was told.
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

    /// Compares everything that the reader shows with what the log must hold.
    pub(super) fn verify(&self, rule: Rule) {
        if let Err(difference) = self.log().compare(&*self.reader) {
            broken(self.case, rule, difference);
        }
    }

    /// Everything in the log, to be looked at again later.
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

    /// Drops the storage. Its reader must still show what it showed.
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

    /// Does what the storage wants done elsewhere, here and now. A storage that never runs out of
    /// wishes is not waited for.
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
