//! Calls that do not block: for each call that waits for the node, one that returns a future.
//!
//! None of them needs a runtime or a thread of its own: the engine wakes the task. None keeps the
//! node running, and each can be dropped at any moment.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::DLedger;
use crate::engine::{Command, Input};
use crate::entry::NodeId;
use crate::error::{
    AppendError, BarrierError, PurgeError, ReadError, ShutdownError, TransferError,
};
use crate::fork::Home;
use crate::future::{AppendFuture, Appended};
use crate::primitives::channel::Sender;
use crate::reply::{Reply, Response};
use crate::sequencer::{Admission, Ticket};
use crate::shared::NodeShared;
use crate::threads::Threads;
use crate::watch::LeaderKnown;

/// # Without blocking
/// Calls for tasks. None of them blocks, and each may be made and polled on any thread, also
/// within a waker that a node calls. The futures are `Send` and `'static`, need no runtime, and
/// resolve also when the node fails or is shut down. They do not keep the node running: it stops
/// when the last handle is dropped, which blocks, so that a task calls
/// [`shutdown_async`](Self::shutdown_async) first. [`Builder::open`](crate::Builder::open), reads
/// and [`backup`](Self::backup) use the disk on the thread that calls them.
impl DLedger {
    /// Appends one payload as soon as there is room for it in the window
    /// ([`Builder::max_in_flight_bytes`](crate::Builder::max_in_flight_bytes)); where
    /// [`append_async`](Self::append_async) is refused with [`AppendError::Busy`], this waits.
    ///
    /// The payload is copied and its place in the queue is taken before this returns, and appends
    /// are served in that order. The queue is one for all that wait, those that block in
    /// [`append`](Self::append) and [`append_batch`](Self::append_batch) included. No append
    /// overtakes it: while one waits, `append_async` is refused, even where there is room for it.
    /// So the entries are in the ledger in the order of these calls. The node itself takes the next
    /// of the queue, so a future that is not polled holds up none behind it. What waits is not part
    /// of the window: a host bounds by itself how many it lets wait.
    ///
    /// A wait for room has no limit of time; once the append is under way it resolves within
    /// `Builder::append_timeout`. Dropped while it waits, the future gives up its place and
    /// nothing is appended; dropped later, the append goes on.
    ///
    /// # Errors
    /// Any [`AppendError`] but `Busy` and `CalledFromWaker`: at once if this node does not lead
    /// or the payload is too large; while it waits, as soon as the node stops leading, has a
    /// fault, lacks room on its disk or is shut down, and then nothing was appended. While the
    /// leadership is handed over it waits. [`AppendError::Forked`] in a forked child; of one that
    /// the parent may append it says so.
    ///
    /// ```
    /// # use dledger::DLedger;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// let dir = home.path().join("ledger");
    /// let ledger = DLedger::builder(1).dir(dir).max_in_flight_bytes(4096).open()?;
    /// let appends: Vec<_> = (0..50).map(|_| ledger.append_when_ready([7; 1000])).collect();
    /// pollster::block_on(async {
    ///     for append in appends {
    ///         append.await?; // four at a time are under way
    ///     }
    ///     ledger.shutdown_async().await?;
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn append_when_ready(&self, payload: impl AsRef<[u8]>) -> AppendWhenReady {
        let shared = &self.node.shared;
        match shared.sequencer.append_when_ready(payload.as_ref()) {
            Admission::Settled(append) => AppendWhenReady { append: Some(append), waits: None },
            Admission::Waits(ticket) => {
                let waits = Some((ticket, shared.clone()));
                AppendWhenReady { append: None, waits }
            }
        }
    }

    /// [`barrier`](Self::barrier) for a task. It is asked for when this is called. Dropped, the
    /// future asks no more, and nothing else happens.
    ///
    /// # Errors
    /// As those of [`barrier`](Self::barrier), but never `CalledFromWaker`. `TimedOut` and
    /// `Refused` may come up to a heartbeat interval late.
    pub fn barrier_async(&self) -> ResponseFuture<u64, BarrierError> {
        let (id, timeout) = (self.next_barrier(), Some(self.node.append_timeout));
        let barrier = |reply| Command::Barrier { id, timeout, reply };
        let mut future = self.ask(|| BarrierError::Forked, || Err(BarrierError::Stopped), barrier);
        future.barrier = future.response.as_ref().map(|_| (id, self.node.inputs.clone()));
        future
    }

