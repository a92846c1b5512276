//! What the engine takes in: appends, transport events, finished syncs, and commands of hosts.

use std::sync::Arc;
use std::time::Duration;

use super::work::SyncId;
use crate::entry::NodeId;
use crate::error::{BarrierError, PurgeError, ShutdownError, TransferError};
use crate::primitives::channel::Sender;
use crate::reply::Reply;
use crate::shared::NodeShared;
use crate::storage::{BackupError, PendingBackup, StorageError};
use crate::transport::{Inbox, TransportEvent};

/// Something for the engine to look at.
pub(crate) enum Input {
    /// The sequencer has turned from empty to not empty.
    Appends,
    TransportEvent(TransportEvent),
    Synced(SyncId, Result<(), StorageError>),
    /// A thread that serves this node has panicked.
    Panicked(String),
    Command(Command),
}

/// Where a transport puts what arrives for the engine behind `inputs`.
pub(crate) fn inbox(shared: Arc<NodeShared>, inputs: Sender<Input>) -> Inbox {
    Inbox::new(move |arrival| {
        if let TransportEvent::Message(message) = &arrival
            && !shared.reserve_inbox(message)
        {
            return false;
        }
        inputs.send(Input::TransportEvent(arrival)).is_ok()
    })
}

/// What a host asks of the engine. Every reply is sent, unless the asker is gone.
pub(crate) enum Command {
    /// With a timeout, the engine sees to it.
    Barrier {
        id: u64,
        timeout: Option<Duration>,
        reply: Reply<Result<u64, BarrierError>>,
    },
    Purge {
        index: u64,
        reply: Reply<Result<u64, PurgeError>>,
    },
    /// Asks for a backup of what is committed now, for the asker to write.
    Backup {
        reply: Reply<Result<Box<dyn PendingBackup>, BackupError>>,
    },
    /// The asker no longer waits.
    ForgetBarrier {
        id: u64,
    },
    Transfer {
        to: NodeId,
        reply: Reply<Result<(), TransferError>>,
    },
    /// A leader may hand over first, and give each of the others so long to take over.
    Stop {
        hand_over: Option<Duration>,
        reply: Reply<Result<(), ShutdownError>>,
    },
}

/// The moment at which a turn takes place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Since the engine was made, by a clock that never steps.
    pub(crate) elapsed: Duration,
    /// Milliseconds since 1970, by a clock that may.
    pub(crate) unix_ms: u64,
}
