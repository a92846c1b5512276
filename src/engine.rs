//! The corridor: joins replica, storage, transport and hosts. A value with one verb,
//! [`Engine::turn`]: drain what came in, let time pass, take the appends, carry out the effects. It
//! has no clock and no thread; whoever drives it passes the time and runs what it hands out.
//!
//! The order within a turn is the order that Raft needs: sync notices and messages as they came in
//! (a notice always stands before the answers that it made possible), then ticks, then appends,
//! then effects until there are none.

mod backlog;
mod backup;
mod barriers;
mod clock;
mod full_disk;
mod lagging;
mod members;
mod purge;
mod refusing;
mod rejoining;
mod repair;
mod stopping;
mod sync;
mod telling;
mod transfer;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::barriers::PendingBarrier;
use self::members::Contacts;
use self::purge::PendingPurge;
use self::refusing::Refusing;
pub(crate) use self::rejoining::rejoin_empty;
use self::rejoining::{Loss, StateRequest};
use self::stopping::Leaving;
pub(crate) use self::sync::{SyncId, SyncJob};
use self::telling::Telling;
use self::transfer::Transfer;
use crate::batch::Batch;
use crate::entry::NodeId;
use crate::error::{AppendError, BarrierError, PurgeError, ShutdownError, TransferError};
use crate::future::Completion;
use crate::message::{MessageRejection::Regressed, RepairMessage};
use crate::primitives::atomic::Ordering;
use crate::primitives::channel::{Receiver, Sender};
use crate::replica::rejoin::Rejoin;
use crate::replica::repair::Repair;
use crate::replica::{BatchId, Effect, ProposalOutcome, Replica, RoleState, Settings};
use crate::reply::Reply;
use crate::role::{Role, Status};
use crate::shared::NodeShared;
use crate::storage::{
    BackgroundTask, BackupError, DirectoryIdentity, HardState, PendingBackup, Recovered, Storage,
    StorageError,
};
use crate::transport::{Inbox, Transport, TransportEvent};

/// A node that was held up (a stopped process, a slow disk) does not live through the time it
/// missed: more ticks than this are skipped, for catching up would make it forget that it has heard
/// of a leader.
const TICKS_MAX: u32 = 2;

/// How long a commit waits for a batch that can tell others of it. A host whose append was
/// acknowledged makes its next one sooner than that, and so most commits take no message of their
/// own; and a reader elsewhere that waits for this one waits little longer than for the network.
const COMMIT_NOTICE_DELAY: Duration = Duration::from_micros(50);

/// Something for the engine to look at.
pub(crate) enum Input {
    /// The sequencer has turned from empty to not empty.
    Appends,
    TransportEvent(TransportEvent),
    Synced(SyncId, Result<(), StorageError>),
    /// A thread that serves this node has panicked.
    Panicked(String),
    Command(Command),
}

/// Where a transport puts what arrives for the engine behind `inputs`.
pub(crate) fn inbox(shared: Arc<NodeShared>, inputs: Sender<Input>) -> Inbox {
    Inbox::new(move |arrival| {
        if let TransportEvent::Message(message) = &arrival
            && !shared.reserve_inbox(message)
        {
            return false;
        }
        inputs.send(Input::TransportEvent(arrival)).is_ok()
    })
}

/// What a host asks of the engine. Every reply is sent, unless the asker is gone.
pub(crate) enum Command {
    /// With a timeout, the engine sees to it.
    Barrier {
        id: u64,
        timeout: Option<Duration>,
        reply: Reply<Result<u64, BarrierError>>,
    },
    Purge {
        index: u64,
        reply: Reply<Result<u64, PurgeError>>,
    },
    /// Asks for a backup of what is committed now, for the asker to write.
    Backup {
        reply: Reply<Result<Box<dyn PendingBackup>, BackupError>>,
    },
    /// The asker no longer waits.
    ForgetBarrier {
        id: u64,
    },
    Transfer {
        to: NodeId,
        reply: Reply<Result<(), TransferError>>,
    },
    /// A leader may hand over first, and give each of the others so long to take over.
    Stop {
        hand_over: Option<Duration>,
        reply: Reply<Result<(), ShutdownError>>,
    },
}

