//! Any bytes, taken for a message of a peer.

use bytes::Bytes;
use raft::eraftpb::{Entry, Message as Inner, MessageType, Snapshot};

use super::{Message, View, codec};
use crate::batch::fuzzing::with_sound_payloads;
use crate::batch::{LIMIT, Mark, OpenBatch};
use crate::entry::NodeId;
use crate::fuzzing::Dish;
use crate::role::Membership;

/// Any bytes either are refused, or are a message that would be written as it came; and whatever it says can be judged.
pub fn message(input: &[u8]) {
    let mut dish = Dish(input);
    let seat = Seat { how: dish.byte(), term: dish.u64(), commit: dish.u64(), last: dish.u64() };
    let bytes = Bytes::copy_from_slice(dish.0);
    let Ok(message) = Message::decode(bytes.clone()) else { return };
    assert_eq!(message.encoded_len(), bytes.len());
    assert_eq!(message.encode().concat(), bytes, "a message is written in one way");
    seat.judge(&message);
    let Some(mut inner) = message.into_raft() else { return };
    for entry in inner.mut_entries().iter_mut() {
        entry.data = Bytes::from(with_sound_payloads(entry.data.to_vec()));
    }
    seat.judge(&Message::new(inner));
}

/// Where the replica stands that receives it.
struct Seat {
    how: u8,
    term: u64,
    commit: u64,
    last: u64,
}

impl Seat {
    fn judge(&self, message: &Message) {
        let leads = self.how & 1 == 1;
        let leader = NodeId::from(u64::from(self.how >> 1 & 3));
        let view = View {
            me: NodeId::from(1),
            membership: &Membership::of_voters([1, 2, 3].map(NodeId::from)),
            leads,
            leader: if leads { Some(NodeId::from(1)) } else { Some(leader).filter(|leader| leader.get() > 1) },
            term: self.term,
            commit: self.commit.min(self.last),
            last: self.last,
            term_at: &|index| (index <= self.last).then(|| self.term.min(index)),
        };
        let _ = message.check(&view).map_err(|refusal| (refusal.is_fatal(), refusal.to_string()));
        let _ = (message.needs_room(), format!("{message:?}"));
    }
}

/// Where a replica stands, to lie about.
pub(crate) struct Stance {
    pub(crate) term: u64,
    pub(crate) commit: u64,
    pub(crate) last: Mark,
    /// A state that a snapshot may carry.
    pub(crate) rebase: Bytes,
}

/// A message to node 1 in which every field is near the truth, or at an end of what it can be.
pub(crate) fn lie(dish: &mut Dish<'_>, stance: &Stance) -> Message {
    let Stance { term, commit, last, rebase } = stance;
    let kind = codec::KINDS[usize::from(dish.byte()) % codec::KINDS.len()];
    let how = dish.byte();
    let mut message = Inner { msg_type: kind, from: 2 + u64::from(how & 1), to: 1, reject: how & 2 != 0, ..Inner::default() };
    message.term = near(dish, *term);
    message.log_term = near(dish, last.term);
    message.index = near(dish, if how & 4 == 0 { last.raft_index } else { *commit });
    message.commit = near(dish, *commit);
    message.commit_term = near(dish, last.term);
    message.reject_hint = near(dish, last.raft_index);
    message.request_snapshot = near(dish, 0).wrapping_sub(1);
    let entries = usize::from(dish.byte() % 4);
    match kind {
        MessageType::MsgAppend => message.entries = (0..entries).map(|_| entry(dish, stance)).collect(),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            message.entries = (0..entries).map(|_| Entry { data: ticket(dish), ..Entry::default() }).collect();
        }
        MessageType::MsgSnapshot => {
            let mut snapshot = Snapshot { data: if how & 8 == 0 { rebase.clone() } else { ticket(dish) }, ..Snapshot::default() };
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) = (near(dish, last.raft_index + 3), near(dish, last.term));
            metadata.mut_conf_state().voters = (1..=3 + u64::from(how >> 4 & 1)).collect();
            metadata.mut_conf_state().learners = (0..entries).map(|_| near(dish, 4)).collect();
            message.set_snapshot(snapshot);
        }
        _ => {}
    }
    if how & 32 != 0 {
        message.context = ticket(dish);
    }
    let mut index = message.index;
    for entry in message.mut_entries().iter_mut().filter(|_| kind == MessageType::MsgAppend) {
        index = index.wrapping_add(1);
        entry.index = index;
    }
    Message::new(message)
}

/// A number near `about`, or one at which sums and comparisons go wrong.
fn near(dish: &mut Dish<'_>, about: u64) -> u64 {
    const ENDS: [u64; 8] = [0, 1, u64::MAX, u64::MAX - 1, 1 << 62, (1 << 62) - 1, (1 << 48) - 1, 1 << 32];
    match dish.byte() {
        end @ 0xF0.. => ENDS[usize::from(end % 8)],
        byte => about.wrapping_add(u64::from(byte % 17)).wrapping_sub(8),
    }
}

fn ticket(dish: &mut Dish<'_>) -> Bytes {
    let len = usize::from(dish.byte() % 65);
    Bytes::copy_from_slice(dish.bytes(len))
}

/// A batch that continues the log, or nearly; a control record; or anything.
fn entry(dish: &mut Dish<'_>, Stance { last, .. }: &Stance) -> Entry {
    let (how, term) = (dish.byte(), near(dish, last.term));
    let data = match how % 4 {
        0 => Bytes::new(),
        1 => ticket(dish),
        _ => {
            let (mut open, payload) = (OpenBatch::with_capacity(0), ticket(dish));
            open.push(&payload, crc32fast::hash(&payload));
            let index = if how & 4 == 0 { last.next_index } else { near(dish, last.next_index) % LIMIT };
            open.close(index, last.next_position, last.timestamp)
        }
    };
    Entry { term, data, ..Entry::default() }
}

/// What a peer that agrees answers to a message of node 1.
pub(crate) fn yes(question: &Message) -> Option<Message> {
    let question = question.raft()?;
    let mut answer = Inner { from: question.to, to: question.from, term: question.term, ..Inner::default() };
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

    let mut messages = Message::specimens(NodeId::from(2), NodeId::from(1));
    messages.push(Message::forge(&["append", "from=2", "to=1", "term=3", "after=5/2", "batch=6/3", "batch=7/3:0:hello", "commit=5"]));
    messages.push(Message::forge(&["take-over", "from=2", "to=1", "term=3"]));
    messages.push(Message::forge(&["rebase", "from=2", "to=1", "term=3", "base=5/2", "voters=1,2", "data=xyz"]));
    let mut long = messages[7].inner().clone();
    long.mut_entries()[1].data = body_of(&[b"one", b"", b"three"]);
    messages.push(Message::new(long));
    messages.extend(super::repair::specimens(NodeId::from(2), NodeId::from(1)));
    for message in &mut messages {
        let super::Content::Raft(inner) = &mut message.0 else { continue };
        for entry in inner.mut_entries().iter_mut().filter(|entry| entry.data.len() > 1_000) {
            entry.data.truncate(1_000);
        }
    }
    let seat = |how: u8| [&[how][..], &[3_u64, 5, 10].map(u64::to_le_bytes).concat()].concat();
    let seats = [seat(4), seat(1)];
    seats.iter().flat_map(|seat| messages.iter().map(move |message| [&seat[..], &message.encode().concat()].concat())).collect()
}
