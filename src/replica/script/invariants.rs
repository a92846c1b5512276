//! Laws that hold whatever happens to a group, checked at every step.

use std::collections::{BTreeMap, BTreeSet};

use crate::batch::LogPoint;
use crate::replica::{BatchId, ProposalOutcome};

/// What must be remembered of a history to judge it.
#[derive(Default)]
pub(super) struct Invariants {
    /// Who was announced as leader of each term.
    leaders: BTreeMap<u64, u64>,
    /// What was committed anywhere: raft index to (term, chain).
    committed: BTreeMap<u64, (u64, u32)>,
    /// The payloads of every batch that was committed anywhere.
    ledger: BTreeSet<Vec<String>>,
    payloads: BTreeMap<BatchId, Vec<String>>,
    proposal_outcomes: BTreeMap<BatchId, ProposalOutcome>,
    /// The end of what was acknowledged by anyone.
    acknowledged: u64,
    /// Where a barrier was asked for, and what was acknowledged by then.
    barriers: BTreeMap<u64, (u64, u64)>,
}

impl Invariants {
    /// There is one leader in a term.
    pub(super) fn led(&mut self, term: u64, id: u64) {
        let known = *self.leaders.entry(term).or_insert(id);
        assert_eq!(known, id, "two leaders in term {term}");
    }

    /// What is committed at one place is the same everywhere, for good, and so is everything before
    /// it.
    pub(super) fn committed(&mut self, point: &LogPoint) {
        let known = *self.committed.entry(point.raft_index).or_insert((point.term, point.chain));
        assert_eq!(
            known,
            (point.term, point.chain),
            "batch {} is committed with two contents",
            point.raft_index
        );
    }

    /// A batch of these payloads was committed.
    pub(super) fn kept(&mut self, payloads: Vec<String>) {
        self.ledger.insert(payloads);
    }

    pub(super) fn proposed(&mut self, batch: BatchId, payloads: &[&str]) {
        self.payloads.insert(batch, payloads.iter().map(|payload| (*payload).to_owned()).collect());
    }

    /// A batch meets one fate. `end` is where the ledger ends on the node that acknowledges it: a
    /// bound a little too strict for what a barrier must cover, but one that holds, for the commit
    /// is published before the settlement.
    pub(super) fn resolved(&mut self, batch: BatchId, outcome: ProposalOutcome, end: u64) {
        let known = self.proposal_outcomes.insert(batch, outcome);
        assert_eq!(known, None, "batch {batch} meets two fates");
        if let ProposalOutcome::Committed { .. } = outcome {
            self.acknowledged = self.acknowledged.max(end);
        }
    }

    pub(super) fn asked(&mut self, barrier: u64, id: u64) {
        self.barriers.insert(barrier, (id, self.acknowledged));
    }

    /// A barrier covers what was acknowledged before it was asked for.
    pub(super) fn held(&mut self, barrier: u64, end: u64) {
        let (id, acknowledged) = self.barriers.remove(&barrier).expect("asked for once, held once");
        assert!(
            acknowledged <= end,
            "barrier {barrier} at {id} misses what was acknowledged: {end} of {acknowledged}"
        );
    }

    /// The barriers that node `id` was asked for and that do not hold yet.
    pub(super) fn open_at(&self, id: u64) -> Vec<u64> {
        self.barriers
            .iter()
            .filter(|(_, (node, _))| *node == id)
            .map(|(barrier, _)| *barrier)
            .collect()
    }

    /// The last batch is settled, every fate was true, and the barriers after number `old` hold.
    pub(super) fn check_end(&self, last: BatchId, old: u64) {
        assert!(self.proposal_outcomes.contains_key(&last), "the last batch is not settled");
        for (batch, outcome) in &self.proposal_outcomes {
            let is_there = self.ledger.contains(&self.payloads[batch]);
            let was_told = matches!(outcome, ProposalOutcome::Committed { .. });
            assert!(
                *outcome == ProposalOutcome::Unknown || was_told == is_there,
                "batch {batch} was shown {outcome:?}, and is in the ledger: {is_there}"
            );
        }
        let open: Vec<&u64> = self.barriers.keys().filter(|barrier| **barrier > old).collect();
        assert!(open.is_empty(), "barriers {open:?} are not answered");
    }
}
