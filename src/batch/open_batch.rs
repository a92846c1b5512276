//! A batch while it is filled.

use bytes::Bytes;

use super::layout::{
    BATCH_HEADER_BYTES, BODY_BYTES_MAX, KIND_ENTRIES, TABLE_ENTRY_BYTES, index_mask, read_u32,
};

/// A batch that is still being filled.
#[derive(Clone, Debug)]
pub(crate) struct OpenBatch {
    /// Room for the header, then the payloads. The table is appended when the batch closes.
    body: Vec<u8>,
    table: Vec<u8>,
}

impl OpenBatch {
    /// An empty batch with room for about `bytes` of payload and table.
    pub(crate) fn with_capacity(bytes: usize) -> OpenBatch {
        let mut body = Vec::with_capacity(BATCH_HEADER_BYTES + bytes);
        body.resize(BATCH_HEADER_BYTES, 0);
        OpenBatch { body, table: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn count(&self) -> u32 {
        (self.table.len() / TABLE_ENTRY_BYTES) as u32
    }

    /// Bytes of payload so far.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.body.len() - BATCH_HEADER_BYTES
    }

    /// Its bytes once it is closed, without the header.
    pub(crate) fn closed_bytes(&self) -> usize {
        self.payload_bytes() + self.table.len()
    }

    /// Appends a copy of `payload`, whose checksum is `crc`.
    pub(crate) fn push(&mut self, payload: &[u8], crc: u32) {
        self.push_parts(&[payload], crc);
    }

    /// Appends the concatenation of `parts` as one payload. Its checksum is `crc`.
    pub(crate) fn push_parts(&mut self, parts: &[&[u8]], crc: u32) {
        if self.table.is_empty() {
            // The other payloads are probably as large as the first.
            let len = payload_len(parts);
            self.table
                .reserve(self.body.capacity() / (len + TABLE_ENTRY_BYTES) * TABLE_ENTRY_BYTES);
        }
        parts.iter().for_each(|part| self.body.extend_from_slice(part));
        let end = self.payload_bytes();
        assert!(end <= BODY_BYTES_MAX, "the builder limits a batch below the limit of the format");
        let entry = end as u64 | u64::from(crc) << 32;
        self.table.extend_from_slice(&entry.to_le_bytes());
    }

    /// Calls `change` for each payload in turn, with its position in the batch, and sets the
    /// checksum of what it left.
    ///
    /// # Errors
    /// The first one of `change`. The checksums are wrong then.
    pub(crate) fn change_each<E>(
        &mut self,
        mut change: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut start = 0;
        let payloads = &mut self.body[BATCH_HEADER_BYTES..];
        for entry in self.table.chunks_exact_mut(TABLE_ENTRY_BYTES) {
            let end = read_u32(entry, 0) as usize;
            let payload = &mut payloads[start..end];
            change(start as u64, payload)?;
            entry[4..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
            start = end;
        }
        Ok(())
    }

    /// Closes the batch: its first entry has `first_index` and `first_position`.
    pub(crate) fn close(mut self, first_index: u64, first_position: u64, timestamp: u64) -> Bytes {
        assert!(!self.is_empty(), "a batch of no entries would be taken for a control record");
        let count = self.count();
        self.body[0] = KIND_ENTRIES;
        self.body[4..8].copy_from_slice(&count.to_le_bytes());
        self.body[8..16].copy_from_slice(&first_index.to_le_bytes());
        self.body[16..24].copy_from_slice(&first_position.to_le_bytes());
        self.body[24..32].copy_from_slice(&timestamp.to_le_bytes());
        for (entry, index) in self.table.chunks_exact_mut(TABLE_ENTRY_BYTES).zip(first_index..) {
            let crc = read_u32(entry, 4) ^ index_mask(index);
            entry[4..].copy_from_slice(&crc.to_le_bytes());
        }
        self.body.extend_from_slice(&self.table);
        Bytes::from(self.body)
    }
}

/// The length of the concatenation of `parts`, in bytes. Parts may overlap in memory, so the sum
/// may exceed the address space: it saturates.
#[inline]
pub(crate) fn payload_len(parts: &[&[u8]]) -> usize {
    parts.iter().fold(0, |len, part| len.saturating_add(part.len()))
}

/// The checksum of the concatenation of `parts`.
#[inline]
pub(crate) fn payload_crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}
