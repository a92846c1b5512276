//! Fuzzing: any bytes as a message of a peer.

use bytes::Bytes;
use raft::eraftpb::{Entry, Message as Inner, MessageType, Snapshot};

use crate::batch::fuzzing::with_sound_payloads;
use crate::batch::{FIELD_LIMIT, LogPoint, OpenBatch};
use crate::entry::NodeId;
use crate::fuzzing::FuzzInput;
use crate::message::content::Body;
use crate::message::raft_codec::KINDS;
use crate::message::{Message, ReplicaView};
use crate::role::Membership;

/// Bytes either are rejected, or decode to a message that encodes to the same bytes and can be
/// checked.
pub fn message(input: &[u8]) {
    let mut fuzz_input = FuzzInput(input);
    let receiver = Receiver {
        how: fuzz_input.byte(),
        term: fuzz_input.u64(),
        commit: fuzz_input.u64(),
        last: fuzz_input.u64(),
    };
    let bytes = Bytes::copy_from_slice(fuzz_input.0);
    let Ok(message) = Message::decode(bytes.clone()) else { return };
    assert_eq!(message.encoded_len(), bytes.len());
    assert_eq!(message.encode().concat(), bytes, "a message is written in one way");
    receiver.check(&message);
    let Some(mut inner) = message.into_raft() else { return };
    for entry in inner.mut_entries().iter_mut() {
        entry.data = Bytes::from(with_sound_payloads(entry.data.to_vec()));
    }
    receiver.check(&Message::new(inner));
}

/// The state of the receiving replica.
struct Receiver {
    how: u8,
    term: u64,
    commit: u64,
    last: u64,
}

impl Receiver {
    fn check(&self, message: &Message) {
        let leads = self.how & 1 == 1;
        let leader = NodeId::from(u64::from(self.how >> 1 & 3));
        let view = ReplicaView {
            me: NodeId::from(1),
            membership: &Membership::of_voters([1, 2, 3].map(NodeId::from)),
            leads,
            leader: if leads {
                Some(NodeId::from(1))
            } else {
                Some(leader).filter(|leader| leader.get() > 1)
            },
            term: self.term,
            commit: self.commit.min(self.last),
            last: self.last,
            term_at: &|index| (index <= self.last).then(|| self.term.min(index)),
        };
        let _ = message.check(&view).map_err(|refusal| (refusal.is_fatal(), refusal.to_string()));
        let _ = (message.needs_disk(), format!("{message:?}"));
    }
}

/// The state of a replica, for messages near the truth.
pub(crate) struct NodeState {
    pub(crate) term: u64,
    pub(crate) commit: u64,
    pub(crate) last: LogPoint,
    /// A state that a snapshot may carry.
    pub(crate) rebase: Bytes,
}

/// A message to node 1 in which every field is near its true value, or at an end of its range.
pub(crate) fn near_valid(fuzz_input: &mut FuzzInput<'_>, state: &NodeState) -> Message {
    let NodeState { term, commit, last, rebase } = state;
    let kind = KINDS[usize::from(fuzz_input.byte()) % KINDS.len()];
    let how = fuzz_input.byte();
    let mut message = Inner {
        msg_type: kind,
        from: 2 + u64::from(how & 1),
        to: 1,
        reject: how & 2 != 0,
        ..Inner::default()
    };
    message.term = near(fuzz_input, *term);
    message.log_term = near(fuzz_input, last.term);
    message.index = near(fuzz_input, if how & 4 == 0 { last.raft_index } else { *commit });
    message.commit = near(fuzz_input, *commit);
    message.commit_term = near(fuzz_input, last.term);
    message.reject_hint = near(fuzz_input, last.raft_index);
    message.request_snapshot = near(fuzz_input, 0).wrapping_sub(1);
    let entries = usize::from(fuzz_input.byte() % 4);
    match kind {
        MessageType::MsgAppend => {
            message.entries = (0..entries).map(|_| entry(fuzz_input, state)).collect()
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            message.entries = (0..entries)
                .map(|_| Entry { data: context(fuzz_input), ..Entry::default() })
                .collect();
        }
        MessageType::MsgSnapshot => {
            let mut snapshot = Snapshot {
                data: if how & 8 == 0 { rebase.clone() } else { context(fuzz_input) },
                ..Snapshot::default()
            };
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) =
                (near(fuzz_input, last.raft_index + 3), near(fuzz_input, last.term));
            metadata.mut_conf_state().voters = (1..=3 + u64::from(how >> 4 & 1)).collect();
            metadata.mut_conf_state().learners =
                (0..entries).map(|_| near(fuzz_input, 4)).collect();
            message.set_snapshot(snapshot);
        }
        _ => {}
    }
    if how & 32 != 0 {
        message.context = context(fuzz_input);
    }
    let mut index = message.index;
    for entry in message.mut_entries().iter_mut().filter(|_| kind == MessageType::MsgAppend) {
        index = index.wrapping_add(1);
        entry.index = index;
    }
    Message::new(message)
}

