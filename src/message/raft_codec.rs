//! The bytes of a Raft message, kinds 1 to 12. A fixed format of this crate: bytes of a peer never
//! reach a protobuf parser.
//!
//! All integers are little-endian.
//!
//! ```text
//!   0  u8   version = 1
//!   1  u8   kind                 1 and up, see KINDS
//!   2  u8   flags                1: reject, 2: carries a snapshot
//!   3  u8   length of context    at most 64
//!   4  u32  count of entries
//!   8  u64  from                 then to, term, log term, index, commit, commit term, reject hint,
//!                                request snapshot
//!  80  i64  priority
//!  88  ...  context
//!   .  32+  snapshot, if any     u64 index, u64 term, u32 length of data,
//!                                4 x u16 count of members, u8 auto leave, [3] zero,
//!                                u64 for each member (voters, learners, outgoing voters, next
//!                                learners), data
//!   .  13 x { u8 type, u64 term, u32 length }   one for each entry
//!   .  ...  the data of the entries, back to back
//! ```
//!
//! The index of an entry is not written: in an append the entries follow `index`, in other kinds it
//! is 0. So the format cannot express a gap.

use bytes::Bytes;
use raft::eraftpb::{self, ConfState, Entry, EntryType, MessageType, Snapshot};

use super::wire::{ByteReader, CONTEXT_BYTES_MAX, MessageError, SNAPSHOT_DATA_BYTES_MAX, VERSION};

pub(super) const HEADER_BYTES: usize = 88;
const SNAPSHOT_BYTES: usize = 32;
const ENTRY_BYTES: usize = 13;

const FLAG_REJECT: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;

const MEMBERS_MAX: usize = 1024;
/// Entries in one message. An empty entry takes eight times as much in memory as on the wire; this
/// bounds the product, at some 14 MiB. A node sends no more: it puts at most 512 KiB of small
/// entries into a message, as Raft counts them, and Raft counts an empty one as four bytes at the
/// least.
const ENTRIES_MAX: usize = 1 << 17;
/// Data up to this length is copied next to its neighbours: cheaper than one more piece in the
/// vector of a system call.
const MERGED_BYTES_MAX: usize = 1024;

/// The kinds that are sent to peers. The code of a kind on the wire is its place here, from 1.
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

pub(super) fn encoded_len(message: &eraftpb::Message) -> usize {
    let snapshot = message.snapshot.as_ref().map_or(0, |snapshot| {
        SNAPSHOT_BYTES
            + 8 * members_of(snapshot).iter().map(|members| members.len()).sum::<usize>()
            + snapshot.data.len()
    });
    let entries: usize = message.entries.iter().map(|entry| ENTRY_BYTES + entry.data.len()).sum();
    HEADER_BYTES + message.context.len() + snapshot + entries
}

/// The pieces of a message. Data of more than [`MERGED_BYTES_MAX`] is shared, not copied.
pub(super) fn encode(message: &eraftpb::Message) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut run = Vec::with_capacity(
        encoded_len(message)
            .min(HEADER_BYTES + MERGED_BYTES_MAX + ENTRY_BYTES * message.entries.len()),
    );
    put_header(message, &mut run);
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

