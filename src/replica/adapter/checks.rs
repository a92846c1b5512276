//! The checks between a message of a peer and raft-rs.

use raft::StateRole;
use raft::eraftpb::{Message as RaftMessage, MessageType, Snapshot};

use super::RaftCore;
use super::convert::batch_of;
use crate::batch::LogPoint;
use crate::message::{Message, MessageRejection, ReplicaView};
use crate::replica::snapshot;
use crate::role::Membership;

impl RaftCore {
    /// Checks a message against the state of this replica, and its batches against the log.
    pub(super) fn check(
        &mut self,
        message: &Message,
        membership: &Membership,
    ) -> Result<(), MessageRejection> {
        let log = &self.node.raft.raft_log;
        // The beginning of the log in raft-rs. It may hold a snapshot that is not written yet.
        let first = log.first_index() - 1;
        let last = log.last_index();
        let term_at =
            |index: u64| if index < first || index > last { None } else { log.term(index).ok() };
        message.check(&ReplicaView {
            me: self.node.raft.id.into(),
            membership,
            leads: self.node.raft.state == StateRole::Leader,
            leader: self.leader(),
            term: self.term(),
            commit: self.commit(),
            last,
            term_at: &term_at,
        })?;
        let Some(message) = message.raft() else { return Ok(()) };
        if message.get_msg_type() == MessageType::MsgSnapshot {
            self.check_snapshot(message.get_snapshot())?;
        }
        if let Some(point) = self.check_contiguous(message, &term_at)? {
            self.newest = point;
        }
        Ok(())
    }

    /// A snapshot must carry a log point that does not lie before what is committed here.
    pub(super) fn check_snapshot(&self, snapshot: &Snapshot) -> Result<(), MessageRejection> {
        let metadata = snapshot.get_metadata();
        let point = snapshot::decode(metadata.index, metadata.term, &snapshot.data)
            .ok_or(MessageRejection::Invalid("a snapshot without a log point"))?;
        if self.is_of_another_group(snapshot) {
            return Err(MessageRejection::Invalid("a snapshot of another group of this name"));
        }
        let Some(here) =
            self.point(self.commit()).filter(|here| here.raft_index <= point.raft_index)
        else {
            return Ok(());
        };
        if point.next_index < here.next_index
            || point.next_position < here.next_position
            || point.timestamp < here.timestamp
        {
            return Err(MessageRejection::Invalid(
                "a snapshot whose log point lies before what is committed",
            ));
        }
        Ok(())
    }

    /// The batches of an append must continue the log: index, position and timestamp, not only
    /// Raft's numbers. Returns the log point after them, if they follow a batch of this log.
    fn check_contiguous(
        &self,
        message: &RaftMessage,
        term_at: &dyn Fn(u64) -> Option<u64>,
    ) -> Result<Option<LogPoint>, MessageRejection> {
        let follows = term_at(message.index) == Some(message.log_term);
        if message.get_msg_type() != MessageType::MsgAppend
            || message.entries.is_empty()
            || !follows
        {
            return Ok(None); // if it does not follow, raft-rs will ask for earlier ones
        }
        let Some(mut point) = self.point(message.index) else {
            return Err(MessageRejection::Invalid("the batch before it cannot be read"));
        };
        for entry in &message.entries {
            point = batch_of(entry)
                .and_then(|batch| batch.point_after(&point))
                .map_err(|_| MessageRejection::Invalid("a batch does not continue the ledger"))?;
        }
        Ok(Some(point))
    }
}
