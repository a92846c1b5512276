//! How far the ledger is committed here, and who waits for more.

use crate::primitives::Instant;
use crate::primitives::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::primitives::crowd::{Condvar, Mutex};

/// The commit watermark of one node: written by its engine, read by every `get`.
#[derive(Debug)]
pub(crate) struct Watermark {
    /// The first index that is not known to be committed. Stored with Release after the entries below it are readable, so a reader that
    /// loads it with Acquire finds them.
    end: AtomicU64,
    /// Counted before waiting and read after publishing, both SeqCst: either the waiter sees the new end, or the publisher sees the waiter.
    waiters: AtomicUsize,
    closed: AtomicBool,
    /// It never moves again, for the node has a fault. What lies below it can be read.
    stuck: AtomicBool,
    /// The position at `end`.
    position: Mutex<u64>,
    wake: Condvar,
}

impl Watermark {
    pub(crate) fn new(end: u64, position: u64) -> Watermark {
        Watermark {
            end: AtomicU64::new(end),
            waiters: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            position: Mutex::new(position),
            wake: Condvar::default(),
        }
    }

    /// The first index that is not known to be committed.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The same, and the position there.
    pub(crate) fn end_and_position(&self) -> (u64, u64) {
        let position = self.position.lock();
        (self.end(), *position)
    }

    /// Moves the watermark. It never goes back.
    pub(crate) fn publish(&self, end: u64, position: u64) {
        {
            let mut here = self.position.lock();
            assert!(end >= self.end(), "what was committed stays committed");
            *here = position;
            self.end.store(end, Ordering::SeqCst);
        }
        if self.waiters.load(Ordering::SeqCst) > 0 {
            self.wake.notify_all();
        }
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
        let held = self.position.lock();
        why.store(true, Ordering::Relaxed);
        drop(held);
        self.wake.notify_all();
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Blocks until `index` is committed (true), or the watermark is closed or stuck or `deadline` has passed (false).
    pub(crate) fn wait_past(&self, index: u64, deadline: Option<Instant>) -> bool {
        if self.end() > index {
            return true;
        }
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let mut held = self.position.lock();
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
}

#[cfg(all(test, loom))]
mod exhaustive;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_waiter_is_woken_by_the_commit_it_waits_for_and_by_the_end() {
        let mark = Arc::new(Watermark::new(3, 30));
        assert!(mark.wait_past(2, None));
        assert!(!mark.wait_past(3, Some(Instant::now() + Duration::from_millis(5))));
        let waiter = {
            let mark = mark.clone();
            std::thread::spawn(move || (mark.wait_past(3, None), mark.wait_past(9, None)))
        };
        mark.publish(4, 40);
        mark.close();
        assert_eq!(waiter.join().unwrap(), (true, false));
        assert_eq!(mark.end_and_position(), (4, 40));
    }

    #[test]
    fn a_waiter_is_woken_when_nothing_more_can_come() {
        let mark = Arc::new(Watermark::new(3, 30));
        let waiter = {
            let mark = mark.clone();
            std::thread::spawn(move || mark.wait_past(3, None))
        };
        mark.stick();
        assert!(!waiter.join().unwrap());
        assert!(mark.is_stuck() && !mark.is_closed() && mark.wait_past(2, None));
    }
}
