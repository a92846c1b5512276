//! Repair messages, kinds 13 to 16: a node with a corrupt log fetches batches as they lie in the
//! log of a peer.
//!
//! ```text
//!                   fetch request                fetch response
//!   0  u8   version = 1                          the same
//!   1  u8   kind = 13                            14
//!   2  u8   zero                                 0, or the code of a `FetchError`
//!   3  u8   zero                                 zero
//!   4  u32  zero                                 count of batches
//!   8  u64  from                                 the same
//!  16  u64  to                                   the same
//!  24  u64  number                               that of the request
//!  32  u64  first raft index                     commit: the newest raft index known to be
//!                                                committed
//!  40  u64  the raft index after the last        48 bytes: the sender's log point after the last
//!  48  u64  the most bytes of bodies             batch, or that of the `FetchError`, or zeros
//!  88  .                                         n x { u64 term, u32 length }
//!   .                                            the bodies, back to back
//! ```
//!
//! A node whose log is incomplete requests only the state of its peers: bounds of what it may have
//! promised.
//!
//! ```text
//!                   state request                state
//!   0  u8   version = 1                          the same
//!   1  u8   kind = 15                            16
//!   2  u8   zero                                 0, or the code of a `NoState`
//!   3  u8   zero, u32 zero                       zero, zero
//!   8  u64  from, to, number                     the same
//!  32  .                                         u64 term, u64 term and u64 raft index of the last
//!                                                batch
//! ```
//!
//! The raft indexes of the batches are not written: the last is that of the log point, without a
//! gap before it. The chain value of the log point covers everything up to it: a receiver that
//! computes the same value from these batches has the sender's log, from the first batch on.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use super::wire::{ByteReader, MessageError, TERM_LIMIT, VERSION};
use crate::batch::{Batch, FIELD_LIMIT, LogPoint};
use crate::entry::NodeId;

pub(super) const FETCH_REQUEST: u8 = 13;
pub(super) const FETCH_RESPONSE: u8 = 14;
pub(super) const STATE_REQUEST: u8 = 15;
pub(super) const STATE: u8 = 16;

/// Batches in one message.
pub(crate) const BATCHES_MAX: u64 = 4096;
const POINT_BYTES: usize = 48;
const FETCH_REQUEST_BYTES: usize = 56;
const FETCH_RESPONSE_BYTES: usize = 40 + POINT_BYTES;
const BATCH_ROW_BYTES: usize = 12;
const STATE_REQUEST_BYTES: usize = 32;
const STATE_BYTES: usize = 56;

/// A message of repair.
#[derive(Clone, PartialEq)]
pub(crate) struct RepairMessage {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) repair_body: RepairBody,
}

/// The four kinds of repair messages.
#[derive(Clone, PartialEq)]
pub(crate) enum RepairBody {
    FetchRequest(FetchRequest),
    FetchResponse(FetchResponse),
    /// Sent by a node whose log is incomplete. The number is unique among its requests.
    StateRequest(u64),
    /// The response to the request with that number.
    State(u64, Result<PeerState, NoState>),
}

/// Bounds of the state of a node: no term that it has seen, and no batch that it or any node that
/// it led or followed had, lies beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerState {
    pub(crate) term: u64,
    /// Term and raft index of the last batch of its log.
    pub(crate) last: (u64, u64),
}

/// Why a node does not send its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoState {
    /// Its own log is incomplete.
    Incomplete = 1,
    /// Its log is corrupt.
    Corrupt = 2,
}

/// Sent by a node with a corrupt log: asks a peer for batches.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FetchRequest {
    /// Unique among all requests of this node. A response repeats it, so that an outdated response
    /// is ignored.
    pub(crate) number: u64,
    pub(crate) raft_indexes: Range<u64>,
    /// The most bytes of bodies in the response, but one batch at least.
    pub(crate) bytes_max: u64,
}

/// Response to a [`FetchRequest`]. It carries data, not instructions: the receiver applies only
/// what it can prove (`replica::repair`).
#[derive(Clone, PartialEq)]
pub(crate) struct FetchResponse {
    /// That of the request.
    pub(crate) number: u64,
    /// The newest raft index that the sender knows to be committed.
    pub(crate) commit: u64,
    /// The batches from the first one requested, and the sender's log point after them; or why
    /// there are none.
    pub(crate) batches: Result<(Vec<Batch>, LogPoint), FetchError>,
}

