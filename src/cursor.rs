//! Reads of a host: one committed entry, or a sequence. Run on the host's thread, and share no lock
//! with the writer.

pub(crate) mod by_position;
mod chunk;
#[cfg(feature = "stream")]
mod stream;

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "stream")]
pub use self::stream::{ChunkStream, TailStream};
use crate::batch::{Batch, BatchError, CrcShift, EntryLocation};
use crate::entry::Entry;
use crate::error::ReadError;
use crate::primitives::Instant;
use crate::shared::NodeShared;
use crate::storage::StorageError;
use crate::wakers::is_in_waker;

/// Reads committed entries in order. Made by [`DLedger::read`](crate::DLedger::read).
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<NodeShared>,
    next: u64,
    /// The batch that holds the last entry read, and probably the next.
    batch: Option<Batch>,
    ahead: CheckAhead,
    failed: bool,
    /// The last call returned a temporary error. The next one ends, and those after it retry.
    paused: bool,
}

impl Cursor {
    pub(crate) fn new(shared: Arc<NodeShared>, from: u64) -> Cursor {
        Cursor {
            shared,
            next: from,
            batch: None,
            ahead: CheckAhead::new(from),
            failed: false,
            paused: false,
        }
    }

    /// Clears an error that was returned.
    fn clear_error(&mut self) {
        (self.failed, self.paused) = (false, false);
    }

    fn seek(&mut self, index: u64) {
        self.clear_error();
        (self.next, self.batch, self.ahead) = (index, None, CheckAhead::new(index));
    }

    /// The result when there is nothing to read.
    #[cold]
    fn end(&mut self) -> Option<Result<Entry, ReadError>> {
        self.paused = false;
        if self.failed || self.shared.home.is_here() {
            return None;
        }
        self.failed = true;
        Some(Err(ReadError::Forked))
    }

    /// Reads the batch of the next entry, and that entry. Also if the held batch cannot return it:
    /// the log may have been repaired since.
    #[cold]
    fn fetch(&mut self) -> Option<Result<Entry, ReadError>> {
        if self.shared.watermark.is_closed() {
            return Some(Err(ReadError::Stopped));
        }
        let batch = match committed(self.shared.reader.batch_containing(self.next), self.next) {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error)),
        };
        let entry = entry_in(&batch, self.next);
        self.ahead.forget();
        self.batch = Some(batch);
        Some(entry)
    }
}

/// Bytes of payload that are checked ahead at most, so that they are still in the L1 cache when
/// they are read. With 64 KiB a log in memory was read a sixth slower. Payloads longer than 1 KiB
/// are checked one by one: too few fit in here, and there is less to gain.
const CHECK_AHEAD_BYTES_MAX: usize = 16 << 10;

/// Entries that are read before any are checked ahead.
const CHECK_AHEAD_AFTER: u64 = 16;

/// The entries of its batch that a reader has checked ahead.
#[derive(Debug)]
struct CheckAhead {
    /// The index after the entries that `is_checked` covers.
    decided: u64,
    /// Whether their payloads were checked. If not, they are checked one by one.
    is_checked: bool,
    shift: Option<CrcShift>,
}

impl CheckAhead {
    fn new(next: u64) -> CheckAhead {
        CheckAhead {
            decided: next.saturating_add(CHECK_AHEAD_AFTER),
            is_checked: false,
            shift: None,
        }
    }

    /// The location of the entry at `index` in `batch`, its payload checked.
    #[inline]
    fn find(&mut self, batch: &Batch, index: u64) -> Result<Option<EntryLocation>, BatchError> {
        if index >= self.decided {
            (self.decided, self.is_checked) =
                batch.check_ahead(index, CHECK_AHEAD_BYTES_MAX, &mut self.shift);
        }
        if self.is_checked { batch.find_checked(index) } else { batch.find(index) }
    }

    /// Another batch is unchecked, also with the same entries.
    fn forget(&mut self) {
        self.is_checked = false;
    }
}

/// Ends after the first error. After one that is
/// [temporary](crate::storage::StorageError::is_temporary), for example for want of a file
/// descriptor, it retries the same entry after the `None`.
impl Iterator for Cursor {
    type Item = Result<Entry, ReadError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed
            || self.paused
            || self.next >= self.shared.watermark.end()
            || !self.shared.home.is_here()
        {
            return self.end();
        }
        if let Some(batch) = &self.batch
            && !self.shared.watermark.is_closed()
            && let Ok(Some(found)) = self.ahead.find(batch, self.next)
        {
            self.next += 1;
            // Made in place: to move it there afterwards takes longer than to make it.
            return Some(Ok(batch.entry_in(self.next - 1, found)));
        }
        let entry = self.fetch();
        match &entry {
            Some(Ok(_)) => self.next += 1,
            Some(Err(ReadError::Storage(error))) if error.is_temporary() => self.paused = true,
            _ => self.failed = true,
        }
        entry
    }
}

