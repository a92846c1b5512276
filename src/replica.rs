//! One replica of one group, as a pure value: no clock, no thread, no file, no socket.
//!
//! Inputs come through `handle_*` and [`Replica::tick`]. Effects go out through
//! [`Replica::poll_effect`], one at a time: the caller carries out each effect before it polls the
//! next, and polls until there is none. Time is a count of ticks. The same seed and the same calls
//! give the same effects. The Raft core is tikv's `raft`; sections and figures below are those of
//! the Raft paper (Ongaro, Ousterhout: In Search of an Understandable Consensus Algorithm, extended
//! version).
//!
//! ```text
//!   tick  handle_message  handle_append  handle_barrier  handle_synced
//!     \        |               |              |              /
//!      +-------+------- raft-rs (adapter) ----+-------------+
//!                              |
//!   poll_effect:  Send  Write  InstallSnapshot  Sync  Commit  Resolve  RoleChanged  Barrier
//!                 ReadFailed  Fail
//! ```
//!
//! # Invariants
//!
//! 1. **Persist before send** (figure 2). Votes, vote requests and append acknowledgements wait
//!    for the sync that covers them. So does everything that a new leader sends while its term is
//!    not durable.
//! 2. **Durable before counted.** This replica counts towards a quorum for a batch only after the
//!    [`Effect::Sync`] that covers it has succeeded ([`Replica::handle_synced`]); under an
//!    asynchronous flush policy, after it was written. Term and vote are always synced.
//! 3. **Notice before response.** `handle_synced` notifies raft-rs before it releases the messages
//!    that waited for the sync, so no response to them can overtake the notice.
//! 4. **Readable before committed.** [`Effect::Commit`] covers only batches whose `Write` was
//!    carried out. It comes before the `Resolve` and `RoleChanged` effects that follow from it, and
//!    before the messages with the new commit index, which the next batch may carry
//!    ([`Replica::has_unsent_commit`]).
//! 5. **Monotonic.** The commit index never decreases. Each batch is resolved at most once.
//! 6. **A leader is announced late** (section 8). [`Effect::RoleChanged`] reports a leader only
//!    once a batch of its own term is committed and published.
//! 7. **Check before step.** A message reaches raft-rs only after every check of
//!    [`crate::message`], and its batches only if they continue the log. A message that proves this
//!    log wrong ends this replica ([`Effect::Fail`]); nothing is stepped after that.
//! 8. **A sole voter campaigns on durable state.** It does not campaign while a write of it is not
//!    durable.
//! 9. **No part with a corrupt log.** A replica is driven only on a log without known corruption.
//!    Before that, [`repair`] decides what is fetched from which peer and what is taken of the
//!    responses, and no message of a peer reaches Raft.

mod adapter;
mod barriers;
mod catch_up;
mod effect;
mod election;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod group_uid;
mod membership;
mod proposals;
pub(crate) mod rejoin;
pub(crate) mod repair;
mod restart;
#[cfg(test)]
mod script;
mod settings;
mod sleeping;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::LogPoint;
use crate::entry::NodeId;
use crate::message::{Message, MessageRejection, PeerState};
use crate::role::{Membership, Role};
use crate::storage::{Base, HardState, LogReader, Recovered, StorageError};

pub(crate) use adapter::Follower;
use adapter::{CoreReady, RaftCore, RaftRole};
use barriers::Barriers;
use catch_up::CatchUpPacer;
use membership::LocalMembership;
use proposals::Proposals;

pub(crate) use effect::{Effect, RoleState, TransferRejection};
#[cfg(any(test, feature = "sim"))]
pub(crate) use election::splitmix64;
pub(crate) use proposals::{BatchId, ProposalOutcome};
pub(crate) use settings::Settings;

/// Messages that wait for a sync in progress.
struct AwaitingSync {
    /// The ready that asked for the sync.
    sync: u64,
    /// The newest ready that it covers: later ones that need no sync of their own keep their place
    /// in the order.
    covers: u64,
    /// Whether the sync covers term or vote.
    has_hard_state: bool,
    messages: Vec<Message>,
}

