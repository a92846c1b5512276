//! The batch that names a group: a control record with the unique id of the group.
//!
//! A leader that knows of no id proposes one as the first batch of its term, beside Raft's empty
//! one. The first such batch of the log is the one that counts: see
//! [`replica::group_uid`](crate::replica).

use bytes::Bytes;

use super::layout::{BATCH_HEADER_BYTES, KIND_GROUP, read_u32};

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

/// The id in the body of such a batch. `None` if no node writes such a body.
pub(super) fn decode(body: &[u8]) -> Option<u128> {
    let body: &[u8; BATCH_HEADER_BYTES] = body.try_into().ok()?;
    let id = &body[UID_AT..CRC_AT];
    let has_zeros = [&body[1..UID_AT], &body[CRC_AT + 4..]].concat().iter().all(|byte| *byte == 0);
    let is_sound =
        body[0] == KIND_GROUP && has_zeros && read_u32(body, CRC_AT) == crc32fast::hash(id);
    let uid = u128::from_le_bytes(id.try_into().ok()?);
    Some(uid).filter(|uid| is_sound && *uid != 0)
}
