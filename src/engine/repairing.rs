//! A node whose log is damaged: it serves what is intact, asks its peers for the rest, and takes no part before all of it is there.
//!
//! While [`Engine::repair`] is there, the replica stands still: nothing that peers say reaches it, and no time passes for it. When the last damaged
//! batch is back, the replica begins anew from what the log then is, as after a restart.

use crate::primitives::atomic::Ordering;

use super::Engine;
use crate::entry::NodeId;
use crate::message::{Letter, Message, Word};
use crate::replica::Replica;
use crate::replica::rejoin::Rejoin;
use crate::replica::repair::{self, Cure, Repair};
use crate::storage::{Damage, HardState, Recovered, Remedy, StorageError};

/// So many wishes for batches are answered in a tick of time. Of whoever asks for more, the last one waits for the next tick.
pub(super) const ANSWERS_MAX: u32 = 16;

impl Engine {
    /// The log was opened with damage. What is to be mended without peers is mended at once; if more is missing and there are no peers, or
    /// the storage cannot be mended, the node has failed.
    pub(super) fn begin_repair(&mut self, recovered: &Recovered) {
        let (replica, reader) = (&self.settings.replica, self.shared.reader.clone());
        let members = self.replica.membership();
        let peers: Vec<NodeId> = members.voters.iter().chain(&members.learners).copied().collect();
        let repair = Repair::new(replica.node, peers.iter().copied(), reader, replica.election_ticks, replica.message_bytes, recovered);
        self.warn(&repair.account());
        self.repair = Some(repair);
        self.mend_alone();
    }

