//! Whether something with a mailbox is waiting, queued for a thread, or being run by one.
//!
//! Whoever puts something into the mailbox requests a run afterwards. A run takes all that is in
//! the mailbox. So nothing stays there: a request that finds a run under way has that run followed
//! by another one, and one that finds it queued is served by that run, which has not begun.
//!
//! ```text
//!          request            begin              finish
//!   idle ----------> queued ----------> running --------> idle
//!                      ^                   | request
//!                      |      finish       v
//!                      +------------ running again
//! ```

use crate::primitives::atomic::{AtomicU8, Ordering};

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const RUNNING_AGAIN: u8 = 3;
const ENDED: u8 = 4;

/// See the [module](self).
pub(super) struct RunState(AtomicU8);

impl RunState {
    pub(super) fn new() -> RunState {
        RunState(AtomicU8::new(IDLE))
    }

    /// Requests a run. Returns whether the caller has to queue it.
    pub(super) fn request(&self) -> bool {
        // Also what stays is written: so the run that this request leaves to sees the mailbox.
        let requested = |state| match state {
            IDLE | QUEUED => Some(QUEUED),
            RUNNING | RUNNING_AGAIN => Some(RUNNING_AGAIN),
            _ => None,
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, requested) == Ok(IDLE)
    }

    /// A run begins: the thread that took it from the queue owns it until [`finish`](Self::finish).
    pub(super) fn begin(&self) {
        // No plain store: what was put into the mailbox before an earlier request is to be seen.
        let before = self.0.swap(RUNNING, Ordering::AcqRel);
        debug_assert_eq!(before, QUEUED, "only what is queued is run");
    }

    /// The run has ended. Returns whether there was a request meanwhile, and the caller has to
    /// queue it once more.
    pub(super) fn finish(&self) -> bool {
        let finished = self.0.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
        if finished.is_err() {
            self.0.swap(QUEUED, Ordering::AcqRel);
        }
        finished.is_err()
    }

    /// The run was the last one. Later requests are ignored.
    pub(super) fn end(&self) {
        self.0.store(ENDED, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc;

    use super::*;
    use crate::primitives::atomic::AtomicUsize;
    use crate::primitives::{thread, three_preemptions};

    /// Two that put something into the mailbox, and a thread that runs what they queue.
    #[test]
    fn nothing_stays_in_the_mailbox_and_one_thread_at_a_time_runs() {
        three_preemptions(|| {
            let state = Arc::new(RunState::new());
            let [mailbox, running, taken] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
            let parts = (state, mailbox.clone(), running, taken.clone());
            let sender = || {
                let (state, mailbox, running, taken) = parts.clone();
                thread::spawn(move || {
                    mailbox.fetch_add(1, Ordering::Relaxed);
                    if !state.request() {
                        return;
                    }
                    loop {
                        state.begin();
                        assert_eq!(running.fetch_add(1, Ordering::Relaxed), 0, "two run at once");
                        taken.fetch_add(mailbox.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                        running.fetch_sub(1, Ordering::Relaxed);
                        if !state.finish() {
                            return;
                        }
                    }
                })
            };
            let senders = [sender(), sender()];
            senders.into_iter().for_each(|sender| sender.join().unwrap());
            assert_eq!(taken.load(Ordering::Relaxed), 2);
            assert_eq!(mailbox.load(Ordering::Relaxed), 0);
        });
    }
}
