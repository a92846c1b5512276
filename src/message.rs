//! One opaque message of the group on its way: what a transport sees of it, its bytes, and whether
//! it makes sense.
//!
//! A message that arrives passes two gates before Raft sees it. [`Message::decode`] looks at the
//! bytes alone: are they a message at all, and do they ask for no more memory than they are worth?
//! `Message::check` looks at the meaning: could a correct peer have sent this to a replica that
//! stands where this one does? Raft trusts its input; the second gate is why it may.

mod check;
mod codec;
mod describe;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod repair;
mod sample;
#[cfg(feature = "sim")]
mod sender_claim;

use raft::eraftpb;

pub(crate) use self::check::MessageRejection;
pub(crate) use self::describe::Kind;
pub(crate) use self::repair::{
    BATCHES_MAX, FetchError, FetchRequest, FetchResponse, NoState, PeerState, RepairBody,
    RepairMessage,
};
#[cfg(feature = "sim")]
pub(crate) use self::sender_claim::SenderClaim;
use crate::batch::{BODY_BYTES_MAX, Batch};
use crate::entry::NodeId;
use crate::role::Membership;

/// What a message may hold beside the body of its one large batch: raft's fields and a snapshot's.
const MESSAGE_OVERHEAD: usize = 256 << 10;

/// A message between two nodes of a group. Only the nodes look inside; a transport sees from whom,
/// to whom, and bytes.
#[derive(Clone, PartialEq)]
pub struct Message(Body);

