//! The border to the Raft library: its types end here.
//!
//! [`Core`] is a raft-rs `RawNode` in this crate's own words: batches instead of entries, marks instead of snapshots. [`LogView`] is what
//! raft-rs sees of the log. It asks for the first and last index and for terms many times a message, so those are plain fields, kept up by
//! [`Core`] as the log is written; batches are read from the storage only for peers that have fallen behind,
//! a little at a time ([`reading`]).

mod convert;
mod log_bridge;
mod reading;
mod view;

use std::sync::Arc;

use raft::eraftpb::{Entry as RaftEntry, Message as RaftMessage, MessageType, Snapshot};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use crate::batch::{Batch, Mark};
use crate::entry::NodeId;
use crate::members::MemberLog;
use crate::message::{Message, Refusal, View};
use crate::role::Membership;
use crate::storage::{Base, HardState, LogReader, Recovered, StorageError};

use super::election::Timeouts;
use super::{Settings, rebase};
use convert::{base_of, batch_of, without_number};
use log_bridge::LogBridge;
use reading::Reading;
use view::LogView;

/// How many appends may be under way to a follower before it answers.
pub(super) const MESSAGES_MAX: usize = 64;

/// What stands in front of a ticket of a peer, in bytes.
const NUMBER_BYTES: usize = size_of::<u64>();

/// What raft-rs is to this node at the moment, before the crate's own rules for announcing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoreRole {
    Leader,
    Follower,
    Candidate,
}

/// What a leader knows of the log of one follower.
pub(crate) struct Follower {
    pub(crate) id: NodeId,
    /// `None` if it has not said yet what it has.
    pub(crate) log: Option<MemberLog>,
    /// It was moved forward, and was not in step when this was last asked.
    pub(crate) is_moved: bool,
}

/// What raft-rs asks for at once, in this crate's words: one `Ready`.
pub(super) struct Turn {
    pub(super) number: u64,
    /// Term or vote have changed.
    pub(super) hard_state: Option<HardState>,
    /// The log begins anew here.
    pub(super) rebase: Option<Base>,
    pub(super) batches: Vec<Batch>,
    /// May leave before the batches of this turn are durable, but not before term and vote are.
    pub(super) now: Vec<Message>,
    /// Must not leave before this turn and those before it are durable.
    pub(super) later: Vec<Message>,
    /// Linearizable points that a leader confirmed: context, raft index.
    pub(super) reads: Vec<(Vec<u8>, u64)>,
    /// The peers that this turn moves forward.
    moved: Vec<u64>,
    ready: raft::Ready,
}

/// raft-rs, seen from this crate.
pub(super) struct Core {
    node: RawNode<LogView>,
    /// Batches count in this group before they are synced, so a node that lost power may have lost some that counted.
    forgets: bool,
    timeouts: Timeouts,
    /// How many questions of peers have come.
    questions: u64,
    /// (term, role) when the election timeout was last replaced: raft-rs draws one of its own whenever one of them changes.
    drawn_for: (u64, StateRole),
    /// raft-rs began in a later term than the one on the disk (see [`LogView::new`]). The first turn writes it down, before anything is said in it.
    owes_hard_state: bool,
    /// The newest mark computed for a batch that raft-rs took. Good for as long as the log holds (raft index, term) of it.
    newest: Mark,
    /// The commit that the last message to all others told of, while this node leads.
    told: u64,
    /// Followers that this leader has moved forward, and that were not seen in step since.
    moved: Vec<u64>,
    /// The follower that the log was last read for.
    read_for: u64,
}

impl Core {
    /// # Errors
    /// If the log cannot be read.
    pub(super) fn new(settings: &Settings, recovered: &Recovered, reader: Arc<dyn LogReader>) -> Result<Core, StorageError> {
        let mut view = LogView::new(recovered, reader);
        if recovered.damage.is_empty() {
            view.terms = view.terms_from(recovered.hard_state.commit, recovered.last)?;
        } // else no time passes for it, and another begins when the log is mended
        Ok(Core::over(settings, recovered, view))
    }

