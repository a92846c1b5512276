//! What a replica asks its caller to do, and what it reports of itself.

use super::proposals::{BatchId, ProposalOutcome};
use crate::batch::{Batch, LogPoint};
use crate::entry::NodeId;
use crate::message::Message;
use crate::role::Role;
use crate::storage::{Base, HardState, StorageError};

/// Something to be carried out before the next effect is asked for.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Hand these to the transport.
    Send(Vec<Message>),
    /// Write these to the storage: the hard state, which says nothing of the batches, then these (a
    /// conflicting tail is cut first).
    Write { batches: Vec<Batch>, hard_state: Option<HardState>, commit: u64 },
    /// Begin the log anew.
    Rebase(Base),
    /// Begin to make everything written so far durable; call `handle_synced` with this number when
    /// it is.
    Sync(u64),
    /// Everything up to this mark is committed and can be read.
    Commit(LogPoint),
    /// A batch has met its fate.
    Resolve(BatchId, ProposalOutcome),
    /// What this node is to its group has changed.
    Role(RoleState),
    /// These barriers hold: everything acknowledged before they were asked for is at or below the
    /// commit mark.
    Barrier(Vec<u64>),
    /// The log could not be read at present, for want of something that will be there again, and
    /// raft-rs may have taken that for an answer: this replica must be
    /// [restarted](Replica::restart).
    FetchError(StorageError),
    /// This replica must not go on. The text says why and what to do.
    Fail(String),
}

/// What a node is to its group, in the terms of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoleState {
    pub(crate) role: Role,
    pub(crate) term: u64,
    pub(crate) leader: Option<NodeId>,
}

/// Why a leadership cannot be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferRejection {
    NotLeader,
    NotAVoter,
}