fn put_header(message: &eraftpb::Message, run: &mut Vec<u8>) {
    let kind = KINDS
        .iter()
        .position(|&kind| kind == message.msg_type)
        .expect("raft sends no other kind to a peer");
    let flags = if message.reject { FLAG_REJECT } else { 0 }
        | if message.has_snapshot() { FLAG_SNAPSHOT } else { 0 };
    let context_len = u8::try_from(message.context.len())
        .expect("this node makes its contexts, of at most 64 bytes");
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

pub(super) fn decode(input: &mut ByteReader) -> Result<eraftpb::Message, MessageError> {
    let [version, kind, flags, context_len] = input.array()?;
    if version != VERSION {
        return Err(MessageError("a version that this build does not know"));
    }
    if flags & !(FLAG_REJECT | FLAG_SNAPSHOT) != 0 {
        return Err(MessageError("a flag that this build does not know"));
    }
    let msg_type = kind.checked_sub(1).and_then(|at| KINDS.get(usize::from(at)));
    let count = input.u32()? as usize;
    let mut message = eraftpb::Message {
        msg_type: *msg_type.ok_or(MessageError("a kind that this build does not know"))?,
        reject: flags & FLAG_REJECT != 0,
        from: input.u64()?,
        to: input.u64()?,
        term: input.u64()?,
        log_term: input.u64()?,
        index: input.u64()?,
        commit: input.u64()?,
        commit_term: input.u64()?,
        reject_hint: input.u64()?,
        request_snapshot: input.u64()?,
        priority: i64::from_le_bytes(input.array()?),
        ..Default::default()
    };
    if matches!(message.msg_type, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) {
        // Raft sets both fields to the same value; only one is written.
        message.deprecated_priority = u64::try_from(message.priority).unwrap_or(0);
    }
    message.context = input.take(usize::from(context_len), CONTEXT_BYTES_MAX)?;
    if flags & FLAG_SNAPSHOT != 0 {
        message.set_snapshot(read_snapshot(input)?);
    }
    message.entries = read_entries(input, count, &message)?.into();
    Ok(message)
}

fn read_snapshot(input: &mut ByteReader) -> Result<Snapshot, MessageError> {
    let (index, term, data_len) = (input.u64()?, input.u64()?, input.u32()? as usize);
    let counts = [input.u16()?, input.u16()?, input.u16()?, input.u16()?];
    let auto_leave = match input.array()? {
        [auto_leave @ (0 | 1), 0, 0, 0] => auto_leave == 1,
        _ => return Err(MessageError("a snapshot that this build does not know")),
    };
    let [voters, learners, voters_outgoing, learners_next] =
        counts.map(|count| read_members(input, usize::from(count)));
    let conf_state = ConfState {
        voters: voters?,
        learners: learners?,
        voters_outgoing: voters_outgoing?,
        learners_next: learners_next?,
        auto_leave,
        ..Default::default()
    };
    let mut snapshot =
        Snapshot { data: input.take(data_len, SNAPSHOT_DATA_BYTES_MAX)?, ..Default::default() };
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    metadata.set_conf_state(conf_state);
    Ok(snapshot)
}

fn read_members(input: &mut ByteReader, count: usize) -> Result<Vec<u64>, MessageError> {
    if count > MEMBERS_MAX {
        return Err(MessageError("more members than a group can have"));
    }
    (0..count).map(|_| input.u64()).collect()
}

fn read_entries(
    input: &mut ByteReader,
    count: usize,
    message: &eraftpb::Message,
) -> Result<Vec<Entry>, MessageError> {
    let follow_on = message.msg_type == MessageType::MsgAppend;
    let carries = follow_on
        || matches!(message.msg_type, MessageType::MsgReadIndex | MessageType::MsgReadIndexResp);
    if count > 0 && !carries {
        return Err(MessageError("entries in a message of a kind that carries none"));
    }
    if count > ENTRIES_MAX || count * ENTRY_BYTES > input.rest() {
        return Err(MessageError("more entries than bytes for them"));
    }
    if follow_on && message.index > u64::MAX - count as u64 {
        return Err(MessageError("entries beyond the last index there is"));
    }
    let mut table = ByteReader::new(input.take(count * ENTRY_BYTES, usize::MAX)?);
    let mut entries = Vec::with_capacity(count);
    for place in 1..=count as u64 {
        let [kind] = table.array()?;
        let entry_type = ENTRY_TYPES
            .get(usize::from(kind))
            .ok_or(MessageError("a type of entry that this build does not know"))?;
        let term = table.u64()?;
        let data = input.take(table.u32()? as usize, usize::MAX)?;
        let index = if follow_on { message.index + place } else { 0 };
        entries.push(Entry { entry_type: *entry_type, term, index, data, ..Default::default() });
    }
    Ok(entries)
}
