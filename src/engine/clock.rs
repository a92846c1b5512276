//! Warns of timestamps in the future.
//!
//! Timestamps never decrease along a log. So once the clock of a leader was far ahead, every later
//! entry has that timestamp until the clocks have caught up with it, whichever node leads.

use super::Engine;

/// How far the newest timestamp may be ahead of the clock of this node without a warning, in ms.
const AHEAD_MS_MAX: u64 = 60_000;

impl Engine {
    /// Called once a tick, from the first on: so it warns at the opening, and when it happens.
    pub(super) fn watch_clock(&mut self) {
        let newest = self.replica.newest_timestamp();
        let is_ahead = newest > self.now.unix_ms.saturating_add(AHEAD_MS_MAX);
        if is_ahead && !self.warned_of_clock {
            log::warn!(
                "group {} node {}: the newest entry bears the time {newest} ms since 1970, and \
                 this node's clock says {}, {} s earlier. Every later entry bears that time until \
                 the clock reaches it: correct the clocks of all nodes",
                self.settings.replica.group,
                self.settings.replica.node,
                self.now.unix_ms,
                (newest - self.now.unix_ms) / 1000,
            );
        }
        self.warned_of_clock = is_ahead;
    }
}
