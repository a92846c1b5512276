//! What a node may remove from its log.
//!
//! - **A14** A node removes only what is committed, in whole segments that take no more, and each
//!   of them because a host asked for it or the policy of the node allows it: it has run for long
//!   enough since the newest batch in it was written, or the log is too long, or the disk is too
//!   full. It removes nothing at or behind a pin that is not released, and releases none without a
//!   reason.
//!
//! The age is counted here from the calls of the engine, over all processes of the node, and
//! nothing of it is lost in a crash: so it is at least what the storage counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::retention::Retention;
use crate::storage::{Batch, DiskUse, SegmentInfo};

/// What a storage that counts whole milliseconds may be ahead.
const ROUNDING: Duration = Duration::from_millis(1);

/// What is known of the log of one node.
#[derive(Default)]
pub(crate) struct KeptLog {
    policy: Retention,
    /// A host has asked to remove what lies below this.
    asked: Arc<AtomicU64>,
    /// For how long earlier processes ran, and this one.
    ran_before: Duration,
    ran: Duration,
    /// The first and last raft index of what was written at a time.
    written: BTreeMap<u64, (u64, Duration)>,
    disk: Option<DiskUse>,
}

impl KeptLog {
    /// A process of the node begins. Returns where it notes what hosts ask for.
    pub(crate) fn begin(&mut self, policy: Retention) -> Arc<AtomicU64> {
        self.policy = policy;
        self.ran_before += std::mem::take(&mut self.ran);
        self.asked.clone()
    }

    pub(crate) fn pass_time(&mut self, open_for: Duration) {
        self.ran = self.ran.max(open_for);
    }

    pub(crate) fn wrote(&mut self, batches: &[Batch]) {
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return };
        drop(self.written.split_off(&first.raft_index()));
        self.written.insert(first.raft_index(), (last.raft_index(), self.age_of_log()));
    }

    pub(crate) fn found_disk(&mut self, disk: DiskUse) {
        self.disk = Some(disk);
    }

    fn age_of_log(&self) -> Duration {
        self.ran_before + self.ran
    }

    /// How long ago a batch was written, if that is known.
    fn age(&self, raft_index: u64) -> Option<Duration> {
        let (_, (last, written)) = self.written.range(..=raft_index).next_back()?;
        (raft_index <= *last).then(|| self.age_of_log() - *written)
    }

    /// Whether all of `removed`, the oldest of `all`, may go.
    pub(crate) fn check(
        &self,
        all: &[SegmentInfo],
        removed: &[SegmentInfo],
        commit: u64,
    ) -> Result<(), String> {
        let mut bytes: u64 = all.iter().map(|segment| segment.bytes).sum();
        for segment in removed {
            if !segment.is_closed || segment.last_raft_index > commit {
                return Err(format!("{segment:?} is written to or not committed, and removed"));
            }
            if !self.allows(segment, bytes) {
                return Err(format!("{segment:?} is removed for no reason: {:?}", self.policy));
            }
            bytes -= segment.bytes;
        }
        Ok(())
    }

    fn allows(&self, segment: &SegmentInfo, bytes: u64) -> bool {
        let limits = self.policy;
        let age = self.age(segment.last_raft_index);
        let is_old =
            limits.max_age.is_some_and(|limit| age.is_none_or(|age| age + ROUNDING >= limit));
        let is_full = |ratio: Option<f64>| {
            ratio.zip(self.disk).is_some_and(|(ratio, disk)| disk.excess(ratio) > 0)
        };
        segment.end_index <= self.asked.load(Ordering::Relaxed)
            || is_old
            || limits.max_bytes.is_some_and(|most| bytes > most)
            || is_full(limits.disk_used_force)
            || limits.max_age.is_none() && is_full(limits.disk_used)
            // Without entries, it goes with what lies before.
            || segment.first_index == segment.end_index
    }
}
