//! What the sender of a message stands up for by sending it: for a simulation, which checks that
//! every promise is kept when it is given.

use raft::eraftpb::MessageType;

use super::content::Message;
use super::sleep::SleepKind;

/// What a message says of its sender that must be true, and durable, at the moment when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SenderClaim {
    /// The sender leads the term of the message.
    Leads,
    /// The sender stands for election in the term of the message, and has voted for itself.
    Stands,
    /// The sender has voted for whom this goes to, in the term of the message.
    Votes,
    /// The sender's log holds this batch and all before it, as the leader of the term has them.
    Holds(u64),
    /// The sender has seen the term of the message, and nothing else.
    Term,
    /// None: it asks what would be, passes a read on, or is about repair, which speaks of what is,
    /// not of what will stay.
    Nothing,
}

impl Message {
    /// The name of the question that this asks of a leader, and whether this is the answer to it.
    pub(crate) fn question(&self) -> Option<(&[u8], bool)> {
        let inner = self.raft()?;
        let is_answer = inner.msg_type == MessageType::MsgReadIndexResp;
        let entry = inner
            .entries
            .first()
            .filter(|_| is_answer || inner.msg_type == MessageType::MsgReadIndex)?;
        Some((&entry.data, is_answer))
    }

    /// What its sender promises.
    pub(crate) fn promise(&self) -> SenderClaim {
        if let Some(sleep_message) = self.sleep_message() {
            return match sleep_message.sleep_kind {
                SleepKind::Sleep => SenderClaim::Leads,
                SleepKind::Asleep => SenderClaim::Holds(sleep_message.point.last),
            };
        }
        let Some(inner) = self.raft() else { return SenderClaim::Nothing };
        match inner.msg_type {
            MessageType::MsgAppend
            | MessageType::MsgHeartbeat
            | MessageType::MsgSnapshot
            | MessageType::MsgTimeoutNow => SenderClaim::Leads,
            MessageType::MsgReadIndexResp => SenderClaim::Leads,
            MessageType::MsgRequestVote => SenderClaim::Stands,
            MessageType::MsgRequestVoteResponse if !inner.reject => SenderClaim::Votes,
            MessageType::MsgAppendResponse if !inner.reject => SenderClaim::Holds(inner.index),
            MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgReadIndex => SenderClaim::Nothing,
            _ => SenderClaim::Term,
        }
    }

    /// The term that it speaks of.
    pub(crate) fn term(&self) -> u64 {
        let of_sleep = self.sleep_message().map_or(0, |sleep_message| sleep_message.point.term);
        self.raft().map_or(of_sleep, |inner| inner.term)
    }
}