/// A number near `about`, or one at which sums and comparisons go wrong.
fn near(fuzz_input: &mut FuzzInput<'_>, about: u64) -> u64 {
    const ENDS: [u64; 8] =
        [0, 1, u64::MAX, u64::MAX - 1, 1 << 62, (1 << 62) - 1, (1 << 48) - 1, 1 << 32];
    match fuzz_input.byte() {
        end @ 0xF0.. => ENDS[usize::from(end % 8)],
        byte => about.wrapping_add(u64::from(byte % 17)).wrapping_sub(8),
    }
}

fn context(fuzz_input: &mut FuzzInput<'_>) -> Bytes {
    let len = usize::from(fuzz_input.byte() % 65);
    Bytes::copy_from_slice(fuzz_input.bytes(len))
}

/// A batch that continues the log, or nearly; a control record; or any bytes.
fn entry(fuzz_input: &mut FuzzInput<'_>, NodeState { last, .. }: &NodeState) -> Entry {
    let (how, term) = (fuzz_input.byte(), near(fuzz_input, last.term));
    let data = match how % 4 {
        0 => Bytes::new(),
        1 => context(fuzz_input),
        _ => {
            let (mut open, payload) = (OpenBatch::with_capacity(0), context(fuzz_input));
            open.push(&payload, crc32fast::hash(&payload));
            let index = if how & 4 == 0 {
                last.next_index
            } else {
                near(fuzz_input, last.next_index) % FIELD_LIMIT
            };
            open.close(index, last.next_position, last.timestamp)
        }
    };
    Entry { term, data, ..Entry::default() }
}

/// The positive response of a peer to a message of node 1.
pub(crate) fn yes(question: &Message) -> Option<Message> {
    let question = question.raft()?;
    let mut answer =
        Inner { from: question.to, to: question.from, term: question.term, ..Inner::default() };
    answer.msg_type = match question.msg_type {
        MessageType::MsgRequestPreVote => MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgRequestVote => MessageType::MsgRequestVoteResponse,
        MessageType::MsgHeartbeat => MessageType::MsgHeartbeatResponse,
        MessageType::MsgAppend => MessageType::MsgAppendResponse,
        _ => return None,
    };
    answer.index = question.index + question.entries.len() as u64;
    answer.context = question.context.clone();
    Some(Message::new(answer))
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use crate::batch::fuzzing::body_of;

    let mut messages = Message::samples(NodeId::from(2), NodeId::from(1));
    messages.push(Message::forge(&[
        "append",
        "from=2",
        "to=1",
        "term=3",
        "after=5/2",
        "batch=6/3",
        "batch=7/3:0:hello",
        "commit=5",
    ]));
    messages.push(Message::forge(&["timeout-now", "from=2", "to=1", "term=3"]));
    messages.push(Message::forge(&[
        "snapshot",
        "from=2",
        "to=1",
        "term=3",
        "base=5/2",
        "voters=1,2",
        "data=xyz",
    ]));
    let mut long = messages[9].inner().clone();
    long.mut_entries()[1].data = body_of(&[b"one", b"", b"three"]);
    messages.push(Message::new(long));
    messages.extend(Message::repair_samples(NodeId::from(2), NodeId::from(1)));
    messages.extend(Message::sleep_samples(NodeId::from(2), NodeId::from(1)));
    for message in &mut messages {
        let Body::Raft(inner) = &mut message.0 else { continue };
        for entry in inner.mut_entries().iter_mut().filter(|entry| entry.data.len() > 1_000) {
            entry.data.truncate(1_000);
        }
    }
    let receiver = |how: u8| [&[how][..], &[3_u64, 5, 10].map(u64::to_le_bytes).concat()].concat();
    let receivers = [receiver(4), receiver(1)];
    receivers
        .iter()
        .flat_map(|receiver| {
            messages.iter().map(move |message| [&receiver[..], &message.encode().concat()].concat())
        })
        .collect()
}
