//! Sends followers the batches that must be read for them, a few in each turn: see [`reading`].
//!
//! [`reading`]: super::reading

use raft::StateRole;

use super::RaftCore;

impl RaftCore {
    /// Whether a follower waits for batches that must be read.
    pub(in crate::replica) fn owes_reading(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.node.store().reading.is_owed()
    }

    /// Reads a little for followers that wait, and hands it to raft-rs as messages to them.
    pub(in crate::replica) fn read_for_followers(&mut self) {
        if !self.owes_reading() {
            return;
        }
        let raft = &self.node.raft;
        let mut peers: Vec<u64> =
            raft.prs().iter().map(|(peer, _)| *peer).filter(|peer| *peer != raft.id).collect();
        peers.sort_unstable();
        let next = peers.partition_point(|peer| *peer <= self.read_for);
        peers.rotate_left(next);
        self.node.store().reading.open();
        for peer in peers {
            let before = self.node.store().reading.bytes();
            while self.send_more(peer) {}
            let reading = &self.node.store().reading;
            if reading.bytes() > before {
                self.read_for = peer;
            }
            if reading.is_owed() {
                break;
            }
        }
        self.node.store().reading.close();
    }

    /// Sends `peer` one message of batches that it was not sent yet. False if there are none, or it
    /// takes no more, or they cannot be read now.
    fn send_more(&mut self, peer: u64) -> bool {
        let raft = &mut self.node.raft;
        let unsent = |raft: &raft::Raft<_>| raft.prs().get(peer).map(|progress| progress.next_idx);
        let last = raft.raft_log.last_index();
        let Some(before) = unsent(raft).filter(|unsent| *unsent <= last) else { return false };
        raft.send_append(peer);
        // One that is probed is sent one message and no more until it answers.
        unsent(raft).is_some_and(|unsent| unsent > before)
    }
}
