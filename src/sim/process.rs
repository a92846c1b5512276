//! Process of a simulated node: a real engine and the ends of its channels.
//!
//! The work that the threads of a real node do (syncs, background tasks, observers of the role
//! state) is done by the caller, each at its virtual time.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::checked::SimTransport;
use super::config::RunConfig;
use super::consumer::PinnedConsumer;
use super::crash_point::CrashPoint;
use super::monitor::Monitor;
use super::stamps;
use super::time::Micros;
use crate::engine::{
    Command, Engine, EngineSettings, Input, Notice, Now, SyncJob, WorkSenders, inbox,
};
use crate::entry::NodeId;
use crate::primitives::channel::{Receiver, Sender, unbounded};
use crate::replica;
use crate::role::Role;
use crate::sequencer::{Limits, Sequencer};
use crate::shared::NodeShared;
use crate::storage::{BackgroundTask, DirectoryIdentity, Recovered, Storage};
use crate::transport::hello::{HandshakeRejection, Hello, PeerRegistry, Way};
use crate::transport::{Inbox, Message, Spawner, Transport, TransportContext};

/// One process.
pub(super) struct Process {
    pub(super) number: u64,
    pub(super) engine: Engine,
    pub(super) inputs: Sender<Input>,
    pub(super) shared: Arc<NodeShared>,
    pub(super) inbox: Inbox,
    syncs: Receiver<SyncJob>,
    background_tasks: Receiver<BackgroundTask>,
    roles: Receiver<Notice>,
    pub(super) outbox: Arc<Mutex<Vec<Message>>>,
    pub(super) crash_point: CrashPoint,
    /// What its transport was started with.
    pub(super) context: TransportContext,
    /// The peers that its transport has reported down, if several groups share it.
    pub(super) down: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Its transport was stopped.
    has_left: Arc<AtomicBool>,
    peers: PeerRegistry,
    /// The incarnation of each peer whose connection is open.
    pub(super) connected: Vec<Option<IncarnationId>>,
    /// Peers that have reported this directory as outdated.
    outdated_by: Vec<bool>,
    /// The newest directory and incarnation of each peer, on any connection.
    newest: Vec<Option<(u128, u64)>>,
    identity: Arc<Mutex<DirectoryIdentity>>,
    /// The unique id of the group that the engine has announced. 0: none.
    group_uid: Arc<Mutex<u128>>,
    began: Micros,
    /// The time of the next turn of the engine. Events for other times are void.
    pub(super) due: Micros,
    /// It has crashed in the middle of a turn.
    crashed: bool,
    syncing: Option<SyncJob>,
    waiting_background_tasks: VecDeque<BackgroundTask>,
    /// The last batch that the monitor has checked.
    checked: u64,
    checked_end: u64,
    pub(super) role: Role,
    /// What hosts asked to purge.
    asked: Arc<AtomicU64>,
    consumer: PinnedConsumer,
    /// It has a policy of retention, and wakes for it.
    retains: bool,
    pub(super) is_asleep: bool,
    /// Number of role states that the engine has announced.
    role_states: u64,
    pub(super) fault: Option<String>,
}

/// A directory, its incarnation, and the nonce of the process.
type IncarnationId = (u128, u64, u64);

/// How a process ends by itself.
pub(super) enum ProcessExit {
    /// At its crash point.
    Crash,
    /// By a shutdown.
    Stopped,
    /// By a bug.
    Panic(String),
}

/// The identity of a process in the simulation.
pub(super) struct ProcessStart<'a> {
    /// The place of the node, from 0.
    pub(super) node: usize,
    /// The number of the process, counted by node.
    pub(super) number: u64,
    pub(super) began: Micros,
    pub(super) seed: u64,
    pub(super) crash_point: CrashPoint,
    pub(super) config: &'a RunConfig,
    pub(super) monitor: &'a Arc<Mutex<Monitor>>,
}

