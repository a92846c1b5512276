//! A node whose log is corrupt serves the intact batches, fetches the others from its peers, and
//! takes no part before all of them are back.
//!
//! While [`Engine::repair`] is set, the replica is suspended: it gets no messages and no ticks.
//! When the last corrupt batch is replaced, the replica is started again on the repaired log.

use crate::primitives::atomic::Ordering;

use super::Engine;
use crate::entry::NodeId;
use crate::message::{Message, RepairBody, RepairMessage};
use crate::replica::Replica;
use crate::replica::rejoin::Rejoin;
use crate::replica::repair::{self, Repair, RepairStep};
use crate::storage::{Corruption, HardState, Recovered, RepairAction, StorageError};

/// Fetch requests that are served in a tick. Of further ones, the last of each peer waits for the
/// next tick.
pub(super) const FETCHES_PER_TICK: u32 = 16;

impl Engine {
    /// The log was corrupt when it was opened. Repairs at once what needs no peers. The node fails
    /// if more is missing and there are no peers, or if the storage cannot be repaired.
    pub(super) fn begin_repair(&mut self, recovered: &Recovered) {
        let (replica, reader) = (&self.settings.replica, self.shared.reader.clone());
        let members = self.replica.membership();
        let peers: Vec<NodeId> = members.voters.iter().chain(&members.learners).copied().collect();
        let repair = Repair::new(
            replica.node,
            peers.iter().copied(),
            reader,
            replica.election_ticks,
            replica.message_bytes,
            recovered,
        );
        self.warn(&repair.account());
        self.repair = Some(repair);
        self.repair_locally();
    }

