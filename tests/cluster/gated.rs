//! A log in memory whose syncs can be held up: a disk that is slow for as long as a test needs it
//! to be.

use std::sync::Arc;
use std::time::Duration;

use dledger::NodeId;
use dledger::storage::{
    Base, Batch, HardState, LogOwner, LogReader, MemoryLog, PendingSync, Recovered, Storage,
    StorageError,
};
use parking_lot::{Condvar, Mutex};

/// Syncs end while the gate is open.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<Held>, Condvar)>);

#[derive(Default)]
struct Held {
    shut: bool,
    delay: Duration,
}

impl Gate {
    /// From now on no sync ends.
    pub(crate) fn shut(&self) {
        self.0.0.lock().shut = true;
    }

    /// Lets every sync end.
    pub(crate) fn open(&self) {
        self.0.0.lock().shut = false;
        self.0.1.notify_all();
    }

    /// From now on every sync takes at least so long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.0.0.lock().delay = delay;
    }

    fn pass(&self) {
        let mut held = self.0.0.lock();
        while held.shut {
            self.0.1.wait(&mut held);
        }
        let delay = held.delay;
        drop(held);
        std::thread::sleep(delay);
    }
}

/// A [`MemoryLog`] behind a [`Gate`].
pub(crate) struct GatedLog {
    pub(crate) log: MemoryLog,
    pub(crate) gate: Gate,
}

impl Storage for GatedLog {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        self.log.open(owner)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.log.reader()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.log.append(batches, commit)
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.log.save_hard_state(hard_state)
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.log.reset(base)
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.log.purge(index, commit)
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.log.save_peer(peer, directory)
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        Box::new(GatedSync { sync: self.log.begin_sync(), gate: self.gate.clone() })
    }
}

struct GatedSync {
    sync: Box<dyn PendingSync>,
    gate: Gate,
}

impl PendingSync for GatedSync {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        self.gate.pass();
        self.sync.wait()
    }
}
