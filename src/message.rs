//! One opaque message of the group on its way: what a transport sees of it, its bytes, and whether it makes sense.
//!
//! A message that arrives passes two gates before Raft sees it. [`Message::decode`] looks at the bytes alone: are they a message at
//! all, and do they ask for no more memory than they are worth? `Message::check` looks at the meaning: could a correct peer have sent
//! this to a replica that stands where this one does? Raft trusts its input; the second gate is why it may.

mod check;
mod codec;
mod describe;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(feature = "sim")]
mod promise;
mod specimen;

use raft::eraftpb;

pub(crate) use self::check::Refusal;
#[cfg(feature = "sim")]
pub(crate) use self::promise::Promise;
use crate::entry::NodeId;
use crate::role::Membership;

/// A message between two nodes of a group. Only the nodes look inside; a transport sees from whom, to whom, and bytes.
#[derive(Clone, PartialEq)]
pub struct Message(eraftpb::Message);

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message: {0}")]
pub struct MessageError(pub(crate) &'static str);

/// What the receiving replica knows, to judge a message by. All of it as Raft itself sees it at this moment, what is not yet on disk
/// included.
pub(crate) struct View<'a> {
    pub(crate) me: NodeId,
    pub(crate) membership: &'a Membership,
    /// Whether this node is the leader of `term`, announced or not.
    pub(crate) leads: bool,
    /// The leader of `term`, if Raft knows one; this node itself if it leads.
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: u64,
    pub(crate) commit: u64,
    /// The raft index of the last batch of the log.
    pub(crate) last: u64,
    /// The term of the local batch at a raft index, if it is there.
    pub(crate) term_at: &'a dyn Fn(u64) -> Option<u64>,
}

impl Message {
    pub(crate) fn new(inner: eraftpb::Message) -> Message {
        Message(inner)
    }

    pub(crate) fn inner(&self) -> &eraftpb::Message {
        &self.0
    }

    pub(crate) fn into_inner(self) -> eraftpb::Message {
        self.0
    }

    /// Whether a node that takes the message has to write more than its vote: it would append, begin its log anew, or campaign and lead.
    pub(crate) fn needs_room(&self) -> bool {
        match self.0.get_msg_type() {
            eraftpb::MessageType::MsgAppend => !self.0.entries.is_empty(),
            kind => matches!(kind, eraftpb::MessageType::MsgSnapshot | eraftpb::MessageType::MsgTimeoutNow),
        }
    }

    /// Takes a heartbeat for one that tells of no commit behind `last`: for a node that may have lost, with its power, what it had acknowledged.
    pub(crate) fn limit_heartbeat(&mut self, last: u64) {
        if self.0.get_msg_type() == eraftpb::MessageType::MsgHeartbeat {
            self.0.commit = self.0.commit.min(last);
        }
    }

    /// The node that sent it.
    pub fn from(&self) -> NodeId {
        NodeId::from(self.0.from)
    }

    /// The node that it is for.
    pub fn to(&self) -> NodeId {
        NodeId::from(self.0.to)
    }
}

#[cfg(test)]
mod forge;
#[cfg(test)]
mod poison;
#[cfg(test)]
mod traffic;
