//! What a replica asks its caller to do, and what it reports of itself.

use super::proposals::{BatchId, ProposalOutcome};
use crate::batch::{Batch, LogPoint};
use crate::entry::NodeId;
use crate::message::Message;
use crate::role::Role;
use crate::storage::{Base, HardState, StorageError};

/// An effect, to be carried out before the next one is polled.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Hand these to the transport.
    Send(Vec<Message>),
    /// Write these to the storage: first the hard state, which does not depend on the batches, then
    /// the batches, after truncating a conflicting tail.
    Write { batches: Vec<Batch>, hard_state: Option<HardState>, commit: u64 },
    /// The unique id of the group is committed, and was not known here. Save it, before the log is
    /// reset, and before the batch that names it is purged.
    GroupUid(u128),
    /// Reset the log to this base: a leader has sent a snapshot.
    InstallSnapshot(Base),
    /// Begin a sync of everything written so far. Call `handle_synced` with this number when it has
    /// succeeded.
    Sync(u64),
    /// Everything up to this log point is committed and can be read.
    Commit(LogPoint),
    /// The outcome of a proposal is known.
    Resolve(BatchId, ProposalOutcome),
    /// Role, term or leader have changed.
    RoleChanged(RoleState),
    /// These barriers hold: every append that was acknowledged before they were begun is committed
    /// here.
    Barrier(Vec<u64>),
    /// A read of the log failed for a temporary reason, and raft-rs may have acted on the missing
    /// result: this replica must be [restarted](super::Replica::restart).
    ReadFailed(StorageError),
    /// This replica has failed. The text says why, and what to do.
    Fail(String),
}

/// Role, term and leader, as hosts see them (soft state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoleState {
    pub(crate) role: Role,
    pub(crate) term: u64,
    pub(crate) leader: Option<NodeId>,
}

/// Why the leadership cannot be transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferRejection {
    NotLeader,
    NotAVoter,
}