    /// Repairs what needs no batches of peers, or resumes such a repair.
    fn repair_locally(&mut self) {
        let repaired = match self.repaired.take() {
            Some(recovered) => Ok(recovered),
            None => self.repair_log(RepairAction::Fill(&[])),
        };
        match repaired {
            Ok(recovered) => self.update_repair(&recovered),
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
                self.publish_repair();
            }
            Err(error) => {
                let account = self.repair.as_ref().map_or_else(String::new, Repair::account);
                self.fail(&format!("{account}; and it could not be repaired: {error}"));
            }
        }
    }

    /// Handles a repair message.
    pub(super) fn handle_repair(&mut self, repair_message: &RepairMessage) {
        let (me, membership) = (self.settings.replica.node, self.replica.membership());
        if repair_message.to != me
            || repair_message.from == me
            || !membership.contains(repair_message.from)
        {
            return;
        }
        match &repair_message.repair_body {
            RepairBody::FetchRequest(request) if self.fetch_budget > 0 => {
                self.fetch_budget -= 1;
                let commit =
                    self.repair.as_ref().map_or(self.replica.hard_state().commit, Repair::commit);
                let leader_last_index =
                    self.replica.leader_last_index().filter(|_| self.repair.is_none());
                let response = repair::serve_fetch(
                    &*self.shared.reader,
                    commit,
                    leader_last_index,
                    request,
                    self.settings.replica.message_bytes,
                );
                self.send_message(
                    RepairMessage {
                        from: me,
                        to: repair_message.from,
                        repair_body: RepairBody::FetchResponse(response),
                    }
                    .into(),
                );
            }
            RepairBody::StateRequest(number) => {
                self.handle_state_request(repair_message.from, *number)
            }
            RepairBody::State(number, state) => {
                self.handle_state(repair_message.from, *number, *state)
            }
            RepairBody::FetchRequest(_) => {
                self.deferred_fetches.retain(|request| request.from != repair_message.from);
                self.deferred_fetches.push(repair_message.clone());
            }
            RepairBody::FetchResponse(response) => {
                let repair_step = self.repair.as_mut().and_then(|repair| {
                    repair.handle_response(repair_message.from, response.clone())
                });
                if let Some(repair_step) = repair_step {
                    self.apply_repair(repair_message.from, &repair_step);
                }
                self.fetch_batches();
            }
        }
    }

    pub(super) fn tick_repair(&mut self) {
        self.fetch_budget = FETCHES_PER_TICK;
        for request in std::mem::take(&mut self.deferred_fetches) {
            self.handle_repair(&request);
        }
        let Some(repair) = &mut self.repair else { return };
        repair.tick();
        if repair.can_repair_locally() {
            return self.repair_locally();
        }
        self.fetch_batches();
        self.publish_repair();
    }

    fn fetch_batches(&mut self) {
        if let Some(question) = self.repair.as_mut().and_then(Repair::ask) {
            self.send_message(question);
        }
    }

    pub(super) fn send_message(&mut self, message: Message) {
        self.transport.send(&mut vec![message]);
    }

    fn apply_repair(&mut self, from: NodeId, repair_step: &RepairStep) {
        let outcome = match repair_step {
            RepairStep::Fill(batches) => self.repair_log(RepairAction::Fill(batches)),
            RepairStep::Replace(batches) => self.repair_log(RepairAction::Replace(batches)),
            RepairStep::TruncateHead(point) => self.repair_log(RepairAction::TruncateHead(*point)),
        };
        match outcome {
            Ok(recovered) => self.update_repair(&recovered),
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
                self.reject(from, &error);
            }
            Err(error @ StorageError::NotContiguous(_)) => self.reject(from, &error),
            Err(error) => self.fail(&format!("its damaged log could not be repaired: {error}")),
        }
    }

    fn reject(&mut self, from: NodeId, error: &StorageError) {
        let replica = &self.settings.replica;
        let (group, node) = (&replica.group, replica.node);
        log::warn!(
            "group {group} node {node}: the batches of node {from} for the repair were not taken: \
             {error}"
        );
        if let Some(repair) = &mut self.repair {
            repair.reject(from);
        }
    }

    /// Takes note of the log after a step of the repair.
    fn update_repair(&mut self, recovered: &Recovered) {
        self.shared.status.change(|status| status.full = None);
        let Some(repair) = &mut self.repair else { return };
        repair.update(recovered);
        if !recovered.corruption.is_empty() {
            return if repair.has_peers() {
                self.publish_repair()
            } else {
                self.fail(&fault_of(&recovered.corruption))
            };
        }
        match self.resume(recovered) {
            Ok(()) => {}
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
                // The storage is repaired. Only the start of the replica is tried again, after the
                // backoff of the repair.
                self.repaired = Some(recovered.clone());
            }
            Err(error) => self.fail(&format!("the repaired log cannot be read: {error}")),
        }
    }

    /// The log is complete again: this node takes part.
    fn resume(&mut self, recovered: &Recovered) -> Result<(), StorageError> {
        let reader = self.shared.reader.clone();
        // The commit index that was known during the repair still holds, though the record with it
        // may be gone.
        let commit = self
            .repair
            .as_ref()
            .map_or(0, Repair::commit)
            .clamp(recovered.hard_state.commit, recovered.last.raft_index);
        let committed = reader.point(commit)?.expect("the commit lies within the log");
        let recovered = &Recovered {
            hard_state: HardState { commit, ..recovered.hard_state },
            ..recovered.clone()
        };
        self.replica = Replica::new(&self.settings.replica, recovered, committed, reader)?;
        self.repair = None;
        self.epoch += 1;
        self.shared.watermark.publish(committed.next_index, committed.next_position);
        self.shared.end_index.store(recovered.last.next_index, Ordering::Relaxed);
        for id in self.barriers.keys() {
            self.replica.handle_barrier(*id);
        }
        self.save_deferred_peers();
        self.shared.status.change(|status| (status.repair, status.full) = (None, None));
        self.inform("its log is whole again");
        match self.identity.complete {
            true => self.announce(self.replica.role_state()),
            false => self.begin_rejoin(),
        }
        if let Some(peer) = self.outdated_by.take() {
            self.handle_outdated_directory(peer);
        }
        Ok(())
    }

    /// Saves the directory ids of peers that could not be saved before.
    pub(super) fn save_deferred_peers(&mut self) {
        for (peer, directory) in std::mem::take(&mut self.deferred_peer_ids) {
            self.save_peer(peer, directory);
        }
    }

    /// Why the replica is suspended, if it is.
    pub(super) fn suspension_reason(&self) -> Option<String> {
        self.repair
            .as_ref()
            .map(Repair::account)
            .or_else(|| self.rejoin.as_ref().map(Rejoin::account))
    }

    /// Shows in the status what is corrupt, and why it still is. Observers of roles are notified
    /// when the repair begins and when it ends.
    fn publish_repair(&mut self) {
        let Some(account) = self.repair.as_ref().map(Repair::account) else { return };
        let before = self.shared.status.change(|status| status.repair.replace(account));
        if before.is_none() {
            self.announce_absence();
        }
    }
}

/// The fault of the only node of a group whose log is corrupt, with what to do.
fn fault_of(corruption: &[Corruption]) -> String {
    let Some(first) = corruption.first() else { return "its log is damaged".to_owned() };
    let more = match corruption.len() {
        1 => String::new(),
        count => format!(", and {} more places", count - 1),
    };
    format!(
        "its log is damaged: {first}{more}. What is intact can be read here. This node is the \
         only one of its group, so no peer can send it what is missing: restore it from a backup"
    )
}
