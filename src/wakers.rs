//! Wakes the host's tasks. A waker is code of the host: it may run the woken task at once, panic,
//! or fork. So it is cloned, called and dropped only while no lock of the node is held.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::fork::Home;
use crate::log_prefix::log_prefix;

thread_local!(static IN_WAKER: Cell<bool> = const { Cell::new(false) });
thread_local!(static CALLS_OBSERVERS: Cell<bool> = const { Cell::new(false) });

/// Whether this thread runs a waker for a node at the moment, or belongs to a node. Some executors
/// run the task within the waker, and a host's logger is called on all threads: a call there that
/// waits for the node would wait for itself.
///
/// Always false under a model checker, which runs many threads of a model on one thread.
pub(crate) fn is_in_waker() -> bool {
    !cfg!(all(test, any(loom, shuttle))) && IN_WAKER.get()
}

/// Marks this thread as one that a node may wait for: calls that would wait fail on it.
pub(crate) fn forbid_waits() {
    IN_WAKER.set(true);
}

/// Whether this thread calls observers for a node, or for the nodes of a host. A call there waits
/// for no observer, of whatever node: that one may wait for the observer that makes the call.
///
/// Always false under a model checker, as above.
pub(crate) fn is_in_observer() -> bool {
    !cfg!(all(test, any(loom, shuttle))) && CALLS_OBSERVERS.get()
}

/// Marks this thread as one that calls observers.
pub(crate) fn allow_observers() {
    CALLS_OBSERVERS.set(true);
}

/// Runs code of the host in the middle of a call of the node: calls that would wait fail in it. It
/// must not unwind.
pub(crate) fn without_waits<T>(run: impl FnOnce() -> T) -> T {
    let before = IN_WAKER.replace(true);
    let result = run();
    IN_WAKER.set(before);
    result
}

/// Wakes a task. Its panic is the host's, not this node's.
pub(crate) fn wake(waker: Waker, home: Home) {
    if without_waits(|| catch_unwind(AssertUnwindSafe(|| waker.wake()))).is_err() {
        log::error!("{}a task panicked while it was woken", log_prefix());
    }
    if !home.is_here() {
        // The task forked, and this is the child, on its copy of the node's thread. That thread
        // would write to the files of the parent.
        std::process::abort();
    }
}

/// Wakes each of them.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>, home: Home) {
    wakers.into_iter().for_each(|waker| wake(waker, home));
}

/// Tasks that wait for the same event. Protected by the lock of its owner.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    next: u64,
    waiting: BTreeMap<u64, Waker>,
}

impl Wakers {
    /// Registers `waker` at `key`, which belongs to one future. Drop the replaced waker without the
    /// lock.
    #[must_use = "dropping a waker may run the host's code: release the lock first"]
    pub(crate) fn register(&mut self, key: &mut Option<u64>, waker: Waker) -> Option<Waker> {
        let key = *key.get_or_insert(self.next);
        self.next = self.next.max(key + 1);
        self.waiting.insert(key, waker)
    }

    /// Removes the waker of a future. Drop it without the lock.
    #[must_use = "dropping a waker may run the host's code: release the lock first"]
    pub(crate) fn remove(&mut self, key: Option<u64>) -> Option<Waker> {
        self.waiting.remove(&key?)
    }

    /// Removes all wakers. Wake them without the lock.
    #[must_use = "they wait to be woken"]
    pub(crate) fn take(&mut self) -> BTreeMap<u64, Waker> {
        std::mem::take(&mut self.waiting)
    }
}
