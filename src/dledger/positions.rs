//! Reads of the ledger by position and by time.

use std::ops::Range;

use bytes::Bytes;

use super::DLedger;
use crate::cursor::by_position;
use crate::entry::Entry;
use crate::error::ReadError;

/// # Reads by position and by time
/// The payloads of all entries, one behind the other, are one stream of bytes. Its positions begin
/// at [`Builder::first_position`](crate::Builder::first_position), and are the same on every node.
/// Entry `index` holds the bytes from its [`position`](Entry::position) on, as many as it is long;
/// an empty entry holds none.
///
/// | position | is read as |
/// |---|---|
/// | below `positions().start` | [`ReadError::Purged`]: purged, or never part of this ledger |
/// | `positions().start` | the first byte that is kept |
/// | at empty entries | the first byte of the next entry that is not empty |
/// | `positions().end` and above | `None`: not (yet) committed here |
///
/// All of these calls work in every role, see only what is committed, block for nothing but the
/// disk, as [`get`](DLedger::get) does, and may be called within a task or a waker. They search
/// segments, batches and entries in logarithmic time. Where a part of the log is damaged, they read
/// what [`get`](DLedger::get) reads, perhaps slower.
impl DLedger {
    /// The entry that holds the byte at `position`, or `None` if that is not (yet) committed here.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// # let ledger = dledger::DLedger::builder(1).dir(home.path().join("log")).open()?;
    /// ledger.append_batch(["one", "", "three"])?;
    /// let entry = ledger.get_at(3)?.expect("committed");
    /// assert_eq!((entry.index(), entry.position(), &entry[..]), (2, 3, &b"three"[..]));
    /// assert_eq!(ledger.get_at(8)?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`get`](Self::get). `index` of [`ReadError::Purged`] is the last one that is not
    /// kept, and 0 without such a one; `index` of [`ReadError::Damaged`] is that of the damaged
    /// entry, or of one in the same damaged part.
    pub fn get_at(&self, position: u64) -> Result<Option<Entry>, ReadError> {
        by_position::get_at(&self.node.shared, position)
    }

    /// Payload bytes from `position` on, across the bounds of entries: at least one and at most
    /// `max_bytes` (0 counts as 1), up to the end of the batch at most, or `None` if the byte at
    /// `position` is not (yet) committed here. The next ones are at `position` and the length of
    /// what was returned.
    ///
    /// Nothing is copied: the bytes lie in the memory map of their segment and keep it, as an
    /// [`Entry`] does. Every entry that they touch is verified as a whole, so a byte of a large
    /// entry costs as much as that entry. They end before an entry that is damaged; the read that
    /// begins there fails.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// # let ledger = dledger::DLedger::builder(1).dir(home.path().join("log")).open()?;
    /// ledger.append_batch(["one", "", "three"])?;
    /// let mut position = ledger.positions().start;
    /// let mut copy = Vec::new();
    /// while let Some(bytes) = ledger.read_at(position, 64 << 10)? {
    ///     copy.extend_from_slice(&bytes);
    ///     position += bytes.len() as u64;
    /// }
    /// assert_eq!((&copy[..], position), (&b"onethree"[..], ledger.positions().end));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`get_at`](Self::get_at).
    pub fn read_at(&self, position: u64, max_bytes: usize) -> Result<Option<Bytes>, ReadError> {
        by_position::read_at(&self.node.shared, position, max_bytes)
    }

    /// The index of the entry that holds the byte at `position`, or `None` if that is not (yet)
    /// committed here. The entry is verified.
    ///
    /// # Errors
    /// Those of [`get_at`](Self::get_at).
    pub fn index_of(&self, position: u64) -> Result<Option<u64>, ReadError> {
        Ok(self.get_at(position)?.map(|entry| entry.index()))
    }

    /// The position of the entry at `index`: that of its first byte, or of the next byte if it is
    /// empty. `None` if the entry is not (yet) committed here. It is verified.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn position_of(&self, index: u64) -> Result<Option<u64>, ReadError> {
        Ok(self.get(index)?.map(|entry| entry.position()))
    }

    /// The index of the first kept entry whose [timestamp](Entry::timestamp) is `timestamp_ms` or
    /// later, in milliseconds since 1970. `None` if no such entry is committed here (yet).
    ///
    /// Timestamps never decrease along the ledger, whatever the clocks of its leaders do: an entry
    /// that a leader appends with a clock behind gets the time of the entry before it. So every
    /// entry before the returned one is older, every one behind it is not, and a binary search
    /// finds it. Purged entries are left out: the first kept entry may be much later.
    ///
    /// # Errors
    /// Those of [`get`](Self::get), but [`ReadError::Purged`] only if the ledger is purged again
    /// and again during the call.
    pub fn index_at(&self, timestamp_ms: u64) -> Result<Option<u64>, ReadError> {
        by_position::index_at(&self.node.shared, timestamp_ms)
    }

    /// The positions that can be read here: first retained .. first not (yet) known to be
    /// committed. What [`append`](Self::append) returned is below the end on the node that returned
    /// it. Nothing can be read in a forked child: 0..0. Does not block.
    pub fn positions(&self) -> Range<u64> {
        by_position::positions(&self.node.shared)
    }
}
