//! Retention: what the policy of this node removes, and when that is looked at.
//!
//! An engine that is awake looks a few times a second, if anything has changed or is due. One that
//! sleeps is woken when the next segment becomes too old, and otherwise only to look at the disk: a
//! removal is this node's own affair, and wakes no group. How full the disk is, a background task
//! asks. The answer serves for one removal; then the disk is asked anew, once the files are gone,
//! so that what is freed already is not freed twice.

use std::time::Duration;

use super::Engine;
use super::retention_state::RetentionState;
use crate::error::PurgeError;
use crate::retention::{Chosen, Reason, Retention, choose};
use crate::storage::{DiskUse, SegmentInfo};

/// How often an engine that is awake looks at its segments.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// In what time an engine that is awake looks again at what a pin or a sync holds back.
const HELD_BACK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the disk is asked by an engine that is awake. Engines of one process do not ask at the
/// same time, for each began at another.
const DISK_INTERVAL: Duration = Duration::from_secs(1);

/// How often one that sleeps asks the disk, and looks at what is held back.
const ASLEEP_INTERVAL: Duration = Duration::from_secs(30);

impl Engine {
    pub(super) fn set_retention(&mut self, policy: Retention) {
        if policy != self.retention.policy {
            self.inform(&format!("retention: {policy:?}, and before {:?}", self.retention.policy));
        }
        let probe = self.retention.probe.take();
        let removal_sync = self.retention.removal_sync;
        self.retention = RetentionState::new(policy, probe);
        self.retention.removal_sync = removal_sync;
    }

    /// When a sleeping engine has to look at its segments.
    pub(super) fn retention_wake_at(&self) -> Duration {
        match self.retention.policy.keeps_all() {
            true => Duration::MAX,
            false => self.retention.next_check_asleep,
        }
    }

    /// Looks at the segments, if that is due.
    pub(super) fn apply_retention(&mut self) {
        let at = match self.is_asleep() {
            true => self.retention.next_check_asleep,
            false => self.retention.next_check,
        };
        if self.retention.policy.keeps_all() || self.now.elapsed < at {
            return;
        }
        let is_free = self.check_purge().is_ok() && self.identity.complete;
        if is_free && let Err(error) = self.check_retention() {
            // A failure that is final has ended the node.
            if !std::mem::replace(&mut self.retention.warned_of_failure, true) {
                self.warn(&format!("retention: could not remove what is too much: {error}"));
            }
        }
        self.plan_check();
    }

    fn check_retention(&mut self) -> Result<(), PurgeError> {
        let end = (self.replica.last_written(), self.replica.hard_state().commit);
        let disk = self.disk_use();
        let is_due = self.retention.due.is_some_and(|due| due <= self.now.elapsed);
        if self.retention.seen_end == Some(end) && !is_due && disk.is_none() {
            return Ok(());
        }
        self.retention.seen_end = Some(end);
        let policy = self.retention.policy;
        let mut segments = self.storage.segments();
        if segments.last().is_some_and(|active| policy.closes(active)) {
            self.close_segment()?;
            segments = self.storage.segments();
        }
        let chosen = choose(&policy, &segments, self.replica.hard_state().commit, disk);
        let mut is_held_back = false;
        if let Some(last) = chosen.last() {
            self.remove(last.segment.end_index, &chosen)?;
            self.retention.warned_of_failure = false;
            let base = self.shared.reader.base().point.raft_index;
            segments.retain(|segment| segment.last_raft_index > base);
            is_held_back = base < last.segment.last_raft_index;
        }
        // What a pin or a sync holds back is looked at again soon.
        let wait = match is_held_back {
            true => Some(HELD_BACK_INTERVAL),
            false => policy.due_in(&segments),
        };
        self.retention.is_held_back = is_held_back;
        self.retention.due = wait.map(|wait| self.now.elapsed.saturating_add(wait));
        Ok(())
    }

    fn close_segment(&mut self) -> Result<(), PurgeError> {
        let closed = self.storage.close_segment();
        if let Err(error) = &closed
            && !error.is_temporary()
        {
            self.storage_failed(error.clone(), None);
        }
        Ok(closed?)
    }

