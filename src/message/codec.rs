//! The bytes of a message. Own and fixed, so that nothing that a stranger sends is ever given to a
//! protobuf parser.
//!
//! All integers are little-endian.
//!
//! ```text
//!   0  u8   version = 1
//!   1  u8   kind                 1 and up, see KINDS
//!   2  u8   flags                1: reject, 2: carries a snapshot
//!   3  u8   length of context    at most 64
//!   4  u32  count of entries
//!   8  u64  from                 then to, term, log term, index, commit, commit term, reject hint, request snapshot,
//!  80  i64  priority
//!  88  ...  context
//!   .  32+  snapshot, if any     u64 index, u64 term, u32 length of data, 4 x u16 count of members, u8 auto leave, [3] zero,
//!                                u64 for each member (voters, learners, outgoing voters, next learners), data
//!   .  13 x { u8 type, u64 term, u32 length }   one for each entry
//!   .  ...  the data of the entries, back to back
//! ```
//!
//! Kinds 13 and 14 are laid out differently: see `repair.rs`.
//!
//! The index of an entry is not written: in an append they follow on `index`, elsewhere it is 0. So
//! a gap cannot be expressed.

use bytes::Bytes;
use raft::eraftpb::{self, ConfState, Entry, EntryType, MessageType, Snapshot};

use super::{Body, Message, MessageError, RepairMessage, repair};

pub(super) const VERSION: u8 = 1;
const HEAD_BYTES: usize = 88;
const SNAPSHOT_BYTES: usize = 32;
const ENTRY_BYTES: usize = 13;

const FLAG_REJECT: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;

/// The largest context of a message, in bytes.
pub(super) const CONTEXT_BYTES_MAX: usize = 64;

/// The largest ticket of a question, in bytes: a leader puts a number of 8 bytes in front of it and
/// sends both as a context.
pub(super) const READ_CONTEXT_BYTES_MAX: usize = CONTEXT_BYTES_MAX - 8;
/// The largest state that travels inside a snapshot, in bytes.
pub(super) const SNAPSHOT_DATA_BYTES_MAX: usize = 64 << 10;
const MEMBERS_MAX: usize = 1024;
/// Entries in one message. An empty one takes eight times as much in memory as on the wire; this
/// bounds the product, at some 14 MiB. A node sends no more: it puts at most 512 KiB of small
/// entries into a message, as Raft counts them, and Raft counts an empty one as four bytes at the
/// least.
const ENTRIES_MAX: usize = 1 << 17;
/// Data up to this length is copied next to its neighbours: cheaper than one more piece in the
/// vector of a system call.
const MERGED_BYTES_MAX: usize = 1024;

/// Every kind of message that travels; its code on the wire is its place here, from 1. Whatever is
/// not here stays inside a node.
pub(super) const KINDS: [MessageType; 12] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
];

const ENTRY_TYPES: [EntryType; 3] =
    [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];

impl Message {
    /// How many bytes [`encode`](Message::encode) gives.
    pub fn encoded_len(&self) -> usize {
        let message = match &self.0 {
            Body::Raft(message) => message,
            Body::Repair(repair_message) => return repair_message.encoded_len(),
        };
        let snapshot = message.snapshot.as_ref().map_or(0, |snapshot| {
            SNAPSHOT_BYTES
                + 8 * members_of(snapshot).iter().map(|members| members.len()).sum::<usize>()
                + snapshot.data.len()
        });
        let entries: usize =
            message.entries.iter().map(|entry| ENTRY_BYTES + entry.data.len()).sum();
        HEAD_BYTES + message.context.len() + snapshot + entries
    }

    /// The message as bytes, in pieces to be written one after the other. Payloads of any size are
    /// shared, not copied.
    pub fn encode(&self) -> Vec<Bytes> {
        let message = match &self.0 {
            Body::Raft(message) => message,
            Body::Repair(repair_message) => return repair_message.encode(),
        };
        let mut pieces = Vec::new();
        let mut run = Vec::with_capacity(
            self.encoded_len()
                .min(HEAD_BYTES + MERGED_BYTES_MAX + ENTRY_BYTES * message.entries.len()),
        );
        put_head(message, &mut run);
        for entry in &message.entries {
            let kind = ENTRY_TYPES
                .iter()
                .position(|&kind| kind == entry.entry_type)
                .expect("the table names every type of entry");
            run.push(kind as u8);
            run.extend_from_slice(&entry.term.to_le_bytes());
            run.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
        }
        for entry in &message.entries {
            if entry.data.len() <= MERGED_BYTES_MAX {
                run.extend_from_slice(&entry.data);
            } else {
                if !run.is_empty() {
                    pieces.push(Bytes::from(std::mem::take(&mut run)));
                }
                pieces.push(entry.data.clone());
            }
        }
        if !run.is_empty() {
            pieces.push(Bytes::from(run));
        }
        pieces
    }

