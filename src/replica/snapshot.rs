//! Snapshots without state: if the leader has purged the next batch of a follower, the follower's
//! log is reset to the first batch that the leader keeps.
//!
//! There is no state to transfer, for the log is the state. A snapshot carries a base: the log
//! point before the leader's first batch, and the membership there. The membership and Raft's own
//! numbers are in raft-rs's fields; this file encodes the rest.

use crate::storage::LogPoint;

/// Version, then the fields of a log point that Raft's snapshot metadata does not carry: index,
/// position, timestamp, chain. Then the unique id of the group, 0 if it is not known.
const BYTES: usize = UID_AT + 16;
const UID_AT: usize = 1 + 8 + 8 + 8 + 4;
const VERSION: u8 = 2;

/// Fields beyond this are invalid; sums of smaller ones do not overflow.
const FIELD_LIMIT: u64 = 1 << 62;

pub(crate) fn encode(point: &LogPoint, group_uid: u128) -> Vec<u8> {
    let mut data = Vec::with_capacity(BYTES);
    data.push(VERSION);
    data.extend_from_slice(&point.next_index.to_le_bytes());
    data.extend_from_slice(&point.next_position.to_le_bytes());
    data.extend_from_slice(&point.timestamp.to_le_bytes());
    data.extend_from_slice(&point.chain.to_le_bytes());
    data.extend_from_slice(&group_uid.to_le_bytes());
    data
}

/// The log point of a snapshot at `raft_index` and `term`. `None` if this version does not write
/// such bytes.
pub(crate) fn decode(raft_index: u64, term: u64, data: &[u8]) -> Option<LogPoint> {
    let data: &[u8; BYTES] = data.try_into().ok()?;
    let field_at = |at: usize| {
        let mut field = [0; 8];
        field.copy_from_slice(&data[at..at + 8]);
        u64::from_le_bytes(field)
    };
    let chain = u32::from_le_bytes([data[25], data[26], data[27], data[28]]);
    let point = LogPoint {
        raft_index,
        term,
        next_index: field_at(1),
        next_position: field_at(9),
        timestamp: field_at(17),
        chain,
    };
    let sane = data[0] == VERSION
        && point.next_index.max(point.next_position).max(point.timestamp) < FIELD_LIMIT;
    sane.then_some(point)
}

/// The unique id of the group in such bytes. 0: it is not known.
pub(crate) fn group_uid(data: &[u8]) -> u128 {
    let uid = data.get(UID_AT..).and_then(<[u8]>::first_chunk);
    uid.map_or(0, |uid| u128::from_le_bytes(*uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_survives_the_journey_and_nonsense_does_not() {
        let point = LogPoint {
            raft_index: 9,
            term: 3,
            next_index: 100,
            next_position: 1 << 40,
            timestamp: 7,
            chain: 0xdead_beef,
        };
        let data = encode(&point, 5 << 90);
        assert_eq!((decode(9, 3, &data), group_uid(&data)), (Some(point), 5 << 90));
        assert_eq!(group_uid(&[]), 0);
        assert_eq!(decode(9, 3, &data[1..]), None);
        let mut other_version = data.clone();
        other_version[0] = 1;
        assert_eq!(decode(9, 3, &other_version), None);
        let mut huge = data;
        huge[8] = 0xff;
        assert_eq!(decode(9, 3, &huge), None);
        let largest =
            |position| decode(9, 3, &encode(&LogPoint { next_position: position, ..point }, 0));
        assert!(largest(FIELD_LIMIT - 1).is_some() && largest(FIELD_LIMIT).is_none());
    }
}