    /// [`purge`](Self::purge) for a task. It is asked for when this is called: dropped, the
    /// future leaves open whether the log is purged.
    ///
    /// # Errors
    /// As those of [`purge`](Self::purge), but never `CalledFromWaker`.
    pub fn purge_async(&self, index: u64) -> ResponseFuture<u64, PurgeError> {
        let purge = |reply| Command::Purge { index, reply };
        self.ask(|| PurgeError::Forked, || Err(PurgeError::Stopped), purge)
    }

    /// [`transfer_leadership`](Self::transfer_leadership) for a task. It is asked for when this is
    /// called: dropped, the future leaves open who leads.
    ///
    /// # Errors
    /// As those of [`transfer_leadership`](Self::transfer_leadership), but never `CalledFromWaker`.
    pub fn transfer_leadership_async<N>(&self, to: N) -> ResponseFuture<(), TransferError>
    where
        N: Into<NodeId>,
    {
        let to = to.into();
        let transfer = |reply| Command::Transfer { to, reply };
        self.ask(|| TransferError::Forked, || Err(TransferError::Stopped), transfer)
    }

    /// [`shutdown`](Self::shutdown) for a task: the node begins to stop when this is called, and
    /// the future is ready when the log is closed and free to be opened again, and every thread
    /// has ended its work. Idempotent; each call is answered. Dropped, the future stops nothing
    /// of that.
    ///
    /// A leader hands the leadership over first, as with `shutdown`. To drop the last handle
    /// before the future is ready blocks until the node has stopped, and does not hand over.
    ///
    /// # Errors
    /// As those of [`shutdown`](Self::shutdown).
    pub fn shutdown_async(&self) -> ShutdownFuture {
        let hand_over = Some(self.node.handover_timeout);
        // If the engine is gone, the node is closed.
        let stop = |reply| Command::Stop { hand_over, reply };
        let response = self.ask(|| ShutdownError::Forked, || Ok(()), stop);
        ShutdownFuture { response, outcome: None, threads: self.node.threads.clone(), key: None }
    }

    /// Ready once the entry at `index` can be read here: [`get`](Self::get) then finds it. Any
    /// number of tasks may wait, for any index, on a node in any role. It waits as long as that
    /// takes, and does not ask the leader (see [`barrier_async`](Self::barrier_async)). Dropped,
    /// the future only stops waiting.
    ///
    /// # Errors
    /// [`ReadError::Purged`] if the entry was given up by retention. While it waits, or at once:
    /// [`ReadError::Stopped`] if the node is shut down, [`ReadError::Failed`] if it has a fault
    /// and will not see the entry, [`ReadError::Forked`] in a forked child. A node that is full
    /// or under repair goes on by itself, and so does the wait.
    pub fn committed_past(&self, index: u64) -> CommittedPast {
        CommittedPast { shared: self.node.shared.clone(), index, key: None }
    }

    /// Ready once this node knows who leads its group, at once if it does: the leader, which may
    /// be this node, once it takes appends. `None` once the node is stopped or has a fault, and
    /// in a forked child. It waits as long as that takes; dropped, it only stops waiting. See
    /// [`wait_for_leader`](Self::wait_for_leader) for a thread.
    pub fn leader_async(&self) -> impl Future<Output = Option<NodeId>> + Send + Unpin + use<> {
        LeaderKnown::new(self.node.shared.clone())
    }

    /// Asks the engine, unless this is a forked child.
    fn ask<T, E>(
        &self,
        forked: fn() -> E,
        unanswered: fn() -> Result<T, E>,
        request: impl FnOnce(Reply<Result<T, E>>) -> Command,
    ) -> ResponseFuture<T, E> {
        let home = self.node.shared.home;
        let response = home.is_here().then(|| {
            let (reply, response) = self.node.reply();
            self.node.command(request(reply));
            response
        });
        ResponseFuture { home, response, forked, unanswered, barrier: None }
    }
}

/// One append that is under way, or waits for room to be. Made by
/// [`DLedger::append_when_ready`].
///
/// Dropped while it waits, it gives up its place in the line and nothing is appended. Dropped
/// later, the append goes on, and only its outcome is lost.
#[must_use = "an append that waits is taken back when this is dropped: await it"]
pub struct AppendWhenReady {
    /// Nothing, while it waits.
    append: Option<AppendFuture>,
    waits: Option<(Ticket, Arc<NodeShared>)>,
}

