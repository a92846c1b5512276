//! A node whose log is damaged: it serves what is intact, asks its peers for the rest, and takes no
//! part before all of it is there.
//!
//! While [`Engine::repair`] is there, the replica stands still: nothing that peers say reaches it,
//! and no time passes for it. When the last damaged batch is back, the replica begins anew from
//! what the log then is, as after a restart.

use crate::primitives::atomic::Ordering;

use super::Engine;
use crate::entry::NodeId;
use crate::message::{Message, RepairBody, RepairMessage};
use crate::replica::Replica;
use crate::replica::rejoin::Rejoin;
use crate::replica::repair::{self, Repair, RepairStep};
use crate::storage::{Corruption, HardState, Recovered, RepairAction, StorageError};

/// So many wishes for batches are answered in a tick of time. Of whoever asks for more, the last
/// one waits for the next tick.
pub(super) const FETCHES_PER_TICK: u32 = 16;

impl Engine {
    /// The log was opened with damage. What is to be mended without peers is mended at once; if
    /// more is missing and there are no peers, or the storage cannot be mended, the node has
    /// failed.
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

    /// Mends what needs no batches, or goes on where that came to a halt.
    fn repair_locally(&mut self) {
        let mended =
            self.mended.take().map_or_else(|| self.storage.repair(RepairAction::Fill(&[])), Ok);
        match mended {
            Ok(recovered) => self.update_repair(&recovered),
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
                self.publish_repair();
            }
            Err(error) => {
                let account = self.repair.as_ref().map_or_else(String::new, Repair::account);
                self.fail(&format!("{account}; and it could not be mended: {error}"));
            }
        }
    }

    /// A message about repair has come.
    pub(super) fn handle_repair(&mut self, repair_message: &RepairMessage) {
        let (me, membership) = (self.settings.replica.node, self.replica.membership());
        if repair_message.to != me
            || repair_message.from == me
            || !membership.contains(repair_message.from)
        {
            return;
        }
        match &repair_message.repair_body {
            RepairBody::FetchRequest(want) if self.fetch_budget > 0 => {
                self.fetch_budget -= 1;
                let commit =
                    self.repair.as_ref().map_or(self.replica.hard_state().commit, Repair::commit);
                let leader_last_index =
                    self.replica.leader_last_index().filter(|_| self.repair.is_none());
                let response = repair::serve_fetch(
                    &*self.shared.reader,
                    commit,
                    leader_last_index,
                    want,
                    self.settings.replica.message_bytes,
                );
                self.send_letter(
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
                self.deferred_fetches.retain(|wish| wish.from != repair_message.from);
                self.deferred_fetches.push(repair_message.clone());
            }
            RepairBody::FetchResponse(response) => {
                let repair_step = self.repair.as_mut().and_then(|repair| {
                    repair.handle_response(repair_message.from, response.clone())
                });
                if let Some(repair_step) = repair_step {
                    self.apply_repair(repair_message.from, &repair_step);
                }
                self.ask_for_batches();
            }
        }
    }

    pub(super) fn tick_repair(&mut self) {
        self.fetch_budget = FETCHES_PER_TICK;
        for wish in std::mem::take(&mut self.deferred_fetches) {
            self.handle_repair(&wish);
        }
        let Some(repair) = &mut self.repair else { return };
        repair.tick();
        if repair.needs_nobody() {
            return self.repair_locally();
        }
        self.ask_for_batches();
        self.publish_repair();
    }

    fn ask_for_batches(&mut self) {
        if let Some(question) = self.repair.as_mut().and_then(Repair::ask) {
            self.send_letter(question);
        }
    }

    pub(super) fn send_letter(&mut self, message: Message) {
        self.transport.send(&mut vec![message]);
    }

    fn apply_repair(&mut self, from: NodeId, repair_step: &RepairStep) {
        let outcome = match repair_step {
            RepairStep::Fill(batches) => self.storage.repair(RepairAction::Fill(batches)),
            RepairStep::Replace(batches) => self.storage.repair(RepairAction::Replace(batches)),
            RepairStep::Rebase(point) => self.storage.repair(RepairAction::Rebase(*point)),
        };
        match outcome {
            Ok(recovered) => self.update_repair(&recovered),
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
                self.reject(from, &error);
            }
            Err(error @ StorageError::NotContiguous(_)) => self.reject(from, &error),
            Err(error) => self.fail(&format!("its damaged log could not be mended: {error}")),
        }
    }

    fn reject(&mut self, from: NodeId, error: &StorageError) {
        let replica = &self.settings.replica;
        let (group, node) = (&replica.group, replica.node);
        log::warn!(
            "group {group} node {node}: what node {from} sent to mend the log with was not taken: \
             {error}"
        );
        if let Some(repair) = &mut self.repair {
            repair.reject(from);
        }
    }

    /// What the log is after it was mended a little, or altogether.
    fn update_repair(&mut self, recovered: &Recovered) {
        self.shared.status.change(|status| status.full = None);
        let Some(repair) = &mut self.repair else { return };
        repair.look(recovered);
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
                // The storage has nothing to mend any more. This is tried once more when the repair
                // has rested.
                self.mended = Some(recovered.clone());
            }
            Err(error) => self.fail(&format!("the mended log cannot be read: {error}")),
        }
    }

    /// Everything is there again: this node takes part.
    fn resume(&mut self, recovered: &Recovered) -> Result<(), StorageError> {
        let reader = self.shared.reader.clone();
        // What was known to be committed while it was mended still is, though the record that said
        // so may be gone.
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
        self.remember_met();
        self.shared.status.change(|status| (status.repair, status.full) = (None, None));
        self.inform("its log is whole again");
        match self.identity.complete {
            true => self.announce(self.replica.role_state()),
            false => self.begin_rejoin(),
        }
        if let Some(peer) = self.outlived.take() {
            self.handle_outlived(peer);
        }
        Ok(())
    }

    /// Remembers whom there was a moment when nothing could be remembered.
    pub(super) fn remember_met(&mut self) {
        for (peer, directory) in std::mem::take(&mut self.deferred_peer_ids) {
            self.save_peer(peer, directory);
        }
    }

    /// What is the matter with the log, if that keeps the node from its group.
    pub(super) fn why_it_stands_still(&self) -> Option<String> {
        self.repair
            .as_ref()
            .map(Repair::account)
            .or_else(|| self.rejoin.as_ref().map(Rejoin::account))
    }

    /// Says what is damaged, and why it still is. Whoever watches roles is told when it begins and
    /// when it ends.
    fn publish_repair(&mut self) {
        let Some(account) = self.repair.as_ref().map(Repair::account) else { return };
        let before = self.shared.status.change(|status| status.repair.replace(account));
        if before.is_none() {
            self.announce_absence();
        }
    }
}

/// Why the only node of its group takes no part with this damage, and what to do.
fn fault_of(corruption: &[Corruption]) -> String {
    let Some(first) = corruption.first() else { return "its log is damaged".to_owned() };
    let more = match corruption.len() {
        1 => String::new(),
        count => format!(", and {} more places", count - 1),
    };
    format!(
        "its log is damaged: {first}{more}. What is intact can be read here. This node is the only one \
         of its group, so nobody can send it what is missing: restore it from a backup"
    )
}
