//! One engine, turn by turn, on a log that fails on demand.

#![expect(clippy::unwrap_used, reason = "every part of this is a test")]

mod appends;
mod damaged;
mod ends;
mod full_disk;
mod members;
mod reading;
mod refused;
mod rejoining;
mod sleeping;
mod storage;

use super::appends::HOLD;
use super::*;
use crate::batch::LogPoint;
use crate::error::{PurgeError, ShutdownError};
use crate::fork::Home;
use crate::future::{AppendFuture, Appended};
use crate::message::Message;
use crate::primitives::Mutex;
use crate::primitives::channel::{Sender, unbounded};
use crate::reply::{Reply, Response, reply};
use crate::role::{Membership, Status};
use crate::sequencer::{Limits, Sequencer};
use crate::storage::reads::FailingReader;
use crate::storage::{
    BackupError, Base, Corruption, LogOwner, LogReader, MemoryLog, PendingBackup, PendingSync,
    RepairAction,
};
use crate::transport::TransportContext;

const TICK: Duration = Duration::from_millis(10);
const ELECTION_TICKS: usize = 10;
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What a log does at its next write of a kind.
#[derive(Clone, Copy, Default)]
struct Refusals {
    append: bool,
    save: bool,
    remember: bool,
    set_complete: bool,
    purge: bool,
    repair: bool,
    /// Not a refusal: it wants a sync ahead of its time.
    is_behind: bool,
    /// The disk has no room; or it takes no write at all.
    is_full: bool,
}

/// A log in memory that refuses calls on demand.
struct Log {
    memory: MemoryLog,
    reads: Arc<FailingReader>,
    refusals: Arc<Mutex<Refusals>>,
    /// What is damaged. Without batches of peers only that is repaired which is no batch.
    corruption: Vec<Corruption>,
    opened: Option<Recovered>,
}

impl Log {
    /// Refuses once if that is wanted.
    fn take(&self, wanted: impl Fn(&mut Refusals) -> &mut bool) -> Result<(), StorageError> {
        let mut refusals = self.refusals.lock();
        let is_full = refusals.is_full;
        if !std::mem::take(wanted(&mut refusals)) {
            return Ok(());
        }
        let path = "(memory)".into();
        Err(if is_full {
            StorageError::Full { path }
        } else {
            StorageError::Poisoned("as the test wants it".to_owned())
        })
    }
}

impl Storage for Log {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        let recovered = self.memory.open(owner)?;
        self.opened = Some(recovered.clone());
        Ok(Recovered { corruption: self.corruption.clone(), ..recovered })
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.reads.clone()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.append)?;
        self.memory.append(batches, commit)
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.save)?;
        self.memory.save_hard_state(hard_state)
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.memory.reset(base)
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.purge)?;
        self.memory.purge(index, commit)
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.remember)?;
        self.memory.save_peer(peer, directory)
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        self.take(|refusals| &mut refusals.set_complete)?;
        self.memory.set_complete(complete)
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        self.memory.begin_sync()
    }

    fn is_behind(&self) -> bool {
        self.refusals.lock().is_behind
    }

    /// Tells what was asked for.
    fn begin_backup(&mut self, commit: u64) -> Result<Box<dyn PendingBackup>, BackupError> {
        Err(StorageError::NotContiguous(format!("up to {commit}")).into())
    }

    fn repair(&mut self, repair_action: RepairAction<'_>) -> Result<Recovered, StorageError> {
        self.take(|refusals| &mut refusals.repair)?;
        let Some(opened) = self.opened.clone().filter(|_| !self.corruption.is_empty()) else {
            return Err(StorageError::InvalidState("nothing is wrong with it".to_owned()));
        };
        let fills = matches!(repair_action, RepairAction::Fill(batches) if !batches.is_empty());
        self.corruption.retain(|corruption| !corruption.raft_indexes.is_empty() && !fills);
        Ok(Recovered { corruption: self.corruption.clone(), ..opened })
    }
}

/// What left a node.
#[derive(Default)]
struct Sent {
    messages: Vec<Message>,
    is_stopped: bool,
    /// As what the node speaks since it was last introduced.
    identity: Option<DirectoryIdentity>,
}

struct Wire(Arc<Mutex<Sent>>);

