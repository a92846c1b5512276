//! What a node says of itself, and who waits for it to say something else. Every change is made
//! here.

use std::task::{Poll, Waker};

use crate::fork::Home;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::role::Status;
use crate::wakers::{Wakers, wake_all};

/// The newest status of one node. In a forked child nothing of it is to be touched.
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

    /// Changes it, and wakes whoever waits, if it is another one afterwards.
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

    /// Blocks until `find` finds what it looks for in a status and its version. `None` at
    /// `deadline`.
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

    /// The same for a task, which leaves its waker at `key` while there is nothing to be found.
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
