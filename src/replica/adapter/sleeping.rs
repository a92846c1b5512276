//! What raft-rs knows of an idle group, and what it is told when a node wakes.
//!
//! A sleeping node gets no ticks, so its timers stand still. A check of the quorum counts the
//! members that were heard since the check before: a leader that has slept heard nobody.

use raft::{ProgressState, StateRole};

use super::RaftCore;
use crate::entry::NodeId;
use crate::message::SleepPoint;

impl RaftCore {
    /// Where the group stands, if this node leads it and has nothing to do: every batch is
    /// committed and durable here, and every member that `is_up` has confirmed all of them and that
    /// they are committed.
    pub(in crate::replica) fn sleep_point_of_leader(
        &self,
        is_up: impl Fn(NodeId) -> bool,
    ) -> Option<SleepPoint> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || raft.lead_transferee.is_some() || self.owes_reading()
        {
            return None;
        }
        let point = self.settled_point()?;
        // A new leader first commits a batch of its own term.
        let is_own = raft.raft_log.last_term() == raft.term;
        let is_level = |(id, progress): (&u64, &raft::Progress)| {
            *id == raft.id
                || !is_up(NodeId::from(*id))
                || progress.matched == point.last
                    && progress.committed_index >= point.last
                    && progress.state != ProgressState::Snapshot
        };
        (is_own && raft.prs().iter().all(is_level)).then_some(point)
    }

    /// Where this node stands, if it follows `leader` and has nothing to do: every batch is durable
    /// here, and known to be committed.
    pub(in crate::replica) fn sleep_point_of_follower(&self, leader: NodeId) -> Option<SleepPoint> {
        self.settled_point().filter(|_| self.follows(leader))
    }

    /// The end of the log, if all of it is written, durable, committed and applied.
    fn settled_point(&self) -> Option<SleepPoint> {
        let log = &self.node.raft.raft_log;
        let last = log.last_index();
        let is_settled = [log.committed, log.persisted, log.applied, self.last_settled()]
            .into_iter()
            .all(|index| index == last);
        (is_settled && !self.has_unsaved_term)
            .then_some(SleepPoint { term: self.node.raft.term, last })
    }

    /// This node has slept. A leader sends heartbeats at once, and counts the members that `is_up`
    /// as heard just now; otherwise the next check of the quorum would depose it. A follower waits
    /// for a full election timeout.
    pub(in crate::replica) fn wake(&mut self, is_up: impl Fn(NodeId) -> bool) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader {
            for (id, progress) in raft.mut_prs().iter_mut() {
                progress.recent_active = is_up(NodeId::from(*id));
            }
            self.ping();
        } else {
            raft.election_elapsed = 0;
            self.draw_timeout();
        }
    }

    /// Sends heartbeats at once, if this node leads.
    pub(in crate::replica) fn ping(&mut self) {
        self.node.ping();
    }

    /// The process of the leader is gone. Votes for another node from now on, and campaigns within
    /// one election timeout, at random: many groups lose their leader at the same moment.
    pub(in crate::replica) fn forget_leader(&mut self) {
        self.lose_leader();
        let raft = &mut self.node.raft;
        raft.election_elapsed = raft.election_timeout().saturating_sub(1);
    }
}
