//! How a thread waits: it may poll for its answer for some microseconds (spin) before it sleeps.
//!
//! A thread that sleeps is woken 25 to 50 microseconds late, and sleep and wake cost 5 to 10 of
//! processor time (measured on two virtual processors). So spinning pays where answers come sooner
//! than that, and only if no other thread wants the processor. Three rules follow:
//!
//! 1. A thread spins as long as it is told to at the most, and never if that is zero.
//! 2. It spins as often as that was of use of late ([`AdaptiveWait`]): one that waits for a slow
//!    disk, or has nothing to do, tries every 64th time.
//! 3. All threads of the process together leave a processor to those that work, and spin on free
//!    ones only ([`SpinPermit`]). Where a quota limits the time on processors, no thread spins.
//!
//! None of this decides what a wait returns, only when.

mod machine;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

pub(crate) use self::machine::processors;
use crate::primitives::{Instant, thread};

/// How long threads spin unless a host says otherwise. About half of what a wake is late: a thread
/// that has spun in vain has lost less than it may win.
pub(crate) const SPIN_DEFAULT: Duration = Duration::from_micros(20);

/// The most that a host may ask for.
pub(crate) const SPIN_MAX: Duration = Duration::from_millis(10);

/// If so much time lies between two polls, another thread had the processor: it is wanted.
const SHARED: Duration = Duration::from_micros(10);

/// The fewest spins of a thread: one in so many waits.
const INTERVAL_MAX: u32 = 64;

/// A checker of schedules needs each run to begin where the one before it began, whatever runs
/// beside it in the process.
const LEARNS: bool = !cfg!(all(test, any(loom, shuttle)));

/// Whether it pays that a thread spins, as its waits of late have shown.
///
/// A spin that found its answer doubles how often there is one, and one in vain makes it a quarter.
/// So a thread goes on to spin only if two of three find an answer. Waits that are not spun teach
/// nothing: how long they were depends on the wake.
#[derive(Debug)]
pub(crate) struct AdaptiveWait {
    /// Every how many waits there is a spin: 1 to [`INTERVAL_MAX`]. Only a hint, as is the other: a
    /// lost update does no harm.
    interval: AtomicU32,
    /// How many waits are left without one.
    skipped: AtomicU32,
}

impl AdaptiveWait {
    pub(crate) const fn new() -> AdaptiveWait {
        AdaptiveWait { interval: AtomicU32::new(1), skipped: AtomicU32::new(0) }
    }

    /// Waits for an answer: polls for `spin` at most if that is likely to be enough, then sleeps
    /// until it is there. With a `spin` of zero it never polls.
    pub(crate) fn wait<T>(
        &self,
        spin: Duration,
        poll: impl Fn() -> Option<T>,
        sleep: impl FnOnce() -> T,
    ) -> T {
        self.spin(spin, poll).unwrap_or_else(sleep)
    }

    fn spin<T>(&self, spin: Duration, poll: impl Fn() -> Option<T>) -> Option<T> {
        if spin.is_zero() || !self.is_due() {
            return None;
        }
        // What is there already says nothing of how long others take.
        if let Some(answer) = poll() {
            return Some(answer);
        }
        let permit = SpinPermit::take()?;
        let answer = poll_for(spin, poll);
        drop(permit);
        self.learn(answer.is_some());
        answer
    }

