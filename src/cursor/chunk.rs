//! Many entries at once.

use std::time::Duration;

use super::{Cursor, Tail, committed};
use crate::batch::{Batch, EntryRun};
use crate::entry::Entry;
use crate::error::ReadError;
use crate::primitives::Instant;
use crate::wakers::is_in_waker;

impl Tail {
    /// The next entries, as many as are committed and as fit: at most `max_entries`, and at most
    /// `max_bytes` bytes of payload together. If there is any, there is at least one entry, however
    /// long it is, and whatever the limits are. Empty if none was committed within `timeout`.
    ///
    /// It waits for the first entry alone, for `timeout` at most: with a timeout of zero it does
    /// not block, and one that the clock cannot express never passes. Then it takes what is there
    /// and does not wait for more. So a reader that is behind gets long chunks and catches up, and
    /// one that is in step gets each entry as soon as it is committed. Entries of one length are
    /// verified in one pass, and a wait, a time or a limit is looked at once for all of them, where
    /// [`next`](Iterator::next) and [`next_timeout`](Self::next_timeout) do so for each.
    ///
    /// A chunk takes 64 bytes for each entry; the payloads stay where they are in the log (see
    /// [`Entry`]).
    ///
    /// May be mixed with `next`, [`next_timeout`](Self::next_timeout) and [`seek`](Self::seek).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// # let ledger = dledger::DLedger::builder(1).dir(home.path().join("log")).open()?;
    /// use std::time::Duration;
    ///
    /// ledger.append_batch(["a", "b", "c"])?;
    /// let mut tail = ledger.tail(0);
    /// let chunk = tail.next_chunk(1024, 1 << 20, Duration::from_secs(1))?;
    /// assert_eq!(chunk.len(), 3);
    /// assert!(tail.next_chunk(1024, 1 << 20, Duration::ZERO)?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`next_timeout`](Self::next_timeout), about the first entry. An error behind it
    /// only ends the chunk: the next call returns it. Every call retries the entry after the last
    /// one that was returned.
    pub fn next_chunk(
        &mut self,
        max_entries: usize,
        max_bytes: usize,
        timeout: Duration,
    ) -> Result<Vec<Entry>, ReadError> {
        self.cursor.clear_error();
        match self.wait(timeout)? {
            true => self.cursor.read_chunk(max_entries, max_bytes),
            false => Ok(Vec::new()),
        }
    }

    /// Waits until the next entry is committed (true), or `timeout` has passed (false).
    fn wait(&self, timeout: Duration) -> Result<bool, ReadError> {
        let (shared, next) = (&self.cursor.shared, self.cursor.next);
        if !shared.home.is_here() {
            return Err(ReadError::Forked);
        }
        if shared.watermark.is_closed() {
            return Err(ReadError::Stopped);
        }
        if shared.watermark.end() > next {
            return Ok(true);
        }
        if is_in_waker() {
            return Err(ReadError::CalledFromWaker);
        }
        let is_there = shared.watermark.wait_past(next, Instant::now().checked_add(timeout));
        match is_there {
            _ if shared.watermark.is_closed() => Err(ReadError::Stopped),
            false if shared.watermark.is_stuck() => {
                Err(ReadError::Failed { reason: shared.fault() })
            }
            is_there => Ok(is_there),
        }
    }
}

impl Cursor {
    /// The entries from the next one on that are committed, within these limits; at least one.
    ///
    /// # Errors
    /// What is wrong with the first one. Those before the first wrong one are returned.
    pub(super) fn read_chunk(
        &mut self,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        let reach = self.next.saturating_add(entries_max.max(1) as u64);
        let end = self.shared.watermark.end().min(reach);
        let mut run = EntryRun::new(bytes_max as u64);
        while self.next < end {
            match self.extend(&mut run, end) {
                Ok(true) => {}
                Err(error) if run.entries.is_empty() => return Err(error),
                Ok(false) | Err(_) => break,
            }
        }
        Ok(run.entries)
    }

    /// Adds what the batch of the next entry holds. Returns whether there may be room for more.
    fn extend(&mut self, run: &mut EntryRun, end: u64) -> Result<bool, ReadError> {
        let held = self.batch.take().filter(|batch| holds(batch, self.next));
        let was_held = held.is_some();
        let batch = match held {
            Some(batch) => batch,
            None => self.read_batch()?,
        };
        let read = batch.read_run(self.next..end, &mut self.ahead.shift, run);
        self.next = run.entries.last().map_or(self.next, |last| last.index() + 1);
        match read {
            Ok(next) => {
                // The batch has more, and it did not fit.
                let has_room = next >= end || batch.end_index().is_some_and(|end| next >= end);
                self.batch = Some(batch);
                Ok(has_room)
            }
            // The log may have been repaired since the batch was read.
            Err(_) if was_held => Ok(true),
            Err(error) => Err(ReadError::Damaged { index: self.next, reason: error.to_string() }),
        }
    }

    fn read_batch(&mut self) -> Result<Batch, ReadError> {
        if self.shared.watermark.is_closed() {
            return Err(ReadError::Stopped);
        }
        self.ahead.forget();
        let batch = committed(self.shared.reader.batch_containing(self.next), self.next)?;
        match holds(&batch, self.next) {
            true => Ok(batch),
            false => Err(ReadError::Damaged {
                index: self.next,
                reason: "the batch found for it does not hold it".to_owned(),
            }),
        }
    }
}

fn holds(batch: &Batch, index: u64) -> bool {
    batch.first_index().is_some_and(|first| first <= index)
        && batch.end_index().is_some_and(|end| index < end)
}