#[derive(Clone, PartialEq)]
enum Body {
    /// What Raft says.
    Raft(eraftpb::Message),
    /// What nodes tell each other to mend a damaged log, or one that is not complete.
    Repair(RepairMessage),
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message: {0}")]
pub struct MessageError(pub(crate) &'static str);

/// What the receiving replica knows, to judge a message by. All of it as Raft itself sees it at
/// this moment, what is not yet on disk included.
pub(crate) struct ReplicaView<'a> {
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
    /// The largest message that a node sends, in bytes: one batch of the largest size, or many
    /// small ones, and what goes with them. A limit of the format, not of a setting.
    pub const BYTES_MAX: usize = BODY_BYTES_MAX + MESSAGE_OVERHEAD;

    pub(crate) fn new(inner: eraftpb::Message) -> Message {
        Message(Body::Raft(inner))
    }

    /// What it says to Raft, if it is for Raft.
    pub(crate) fn raft(&self) -> Option<&eraftpb::Message> {
        if let Body::Raft(inner) = &self.0 { Some(inner) } else { None }
    }

    pub(crate) fn into_raft(self) -> Option<eraftpb::Message> {
        if let Body::Raft(inner) = self.0 { Some(inner) } else { None }
    }

    /// What it says of repair, if it does.
    pub(crate) fn repair_message(&self) -> Option<&RepairMessage> {
        if let Body::Repair(repair_message) = &self.0 { Some(repair_message) } else { None }
    }

    /// For tests, which know what they have made.
    #[cfg(test)]
    pub(crate) fn inner(&self) -> &eraftpb::Message {
        self.raft().expect("a message for Raft")
    }

    /// Whether a node that takes the message has to write more than its vote: it would append,
    /// begin its log anew, or campaign and lead.
    pub(crate) fn needs_disk(&self) -> bool {
        let Body::Raft(inner) = &self.0 else { return false };
        match inner.get_msg_type() {
            eraftpb::MessageType::MsgAppend => !inner.entries.is_empty(),
            kind => matches!(
                kind,
                eraftpb::MessageType::MsgSnapshot | eraftpb::MessageType::MsgTimeoutNow
            ),
        }
    }

    /// If it is an append: the raft index of its last batch, or of the one that it follows, and the
    /// bytes of its batches.
    pub(crate) fn append(&self) -> Option<(u64, u64)> {
        let inner =
            self.raft().filter(|inner| inner.get_msg_type() == eraftpb::MessageType::MsgAppend)?;
        Some((
            inner.index + inner.entries.len() as u64,
            inner.entries.iter().map(|entry| entry.data.len() as u64).sum(),
        ))
    }

    /// Whether `later`, sent after this one, says all that this one does: who acknowledges a batch
    /// acknowledges those before it as well.
    pub(crate) fn is_superseded_by(&self, later: &Message) -> bool {
        let (Body::Raft(this), Body::Raft(later)) = (&self.0, &later.0) else { return false };
        let is_acknowledgement = |message: &eraftpb::Message| {
            message.get_msg_type() == eraftpb::MessageType::MsgAppendResponse
                && !message.reject
                && message.request_snapshot == 0
        };
        is_acknowledgement(this)
            && is_acknowledgement(later)
            && (this.to, this.term) == (later.to, later.term)
            && this.index <= later.index
            && this.commit <= later.commit
    }

    /// Whether it may go before what was sent earlier, and must not wait behind bulk: who leads,
    /// who votes for whom, and who has what. Batches keep their order, and so do the commits told
    /// with them.
    pub(crate) fn is_urgent(&self) -> bool {
        match &self.0 {
            Body::Raft(inner) => !matches!(
                inner.get_msg_type(),
                eraftpb::MessageType::MsgAppend | eraftpb::MessageType::MsgSnapshot
            ),
            Body::Repair(repair_message) => {
                !matches!(repair_message.repair_body, RepairBody::FetchResponse(_))
            }
        }
    }

    /// Whether `later` brings no batch that this one does not. Raft repeats an append while it does
    /// not know what became of it; a leader has one batch at each index of its term.
    pub(crate) fn is_repeated_by(&self, later: &Message) -> bool {
        let (Body::Raft(this), Body::Raft(later)) = (&self.0, &later.0) else { return false };
        let place = |message: &eraftpb::Message| {
            (
                message.msg_type,
                message.from,
                message.to,
                message.term,
                message.index,
                message.log_term,
            )
        };
        this.msg_type == eraftpb::MessageType::MsgAppend
            && place(this) == place(later)
            && (1..=this.entries.len()).contains(&later.entries.len())
    }

    /// If whoever takes it may help a node to lead by it: where the log of that node ends, (term,
    /// raft index) of its last batch. The smallest one if it is the receiver that is asked to lead.
    pub(crate) fn candidate(&self) -> Option<(u64, u64)> {
        let inner = self.raft()?;
        match inner.get_msg_type() {
            eraftpb::MessageType::MsgRequestVote | eraftpb::MessageType::MsgRequestPreVote => {
                Some((inner.log_term, inner.index))
            }
            eraftpb::MessageType::MsgTimeoutNow => Some((0, 0)),
            _ => None,
        }
    }

    /// Takes a heartbeat for one that tells of no commit behind `last`: for a node that may have
    /// lost, with its power, what it had acknowledged. Gives the commit that it told of, if that
    /// lies behind.
    pub(crate) fn clamp_heartbeat_commit(&mut self, last: u64) -> Option<u64> {
        if let Body::Raft(inner) = &mut self.0
            && inner.get_msg_type() == eraftpb::MessageType::MsgHeartbeat
            && inner.commit > last
        {
            return Some(std::mem::replace(&mut inner.commit, last));
        }
        None
    }

    /// What it takes of this node's memory, in bytes: what came, and what is kept for each batch.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let batches = match &self.0 {
            Body::Raft(inner) => inner.entries.len() * size_of::<eraftpb::Entry>(),
            Body::Repair(repair_message) => repair_message.batches() * size_of::<Batch>(),
        };
        (self.encoded_len() + batches) as u64
    }

    /// The node that sent it.
    pub fn from(&self) -> NodeId {
        match &self.0 {
            Body::Raft(inner) => NodeId::from(inner.from),
            Body::Repair(repair_message) => repair_message.from,
        }
    }

    /// The node that it is for.
    pub fn to(&self) -> NodeId {
        match &self.0 {
            Body::Raft(inner) => NodeId::from(inner.to),
            Body::Repair(repair_message) => repair_message.to,
        }
    }
}

#[cfg(test)]
mod forge;
#[cfg(test)]
mod known_panics;
#[cfg(test)]
mod legal_traffic;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_says_all_that_an_earlier_one_to_the_same_leader_did() {
        let forge = |words: &str| Message::forge(&words.split(' ').collect::<Vec<_>>());
        let earlier = forge("append-response from=2 to=1 term=3 index=5 commit=4");
        for later in ["index=5 commit=4", "index=6 commit=4", "index=9 commit=5"] {
            assert!(
                earlier.is_superseded_by(&forge(&format!(
                    "append-response from=2 to=1 term=3 {later}"
                ))),
                "{later}"
            );
        }
        for other in [
            "to=3 term=3 index=6 commit=4",
            "to=1 term=4 index=6 commit=4",
            "to=1 term=3 index=4 commit=4",
            "to=1 term=3 index=6 commit=3",
        ] {
            assert!(
                !earlier.is_superseded_by(&forge(&format!("append-response from=2 {other}"))),
                "{other}"
            );
        }
        let refusal =
            Message::new(eraftpb::Message { reject: true, index: 9, ..earlier.inner().clone() });
        assert!(
            !earlier.is_superseded_by(&refusal)
                && !refusal.is_superseded_by(&forge(
                    "append-response from=2 to=1 term=3 index=9 commit=4"
                ))
        );
    }
}
