//! A message in one line, for logs and transcripts.

use std::fmt;

use raft::eraftpb::{Message as Inner, MessageType};

use super::content::{Body, Message};

/// `1->2 append t3 after 5/t2 [6/t3 7/t3] commit 5`: sender, receiver, kind, term. A batch is
/// written as its raft index and its term. Payloads are not shown.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = match &self.0 {
            Body::Raft(message) => message,
            Body::Repair(repair_message) => return write!(f, "{repair_message:?}"),
            Body::Sleep(sleep_message) => return write!(f, "{sleep_message:?}"),
        };
        write!(f, "{}->{} {}", message.from, message.to, kind(message.msg_type))?;
        if message.term != 0 {
            write!(f, " t{}", message.term)?;
        }
        payload(message, f)
    }
}

/// The kind of a message, to group rejections by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Of batches: the raft index before the first. Otherwise 0.
    pub(crate) place: u64,
}

impl Kind {
    /// Whether a rejection is normal: the sender of a read request may not know yet that another
    /// node leads.
    pub(crate) fn may_go_astray(&self) -> bool {
        self.name == kind(MessageType::MsgReadIndex)
    }
}

impl Message {
    /// Its kind. An append without batches is another kind than batches.
    pub(crate) fn kind(&self) -> Kind {
        match self.raft() {
            None if self.sleep_message().is_some() => Kind { name: "sleep", place: 0 },
            None => Kind { name: "repair", place: 0 },
            Some(message)
                if message.entries.is_empty() || message.msg_type != MessageType::MsgAppend =>
            {
                Kind { name: kind(message.msg_type), place: 0 }
            }
            Some(message) => Kind { name: "batches", place: message.index },
        }
    }
}

fn kind(kind: MessageType) -> &'static str {
    match kind {
        MessageType::MsgAppend => "append",
        MessageType::MsgAppendResponse => "append-response",
        MessageType::MsgHeartbeat => "heartbeat",
        MessageType::MsgHeartbeatResponse => "heartbeat-response",
        MessageType::MsgRequestVote => "vote-request",
        MessageType::MsgRequestVoteResponse => "vote-response",
        MessageType::MsgRequestPreVote => "pre-vote-request",
        MessageType::MsgRequestPreVoteResponse => "pre-vote-response",
        MessageType::MsgSnapshot => "snapshot",
        MessageType::MsgTimeoutNow => "timeout-now",
        MessageType::MsgReadIndex => "read-request",
        MessageType::MsgReadIndexResp => "read-response",
        _ => "misplaced",
    }
}

fn payload(message: &Inner, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match message.msg_type {
        MessageType::MsgAppend => {
            let batches: Vec<_> = message
                .entries
                .iter()
                .map(|entry| format!("{}/t{}", entry.index, entry.term))
                .collect();
            write!(
                f,
                " after {}/t{} [{}] commit {}",
                message.index,
                message.log_term,
                batches.join(" "),
                message.commit
            )
        }
        MessageType::MsgAppendResponse if message.reject => {
            write!(f, " no {}, try {}/t{}", message.index, message.reject_hint, message.log_term)
        }
        MessageType::MsgAppendResponse => write!(f, " up to {}", message.index),
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse => {
            let read = if message.context.is_empty() {
                String::new()
            } else {
                format!(" read {}", name_of(&message.context))
            };
            write!(f, " commit {}{read}", message.commit)
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            let urgent = if message.context.is_empty() { "" } else { " at the leader's wish" };
            write!(f, " log ends {}/t{}{urgent}", message.index, message.log_term)
        }
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            f.write_str(if message.reject { " no" } else { " yes" })
        }
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            write!(f, " to {}/t{}", metadata.index, metadata.term)
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            message
                .entries
                .iter()
                .try_for_each(|entry| write!(f, " read {}", name_of(&entry.data)))?;
            if message.msg_type == MessageType::MsgReadIndexResp {
                write!(f, " at {}", message.index)
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

/// A short name of a context: enough to tell two of them apart.
fn name_of(context: &[u8]) -> String {
    format!("{:04x}", crc32fast::hash(context) & 0xffff)
}