impl Process {
    /// Puts a process together on an open log, as a real node does it.
    ///
    /// # Errors
    /// The failure of the engine or of a part of it.
    pub(super) fn start(
        start: ProcessStart<'_>,
        storage: Box<dyn Storage>,
        recovered: &Recovered,
    ) -> Result<Process, String> {
        let ProcessStart { node, number, began, seed, crash_point, config, monitor } = start;
        let id = NodeId::from(node as u64 + 1);
        let addresses: Vec<(NodeId, String)> =
            (1..=config.nodes as u64).map(|id| (NodeId::from(id), format!("host-{id}"))).collect();
        let (inputs, engine_inputs) = unbounded();
        let wake_engine = inputs.clone();
        let sequencer =
            Sequencer::new(limits(config, node), move || drop(wake_engine.send(Input::Appends)));
        let sequencer = sequencer.calling(config.stamps.then(stamps::hook));
        let reader = storage.reader();
        let shared =
            NodeShared::new(&config.group, id, &addresses, "", sequencer, recovered, reader)
                .map_err(|error| error.to_string())?;
        let shared = Arc::new(shared.pinning(config.pin_bytes_max.unwrap_or(u64::MAX)));
        let inbox = inbox(shared.clone(), inputs.clone());
        let spawner = Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()));
        let context = TransportContext {
            cluster: config.cluster,
            first_position: config.first_position,
            identity: recovered.identity,
            group_uid: recovered.group_uid,
            known: recovered.peers.clone(),
            ..TransportContext::new(id, &config.group, addresses.clone(), inbox.clone(), spawner)
        };
        let peers = PeerRegistry::new(&context, number);
        let (outbox, identity) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(recovered.identity)));
        let stopped = Arc::new(AtomicBool::new(false));
        let group_uid = Arc::new(Mutex::new(recovered.group_uid));
        let mut transport = SimTransport {
            node,
            outbox: outbox.clone(),
            monitor: monitor.clone(),
            crash_point: crash_point.clone(),
            stopped: stopped.clone(),
            identity: identity.clone(),
            group_uid: group_uid.clone(),
        };
        transport.start(context.clone()).map_err(|error| error.to_string())?;
        let (sync_jobs, syncs) = unbounded();
        let (background_task_jobs, background_tasks) = unbounded();
        let (role_changes, roles) = unbounded();
        let work = WorkSenders {
            syncs: sync_jobs,
            background_tasks: background_task_jobs,
            roles: role_changes,
        };
        let mut engine = Engine::new(
            engine_settings(id, seed, config, addresses),
            engine_inputs,
            shared.clone(),
            work,
            recovered,
            storage,
            Box::new(transport),
        )
        .map_err(|error| error.to_string())?;
        let observing = monitor.clone();
        engine.observe_rejections(move |reason| {
            // What comes before a colon has numbers in it.
            let kind = reason.rsplit(": ").next().unwrap_or(reason);
            observing.lock().coverage.hit(&format!("rejected: {kind}"));
        });
        Ok(Process {
            number,
            engine,
            inputs,
            inbox,
            syncs,
            background_tasks,
            roles,
            outbox,
            crash_point,
            context,
            down: Arc::default(),
            has_left: stopped,
            peers,
            connected: vec![None; config.nodes],
            outdated_by: vec![false; config.nodes],
            newest: vec![None; config.nodes],
            identity,
            group_uid,
            began,
            due: began,
            crashed: false,
            syncing: None,
            waiting_background_tasks: VecDeque::new(),
            checked: 0,
            checked_end: u64::MAX,
            role: Role::Follower,
            asked: monitor.lock().kept[node].begin(config.retention),
            consumer: PinnedConsumer::new(seed, config.pin_bytes_max),
            retains: !config.retention.keeps_all(),
            is_asleep: false,
            role_states: 0,
            fault: None,
            shared,
        })
    }

    pub(super) fn began(&self) -> Micros {
        self.began
    }

    /// Drives the engine once. Returns when it is due again, by the clock of the process.
    pub(super) fn turn(&mut self, now: Now) -> Result<Duration, ProcessExit> {
        let engine = &mut self.engine;
        if let Err(exit) = catch_exit(|| engine.turn(now)) {
            self.crashed = true;
            return Err(exit);
        }
        if self.engine.is_stopped() {
            return Err(ProcessExit::Stopped);
        }
        Ok(self.engine.wake_at())
    }

    /// The identity that the engine has announced last.
    pub(super) fn identity(&self) -> DirectoryIdentity {
        *self.identity.lock()
    }

    /// The unique id of the group that the engine has announced last. 0: none.
    pub(super) fn group_uid(&self) -> u128 {
        *self.group_uid.lock()
    }

    /// Whether its transport was stopped.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }

    pub(super) fn command(&self, command: Command) {
        if let Command::Purge { index, .. } = &command {
            self.asked.fetch_max(*index, Ordering::Relaxed);
        }
        let _ = self.inputs.send(Input::Command(command));
    }

    /// The identity, if the engine has announced another one since the last call.
    pub(super) fn changed_identity(&mut self) -> Option<DirectoryIdentity> {
        let (now, group_uid) = (*self.identity.lock(), *self.group_uid.lock());
        if self.peers.set_group_uid(group_uid) {
            self.connected.fill(None);
        }
        if !self.peers.introduce(now) {
            return None;
        }
        self.connected.fill(None);
        Some(now)
    }

    /// Takes the pending syncs, if none is running: the newest covers the others.
    pub(super) fn begin_sync(&mut self) -> bool {
        if self.syncing.is_some() {
            return false;
        }
        let jobs = self.syncs.try_iter();
        self.syncing = jobs
            .reduce(|older, newer| SyncJob { number: older.number.with(newer.number), ..newer });
        self.syncing.is_some()
    }

    /// The running sync ends now.
    pub(super) fn end_sync(&mut self) -> Result<(), ProcessExit> {
        if let Some(job) = self.syncing.take() {
            let outcome = catch_exit(|| job.pending.wait())?;
            let _ = self.inputs.send(Input::Synced(job.number, outcome));
        }
        Ok(())
    }

    /// Takes the background tasks of the engine. Returns the number of new ones.
    pub(super) fn take_background_tasks(&mut self) -> usize {
        let before = self.waiting_background_tasks.len();
        self.waiting_background_tasks.extend(self.background_tasks.try_iter());
        self.waiting_background_tasks.len() - before
    }

    pub(super) fn background_tasks_waiting(&self) -> usize {
        self.waiting_background_tasks.len()
    }

    /// The oldest background task.
    pub(super) fn next_background_task(&mut self) -> Option<BackgroundTask> {
        self.waiting_background_tasks.pop_front()
    }

    /// Checks what the node shows and announces after a turn.
    pub(super) fn check(&mut self, node: usize, monitor: &mut Monitor) {
        let (end, commit) = (self.shared.watermark.end(), self.engine.commit());
        // A node with a corrupt log is checked once it is repaired. Its results for clients are
        // checked by the clients.
        if (end, commit) != (self.checked_end, self.checked) && !monitor.models[node].is_corrupt {
            let reader = &*self.shared.reader;
            self.checked =
                monitor.check_committed(node, reader, end, commit, self.checked, self.crashed);
            self.checked_end = end;
            monitor
                .note(&[2, node as u64, end], || format!("node {}: shows {end} entries", node + 1));
        }
        for notice in self.roles.try_iter() {
            let Notice::Role(status) = notice else {
                monitor.coverage.hit("hosts told of a move");
                self.consumer.note_new_log();
                continue;
            };
            let (role, term) = (status.role, status.term);
            monitor.note(&[3, node as u64, role as u64, term], || {
                format!("node {}: {role} in term {term}, leader {:?}", node + 1, status.leader)
            });
            if role == Role::Leader {
                monitor.coverage.hit("leaders announced");
                monitor.announce_leader(node, term, status.committed.end);
            }
            self.role = role;
            self.role_states += 1;
            self.fault = status.fault;
        }
        self.check_sleep(node, monitor);
        self.consumer.step(node, &self.shared, monitor);
        if self.shared.status.read(|status| status.full.is_some()) {
            monitor.coverage.hit("turns of a node that is paused by a full disk");
        }
    }

    /// A node that sleeps has no time at which it is due, and serves its role for as long.
    fn check_sleep(&mut self, node: usize, monitor: &mut Monitor) {
        let is_asleep = self.shared.status.read(|status| status.asleep);
        let is_due = !self.crashed && !self.retains && self.engine.wake_at() < Duration::MAX;
        monitor.demand(!is_asleep || !is_due, || {
            format!("A11: node {} sleeps, and is due at some time", node + 1)
        });
        if std::mem::replace(&mut self.is_asleep, is_asleep) == is_asleep {
            return;
        }
        let (role, leads) = (self.role, self.role == Role::Leader);
        let event = match (is_asleep, leads) {
            (true, true) => "leaders that fell asleep",
            (true, false) => "followers that fell asleep",
            (false, _) => "nodes that woke",
        };
        monitor.coverage.hit(event);
        monitor.note(&[32, node as u64, u64::from(is_asleep)], || {
            format!("node {}: {}, a {role}", node + 1, if is_asleep { "sleeps" } else { "wakes" })
        });
    }

    /// Number of role states that the engine has announced. `None` if it crashed before that was
    /// known.
    pub(super) fn role_states(&self) -> Option<u64> {
        Some(self.role_states).filter(|_| !self.crashed)
    }
}

