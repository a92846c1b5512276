//! Simulated node: a disk, a clock, and one process after another.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use super::checked::CheckedStorage;
use super::config::RunConfig;
use super::crash_point::CrashPoint;
use super::event::{ProcessRef, Snapshot};
use super::monitor::Monitor;
use super::node_disk::NodeDisk;
use super::process::{CLUSTER, GROUP, Process, ProcessExit, ProcessStart, catch_exit};
use super::rng::Rng;
use super::time::Micros;
use crate::engine::{Now, rejoin_empty};
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{DirectoryIdentity, LogOwner, Recovered, Storage, StorageError};

/// Wall-clock time at the start of a run: the first moment of 2024.
const EPOCH_MS: u64 = 1_704_067_200_000;

/// One simulated node: see the [module](self).
pub(super) struct Node {
    pub(super) number: usize,
    pub(super) disk: NodeDisk,
    pub(super) clock: Clock,
    pub(super) process: Option<Process>,
    /// Number of processes that were started.
    pub(super) starts: u64,
    /// The process is stopped until then: nothing happens to it.
    pub(super) paused_until: Micros,
    /// Factor on the duration of its syncs.
    pub(super) slowness: u64,
    /// The power failed since the last start, or a sync did: unsynced writes may be lost.
    pub(super) power_failed: bool,
    /// A call of the disk is going to fail, or has failed, and the node with it.
    pub(super) is_doomed: bool,
    /// The disk was corrupted since the last start.
    pub(super) is_corrupted: bool,
    /// A call of the disk failed since the last start: it may have been the one that wrote the
    /// durability evidence.
    lacks_evidence: bool,
    /// The disk was lost, and its replacement is not complete.
    pub(super) is_lost: bool,
    /// The identity of the older copy that the disk was replaced by, unknown to the node.
    outdated: Option<DirectoryIdentity>,
    /// The disk was put back to a snapshot of its last process, unknown to the node, and no peer
    /// has met a later opening. A leader that knows the lost batches proves the loss.
    is_rolled_back: bool,
    /// The identity at the time of the backup.
    backup: Option<DirectoryIdentity>,
    /// The identity at the last opening.
    identity: Option<DirectoryIdentity>,
}

/// Clock of a node.
pub(super) struct Clock {
    /// In millionths. Positive: fast.
    drift: i64,
    /// Offset of the wall clock.
    pub(super) wall_ms: i64,
}

impl Clock {
    fn local(&self, real: Micros) -> Micros {
        (i128::from(real) * i128::from(1_000_000 + self.drift) / 1_000_000) as Micros
    }

    fn real(&self, local: Micros) -> Micros {
        (i128::from(local) * 1_000_000 / i128::from(1_000_000 + self.drift)) as Micros + 1
    }
}

/// Why a process did not start.
pub(super) enum NotOpen {
    /// At its crash point.
    Crashed,
    /// The disk has no space for the writes of an opening.
    Full,
    Wrong(String),
}

impl From<String> for NotOpen {
    fn from(why: String) -> NotOpen {
        NotOpen::Wrong(why)
    }
}

impl Node {
    pub(super) fn new(number: usize, seed: u64, config: &RunConfig) -> Node {
        Node {
            number,
            disk: NodeDisk::new(seed, config.segments_of(number)),
            clock: Clock { drift: config.drifts[number], wall_ms: 0 },
            process: None,
            starts: 0,
            paused_until: 0,
            slowness: 1,
            power_failed: false,
            is_doomed: false,
            is_corrupted: false,
            lacks_evidence: false,
            is_lost: false,
            outdated: None,
            is_rolled_back: false,
            backup: None,
            identity: None,
        }
    }

    /// The owner of the log of this node.
    pub(super) fn owner(&self, nodes: usize) -> LogOwner {
        let membership = Membership::of_voters((1..=nodes as u64).map(NodeId::from));
        let node = NodeId::from(self.number as u64 + 1);
        LogOwner { group: GROUP.to_owned(), node, cluster: CLUSTER, membership }
    }

    /// Drives the engine once. Returns when it is due again.
    pub(super) fn turn(&mut self, now: Micros) -> Result<Micros, ProcessExit> {
        let Some(process) = &mut self.process else { return Err(ProcessExit::Stopped) };
        let local = self.clock.local(now - process.began());
        let wall = (EPOCH_MS + now / 1000) as i64 + self.clock.wall_ms;
        let moment = Now { elapsed: Duration::from_micros(local), unix_ms: wall.max(0) as u64 };
        self.disk.begin_work();
        let turned = process.turn(moment);
        self.disk.end_work();
        // Nothing else happens to it meanwhile.
        self.paused_until = self.paused_until.max(now + self.disk.time_to_read());
        if !matches!(turned, Err(ProcessExit::Crash | ProcessExit::Panic(_))) {
            let is_unaware = self.outdated.is_some() || self.is_rolled_back;
            self.is_lost &= is_unaware || !process.engine.is_complete();
        }
        match turned? {
            Duration::MAX => Ok(Micros::MAX),
            wake => Ok(process.began() + self.clock.real(wake.as_micros() as Micros)),
        }
    }

