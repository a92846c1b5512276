//! A group of replicas on memories that can lose power, driven as the engine drives one, with every step told in a line.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::batch::{Batch, OpenBatch};
use crate::entry::NodeId;
use crate::message::Message;
use crate::replica::{BatchId, Effect, Fate, Replica, Settings, mix};
use crate::role::{Membership, Role};
use crate::storage::reads::Reads;
use crate::storage::{Genesis, HardState, Identity, LogReader, MemoryLog, PendingSync, Storage};

use super::laws::Laws;

pub(super) const ELECTION_TICKS: usize = 10;
pub(super) const HEARTBEAT_TICKS: usize = 2;
/// What a message of a paced group carries, and what a follower that lags may have in a tick: one batch, and less than that.
const PACED: (u64, u64) = (1, 10);

/// One node, up or down.
struct Node {
    /// Never opened itself: the memory that outlives the node.
    disk: MemoryLog,
    life: Option<Life>,
    lives: u64,
    holds_syncs: bool,
    tears: bool,
    is_full: bool,
    /// Not even term and vote find room.
    is_choked: bool,
    is_patient: bool,
}

/// What a node loses when it goes down.
struct Life {
    storage: MemoryLog,
    reader: Arc<dyn LogReader>,
    /// What the replica reads by.
    reads: Arc<Reads>,
    settings: Settings,
    identity: Identity,
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
    wire: VecDeque<Message>,
    cuts: BTreeSet<(u64, u64)>,
    lines: Vec<String>,
    laws: Laws,
    batches: BatchId,
    barriers: u64,
    seed: u64,
}

impl Group {
    pub(super) fn with_seed(seed: u64) -> Group {
        Group { seed, ..Group::default() }
    }

