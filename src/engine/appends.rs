//! How appends come from the hosts: batch by batch, and small ones together.

use std::time::Duration;

use super::Engine;
use super::requests::InFlight;
use crate::role::Role;

/// How long small appends wait for those that are under way. Each batch costs a write, a sync and
/// some wakes on every node, whatever its size. What comes one by one meanwhile goes together once
/// they are committed, which is sooner than this where disks are fast.
pub(super) const HOLD: Duration = Duration::from_micros(500);

impl Engine {
    /// Proposes what is queued, unless that is held back. Returns whether it was anything.
    pub(super) fn take_appends(&mut self) -> bool {
        if self.overload_sync.is_some() {
            return false; // its end is an input
        }
        let may_hold = !self.in_flight.is_empty() && self.now.elapsed < self.last_take + HOLD;
        self.holds_appends = may_hold && self.shared.sequencer.hold();
        !self.holds_appends && self.propose_queued()
    }

    /// Proposes what is queued. Returns whether it was anything.
    pub(super) fn propose_queued(&mut self) -> bool {
        let batches = self.shared.sequencer.take(self.now.unix_ms);
        let any = !batches.is_empty();
        if any {
            self.last_take = self.now.elapsed;
        }
        for batch in batches {
            let id = self.next_batch;
            self.next_batch += 1;
            let (completion, cost) = (batch.completion, batch.cost);
            self.in_flight.insert(id, InFlight { completion, cost, since: self.now.elapsed });
            self.ages.push_back(id);
            self.must_reindex |= !self.replica.handle_append(id, batch.term, batch.body);
        }
        if self.must_reindex {
            // The indexes given out since are wrong. None of them was acknowledged.
            self.shared.sequencer.close(self.refusal());
        }
        any
    }

    /// Until when appends are held back, which wake nobody meanwhile.
    pub(super) fn held_until(&self) -> Option<Duration> {
        (self.holds_appends && self.overload_sync.is_none()).then(|| self.last_take + HOLD)
    }

    /// Sets the sequencer of a leader to the end of the log, if its indexes are wrong.
    pub(super) fn reindex(&mut self) {
        if self.must_reindex
            && self.replica.role_state().role == Role::Leader
            && !self.replica.is_transferring()
        {
            self.open_sequencer();
        }
    }
}
