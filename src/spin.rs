//! Adaptive spinning: a short wait polls before it blocks.
//!
//! A thread whose recent waits averaged up to [`SPIN_MAX`] polls, and yields between polls, before
//! it blocks. Others block at once, so an idle group and a slow disk cost nothing. A wake-up costs
//! 25 to 50 microseconds (measured on two virtual processors), about as long as a sync of a fast
//! disk. At most two host threads spin: more would take the processors from the threads that they
//! wait for.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::primitives::{Instant, thread};

/// The longest time that a thread spins, and the longest typical wait for which it spins at all:
/// several syncs of a fast disk. In a longer wait the wake-up is less than a tenth, and does not
/// justify a busy processor.
const SPIN_MAX: Duration = Duration::from_micros(500);

/// A longer wait counts as this much, so that spinning starts again after a few short ones.
const COUNTED_MAX: Duration = Duration::from_millis(2);

/// Off under a model checker: each of its runs must begin in the same state.
const ADAPTS: bool = !cfg!(all(test, any(loom, shuttle)));

/// How many host threads may spin at once.
const SPINNING_HOSTS_MAX: usize = 2;

/// The typical wait of a thread, which decides whether it spins.
#[derive(Debug)]
pub(crate) struct AdaptiveWait {
    /// In nanoseconds, a moving average. Only a hint: a lost update is harmless.
    typical: AtomicU64,
}

impl AdaptiveWait {
    pub(crate) const fn new() -> AdaptiveWait {
        AdaptiveWait { typical: AtomicU64::new(0) }
    }

    /// Waits for a result: spins with `poll` if a short wait is likely, then blocks in `sleep`.
    pub(crate) fn wait<T>(&self, poll: impl Fn() -> Option<T>, sleep: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = self.spin(began, poll).unwrap_or_else(sleep);
        if ADAPTS {
            let took = began.elapsed().min(COUNTED_MAX).as_nanos() as u64;
            self.typical
                .store((3 * self.typical.load(Ordering::Relaxed) + took) / 4, Ordering::Relaxed);
        }
        result
    }

    fn spin<T>(&self, began: Instant, poll: impl Fn() -> Option<T>) -> Option<T> {
        let typical = Duration::from_nanos(self.typical.load(Ordering::Relaxed));
        if typical > SPIN_MAX {
            return None;
        }
        loop {
            if let Some(result) = poll() {
                return Some(result);
            }
            if began.elapsed() >= SPIN_MAX {
                return None;
            }
            thread::yield_now();
        }
    }
}

static HOSTS: AdaptiveWait = AdaptiveWait::new();
static SPINNING_HOSTS: AtomicUsize = AtomicUsize::new(0);

/// The wait of a host thread. A few hosts spin, and the others block.
pub(crate) fn host_wait<T>(poll: impl Fn() -> Option<T>, sleep: impl FnOnce() -> T) -> T {
    let permit = SpinPermit::take();
    if permit.is_granted {
        // Released before the sleep, or with the result.
        HOSTS.wait(poll, || {
            drop(permit);
            sleep()
        })
    } else {
        drop(permit);
        sleep()
    }
}

/// Counts a host that spins.
struct SpinPermit {
    is_granted: bool,
}

impl SpinPermit {
    fn take() -> SpinPermit {
        let others = SPINNING_HOSTS.fetch_add(1, Ordering::Relaxed);
        SpinPermit { is_granted: others < SPINNING_HOSTS_MAX || !ADAPTS }
    }
}

impl Drop for SpinPermit {
    fn drop(&mut self) {
        SPINNING_HOSTS.fetch_sub(1, Ordering::Relaxed);
    }
}