impl Transport for Wire {
    fn start(&mut self, _: TransportContext) -> std::io::Result<()> {
        Ok(())
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        self.0.lock().messages.append(messages);
    }

    fn introduce(&mut self, identity: DirectoryIdentity) {
        self.0.lock().identity = Some(identity);
    }

    fn stop(&mut self) {
        self.0.lock().is_stopped = true;
    }
}

/// An engine with all that it talks to.
struct Harness {
    engine: Engine,
    shared: Arc<NodeShared>,
    inputs: Sender<Input>,
    refusals: Arc<Mutex<Refusals>>,
    log: MemoryLog,
    reads: Arc<FailingReader>,
    owner: LogOwner,
    sent: Arc<Mutex<Sent>>,
    syncs: Receiver<SyncJob>,
    roles: Receiver<Status>,
    now: Now,
}

impl Harness {
    /// Node 1 of nodes 1 to `voters`.
    fn new(voters: u64) -> Harness {
        Harness::with(voters, None)
    }

    fn with(voters: u64, flush_interval: Option<Duration>) -> Harness {
        Harness::open(voters, flush_interval, MemoryLog::new(), Vec::new(), |_, _| {}).unwrap()
    }

    /// Node 1 of nodes 1 to `voters`, whose messages carry no more than this.
    fn with_messages(voters: u64, message_bytes: u64) -> Harness {
        Harness::begin(voters, None, message_bytes, MemoryLog::new(), Vec::new(), |_, _| {})
            .unwrap()
    }

    /// Begins on what `memory` holds, which is found damaged so, when `prepare` has been at it.
    fn open(
        voters: u64,
        flush_interval: Option<Duration>,
        memory: MemoryLog,
        corruption: Vec<Corruption>,
        prepare: fn(&FailingReader, &mut Refusals),
    ) -> Result<Harness, StorageError> {
        Harness::begin(voters, flush_interval, 1 << 20, memory, corruption, prepare)
    }

    fn begin(
        voters: u64,
        flush_interval: Option<Duration>,
        message_bytes: u64,
        memory: MemoryLog,
        corruption: Vec<Corruption>,
        prepare: fn(&FailingReader, &mut Refusals),
    ) -> Result<Harness, StorageError> {
        let node = NodeId::from(1);
        let ids = (1..=voters).map(NodeId::from);
        let addresses: Vec<(NodeId, String)> =
            ids.clone().map(|id| (id, format!("host-{id}:1"))).collect();
        let owner = LogOwner {
            group: "test".to_owned(),
            node,
            cluster: 1,
            membership: Membership::of_voters(ids),
        };
        let refusals: Arc<Mutex<Refusals>> = Arc::default();
        let log = memory.clone();
        let reads = Arc::new(FailingReader::new(memory.reader()));
        let mut storage = Log {
            memory,
            reads: reads.clone(),
            refusals: Arc::clone(&refusals),
            corruption,
            opened: None,
        };
        let recovered = storage.open(&owner)?;
        prepare(&reads, &mut refusals.lock());
        let (inputs, engine_inputs) = unbounded();
        let wake = inputs.clone();
        let limits = Limits { entry: 1000, batch: 1000, window: 1000 };
        let sequencer = Sequencer::new(limits, move || drop(wake.send(Input::Appends)));
        let shared =
            NodeShared::new("test", node, &addresses, "", sequencer, &recovered, storage.reader())?;
        let shared = Arc::new(shared);
        let (sync_jobs, syncs) = unbounded();
        let (background_tasks, _) = unbounded();
        let (role_changes, roles) = unbounded();
        let work = WorkSenders { syncs: sync_jobs, background_tasks, roles: role_changes };
        let settings = EngineSettings {
            replica: Settings {
                group: "test".to_owned(),
                node,
                election_ticks: ELECTION_TICKS,
                heartbeat_ticks: 2,
                message_bytes,
                counts_unsynced: flush_interval.is_some(),
                catch_up_bytes: u64::MAX,
                seed: 1,
                new_group_uid: 0,
            },
            tick: TICK,
            flush_interval,
            append_timeout: APPEND_TIMEOUT,
            sleep_after: None,
            addresses,
        };
        let sent = Arc::default();
        let wire = Box::new(Wire(Arc::clone(&sent)));
        let engine = Engine::new(
            settings,
            engine_inputs,
            shared.clone(),
            work,
            &recovered,
            Box::new(storage),
            wire,
        )?;
        let now = Now { elapsed: Duration::ZERO, unix_ms: 1000 };
        Ok(Harness { engine, shared, inputs, refusals, log, reads, owner, sent, syncs, roles, now })
    }

