//! One engine, turn by turn, on a log that fails when it is told to.

#![expect(clippy::unwrap_used, reason = "every part of this is a test")]

mod damaged;
mod ends;
mod members;
mod reading;
mod refused;
mod rejoining;
mod storage;

use super::*;
use crate::batch::Mark;
use crate::fork::Home;
use crate::future::{AppendFuture, Appended};
use crate::message::Message;
use crate::primitives::Mutex;
use crate::primitives::channel::unbounded;
use crate::reply::{Response, reply};
use crate::role::Membership;
use crate::sequencer::{Limits, Sequencer};
use crate::storage::reads::Reads;
use crate::storage::{Base, Damage, Genesis, LogReader, MemoryLog, PendingSync, Remedy};
use crate::transport::Seat;

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
    mend: bool,
    /// Not a refusal: it wants a sync ahead of its time.
    is_behind: bool,
    /// The disk has no room; or it takes no write at all.
    is_full: bool,
}

/// A log in memory that refuses what it is told to refuse.
struct Log {
    memory: MemoryLog,
    reads: Arc<Reads>,
    refusals: Arc<Mutex<Refusals>>,
    /// What is damaged. Without batches of peers only that is mended which is no batch.
    damage: Vec<Damage>,
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
        Err(if is_full { StorageError::Full { path } } else { StorageError::Poisoned("as the test wants it".to_owned()) })
    }
}

impl Storage for Log {
    fn open(&mut self, genesis: &Genesis) -> Result<Recovered, StorageError> {
        let recovered = self.memory.open(genesis)?;
        self.opened = Some(recovered.clone());
        Ok(Recovered { damage: self.damage.clone(), ..recovered })
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.reads.clone()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.append)?;
        self.memory.append(batches, commit)
    }

    fn save(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.save)?;
        self.memory.save(hard_state)
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.memory.reset(base)
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.purge)?;
        self.memory.purge(index, commit)
    }

    fn remember(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.remember)?;
        self.memory.remember(peer, directory)
    }

    fn set_complete(&mut self, complete: bool) -> Result<Identity, StorageError> {
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
        Err(StorageError::OutOfLine(format!("up to {commit}")).into())
    }

    fn mend(&mut self, remedy: Remedy<'_>) -> Result<Recovered, StorageError> {
        self.take(|refusals| &mut refusals.mend)?;
        let Some(opened) = self.opened.clone().filter(|_| !self.damage.is_empty()) else {
            return Err(StorageError::OutOfLine("nothing is wrong with it".to_owned()));
        };
        let fills = matches!(remedy, Remedy::Fill(batches) if !batches.is_empty());
        self.damage.retain(|damage| !damage.raft_indexes.is_empty() && !fills);
        Ok(Recovered { damage: self.damage.clone(), ..opened })
    }
}

/// What left a node.
#[derive(Default)]
struct Sent {
    messages: Vec<Message>,
    is_stopped: bool,
    /// As what the node speaks since it was last introduced.
    identity: Option<Identity>,
}

struct Wire(Arc<Mutex<Sent>>);

impl Transport for Wire {
    fn start(&mut self, _: Seat) -> std::io::Result<()> {
        Ok(())
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        self.0.lock().messages.append(messages);
    }

    fn introduce(&mut self, identity: Identity) {
        self.0.lock().identity = Some(identity);
    }

    fn stop(&mut self) {
        self.0.lock().is_stopped = true;
    }
}

/// An engine with all that it talks to.
struct Desk {
    engine: Engine,
    shared: Arc<Shared>,
    inputs: Sender<Input>,
    refusals: Arc<Mutex<Refusals>>,
    log: MemoryLog,
    reads: Arc<Reads>,
    genesis: Genesis,
    sent: Arc<Mutex<Sent>>,
    syncs: Receiver<SyncJob>,
    roles: Receiver<Status>,
    now: Now,
}

impl Desk {
    /// Node 1 of nodes 1 to `voters`.
    fn new(voters: u64) -> Desk {
        Desk::with(voters, None)
    }

