//! Event loop of one node: it joins replica, storage, transport and hosts.
//!
//! [`Engine::turn`] handles inputs, ticks, appends and effects, in this order. The engine has no
//! clock and no thread: the caller passes [`Now`] and runs the queued work ([`WorkSenders`]).
//!
//! The order within a turn is the one that Raft needs. Inputs are handled as they came in, so a
//! finished sync comes before the responses that it made possible. Effects come last, until there
//! are none.

mod appends;
mod backlog;
mod backup;
mod barriers;
mod clock;
mod contacts;
mod full_disk;
mod group_uid;
mod group_uid_state;
mod input;
mod lagging;
mod members;
mod permits;
mod purge;
mod reading;
mod refused_peers;
mod refusing;
mod rejoin_state;
mod rejoining;
mod repair;
mod reports;
mod requests;
mod retention;
mod retention_state;
mod sleep_state;
mod sleeping;
mod stopping;
mod transfer;
mod work;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::contacts::Contacts;
use self::group_uid_state::GroupUidState;
pub(crate) use self::input::{Command, Input, Now, inbox};
pub(crate) use self::permits::{AppendPermit, AppendPermits};
use self::refused_peers::RefusedPeers;
pub(crate) use self::rejoin_state::rejoin_empty;
use self::rejoin_state::{Loss, RejoinReport};
use self::requests::{InFlight, PendingBarrier, PendingPurge, PendingStop, StateRequest, Transfer};
use self::retention_state::RetentionState;
use self::sleep_state::Sleep;
pub(crate) use self::work::{Notice, SyncId, SyncJob, WorkSenders};
use crate::batch::Batch;
use crate::entry::NodeId;
use crate::error::{AppendError, BarrierError, TransferError};
use crate::message::RepairMessage;
use crate::primitives::atomic::Ordering;
use crate::primitives::channel::Receiver;
use crate::replica::rejoin::Rejoin;
use crate::replica::repair::Repair;
use crate::replica::{BatchId, Effect, ProposalOutcome, Replica, RoleState, Settings};
use crate::retention::Retention;
use crate::role::Role;
use crate::shared::NodeShared;
use crate::storage::{DirectoryIdentity, HardState, Recovered, Storage, StorageError};
use crate::transport::{Transport, TransportEvent};

/// Ticks of a turn at most. A node that was held up (a stopped process, a slow disk) skips the
/// others: running all of them would make it forget that it has heard of a leader.
const TICKS_MAX: u32 = 2;

/// The settings of an engine.
#[derive(Clone, Debug)]
pub(crate) struct EngineSettings {
    pub(crate) replica: Settings,
    pub(crate) tick: Duration,
    /// Under an asynchronous flush policy: how often the log is synced.
    pub(crate) flush_interval: Option<Duration>,
    pub(crate) append_timeout: Duration,
    /// How long a group is idle before it sleeps: see [`sleeping`]. `None`: it never does.
    pub(crate) sleep_after: Option<Duration>,
    pub(crate) addresses: Vec<(NodeId, String)>,
    pub(crate) retention: Retention,
}

