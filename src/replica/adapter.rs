//! The border to the Raft library: its types end here.
//!
//! [`RaftCore`] is a raft-rs `RawNode` in the types of this crate: batches instead of entries,
//! bases instead of snapshots. [`LogView`] is the log as raft-rs sees it. raft-rs reads the first
//! and last index and terms many times a message, so these are plain fields, kept up to date by
//! [`RaftCore`] as the log is written. Batches are read from the storage only for peers that have
//! fallen behind, a little at a time ([`reading`]).

mod checks;
mod convert;
mod feeding;
mod log_bridge;
mod reading;
mod sleeping;
mod view;

use std::sync::Arc;

use raft::eraftpb::{Entry as RaftEntry, Message as RaftMessage, MessageType};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use crate::batch::{Batch, LogPoint};
use crate::entry::NodeId;
use crate::members::MemberLog;
use crate::message::{Message, MessageRejection};
use crate::role::Membership;
use crate::storage::{Base, HardState, LogReader, Recovered, StorageError};

use super::election::ElectionTimeouts;
use super::settings::Settings;
use convert::{base_of, batch_of, untagged};
use log_bridge::LogDrain;
use view::LogView;

/// Appends that may be in flight to a follower.
pub(super) const MESSAGES_MAX: usize = 64;

/// The role in raft-rs. It is announced by rules of its own: see [`replica`](crate::replica).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RaftRole {
    Leader,
    Follower,
    Candidate,
}

/// The progress of one follower, as its leader knows it.
pub(crate) struct Follower {
    pub(crate) id: NodeId,
    /// `None` if it has not responded yet.
    pub(crate) log: Option<MemberLog>,
    /// It was sent a snapshot, and was not in step when this was last asked.
    pub(crate) is_moved: bool,
}

/// One `Ready` of raft-rs, in the types of this crate.
pub(super) struct CoreReady {
    pub(super) number: u64,
    /// Term or vote have changed.
    pub(super) hard_state: Option<HardState>,
    /// The log is reset to this base.
    pub(super) snapshot: Option<Base>,
    pub(super) batches: Vec<Batch>,
    /// May be sent before the batches of this ready are durable, but not before term and vote are.
    pub(super) send_now: Vec<Message>,
    /// Must not be sent before this ready and those before it are durable.
    pub(super) send_after_sync: Vec<Message>,
    /// Read barriers that a leader has confirmed: context, raft index.
    pub(super) reads: Vec<(Vec<u8>, u64)>,
    /// The peers that this ready sends a snapshot.
    moved: Vec<u64>,
    raft_ready: raft::Ready,
}

/// raft-rs, seen from this crate.
pub(super) struct RaftCore {
    node: RawNode<LogView>,
    /// Batches count before they are synced, so a node that lost power may have lost batches that
    /// it acknowledged.
    may_lose_acks: bool,
    timeouts: ElectionTimeouts,
    /// How many read_requests of peers have come.
    read_requests: u64,
    /// (term, role) when the election timeout was last replaced: raft-rs draws one of its own
    /// whenever one of them changes.
    drawn_for: (u64, StateRole),
    /// raft-rs began in a later term than the one on the disk (see [`LogView::new`]). The first
    /// ready writes it, before any message of that term is sent.
    has_unsaved_term: bool,
    /// The log point after the newest batch that raft-rs took. Valid while the log holds its
    /// (raft index, term).
    newest: LogPoint,
    /// The commit index of the last message to all others, while this node leads.
    commit_sent: u64,
    /// Followers that this leader has sent a snapshot, and that were not in step since.
    moved: Vec<u64>,
    /// The follower that the log was last read for.
    read_for: u64,
}

impl RaftCore {
    /// # Errors
    /// If the log cannot be read.
    pub(super) fn new(
        settings: &Settings,
        recovered: &Recovered,
        reader: Arc<dyn LogReader>,
    ) -> Result<RaftCore, StorageError> {
        let mut view = LogView::new(recovered, reader);
        if recovered.corruption.is_empty() {
            view.terms = view.terms_from(recovered.hard_state.commit, recovered.last)?;
        } // else it gets no ticks, and another core is started on the repaired log
        Ok(RaftCore::over(settings, recovered, view))
    }

    /// A core on the log that another one has written.
    pub(super) fn again(
        settings: &Settings,
        recovered: &Recovered,
        reader: Arc<dyn LogReader>,
        before: &RaftCore,
    ) -> RaftCore {
        let mut view = LogView::new(recovered, reader);
        // Not read from the storage: a restart is made when reads may fail too.
        view.terms = match recovered.last == recovered.base.point {
            true => vec![(recovered.last.raft_index, recovered.last.term)],
            false => before.node.store().terms.clone(),
        };
        RaftCore::over(settings, recovered, view)
    }