/// Connections.
impl Process {
    pub(super) fn hello_to(&self, peer: usize) -> Hello {
        let hello = self.peers.hello_to(NodeId::from(peer as u64 + 1));
        Hello { identity: *self.identity.lock(), ..hello }
    }

    pub(super) fn is_connected(&self, from: usize, hello: &Hello) -> bool {
        self.connected.get(from) == Some(&Some(incarnation_of(hello)))
    }

    /// Opens a connection for this hello, if it is not open.
    ///
    /// # Errors
    /// The rejection of the handshake.
    pub(super) fn connect(&mut self, from: usize, hello: &Hello) -> Result<(), String> {
        if self.is_connected(from, hello) {
            return Ok(());
        }
        // Forged connections have no address of a peer.
        let way = if from < self.connected.len() { Way::Out } else { Way::In };
        self.peers.admit(hello, way).map_err(|rejection| format!("{rejection:?}"))?;
        if let Some(connected) = self.connected.get_mut(from) {
            *connected = Some(incarnation_of(hello));
        }
        if self.peers.knows(hello) {
            self.inbox.peer_identified(hello.from, hello.identity.directory);
        }
        Ok(())
    }

    /// Whether an accepted message is from an earlier process of its sender than one that was
    /// accepted before.
    pub(super) fn is_stale(&mut self, from: usize, hello: &Hello, lost: &BTreeSet<u128>) -> bool {
        let (directory, incarnation, _) = incarnation_of(hello);
        match self.newest[from].replace((directory, incarnation)) {
            Some((before, newest)) if before == directory => incarnation < newest,
            Some((before, _)) => lost.contains(&directory) && !lost.contains(&before),
            None => false,
        }
    }

