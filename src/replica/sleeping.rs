//! A replica of an idle group: whether it may sleep, and how it wakes. While it sleeps it is given
//! no ticks.

use super::Replica;
use crate::entry::NodeId;
use crate::message::SleepPoint;
use crate::role::Role;

impl Replica {
    /// Where the group stands, if this node leads it, and neither it nor a member that `is_up` has
    /// anything to do or to learn.
    pub(crate) fn sleep_point_of_leader(
        &self,
        is_up: impl Fn(NodeId) -> bool,
    ) -> Option<SleepPoint> {
        let point = self.core.sleep_point_of_leader(is_up)?;
        let is_idle = self.role_state.role == Role::Leader && !self.has_unsent_commit();
        (is_idle && self.is_settled(point)).then_some(point)
    }

    /// Where this node stands, if it follows `leader` and has nothing to do or to learn.
    pub(crate) fn sleep_point_of_follower(&self, leader: NodeId) -> Option<SleepPoint> {
        let point = self.core.sleep_point_of_follower(leader)?;
        (self.role_state.leader == Some(leader) && self.is_settled(point)).then_some(point)
    }

    /// Whether everything up to the point is published, and nothing waits for a sync or its turn.
    fn is_settled(&self, point: SleepPoint) -> bool {
        !self.failed
            && self.bound.is_none()
            && self.effects.is_empty()
            && self.current_ready.is_none()
            && self.unsynced.is_empty()
            && self.committed.raft_index == point.last
            && self.role_state.term == point.term
    }

    /// This node has slept. A leader that wakes sends heartbeats, and counts the members that
    /// `is_up` as heard just now. A follower waits for a full election timeout.
    pub(crate) fn wake(&mut self, is_up: impl Fn(NodeId) -> bool) {
        if !self.failed {
            self.core.wake(is_up);
        }
    }

    /// Sends heartbeats at once, if this node leads.
    pub(crate) fn ping(&mut self) {
        if !self.failed {
            self.core.ping();
        }
    }

    /// Whether this node is a follower of `leader`, as Raft has it now.
    pub(crate) fn follows(&self, leader: NodeId) -> bool {
        !self.failed && self.core.follows(leader)
    }

    /// A follower no longer follows its leader: it votes for another node from now on, and
    /// campaigns within one election timeout.
    pub(crate) fn forget_leader(&mut self) {
        if !self.failed {
            self.core.forget_leader();
        }
    }
}