    fn with(voters: u64, flush_interval: Option<Duration>) -> Desk {
        Desk::open(voters, flush_interval, MemoryLog::new(), Vec::new(), |_, _| {}).unwrap()
    }

    /// Node 1 of nodes 1 to `voters`, whose messages carry no more than this.
    fn with_messages(voters: u64, message_bytes: u64) -> Desk {
        Desk::begin(voters, None, message_bytes, MemoryLog::new(), Vec::new(), |_, _| {}).unwrap()
    }

    /// Begins on what `memory` holds, which is found damaged so, when `prepare` has been at it.
    fn open(
        voters: u64,
        flush_interval: Option<Duration>,
        memory: MemoryLog,
        damage: Vec<Damage>,
        prepare: fn(&Reads, &mut Refusals),
    ) -> Result<Desk, StorageError> {
        Desk::begin(voters, flush_interval, 1 << 20, memory, damage, prepare)
    }

    fn begin(
        voters: u64,
        flush_interval: Option<Duration>,
        message_bytes: u64,
        memory: MemoryLog,
        damage: Vec<Damage>,
        prepare: fn(&Reads, &mut Refusals),
    ) -> Result<Desk, StorageError> {
        let node = NodeId::from(1);
        let ids = (1..=voters).map(NodeId::from);
        let addresses: Vec<(NodeId, String)> = ids.clone().map(|id| (id, format!("host-{id}:1"))).collect();
        let genesis = Genesis { group: "desk".to_owned(), node, cluster: 1, membership: Membership::of_voters(ids) };
        let refusals: Arc<Mutex<Refusals>> = Arc::default();
        let log = memory.clone();
        let reads = Arc::new(Reads::new(memory.reader()));
        let mut storage = Log { memory, reads: reads.clone(), refusals: Arc::clone(&refusals), damage, opened: None };
        let recovered = storage.open(&genesis)?;
        prepare(&reads, &mut refusals.lock());
        let (inputs, engine_inputs) = unbounded();
        let doorbell = inputs.clone();
        let limits = Limits { entry: 1000, batch: 1000, window: 1000 };
        let sequencer = Sequencer::new(limits, move || drop(doorbell.send(Input::Appends)));
        let shared = Shared::new("desk", node, &addresses, "", sequencer, &recovered, storage.reader())?;
        let shared = Arc::new(shared);
        let (sync_jobs, syncs) = unbounded();
        let (chores, _) = unbounded();
        let (role_changes, roles) = unbounded();
        let backstage = Backstage { syncs: sync_jobs, chores, roles: role_changes };
        let settings = EngineSettings {
            replica: Settings {
                group: "desk".to_owned(),
                node,
                election_ticks: ELECTION_TICKS,
                heartbeat_ticks: 2,
                message_bytes,
                counts_unsynced: flush_interval.is_some(),
                catch_up_bytes: u64::MAX,
                seed: 1,
            },
            tick: TICK,
            flush_interval,
            append_timeout: APPEND_TIMEOUT,
            addresses,
        };
        let sent = Arc::default();
        let wire = Box::new(Wire(Arc::clone(&sent)));
        let engine = Engine::new(settings, engine_inputs, shared.clone(), backstage, &recovered, Box::new(storage), wire)?;
        let now = Now { elapsed: Duration::ZERO, unix_ms: 1000 };
        Ok(Desk { engine, shared, inputs, refusals, log, reads, genesis, sent, syncs, roles, now })
    }

    /// One node alone, which leads.
    fn alone() -> Desk {
        let mut desk = Desk::new(1);
        desk.work();
        assert_eq!(desk.shared.status().role, Role::Leader);
        desk
    }

