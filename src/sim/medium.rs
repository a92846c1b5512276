//! What a node's log is kept on, from one life to the next.

use crate::storage::{MemoryLog, Storage};

/// A disk that outlives processes.
pub(super) enum Medium {
    Memory(MemoryLog),
}

impl Medium {
    pub(super) fn new() -> Medium {
        Medium::Memory(MemoryLog::new())
    }

    /// A storage on it, for the next life.
    pub(super) fn storage(&self) -> Box<dyn Storage> {
        match self {
            Medium::Memory(log) => Box::new(log.clone()),
        }
    }

    /// What was not synced may be gone.
    pub(super) fn cut_power(&self) {
        match self {
            Medium::Memory(log) => log.crash(),
        }
    }

    pub(super) fn fail_next_sync(&self) {
        match self {
            Medium::Memory(log) => log.fail_next_sync(),
        }
    }

    /// A disk that was to fail has been replaced by a sound one with the same contents.
    pub(super) fn mend(&self) {
        match self {
            Medium::Memory(log) => drop(log.clone().begin_sync().wait()),
        }
    }

    pub(super) fn set_full(&self, full: bool) {
        match self {
            Medium::Memory(log) => log.set_full(full),
        }
    }
}
