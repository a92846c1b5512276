//! A log on a simulated disk, driven step by step, with its history recorded.

use std::sync::Arc;

use super::super::simulated_disk::{CrashState, SimulatedDisk};
use super::history::History;
use super::workload::Step;
use crate::batch::OpenBatch;
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::segmented::{DiskLog, SegmentOptions};
use crate::storage::{
    BackgroundTask, Base, Batch, HardState, LogOwner, LogPoint, LogReader, PendingSync, Recovered,
    Storage, StorageError,
};

/// Small, so that every workload rolls.
pub(super) const SEGMENT_BYTES: u64 = 16 << 10;

pub(super) fn owner() -> LogOwner {
    let membership = Membership::of_voters([1, 2, 3].map(NodeId::from));
    LogOwner::new("trial", 2, 7, membership)
}

/// The log on `disk`, not opened yet.
pub(super) fn log_on(disk: &SimulatedDisk) -> DiskLog<SimulatedDisk> {
    DiskLog::on(
        disk.clone(),
        SegmentOptions { segment_bytes: SEGMENT_BYTES, ..SegmentOptions::small() },
    )
}

/// The batch that follows `before`, with a payload of each of `sizes`; a control record if there
/// are none. No two salts give the same bytes.
pub(super) fn batch_after(before: &LogPoint, term: u64, salt: u64, sizes: &[usize]) -> Batch {
    let mut open = OpenBatch::with_capacity(0);
    for (slot, &size) in sizes.iter().enumerate() {
        let seed = salt.wrapping_mul(131).wrapping_add(slot as u64);
        let payload: Vec<u8> = (0..size as u64)
            .map(|at| (at.wrapping_mul(7) ^ at >> 8).wrapping_add(seed) as u8)
            .collect();
        open.push(&payload, crc32fast::hash(&payload));
    }
    let timestamp = before.timestamp.max(salt);
    let body = if open.is_empty() {
        Default::default()
    } else {
        open.close(before.next_index, before.next_position, timestamp)
    };
    Batch::new(before.raft_index + 1, term, body).expect("what was just encoded can be decoded")
}

/// One run of the machine: from an opening of the disk to its crash.
pub(super) struct Episode {
    pub(super) cuts: Vec<CrashState>,
    pub(super) history: History,
}

/// A log, the disk it is on, and its history.
pub(super) struct LogDriver {
    pub(super) disk: SimulatedDisk,
    pub(super) log: Option<DiskLog<SimulatedDisk>>,
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) history: History,
    pending: Vec<(Box<dyn PendingSync>, usize)>,
    /// The batches that the last restart lost at the end of the log.
    lost: Vec<Batch>,
    salt: u64,
    commit: u64,
    traced: bool,
    episodes: Vec<Episode>,
}

impl LogDriver {
    /// Opens a new log on a new disk. With `traced`, records the disk before every change.
    pub(super) fn begin(seed: u64, traced: bool) -> LogDriver {
        let disk = SimulatedDisk::new(seed);
        let history =
            History::new(Base { point: LogPoint::INITIAL, membership: owner().membership });
        LogDriver::on(disk, history, seed << 20, traced)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"))
    }

    /// Opens the log on `disk`, whose history is `history`.
    pub(super) fn on(
        disk: SimulatedDisk,
        history: History,
        salt: u64,
        traced: bool,
    ) -> Result<LogDriver, String> {
        let mut log = log_on(&disk);
        if traced {
            disk.trace();
        }
        let before = disk.changes();
        let recovered = log.open(&owner()).map_err(|error| format!("opening failed: {error}"))?;
        let reader = log.reader();
        history.judge(before, &recovered, &*reader)?;
        let lost = history.now().behind(recovered.last);
        let mut trial = LogDriver {
            disk,
            log: Some(log),
            reader,
            history,
            pending: Vec::new(),
            lost,
            salt,
            commit: 0,
            traced,
            episodes: Vec::new(),
        };
        trial.opened(before, &recovered);
        Ok(trial)
    }

    fn opened(&mut self, before: usize, recovered: &Recovered) {
        self.history.open(self.disk.changes(), before, recovered);
        self.commit = recovered.hard_state.commit;
    }

