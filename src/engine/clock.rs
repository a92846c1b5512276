//! Warns of timestamps that lie in the future.
//!
//! Timestamps never decrease along a ledger. So once a leader's clock was far ahead, every later
//! entry bears that time until clocks have caught up with it, whoever leads.

use super::Engine;

/// So far may the newest timestamp of the ledger lie ahead of this node's clock, in milliseconds.
const AHEAD_MS_MAX: u64 = 60_000;

impl Engine {
    /// Called once a tick, also at the first: so it is said at the opening, and when it happens.
    pub(super) fn watch_clock(&mut self) {
        let newest = self.replica.newest_timestamp();
        let is_ahead = newest > self.now.unix_ms.saturating_add(AHEAD_MS_MAX);
        if is_ahead && !self.warned_of_clock {
            log::warn!(
                "group {} node {}: the newest entry bears the time {newest} ms since 1970, and this \
                 node's clock says {}, {} s earlier. Every later entry bears that time until the clock \
                 reaches it: correct the clocks of all nodes",
                self.settings.replica.group,
                self.settings.replica.node,
                self.now.unix_ms,
                (newest - self.now.unix_ms) / 1000,
            );
        }
        self.warned_of_clock = is_ahead;
    }
}