    /// One node alone, which leads.
    fn alone() -> Harness {
        let mut harness = Harness::new(1);
        harness.work();
        assert_eq!(harness.shared.status().role, Role::Leader);
        harness
    }

    /// Node 1 of 3, which nodes 2 and 3 have elected.
    fn leader() -> Harness {
        let mut harness = Harness::new(3);
        while harness.sent().is_empty() {
            harness.tick();
        }
        harness.hear("pre-vote-response from=2 to=1 term=2");
        harness.work();
        harness.hear("vote-response from=2 to=1 term=2");
        harness.work();
        harness.hear("append-response from=2 to=1 term=2 index=2");
        harness.work();
        assert_eq!(harness.shared.status().role, Role::Leader);
        harness.sent();
        harness
    }

    fn turn(&mut self) {
        self.engine.turn(self.now);
    }

    /// Turns and syncs until there is nothing more to do at this moment.
    fn work(&mut self) {
        self.turn();
        while self.sync() || !self.engine.inputs().is_empty() {
            self.turn();
        }
    }

    /// Carries out the oldest sync that was asked for.
    fn sync(&mut self) -> bool {
        let Ok(job) = self.syncs.try_recv() else { return false };
        self.input(Input::Synced(job.number, job.pending.wait()));
        true
    }

    fn pass(&mut self, time: Duration) {
        self.now.elapsed += time;
        self.now.unix_ms += time.as_millis() as u64;
    }

    /// After this nothing is held back.
    fn pass_hold(&mut self) {
        self.pass(HOLD);
        self.turn();
    }

    fn tick(&mut self) {
        self.pass(TICK);
        self.work();
    }

    fn input(&self, input: Input) {
        self.inputs.send(input).unwrap();
    }

    fn hear(&self, message: &str) {
        let words: Vec<&str> = message.split_whitespace().collect();
        let message = Message::forge(&words);
        assert!(self.shared.reserve_inbox(&message));
        self.input(Input::TransportEvent(TransportEvent::Message(message)));
    }

    fn append(&self, payload: &str) -> AppendFuture {
        self.shared.sequencer.append(payload.as_bytes(), None)
    }

    /// What left since this was last asked, in the words of a transcript.
    fn sent(&self) -> Vec<String> {
        self.sent.lock().messages.drain(..).map(|message| format!("{message:?}")).collect()
    }

    /// The next writes of the kinds that `which` names find no room.
    fn fill(&self, which: impl FnOnce(&mut Refusals)) {
        let mut refusals = Refusals { is_full: true, ..Refusals::default() };
        which(&mut refusals);
        *self.refusals.lock() = refusals;
    }

    /// The next writes of the kinds that `which` names fail for good.
    fn spoil(&self, which: impl FnOnce(&mut Refusals)) {
        let mut refusals = Refusals::default();
        which(&mut refusals);
        *self.refusals.lock() = refusals;
    }

    fn command<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Response<T> {
        let (reply, answer) = reply(Home::default());
        self.input(Input::Command(command(reply)));
        answer
    }

    fn barrier(&self, id: u64) -> Response<Result<u64, BarrierError>> {
        self.command(|reply| Command::Barrier { id, timeout: None, reply })
    }

    fn stop(&mut self) -> Result<(), ShutdownError> {
        let answer = self.command(|reply| Command::Stop { hand_over: None, reply });
        self.turn();
        answer.try_recv().unwrap()
    }

    /// What is found if the power fails now and the log is opened again.
    fn recovered(&mut self) -> Recovered {
        self.log.crash();
        self.log.clone().open(&self.owner).unwrap()
    }

    /// The roles that were reported since this was last asked.
    fn reported(&self) -> Vec<(Role, Option<NodeId>)> {
        std::iter::from_fn(|| self.roles.try_recv().ok())
            .map(|status| (status.role, status.leader))
            .collect()
    }
}

