//! Backups: their description, their errors, and the interface that makes one.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::StorageError;
use crate::entry::NodeId;
use crate::fork::FORKED;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The indexes of the entries in it that are known to be committed, from the first kept one on.
    pub committed: Range<u64>,
    /// The position at `committed.end`: the bytes of all payloads before it, including purged ones.
    pub position: u64,
    /// The index after its last entry. From a running ledger: `committed.end`. From a closed log it
    /// may be beyond that: entries that the node did not know to be committed may have been
    /// acknowledged by its group, so they are kept.
    pub end_index: u64,
    /// The bytes of files that it shares with the original log: hard links.
    pub linked_bytes: u64,
    /// The bytes that were copied.
    pub copied_bytes: u64,
}

/// Why a backup was not made, or not restored. Nothing of it is left at its target.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A backup cannot be written to the target.
    #[error("nothing can be put into {}: {reason}", path.display())]
    #[non_exhaustive]
    Target {
        /// The target.
        path: PathBuf,
        /// What is wrong with it, and what to do instead.
        reason: String,
    },
    /// There is no space for it.
    #[error(
        "no space left for {}: free some space there, or choose another target",
        path.display()
    )]
    #[non_exhaustive]
    Full {
        /// The file that should have grown.
        path: PathBuf,
    },
    /// The log itself is corrupt within what should have been backed up. A node with peers repairs
    /// it from them when it is opened with `Builder::verify_on_open`; then try again.
    #[error("{} is damaged at offset {offset}, so no backup was made: {reason}", path.display())]
    #[non_exhaustive]
    Damaged {
        /// The file of the log.
        path: PathBuf,
        /// The offset in it, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The log is open, in this process or another.
    #[error(
        "{} is in use by a ledger: shut it down first, or call `DLedger::backup` where it is open",
        path.display()
    )]
    #[non_exhaustive]
    InUse {
        /// The directory of the log.
        path: PathBuf,
    },
    /// The node to restore is not a member of the group.
    #[error("node {node} is no member of the group in the backup: it has {members}")]
    #[non_exhaustive]
    NotAMember {
        /// The node.
        node: NodeId,
        /// The members, by id.
        members: String,
    },
    /// The storage of this ledger makes no backups. See `Storage::begin_backup`.
    #[error("this storage makes no backups")]
    Unsupported,
    /// The log could not be read, or the backup not be written.
    #[error(transparent)]
    Storage(StorageError),
    /// It was called within a waker, on the node's own thread: call it on another thread.
    #[error(
        "called within a waker, on the thread that the answer must come from: use another thread"
    )]
    CalledFromWaker,
    /// This process is a forked child of the one that opened the ledger. See
    /// [`DLedger`](crate::DLedger#forked-children).
    #[error("{FORKED}")]
    Forked,
    /// The ledger was shut down before the backup was done.
    #[error("the ledger was shut down")]
    Stopped,
}

impl From<StorageError> for BackupError {
    fn from(error: StorageError) -> BackupError {
        match error {
            StorageError::Full { path } => BackupError::Full { path },
            StorageError::Corrupt { path, offset, reason } => {
                BackupError::Damaged { path, offset, reason }
            }
            StorageError::InUse { path } => BackupError::InUse { path },
            error => BackupError::Storage(error),
        }
    }
}

/// A backup that was begun: its contents are fixed, and the storage continues meanwhile.
pub trait PendingBackup: Send {
    /// Writes the backup into the directory `to`, which afterwards is complete and durable, or as
    /// before. Blocks until that is done, or shortly after `is_stopped` returns true.
    ///
    /// # Errors
    /// Any [`BackupError`]; [`BackupError::Stopped`] if `is_stopped` returned true.
    fn write(
        self: Box<Self>,
        to: &Path,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Backup, BackupError>;
}
