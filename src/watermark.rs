//! The commit watermark: the end of the committed entries, and the waits for more.

use std::collections::BTreeMap;
use std::task::{Poll, Waker};

use crate::fork::Home;
use crate::primitives::Instant;
use crate::primitives::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::primitives::broadcast::{Condvar, Mutex};
use crate::wakers::wake_all;

/// The commit watermark of one node: written by its engine, read by every `get`.
#[derive(Debug)]
pub(crate) struct Watermark {
    /// The first index that is not known to be committed. Stored with Release after the entries
    /// below it are readable, so a reader that loads it with Acquire finds them.
    end: AtomicU64,
    /// The position at `end`; for a moment at the next one. Stored as `end` is.
    position: AtomicU64,
    /// Incremented before a wait and read after a publish, both SeqCst: either the waiter sees the
    /// new end, or the publisher sees the waiter.
    waiters: AtomicUsize,
    closed: AtomicBool,
    /// The node has a fault: the end never moves again. Entries below it can be read.
    stuck: AtomicBool,
    held: Mutex<Held>,
    /// For threads. Tasks have their wakers.
    wake: Condvar,
    home: Home,
}

#[derive(Debug, Default)]
struct Held {
    /// The position at `end`.
    position: u64,
    /// Tasks that wait for the entry at an index, each with a number of its own.
    tasks: BTreeMap<(u64, u64), Waker>,
    last_task: u64,
}

impl Watermark {
    pub(crate) fn new(end: u64, position: u64) -> Watermark {
        Watermark {
            end: AtomicU64::new(end),
            position: AtomicU64::new(position),
            waiters: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            held: Mutex::new(Held { position, ..Held::default() }),
            wake: Condvar::default(),
            home: Home::default(),
        }
    }

    /// The same, for this process alone.
    pub(crate) fn within(self, home: Home) -> Watermark {
        Watermark { home, ..self }
    }

    /// The first index that is not known to be committed.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The first position that is not known to be committed.
    #[inline]
    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Index and position of the same end.
    pub(crate) fn end_and_position(&self) -> (u64, u64) {
        let held = self.held.lock();
        (self.end(), held.position)
    }

    /// Moves the watermark. It never goes back.
    pub(crate) fn publish(&self, end: u64, position: u64) {
        let woken = {
            let mut held = self.held.lock();
            assert!(end >= self.end(), "the watermark never goes back");
            held.position = position;
            self.position.store(position, Ordering::Release);
            self.end.store(end, Ordering::SeqCst);
            held.tasks_below(end)
        };
        if self.waiters.load(Ordering::SeqCst) > 0 {
            self.wake.notify_all();
        }
        wake_all(woken.into_values(), self.home);
    }

    /// Ends every wait, now and later.
    pub(crate) fn close(&self) {
        self.end_waits(&self.closed);
    }

    /// Ends every wait, now and later: nothing more will be committed here.
    pub(crate) fn stick(&self) {
        self.end_waits(&self.stuck);
    }

    fn end_waits(&self, why: &AtomicBool) {
        let mut held = self.held.lock();
        why.store(true, Ordering::Relaxed);
        let woken = std::mem::take(&mut held.tasks);
        drop(held);
        self.wake.notify_all();
        wake_all(woken.into_values(), self.home);
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Blocks until `index` is committed (true), or the watermark is closed or stuck or `deadline`
    /// has passed (false).
    pub(crate) fn wait_past(&self, index: u64, deadline: Option<Instant>) -> bool {
        if self.end() > index {
            return true;
        }
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.lock();
        while self.end() <= index && !self.is_closed() && !self.is_stuck() {
            match deadline {
                None => self.wake.wait(&mut held),
                Some(deadline) => {
                    if self.wake.wait_until(&mut held, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        drop(held);
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        self.end() > index
    }

    /// For a task: whether `index` is committed (true), or never will be, as the watermark is
    /// closed or stuck (false). While neither holds, its waker is registered at `key`.
    pub(crate) fn poll_past(&self, index: u64, waker: &Waker, key: &mut Option<u64>) -> Poll<bool> {
        if self.end() > index {
            return Poll::Ready(true);
        }
        let waker = waker.clone();
        let mut held = self.held.lock();
        if self.end() > index || self.is_closed() || self.is_stuck() {
            return Poll::Ready(self.end() > index);
        }
        held.last_task += 1;
        let task = *key.get_or_insert(held.last_task);
        let replaced = held.tasks.insert((index, task), waker);
        drop(held);
        drop(replaced);
        Poll::Pending
    }

    /// The task with this key no longer waits for `index`.
    pub(crate) fn forget(&self, index: u64, key: Option<u64>) {
        if let Some(task) = key
            && self.home.is_here()
        {
            let waker = self.held.lock().tasks.remove(&(index, task));
            drop(waker);
        }
    }
}

impl Held {
    /// Removes the tasks that wait for entries below `end`.
    fn tasks_below(&mut self, end: u64) -> BTreeMap<(u64, u64), Waker> {
        match self.tasks.is_empty() {
            true => BTreeMap::new(),
            false => {
                let above = self.tasks.split_off(&(end, 0));
                std::mem::replace(&mut self.tasks, above)
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_waiter_is_woken_by_the_commit_it_waits_for_and_by_the_end() {
        let point = Arc::new(Watermark::new(3, 30));
        assert!(point.wait_past(2, None));
        assert!(!point.wait_past(3, Some(Instant::now() + Duration::from_millis(5))));
        let waiter = {
            let point = point.clone();
            std::thread::spawn(move || (point.wait_past(3, None), point.wait_past(9, None)))
        };
        point.publish(4, 40);
        point.close();
        assert_eq!(waiter.join().unwrap(), (true, false));
        assert_eq!((point.end_and_position(), point.position()), ((4, 40), 40));
    }

    #[test]
    fn a_waiter_is_woken_when_nothing_more_can_come() {
        let point = Arc::new(Watermark::new(3, 30));
        let waiter = {
            let point = point.clone();
            std::thread::spawn(move || point.wait_past(3, None))
        };
        point.stick();
        assert!(!waiter.join().unwrap());
        assert!(point.is_stuck() && !point.is_closed() && point.wait_past(2, None));
    }
}