/// See the [module](self).
pub(crate) struct Replica {
    core: RaftCore,
    members: LocalMembership,
    counts_unsynced: bool,
    proposals: Proposals,
    effects: VecDeque<Effect>,
    /// A ready of raft-rs whose effects were polled, but not all carried out.
    current_ready: Option<CoreReady>,
    /// Messages that wait for a sync, oldest first.
    unsynced: VecDeque<AwaitingSync>,
    committed: LogPoint,
    role_state: RoleState,
    barriers: Barriers,
    pacer: CatchUpPacer,
    /// If the log is not complete: the (term, raft index) that the end of a log must reach before
    /// its node may lead. See [`rejoin`].
    bound: Option<(u64, u64)>,
    /// A temporary failure to read the log. It is the last effect to be polled.
    read_error: Option<StorageError>,
    failed: bool,
}

impl Replica {
    /// # Errors
    /// If the log cannot be read.
    pub(crate) fn new(
        settings: &Settings,
        recovered: &Recovered,
        committed: LogPoint,
        reader: Arc<dyn LogReader>,
    ) -> Result<Replica, StorageError> {
        Ok(Replica::over(
            settings,
            recovered,
            committed,
            RaftCore::new(settings, recovered, reader)?,
        ))
    }

    fn over(
        settings: &Settings,
        recovered: &Recovered,
        committed: LogPoint,
        core: RaftCore,
    ) -> Replica {
        assert_eq!(
            committed.raft_index, recovered.hard_state.commit,
            "the commit index is the recovered one"
        );
        let members = LocalMembership::new(settings.node, recovered.base.membership.clone());
        let role = if members.is_learner() { Role::Learner } else { Role::Follower };
        let mut replica = Replica {
            role_state: RoleState { role, term: core.term(), leader: None },
            core,
            members,
            counts_unsynced: settings.counts_unsynced,
            proposals: Proposals::default(),
            effects: VecDeque::new(),
            current_ready: None,
            unsynced: VecDeque::new(),
            committed,
            barriers: Barriers::new(settings),
            pacer: CatchUpPacer::new(settings.catch_up_bytes),
            bound: None,
            read_error: None,
            failed: false,
        };
        if recovered.corruption.is_empty() {
            replica.learn_group_uid();
        }
        replica
    }

    /// Whether the next tick may come together with the one after it. A leader sends heartbeats
    /// every second tick, and only their interval matters.
    pub(crate) fn can_wait_for_two_ticks(&self) -> bool {
        self.role_state.leader.is_some()
            && !self.core.is_about_to_campaign()
            && !self.core.is_transferring()
    }

    /// One tick of the clock has passed.
    pub(crate) fn tick(&mut self) {
        if self.failed {
            return;
        }
        let sole_candidate = self.members.is_sole_voter() && self.core.role() != RaftRole::Leader;
        if sole_candidate {
            // No other node can lead, so only the disk is waited for (invariant 8).
            if self.unsynced.is_empty() {
                self.core.campaign();
            }
        } else if self.bound.is_none() || !self.core.is_about_to_campaign() {
            self.core.tick();
        } else {
            self.core.lose_leader();
        }
        if let Some(context) = self.barriers.tick() {
            self.core.read_index(context);
        }
        self.pacer.tick(self.core.commit());
        self.release();
    }

    /// A message has arrived. A rejected message changes nothing, unless it proves this log wrong:
    /// that ends the replica.
    pub(crate) fn handle_message(&mut self, message: Message) -> Result<(), MessageRejection> {
        if self.failed {
            return Ok(());
        }
        let is_short = |bound: &(u64, u64)| message.candidate().is_some_and(|last| last < *bound);
        if self.bound.as_ref().is_some_and(is_short) {
            return Ok(());
        }
        let outcome = self.core.step(message, self.members.membership());
        if let Err(refusal) = &outcome
            && refusal.is_fatal()
        {
            self.fail(refusal.to_string());
        }
        outcome
    }

    /// Proposes a batch; `body` continues the log. Its outcome comes as [`Effect::Resolve`].
    /// Returns false if the batch was not taken, and is dropped.
    pub(crate) fn handle_append(&mut self, id: BatchId, body: Bytes) -> bool {
        let bytes = body.len();
        let place = if self.failed { None } else { self.core.propose(body) };
        match place {
            Some((term, raft_index)) => {
                self.proposals.push(id, term, raft_index);
                self.pacer.appended(bytes);
                self.release();
            }
            None => self.effects.push_back(Effect::Resolve(id, ProposalOutcome::Dropped)),
        }
        place.is_some()
    }

