//! The membership of the group, and the place of this node in it.

use crate::entry::NodeId;
use crate::role::Membership;

/// The membership that is in force here, and this node's place in it.
#[derive(Clone, Debug)]
pub(crate) struct LocalMembership {
    me: NodeId,
    membership: Membership,
}

impl LocalMembership {
    pub(crate) fn new(me: NodeId, membership: Membership) -> LocalMembership {
        LocalMembership { me, membership }
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Takes the membership of a new base.
    pub(crate) fn replace(&mut self, membership: Membership) {
        self.membership = membership;
    }

    /// Whether this node makes up the quorum alone.
    pub(crate) fn is_sole_voter(&self) -> bool {
        self.membership.voters == [self.me]
    }

    /// Whether this node is the only member.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_sole_voter() && self.membership.learners.is_empty()
    }

    pub(crate) fn is_learner(&self) -> bool {
        self.membership.learners.contains(&self.me)
    }

    /// Whether `node` votes, and so may lead.
    pub(crate) fn is_voter(&self, node: NodeId) -> bool {
        self.membership.voters.contains(&node)
    }
}