    fn over(settings: &Settings, recovered: &Recovered, view: LogView) -> RaftCore {
        let config = Config {
            id: settings.node.get(),
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: recovered.hard_state.commit,
            max_size_per_msg: settings.message_bytes,
            max_inflight_msgs: MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: raft::NO_LIMIT,
            skip_bcast_commit: true,
            ..Config::default()
        };
        let timeouts = ElectionTimeouts::new(
            settings.seed,
            settings.node,
            settings.election_ticks,
            2 * settings.election_ticks,
        );
        let log_prefix = format!("group {} node {}", settings.group, settings.node);
        let logger = slog::Logger::root(LogDrain(log_prefix), slog::o!());
        let has_unsaved_term = view.hard_state.term != recovered.hard_state.term;
        let node = RawNode::new(&config, view, &logger).expect(
            "the settings were checked by the builder, and the recovered state by the storage",
        );
        let may_lose_acks = settings.counts_unsynced;
        let mut core = RaftCore {
            node,
            may_lose_acks,
            timeouts,
            read_requests: 0,
            drawn_for: (u64::MAX, StateRole::Follower),
            has_unsaved_term,
            newest: recovered.last,
            commit_sent: 0,
            moved: Vec::new(),
            read_for: 0,
        };
        core.redraw_timeout();
        core
    }

    pub(super) fn tick(&mut self) {
        self.node.tick();
        self.redraw_timeout();
    }

    /// Whether it campaigns at the next tick, unless it hears of a leader before.
    pub(super) fn is_about_to_campaign(&self) -> bool {
        let raft = &self.node.raft;
        raft.state != StateRole::Leader
            && raft.election_elapsed + 1 >= raft.randomized_election_timeout()
    }

    /// Replaces a campaign of a node that must not campaign. Otherwise the node would keep a leader
    /// that it has not heard of for so long, and reject candidates.
    pub(super) fn lose_leader(&mut self) {
        if self.leader().is_some() {
            let raft = &mut self.node.raft;
            raft.become_follower(raft.term, 0);
            self.drawn_for = (u64::MAX, StateRole::Follower);
            self.redraw_timeout();
        }
    }

    pub(super) fn campaign(&mut self) {
        // Refused only if this node cannot be promoted, which the caller has checked.
        let _ = self.node.campaign();
        self.redraw_timeout();
    }

    /// Steps a message if it passes every check. A rejected message changes nothing.
    pub(super) fn step(
        &mut self,
        mut message: Message,
        membership: &Membership,
    ) -> Result<(), MessageRejection> {
        let missing = self.missing(&message).filter(|_| self.may_lose_acks);
        if missing.is_some() {
            message.lower_heartbeat(self.commit());
        }
        self.check(&message, membership)?;
        let Some(message) = message.into_raft() else { return Ok(()) };
        if self.may_lose_acks && self.reset_match(&message) {
            return Ok(());
        }
        let message = self.tag_read_index(message);
        let from = message.from;
        // An error of raft-rs (a response of a node that has left) counts as a lost message.
        let _ = self.node.step(message);
        self.redraw_timeout();
        if let Some(missing) = missing {
            self.admit_loss(from, missing);
        }
        Ok(())
    }

    /// Of a heartbeat: the batch that its leader knows to be here, if it is not, or another one is
    /// in its place.
    fn missing(&self, message: &Message) -> Option<u64> {
        let ((commit, term), log) = (message.heartbeat()?, &self.node.raft.raft_log);
        let is_held = commit <= log.last_index()
            && (term == 0 || commit <= log.committed || log.term(commit) == Ok(term));
        (!is_held).then_some(commit)
    }

    /// The leader counts on batches up to `missing` that this node lost in a power failure. Rejects
    /// as it would an append behind them: otherwise the leader would send nothing, and no barrier
    /// would hold, before the next append.
    fn admit_loss(&mut self, leader: u64, missing: u64) {
        let raft = &mut self.node.raft;
        if raft.leader_id == leader {
            let (from, term, log_term, reject) =
                (raft.id, raft.term, raft.raft_log.last_term(), true);
            let mut answer = RaftMessage {
                from,
                to: leader,
                term,
                index: missing,
                log_term,
                reject,
                ..RaftMessage::default()
            };
            answer.reject_hint = raft.raft_log.last_index().min(missing - 1);
            answer.set_msg_type(MessageType::MsgAppendResponse);
            raft.msgs.push(answer);
        }
    }

