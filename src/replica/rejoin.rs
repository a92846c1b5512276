//! Taking part again with a log that is not complete, as a pure value: the members that such a node
//! asks, and the term and log that it must reach.
//!
//! The node has lost something: its directory was wiped, put back to an older copy, or restored
//! from a backup. So it may have voted in terms that it does not know, and acknowledged batches
//! that it does not have. Before it sends anything else to its group, it asks *every* other member
//! for its state. A member responds once it is durable there that the node has a new directory id,
//! so that no earlier process of the node can take part any more. The response holds a durable term
//! and log end. Then:
//!
//! 1. **Term.** The node takes the newest term of all responses, and does not vote in it. A
//!    candidate that the node voted for in a later term was in that term before it asked for the
//!    vote, and has responded.
//! 2. **Log.** The greatest (term, raft index) at the log end of a voter is the *bound*. A batch
//!    that was committed with the help of the node is in the log of the leader that counted it, or
//!    of a leader of a later term, and all of these have responded with no less. So until its own
//!    log reaches the bound, the node votes only for logs that do, and does not campaign. Otherwise
//!    it is an ordinary follower: it is sent the batches that it lacks, and acknowledges them.
//!
//! A majority of the responses is not enough. In a group of five the candidate with the node's
//! vote, or the only other holder of a batch, may be among those that were not asked. Several logs
//! to follow are no danger: the node takes batches only from a leader.
//!
//! Two such nodes do not respond to each other: neither knows its own votes.
//!
//! # Which directory is accepted as that node
//!
//! A directory that is not the known one of a node, and says that it is not complete, takes the
//! place of the known one only where a peer finds it at the address that it has for the node
//! (`Way::Out` of the handshake). A node that comes in from elsewhere may run on a copy of the
//! directory, opened while the node is down: it would have the directory of the node itself refused
//! when that comes back.
//!
//! - Safety does not rest on this: it only lets fewer in, and a refused node says nothing.
//! - No node that could come back is kept from it. An answer goes on the connection that the peer
//!   has made to that address, so one that is not found there never gets an answer. It is let in
//!   later by the pause between two attempts of the peer, half a second at most.
//! - Of two nodes that have both lost their directories neither keeps the other out: a node that
//!   marks its log forgets the directories of its peers in the same write, and so lets the other
//!   one in.
//! - A node that has lost its log has no records of its peers, and records one only where it finds
//!   it at its address. One that comes in before may be a copy. It is let in, since the peer itself
//!   must be let in to find the node, but it is not recorded. The node takes no part before it has
//!   found all peers.
//! - A peer that crashes before the new directory is remembered finds it once more.
//! - A transport without addresses (in memory) has one place for each node. What is attached there
//!   is the node.
//!
//! What is left: a copy that is opened *at* the address of its node takes the place of the node.

use crate::entry::NodeId;
use crate::message::{Message, NoState, PeerState, RepairBody, RepairMessage};
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
    /// The ids of the requests of this value. No other request of the node has one of them.
    numbers: std::ops::Range<u64>,
    /// The ticks after which a peer without a response is asked again.
    timeout_ticks: usize,
    backoff_ticks: usize,
}

impl Rejoin {
    pub(crate) fn new(
        node: NodeId,
        membership: &Membership,
        first_number: u64,
        timeout_ticks: usize,
    ) -> Rejoin {
        let peer = |is_voter| move |node: &NodeId| Peer { node: *node, is_voter, answer: None };
        let voters = membership.voters.iter().map(peer(true));
        let peers = voters
            .chain(membership.learners.iter().map(peer(false)))
            .filter(|peer| peer.node != node)
            .collect();
        Rejoin { node, peers, numbers: first_number..first_number, timeout_ticks, backoff_ticks: 0 }
    }

    /// The id of the next request.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.end
    }

    /// A tick has passed. Returns the requests that are due.
    pub(crate) fn tick(&mut self) -> Vec<Message> {
        self.backoff_ticks = self.backoff_ticks.saturating_sub(1);
        if self.backoff_ticks > 0 {
            return Vec::new();
        }
        self.backoff_ticks = self.timeout_ticks;
        let (from, number) = (self.node, self.numbers.end);
        self.numbers.end += 1;
        let asked = self.peers.iter().filter(|peer| !matches!(peer.answer, Some(Ok(_))));
        asked
            .map(|peer| {
                RepairMessage { from, to: peer.node, repair_body: RepairBody::StateRequest(number) }
                    .into()
            })
            .collect()
    }

    /// A peer has responded. Responses to earlier requests are ignored: the node had another
    /// directory id then.
    pub(crate) fn handle_state(
        &mut self,
        from: NodeId,
        number: u64,
        state: Result<PeerState, NoState>,
    ) {
        let is_answer = self.numbers.contains(&number);
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == from && is_answer) {
            // Every response was made after the node had its new directory id. One is enough.
            peer.answer = peer.answer.and_then(Result::ok).map(Ok).or(Some(state));
        }
    }

    /// The term and log end that the node must reach, once every member has responded. Never of the
    /// only voter of a group: no other node knows what it has acknowledged alone.
    pub(crate) fn obligation(&self) -> Option<PeerState> {
        let answer = |peer: &Peer| peer.answer.and_then(Result::ok);
        let answered = self.peers.iter().filter(|peer| answer(peer).is_some()).count();
        let is_enough = answered == self.peers.len();
        if !is_enough {
            return None;
        }
        let states = || self.peers.iter().filter(|peer| peer.is_voter).filter_map(answer);
        let (term, last) =
            (states().map(|state| state.term).max(), states().map(|state| state.last).max());
        Some(PeerState { term: term?, last: last? })
    }

    /// A text for operators: the members that this waits for.
    pub(crate) fn account(&self) -> String {
        if !self.peers.iter().any(|peer| peer.is_voter) {
            return "its log is not complete, and as no other member has a vote, no other node \
                    knows what it has acknowledged: bring its directory back, or restore the \
                    whole group from a backup"
                .to_owned();
        }
        let waits = self.peers.iter().filter_map(|peer| match peer.answer {
            Some(Ok(_)) => None,
            None => Some(format!("node {} has not answered", peer.node)),
            Some(Err(NoState::Incomplete)) => {
                Some(format!("the log of node {} is not complete either", peer.node))
            }
            Some(Err(NoState::Corrupt)) => {
                Some(format!("the log of node {} is damaged", peer.node))
            }
        });
        let waits: Vec<_> = waits.collect();
        let incomplete = |peer: &Peer| peer.answer == Some(Err(NoState::Incomplete));
        let advice = match self.peers.iter().any(incomplete) {
            true => {
                ". Two nodes that have lost their logs cannot vouch for each other: bring one of \
                 the two directories back, or restore the whole group from a backup. If this is a \
                 new group, remove these directories and open without `rejoin_empty`"
            }
            false => "",
        };
        let waits =
            if waits.is_empty() { "all have answered".to_owned() } else { waits.join(", ") };
        format!(
            "its log is not complete: the node may have forgotten votes and acknowledged entries. \
             It takes no part until every other member has said where it stands: {waits}{advice}"
        )
    }
}

#[cfg(test)]
mod tests;
