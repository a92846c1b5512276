//! Backups of what this node has published as committed. They need no working replica.

use super::Engine;
use crate::storage::{BackupError, PendingBackup};

impl Engine {
    /// Begins a backup. The caller writes it, on its own thread.
    pub(super) fn begin_backup(&mut self) -> Result<Box<dyn PendingBackup>, BackupError> {
        if self.stopped {
            return Err(BackupError::Stopped);
        }
        let (reader, end) = (&self.shared.reader, self.shared.watermark.end());
        let base = reader.base().point;
        let last = match end > base.next_index {
            true => reader.batch_containing(end - 1)?.map(|batch| batch.raft_index()),
            false => None,
        };
        self.storage.begin_backup(last.unwrap_or(base.raft_index))
    }
}