    /// Begins anew on the log that another core has written, as it has it.
    pub(super) fn again(settings: &Settings, recovered: &Recovered, reader: Arc<dyn LogReader>, before: &Core) -> Core {
        let mut view = LogView::new(recovered, reader);
        // Not looked up: a step back is made when reads may fail too.
        view.terms = match recovered.last == recovered.base.mark {
            true => vec![(recovered.last.raft_index, recovered.last.term)],
            false => before.node.store().terms.clone(),
        };
        Core::over(settings, recovered, view)
    }

    fn over(settings: &Settings, recovered: &Recovered, view: LogView) -> Core {
        let config = Config {
            id: settings.node.get(),
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: recovered.hard_state.commit,
            max_size_per_msg: settings.message_bytes,
            max_inflight_msgs: MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: if planted!("a leader trusts its lease") { ReadOnlyOption::LeaseBased } else { ReadOnlyOption::Safe },
            max_uncommitted_size: raft::NO_LIMIT,
            skip_bcast_commit: true,
            ..Config::default()
        };
        let timeouts = Timeouts::new(settings.seed, settings.node, settings.election_ticks, 2 * settings.election_ticks);
        let owner = format!("group {} node {}", settings.group, settings.node);
        let logger = slog::Logger::root(LogBridge(owner), slog::o!());
        let owes_hard_state = view.hard_state.term != recovered.hard_state.term;
        let node =
            RawNode::new(&config, view, &logger).expect("the settings were checked by the builder, and the recovered state by the storage");
        let forgets = settings.counts_unsynced;
        let mut core = Core {
            node,
            forgets,
            timeouts,
            questions: 0,
            drawn_for: (u64::MAX, StateRole::Follower),
            owes_hard_state,
            newest: recovered.last,
            told: 0,
            moved: Vec::new(),
            read_for: 0,
        };
        core.settle_timeout();
        core
    }

    pub(super) fn tick(&mut self) {
        self.node.tick();
        self.settle_timeout();
    }

    /// Whether the next tick lets it stand for election, unless it hears of a leader before.
    pub(super) fn is_about_to_stand(&self) -> bool {
        let raft = &self.node.raft;
        raft.state != StateRole::Leader && raft.election_elapsed + 1 >= raft.randomized_election_timeout()
    }

    /// What a node does in place of an election that may not stand in one. Else it would go on to count on a leader that it has not heard of
    /// for so long, and turn away whoever would follow that.
    pub(super) fn lose_leader(&mut self) {
        if self.leader().is_some() {
            let raft = &mut self.node.raft;
            raft.become_follower(raft.term, 0);
            self.drawn_for = (u64::MAX, StateRole::Follower);
            self.settle_timeout();
        }
    }

    pub(super) fn campaign(&mut self) {
        // Refused only if this node cannot be promoted, which the caller has checked.
        let _ = self.node.campaign();
        self.settle_timeout();
    }