    /// Ends the run, and returns what was recorded.
    pub(super) fn end(mut self) -> Vec<Episode> {
        self.log = None;
        self.close_episode();
        self.episodes
    }

    fn close_episode(&mut self) {
        let (mut cuts, image) = self.disk.take_trace();
        if let Some(last) = cuts.last() {
            cuts.push(CrashState { number: self.disk.changes(), image, ..*last });
        }
        self.episodes.push(Episode { cuts, history: self.history.clone() });
    }

    /// Does `step`, and records it unless it failed without having changed anything.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), StorageError> {
        match step {
            Step::Append(sizes) => self.append(0, sizes),
            Step::Truncate(back, sizes) => self.append(*back, sizes),
            Step::Resend(count) => self.resend(*count),
            Step::Term => {
                let HardState { term, .. } = self.history.now().hard_state;
                let vote =
                    [None, Some(NodeId::from(1)), Some(NodeId::from(3))][(term % 3) as usize];
                self.save_hard_state(HardState { term: term + 1, vote, commit: self.commit })
            }
            Step::Commit(back) => {
                self.commit = self.commit.max(self.last().saturating_sub(*back));
                Ok(())
            }
            Step::SavePeer(peer) => self.save_peer(NodeId::from(1 + peer)),
            Step::GroupUid => self.save_group_uid(),
            Step::Begin => {
                let sync = (self.log().begin_sync(), self.history.number());
                self.pending.push(sync);
                Ok(())
            }
            Step::Wait => self.wait(),
            Step::Sync => {
                self.step(&Step::Begin)?;
                while !self.pending.is_empty() {
                    self.wait()?;
                }
                Ok(())
            }
            Step::Purge(back) => self.purge(*back),
            Step::Close => self.log().close_segment(),
            Step::Reset(forward) => self.reset(*forward),
            Step::BackgroundTask => {
                self.background_task();
                Ok(())
            }
            Step::BackgroundTasks => {
                while self.background_task() {}
                Ok(())
            }
            Step::Reopen => self.reopen(),
            Step::Kill => self.restart(SimulatedDisk::kill),
            Step::Crash => self.restart(SimulatedDisk::crash),
        }
    }

    /// Does steps that cannot fail.
    ///
    /// # Panics
    /// If one fails.
    pub(super) fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step).unwrap_or_else(|error| panic!("{step:?}: {error}"));
            self.verify();
        }
    }

    /// Checks that readers see what was accepted.
    pub(super) fn verify(&self) {
        self.history.now().compare(&*self.reader).unwrap_or_else(|error| panic!("{error}"));
    }

    fn log(&mut self) -> &mut DiskLog<SimulatedDisk> {
        self.log.as_mut().expect("it is open between steps")
    }

    fn last(&self) -> u64 {
        self.history.now().last().raft_index
    }

    /// Whether a step with this result may have taken place.
    fn may_have_happened(result: &Result<(), StorageError>) -> bool {
        let Err(error) = result else { return true };
        !error.is_temporary() && !matches!(error, StorageError::Poisoned(_))
    }

    fn append(&mut self, back: u64, sizes: &[Vec<usize>]) -> Result<(), StorageError> {
        let now = self.history.now();
        let kept = self
            .last()
            .saturating_sub(back)
            .max(self.commit)
            .max(now.base.point.raft_index)
            .min(self.last());
        let mut point = now.point(kept).expect("it lies between base and last");
        let term = now.hard_state.term.max(point.term);
        let mut batches = Vec::new();
        for sizes in sizes {
            self.salt += 1;
            let batch = batch_after(&point, term, self.salt, sizes);
            point = batch.point_after(&point).expect("it was made to follow");
            batches.push(batch);
        }
        self.take(kept, &batches, self.commit.min(point.raft_index))
    }

    fn resend(&mut self, count: usize) -> Result<(), StorageError> {
        let before = self.lost.first().map_or(0, |batch| batch.raft_index() - 1);
        // Once something else was appended, they are of no use any more.
        if self.last() == before
            && self
                .lost
                .first()
                .is_some_and(|batch| batch.point_after(&self.history.now().last()).is_ok())
        {
            let again: Vec<Batch> = self.lost.drain(..count.min(self.lost.len())).collect();
            return self.take(before, &again, self.commit);
        }
        Ok(())
    }

    fn take(&mut self, kept: u64, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        let began = self.disk.changes();
        let result = self.log().append(batches, commit);
        if Self::may_have_happened(&result) {
            self.history.append(began, kept, batches, commit);
        }
        result
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        let began = self.disk.changes();
        let result = self.log().save_hard_state(hard_state);
        if Self::may_have_happened(&result) {
            self.history.save_hard_state(began, hard_state);
        }
        result
    }

    fn save_peer(&mut self, peer: NodeId) -> Result<(), StorageError> {
        self.salt += 1;
        let (began, directory) = (self.disk.changes(), u128::from(self.salt));
        let result = self.log().save_peer(peer, directory);
        if Self::may_have_happened(&result) {
            self.history.save_peer(began, peer, directory);
        }
        result
    }

    fn save_group_uid(&mut self) -> Result<(), StorageError> {
        const UID: u128 = 0x77 << 96 | 0x88;
        let began = self.disk.changes();
        let result = self.log().save_group_uid(UID);
        if Self::may_have_happened(&result) {
            self.history.save_group_uid(began, UID);
        }
        result
    }

    fn wait(&mut self) -> Result<(), StorageError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (sync, number) = self.pending.remove(0);
        sync.wait()?;
        self.history.acknowledge(self.disk.changes(), number);
        Ok(())
    }

    fn purge(&mut self, back: u64) -> Result<(), StorageError> {
        let now = self.history.now();
        let index = now.point(self.last().saturating_sub(back)).map_or(0, |point| point.next_index);
        let (old, began, commit) = (now.base.point, self.disk.changes(), self.commit);
        let result = self.log().purge(index, commit);
        let new = self.reader.base().point;
        if new != old {
            assert!(
                new.next_index <= index && new.raft_index <= commit,
                "purge({index}, {commit}) moved the base to {new:?}"
            );
            self.history.purge(began, new, commit);
        }
        result
    }

    fn reset(&mut self, forward: u64) -> Result<(), StorageError> {
        self.salt += 1;
        let last = self.history.now().last();
        let point = LogPoint {
            raft_index: last.raft_index + forward,
            term: self.history.now().hard_state.term.max(last.term),
            next_index: last.next_index + 2 * forward,
            next_position: last.next_position + 100 * forward,
            timestamp: last.timestamp,
            chain: self.salt as u32,
        };
        let voters = [1, 2, 3 + self.salt % 3].map(NodeId::from);
        let (base, began) =
            (Base { point, membership: Membership::of_voters(voters) }, self.disk.changes());
        let result = self.log().reset(&base);
        if Self::may_have_happened(&result) {
            self.history.reset(began, &base);
        }
        if result.is_ok() {
            self.commit = point.raft_index;
        }
        result
    }

    fn background_task(&mut self) -> bool {
        let background_task: Option<BackgroundTask> = self.log().next_task();
        background_task.map(|background_task| background_task()).is_some()
    }

    fn reopen(&mut self) -> Result<(), StorageError> {
        self.pending.clear();
        self.log = None;
        let before = self.disk.changes();
        let mut log = log_on(&self.disk);
        let recovered = log.open(&owner())?;
        self.reader = log.reader();
        self.history
            .judge_now(before, &recovered, &*self.reader)
            .unwrap_or_else(|error| panic!("opened again, {error}"));
        self.log = Some(log);
        self.opened(before, &recovered);
        Ok(())
    }

    /// Ends the machine by `end`, and opens the log on what it left.
    fn restart(
        &mut self,
        end: impl FnOnce(&SimulatedDisk) -> SimulatedDisk,
    ) -> Result<(), StorageError> {
        self.close_episode();
        let disk = end(&self.disk);
        let history = self.history.after_crash(self.disk.changes());
        let held = self.history.now().clone();
        self.pending.clear();
        self.log = None;
        held.compare(&*self.reader)
            .unwrap_or_else(|error| panic!("after the machine was gone, {error}"));
        let next = LogDriver::on(disk, history, self.salt, self.traced)
            .unwrap_or_else(|error| panic!("after a restart, {error}"));
        let episodes = std::mem::take(&mut self.episodes);
        *self = LogDriver { episodes, ..next };
        Ok(())
    }
}
