//! A node whose log is not complete: it asks every other member where it stands, and takes no part
//! before it knows what it owes.
//!
//! While [`Engine::rejoin`] is there, the replica stands still, as it does for a repair. Afterwards
//! it follows as ever, with a bound on who may lead with its help, until its log reaches that. Why
//! this is enough: see [`rejoin`](crate::replica::rejoin).

use super::Engine;
use super::rejoin_state::Loss;
use super::requests::StateRequest;
use crate::batch::LogPoint;
use crate::entry::NodeId;
use crate::message::{NoState, PeerState, RepairBody, RepairMessage};
use crate::replica::rejoin::Rejoin;
use crate::storage::{DirectoryIdentity, HardState, Recovered, Storage, StorageError};

/// Marks a log in which nothing ever happened as one that is not complete: it takes the place of
/// one that was lost. Says whether it is one.
///
/// # Errors
/// If that cannot be made durable.
pub(crate) fn rejoin_empty(
    storage: &mut dyn Storage,
    recovered: &mut Recovered,
) -> Result<bool, StorageError> {
    let HardState { term, vote, .. } = recovered.hard_state;
    let is_empty = recovered.last == LogPoint::INITIAL
        && (term, vote) == (LogPoint::INITIAL.term, None)
        && recovered.corruption.is_empty();
    if is_empty && recovered.identity.complete {
        recovered.identity = storage.set_complete(false)?;
        recovered.peers.clear();
        storage.begin_sync().wait()?;
    }
    Ok(is_empty)
}

impl Engine {
    /// What was learned about this node proves that its log is not what it was. That is remembered
    /// before anything else happens.
    pub(super) fn disown_log(&mut self, why: &str) {
        let node = self.settings.replica.node;
        log::error!("group {} node {node}: {why}", self.settings.replica.group);
        self.loss.is_owed |= self.identity.complete;
        self.begin_rejoin();
        self.note_loss(why);
    }