    /// Hands a message to raft-rs if it passes every check. A refused message leaves no trace.
    pub(super) fn step(&mut self, mut message: Message, membership: &Membership) -> Result<(), Refusal> {
        let is_limited = self.forgets || planted!("a heartbeat tells of every commit");
        let last = self.node.raft.raft_log.last_index();
        let missing = if is_limited { message.limit_heartbeat(last) } else { None };
        self.check(&message, membership)?;
        let Some(message) = message.into_raft() else { return Ok(()) };
        if self.forgets && self.forgive(&message) {
            return Ok(());
        }
        let message = if planted!("a vote of an earlier term counts")
            && message.get_msg_type() == MessageType::MsgRequestVoteResponse
            && message.term > 0
        {
            RaftMessage { term: message.term.max(self.node.raft.term), ..message }
        } else {
            message
        };
        let message = if planted!("an acknowledgement of an earlier term counts")
            && message.get_msg_type() == MessageType::MsgAppendResponse
            && message.term > 0
        {
            RaftMessage { term: message.term.max(self.node.raft.term), ..message }
        } else {
            message
        };
        let message = if planted!("a leader of an earlier term is heard")
            && ![MessageType::MsgAppendResponse, MessageType::MsgRequestVoteResponse].contains(&message.get_msg_type())
            && message.term > 0
        {
            RaftMessage { term: message.term.max(self.node.raft.term), ..message }
        } else {
            message
        };
        if planted!("a follower is counted twice") && message.get_msg_type() == MessageType::MsgAppendResponse {
            let raft = &self.node.raft;
            let other = raft.prs().iter().map(|(id, _)| *id).find(|id| ![raft.id, message.from].contains(id));
            let twin = other.map(|from| RaftMessage { from, ..message.clone() });
            twin.map(|twin| self.node.step(twin));
        }
        let message = self.number_question(message);
        let from = message.from;
        // What is an error to raft-rs (a response of a node that has left) is an ordinary loss here.
        let _ = self.node.step(message);
        self.settle_timeout();
        if let Some(missing) = missing.filter(|_| self.forgets) {
            self.admit_loss(from, missing);
        }
        Ok(())
    }

    /// A leader counts on batches up to `missing` that this node lost with its power. Answers as it would to an append behind
    /// them: else nothing would be sent here, and no barrier hold, before somebody appends.
    fn admit_loss(&mut self, leader: u64, missing: u64) {
        let raft = &mut self.node.raft;
        if raft.leader_id == leader {
            let (from, term, log_term, reject) = (raft.id, raft.term, raft.raft_log.last_term(), true);
            let mut answer = RaftMessage { from, to: leader, term, index: missing, log_term, reject, ..RaftMessage::default() };
            answer.reject_hint = raft.raft_log.last_index();
            answer.set_msg_type(MessageType::MsgAppendResponse);
            raft.msgs.push(answer);
        }
    }

    /// Puts a number that was never used in this term in front of the ticket of a peer's question.
    ///
    /// A question may arrive again when it was answered long ago, asked once more or repeated by the network. raft-rs then takes it for a new one, and an
    /// answer to the first for an answer to it: that would confirm a leader that is none any more, for it and for all that were asked before it.
    fn number_question(&mut self, mut message: RaftMessage) -> RaftMessage {
        let is_question = message.get_msg_type() == MessageType::MsgReadIndex;
        if let Some(ticket) = message.entries.iter_mut().find(|_| is_question) {
            self.questions += if planted!("a question that comes again is the same") { 0 } else { 1 };
            ticket.data = [&self.questions.to_le_bytes()[..], &ticket.data].concat().into();
        }
        message
    }

    /// Where batches count before they are synced, a follower that loses power may no longer have what it acknowledged. raft-rs takes its refusal for
    /// a late one, and would never send the lost batches again: so the leader forgets the acknowledgement too, and looks anew for what they share.
    fn forgive(&mut self, answer: &RaftMessage) -> bool {
        let raft = &mut self.node.raft;
        let is_refusal = answer.get_msg_type() == MessageType::MsgAppendResponse && answer.reject;
        if !is_refusal || raft.state != StateRole::Leader || answer.term != raft.term {
            return false;
        }
        let Some(progress) = raft.mut_prs().get_mut(answer.from).filter(|progress| answer.reject_hint < progress.matched) else {
            return false;
        };
        progress.matched = 0;
        progress.become_probe();
        progress.next_idx = answer.reject_hint + 1;
        raft.send_append(answer.from);
        true
    }

