//! What the engine takes in: appends, transport events, finished syncs, and commands of hosts.

use std::sync::Arc;
use std::time::Duration;

use super::work::SyncId;
use crate::entry::NodeId;
use crate::error::{BarrierError, PurgeError, ShutdownError, TransferError};
use crate::primitives::channel::{SendError, Sender};
use crate::reply::Reply;
use crate::retention::Retention;
use crate::shared::NodeShared;
use crate::storage::{BackupError, PendingBackup, StorageError};
use crate::transport::{Inbox, TransportEvent};

/// One input of the engine.
pub(crate) enum Input {
    /// The sequencer is no longer empty.
    Appends,
    TransportEvent(TransportEvent),
    Synced(SyncId, Result<(), StorageError>),
    /// A thread that serves this node has panicked.
    Panicked(String),
    Command(Command),
}

/// The inbox that a transport delivers to: it counts the bytes that wait in `inputs`.
pub(crate) fn inbox(shared: Arc<NodeShared>, inputs: Sender<Input>) -> Inbox {
    Inbox::new(move |event| {
        if let TransportEvent::Message(message) = &event
            && !shared.reserve_inbox(message)
        {
            return false;
        }
        let unsent = inputs.send(Input::TransportEvent(event)).err();
        if let Some(SendError(Input::TransportEvent(TransportEvent::Message(message)))) = &unsent {
            shared.release_inbox(message);
        }
        unsent.is_none()
    })
}

/// A request of a host. Every reply is sent, unless its receiver is gone.
pub(crate) enum Command {
    /// If there is a timeout, the engine applies it.
    Barrier {
        id: u64,
        timeout: Option<Duration>,
        reply: Reply<Result<u64, BarrierError>>,
    },
    Purge {
        index: u64,
        reply: Reply<Result<u64, PurgeError>>,
    },
    /// From now on this policy.
    SetRetention(Retention),
    /// A backup of what is committed now. The caller writes it.
    Backup {
        reply: Reply<Result<Box<dyn PendingBackup>, BackupError>>,
    },
    /// The caller no longer waits.
    ForgetBarrier {
        id: u64,
    },
    Transfer {
        to: NodeId,
        reply: Reply<Result<(), TransferError>>,
    },
    /// A leader may hand over first. Each of the others has so long to take over.
    Stop {
        hand_over: Option<Duration>,
        reply: Reply<Result<(), ShutdownError>>,
    },
}

/// The time of a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Time since the engine was made, by a monotonic clock.
    pub(crate) elapsed: Duration,
    /// Milliseconds since 1970, by the wall clock, which may be set back.
    pub(crate) unix_ms: u64,
}
