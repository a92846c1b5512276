//! What the log of a leader says of followers that lag: that one has fallen behind, how it gets on,
//! that it is moved forward, and that it has caught up.
//!
//! A follower lags that has not acknowledged for two seconds what had been committed a second
//! before. Of each follower a line of a kind is written every ten seconds at most, so one that
//! comes and goes does not fill the log.

use std::time::Duration;

use crate::entry::NodeId;

/// How often followers are looked at. Who has what was committed one look before is level.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
const LAGS_AFTER: Duration = Duration::from_secs(2);
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The followers of this leader. One of each member at most.
#[derive(Default)]
pub(super) struct Followers {
    list: Vec<Follower>,
    pub(super) next_look: Duration,
    /// What was committed at the last look.
    pub(super) commit: u64,
}

pub(super) struct Follower {
    node: NodeId,
    level_at: Duration,
    /// What was told of a lag that is not over: when, and what the follower had then.
    told: Option<(Duration, u64)>,
    /// Nothing is told of another lag, or of a move, before.
    lag_at: Duration,
    move_at: Duration,
}

/// What is to be told of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Lags,
    CatchesUp,
    HasCaughtUp,
}

impl Followers {
    pub(super) fn of(&mut self, node: NodeId, now: Duration) -> &mut Follower {
        let at = self.list.iter().position(|follower| follower.node == node).unwrap_or_else(|| {
            let zero = Duration::ZERO;
            self.list.push(Follower {
                node,
                level_at: now,
                told: None,
                lag_at: zero,
                move_at: zero,
            });
            self.list.len() - 1
        });
        &mut self.list[at]
    }
}

impl Follower {
    /// It has acknowledged the log up to `has`, and had to up to `commit` to be level.
    pub(super) fn look(&mut self, has: u64, commit: u64, now: Duration) -> Option<News> {
        if has >= commit {
            self.level_at = now;
            return self.told.take().map(|_| {
                self.lag_at = now + TOLD_EVERY;
                News::HasCaughtUp
            });
        }
        let news = match self.told {
            None if now >= self.lag_at && now >= self.level_at + LAGS_AFTER => News::Lags,
            Some((told_at, had)) if has > had && now >= told_at + TOLD_EVERY => News::CatchesUp,
            _ => return None,
        };
        self.told = Some((now, has));
        Some(news)
    }

    /// It was moved forward. Whether that is to be told.
    pub(super) fn is_move_news(&mut self, now: Duration) -> bool {
        let is_news = now >= self.move_at;
        if is_news {
            self.move_at = now + TOLD_EVERY;
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a follower that has so much, of so much, at each look.
    fn told(looks: &[(u64, u64)]) -> Vec<(usize, News)> {
        let mut follower = Follower {
            node: NodeId::from(2),
            level_at: Duration::ZERO,
            told: None,
            lag_at: Duration::ZERO,
            move_at: Duration::ZERO,
        };
        let look = |(at, &(has, commit)): (usize, &(u64, u64))| {
            Some((at, follower.look(has, commit, LOOK_EVERY * at as u32)?))
        };
        looks.iter().enumerate().filter_map(look).collect()
    }

    #[test]
    fn a_lag_is_told_once_with_what_becomes_of_it() {
        let mut looks = vec![(5, 5), (5, 6), (5, 7)];
        assert_eq!(told(&looks), [(2, News::Lags)]);
        looks.extend([(5, 7); 30]);
        assert_eq!(told(&looks), [(2, News::Lags)], "it does not get on");
        looks.extend((6..36).map(|has| (has, 100)));
        looks.push((100, 100));
        let expected = [
            (2, News::Lags),
            (33, News::CatchesUp),
            (43, News::CatchesUp),
            (53, News::CatchesUp),
            (63, News::HasCaughtUp),
        ];
        assert_eq!(told(&looks), expected);
    }

    #[test]
    fn one_that_is_a_little_late_and_one_that_is_level_are_not_told_of() {
        assert_eq!(told(&[(1, 2), (2, 2)].repeat(50)), []);
    }

    #[test]
    fn one_that_comes_and_goes_does_not_fill_the_log() {
        let looks = [(1, 2), (1, 2), (1, 2), (2, 2)].repeat(100);
        let count = told(&looks).len();
        assert!((40..=82).contains(&count), "{count} lines in 400 s");
    }

    #[test]
    fn a_move_is_told_every_ten_seconds_at_most() {
        let mut followers = Followers::default();
        let at = |second| Duration::from_secs(second);
        let mut told = |second| followers.of(NodeId::from(3), at(second)).is_move_news(at(second));
        assert_eq!([0, 1, 9, 10, 11].map(&mut told), [true, false, false, true, false]);
    }
}