    /// Mends what needs no batches, or goes on where that came to a halt.
    fn mend_alone(&mut self) {
        let mended = self.mended.take().map_or_else(|| self.storage.mend(Remedy::Fill(&[])), Ok);
        match mended {
            Ok(recovered) => self.look_at(&recovered),
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
                self.tell_repair();
            }
            Err(error) => {
                let account = self.repair.as_ref().map_or_else(String::new, Repair::account);
                self.fail(&format!("{account}; and it could not be mended: {error}"));
            }
        }
    }

    /// A message about repair has come.
    pub(super) fn handle_letter(&mut self, letter: &Letter) {
        let (me, membership) = (self.settings.replica.node, self.replica.membership());
        if letter.to != me || letter.from == me || !membership.contains(letter.from) {
            return;
        }
        match &letter.word {
            Word::Want(want) if self.answers_left > 0 => {
                self.answers_left -= 1;
                let commit = self.repair.as_ref().map_or(self.replica.hard_state().commit, Repair::commit);
                let led = self.replica.led().filter(|_| self.repair.is_none());
                let gift = repair::answer(&*self.shared.reader, commit, led, want, self.settings.replica.message_bytes);
                self.send_letter(Letter { from: me, to: letter.from, word: Word::Gift(gift) }.into());
            }
            Word::StateRequest(number) => self.handle_state_request(letter.from, *number),
            Word::State(number, state) => self.handle_state(letter.from, *number, *state),
            Word::Want(_) => {
                self.wishes.retain(|wish| wish.from != letter.from);
                self.wishes.push(letter.clone());
            }
            Word::Gift(gift) => {
                let cure = self.repair.as_mut().and_then(|repair| repair.handle_gift(letter.from, gift.clone()));
                if let Some(cure) = cure {
                    self.apply_cure(letter.from, &cure);
                }
                self.ask_for_batches();
            }
        }
    }

    pub(super) fn tick_repair(&mut self) {
        self.answers_left = ANSWERS_MAX;
        for wish in std::mem::take(&mut self.wishes) {
            self.handle_letter(&wish);
        }
        let Some(repair) = &mut self.repair else { return };
        repair.tick();
        if repair.needs_nobody() {
            return self.mend_alone();
        }
        self.ask_for_batches();
        self.tell_repair();
    }

    fn ask_for_batches(&mut self) {
        if let Some(question) = self.repair.as_mut().and_then(Repair::ask) {
            self.send_letter(question);
        }
    }

    pub(super) fn send_letter(&mut self, message: Message) {
        self.transport.send(&mut vec![message]);
    }

    fn apply_cure(&mut self, from: NodeId, cure: &Cure) {
        let outcome = match cure {
            Cure::Fill(batches) => self.storage.mend(Remedy::Fill(batches)),
            Cure::Replace(batches) => self.storage.mend(Remedy::Replace(batches)),
            Cure::Rebase(mark) => self.storage.mend(Remedy::Rebase(*mark)),
        };
        match outcome {
            Ok(recovered) => self.look_at(&recovered),
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
                self.reject(from, &error);
            }
            Err(error @ StorageError::OutOfLine(_)) => self.reject(from, &error),
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
    fn look_at(&mut self, recovered: &Recovered) {
        self.shared.status.change(|status| status.full = None);
        let Some(repair) = &mut self.repair else { return };
        repair.look(recovered);
        if !recovered.damage.is_empty() {
            return if repair.has_peers() { self.tell_repair() } else { self.fail(&fault_of(&recovered.damage)) };
        }
        match self.resume(recovered) {
            Ok(()) => {}
            Err(error) if error.is_temporary() => {
                self.shared.status.change(|status| status.full = Some(error.to_string()));
                // The storage has nothing to mend any more. This is tried once more when the repair has rested.
                self.mended = Some(recovered.clone());
            }
            Err(error) => self.fail(&format!("the mended log cannot be read: {error}")),
        }
    }

    /// Everything is there again: this node takes part.
    fn resume(&mut self, recovered: &Recovered) -> Result<(), StorageError> {
        let reader = self.shared.reader.clone();
        // What was known to be committed while it was mended still is, though the record that said so may be gone.
        let commit = self.repair.as_ref().map_or(0, Repair::commit).clamp(recovered.hard_state.commit, recovered.last.raft_index);
        let committed = reader.mark(commit)?.expect("the commit lies within the log");
        let recovered = &Recovered { hard_state: HardState { commit, ..recovered.hard_state }, ..recovered.clone() };
        self.replica = Replica::new(&self.settings.replica, recovered, committed, reader)?;
        self.repair = None;
        self.life += 1;
        self.shared.watermark.publish(committed.next_index, committed.next_position);
        self.shared.end_index.store(recovered.last.next_index, Ordering::Relaxed);
        for id in self.barriers.keys() {
            self.replica.handle_barrier(*id);
        }
        self.remember_met();
        self.shared.status.change(|status| (status.repair, status.full) = (None, None));
        self.inform("its log is whole again");
        match self.identity.complete {
            true => self.announce(self.replica.standing()),
            false => self.begin_rejoin(),
        }
        if let Some(peer) = self.outlived.take() {
            self.handle_outlived(peer);
        }
        Ok(())
    }

    /// Remembers whom there was a moment when nothing could be remembered.
    pub(super) fn remember_met(&mut self) {
        for (peer, directory) in std::mem::take(&mut self.met) {
            self.remember(peer, directory);
        }
    }

    /// What is the matter with the log, if that keeps the node from its group.
    pub(super) fn why_it_stands_still(&self) -> Option<String> {
        self.repair.as_ref().map(Repair::account).or_else(|| self.rejoin.as_ref().map(Rejoin::account))
    }

    /// Says what is damaged, and why it still is. Whoever watches roles is told when it begins and when it ends.
    fn tell_repair(&mut self) {
        let Some(account) = self.repair.as_ref().map(Repair::account) else { return };
        let before = self.shared.status.change(|status| status.repair.replace(account));
        if before.is_none() {
            self.announce_absence();
        }
    }
}

/// Why the only node of its group takes no part with this damage, and what to do.
fn fault_of(damage: &[Damage]) -> String {
    let Some(first) = damage.first() else { return "its log is damaged".to_owned() };
    let more = match damage.len() {
        1 => String::new(),
        count => format!(", and {} more places", count - 1),
    };
    format!(
        "its log is damaged: {first}{more}. What is intact can be read here. This node is the only one \
         of its group, so nobody can send it what is missing: restore it from a backup"
    )
}
