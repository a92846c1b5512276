//! Backpressure of the storage: if it is behind with making writes durable, the node syncs at once
//! and takes no appends meanwhile.

use super::Engine;

impl Engine {
    /// Begins a sync if the storage is behind.
    pub(super) fn sync_when_behind(&mut self) {
        if self.overload_sync.is_none() && self.is_active() && self.storage.is_behind() {
            self.begin_sync(0);
            self.overload_sync = Some(self.syncs);
        }
    }
}