/// Why a response carries no batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FetchError {
    /// The log of the sender is corrupt there too. This is no evidence of what it should hold.
    Corrupt,
    /// The log of the sender ends before.
    NotReached,
    /// The log of the sender begins later, after this log point.
    Purged(LogPoint),
    /// The sender is leader, and its log ends at this log point: nothing beyond it was ever
    /// committed.
    LogEnd(LogPoint),
}

impl FetchError {
    fn code(self) -> u8 {
        match self {
            FetchError::Corrupt => 1,
            FetchError::NotReached => 2,
            FetchError::Purged(_) => 3,
            FetchError::LogEnd(_) => 4,
        }
    }
}

impl RepairMessage {
    /// The number of its batches.
    pub(super) fn batches(&self) -> usize {
        if let RepairBody::FetchResponse(FetchResponse { batches: Ok((batches, _)), .. }) =
            &self.repair_body
        {
            batches.len()
        } else {
            0
        }
    }

    pub(super) fn encoded_len(&self) -> usize {
        match &self.repair_body {
            RepairBody::FetchRequest(_) => FETCH_REQUEST_BYTES,
            RepairBody::StateRequest(_) => STATE_REQUEST_BYTES,
            RepairBody::State(..) => STATE_BYTES,
            RepairBody::FetchResponse(response) => {
                let batches = response.batches.iter().flat_map(|(batches, _)| batches);
                FETCH_RESPONSE_BYTES
                    + batches.map(|batch| BATCH_ROW_BYTES + batch.body().len()).sum::<usize>()
            }
        }
    }

    pub(super) fn encode(&self) -> Vec<Bytes> {
        let (kind, code, batches) = match &self.repair_body {
            RepairBody::FetchRequest(_) => (FETCH_REQUEST, 0, &[][..]),
            RepairBody::StateRequest(_) => (STATE_REQUEST, 0, &[][..]),
            RepairBody::State(_, state) => (STATE, state.err().map_or(0, |why| why as u8), &[][..]),
            RepairBody::FetchResponse(FetchResponse { batches: Ok((batches, _)), .. }) => {
                (FETCH_RESPONSE, 0, &batches[..])
            }
            RepairBody::FetchResponse(FetchResponse { batches: Err(fetch_error), .. }) => {
                (FETCH_RESPONSE, fetch_error.code(), &[][..])
            }
        };
        let mut header = Vec::with_capacity(FETCH_RESPONSE_BYTES + BATCH_ROW_BYTES * batches.len());
        header.extend_from_slice(&[VERSION, kind, code, 0]);
        header.extend_from_slice(&(batches.len() as u32).to_le_bytes());
        let mut put = |numbers: &[u64]| {
            numbers.iter().for_each(|number| header.extend_from_slice(&number.to_le_bytes()))
        };
        put(&[self.from.get(), self.to.get()]);
        match &self.repair_body {
            RepairBody::FetchRequest(request) => put(&[
                request.number,
                request.raft_indexes.start,
                request.raft_indexes.end,
                request.bytes_max,
            ]),
            RepairBody::StateRequest(number) => put(&[*number]),
            RepairBody::State(number, state) => {
                let PeerState { term, last } = state.unwrap_or(PeerState { term: 0, last: (0, 0) });
                put(&[*number, term, last.0, last.1]);
            }
            RepairBody::FetchResponse(response) => {
                put(&[response.number, response.commit]);
                match &response.batches {
                    Ok((_, point)) | Err(FetchError::Purged(point) | FetchError::LogEnd(point)) => {
                        put(&[
                            point.raft_index,
                            point.term,
                            point.next_index,
                            point.next_position,
                            point.timestamp,
                            u64::from(point.chain),
                        ])
                    }
                    Err(_) => put(&[0; POINT_BYTES / 8]),
                }
            }
        }
        for batch in batches {
            header.extend_from_slice(&batch.term().to_le_bytes());
            header.extend_from_slice(&(batch.body().len() as u32).to_le_bytes());
        }
        let bodies =
            batches.iter().map(|batch| batch.body().clone()).filter(|body| !body.is_empty());
        std::iter::once(Bytes::from(header)).chain(bodies).collect()
    }

