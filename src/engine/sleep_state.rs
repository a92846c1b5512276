//! Whether a node sleeps, and what it needs to know for that: see [`sleeping`](super::sleeping).

use std::time::Duration;

use crate::entry::NodeId;
use crate::message::{SleepMessage, SleepPoint};
use crate::role::Membership;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Sleep {
    pub(super) stage: Stage,
    /// The members whose process is not heard, by the word of the transport. Kept while the node is
    /// awake too: what becomes of a peer while the group goes to sleep must not be missed.
    down: Vec<NodeId>,
    /// Since when nothing has happened in the group, as far as its leader knows.
    pub(super) idle_since: Duration,
    /// How many rounds since then were given up.
    pub(super) failed: u32,
    /// The rounds of this node so far, over all its terms.
    rounds: u64,
    /// A tick has passed in this turn.
    pub(super) has_ticked: bool,
    /// A request of a leader, to be answered when the effects of this turn are carried out.
    pub(super) asked: Option<SleepMessage>,
    /// The count of the newest sync that has ended.
    pub(super) synced: u64,
}

#[derive(Default)]
pub(super) enum Stage {
    #[default]
    Awake,
    /// A leader has asked its members to sleep. Its own clock for heartbeats stands still
    /// meanwhile: a heartbeat would wake those that sleep already.
    Asking(Round),
    Asleep,
}

/// One attempt of a leader to put its group to sleep.
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) point: SleepPoint,
    /// The members that sleep.
    pub(super) agreed: Vec<NodeId>,
    /// When the attempt is given up.
    pub(super) until: Duration,
}

impl Sleep {
    pub(super) fn is_asleep(&self) -> bool {
        matches!(self.stage, Stage::Asleep)
    }

    pub(super) fn is_asking(&self) -> bool {
        matches!(self.stage, Stage::Asking(_))
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        !self.down.contains(&node)
    }

    pub(super) fn set_down(&mut self, node: NodeId) {
        self.set_up(node);
        self.down.push(node);
    }

    pub(super) fn set_up(&mut self, node: NodeId) {
        self.down.retain(|down| *down != node);
    }

    /// Whether a quorum is up.
    pub(super) fn hears_quorum(&self, membership: &Membership) -> bool {
        let up = membership.voters.iter().filter(|voter| self.is_up(**voter)).count();
        2 * up > membership.voters.len()
    }

    /// Begins an attempt.
    pub(super) fn ask(&mut self, point: SleepPoint, until: Duration) {
        self.rounds += 1;
        let (number, agreed) = (self.rounds, Vec::new());
        self.stage = Stage::Asking(Round { number, point, agreed, until });
    }

    /// A follower sleeps.
    pub(super) fn note_asleep(&mut self, answer: &SleepMessage) {
        if let Stage::Asking(round) = &mut self.stage
            && (round.number, round.point) == (answer.round, answer.point)
            && !round.agreed.contains(&answer.from)
        {
            round.agreed.push(answer.from);
        }
    }

    /// The members that have not answered, and are not down.
    pub(super) fn awaited(&self, me: NodeId, membership: &Membership) -> Vec<NodeId> {
        let Stage::Asking(round) = &self.stage else { return Vec::new() };
        let is_awaited =
            |node: &NodeId| *node != me && self.is_up(*node) && !round.agreed.contains(node);
        membership.voters.iter().chain(&membership.learners).copied().filter(is_awaited).collect()
    }

    /// Whether the leader may sleep too: all members that are up do. They are a quorum, or the
    /// attempt would not have begun, or would have been given up when one of them went down.
    pub(super) fn is_agreed(&self, me: NodeId, membership: &Membership) -> bool {
        self.is_asking() && self.awaited(me, membership).is_empty()
    }
}