    /// Takes `bytes` as a message. The payloads of the message are slices of `bytes`, which they
    /// keep alive.
    ///
    /// # Errors
    /// If they are not exactly one message that this version knows. Nothing is allocated beyond a
    /// small multiple of their length.
    pub fn decode(bytes: Bytes) -> Result<Message, MessageError> {
        let is_letter = bytes
            .get(..2)
            .is_some_and(|start| matches!(start, [VERSION, repair::WANT..=repair::STATE]));
        let mut input = ByteReader::new(bytes);
        let message = if is_letter {
            RepairMessage::read(&mut input)?.into()
        } else {
            Message::new(input.message()?)
        };
        if input.rest() != 0 {
            return Err(MessageError("bytes left over"));
        }
        Ok(message)
    }
}

fn put_head(message: &eraftpb::Message, run: &mut Vec<u8>) {
    let kind = KINDS
        .iter()
        .position(|&kind| kind == message.msg_type)
        .expect("raft sends no other kind to a peer");
    let flags = if message.reject { FLAG_REJECT } else { 0 }
        | if message.has_snapshot() { FLAG_SNAPSHOT } else { 0 };
    let context_len = u8::try_from(message.context.len())
        .expect("a context is an echo of ours, at most 64 bytes");
    run.extend_from_slice(&[VERSION, kind as u8 + 1, flags, context_len]);
    run.extend_from_slice(&(message.entries.len() as u32).to_le_bytes());
    let numbers = [
        message.from,
        message.to,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
    ];
    for number in numbers {
        run.extend_from_slice(&number.to_le_bytes());
    }
    run.extend_from_slice(&message.priority.to_le_bytes());
    run.extend_from_slice(&message.context);
    if let Some(snapshot) = message.snapshot.as_ref() {
        put_snapshot(snapshot, run);
    }
}

fn put_snapshot(snapshot: &Snapshot, run: &mut Vec<u8>) {
    let metadata = snapshot.get_metadata();
    run.extend_from_slice(&metadata.index.to_le_bytes());
    run.extend_from_slice(&metadata.term.to_le_bytes());
    run.extend_from_slice(&(snapshot.data.len() as u32).to_le_bytes());
    let groups = members_of(snapshot);
    for members in groups {
        let count = u16::try_from(members.len()).expect("the builder allows fewer members");
        run.extend_from_slice(&count.to_le_bytes());
    }
    run.extend_from_slice(&[u8::from(metadata.get_conf_state().auto_leave), 0, 0, 0]);
    for member in groups.into_iter().flatten() {
        run.extend_from_slice(&member.to_le_bytes());
    }
    run.extend_from_slice(&snapshot.data);
}

fn members_of(snapshot: &Snapshot) -> [&[u64]; 4] {
    let members = snapshot.get_metadata().get_conf_state();
    [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next]
}

/// What is left to be read.
pub(super) struct ByteReader {
    bytes: Bytes,
    at: usize,
}

impl ByteReader {
    pub(super) fn new(bytes: Bytes) -> ByteReader {
        ByteReader { bytes, at: 0 }
    }

