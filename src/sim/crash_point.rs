//! Crash points: a process ends between two of its effects.
//!
//! An effect is a call that changes something outside of the process: a write to its storage or
//! disk, or a message sent. Each such call counts down the [`CrashPoint`] of its process.

use std::any::Any;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ends a process after a number of further effects. Not armed at first.
#[derive(Clone, Debug)]
pub(super) struct CrashPoint(Arc<AtomicU64>);

/// The payload that a crashed process unwinds with.
struct Crashed;

const NOT_ARMED: u64 = u64::MAX;

impl CrashPoint {
    pub(super) fn new() -> CrashPoint {
        CrashPoint(Arc::new(AtomicU64::new(NOT_ARMED)))
    }

    /// The process crashes in place of the effect that follows this many others.
    pub(super) fn arm(&self, effects: u64) {
        self.0.store(effects, Ordering::Relaxed);
    }

    pub(super) fn is_armed(&self) -> bool {
        self.0.load(Ordering::Relaxed) != NOT_ARMED
    }

    pub(super) fn disarm(&self) {
        self.arm(NOT_ARMED);
    }

    /// Called before each effect. Does not return if the process crashes here.
    pub(super) fn count_down(&self) {
        match self.0.load(Ordering::Relaxed) {
            NOT_ARMED => {}
            0 => resume_unwind(Box::new(Crashed)),
            left => self.0.store(left - 1, Ordering::Relaxed),
        }
    }

    /// Whether a panic is a planned crash, and not a bug.
    pub(super) fn is_crash(panic: &(dyn Any + Send)) -> bool {
        panic.is::<Crashed>()
    }
}
