//! What an engine knows of its retention between two looks at the segments.

use std::sync::Arc;
use std::time::Duration;

use crate::primitives::Mutex;
use crate::retention::Retention;
use crate::storage::{DiskProbe, DiskUse};

/// The policy, and what was looked at.
pub(super) struct RetentionState {
    pub(super) policy: Retention,
    /// When an engine that is awake looks next, and one that sleeps.
    pub(super) next_check: Duration,
    pub(super) next_check_asleep: Duration,
    /// When something becomes too old, or is tried again. `None`: never.
    pub(super) due: Option<Duration>,
    /// A pin or a sync holds back what is too much.
    pub(super) is_held_back: bool,
    /// The end of the log when it was looked at last.
    pub(super) seen_end: Option<(u64, u64)>,
    pub(super) probe: Option<DiskProbe>,
    /// What a background task found, until it is used.
    pub(super) answer: Arc<Mutex<Option<Result<DiskUse, String>>>>,
    pub(super) is_asking: bool,
    pub(super) next_question: Duration,
    /// The sync after which the files of the last removal go. The disk is not asked before.
    pub(super) removal_sync: u64,
    pub(super) warned_of_probe: bool,
    pub(super) warned_of_failure: bool,
}

impl RetentionState {
    pub(super) fn new(policy: Retention, probe: Option<DiskProbe>) -> RetentionState {
        RetentionState {
            policy,
            next_check: Duration::ZERO,
            next_check_asleep: Duration::ZERO,
            due: None,
            is_held_back: false,
            seen_end: None,
            probe,
            answer: Arc::default(),
            is_asking: false,
            next_question: Duration::ZERO,
            removal_sync: 0,
            warned_of_probe: false,
            warned_of_failure: false,
        }
    }

    /// Files go after this sync. What was asked of the disk before does not count: what they free
    /// would be freed twice.
    pub(super) fn forget_disk(&mut self, removal_sync: u64) {
        (self.removal_sync, self.is_asking) = (removal_sync, false);
        self.answer = Arc::default();
    }
}