    /// Puts a tag that is unique in this term in front of the context of a peer's read request.
    ///
    /// A request may arrive again long after its response: sent again, or repeated by the network.
    /// raft-rs takes it for a new one, and would take a response to the first for a response to it.
    /// That would confirm a deposed leader, for this request and all before it.
    fn tag_read_index(&mut self, mut message: RaftMessage) -> RaftMessage {
        let is_read_request = message.get_msg_type() == MessageType::MsgReadIndex;
        if let Some(context) = message.entries.iter_mut().find(|_| is_read_request) {
            self.read_requests += 1;
            context.data = [&self.read_requests.to_le_bytes()[..], &context.data].concat().into();
        }
        message
    }

    /// If batches count before they are synced, a follower may lose acknowledged batches in a power
    /// failure. raft-rs takes its rejection for a late one, and would never send these batches
    /// again. So the leader resets the acknowledgement, and probes the log of the follower again.
    fn reset_match(&mut self, answer: &RaftMessage) -> bool {
        let raft = &mut self.node.raft;
        let is_refusal = answer.get_msg_type() == MessageType::MsgAppendResponse && answer.reject;
        if !is_refusal || raft.state != StateRole::Leader || answer.term != raft.term {
            return false;
        }
        let Some(progress) = raft
            .mut_prs()
            .get_mut(answer.from)
            .filter(|progress| answer.reject_hint < progress.matched)
        else {
            return false;
        };
        progress.matched = 0;
        progress.become_probe();
        progress.next_idx = answer.reject_hint + 1;
        raft.send_append(answer.from);
        true
    }

    /// The log point after a batch that the log holds, written or not.
    fn point(&self, raft_index: u64) -> Option<LogPoint> {
        let log = &self.node.raft.raft_log;
        if self.newest.raft_index == raft_index
            && log.term(raft_index).ok() == Some(self.newest.term)
        {
            return Some(self.newest);
        }
        let written = self.last_settled();
        let mut point = match log.unstable_snapshot() {
            Some(snapshot) => base_of(snapshot).point,
            None if raft_index <= written => return self.node.store().point(raft_index),
            None => self.node.store().point(written)?,
        };
        for entry in log.unstable_entries().iter().take_while(|entry| entry.index <= raft_index) {
            point = batch_of(entry).and_then(|batch| batch.point_after(&point)).ok()?;
        }
        (point.raft_index == raft_index).then_some(point)
    }

    /// Proposes a batch and returns its (term, raft index). `None` if raft-rs takes none now; then
    /// the batch is dropped.
    pub(super) fn propose(&mut self, body: bytes::Bytes) -> Option<(u64, u64)> {
        if self.role() != RaftRole::Leader || self.is_transferring() {
            return None;
        }
        let (term, before) = (self.term(), self.point(self.node.raft.raft_log.last_index())?);
        // raft-rs would take a batch that does not continue the log, and every peer reject it.
        let point = Batch::new(before.raft_index + 1, term, body.clone())
            .and_then(|batch| batch.point_after(&before))
            .ok()?;
        let entry = RaftEntry { data: body, ..RaftEntry::default() };
        let mut message = RaftMessage {
            from: self.node.raft.id,
            entries: vec![entry].into(),
            ..RaftMessage::default()
        };
        message.set_msg_type(MessageType::MsgPropose);
        self.node.step(message).ok()?;
        (self.newest, self.commit_sent) = (point, self.commit());
        Some((term, point.raft_index))
    }

    /// Whether this node leads, and no message carried its commit index yet.
    pub(super) fn has_unsent_commit(&self) -> bool {
        self.role() == RaftRole::Leader && self.commit_sent < self.commit()
    }

    /// Sends the commit index to all others.
    pub(super) fn send_commit(&mut self) {
        self.commit_sent = self.commit();
        self.node.raft.bcast_append();
    }

    pub(super) fn read_index(&mut self, context: Vec<u8>) {
        self.node.read_index(context);
    }

    pub(super) fn transfer(&mut self, to: NodeId) {
        self.node.transfer_leader(to.get());
    }

    pub(super) fn unreachable(&mut self, peer: NodeId) {
        self.node.report_unreachable(peer.get());
    }

