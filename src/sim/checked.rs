//! The places where a node touches the world, with a witness at each: its storage and its
//! transport.
//!
//! Each call may be the last that the process lives to make: a [`CrashPoint`] ends it there,
//! between two effects.

use std::any::Any;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::monitor::{Monitor, Trigger};
use super::storage_model::{StorageModel, Taken};
use crate::entry::NodeId;
use crate::storage::{
    BackgroundTask, Base, Batch, DirectoryIdentity, HardState, LogOwner, LogReader, PendingSync,
    Recovered, RepairAction, Storage, StorageError,
};
use crate::transport::{Message, Transport, TransportContext};

/// Ends a process after so many more effects.
#[derive(Clone, Debug)]
pub(super) struct CrashPoint(Arc<AtomicU64>);

/// What a process that ended so unwinds with.
struct Crashed;

impl CrashPoint {
    pub(super) fn new() -> CrashPoint {
        CrashPoint(Arc::new(AtomicU64::new(u64::MAX)))
    }

    pub(super) fn light(&self, effects: u64) {
        self.0.store(effects, Ordering::Relaxed);
    }

    pub(super) fn is_lit(&self) -> bool {
        self.0.load(Ordering::Relaxed) != u64::MAX
    }

    pub(super) fn put_out(&self) {
        self.light(u64::MAX);
    }

    /// Gets shorter; the process ends here if nothing is left.
    pub(super) fn burn(&self) {
        match self.0.load(Ordering::Relaxed) {
            u64::MAX => {}
            0 => resume_unwind(Box::new(Crashed)),
            left => self.0.store(left - 1, Ordering::Relaxed),
        }
    }

    /// Whether a panic is the end of a fuse, and not of somebody's wits.
    pub(super) fn ended(panic: &(dyn Any + Send)) -> bool {
        panic.is::<Crashed>()
    }
}

/// A storage whose every call is entered in the books.
pub(super) struct CheckedStorage {
    node: usize,
    storage: Box<dyn Storage>,
    monitor: Arc<Mutex<Monitor>>,
    crash_point: CrashPoint,
    /// A sync of this life has failed.
    sync_failed: Arc<AtomicBool>,
    /// The power failed before this life began.
    power_failed: bool,
}

impl CheckedStorage {
    pub(super) fn new(
        node: usize,
        storage: Box<dyn Storage>,
        monitor: Arc<Mutex<Monitor>>,
        crash_point: CrashPoint,
        sync_failed: Arc<AtomicBool>,
        power_failed: bool,
    ) -> CheckedStorage {
        CheckedStorage { node, storage, monitor, crash_point, sync_failed, power_failed }
    }

    fn attempt_remedy(&self, repair_action: RepairAction<'_>) -> bool {
        let monitor = &mut *self.monitor.lock();
        match repair_action {
            RepairAction::Fill(batches) => monitor.fill_in(self.node, batches),
            RepairAction::Replace(batches) => {
                monitor.coverage.saw("damaged tails replaced");
                let entered = monitor.models[self.node].attempt_append(batches);
                entered.unwrap_or_else(|why| {
                    monitor.violated(format!("A8: node {}: {why}", self.node + 1))
                });
                true
            }
            RepairAction::Rebase(point) => {
                monitor.coverage.saw("damaged logs rebased");
                monitor.models[self.node].attempt_rebase(point)
            }
        }
    }

    /// Whether the log is whole, and what was taken, to the last batch and no further.
    fn is_as_it_was(&self, recovered: &Recovered) -> bool {
        recovered.corruption.is_empty()
            && self.monitor.lock().models[self.node].last_point() == recovered.last
    }

    /// A log that is whole again owes all that it ever owed.
    fn after_mending(&self, recovered: &Recovered) {
        let monitor = &mut *self.monitor.lock();
        monitor.coverage.saw("steps of mending");
        if !recovered.corruption.is_empty() {
            return;
        }
        monitor.coverage.saw("damaged logs mended");
        let verdict =
            monitor.models[self.node].reopen(recovered, &*self.storage.reader(), self.power_failed);
        if let Err(why) = verdict {
            monitor.violated(format!("A1: node {}, mended: {why}", self.node + 1));
        }
        monitor.recovered_vote(self.node, recovered.hard_state);
    }

    /// Asks the storage for something that is entered in the book of this node.
    fn ask(
        &mut self,
        attempt: impl FnOnce(&mut StorageModel) -> Result<(), String>,
        ask: impl FnOnce(&mut dyn Storage) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        self.crash_point.burn();
        let node = self.node;
        {
            let monitor = &mut *self.monitor.lock();
            if let Err(why) = attempt(&mut monitor.models[node]) {
                monitor.violated(format!("A8: node {}: {why}", node + 1));
            }
        }
        let outcome = ask(&mut *self.storage);
        self.enter(&outcome);
        outcome
    }

    fn enter(&self, outcome: &Result<(), StorageError>) {
        let monitor = &mut *self.monitor.lock();
        let model = &mut monitor.models[self.node];
        match outcome {
            Ok(()) if model.take() > 0 => {
                monitor.coverage.saw("conflicting tails cut");
                monitor.news = Some(Trigger::Gives);
            }
            Ok(()) => {}
            Err(error) if error.is_temporary() => {
                model.refuse();
                let is_full = matches!(error, StorageError::Full { .. });
                monitor.coverage.saw(if is_full {
                    "writes that found the disk full"
                } else {
                    "writes that found no descriptor"
                });
                monitor.news = Some(Trigger::Lacks);
            }
            Err(error) => {
                model.fail();
                monitor.note(&[0xd15c, self.node as u64], || {
                    format!("node {}: its storage says: {error}", self.node + 1)
                });
            }
        }
    }
}