    /// Begins a read barrier. It comes as [`Effect::Barrier`], if a leader with a quorum can be
    /// reached.
    pub(crate) fn handle_barrier(&mut self, id: u64) {
        self.barriers.wait(id);
    }

    /// Drops a barrier that is no longer waited for.
    pub(crate) fn forget_barrier(&mut self, id: u64) {
        self.barriers.forget(id);
    }

    /// The sync that [`Effect::Sync`] asked for has succeeded.
    pub(crate) fn handle_synced(&mut self, number: u64) {
        if self.failed {
            return;
        }
        let mut released = Vec::new();
        let is_covered = |waiting: &&AwaitingSync| waiting.sync <= number;
        let count = self.unsynced.iter().take_while(is_covered).count();
        for covered in self.unsynced.drain(..count) {
            self.core.persisted(covered.covers);
            released.extend(covered.messages);
        }
        self.send(released);
    }

    /// Messages to a peer were lost.
    pub(crate) fn handle_unreachable(&mut self, peer: NodeId) {
        if !self.failed {
            self.pacer.forget(peer);
            self.core.unreachable(peer);
        }
    }

    /// Whether the leadership can be transferred to `to`.
    pub(crate) fn check_transfer(&self, to: NodeId) -> Result<(), TransferRejection> {
        // Both are checked: a leader that was deposed in this turn is not announced as such yet,
        // and raft-rs would forward the transfer to another node.
        if self.failed
            || self.role_state.role != Role::Leader
            || self.core.role() != RaftRole::Leader
        {
            return Err(TransferRejection::NotLeader);
        }
        if !self.members.is_voter(to) {
            return Err(TransferRejection::NotAVoter);
        }
        Ok(())
    }

    /// Transfers the leadership to another voter. No batch is taken until the transfer has ended.
    pub(crate) fn handle_transfer(&mut self, to: NodeId) -> Result<(), TransferRejection> {
        self.check_transfer(to)?;
        self.core.transfer(to);
        Ok(())
    }

    /// The storage has purged the head of the log, up to `base`.
    pub(crate) fn handle_purged(&mut self, base: Base) {
        self.core.purged(base);
    }

