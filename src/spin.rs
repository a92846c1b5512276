//! A short wait on the processor before a long one in the operating system.
//!
//! Waking a thread that sleeps costs 25 to 50 microseconds (measured on two virtual processors), about as long as a fast disk takes to sync. So a
//! thread that knows its answer to be under way first looks for it, and lets others run between looks. The time is bounded, and so is the number of
//! hosts that do it at once: more would take the processors from those that they wait for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::primitives::{Instant, thread};

/// The longest time that a thread looks before it sleeps.
const PATIENCE: Duration = Duration::from_micros(100);

/// How many host threads may look at once.
const TURNS_MAX: usize = 2;

static TURNS: AtomicUsize = AtomicUsize::new(0);

/// Looks until there is an answer, for a bounded time.
pub(crate) fn until<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = look() {
            return Some(answer);
        }
        if began.elapsed() >= PATIENCE {
            return None;
        }
        thread::yield_now();
    }
}

/// The right of a host thread to look. Given back when it is dropped.
pub(crate) struct Turn(());

impl Turn {
    /// Takes a turn, unless enough others have one.
    pub(crate) fn take() -> Option<Turn> {
        if TURNS.fetch_add(1, Ordering::Relaxed) < TURNS_MAX {
            return Some(Turn(()));
        }
        TURNS.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.fetch_sub(1, Ordering::Relaxed);
    }
}
