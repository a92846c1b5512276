//! Storage and transport of a simulated node. Each call is checked by the [`Monitor`], and counts
//! down the [`CrashPoint`] of the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::crash_point::CrashPoint;
use super::monitor::{Monitor, Trigger};
use super::storage_model::{StorageModel, SyncTarget};
use crate::entry::NodeId;
use crate::storage::{
    BackgroundTask, Base, Batch, DirectoryIdentity, DiskProbe, HardState, LogOwner, LogReader,
    PendingSync, Recovered, RepairAction, SegmentInfo, Storage, StorageError,
};
use crate::transport::{Message, Transport, TransportContext};

/// A storage that enters each call in the [`StorageModel`] of its node.
pub(super) struct CheckedStorage {
    node: usize,
    storage: Box<dyn Storage>,
    monitor: Arc<Mutex<Monitor>>,
    crash_point: CrashPoint,
    /// A sync of this process has failed.
    sync_failed: Arc<AtomicBool>,
    /// The power failed before this process started.
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

    /// Enters a repair in the model. Returns whether it changes what the log owes.
    fn attempt_repair(&self, repair_action: RepairAction<'_>) -> bool {
        let monitor = &mut *self.monitor.lock();
        match repair_action {
            RepairAction::Fill(batches) => monitor.fill_in(self.node, batches),
            RepairAction::Replace(batches) => {
                monitor.coverage.hit("corrupt tails replaced");
                let entered = monitor.models[self.node].attempt_append(batches);
                entered.unwrap_or_else(|why| {
                    monitor.violated(format!("A8: node {}: {why}", self.node + 1))
                });
                true
            }
            RepairAction::TruncateHead(point) => {
                monitor.coverage.hit("corrupt logs rebased");
                monitor.models[self.node].attempt_rebase(point)
            }
        }
    }

    /// Whether the log is intact, and ends where the model does.
    fn matches_model(&self, recovered: &Recovered) -> bool {
        recovered.corruption.is_empty()
            && self.monitor.lock().models[self.node].last_point() == recovered.last
    }

    /// A log that is intact again owes all that it owed before.
    fn check_repaired(&self, recovered: &Recovered) {
        let monitor = &mut *self.monitor.lock();
        monitor.coverage.hit("steps of repair");
        if !recovered.corruption.is_empty() {
            return;
        }
        monitor.coverage.hit("corrupt logs repaired");
        let verdict =
            monitor.models[self.node].reopen(recovered, &*self.storage.reader(), self.power_failed);
        if let Err(why) = verdict {
            monitor.violated(format!("A1: node {}, repaired: {why}", self.node + 1));
        }
        monitor.check_recovered_vote(self.node, recovered.hard_state);
    }

    /// Enters an attempt in the model, makes the call, and enters its outcome.
    fn change(
        &mut self,
        attempt: impl FnOnce(&mut StorageModel) -> Result<(), String>,
        call: impl FnOnce(&mut dyn Storage) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        self.crash_point.count_down();
        let node = self.node;
        {
            let monitor = &mut *self.monitor.lock();
            if let Err(why) = attempt(&mut monitor.models[node]) {
                monitor.violated(format!("A8: node {}: {why}", node + 1));
            }
        }
        let outcome = call(&mut *self.storage);
        self.enter(&outcome);
        outcome
    }

