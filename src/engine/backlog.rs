//! What a node does whose storage takes more than it makes durable: it syncs ahead of time, and
//! takes no appends meanwhile.

use super::Engine;

impl Engine {
    /// Begins a sync ahead of its time if the storage is behind.
    pub(super) fn sync_ahead(&mut self) {
        if self.catching_up.is_none() && self.is_at_work() && self.storage.is_behind() {
            self.begin_sync(0);
            self.catching_up = Some(self.syncs);
        }
    }
}
