//! How appends come from the hosts: batch by batch, and small ones together.

use std::time::Duration;

use super::Engine;
use super::permits::AppendPermit;
use super::requests::InFlight;
use crate::error::AppendError;
use crate::role::Role;

/// How long small appends wait for those that are under way. Each batch costs a write, a sync and
/// some wakes on every node, whatever its size. What comes one by one meanwhile goes together once
/// they are committed, which is sooner than this where disks are fast.
pub(super) const HOLD: Duration = Duration::from_micros(500);

/// How long the leader waits for a batch that carries its new commit index, before it sends a
/// message of its own. A host whose append was acknowledged appends again sooner than that, so most
/// commits need no message. Readers on other nodes wait little longer than for the network.
pub(super) const COMMIT_NOTICE_DELAY: Duration = Duration::from_micros(50);

/// The same while many groups of a host wait for each other: their next batches come later, and
/// appends take as long. A message and its answer on each of two followers cost half as much as a
/// batch.
const CONTENDED_NOTICE_DELAY: Duration = Duration::from_millis(20);

impl Engine {
    /// Proposes what is queued, unless that is held back. Returns whether it was anything.
    pub(super) fn take_appends(&mut self) -> bool {
        if self.overload_sync.is_some() {
            self.permit.stop_waiting();
            return false; // its end is an input
        }
        let may_hold = !self.in_flight.is_empty() && self.now.elapsed < self.last_take + HOLD;
        self.holds_appends = may_hold && self.shared.sequencer.hold();
        !self.holds_appends && self.may_write_appends() && self.propose_queued()
    }

    /// Whether what is queued may be written, or nothing is queued: many groups of a host wait for
    /// each other, and their batches fill meanwhile (see [`permits`](super::permits)).
    fn may_write_appends(&mut self) -> bool {
        if !self.permit.is_needed() {
            return true;
        }
        self.end_permit();
        if !self.shared.sequencer.has_batches() {
            self.permit.stop_waiting();
            return true;
        }
        self.permit.acquire(self.syncs + 1, self.now.elapsed)
    }

    /// Gives the permit back if it is no longer needed.
    pub(super) fn end_permit(&mut self) {
        match self.is_active() {
            true => self.permit.end(self.syncs, self.sleep.synced, self.now.elapsed),
            false => self.permit.give_back(),
        }
    }

    /// When appends are written that wait for something else now, if anything does.
    pub(super) fn appends_wait_until(&self) -> Option<Duration> {
        let permit = self.permit.awaited_until().or_else(|| self.permit.held_until());
        permit.into_iter().chain(self.held_until()).min()
    }

    /// When the commit index is to be sent to the others, unless a batch carries it before.
    pub(super) fn commit_notice(&self) -> Option<Duration> {
        let has_unsent_commit = self.is_active() && self.replica.has_unsent_commit();
        let delay = || match self.permit.is_contended() {
            true => CONTENDED_NOTICE_DELAY,
            false => COMMIT_NOTICE_DELAY,
        };
        has_unsent_commit
            .then(|| self.commit_notice_at.unwrap_or_else(|| self.now.elapsed + delay()))
    }

    /// This node needs a permit to write appends.
    pub(crate) fn set_permit(&mut self, permit: AppendPermit) {
        self.permit = permit;
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

    /// The error for an append that is certain not to be committed: another node leads, or none
    /// does, or this disk is full.
    pub(super) fn refusal(&self) -> AppendError {
        let leader =
            self.replica.role_state().leader.filter(|leader| *leader != self.settings.replica.node);
        if let Some(reason) = self.disk_full_reason.clone().filter(|_| leader.is_none()) {
            return AppendError::StorageFull { reason };
        }
        let address =
            leader.and_then(|leader| self.settings.addresses.iter().find(|(id, _)| *id == leader));
        let address = address.map(|(_, address)| address.as_str().into());
        let advertised = leader.and_then(|leader| self.advertised(leader));
        let refused = match leader {
            None => self.shared.status.read(|status| status.refused.clone()),
            Some(_) => Vec::new(),
        };
        AppendError::NotLeader { leader, address, advertised, refused: refused.into() }
    }
}