    /// Whether this process has met a later incarnation of the directory than that of a backup.
    pub(super) fn knows_later(&self, peer: usize, backup: &DirectoryIdentity) -> bool {
        let newest = self.newest[peer];
        newest.is_some_and(|(directory, newest)| {
            directory == backup.directory && newest > backup.incarnation
        })
    }

    /// Whether this process has met the incarnation of `hello`, or a later one of its directory.
    pub(super) fn knows(&self, from: usize, hello: &Hello) -> bool {
        let (directory, incarnation, _) = incarnation_of(hello);
        self.knows_later(
            from,
            &DirectoryIdentity {
                directory,
                incarnation: incarnation.saturating_sub(1),
                complete: true,
            },
        )
    }

    /// The decision of this process on a connection with `hello`. Has no effect.
    pub(super) fn check_hello(&self, hello: &Hello) -> Result<(), HandshakeRejection> {
        self.peers.check(hello, Way::Out)
    }

    /// A peer rejects this process: it has met a later incarnation of this directory. Reported once
    /// for each peer.
    pub(super) fn report_outdated(&mut self, by: usize) {
        if !std::mem::replace(&mut self.outdated_by[by], true) {
            self.inbox.directory_outdated(NodeId::from(by as u64 + 1));
        }
    }
}

fn incarnation_of(hello: &Hello) -> IncarnationId {
    (hello.identity.directory, hello.identity.incarnation, hello.nonce)
}

fn limits(config: &RunConfig, node: usize) -> Limits {
    Limits {
        entry: config.entry_bytes,
        batch: 2 * config.entry_bytes,
        window: config.window_of(node),
    }
}

fn engine_settings(
    node: NodeId,
    seed: u64,
    config: &RunConfig,
    addresses: Vec<(NodeId, String)>,
) -> EngineSettings {
    let tick = config.heartbeat / 2;
    EngineSettings {
        replica: replica::Settings {
            group: config.group.clone(),
            node,
            election_ticks: config.election.div_ceil(tick) as usize,
            heartbeat_ticks: 2,
            message_bytes: config.message_bytes,
            counts_unsynced: config.flush_interval.is_some(),
            catch_up_bytes: config.catch_up_bytes,
            seed,
            new_group_uid: u128::from(seed) << 64 | u128::from(node.get()),
        },
        tick: Duration::from_micros(tick),
        flush_interval: config.flush_interval.map(Duration::from_micros),
        append_timeout: Duration::from_micros(config.append_timeout),
        sleep_after: config.sleep.as_ref().map(|sleep| Duration::from_micros(sleep.after)),
        addresses,
        retention: config.retention,
    }
}

/// Runs code of a process, which may crash or panic.
pub(super) fn catch_exit<T>(act: impl FnOnce() -> T) -> Result<T, ProcessExit> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| {
        if CrashPoint::is_crash(&*panic) {
            ProcessExit::Crash
        } else {
            ProcessExit::Panic(text_of(&*panic))
        }
    })
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without text").to_owned()
}