/// The moment at which a turn takes place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Since the engine was made, by a clock that never steps.
    pub(crate) elapsed: Duration,
    /// Milliseconds since 1970, by a clock that may.
    pub(crate) unix_ms: u64,
}

/// Where the engine hands work that others do. Unbounded, and little: a sync at a time matters,
/// chores and role changes are rare.
pub(crate) struct WorkSenders {
    pub(crate) syncs: Sender<SyncJob>,
    pub(crate) background_tasks: Sender<BackgroundTask>,
    pub(crate) roles: Sender<Status>,
}

/// What an engine is told once.
#[derive(Clone, Debug)]
pub(crate) struct EngineSettings {
    pub(crate) replica: Settings,
    pub(crate) tick: Duration,
    /// Under an asynchronous flush policy: how often the log is synced.
    pub(crate) flush_interval: Option<Duration>,
    pub(crate) append_timeout: Duration,
    pub(crate) addresses: Vec<(NodeId, String)>,
}

type RejectionObserver = Box<dyn Fn(&str) + Send>;

/// A batch that was handed to the replica.
struct InFlight {
    completion: Arc<Completion>,
    cost: u64,
    since: Duration,
}

/// See the [module](self).
pub(crate) struct Engine {
    settings: EngineSettings,
    inputs: Receiver<Input>,
    shared: Arc<NodeShared>,
    work: WorkSenders,
    replica: Replica,
    storage: Box<dyn Storage>,
    transport: Box<dyn Transport>,
    in_flight: HashMap<BatchId, InFlight>,
    /// The ids of `in_flight` in the order of their age; settled ones are skipped when met.
    ages: VecDeque<BatchId>,
    next_batch: BatchId,
    barriers: HashMap<u64, PendingBarrier>,
    /// Purges that wait for a sync.
    purges: Vec<PendingPurge>,
    /// All of them to the same node.
    transfers: Vec<Transfer>,
    /// Handing over before it stops.
    leaving: Option<Leaving>,
    /// A sync that was begun because the storage is behind: until it has succeeded no appends are
    /// taken.
    catching_up: Option<u64>,
    now: Now,
    next_tick: Duration,
    next_flush: Duration,
    /// The ledger's newest timestamp lies far ahead of the clock, and the host was warned of it.
    warned_of_clock: bool,
    /// Something was written since the last sync was begun.
    dirty: bool,
    /// How many syncs were begun.
    syncs: u64,
    /// When others are told of what is committed, unless a batch tells them before.
    commit_notice_at: Option<Duration>,
    identity: DirectoryIdentity,
    /// A batch that the sequencer gave numbers to was not taken.
    must_reindex: bool,
    /// How often the replica was begun anew.
    epoch: u64,
    /// No batch was written since the disk was found full: what it lacks room for.
    disk_full_reason: Option<String>,
    /// The replica waits for room, for so many more ticks.
    full: bool,
    retry_ticks: usize,
    /// The log is damaged: the replica stands still until it is not.
    repair: Option<Repair>,
    /// The log is not complete: the replica stands still until it is known what the node owes.
    rejoin: Option<Rejoin>,
    loss: Loss,
    /// The number of the next question of that kind. The first is random: no question of an earlier
    /// life had one of these.
    next_question: u64,
    /// Members that wait to be told where this node stands.
    asked: Vec<StateRequest>,
    /// What a log is that was mended, when there was too little of something to begin on it.
    mended: Option<Recovered>,
    /// Peers that were met while nothing could be remembered.
    deferred_peer_ids: Vec<(NodeId, u128)>,
    /// A peer that has met a later opening of this log, and has said so while nothing could be
    /// remembered.
    outlived: Option<NodeId>,
    /// So many more wishes of peers for batches are answered before the next tick.
    fetch_budget: u32,
    /// Those that came when no more were: one of each member at most.
    deferred_fetches: Vec<RepairMessage>,
    refusing: Refusing,
    contacts: Contacts,
    telling: Telling,
    fault: Option<String>,
    stopped: bool,
    /// Called with the reason of each message that the replica rejects. Set by simulations only.
    rejection_observer: Option<RejectionObserver>,
}

