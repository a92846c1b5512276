//! Proposals of this node whose outcome is not known yet.
//!
//! A proposal is identified by (term, raft index): at most one batch ever has both. Its outcome
//! follows from the commits that this node learns of:
//!
//! 1. A committed batch at its raft index and of its term is the proposal itself: committed.
//! 2. A committed batch at its raft index of another term takes its place: dropped.
//! 3. A committed batch below its raft index of a later term: terms never decrease along a log, so
//!    no log that holds the proposal can hold that batch: dropped.
//! 4. A snapshot reset the log to a point behind its raft index: unknown.
//! 5. A sole voter was restarted, and its log ends below the raft index: dropped. A commit
//!    takes a quorum of the voters, which is this node's own log; only a voter leads, so no log but
//!    this one is ever given to anyone as the right one; and this log, which does not hold the
//!    batch, takes none but from its own leader. A learner may hold it: its copy is cut off by the
//!    next batch that is written here.
//!
//! A loss of the leadership decides nothing: the next leader may hold the batch, and commit it.

use std::collections::VecDeque;

/// The outcome of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProposalOutcome {
    /// In the log for good.
    Committed {
        /// The term it was proposed in.
        term: u64,
    },
    /// Not in the log, and never will be.
    Dropped,
    /// Decided by other nodes.
    Unknown,
}

/// The caller's id of a batch.
pub(crate) type BatchId = u64;

#[derive(Debug)]
struct Proposal {
    id: BatchId,
    term: u64,
    raft_index: u64,
}

/// The proposals of this node, oldest first. By term ascending, and within a term by raft index: a
/// leader appends at its end. A later term of leadership may begin before what an earlier one
/// proposed and another leader cut off.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    queue: VecDeque<Proposal>,
}

impl Proposals {
    pub(crate) fn push(&mut self, id: BatchId, term: u64, raft_index: u64) {
        self.queue.push_back(Proposal { id, term, raft_index });
    }

    /// Removes and returns the proposals behind `last`: rule 5.
    pub(super) fn drop_after(&mut self, last: u64) -> impl Iterator<Item = BatchId> + use<> {
        let kept = self.queue.partition_point(|proposal| proposal.raft_index <= last);
        self.queue.split_off(kept).into_iter().map(|proposal| proposal.id)
    }

    /// Resolves what the commit of everything up to `commit` decides. `term_at` gives the term of a
    /// committed batch, or `None` where the log no longer reaches back.
    pub(crate) fn resolve(
        &mut self,
        commit: u64,
        term_at: impl Fn(u64) -> Option<u64>,
        mut resolved: impl FnMut(BatchId, ProposalOutcome),
    ) {
        let Some(commit_term) = term_at(commit) else { return };
        // Undecided proposals are behind all decided ones: they are behind the commit, in no
        // earlier term, and a leader of such a term had the commit in its log before it proposed
        // anything.
        while let Some(front) = self.queue.front()
            && let Some(outcome) = outcome(front, commit, commit_term, &term_at)
        {
            resolved(front.id, outcome);
            self.queue.pop_front();
        }
    }
}