type RejectionObserver = Box<dyn Fn(&str) + Send>;

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
    /// When appends were taken last, and whether those since are held back.
    last_take: Duration,
    holds_appends: bool,
    permit: AppendPermit,
    /// The ids of `in_flight`, oldest first. Ids of resolved batches are skipped.
    ages: VecDeque<BatchId>,
    next_batch: BatchId,
    /// The raft index of the last batch that a status shows.
    shown_end: Option<u64>,
    barriers: HashMap<u64, PendingBarrier>,
    /// Purges that wait for a sync.
    purges: Vec<PendingPurge>,
    retention: RetentionState,
    /// All of them to the same node.
    transfers: Vec<Transfer>,
    /// A shutdown that hands the leadership over first.
    stopping: Option<PendingStop>,
    /// A sync that was begun because the storage is behind. No appends are taken until it succeeds.
    overload_sync: Option<u64>,
    now: Now,
    next_tick: Duration,
    next_flush: Duration,
    /// The newest timestamp of the log is far ahead of the clock, and a warning was logged.
    warned_of_clock: bool,
    /// Something was written since the last sync was begun.
    dirty: bool,
    /// Number of syncs begun.
    syncs: u64,
    /// When the commit index is sent to the others, unless a batch carries it before.
    commit_notice_at: Option<Duration>,
    identity: DirectoryIdentity,
    /// The replica refused a batch that the sequencer had given indexes.
    must_reindex: bool,
    /// Counts the restarts of the replica within this run.
    epoch: u64,
    /// Why the disk counts as full. `None` once a batch was written.
    disk_full_reason: Option<String>,
    /// The replica takes no batches, for so many more ticks, since the disk is full.
    is_paused: bool,
    retry_ticks: usize,
    /// The log is corrupt: the replica is suspended until it is repaired.
    repair: Option<Repair>,
    /// The log is not complete: the replica is suspended until every member has responded.
    rejoin: Option<Rejoin>,
    loss: Loss,
    /// The id of the next state request. The first is random, so that no earlier run used it.
    next_request_id: u64,
    /// State requests of other members, not yet answered.
    state_requests: Vec<StateRequest>,
    /// The repaired log, if the replica could not be started on it for lack of a resource.
    repaired: Option<Recovered>,
    /// Directory ids of peers, received while they could not be saved.
    deferred_peer_ids: Vec<(NodeId, u128)>,
    /// A peer that knows a later opening of this directory, and said so during a repair.
    outdated_by: Option<NodeId>,
    /// Number of fetch requests that are still served before the next tick.
    fetch_budget: u32,
    /// Fetch requests that wait for the next tick, at most one of each member.
    deferred_fetches: Vec<RepairMessage>,
    refused_peers: RefusedPeers,
    contacts: Contacts,
    rejoin_report: RejoinReport,
    sleep: Sleep,
    group_uid: GroupUidState,
    fault: Option<String>,
    stopped: bool,
    /// Called with the reason of each message that the replica rejects. Set by simulations only.
    rejection_observer: Option<RejectionObserver>,
}

