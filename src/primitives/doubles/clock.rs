//! Virtual time: it moves when somebody looks at it, and when a wait is over.

use std::cell::Cell;
use std::ops::Add;
use std::time::Duration;

use super::thread;

/// How far a look at the clock moves it: more than any thread spins by default before it sleeps.
const LOOK: Duration = Duration::from_millis(1);

/// Deadlines beyond this are taken never to pass.
pub(super) const SOON: Duration = Duration::from_secs(1);

thread_local! {
    /// A checker runs all threads of a test on one of the operating system. Only differences matter, so each test begins where the last one ended.
    static SINCE_THE_START: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Instant {
        SINCE_THE_START.set(SINCE_THE_START.get() + LOOK);
        Instant(SINCE_THE_START.get())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Instant::now().duration_since(*self)
    }

    pub(crate) fn duration_since(&self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn saturating_duration_since(&self, earlier: Instant) -> Duration {
        self.duration_since(earlier)
    }

    pub(crate) fn checked_add(&self, duration: Duration) -> Option<Instant> {
        self.0.checked_add(duration).map(Instant)
    }

    pub(super) fn is_soon(&self) -> bool {
        self.0 <= SINCE_THE_START.get() + SOON
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0 + duration)
    }
}

/// Lets others run, then says whether `deadline` has passed. If not, the wait ends all the same, as any wait may: its caller looks again.
pub(super) fn may_pass(deadline: Instant) -> bool {
    thread::yield_now();
    let passes = is_due();
    if passes {
        SINCE_THE_START.set(SINCE_THE_START.get().max(deadline.0));
    }
    passes
}

/// `loom` draws no lots: it tries every moment at which the others may run before the deadline.
#[cfg(loom)]
fn is_due() -> bool {
    true
}

#[cfg(shuttle)]
fn is_due() -> bool {
    use shuttle::rand::Rng;
    shuttle::rand::thread_rng().gen_bool(0.5)
}
