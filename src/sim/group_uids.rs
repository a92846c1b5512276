//! The unique id of the simulated group, for the check of the [`monitor`](super::monitor):
//!
//! - **A13** The id of the group is the one in the first committed batch that names it, and there
//!   is no second such batch. No node saves, announces or recovers another one, or any before that
//!   batch was committed. What a node has announced is there after a crash.

/// What is known of the id of the group.
pub(super) struct GroupUids {
    /// 0: no committed batch names the group.
    pub(super) committed: u128,
    /// What each node has announced from its present disk. 0: nothing.
    announced: Vec<u128>,
}

impl GroupUids {
    pub(super) fn new(nodes: usize) -> GroupUids {
        GroupUids { committed: 0, announced: vec![0; nodes] }
    }

    /// A batch that names the group is committed.
    pub(super) fn commit(&mut self, batch: u64, uid: u128) -> Result<(), String> {
        match std::mem::replace(&mut self.committed, uid) {
            0 => Ok(()),
            before => Err(format!(
                "A13: batch {batch} names the group {uid:x}, and an earlier one named it \
                 {before:x}"
            )),
        }
    }

    /// A node saves, announces or recovers an id, or none.
    pub(super) fn check(&self, node: usize, uid: u128, does: &str) -> Result<(), String> {
        let committed = self.committed;
        match uid == 0 || uid == committed {
            true => Ok(()),
            false => Err(format!(
                "A13: node {} {does} the id {uid:x}, and {committed:x} is committed",
                node + 1
            )),
        }
    }

    pub(super) fn announce(&mut self, node: usize, uid: u128) {
        self.announced[node] = uid;
    }

    /// What a node has announced from its present disk. 0: nothing.
    pub(super) fn announced(&self, node: usize) -> u128 {
        self.announced[node]
    }

    /// A node starts with this id, from another disk than before if it is `replaced`.
    pub(super) fn recover(&mut self, node: usize, uid: u128, replaced: bool) -> Result<(), String> {
        match std::mem::replace(&mut self.announced[node], uid) {
            before if replaced || before == 0 || before == uid => Ok(()),
            before => {
                Err(format!("A13: node {} has forgotten the id {before:x} of its group", node + 1))
            }
        }
    }
}