    /// Takes the next ready of raft-rs, if there is one. Nothing else may be called until
    /// [`advance`](Self::advance) returns it.
    pub(super) fn take_ready(&mut self) -> Option<CoreReady> {
        if !self.node.has_ready() {
            return None;
        }
        let (saved, commit) = (self.node.store().hard_state, self.commit());
        let mut ready = self.node.ready();
        let hard_state = ready.hs().map(|hs| HardState {
            term: hs.term,
            vote: Some(NodeId::from(hs.vote)).filter(|_| hs.vote != 0),
            commit: hs.commit,
        });
        let hard_state = hard_state.filter(|new| (new.term, new.vote) != (saved.term, saved.vote));
        let hard_state =
            hard_state.or(self.has_unsaved_term.then_some(HardState { commit, ..saved }));
        let is_snapshot =
            |message: &&RaftMessage| message.get_msg_type() == MessageType::MsgSnapshot;
        let moved = ready.messages().iter().filter(is_snapshot).map(|message| message.to).collect();
        // A heartbeat response depends on the term alone. If it waited for batches, slow disks
        // would depose a healthy leader.
        let is_prompt =
            |message: &RaftMessage| message.get_msg_type() == MessageType::MsgHeartbeatResponse;
        let (prompt, after_sync): (Vec<_>, Vec<_>) =
            ready.take_persisted_messages().into_iter().partition(is_prompt);
        let log = &self.node.raft.raft_log;
        let outgoing = |mut message: RaftMessage| match message.get_msg_type() {
            MessageType::MsgReadIndexResp => untagged(message),
            MessageType::MsgHeartbeat => {
                // 0 of what was purged.
                message.commit_term = log.term(message.commit).unwrap_or(0);
                message
            }
            _ => message,
        };
        let send_now = ready
            .take_messages()
            .into_iter()
            .chain(prompt)
            .map(outgoing)
            .map(Message::new)
            .collect();
        let send_after_sync = after_sync.into_iter().map(outgoing).map(Message::new).collect();
        Some(CoreReady {
            number: ready.number(),
            hard_state,
            snapshot: Some(ready.snapshot()).filter(|snapshot| !snapshot.is_empty()).map(base_of),
            batches: ready
                .take_entries()
                .iter()
                .map(|entry| batch_of(entry).expect("checked before it was taken"))
                .collect(),
            send_now,
            send_after_sync,
            reads: ready
                .take_read_states()
                .into_iter()
                .map(|read| (read.request_ctx, read.index))
                .collect(),
            moved,
            raft_ready: ready,
        })
    }

    /// Returns a ready whose writes can be read (they need not be durable).
    pub(super) fn advance(&mut self, ready: CoreReady) {
        if let Some(hard_state) = ready.hard_state {
            self.node.mut_store().hard_state = hard_state;
            self.has_unsaved_term = false;
        }
        if let Some(base) = ready.snapshot {
            self.newest = base.point;
            self.applied(base.point.raft_index);
            self.node.mut_store().installed(base);
        }
        if let (Some(first), Some(last)) = (ready.batches.first(), ready.batches.last()) {
            let (from, to) = (first.raft_index(), last.raft_index());
            let view = self.node.mut_store();
            view.truncate(from);
            ready.batches.iter().for_each(|batch| view.written(batch));
            debug_assert_eq!(view.last, to);
        }
        self.node.advance_append_async(ready.raft_ready);
        for peer in ready.moved {
            // Here a snapshot is a message like any other, but raft-rs waits for a report on it.
            // After the report it probes behind the snapshot. A peer that did not get it rejects
            // the probe.
            self.node.report_snapshot(peer, SnapshotStatus::Finish);
            if !self.moved.contains(&peer) {
                self.moved.push(peer);
            }
        }
        self.apply();
    }