    /// How full the disk is, if a task has found out since the last removal.
    fn disk_use(&mut self) -> Option<DiskUse> {
        if !self.retention.policy.goes_by_disk() {
            return None;
        }
        let answer = self.retention.answer.lock().take();
        if let Some(answer) = answer {
            self.retention.is_asking = false;
            match answer {
                Ok(disk) => return Some(disk),
                Err(error) => self.warn_of_probe(&error),
            }
        }
        None
    }

    fn warn_of_probe(&mut self, why: &str) {
        if !std::mem::replace(&mut self.retention.warned_of_probe, true) {
            self.warn(&format!(
                "retention: how full the disk is cannot be known ({why}): its limits for the disk \
                 are without effect"
            ));
        }
    }

    /// Has the disk asked, if that is due. Comes after the tasks that remove files were queued.
    pub(super) fn ask_disk(&mut self) {
        let retention = &self.retention;
        if !retention.policy.goes_by_disk()
            || retention.is_asking
            || self.now.elapsed < retention.next_question
            || self.sleep.synced < retention.removal_sync
            || !self.is_active()
        {
            return;
        }
        let Some(probe) = retention.probe.clone() else {
            return self.warn_of_probe("the storage does not tell");
        };
        let answer = retention.answer.clone();
        self.retention.is_asking = true;
        let interval = match self.is_asleep() {
            true => ASLEEP_INTERVAL,
            false => DISK_INTERVAL,
        };
        self.retention.next_question = self.now.elapsed + interval;
        let ask = move || *answer.lock() = Some(probe().map_err(|error| error.to_string()));
        let _ = self.work.background_tasks.send(Box::new(ask));
    }

    /// Removes these segments, all below `index`, as far as pins allow. Returns the first index
    /// that is kept. The one place that asks the storage to remove committed entries.
    pub(super) fn remove(&mut self, index: u64, chosen: &[Chosen]) -> Result<u64, PurgeError> {
        let before = self.shared.reader.base();
        // The id of the group is saved once the batch that names it is durable, and before that
        // batch goes.
        if self.group_uid.is_unsynced(self.sleep.synced) {
            return Ok(before.point.next_index);
        }
        let (pins, commit) = (self.shared.pins.clone(), self.replica.hard_state().commit);
        let saved = self.save_group_uid();
        let purge = |limit| saved.and_then(|()| self.storage.purge(limit, commit));
        let (outcome, released) = pins.purge(index, chosen, purge);
        self.report_released(&released, "all pins held back more than Builder::pin_bytes_max");
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_temporary() => return Err(error.into()),
            Err(error) => {
                self.storage_failed(error.clone(), None);
                return Err(error.into());
            }
        }
        let base = self.shared.reader.base();
        let first = base.point.next_index;
        if base != before {
            let is_gone =
                |chosen: &&Chosen| chosen.segment.last_raft_index <= base.point.raft_index;
            let removed: Vec<Chosen> = chosen.iter().filter(is_gone).copied().collect();
            self.report_purged(before.point.next_index, first, &removed);
            self.begin_sync(0);
            self.retention.forget_disk(self.syncs);
            if removed.iter().any(|one| is_for_disk(one.reason)) {
                self.retention.next_question = Duration::ZERO;
            }
            self.replica.handle_purged(base);
        }
        Ok(first)
    }

    /// The node falls asleep, and what it was told last may not have been looked at.
    pub(super) fn look_at_retention_soon(&mut self) {
        let soon = self.now.elapsed + CHECK_INTERVAL;
        self.retention.next_check_asleep = self.retention.next_check_asleep.min(soon);
    }

    fn plan_check(&mut self) {
        let now = self.now.elapsed;
        let retention = &mut self.retention;
        retention.next_check = now + CHECK_INTERVAL;
        let of_disk = retention.policy.goes_by_disk().then(|| {
            let at = if retention.is_asking { now } else { retention.next_question };
            at.max(now + CHECK_INTERVAL)
        });
        let least = if retention.is_held_back { ASLEEP_INTERVAL } else { CHECK_INTERVAL };
        let due = retention.due.map(|due| due.max(now + least));
        retention.next_check_asleep = due.into_iter().chain(of_disk).min().unwrap_or(Duration::MAX);
    }

    /// What the storage holds now. Empty if it does not tell.
    pub(super) fn segments(&self) -> Vec<SegmentInfo> {
        self.storage.segments()
    }
}

fn is_for_disk(reason: Reason) -> bool {
    matches!(reason, Reason::DiskUsed | Reason::DiskForced)
}
