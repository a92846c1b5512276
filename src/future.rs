//! The future of one append. All appends of a batch share one completion: a commit wakes all its
//! waiters at once.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::AppendError;
use crate::fork::Home;
use crate::primitives::Instant;
use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::primitives::broadcast::{Condvar, Mutex};
use crate::spin;
use crate::wakers::{is_in_waker, wake_all};

/// The place of a committed append.
///
/// Of an [`append_batch_async`](crate::DLedger::append_batch_async) without any payload: the place
/// of the next entry at the time of the call, with `term` and `timestamp` 0, for nothing was
/// appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The index of the entry; of the first one if it was a batch.
    pub index: u64,
    /// Its position, in bytes.
    pub position: u64,
    /// The term in which it was appended.
    pub term: u64,
    /// When the leader closed its batch, in milliseconds since 1970 by the leader's clock. The same
    /// as [`Entry::timestamp`](crate::Entry::timestamp) on every node. Never less than that of an
    /// entry before it.
    pub timestamp: u64,
}

/// One pending append, or atomic batch of appends.
///
/// Wait for it with [`wait`](Self::wait), or `.await` it under any executor. Dropping it does not
/// cancel the append; only its outcome is lost.
#[must_use = "an append may fail: wait for the future, or drop it on purpose"]
pub struct AppendFuture {
    state: State,
    /// The place of this future's waker in the completion, once it was polled.
    waker: Option<usize>,
}

enum State {
    Pending { completion: Arc<Completion>, index: u64, position: u64 },
    Refused(AppendError),
}

impl AppendFuture {
    pub(crate) fn pending(completion: Arc<Completion>, index: u64, position: u64) -> AppendFuture {
        AppendFuture { state: State::Pending { completion, index, position }, waker: None }
    }

    pub(crate) fn refused(error: AppendError) -> AppendFuture {
        AppendFuture { state: State::Refused(error), waker: None }
    }

    /// Registers `waker` for the outcome. Returns it if the outcome is known already.
    pub(crate) fn wake_when_resolved(&mut self, waker: Waker) -> Option<Waker> {
        match &self.state {
            State::Pending { completion, .. } => {
                let resolved = completion.register(waker, &mut self.waker);
                resolved.map(|(_, waker)| waker)
            }
            State::Refused(_) => Some(waker),
        }
    }

    /// The index that the entry takes if it commits (the first index of a batch). `None` if the
    /// append was refused at once.
    ///
    /// Provisional until the future resolves: if it fails, the index goes to another entry.
    pub fn index(&self) -> Option<u64> {
        match &self.state {
            State::Pending { index, .. } => Some(*index),
            State::Refused(_) => None,
        }
    }

    /// The position that the entry takes if it commits, in bytes. Provisional, as
    /// [`index`](Self::index) is.
    pub fn position(&self) -> Option<u64> {
        match &self.state {
            State::Pending { position, .. } => Some(*position),
            State::Refused(_) => None,
        }
    }

    /// Blocks until the append is committed or has failed. Every append resolves: at the latest
    /// after `Builder::append_timeout`, or when the ledger is shut down.
    ///
    /// # Errors
    /// Any [`AppendError`]. [`AppendError::CalledFromWaker`] if a node runs this within a waker,
    /// and the outcome is not known yet. [`AppendError::Forked`] in a forked child, unless it was
    /// committed before.
    #[inline]
    pub fn wait(self) -> Result<Appended, AppendError> {
        // Fast path: with many appends in flight, most are already committed, and need no lock.
        if let State::Pending { completion, index, position } = &self.state
            && let Some(term) = completion.committed()
        {
            return Ok(completion.appended(*index, *position, term));
        }
        self.wait_long()
    }

    fn wait_long(&self) -> Result<Appended, AppendError> {
        match &self.state {
            State::Refused(error) => Err(error.clone()),
            State::Pending { completion, .. } if is_in_waker() => {
                let under_way = || Err(AppendError::CalledFromWaker { under_way: true });
                self.to_appended(completion.outcome().unwrap_or_else(under_way))
            }
            State::Pending { completion, .. } => self.to_appended(completion.wait()),
        }
    }

