//! A log reader that can be made to fail.

use std::io;
use std::sync::Arc;

use super::{Base, Batch, LogPoint, LogReader, StorageError};
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicU64, Ordering};

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
    /// The bodies of the batches that were read.
    bytes: AtomicU64,
}

impl FailingReader {
    pub(crate) fn new(log: Arc<dyn LogReader>) -> FailingReader {
        FailingReader { log, fault: Mutex::new(ReadFault::None), bytes: AtomicU64::new(0) }
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

    /// How many bytes of batches were read since this was last asked.
    pub(crate) fn take_bytes(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
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
        let batches = self.log()?.batches(from, to, bytes_max)?;
        self.bytes.fetch_add(
            batches.iter().map(|batch| batch.body().len() as u64).sum(),
            Ordering::Relaxed,
        );
        Ok(batches)
    }

    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
        let end_is_readable = matches!(*self.fault.lock(), ReadFault::OutOfResourcesButAtEnd);
        if end_is_readable && self.log.point(raft_index + 1)?.is_none() {
            return self.log.point(raft_index);
        }
        self.log()?.point(raft_index)
    }
}
