//! The corridor: joins replica, storage, transport and hosts. A value with one verb, [`Engine::turn`]: drain what came in, let time pass, take
//! the appends, carry out the effects. It has no clock and no thread; whoever drives it passes the time and runs what it hands out.
//!
//! The order within a turn is the order that Raft needs: sync notices and messages as they came in (a notice always stands before the
//! answers that it made possible), then ticks, then appends, then effects until there are none.

mod backlog;
mod backup;
mod barriers;
mod clock;
mod full_disk;
mod handover;
mod lagging;
mod members;
mod purge;
mod reading;
mod refusing;
mod rejoining;
mod repairing;
mod stopping;
mod sync;
mod telling;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::barriers::PendingBarrier;
use self::handover::Transfer;
use self::members::Contacts;
use self::purge::PendingPurge;
use self::refusing::Refusing;
pub(crate) use self::rejoining::rejoin_empty;
use self::rejoining::{Loss, StateRequest};
use self::stopping::Leaving;
pub(crate) use self::sync::{SyncJob, SyncNumber};
use self::telling::Telling;
use crate::batch::Batch;
use crate::entry::NodeId;
use crate::error::{AppendError, BarrierError, PurgeError, ShutdownError, TransferError};
use crate::future::Completion;
use crate::message::{Letter, Refusal::Regressed};
use crate::primitives::atomic::Ordering;
use crate::primitives::channel::{Receiver, Sender};
use crate::replica::rejoin::Rejoin;
use crate::replica::repair::Repair;
use crate::replica::{BatchId, Effect, Fate, Replica, Settings, Standing};
use crate::reply::Reply;
use crate::role::{Role, Status};
use crate::shared::Shared;
use crate::storage::{BackupError, Chore, HardState, Identity, PendingBackup, Recovered, Storage, StorageError};
use crate::transport::{Arrival, Inbox, Transport};

/// A node that was held up (a stopped process, a slow disk) does not live through the time it missed: more ticks than this are skipped,
/// for catching up would make it forget that it has heard of a leader.
const TICKS_MAX: u32 = 2;

/// How long a commit waits for a batch that can tell others of it. A host whose append was acknowledged makes its next one sooner than that, and so most
/// commits take no message of their own; and a reader elsewhere that waits for this one waits little longer than for the network.
const TELL_PAUSE: Duration = Duration::from_micros(50);

/// Something for the engine to look at.
pub(crate) enum Input {
    /// The sequencer has turned from empty to not empty.
    Appends,
    Arrival(Arrival),
    Synced(SyncNumber, Result<(), StorageError>),
    /// A thread that serves this node has panicked.
    Panicked(String),
    Command(Command),
}

