//! What a node does that has no room on its disk, or no descriptor or memory left: it steps back,
//! and takes part again when there is some.

use super::Engine;
use crate::storage::{HardState, StorageError};

impl Engine {
    /// The disk is full, or the process lacks something else. What raft-rs took and could not be
    /// written was never promised to anyone, so the replica begins anew from what is written, as
    /// after a crash: as a follower, without losing sight of the proposals that peers may have. For
    /// an election timeout it votes and serves reads, but takes no batches and does not campaign.
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
        // raft-rs takes all that a log holds at its start for durable.
        let durable = if planted!("a replica begins anew on what is not durable") {
            Ok(())
        } else {
            self.storage.begin_sync().wait()
        };
        durable?;
        self.replica.restart(
            &self.settings.replica,
            self.identity,
            saved,
            self.shared.reader.clone(),
        )?;
        self.epoch += 1;
        self.full = true;
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
    pub(super) fn note_room(&mut self) {
        if self.disk_full_reason.take().is_some() {
            self.shared.status.change(|status| status.full = None);
            self.inform("can write again, and takes part as before");
        }
    }

    /// After an election timeout the replica takes part again. If there still is no room, the next
    /// write tells.
    pub(super) fn wait_for_space(&mut self) {
        self.retry_ticks -= 1;
        self.full = self.retry_ticks > 0;
    }
}
