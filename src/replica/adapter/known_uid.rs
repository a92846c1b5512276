//! What a node knows of the unique id of its group: see [`group_uid`](super::group_uid).

use crate::storage::Recovered;

/// What is known of the id.
pub(super) struct GroupUid {
    /// 0: not known.
    pub(super) known: u128,
    /// The id that this node proposes if it has to. 0: it proposes and looks for none.
    pub(super) proposal: u128,
    /// No batch up to this one names the group.
    pub(super) searched: u64,
    /// All batches up to `searched` are known. If not, one that was purged may have named the
    /// group: then a later one does not count, and this node does without the id.
    pub(super) is_from_the_start: bool,
    /// The newest term in which the log of this node, as its leader, names the group.
    pub(super) named_in: u64,
}

impl GroupUid {
    pub(super) fn new(recovered: &Recovered, proposal: u128) -> GroupUid {
        let base = recovered.base.point;
        GroupUid {
            known: recovered.group_uid,
            proposal,
            searched: base.raft_index,
            is_from_the_start: base.is_initial(),
            named_in: 0,
        }
    }

    /// Whether the log may still tell the id.
    pub(super) fn is_sought(&self) -> bool {
        self.known == 0 && self.proposal != 0 && self.is_from_the_start
    }

    /// The log was moved forward to this raft index.
    pub(super) fn moved(&mut self, base: u64) {
        self.searched = base;
        self.is_from_the_start = false;
    }
}