impl Engine {
    /// A node whose log is damaged takes no part before it is mended: what it would vote for or
    /// acknowledge, it might not be able to give.
    pub(crate) fn new(
        settings: EngineSettings,
        inputs: Receiver<Input>,
        shared: Arc<NodeShared>,
        work: WorkSenders,
        recovered: &Recovered,
        storage: Box<dyn Storage>,
        transport: Box<dyn Transport>,
    ) -> Result<Engine, StorageError> {
        let commit = recovered.hard_state.commit;
        let reader = shared.reader.clone();
        let committed = reader.point(commit)?.expect("the recovered commit lies within the log");
        let replica = Replica::new(&settings.replica, recovered, committed, reader)?;
        let next_question = settings.replica.seed >> 1 & !u64::from(u32::MAX);
        let mut engine = Engine {
            // The first tick is due at once: the only voter of a group has nothing to wait for.
            next_tick: Duration::ZERO,
            next_flush: settings.flush_interval.unwrap_or(Duration::MAX),
            settings,
            inputs,
            shared,
            work,
            replica,
            storage,
            transport,
            in_flight: HashMap::new(),
            ages: VecDeque::new(),
            next_batch: 0,
            barriers: HashMap::new(),
            purges: Vec::new(),
            transfers: Vec::new(),
            leaving: None,
            catching_up: None,
            now: Now::default(),
            warned_of_clock: false,
            dirty: false,
            syncs: 0,
            commit_notice_at: None,
            identity: recovered.identity,
            must_reindex: false,
            epoch: 0,
            disk_full_reason: None,
            full: false,
            retry_ticks: 0,
            repair: None,
            rejoin: None,
            loss: Loss::default(),
            next_question,
            asked: Vec::new(),
            mended: None,
            deferred_peer_ids: Vec::new(),
            outlived: None,
            fetch_budget: 0,
            deferred_fetches: Vec::new(),
            refusing: Refusing::default(),
            contacts: Contacts::default(),
            telling: Telling::default(),
            fault: None,
            stopped: false,
            rejection_observer: None,
        };
        engine.tell_opened(recovered);
        if !recovered.corruption.is_empty() {
            engine.begin_repair(recovered);
        } else if !recovered.identity.complete {
            engine.begin_rejoin();
        }
        Ok(engine)
    }

    /// One round: everything that came in, the time that has passed, the appends that wait, and all
    /// effects of that.
    pub(crate) fn turn(&mut self, now: Now) {
        self.now = now;
        // Unless the node was held up for longer.
        let slept_over = self.next_tick..self.next_tick + TICKS_MAX * self.settings.tick;
        if self.may_skip_tick() && slept_over.contains(&now.elapsed) {
            self.tick();
        }
        // Bounded by what is there on entry, so that a flood of inputs cannot keep the effects from
        // being carried out.
        for _ in 0..self.inputs.len() {
            let Ok(input) = self.inputs.try_recv() else { break };
            self.handle(input);
        }
        self.pass_time();
        if self.catching_up.is_none() {
            self.take_appends();
        }
        if self.is_at_work()
            && self.commit_notice_at.is_some_and(|commit_notice_at| commit_notice_at <= now.elapsed)
        {
            self.replica.send_commit();
        }
        self.carry_out_effects();
        self.end_rejoin();
        self.sync_for_questions();
        self.sync_ahead();
        let has_unsent_commit = self.is_at_work() && self.replica.has_unsent_commit();
        self.commit_notice_at = has_unsent_commit
            .then(|| self.commit_notice_at.unwrap_or(now.elapsed + COMMIT_NOTICE_DELAY));
        self.end_transfer();
        self.leave();
        self.reindex();
        while let Some(background_task) = self.storage.next_task() {
            // Only a driver that has shut down takes no chores, and then they are not needed.
            let _ = self.work.background_tasks.send(background_task);
        }
    }

