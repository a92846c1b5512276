//! How far a node is with the unique id of its group.

/// See [`group_uid`](super::group_uid).
#[derive(Debug, Default)]
pub(super) struct GroupUidState {
    /// It is committed. It is saved once the sync of this number has succeeded.
    pub(super) found: Option<(u128, u64)>,
    /// It is saved. It is told once the sync of this number has succeeded.
    pub(super) untold: Option<(u128, u64)>,
}

impl GroupUidState {
    /// Whether it is committed, and its batch is not durable here yet: `synced` is the newest sync
    /// that has succeeded.
    pub(super) fn is_unsynced(&self, synced: u64) -> bool {
        self.found.is_some_and(|(_, sync)| sync > synced)
    }
}