    /// Like [`wait`](Self::wait), but gives up state after `timeout`: `None`, and the append goes
    /// on. Within a waker that a node runs it does not wait.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Appended, AppendError>> {
        match &self.state {
            State::Refused(error) => Some(Err(error.clone())),
            State::Pending { completion, .. } => {
                completion.wait_timeout(timeout).map(|outcome| self.to_appended(outcome))
            }
        }
    }

    fn to_appended(&self, outcome: Outcome) -> Result<Appended, AppendError> {
        match &self.state {
            State::Refused(error) => Err(error.clone()),
            State::Pending { completion, index, position } => {
                let term = outcome?;
                Ok(completion.appended(*index, *position, term))
            }
        }
    }
}

impl Future for AppendFuture {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match &this.state {
            State::Refused(error) => Poll::Ready(Err(error.clone())),
            State::Pending { completion, .. } => {
                match completion.poll(context.waker(), &mut this.waker) {
                    Some(outcome) => Poll::Ready(this.to_appended(outcome)),
                    None => Poll::Pending,
                }
            }
        }
    }
}

impl fmt::Debug for AppendFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("AppendFuture");
        match &self.state {
            State::Refused(error) => out.field("refused", error),
            State::Pending { completion, index, position } => out
                .field("index", index)
                .field("position", position)
                .field("resolved", &completion.is_resolved()),
        };
        out.finish()
    }
}

/// The outcome of a batch: the term in which it was committed, or why not.
pub(crate) type Outcome = Result<u64, AppendError>;

/// The completion of one batch, shared by its appends. Resolved once.
#[derive(Default)]
pub(crate) struct Completion {
    /// The term in which the batch was committed, readable without the lock. 0 while it is pending,
    /// or if it failed.
    committed: AtomicU64,
    /// The batch's timestamp, in milliseconds since 1970. Stored when the batch is closed, before
    /// the same thread commits it: visible to every reader of the commit.
    timestamp: AtomicU64,
    state: Mutex<CompletionState>,
    wake: Condvar,
    /// The process that resolves it. A forked child never takes the lock, which a thread of the
    /// parent may have held at the fork.
    home: Home,
    /// How long a thread that waits may spin before it sleeps.
    spin: Duration,
}

#[derive(Default)]
struct CompletionState {
    outcome: Option<Outcome>,
    wakers: Vec<Waker>,
    /// How many threads are blocked.
    sleepers: usize,
}

impl Completion {
    /// A completion that only this process resolves, and none of its forked children. Threads that
    /// wait for it may spin for `spin`.
    pub(crate) fn within(home: Home, spin: Duration) -> Completion {
        Completion { home, spin, ..Completion::default() }
    }

    /// Sets the timestamp of the closed batch.
    pub(crate) fn set_timestamp(&self, timestamp: u64) {
        self.timestamp.store(timestamp, Ordering::Relaxed);
    }

    /// The place of an entry of the batch, committed in `term`.
    #[inline]
    fn appended(&self, index: u64, position: u64, term: u64) -> Appended {
        let timestamp = self.timestamp.load(Ordering::Relaxed);
        Appended { index, position, term, timestamp }
    }

