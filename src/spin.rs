//! A short wait on the processor before a long one in the operating system.
//!
//! Waking a thread that sleeps costs 25 to 50 microseconds (measured on two virtual processors),
//! about as long as a fast disk takes to sync. So a thread whose waits were short of late looks for
//! its answer first, and lets others run between looks. One whose waits were long goes to sleep at
//! once: an idle group and a slow disk cost nothing. The time is bounded, and so is the number of
//! hosts that look at the same time: more would take the processors from those that they wait for.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::primitives::{Instant, thread};

/// The longest time that a thread looks before it sleeps, and the longest usual wait for which it
/// looks at all. Several syncs of a fast disk; a wake is then a tenth of the wait, and not worth a
/// processor.
const LOOK_MAX: Duration = Duration::from_micros(500);

/// A longer wait counts as no more than this, so that a few short ones are enough to look again.
const COUNTED_MAX: Duration = Duration::from_millis(2);

/// A checker of schedules needs each run to begin where the one before it began, whatever runs
/// beside it in the process.
const LEARNS: bool = !cfg!(all(test, any(loom, shuttle)));

/// How many host threads may look at once.
const HOSTS_MAX: usize = 2;

/// How long the waits of a thread were of late.
#[derive(Debug)]
pub(crate) struct Patience {
    /// In nanoseconds, the latest waits weighing most. Only a hint: a lost update does no harm.
    usual: AtomicU64,
}

impl Patience {
    pub(crate) const fn new() -> Patience {
        Patience { usual: AtomicU64::new(0) }
    }

    /// Waits for an answer: looks for it if that is likely to be enough, then sleeps until it is
    /// there.
    pub(crate) fn wait<T>(&self, look: impl Fn() -> Option<T>, sleep: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let answer = self.look(began, look).unwrap_or_else(sleep);
        if LEARNS {
            let took = began.elapsed().min(COUNTED_MAX).as_nanos() as u64;
            self.usual
                .store((3 * self.usual.load(Ordering::Relaxed) + took) / 4, Ordering::Relaxed);
        }
        answer
    }

    fn look<T>(&self, began: Instant, look: impl Fn() -> Option<T>) -> Option<T> {
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed));
        if usual > LOOK_MAX {
            return None;
        }
        loop {
            if let Some(answer) = look() {
                return Some(answer);
            }
            if began.elapsed() >= LOOK_MAX {
                return None;
            }
            thread::yield_now();
        }
    }
}

static HOSTS: Patience = Patience::new();
static HOSTS_LOOKING: AtomicUsize = AtomicUsize::new(0);

/// The wait of a host thread. What many hosts wait for, a few look for, and the others sleep.
pub(crate) fn host_wait<T>(look: impl Fn() -> Option<T>, sleep: impl FnOnce() -> T) -> T {
    let turn = Turn::take();
    if turn.is_among_the_first {
        // Given back before the sleep, or with the answer.
        HOSTS.wait(look, || {
            drop(turn);
            sleep()
        })
    } else {
        drop(turn);
        sleep()
    }
}

/// One more host that looks.
struct Turn {
    is_among_the_first: bool,
}

impl Turn {
    fn take() -> Turn {
        let others = HOSTS_LOOKING.fetch_add(1, Ordering::Relaxed);
        Turn { is_among_the_first: others < HOSTS_MAX || !LEARNS }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        HOSTS_LOOKING.fetch_sub(1, Ordering::Relaxed);
    }
}
