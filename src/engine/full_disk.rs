//! A full disk, or a lack of file descriptors or memory: the node gives up the leadership, and
//! takes part again once writes succeed.

use super::Engine;
use crate::storage::{HardState, StorageError};

impl Engine {
    /// Restarts the replica from the log as it is written, as after a crash. Whatever raft-rs took
    /// and the disk did not was never acknowledged. The replica restarts as a follower and keeps
    /// its proposals, which peers may hold. For an election timeout it votes and serves reads, but
    /// takes no batches and does not campaign.
    pub(super) fn restart_when_full(
        &mut self,
        full: &StorageError,
        saved: Option<HardState>,
    ) -> Result<(), StorageError> {
        log::warn!(
            "group {} node {}: stepping back: {full}",
            self.settings.replica.group,
            self.settings.replica.node
        );
        // At its start raft-rs takes everything in the log for durable.
        let durable = self.storage.begin_sync().wait();
        durable?;
        self.replica.restart(
            &self.settings.replica,
            self.identity,
            saved,
            self.shared.reader.clone(),
        )?;
        self.epoch += 1;
        self.is_paused = true;
        self.retry_ticks = self.settings.replica.election_ticks;
        for id in self.barriers.keys() {
            self.replica.handle_barrier(*id);
        }
        self.disk_full_reason = Some(full.to_string());
        self.shared.status.change(|status| status.full.clone_from(&self.disk_full_reason));
        self.shared.sequencer.close(self.refusal());
        self.announce(self.replica.role_state());
        Ok(())
    }

    /// A batch was written.
    pub(super) fn clear_disk_full(&mut self) {
        if self.disk_full_reason.take().is_some() {
            self.shared.status.change(|status| status.full = None);
            self.inform("can write again, and takes part as before");
        }
    }

    /// Takes part again after an election timeout. If the disk is still full, the next write fails.
    pub(super) fn wait_for_space(&mut self) {
        self.retry_ticks -= 1;
        self.is_paused = self.retry_ticks > 0;
    }
}
