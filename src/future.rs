//! The promise of one append. All appends of a batch share one completion: a batch that commits wakes all its waiters at once.

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
use crate::primitives::crowd::{Condvar, Mutex};
use crate::spin;
use crate::wakers::{is_in_waker, wake_all};

/// Where an append came to stand, now that it is committed.
///
/// Of an [`append_batch_async`](crate::DLedger::append_batch_async) without any payload: where the
/// next entry would have gone when it was called, with `term` and `timestamp` 0, for nothing was
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
    /// When the leader took its batch, in milliseconds since 1970 by the leader's clock: what
    /// [`Entry::timestamp`](crate::Entry::timestamp) says of it on every node. Never less than that
    /// of an entry before it.
    pub timestamp: u64,
}

/// One append (or atomic batch of appends) under way.
///
/// Wait for it with [`wait`](Self::wait), or `.await` it under any executor. Dropping it does not take the append back: it goes on, and only
/// its outcome is lost.
#[must_use = "an append may fail: wait for the future, or drop it on purpose"]
pub struct AppendFuture {
    state: State,
    /// Where this future's waker stands in the completion, once it was polled.
    waker: Option<usize>,
}

enum State {
    UnderWay { completion: Arc<Completion>, index: u64, position: u64 },
    Refused(AppendError),
}

impl AppendFuture {
    pub(crate) fn under_way(completion: Arc<Completion>, index: u64, position: u64) -> AppendFuture {
        AppendFuture { state: State::UnderWay { completion, index, position }, waker: None }
    }

    pub(crate) fn refused(error: AppendError) -> AppendFuture {
        AppendFuture { state: State::Refused(error), waker: None }
    }

    /// Has `waker` woken once the outcome is there. Gives it back if that is so already.
    pub(crate) fn wake_when_resolved(&mut self, waker: Waker) -> Option<Waker> {
        match &self.state {
            State::UnderWay { completion, .. } => {
                let resolved = completion.register(waker, &mut self.waker);
                resolved.map(|(_, waker)| waker)
            }
            State::Refused(_) => Some(waker),
        }
    }

    /// The index that the entry takes if it commits (the first index of a batch). `None` if the append was refused at once.
    ///
    /// Provisional until the future resolves: if it fails, the index goes to another entry.
    pub fn index(&self) -> Option<u64> {
        match &self.state {
            State::UnderWay { index, .. } => Some(*index),
            State::Refused(_) => None,
        }
    }

    /// The position that the entry takes if it commits, in bytes. Provisional, as [`index`](Self::index) is.
    pub fn position(&self) -> Option<u64> {
        match &self.state {
            State::UnderWay { position, .. } => Some(*position),
            State::Refused(_) => None,
        }
    }

    /// Blocks until the append is committed or has failed. Every append resolves: at the latest when `Builder::append_timeout` has
    /// passed, or when the ledger is shut down.
    ///
    /// # Errors
    /// Any [`AppendError`]. [`AppendError::CalledFromWaker`] if a node runs this within a waker, and
    /// the outcome is not known yet. [`AppendError::Forked`] in a forked child, unless it was committed before.
    #[inline]
    pub fn wait(self) -> Result<Appended, AppendError> {
        // Who has many in flight finds most of them committed.
        if let State::UnderWay { completion, index, position } = &self.state
            && let Some(term) = completion.committed()
        {
            return Ok(completion.appended(*index, *position, term));
        }
        self.wait_long()
    }

    fn wait_long(&self) -> Result<Appended, AppendError> {
        match &self.state {
            State::Refused(error) => Err(error.clone()),
            State::UnderWay { completion, .. } if is_in_waker() => {
                let under_way = || Err(AppendError::CalledFromWaker { under_way: true });
                self.place(completion.outcome().unwrap_or_else(under_way))
            }
            State::UnderWay { completion, .. } => self.place(completion.wait()),
        }
    }