    /// When the next turn is due even if nothing comes in.
    pub(crate) fn wake_at(&self) -> Duration {
        if self.fault.is_some() || self.stopped {
            // A node that failed while it handed over stops with its next turn.
            return if self.leaving.is_some() { Duration::ZERO } else { Duration::MAX };
        }
        let leaving = self.leaving.as_ref().map_or(Duration::MAX, Leaving::wake_at);
        let due =
            if self.may_skip_tick() { self.next_tick + self.settings.tick } else { self.next_tick };
        let due = self
            .commit_notice_at
            .map_or(due, |commit_notice_at| due.min(commit_notice_at))
            .min(leaving);
        if self.dirty { due.min(self.next_flush) } else { due }
    }

    /// Whether this node, left alone, lets two ticks pass at a time: an idle group takes two thirds
    /// of the processor that it took else. The first of the two passes before anything that came in
    /// meanwhile, as it would have.
    fn may_skip_tick(&self) -> bool {
        let has_nothing_to_do = self.in_flight.is_empty()
            && self.barriers.is_empty()
            && self.transfers.is_empty()
            && !self.full;
        has_nothing_to_do
            && self.fault.is_none()
            && !self.stands_still()
            && !self.stopped
            && self.replica.can_wait_for_two_ticks()
    }

    /// Whether the last turn was the last.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Calls `observer` with the reason of each message that is rejected from now on.
    #[cfg(feature = "sim")]
    pub(crate) fn observe_rejections(&mut self, observer: impl Fn(&str) + Send + 'static) {
        self.rejection_observer = Some(Box::new(observer));
    }

    /// The newest raft index that is shown as committed.
    #[cfg(feature = "sim")]
    pub(crate) fn commit(&self) -> u64 {
        self.replica.hard_state().commit
    }

    /// Whether its log is complete.
    #[cfg(feature = "sim")]
    pub(crate) fn is_complete(&self) -> bool {
        self.identity.complete
    }

    /// Where whoever drives this waits for inputs.
    pub(crate) fn inputs(&self) -> &Receiver<Input> {
        &self.inputs
    }

    /// This node takes no further part in its group. Readers go on; everything under way is
    /// resolved.
    pub(crate) fn fail(&mut self, reason: &str) {
        if self.fault.is_some() || self.stopped {
            return;
        }
        log::error!(
            "group {} node {}: stopped taking part: {reason}",
            self.settings.replica.group,
            self.settings.replica.node
        );
        self.fault = Some(reason.to_owned());
        (self.repair, self.rejoin) = (None, None);
        // Before anybody is told: whoever asks then what is the matter finds it here.
        let fault = self.fault.clone();
        self.shared.status.change(|status| (status.fault, status.repair) = (fault, None));
        self.shared.watermark.stick();
        self.transport.stop();
        let reason = || reason.to_owned();
        self.resolve_all(
            AppendError::Failed { reason: reason() },
            &AppendError::Unconfirmed { reason: reason() },
            &BarrierError::Failed { reason: reason() },
        );
        self.refuse_transfers(&TransferError::Failed { reason: reason() });
        self.announce_absence();
    }

