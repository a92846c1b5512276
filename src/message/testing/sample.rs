//! Messages to test a transport with.

use bytes::Bytes;
use raft::eraftpb::{Entry, Message as Inner, MessageType, Snapshot};

#[cfg(test)]
use crate::batch::{Batch, LogPoint};
use crate::entry::NodeId;
use crate::message::Message;
#[cfg(test)]
use crate::message::{
    FetchError, FetchRequest, FetchResponse, NoState, PeerState, RepairBody, RepairMessage,
    SleepKind, SleepMessage, SleepPoint,
};

impl Message {
    /// A message that its number identifies, with one payload of `bytes` bytes.
    pub(crate) fn sample(from: NodeId, to: NodeId, number: u64, bytes: usize) -> Message {
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
    pub(crate) fn samples(from: NodeId, to: NodeId) -> Vec<Message> {
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
        let context = Entry { data: Bytes::from_static(b"ticket"), ..Default::default() };
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
            Inner { entries: vec![context].into(), ..plain(MessageType::MsgReadIndexResp) },
            plain(MessageType::MsgHeartbeat),
            plain(MessageType::MsgHeartbeatResponse),
        ]
        .map(Message::new)
        .to_vec()
    }

    /// One sleep message of either kind.
    #[cfg(test)]
    pub(in crate::message) fn sleep_samples(from: NodeId, to: NodeId) -> Vec<Message> {
        let point = SleepPoint { term: 7, last: 9 };
        [SleepKind::Sleep, SleepKind::Asleep]
            .map(|sleep_kind| SleepMessage { from, to, sleep_kind, round: 3, point }.into())
            .to_vec()
    }

    /// One repair message of every shape.
    #[cfg(test)]
    pub(in crate::message) fn repair_samples(from: NodeId, to: NodeId) -> Vec<Message> {
        let entries = crate::batch::fuzzing::body_of(&[b"one", b"", b"three"]);
        let batches = vec![
            Batch::new(7, 3, entries).expect("a batch"),
            Batch::new(8, 4, Bytes::new()).expect("a control record"),
        ];
        let point = LogPoint {
            raft_index: 8,
            term: 4,
            next_index: 3,
            next_position: 8,
            timestamp: 1,
            chain: 0xABCD,
        };
        let responses = [
            Ok((batches, point)),
            Err(FetchError::Corrupt),
            Err(FetchError::NotReached),
            Err(FetchError::Purged(point)),
            Err(FetchError::LogEnd(point)),
        ];
        let responses = responses.into_iter().map(|batches| {
            RepairBody::FetchResponse(FetchResponse { number: 5, commit: 7, batches })
        });
        let words = std::iter::once(RepairBody::FetchRequest(FetchRequest {
            number: 5,
            raft_indexes: 7..9,
            bytes_max: 1000,
        }))
        .chain(responses);
        let states = [
            Ok(PeerState { term: 5, last: (4, 9) }),
            Err(NoState::Incomplete),
            Err(NoState::Corrupt),
        ];
        let words = words
            .chain([RepairBody::StateRequest(77)])
            .chain(states.map(|state| RepairBody::State(77, state)));
        words.map(|repair_body| RepairMessage { from, to, repair_body }.into()).collect()
    }
}