impl Engine {
    /// A node whose log is corrupt takes no part before the log is repaired: it might vote or
    /// acknowledge without having the batches for it.
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
        let retention = RetentionState::new(settings.retention, storage.disk_probe());
        let next_request_id = settings.replica.seed >> 1 & !u64::from(u32::MAX);
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
            last_take: Duration::ZERO,
            holds_appends: false,
            permit: AppendPermit::default(),
            ages: VecDeque::new(),
            next_batch: 0,
            shown_end: None,
            barriers: HashMap::new(),
            purges: Vec::new(),
            retention,
            transfers: Vec::new(),
            stopping: None,
            overload_sync: None,
            now: Now::default(),
            warned_of_clock: false,
            dirty: false,
            syncs: 0,
            commit_notice_at: None,
            identity: recovered.identity,
            must_reindex: false,
            epoch: 0,
            disk_full_reason: None,
            is_paused: false,
            retry_ticks: 0,
            repair: None,
            rejoin: None,
            loss: Loss::default(),
            next_request_id,
            state_requests: Vec::new(),
            repaired: None,
            deferred_peer_ids: Vec::new(),
            outdated_by: None,
            fetch_budget: 0,
            deferred_fetches: Vec::new(),
            refused_peers: RefusedPeers::default(),
            contacts: Contacts::default(),
            rejoin_report: RejoinReport::default(),
            sleep: Sleep::default(),
            group_uid: GroupUidState::default(),
            fault: None,
            stopped: false,
            rejection_observer: None,
        };
        engine.report_opened(recovered);
        if !recovered.corruption.is_empty() {
            engine.begin_repair(recovered);
        } else if !recovered.identity.complete {
            engine.begin_rejoin();
        }
        Ok(engine)
    }

    /// Handles all inputs that came in, the time that has passed, the waiting appends, and all
    /// effects of these.
    pub(crate) fn turn(&mut self, now: Now) {
        self.now = now;
        self.storage.pass_time(now.elapsed, now.unix_ms);
        // No skipped tick is made up for if the node was held up for longer.
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
        // Goes by the commit of the turn before, which everyone can see.
        self.apply_retention();
        self.take_appends();
        self.wake_for_work();
        if self.is_active() && self.commit_notice_at.is_some_and(|at| at <= now.elapsed) {
            self.replica.send_commit();
        }
        self.carry_out_effects();
        // What was held back for an append that was under way goes on with its commit.
        if self.take_appends() {
            self.carry_out_effects();
        }
        self.read_for_followers();
        self.end_rejoin();
        self.sync_for_state_requests();
        self.sync_when_behind();
        self.commit_notice_at = self.commit_notice();
        self.end_transfer();
        self.continue_stop();
        self.reindex();
        self.end_permit();
        self.end_turn_of_sleep();
        while let Some(background_task) = self.storage.next_task() {
            // The receiver is gone only after a shutdown. Then no background task is needed.
            let _ = self.work.background_tasks.send(background_task);
        }
        self.ask_disk();
    }

    /// When the next turn is due even if nothing comes in.
    pub(crate) fn wake_at(&self) -> Duration {
        if self.fault.is_some() || self.stopped {
            // A node that failed during a handover stops with its next turn.
            return if self.stopping.is_some() { Duration::ZERO } else { Duration::MAX };
        }
        if self.is_asleep() {
            let permit = self.permit.awaited_until().or_else(|| self.permit.held_until());
            return permit.unwrap_or(Duration::MAX).min(self.retention_wake_at());
        }
        let stopping = self.stopping.as_ref().map_or(Duration::MAX, PendingStop::wake_at);
        let due =
            if self.may_skip_tick() { self.next_tick + self.settings.tick } else { self.next_tick };
        let due = self.commit_notice_at.map_or(due, |at| due.min(at)).min(stopping);
        let due = self.appends_wait_until().map_or(due, |at| due.min(at));
        let due = if self.owes_reading() { due.min(self.now.elapsed) } else { due };
        if self.dirty { due.min(self.next_flush) } else { due }
    }

    /// Whether an idle node may wait for two ticks at a time. That saves an idle group a third of
    /// its processor time. The first of the two ticks runs before the inputs that came in
    /// meanwhile, as it would have without the wait.
    fn may_skip_tick(&self) -> bool {
        let has_nothing_to_do = self.in_flight.is_empty()
            && self.barriers.is_empty()
            && self.transfers.is_empty()
            && !self.is_paused
            && !self.is_asleep()
            && !self.sleep.is_asking();
        has_nothing_to_do
            && self.fault.is_none()
            && !self.is_suspended()
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

    /// The newest raft index that is published as committed.
    #[cfg(feature = "sim")]
    pub(crate) fn commit(&self) -> u64 {
        self.replica.hard_state().commit
    }

    /// Whether its log is complete.
    #[cfg(feature = "sim")]
    pub(crate) fn is_complete(&self) -> bool {
        self.identity.complete
    }

    /// The queue of inputs, for the caller to wait on.
    pub(crate) fn inputs(&self) -> &Receiver<Input> {
        &self.inputs
    }

    /// Ends this node's part in its group for good. Readers go on. Everything in flight is
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
        self.permit.give_back();
        (self.repair, self.rejoin) = (None, None);
        // First the status: callers that are resolved below find the reason there.
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
            Input::Appends => self.sleep.idle_since = self.now.elapsed,
            Input::Command(command) => self.handle_command(command),
            // A failed replica may be in an inconsistent state, and is never used again.
            _ if self.fault.is_some() => {}
            Input::TransportEvent(event) => self.handle_transport_event(event),
            Input::Synced(sync, Ok(())) => {
                self.handle_synced(sync);
                self.sleep.synced = self.sleep.synced.max(sync.count);
                self.overload_sync = self.overload_sync.filter(|count| *count > sync.count);
                self.end_purges(sync.count);
                self.sync_group_uid(sync.count);
                self.answer_state_requests(sync.count);
            }
            Input::Synced(_, Err(error)) => {
                self.fail(&format!("a sync failed, and what reached the disk is unknown: {error}"))
            }
            Input::Panicked(what) => self.fail(&what),
        }
    }

    fn handle_synced(&mut self, sync: SyncId) {
        if sync.epoch == self.epoch {
            self.replica.handle_synced(sync.number);
        }
    }

    fn handle_transport_event(&mut self, event: TransportEvent) {
        self.note_contact(&event);
        self.disturb_by(&event);
        match event {
            TransportEvent::PeerDown(peer) => self.handle_peer_down(peer),
            TransportEvent::PeerUp(peer) => self.handle_peer_up(peer),
            TransportEvent::Message(message) if message.sleep_message().is_some() => {
                message.sleep_message().into_iter().for_each(|message| self.handle_sleep(*message))
            }
            TransportEvent::Message(message) if message.repair_message().is_some() => message
                .repair_message()
                .into_iter()
                .for_each(|repair_message| self.handle_repair(repair_message)),
            TransportEvent::Message(_) if self.is_suspended() => {}
            TransportEvent::Unreachable(peer) if self.repair.is_some() => {
                self.repair.iter_mut().for_each(|repair| repair.handle_unreachable(peer))
            }
            TransportEvent::Unreachable(_) if self.rejoin.is_some() => {}
            TransportEvent::PeerIdentified { peer, directory } if self.repair.is_some() => {
                self.deferred_peer_ids.push((peer, directory))
            }
            TransportEvent::Message(message) if self.is_paused && message.needs_disk() => {}
            TransportEvent::Message(message) => {
                let (from, kind) = (message.from(), message.kind());
                match self.replica.handle_message(message) {
                    Ok(()) => self.note_taken(from, kind),
                    Err(refusal) => {
                        if refusal.proves_loss() {
                            self.declare_incomplete(&refusal.to_string());
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
            TransportEvent::OutdatedDirectory(peer) => self.handle_outdated_directory(peer),
            TransportEvent::Advertised { .. } => {}
        }
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) {
        match self.storage.save_peer(peer, directory) {
            Ok(()) => self.dirty = true,
            // Tried again at the next tick.
            Err(error) if error.is_temporary() => self.deferred_peer_ids.push((peer, directory)),
            Err(error) => self.storage_failed(error, None),
        }
    }

    fn handle_command(&mut self, command: Command) {
        self.sleep.idle_since = self.now.elapsed;
        match command {
            Command::Barrier { id, timeout, reply } => self.begin_barrier(id, timeout, reply),
            Command::ForgetBarrier { id } => self.forget_barrier(id),
            Command::Transfer { to, reply } => self.begin_transfer(to, reply),
            Command::Purge { index, reply } => self.begin_purge(index, reply),
            Command::SetRetention(policy) => self.set_retention(policy),
            Command::Backup { reply } => reply.send(self.begin_backup()),
            Command::Stop { hand_over, reply } => self.begin_stop(hand_over, reply),
        }
    }

    fn pass_time(&mut self) {
        let now = self.now;
        if self.fault.is_some() || self.stopped || self.is_asleep() {
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
        self.tick_repair();
        self.tick_rejoin();
        self.tick_group_uid();
        if self.repair.is_none() {
            self.save_deferred_peers();
        }
        if self.is_suspended() {
            // No time passes for the replica.
        } else if self.is_paused {
            self.wait_for_space();
        } else if !self.sleep.is_asking() {
            self.replica.tick();
        }
        self.tick_members();
        self.expire();
        self.sleep.has_ticked = true;
    }

    /// Resolves batches that have waited for too long. The replica keeps them: they may commit
    /// later.
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

    /// Whether the replica runs. It does not if it has failed, if the node is stopped, or if the
    /// log is corrupt or not complete.
    fn is_active(&self) -> bool {
        self.fault.is_none() && !self.stopped && !self.is_suspended()
    }

    fn is_suspended(&self) -> bool {
        self.repair.is_some() || self.rejoin.is_some()
    }

    fn carry_out_effects(&mut self) {
        let mut may_move_end = false;
        while self.is_active() {
            let Some(effect) = self.replica.poll_effect() else { break };
            may_move_end |= !matches!(effect, Effect::Send(_));
            match effect {
                Effect::Send(mut messages) => self.transport.send(&mut messages),
                Effect::Write { batches, hard_state, commit } => {
                    self.write(&batches, hard_state, commit)
                }
                Effect::GroupUid(uid) => self.find_group_uid(uid),
                Effect::InstallSnapshot(base) => self.move_forward(&base),
                Effect::Sync(number) => self.begin_sync(number),
                Effect::Commit(point) => {
                    self.shared.watermark.publish(point.next_index, point.next_position)
                }
                Effect::Resolve(batch, outcome) => self.resolve(batch, outcome),
                Effect::RoleChanged(role_state) => self.apply_role_state(role_state),
                Effect::Barrier(ids) => self.answer_barriers(&ids),
                Effect::ReadFailed(error) => self.storage_failed(error, None),
                Effect::Fail(reason) => self.fail(&reason),
            }
        }
        // It is read from the log, which an idle group among a thousand does not have at hand.
        let end = Some(self.replica.last_written());
        if self.fault.is_none()
            && !self.is_suspended()
            && (may_move_end || end != self.shown_end)
            && let Some(last) = self.replica.last()
        {
            self.shared.end_index.store(last.next_index, Ordering::Relaxed);
            self.shown_end = end;
        }
    }

    /// Writes the hard state first: if the disk is full for the batches, the log is as before, and
    /// the hard state is valid for it.
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
                self.clear_disk_full();
            }
        }
    }

    /// `saved` is the hard state that was written just before, if any.
    fn after_write(&mut self, written: Result<(), StorageError>, saved: Option<HardState>) {
        match written {
            Ok(()) => self.dirty = true,
            Err(error) => self.storage_failed(error, saved),
        }
    }

    fn storage_failed(&mut self, error: StorageError, saved: Option<HardState>) {
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
        // The receiver is gone only during a shutdown, whose last sync covers this one.
        let _ = self.work.syncs.send(job);
    }

    fn resolve(&mut self, id: BatchId, outcome: ProposalOutcome) {
        let Some(batch) = self.in_flight.remove(&id) else { return };
        self.shared.sequencer.release(batch.cost);
        batch.completion.resolve(match outcome {
            ProposalOutcome::Committed { term } => Ok(term),
            ProposalOutcome::Dropped => Err(self.refusal()),
            ProposalOutcome::Unknown => Err(AppendError::OutcomeUnknown),
        });
    }

    /// Opens or closes the sequencer, then notifies the host.
    fn apply_role_state(&mut self, role_state: RoleState) {
        if role_state.role == Role::Leader {
            self.open_sequencer();
        } else {
            self.shared.sequencer.close_in(role_state.term, self.refusal());
        }
        self.announce(role_state);
    }

    fn open_sequencer(&mut self) {
        self.must_reindex = false;
        let (term, sequencer) = (self.replica.role_state().term, &self.shared.sequencer);
        match self.replica.last() {
            Some(last) => sequencer.open(term, last.next_index, last.next_position, last.timestamp),
            None => self.fail("the end of the log cannot be read"),
        }
    }
}

/// What still waits for it gives its space back to the other nodes of a host.
impl Drop for Engine {
    fn drop(&mut self) {
        while let Ok(input) = self.inputs.try_recv() {
            if let Input::TransportEvent(TransportEvent::Message(message)) = &input {
                self.shared.release_inbox(message);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
