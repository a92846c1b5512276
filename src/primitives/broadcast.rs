//! A lock and a condition variable for many threads that wait for the same event.
//!
//! `parking_lot` wakes one thread, and each wakes the next as it unlocks: a system call for each.
//! The condition variable of `std` wakes all with one call. With hundreds of waiters that is
//! several times as fast; with one there is no difference.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Instant;

/// A mutex that is not poisoned by a panic.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

/// Holds a [`Mutex`].
pub(crate) struct MutexGuard<'a, T>(Option<std::sync::MutexGuard<'a, T>>);

/// The condition variable.
#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Condvar);

/// Whether a wait timed out.
pub(crate) struct WaitTimeoutResult(bool);

const HELD: &str = "held outside of a wait";

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

impl Condvar {
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect(HELD);
        guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        let held = guard.0.take().expect(HELD);
        let left = deadline.saturating_duration_since(Instant::now());
        let (held, result) =
            self.0.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner);
        guard.0 = Some(held);
        WaitTimeoutResult(result.timed_out())
    }
}

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Door {
        is_open: Mutex<bool>,
        opened: Condvar,
        /// How many wait, or are about to: a thread counts itself under the lock.
        waiting: Mutex<usize>,
    }

    /// So late that only a lost wake-up lets a thread wait for it.
    fn never() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn one_call_wakes_all_who_wait() {
        const WAITERS: usize = 16;
        for _ in 0..50 {
            let door = Arc::new(Door::default());
            let waiters: Vec<_> = (0..WAITERS)
                .map(|_| {
                    let door = door.clone();
                    thread::spawn(move || {
                        let mut is_open = door.is_open.lock();
                        *door.waiting.lock() += 1;
                        while !*is_open {
                            assert!(
                                !door.opened.wait_until(&mut is_open, never()).timed_out(),
                                "the wake-up was lost"
                            );
                        }
                    })
                })
                .collect();
            while *door.waiting.lock() < WAITERS {
                thread::yield_now();
            }
            *door.is_open.lock() = true;
            door.opened.notify_all();
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        }
    }

    #[test]
    fn a_wait_ends_with_its_time_and_holds_the_lock_again() {
        let door = Door::default();
        let mut is_open = door.is_open.lock();
        while !door
            .opened
            .wait_until(&mut is_open, Instant::now() + Duration::from_millis(1))
            .timed_out()
        {}
        assert!(door.is_open.0.try_lock().is_err());
        *is_open = true;
        drop(is_open);
        assert!(*door.is_open.lock());
    }

    #[test]
    fn a_panic_leaves_the_lock_as_it_is() {
        let door = Arc::new(Door::default());
        let panicking = door.clone();
        let thread = thread::spawn(move || {
            let mut is_open = panicking.is_open.lock();
            *is_open = true;
            panic!("while it is held, on purpose");
        });
        assert!(thread.join().is_err());
        assert!(*door.is_open.lock());
    }
}