    /// Everything up to and including this ready is durable.
    pub(super) fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
        self.apply();
    }

    /// There is no state machine: committed and durable batches count as applied.
    fn apply(&mut self) {
        let log = &self.node.raft.raft_log;
        let applied = log.committed.min(log.persisted);
        if applied > log.applied {
            self.node.advance_apply_to(applied);
        }
    }

    /// The storage has purged the log up to `base`.
    pub(super) fn purged(&mut self, base: Base) {
        self.applied(base.point.raft_index);
        self.node.mut_store().base = base;
    }

    /// Batches before the log's beginning count as applied, durable or not: a candidate reads what
    /// is committed and not applied, to find changes of members, and must not read there.
    fn applied(&mut self, raft_index: u64) {
        let applied = &mut self.node.raft.raft_log.applied;
        *applied = raft_index.max(*applied);
    }

    /// Visits the progress of each follower, while this node leads. One that has confirmed batch
    /// `in_step` is in step.
    pub(super) fn each_follower(&mut self, in_step: u64, mut each: impl FnMut(Follower)) {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return;
        }
        // A follower may have confirmed what is not written here yet.
        let written = self.last_settled();
        for (&id, progress) in raft.prs().iter().filter(|(id, _)| **id != raft.id) {
            let is_streaming = progress.state == ProgressState::Replicate;
            let sent = if is_streaming { progress.next_idx.saturating_sub(1) } else { 0 };
            let confirmed = progress.matched.min(written);
            let sent = sent.min(written).max(confirmed);
            each(Follower {
                id: NodeId::from(id),
                log: Some(MemberLog { confirmed, sent }).filter(|_| confirmed > 0),
                is_moved: self.moved.contains(&id),
            });
            // Removed after the call: a move that ended between two calls is visited once.
            if confirmed >= in_step {
                self.moved.retain(|peer| *peer != id);
            }
        }
    }

    /// If this node leads: the raft index of the last batch.
    pub(super) fn leader_last_index(&self) -> Option<u64> {
        let raft = &self.node.raft;
        (raft.state == StateRole::Leader).then(|| raft.raft_log.last_index())
    }

    pub(super) fn role(&self) -> RaftRole {
        match self.node.raft.state {
            StateRole::Leader => RaftRole::Leader,
            StateRole::Follower => RaftRole::Follower,
            StateRole::Candidate | StateRole::PreCandidate => RaftRole::Candidate,
        }
    }

    pub(super) fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        Some(NodeId::from(self.node.raft.leader_id)).filter(|leader| leader.get() != 0)
    }

    /// Whether this node is a follower of `leader`, as far as raft-rs knows.
    pub(super) fn follows(&self, leader: NodeId) -> bool {
        self.role() == RaftRole::Follower && self.leader() == Some(leader)
    }

    /// Takes over the unsaved term of another core.
    pub(super) fn inherit_unsaved_term(&mut self, before: &RaftCore) {
        self.has_unsaved_term |= before.has_unsaved_term;
    }

    /// Term and vote as they were last written.
    pub(super) fn hard_state(&self) -> HardState {
        self.node.store().hard_state
    }

    /// Term and raft index of the last batch that raft-rs has.
    pub(super) fn last(&self) -> (u64, u64) {
        let log = &self.node.raft.raft_log;
        (log.last_term(), log.last_index())
    }

    /// Resets the acknowledgements of `peer`. Committed batches stay committed.
    pub(super) fn forget_acknowledged(&mut self, peer: NodeId) {
        let next = self.node.raft.raft_log.last_index() + 1;
        if let Some(progress) = self.node.raft.mut_prs().get_mut(peer.get()) {
            progress.matched = 0;
            progress.become_probe();
            progress.next_idx = next;
        }
    }

    pub(super) fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The timestamp of the last batch that raft-rs took.
    pub(super) fn newest_timestamp(&self) -> u64 {
        self.newest.timestamp
    }

    pub(super) fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// The term of a batch that was written, or `None` outside the log.
    pub(super) fn term_at(&self, raft_index: u64) -> Option<u64> {
        let view = self.node.store();
        if raft_index < view.base.point.raft_index { None } else { view.term_of(raft_index) }
    }

    pub(super) fn written_point(&self, raft_index: u64) -> Option<LogPoint> {
        self.node.store().point(raft_index)
    }

    pub(super) fn last_written(&self) -> u64 {
        self.node.store().last
    }

    /// The last raft index up to which the written log equals the log of raft-rs. Behind it raft-rs
    /// may have a tail that is not written yet, and may replace a written one.
    pub(super) fn last_settled(&self) -> u64 {
        let log = &self.node.raft.raft_log;
        match (log.unstable_snapshot(), log.unstable_entries().first()) {
            (Some(_), _) => 0,
            (None, Some(unwritten)) => self.last_written().min(unwritten.index - 1),
            (None, None) => self.last_written(),
        }
    }

    /// The first failure to read the log that could not be returned to raft-rs.
    pub(super) fn take_read_error(&mut self) -> Option<StorageError> {
        self.node.store().read_error.borrow_mut().take()
    }

    /// Replaces the election timeout that raft-rs drew with one from the seed.
    fn redraw_timeout(&mut self) {
        let state = (self.node.raft.term, self.node.raft.state);
        if state != self.drawn_for {
            self.drawn_for = state;
            // The first batch of a new leader carries the commit index.
            self.commit_sent = self.commit();
            self.moved.clear();
            self.draw_timeout();
        }
    }

    fn draw_timeout(&mut self) {
        let timeout = self.timeouts.draw(self.term());
        self.node.raft.set_randomized_election_timeout(timeout);
    }
}

#[cfg(test)]
mod tests;