impl Storage for CheckedStorage {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        self.storage.open(owner)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.storage.reader()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.ask(|model| model.attempt_append(batches), |storage| storage.append(batches, commit))
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.monitor.lock().save_hard_state(self.node, hard_state);
        self.ask(
            |model| model.attempt_save(hard_state),
            |storage| storage.save_hard_state(hard_state),
        )
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        let attempt = |model: &mut StorageModel| {
            model.attempt_reset(base.point);
            Ok(())
        };
        let outcome = self.ask(attempt, |storage| storage.reset(base));
        if outcome.is_ok() {
            let monitor = &mut *self.monitor.lock();
            monitor.coverage.saw("rebases");
            monitor.news = Some(Trigger::Gives);
            monitor.demand_committed(self.node, &base.point, "begins its log anew at");
        }
        outcome
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.crash_point.burn();
        let before = self.storage.reader().base().point;
        let outcome = self.storage.purge(index, commit);
        let after = self.storage.reader().base().point;
        self.enter(&outcome);
        if after != before {
            let monitor = &mut *self.monitor.lock();
            monitor.coverage.saw("purges");
            monitor.news = Some(Trigger::Gives);
            monitor.demand(after.raft_index <= commit, || {
                format!("A8: node {}: purged beyond the commit", self.node + 1)
            });
            monitor.demand_committed(self.node, &after, "purges up to");
        }
        outcome
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.crash_point.burn();
        self.storage.save_peer(peer, directory)
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        self.crash_point.burn();
        let outcome = self.storage.set_complete(complete);
        if complete && outcome.is_ok() {
            let monitor = &mut *self.monitor.lock();
            monitor.coverage.saw("logs that were completed");
            monitor.models[self.node].complete();
        }
        outcome
    }

    fn repair(&mut self, repair_action: RepairAction<'_>) -> Result<Recovered, StorageError> {
        self.crash_point.burn();
        // Whether the log is asked to become another. If not, what it was asked for when it died
        // may still have been done, or not.
        let is_attempt = self.attempt_remedy(repair_action);
        let outcome = self.storage.repair(repair_action);
        if let Err(error) = &outcome {
            self.monitor.lock().note(&[13, self.node as u64], || {
                format!("node {}: not mended: {error}", self.node + 1)
            });
        }
        // A disk can be found full when the log has become another already, and is only looked at
        // again (seed 3233265).
        if is_attempt && !outcome.as_ref().is_err_and(StorageError::is_temporary) {
            // A segment that nothing proved to take part may do so now that what is in front of it
            // is there again, and wins over what was filled in: then the log is what it was (seed
            // 10014789).
            match &outcome {
                Ok(recovered) if self.is_as_it_was(recovered) => {
                    self.monitor.lock().models[self.node].refuse()
                }
                outcome => self.enter(&outcome.as_ref().map(|_| ()).map_err(Clone::clone)),
            }
        }
        if let Ok(recovered) = &outcome {
            self.after_mending(recovered);
        }
        outcome
    }

    fn is_behind(&self) -> bool {
        self.storage.is_behind()
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        self.crash_point.burn();
        let until = self.monitor.lock().models[self.node].taken();
        Box::new(WitnessedSync {
            node: self.node,
            pending: self.storage.begin_sync(),
            until,
            monitor: self.monitor.clone(),
            sync_failed: self.sync_failed.clone(),
        })
    }

    fn next_task(&mut self) -> Option<BackgroundTask> {
        self.storage.next_task()
    }
}

struct WitnessedSync {
    node: usize,
    pending: Box<dyn PendingSync>,
    until: Taken,
    monitor: Arc<Mutex<Monitor>>,
    sync_failed: Arc<AtomicBool>,
}

impl PendingSync for WitnessedSync {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        let outcome = self.pending.wait();
        let mut monitor = self.monitor.lock();
        match &outcome {
            Ok(()) if self.sync_failed.load(Ordering::Relaxed) => monitor
                .violated(format!("node {}: a sync succeeded after one had failed", self.node + 1)),
            Ok(()) => monitor.models[self.node].settle(&self.until),
            Err(_) => {
                monitor.coverage.saw("syncs that failed");
                self.sync_failed.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

/// What an engine takes for its transport. What it sends waits in `outbox` for the network.
pub(super) struct SimTransport {
    pub(super) node: usize,
    pub(super) outbox: Arc<Mutex<Vec<Message>>>,
    pub(super) monitor: Arc<Mutex<Monitor>>,
    pub(super) crash_point: CrashPoint,
    pub(super) stopped: bool,
    /// As what the node speaks.
    pub(super) identity: Arc<Mutex<DirectoryIdentity>>,
}

impl Transport for SimTransport {
    fn start(&mut self, _seat: TransportContext) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            self.crash_point.burn();
            if !self.stopped {
                self.monitor.lock().hear(self.node, &message);
                self.outbox.lock().push(message);
            }
        }
    }

    fn introduce(&mut self, identity: DirectoryIdentity) {
        *self.identity.lock() = identity;
    }

    fn stop(&mut self) {
        self.stopped = true;
    }
}