    fn check(&mut self, message: &Message, membership: &Membership) -> Result<(), Refusal> {
        let log = &self.node.raft.raft_log;
        // Where the log begins once a rebase that raft-rs has taken is written, not where it begins on the disk.
        let first = log.first_index() - 1;
        let last = log.last_index();
        let term_at = |index: u64| if index < first || index > last { None } else { log.term(index).ok() };
        message.check(&View {
            me: self.node.raft.id.into(),
            membership,
            leads: self.node.raft.state == StateRole::Leader,
            leader: self.leader(),
            term: self.term(),
            commit: self.commit(),
            last,
            term_at: &term_at,
        })?;
        let Some(message) = message.raft() else { return Ok(()) };
        if message.get_msg_type() == MessageType::MsgSnapshot {
            self.check_rebase(message.get_snapshot())?;
        }
        if let Some(mark) = self.check_line(message, &term_at)? {
            self.newest = mark;
        }
        Ok(())
    }

    /// A snapshot must carry a mark, and one that does not lie before what is committed here.
    fn check_rebase(&self, snapshot: &Snapshot) -> Result<(), Refusal> {
        let metadata = snapshot.get_metadata();
        let mark = rebase::decode(metadata.index, metadata.term, &snapshot.data).ok_or(Refusal::Invalid("a snapshot without a mark"))?;
        let Some(here) = self.mark(self.commit()).filter(|here| here.raft_index <= mark.raft_index) else { return Ok(()) };
        if mark.next_index < here.next_index || mark.next_position < here.next_position || mark.timestamp < here.timestamp {
            return Err(Refusal::Invalid("a snapshot whose mark lies before what is committed"));
        }
        Ok(())
    }

    /// The batches of an append must continue the ledger: index, position and timestamp, not only Raft's numbers. Gives the mark after
    /// them, if they follow a batch that is here.
    fn check_line(&self, message: &RaftMessage, term_at: &dyn Fn(u64) -> Option<u64>) -> Result<Option<Mark>, Refusal> {
        let follows = term_at(message.index) == Some(message.log_term);
        if message.get_msg_type() != MessageType::MsgAppend || message.entries.is_empty() || !follows {
            return Ok(None); // if it does not follow, raft-rs will ask for earlier ones
        }
        let Some(mut mark) = self.mark(message.index) else { return Err(Refusal::Invalid("the batch before it cannot be read")) };
        for entry in &message.entries {
            mark = batch_of(entry)
                .and_then(|batch| batch.mark_after(&mark))
                .map_err(|_| Refusal::Invalid("a batch does not continue the ledger"))?;
        }
        Ok(Some(mark))
    }

    /// The mark after a batch that the log holds, written or not.
    fn mark(&self, raft_index: u64) -> Option<Mark> {
        let log = &self.node.raft.raft_log;
        if self.newest.raft_index == raft_index && log.term(raft_index).ok() == Some(self.newest.term) {
            return Some(self.newest);
        }
        let written = self.last_settled();
        let mut mark = match log.unstable_snapshot() {
            Some(rebase) => base_of(rebase).mark,
            None if raft_index <= written => return self.node.store().mark(raft_index),
            None => self.node.store().mark(written)?,
        };
        for entry in log.unstable_entries().iter().take_while(|entry| entry.index <= raft_index) {
            mark = batch_of(entry).and_then(|batch| batch.mark_after(&mark)).ok()?;
        }
        (mark.raft_index == raft_index).then_some(mark)
    }

    /// Proposes a batch and says where it stands. `None` if raft-rs takes none now; then it is nowhere.
    pub(super) fn propose(&mut self, body: bytes::Bytes) -> Option<(u64, u64)> {
        if self.role() != CoreRole::Leader || self.is_transferring() {
            return None;
        }
        let (term, before) = (self.term(), self.mark(self.node.raft.raft_log.last_index())?);
        // A batch out of line would be taken here, and refused by every peer for ever.
        let mark = Batch::new(before.raft_index + 1, term, body.clone()).and_then(|batch| batch.mark_after(&before)).ok()?;
        let entry = RaftEntry { data: body, ..RaftEntry::default() };
        let mut message = RaftMessage { from: self.node.raft.id, entries: vec![entry].into(), ..RaftMessage::default() };
        message.set_msg_type(MessageType::MsgPropose);
        self.node.step(message).ok()?;
        (self.newest, self.told) = (mark, self.commit());
        Some((term, mark.raft_index))
    }

