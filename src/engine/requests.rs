//! Requests in progress: they wait for a sync, a quorum or another node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::NodeId;
use crate::error::{BarrierError, PurgeError, ShutdownError, TransferError};
use crate::future::Completion;
use crate::message::PeerState;
use crate::reply::{Reply, Response};

/// A batch that the replica was given, and that is not resolved.
pub(super) struct InFlight {
    pub(super) completion: Arc<Completion>,
    pub(super) cost: u64,
    pub(super) since: Duration,
}

/// A barrier in progress.
pub(super) struct PendingBarrier {
    /// When it began, and its timeout. `None`: the caller has a timeout of its own.
    pub(super) limit: Option<(Duration, Duration)>,
    pub(super) reply: Answer,
}

/// The reply to a barrier: the index below which everything is readable.
pub(super) type Answer = Reply<Result<u64, BarrierError>>;

/// A purge that waits for a sync.
pub(super) struct PendingPurge {
    /// The count of the sync that it waits for.
    pub(super) sync: u64,
    pub(super) index: u64,
    pub(super) reply: Reply<Result<u64, PurgeError>>,
}

/// A leadership transfer in progress.
pub(super) struct Transfer {
    pub(super) to: NodeId,
    pub(super) since: Duration,
    pub(super) reply: Reply<Result<(), TransferError>>,
}

/// A shutdown that hands the leadership over first, so that the group needs no election timeout.
pub(super) struct PendingStop {
    /// How long each successor has to take over.
    pub(super) timeout: Duration,
    /// Voters that were not asked yet.
    pub(super) successors: VecDeque<NodeId>,
    /// The transfer to the current successor, and when it times out.
    pub(super) asked: Option<(Response<Result<(), TransferError>>, Duration)>,
    /// Callers that wait for the shutdown.
    pub(super) replies: Vec<Stopped>,
}

/// The reply to a shutdown.
pub(super) type Stopped = Reply<Result<(), ShutdownError>>;

impl PendingStop {
    /// The same shutdown, without a handover.
    pub(super) fn without_handover(self) -> PendingStop {
        PendingStop { successors: VecDeque::new(), asked: None, ..self }
    }

    pub(super) fn wake_at(&self) -> Duration {
        self.asked.as_ref().map_or(Duration::ZERO, |(_, until)| *until)
    }
}

/// A state request of a member. It is answered once the state is durable.
pub(super) struct StateRequest {
    pub(super) from: NodeId,
    pub(super) number: u64,
    pub(super) state: PeerState,
    /// The epoch of the replica with this state, and the count of the sync that makes the state
    /// durable, if it was begun.
    pub(super) epoch: u64,
    pub(super) sync: Option<u64>,
}
