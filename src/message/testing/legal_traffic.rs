//! A thousand random runs of a real group: [`Message::check`] accepts every message of a correct
//! peer.

use std::collections::BTreeMap;

use raft::eraftpb::{Message as Inner, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole, Storage};

use crate::batch::{Batch, OpenBatch};
use crate::entry::NodeId;
use crate::message::{Message, MessageRejection, ReplicaView};
use crate::role::Membership;

/// A splitmix64 generator: the same seed gives the same run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Coverage counts of all runs together.
#[derive(Default, Debug)]
struct Seen {
    kinds: BTreeMap<i32, u64>,
    late: u64,
    from_the_future: u64,
    rejections: u64,
    conflicts: u64,
    reads_at_a_follower: u64,
    reads_served: u64,
    term: u64,
}

struct Node {
    raw: RawNode<MemStorage>,
    disk: MemStorage,
}

struct Group {
    nodes: Vec<Node>,
    membership: Membership,
    wire: Vec<Inner>,
    cut_off: Option<u64>,
    chance: Rng,
    tickets: u64,
}

fn boot(id: u64, disk: &MemStorage) -> RawNode<MemStorage> {
    let config = Config {
        id,
        election_tick: 10,
        heartbeat_tick: 2,
        max_size_per_msg: 600,
        max_inflight_msgs: 4,
        check_quorum: true,
        pre_vote: true,
        applied: disk.first_index().unwrap() - 1,
        ..Default::default()
    };
    RawNode::new(&config, disk.clone(), &slog::Logger::root(slog::Discard, slog::o!())).unwrap()
}

impl Group {
    fn new(seed: u64) -> Group {
        let voters: Vec<u64> = vec![1, 2, 3];
        let nodes = voters.iter().map(|&id| {
            let disk = MemStorage::new();
            let mut base = raft::eraftpb::Snapshot::default();
            let metadata = base.mut_metadata();
            (metadata.index, metadata.term) = (1, 1);
            metadata.mut_conf_state().voters = voters.clone();
            disk.wl().apply_snapshot(base).unwrap();
            Node { raw: boot(id, &disk), disk }
        });
        let membership = Membership::of_voters(voters.iter().map(|&id| NodeId::from(id)));
        Group {
            nodes: nodes.collect(),
            membership,
            wire: Vec::new(),
            cut_off: None,
            chance: Rng(seed),
            tickets: 0,
        }
    }

    fn run(&mut self, rounds: u32, seen: &mut Seen) {
        for _ in 0..rounds {
            for id in 1..=3 {
                self.disturb(id);
                if self.chance.percent(90) {
                    self.raw(id).tick();
                }
                self.settle(id, seen);
            }
            self.deliver(seen);
        }
    }

    fn raw(&mut self, id: u64) -> &mut RawNode<MemStorage> {
        &mut self.nodes[id as usize - 1].raw
    }

    fn disturb(&mut self, id: u64) {
        match self.chance.below(400) {
            0..60 => self.propose(id),
            60..80 => {
                self.tickets += 1;
                let ticket = self.tickets.to_le_bytes().to_vec();
                self.raw(id).read_index(ticket);
            }
            80..84 => {
                let to = 1 + self.chance.below(3);
                // A follower would pass the request on, in a message of a kind that must not
                // travel.
                if self.raw(id).raft.state == StateRole::Leader {
                    self.raw(id).transfer_leader(to);
                }
            }
            84..87 => self.cut_off = Some(id),
            87..92 => self.cut_off = None,
            92..94 => {
                let disk = self.nodes[id as usize - 1].disk.clone();
                *self.raw(id) = boot(id, &disk);
            }
            94..98 => self.compact(id),
            98..100 => {
                let priority = self.chance.below(3) as i64;
                self.raw(id).set_priority(priority);
            }
            100..104 => {
                let peer = 1 + self.chance.below(3);
                self.raw(id).report_unreachable(peer);
            }
            _ => {}
        }
    }

    /// Proposes a real batch, which continues the leader's log.
    fn propose(&mut self, id: u64) {
        let payload = vec![b'x'; self.chance.below(500) as usize];
        let raft = &mut self.raw(id).raft;
        if raft.state != StateRole::Leader {
            return;
        }
        let first = raft.raft_log.first_index();
        let known =
            raft.raft_log.entries(first, None, raft::GetEntriesContext::empty(false)).unwrap();
        let batches = known
            .iter()
            .rev()
            .map(|entry| Batch::new(entry.index, entry.term, entry.data.clone()).unwrap());
        // A log that was compacted down to control records begins anew at 0; nothing here looks
        // behind them.
        let next = batches.filter_map(|batch| batch.end_index()).next().unwrap_or(0);
        let mut open = OpenBatch::with_capacity(0);
        open.push(&payload, crc32fast::hash(&payload));
        let body = open.close(next, next * 1000, 1).to_vec();
        let _ = self.raw(id).propose(vec![], body);
    }

