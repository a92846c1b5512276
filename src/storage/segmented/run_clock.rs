//! The clock by which segments age: how long the log has been open, over all openings.
//!
//! No wall clock can vouch for a time that has passed: it may be set forward or back by years,
//! while the node runs or while it is down. So age is only the time for which this process saw time
//! pass, by its monotonic clock. What earlier processes saw is in each seal, and in the file
//! `state`: the sum at that moment. An opening goes on from the highest of them. Time for which the
//! log was not open does not count, nor what a killed process saw since its last seal: a segment
//! may seem younger than it is, and never older.

use std::time::Duration;

/// When a segment was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClosedAt {
    /// For how many milliseconds the log had been open by then, over all openings.
    pub(super) ran_ms: u64,
    /// The wall clock at that moment, in milliseconds since 1970. For people; nothing goes by it.
    pub(super) unix_ms: u64,
}

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunClock {
    /// The sum of earlier openings.
    earlier_ms: u64,
    now: ClosedAt,
}

impl RunClock {
    /// Goes on from the sum of earlier openings.
    pub(super) fn from(earlier_ms: u64) -> RunClock {
        RunClock { earlier_ms, now: ClosedAt { ran_ms: earlier_ms, unix_ms: 0 } }
    }

    /// The log has been open for so long in this process.
    pub(super) fn pass(&mut self, open_for: Duration, unix_ms: u64) {
        let ran_ms = self.earlier_ms.saturating_add(open_for.as_millis() as u64);
        // It never goes back, whatever the caller passes.
        self.now = ClosedAt { ran_ms: ran_ms.max(self.now.ran_ms), unix_ms };
    }

    pub(super) fn now(&self) -> ClosedAt {
        self.now
    }

    /// How long ago the log had been open for `ran_ms`.
    pub(super) fn since(&self, ran_ms: u64) -> Duration {
        Duration::from_millis(self.now.ran_ms.saturating_sub(ran_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: u64 = 365 * 24 * 3_600_000;

    #[test]
    fn age_is_the_time_for_which_the_log_was_open_whatever_the_wall_clock_says() {
        let mut clock = RunClock::from(5_000);
        for unix_ms in [50 * YEAR_MS, 0, 90 * YEAR_MS, 1] {
            clock.pass(Duration::from_secs(1), unix_ms);
            assert_eq!(clock.now(), ClosedAt { ran_ms: 6_000, unix_ms });
            assert_eq!(clock.since(5_500), Duration::from_millis(500));
        }
        assert_eq!(clock.since(7_000), Duration::ZERO, "what is newer than now has no age");
        clock.pass(Duration::ZERO, 0);
        assert_eq!(clock.now().ran_ms, 6_000, "it does not go back");
    }
}