/// Reads committed entries in order and waits for more. Made by
/// [`DLedger::tail`](crate::DLedger::tail).
///
/// [`next_timeout`](Self::next_timeout) distinguishes a timeout from an end, and can be called
/// again after every error. The iterator blocks without a timeout, and ends after the first error.
///
/// # Entries that are not kept
/// A reader that is slower than retention gets [`ReadError::Purged`]. So does every reader of a
/// node that was *moved forward*: a node that fell so far behind that its leader had purged the
/// entries it lacks begins its log anew at the leader's first retained entry, perhaps far beyond
/// the last one read. No entry is skipped silently: the error contains the first index that is
/// kept, and [`seek`](Self::seek) continues there, if the host can do without the rest.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let ledger = dledger::DLedger::builder(1).dir(home.path().join("log")).open()?;
/// use dledger::ReadError;
/// use std::time::Duration;
///
/// ledger.append("first")?;
/// let mut tail = ledger.tail(0);
/// loop {
///     match tail.next_timeout(Duration::from_millis(10)) {
///         Ok(Some(entry)) => println!("{}: {} bytes", entry.index(), entry.len()),
///         Ok(None) => ledger.shutdown()?, // nothing came in time: this example ends
///         Err(ReadError::Purged { first, .. }) => tail.seek(first),
///         Err(ReadError::Stopped) => break,
///         Err(error) => return Err(error.into()),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tail {
    cursor: Cursor,
}

impl Tail {
    pub(crate) fn new(cursor: Cursor) -> Tail {
        Tail { cursor }
    }

    /// The next entry, or `None` if none was committed within `timeout`. Blocks for that long at
    /// most; with a timeout of zero it does not block. One that the clock cannot express never
    /// passes.
    ///
    /// Every call retries the next entry: it returns an error for as long as its cause lasts.
    ///
    /// # Errors
    /// [`ReadError::Stopped`] once the node was shut down, also if it is while this waits.
    /// [`ReadError::Failed`] at the end of what a node with a fault has committed: nothing more
    /// comes. [`ReadError::Purged`] if the next entry is not kept: see [`seek`](Self::seek).
    /// [`ReadError::Damaged`] and [`ReadError::Storage`] if it cannot be read.
    /// [`ReadError::CalledFromWaker`] if it would have to wait within a waker; other threads can
    /// continue. [`ReadError::Forked`] in a forked child.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Entry>, ReadError> {
        // An error ends only the iterator: clear an earlier one, and that of this call.
        self.cursor.clear_error();
        let outcome = self.next_until(Instant::now().checked_add(timeout));
        self.cursor.clear_error();
        match outcome {
            None if self.cursor.shared.watermark.is_closed() => Err(ReadError::Stopped),
            outcome => outcome.transpose(),
        }
    }

    /// Continues at `index`: the next entry is that one, once it is committed. Forwards or
    /// backwards, also after an error or the end of the iterator. Reads nothing and does not block:
    /// the next read reports an index that is not kept.
    pub fn seek(&mut self, index: u64) {
        self.cursor.seek(index);
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Result<Entry, ReadError>> {
        let shared = &self.cursor.shared;
        if self.cursor.failed || shared.watermark.is_closed() {
            return None;
        }
        if !shared.home.is_here() {
            return self.cursor.next();
        }
        if is_in_waker() && shared.watermark.end() <= self.cursor.next {
            return Some(Err(ReadError::CalledFromWaker));
        }
        if !shared.watermark.wait_past(self.cursor.next, deadline) {
            return self.fault();
        }
        // A shutdown at this moment is an end, not an error.
        self.cursor.next().filter(|entry| !matches!(entry, Err(ReadError::Stopped)))
    }
}

impl Tail {
    /// The end of a tail on a node with a fault, once all committed entries have been read.
    fn fault(&mut self) -> Option<Result<Entry, ReadError>> {
        let shared = &self.cursor.shared;
        if shared.watermark.is_closed() || !shared.watermark.is_stuck() {
            return None;
        }
        let reason = shared.fault();
        self.cursor.failed = true;
        Some(Err(ReadError::Failed { reason }))
    }
}

