//! The unique id of the simulated group.
//!
//! - **A12** The id of the group is the one in the first committed batch that names it, and there
//!   is no second such batch. No node saves, announces or recovers another one, or any before that
//!   batch was committed. What a node has announced is there after a crash.

use super::monitor::Monitor;
use crate::storage::LogReader;

/// What is known of the id of the group.
#[derive(Default)]
pub(super) struct GroupUids {
    /// 0: no committed batch names the group.
    committed: u128,
    /// What each node has announced from its present disk. 0: nothing.
    announced: Vec<u128>,
}

impl GroupUids {
    pub(super) fn new(nodes: usize) -> GroupUids {
        GroupUids { committed: 0, announced: vec![0; nodes] }
    }
}

impl Monitor {
    /// A node shows a batch without entries as committed, as the first node of all.
    pub(super) fn check_control_batch(&mut self, node: usize, reader: &dyn LogReader, at: u64) {
        let batches = reader.batches(at, at + 1, 1);
        let Ok([batch]) = batches.as_deref() else {
            return self.violated(format!(
                "A5: node {} looked for batch {at} and read {batches:?}",
                node + 1
            ));
        };
        let Some(uid) = batch.group_uid() else { return };
        let before = std::mem::replace(&mut self.group_uids.committed, uid);
        self.demand(before == 0, || {
            format!(
                "A12: batch {at} names the group {uid:x}, and an earlier one named it {before:x}"
            )
        });
        self.coverage.hit("groups named");
    }

    /// A node does something with an id, 0 if there is none.
    fn demand_group_uid(&mut self, node: usize, uid: u128, does: &str) {
        let committed = self.group_uids.committed;
        self.demand(uid == 0 || uid == committed, || {
            format!("A12: node {} {does} the id {uid:x}, and {committed:x} is committed", node + 1)
        });
    }

    pub(super) fn save_group_uid(&mut self, node: usize, uid: u128) {
        self.coverage.hit("ids of the group saved");
        self.demand_group_uid(node, uid, "saves");
    }

    pub(super) fn announce_group_uid(&mut self, node: usize, uid: u128) {
        self.demand_group_uid(node, uid, "announces");
        self.group_uids.announced[node] = uid;
    }

    /// A node starts with this id, from another disk than before if it is `replaced`.
    pub(super) fn recover_group_uid(&mut self, node: usize, uid: u128, replaced: bool) {
        self.demand_group_uid(node, uid, "recovers");
        let announced = std::mem::replace(&mut self.group_uids.announced[node], uid);
        self.demand(replaced || announced == 0 || uid == announced, || {
            format!("A12: node {} has forgotten the id {announced:x} of the group", node + 1)
        });
        if uid == 0 && self.group_uids.committed != 0 {
            self.coverage.hit("starts without the id of a group that has one");
        }
    }
}