    /// Remembers that the log is not complete. Says whether that is done: if there is no room for
    /// it now, the node stands still meanwhile.
    fn note_loss(&mut self, why: &str) -> bool {
        if !self.loss.is_owed {
            return true;
        }
        match self.point_incomplete() {
            Ok(()) => {
                self.loss = Loss { is_owed: false, is_noted: true };
                self.shared.status.change(|status| status.full = None);
            }
            // Tried once more at the next tick.
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()))
            }
            Err(error) => self.fail(&format!("{why}; and that could not be noted: {error}")),
        }
        !self.loss.is_owed
    }

    /// A peer has met a later opening of this data directory. It says so once, and lets nobody in
    /// that speaks from there: also one whose log is known not to be complete speaks from another
    /// one from now on. What was said of the one before that comes late.
    pub(super) fn handle_outlived(&mut self, peer: NodeId) {
        if self.repair.is_some() {
            self.outlived = Some(peer);
        } else if self.fault.is_none()
            && !self.stopped
            && !self.loss.is_noted
            && !planted!("a node that was outlived goes on")
        {
            self.loss.is_owed = true;
            self.disown_log(&format!("node {peer} has met a later opening of this data directory, which is an older copy of it"));
        }
    }

    fn point_incomplete(&mut self) -> Result<(), StorageError> {
        let identity = self.storage.set_complete(false)?;
        self.storage.begin_sync().wait()?;
        self.identity = identity;
        self.transport.introduce(identity);
        Ok(())
    }

    /// From now on the replica stands still. Nothing that it has asked a sync for counts any more.
    pub(super) fn begin_rejoin(&mut self) {
        let settings = &self.settings.replica;
        let rejoin = Rejoin::new(
            settings.node,
            self.replica.membership(),
            self.next_question,
            settings.election_ticks,
        );
        self.rejoin_report.written(self.now.elapsed);
        self.warn(&rejoin.account());
        self.rejoin = Some(rejoin);
        self.epoch += 1;
        self.asked.clear();
        self.shared.sequencer.close(self.refusal());
        self.tell_rejoin();
        self.announce_absence();
    }

    pub(super) fn tick_rejoin(&mut self) {
        if self.rejoin.is_some() && !self.note_loss("its log is not complete") {
            return;
        }
        let Some(rejoin) = &mut self.rejoin else { return self.tell_catching_up() };
        let mut questions = rejoin.tick();
        self.next_question = rejoin.next_number();
        let still = self.rejoin_report.take_due(self.now.elapsed).then(|| rejoin.account());
        self.transport.send(&mut questions);
        self.tell_rejoin();
        still.iter().for_each(|account| self.warn(account));
        self.try_to_rejoin();
    }

    /// The node follows, and its log is not complete yet: how far it has come.
    fn tell_catching_up(&mut self) {
        if self.identity.complete || !self.is_at_work() {
            return;
        }
        self.tell_rejoin();
        if self.rejoin_report.take_due(self.now.elapsed) {
            let account = self.shared.status.read(|status| status.repair.clone());
            account.iter().for_each(|account| self.inform(account));
        }
    }

    /// A member says where it stands.
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
        let Some(owed) = self.rejoin.as_ref().and_then(Rejoin::owed) else { return };
        match self.take_part(owed) {
            Ok(()) => {}
            // Tried once more at the next tick.
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
            }
            Err(error) => self.fail(&format!("it could not take part in its group again: {error}")),
        }
    }

    /// Begins anew in a term in which this node may have voted, and so does not vote again.
    fn take_part(&mut self, owed: PeerState) -> Result<(), StorageError> {
        let (own, me) = (self.replica.hard_state(), self.settings.replica.node);
        let is_spent = owed.term <= own.term && own.vote.is_some()
            || planted!("the vote in the newest term is not spent");
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
        self.remember_met();
        self.shared.status.change(|status| status.full = None);
        self.tell_rejoin();
        let (term, raft_index) = owed.last;
        self.inform(&format!(
            "every other member has said where it stands, so this node follows its leader again. Its log is \
             complete once it holds batch {raft_index} of term {term}"
        ));
        self.announce(self.replica.role_state());
        Ok(())
    }

    /// Ends it when the log, durably, is all that the node owes.
    pub(super) fn end_rejoin(&mut self) {
        if self.identity.complete || !self.is_at_work() || !self.replica.has_reached_bound() {
            return;
        }
        match self.point_complete() {
            Ok(identity) => {
                self.identity = identity;
                self.transport.introduce(identity);
                self.replica.set_bound(None);
                self.shared.status.change(|status| status.repair = None);
                self.inform("its log is complete: it votes as before, and may lead");
                self.announce(self.replica.role_state());
            }
            // Tried once more in the next turn.
            Err(error) if error.is_temporary() => {}
            Err(error) => self.storage_failed(error, None),
        }
    }

    /// What the log has come to hold is durable before it counts as complete.
    fn point_complete(&mut self) -> Result<DirectoryIdentity, StorageError> {
        self.storage.begin_sync().wait()?;
        let identity = self.storage.set_complete(true)?;
        self.storage.begin_sync().wait()?;
        Ok(identity)
    }

    /// A member has lost its log, and asks where this node stands. It is told once it is durable
    /// that the member speaks from another directory now, and all that it is told.
    pub(super) fn handle_state_request(&mut self, from: NodeId, number: u64) {
        if !self.identity.complete || self.stands_still() {
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
        self.asked.retain(|asked| asked.from != from);
        self.asked.push(StateRequest { from, number, state, epoch: self.epoch, sync: None });
    }

    /// Begins the sync that new questions wait for, when all that was taken before is written.
    pub(super) fn sync_for_questions(&mut self) {
        if !self.is_at_work() || self.asked.iter().all(|asked| asked.sync.is_some()) {
            return;
        }
        self.begin_sync(0);
        let sync = Some(self.syncs);
        self.asked.iter_mut().for_each(|asked| asked.sync = asked.sync.or(sync));
    }

    /// Answers what waited for this sync, or for an earlier one: a question that came after it was
    /// begun waits for the next. What the replica stood for in an earlier life may never have been
    /// written.
    pub(super) fn answer_questions(&mut self, sync: u64) {
        let epoch = self.epoch;
        self.asked.retain(|asked| asked.epoch == epoch);
        for asked in self
            .asked
            .extract_if(.., |asked| asked.sync.is_some_and(|count| count <= sync))
            .collect::<Vec<_>>()
        {
            self.send_state(asked.from, asked.number, Ok(asked.state));
        }
    }

    fn send_state(&mut self, to: NodeId, number: u64, state: Result<PeerState, NoState>) {
        let from = self.settings.replica.node;
        self.send_letter(
            RepairMessage { from, to, repair_body: RepairBody::State(number, state) }.into(),
        );
    }

    fn account_of_catching_up(&self, (term, raft_index): (u64, u64)) -> String {
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
             {from}. Until then it follows, and neither leads nor votes for a node that lacks batch {raft_index} of term {term}"
        )
    }

    /// Says what is missing, and why it still is.
    fn tell_rejoin(&mut self) {
        let account = match (&self.rejoin, self.replica.bound()) {
            (Some(rejoin), _) => rejoin.account(),
            (None, Some(bound)) => self.account_of_catching_up(bound),
            (None, None) => return,
        };
        self.shared.status.change(|status| status.repair = Some(account));
    }
}
