//! A log that can become unreadable.

use std::io;
use std::sync::Arc;

use super::{Base, Batch, LogReader, Mark, StorageError};
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicU64, Ordering};

/// What reads come to.
#[derive(Clone, Copy)]
enum Trouble {
    Nothing,
    Broken,
    /// The process lacks what it takes to read anything.
    Poor,
    /// As before, but the end of the log, up to which it was written just now, needs nothing more.
    PoorButForEnd,
}

/// A reader that can be made to fail. Where the log begins is known in any case.
pub(crate) struct Reads {
    log: Arc<dyn LogReader>,
    trouble: Mutex<Trouble>,
    /// The bodies of the batches that were read.
    bytes: AtomicU64,
}

impl Reads {
    pub(crate) fn new(log: Arc<dyn LogReader>) -> Reads {
        Reads { log, trouble: Mutex::new(Trouble::Nothing), bytes: AtomicU64::new(0) }
    }

    /// From now on nothing can be read.
    pub(crate) fn fail(&self) {
        *self.trouble.lock() = Trouble::Broken;
    }

    /// From now on the process lacks what it takes to read.
    pub(crate) fn lack(&self) {
        *self.trouble.lock() = Trouble::Poor;
    }

    /// From now on it lacks that for all but the end of the log.
    pub(crate) fn lack_but_for_end(&self) {
        *self.trouble.lock() = Trouble::PoorButForEnd;
    }

    /// From now on all can be read.
    pub(crate) fn recover(&self) {
        *self.trouble.lock() = Trouble::Nothing;
    }

    /// How many bytes of batches were read since this was last asked.
    pub(crate) fn take_bytes(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }

    fn log(&self) -> Result<&dyn LogReader, StorageError> {
        let path = || "(memory)".into();
        match *self.trouble.lock() {
            Trouble::Nothing => Ok(&*self.log),
            Trouble::Broken => Err(StorageError::Damaged { path: path(), offset: 0, reason: "as the test wants it".to_owned() }),
            Trouble::Poor | Trouble::PoorButForEnd => {
                let source = Arc::new(io::Error::other("as the test wants it"));
                Err(StorageError::OutOfResources { action: "read", path: path(), source })
            }
        }
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
        let batches = self.log()?.batches(from, to, bytes_max)?;
        self.bytes.fetch_add(batches.iter().map(|batch| batch.body().len() as u64).sum(), Ordering::Relaxed);
        Ok(batches)
    }

    fn mark(&self, raft_index: u64) -> Result<Option<Mark>, StorageError> {
        let spares_end = matches!(*self.trouble.lock(), Trouble::PoorButForEnd);
        if spares_end && self.log.mark(raft_index + 1)?.is_none() {
            return self.log.mark(raft_index);
        }
        self.log()?.mark(raft_index)
    }
}
