//! What a host follows as it happens, change by change.

use super::DLedger;
use crate::role_changes::RoleChanges;

impl DLedger {
    /// Every change of role, term or leader of this node, in order and without loss, beginning with
    /// the present role: what [`Builder::on_role_change`](crate::Builder::on_role_change) is called
    /// with, for a thread or a task that asks for it. May be called at any time, also within a
    /// waker, and as often as is wished. See [`RoleChanges`].
    pub fn role_changes(&self) -> RoleChanges {
        RoleChanges::new(self.node.shared.clone())
    }
}