    /// Runs the oldest background task.
    pub(super) fn run_background_task(&mut self) -> Result<(), ProcessExit> {
        let task = self.process.as_mut().and_then(Process::next_background_task);
        self.disk.begin_work();
        let outcome = task.map_or(Ok(()), catch_exit);
        self.disk.end_work();
        outcome
    }

    /// The engine may have learned, in its last turn, that its log has lost something: then it has
    /// a new directory id, and the one before is lost.
    pub(super) fn follow_identity(&mut self, monitor: &mut Monitor) {
        let Some(process) = &mut self.process else { return };
        let Some(now) = process.changed_identity() else { return };
        monitor.lost_directories.extend(self.identity.replace(now).map(|was| was.directory));
        monitor.coverage.hit(match self.is_rolled_back {
            true => "losses that a leader proved",
            false => "outdated copies that were reported",
        });
        monitor.demand(self.is_unaware(), || {
            format!("node {} disowns a log that is not outdated", self.number + 1)
        });
        (self.outdated, self.is_rolled_back) = (None, false);
    }

    /// A log that was rolled back may be sent what it lost before anyone notices the loss.
    pub(super) fn follow_log(&mut self, monitor: &mut Monitor) {
        let model = &mut monitor.models[self.number];
        if self.is_rolled_back && self.process.is_some() && model.has_caught_up() {
            model.set_complete();
            (self.is_lost, self.is_rolled_back) = (false, false);
            monitor.coverage.hit("losses that were made up for unnoticed");
        }
    }

    pub(super) fn is_outdated(&self) -> bool {
        self.outdated.is_some()
    }

    pub(super) fn is_rolled_back(&self) -> bool {
        self.is_rolled_back
    }

    /// Whether its disk has lost something that the node does not know of.
    pub(super) fn is_unaware(&self) -> bool {
        self.outdated.is_some() || self.is_rolled_back
    }
}

/// Faults of the disk.
impl Node {
    /// The next sync fails, whatever asks for it.
    pub(super) fn doom_next_sync(&mut self) {
        self.is_doomed = true;
        self.disk.fail_next_sync();
    }

    pub(super) fn doom_some_call(&mut self, rng: &mut Rng) {
        self.is_doomed |= self.disk.fail_some_call(rng);
    }

    /// Whether its disk may not hold all that it has acknowledged.
    pub(super) fn is_at_risk(&self, monitor: &Monitor) -> bool {
        self.is_corrupted || self.is_lost || monitor.models[self.number].is_corrupt
    }

    /// Whether it may fail by itself.
    pub(super) fn may_fail(&self) -> bool {
        self.is_doomed && self.disk.has_failed()
    }

    pub(super) fn cut_power(&mut self, is_thorough: bool) {
        self.disk.cut_power(is_thorough);
        (self.power_failed, self.is_doomed) = (true, false);
    }

    pub(super) fn kill(&mut self) {
        self.lacks_evidence |= self.disk.has_failed();
        // After a failed sync the durability evidence may be in the page cache only, and is written
        // again when the log is opened.
        if self.is_corrupted {
            self.disk.kill_after_failure(false);
        } else {
            self.disk.kill();
        }
        self.is_doomed = false;
    }

    /// The process has ended after a failed sync. Unless the kernel `evicts` the lost writes, its
    /// page cache still shows them.
    pub(super) fn kill_after_failure(&mut self, evicts: bool) {
        self.disk.kill_after_failure(evicts);
        (self.power_failed, self.is_doomed) = (true, false);
    }

    /// Corrupts the disk of a node that is down, in a way that its log reports, if there is one.
    ///
    /// # Errors
    /// A corruption that the log must have reported, and does not.
    pub(super) fn corrupt(
        &mut self,
        nodes: usize,
        monitor: &Monitor,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let (model, owner) = (&monitor.models[self.number], self.owner(nodes));
        let mut undetected = None;
        // The evidence of a durable batch may itself be lost with the power.
        let evident = if self.power_failed || self.lacks_evidence { 0 } else { model.evident() };
        let is_detected = |storage: &mut dyn Storage| match storage.open(&owner) {
            Ok(recovered) if recovered.corruption.is_empty() => {
                let last = recovered.last.raft_index;
                if last < evident {
                    undetected.get_or_insert(format!(
                        "corruption is truncated: the log ends at batch {last}, and was durable \
                         up to {evident}"
                    ));
                }
                false
            }
            Ok(recovered) => model.is_accounted_for(&recovered, &*storage.reader()),
            Err(_) => false,
        };
        self.is_corrupted |= self.disk.corrupt(rng, is_detected);
        undetected.map_or(Ok(()), Err)
    }

