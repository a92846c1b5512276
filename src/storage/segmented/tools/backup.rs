//! Backup of a closed log, and restoring it.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::super::backup::Source;
use super::super::identity::IdentityFile;
use super::super::segment_set::SegmentSet;
use super::OpenedLog;
use crate::entry::NodeId;
use crate::storage::{Backup, BackupError, StorageError};

/// Makes a backup of the closed log in `dir`: the directory `to`, which must not exist or be empty,
/// and whose parent must exist.
///
/// It holds all that the log holds, including what is not known to be committed. Files that never
/// change are shared with the log (hard links), if both are on one file system. When this returns,
/// the backup is durable, and all of it was read and verified. If it fails, or the machine does,
/// there is no backup at `to`.
///
/// See [`DLedger::backup`](crate::DLedger::backup) for a ledger that is open, and for the use of a
/// backup.
///
/// # Errors
/// Any [`BackupError`] but `Stopped`, `CalledFromWaker` and `Unsupported`: [`BackupError::InUse`]
/// if the log is open, [`BackupError::Damaged`] if any of it does not read back.
pub fn backup(dir: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Backup, BackupError> {
    copy(dir.as_ref(), to.as_ref(), None, Restore::OneNode)
}

/// Restores `backup` to the directory `dir`, which must not exist or be empty, as the log of
/// `node`. `backup` is a backup of that node or of any other member of its group, or the closed log
/// of one.
///
/// The backup is not changed, and can be restored again. Costs what [`backup`] costs.
///
/// A restored node has lost its votes and acknowledgements since the backup. With
/// [`Restore::OneNode`], which is right whenever any other member of the group still exists, it is
/// marked so, and asks every other member before it takes part again: see
/// [`Builder::rejoin_empty`](crate::Builder::rejoin_empty), which is the same without a backup.
/// (The only voter of a group has no other to ask, and continues at once.) With
/// [`Restore::WholeGroup`] the nodes start from the backup; what the group acknowledged since is
/// lost.
///
/// # Errors
/// Those of [`backup`], and [`BackupError::NotAMember`].
pub fn restore(
    backup: impl AsRef<Path>,
    dir: impl AsRef<Path>,
    node: impl Into<NodeId>,
    restore: Restore,
) -> Result<Backup, BackupError> {
    copy(backup.as_ref(), dir.as_ref(), Some(node.into()), restore)
}

/// How much of a group is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore {
    /// One node, while others run, or are down and will come back.
    OneNode,
    /// Every node, preferably all from one backup. No former directory of the group may be opened
    /// again: what it acknowledged and what the restored nodes do would contradict each other.
    WholeGroup,
}

fn copy(
    from: &Path,
    to: &Path,
    node: Option<NodeId>,
    restore: Restore,
) -> Result<Backup, BackupError> {
    let opened = OpenedLog::open(from)?;
    if let Some(corruption) = opened.inspection.corruption.first() {
        return Err(StorageError::from(corruption).into());
    }
    let OpenedLog { disk, inspection, state, commit, segments, _lock, .. } = opened;
    let mut owner = inspection.owner;
    let members = &inspection.base.membership;
    if let Some(node) = node {
        if !members.contains(node) {
            let members = members.voters.iter().chain(&members.learners).map(NodeId::to_string);
            return Err(BackupError::NotAMember {
                node,
                members: members.collect::<Vec<_>>().join(", "),
            });
        }
        owner.node = node;
    }
    let last = inspection.last.raft_index;
    // What the only voter of a group holds is committed.
    let commit = if members.voters.len() == 1 { last } else { commit };
    let identity = IdentityFile { directory: state.directory, owner };
    let live = SegmentSet { base: inspection.base, segments, gaps: Vec::new() };
    let source = Source {
        disk: Arc::new(disk),
        live: Arc::new(ArcSwap::from_pointee(live)),
        state,
        commit,
        last,
        is_alone: restore == Restore::WholeGroup,
    };
    source.write_as(identity, to, &|| false)
}
