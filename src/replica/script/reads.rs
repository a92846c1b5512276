//! A log that can become unreadable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::batch::{Batch, Mark};
use crate::storage::{Base, LogReader, StorageError};

/// A reader that can be made to fail.
pub(in crate::replica) struct Reads {
    log: Arc<dyn LogReader>,
    broken: AtomicBool,
}

impl Reads {
    pub(in crate::replica) fn new(log: Arc<dyn LogReader>) -> Reads {
        Reads { log, broken: AtomicBool::new(false) }
    }

    /// From now on nothing can be read.
    pub(in crate::replica) fn fail(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    fn log(&self) -> Result<&dyn LogReader, StorageError> {
        let damaged = || StorageError::Damaged { path: "(memory)".into(), offset: 0, reason: "as the script wants it".to_owned() };
        if self.broken.load(Ordering::Relaxed) { Err(damaged()) } else { Ok(&*self.log) }
    }
}

impl LogReader for Reads {
    fn base(&self) -> Base {
        self.log.base()
    }

    fn batch_with(&self, index: u64) -> Result<Option<Batch>, StorageError> {
        self.log()?.batch_with(index)
    }

    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        self.log()?.batches(from, to, bytes_max)
    }

    fn mark(&self, raft_index: u64) -> Result<Option<Mark>, StorageError> {
        self.log()?.mark(raft_index)
    }
}
