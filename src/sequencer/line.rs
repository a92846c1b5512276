//! The line: appends that wait for room in the window, first come, first served.
//!
//! The sequencer itself queues them as soon as there is room: later ones do not depend on the
//! thread or task of an earlier one. So the order of the line is the order in the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::batch::OpenBatch;
use crate::error::AppendError;
use crate::fork::Home;
use crate::future::AppendFuture;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::wakers::wake;

/// Appends that wait, by their number.
#[derive(Default)]
pub(super) struct Line {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

/// The payloads of an append that waits.
pub(super) enum Work {
    Entry { payload: Box<[u8]>, crc: u32 },
    Batch(OpenBatch),
}

/// An append that waits.
pub(super) struct Waiting {
    pub(super) work: Work,
    /// Its cost in the window.
    pub(super) cost: u64,
    /// The only term in which it may be appended, if there is one.
    pub(super) fence: Option<u64>,
    pub(super) answer: Arc<Answer>,
}

impl Line {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds an append at the end. Returns its number.
    pub(super) fn join(&mut self, waiting: Waiting) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, waiting);
        self.next
    }

    /// Removes an append, if it still waits.
    pub(super) fn leave(&mut self, number: u64) -> Option<Waiting> {
        self.waiting.remove(&number)
    }

    /// The first one, and its number.
    pub(super) fn first(&self) -> Option<(u64, &Waiting)> {
        self.waiting.first_key_value().map(|(number, waiting)| (*number, waiting))
    }

    pub(super) fn pop_first(&mut self) -> Option<Waiting> {
        self.waiting.pop_first().map(|(_, waiting)| waiting)
    }

    /// Removes all.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        std::mem::take(&mut self.waiting).into_values()
    }
}

/// What becomes of an append that waits. Lock order: the queue before the answer.
#[derive(Default)]
pub(super) struct Answer {
    state: Mutex<State>,
    /// For a thread that waits. A task has its waker.
    served: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    /// A task that waits.
    Polled(Waker),
    /// It was queued or refused.
    Served(AppendFuture),
    /// Its owner has taken the result.
    Taken,
}

impl Answer {
    /// It is queued. A task is woken once the append is resolved, not before.
    pub(super) fn grant(&self, mut future: AppendFuture, home: Home) {
        let mut state = self.state.lock();
        let resolved = match std::mem::take(&mut *state) {
            State::Polled(waker) => future.wake_when_resolved(waker),
            _ => None,
        };
        *state = State::Served(future);
        drop(state);
        self.served.notify_all();
        if let Some(waker) = resolved {
            wake(waker, home);
        }
    }

    /// It is refused.
    pub(super) fn refuse(&self, error: AppendError, home: Home) {
        let refused = State::Served(AppendFuture::refused(error));
        let before = std::mem::replace(&mut *self.state.lock(), refused);
        self.served.notify_all();
        if let State::Polled(waker) = before {
            wake(waker, home);
        }
    }

    /// The result, once. A task is woken for it.
    pub(super) fn poll(&self, waker: &Waker) -> Poll<AppendFuture> {
        let waker = waker.clone();
        let mut state = self.state.lock();
        let before = match &*state {
            State::Served(_) => std::mem::replace(&mut *state, State::Taken),
            _ => std::mem::replace(&mut *state, State::Polled(waker)),
        };
        drop(state);
        match before {
            State::Served(future) => Poll::Ready(future),
            _ => Poll::Pending,
        }
    }

    /// Blocks until it is queued or refused. `None` at the `deadline`.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Option<AppendFuture> {
        let mut state = self.state.lock();
        let mut is_late = false;
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Served(future) => return Some(future),
                waiting => *state = waiting,
            }
            match deadline {
                _ if is_late => return None,
                None => self.served.wait(&mut state),
                Some(deadline) => {
                    let waited = self.served.wait_until(&mut state, deadline);
                    is_late = waited.timed_out();
                }
            }
        }
    }
}