fn outcome(future: &AppendFuture) -> Option<Result<Appended, AppendError>> {
    future.wait_timeout(Duration::ZERO)
}

fn is_open(future: &AppendFuture) -> bool {
    outcome(future).is_none()
}

#[test]
fn a_node_alone_leads_at_its_first_tick_and_an_append_is_acknowledged_when_it_is_durable() {
    let mut harness = Harness::new(1);
    harness.work();
    let me = Some(NodeId::from(1));
    assert_eq!(harness.reported().last(), Some(&(Role::Leader, me)));
    let future = harness.append("hello");
    harness.turn();
    assert!(is_open(&future), "it is written, and no more");
    assert_eq!((harness.shared.watermark.end(), harness.shared.status().end_index), (0, 1));
    harness.pass_hold();
    assert_eq!(harness.engine.wake_at(), harness.engine.next_tick);
    harness.work();
    let appended = outcome(&future).unwrap().unwrap();
    assert_eq!((appended.index, appended.position, appended.term), (0, 0, 2));
    assert_eq!((harness.shared.watermark.end(), harness.shared.sequencer.in_flight()), (1, 0));
    let entry = harness.shared.reader.entry(0).unwrap().unwrap();
    assert_eq!((&entry[..], entry.timestamp()), (&b"hello"[..], 1000));
    assert!(harness.engine.in_flight.is_empty());
}

#[test]
fn ticks_that_were_missed_are_skipped_but_for_two() {
    let mut harness = Harness::new(3);
    harness.work();
    harness.pass(1000 * TICK);
    harness.work();
    assert!(harness.sent().is_empty(), "it forgot time enough for many elections");
    assert_eq!(harness.engine.wake_at(), harness.now.elapsed + TICK);
    let mut ticks = 0;
    while harness.sent().is_empty() {
        harness.tick();
        ticks += 1;
    }
    assert!((ELECTION_TICKS - 3..2 * ELECTION_TICKS).contains(&ticks), "{ticks}");
}

#[test]
fn an_idle_leader_sleeps_over_every_second_tick_and_one_with_work_does_not() {
    let mut harness = Harness::alone();
    harness.tick();
    assert_eq!(harness.engine.wake_at(), harness.engine.next_tick + TICK);
    let next = harness.engine.next_tick;
    harness.turn();
    assert_eq!(harness.engine.next_tick, next, "no time has passed");
    let future = harness.append("x");
    harness.turn();
    assert!(is_open(&future));
    harness.pass_hold();
    assert_eq!(harness.engine.wake_at(), harness.engine.next_tick);
    harness.work();
    assert_eq!(harness.engine.wake_at(), harness.engine.next_tick + TICK);
    // Both ticks of the two pass.
    let next = harness.engine.next_tick;
    harness.now.elapsed = next + TICK;
    harness.turn();
    assert_eq!(harness.engine.next_tick, next + 2 * TICK);
    // A node that waits for a point needs every tick.
    let mut harness = Harness::leader();
    harness.pass(COMMIT_NOTICE_DELAY);
    harness.work();
    assert_eq!(harness.engine.wake_at(), harness.engine.next_tick + TICK);
    let _answer = harness.barrier(1);
    harness.turn();
    assert_eq!(harness.engine.wake_at(), harness.engine.next_tick);
}

#[test]
fn others_are_told_of_a_commit_after_a_pause_unless_a_batch_tells_them() {
    let mut harness = Harness::leader();
    harness.pass(COMMIT_NOTICE_DELAY);
    harness.work();
    harness.sent();
    let future = harness.append("one");
    harness.work();
    harness.sent();
    harness.hear("append-response from=2 to=1 term=2 index=3");
    harness.work();
    assert!(outcome(&future).unwrap().is_ok());
    assert!(
        !harness.sent().iter().any(|message| message.starts_with("1->3")),
        "they are not told at once"
    );
    assert_eq!(harness.engine.wake_at(), harness.now.elapsed + COMMIT_NOTICE_DELAY);
    harness.turn();
    assert_eq!(
        harness.engine.wake_at(),
        harness.now.elapsed + COMMIT_NOTICE_DELAY,
        "the pause begins once"
    );
    harness.pass(COMMIT_NOTICE_DELAY);
    harness.turn();
    assert!(harness.sent().iter().any(|message| message.ends_with("commit 3")));
    assert!(harness.engine.wake_at() >= harness.engine.next_tick, "all is reported");
}