    /// Whether this node leads, and has committed something of which no append has told since.
    pub(super) fn owes_commit(&self) -> bool {
        self.role() == CoreRole::Leader && self.told < self.commit()
    }

    /// Tells all others how far the log is committed.
    pub(super) fn tell_commit(&mut self) {
        self.told = self.commit();
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

    /// Takes what raft-rs wants done, if there is anything. Nothing else may be called until [`advance`](Self::advance) gives it back.
    pub(super) fn take_turn(&mut self) -> Option<Turn> {
        if !self.node.has_ready() {
            return None;
        }
        let (saved, commit) = (self.node.store().hard_state, self.commit());
        let mut ready = self.node.ready();
        let hard_state =
            ready.hs().map(|hs| HardState { term: hs.term, vote: Some(NodeId::from(hs.vote)).filter(|_| hs.vote != 0), commit: hs.commit });
        let hard_state = hard_state.filter(|new| (new.term, new.vote) != (saved.term, saved.vote));
        let hard_state = hard_state.or(self.owes_hard_state.then_some(HardState { commit, ..saved }));
        let is_rebase = |message: &&RaftMessage| message.get_msg_type() == MessageType::MsgSnapshot;
        let moved = ready.messages().iter().filter(is_rebase).map(|message| message.to).collect();
        // The answer to a heartbeat tells of the term alone. It need not wait for batches: else slow disks would depose a healthy leader.
        let is_prompt = |message: &RaftMessage| message.get_msg_type() == MessageType::MsgHeartbeatResponse;
        let (prompt, later): (Vec<_>, Vec<_>) = ready.take_persisted_messages().into_iter().partition(is_prompt);
        let told = |message: RaftMessage| match message.get_msg_type() {
            MessageType::MsgHeartbeat if planted!("a heartbeat tells of every commit") => RaftMessage { commit, ..message },
            MessageType::MsgReadIndexResp => without_number(message),
            _ => message,
        };
        let now = ready.take_messages().into_iter().chain(prompt).map(told).map(Message::new).collect();
        let later = later.into_iter().map(told).map(Message::new).collect();
        Some(Turn {
            number: ready.number(),
            hard_state,
            rebase: Some(ready.snapshot()).filter(|snapshot| !snapshot.is_empty()).map(base_of),
            batches: ready.take_entries().iter().map(|entry| batch_of(entry).expect("checked before it was taken")).collect(),
            now,
            later,
            reads: ready.take_read_states().into_iter().map(|read| (read.request_ctx, read.index)).collect(),
            moved,
            ready,
        })
    }

    /// Gives back a turn whose writes can be read (they need not be durable).
    pub(super) fn advance(&mut self, turn: Turn) {
        if let Some(hard_state) = turn.hard_state {
            self.node.mut_store().hard_state = hard_state;
            self.owes_hard_state = false;
        }
        if let Some(base) = turn.rebase {
            self.newest = base.mark;
            self.applied(base.mark.raft_index);
            self.node.mut_store().rebased(base);
        }
        if let (Some(first), Some(last)) = (turn.batches.first(), turn.batches.last()) {
            let (from, to) = (first.raft_index(), last.raft_index());
            let view = self.node.mut_store();
            if !planted!("the terms of what was cut off are kept") {
                view.cut(from);
            }
            turn.batches.iter().for_each(|batch| view.written(batch));
            debug_assert_eq!(view.last, to);
        }
        self.node.advance_append_async(turn.ready);
        for peer in turn.moved {
            // A rebase is a message like any other, and raft-rs would wait for its answer for ever. Told that it is done, it probes behind it,
            // and a peer that the message did not reach says so.
            self.node.report_snapshot(peer, SnapshotStatus::Finish);
            if !self.moved.contains(&peer) {
                self.moved.push(peer);
            }
        }
        self.apply();
    }

    /// Everything up to and including this turn is durable.
    pub(super) fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
        self.apply();
    }