    fn handle(&mut self, input: Input) {
        if let Input::TransportEvent(TransportEvent::Message(message)) = &input {
            self.shared.release_inbox(message);
        }
        match input {
            Input::Appends => {}
            Input::Command(command) => self.handle_command(command),
            // A replica that has failed, perhaps in the middle of something, is never touched
            // again.
            _ if self.fault.is_some() => {}
            Input::TransportEvent(arrival) => self.handle_arrival(arrival),
            Input::Synced(sync, Ok(())) => {
                self.handle_synced(sync);
                self.catching_up = self.catching_up.filter(|count| *count > sync.count);
                self.end_purges(sync.count);
                self.answer_questions(sync.count);
            }
            Input::Synced(_, Err(error)) => {
                self.fail(&format!("a sync failed, and what reached the disk is unknown: {error}"))
            }
            Input::Panicked(what) => self.fail(&what),
        }
    }

    fn handle_synced(&mut self, sync: SyncId) {
        if sync.epoch == self.epoch || planted!("a sync of an earlier life counts") {
            self.replica.handle_synced(sync.number);
        }
    }

    fn handle_arrival(&mut self, arrival: TransportEvent) {
        self.note_contact(&arrival);
        match arrival {
            TransportEvent::Message(message) if message.repair_message().is_some() => message
                .repair_message()
                .into_iter()
                .for_each(|repair_message| self.handle_repair(repair_message)),
            TransportEvent::Message(_) if self.stands_still() => {}
            TransportEvent::Unreachable(peer) if self.repair.is_some() => {
                self.repair.iter_mut().for_each(|repair| repair.handle_unreachable(peer))
            }
            TransportEvent::Unreachable(_) if self.rejoin.is_some() => {}
            TransportEvent::PeerIdentified { peer, directory } if self.repair.is_some() => {
                self.deferred_peer_ids.push((peer, directory))
            }
            TransportEvent::Message(message) if self.full && message.needs_disk() => {}
            TransportEvent::Message(message) => {
                let (from, kind) = (message.from(), message.kind());
                match self.replica.handle_message(message) {
                    Ok(()) => self.note_taken(from, kind),
                    Err(refusal) => {
                        if matches!(refusal, Regressed { .. }) {
                            self.disown_log(&refusal.to_string());
                        }
                        let reason = refusal.to_string();
                        if let Some(observe) = &self.rejection_observer {
                            observe(&reason);
                        }
                        self.note_refusal(from, kind, &reason);
                    }
                }
            }
            TransportEvent::Unreachable(peer) => self.replica.handle_unreachable(peer),
            TransportEvent::PeerIdentified { peer, directory } => self.save_peer(peer, directory),
            TransportEvent::Refused { peer, reason } => self.set_refused(peer, Some(reason)),
            TransportEvent::Accepted(peer) => self.set_refused(peer, None),
            TransportEvent::OutdatedDirectory(peer) => self.handle_outlived(peer),
            TransportEvent::Advertised { .. } => {}
        }
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) {
        match self.storage.save_peer(peer, directory) {
            Ok(()) => self.dirty = true,
            // Tried once more at the next tick.
            Err(error) if error.is_temporary() => self.deferred_peer_ids.push((peer, directory)),
            Err(error) => self.storage_failed(error, None),
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Barrier { id, timeout, reply } => self.begin_barrier(id, timeout, reply),
            Command::ForgetBarrier { id } => self.forget_barrier(id),
            Command::Transfer { to, reply } => self.begin_transfer(to, reply),
            Command::Purge { index, reply } => self.begin_purge(index, reply),
            Command::Backup { reply } => reply.send(self.begin_backup()),
            Command::Stop { hand_over, reply } => self.begin_stop(hand_over, reply),
        }
    }

    fn pass_time(&mut self) {
        let now = self.now;
        if self.fault.is_some() || self.stopped {
            return;
        }
        for _ in 0..TICKS_MAX {
            if now.elapsed < self.next_tick {
                break;
            }
            self.tick();
        }
        if now.elapsed >= self.next_tick {
            self.next_tick = now.elapsed + self.settings.tick;
        }
        if self.dirty && now.elapsed >= self.next_flush {
            self.next_flush = now.elapsed + self.settings.flush_interval.unwrap_or(Duration::MAX);
            self.begin_sync(0);
        }
    }

