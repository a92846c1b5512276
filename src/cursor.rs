//! How a host reads: one committed entry, or a run of them. Done on the host's own thread; no lock is shared with the writer.

use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Batch, BatchError};
use crate::entry::Entry;
use crate::error::ReadError;
use crate::primitives::Instant;
use crate::shared::Shared;
use crate::storage::StorageError;

/// Reads committed entries in order. Made by [`DLedger::read`](crate::DLedger::read).
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    next: u64,
    /// The batch that holds the last entry read, and probably the next.
    batch: Option<Batch>,
    failed: bool,
}

impl Cursor {
    pub(crate) fn new(shared: Arc<Shared>, from: u64) -> Cursor {
        Cursor { shared, next: from, batch: None, failed: false }
    }

    fn entry(&mut self) -> Result<Entry, ReadError> {
        if let Some(batch) = &self.batch
            && let Some(entry) = batch.entry(self.next).map_err(|error| damaged(self.next, error))?
        {
            return Ok(entry);
        }
        let batch = committed(self.shared.reader.batch_with(self.next), self.next)?;
        let entry = entry_in(&batch, self.next)?;
        self.batch = Some(batch);
        Ok(entry)
    }
}

/// Ends after the first error.
impl Iterator for Cursor {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.next >= self.shared.watermark.end() {
            return None;
        }
        let entry = if self.shared.watermark.is_closed() { Err(ReadError::Stopped) } else { self.entry() };
        self.failed = entry.is_err();
        self.next += 1;
        Some(entry)
    }
}

/// Reads committed entries in order and waits for more. Made by [`DLedger::tail`](crate::DLedger::tail).
#[derive(Debug)]
pub struct Tail {
    cursor: Cursor,
}

impl Tail {
    pub(crate) fn new(cursor: Cursor) -> Tail {
        Tail { cursor }
    }

    /// The next entry, or `None` if none was committed within `timeout`, or the node was shut down.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Entry, ReadError>> {
        self.next_until(Instant::now().checked_add(timeout))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Result<Entry, ReadError>> {
        let shared = &self.cursor.shared;
        if self.cursor.failed || shared.watermark.is_closed() || !shared.watermark.wait_past(self.cursor.next, deadline) {
            return None;
        }
        // The node may be shut down at this very moment: that is an end, not an error.
        self.cursor.next().filter(|entry| !matches!(entry, Err(ReadError::Stopped)))
    }
}

/// Blocks. Ends when the node is shut down, or after the first error.
impl Iterator for Tail {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None)
    }
}

/// The entry at `index`, if it is committed here.
pub(crate) fn get(shared: &Shared, index: u64) -> Result<Option<Entry>, ReadError> {
    if shared.watermark.is_closed() {
        return Err(ReadError::Stopped);
    }
    let end = if planted!("what is written is read before it is committed") { shared.status().end_index } else { shared.watermark.end() };
    if index >= end {
        return Ok(None);
    }
    committed(shared.reader.entry(index), index).map(Some)
}

/// What was found of a committed entry.
fn committed<T>(found: Result<Option<T>, StorageError>, index: u64) -> Result<T, ReadError> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(ReadError::Damaged { index, reason: "the log no longer reaches this committed entry".to_owned() }),
        Err(StorageError::Purged { first }) => Err(ReadError::Purged { index, first }),
        Err(error @ StorageError::Damaged { .. }) => Err(ReadError::Damaged { index, reason: error.to_string() }),
        Err(error) => Err(ReadError::Storage(error)),
    }
}

fn entry_in(batch: &Batch, index: u64) -> Result<Entry, ReadError> {
    match batch.entry(index) {
        Ok(Some(entry)) => Ok(entry),
        Ok(None) => Err(ReadError::Damaged { index, reason: "the batch found for it does not hold it".to_owned() }),
        Err(error) => Err(damaged(index, error)),
    }
}

fn damaged(index: u64, error: BatchError) -> ReadError {
    ReadError::Damaged { index, reason: error.to_string() }
}