/// The outcome of a proposal, given a commit up to `commit`. `None`: not decided yet.
fn outcome(
    proposal: &Proposal,
    commit: u64,
    commit_term: u64,
    term_at: impl Fn(u64) -> Option<u64>,
) -> Option<ProposalOutcome> {
    if proposal.raft_index <= commit {
        return Some(match term_at(proposal.raft_index) {
            Some(term) if term == proposal.term => ProposalOutcome::Committed { term },
            Some(_) => ProposalOutcome::Dropped,
            None => ProposalOutcome::Unknown,
        });
    }
    (commit_term > proposal.term).then_some(ProposalOutcome::Dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        proposals: &mut Proposals,
        log: &[(u64, u64)],
        commit: u64,
    ) -> Vec<(BatchId, ProposalOutcome)> {
        let mut resolved = Vec::new();
        let term_at = |index| log.iter().find(|(at, _)| *at == index).map(|(_, term)| *term);
        proposals.resolve(commit, term_at, |id, outcome| resolved.push((id, outcome)));
        resolved
    }

    #[test]
    fn a_commit_of_its_own_term_proves_it_and_what_lies_beyond_waits() {
        let mut proposals = Proposals::default();
        for (id, raft_index) in [(1, 5), (2, 6), (3, 7)] {
            proposals.push(id, 2, raft_index);
        }
        let log = [(5, 2), (6, 2), (7, 2)];
        assert_eq!(
            resolve(&mut proposals, &log, 6),
            [
                (1, ProposalOutcome::Committed { term: 2 }),
                (2, ProposalOutcome::Committed { term: 2 })
            ]
        );
        assert_eq!(resolve(&mut proposals, &log, 6), []);
        assert_eq!(resolve(&mut proposals, &log, 7), [(3, ProposalOutcome::Committed { term: 2 })]);
    }

    #[test]
    fn another_term_at_its_place_or_a_later_term_below_it_proves_the_loss() {
        let mut proposals = Proposals::default();
        proposals.push(1, 2, 5);
        proposals.push(2, 2, 6);
        proposals.push(3, 2, 9);
        let log = [(5, 2), (6, 3)];
        assert_eq!(resolve(&mut proposals, &log, 5), [(1, ProposalOutcome::Committed { term: 2 })]);
        assert_eq!(
            resolve(&mut proposals, &log, 6),
            [(2, ProposalOutcome::Dropped), (3, ProposalOutcome::Dropped)]
        );
    }

    #[test]
    fn what_was_cut_off_between_two_terms_of_leadership_is_lost_and_what_came_after_waits() {
        let mut proposals = Proposals::default();
        for (id, term, raft_index) in [(1, 2, 5), (2, 2, 6), (3, 2, 7), (4, 4, 6), (5, 4, 7)] {
            proposals.push(id, term, raft_index);
        }
        assert_eq!(resolve(&mut proposals, &[(4, 1)], 4), []);
        let log = [(4, 1), (5, 3), (6, 4), (7, 4)];
        assert_eq!(
            resolve(&mut proposals, &log, 5),
            [
                (1, ProposalOutcome::Dropped),
                (2, ProposalOutcome::Dropped),
                (3, ProposalOutcome::Dropped)
            ]
        );
        assert_eq!(resolve(&mut proposals, &log, 6), [(4, ProposalOutcome::Committed { term: 4 })]);
        assert_eq!(resolve(&mut proposals, &log, 7), [(5, ProposalOutcome::Committed { term: 4 })]);
    }

    #[test]
    fn a_log_that_was_moved_past_it_cannot_tell() {
        let mut proposals = Proposals::default();
        proposals.push(1, 2, 5);
        assert_eq!(resolve(&mut proposals, &[(50, 2)], 50), [(1, ProposalOutcome::Unknown)]);
    }

    #[test]
    fn what_a_sole_voter_did_not_write_is_lost_and_what_it_wrote_waits() {
        let mut proposals = Proposals::default();
        for (id, term, raft_index) in [(1, 2, 5), (2, 2, 6), (3, 4, 7)] {
            proposals.push(id, term, raft_index);
        }
        assert_eq!(proposals.drop_after(5).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(proposals.drop_after(5).count(), 0);
        assert_eq!(
            resolve(&mut proposals, &[(5, 2), (6, 5)], 6),
            [(1, ProposalOutcome::Committed { term: 2 })]
        );
    }

    #[test]
    fn a_new_term_of_leadership_keeps_what_the_old_one_left_open() {
        let mut proposals = Proposals::default();
        proposals.push(1, 2, 5);
        proposals.push(2, 4, 7);
        assert_eq!(resolve(&mut proposals, &[(5, 2), (6, 4), (7, 4)], 7).len(), 2);
    }
}
