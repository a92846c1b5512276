//! Types that all modules share: the id of a node, and one entry.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// The number of a node within its group. Chosen by the operator, never 0, never given to another
/// node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        NodeId(id)
    }
}

impl From<NodeId> for u64 {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// Whether this can be the name of a group: 1 to 63 letters, digits, `-` or `_`, beginning with a
/// letter or digit. So it can be the name of a directory too.
pub(crate) fn is_group_name(name: &str) -> bool {
    let is_legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    let begins = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    begins && name.len() <= 63 && name.bytes().all(is_legal)
}

/// One committed payload and its place in the ledger.
///
/// Dereferences to the payload. Cloning shares the bytes. An entry read from a segmented log points
/// into the memory map of its segment and keeps that map alive, so it stays valid after retention
/// removed the file and after the ledger was shut down.
///
/// So an entry of any length keeps the address space of its whole segment
/// (`Builder::segment_bytes`), one mapping of the process, and, once the segment was purged, its
/// disk space. Use [`into_owned`](Self::into_owned) for entries that are kept for long.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub(crate) payload: Bytes,
    pub(crate) index: u64,
    pub(crate) position: u64,
    pub(crate) term: u64,
    pub(crate) timestamp: u64,
}

impl Entry {
    /// The place in the dense numbering of the ledger, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The position of its first byte among the payloads of all entries: the sum of the lengths of
    /// those before this one, after [`Builder::first_position`](crate::Builder::first_position).
    /// The same on every replica.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The term of the leader that appended it.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Milliseconds since 1970 by the leader's clock when the batch closed. Never decreases along
    /// the ledger: after a leader's clock was ahead, later entries have the same time until clocks
    /// have caught up. A node whose clock is more than a minute behind the newest entry logs a
    /// warning.
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// The same entry with a copy of its payload on the heap: it holds no segment any more.
    pub fn into_owned(self) -> Entry {
        Entry { payload: Bytes::copy_from_slice(&self.payload), ..self }
    }

    /// The payload as shared bytes: cloning or slicing it copies nothing.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

impl Deref for Entry {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.payload
    }
}

impl AsRef<[u8]> for Entry {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// Shows the place and the length of the entry, never its bytes: payloads do not belong in logs.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("index", &self.index)
            .field("position", &self.position)
            .field("term", &self.term)
            .field("timestamp", &self.timestamp)
            .field("len", &self.payload.len())
            .finish()
    }
}
