//! A group of replicas on memories that can lose power, driven as the engine drives one, with every
//! step shown in a line.

mod effects;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::batch::{Batch, OpenBatch};
use crate::entry::NodeId;
use crate::message::Message;
use crate::replica::{BatchId, Effect, ProposalOutcome, Replica, Settings, splitmix64};
use crate::role::{Membership, Role};
use crate::storage::reads::FailingReader;
use crate::storage::{
    DirectoryIdentity, HardState, LogOwner, LogReader, MemoryLog, PendingSync, Storage,
};

use super::invariants::Invariants;
use super::text::{batches_text, payloads, vote};

pub(super) const ELECTION_TICKS: usize = 10;
pub(super) const HEARTBEAT_TICKS: usize = 2;
/// What a message of a paced group carries, and what a follower that lags may have in a tick: one
/// batch, and less than that.
const PACED: (u64, u64) = (1, 10);

/// One node, up or down.
struct Node {
    /// Never opened itself: the memory that outlives the node.
    disk: MemoryLog,
    process: Option<Process>,
    starts: u64,
    holds_syncs: bool,
    tears: bool,
    is_full: bool,
    /// Not even term and vote find room.
    is_choked: bool,
    is_patient: bool,
}

/// What a node loses when it goes down.
struct Process {
    storage: MemoryLog,
    reader: Arc<dyn LogReader>,
    /// What the replica reads by.
    reads: Arc<FailingReader>,
    settings: Settings,
    identity: DirectoryIdentity,
    replica: Replica,
    syncs: VecDeque<(u64, Box<dyn PendingSync>)>,
    /// Index and position of the next append, as a sequencer keeps them.
    next: (u64, u64),
    committed: u64,
    failed: bool,
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Group {
    nodes: BTreeMap<u64, Node>,
    membership: Membership,
    counts_unsynced: bool,
    is_paced: bool,
    is_named: bool,
    wire: VecDeque<Message>,
    cuts: BTreeSet<(u64, u64)>,
    lines: Vec<String>,
    invariants: Invariants,
    batches: BatchId,
    barriers: u64,
    seed: u64,
}

impl Group {
    pub(super) fn with_seed(seed: u64) -> Group {
        Group { seed, ..Group::default() }
    }

    /// `1 2 3`, then perhaps `learners 4`, then perhaps `unsynced`, `paced` and `named`.
    pub(super) fn begin(&mut self, words: &[&str]) {
        let has = |word| words.contains(&word);
        *self = Group {
            seed: self.seed,
            counts_unsynced: has("unsynced"),
            is_paced: has("paced"),
            is_named: has("named"),
            ..Group::default()
        };
        let options = ["learners", "unsynced", "paced", "named"];
        let mut parts = words.split(|word| options.contains(word));
        let mut ids = || -> Vec<u64> {
            parts.next().unwrap_or_default().iter().map(|word| word.parse().unwrap()).collect()
        };
        let (voters, learners) = (ids(), ids());
        self.membership = Membership::of_voters(voters.iter().copied().map(NodeId::from));
        self.membership.learners = learners.iter().copied().map(NodeId::from).collect();
        for id in voters.into_iter().chain(learners) {
            let node = Node {
                disk: MemoryLog::new(),
                process: None,
                starts: 0,
                holds_syncs: false,
                tears: false,
                is_full: false,
                is_choked: false,
                is_patient: false,
            };
            self.nodes.insert(id, node);
            self.restart(id);
        }
        self.lines.clear();
    }