    /// Reads one, from its version on.
    pub(super) fn read(input: &mut ByteReader) -> Result<RepairMessage, MessageError> {
        let [_, kind, code, zero] = input.array()?;
        let count = u64::from(input.u32()?);
        let (from, to) = (NodeId::from(input.u64()?), NodeId::from(input.u64()?));
        let repair_body = match (kind, code, zero) {
            (FETCH_REQUEST, 0, 0) if count == 0 => RepairBody::FetchRequest(read_request(input)?),
            (FETCH_RESPONSE, code, 0) => {
                RepairBody::FetchResponse(read_response(input, code, count)?)
            }
            (STATE_REQUEST, 0, 0) if count == 0 => RepairBody::StateRequest(input.u64()?),
            (STATE, code, 0) if count == 0 => {
                RepairBody::State(input.u64()?, read_state(input, code)?)
            }
            _ => return Err(MessageError("a repair message that this build does not know")),
        };
        Ok(RepairMessage { from, to, repair_body })
    }
}

fn read_request(input: &mut ByteReader) -> Result<FetchRequest, MessageError> {
    let request = FetchRequest {
        number: input.u64()?,
        raft_indexes: input.u64()?..input.u64()?,
        bytes_max: input.u64()?,
    };
    let Range { start, end } = request.raft_indexes;
    if start == 0 || end <= start || end >= FIELD_LIMIT || end - start > BATCHES_MAX {
        return Err(MessageError("a request for no batches, or for too many"));
    }
    Ok(request)
}

fn read_state(
    input: &mut ByteReader,
    code: u8,
) -> Result<Result<PeerState, NoState>, MessageError> {
    let (term, last) = (input.u64()?, (input.u64()?, input.u64()?));
    let is_none = (term, last) == (0, (0, 0));
    match code {
        0 if term >= last.0 && term < TERM_LIMIT && last.1 < FIELD_LIMIT => {
            Ok(Ok(PeerState { term, last }))
        }
        1 if is_none => Ok(Err(NoState::Incomplete)),
        2 if is_none => Ok(Err(NoState::Corrupt)),
        _ => Err(MessageError("a malformed state")),
    }
}

fn read_response(
    input: &mut ByteReader,
    code: u8,
    count: u64,
) -> Result<FetchResponse, MessageError> {
    let (number, commit) = (input.u64()?, input.u64()?);
    let mut point = LogPoint {
        raft_index: input.u64()?,
        term: input.u64()?,
        next_index: input.u64()?,
        next_position: input.u64()?,
        timestamp: input.u64()?,
        chain: 0,
    };
    let chain = input.u64()?;
    point.chain = u32::try_from(chain).map_err(|_| MessageError("a chain value beyond 32 bits"))?;
    if [commit, point.raft_index, point.next_index, point.next_position, point.timestamp]
        .into_iter()
        .any(|number| number >= FIELD_LIMIT)
    {
        return Err(MessageError("a number beyond 2^62"));
    }
    let has_no_point = point == LogPoint { raft_index: 0, term: 0, ..LogPoint::INITIAL };
    let batches = match code {
        0 if (1..=BATCHES_MAX).contains(&count) && point.raft_index >= count => {
            Ok((read_batches(input, count, &point)?, point))
        }
        1 if count == 0 && has_no_point => Err(FetchError::Corrupt),
        2 if count == 0 && has_no_point => Err(FetchError::NotReached),
        3 if count == 0 => Err(FetchError::Purged(point)),
        4 if count == 0 => Err(FetchError::LogEnd(point)),
        _ => return Err(MessageError("a malformed fetch response")),
    };
    Ok(FetchResponse { number, commit, batches })
}