#[test]
fn an_append_times_out_once_and_not_before_and_may_commit_yet() {
    let mut harness = Harness::leader();
    let first = harness.append("first");
    harness.turn();
    harness.pass(TICK);
    let second = harness.append("second");
    harness.turn();
    let late = harness.now.elapsed - TICK + APPEND_TIMEOUT;
    while harness.engine.next_tick < late {
        assert!(is_open(&first));
        harness.hear("append-response from=2 to=1 term=2 index=2");
        harness.tick();
    }
    harness.hear("append-response from=2 to=1 term=2 index=2");
    harness.now.elapsed = late;
    harness.work();
    assert!(matches!(outcome(&first), Some(Err(AppendError::TimedOut(APPEND_TIMEOUT)))));
    assert!(is_open(&second));
    assert!(harness.shared.sequencer.in_flight() > 0, "it is still under way");
    harness.hear("append-response from=2 to=1 term=2 index=4");
    harness.work();
    assert!(outcome(&second).unwrap().is_ok());
    assert_eq!((harness.shared.watermark.end(), harness.shared.sequencer.in_flight()), (2, 0));
    harness.tick();
    assert!(harness.engine.ages.is_empty());
}

#[test]
fn what_a_deposed_leader_had_under_way_times_out_as_unknown() {
    let mut harness = Harness::leader();
    let under_way = harness.append("x");
    harness.turn();
    harness.hear("heartbeat from=3 to=1 term=3 commit=2");
    harness.work();
    assert!(is_open(&under_way), "the next leader may have it");
    let refused = outcome(&harness.append("y")).unwrap().unwrap_err();
    let AppendError::NotLeader { leader, address, .. } = refused else { panic!("{refused}") };
    assert_eq!((leader, address.as_deref()), (Some(NodeId::from(3)), Some("host-3:1")));
    for _ in 0..APPEND_TIMEOUT.as_millis() / TICK.as_millis() {
        harness.hear("heartbeat from=3 to=1 term=3 commit=2");
        harness.tick();
    }
    assert!(matches!(outcome(&under_way), Some(Err(AppendError::OutcomeUnknown))));
}