    /// The disk is lost. It is replaced by a backup, or by an empty disk, which is marked as
    /// incomplete.
    ///
    /// # Errors
    /// If the backup cannot be opened.
    pub(super) fn lose_disk(
        &mut self,
        nodes: usize,
        seed: u64,
        monitor: &mut Monitor,
    ) -> Result<(), String> {
        let is_backup = self.replace_disk(seed, monitor);
        monitor.coverage.hit(if is_backup {
            "disks replaced by a backup"
        } else {
            "disks replaced by an empty one"
        });
        monitor.lost_directories.extend(self.identity.take().map(|was| was.directory));
        if is_backup {
            self.mark_incomplete(nodes)
                .map_err(|error| format!("a backup cannot be opened: {error}"))?;
        }
        Ok(())
    }

    fn replace_disk(&mut self, seed: u64, monitor: &mut Monitor) -> bool {
        monitor.models[self.number].replace_disk();
        (self.is_lost, self.power_failed, self.lacks_evidence) = (true, false, false);
        self.disk.replace(seed)
    }

    fn mark_incomplete(&self, nodes: usize) -> Result<(), StorageError> {
        let mut storage = self.disk.storage(&CrashPoint::new());
        storage.open(&self.owner(nodes))?;
        storage.set_complete(false)?;
        storage.begin_sync().wait()
    }

    /// Takes a backup of the disk of a node that is down.
    pub(super) fn back_up(&mut self) {
        self.backup = self.identity;
        self.disk.back_up();
    }

    /// The identity of the backup, if it is one of the present directory.
    pub(super) fn backup(&self) -> Option<DirectoryIdentity> {
        let directory = self.identity?.directory;
        self.backup.filter(|backup| backup.directory == directory && self.disk.is_backed_up())
    }

    /// The disk is replaced by its backup, which is not marked as incomplete.
    pub(super) fn restore_backup(&mut self, seed: u64, monitor: &mut Monitor) {
        self.outdated = self.backup.take().filter(|_| self.replace_disk(seed, monitor));
        monitor.coverage.hit("disks replaced by an outdated copy");
        self.identity = None;
    }

    /// Takes a snapshot of the disk of a running process. `None` if a power cut now could undo a
    /// term or a vote.
    pub(super) fn snapshot(&self, monitor: &Monitor) -> Option<Snapshot> {
        let (process, model) = (self.process.as_ref()?, &monitor.models[self.number]);
        let (hard_state, durable) = (model.hard_state(), model.durable_hard_state());
        let is_durable = (durable.term, durable.vote) == (hard_state.term, hard_state.vote);
        is_durable.then(|| Snapshot {
            of: ProcessRef { node: self.number, process: process.number },
            image: self.disk.image(),
            hard_state,
            log: model.log(),
            lost_directories: monitor.lost_directories.len(),
        })
    }

    /// The disk is replaced by a snapshot of its last process, which is not marked as incomplete.
    pub(super) fn roll_back(&mut self, snapshot: Snapshot, seed: u64, monitor: &mut Monitor) {
        if snapshot.log.last().raft_index >= monitor.newest().raft_index {
            monitor.coverage.hit("ends of logs rolled back to what had replaced them");
        }
        self.disk.set_backup(snapshot.image);
        self.replace_disk(seed, monitor);
        (self.backup, self.is_rolled_back) = (None, true);
        monitor.coverage.hit("disks rolled back under a leader");
    }

    /// Marks the log of a node as incomplete that does not know of its loss, when nobody may be
    /// left to detect it.
    pub(super) fn confess_loss(&mut self, nodes: usize, seed: u64, monitor: &mut Monitor) {
        let identity = self.identity.take();
        let lost = self.outdated.take().or(identity);
        monitor.lost_directories.extend(lost.map(|was| was.directory));
        monitor.coverage.hit(match std::mem::take(&mut self.is_rolled_back) {
            true => "losses that no leader proved in time",
            false => "outdated copies that peers could not detect",
        });
        // A disk without space for the mark is replaced.
        if self.mark_incomplete(nodes).is_err() {
            self.replace_disk(seed, monitor);
        }
    }
}