    /// There is no state machine: what is committed and durable here is applied.
    fn apply(&mut self) {
        let log = &self.node.raft.raft_log;
        let applied = log.committed.min(log.persisted);
        if applied > log.applied {
            self.node.advance_apply_to(applied);
        }
    }

    /// The log now begins later: the storage has purged what lay before.
    pub(super) fn purged(&mut self, base: Base) {
        self.applied(base.mark.raft_index);
        self.node.mut_store().base = base;
    }

    /// What lies before the log's beginning is applied, durable here or not: a candidate looks for changes of members in what is committed and not
    /// applied, and must not look there.
    fn applied(&mut self, raft_index: u64) {
        let applied = &mut self.node.raft.raft_log.applied;
        *applied = raft_index.max(*applied);
    }

    /// Goes through what is known of the followers, while this node leads. One that has confirmed
    /// batch `in_step` is in step.
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
            // A move that was over before anybody looked has been told of once all the same.
            if confirmed >= in_step {
                self.moved.retain(|peer| *peer != id);
            }
        }
    }

    /// If this node leads: the raft index of the last batch.
    pub(super) fn led(&self) -> Option<u64> {
        let raft = &self.node.raft;
        (raft.state == StateRole::Leader || planted!("any peer says where the log ends")).then(|| raft.raft_log.last_index())
    }

    pub(super) fn role(&self) -> CoreRole {
        match self.node.raft.state {
            StateRole::Leader => CoreRole::Leader,
            StateRole::Follower => CoreRole::Follower,
            StateRole::Candidate | StateRole::PreCandidate => CoreRole::Candidate,
        }
    }

    pub(super) fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        Some(NodeId::from(self.node.raft.leader_id)).filter(|leader| leader.get() != 0)
    }

    /// Takes over what another core has not written down.
    pub(super) fn inherit_debt(&mut self, before: &Core) {
        self.owes_hard_state |= before.owes_hard_state;
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

    /// Nothing that `peer` has acknowledged counts any more, though what is committed stays so.
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
        if raft_index < view.base.mark.raft_index { None } else { view.term_of(raft_index) }
    }

    pub(super) fn written_mark(&self, raft_index: u64) -> Option<Mark> {
        self.node.store().mark(raft_index)
    }

    pub(super) fn last_written(&self) -> u64 {
        self.node.store().last
    }

    /// How far the log as it is written is the log as raft-rs has it: no further than a tail that is yet to be written, perhaps over another.
    pub(super) fn last_settled(&self) -> u64 {
        let log = &self.node.raft.raft_log;
        match (log.unstable_snapshot(), log.unstable_entries().first()) {
            (Some(_), _) => 0,
            (None, Some(unwritten)) => self.last_written().min(unwritten.index - 1),
            (None, None) => self.last_written(),
        }
    }

    /// A failure to read the log that raft-rs cannot be told about. Final.
    pub(super) fn take_fault(&mut self) -> Option<StorageError> {
        self.node.store().fault.borrow_mut().take()
    }

    /// Replaces the election timeout that raft-rs drew from a source of its own.
    fn settle_timeout(&mut self) {
        let state = (self.node.raft.term, self.node.raft.state);
        if state != self.drawn_for {
            self.drawn_for = state;
            // A new leader's first batch tells of it.
            self.told = self.commit();
            self.moved.clear();
            let timeout = self.timeouts.draw(state.0);
            self.node.raft.set_randomized_election_timeout(timeout);
        }
    }
}

#[cfg(test)]
mod tests;
