//! One replica of one group, as a pure value: no clock, no thread, no file, no socket.
//!
//! What happens comes in through `handle_*` and [`Replica::tick`]; what is to be done comes out of [`Replica::poll_effect`], one effect at
//! a time. The caller carries out each effect before it asks for the next, and asks until there is none. Time is a count of ticks. The same
//! seed and the same calls give the same effects.
//!
//! ```text
//!   tick  handle_message  handle_append  handle_barrier  handle_synced
//!     \        |               |              |              /
//!      +-------+------- raft-rs (adapter) ----+-------------+
//!                              |
//!        poll_effect:  Send  Write  Rebase  Sync  Commit  Settle  Role  Barrier  Fail
//! ```
//!
//! # Invariants
//!
//! 1. **Vote before word.** A message whose truth depends on a write (a vote, a vote request, an append acknowledgement) is held here
//!    until that write is synced. So is everything that a new leader sends while its term is not yet durable.
//! 2. **Durable before counted.** This replica counts towards a quorum for a batch only after the [`Effect::Sync`] that covers it was
//!    answered ([`Replica::handle_synced`]); under an asynchronous flush policy, after it was written. Term and vote are always synced.
//! 3. **Notice before answer.** `handle_synced` tells raft-rs before the messages that waited for it are released, so no answer to
//!    them can overtake the notice.
//! 4. **Readable before committed.** [`Effect::Commit`] names only batches whose `Write` was carried out, and comes before the `Settle`
//!    and `Role` effects that follow from it. It comes as early as it can: before the messages that tell others, which the next batch may carry
//!    ([`Replica::owes_commit`]).
//! 5. **Nothing twice, nothing back.** The commit mark only grows. Each batch handed in is settled once, or not at all.
//! 6. **A leader is announced late.** [`Effect::Role`] says leader only once a batch of the leader's own term is committed and published.
//! 7. **No unchecked word.** A message reaches raft-rs only after every check of [`crate::message`], and its batches only if they continue the
//!    ledger. A message that proves this log wrong ends this replica ([`Effect::Fail`]); nothing is stepped after that.
//! 8. **No election on sand.** A sole voter does not campaign while something it wrote is not durable.
//! 9. **No part with a hole.** A replica is driven only on a log of which nothing is known to be damaged. Before that, [`repair`] decides what is asked of
//!    whom and what is taken of the answers, and nothing that peers say reaches Raft.

mod adapter;
mod barriers;
mod election;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod membership;
mod pace;
mod proposals;
mod rebase;
pub(crate) mod rejoin;
pub(crate) mod repair;
#[cfg(test)]
mod script;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{Batch, Mark};
use crate::entry::NodeId;
use crate::message::{Message, PeerState, Refusal};
use crate::role::{Membership, Role};
use crate::storage::{Base, HardState, Identity, LogReader, Recovered, StorageError};

pub(crate) use adapter::Follower;
use adapter::{Core, CoreRole, Turn};
use barriers::Barriers;
use membership::Members;
use pace::Pace;
use proposals::Proposals;
pub(crate) use proposals::{BatchId, Fate};

pub(crate) use election::mix;

/// What a replica is told once.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) group: String,
    pub(crate) node: NodeId,
    /// Election timeouts lie between this and twice this.
    pub(crate) election_ticks: usize,
    pub(crate) heartbeat_ticks: usize,
    /// The most that one append message carries, in bytes. A larger batch goes alone.
    pub(crate) message_bytes: u64,
    /// Whether a batch counts here once it is written, without waiting for its sync.
    pub(crate) counts_unsynced: bool,
    /// What a follower that lags may have in a tick in any case, in bytes. `u64::MAX`: as much as it takes.
    pub(crate) catch_up_bytes: u64,
    pub(crate) seed: u64,
}