/// Where a transport puts what arrives for the engine behind `inputs`.
pub(crate) fn inbox(shared: Arc<Shared>, inputs: Sender<Input>) -> Inbox {
    Inbox::new(move |arrival| {
        if let Arrival::Message(message) = &arrival
            && !shared.admit(message)
        {
            return false;
        }
        inputs.send(Input::Arrival(arrival)).is_ok()
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

/// Where the engine hands work that others do. Unbounded, and little: a sync at a time matters, chores and role changes are rare.
pub(crate) struct Backstage {
    pub(crate) syncs: Sender<SyncJob>,
    pub(crate) chores: Sender<Chore>,
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
    shared: Arc<Shared>,
    backstage: Backstage,
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
    /// A sync that was begun because the storage is behind: until it has succeeded no appends are taken.
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
    tell_at: Option<Duration>,
    identity: Identity,
    /// A batch that the sequencer gave numbers to was not taken.
    lost_count: bool,
    /// How often the replica was begun anew.
    life: u64,
    /// No batch was written since the disk was found full: what it lacks room for.
    short_of_room: Option<String>,
    /// The replica waits for room, for so many more ticks.
    full: bool,
    patience_ticks: usize,
    /// The log is damaged: the replica stands still until it is not.
    repair: Option<Repair>,
    /// The log is not complete: the replica stands still until it is known what the node owes.
    rejoin: Option<Rejoin>,
    loss: Loss,
    /// The number of the next question of that kind. The first is random: no question of an earlier life had one of these.
    next_question: u64,
    /// Members that wait to be told where this node stands.
    asked: Vec<StateRequest>,
    /// What a log is that was mended, when there was too little of something to begin on it.
    mended: Option<Recovered>,
    /// Peers that were met while nothing could be remembered.
    met: Vec<(NodeId, u128)>,
    /// A peer that has met a later opening of this log, and has said so while nothing could be remembered.
    outlived: Option<NodeId>,
    /// So many more wishes of peers for batches are answered before the next tick.
    answers_left: u32,
    /// Those that came when no more were: one of each member at most.
    wishes: Vec<Letter>,
    refusing: Refusing,
    contacts: Contacts,
    telling: Telling,
    fault: Option<String>,
    stopped: bool,
    /// Why messages were not let through to the replica, for a simulation to look at.
    #[cfg(feature = "sim")]
    pub(crate) refusals: Vec<String>,
}

impl Engine {
    /// A node whose log is damaged takes no part before it is mended: what it would vote for or acknowledge, it might not be able to give.
    pub(crate) fn new(
        settings: EngineSettings,
        inputs: Receiver<Input>,
        shared: Arc<Shared>,
        backstage: Backstage,
        recovered: &Recovered,
        storage: Box<dyn Storage>,
        transport: Box<dyn Transport>,
    ) -> Result<Engine, StorageError> {
        let commit = recovered.hard_state.commit;
        let reader = shared.reader.clone();
        let committed = reader.mark(commit)?.expect("the recovered commit lies within the log");
        let replica = Replica::new(&settings.replica, recovered, committed, reader)?;
        let next_question = settings.replica.seed >> 1 & !u64::from(u32::MAX);
        let mut engine = Engine {
            // The first tick is due at once: the only voter of a group has nothing to wait for.
            next_tick: Duration::ZERO,
            next_flush: settings.flush_interval.unwrap_or(Duration::MAX),
            settings,
            inputs,
            shared,
            backstage,
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
            tell_at: None,
            identity: recovered.identity,
            lost_count: false,
            life: 0,
            short_of_room: None,
            full: false,
            patience_ticks: 0,
            repair: None,
            rejoin: None,
            loss: Loss::default(),
            next_question,
            asked: Vec::new(),
            mended: None,
            met: Vec::new(),
            outlived: None,
            answers_left: 0,
            wishes: Vec::new(),
            refusing: Refusing::default(),
            contacts: Contacts::default(),
            telling: Telling::default(),
            fault: None,
            stopped: false,
            #[cfg(feature = "sim")]
            refusals: Vec::new(),
        };
        engine.tell_opened(recovered);
        if !recovered.damage.is_empty() {
            engine.begin_repair(recovered);
        } else if !recovered.identity.complete {
            engine.begin_rejoin();
        }
        Ok(engine)
    }

    /// One round: everything that came in, the time that has passed, the appends that wait, and all effects of that.
    pub(crate) fn turn(&mut self, now: Now) {
        self.now = now;
        // Unless the node was held up for longer.
        let slept_over = self.next_tick..self.next_tick + TICKS_MAX * self.settings.tick;
        if self.sleeps_over_a_tick() && slept_over.contains(&now.elapsed) {
            self.tick();
        }
        // Bounded by what is there on entry, so that a flood of inputs cannot keep the effects from being carried out.
        for _ in 0..self.inputs.len() {
            let Ok(input) = self.inputs.try_recv() else { break };
            self.handle(input);
        }
        self.pass_time();
        if self.catching_up.is_none() {
            self.take_appends();
        }
        if self.is_at_work() && self.tell_at.is_some_and(|tell_at| tell_at <= now.elapsed) {
            self.replica.tell_commit();
        }
        self.carry_out_effects();
        self.read_for_followers();
        self.end_rejoin();
        self.sync_for_questions();
        self.sync_ahead();
        let owes_commit = self.is_at_work() && self.replica.owes_commit();
        self.tell_at = owes_commit.then(|| self.tell_at.unwrap_or(now.elapsed + TELL_PAUSE));
        self.end_transfer();
        self.leave();
        self.count_again();
        while let Some(chore) = self.storage.next_chore() {
            // Only a driver that has shut down takes no chores, and then they are not needed.
            let _ = self.backstage.chores.send(chore);
        }
    }

    /// When the next turn is due even if nothing comes in.
    pub(crate) fn wake_at(&self) -> Duration {
        if self.fault.is_some() || self.stopped {
            // A node that failed while it handed over stops with its next turn.
            return if self.leaving.is_some() { Duration::ZERO } else { Duration::MAX };
        }
        let leaving = self.leaving.as_ref().map_or(Duration::MAX, Leaving::wake_at);
        let due = if self.sleeps_over_a_tick() { self.next_tick + self.settings.tick } else { self.next_tick };
        let due = self.tell_at.map_or(due, |tell_at| due.min(tell_at)).min(leaving);
        let due = if self.owes_reading() { due.min(self.now.elapsed) } else { due };
        if self.dirty { due.min(self.next_flush) } else { due }
    }

    /// Whether this node, left alone, lets two ticks pass at a time: an idle group takes two thirds of the processor that it took else. The
    /// first of the two passes before anything that came in meanwhile, as it would have.
    fn sleeps_over_a_tick(&self) -> bool {
        let has_nothing_to_do = self.in_flight.is_empty() && self.barriers.is_empty() && self.transfers.is_empty() && !self.full;
        has_nothing_to_do && self.fault.is_none() && !self.stands_still() && !self.stopped && self.replica.can_wait_for_two_ticks()
    }

    /// Whether the last turn was the last.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
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

    /// This node takes no further part in its group. Readers go on; everything under way is resolved.
    pub(crate) fn fail(&mut self, reason: &str) {
        if self.fault.is_some() || self.stopped {
            return;
        }
        log::error!("group {} node {}: stopped taking part: {reason}", self.settings.replica.group, self.settings.replica.node);
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
        if let Input::Arrival(Arrival::Message(message)) = &input {
            self.shared.dismiss(message);
        }
        match input {
            Input::Appends => {}
            Input::Command(command) => self.handle_command(command),
            // A replica that has failed, perhaps in the middle of something, is never touched again.
            _ if self.fault.is_some() => {}
            Input::Arrival(arrival) => self.handle_arrival(arrival),
            Input::Synced(sync, Ok(())) => {
                self.handle_synced(sync);
                self.catching_up = self.catching_up.filter(|count| *count > sync.count);
                self.end_purges(sync.count);
                self.answer_questions(sync.count);
            }
            Input::Synced(_, Err(error)) => self.fail(&format!("a sync failed, and what reached the disk is unknown: {error}")),
            Input::Panicked(what) => self.fail(&what),
        }
    }

    fn handle_synced(&mut self, sync: SyncNumber) {
        if sync.life == self.life || planted!("a sync of an earlier life counts") {
            self.replica.handle_synced(sync.number);
        }
    }

    fn handle_arrival(&mut self, arrival: Arrival) {
        self.note_contact(&arrival);
        match arrival {
            Arrival::Message(message) if message.letter().is_some() => {
                message.letter().into_iter().for_each(|letter| self.handle_letter(letter))
            }
            Arrival::Message(_) if self.stands_still() => {}
            Arrival::Unreachable(peer) if self.repair.is_some() => {
                self.repair.iter_mut().for_each(|repair| repair.handle_unreachable(peer))
            }
            Arrival::Unreachable(_) if self.rejoin.is_some() => {}
            Arrival::Met { peer, directory } if self.repair.is_some() => self.met.push((peer, directory)),
            Arrival::Message(message) if self.full && message.needs_room() => {}
            Arrival::Message(message) => {
                let (from, kind) = (message.from(), message.kind());
                match self.replica.handle_message(message) {
                    Ok(()) => self.note_taken(from, kind),
                    Err(refusal) => {
                        if matches!(refusal, Regressed { .. }) {
                            self.disown_log(&refusal.to_string());
                        }
                        #[cfg(feature = "sim")]
                        self.refusals.push(refusal.to_string());
                        self.note_refusal(from, kind, &refusal.to_string());
                    }
                }
            }
            Arrival::Unreachable(peer) => self.replica.handle_unreachable(peer),
            Arrival::Met { peer, directory } => self.remember(peer, directory),
            Arrival::Refused { peer, reason } => self.set_refused(peer, Some(reason)),
            Arrival::Accepted(peer) => self.set_refused(peer, None),
            Arrival::Outlived(peer) => self.handle_outlived(peer),
            Arrival::Advertised { .. } => {}
        }
    }

    fn remember(&mut self, peer: NodeId, directory: u128) {
        match self.storage.remember(peer, directory) {
            Ok(()) => self.dirty = true,
            // Tried once more at the next tick.
            Err(error) if error.is_temporary() => self.met.push((peer, directory)),
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
        self.tick_repair();
        self.tick_rejoin();
        if self.repair.is_none() {
            self.remember_met();
        }
        if self.stands_still() {
            // The replica stands still.
        } else if self.full {
            self.await_room();
        } else {
            self.replica.tick();
        }
        self.tick_members();
        self.expire();
    }

    /// Resolves batches that have waited for too long. They stay with the replica, and may commit yet.
    fn expire(&mut self) {
        let leads = self.replica.standing().role == Role::Leader;
        while let Some(oldest) = self.ages.front() {
            if let Some(batch) = self.in_flight.get(oldest) {
                if self.now.elapsed < batch.since + self.settings.append_timeout {
                    break;
                }
                let error = if leads { AppendError::TimedOut(self.settings.append_timeout) } else { AppendError::OutcomeUnknown };
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
            self.in_flight.insert(id, InFlight { completion: batch.completion, cost: batch.cost, since: self.now.elapsed });
            self.ages.push_back(id);
            self.lost_count |= !self.replica.handle_append(id, batch.body);
        }
        if self.lost_count {
            // The numbers that were given out since are wrong. Nobody was promised one.
            self.shared.sequencer.close(self.refusal());
        }
    }

    /// A leader whose sequencer has lost count counts again from the end of the log.
    fn count_again(&mut self) {
        if self.lost_count && self.replica.standing().role == Role::Leader && !self.replica.is_transferring() {
            self.open_sequencer();
        }
    }

    /// Whether the replica goes on: one that has failed is never touched again, and one whose log is damaged, or not complete, stands still.
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
                Effect::Write { batches, hard_state, commit } => self.write(&batches, hard_state, commit),
                Effect::Rebase(base) => self.move_forward(&base),
                Effect::Sync(number) => self.begin_sync(number),
                Effect::Commit(mark) => self.shared.watermark.publish(mark.next_index, mark.next_position),
                Effect::Settle(batch, fate) => self.settle(batch, fate),
                Effect::Role(standing) => self.take_standing(standing),
                Effect::Barrier(ids) => self.answer_barriers(&ids),
                Effect::Lack(error) => self.storage_failed(error, None),
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

    /// The hard state goes first: if the batches then find no room, the log is as before, and the state is one that may stand before it.
    fn write(&mut self, batches: &[Batch], hard_state: Option<HardState>, commit: u64) {
        if let Some(hard_state) = hard_state {
            let written = self.storage.save(hard_state);
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
            Err(error) if planted!("a write that found no room counts as done") && error.is_temporary() => {}
            Err(error) => self.storage_failed(error, saved),
        }
    }

    fn storage_failed(&mut self, error: StorageError, saved: Option<HardState>) {
        if planted!("running out of descriptors is final") && matches!(error, StorageError::OutOfResources { .. }) {
            return self.fail(&format!("the storage took no write: {error}"));
        }
        let outcome = if error.is_temporary() { self.step_back(&error, saved) } else { Err(error) };
        if let Err(error) = outcome {
            self.fail(&format!("the storage took no write: {error}"));
        }
    }

    fn begin_sync(&mut self, number: u64) {
        self.dirty = false;
        self.syncs += 1;
        let number = SyncNumber { life: self.life, number, count: self.syncs };
        let job = SyncJob { number, pending: self.storage.begin_sync() };
        // A driver that takes no more syncs is shutting down: the sync at the end covers this one.
        let _ = self.backstage.syncs.send(job);
    }

    fn settle(&mut self, id: BatchId, fate: Fate) {
        let Some(batch) = self.in_flight.remove(&id) else { return };
        self.shared.sequencer.release(batch.cost);
        batch.completion.resolve(match fate {
            Fate::Committed { term } => Ok(term),
            Fate::Lost => Err(self.refusal()),
            Fate::Unknown => Err(AppendError::OutcomeUnknown),
        });
    }

    /// Opens or closes the gate for appends, then tells the host.
    fn take_standing(&mut self, standing: Standing) {
        if standing.role == Role::Leader {
            self.open_sequencer();
        } else {
            self.shared.sequencer.close(self.refusal());
            if planted!("appends under way count as lost when a leader steps down") {
                self.in_flight.values().for_each(|batch| batch.completion.resolve(Err(self.refusal())));
            }
        }
        self.announce(standing);
    }

    fn open_sequencer(&mut self) {
        self.lost_count = false;
        match self.replica.last() {
            Some(last) => self.shared.sequencer.open(last.next_index, last.next_position, last.timestamp),
            None => self.fail("the end of the log cannot be read"),
        }
    }

    /// Why an append that is certain not to be committed was not taken here, or not kept: another leads; or nobody does, and this node has no room.
    fn refusal(&self) -> AppendError {
        let leader = self.replica.standing().leader.filter(|leader| *leader != self.settings.replica.node);
        if let Some(reason) = self.short_of_room.clone().filter(|_| leader.is_none()) {
            return AppendError::StorageFull { reason };
        }
        let address = leader.and_then(|leader| self.settings.addresses.iter().find(|(id, _)| *id == leader));
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
