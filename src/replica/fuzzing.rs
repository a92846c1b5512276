//! Whatever peers may say, said to a replica: lies about everything, in between true answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Effect, Replica, Settings, snapshot};
use crate::batch::{LogPoint, OpenBatch};
use crate::entry::NodeId;
use crate::fuzzing::FuzzInput;
use crate::message::Message;
use crate::message::fuzzing::{NodeState, near_valid, yes};
use crate::role::Membership;
use crate::storage::{DirectoryIdentity, LogOwner, LogReader, MemoryLog, Storage};

/// The most that is done with one input, so that no input takes long.
const STEPS_MAX: usize = 200;

/// A replica that peers lie to does not panic, takes back no commit, and changes nothing that is
/// committed. It may stop, and then it says why.
///
/// An input is steps: u8 what, then what that needs. See [`Node::step`].
pub fn replica(input: &[u8]) {
    let mut fuzz_input = FuzzInput(input);
    let mut node = Node::new(fuzz_input.byte() & 1 == 1);
    for _ in 0..STEPS_MAX {
        if fuzz_input.0.is_empty() || node.fault.is_some() {
            break;
        }
        node.step(&mut fuzz_input);
        node.judge();
    }
}

/// Node 1 of three, on a log in memory.
struct Node {
    storage: MemoryLog,
    reader: Arc<dyn LogReader>,
    settings: Settings,
    identity: DirectoryIdentity,
    replica: Replica,
    /// What it has sent and is not answered yet.
    sent: Vec<Message>,
    /// Everything that was committed here: marks by their raft index.
    committed: BTreeMap<u64, LogPoint>,
    batches: u64,
    fault: Option<String>,
}

impl Node {
    fn new(counts_unsynced: bool) -> Node {
        let membership = Membership::of_voters([1, 2, 3].map(NodeId::from));
        let settings = Settings {
            group: "fuzzed".into(),
            node: NodeId::from(1),
            election_ticks: 5,
            heartbeat_ticks: 1,
            message_bytes: 1 << 10,
            counts_unsynced,
            catch_up_bytes: 1 << 10,
            seed: 1,
            new_group_uid: 0,
        };
        let mut storage = MemoryLog::new();
        let owner =
            LogOwner { group: "fuzzed".into(), node: settings.node, cluster: 1, membership };
        let recovered = storage.open(&owner).expect("a new log opens");
        let reader = storage.reader();
        let committed = reader
            .point(recovered.hard_state.commit)
            .expect("memory can be read")
            .expect("a new log has its beginning");
        let replica = Replica::new(&settings, &recovered, committed, reader.clone())
            .expect("memory can be read");
        let (sent, committed) = (Vec::new(), BTreeMap::from([(committed.raft_index, committed)]));
        Node {
            storage,
            reader,
            settings,
            identity: recovered.identity,
            replica,
            sent,
            committed,
            batches: 0,
            fault: None,
        }
    }

    fn step(&mut self, fuzz_input: &mut FuzzInput<'_>) {
        match fuzz_input.byte() % 16 {
            0 => (0..1 + fuzz_input.byte() % 16).for_each(|_| self.replica.tick()),
            1 => self.append(usize::from(fuzz_input.byte())),
            2 => self.replica.handle_barrier(self.batches),
            3 => self.replica.handle_unreachable(NodeId::from(2)),
            4 => drop(
                self.replica.handle_transfer(NodeId::from(2 + u64::from(fuzz_input.byte() % 2))),
            ),
            5 => self.purge(),
            6 => self.step_back(),
            7..=9 => {
                let answers: Vec<Message> =
                    std::mem::take(&mut self.sent).iter().filter_map(yes).collect();
                answers.into_iter().for_each(|answer| drop(self.replica.handle_message(answer)));
            }
            _ => {
                let message = near_valid(fuzz_input, &self.stance());
                // Where it could have travelled, it is the same when it arrives.
                let arrived = Message::decode(message.encode().concat().into());
                let _ = arrived.map(|message| self.replica.handle_message(message));
            }
        }
        self.carry_out();
    }