/// Something to be carried out before the next effect is asked for.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Hand these to the transport.
    Send(Vec<Message>),
    /// Write these to the storage: the hard state, which says nothing of the batches, then these (a conflicting tail is cut first).
    Write { batches: Vec<Batch>, hard_state: Option<HardState>, commit: u64 },
    /// Begin the log anew.
    Rebase(Base),
    /// Begin to make everything written so far durable; call `handle_synced` with this number when it is.
    Sync(u64),
    /// Everything up to this mark is committed and can be read.
    Commit(Mark),
    /// A batch has met its fate.
    Settle(BatchId, Fate),
    /// What this node is to its group has changed.
    Role(Standing),
    /// These barriers hold: everything acknowledged before they were asked for is at or below the commit mark.
    Barrier(Vec<u64>),
    /// The log could not be read at present, for want of something that will be there again, and raft-rs
    /// may have taken that for an answer: this replica must be [restarted](Replica::restart).
    Lack(StorageError),
    /// This replica must not go on. The text says why and what to do.
    Fail(String),
}

/// What a node is to its group, in the terms of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) role: Role,
    pub(crate) term: u64,
    pub(crate) leader: Option<NodeId>,
}

/// Why a leadership cannot be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferRefusal {
    NotLeader,
    NotAVoter,
}

/// What a sync under way holds back.
struct Unsynced {
    /// The turn that asked for the sync.
    sync: u64,
    /// The newest turn that it covers: later ones that need no sync of their own still keep their place in the order.
    covers: u64,
    /// Whether term or vote are among what is synced.
    has_hard_state: bool,
    messages: Vec<Message>,
}

/// See the [module](self).
pub(crate) struct Replica {
    core: Core,
    members: Members,
    counts_unsynced: bool,
    proposals: Proposals,
    effects: VecDeque<Effect>,
    /// A turn of raft-rs whose effects have been handed out but not all carried out.
    under_way: Option<Turn>,
    /// Turns that wait for a sync, oldest first.
    unsynced: VecDeque<Unsynced>,
    committed: Mark,
    standing: Standing,
    barriers: Barriers,
    pace: Pace,
    /// The log is not complete: what the end of a log must reach, (term, raft index), before its node may lead. See [`rejoin`].
    bound: Option<(u64, u64)>,
    /// What the log could not be read for. Put out last of all effects.
    lack: Option<StorageError>,
    failed: bool,
}

impl Replica {
    /// # Errors
    /// If the log cannot be read.
    pub(crate) fn new(
        settings: &Settings,
        recovered: &Recovered,
        committed: Mark,
        reader: Arc<dyn LogReader>,
    ) -> Result<Replica, StorageError> {
        Ok(Replica::over(settings, recovered, committed, Core::new(settings, recovered, reader)?))
    }

    fn over(settings: &Settings, recovered: &Recovered, committed: Mark, core: Core) -> Replica {
        assert_eq!(committed.raft_index, recovered.hard_state.commit, "the commit mark is the recovered one");
        let members = Members::new(settings.node, recovered.base.membership.clone());
        let role = if members.is_learner() { Role::Learner } else { Role::Follower };
        Replica {
            standing: Standing { role, term: core.term(), leader: None },
            core,
            members,
            counts_unsynced: settings.counts_unsynced,
            proposals: Proposals::default(),
            effects: VecDeque::new(),
            under_way: None,
            unsynced: VecDeque::new(),
            committed,
            barriers: Barriers::new(settings),
            pace: Pace::new(settings.catch_up_bytes),
            bound: None,
            lack: None,
            failed: false,
        }
    }