    /// `1 2 3`, then perhaps `learners 4`, then perhaps `unsynced` and `paced`.
    pub(super) fn begin(&mut self, words: &[&str]) {
        let has = |word| words.contains(&word);
        *self = Group { seed: self.seed, counts_unsynced: has("unsynced"), is_paced: has("paced"), ..Group::default() };
        let mut parts = words.split(|word| ["learners", "unsynced", "paced"].contains(word));
        let mut ids = || -> Vec<u64> { parts.next().unwrap_or_default().iter().map(|word| word.parse().unwrap()).collect() };
        let (voters, learners) = (ids(), ids());
        self.membership = Membership::of_voters(voters.iter().copied().map(NodeId::from));
        self.membership.learners = learners.iter().copied().map(NodeId::from).collect();
        for id in voters.into_iter().chain(learners) {
            let node = Node {
                disk: MemoryLog::new(),
                life: None,
                lives: 0,
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

    /// What was told since this was last asked.
    pub(super) fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    fn tell(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    fn life(&mut self, id: u64) -> Option<&mut Life> {
        self.node(id).life.as_mut()
    }

    pub(super) fn leads(&self, id: u64) -> bool {
        self.nodes[&id].life.as_ref().is_some_and(|life| !life.failed && life.replica.standing().role == Role::Leader)
    }

    pub(super) fn tick(&mut self, id: u64, times: u64) {
        for _ in 0..times {
            if let Some(life) = self.life(id) {
                life.replica.tick();
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
        self.tell(format!("  {id} does nothing"));
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

    /// What is on the way from one node to another now; copies of it, if the originals are to stay on the way.
    fn between(&mut self, from: u64, to: u64, copies: bool) -> Vec<Message> {
        let those = |message: &Message| message.from() == NodeId::from(from) && message.to() == NodeId::from(to);
        let (messages, rest): (Vec<Message>, Vec<Message>) = self.wire.drain(..).partition(those);
        self.wire = if copies { messages.iter().chain(&rest).cloned().collect() } else { rest.into() };
        messages
    }

    /// Takes one message out of those on the way.
    pub(super) fn pick(&mut self, at: usize) -> Option<Message> {
        self.wire.remove(at)
    }

    /// Takes all messages to one node out of those on the way.
    pub(super) fn pick_all_to(&mut self, id: u64) -> Vec<Message> {
        let (those, rest): (Vec<Message>, Vec<Message>) = self.wire.drain(..).partition(|message| message.to() == NodeId::from(id));
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
        self.wire.retain(|message| between.is_some_and(|(from, to)| (message.from().get(), message.to().get()) != (from, to)));
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
        let Some(life) = self.life(id).filter(|life| !life.failed) else { return };
        let outcome = life.replica.handle_message(message);
        self.tell(what);
        if let Err(refusal) = outcome {
            self.tell(format!("  {id} refuses: {refusal}"));
        }
    }

    pub(super) fn append(&mut self, id: u64, payloads: &[&str]) {
        let Some(life) = self.life(id) else { return };
        let mut open = OpenBatch::with_capacity(64);
        payloads.iter().for_each(|payload| open.push(payload.as_bytes(), crc32fast::hash(payload.as_bytes())));
        let (index, position) = life.next;
        // A sequencer pauses while the leadership is handed over: nothing that is refused takes an index.
        let is_taken = life.replica.standing().role == Role::Leader && !life.replica.is_transferring();
        if is_taken {
            life.next = (index + u64::from(open.count()), position + open.payload_bytes() as u64);
        }
        let body = open.close(index, position, 0);
        self.batches += 1;
        let batch = self.batches;
        self.laws.proposed(batch, payloads);
        self.life(id).expect("just seen").replica.handle_append(batch, body);
        self.carry_out(id);
    }

    pub(super) fn barrier(&mut self, id: u64) {
        self.barriers += 1;
        let barrier = self.barriers;
        let Some(life) = self.life(id) else { return };
        life.replica.handle_barrier(barrier);
        self.laws.asked(barrier, id);
        self.carry_out(id);
    }

    pub(super) fn forget(&mut self, id: u64, barrier: u64) {
        if let Some(life) = self.life(id) {
            life.replica.forget_barrier(barrier);
        }
    }

    pub(super) fn transfer(&mut self, id: u64, to: u64) {
        let Some(life) = self.life(id) else { return };
        if let Err(refusal) = life.replica.handle_transfer(NodeId::from(to)) {
            self.tell(format!("  {id} refuses: {refusal:?}"));
        }
        self.carry_out(id);
    }

    pub(super) fn purge(&mut self, id: u64, index: u64) {
        let Some(life) = self.life(id).filter(|life| !life.failed) else { return };
        life.storage.purge(index, life.replica.hard_state().commit).unwrap();
        let base = life.reader.base();
        let line = format!("  {id} log begins after {}/t{}, entry {}", base.mark.raft_index, base.mark.term, base.mark.next_index);
        life.replica.handle_purged(base);
        self.tell(line);
        self.carry_out(id);
    }

    pub(super) fn unreachable(&mut self, id: u64, peer: u64) {
        let Some(life) = self.life(id) else { return };
        life.replica.handle_unreachable(NodeId::from(peer));
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
        let Some(life) = self.life(id).filter(|life| !life.failed) else { return false };
        let Some((number, newest)) = life.syncs.drain(..).next_back() else { return false };
        newest.wait().unwrap();
        life.replica.handle_synced(number);
        self.tell(format!("  {id} synced {number}"));
        true
    }

    pub(super) fn crash(&mut self, id: u64) {
        let node = self.node(id);
        node.disk.crash();
        node.life = None;
    }

    pub(super) fn kill(&mut self, id: u64) {
        self.node(id).life = None;
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
    pub(super) fn end_troubles(&mut self) {
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
        if self.node(id).life.is_some() {
            return;
        }
        let genesis = Genesis { group: "scripts".to_owned(), node: NodeId::from(id), cluster: 1, membership: self.membership.clone() };
        let (seed, counts_unsynced) = (self.seed, self.counts_unsynced);
        let (message_bytes, catch_up_bytes) = if self.is_paced { PACED } else { (1 << 20, u64::MAX) };
        let node = self.node(id);
        node.lives += 1;
        let mut storage = node.disk.clone();
        let recovered = storage.open(&genesis).unwrap();
        let reader = storage.reader();
        let committed = reader.mark(recovered.hard_state.commit).unwrap().unwrap();
        let settings = Settings {
            group: genesis.group,
            node: genesis.node,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            message_bytes,
            counts_unsynced,
            catch_up_bytes,
            seed: mix(mix(seed ^ id) ^ node.lives),
        };
        let reads = Arc::new(Reads::new(reader.clone()));
        let replica = Replica::new(&settings, &recovered, committed, reads.clone()).expect("memory can be read");
        let next = (recovered.last.next_index, recovered.last.next_position);
        let commit = committed.raft_index;
        let (identity, syncs) = (recovered.identity, VecDeque::new());
        let life = Life { storage, reader, reads, settings, identity, replica, syncs, next, committed: commit, failed: false };
        node.life = Some(life);
        let vote = vote(recovered.hard_state);
        let (last, term) = (recovered.last.raft_index, recovered.last.term);
        self.tell(format!("  {id} is up: {vote}, log ends {last}/t{term}, committed {commit}"));
        self.carry_out(id);
    }

    pub(super) fn break_reads(&mut self, id: u64) {
        if let Some(life) = self.life(id) {
            life.reads.fail();
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
        let Some(life) = self.life(id) else { return };
        let (from, to) = (life.reader.base().mark.raft_index + 1, life.replica.last().unwrap().raft_index + 1);
        let line = format!("  {id} holds {}", tell_batches(&life.reader.batches(from, to, u64::MAX).unwrap()));
        self.tell(line);
    }

    /// Carries out effects until there are none, as an engine does; syncs succeed at once unless they are held.
    fn carry_out(&mut self, id: u64) {
        loop {
            while let Some(effect) = self.life(id).filter(|life| !life.failed).and_then(|life| life.replica.poll_effect()) {
                self.effect(id, effect);
            }
            if self.tell_commit(id) || self.read_for_followers(id) {
                continue;
            }
            if self.node(id).holds_syncs || self.node(id).life.is_none() || !self.finish_syncs(id) {
                return;
            }
        }
    }

    /// Whether there was something to read for followers.
    fn read_for_followers(&mut self, id: u64) -> bool {
        let Some(life) = self.life(id).filter(|life| life.replica.owes_reading()) else { return false };
        life.replica.read_for_followers();
        true
    }

    /// Tells others of a commit that no batch has told of, unless that is to wait. Whether there was one.
    fn tell_commit(&mut self, id: u64) -> bool {
        let is_alone = self.nodes.len() == 1;
        let is_patient = self.node(id).is_patient;
        let Some(life) = self.life(id).filter(|life| !is_patient && life.replica.owes_commit()) else { return false };
        assert!(!is_alone, "there is nobody to tell");
        life.replica.tell_commit();
        assert!(!life.replica.owes_commit(), "they have been told");
        true
    }

    fn effect(&mut self, id: u64, effect: Effect) {
        match effect {
            Effect::Send(messages) => {
                assert!(!messages.is_empty(), "a message is an effect");
                messages.into_iter().for_each(|message| self.send(id, message));
            }
            Effect::Write { batches, hard_state, .. } if self.node(id).tears && !batches.is_empty() => {
                self.node(id).tears = false;
                let life = self.life(id).expect("it has an effect");
                life.storage.append(&batches, 0).unwrap();
                life.storage.begin_sync().wait().unwrap();
                let kept = tell_batches(&batches);
                self.tell(format!("  {id} loses power: the disk has {kept}, but not {}", hard_state.map_or_else(String::new, vote)));
                self.crash(id);
            }
            Effect::Write { .. } if self.node(id).is_choked => self.step_back(id, None),
            Effect::Rebase(_) if self.node(id).is_full => self.step_back(id, None),
            Effect::Write { batches, hard_state, .. } if self.node(id).is_full && !batches.is_empty() => self.step_back(id, hard_state),
            Effect::Write { batches, hard_state, commit } => self.write(id, &batches, hard_state, commit),
            Effect::Rebase(base) => {
                let mark = base.mark;
                self.life(id).expect("it has an effect").storage.reset(&base).unwrap();
                self.tell(format!("  {id} begins anew after {}/t{}, entry {}", mark.raft_index, mark.term, mark.next_index));
            }
            Effect::Sync(number) => {
                let life = self.life(id).expect("it has an effect");
                life.syncs.push_back((number, life.storage.begin_sync()));
                self.tell(format!("  {id} sync {number}"));
            }
            Effect::Commit(mark) => {
                let life = self.life(id).expect("it has an effect");
                assert!(mark.raft_index > life.committed, "the commit mark of {id} goes back to {mark:?}");
                assert_eq!(life.reader.mark(mark.raft_index).unwrap(), Some(mark), "what is committed at {id} can be read");
                let from = life.committed.max(life.reader.base().mark.raft_index);
                life.committed = mark.raft_index;
                self.tell(format!("  {id} commit {}/t{}, {} entries", mark.raft_index, mark.term, mark.next_index));
                self.note_committed(id, from, mark.raft_index);
            }
            Effect::Settle(batch, fate) => self.settle(id, batch, fate),
            Effect::Role(standing) => {
                let leader = standing.leader.map_or_else(|| "no leader".to_owned(), |leader| format!("leader {leader}"));
                self.tell(format!("  {id} role {} t{}, {leader}", standing.role, standing.term));
                if standing.role == Role::Leader {
                    self.laws.led(standing.term, id);
                    let life = self.life(id).expect("it has an effect");
                    let last = life.replica.last().unwrap();
                    life.next = (last.next_index, last.next_position);
                }
            }
            Effect::Barrier(ids) => self.hold_barriers(id, &ids),
            Effect::Lack(_) => self.step_back(id, None),
            Effect::Fail(reason) => {
                self.life(id).expect("it has an effect").failed = true;
                self.tell(format!("  {id} fails: {reason}"));
            }
        }
    }

    fn send(&mut self, id: u64, message: Message) {
        let lost = self.cuts.contains(&(id, message.to().get()));
        self.tell(format!("  {id} send {message:?}{}", if lost { " (lost)" } else { "" }));
        if !lost {
            self.wire.push_back(message);
        }
    }

    fn write(&mut self, id: u64, batches: &[Batch], hard_state: Option<HardState>, commit: u64) {
        let life = self.life(id).expect("it has an effect");
        let mut what = Vec::new();
        if let Some(hard_state) = hard_state {
            let is_alone = batches.first().is_none_or(|first| hard_state.commit < first.raft_index());
            assert!(is_alone, "the hard state of {id} says that {} is committed, and is written in front of it", hard_state.commit);
            life.storage.save(hard_state).unwrap();
            what.push(vote(hard_state));
        }
        if !batches.is_empty() {
            life.storage.append(batches, commit).unwrap();
            what.push(tell_batches(batches));
        }
        self.tell(format!("  {id} write {}", what.join(", ")));
    }

    /// What an engine does when a write finds no room.
    fn step_back(&mut self, id: u64, hard_state: Option<HardState>) {
        (self.node(id).is_full, self.node(id).is_choked) = (false, false);
        let open = self.laws.open_at(id);
        let life = self.life(id).expect("it has an effect");
        if let Some(hard_state) = hard_state {
            life.storage.save(hard_state).unwrap();
        }
        life.storage.begin_sync().wait().unwrap();
        life.syncs.clear();
        life.replica.restart(&life.settings, life.identity, hard_state, life.reads.clone()).unwrap();
        open.into_iter().for_each(|barrier| life.replica.handle_barrier(barrier));
        let saved = hard_state.map_or_else(String::new, |hard_state| format!(" but for {}", vote(hard_state)));
        self.tell(format!("  {id} finds no room{saved}, and begins anew as a follower"));
    }

    fn settle(&mut self, id: u64, batch: BatchId, fate: Fate) {
        let end = self.end(id);
        self.laws.settled(batch, fate, end);
        let fate = match fate {
            Fate::Committed { term } => format!("committed in t{term}"),
            Fate::Lost => "lost".to_owned(),
            Fate::Unknown => "unknown".to_owned(),
        };
        self.tell(format!("  {id} batch {batch} {fate}"));
    }

    fn hold_barriers(&mut self, id: u64, barriers: &[u64]) {
        let end = self.end(id);
        barriers.iter().for_each(|barrier| self.laws.held(*barrier, end));
        self.tell(format!("  {id} barriers {barriers:?} hold at {end}"));
    }

    /// The index after the last entry that node `id` has published as committed.
    fn end(&mut self, id: u64) -> u64 {
        let life = self.life(id).expect("it has an effect");
        life.reader.mark(life.committed).unwrap().expect("committed").next_index
    }

    fn note_committed(&mut self, id: u64, from: u64, to: u64) {
        let life = self.nodes[&id].life.as_ref().expect("it has an effect");
        for raft_index in from..=to {
            self.laws.committed(&life.reader.mark(raft_index).unwrap().expect("committed"));
        }
        let batches = life.reader.batches(from + 1, to + 1, u64::MAX).unwrap();
        batches.iter().for_each(|batch| self.laws.kept(payloads(batch)));
    }

    /// A group that was left in peace: nobody failed, all agree on everything, and every new barrier held.
    pub(super) fn check_end(&self) {
        let ends: BTreeSet<u64> = self.nodes.values().map(|node| node.life.as_ref().map_or(0, |life| life.committed)).collect();
        assert_eq!(ends.len(), 1, "the nodes end at different commits: {ends:?}");
        assert!(self.nodes.values().all(|node| node.life.as_ref().is_some_and(|life| !life.failed)), "a node has failed");
        self.laws.check_end(self.batches, self.barriers - self.nodes.len() as u64);
    }
}

fn describe(id: u64, node: &Node) -> String {
    let Some(life) = &node.life else { return format!("  {id} is down") };
    let standing = life.replica.standing();
    let leader = standing.leader.map_or_else(|| "no leader".to_owned(), |leader| format!("leader {leader}"));
    let Some(last) = life.replica.last() else { return format!("  {id} {} t{}, cannot read its log", standing.role, standing.term) };
    let failed = if life.failed { ", failed" } else { "" };
    format!(
        "  {id} {} t{}, {leader}, log ends {}/t{}, committed {}{failed}",
        standing.role, standing.term, last.raft_index, last.term, life.committed
    )
}

fn vote(hard_state: HardState) -> String {
    format!("term {} vote {}", hard_state.term, hard_state.vote.map_or_else(|| "nobody".to_owned(), |node| node.to_string()))
}

fn tell_batches(batches: &[Batch]) -> String {
    if batches.is_empty() {
        return "nothing".to_owned();
    }
    let tell = |batch: &Batch| {
        let payloads = payloads(batch);
        let what = if payloads.is_empty() { "control".to_owned() } else { payloads.join("+") };
        format!("{}/t{} {what}", batch.raft_index(), batch.term())
    };
    batches.iter().map(tell).collect::<Vec<_>>().join(", ")
}

fn payloads(batch: &Batch) -> Vec<String> {
    let Some(first) = batch.first_index() else { return Vec::new() };
    let entry = |index| batch.entry(index).unwrap().unwrap();
    (first..first + u64::from(batch.count())).map(|index| String::from_utf8_lossy(&entry(index)).into_owned()).collect()
}
