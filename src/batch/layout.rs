//! The bytes of a batch. All integers are little-endian.
//!
//! ```text
//! body of a batch of entries      body of a control record (the first batch of a leader): empty
//!   0  u8   kind = 1
//!   1  [3]  zero
//!   4  u32  count                n >= 1
//!   8  u64  first index          of the first entry
//!  16  u64  first position       of the first entry
//!  24  u64  timestamp            milliseconds since 1970
//!  32  ...  payloads, back to back
//!   .  n x  { u32 end, u32 crc } the end of payload i, counted from byte 32; the CRC-32 (IEEE) of
//!                                payload i, xor the mask of its index
//!
//! body of the batch that names a group, a control record too
//!   0  u8   kind = 2
//!   1  [7]  zero
//!   8  u128 the unique id of the group, not 0
//!  24  u32  CRC-32 (IEEE) of the id
//!  28  [4]  zero
//! ```
//!
//! The mask binds a checksum to an index: a table that reads as zeros, as lost sectors do, does not
//! pass for entries without a payload, although the CRC-32 of no bytes is 0.
//!
//! The table follows the payloads so that a payload is copied once: from the buffer of the host to
//! its final place.

pub(super) const KIND_ENTRIES: u8 = 1;
pub(super) const KIND_GROUP: u8 = 2;

/// No index, position or timestamp reaches this limit: sums of them never overflow, whatever bytes
/// arrive.
pub(crate) const FIELD_LIMIT: u64 = 1 << 62;

/// Bytes before the first payload of a batch of entries.
pub(crate) const BATCH_HEADER_BYTES: usize = 32;
/// Bytes of an entry in the table.
pub(crate) const TABLE_ENTRY_BYTES: usize = 8;
/// The largest body, in bytes: a limit of the format. Every node accepts, keeps and sends a batch
/// up to this size. The limits of a host bound only its own appends.
pub(crate) const BODY_BYTES_MAX: usize = 96 << 20;

/// Binds the checksum of a payload to its index. 0 for one index in four billion.
#[inline]
pub(crate) fn index_mask(index: u64) -> u32 {
    !((index as u32).wrapping_mul(0x9E37_79B1) ^ (index >> 32) as u32)
}

#[inline]
pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

#[inline]
pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}