#[test]
fn a_failed_sync_a_failed_write_and_a_panic_end_the_part_of_a_node() {
    type Fail = (&'static str, fn(&mut Harness));
    let fail: [Fail; 4] = [
        ("a sync failed", |harness| {
            let job = harness.syncs.try_recv().unwrap();
            harness.input(Input::Synced(job.number, Err(StorageError::Poisoned("x".to_owned()))));
        }),
        ("took no write", |harness| {
            harness.spoil(|refusals| refusals.append = true);
            drop(harness.append("y"));
        }),
        ("took no write", |harness| {
            harness.spoil(|refusals| refusals.remember = true);
            harness.input(Input::TransportEvent(TransportEvent::PeerIdentified {
                peer: NodeId::from(2),
                directory: 7,
            }));
        }),
        ("it panicked", |harness| harness.input(Input::Panicked("it panicked".to_owned()))),
    ];
    for (reason, fail) in fail {
        let mut harness = Harness::leader();
        harness.reported();
        let under_way = harness.append("x");
        let barrier = harness.barrier(1);
        harness.turn();
        harness.pass(HOLD);
        fail(&mut harness);
        harness.turn();
        harness.turn();
        let status = harness.shared.status();
        assert!(status.fault.as_ref().is_some_and(|fault| fault.contains(reason)), "{status:?}");
        assert_eq!((status.role, status.leader), (Role::Follower, None));
        assert_eq!(harness.reported(), [(Role::Follower, None)]);
        assert!(harness.sent.lock().is_stopped);
        assert!(outcome(&under_way).unwrap().unwrap_err().may_have_committed());
        assert!(matches!(barrier.try_recv(), Ok(Err(BarrierError::Failed { .. }))));
        assert!(matches!(outcome(&harness.append("z")), Some(Err(AppendError::Failed { .. }))));
        assert_eq!(
            (harness.shared.sequencer.in_flight(), harness.engine.wake_at()),
            (0, Duration::MAX)
        );
        // It takes no part in anything, and answers every request.
        harness.sent();
        harness.hear("heartbeat from=3 to=1 term=9");
        (0..50).for_each(|_| harness.tick());
        let barrier = harness.barrier(2);
        let purge = harness.command(|reply| Command::Purge { index: 1, reply });
        let transfer = harness.command(|reply| Command::Transfer { to: NodeId::from(2), reply });
        harness.turn();
        assert!(matches!(barrier.try_recv(), Ok(Err(BarrierError::Failed { .. }))));
        assert!(matches!(purge.try_recv(), Ok(Err(PurgeError::Failed { .. }))));
        assert!(matches!(transfer.try_recv(), Ok(Err(TransferError::Failed { .. }))));
        harness.input(Input::Panicked("once more".to_owned()));
        harness.turn();
        assert_eq!(
            (harness.shared.status().fault, harness.reported().len()),
            (status.fault, 0),
            "the first reason stays"
        );
        assert_eq!((harness.shared.status().term, harness.sent().len()), (status.term, 0));
        assert!(matches!(harness.stop(), Err(ShutdownError::Failed { .. })));
        assert!(harness.engine.is_stopped());
    }
}

#[test]
fn a_batch_that_is_not_taken_is_lost_and_the_leader_counts_anew() {
    let mut harness = Harness::alone();
    // As after a leadership that ended and began again before the sequencer learned of it.
    harness.shared.sequencer.open(7, 7, 0);
    let lost = harness.append("out of line");
    harness.work();
    assert!(outcome(&lost).unwrap().is_err_and(|error| !error.may_have_committed()));
    let future = harness.append("in line");
    harness.work();
    assert_eq!(outcome(&future).unwrap().unwrap().index, 0);
}

#[test]
fn under_an_asynchronous_policy_the_log_is_synced_every_interval_if_something_was_written() {
    let interval = Duration::from_millis(100);
    let mut harness = Harness::with(1, Some(interval));
    harness.work();
    harness.now.elapsed = interval;
    harness.work();
    assert!(!harness.engine.dirty && harness.syncs.is_empty());
    let future = harness.append("x");
    harness.turn();
    assert!(outcome(&future).unwrap().is_ok(), "it counts once it is written");
    assert!(harness.syncs.is_empty() && harness.engine.dirty);
    assert_eq!(
        harness.engine.wake_at(),
        interval,
        "after a while without a write it is synced at once"
    );
    harness.work();
    assert!(!harness.engine.dirty);
    drop(harness.append("y"));
    harness.turn();
    let due = harness.engine.next_flush;
    assert_eq!(due, 2 * interval);
    harness.now.elapsed = due - Duration::from_nanos(1);
    harness.turn();
    assert!(harness.syncs.is_empty() && harness.engine.dirty);
    assert_eq!(harness.engine.wake_at(), due);
    harness.now.elapsed = due;
    harness.turn();
    assert_eq!(
        (harness.syncs.len(), harness.engine.dirty, harness.engine.next_flush),
        (1, false, due + interval)
    );
}

#[test]
fn a_barrier_is_answered_forgotten_and_refused() {
    let mut harness = Harness::alone();
    drop(harness.append("x"));
    harness.work();
    let answer = harness.barrier(1);
    harness.work();
    assert_eq!(answer.try_recv().unwrap().unwrap(), 1);
    let mut harness = Harness::leader();
    let forgotten = harness.barrier(2);
    let kept = harness.barrier(3);
    harness.input(Input::Command(Command::ForgetBarrier { id: 2 }));
    harness.turn();
    assert_eq!(harness.engine.barriers.len(), 1);
    assert!(harness.stop().is_ok());
    assert!(forgotten.try_recv().is_err(), "its caller no longer waits");
    assert!(matches!(kept.try_recv(), Ok(Err(BarrierError::Stopped))));
    let late = harness.barrier(4);
    harness.turn();
    assert!(matches!(late.try_recv(), Ok(Err(BarrierError::Stopped))));
}
