//! The settings of a replica.

use crate::entry::NodeId;

/// The settings of a replica.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) group: String,
    pub(crate) node: NodeId,
    /// Election timeouts lie between this and twice this.
    pub(crate) election_ticks: usize,
    pub(crate) heartbeat_ticks: usize,
    /// The most that one append message carries, in bytes. A larger batch goes alone.
    pub(crate) message_bytes: u64,
    /// Whether a batch counts here once it is written, without waiting for its sync.
    pub(crate) counts_unsynced: bool,
    /// The least that a lagging follower is sent in a tick, in bytes. `u64::MAX`: as much as it
    /// takes.
    pub(crate) catch_up_bytes: u64,
    pub(crate) seed: u64,
    /// Random: the unique id that this node proposes for a group that has none. 0: the group does
    /// without one.
    pub(crate) new_group_uid: u128,
}