    fn enter(&self, outcome: &Result<(), StorageError>) {
        let monitor = &mut *self.monitor.lock();
        let model = &mut monitor.models[self.node];
        match outcome {
            Ok(()) if model.accept() > 0 => {
                monitor.coverage.hit("conflicting tails truncated");
                monitor.trigger = Some(Trigger::Truncates);
            }
            Ok(()) => {}
            Err(error) if error.is_temporary() => {
                model.reject();
                let is_full = matches!(error, StorageError::Full { .. });
                monitor.coverage.hit(if is_full {
                    "writes that found the disk full"
                } else {
                    "writes that found no descriptor"
                });
                monitor.trigger = Some(Trigger::DiskFull);
            }
            Err(error) => {
                model.fail();
                monitor.note(&[0xd15c, self.node as u64], || {
                    format!("node {}: storage error: {error}", self.node + 1)
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
        self.monitor.lock().kept[self.node].wrote(batches);
        self.change(
            |model| model.attempt_append(batches),
            |storage| storage.append(batches, commit),
        )
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.monitor.lock().save_hard_state(self.node, hard_state);
        self.change(
            |model| model.attempt_save(hard_state),
            |storage| storage.save_hard_state(hard_state),
        )
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        let attempt = |model: &mut StorageModel| {
            model.attempt_reset(base.point);
            Ok(())
        };
        let outcome = self.change(attempt, |storage| storage.reset(base));
        if outcome.is_ok() {
            let monitor = &mut *self.monitor.lock();
            monitor.coverage.hit("snapshots installed");
            monitor.trigger = Some(Trigger::Truncates);
            monitor.demand_committed(self.node, &base.point, "installs a snapshot at");
        }
        outcome
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.crash_point.count_down();
        let before = self.storage.reader().base().point;
        let segments = self.storage.segments();
        let outcome = self.storage.purge(index, commit);
        let after = self.storage.reader().base().point;
        self.enter(&outcome);
        if after != before {
            let monitor = &mut *self.monitor.lock();
            monitor.coverage.hit("purges");
            monitor.trigger = Some(Trigger::Truncates);
            monitor.demand(after.raft_index <= commit, || {
                format!("A8: node {}: purged beyond the commit", self.node + 1)
            });
            monitor.demand_committed(self.node, &after, "purges up to");
            let count = segments.partition_point(|one| one.last_raft_index <= after.raft_index);
            let verdict = monitor.kept[self.node].check(&segments, &segments[..count], commit);
            if let Err(why) = verdict {
                monitor.violated(format!("A14: node {}: {why}", self.node + 1));
            }
            if count == segments.len() {
                monitor.coverage.hit("purges of all that a log held");
            }
        }
        outcome
    }

    fn pass_time(&mut self, open_for: Duration, unix_ms: u64) {
        self.monitor.lock().kept[self.node].pass_time(open_for);
        self.storage.pass_time(open_for, unix_ms);
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.storage.segments()
    }

    fn close_segment(&mut self) -> Result<(), StorageError> {
        self.crash_point.count_down();
        self.storage.close_segment()
    }

    fn disk_probe(&self) -> Option<DiskProbe> {
        let (probe, node) = (self.storage.disk_probe()?, self.node);
        let monitor = self.monitor.clone();
        Some(Arc::new(move || {
            let disk = probe()?;
            monitor.lock().kept[node].found_disk(disk);
            Ok(disk)
        }))
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.crash_point.count_down();
        self.storage.save_peer(peer, directory)
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        self.crash_point.count_down();
        let outcome = self.storage.set_complete(complete);
        if complete && outcome.is_ok() {
            let monitor = &mut *self.monitor.lock();
            monitor.coverage.hit("logs that were completed");
            monitor.models[self.node].set_complete();
        }
        outcome
    }

    fn save_group_uid(&mut self, uid: u128) -> Result<(), StorageError> {
        self.crash_point.count_down();
        self.monitor.lock().save_group_uid(self.node, uid);
        self.storage.save_group_uid(uid)
    }

    fn repair(&mut self, repair_action: RepairAction<'_>) -> Result<Recovered, StorageError> {
        self.crash_point.count_down();
        // If the repair changes nothing that is owed, the attempt of a crash before stays open: it
        // may have been carried out, or not.
        let is_attempt = self.attempt_repair(repair_action);
        let outcome = self.storage.repair(repair_action);
        if let Err(error) = &outcome {
            self.monitor.lock().note(&[13, self.node as u64], || {
                format!("node {}: not repaired: {error}", self.node + 1)
            });
        }
        // After a temporary error the attempt stays open: the disk may be found full after the log
        // was changed, when it is only read again (seed 3233265).
        if is_attempt && !outcome.as_ref().is_err_and(StorageError::is_temporary) {
            // A segment that was unproved before may be proved once the batches before it are there
            // again, and supersede the filled ones: then the log is as before (seed 10014789).
            match &outcome {
                Ok(recovered) if self.matches_model(recovered) => {
                    self.monitor.lock().models[self.node].reject()
                }
                outcome => self.enter(&outcome.as_ref().map(|_| ()).map_err(Clone::clone)),
            }
        }
        if let Ok(recovered) = &outcome {
            self.check_repaired(recovered);
        }
        outcome
    }

    fn is_behind(&self) -> bool {
        self.storage.is_behind()
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        self.crash_point.count_down();
        let until = self.monitor.lock().models[self.node].sync_target();
        Box::new(CheckedSync {
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

struct CheckedSync {
    node: usize,
    pending: Box<dyn PendingSync>,
    until: SyncTarget,
    monitor: Arc<Mutex<Monitor>>,
    sync_failed: Arc<AtomicBool>,
}

impl PendingSync for CheckedSync {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        let outcome = self.pending.wait();
        let mut monitor = self.monitor.lock();
        match &outcome {
            Ok(()) if self.sync_failed.load(Ordering::Relaxed) => monitor
                .violated(format!("node {}: a sync succeeded after one had failed", self.node + 1)),
            Ok(()) => monitor.models[self.node].sync_succeeded(&self.until),
            Err(_) => {
                monitor.coverage.hit("syncs that failed");
                self.sync_failed.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

/// Transport of a simulated node. Sent messages wait in `outbox` for the network.
pub(super) struct SimTransport {
    pub(super) node: usize,
    pub(super) outbox: Arc<Mutex<Vec<Message>>>,
    pub(super) monitor: Arc<Mutex<Monitor>>,
    pub(super) crash_point: CrashPoint,
    pub(super) stopped: Arc<AtomicBool>,
    /// The identity that the node announces.
    pub(super) identity: Arc<Mutex<DirectoryIdentity>>,
    /// The unique id of the group that the node announces. 0: none.
    pub(super) group_uid: Arc<Mutex<u128>>,
}

impl Transport for SimTransport {
    fn start(&mut self, _context: TransportContext) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            self.crash_point.count_down();
            if !self.stopped.load(Ordering::Relaxed) {
                self.monitor.lock().check_message(self.node, &message);
                self.outbox.lock().push(message);
            }
        }
    }

    fn introduce(&mut self, identity: DirectoryIdentity) {
        *self.identity.lock() = identity;
    }

    fn set_group_uid(&mut self, uid: u128) {
        self.monitor.lock().announce_group_uid(self.node, uid);
        *self.group_uid.lock() = uid;
    }

    fn stop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