    /// Begins anew from what is written, as after a crash, because a write found no room. What is written must be durable by now; `saved` is the
    /// hard state, if it was written before the room ran out. Proposals are kept: peers may hold them, and only a commit tells. But those of a sole
    /// voter that were not written are lost.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub(crate) fn restart(
        &mut self,
        settings: &Settings,
        identity: Identity,
        saved: Option<HardState>,
        reader: Arc<dyn LogReader>,
    ) -> Result<(), StorageError> {
        let base = reader.base();
        let last = match reader.mark(self.core.last_written()) {
            Ok(Some(last)) => last,
            // The log was begun anew just before the room ran out.
            Ok(None) | Err(StorageError::Purged { .. }) => base.mark,
            Err(error) => return Err(error),
        };
        let committed = if base.mark.raft_index > self.committed.raft_index { base.mark } else { self.committed };
        let hard_state = HardState { commit: committed.raft_index, ..saved.unwrap_or(self.core.hard_state()) };
        let recovered = Recovered { identity, hard_state, base, last, peers: Vec::new(), damage: Vec::new() };
        let mut proposals = std::mem::take(&mut self.proposals);
        let lost = Some(()).filter(|()| self.members.is_sole_voter()).map(|()| proposals.lose_behind(last.raft_index));
        // Answers to the questions that were asked so far may still come, and must not be taken for answers to new ones.
        let barriers = self.barriers.begin_anew();
        let before = self.committed;
        let core = Core::again(settings, &recovered, reader, &self.core);
        let mut anew = Replica { proposals, barriers, bound: self.bound, ..Replica::over(settings, &recovered, committed, core) };
        if saved.is_none() && !planted!("a full disk makes a term count as written") {
            anew.core.inherit_debt(&self.core);
        }
        let settled = std::mem::take(&mut self.effects);
        *self = anew;
        self.effects.extend(settled.into_iter().filter(|effect| matches!(effect, Effect::Settle(_, Fate::Lost))));
        if committed != before {
            self.effects.push_back(Effect::Commit(committed));
        }
        self.effects.extend(lost.into_iter().flatten().map(|id| Effect::Settle(id, Fate::Lost)));
        Ok(())
    }

    /// Whether nothing is lost if the next tick comes together with the one after it. Every second tick a leader sends heartbeats, and that they come
    /// in the same distance is all that matters.
    pub(crate) fn can_wait_for_two_ticks(&self) -> bool {
        self.standing.leader.is_some() && !self.core.is_about_to_stand() && !self.core.is_transferring()
    }

    /// One tick of the clock has passed.
    pub(crate) fn tick(&mut self) {
        if self.failed {
            return;
        }
        let sole_candidate = self.members.is_sole_voter() && self.core.role() != CoreRole::Leader;
        if sole_candidate {
            // Nobody else can lead: there is nothing to wait for but the disk (invariant 8).
            if self.unsynced.is_empty() {
                self.core.campaign();
            }
        } else if self.bound.is_none() || !self.core.is_about_to_stand() || planted!("a node stands that lacks what it owes") {
            self.core.tick();
        } else {
            self.core.lose_leader();
        }
        if let Some(context) = self.barriers.tick() {
            self.core.read_index(context);
        }
        self.pace.tick(self.core.commit());
        self.release();
    }

    /// A message has arrived. Refusing it changes nothing; a refusal that proves this log wrong ends the replica.
    pub(crate) fn handle_message(&mut self, message: Message) -> Result<(), Refusal> {
        if self.failed {
            return Ok(());
        }
        let is_short = |bound: &(u64, u64)| message.candidate().is_some_and(|last| last < *bound);
        if self.bound.as_ref().is_some_and(is_short) && !planted!("a vote goes to a log that lacks what is owed") {
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

    /// A batch is to be appended; `body` continues the ledger. Its fate comes as [`Effect::Settle`]. False if it was not taken, and is lost.
    pub(crate) fn handle_append(&mut self, id: BatchId, body: Bytes) -> bool {
        let bytes = body.len();
        let place = if self.failed { None } else { self.core.propose(body) };
        match place {
            Some((term, raft_index)) => {
                self.proposals.push(id, term, raft_index);
                self.pace.appended(bytes);
                self.release();
            }
            None => self.effects.push_back(Effect::Settle(id, Fate::Lost)),
        }
        place.is_some()
    }

    /// A linearizable point is wanted. The answer comes as [`Effect::Barrier`], if a leader with a quorum can be reached.
    pub(crate) fn handle_barrier(&mut self, id: u64) {
        if planted!("a leader answers barriers by itself") && self.standing.role == Role::Leader {
            return self.effects.push_back(Effect::Barrier(vec![id]));
        }
        self.barriers.wait(id);
    }

    /// Nobody waits for this point any more.
    pub(crate) fn forget_barrier(&mut self, id: u64) {
        self.barriers.forget(id);
    }

    /// The sync that [`Effect::Sync`] asked for has succeeded.
    pub(crate) fn handle_synced(&mut self, number: u64) {
        if self.failed {
            return;
        }
        let mut released = Vec::new();
        let is_covered = |waiting: &&Unsynced| waiting.sync <= number || planted!("one sync speaks for all");
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
            self.pace.forget(peer);
            self.core.unreachable(peer);
        }
    }

    /// Whether the leadership can go to another voter.
    pub(crate) fn check_transfer(&self, to: NodeId) -> Result<(), TransferRefusal> {
        // Both: a leader that was deposed in this turn has not been announced as such, and raft-rs would pass the wish on to another node.
        if self.failed || self.standing.role != Role::Leader || self.core.role() != CoreRole::Leader {
            return Err(TransferRefusal::NotLeader);
        }
        if !self.members.is_voter(to) {
            return Err(TransferRefusal::NotAVoter);
        }
        Ok(())
    }

    /// The leadership is to go to another voter. Until that has come to an end, no batch is taken.
    pub(crate) fn handle_transfer(&mut self, to: NodeId) -> Result<(), TransferRefusal> {
        self.check_transfer(to)?;
        self.core.transfer(to);
        Ok(())
    }

    /// The storage has purged the head of the log, which now begins at `base`.
    pub(crate) fn handle_purged(&mut self, base: Base) {
        if !planted!("the replica is not told of a purge") {
            self.core.purged(base);
        }
    }

    /// The next effect. `None`: all is done until something happens.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        loop {
            if let Some(effect) = self.effects.pop_front() {
                return Some(effect);
            }
            if self.failed {
                return None;
            }
            if let Some(turn) = self.under_way.take() {
                self.finish(turn);
                self.follow_commit();
                continue;
            }
            if let Some(context) = self.barriers.ask() {
                self.core.read_index(context);
            }
            // Before the messages of the turn: hosts wait for it, and a message to each peer takes longer than to wake them.
            self.publish_commit();
            // A message of this turn may tell that this leader has committed a batch of its term, and
            // whoever hears that takes it for ready (`leads_and_commits`).
            if self.current_standing().role == Role::Leader {
                self.announce_standing();
            }
            match self.core.take_turn() {
                Some(turn) => self.begin(turn),
                None => self.follow_commit(),
            }
            match self.core.take_fault() {
                // What is under way is brought to its end first: then what is written is known.
                Some(error) if error.is_temporary() => self.lack = Some(error),
                Some(error) => self.fail(format!("the log cannot be read: {error}")),
                None => {}
            }
            if self.effects.is_empty() && self.under_way.is_none() {
                return self.lack.take().map(Effect::Lack);
            }
        }
    }

    /// Whether something was committed that others learn of only with the next batch, unless they are told.
    pub(crate) fn owes_commit(&self) -> bool {
        !self.failed && !self.members.is_alone() && self.core.owes_commit()
    }

    /// Tells the others how far the ledger is committed.
    pub(crate) fn tell_commit(&mut self) {
        if self.owes_commit() {
            self.core.tell_commit();
        }
    }

    /// Whether followers wait for batches that must be read.
    pub(crate) fn owes_reading(&self) -> bool {
        !self.failed && self.core.owes_reading()
    }

    /// Reads a little of the log for followers that lack it: about one message, however many they are.
    /// Nothing else reads for them. What was read comes as effects.
    pub(crate) fn read_for_followers(&mut self) {
        if !self.failed {
            self.core.read_for_followers();
        }
    }

    /// Whether the leadership is being handed over.
    pub(crate) fn is_transferring(&self) -> bool {
        self.core.is_transferring()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether `node` leads and takes appends: a batch of its term is known to be committed here.
    pub(crate) fn leads_and_commits(&self, node: NodeId) -> bool {
        self.standing.leader == Some(node) && self.committed.term == self.standing.term
    }

    /// What a storage should remember of this replica when it is closed in good order.
    pub(crate) fn hard_state(&self) -> HardState {
        HardState { commit: self.committed.raft_index, ..self.core.hard_state() }
    }

    /// The mark at the end of the log as far as it is written.
    pub(crate) fn last(&self) -> Option<Mark> {
        self.core.written_mark(self.core.last_written())
    }

    /// Where this node stands, as raft-rs sees it: what it has told or sent anybody is no more than this.
    pub(crate) fn peer_state(&self) -> PeerState {
        PeerState { term: self.core.term(), last: self.core.last() }
    }

    /// A peer has lost what it acknowledged. It is sent again.
    pub(crate) fn forget_acknowledged(&mut self, peer: NodeId) {
        if !self.failed {
            self.pace.forget(peer);
            self.core.forget_acknowledged(peer);
        }
    }

    /// What the end of a log, (term, raft index), must reach before its node may lead: see [`rejoin`]. `None` if this log reaches it.
    pub(crate) fn set_bound(&mut self, bound: Option<(u64, u64)>) {
        self.bound = bound;
    }

    pub(crate) fn bound(&self) -> Option<(u64, u64)> {
        self.bound
    }

    /// Whether this log, as it is written, reaches its bound.
    pub(crate) fn has_reached_bound(&self) -> bool {
        let last = self.core.last_settled();
        let end = self.core.term_at(last).map(|term| (term, last));
        !self.failed && self.bound.is_some_and(|bound| end >= Some(bound))
    }

    /// The mark up to which the ledger is known to be committed here.
    pub(crate) fn committed(&self) -> Mark {
        self.committed
    }

    /// The timestamp of the newest entry that was seen here.
    pub(crate) fn newest_timestamp(&self) -> u64 {
        self.committed.timestamp.max(self.core.newest_timestamp())
    }

    /// If this node leads: the raft index of the last batch of its log. That may not be written yet, and peers may have been sent it already.
    pub(crate) fn led(&self) -> Option<u64> {
        self.core.led()
    }

    /// What each follower has, while this node leads, for a status to show. One that has confirmed
    /// batch `in_step` is in step.
    pub(crate) fn each_follower(&mut self, in_step: u64, each: impl FnMut(Follower)) {
        if !self.failed && self.standing.role == Role::Leader {
            self.core.each_follower(in_step, each);
        }
    }

    /// The newest batch that is shown as committed.
    pub(crate) fn commit(&self) -> u64 {
        self.committed.raft_index
    }

    pub(crate) fn membership(&self) -> &Membership {
        self.members.membership()
    }

    /// Puts out the effects of a turn: send first what may go at once, so that peers write while this node does.
    fn begin(&mut self, mut turn: Turn) {
        // Whatever a message says, it says it in a term. A sole voter, for one, makes itself leader in the turn that carries its new term. If anything
        // of that term left and the term was forgotten in a crash, it would lead the same term twice, with other batches.
        let is_term_durable = turn.hard_state.is_none() && !self.unsynced.iter().any(|waiting| waiting.has_hard_state);
        let is_term_durable = is_term_durable || planted!("a leader speaks before its term is durable");
        if is_term_durable {
            self.send(std::mem::take(&mut turn.now));
        } else {
            turn.later.append(&mut turn.now);
        }
        if let Some(base) = &turn.rebase {
            self.effects.push_back(Effect::Rebase(base.clone()));
        }
        if !turn.batches.is_empty() || turn.hard_state.is_some() {
            // After a crash the hard state may be there and the batches not, but those that they took the place of.
            let before = turn.batches.first().map_or(u64::MAX, |first| first.raft_index() - 1);
            let before = if planted!("a hard state speaks of the batches behind it") { u64::MAX } else { before };
            self.effects.push_back(Effect::Write {
                batches: turn.batches.clone(),
                hard_state: turn.hard_state.map(|new| HardState { commit: new.commit.min(before), ..new }),
                commit: self.committed.raft_index,
            });
        }
        self.under_way = Some(turn);
    }

    /// The writes of a turn have been carried out: raft-rs may read them, and what needs it is synced.
    fn finish(&mut self, mut turn: Turn) {
        let number = turn.number;
        let messages = std::mem::take(&mut turn.later);
        for (context, raft_index) in turn.reads.drain(..) {
            self.barriers.confirm(&context, raft_index);
        }
        let has_hard_state = turn.hard_state.is_some() && !planted!("a vote is not waited for");
        let counts_unsynced = self.counts_unsynced || planted!("batches count before they are synced");
        let needs_sync = has_hard_state || turn.rebase.is_some() || !(turn.batches.is_empty() || counts_unsynced);
        if let Some(base) = &turn.rebase {
            self.members.replace(base.membership.clone());
        }
        self.core.advance(turn);
        if needs_sync {
            self.effects.push_back(Effect::Sync(number));
            self.unsynced.push_back(Unsynced { sync: number, covers: number, has_hard_state, messages });
        } else if let Some(newest) = self.unsynced.back_mut()
            && !planted!("a turn without a sync overtakes the syncs before it")
        {
            newest.covers = number;
            newest.messages.extend(messages);
        } else {
            self.core.persisted(number);
            self.send(messages);
        }
    }

    /// Publishes how far the ledger is committed, and all that follows from it.
    fn follow_commit(&mut self) {
        self.publish_commit();
        let held = self.barriers.release(self.committed.raft_index);
        if !held.is_empty() {
            self.effects.push_back(Effect::Barrier(held));
        }
        if self.core.role() != CoreRole::Leader {
            self.pace.clear();
        }
        self.announce_standing();
    }

    fn announce_standing(&mut self) {
        let standing = self.current_standing();
        if standing != self.standing {
            self.standing = standing;
            self.barriers.ask_again();
            self.effects.push_back(Effect::Role(standing));
        }
    }

    /// Publishes how far the ledger is committed, as far as it is written, and what became of proposals.
    fn publish_commit(&mut self) {
        let commit = self.core.commit().min(self.core.last_settled());
        let commit = if planted!("a leader acknowledges before a quorum") && self.core.role() == CoreRole::Leader {
            self.core.last_written()
        } else {
            commit
        };
        if commit > self.committed.raft_index {
            let Some(mark) = self.core.written_mark(commit) else { return };
            self.committed = mark;
            if !planted!("futures resolve before the commit is published") {
                self.effects.push_back(Effect::Commit(mark));
            }
            let (core, effects) = (&self.core, &mut self.effects);
            self.proposals.settle(commit, |index| core.term_at(index), |id, fate| effects.push_back(Effect::Settle(id, fate)));
            if planted!("futures resolve before the commit is published") {
                self.effects.push_back(Effect::Commit(mark));
            }
        }
    }

    fn current_standing(&self) -> Standing {
        let term = self.core.term();
        let ready = self.committed.term == term || planted!("a leader is announced when it is elected");
        let (role, leader) = match self.core.role() {
            CoreRole::Leader if ready => (Role::Leader, self.core.leader()),
            CoreRole::Leader | CoreRole::Candidate => (Role::Candidate, None),
            CoreRole::Follower if self.members.is_learner() => (Role::Learner, self.core.leader()),
            CoreRole::Follower => (Role::Follower, self.core.leader()),
        };
        Standing { role, term, leader }
    }

    /// Leaves out what is said again by a message behind it: a sync that covers many batches is acknowledged once.
    fn send(&mut self, mut messages: Vec<Message>) {
        for at in (0..messages.len()).rev() {
            if messages[at + 1..].iter().any(|later| messages[at].is_said_by(later)) {
                messages.remove(at);
            }
        }
        let messages = self.pace.hold(messages, self.core.commit());
        if !messages.is_empty() {
            self.effects.push_back(Effect::Send(messages));
        }
    }

    /// Sends what followers that lag may have by now.
    fn release(&mut self) {
        let released = self.pace.release();
        if !released.is_empty() {
            self.effects.push_back(Effect::Send(released));
        }
    }

    fn fail(&mut self, reason: String) {
        self.failed = true;
        // What is lost stays lost.
        self.effects.retain(|effect| matches!(effect, Effect::Settle(_, Fate::Lost)));
        self.effects.push_back(Effect::Fail(reason));
    }
}
