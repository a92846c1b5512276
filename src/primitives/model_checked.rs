//! The primitives under a model checker: `loom` and `shuttle` have the interface of `std`, and here
//! they get the interface that this crate uses.
//!
//! Time is virtual, so that a schedule alone decides the outcome. A wait with a deadline beyond
//! [`clock::SOON`] never times out: a thread that relies on that deadline has missed a wake-up, and
//! the checker reports it as blocked. A nearer deadline may pass at any moment.

#[cfg(loom)]
mod alarm;
mod clock;
pub(crate) mod thread;

use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;

#[cfg(loom)]
use loom::sync as checked;
#[cfg(shuttle)]
use shuttle::sync as checked;

#[cfg(loom)]
pub(crate) use self::alarm::Alarm;
pub(crate) use self::clock::Instant;
pub(crate) use checked::atomic;

/// Tries every schedule of `test` with at most three preemptions, where all schedules are too many.
/// Each known bug needs two.
#[cfg(loom)]
pub(crate) fn three_preemptions(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
}

/// To a model checker there is no difference.
pub(crate) mod broadcast {
    pub(crate) use super::{Condvar, Mutex};
}

/// A mutex that is not poisoned by a panic, as that of `parking_lot`.
#[derive(Default)]
pub(crate) struct Mutex<T>(checked::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    of: &'a Mutex<T>,
    /// Empty only within a wait.
    held: Option<checked::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(checked::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { of: self, held: Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)) }
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("held outside of a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held outside of a wait")
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(checked::Condvar);

/// Whether a wait timed out.
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(checked::Condvar::new())
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("held outside of a wait");
        guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        if !deadline.is_soon() {
            self.wait(guard);
            return WaitTimeoutResult(false);
        }
        guard.held = None;
        let passed = clock::may_pass(deadline);
        *guard = guard.of.lock();
        WaitTimeoutResult(passed)
    }

    pub(crate) fn wait_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        timeout: std::time::Duration,
    ) -> WaitTimeoutResult {
        self.wait_until(guard, Instant::now() + timeout)
    }
}

impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

/// Keys for hashing, and the source of random numbers: part of the schedule, so that one seed is
/// one run.
#[derive(Clone)]
pub(crate) struct RandomState(u64);

impl RandomState {
    #[cfg(shuttle)]
    pub(crate) fn new() -> RandomState {
        use shuttle::rand::RngCore;
        RandomState(shuttle::rand::thread_rng().next_u64())
    }

    #[cfg(loom)]
    pub(crate) fn new() -> RandomState {
        RandomState(1)
    }
}

impl BuildHasher for RandomState {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// A lock for many readers that is not poisoned by a panic.
#[derive(Default)]
pub(crate) struct RwLock<T>(checked::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> checked::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> checked::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
