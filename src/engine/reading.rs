//! What a leader reads for followers that lack batches: a little in each turn, so that none takes long.

use super::Engine;

impl Engine {
    /// Called when all else that this turn has to say to others is on its way. A heartbeat that comes
    /// due meanwhile waits for this one reading, however many followers lag.
    pub(super) fn read_for_followers(&mut self) {
        if self.owes_reading() {
            self.replica.read_for_followers();
            self.carry_out_effects();
        }
    }

    /// Whether followers wait for batches that must be read: then the next turn comes at once.
    pub(super) fn owes_reading(&self) -> bool {
        self.is_at_work() && self.replica.owes_reading()
    }
}
