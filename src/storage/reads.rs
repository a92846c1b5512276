//! A log reader that can be made to fail.

use std::io;
use std::sync::Arc;

use super::{Base, Batch, LogPoint, LogReader, StorageError};
use crate::primitives::Mutex;

/// The result of reads.
#[derive(Clone, Copy)]
enum ReadFault {
    None,
    Corrupt,
    /// No resources: the process cannot read anything.
    OutOfResources,
    /// As before, except for the end of the log, which was written just now.
    OutOfResourcesButAtEnd,
}

/// A reader that can be made to fail, except for its base.
pub(crate) struct FailingReader {
    log: Arc<dyn LogReader>,
    fault: Mutex<ReadFault>,
}

impl FailingReader {
    pub(crate) fn new(log: Arc<dyn LogReader>) -> FailingReader {
        FailingReader { log, fault: Mutex::new(ReadFault::None) }
    }

    /// From now on all reads find corruption.
    pub(crate) fn fail(&self) {
        *self.fault.lock() = ReadFault::Corrupt;
    }

    /// From now on all reads lack resources.
    pub(crate) fn run_out_of_resources(&self) {
        *self.fault.lock() = ReadFault::OutOfResources;
    }

    /// From now on all reads lack resources, except at the end of the log.
    pub(crate) fn run_out_but_at_end(&self) {
        *self.fault.lock() = ReadFault::OutOfResourcesButAtEnd;
    }

    /// From now on all reads succeed.
    pub(crate) fn recover(&self) {
        *self.fault.lock() = ReadFault::None;
    }

    fn log(&self) -> Result<&dyn LogReader, StorageError> {
        let path = || "(memory)".into();
        match *self.fault.lock() {
            ReadFault::None => Ok(&*self.log),
            ReadFault::Corrupt => Err(StorageError::Corrupt {
                path: path(),
                offset: 0,
                reason: "as the test wants it".to_owned(),
            }),
            ReadFault::OutOfResources | ReadFault::OutOfResourcesButAtEnd => {
                let source = Arc::new(io::Error::other("as the test wants it"));
                Err(StorageError::OutOfResources { action: "read", path: path(), source })
            }
        }
    }
}

impl LogReader for FailingReader {
    fn base(&self) -> Base {
        self.log.base()
    }

    fn batch_containing(&self, index: u64) -> Result<Option<Batch>, StorageError> {
        self.log()?.batch_containing(index)
    }

    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        self.log()?.batches(from, to, bytes_max)
    }

    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
        let end_is_readable = matches!(*self.fault.lock(), ReadFault::OutOfResourcesButAtEnd);
        if end_is_readable && self.log.point(raft_index + 1)?.is_none() {
            return self.log.point(raft_index);
        }
        self.log()?.point(raft_index)
    }
}
