//! The current status of a node, and the threads and tasks that wait for a change of it.

use std::task::{Poll, Waker};

use crate::fork::Home;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::role::Status;
use crate::wakers::{Wakers, wake_all};

/// The newest status of one node. Not to be used in a forked child.
pub(crate) struct StatusCell {
    current: Mutex<Current>,
    changed: Condvar,
    home: Home,
}

struct Current {
    status: Status,
    /// Counts the changes, from 1.
    version: u64,
    tasks: Wakers,
}

impl StatusCell {
    pub(crate) fn new(status: Status, home: Home) -> StatusCell {
        let current = Current { status, version: 1, tasks: Wakers::default() };
        StatusCell { current: Mutex::new(current), changed: Condvar::new(), home }
    }

    /// Changes the status. If it differs afterwards, wakes all waiters.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let mut current = self.current.lock();
        let before = current.status.clone();
        let outcome = change(&mut current.status);
        if current.status == before {
            return outcome;
        }
        current.version += 1;
        let tasks = current.tasks.take();
        drop(current);
        self.changed.notify_all();
        wake_all(tasks.into_values(), self.home);
        outcome
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Status) -> T) -> T {
        read(&self.current.lock().status)
    }

    /// Blocks until `find` returns `Some` for a status and its version. `None` at `deadline`.
    pub(crate) fn wait<T, F>(&self, deadline: Option<Instant>, mut find: F) -> Option<T>
    where
        F: FnMut(&Status, u64) -> Option<T>,
    {
        let mut current = self.current.lock();
        loop {
            if let Some(found) = find(&current.status, current.version) {
                return Some(found);
            }
            match deadline {
                None => self.changed.wait(&mut current),
                Some(deadline) => {
                    if self.changed.wait_until(&mut current, deadline).timed_out() {
                        return find(&current.status, current.version);
                    }
                }
            }
        }
    }

    /// The same for a task. While `find` returns `None`, its waker is registered at `key`.
    pub(crate) fn poll<T, F>(&self, waker: &Waker, key: &mut Option<u64>, find: F) -> Poll<T>
    where
        F: FnOnce(&Status, u64) -> Option<T>,
    {
        let waker = waker.clone();
        let mut current = self.current.lock();
        if let Some(found) = find(&current.status, current.version) {
            return Poll::Ready(found);
        }
        let replaced = current.tasks.register(key, waker);
        drop(current);
        drop(replaced);
        Poll::Pending
    }

    /// The task with this key no longer waits.
    pub(crate) fn forget(&self, key: Option<u64>) {
        if key.is_some() && self.home.is_here() {
            let waker = self.current.lock().tasks.remove(key);
            drop(waker);
        }
    }
}
