//! A message as bytes: those of Raft in [`raft_codec`], those of repair in [`repair`], those of
//! sleep in [`sleep`].

use bytes::Bytes;

use super::content::{Body, Message};
use super::raft_codec;
use super::repair::{self, RepairMessage};
use super::sleep::{self, SleepMessage};
use super::wire::{ByteReader, MessageError, VERSION};

impl Message {
    /// The number of bytes that [`encode`](Message::encode) returns.
    pub fn encoded_len(&self) -> usize {
        match &self.0 {
            Body::Raft(message) => raft_codec::encoded_len(message),
            Body::Repair(message) => message.encoded_len(),
            Body::Sleep(message) => message.encoded_len(),
        }
    }

    /// The message as bytes, in pieces to be written one after the other. Large payloads are
    /// shared, not copied.
    pub fn encode(&self) -> Vec<Bytes> {
        match &self.0 {
            Body::Raft(message) => raft_codec::encode(message),
            Body::Repair(message) => message.encode(),
            Body::Sleep(message) => message.encode(),
        }
    }

    /// Decodes `bytes`. The payloads of the message are slices of `bytes`, which they keep alive.
    ///
    /// # Errors
    /// If they are not exactly one message that this version knows. Nothing is allocated beyond a
    /// small multiple of their length.
    pub fn decode(bytes: Bytes) -> Result<Message, MessageError> {
        let kind = bytes.get(..2).filter(|start| start[0] == VERSION).map(|start| start[1]);
        let mut input = ByteReader::new(bytes);
        let message = match kind {
            Some(repair::FETCH_REQUEST..=repair::STATE) => RepairMessage::read(&mut input)?.into(),
            Some(sleep::SLEEP | sleep::ASLEEP) => SleepMessage::read(&mut input)?.into(),
            _ => Message::new(raft_codec::decode(&mut input)?),
        };
        if input.rest() != 0 {
            return Err(MessageError("bytes left over"));
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::eraftpb::{self, Entry, MessageType};

    use super::raft_codec::{HEADER_BYTES, KINDS};
    use super::*;

    fn joined(message: &Message) -> Bytes {
        let pieces = message.encode();
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), message.encoded_len());
        Bytes::from(pieces.concat())
    }

    fn append(payloads: &[Bytes]) -> Message {
        let mut append =
            eraftpb::Message { msg_type: MessageType::MsgAppend, ..Default::default() };
        (append.from, append.to, append.term, append.log_term, append.index, append.commit) =
            (1, 2, 7, 6, 40, 39);
        for (place, data) in payloads.iter().enumerate() {
            append.entries.push(Entry {
                term: 7,
                index: 41 + place as u64,
                data: data.clone(),
                ..Default::default()
            });
        }
        Message::new(append)
    }

    fn snapshot() -> Message {
        let mut message = eraftpb::Message {
            msg_type: MessageType::MsgSnapshot,
            from: 1,
            to: 2,
            term: 7,
            ..Default::default()
        };
        let snapshot = message.mut_snapshot();
        snapshot.data = Bytes::from_static(b"base");
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (30, 6);
        let members = metadata.mut_conf_state();
        members.voters = vec![1, 2, 3];
        members.learners = vec![4];
        members.auto_leave = true;
        members.voters_outgoing = vec![1, 5];
        members.learners_next = vec![5];
        Message::new(message)
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let mut vote = eraftpb::Message {
            msg_type: MessageType::MsgRequestVote,
            from: 3,
            to: 1,
            term: 8,
            ..Default::default()
        };
        (
            vote.log_term,
            vote.index,
            vote.commit,
            vote.commit_term,
            vote.priority,
            vote.deprecated_priority,
        ) = (7, 41, 40, 7, 5, 5);
        vote.context = Bytes::from_static(b"CampaignTransfer");
        let mut reject = eraftpb::Message {
            msg_type: MessageType::MsgAppendResponse,
            from: 2,
            to: 1,
            term: 8,
            ..Default::default()
        };
        (
            reject.reject,
            reject.reject_hint,
            reject.log_term,
            reject.request_snapshot,
            reject.priority,
        ) = (true, 9, 3, 4, -1);
        let mut read = eraftpb::Message {
            msg_type: MessageType::MsgReadIndex,
            from: 2,
            to: 1,
            index: 3,
            ..Default::default()
        };
        read.entries.push(Entry { data: Bytes::from_static(b"ticket"), ..Default::default() });
        let big = append(&[
            Bytes::from(vec![1; 5000]),
            Bytes::new(),
            Bytes::from(vec![2; 1024]),
            Bytes::from(vec![3; 1025]),
        ]);
        for message in [
            big,
            append(&[]),
            snapshot(),
            Message::new(vote),
            Message::new(reject),
            Message::new(read),
        ] {
            assert_eq!(Message::decode(joined(&message)).unwrap(), message);
        }
    }