impl Future for AppendWhenReady {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some((ticket, shared)) = &self.waits {
            if !shared.home.is_here() {
                // The line is the parent's, which goes on to serve it.
                return Poll::Ready(Err(AppendError::Forked { under_way: true }));
            }
            let Poll::Ready(append) = ticket.poll(context.waker()) else { return Poll::Pending };
            (self.append, self.waits) = (Some(append), None);
        }
        let append = self.append.as_mut().expect("what does not wait is under way or refused");
        Pin::new(append).poll(context)
    }
}

impl Drop for AppendWhenReady {
    fn drop(&mut self) {
        if let Some((ticket, shared)) = &self.waits {
            shared.sequencer.leave(ticket);
        }
    }
}

impl fmt::Debug for AppendWhenReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendWhenReady").field("append", &self.append).finish_non_exhaustive()
    }
}

/// What a node answers to a request of a task: [`DLedger::barrier_async`],
/// [`DLedger::purge_async`], [`DLedger::transfer_leadership_async`]. The request is made when
/// this is; what becomes of it if this is dropped is said there.
#[must_use = "a request may fail: await the answer, or drop it on purpose"]
pub struct ResponseFuture<T, E> {
    home: Home,
    /// Nothing, in a forked child.
    response: Option<Response<Result<T, E>>>,
    forked: fn() -> E,
    /// The answer of a node that is gone.
    unanswered: fn() -> Result<T, E>,
    /// The barrier to be forgotten when the caller no longer waits for it.
    barrier: Option<(u64, Sender<Input>)>,
}

impl<T, E> Future for ResponseFuture<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, E>> {
        let Some(response) = self.response.as_ref().filter(|_| self.home.is_here()) else {
            return Poll::Ready(Err((self.forked)()));
        };
        let Poll::Ready(answer) = response.poll(context.waker()) else { return Poll::Pending };
        self.barrier = None;
        Poll::Ready(answer.unwrap_or_else(self.unanswered))
    }
}

impl<T, E> Drop for ResponseFuture<T, E> {
    fn drop(&mut self) {
        match self.barrier.take() {
            Some((id, inputs)) if self.home.is_here() => {
                let _ = inputs.send(Input::Command(Command::ForgetBarrier { id }));
            }
            // The last one of a channel takes its lock.
            barrier => std::mem::forget(barrier),
        }
    }
}

impl<T, E> fmt::Debug for ResponseFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A node that is being stopped. Made by [`DLedger::shutdown_async`]. Dropped, it stops nothing
/// of that.
#[must_use = "a shutdown may fail: await it, or drop it on purpose"]
pub struct ShutdownFuture {
    response: ResponseFuture<(), ShutdownError>,
    /// The answer of the engine. Its threads may not have ended yet.
    outcome: Option<Result<(), ShutdownError>>,
    threads: Threads,
    key: Option<u64>,
}

impl Future for ShutdownFuture {
    type Output = Result<(), ShutdownError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ShutdownFuture { response, outcome, threads, key } = &mut *self;
        if !response.home.is_here() {
            return Poll::Ready(Err(ShutdownError::Forked));
        }
        if outcome.is_none() {
            match Pin::new(response).poll(context) {
                Poll::Ready(answer) => *outcome = Some(answer),
                Poll::Pending => return Poll::Pending,
            }
        }
        match threads.poll_ended(context.waker(), key) {
            Poll::Ready(()) => Poll::Ready(outcome.clone().unwrap_or(Ok(()))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl fmt::Debug for ShutdownFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownFuture").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl Drop for ShutdownFuture {
    fn drop(&mut self) {
        self.threads.forget(self.key);
    }
}

/// Waits for the commit of an entry. Made by [`DLedger::committed_past`].
#[derive(Debug)]
#[must_use = "it waits only while it is awaited"]
pub struct CommittedPast {
    shared: Arc<NodeShared>,
    index: u64,
    key: Option<u64>,
}

impl Future for CommittedPast {
    type Output = Result<(), ReadError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let CommittedPast { shared, index, key } = &mut *self;
        if !shared.home.is_here() {
            return Poll::Ready(Err(ReadError::Forked));
        }
        let polled = shared.watermark.poll_past(*index, context.waker(), key);
        let Poll::Ready(is_committed) = polled else { return Poll::Pending };
        let (index, first) = (*index, shared.reader.base().point.next_index);
        Poll::Ready(match is_committed {
            _ if shared.watermark.is_closed() => Err(ReadError::Stopped),
            false => Err(ReadError::Failed { reason: shared.fault() }),
            true if index < first => Err(ReadError::Purged { index, first }),
            true => Ok(()),
        })
    }
}

impl Drop for CommittedPast {
    fn drop(&mut self) {
        self.shared.watermark.forget(self.index, self.key);
    }
}