    fn tick(&mut self) {
        self.next_tick += self.settings.tick;
        self.watch_clock();
        self.tick_refusals();
        self.watch_followers();
        self.tick_repair();
        self.tick_rejoin();
        if self.repair.is_none() {
            self.remember_met();
        }
        if self.stands_still() {
            // The replica stands still.
        } else if self.full {
            self.wait_for_space();
        } else {
            self.replica.tick();
        }
        self.tick_members();
        self.expire();
    }

    /// Resolves batches that have waited for too long. They stay with the replica, and may commit
    /// yet.
    fn expire(&mut self) {
        let leads = self.replica.role_state().role == Role::Leader;
        while let Some(oldest) = self.ages.front() {
            if let Some(batch) = self.in_flight.get(oldest) {
                if self.now.elapsed < batch.since + self.settings.append_timeout {
                    break;
                }
                let error = if leads {
                    AppendError::TimedOut(self.settings.append_timeout)
                } else {
                    AppendError::OutcomeUnknown
                };
                batch.completion.resolve(Err(error));
            }
            self.ages.pop_front();
        }
        self.expire_barriers();
    }

    fn take_appends(&mut self) {
        for batch in self.shared.sequencer.take(self.now.unix_ms) {
            let id = self.next_batch;
            self.next_batch += 1;
            self.in_flight.insert(
                id,
                InFlight {
                    completion: batch.completion,
                    cost: batch.cost,
                    since: self.now.elapsed,
                },
            );
            self.ages.push_back(id);
            self.must_reindex |= !self.replica.handle_append(id, batch.body);
        }
        if self.must_reindex {
            // The numbers that were given out since are wrong. Nobody was promised one.
            self.shared.sequencer.close(self.refusal());
        }
    }

    /// A leader whose sequencer has lost count counts again from the end of the log.
    fn reindex(&mut self) {
        if self.must_reindex
            && self.replica.role_state().role == Role::Leader
            && !self.replica.is_transferring()
        {
            self.open_sequencer();
        }
    }

    /// Whether the replica goes on: one that has failed is never touched again, and one whose log
    /// is damaged, or not complete, stands still.
    fn is_at_work(&self) -> bool {
        self.fault.is_none() && !self.stopped && !self.stands_still()
    }

    fn stands_still(&self) -> bool {
        self.repair.is_some() || self.rejoin.is_some()
    }

    fn carry_out_effects(&mut self) {
        while self.is_at_work() {
            let Some(effect) = self.replica.poll_effect() else { break };
            match effect {
                Effect::Send(mut messages) => self.transport.send(&mut messages),
                Effect::Write { batches, hard_state, commit } => {
                    self.write(&batches, hard_state, commit)
                }
                Effect::Rebase(base) => self.move_forward(&base),
                Effect::Sync(number) => self.begin_sync(number),
                Effect::Commit(point) => {
                    self.shared.watermark.publish(point.next_index, point.next_position)
                }
                Effect::Resolve(batch, proposal_outcome) => self.settle(batch, proposal_outcome),
                Effect::Role(role_state) => self.apply_role_state(role_state),
                Effect::Barrier(ids) => self.answer_barriers(&ids),
                Effect::FetchError(error) => self.storage_failed(error, None),
                Effect::Fail(reason) => self.fail(&reason),
            }
        }
        if self.fault.is_none()
            && !self.stands_still()
            && let Some(last) = self.replica.last()
        {
            self.shared.end_index.store(last.next_index, Ordering::Relaxed);
        }
    }