    /// What was shown since this was last asked.
    pub(super) fn shown(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    fn show(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    fn process(&mut self, id: u64) -> Option<&mut Process> {
        self.node(id).process.as_mut()
    }

    pub(super) fn leads(&self, id: u64) -> bool {
        self.nodes[&id].process.as_ref().is_some_and(|process| {
            !process.failed && process.replica.role_state().role == Role::Leader
        })
    }

    pub(super) fn tick(&mut self, id: u64, times: u64) {
        for _ in 0..times {
            if let Some(process) = self.process(id) {
                process.replica.tick();
                self.carry_out(id);
            }
        }
    }

    pub(super) fn time_out(&mut self, id: u64) {
        let before = self.lines.len();
        for _ in 0..4 * ELECTION_TICKS {
            self.tick(id, 1);
            if self.lines.len() > before {
                return;
            }
        }
        self.show(format!("  {id} does nothing"));
    }

    pub(super) fn live(&mut self, rounds: u64) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for _ in 0..rounds {
            ids.iter().for_each(|id| self.tick(*id, 1));
            self.deliver_all();
        }
    }

    pub(super) fn deliver_all(&mut self) {
        for _ in 0..10_000 {
            let Some(message) = self.wire.pop_front() else { return };
            self.arrive(message);
        }
        panic!("the messages find no end: {:?}", self.wire);
    }

    pub(super) fn deliver(&mut self, from: u64, to: u64, copies: bool) {
        self.between(from, to, copies).into_iter().for_each(|message| self.arrive(message));
    }

    pub(super) fn deliver_together(&mut self, from: u64, to: u64) {
        let messages = self.between(from, to, false);
        self.arrive_together(messages);
    }

    pub(super) fn reverse(&mut self, from: u64, to: u64) {
        let messages = self.between(from, to, false);
        self.wire.extend(messages.into_iter().rev());
    }

    /// What is on the way from one node to another now; copies of it, if the originals are to stay
    /// on the way.
    fn between(&mut self, from: u64, to: u64, copies: bool) -> Vec<Message> {
        let those = |message: &Message| {
            message.from() == NodeId::from(from) && message.to() == NodeId::from(to)
        };
        let (messages, rest): (Vec<Message>, Vec<Message>) = self.wire.drain(..).partition(those);
        self.wire =
            if copies { messages.iter().chain(&rest).cloned().collect() } else { rest.into() };
        messages
    }

    /// Takes one message out of those on the way.
    pub(super) fn pick(&mut self, at: usize) -> Option<Message> {
        self.wire.remove(at)
    }

    /// Takes all messages to one node out of those on the way.
    pub(super) fn pick_all_to(&mut self, id: u64) -> Vec<Message> {
        let (those, rest): (Vec<Message>, Vec<Message>) =
            self.wire.drain(..).partition(|message| message.to() == NodeId::from(id));
        self.wire = rest.into();
        those
    }

    pub(super) fn on_the_way(&self) -> usize {
        self.wire.len()
    }

    pub(super) fn put_back(&mut self, message: Message) {
        self.wire.push_back(message);
    }

    pub(super) fn drop(&mut self, between: Option<(u64, u64)>) {
        self.wire.retain(|message| {
            between
                .is_some_and(|(from, to)| (message.from().get(), message.to().get()) != (from, to))
        });
    }

    pub(super) fn cut(&mut self, one: u64, other: u64) {
        self.cuts.extend([(one, other), (other, one)]);
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(super) fn arrive(&mut self, message: Message) {
        let id = message.to().get();
        self.take_in(id, message);
        self.carry_out(id);
    }

    /// Several messages arrive before any of them has an effect, as in one turn of an engine.
    pub(super) fn arrive_together(&mut self, messages: Vec<Message>) {
        let Some(id) = messages.first().map(|message| message.to().get()) else { return };
        messages.into_iter().for_each(|message| self.take_in(id, message));
        self.carry_out(id);
    }

    fn take_in(&mut self, id: u64, message: Message) {
        let what = format!("{message:?}");
        let Some(process) = self.process(id).filter(|process| !process.failed) else { return };
        let outcome = process.replica.handle_message(message);
        self.show(what);
        if let Err(refusal) = outcome {
            self.show(format!("  {id} refuses: {refusal}"));
        }
    }

    pub(super) fn append(&mut self, id: u64, payloads: &[&str]) {
        let Some(process) = self.process(id) else { return };
        let mut open = OpenBatch::with_capacity(64);
        payloads
            .iter()
            .for_each(|payload| open.push(payload.as_bytes(), crc32fast::hash(payload.as_bytes())));
        let (index, position) = process.next;
        // A sequencer pauses while the leadership is handed over: nothing that is refused takes an
        // index.
        let is_taken =
            process.replica.role_state().role == Role::Leader && !process.replica.is_transferring();
        if is_taken {
            process.next =
                (index + u64::from(open.count()), position + open.payload_bytes() as u64);
        }
        let body = open.close(index, position, 0);
        self.batches += 1;
        let batch = self.batches;
        self.invariants.proposed(batch, payloads);
        self.process(id).expect("just seen").replica.handle_append(batch, body);
        self.carry_out(id);
    }

    pub(super) fn barrier(&mut self, id: u64) {
        self.barriers += 1;
        let barrier = self.barriers;
        let Some(process) = self.process(id) else { return };
        process.replica.handle_barrier(barrier);
        self.invariants.asked(barrier, id);
        self.carry_out(id);
    }

    pub(super) fn forget(&mut self, id: u64, barrier: u64) {
        if let Some(process) = self.process(id) {
            process.replica.forget_barrier(barrier);
        }
    }

    pub(super) fn transfer(&mut self, id: u64, to: u64) {
        let Some(process) = self.process(id) else { return };
        if let Err(refusal) = process.replica.handle_transfer(NodeId::from(to)) {
            self.show(format!("  {id} refuses: {refusal:?}"));
        }
        self.carry_out(id);
    }

    pub(super) fn purge(&mut self, id: u64, index: u64) {
        let Some(process) = self.process(id).filter(|process| !process.failed) else { return };
        process.storage.purge(index, process.replica.hard_state().commit).unwrap();
        let base = process.reader.base();
        let line = format!(
            "  {id} log begins after {}/t{}, entry {}",
            base.point.raft_index, base.point.term, base.point.next_index
        );
        process.replica.handle_purged(base);
        self.show(line);
        self.carry_out(id);
    }

    pub(super) fn unreachable(&mut self, id: u64, peer: u64) {
        let Some(process) = self.process(id) else { return };
        process.replica.handle_unreachable(NodeId::from(peer));
        self.carry_out(id);
    }

    pub(super) fn hold(&mut self, id: u64) {
        self.node(id).holds_syncs = true;
    }

    pub(super) fn release(&mut self, id: u64) {
        self.node(id).holds_syncs = false;
        self.carry_out(id);
    }

    /// All syncs of the node that were begun succeed: the newest covers those before it.
    pub(super) fn synced(&mut self, id: u64) {
        if self.finish_syncs(id) {
            self.carry_out(id);
        }
    }

    fn finish_syncs(&mut self, id: u64) -> bool {
        let Some(process) = self.process(id).filter(|process| !process.failed) else {
            return false;
        };
        let Some((number, newest)) = process.syncs.drain(..).next_back() else { return false };
        newest.wait().unwrap();
        process.replica.handle_synced(number);
        self.show(format!("  {id} synced {number}"));
        true
    }

    pub(super) fn crash(&mut self, id: u64) {
        let node = self.node(id);
        node.disk.crash();
        node.process = None;
    }

    pub(super) fn kill(&mut self, id: u64) {
        self.node(id).process = None;
    }

    pub(super) fn fill(&mut self, id: u64) {
        self.node(id).is_full = true;
    }

    pub(super) fn choke(&mut self, id: u64) {
        self.node(id).is_choked = true;
    }

    pub(super) fn make_patient(&mut self, id: u64) {
        self.node(id).is_patient = true;
    }

    pub(super) fn wipe(&mut self, id: u64) {
        self.node(id).disk = MemoryLog::new();
    }

    pub(super) fn tear(&mut self, id: u64) {
        self.node(id).tears = true;
    }

    /// Everything works from now on, and every node is up.
    pub(super) fn end_faults(&mut self) {
        self.heal();
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.node(id);
            (node.tears, node.is_full, node.is_choked) = (false, false, false);
            self.release(id);
            self.restart(id);
        }
    }

    /// Brings a node up, unless it is.
    pub(super) fn restart(&mut self, id: u64) {
        if self.node(id).process.is_some() {
            return;
        }
        let owner = LogOwner {
            group: "scripts".to_owned(),
            node: NodeId::from(id),
            cluster: 1,
            membership: self.membership.clone(),
        };
        let (seed, counts_unsynced) = (self.seed, self.counts_unsynced);
        let is_named = self.is_named;
        let (message_bytes, catch_up_bytes) =
            if self.is_paced { PACED } else { (1 << 20, u64::MAX) };
        let node = self.node(id);
        node.starts += 1;
        let starts = node.starts;
        let mut storage = node.disk.clone();
        let recovered = storage.open(&owner).unwrap();
        let reader = storage.reader();
        let committed = reader.point(recovered.hard_state.commit).unwrap().unwrap();
        let settings = Settings {
            group: owner.group,
            node: owner.node,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            message_bytes,
            counts_unsynced,
            catch_up_bytes,
            seed: splitmix64(splitmix64(seed ^ id) ^ node.starts),
            new_group_uid: if is_named { u128::from(100 * id + starts) } else { 0 },
        };
        let reads = Arc::new(FailingReader::new(reader.clone()));
        let replica = Replica::new(&settings, &recovered, committed, reads.clone())
            .expect("memory can be read");
        let next = (recovered.last.next_index, recovered.last.next_position);
        let commit = committed.raft_index;
        let (identity, syncs) = (recovered.identity, VecDeque::new());
        let process = Process {
            storage,
            reader,
            reads,
            settings,
            identity,
            replica,
            syncs,
            next,
            committed: commit,
            failed: false,
        };
        node.process = Some(process);
        let vote = vote(recovered.hard_state);
        let (last, term) = (recovered.last.raft_index, recovered.last.term);
        self.show(format!("  {id} is up: {vote}, log ends {last}/t{term}, committed {commit}"));
        self.carry_out(id);
    }

    pub(super) fn break_reads(&mut self, id: u64) {
        if let Some(process) = self.process(id) {
            process.reads.fail();
        }
    }

    pub(super) fn forge(&mut self, words: &[&str]) {
        self.arrive(Message::forge(words));
    }

    pub(super) fn status(&mut self) {
        let lines: Vec<String> = self.nodes.iter().map(|(id, node)| describe(*id, node)).collect();
        self.lines.extend(lines);
    }

    pub(super) fn log(&mut self, id: u64) {
        let Some(process) = self.process(id) else { return };
        let (from, to) = (
            process.reader.base().point.raft_index + 1,
            process.replica.last().unwrap().raft_index + 1,
        );
        let line = format!(
            "  {id} holds {}",
            batches_text(&process.reader.batches(from, to, u64::MAX).unwrap())
        );
        self.show(line);
    }

    /// Carries out effects until there are none, as an engine does; syncs succeed at once unless
    /// they are held.
    fn carry_out(&mut self, id: u64) {
        loop {
            while let Some(effect) = self
                .process(id)
                .filter(|process| !process.failed)
                .and_then(|process| process.replica.poll_effect())
            {
                self.effect(id, effect);
            }
            if self.send_commit(id) || self.read_for_followers(id) {
                continue;
            }
            if self.node(id).holds_syncs
                || self.node(id).process.is_none()
                || !self.finish_syncs(id)
            {
                return;
            }
        }
    }

    /// Whether there was something to read for followers.
    fn read_for_followers(&mut self, id: u64) -> bool {
        let Some(process) = self.process(id).filter(|process| process.replica.owes_reading())
        else {
            return false;
        };
        process.replica.read_for_followers();
        true
    }

    /// Tells others of a commit that no batch has shown of, unless that is to wait. Whether there
    /// was one.
    fn send_commit(&mut self, id: u64) -> bool {
        let is_alone = self.nodes.len() == 1;
        let is_patient = self.node(id).is_patient;
        let Some(process) =
            self.process(id).filter(|process| !is_patient && process.replica.has_unsent_commit())
        else {
            return false;
        };
        assert!(!is_alone, "there is no peer to send it to");
        process.replica.send_commit();
        assert!(!process.replica.has_unsent_commit(), "they have been shown");
        true
    }

    /// A group without faults for a while: no node failed, all agree on everything, and every new
    /// barrier held.
    pub(super) fn check_end(&self) {
        let ends: BTreeSet<u64> = self
            .nodes
            .values()
            .map(|node| node.process.as_ref().map_or(0, |process| process.committed))
            .collect();
        assert_eq!(ends.len(), 1, "the nodes end at different commits: {ends:?}");
        assert!(
            self.nodes
                .values()
                .all(|node| node.process.as_ref().is_some_and(|process| !process.failed)),
            "a node has failed"
        );
        self.invariants.check_end(self.batches, self.barriers - self.nodes.len() as u64);
    }
}

fn describe(id: u64, node: &Node) -> String {
    let Some(process) = &node.process else { return format!("  {id} is down") };
    let role_state = process.replica.role_state();
    let leader = role_state
        .leader
        .map_or_else(|| "no leader".to_owned(), |leader| format!("leader {leader}"));
    let Some(last) = process.replica.last() else {
        return format!("  {id} {} t{}, cannot read its log", role_state.role, role_state.term);
    };
    let failed = if process.failed { ", failed" } else { "" };
    format!(
        "  {id} {} t{}, {leader}, log ends {}/t{}, committed {}{failed}",
        role_state.role, role_state.term, last.raft_index, last.term, process.committed
    )
}
