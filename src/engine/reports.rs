//! Reports each change of a node's part in its group: in the status, and in a line of the log.

use super::Engine;
use super::lagging::News;
use super::work::Notice;
use crate::entry::NodeId;
use crate::replica::RoleState;
use crate::retention::{Chosen, Reason};
use crate::role::Role;
use crate::storage::Recovered;

impl Engine {
    /// Reports the log that was opened.
    pub(super) fn report_opened(&self, recovered: &Recovered) {
        let (end, term) = (self.shared.watermark.end(), recovered.hard_state.term);
        self.inform(&format!(
            "opened in term {term}, with entries {} to below {}, committed to below {end}",
            recovered.base.point.next_index, recovered.last.next_index,
        ));
    }

    /// Notifies the host that this node has no leader and does not lead.
    pub(super) fn announce_absence(&mut self) {
        let role = if self.replica.role_state().role == Role::Learner {
            Role::Learner
        } else {
            Role::Follower
        };
        self.announce(RoleState { role, term: self.replica.role_state().term, leader: None });
    }

    /// Notifies the host of role, term and leader.
    pub(super) fn announce(&mut self, role_state: RoleState) {
        let members = self.shown_members();
        let (before, mut status) = self.shared.status.change(|status| {
            let before = RoleState { role: status.role, term: status.term, leader: status.leader };
            (status.role, status.term, status.leader) =
                (role_state.role, role_state.term, role_state.leader);
            status.fault.clone_from(&self.fault);
            (status.members, status.stopped) = (members, self.stopped);
            status.asleep = self.is_asleep();
            (before, status.clone())
        });
        self.shared.refresh(&mut status);
        self.report_change(before, role_state);
        self.shared.roles.announce(status.clone());
        // The receiver is gone only after a shutdown.
        let _ = self.work.roles.send(Notice::Role(Box::new(status)));
    }

    /// Logs a change of role, term or leader.
    fn report_change(&self, before: RoleState, now: RoleState) {
        let RoleState { role, term, leader } = now;
        if before == now {
            return;
        }
        let lost = if before.role == Role::Leader { "leads no longer: " } else { "" };
        let does = match (role, leader) {
            (Role::Leader, _) => "leads".to_owned(),
            // A pre-vote: the term is raised only once a majority would vote for this node.
            (Role::Candidate, _) if term == before.term => {
                "hears of no leader, and asks who would vote for it,".to_owned()
            }
            (Role::Candidate, _) => "asks for votes".to_owned(),
            (_, Some(leader)) => format!("follows node {leader}"),
            (_, None) => "knows no leader".to_owned(),
        };
        self.inform(&format!("{lost}{does} in term {term}"));
    }

    /// The log began at entry `before`, and was purged up to `first`.
    /// `removed` are the segments that went, as far as the storage tells of them.
    pub(super) fn report_purged(&self, before: u64, first: u64, removed: &[Chosen]) {
        let mut why = String::new();
        for reason in Reason::OF_POLICIES {
            let of_reason = removed.iter().filter(|one| one.reason == reason);
            let (count, bytes) = of_reason
                .fold((0_u64, 0_u64), |(count, sum), one| (count + 1, sum + one.segment.bytes));
            if count > 0 {
                let text = reason.text();
                why.push_str(&format!("; {text}: {count} segments of {bytes} bytes"));
            }
        }
        let mut counted = self.shared.removed.lock();
        removed.iter().for_each(|one| counted.count(one.reason, one.segment.bytes));
        drop(counted);
        self.inform(&format!("purged: its log begins at entry {first}, and did at {before}{why}"));
    }

    /// A transfer of the leadership has begun.
    pub(super) fn report_transfer(&self, to: NodeId) {
        self.inform(&format!("hands the leadership to node {to}"));
    }

    /// Logs news of a follower, which has confirmed the log up to `has`.
    pub(super) fn report_follower(&self, node: NodeId, news: News, has: u64) {
        let committed = self.replica.committed();
        let lacks = || match self.shared.reader.point(has) {
            _ if has == 0 => "it has said nothing to this leader yet".to_owned(),
            Ok(Some(point)) => {
                let (entries, bytes) = (
                    committed.next_index.saturating_sub(point.next_index),
                    committed.next_position.saturating_sub(point.next_position),
                );
                format!(
                    "it has what lies below entry {}, and lacks {entries} committed entries \
                     ({bytes} bytes)",
                    point.next_index
                )
            }
            // That log point was purged here, or cannot be read now.
            _ => format!("it lacks what was committed since batch {has}"),
        };
        match news {
            News::Moves => {
                let first = self.shared.reader.base().point.next_index;
                self.inform(&format!(
                    "moves node {node} forward: what it lacks was purged here, and its log begins \
                     anew at entry {first}"
                ));
            }
            News::Lags => self.inform(&format!("node {node} lags: {}", lacks())),
            News::CatchesUp => self.inform(&format!("node {node} catches up: {}", lacks())),
            News::HasCaughtUp => self.inform(&format!("node {node} has caught up")),
        }
    }

    /// Logs a line at INFO.
    pub(super) fn inform(&self, what: &str) {
        let replica = &self.settings.replica;
        log::info!("group {} node {}: {what}", replica.group, replica.node);
    }

    /// Logs a line at WARN: an operator should act.
    pub(super) fn warn(&self, what: &str) {
        let replica = &self.settings.replica;
        log::warn!("group {} node {}: {what}", replica.group, replica.node);
    }
}
