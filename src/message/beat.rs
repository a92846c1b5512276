//! A heartbeat, or the answer to one, without a context: most of the messages of an idle group, and
//! little more than two numbers.

use raft::eraftpb::{self, MessageType};

use super::content::Message;
use crate::entry::NodeId;

/// The content of such a message, without its sender and its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) kind: BeatKind,
    pub(crate) term: u64,
    pub(crate) commit: u64,
    /// Of a heartbeat: the term of batch `commit`, 0 if the leader does not know it any more.
    pub(crate) commit_term: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BeatKind {
    Heartbeat = 1,
    Response = 2,
}

impl BeatKind {
    pub(crate) fn from_code(code: u8) -> Option<BeatKind> {
        [BeatKind::Heartbeat, BeatKind::Response].into_iter().find(|kind| *kind as u8 == code)
    }
}

impl Message {
    /// The message as a beat, if it says no more than one.
    pub(crate) fn beat(&self) -> Option<Beat> {
        let inner = self.raft()?;
        let kind = match inner.get_msg_type() {
            MessageType::MsgHeartbeat => BeatKind::Heartbeat,
            MessageType::MsgHeartbeatResponse => BeatKind::Response,
            _ => return None,
        };
        let (term, commit, commit_term) = (inner.term, inner.commit, inner.commit_term);
        let beat = Beat { kind, term, commit, commit_term };
        Some(beat).filter(|beat| Message::of_beat(self.from(), self.to(), beat) == *self)
    }

    pub(crate) fn of_beat(from: NodeId, to: NodeId, beat: &Beat) -> Message {
        Message::new(eraftpb::Message {
            msg_type: match beat.kind {
                BeatKind::Heartbeat => MessageType::MsgHeartbeat,
                BeatKind::Response => MessageType::MsgHeartbeatResponse,
            },
            from: from.get(),
            to: to.get(),
            term: beat.term,
            commit: beat.commit,
            commit_term: beat.commit_term,
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_message_that_says_more_is_no_beat() {
        let beat = Beat { kind: BeatKind::Heartbeat, term: 7, commit: 3, commit_term: 6 };
        let message = Message::of_beat(1.into(), 2.into(), &beat);
        assert_eq!(message.beat(), Some(beat));
        let inner = message.inner();
        for more in [
            eraftpb::Message { context: Bytes::from_static(b"ticket"), ..inner.clone() },
            eraftpb::Message { reject: true, ..inner.clone() },
            eraftpb::Message { index: 1, ..inner.clone() },
            eraftpb::Message { priority: 1, ..inner.clone() },
            eraftpb::Message { msg_type: MessageType::MsgAppend, ..inner.clone() },
        ] {
            assert_eq!(Message::new(more.clone()).beat(), None, "{more:?}");
        }
    }
}
