//! Which followers of a leader lag, and what its log says of them: that one has fallen behind, how
//! it gets on, that it is moved forward, and that it has caught up.
//!
//! What the status shows ([`Progress`](crate::role::Progress)) and what the log says go by one
//! rule, [`Lag::measure`]. The log tells of a lag that has lasted for two seconds, also of one that
//! the status does not show, since the follower is not reached. Of each follower a line of a kind
//! is written every ten seconds at most, so one that comes and goes does not fill the log.

use std::time::Duration;

const LAGS_AFTER: Duration = Duration::from_secs(2);
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How one follower of this leader lags.
pub(super) struct Lag {
    is_behind: bool,
    /// When it fell behind, if it is.
    since: Option<Duration>,
    /// What was reported of a lag that is not over: when, and what the follower had then.
    reported: Option<(Duration, u64)>,
    is_moved: bool,
    /// Nothing is reported of another lag, or of a move, before.
    lag_at: Duration,
    move_at: Duration,
}

/// What is to be reported of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Moves,
    Lags,
    CatchesUp,
    HasCaughtUp,
}

impl Default for Lag {
    /// Of a follower that has not responded to this leader yet.
    fn default() -> Lag {
        let zero = Duration::ZERO;
        Lag {
            is_behind: true,
            since: None,
            reported: None,
            is_moved: false,
            lag_at: zero,
            move_at: zero,
        }
    }
}

impl Lag {
    /// The follower has confirmed the log up to `has`. It falls behind when it lacks what is
    /// `older` than an election timeout, and is in step again when it has what is older than half
    /// of one, `younger`.
    pub(super) fn measure(&mut self, has: u64, younger: u64, older: u64) {
        self.is_behind = has < if self.is_behind { younger } else { older };
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// What is to be reported of the follower, as it was measured at `now`.
    pub(super) fn news(&mut self, has: u64, now: Duration) -> Option<News> {
        if !self.is_behind {
            self.since = None;
            return self.reported.take().map(|_| {
                self.lag_at = now + TOLD_EVERY;
                News::HasCaughtUp
            });
        }
        let since = *self.since.get_or_insert(now);
        let news = match self.reported {
            None if now >= self.lag_at && now >= since + LAGS_AFTER => News::Lags,
            Some((reported_at, had)) if has > had && now >= reported_at + TOLD_EVERY => {
                News::CatchesUp
            }
            _ => return None,
        };
        self.reported = Some((now, has));
        Some(news)
    }

    /// Takes whether the follower was moved forward, and was not in step since. Returns what is to
    /// be reported of that.
    pub(super) fn note_move(&mut self, is_moved: bool, now: Duration) -> Option<News> {
        let was_moved = std::mem::replace(&mut self.is_moved, is_moved);
        if was_moved || !is_moved || now < self.move_at {
            return None;
        }
        self.move_at = now + TOLD_EVERY;
        Some(News::Moves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is reported of a follower that has so much, of so much that is old, at each second.
    fn reported(looks: &[(u64, u64)]) -> Vec<(usize, News)> {
        let mut lag = Lag::default();
        let look = |(at, &(has, commit)): (usize, &(u64, u64))| {
            lag.measure(has, commit, commit);
            Some((at, lag.news(has, Duration::from_secs(at as u64))?))
        };
        looks.iter().enumerate().filter_map(look).collect()
    }

    #[test]
    fn a_lag_is_told_once_with_what_becomes_of_it() {
        let mut looks = vec![(5, 5), (5, 6), (5, 7), (5, 7)];
        assert_eq!(reported(&looks), [(3, News::Lags)]);
        looks.extend([(5, 7); 29]);
        assert_eq!(reported(&looks), [(3, News::Lags)], "it does not get on");
        looks.extend((6..36).map(|has| (has, 100)));
        looks.push((100, 100));
        let caught_up = [33, 43, 53].map(|at| (at, News::CatchesUp));
        let expected = [&[(3, News::Lags)], &caught_up[..], &[(63, News::HasCaughtUp)]].concat();
        assert_eq!(reported(&looks), expected);
    }

    #[test]
    fn one_that_is_a_little_late_and_one_that_is_level_are_not_told_of() {
        assert_eq!(reported(&[(1, 2), (2, 2)].repeat(50)), []);
    }

    #[test]
    fn one_that_comes_and_goes_does_not_fill_the_log() {
        let looks = [(1, 2), (1, 2), (1, 2), (2, 2)].repeat(100);
        let count = reported(&looks).len();
        assert!((40..=82).contains(&count), "{count} lines in 400 s");
    }

    #[test]
    fn one_that_is_behind_is_in_step_only_when_it_has_more() {
        let mut lag = Lag::default();
        let mut measure = |has| {
            lag.measure(has, 20, 10);
            lag.is_behind()
        };
        assert_eq!(
            [19, 20, 10, 9, 19, 20].map(&mut measure),
            [true, false, false, true, true, false]
        );
    }

    #[test]
    fn a_move_is_told_every_ten_seconds_at_most() {
        let mut lag = Lag::default();
        let mut reported = |second, is_moved| lag.note_move(is_moved, Duration::from_secs(second));
        assert_eq!(
            [reported(0, true), reported(1, true), reported(11, true)],
            [Some(News::Moves), None, None]
        );
        assert_eq!([reported(11, false), reported(12, true)], [None, Some(News::Moves)]);
        assert_eq!([reported(13, false), reported(14, true), reported(15, false)], [None; 3]);
        assert_eq!(reported(22, true), Some(News::Moves));
    }
}