    #[test]
    fn large_payloads_are_shared_on_the_way_out_and_in() {
        let payload = Bytes::from(vec![7; 4096]);
        let pieces = append(std::slice::from_ref(&payload)).encode();
        assert_eq!(pieces.iter().filter(|piece| piece.as_ptr() == payload.as_ptr()).count(), 1);
        let frame = Bytes::from(pieces.concat());
        let range = frame.as_ptr() as usize..frame.as_ptr() as usize + frame.len();
        let message = Message::decode(frame).unwrap();
        assert!(range.contains(&(message.inner().entries[0].data.as_ptr() as usize)));
    }

    #[test]
    fn every_message_that_is_cut_short_or_goes_on_is_refused() {
        for message in
            [append(&[Bytes::from_static(b"one"), Bytes::from_static(b"two")]), snapshot()]
        {
            let whole = joined(&message);
            for len in 0..whole.len() {
                assert!(Message::decode(whole.slice(..len)).is_err(), "{len} bytes of {message:?}");
            }
            let longer = Bytes::from([&whole[..], &[0]].concat());
            assert_eq!(Message::decode(longer), Err(MessageError("bytes left over")));
        }
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_allocated() {
        let mut frame = joined(&append(&[])).to_vec();
        for count in [1, 1 << 20, u32::MAX] {
            frame[4..8].copy_from_slice(&count.to_le_bytes());
            assert_eq!(
                Message::decode(Bytes::from(frame.clone())),
                Err(MessageError("more entries than bytes for them"))
            );
        }
        let mut frame = joined(&snapshot()).to_vec();
        frame[HEADER_BYTES + 20..HEADER_BYTES + 22].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(
            Message::decode(Bytes::from(frame)),
            Err(MessageError("more members than a group can have"))
        );
    }

    #[test]
    fn kinds_that_stay_inside_a_node_have_no_code() {
        for kind in [
            MessageType::MsgHup,
            MessageType::MsgPropose,
            MessageType::MsgTransferLeader,
            MessageType::MsgUnreachable,
        ] {
            assert!(!KINDS.contains(&kind), "{kind:?}");
        }
        let mut frame = joined(&append(&[])).to_vec();
        for code in (0..=255).filter(|code| !(1..=14).contains(code)) {
            frame[1] = code;
            assert!(Message::decode(Bytes::from(frame.clone())).is_err(), "code {code}");
        }
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(
            at in proptest::collection::vec((0..400_usize, any::<u8>()), 0..6),
            of_snapshot in any::<bool>(),
        ) {
            let payloads = [Bytes::from_static(b"one"), Bytes::from(vec![9; 200])];
            let message = if of_snapshot { snapshot() } else { append(&payloads) };
            let mut frame = joined(&message).to_vec();
            for (place, value) in at {
                let place = place % frame.len();
                frame[place] = value;
            }
            if let Ok(message) = Message::decode(Bytes::from(frame.clone())) {
                prop_assert_eq!(&joined(&message)[..], &frame[..]);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(Bytes::from(bytes));
        }
    }
}
