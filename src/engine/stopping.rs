//! The end of a node: everything that waits is resolved, and the log is closed.

use super::Engine;
use crate::error::{AppendError, BarrierError, ShutdownError, TransferError};
use crate::storage::StorageError;

impl Engine {
    pub(super) fn stop(&mut self) -> Result<(), ShutdownError> {
        if self.stopped {
            return Ok(());
        }
        self.transport.stop();
        let outcome = match self.fault.clone() {
            Some(reason) => Err(ShutdownError::Failed { reason }),
            // Nothing was written that is not durable.
            None if self.stands_still() => Ok(()),
            None => self.close_storage().map_err(ShutdownError::from),
        };
        self.resolve_all(AppendError::Stopped, &AppendError::OutcomeUnknown, &BarrierError::Stopped);
        self.refuse_transfers(&TransferError::Stopped);
        self.stopped = true;
        self.announce_absence();
        self.shared.watermark.close();
        self.inform("stopped");
        outcome
    }

    /// The batches first: a commit is remembered only as far as it is durable.
    fn close_storage(&mut self) -> Result<(), StorageError> {
        self.storage.begin_sync().wait()?;
        self.storage.save(self.replica.hard_state())?;
        self.storage.begin_sync().wait()
    }

    /// Ends every wait: of what was never proposed with `refused`, of what was proposed with `unknown`.
    pub(super) fn resolve_all(&mut self, refused: AppendError, unknown: &AppendError, barrier: &BarrierError) {
        self.shared.sequencer.close(refused);
        for batch in std::mem::take(&mut self.in_flight).into_values() {
            self.shared.sequencer.release(batch.cost);
            batch.completion.resolve(Err(unknown.clone()));
        }
        for reply in std::mem::take(&mut self.barriers).into_values() {
            let _ = reply.send(Err(barrier.clone()));
        }
        self.refuse_purges();
    }
}
