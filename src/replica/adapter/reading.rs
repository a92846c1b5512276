//! When the log is read for followers that lack batches, and how much of it at a time.
//!
//! raft-rs asks for the batches of a follower whenever it learns that the follower can take more, and
//! goes on until [`MESSAGES_MAX`](super::MESSAGES_MAX) messages are under way to it: tens of megabytes
//! in one call. On a slow disk that takes longer than an election timeout, and a leader that says
//! nothing for so long is deposed. So here it is refused, and does not mind: to it the log is
//! temporarily unavailable. What it was refused is read later, in [`Core::read_for_followers`], which
//! is called once in a turn, when everything else that the turn has to say is on its way.
//!
//! 1. Nothing is read for followers anywhere else. What is not written yet is sent from memory, so
//!    who keeps up never waits for this.
//! 2. One call reads one message, or several small ones: at most an eighth of the limit of a message,
//!    and then one message more. That one is longer than the limit only if it is a single batch. The
//!    number of followers does not matter.
//! 3. Followers take turns: a call begins with the one behind whom the call before last read for.
//! 4. As long as anything waits and can be sent, each call reads something.

use std::cell::Cell;

use raft::StateRole;

use super::Core;
use crate::batch::Batch;

/// After this part of the limit of a message, nothing more is read in the same call.
const SMALL_PART: u64 = 8;

/// What a batch counts beside its body, in bytes: an empty one is read as well.
const BATCH_OVERHEAD: u64 = 32;

/// What was read, and whether more may be. Behind a shared reference, for that is what raft-rs has of
/// its storage.
#[derive(Debug, Default)]
pub(super) struct Reading {
    is_open: Cell<bool>,
    /// Read since it was opened.
    bytes: Cell<u64>,
    /// Something was refused since.
    is_owed: Cell<bool>,
}

impl Reading {
    pub(super) fn open(&self) {
        self.is_open.set(true);
        self.bytes.set(0);
        self.is_owed.set(false);
    }

    fn close(&self) {
        self.is_open.set(false);
    }

    /// Whether a message of so many bytes at most may be read now. If not, it is owed.
    pub(super) fn is_granted(&self, bytes_max: u64) -> bool {
        let is_granted = self.is_open.get() && self.bytes.get() <= bytes_max / SMALL_PART;
        self.is_owed.set(self.is_owed.get() || !is_granted);
        is_granted
    }

    pub(super) fn count(&self, batches: &[Batch]) {
        let bytes: u64 = batches.iter().map(|batch| batch.body().len() as u64 + BATCH_OVERHEAD).sum();
        self.bytes.set(self.bytes.get() + bytes);
    }
}

impl Core {
    /// Whether a follower waits for batches that must be read.
    pub(in crate::replica) fn owes_reading(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.node.store().reading.is_owed.get()
    }

    /// Reads a little for followers that wait, and hands it to raft-rs as messages to them.
    pub(in crate::replica) fn read_for_followers(&mut self) {
        if !self.owes_reading() {
            return;
        }
        let raft = &self.node.raft;
        let mut peers: Vec<u64> = raft.prs().iter().map(|(peer, _)| *peer).filter(|peer| *peer != raft.id).collect();
        peers.sort_unstable();
        let next = peers.partition_point(|peer| *peer <= self.read_for);
        peers.rotate_left(next);
        self.node.store().reading.open();
        for peer in peers {
            let before = self.node.store().reading.bytes.get();
            while self.send_more(peer) {}
            let reading = &self.node.store().reading;
            if reading.bytes.get() > before {
                self.read_for = peer;
            }
            if reading.is_owed.get() {
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
