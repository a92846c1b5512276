//! Sleep messages, kinds 17 and 18: a leader puts its idle group to sleep.
//!
//! ```text
//!                   sleep                        asleep
//!   0  u8   version = 1                          the same
//!   1  u8   kind = 17                            18
//!   2  u16  zero, u32 zero                       the same
//!   8  u64  from, to                             the same
//!  24  u64  round                                that of the request
//!  32  u64  term, last                           those of the request
//! ```
//!
//! A leader sends `sleep` to each member that it hears. A follower answers `asleep` if it is
//! exactly there, and does not answer otherwise. Rounds are numbered within a term, so that a late
//! answer to an earlier round does not count.

use std::fmt;

use bytes::Bytes;

use super::wire::{ByteReader, MessageError, TERM_LIMIT, VERSION};
use crate::batch::FIELD_LIMIT;
use crate::entry::NodeId;

pub(super) const SLEEP: u8 = 17;
pub(super) const ASLEEP: u8 = 18;

const BYTES: usize = 48;

/// A message of a leader that puts its group to sleep, or the answer of a follower.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SleepMessage {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) sleep_kind: SleepKind,
    /// Counts the attempts of a leader within its term, from 1.
    pub(crate) round: u64,
    pub(crate) point: SleepPoint,
}

/// The two kinds of sleep messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SleepKind {
    /// From a leader: sleep, if you are at this point.
    Sleep,
    /// From a follower: it is at this point, durably, and sleeps.
    Asleep,
}

/// Where an idle group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SleepPoint {
    pub(crate) term: u64,
    /// The raft index of the last batch. It is of this term, and committed.
    pub(crate) last: u64,
}

impl SleepMessage {
    pub(super) fn encoded_len(&self) -> usize {
        BYTES
    }

    pub(super) fn encode(&self) -> Vec<Bytes> {
        let kind = match self.sleep_kind {
            SleepKind::Sleep => SLEEP,
            SleepKind::Asleep => ASLEEP,
        };
        let SleepPoint { term, last } = self.point;
        let mut bytes = vec![VERSION, kind, 0, 0, 0, 0, 0, 0];
        for number in [self.from.get(), self.to.get(), self.round, term, last] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        vec![bytes.into()]
    }

    /// Reads one, from its version on.
    pub(super) fn read(input: &mut ByteReader) -> Result<SleepMessage, MessageError> {
        let sleep_kind = match input.array()? {
            [VERSION, SLEEP, 0, 0, 0, 0, 0, 0] => SleepKind::Sleep,
            [VERSION, ASLEEP, 0, 0, 0, 0, 0, 0] => SleepKind::Asleep,
            _ => return Err(MessageError("a sleep message that this build does not know")),
        };
        let (from, to) = (NodeId::from(input.u64()?), NodeId::from(input.u64()?));
        let (round, term, last) = (input.u64()?, input.u64()?, input.u64()?);
        if round == 0 || term == 0 || term >= TERM_LIMIT || last == 0 || last >= FIELD_LIMIT {
            return Err(MessageError("a malformed sleep message"));
        }
        Ok(SleepMessage { from, to, sleep_kind, round, point: SleepPoint { term, last } })
    }
}

/// In the format of `Message`: `1->2 sleep t3 at 7 (round 1)`.
impl fmt::Debug for SleepMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SleepMessage { from, to, sleep_kind, round, point: SleepPoint { term, last } } = self;
        let kind = match sleep_kind {
            SleepKind::Sleep => "sleep",
            SleepKind::Asleep => "asleep",
        };
        write!(f, "{from}->{to} {kind} t{term} at {last} (round {round})")
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
    fn a_sleep_message_comes_back_as_it_was_and_no_other_does() {
        for message in Message::sleep_samples(NodeId::from(2), NodeId::from(1)) {
            let bytes = joined(&message);
            assert_eq!(Message::decode(bytes.clone()).as_ref(), Ok(&message));
            assert_eq!(
                (message.from(), message.to(), message.needs_disk(), message.is_urgent()),
                (NodeId::from(2), NodeId::from(1), false, true)
            );
            for len in 0..bytes.len() {
                assert!(Message::decode(bytes.slice(..len)).is_err(), "{len} bytes of {message:?}");
            }
            assert!(Message::decode(Bytes::from([&bytes[..], &[0]].concat())).is_err());
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if let Ok(other) = Message::decode(Bytes::from(flipped.clone())) {
                    assert_eq!(joined(&other), flipped, "a sleep message is written in one way");
                }
            }
        }
    }

    #[test]
    fn numbers_that_no_leader_has_are_refused() {
        let [message, ..] = &Message::sleep_samples(NodeId::from(2), NodeId::from(1))[..] else {
            panic!("one message at least")
        };
        for (at, value) in [
            (24, 0),
            (32, 0),
            (32, TERM_LIMIT),
            (32, u64::MAX),
            (40, 0),
            (40, FIELD_LIMIT),
            (40, u64::MAX),
        ] {
            let mut bytes = joined(message).to_vec();
            bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            assert!(Message::decode(Bytes::from(bytes)).is_err(), "{value} at byte {at}");
        }
    }
}