    /// Like [`wait`](Self::wait), but gives up waiting after `timeout`: `None`, and the append goes on.
    /// Within a waker that a node runs it does not wait.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Appended, AppendError>> {
        match &self.state {
            State::Refused(error) => Some(Err(error.clone())),
            State::UnderWay { completion, .. } => completion.wait_timeout(timeout).map(|outcome| self.place(outcome)),
        }
    }

    fn place(&self, outcome: Outcome) -> Result<Appended, AppendError> {
        match &self.state {
            State::Refused(error) => Err(error.clone()),
            State::UnderWay { completion, index, position } => {
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
            State::UnderWay { completion, .. } => match completion.poll(context.waker(), &mut this.waker) {
                Some(outcome) => Poll::Ready(this.place(outcome)),
                None => Poll::Pending,
            },
        }
    }
}

impl fmt::Debug for AppendFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("AppendFuture");
        match &self.state {
            State::Refused(error) => out.field("refused", error),
            State::UnderWay { completion, index, position } => {
                out.field("index", index).field("position", position).field("resolved", &completion.is_resolved())
            }
        };
        out.finish()
    }
}

/// How a batch ended: the term in which it was committed, or why not.
pub(crate) type Outcome = Result<u64, AppendError>;

/// What the appends of one batch wait for. Resolved once, for all of them.
#[derive(Default)]
pub(crate) struct Completion {
    /// The term in which the batch was committed: all that there is to know, without the lock. 0 as long as it is not, or if it failed.
    committed: AtomicU64,
    /// The batch's timestamp, in milliseconds since 1970. Stored when the batch is closed, before
    /// it is committed by the same thread: whoever has learnt of that finds it.
    timestamp: AtomicU64,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Where it is resolved. Nowhere else is the lock touched: whoever held it at a fork never gives it back to the child.
    home: Home,
    /// How long a thread that waits may spin before it sleeps.
    spin: Duration,
}

#[derive(Default)]
struct Waiting {
    outcome: Option<Outcome>,
    wakers: Vec<Waker>,
    /// How many threads sleep until the outcome is there.
    sleepers: usize,
}

impl Completion {
    /// One that only this process resolves, and none of its forked children. Threads that wait for
    /// it may spin for so long.
    pub(crate) fn within(home: Home, spin: Duration) -> Completion {
        Completion { home, spin, ..Completion::default() }
    }

    /// The batch is closed, and has this timestamp.
    pub(crate) fn set_timestamp(&self, timestamp: u64) {
        self.timestamp.store(timestamp, Ordering::Relaxed);
    }

    /// Where an entry of the batch stands that was committed in `term`.
    #[inline]
    fn appended(&self, index: u64, position: u64, term: u64) -> Appended {
        let timestamp = self.timestamp.load(Ordering::Relaxed);
        Appended { index, position, term, timestamp }
    }

