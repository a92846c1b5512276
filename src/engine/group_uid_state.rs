//! How far a node is with the unique id of its group.

/// See [`group_uid`](super::group_uid).
#[derive(Debug, Default)]
pub(super) struct GroupUidState {
    /// It is committed. It is saved once the sync of this number has succeeded.
    pub(super) found: Option<(u128, u64)>,
    /// It is saved. It is told once the sync of this number has succeeded.
    pub(super) untold: Option<(u128, u64)>,
}
