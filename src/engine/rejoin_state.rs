//! Marks an empty log as not complete, and holds what a node with such a log keeps beside
//! [`Rejoin`](crate::replica::rejoin).

use std::time::Duration;

use crate::batch::LogPoint;
use crate::storage::{HardState, Recovered, Storage, StorageError};

/// Interval between two log lines about a log that is not complete.
const REJOIN_EVERY: Duration = Duration::from_secs(30);

/// What became of a loss that this node has learned of in this run.
#[derive(Default)]
pub(super) struct Loss {
    /// It must be made durable before anything else happens.
    pub(super) is_unrecorded: bool,
    /// It is durable, and no other process has ever used the new directory id.
    pub(super) is_recorded: bool,
}

/// When the log next reports that it is not complete.
#[derive(Default)]
pub(super) struct RejoinReport {
    due_at: Duration,
}

impl RejoinReport {
    /// A report was just written.
    pub(super) fn written(&mut self, now: Duration) {
        self.due_at = now + REJOIN_EVERY;
    }

    /// Whether a report is due. If so, it counts as written.
    pub(super) fn take_due(&mut self, now: Duration) -> bool {
        let is_due = now >= self.due_at;
        if is_due {
            self.written(now);
        }
        is_due
    }
}

/// Marks an empty log as not complete: it replaces a log that was lost. Returns whether the log is
/// empty.
///
/// # Errors
/// If that cannot be made durable.
pub(crate) fn rejoin_empty(
    storage: &mut dyn Storage,
    recovered: &mut Recovered,
) -> Result<bool, StorageError> {
    let HardState { term, vote, .. } = recovered.hard_state;
    let is_empty = recovered.last.is_initial()
        && (term, vote) == (LogPoint::INITIAL.term, None)
        && recovered.corruption.is_empty();
    if is_empty && recovered.identity.complete {
        recovered.identity = storage.set_complete(false)?;
        recovered.peers.clear();
        storage.begin_sync().wait()?;
    }
    Ok(is_empty)
}