    /// The next effect. `None`: there is none until the next input.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        loop {
            if let Some(effect) = self.effects.pop_front() {
                return Some(effect);
            }
            if self.failed {
                return None;
            }
            if let Some(ready) = self.current_ready.take() {
                self.finish(ready);
                self.follow_commit();
                continue;
            }
            if let Some(context) = self.barriers.ask() {
                self.core.read_index(context);
            }
            // Before the messages of the ready: hosts wait for the commit, and sending a message to
            // each peer takes longer than waking them.
            self.publish_commit();
            // A message of this ready may carry the commit of a batch of this term, and its
            // receiver then takes this leader for ready (`leads_and_commits`).
            if self.current_role_state().role == Role::Leader {
                self.announce_role_state();
            }
            self.core.propose_group_uid();
            match self.core.take_ready() {
                Some(ready) => self.begin(ready),
                None => self.follow_commit(),
            }
            match self.core.take_read_error() {
                // The current ready is finished first, so that it is known what is written.
                Some(error) if error.is_temporary() => self.read_error = Some(error),
                Some(error) => self.fail(format!("the log cannot be read: {error}")),
                None => {}
            }
            if self.effects.is_empty() && self.current_ready.is_none() {
                return self.read_error.take().map(Effect::ReadFailed);
            }
        }
    }

    /// Whether a commit was not sent to the others yet. The next batch carries it, or
    /// [`send_commit`](Self::send_commit).
    pub(crate) fn has_unsent_commit(&self) -> bool {
        !self.failed && !self.members.is_alone() && self.core.has_unsent_commit()
    }

    /// Sends the commit index to the others.
    pub(crate) fn send_commit(&mut self) {
        if self.has_unsent_commit() {
            self.core.send_commit();
        }
    }

    /// Whether followers wait for batches that must be read.
    pub(crate) fn owes_reading(&self) -> bool {
        !self.failed && self.core.owes_reading()
    }

    /// Reads a little of the log for followers that lack it: about one message, however many they
    /// are. Nothing else reads for them. What was read comes as effects.
    pub(crate) fn read_for_followers(&mut self) {
        if !self.failed {
            self.core.read_for_followers();
        }
    }

    /// Whether a leadership transfer is in progress.
    pub(crate) fn is_transferring(&self) -> bool {
        self.core.is_transferring()
    }

    pub(crate) fn role_state(&self) -> RoleState {
        self.role_state
    }

    /// Whether `node` leads and takes appends: a batch of its term is known to be committed here.
    pub(crate) fn leads_and_commits(&self, node: NodeId) -> bool {
        self.role_state.leader == Some(node) && self.committed.term == self.role_state.term
    }

    /// The hard state to save when the log is closed in good order.
    pub(crate) fn hard_state(&self) -> HardState {
        HardState { commit: self.committed.raft_index, ..self.core.hard_state() }
    }

    /// The raft index at the end of the written log.
    pub(crate) fn last_written(&self) -> u64 {
        self.core.last_written()
    }

    /// The log point at the end of the written log.
    pub(crate) fn last(&self) -> Option<LogPoint> {
        self.core.written_point(self.core.last_written())
    }

    /// Term and end of the log, as raft-rs has them. No message of this node has claimed more.
    pub(crate) fn peer_state(&self) -> PeerState {
        PeerState { term: self.core.term(), last: self.core.last() }
    }

    /// A peer has lost batches that it acknowledged. They are sent again.
    pub(crate) fn forget_acknowledged(&mut self, peer: NodeId) {
        if !self.failed {
            self.pacer.forget(peer);
            self.core.forget_acknowledged(peer);
        }
    }

    /// Sets the (term, raft index) that the end of a log must reach before its node may lead: see
    /// [`rejoin`]. `None` if this log reaches it.
    pub(crate) fn set_bound(&mut self, bound: Option<(u64, u64)>) {
        self.bound = bound;
    }

    pub(crate) fn bound(&self) -> Option<(u64, u64)> {
        self.bound
    }

    /// Whether the written log reaches its bound.
    pub(crate) fn has_reached_bound(&self) -> bool {
        let last = self.core.last_settled();
        let end = self.core.term_at(last).map(|term| (term, last));
        !self.failed && self.bound.is_some_and(|bound| end >= Some(bound))
    }

    /// The mark up to which the ledger is known to be committed here.
    pub(crate) fn committed(&self) -> LogPoint {
        self.committed
    }

    /// The timestamp of the newest entry that was seen here.
    pub(crate) fn newest_timestamp(&self) -> u64 {
        self.committed.timestamp.max(self.core.newest_timestamp())
    }

    /// If this node leads: the raft index of the last batch of its log. That may not be written
    /// yet, and peers may have been sent it already.
    pub(crate) fn leader_last_index(&self) -> Option<u64> {
        self.core.leader_last_index()
    }

    /// Visits the progress of each follower, while this node leads. One that has confirmed batch
    /// `in_step` is in step.
    pub(crate) fn each_follower(&mut self, in_step: u64, each: impl FnMut(Follower)) {
        if !self.failed && self.role_state.role == Role::Leader {
            self.core.each_follower(in_step, each);
        }
    }

    /// The newest batch that is published as committed.
    pub(crate) fn commit(&self) -> u64 {
        self.committed.raft_index
    }

    pub(crate) fn membership(&self) -> &Membership {
        self.members.membership()
    }

    /// Queues the effects of a ready. Messages that need no sync go first, so that peers write
    /// while this node does.
    fn begin(&mut self, mut ready: CoreReady) {
        // Every message has a term. A sole voter becomes leader in the ready that carries its new
        // term. If a message of that term were sent and a crash then lost the term, the node would
        // lead the same term twice, with other batches.
        let is_term_durable = ready.hard_state.is_none()
            && !self.unsynced.iter().any(|waiting| waiting.has_hard_state);
        if is_term_durable {
            self.send(std::mem::take(&mut ready.send_now));
        } else {
            ready.send_after_sync.append(&mut ready.send_now);
        }
        self.take_group_uid(ready.group_uid);
        if let Some(base) = &ready.snapshot {
            self.effects.push_back(Effect::InstallSnapshot(base.clone()));
        }
        if !ready.batches.is_empty() || ready.hard_state.is_some() {
            // A crash may keep the hard state and lose the batches, so that the log still has the
            // batches that they replaced.
            let before = ready.batches.first().map_or(u64::MAX, |first| first.raft_index() - 1);
            self.effects.push_back(Effect::Write {
                batches: ready.batches.clone(),
                hard_state: ready
                    .hard_state
                    .map(|new| HardState { commit: new.commit.min(before), ..new }),
                commit: self.committed.raft_index,
            });
        }
        self.current_ready = Some(ready);
    }

    /// The writes of a ready were carried out: raft-rs may read them, and a sync is begun if one is
    /// needed.
    fn finish(&mut self, mut ready: CoreReady) {
        let number = ready.number;
        let messages = std::mem::take(&mut ready.send_after_sync);
        for (context, raft_index) in ready.reads.drain(..) {
            self.barriers.confirm(&context, raft_index);
        }
        let has_hard_state = ready.hard_state.is_some();
        let counts_unsynced = self.counts_unsynced;
        let needs_sync = has_hard_state
            || ready.snapshot.is_some()
            || !(ready.batches.is_empty() || counts_unsynced);
        if let Some(base) = &ready.snapshot {
            self.members.replace(base.membership.clone());
        }
        self.core.advance(ready);
        if needs_sync {
            self.effects.push_back(Effect::Sync(number));
            self.unsynced.push_back(AwaitingSync {
                sync: number,
                covers: number,
                has_hard_state,
                messages,
            });
        } else if let Some(newest) = self.unsynced.back_mut() {
            newest.covers = number;
            newest.messages.extend(messages);
        } else {
            self.core.persisted(number);
            self.send(messages);
        }
    }

    /// Publishes the commit index, and everything that follows from it.
    fn follow_commit(&mut self) {
        self.publish_commit();
        let held = self.barriers.release(self.committed.raft_index);
        if !held.is_empty() {
            self.effects.push_back(Effect::Barrier(held));
        }
        if self.core.role() != RaftRole::Leader {
            self.pacer.clear();
        }
        self.announce_role_state();
    }

    fn announce_role_state(&mut self) {
        let role_state = self.current_role_state();
        if role_state != self.role_state {
            self.role_state = role_state;
            self.barriers.ask_again();
            self.effects.push_back(Effect::RoleChanged(role_state));
        }
    }

    /// Publishes the commit index, as far as the log is written, and resolves proposals.
    fn publish_commit(&mut self) {
        let commit = self.core.commit().min(self.core.last_settled());
        if commit > self.committed.raft_index {
            let Some(point) = self.core.written_point(commit) else { return };
            self.committed = point;
            self.learn_group_uid();
            self.effects.push_back(Effect::Commit(point));
            let (core, effects) = (&self.core, &mut self.effects);
            self.proposals.resolve(
                commit,
                |index| core.term_at(index),
                |id, outcome| effects.push_back(Effect::Resolve(id, outcome)),
            );
        }
    }

    fn current_role_state(&self) -> RoleState {
        let term = self.core.term();
        let is_ready = self.committed.term == term;
        let (role, leader) = match self.core.role() {
            RaftRole::Leader if is_ready => (Role::Leader, self.core.leader()),
            RaftRole::Leader | RaftRole::Candidate => (Role::Candidate, None),
            RaftRole::Follower if self.members.is_learner() => (Role::Learner, self.core.leader()),
            RaftRole::Follower => (Role::Follower, self.core.leader()),
        };
        RoleState { role, term, leader }
    }

    /// Sends messages, without those that a later one supersedes: a sync that covers many batches
    /// is acknowledged once.
    fn send(&mut self, mut messages: Vec<Message>) {
        for at in (0..messages.len()).rev() {
            if messages[at + 1..].iter().any(|later| messages[at].is_superseded_by(later)) {
                messages.remove(at);
            }
        }
        let messages = self.pacer.hold(messages, self.core.commit());
        if !messages.is_empty() {
            self.effects.push_back(Effect::Send(messages));
        }
    }

    /// Sends the delayed messages of lagging followers that are due.
    fn release(&mut self) {
        let released = self.pacer.release();
        if !released.is_empty() {
            self.effects.push_back(Effect::Send(released));
        }
    }

    fn fail(&mut self, reason: String) {
        self.failed = true;
        // Dropped proposals stay dropped.
        self.effects
            .retain(|effect| matches!(effect, Effect::Resolve(_, ProposalOutcome::Dropped)));
        self.effects.push_back(Effect::Fail(reason));
    }
}