    /// Ends the wait of everyone. Only the first outcome counts.
    pub(crate) fn resolve(&self, outcome: Outcome) {
        let mut waiting = self.waiting.lock();
        if waiting.outcome.is_some() {
            return;
        }
        if let Ok(term) = outcome {
            self.committed.store(term, Ordering::Release);
        }
        waiting.outcome = Some(outcome);
        let wakers = std::mem::take(&mut waiting.wakers);
        let has_sleepers = waiting.sleepers > 0;
        drop(waiting);
        // Waking is a system call, whether anybody sleeps or not.
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

    /// What there is to know without the lock. In a forked child that is all, and what else became of the batch is known to the parent alone.
    #[inline]
    fn known(&self) -> Option<Outcome> {
        let forked = || if self.home.is_here() { None } else { Some(Err(AppendError::Forked { under_way: true })) };
        self.committed().map(Ok).or_else(forked)
    }

    /// The outcome that is known, without a wait.
    fn outcome(&self) -> Option<Outcome> {
        self.known().or_else(|| self.waiting.lock().outcome.clone())
    }

    fn wait(&self) -> Outcome {
        self.known().unwrap_or_else(|| spin::host_wait(self.spin, || self.committed().map(Ok), || self.sleep()))
    }

    fn wait_timeout(&self, timeout: Duration) -> Option<Outcome> {
        if timeout.is_zero() || is_in_waker() {
            return self.outcome(); // a look, not a wait
        }
        if let Some(known) = self.known() {
            return Some(known);
        }
        // A timeout beyond what the clock can express is one that never passes.
        let Some(deadline) = Instant::now().checked_add(timeout) else { return Some(self.wait()) };
        let poll = || match self.committed() {
            Some(term) => Some(Some(Ok(term))),
            None => (Instant::now() >= deadline).then(|| self.waiting.lock().outcome.clone()),
        };
        spin::host_wait(self.spin, poll, || self.sleep_until(deadline))
    }

    fn sleep(&self) -> Outcome {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(outcome) = &waiting.outcome {
                return outcome.clone();
            }
            waiting.sleepers += 1;
            self.wake.wait(&mut waiting);
            waiting.sleepers -= 1;
        }
    }

    fn sleep_until(&self, deadline: Instant) -> Option<Outcome> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(outcome) = &waiting.outcome {
                return Some(outcome.clone());
            }
            waiting.sleepers += 1;
            let timed_out = self.wake.wait_until(&mut waiting, deadline).timed_out();
            waiting.sleepers -= 1;
            if timed_out {
                return waiting.outcome.clone();
            }
        }
    }

    /// Leaves a waker at `slot`, which belongs to one future, unless the outcome is there.
    fn poll(&self, waker: &Waker, slot: &mut Option<usize>) -> Option<Outcome> {
        if let Some(known) = self.known() {
            return Some(known);
        }
        // Wakers are cloned and dropped without the lock: one may own a task, which may own a
        // ledger.
        let waker = waker.clone();
        self.register(waker, slot).map(|(outcome, _)| outcome)
    }

    /// The same with a waker to give away. It comes back if the outcome is there.
    fn register(&self, waker: Waker, slot: &mut Option<usize>) -> Option<(Outcome, Waker)> {
        let mut waiting = self.waiting.lock();
        if let Some(outcome) = waiting.outcome.clone() {
            return Some((outcome, waker));
        }
        let replaced = match *slot {
            Some(at) => Some(std::mem::replace(&mut waiting.wakers[at], waker)),
            None => {
                *slot = Some(waiting.wakers.len());
                waiting.wakers.push(waker);
                None
            }
        };
        drop(waiting);
        drop(replaced);
        None
    }
}

#[cfg(all(test, loom))]
mod exhaustive;

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
            let future = AppendFuture::under_way(completion.clone(), 4, 40);
            std::thread::spawn(move || future.wait())
        };
        let counter = Arc::new(Counter::default());
        let waker = Waker::from(counter.clone());
        let mut future = AppendFuture::under_way(completion.clone(), 5, 50);
        for _ in 0..3 {
            assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(future.wait_timeout(Duration::from_millis(1)).is_none());

        completion.set_timestamp(99);
        completion.resolve(Ok(7));
        completion.resolve(Err(AppendError::Stopped));
        let expected = Appended { index: 4, position: 40, term: 7, timestamp: 99 };
        assert_eq!(blocked.join().unwrap().unwrap(), expected);
        assert_eq!(counter.0.load(Ordering::SeqCst), 1, "a future polled three times is woken once");
        let Poll::Ready(Ok(appended)) = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) else { panic!() };
        assert_eq!((appended.index, appended.timestamp), (5, 99));
    }

    #[test]
    fn a_refused_append_has_no_index() {
        let future = AppendFuture::refused(AppendError::Stopped);
        assert_eq!((future.index(), future.position()), (None, None));
        assert!(matches!(future.wait(), Err(AppendError::Stopped)));
    }
}
