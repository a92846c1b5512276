//! Messages to try a transport with.

use bytes::Bytes;
use raft::eraftpb::{Entry, Message as Inner, MessageType, Snapshot};

use super::Message;
use crate::entry::NodeId;

impl Message {
    /// A message that can be told from others by its number, with one payload of `bytes` bytes.
    pub(crate) fn specimen(from: NodeId, to: NodeId, number: u64, bytes: usize) -> Message {
        let data: Bytes = (0..bytes).map(|at| (at as u64 ^ number) as u8).collect();
        let entries = vec![Entry { term: 1, index: number + 1, data, ..Default::default() }];
        let kind = MessageType::MsgAppend;
        Message::new(Inner {
            msg_type: kind,
            from: from.get(),
            to: to.get(),
            term: 1,
            index: number,
            entries: entries.into(),
            ..Inner::default()
        })
    }

    /// One message of every shape: with and without payloads, a context and a snapshot.
    pub(crate) fn specimens(from: NodeId, to: NodeId) -> Vec<Message> {
        let (from, to) = (from.get(), to.get());
        let plain = |msg_type| Inner { msg_type, from, to, term: 7, commit: 3, ..Inner::default() };
        let payload = |index: u64, len: usize| Entry {
            index,
            term: 6,
            data: vec![index as u8; len].into(),
            ..Default::default()
        };
        let mut snapshot = Snapshot { data: Bytes::from_static(b"state"), ..Default::default() };
        snapshot.mut_metadata().index = 9;
        snapshot.mut_metadata().mut_conf_state().voters = vec![from, to];
        let entries =
            vec![payload(41, 0), payload(42, 10), payload(43, 5_000), payload(44, 70_000)];
        let ticket = Entry { data: Bytes::from_static(b"ticket"), ..Default::default() };
        [
            Inner { context: Bytes::from_static(b"ticket"), ..plain(MessageType::MsgHeartbeat) },
            Inner {
                index: 40,
                log_term: 6,
                entries: entries.into(),
                ..plain(MessageType::MsgAppend)
            },
            Inner { index: 40, log_term: 6, ..plain(MessageType::MsgAppend) },
            Inner { reject: true, reject_hint: 12, ..plain(MessageType::MsgAppendResponse) },
            Inner { priority: 3, deprecated_priority: 3, ..plain(MessageType::MsgRequestVote) },
            Inner { snapshot: Some(snapshot).into(), ..plain(MessageType::MsgSnapshot) },
            Inner { entries: vec![ticket].into(), ..plain(MessageType::MsgReadIndexResp) },
        ]
        .map(Message::new)
        .to_vec()
    }
}
