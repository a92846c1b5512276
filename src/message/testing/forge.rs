//! Forged messages, for scripts that show how a node handles them.

use raft::eraftpb::{Entry, Message as Inner, MessageType};

use crate::batch::OpenBatch;
use crate::message::Message;

impl Message {
    /// A message from words: `append from=1 to=2 term=3 after=5/2 batch=6/3:0:hello commit=5`. A
    /// batch is its raft index, its term, the index of its entry, and the payload; without the last
    /// two it is a control record.
    pub(crate) fn forge(words: &[&str]) -> Message {
        let (kind, fields) = words.split_first().expect("a kind of message");
        let mut message = Inner { msg_type: kind_of(kind), ..Inner::default() };
        for field in fields {
            let (name, value) = field.split_once('=').expect("name=value");
            set(&mut message, name, value);
        }
        Message::new(message)
    }
}

fn kind_of(name: &str) -> MessageType {
    match name {
        "append" => MessageType::MsgAppend,
        "append-response" => MessageType::MsgAppendResponse,
        "heartbeat" => MessageType::MsgHeartbeat,
        "heartbeat-response" => MessageType::MsgHeartbeatResponse,
        "pre-vote-response" => MessageType::MsgRequestPreVoteResponse,
        "pre-vote-request" => MessageType::MsgRequestPreVote,
        "vote-request" => MessageType::MsgRequestVote,
        "vote-response" => MessageType::MsgRequestVoteResponse,
        "snapshot" => MessageType::MsgSnapshot,
        "timeout-now" => MessageType::MsgTimeoutNow,
        "propose" => MessageType::MsgPropose,
        _ => panic!("cannot forge a {name}"),
    }
}

fn set(message: &mut Inner, name: &str, value: &str) {
    match name {
        "from" => message.from = number(value),
        "to" => message.to = number(value),
        "term" => message.term = number(value),
        "index" => message.index = number(value),
        "commit" => message.commit = number(value),
        "commit-term" => message.commit_term = number(value),
        "after" => (message.index, message.log_term) = place(value),
        "batch" => message.entries.push(batch(value)),
        "base" => {
            let metadata = message.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = place(value);
        }
        "voters" => {
            message.mut_snapshot().mut_metadata().mut_conf_state().voters =
                value.split(',').map(number).collect()
        }
        "data" => message.mut_snapshot().data = bytes::Bytes::copy_from_slice(value.as_bytes()),
        _ => panic!("no such field: {name}"),
    }
}

fn number(value: &str) -> u64 {
    value.parse().expect("a number")
}

fn place(value: &str) -> (u64, u64) {
    let (index, term) = value.split_once('/').expect("index/term");
    (number(index), number(term))
}

fn batch(value: &str) -> Entry {
    let mut parts = value.splitn(3, ':');
    let (index, term) = place(parts.next().expect("a place"));
    let mut entry = Entry { index, term, ..Entry::default() };
    if let (Some(first), Some(payload)) = (parts.next(), parts.next()) {
        let mut open = OpenBatch::with_capacity(payload.len());
        open.push(payload.as_bytes(), crc32fast::hash(payload.as_bytes()));
        entry.data = open.close(number(first), 0, 0);
    }
    entry
}
