//! A message: of Raft, of repair or of sleep, and the facts that senders and receivers need to know
//! about it.

use raft::eraftpb;

use super::repair::{RepairBody, RepairMessage};
use super::sleep::SleepMessage;
use crate::batch::{BODY_BYTES_MAX, Batch};
use crate::entry::NodeId;

/// Room in a message beside the body of one large batch: the fields of Raft and of a snapshot.
const MESSAGE_OVERHEAD: usize = 256 << 10;

/// A message between two nodes of a group. Opaque to a transport, but for its sender, its receiver
/// and its bytes.
#[derive(Clone, PartialEq)]
pub struct Message(pub(super) Body);

#[derive(Clone, PartialEq)]
pub(super) enum Body {
    /// A message of Raft.
    Raft(eraftpb::Message),
    /// A message of repair: of a log that is corrupt or incomplete.
    Repair(RepairMessage),
    /// A message that puts an idle group to sleep.
    Sleep(SleepMessage),
}

impl Message {
    /// The largest message that a node sends, in bytes: one batch of the largest size, or many
    /// small ones, and their metadata. A limit of the format, not a setting.
    pub const BYTES_MAX: usize = BODY_BYTES_MAX + MESSAGE_OVERHEAD;

    pub(crate) fn new(inner: eraftpb::Message) -> Message {
        Message(Body::Raft(inner))
    }

    /// The message of Raft, if it is one.
    pub(crate) fn raft(&self) -> Option<&eraftpb::Message> {
        if let Body::Raft(inner) = &self.0 { Some(inner) } else { None }
    }

    pub(crate) fn into_raft(self) -> Option<eraftpb::Message> {
        if let Body::Raft(inner) = self.0 { Some(inner) } else { None }
    }

    /// The message of repair, if it is one.
    pub(crate) fn repair_message(&self) -> Option<&RepairMessage> {
        if let Body::Repair(repair_message) = &self.0 { Some(repair_message) } else { None }
    }

    /// The message of sleep, if it is one.
    pub(crate) fn sleep_message(&self) -> Option<&SleepMessage> {
        if let Body::Sleep(sleep_message) = &self.0 { Some(sleep_message) } else { None }
    }

    /// Whether it is a plain response to a leader of `term`: to a heartbeat, or an acknowledgement.
    /// It answers what was sent before, and asks for nothing.
    pub(crate) fn is_plain_response(&self, term: u64) -> bool {
        self.raft().is_some_and(|inner| {
            let is_plain = match inner.get_msg_type() {
                eraftpb::MessageType::MsgHeartbeatResponse => inner.context.is_empty(),
                eraftpb::MessageType::MsgAppendResponse => !inner.reject,
                _ => false,
            };
            is_plain && inner.term == term && inner.request_snapshot == 0
        })
    }

    /// The message of Raft, for tests.
    #[cfg(test)]
    pub(crate) fn inner(&self) -> &eraftpb::Message {
        self.raft().expect("a message for Raft")
    }

    /// Whether the receiver has to write more than a vote: it would append, install a snapshot, or
    /// campaign and lead.
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

    /// Of an append: the raft index of its last batch, or of the batch that it follows, and the
    /// bytes of its batches.
    pub(crate) fn append(&self) -> Option<(u64, u64)> {
        let inner =
            self.raft().filter(|inner| inner.get_msg_type() == eraftpb::MessageType::MsgAppend)?;
        Some((
            inner.index + inner.entries.len() as u64,
            inner.entries.iter().map(|entry| entry.data.len() as u64).sum(),
        ))
    }

    /// Whether `later`, sent after this one, makes it redundant: an acknowledgement of a batch
    /// covers all batches before it.
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

    /// Whether it may overtake earlier messages, and must not wait behind bulk: heartbeats, votes,
    /// acknowledgements. Batches, and the commits sent with them, keep their order.
    pub(crate) fn is_urgent(&self) -> bool {
        match &self.0 {
            Body::Raft(inner) => !matches!(
                inner.get_msg_type(),
                eraftpb::MessageType::MsgAppend | eraftpb::MessageType::MsgSnapshot
            ),
            Body::Repair(repair_message) => {
                !matches!(repair_message.repair_body, RepairBody::FetchResponse(_))
            }
            Body::Sleep(_) => true,
        }
    }

    /// Whether this append carries all batches of `later`. Raft repeats an append until it is
    /// acknowledged or rejected; a leader has one batch at each index of its term.
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

    /// Of a message that may help a node to become leader: (term, raft index) of the last batch of
    /// that node. (0, 0) if the receiver is asked to campaign.
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

    /// Of a heartbeat: the raft index up to which its leader knows the receiver to have the log,
    /// and the term of that batch, 0 if the leader does not know it any more.
    pub(crate) fn heartbeat(&self) -> Option<(u64, u64)> {
        let inner = self.raft()?;
        (inner.get_msg_type() == eraftpb::MessageType::MsgHeartbeat)
            .then_some((inner.commit, inner.commit_term))
    }

    /// Lowers the commit of a heartbeat: for a node that may have lost acknowledged batches in a
    /// power failure.
    pub(crate) fn lower_heartbeat(&mut self, commit: u64) {
        if let Body::Raft(inner) = &mut self.0 {
            (inner.commit, inner.commit_term) = (commit, 0);
        }
    }

    /// Its size in memory, in bytes: the encoded bytes, and the record kept for each batch.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let batches = match &self.0 {
            Body::Raft(inner) => inner.entries.len() * size_of::<eraftpb::Entry>(),
            Body::Repair(repair_message) => repair_message.batches() * size_of::<Batch>(),
            Body::Sleep(_) => 0,
        };
        (self.encoded_len() + batches) as u64
    }

    /// The node that sent it.
    pub fn from(&self) -> NodeId {
        match &self.0 {
            Body::Raft(inner) => NodeId::from(inner.from),
            Body::Repair(repair_message) => repair_message.from,
            Body::Sleep(sleep_message) => sleep_message.from,
        }
    }

    /// The node that it is for.
    pub fn to(&self) -> NodeId {
        match &self.0 {
            Body::Raft(inner) => NodeId::from(inner.to),
            Body::Repair(repair_message) => repair_message.to,
            Body::Sleep(sleep_message) => sleep_message.to,
        }
    }
}

impl From<SleepMessage> for Message {
    fn from(message: SleepMessage) -> Message {
        Message(Body::Sleep(message))
    }
}

impl From<RepairMessage> for Message {
    fn from(message: RepairMessage) -> Message {
        Message(Body::Repair(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_supersedes_an_earlier_one_to_the_same_leader() {
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