fn read_batches(
    input: &mut ByteReader,
    count: u64,
    after: &LogPoint,
) -> Result<Vec<Batch>, MessageError> {
    if count as usize * BATCH_ROW_BYTES > input.rest() {
        return Err(MessageError("more batches than bytes for them"));
    }
    let mut table = ByteReader::new(input.take(count as usize * BATCH_ROW_BYTES, usize::MAX)?);
    let first = after.raft_index + 1 - count;
    (first..=after.raft_index)
        .map(|raft_index| {
            let (term, len) = (table.u64()?, table.u32()? as usize);
            Batch::new(raft_index, term, input.take(len, usize::MAX)?)
                .map_err(|_| MessageError("a fetch response with what is not a batch"))
        })
        .collect()
}

/// In the format of `Message`: `2->1 want 5..8`, `1->2 gift [5/t2 6/t2] commit 9`.
impl fmt::Debug for RepairMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{} ", self.from, self.to)?;
        match &self.repair_body {
            RepairBody::FetchRequest(request) => write!(f, "want {:?}", request.raft_indexes),
            RepairBody::StateRequest(number) => write!(f, "where do you stand? ({number:x})"),
            RepairBody::State(_, Ok(state)) => {
                write!(f, "t{}, log ends {}/t{}", state.term, state.last.1, state.last.0)
            }
            RepairBody::State(_, Err(why)) => write!(f, "no state: {why:?}"),
            RepairBody::FetchResponse(FetchResponse {
                commit, batches: Err(fetch_error), ..
            }) => write!(f, "gift of nothing: {fetch_error:?}, commit {commit}"),
            RepairBody::FetchResponse(FetchResponse {
                commit, batches: Ok((batches, _)), ..
            }) => {
                let batches: Vec<_> = batches
                    .iter()
                    .map(|batch| format!("{}/t{}", batch.raft_index(), batch.term()))
                    .collect();
                write!(f, "gift [{}] commit {commit}", batches.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn joined(message: &Message) -> Bytes {
        let bytes = Bytes::from(message.encode().concat());
        assert_eq!(bytes.len(), message.encoded_len());
        bytes
    }

    #[test]
    fn a_repair_message_comes_back_as_it_was_and_no_other_does() {
        for message in Message::repair_samples(NodeId::from(2), NodeId::from(1)) {
            let bytes = joined(&message);
            assert_eq!(Message::decode(bytes.clone()).as_ref(), Ok(&message));
            assert_eq!(
                (message.from(), message.to(), message.needs_disk()),
                (NodeId::from(2), NodeId::from(1), false)
            );
            for len in 0..bytes.len() {
                assert!(Message::decode(bytes.slice(..len)).is_err(), "{len} bytes of {message:?}");
            }
            assert!(Message::decode(Bytes::from([&bytes[..], &[0]].concat())).is_err());
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if let Ok(other) = Message::decode(Bytes::from(flipped.clone())) {
                    assert_eq!(joined(&other), flipped, "a repair message is written in one way");
                }
            }
        }
    }

    #[test]
    fn what_asks_for_too_much_is_refused_before_anything_is_allocated() {
        let [request, response, ..] =
            &Message::repair_samples(NodeId::from(2), NodeId::from(1))[..]
        else {
            panic!("two messages at least")
        };
        let with = |message: &Message, at: usize, value: u64| {
            let mut bytes = joined(message).to_vec();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            Message::decode(Bytes::from(bytes))
        };
        for (start, end) in
            [(0, 5), (7, 7), (7, 6), (7, 8 + BATCHES_MAX), (7, u64::MAX), (u64::MAX - 1, u64::MAX)]
        {
            let mut bytes = joined(request).to_vec();
            bytes[32..40].copy_from_slice(&start.to_le_bytes());
            bytes[40..48].copy_from_slice(&u64::to_le_bytes(end));
            assert!(Message::decode(Bytes::from(bytes)).is_err(), "{start}..{end}");
        }
        assert!(with(response, 32, FIELD_LIMIT).is_err(), "a commit");
        assert!(with(response, 40, 1).is_err(), "more batches than there are numbers");
        assert!(with(response, 40, u64::MAX).is_err(), "a raft index");
        for count in [0_u32, 1, 3, 4096, u32::MAX] {
            let mut bytes = joined(response).to_vec();
            bytes[4..8].copy_from_slice(&count.to_le_bytes());
            assert!(Message::decode(Bytes::from(bytes)).is_err(), "{count} batches");
        }
    }
}