    fn stance(&self) -> NodeState {
        let last = self.replica.last().expect("memory can be read");
        let base = LogPoint { raft_index: last.raft_index + 3, term: last.term, ..last };
        NodeState {
            term: self.replica.role_state().term,
            commit: self.newest_commit(),
            last,
            rebase: snapshot::encode(&base, 0).into(),
        }
    }

    fn newest_commit(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(raft_index, _)| *raft_index)
    }

    fn append(&mut self, len: usize) {
        let last = self.replica.last().expect("memory can be read");
        let mut open = OpenBatch::with_capacity(len);
        let payload = vec![self.batches as u8; len];
        open.push(&payload, crc32fast::hash(&payload));
        self.batches += 1;
        self.replica.handle_append(
            self.batches,
            open.close(last.next_index, last.next_position, last.timestamp + 1),
        );
    }

    fn purge(&mut self) {
        let commit = self.replica.hard_state().commit;
        self.storage.purge(u64::MAX, commit).expect("memory can be purged");
        self.replica.handle_purged(self.reader.base());
    }

    /// As after a write that found no room.
    fn step_back(&mut self) {
        self.storage.begin_sync().wait().expect("memory can be synced");
        self.replica
            .restart(&self.settings, self.identity, None, self.reader.clone())
            .expect("memory can be read");
    }

    fn carry_out(&mut self) {
        self.carry_out_effects();
        self.replica.send_commit();
        self.carry_out_effects();
        self.replica.read_for_followers();
        self.carry_out_effects();
    }

    fn carry_out_effects(&mut self) {
        while let Some(effect) = self.replica.poll_effect() {
            match effect {
                Effect::Send(messages) => {
                    self.sent.extend(messages);
                    let old = self.sent.len().saturating_sub(64);
                    self.sent.drain(..old);
                }
                Effect::Write { batches, hard_state, commit } => {
                    hard_state
                        .map_or(Ok(()), |state| self.storage.save_hard_state(state))
                        .expect("memory takes a hard state");
                    self.storage
                        .append(&batches, commit)
                        .expect("what a replica writes continues its log");
                }
                Effect::GroupUid(_) => unreachable!("this group has none"),
                Effect::InstallSnapshot(base) => {
                    self.storage.reset(&base).expect("memory can be reset");
                }
                Effect::Sync(number) => {
                    self.storage.begin_sync().wait().expect("memory can be synced");
                    self.replica.handle_synced(number);
                }
                Effect::Commit(point) => {
                    assert!(point.raft_index > self.newest_commit(), "a commit goes back");
                    self.committed.insert(point.raft_index, point);
                }
                Effect::ReadFailed(error) => unreachable!("memory lacks nothing: {error}"),
                Effect::Fail(reason) => self.fault = Some(reason),
                Effect::Resolve(..) | Effect::RoleChanged(_) | Effect::Barrier(_) => {}
            }
        }
    }

    /// What was committed stands where it stood, as far as the log reaches back.
    fn judge(&self) {
        let base = self.reader.base().point;
        for (raft_index, point) in self.committed.range(base.raft_index..) {
            assert_eq!(
                self.reader.point(*raft_index).expect("memory can be read"),
                Some(*point),
                "what is committed has changed"
            );
        }
    }
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Elected: until it asks for votes, twice yes, and yes to its first batch.
    let leads = [&[0, 0, 15][..], &[7, 7, 7, 7]].concat();
    let appends = [&leads[..], &[1, 10, 7, 7, 1, 200, 2, 7, 7]].concat();
    let kinds = (0..12).flat_map(|kind| {
        [8, 9, 24, 0xF3]
            .map(|near| [10, kind, 0, near, 8, 8, 8, 8, 8, 8, 8, 1, 3, 8, 8, 8].to_vec())
    });
    let said =
        |before: &[u8], lie: &[u8]| [before, lie, &[7, 0, 3], lie, &[6, 5, 0, 15, 7, 7]].concat();
    let lies: Vec<Vec<u8>> = kinds.collect();
    let to_a_leader = lies.iter().map(|lie| said(&appends, lie));
    let to_a_follower = lies.iter().map(|lie| said(&[0], lie));
    to_a_leader.chain(to_a_follower).collect()
}