/// Start of a process.
impl Node {
    /// Opens the log, checks it against the model, and starts a process on it.
    pub(super) fn open(
        &mut self,
        now: Micros,
        seed: u64,
        crash_point: CrashPoint,
        config: &RunConfig,
        monitor: &Arc<Mutex<Monitor>>,
    ) -> Result<(), NotOpen> {
        self.starts += 1;
        let start = ProcessStart {
            node: self.number,
            number: self.starts,
            began: now,
            seed,
            crash_point,
            config,
            monitor,
        };
        let outcome = catch_exit(|| self.try_open(start));
        outcome.unwrap_or_else(|exit| match exit {
            ProcessExit::Crash => Err(NotOpen::Crashed),
            ProcessExit::Stopped => {
                Err(NotOpen::Wrong("it was stopped while it was opened".to_owned()))
            }
            ProcessExit::Panic(text) => Err(NotOpen::Wrong(format!("opening it panicked: {text}"))),
        })
    }

    fn try_open(&mut self, start: ProcessStart<'_>) -> Result<(), NotOpen> {
        let (config, monitor) = (start.config, start.monitor);
        let owner = self.owner(config.nodes);
        let (storage, recovered) = self.open_storage(&owner, &start.crash_point, monitor)?;
        self.check_opening(&recovered, start.seed, &owner, monitor)?;
        (self.is_corrupted, self.lacks_evidence) = (false, false);
        self.enter_recovered(&recovered, &storage, &mut monitor.lock())?;
        self.process = Some(Process::start(start, Box::new(storage), &recovered)?);
        Ok(())
    }

    fn open_storage(
        &self,
        owner: &LogOwner,
        crash_point: &CrashPoint,
        monitor: &Arc<Mutex<Monitor>>,
    ) -> Result<(CheckedStorage, Recovered), NotOpen> {
        let not_open = |error: StorageError| match error {
            error if error.is_temporary() => NotOpen::Full,
            error => NotOpen::Wrong(format!("it cannot be opened: {error}")),
        };
        let mut storage = CheckedStorage::new(
            self.number,
            self.disk.storage(crash_point),
            monitor.clone(),
            crash_point.clone(),
            Arc::new(AtomicBool::new(false)),
            self.power_failed,
        );
        let mut recovered = storage.open(owner).map_err(not_open)?;
        if self.is_lost && !self.is_unaware() {
            // A process that crashes in here must not close the storage: closing writes, and would
            // crash again.
            let mut open = ManuallyDrop::new(storage);
            let outcome = rejoin_empty(&mut *open, &mut recovered);
            storage = ManuallyDrop::into_inner(open);
            outcome.map_err(not_open)?;
        }
        Ok((storage, recovered))
    }

    /// Checks the identity and the corruption that a log reports at its opening.
    fn check_opening(
        &mut self,
        recovered: &Recovered,
        seed: u64,
        owner: &LogOwner,
        monitor: &Mutex<Monitor>,
    ) -> Result<(), String> {
        let identity = recovered.identity;
        if let Some(before) = self.identity.replace(identity)
            && (identity.directory != before.directory
                || identity.incarnation <= before.incarnation)
        {
            return Err(format!("{before:?} was recovered as {identity:?}"));
        }
        let is_intact = recovered.corruption.is_empty();
        if !is_intact && !self.is_corrupted && !monitor.lock().models[self.number].is_corrupt {
            return Err(format!(
                "its log reports corruption, and its disk was not corrupted: {:?}",
                recovered.corruption
            ));
        }
        // The log given to Raft as durable must be so. To check this takes another opening, so one
        // in eight is checked.
        if is_intact
            && seed.is_multiple_of(8)
            && !self.disk.would_hold(&recovered.last, owner, true)
        {
            return Err(format!("its log ends with {:?}, which is not durable", recovered.last));
        }
        Ok(())
    }

    fn enter_recovered(
        &mut self,
        recovered: &Recovered,
        storage: &CheckedStorage,
        monitor: &mut Monitor,
    ) -> Result<(), String> {
        let (node, process) = (self.number as u64 + 1, self.starts);
        let model = &mut monitor.models[self.number];
        if recovered.corruption.is_empty() {
            model.reopen(recovered, &*storage.reader(), self.power_failed)?;
            self.power_failed = false;
        } else {
            model.open_corrupt(recovered.base.point);
            monitor.coverage.hit("corrupt logs opened");
            monitor.note(&[12, node], || {
                format!("node {node}: its log is corrupt: {:?}", recovered.corruption)
            });
        }
        monitor.check_recovered_vote(self.number, recovered.hard_state);
        let (last, term) = (recovered.last.raft_index, recovered.hard_state.term);
        monitor.note(&[1, node, process, last, term], || {
            format!("node {node}: process {process} starts, term {term}, log up to batch {last}")
        });
        Ok(())
    }
}
