//! Who waits for room in the window, in the order in which they came.
//!
//! The sequencer appends for them as soon as there is room: a task need not be polled, nor a thread
//! run, for those behind it to go on. So the order of the line is the order in the ledger.

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
    /// What it takes of the window.
    pub(super) cost: u64,
    pub(super) place: Arc<Place>,
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

    /// Takes its place at the end. Returns its number.
    pub(super) fn join(&mut self, waiting: Waiting) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, waiting);
        self.next
    }

    /// Gives its place up, if it still has one.
    pub(super) fn leave(&mut self, number: u64) -> Option<Waiting> {
        self.waiting.remove(&number)
    }

    /// What the first of them takes of the window.
    pub(super) fn first_cost(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.cost)
    }

    pub(super) fn pop_first(&mut self) -> Option<Waiting> {
        self.waiting.pop_first().map(|(_, waiting)| waiting)
    }

    /// Sends all of them away.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        std::mem::take(&mut self.waiting).into_values()
    }
}

/// Where one of them learns what became of it. Locked after the queue, never before it.
#[derive(Default)]
pub(super) struct Place {
    state: Mutex<State>,
    /// For a thread. A task has its waker.
    served: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    /// A task that waits.
    Polled(Waker),
    /// It was appended, or sent away.
    Served(AppendFuture),
    /// Its owner has taken what became of it.
    Taken,
}

impl Place {
    /// Its append is under way. A task is woken once that is resolved, and not before.
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

    /// It is sent away.
    pub(super) fn refuse(&self, error: AppendError, home: Home) {
        let refused = State::Served(AppendFuture::refused(error));
        let before = std::mem::replace(&mut *self.state.lock(), refused);
        self.served.notify_all();
        if let State::Polled(waker) = before {
            wake(waker, home);
        }
    }

    /// What became of it, once. A task is woken for it.
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

    /// Blocks until something became of it. `None` if that takes until `deadline`.
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
