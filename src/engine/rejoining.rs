//! A node whose log is not complete asks every other member for its state, and takes no part before
//! all of them have responded.
//!
//! While [`Engine::rejoin`] is set, the replica is suspended, as during a repair. Then it follows
//! as usual, but until its log reaches a bound it neither leads nor votes for a log below the
//! bound. Why this is enough: see [`rejoin`](crate::replica::rejoin).

use super::Engine;
use super::rejoin_state::Loss;
use super::requests::StateRequest;
use crate::batch::LogPoint;
use crate::entry::NodeId;
use crate::message::{NoState, PeerState, RepairBody, RepairMessage};
use crate::replica::rejoin::Rejoin;
use crate::storage::{DirectoryIdentity, HardState, StorageError};

impl Engine {
    /// Marks the log as not complete, since a message proved that it has lost something. The mark
    /// is made durable before anything else happens.
    pub(super) fn declare_incomplete(&mut self, why: &str) {
        let node = self.settings.replica.node;
        log::error!("group {} node {node}: {why}", self.settings.replica.group);
        self.loss.is_unrecorded |= self.identity.complete;
        self.begin_rejoin();
        self.record_loss(why);
    }

    /// Makes durable that the log is not complete. Returns whether that is done. If the disk is
    /// full, the node stays suspended and tries again.
    fn record_loss(&mut self, why: &str) -> bool {
        if !self.loss.is_unrecorded {
            return true;
        }
        match self.mark_incomplete() {
            Ok(()) => {
                self.loss = Loss { is_unrecorded: false, is_recorded: true };
                self.shared.status.change(|status| status.full = None);
            }
            // Tried once more at the next tick.
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()))
            }
            Err(error) => self.fail(&format!("{why}; and that could not be noted: {error}")),
        }
        !self.loss.is_unrecorded
    }

    /// A peer knows a later opening of this data directory, so this is an older copy of it. The
    /// peer refuses this directory id from now on, so the node takes a new one, also if its log is
    /// already marked as not complete. Late reports about the id before are ignored.
    pub(super) fn handle_outdated_directory(&mut self, peer: NodeId) {
        if self.repair.is_some() {
            self.outdated_by = Some(peer);
        } else if self.fault.is_none() && !self.stopped && !self.loss.is_recorded {
            self.loss.is_unrecorded = true;
            self.declare_incomplete(&format!(
                "node {peer} has met a later opening of this data directory, which is an older \
                 copy of it"
            ));
        }
    }

    fn mark_incomplete(&mut self) -> Result<(), StorageError> {
        let identity = self.storage.set_complete(false)?;
        self.storage.begin_sync().wait()?;
        self.identity = identity;
        self.transport.introduce(identity);
        Ok(())
    }

    /// Suspends the replica. Its syncs in progress do not count any more.
    pub(super) fn begin_rejoin(&mut self) {
        let settings = &self.settings.replica;
        let rejoin = Rejoin::new(
            settings.node,
            self.replica.membership(),
            self.next_request_id,
            settings.election_ticks,
        );
        self.rejoin_report.written(self.now.elapsed);
        self.warn(&rejoin.account());
        self.rejoin = Some(rejoin);
        self.epoch += 1;
        self.state_requests.clear();
        self.shared.sequencer.close(self.refusal());
        self.publish_rejoin();
        self.announce_absence();
    }

    pub(super) fn tick_rejoin(&mut self) {
        if self.rejoin.is_some() && !self.record_loss("its log is not complete") {
            return;
        }
        let Some(rejoin) = &mut self.rejoin else { return self.report_catching_up() };
        let mut questions = rejoin.tick();
        self.next_request_id = rejoin.next_number();
        let still = self.rejoin_report.take_due(self.now.elapsed).then(|| rejoin.account());
        self.transport.send(&mut questions);
        self.publish_rejoin();
        still.iter().for_each(|account| self.warn(account));
        self.try_to_rejoin();
    }

    /// Reports how far the log of a following node has come, while it is not complete.
    fn report_catching_up(&mut self) {
        if self.identity.complete || !self.is_active() {
            return;
        }
        self.publish_rejoin();
        if self.rejoin_report.take_due(self.now.elapsed) {
            let account = self.shared.status.read(|status| status.repair.clone());
            account.iter().for_each(|account| self.inform(account));
        }
    }

    /// A member has sent its state.
    pub(super) fn handle_state(
        &mut self,
        from: NodeId,
        number: u64,
        state: Result<PeerState, NoState>,
    ) {
        if let Some(rejoin) = &mut self.rejoin {
            rejoin.handle_state(from, number, state);
            self.try_to_rejoin();
        }
    }

    fn try_to_rejoin(&mut self) {
        let Some(owed) = self.rejoin.as_ref().and_then(Rejoin::obligation) else { return };
        match self.take_part(owed) {
            Ok(()) => {}
            // Tried once more at the next tick.
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
            }
            Err(error) => self.fail(&format!("it could not take part in its group again: {error}")),
        }
    }

    /// Restarts the replica in the newest term. This node may have voted in it, so it does not vote
    /// in it again.
    fn take_part(&mut self, owed: PeerState) -> Result<(), StorageError> {
        let (own, me) = (self.replica.hard_state(), self.settings.replica.node);
        let is_spent = owed.term <= own.term && own.vote.is_some();
        let hard_state = match is_spent {
            true => HardState { term: owed.term.max(own.term), ..own },
            false => HardState { term: owed.term.max(own.term), vote: Some(me), ..own },
        };
        self.storage.save_hard_state(hard_state)?;
        self.storage.begin_sync().wait()?;
        self.replica.restart(
            &self.settings.replica,
            self.identity,
            Some(hard_state),
            self.shared.reader.clone(),
        )?;
        self.replica.set_bound(Some(owed.last));
        self.epoch += 1;
        self.rejoin = None;
        for id in self.barriers.keys() {
            self.replica.handle_barrier(*id);
        }
        self.save_deferred_peers();
        self.shared.status.change(|status| status.full = None);
        self.publish_rejoin();
        let (term, raft_index) = owed.last;
        self.inform(&format!(
            "every other member has said where it stands, so this node follows its leader again. \
             Its log is complete once it holds batch {raft_index} of term {term}"
        ));
        self.announce(self.replica.role_state());
        Ok(())
    }

    /// Marks the log as complete once it reaches the bound and is durable.
    pub(super) fn end_rejoin(&mut self) {
        // A group of this host that was removed is refused by a log that is complete and does not
        // know its group.
        if self.identity.complete
            || !self.is_active()
            || !self.replica.has_reached_bound()
            || self.awaits_group_uid()
        {
            return;
        }
        match self.mark_complete() {
            Ok(identity) => {
                self.identity = identity;
                self.transport.introduce(identity);
                self.replica.set_bound(None);
                self.shared.status.change(|status| status.repair = None);
                self.inform("its log is complete: it votes as before, and may lead");
                self.announce(self.replica.role_state());
            }
            // Tried again in the next turn.
            Err(error) if error.is_temporary() => {}
            Err(error) => self.storage_failed(error, None),
        }
    }

    /// Syncs the log before it counts as complete.
    fn mark_complete(&mut self) -> Result<DirectoryIdentity, StorageError> {
        self.storage.begin_sync().wait()?;
        let identity = self.storage.set_complete(true)?;
        self.storage.begin_sync().wait()?;
        Ok(identity)
    }

    /// A member has lost its log, and asks for the state of this node. The response waits until the
    /// new directory id of the member is durable here, and the state itself.
    pub(super) fn handle_state_request(&mut self, from: NodeId, number: u64) {
        if !self.identity.complete || self.is_suspended() {
            let why = if self.repair.is_some() { NoState::Corrupt } else { NoState::Incomplete };
            return self.send_state(from, number, Err(why));
        }
        if self.fault.is_some()
            || self.stopped
            || self.deferred_peer_ids.iter().any(|(peer, _)| *peer == from)
        {
            return;
        }
        self.replica.forget_acknowledged(from);
        let state = self.replica.peer_state();
        self.state_requests.retain(|asked| asked.from != from);
        self.state_requests.push(StateRequest {
            from,
            number,
            state,
            epoch: self.epoch,
            sync: None,
        });
    }

    /// Begins the sync that new state requests wait for, after the writes of this turn.
    pub(super) fn sync_for_state_requests(&mut self) {
        if !self.is_active() || self.state_requests.iter().all(|asked| asked.sync.is_some()) {
            return;
        }
        self.begin_sync(0);
        let sync = Some(self.syncs);
        self.state_requests.iter_mut().for_each(|asked| asked.sync = asked.sync.or(sync));
    }

    /// Responds to the requests that waited for this sync or an earlier one. Requests that came
    /// after it was begun wait for the next. Requests of an earlier epoch are dropped: the state of
    /// the replica then may never have been written.
    pub(super) fn answer_state_requests(&mut self, sync: u64) {
        let epoch = self.epoch;
        self.state_requests.retain(|asked| asked.epoch == epoch);
        for asked in self
            .state_requests
            .extract_if(.., |asked| asked.sync.is_some_and(|count| count <= sync))
            .collect::<Vec<_>>()
        {
            self.send_state(asked.from, asked.number, Ok(asked.state));
        }
    }

    fn send_state(&mut self, to: NodeId, number: u64, state: Result<PeerState, NoState>) {
        let from = self.settings.replica.node;
        self.send_message(
            RepairMessage { from, to, repair_body: RepairBody::State(number, state) }.into(),
        );
    }

    fn catching_up_text(&self, (term, raft_index): (u64, u64)) -> String {
        let LogPoint { raft_index: last, next_index: end, .. } =
            self.replica.last().unwrap_or(LogPoint::INITIAL);
        let first = self.shared.reader.base().point.next_index;
        let entries = if first == end {
            "no entries so far".to_owned()
        } else {
            format!("entries {first} to below {end}")
        };
        let rest = match raft_index.saturating_sub(last) {
            0 => "what it ends with is of an older term, and is replaced".to_owned(),
            1 => "1 more batch is to come".to_owned(),
            rest => format!("{rest} more batches are to come"),
        };
        let from = match self.replica.role_state().leader {
            Some(leader) => format!("node {leader} leads, and sends them"),
            None => "no leader is known that could send them".to_owned(),
        };
        format!(
            "its log is not complete yet: it holds {entries}, in batches up to {last}, and {rest}; \
             {from}. Until then it follows, and neither leads nor votes for a node that lacks \
             batch {raft_index} of term {term}"
        )
    }

    /// Shows in the status what is missing, and why.
    fn publish_rejoin(&mut self) {
        let account = match (&self.rejoin, self.replica.bound()) {
            (Some(rejoin), _) => rejoin.account(),
            (None, Some(bound)) => self.catching_up_text(bound),
            (None, None) => return,
        };
        self.shared.status.change(|status| status.repair = Some(account));
    }
}