/// Blocks. Ends when the node is shut down, or after the first error, which is the last item.
/// Continues after a [temporary](crate::storage::StorageError::is_temporary) error, and after
/// [`Tail::seek`].
impl Iterator for Tail {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None)
    }
}

/// The entry at `index`, if it is committed here.
///
/// Not in a forked child, although the maps could be read there: an entry of the child does not
/// keep the parent from recycling its file.
pub(crate) fn get(shared: &NodeShared, index: u64) -> Result<Option<Entry>, ReadError> {
    readable(shared)?;
    let end = shared.watermark.end();
    if index >= end {
        return Ok(None);
    }
    committed(shared.reader.entry(index), index).map(Some)
}

/// Whether the node can be read at all.
#[inline]
fn readable(shared: &NodeShared) -> Result<(), ReadError> {
    match shared.home.is_here() {
        false => Err(ReadError::Forked),
        true if shared.watermark.is_closed() => Err(ReadError::Stopped),
        true => Ok(()),
    }
}

fn damaged(index: u64, reason: impl Into<String>) -> ReadError {
    ReadError::Damaged { index, reason: reason.into() }
}

/// The result of the search for a committed entry.
fn committed<T>(found: Result<Option<T>, StorageError>, index: u64) -> Result<T, ReadError> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(ReadError::Damaged {
            index,
            reason: "the log no longer reaches this committed entry".to_owned(),
        }),
        Err(StorageError::Purged { first }) => Err(ReadError::Purged { index, first }),
        Err(error @ StorageError::Corrupt { .. }) => {
            Err(ReadError::Damaged { index, reason: error.to_string() })
        }
        Err(error) => Err(ReadError::Storage(error)),
    }
}