    /// Ends all waits. Only the first outcome counts.
    pub(crate) fn resolve(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        if state.outcome.is_some() {
            return;
        }
        if let Ok(term) = outcome {
            self.committed.store(term, Ordering::Release);
        }
        state.outcome = Some(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        let has_sleepers = state.sleepers > 0;
        drop(state);
        // A notify is a system call also without sleepers.
        if has_sleepers {
            self.wake.notify_all();
        }
        wake_all(wakers, self.home);
    }

    pub(crate) fn is_resolved(&self) -> bool {
        self.outcome().is_some()
    }

    fn committed(&self) -> Option<u64> {
        Some(self.committed.load(Ordering::Acquire)).filter(|term| *term != 0)
    }

    /// The outcome as far as it is known without the lock. A forked child learns nothing else: only
    /// the parent does.
    #[inline]
    fn known(&self) -> Option<Outcome> {
        let forked = || {
            if self.home.is_here() {
                None
            } else {
                Some(Err(AppendError::Forked { under_way: true }))
            }
        };
        self.committed().map(Ok).or_else(forked)
    }

    /// The outcome, if it is known.
    fn outcome(&self) -> Option<Outcome> {
        self.known().or_else(|| self.state.lock().outcome.clone())
    }

    fn wait(&self) -> Outcome {
        self.known().unwrap_or_else(|| {
            spin::host_wait(self.spin, || self.committed().map(Ok), || self.sleep())
        })
    }

    fn wait_timeout(&self, timeout: Duration) -> Option<Outcome> {
        if timeout.is_zero() || is_in_waker() {
            return self.outcome(); // does not wait
        }
        if let Some(known) = self.known() {
            return Some(known);
        }
        // A timeout beyond the range of the clock never passes.
        let Some(deadline) = Instant::now().checked_add(timeout) else { return Some(self.wait()) };
        let poll = || match self.committed() {
            Some(term) => Some(Some(Ok(term))),
            None => (Instant::now() >= deadline).then(|| self.state.lock().outcome.clone()),
        };
        spin::host_wait(self.spin, poll, || self.sleep_until(deadline))
    }

    fn sleep(&self) -> Outcome {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = &state.outcome {
                return outcome.clone();
            }
            state.sleepers += 1;
            self.wake.wait(&mut state);
            state.sleepers -= 1;
        }
    }

    fn sleep_until(&self, deadline: Instant) -> Option<Outcome> {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = &state.outcome {
                return Some(outcome.clone());
            }
            state.sleepers += 1;
            let timed_out = self.wake.wait_until(&mut state, deadline).timed_out();
            state.sleepers -= 1;
            if timed_out {
                return state.outcome.clone();
            }
        }
    }

    /// Registers a waker at `slot`, which belongs to one future, unless the outcome is known.
    fn poll(&self, waker: &Waker, slot: &mut Option<usize>) -> Option<Outcome> {
        if let Some(known) = self.known() {
            return Some(known);
        }
        // A waker is cloned and dropped without the lock: it may own a task, which may own a
        // ledger.
        let waker = waker.clone();
        self.register(waker, slot).map(|(outcome, _)| outcome)
    }

    /// The same with an owned waker. Returns it if the outcome is known.
    fn register(&self, waker: Waker, slot: &mut Option<usize>) -> Option<(Outcome, Waker)> {
        let mut state = self.state.lock();
        if let Some(outcome) = state.outcome.clone() {
            return Some((outcome, waker));
        }
        let replaced = match *slot {
            Some(at) => Some(std::mem::replace(&mut state.wakers[at], waker)),
            None => {
                *slot = Some(state.wakers.len());
                state.wakers.push(waker);
                None
            }
        };
        drop(state);
        drop(replaced);
        None
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn one_completion_wakes_every_kind_of_waiter() {
        let completion = Arc::new(Completion::default());
        let blocked = {
            let future = AppendFuture::pending(completion.clone(), 4, 40);
            std::thread::spawn(move || future.wait())
        };
        let counter = Arc::new(Counter::default());
        let waker = Waker::from(counter.clone());
        let mut future = AppendFuture::pending(completion.clone(), 5, 50);
        for _ in 0..3 {
            assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(future.wait_timeout(Duration::from_millis(1)).is_none());

        completion.set_timestamp(99);
        completion.resolve(Ok(7));
        completion.resolve(Err(AppendError::Stopped));
        let expected = Appended { index: 4, position: 40, term: 7, timestamp: 99 };
        assert_eq!(blocked.join().unwrap().unwrap(), expected);
        assert_eq!(
            counter.0.load(Ordering::SeqCst),
            1,
            "a future polled three times is woken once"
        );
        let Poll::Ready(Ok(appended)) =
            Pin::new(&mut future).poll(&mut Context::from_waker(&waker))
        else {
            panic!()
        };
        assert_eq!((appended.index, appended.timestamp), (5, 99));
    }

    #[test]
    fn a_refused_append_has_no_index() {
        let future = AppendFuture::refused(AppendError::Stopped);
        assert_eq!((future.index(), future.position()), (None, None));
        assert!(matches!(future.wait(), Err(AppendError::Stopped)));
    }
}