    /// Node 1 of 3, which nodes 2 and 3 have elected.
    fn leader() -> Desk {
        let mut desk = Desk::new(3);
        while desk.sent().is_empty() {
            desk.tick();
        }
        desk.hear("pre-vote-answer from=2 to=1 term=2");
        desk.work();
        desk.hear("vote-answer from=2 to=1 term=2");
        desk.work();
        desk.hear("append-answer from=2 to=1 term=2 index=2");
        desk.work();
        assert_eq!(desk.shared.status().role, Role::Leader);
        desk.sent();
        desk
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
        assert!(self.shared.admit(&message));
        self.input(Input::Arrival(Arrival::Message(message)));
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
        self.log.clone().open(&self.genesis).unwrap()
    }

    /// The roles that were told since this was last asked.
    fn told(&self) -> Vec<(Role, Option<NodeId>)> {
        std::iter::from_fn(|| self.roles.try_recv().ok()).map(|status| (status.role, status.leader)).collect()
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
    let mut desk = Desk::new(1);
    desk.work();
    let me = Some(NodeId::from(1));
    assert_eq!(desk.told().last(), Some(&(Role::Leader, me)));
    let future = desk.append("hello");
    desk.turn();
    assert!(is_open(&future), "it is written, and no more");
    assert_eq!((desk.shared.watermark.end(), desk.shared.status().end_index), (0, 1));
    assert_eq!(desk.engine.wake_at(), desk.engine.next_tick);
    desk.work();
    let appended = outcome(&future).unwrap().unwrap();
    assert_eq!((appended.index, appended.position, appended.term), (0, 0, 2));
    assert_eq!((desk.shared.watermark.end(), desk.shared.sequencer.in_flight()), (1, 0));
    let entry = desk.shared.reader.entry(0).unwrap().unwrap();
    assert_eq!((&entry[..], entry.timestamp()), (&b"hello"[..], 1000));
    assert!(desk.engine.in_flight.is_empty());
}

#[test]
fn ticks_that_were_missed_are_skipped_but_for_two() {
    let mut desk = Desk::new(3);
    desk.work();
    desk.pass(1000 * TICK);
    desk.work();
    assert!(desk.sent().is_empty(), "it forgot time enough for many elections");
    assert_eq!(desk.engine.wake_at(), desk.now.elapsed + TICK);
    let mut ticks = 0;
    while desk.sent().is_empty() {
        desk.tick();
        ticks += 1;
    }
    assert!((ELECTION_TICKS - 3..2 * ELECTION_TICKS).contains(&ticks), "{ticks}");
}

#[test]
fn an_idle_leader_sleeps_over_every_second_tick_and_one_with_work_does_not() {
    let mut desk = Desk::alone();
    desk.tick();
    assert_eq!(desk.engine.wake_at(), desk.engine.next_tick + TICK);
    let next = desk.engine.next_tick;
    desk.turn();
    assert_eq!(desk.engine.next_tick, next, "no time has passed");
    let future = desk.append("x");
    desk.turn();
    assert!(is_open(&future));
    assert_eq!(desk.engine.wake_at(), desk.engine.next_tick);
    desk.work();
    assert_eq!(desk.engine.wake_at(), desk.engine.next_tick + TICK);
    // Both ticks of the two pass.
    let next = desk.engine.next_tick;
    desk.now.elapsed = next + TICK;
    desk.turn();
    assert_eq!(desk.engine.next_tick, next + 2 * TICK);
    // Whoever waits for a point needs every tick.
    let mut desk = Desk::leader();
    desk.pass(TELL_PAUSE);
    desk.work();
    assert_eq!(desk.engine.wake_at(), desk.engine.next_tick + TICK);
    let _answer = desk.barrier(1);
    desk.turn();
    assert_eq!(desk.engine.wake_at(), desk.engine.next_tick);
}

#[test]
fn others_are_told_of_a_commit_after_a_pause_unless_a_batch_tells_them() {
    let mut desk = Desk::leader();
    desk.pass(TELL_PAUSE);
    desk.work();
    desk.sent();
    let future = desk.append("one");
    desk.work();
    desk.sent();
    desk.hear("append-answer from=2 to=1 term=2 index=3");
    desk.work();
    assert!(outcome(&future).unwrap().is_ok());
    assert!(!desk.sent().iter().any(|message| message.starts_with("1->3")), "they are not told at once");
    assert_eq!(desk.engine.wake_at(), desk.now.elapsed + TELL_PAUSE);
    desk.turn();
    assert_eq!(desk.engine.wake_at(), desk.now.elapsed + TELL_PAUSE, "the pause begins once");
    desk.pass(TELL_PAUSE);
    desk.turn();
    assert!(desk.sent().iter().any(|message| message.ends_with("commit 3")));
    assert!(desk.engine.wake_at() >= desk.engine.next_tick, "all is told");
}

#[test]
fn an_append_times_out_once_and_not_before_and_may_commit_yet() {
    let mut desk = Desk::leader();
    let first = desk.append("first");
    desk.turn();
    desk.pass(TICK);
    let second = desk.append("second");
    desk.turn();
    let late = desk.now.elapsed - TICK + APPEND_TIMEOUT;
    while desk.engine.next_tick < late {
        assert!(is_open(&first));
        desk.hear("append-answer from=2 to=1 term=2 index=2");
        desk.tick();
    }
    desk.hear("append-answer from=2 to=1 term=2 index=2");
    desk.now.elapsed = late;
    desk.work();
    assert!(matches!(outcome(&first), Some(Err(AppendError::TimedOut(APPEND_TIMEOUT)))));
    assert!(is_open(&second));
    assert!(desk.shared.sequencer.in_flight() > 0, "it is still under way");
    desk.hear("append-answer from=2 to=1 term=2 index=4");
    desk.work();
    assert!(outcome(&second).unwrap().is_ok());
    assert_eq!((desk.shared.watermark.end(), desk.shared.sequencer.in_flight()), (2, 0));
    desk.tick();
    assert!(desk.engine.ages.is_empty());
}

#[test]
fn what_a_deposed_leader_had_under_way_times_out_as_unknown() {
    let mut desk = Desk::leader();
    let under_way = desk.append("x");
    desk.turn();
    desk.hear("heartbeat from=3 to=1 term=3 commit=2");
    desk.work();
    assert!(is_open(&under_way), "the next leader may have it");
    let refused = outcome(&desk.append("y")).unwrap().unwrap_err();
    let AppendError::NotLeader { leader, address, .. } = refused else { panic!("{refused}") };
    assert_eq!((leader, address.as_deref()), (Some(NodeId::from(3)), Some("host-3:1")));
    for _ in 0..APPEND_TIMEOUT.as_millis() / TICK.as_millis() {
        desk.hear("heartbeat from=3 to=1 term=3 commit=2");
        desk.tick();
    }
    assert!(matches!(outcome(&under_way), Some(Err(AppendError::OutcomeUnknown))));
}

#[test]
fn a_failed_sync_a_failed_write_and_a_panic_end_the_part_of_a_node() {
    type Fail = (&'static str, fn(&mut Desk));
    let fail: [Fail; 4] = [
        ("a sync failed", |desk| {
            let job = desk.syncs.try_recv().unwrap();
            desk.input(Input::Synced(job.number, Err(StorageError::Poisoned("x".to_owned()))));
        }),
        ("took no write", |desk| {
            desk.spoil(|refusals| refusals.append = true);
            drop(desk.append("y"));
        }),
        ("took no write", |desk| {
            desk.spoil(|refusals| refusals.remember = true);
            desk.input(Input::Arrival(Arrival::Met { peer: NodeId::from(2), directory: 7 }));
        }),
        ("it panicked", |desk| desk.input(Input::Panicked("it panicked".to_owned()))),
    ];
    for (reason, fail) in fail {
        let mut desk = Desk::leader();
        desk.told();
        let under_way = desk.append("x");
        let barrier = desk.barrier(1);
        desk.turn();
        fail(&mut desk);
        desk.turn();
        desk.turn();
        let status = desk.shared.status();
        assert!(status.fault.as_ref().is_some_and(|fault| fault.contains(reason)), "{status:?}");
        assert_eq!((status.role, status.leader), (Role::Follower, None));
        assert_eq!(desk.told(), [(Role::Follower, None)]);
        assert!(desk.sent.lock().is_stopped);
        assert!(outcome(&under_way).unwrap().unwrap_err().may_have_committed());
        assert!(matches!(barrier.try_recv(), Ok(Err(BarrierError::Failed { .. }))));
        assert!(matches!(outcome(&desk.append("z")), Some(Err(AppendError::Failed { .. }))));
        assert_eq!((desk.shared.sequencer.in_flight(), desk.engine.wake_at()), (0, Duration::MAX));
        // It takes no part in anything, and answers whoever asks.
        desk.sent();
        desk.hear("heartbeat from=3 to=1 term=9");
        (0..50).for_each(|_| desk.tick());
        let barrier = desk.barrier(2);
        let purge = desk.command(|reply| Command::Purge { index: 1, reply });
        let transfer = desk.command(|reply| Command::Transfer { to: NodeId::from(2), reply });
        desk.turn();
        assert!(matches!(barrier.try_recv(), Ok(Err(BarrierError::Failed { .. }))));
        assert!(matches!(purge.try_recv(), Ok(Err(PurgeError::Failed { .. }))));
        assert!(matches!(transfer.try_recv(), Ok(Err(TransferError::Failed { .. }))));
        desk.input(Input::Panicked("once more".to_owned()));
        desk.turn();
        assert_eq!((desk.shared.status().fault, desk.told().len()), (status.fault, 0), "the first reason stays");
        assert_eq!((desk.shared.status().term, desk.sent().len()), (status.term, 0));
        assert!(matches!(desk.stop(), Err(ShutdownError::Failed { .. })));
        assert!(desk.engine.is_stopped());
    }
}

#[test]
fn a_leader_without_room_steps_back_and_leads_again_when_there_is_some() {
    let mut desk = Desk::alone();
    desk.told();
    desk.fill(|refusals| refusals.append = true);
    let lost = desk.append("no room");
    let barrier = desk.barrier(1);
    desk.work();
    assert!(matches!(outcome(&lost), Some(Err(AppendError::StorageFull { .. }))), "{:?}", outcome(&lost));
    assert!(desk.shared.status().full.is_some());
    assert_eq!(desk.told(), [(Role::Follower, None)]);
    assert!(matches!(outcome(&desk.append("x")), Some(Err(AppendError::StorageFull { .. }))));
    assert_eq!(desk.shared.sequencer.in_flight(), 0);
    // It is patient for an election timeout, then tries.
    for _ in 1..ELECTION_TICKS {
        desk.tick();
        assert_eq!(desk.shared.status().role, Role::Follower);
        assert_eq!(desk.engine.wake_at(), desk.engine.next_tick);
    }
    (0..3).for_each(|_| desk.tick());
    assert_eq!(desk.shared.status().role, Role::Leader);
    assert_eq!(desk.shared.status().full, None, "a batch found room");
    assert_eq!(barrier.try_recv().unwrap().unwrap(), 0, "who asked before is answered");
    let future = desk.append("room");
    desk.work();
    assert_eq!(outcome(&future).unwrap().unwrap().index, 0);
}

#[test]
fn a_sync_of_the_time_before_a_full_disk_counts_for_nothing() {
    let mut desk = Desk::leader();
    drop(desk.append("written"));
    desk.turn();
    let old = desk.syncs.try_recv().unwrap();
    desk.fill(|refusals| refusals.append = true);
    drop(desk.append("no room"));
    desk.turn();
    assert!(desk.shared.status().full.is_some());
    desk.hear("heartbeat from=2 to=1 term=5 commit=2");
    desk.turn();
    desk.sent();
    let count = desk.engine.syncs;
    desk.input(Input::Synced(SyncNumber { life: old.number.life, number: u64::MAX, count }, Ok(())));
    desk.turn();
    assert!(desk.sent().is_empty(), "the answer waits for a sync of its own time");
    desk.work();
    assert_eq!(desk.sent().len(), 1);
}

#[test]
fn a_node_without_room_hears_and_votes_and_takes_no_batches() {
    let mut desk = Desk::leader();
    desk.fill(|refusals| refusals.append = true);
    drop(desk.append("no room"));
    desk.work();
    desk.sent();
    desk.hear("append from=2 to=1 term=3 after=2/2 batch=3/3 commit=2");
    desk.work();
    assert_eq!((desk.shared.status().term, desk.sent().len()), (2, 0));
    desk.hear("heartbeat from=2 to=1 term=3 commit=2");
    desk.work();
    assert_eq!((desk.shared.status().term, desk.sent().len()), (3, 1));
    // A term that finds no room is no reason to stop either.
    desk.fill(|refusals| refusals.save = true);
    desk.hear("heartbeat from=3 to=1 term=4 commit=2");
    desk.work();
    assert!(desk.shared.status().fault.is_none() && desk.shared.status().full.is_some());
    assert_eq!(desk.sent().len(), 0, "it said nothing in a term that it did not write");
}

#[test]
fn a_batch_that_is_not_taken_is_lost_and_the_leader_counts_anew() {
    let mut desk = Desk::alone();
    // As after a leadership that ended and began again before the sequencer was told.
    desk.shared.sequencer.open(7, 7, 0);
    let lost = desk.append("out of line");
    desk.work();
    assert!(outcome(&lost).unwrap().is_err_and(|error| !error.may_have_committed()));
    let future = desk.append("in line");
    desk.work();
    assert_eq!(outcome(&future).unwrap().unwrap().index, 0);
}

#[test]
fn under_an_asynchronous_policy_the_log_is_synced_every_interval_if_something_was_written() {
    let interval = Duration::from_millis(100);
    let mut desk = Desk::with(1, Some(interval));
    desk.work();
    desk.now.elapsed = interval;
    desk.work();
    assert!(!desk.engine.dirty && desk.syncs.is_empty());
    let future = desk.append("x");
    desk.turn();
    assert!(outcome(&future).unwrap().is_ok(), "it counts once it is written");
    assert!(desk.syncs.is_empty() && desk.engine.dirty);
    assert_eq!(desk.engine.wake_at(), interval, "after a while without a write it is synced at once");
    desk.work();
    assert!(!desk.engine.dirty);
    drop(desk.append("y"));
    desk.turn();
    let due = desk.engine.next_flush;
    assert_eq!(due, 2 * interval);
    desk.now.elapsed = due - Duration::from_nanos(1);
    desk.turn();
    assert!(desk.syncs.is_empty() && desk.engine.dirty);
    assert_eq!(desk.engine.wake_at(), due);
    desk.now.elapsed = due;
    desk.turn();
    assert_eq!((desk.syncs.len(), desk.engine.dirty, desk.engine.next_flush), (1, false, due + interval));
}

#[test]
fn a_barrier_is_answered_forgotten_and_refused() {
    let mut desk = Desk::alone();
    drop(desk.append("x"));
    desk.work();
    let answer = desk.barrier(1);
    desk.work();
    assert_eq!(answer.try_recv().unwrap().unwrap(), 1);
    let mut desk = Desk::leader();
    let forgotten = desk.barrier(2);
    let kept = desk.barrier(3);
    desk.input(Input::Command(Command::ForgetBarrier { id: 2 }));
    desk.turn();
    assert_eq!(desk.engine.barriers.len(), 1);
    assert!(desk.stop().is_ok());
    assert!(forgotten.try_recv().is_err(), "nobody listens");
    assert!(matches!(kept.try_recv(), Ok(Err(BarrierError::Stopped))));
    let late = desk.barrier(4);
    desk.turn();
    assert!(matches!(late.try_recv(), Ok(Err(BarrierError::Stopped))));
}
