//! Entries in a row, as a reader takes them that takes many at once.

use crate::entry::Entry;

/// Entries in a row, and how many more bytes of payload may be added to them.
#[derive(Debug)]
pub(crate) struct EntryRun {
    pub(crate) entries: Vec<Entry>,
    pub(super) bytes_left: u64,
}

impl EntryRun {
    /// No entries yet, to be filled with at most `bytes_max` bytes of payload.
    pub(crate) fn new(bytes_max: u64) -> EntryRun {
        EntryRun { entries: Vec::new(), bytes_left: bytes_max }
    }

    /// How many entries of this length may be added. One in any case to an empty run.
    pub(super) fn room_for(&self, bytes: usize) -> u64 {
        let least = u64::from(self.entries.is_empty());
        self.bytes_left.checked_div(bytes as u64).map_or(u64::MAX, |count| count.max(least))
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes_left = self.bytes_left.saturating_sub(entry.payload.len() as u64);
        self.entries.push(entry);
    }
}
