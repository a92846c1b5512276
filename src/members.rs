//! What moves all the time of what a node knows of the others: when they were heard, and what they
//! have. The engine notes it once a tick; it is worked out when a host asks for a status.

use std::time::Duration;

use crate::entry::NodeId;
use crate::primitives::{Instant, Mutex};

/// What a node knows of one other member, in the engine's own measures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemberNumbers {
    pub(crate) id: NodeId,
    /// When it was last heard of, by the engine's clock.
    pub(crate) heard: Option<Duration>,
    /// What it is known to have, if this node leads and knows it.
    pub(crate) log: Option<MemberLog>,
}

/// What a follower has, in raft indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberLog {
    /// The last batch that it has confirmed.
    pub(crate) confirmed: u64,
    /// The last batch that it was sent.
    pub(crate) sent: u64,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct MembersBoard(Mutex<Board>);

#[derive(Default)]
struct Board {
    numbers: Vec<MemberNumbers>,
    /// The moment at which they were noted, by the engine's clock and by that of this process.
    noted: Option<(Duration, Instant)>,
}

/// What a status shows of one other member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) id: NodeId,
    /// How long ago it was heard of.
    pub(crate) heard: Option<Duration>,
    pub(crate) log: Option<MemberLog>,
}

impl MembersBoard {
    /// Takes the place of what was noted before, at `now` by the engine's clock.
    pub(crate) fn note(&self, now: Duration, numbers: impl Iterator<Item = MemberNumbers>) {
        let mut board = self.0.lock();
        board.numbers.clear();
        board.numbers.extend(numbers);
        board.noted = Some((now, Instant::now()));
    }

    pub(crate) fn clear(&self) {
        *self.0.lock() = Board::default();
    }

    /// What was noted last, as it looks now.
    pub(crate) fn read(&self) -> Vec<Seen> {
        let board = self.0.lock();
        let Some((noted, at)) = board.noted else { return Vec::new() };
        let now = noted + at.elapsed();
        let seen = |numbers: &MemberNumbers| Seen {
            id: numbers.id,
            heard: numbers.heard.map(|heard| now.saturating_sub(heard)),
            log: numbers.log,
        };
        board.numbers.iter().map(seen).collect()
    }
}