    fn message(&mut self) -> Result<eraftpb::Message, MessageError> {
        let [version, kind, flags, context_len] = self.array()?;
        if version != VERSION {
            return Err(MessageError("a version that this build does not know"));
        }
        if flags & !(FLAG_REJECT | FLAG_SNAPSHOT) != 0 {
            return Err(MessageError("a flag that this build does not know"));
        }
        let msg_type = kind.checked_sub(1).and_then(|at| KINDS.get(usize::from(at)));
        let count = self.u32()? as usize;
        let mut message = eraftpb::Message {
            msg_type: *msg_type.ok_or(MessageError("a kind that this build does not know"))?,
            reject: flags & FLAG_REJECT != 0,
            from: self.u64()?,
            to: self.u64()?,
            term: self.u64()?,
            log_term: self.u64()?,
            index: self.u64()?,
            commit: self.u64()?,
            commit_term: self.u64()?,
            reject_hint: self.u64()?,
            request_snapshot: self.u64()?,
            priority: i64::from_le_bytes(self.array()?),
            ..Default::default()
        };
        if matches!(message.msg_type, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
        {
            // Raft fills both fields; only one of them travels.
            message.deprecated_priority = u64::try_from(message.priority).unwrap_or(0);
        }
        message.context = self.take(usize::from(context_len), CONTEXT_BYTES_MAX)?;
        if flags & FLAG_SNAPSHOT != 0 {
            message.set_snapshot(self.snapshot()?);
        }
        message.entries = self.entries(count, &message)?.into();
        Ok(message)
    }

    fn snapshot(&mut self) -> Result<Snapshot, MessageError> {
        let (index, term, data_len) = (self.u64()?, self.u64()?, self.u32()? as usize);
        let counts = [self.u16()?, self.u16()?, self.u16()?, self.u16()?];
        let auto_leave = match self.array()? {
            [auto_leave @ (0 | 1), 0, 0, 0] => auto_leave == 1,
            _ => return Err(MessageError("a snapshot that this build does not know")),
        };
        let [voters, learners, voters_outgoing, learners_next] =
            counts.map(|count| self.members(usize::from(count)));
        let conf_state = ConfState {
            voters: voters?,
            learners: learners?,
            voters_outgoing: voters_outgoing?,
            learners_next: learners_next?,
            auto_leave,
            ..Default::default()
        };
        let mut snapshot =
            Snapshot { data: self.take(data_len, SNAPSHOT_DATA_BYTES_MAX)?, ..Default::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.set_conf_state(conf_state);
        Ok(snapshot)
    }

    fn members(&mut self, count: usize) -> Result<Vec<u64>, MessageError> {
        if count > MEMBERS_MAX {
            return Err(MessageError("more members than a group can have"));
        }
        (0..count).map(|_| self.u64()).collect()
    }

    fn entries(
        &mut self,
        count: usize,
        message: &eraftpb::Message,
    ) -> Result<Vec<Entry>, MessageError> {
        let follow_on = message.msg_type == MessageType::MsgAppend;
        let carries = follow_on
            || matches!(
                message.msg_type,
                MessageType::MsgReadIndex | MessageType::MsgReadIndexResp
            );
        if count > 0 && !carries {
            return Err(MessageError("entries in a message of a kind that carries none"));
        }
        if count > ENTRIES_MAX || count * ENTRY_BYTES > self.rest() {
            return Err(MessageError("more entries than bytes for them"));
        }
        if follow_on && message.index > u64::MAX - count as u64 {
            return Err(MessageError("entries beyond the last index there is"));
        }
        let mut table = ByteReader::new(self.take(count * ENTRY_BYTES, usize::MAX)?);
        let mut entries = Vec::with_capacity(count);
        for place in 1..=count as u64 {
            let [kind] = table.array()?;
            let entry_type = ENTRY_TYPES
                .get(usize::from(kind))
                .ok_or(MessageError("a type of entry that this build does not know"))?;
            let term = table.u64()?;
            let data = self.take(table.u32()? as usize, usize::MAX)?;
            let index = if follow_on { message.index + place } else { 0 };
            entries.push(Entry {
                entry_type: *entry_type,
                term,
                index,
                data,
                ..Default::default()
            });
        }
        Ok(entries)
    }

    pub(super) fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let field =
            self.bytes[self.at..].first_chunk::<N>().copied().ok_or(MessageError("cut short"))?;
        self.at += N;
        Ok(field)
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, MessageError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, MessageError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn take(&mut self, len: usize, len_max: usize) -> Result<Bytes, MessageError> {
        if len > len_max {
            return Err(MessageError("a field beyond its limit"));
        }
        if len > self.rest() {
            return Err(MessageError("cut short"));
        }
        let field = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        Ok(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        frame[HEAD_BYTES + 20..HEAD_BYTES + 22].copy_from_slice(&u16::MAX.to_le_bytes());
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
            let message = if of_snapshot { snapshot() } else { append(&[Bytes::from_static(b"one"), Bytes::from(vec![9; 200])]) };
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
