//! Taking part again with a log that is not complete, as a pure value: whom such a node asks, and what it owes then.
//!
//! The node has forgotten something: its directory was wiped, put back to an older copy, or restored from a backup. So it may have voted in terms
//! that it does not know, and acknowledged batches that it does not have. Before it says anything to its group it asks *every* other member where
//! it stands. Each answers only when it is durable there that the node is known by another directory id, so that nothing that the node was before
//! can speak any more, and with terms and batches that are durable. Then:
//!
//! 1. **Term.** The node takes the newest term of all answers, and its vote in it is spent. Whoever it voted for in a later one was a candidate of
//!    that term before it asked for the vote, and has answered.
//! 2. **Log.** Of all answers that of a voter with the greatest (term, raft index) at its end is the *bound*. A batch that was committed with the help
//!    of the node is in the log of the leader that counted it, or of a leader of a later term, and all of these have answered with no less. So until
//!    its own log reaches the bound, the node gives its vote only to whoever has a log that does, and does not stand for election. Nothing else is
//!    different: it is sent what it lacks as any follower is, and acknowledges what it has.
//!
//! A majority of the answers is not enough. In a group of five the candidate that has the node's vote, or the only other one that holds a batch, may be
//! among those that were not asked. That the node has several logs to choose from is no danger: what it takes, it takes from a leader.
//!
//! Two such nodes do not answer each other: neither knows what it has promised.
//!
//! # Who is let in as that node
//!
//! A directory that is not the known one of a node, and says that it is not complete, takes the
//! place of the known one only where a peer finds it at the address that it has for the node
//! (`Way::Out` of the handshake). Whoever comes in from elsewhere may be a copy of the directory,
//! opened while the node is down: it would have the directory of the node itself refused when that
//! comes back.
//!
//! - Safety does not rest on this: it only lets fewer in, and a refused node says nothing.
//! - No node that could come back is kept from it. An answer goes on the connection that the peer
//!   has made to that address, so one that is not found there never gets an answer. It is let in
//!   later by the pause between two attempts of the peer, half a second at most.
//! - Of two nodes that have both lost their directories neither keeps the other out: whoever marks
//!   its log forgets the directories of its peers in the same write, and so lets the other one in.
//! - A node that has forgotten its peers knows none of them before it finds it at its address. Who
//!   comes in before may be a copy: it comes in, so that the peer itself does and finds the node,
//!   and it is not remembered. The node takes no part before it has found all.
//! - A peer that crashes before the new directory is remembered finds it once more.
//! - A transport without addresses (in memory) has one place for each node. Whoever sits there is
//!   the node.
//!
//! What is left: a copy that is opened *at* the address of its node takes the place of the node.

use crate::entry::NodeId;
use crate::message::{Letter, Message, NoState, PeerState, Word};
use crate::role::Membership;

struct Peer {
    node: NodeId,
    /// Whether it may have voted, led or acknowledged.
    is_voter: bool,
    answer: Option<Result<PeerState, NoState>>,
}

/// See the [module](self).
pub(crate) struct Rejoin {
    node: NodeId,
    peers: Vec<Peer>,
    /// The numbers of the questions of this value. No other question of the node has one of them.
    numbers: std::ops::Range<u64>,
    /// How many ticks a peer has to answer before it is asked again.
    patience: usize,
    rest: usize,
}

impl Rejoin {
    pub(crate) fn new(node: NodeId, membership: &Membership, first_number: u64, patience: usize) -> Rejoin {
        let peer = |is_voter| move |node: &NodeId| Peer { node: *node, is_voter, answer: None };
        let voters = membership.voters.iter().map(peer(true));
        let peers = voters.chain(membership.learners.iter().map(peer(false))).filter(|peer| peer.node != node).collect();
        Rejoin { node, peers, numbers: first_number..first_number, patience, rest: 0 }
    }

    /// The number after the last question.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.end
    }

    /// A tick has passed. What is to be asked now.
    pub(crate) fn tick(&mut self) -> Vec<Message> {
        self.rest = self.rest.saturating_sub(1);
        if self.rest > 0 {
            return Vec::new();
        }
        self.rest = self.patience;
        let (from, number) = (self.node, self.numbers.end);
        self.numbers.end += 1;
        let asked = self.peers.iter().filter(|peer| !matches!(peer.answer, Some(Ok(_))));
        asked.map(|peer| Letter { from, to: peer.node, word: Word::StateRequest(number) }.into()).collect()
    }

    /// A peer has answered. An answer to a question of before says nothing: the node spoke from another directory then.
    pub(crate) fn handle_state(&mut self, from: NodeId, number: u64, state: Result<PeerState, NoState>) {
        let is_answer = self.numbers.contains(&number) || planted!("any answer of a peer is one to this question");
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == from && is_answer) {
            // Each answer was true after the node had its new directory id, and one is enough.
            peer.answer = peer.answer.and_then(Result::ok).map(Ok).or(Some(state));
        }
    }

    /// What the node owes, once every member has answered. Never of the only voter of a group: nobody
    /// else knows what it has acknowledged alone.
    pub(crate) fn owed(&self) -> Option<PeerState> {
        let answer = |peer: &Peer| peer.answer.and_then(Result::ok);
        let answered = self.peers.iter().filter(|peer| answer(peer).is_some()).count();
        let is_enough = answered == self.peers.len() || planted!("a majority of the answers is enough") && 2 * answered > self.peers.len();
        if !is_enough {
            return None;
        }
        let states = || self.peers.iter().filter(|peer| peer.is_voter).filter_map(answer);
        let (term, last) = (states().map(|state| state.term).max(), states().map(|state| state.last).max());
        Some(PeerState { term: term?, last: last? })
    }

    /// Whom this waits for, for people.
    pub(crate) fn account(&self) -> String {
        if !self.peers.iter().any(|peer| peer.is_voter) {
            return "its log is not complete, and as no other member has a vote, nobody else knows what it \
                    has acknowledged: bring its directory back, or restore the whole group from a backup"
                .to_owned();
        }
        let waits = self.peers.iter().filter_map(|peer| match peer.answer {
            Some(Ok(_)) => None,
            None => Some(format!("node {} has not answered", peer.node)),
            Some(Err(NoState::Incomplete)) => Some(format!("the log of node {} is not complete either", peer.node)),
            Some(Err(NoState::Damaged)) => Some(format!("the log of node {} is damaged", peer.node)),
        });
        let waits: Vec<_> = waits.collect();
        let incomplete = |peer: &Peer| peer.answer == Some(Err(NoState::Incomplete));
        let advice = match self.peers.iter().any(incomplete) {
            true => {
                ". Two nodes that have lost their logs cannot vouch for each other: bring one of the two directories back, or restore the \
                 whole group from a backup. If this is a new group, remove these directories and open without `rejoin_empty`"
            }
            false => "",
        };
        let waits = if waits.is_empty() { "all have answered".to_owned() } else { waits.join(", ") };
        format!(
            "its log is not complete: the node may have forgotten votes and acknowledged entries. It takes no part until every other \
             member has said where it stands: {waits}{advice}"
        )
    }
}

#[cfg(test)]
mod tests;
