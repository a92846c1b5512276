//! What a host and an operator are told of a node's part in its group: a status, and one line at
//! INFO, for each change.

use std::time::Duration;

use super::Engine;
use crate::entry::NodeId;
use crate::replica::Standing;
use crate::role::Role;
use crate::storage::Recovered;

/// How often the log says of a log that is not complete how far it has come.
const REJOIN_EVERY: Duration = Duration::from_secs(30);

/// What was told, as far as that decides what is told next.
#[derive(Default)]
pub(super) struct Telling {
    rejoin_at: Duration,
}

impl Telling {
    /// The log has just said that it is not complete.
    pub(super) fn rejoin(&mut self, now: Duration) {
        self.rejoin_at = now + REJOIN_EVERY;
    }

    /// Whether it is to be said again.
    pub(super) fn is_rejoin_due(&mut self, now: Duration) -> bool {
        let is_due = now >= self.rejoin_at;
        if is_due {
            self.rejoin(now);
        }
        is_due
    }
}

impl Engine {
    /// The log was opened, as it was `recovered`.
    pub(super) fn tell_opened(&self, recovered: &Recovered) {
        let (end, term) = (self.shared.watermark.end(), recovered.hard_state.term);
        self.inform(&format!(
            "opened in term {term}, with entries {} to below {}, committed to below {end}",
            recovered.base.mark.next_index, recovered.last.next_index,
        ));
    }

    /// Tells the host that this node leads and follows nobody.
    pub(super) fn announce_absence(&mut self) {
        let role = if self.replica.standing().role == Role::Learner { Role::Learner } else { Role::Follower };
        self.announce(Standing { role, term: self.replica.standing().term, leader: None });
    }

    /// Tells the host what this node is to its group.
    pub(super) fn announce(&mut self, standing: Standing) {
        let members = self.shown_members();
        let (before, mut status) = self.shared.status.change(|status| {
            let before = Standing { role: status.role, term: status.term, leader: status.leader };
            (status.role, status.term, status.leader) = (standing.role, standing.term, standing.leader);
            status.fault.clone_from(&self.fault);
            (status.members, status.stopped) = (members, self.stopped);
            (before, status.clone())
        });
        self.shared.fill_in(&mut status);
        self.tell_change(before, standing);
        // Only a driver that has shut down takes no role changes.
        let _ = self.backstage.roles.send(status);
    }

    /// Role, term or leader have changed.
    fn tell_change(&self, before: Standing, now: Standing) {
        let Standing { role, term, leader } = now;
        if before == now {
            return;
        }
        let lost = if before.role == Role::Leader { "leads no longer: " } else { "" };
        let does = match (role, leader) {
            (Role::Leader, _) => "leads".to_owned(),
            // In a term of its own only once a majority would vote for it.
            (Role::Candidate, _) if term == before.term => "hears of no leader, and asks who would vote for it,".to_owned(),
            (Role::Candidate, _) => "asks for votes".to_owned(),
            (_, Some(leader)) => format!("follows node {leader}"),
            (_, None) => "knows no leader".to_owned(),
        };
        self.inform(&format!("{lost}{does} in term {term}"));
    }

    /// The log was purged, and began at entry `before`.
    pub(super) fn tell_purged(&self, before: u64, first: u64) {
        self.inform(&format!("purged: its log begins at entry {first}, and did at {before}"));
    }

    /// The leadership is being handed to another voter.
    pub(super) fn tell_transfer(&self, to: NodeId) {
        self.inform(&format!("hands the leadership to node {to}"));
    }

    /// Writes one line for whoever runs this node.
    pub(super) fn inform(&self, what: &str) {
        let replica = &self.settings.replica;
        log::info!("group {} node {}: {what}", replica.group, replica.node);
    }

    /// Writes one line for whoever is to do something about it.
    pub(super) fn warn(&self, what: &str) {
        let replica = &self.settings.replica;
        log::warn!("group {} node {}: {what}", replica.group, replica.node);
    }
}
