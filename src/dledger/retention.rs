//! What is kept of the ledger: the policy, and pins.

use super::DLedger;
use crate::engine::Command;
use crate::error::{ReadError, RetentionError};
use crate::pins::Pin;
use crate::retention::Retention;

impl DLedger {
    /// Changes how much of the ledger this node keeps, from now on and as long as it runs. Does not
    /// wait: what is too much by the new policy is removed in the background, within a second or
    /// so. May be called anywhere, also within a waker.
    ///
    /// # Errors
    /// [`RetentionError::Setting`] if a limit makes no sense, [`RetentionError::Forked`],
    /// [`RetentionError::Stopped`]. The policy before stays in force.
    pub fn set_retention(&self, retention: Retention) -> Result<(), RetentionError> {
        if !self.node.shared.home.is_here() {
            return Err(RetentionError::Forked);
        }
        retention.check().map_err(|reason| RetentionError::Setting { reason })?;
        if self.node.shared.watermark.is_closed() {
            return Err(RetentionError::Stopped);
        }
        self.node.command(Command::SetRetention(retention));
        Ok(())
    }

    /// Keeps this node from removing the entry at `index`, and all behind it, while the [`Pin`]
    /// lives, within [`Builder::pin_bytes_max`](crate::Builder::pin_bytes_max). A consumer that
    /// reads through a pin (at or behind its index, and then [advances](Pin::advance) it) never
    /// meets [`ReadError::Purged`] within that bound. `index` may be one that does not exist yet.
    ///
    /// Blocks for no longer than this node changes the beginning of its log, which is a write to a
    /// file. May be called anywhere, also within a waker.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// # let ledger = dledger::DLedger::builder(1).dir(home.path().join("log")).open()?;
    /// # ledger.append_batch(["a", "b"])?;
    /// let pin = ledger.pin(ledger.committed().start)?;
    /// for entry in ledger.read(pin.index()) {
    ///     pin.advance(entry?.index() + 1); // it is done with
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ReadError::Purged`] if the entry is gone already, [`ReadError::Forked`],
    /// [`ReadError::Stopped`].
    pub fn pin(&self, index: u64) -> Result<Pin, ReadError> {
        let shared = &self.node.shared;
        if !shared.home.is_here() {
            return Err(ReadError::Forked);
        }
        if shared.watermark.is_closed() {
            return Err(ReadError::Stopped);
        }
        let pin = shared.pins.pin(index, &*shared.reader);
        pin.map_err(|first| ReadError::Purged { index, first })
    }
}
