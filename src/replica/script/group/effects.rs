//! Carries out the effects of a replica, and shows each in a line.

use super::*;

impl Group {
    pub(super) fn effect(&mut self, id: u64, effect: Effect) {
        match effect {
            Effect::Send(messages) => {
                assert!(!messages.is_empty(), "a message is an effect");
                messages.into_iter().for_each(|message| self.send(id, message));
            }
            Effect::Write { batches, hard_state, .. }
                if self.node(id).tears && !batches.is_empty() =>
            {
                self.node(id).tears = false;
                let process = self.process(id).expect("it has an effect");
                process.storage.append(&batches, 0).unwrap();
                process.storage.begin_sync().wait().unwrap();
                let kept = batches_text(&batches);
                self.show(format!(
                    "  {id} loses power: the disk has {kept}, but not {}",
                    hard_state.map_or_else(String::new, vote)
                ));
                self.crash(id);
            }
            Effect::Write { .. } if self.node(id).is_choked => self.restart_when_full(id, None),
            Effect::InstallSnapshot(_) if self.node(id).is_full => self.restart_when_full(id, None),
            Effect::Write { batches, hard_state, .. }
                if self.node(id).is_full && !batches.is_empty() =>
            {
                self.restart_when_full(id, hard_state)
            }
            Effect::Write { batches, hard_state, commit } => {
                self.write(id, &batches, hard_state, commit)
            }
            Effect::InstallSnapshot(base) => {
                let point = base.point;
                self.process(id).expect("it has an effect").storage.reset(&base).unwrap();
                self.show(format!(
                    "  {id} installs snapshot {}/t{}, entry {}",
                    point.raft_index, point.term, point.next_index
                ));
            }
            Effect::GroupUid(uid) => {
                self.process(id).expect("it has an effect").storage.save_group_uid(uid).unwrap();
                self.show(format!("  {id} saves the id {uid} of the group"));
            }
            Effect::Sync(number) => {
                let process = self.process(id).expect("it has an effect");
                process.syncs.push_back((number, process.storage.begin_sync()));
                self.show(format!("  {id} sync {number}"));
            }
            Effect::Commit(point) => {
                let process = self.process(id).expect("it has an effect");
                assert!(
                    point.raft_index > process.committed,
                    "the commit mark of {id} goes back to {point:?}"
                );
                assert_eq!(
                    process.reader.point(point.raft_index).unwrap(),
                    Some(point),
                    "what is committed at {id} can be read"
                );
                let from = process.committed.max(process.reader.base().point.raft_index);
                process.committed = point.raft_index;
                self.show(format!(
                    "  {id} commit {}/t{}, {} entries",
                    point.raft_index, point.term, point.next_index
                ));
                self.note_committed(id, from, point.raft_index);
            }
            Effect::Resolve(batch, outcome) => self.resolve(id, batch, outcome),
            Effect::RoleChanged(role_state) => {
                let leader = role_state
                    .leader
                    .map_or_else(|| "no leader".to_owned(), |leader| format!("leader {leader}"));
                self.show(format!(
                    "  {id} role {} t{}, {leader}",
                    role_state.role, role_state.term
                ));
                if role_state.role == Role::Leader {
                    self.invariants.led(role_state.term, id);
                    let process = self.process(id).expect("it has an effect");
                    let last = process.replica.last().unwrap();
                    process.next = (last.next_index, last.next_position);
                }
            }
            Effect::Barrier(ids) => self.hold_barriers(id, &ids),
            Effect::ReadFailed(_) => self.restart_when_full(id, None),
            Effect::Fail(reason) => {
                self.process(id).expect("it has an effect").failed = true;
                self.show(format!("  {id} fails: {reason}"));
            }
        }
    }

    fn send(&mut self, id: u64, message: Message) {
        let lost = self.cuts.contains(&(id, message.to().get()));
        self.show(format!("  {id} send {message:?}{}", if lost { " (lost)" } else { "" }));
        if !lost {
            self.wire.push_back(message);
        }
    }

    fn write(&mut self, id: u64, batches: &[Batch], hard_state: Option<HardState>, commit: u64) {
        let process = self.process(id).expect("it has an effect");
        let mut what = Vec::new();
        if let Some(hard_state) = hard_state {
            let is_alone =
                batches.first().is_none_or(|first| hard_state.commit < first.raft_index());
            assert!(
                is_alone,
                "the hard state of {id} says that {} is committed, and is written in front of it",
                hard_state.commit
            );
            process.storage.save_hard_state(hard_state).unwrap();
            what.push(vote(hard_state));
        }
        if !batches.is_empty() {
            process.storage.append(batches, commit).unwrap();
            what.push(batches_text(batches));
        }
        self.show(format!("  {id} write {}", what.join(", ")));
    }

    /// What an engine does when a write finds no room.
    fn restart_when_full(&mut self, id: u64, hard_state: Option<HardState>) {
        (self.node(id).is_full, self.node(id).is_choked) = (false, false);
        let open = self.invariants.open_at(id);
        let process = self.process(id).expect("it has an effect");
        if let Some(hard_state) = hard_state {
            process.storage.save_hard_state(hard_state).unwrap();
        }
        process.storage.begin_sync().wait().unwrap();
        process.syncs.clear();
        process
            .replica
            .restart(&process.settings, process.identity, hard_state, process.reads.clone())
            .unwrap();
        open.into_iter().for_each(|barrier| process.replica.handle_barrier(barrier));
        let saved = hard_state
            .map_or_else(String::new, |hard_state| format!(" but for {}", vote(hard_state)));
        self.show(format!("  {id} disk full{saved}, restarts as a follower"));
    }

    fn resolve(&mut self, id: u64, batch: BatchId, outcome: ProposalOutcome) {
        let end = self.end(id);
        self.invariants.resolved(batch, outcome, end);
        let outcome = match outcome {
            ProposalOutcome::Committed { term } => format!("committed in t{term}"),
            ProposalOutcome::Dropped => "dropped".to_owned(),
            ProposalOutcome::Unknown => "unknown".to_owned(),
        };
        self.show(format!("  {id} batch {batch} {outcome}"));
    }

    fn hold_barriers(&mut self, id: u64, barriers: &[u64]) {
        let end = self.end(id);
        barriers.iter().for_each(|barrier| self.invariants.held(*barrier, end));
        self.show(format!("  {id} barriers {barriers:?} hold at {end}"));
    }

    /// The index after the last entry that node `id` has published as committed.
    fn end(&mut self, id: u64) -> u64 {
        let process = self.process(id).expect("it has an effect");
        process.reader.point(process.committed).unwrap().expect("committed").next_index
    }

    fn note_committed(&mut self, id: u64, from: u64, to: u64) {
        let process = self.nodes[&id].process.as_ref().expect("it has an effect");
        for raft_index in from..=to {
            self.invariants
                .committed(&process.reader.point(raft_index).unwrap().expect("committed"));
        }
        let batches = process.reader.batches(from + 1, to + 1, u64::MAX).unwrap();
        batches.iter().for_each(|batch| self.invariants.kept(payloads(batch)));
    }
}
