//! Tails for tasks: streams that wait by a waker.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::{Cursor, Tail};
use crate::entry::Entry;
use crate::error::ReadError;

impl Tail {
    /// The entries from the next one on, for a task: a stream that is pending while there is no
    /// more to read. It needs no runtime and no thread, and asks for nothing while it waits: the
    /// commit of its next entry wakes the task. Does not keep the node running.
    ///
    /// Needs feature `stream`.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// # let ledger = dledger::DLedger::builder(1).dir(home.path().join("log")).open()?;
    /// use std::future::poll_fn;
    /// use std::pin::Pin;
    ///
    /// use futures_core::Stream;
    ///
    /// ledger.append("first")?;
    /// let mut entries = ledger.tail(0).into_stream();
    /// pollster::block_on(async {
    ///     // Crates as `futures` and `tokio-stream` have a `next` for this.
    ///     let next = poll_fn(|context| Pin::new(&mut entries).poll_next(context)).await;
    ///     assert_eq!(&next.expect("the node runs")?[..], b"first");
    ///     ledger.shutdown_async().await?;
    ///     let end = poll_fn(|context| Pin::new(&mut entries).poll_next(context)).await;
    ///     assert!(end.is_none());
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn into_stream(self) -> TailStream {
        TailStream { waiting: Waiting::new(self.cursor) }
    }

    /// The same in chunks: each item is what [`next_chunk`](Self::next_chunk) would return with
    /// these limits, and never empty. For a task that takes many entries, this costs less than one
    /// by one.
    ///
    /// Needs feature `stream`.
    pub fn into_chunk_stream(self, max_entries: usize, max_bytes: usize) -> ChunkStream {
        ChunkStream { waiting: Waiting::new(self.cursor), max_entries, max_bytes }
    }
}

/// A [`Tail`] as a stream of entries. Made by [`Tail::into_stream`].
///
/// # Errors and the end
/// The first error is the last item, and the stream has ended behind it: it goes on with
/// [`seek`](Self::seek), or as a tail again ([`into_tail`](Self::into_tail)), which retries the
/// same entry. They are those of [`Tail::next_timeout`], but never `CalledFromWaker`. With
/// [`ReadError::Purged`] it is `seek(first)` that goes on where the log begins now, if the host can
/// do without what is gone. With a [temporary](crate::storage::StorageError::is_temporary) error a
/// host waits a little and tries again.
///
/// Shutdown of the node is the end without an error. Polled once more, a stream that has ended is
/// so still.
///
/// # Where it may be polled
/// In any task, and on any thread, also within a waker that a node calls. It reads on the thread
/// that polls it, from the memory map of the log: from the disk, if that part is not in memory.
/// Cancel-safe: a call for the next item that is dropped has taken nothing.
pub struct TailStream {
    waiting: Waiting,
}

/// A [`Tail`] as a stream of chunks, none of them empty. Made by [`Tail::into_chunk_stream`].
///
/// Errors, the end, and where it may be polled: see [`TailStream`].
pub struct ChunkStream {
    waiting: Waiting,
    max_entries: usize,
    max_bytes: usize,
}

/// What both streams do: wait for the next entry of a cursor.
struct Waiting {
    cursor: Cursor,
    /// Where the waker of the task is registered, once it was.
    key: Option<u64>,
    has_ended: bool,
}

impl Waiting {
    fn new(mut cursor: Cursor) -> Waiting {
        cursor.clear_error();
        Waiting { cursor, key: None, has_ended: false }
    }

    /// The next item, which `read` reads once there is one.
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        read: impl FnOnce(&mut Cursor) -> Option<Result<T, ReadError>>,
    ) -> Poll<Option<Result<T, ReadError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let shared = &self.cursor.shared;
        let item = if !shared.home.is_here() {
            Some(Err(ReadError::Forked))
        } else {
            match shared.watermark.poll_past(self.cursor.next, context.waker(), &mut self.key) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(_) if shared.watermark.is_closed() => None,
                Poll::Ready(false) => Some(Err(ReadError::Failed { reason: shared.fault() })),
                Poll::Ready(true) => read(&mut self.cursor),
            }
        };
        // A shutdown at this moment is an end, not an error.
        let item = item.filter(|item| !matches!(item, Err(ReadError::Stopped)));
        self.has_ended = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }

    fn seek(&mut self, index: u64) {
        self.forget();
        self.cursor.seek(index);
        self.has_ended = false;
    }

    /// The task is not woken any more for the entry that it waited for.
    fn forget(&mut self) {
        self.cursor.shared.watermark.forget(self.cursor.next, self.key.take());
    }

    fn into_tail(mut self) -> Tail {
        self.forget();
        let Cursor { shared, next, .. } = &self.cursor;
        Tail { cursor: Cursor::new(shared.clone(), *next) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Stream for TailStream {
    type Item = Result<Entry, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.waiting.poll(context, Cursor::next)
    }
}

impl Stream for ChunkStream {
    type Item = Result<Vec<Entry>, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let ChunkStream { waiting, max_entries, max_bytes } = &mut *self;
        waiting.poll(context, |cursor| Some(cursor.read_chunk(*max_entries, *max_bytes)))
    }
}

impl TailStream {
    /// Continues at `index`, also after an error or the end. As [`Tail::seek`]; a task that waits
    /// for this stream has to poll it again.
    pub fn seek(&mut self, index: u64) {
        self.waiting.seek(index);
    }

    /// The tail again, at the entry that the stream would have returned next.
    pub fn into_tail(self) -> Tail {
        self.waiting.into_tail()
    }
}

impl ChunkStream {
    /// Continues at `index`, also after an error or the end. As [`Tail::seek`]; a task that waits
    /// for this stream has to poll it again.
    pub fn seek(&mut self, index: u64) {
        self.waiting.seek(index);
    }

    /// The tail again, at the entry that the stream would have returned next.
    pub fn into_tail(self) -> Tail {
        self.waiting.into_tail()
    }
}

impl fmt::Debug for TailStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TailStream").field("cursor", &self.waiting.cursor).finish_non_exhaustive()
    }
}

impl fmt::Debug for ChunkStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkStream")
            .field("cursor", &self.waiting.cursor)
            .field("max_entries", &self.max_entries)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}
