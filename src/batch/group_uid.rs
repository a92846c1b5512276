//! The batch that names a group: a control record with the unique id of the group.
//!
//! A leader that knows of no id proposes one as the first batch of its term, beside Raft's empty
//! one. The first such batch of the log is the one that counts: see
//! [`replica::group_uid`](crate::replica).

use bytes::Bytes;

use super::layout::{BATCH_HEADER_BYTES, KIND_GROUP, read_u32};
use super::{Batch, BatchError};

const UID_AT: usize = 8;
const CRC_AT: usize = 24;

/// The body of a batch that proposes `uid` for the group.
pub(crate) fn group_uid_body(uid: u128) -> Bytes {
    assert_ne!(uid, 0, "0 says that the id is not known");
    let mut body = [0; BATCH_HEADER_BYTES];
    body[0] = KIND_GROUP;
    body[UID_AT..CRC_AT].copy_from_slice(&uid.to_le_bytes());
    let crc = crc32fast::hash(&body[UID_AT..CRC_AT]);
    body[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    Bytes::copy_from_slice(&body)
}

/// The id in the body of such a batch.
pub(super) fn decode(body: &[u8]) -> Result<u128, BatchError> {
    let invalid = Err(BatchError::Malformed("a batch that names a group, but not as it should"));
    let Ok(body) = <&[u8; BATCH_HEADER_BYTES]>::try_from(body) else { return invalid };
    let id = &body[UID_AT..CRC_AT];
    let has_zeros = [&body[1..UID_AT], &body[CRC_AT + 4..]].concat().iter().all(|byte| *byte == 0);
    if body[0] != KIND_GROUP || !has_zeros || read_u32(body, CRC_AT) != crc32fast::hash(id) {
        return invalid;
    }
    let uid = u128::from_le_bytes(id.try_into().expect("16 bytes"));
    if uid == 0 { invalid } else { Ok(uid) }
}

impl Batch {
    /// The unique id that this batch proposes for its group, if it is one that does.
    pub fn group_uid(&self) -> Option<u128> {
        match self.body.first() {
            Some(&KIND_GROUP) => decode(&self.body).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::LogPoint;

    #[test]
    fn an_id_comes_back_and_one_changed_bit_is_seen() {
        let body = group_uid_body(7 << 100 | 5);
        let batch = Batch::new(2, 1, body.clone()).unwrap();
        assert_eq!((batch.group_uid(), batch.count()), (Some(7 << 100 | 5), 0));
        assert_eq!((batch.first_index(), batch.entry(0).unwrap()), (None, None));
        assert!(crate::batch::find(&body, 0).unwrap().is_none());
        batch.verify().unwrap();
        for bit in 0..8 * body.len() {
            let mut changed = body.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Batch::new(2, 1, changed.into()).is_err(), "bit {bit}");
        }
        for len in 1..body.len() {
            assert!(Batch::new(2, 1, body.slice(..len)).is_err(), "{len} bytes");
        }
        assert!(Batch::new(2, 1, [&body[..], &[0]].concat().into()).is_err());
        assert_eq!(Batch::new(2, 1, Bytes::new()).unwrap().group_uid(), None);
        let nothing = [&[KIND_GROUP][..], &[0; 31]].concat();
        assert!(Batch::new(2, 1, nothing.into()).is_err(), "0 is the id of no group");
    }

    #[test]
    fn it_takes_no_index_and_counts_in_the_chain() {
        let before = LogPoint { raft_index: 1, term: 1, next_index: 9, ..LogPoint::INITIAL };
        let after = |uid| {
            let batch = Batch::new(2, 1, group_uid_body(uid)).unwrap();
            batch.point_after(&before).unwrap()
        };
        assert_eq!(after(5), LogPoint { raft_index: 2, chain: after(5).chain, ..before });
        assert_ne!(after(5).chain, after(6).chain);
    }
}
