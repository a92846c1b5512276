//! What all kinds of messages share on the wire: the version, the limits, and a reader of bytes.

use bytes::Bytes;

pub(super) const VERSION: u8 = 1;

/// No term reaches this limit, so that terms are left for elections.
pub(super) const TERM_LIMIT: u64 = 1 << 48;
/// The largest context of a message, in bytes.
pub(super) const CONTEXT_BYTES_MAX: usize = 64;
/// The largest context of a read request, in bytes: a leader prepends a tag of 8 bytes, and sends
/// both as the context of a message.
pub(super) const READ_CONTEXT_BYTES_MAX: usize = CONTEXT_BYTES_MAX - 8;
/// The largest state in a snapshot, in bytes.
pub(super) const SNAPSHOT_DATA_BYTES_MAX: usize = 64 << 10;

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message: {0}")]
pub struct MessageError(pub(crate) &'static str);

/// Reads little-endian fields from the front of some bytes.
pub(super) struct ByteReader {
    bytes: Bytes,
    at: usize,
}

impl ByteReader {
    pub(super) fn new(bytes: Bytes) -> ByteReader {
        ByteReader { bytes, at: 0 }
    }

    /// How many bytes are left.
    pub(super) fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let field =
            self.bytes[self.at..].first_chunk::<N>().copied().ok_or(MessageError("cut short"))?;
        self.at += N;
        Ok(field)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MessageError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, MessageError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, MessageError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The next `len` bytes, shared with the input.
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