    /// The hard state goes first: if the batches then find no room, the log is as before, and the
    /// state is one that may stand before it.
    fn write(&mut self, batches: &[Batch], hard_state: Option<HardState>, commit: u64) {
        if let Some(hard_state) = hard_state {
            let written = self.storage.save_hard_state(hard_state);
            let failed = written.is_err();
            self.after_write(written, None);
            if failed {
                return;
            }
        }
        if !batches.is_empty() {
            let written = self.storage.append(batches, commit);
            let failed = written.is_err();
            self.after_write(written, hard_state);
            if !failed {
                self.note_room();
            }
        }
    }

    /// `saved` is the hard state that was written just before, if any.
    fn after_write(&mut self, written: Result<(), StorageError>, saved: Option<HardState>) {
        match written {
            Ok(()) => self.dirty = true,
            Err(error)
                if planted!("a write that found no room counts as done")
                    && error.is_temporary() => {}
            Err(error) => self.storage_failed(error, saved),
        }
    }

    fn storage_failed(&mut self, error: StorageError, saved: Option<HardState>) {
        if planted!("running out of descriptors is final")
            && matches!(error, StorageError::OutOfResources { .. })
        {
            return self.fail(&format!("the storage took no write: {error}"));
        }
        let outcome =
            if error.is_temporary() { self.restart_when_full(&error, saved) } else { Err(error) };
        if let Err(error) = outcome {
            self.fail(&format!("the storage took no write: {error}"));
        }
    }

    fn begin_sync(&mut self, number: u64) {
        self.dirty = false;
        self.syncs += 1;
        let number = SyncId { epoch: self.epoch, number, count: self.syncs };
        let job = SyncJob { number, pending: self.storage.begin_sync() };
        // A driver that takes no more syncs is shutting down: the sync at the end covers this one.
        let _ = self.work.syncs.send(job);
    }

    fn settle(&mut self, id: BatchId, proposal_outcome: ProposalOutcome) {
        let Some(batch) = self.in_flight.remove(&id) else { return };
        self.shared.sequencer.release(batch.cost);
        batch.completion.resolve(match proposal_outcome {
            ProposalOutcome::Committed { term } => Ok(term),
            ProposalOutcome::Dropped => Err(self.refusal()),
            ProposalOutcome::Unknown => Err(AppendError::OutcomeUnknown),
        });
    }

    /// Opens or closes the gate for appends, then tells the host.
    fn apply_role_state(&mut self, role_state: RoleState) {
        if role_state.role == Role::Leader {
            self.open_sequencer();
        } else {
            self.shared.sequencer.close(self.refusal());
            if planted!("appends under way count as lost when a leader steps down") {
                self.in_flight
                    .values()
                    .for_each(|batch| batch.completion.resolve(Err(self.refusal())));
            }
        }
        self.announce(role_state);
    }

    fn open_sequencer(&mut self) {
        self.must_reindex = false;
        match self.replica.last() {
            Some(last) => {
                self.shared.sequencer.open(last.next_index, last.next_position, last.timestamp)
            }
            None => self.fail("the end of the log cannot be read"),
        }
    }

    /// Why an append that is certain not to be committed was not taken here, or not kept: another
    /// leads; or nobody does, and this node has no room.
    fn refusal(&self) -> AppendError {
        let leader =
            self.replica.role_state().leader.filter(|leader| *leader != self.settings.replica.node);
        if let Some(reason) = self.disk_full_reason.clone().filter(|_| leader.is_none()) {
            return AppendError::StorageFull { reason };
        }
        let address =
            leader.and_then(|leader| self.settings.addresses.iter().find(|(id, _)| *id == leader));
        let address = address.map(|(_, address)| address.as_str().into());
        let advertised = leader.and_then(|leader| self.advertised(leader));
        let refused = match leader {
            None => self.shared.status.read(|status| status.refused.clone()),
            Some(_) => Vec::new(),
        };
        AppendError::NotLeader { leader, address, advertised, refused: refused.into() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