    fn compact(&mut self, id: u64) {
        let applied = self.raw(id).raft.raft_log.applied;
        let disk = &self.nodes[id as usize - 1].disk;
        if applied > disk.first_index().unwrap() {
            disk.wl().compact(applied).unwrap();
        }
    }

    /// Carries out what one node wants done: write, sync, send.
    fn settle(&mut self, id: u64, seen: &mut Seen) {
        let timeout = 10 + self.chance.below(10) as usize;
        let Node { raw, disk } = &mut self.nodes[id as usize - 1];
        raw.raft.set_randomized_election_timeout(timeout);
        seen.term = seen.term.max(raw.raft.term);
        while raw.has_ready() {
            let mut ready = raw.ready();
            self.wire.extend(ready.take_messages());
            if !ready.snapshot().is_empty() {
                disk.wl().apply_snapshot(ready.snapshot().clone()).unwrap();
            }
            if ready
                .entries()
                .first()
                .is_some_and(|first| first.index <= disk.last_index().unwrap())
            {
                seen.conflicts += 1;
            }
            disk.wl().append(ready.entries()).unwrap();
            if let Some(hard_state) = ready.hs() {
                disk.wl().set_hardstate(hard_state.clone());
            }
            seen.reads_served += ready.read_states().len() as u64;
            self.wire.extend(ready.take_persisted_messages());
            let mut light = raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                disk.wl().mut_hard_state().commit = commit;
            }
            self.wire.extend(light.take_messages());
            raw.advance_apply();
        }
    }

    /// Delivers what is on the wire in any order; some of it late, twice or never.
    fn deliver(&mut self, seen: &mut Seen) {
        let mut later = Vec::new();
        while !self.wire.is_empty() {
            let at = self.chance.below(self.wire.len() as u64) as usize;
            let message = self.wire.swap_remove(at);
            let lost = self.cut_off.is_some_and(|id| id == message.from || id == message.to)
                || self.chance.percent(4);
            if lost {
                continue;
            }
            if self.chance.percent(3) {
                later.push(message.clone());
            }
            if self.chance.percent(10) {
                later.push(message);
                continue;
            }
            self.step(message, seen);
        }
        self.wire = later;
    }

    fn step(&mut self, inner: Inner, seen: &mut Seen) {
        let to = inner.to;
        let message = Message::new(inner);
        let bytes = bytes::Bytes::from(message.encode().concat());
        assert_eq!(
            Message::decode(bytes).unwrap(),
            message,
            "the codec loses part of {:?}",
            message.inner()
        );
        let raft = &self.nodes[to as usize - 1].raw.raft;
        *seen.kinds.entry(message.inner().msg_type as i32).or_default() += 1;
        seen.late += u64::from(message.inner().term < raft.term);
        seen.from_the_future += u64::from(message.inner().term > raft.term);
        seen.rejections += u64::from(
            message.inner().reject && message.inner().msg_type == MessageType::MsgAppendResponse,
        );
        let first = raft.raft_log.first_index();
        let view = ReplicaView {
            me: NodeId::from(to),
            membership: &self.membership,
            leads: raft.state == StateRole::Leader,
            leader: Some(raft.leader_id).filter(|&id| id != 0).map(NodeId::from),
            term: raft.term,
            commit: raft.raft_log.committed,
            last: raft.raft_log.last_index(),
            term_at: &|index| {
                raft.raft_log
                    .term(index)
                    .ok()
                    .filter(|_| index + 1 >= first && index <= raft.raft_log.last_index())
            },
        };
        match message.check(&view) {
            Ok(()) => drop(self.raw(to).step(message.into_raft().expect("Raft alone speaks here"))),
            Err(_) if message.inner().msg_type == MessageType::MsgReadIndex && !view.leads => {
                seen.reads_at_a_follower += 1
            }
            Err(refusal) => {
                panic!("refused ({refusal}): {:?} at term {} of {to}", message.inner(), view.term)
            }
        }
        self.settle(to, seen);
    }
}

#[test]
fn no_message_of_a_correct_peer_is_refused() {
    let mut seen = Seen::default();
    for seed in 0..60 {
        Group::new(seed).run(400, &mut seen);
    }
    assert_eq!(seen.kinds.len(), 12, "a kind of message never travelled: {seen:?}");
    let all = [
        seen.late,
        seen.from_the_future,
        seen.rejections,
        seen.conflicts,
        seen.reads_at_a_follower,
        seen.reads_served,
    ];
    assert!(all.iter().all(|&count| count > 20) && seen.term > 5, "too tame: {seen:?}");
    assert!(!MessageRejection::Invalid("").is_fatal());
}