    fn is_due(&self) -> bool {
        let left = self.skipped.load(Ordering::Relaxed);
        if left > 0 {
            self.skipped.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    fn learn(&self, was_of_use: bool) {
        if !LEARNS {
            return;
        }
        let interval = self.interval.load(Ordering::Relaxed);
        let interval = if was_of_use { interval / 2 } else { interval * 4 }.clamp(1, INTERVAL_MAX);
        self.interval.store(interval, Ordering::Relaxed);
        self.skipped.store(interval - 1, Ordering::Relaxed);
    }
}

/// Polls until there is an answer, the time is over, or another thread wants the processor.
fn poll_for<T>(spin: Duration, poll: impl Fn() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    let mut spun = Duration::ZERO;
    loop {
        thread::yield_now();
        if let Some(answer) = poll() {
            return Some(answer);
        }
        let now = began.elapsed();
        let is_shared = LEARNS && now.saturating_sub(spun) >= SHARED;
        if is_shared || now >= spin {
            return None;
        }
        spun = now;
    }
}

/// What many host threads wait for, of all ledgers in the process: they resemble each other.
static HOSTS: AdaptiveWait = AdaptiveWait::new();

/// The wait of a host thread.
pub(crate) fn host_wait<T>(
    spin: Duration,
    poll: impl Fn() -> Option<T>,
    sleep: impl FnOnce() -> T,
) -> T {
    HOSTS.wait(spin, poll, sleep)
}

static SPINNING: AtomicUsize = AtomicUsize::new(0);

/// One of the few threads of the process that may spin at a time. Given back when dropped.
struct SpinPermit {
    counted: &'static AtomicUsize,
}

impl SpinPermit {
    fn take() -> Option<SpinPermit> {
        let max = if LEARNS { machine::free_processors() } else { usize::MAX };
        SpinPermit::of(&SPINNING, max)
    }

    fn of(counted: &'static AtomicUsize, max: usize) -> Option<SpinPermit> {
        let others = counted.fetch_add(1, Ordering::Relaxed);
        Some(SpinPermit { counted }).filter(|_| others < max) // given back if it is one too many
    }
}

impl Drop for SpinPermit {
    fn drop(&mut self) {
        self.counted.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How often a wait that is never answered polls.
    fn polls(wait: &AdaptiveWait, spin: Duration) -> u32 {
        let polls = Cell::new(0);
        let nothing = || {
            polls.set(polls.get() + 1);
            None
        };
        wait.wait(spin, nothing, || ());
        polls.get()
    }

    #[test]
    fn a_spin_of_zero_never_polls() {
        let wait = AdaptiveWait::new();
        for _ in 0..1000 {
            assert_eq!(polls(&wait, Duration::ZERO), 0);
        }
    }

    #[test]
    fn waits_that_turn_out_long_end_the_spinning_and_short_ones_bring_it_back() {
        let wait = AdaptiveWait::new();
        let due = |wait: &AdaptiveWait| (0..640).filter(|_| wait.is_due()).count();
        assert_eq!(due(&wait), 640, "nothing is known yet");
        let mut spins = 0;
        for _ in 0..6400 {
            if wait.is_due() {
                spins += 1;
                wait.learn(false);
            }
        }
        assert!((100..=104).contains(&spins), "{spins} of 6400 waits");
        for _ in 0..INTERVAL_MAX * 2 {
            if wait.is_due() {
                wait.learn(true);
            }
        }
        assert_eq!(due(&wait), 640, "every wait after those that were of use");
    }

    #[test]
    fn half_of_the_spins_in_vain_are_too_many_and_one_of_four_is_not() {
        let spins = |of_use: fn(u32) -> bool| {
            let (wait, mut spins) = (AdaptiveWait::new(), 0);
            for _ in 0..10_000 {
                if wait.is_due() {
                    wait.learn(of_use(spins));
                    spins += 1;
                }
            }
            spins
        };
        let (half, most) = (spins(|spin| spin % 2 == 0), spins(|spin| spin % 4 != 0));
        assert!(half < 500, "{half} of 10000 waits");
        assert!(most > 4000, "{most} of 10000 waits");
    }

    #[test]
    fn an_answer_that_comes_is_found_without_a_sleep_and_a_late_one_is_not_awaited() {
        let polls = Cell::new(0);
        let third = || {
            polls.set(polls.get() + 1);
            (polls.get() == 3).then_some("found")
        };
        // However busy the machine is, one of many polls quickly.
        let found = (0..1000).any(|_| {
            polls.set(0);
            poll_for(SPIN_MAX, third).is_some()
        });
        assert!(found);
        let began = Instant::now();
        assert_eq!(poll_for::<()>(Duration::from_micros(1), || None), None);
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_spin_ends_when_another_thread_had_the_processor() {
        let polls = Cell::new(0);
        let slow = || {
            polls.set(polls.get() + 1);
            std::thread::sleep(2 * SHARED);
            None::<()>
        };
        assert_eq!(poll_for(SPIN_MAX, slow), None);
        assert_eq!(polls.get(), 1);
    }

    #[test]
    fn permits_are_bounded_and_given_back() {
        static SPINNING: AtomicUsize = AtomicUsize::new(0);
        let permits: Vec<_> = (0..5).filter_map(|_| SpinPermit::of(&SPINNING, 3)).collect();
        assert_eq!(permits.len(), 3);
        drop(permits);
        assert_eq!(SPINNING.load(Ordering::Relaxed), 0);
        assert!(SpinPermit::of(&SPINNING, 0).is_none());
    }
}