fn entry_in(batch: &Batch, index: u64) -> Result<Entry, ReadError> {
    match batch.entry(index) {
        Ok(Some(entry)) => Ok(entry),
        Ok(None) => Err(ReadError::Damaged {
            index,
            reason: "the batch found for it does not hold it".to_owned(),
        }),
        Err(error) => Err(ReadError::Damaged { index, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{LogPoint, OpenBatch};
    use crate::entry::NodeId;
    use crate::primitives::atomic::{AtomicBool, Ordering};
    use crate::role::Membership;
    use crate::sequencer::{Limits, Sequencer};
    use crate::storage::{Base, DirectoryIdentity, HardState, LogReader, Recovered};

    /// A log of one batch of a hundred entries, one of which is corrupt until it is repaired.
    struct Repairable {
        corrupt: u64,
        is_repaired: AtomicBool,
    }

    impl LogReader for Repairable {
        fn base(&self) -> Base {
            Base { point: LogPoint::INITIAL, membership: Membership::default() }
        }

        fn batch_containing(&self, _index: u64) -> Result<Option<Batch>, StorageError> {
            Ok(Some(batch(if self.is_repaired.load(Ordering::Relaxed) {
                100
            } else {
                self.corrupt
            })))
        }

        fn batches(
            &self,
            _from: u64,
            _to: u64,
            _bytes_max: u64,
        ) -> Result<Vec<Batch>, StorageError> {
            Ok(self.batch_containing(0)?.into_iter().collect())
        }

        fn point(&self, _raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
            self.batches(2, 3, 0)?[0]
                .point_after(&LogPoint::INITIAL)
                .map(Some)
                .map_err(|_| StorageError::NotContiguous(String::new()))
        }
    }

    /// A hundred entries. The one at index `corrupt`, if any, is corrupt.
    fn batch(corrupt: u64) -> Batch {
        let mut open = OpenBatch::with_capacity(8);
        for index in 0..100 {
            let payload = payload(index);
            open.push(
                &payload,
                crc32fast::hash(if index == corrupt { b"another" } else { &payload }),
            );
        }
        Batch::new(2, 1, open.close(0, 0, 5)).unwrap()
    }

    fn payload(index: u64) -> Vec<u8> {
        vec![index as u8; 1024]
    }

    fn cursor(corrupt: u64) -> (Arc<Repairable>, Cursor) {
        let reader = Arc::new(Repairable { corrupt, is_repaired: AtomicBool::new(false) });
        let recovered = Recovered {
            identity: DirectoryIdentity { directory: 1, incarnation: 1, complete: true },
            hard_state: HardState { term: 1, vote: None, commit: 2 },
            base: reader.base(),
            last: reader.point(2).unwrap().unwrap(),
            peers: Vec::new(),
            group_uid: 0,
            corruption: Vec::new(),
        };
        let sequencer = Sequencer::new(Limits { entry: 9, batch: 9, window: 9 }, || {});
        let shared = Arc::new(
            NodeShared::new("g", NodeId::from(1), &[], "", sequencer, &recovered, reader.clone())
                .unwrap(),
        );
        (reader, Cursor::new(shared, 0))
    }

    #[test]
    fn entries_checked_ahead_are_returned_as_far_as_they_are_intact() {
        for corrupt in 0..=100 {
            let (_, mut cursor) = cursor(corrupt);
            for index in 0..corrupt {
                assert_eq!(
                    *cursor.next().unwrap().unwrap(),
                    payload(index)[..],
                    "{corrupt} is corrupt"
                );
            }
            match cursor.next() {
                Some(Err(ReadError::Damaged { index, .. })) => assert_eq!(index, corrupt),
                end => assert!(end.is_none() && corrupt == 100, "{corrupt} is corrupt: {end:?}"),
            }
            assert!(cursor.next().is_none());
        }
    }

    #[test]
    fn what_was_checked_in_one_batch_is_not_taken_for_checked_in_another() {
        let (mut ahead, first) = (CheckAhead::new(0), CHECK_AHEAD_AFTER);
        assert!(ahead.find(&batch(100), first).unwrap().is_some());
        assert!(ahead.is_checked && ahead.decided > first + 1);
        ahead.forget();
        assert!(ahead.find(&batch(first + 1), first + 1).is_err());
    }

    /// Seed 3009588 once ended with a tail that failed at a repaired entry: it held the batch from
    /// before the repair.
    #[test]
    fn a_reader_that_holds_a_batch_from_before_its_repair_reads_it_again() {
        for corrupt in 1..100 {
            let (reader, mut cursor) = cursor(corrupt);
            (0..corrupt).for_each(|_| drop(cursor.next().unwrap().unwrap()));
            reader.is_repaired.store(true, Ordering::Relaxed);
            for index in corrupt..100 {
                assert_eq!(*cursor.next().unwrap().unwrap(), payload(index)[..]);
            }
        }
    }

    #[test]
    fn a_chunk_ends_before_a_corrupt_entry_tells_it_next_and_goes_on_once_it_is_repaired() {
        for corrupt in 1..100 {
            for first in [1, corrupt as usize] {
                let (reader, cursor) = cursor(corrupt);
                let mut tail = Tail::new(cursor);
                let mut chunk = |entries| tail.next_chunk(entries, usize::MAX, Duration::ZERO);
                assert_eq!(chunk(first).unwrap().len(), first);
                let rest = chunk(1000).map_or(0, |rest| rest.len());
                assert_eq!((first + rest) as u64, corrupt);
                for _ in 0..2 {
                    let told = chunk(1000);
                    assert!(
                        matches!(told, Err(ReadError::Damaged { index, .. }) if index == corrupt),
                        "{told:?}"
                    );
                }
                reader.is_repaired.store(true, Ordering::Relaxed);
                assert_eq!(chunk(1000).unwrap().len() as u64, 100 - corrupt);
            }
            let (reader, cursor) = cursor(corrupt);
            let mut tail = Tail::new(cursor);
            tail.next_chunk(1, usize::MAX, Duration::ZERO).unwrap();
            reader.is_repaired.store(true, Ordering::Relaxed);
            let rest = tail.next_chunk(1000, usize::MAX, Duration::ZERO).unwrap();
            assert_eq!(rest.len(), 99, "it still holds the batch from before the repair");
        }
    }

    #[test]
    fn a_tail_tells_an_error_at_each_call_and_reads_on_once_its_reason_is_gone() {
        let (reader, cursor) = cursor(5);
        let mut tail = Tail::new(cursor);
        tail.seek(5);
        for _ in 0..2 {
            let told = tail.next_timeout(Duration::ZERO);
            assert!(matches!(told, Err(ReadError::Damaged { index: 5, .. })), "{told:?}");
        }
        assert!(tail.next().is_some_and(|told| told.is_err()) && tail.next().is_none());
        reader.is_repaired.store(true, Ordering::Relaxed);
        assert!(tail.next().is_none(), "an iterator that has ended stays so");
        for index in 5..100 {
            assert_eq!(*tail.next_timeout(Duration::ZERO).unwrap().unwrap(), payload(index)[..]);
        }
        assert!(matches!(tail.next_timeout(Duration::ZERO), Ok(None)));
    }
}
