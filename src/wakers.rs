//! Waking the host's tasks. A waker is code of the host: it may run the woken task at once,
//! panic, or fork, and so it is cloned, called and dropped only while no lock of the node is
//! held.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::fork::Home;
use crate::log_prefix::log_prefix;

thread_local!(static IN_WAKER: Cell<bool> = const { Cell::new(false) });

/// Whether this thread runs a waker for a node at the moment, or belongs to a node. Some
/// executors run the task within the waker, and a host's logger is called on all threads: there a
/// call that waits for the node would wait for itself.
///
/// The checkers of schedules run many threads of a model on one thread, so it is not told there.
pub(crate) fn is_in_waker() -> bool {
    !cfg!(all(test, any(loom, shuttle))) && IN_WAKER.get()
}

/// This thread belongs to a node that may have to wait for it: no call that waits is answered on
/// it.
pub(crate) fn forbid_waits() {
    IN_WAKER.set(true);
}

/// Wakes a task. Its panic is the host's, not this node's.
pub(crate) fn wake(waker: Waker, home: Home) {
    let before = IN_WAKER.replace(true);
    if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
        log::error!("{}a task panicked while it was woken", log_prefix());
    }
    IN_WAKER.set(before);
    if !home.is_here() {
        // The task forked, and came back here in the child, on its copy of the node's thread. That
        // thread would go on to write to the files of the parent.
        std::process::abort();
    }
}

/// Wakes each of them.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>, home: Home) {
    wakers.into_iter().for_each(|waker| wake(waker, home));
}

/// Tasks that wait for the same thing. Kept under its owner's lock.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    next: u64,
    waiting: BTreeMap<u64, Waker>,
}

impl Wakers {
    /// Leaves `waker` at `key`, which belongs to one future. What it replaces is to be dropped
    /// without the lock.
    #[must_use = "dropping a waker may run the host's code: give back the lock before"]
    pub(crate) fn register(&mut self, key: &mut Option<u64>, waker: Waker) -> Option<Waker> {
        let key = *key.get_or_insert(self.next);
        self.next = self.next.max(key + 1);
        self.waiting.insert(key, waker)
    }

    /// The future is gone. Its waker is to be dropped without the lock.
    #[must_use = "dropping a waker may run the host's code: give back the lock before"]
    pub(crate) fn remove(&mut self, key: Option<u64>) -> Option<Waker> {
        self.waiting.remove(&key?)
    }

    /// All of them, to be woken without the lock.
    #[must_use = "they wait to be woken"]
    pub(crate) fn take(&mut self) -> BTreeMap<u64, Waker> {
        std::mem::take(&mut self.waiting)
    }
}
