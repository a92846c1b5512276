//! Requests in progress: they wait for a sync, a quorum or another node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::NodeId;
use crate::error::{BarrierError, PurgeError, ShutdownError, TransferError};
use crate::future::Completion;
use crate::message::PeerState;
use crate::reply::{Reply, Response};

/// A batch that was handed to the replica.
pub(super) struct InFlight {
    pub(super) completion: Arc<Completion>,
    pub(super) cost: u64,
    pub(super) since: Duration,
}

/// A barrier under way.
pub(super) struct PendingBarrier {
    /// Since when, and how long it may take. Without that its asker gives up by itself.
    pub(super) limit: Option<(Duration, Duration)>,
    pub(super) reply: Answer,
}

/// How a barrier is answered.
pub(super) type Answer = Reply<Result<u64, BarrierError>>;

/// A purge that waits until what it needs is durable.
pub(super) struct PendingPurge {
    /// The count of that sync.
    pub(super) sync: u64,
    pub(super) index: u64,
    pub(super) reply: Reply<Result<u64, PurgeError>>,
}

/// A handing over of the leadership that is under way.
pub(super) struct Transfer {
    pub(super) to: NodeId,
    pub(super) since: Duration,
    pub(super) reply: Reply<Result<(), TransferError>>,
}

/// A leader that hands over before it stops, so that its group need not elect another by itself.
pub(super) struct Leaving {
    /// How long each may take to take over.
    pub(super) patience: Duration,
    /// Who has not been asked yet.
    pub(super) heirs: VecDeque<NodeId>,
    /// Who is being asked, and until when.
    pub(super) asked: Option<(Response<Result<(), TransferError>>, Duration)>,
    /// Who waits for the end.
    pub(super) replies: Vec<Stopped>,
}

/// How a shutdown is answered.
pub(super) type Stopped = Reply<Result<(), ShutdownError>>;

impl Leaving {
    /// The same, without asking anybody else to take over.
    pub(super) fn at_once(self) -> Leaving {
        Leaving { heirs: VecDeque::new(), asked: None, ..self }
    }

    pub(super) fn wake_at(&self) -> Duration {
        self.asked.as_ref().map_or(Duration::ZERO, |(_, until)| *until)
    }
}

/// A member that asked where this node stands, and is told when that is durable.
pub(super) struct StateRequest {
    pub(super) from: NodeId,
    pub(super) number: u64,
    pub(super) state: PeerState,
    /// The life of the replica that stood so, and the count of the sync that makes it durable, if
    /// that was begun.
    pub(super) epoch: u64,
    pub(super) sync: Option<u64>,
}
