//! How many groups of a host write and sync appends at the same time.
//!
//! A sync costs about the same for one append as for a hundred, and a host has only so many threads
//! that sync. If more groups than that have appends, each of them would sync a few at a time. With
//! permits, as many groups as there are permits write a batch, and the others wait for one of
//! these, first come, first served. What is appended to them meanwhile goes into their next batch.
//! A permit is given back when the sync of its batch has ended. A group that finds one free does
//! not wait at all.
//!
//! Nothing depends on a permit for longer than a moment: one that is held for
//! [`PERMIT_TIME_MAX`] is given back though the sync goes on, and a group that has waited for
//! [`WAIT_MAX`] writes without one. A permit concerns the appends of leaders only. Messages,
//! heartbeats and what followers write need none.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, Ordering};

/// How long a permit is held at most. On a disk that takes longer for a sync, more groups than
/// there are permits write at the same time. Checked when the engine takes a turn.
pub(super) const PERMIT_TIME_MAX: Duration = Duration::from_millis(20);

/// How long a group waits for a permit at most. With hundreds of busy groups most wait for some
/// tens of milliseconds.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(100);

/// The permits of one host.
pub(crate) struct AppendPermits(Mutex<State>);

struct State {
    free: usize,
    waiting: VecDeque<Arc<Waiter>>,
}

struct Waiter {
    /// It has left the line with a permit. Changed under the lock of the permits.
    is_granted: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl AppendPermits {
    pub(crate) fn new(count: usize) -> Arc<AppendPermits> {
        Arc::new(AppendPermits(Mutex::new(State { free: count, waiting: VecDeque::new() })))
    }

    /// The permit of one more group. `wake` has its engine take a turn; it must not block.
    pub(crate) fn of_group(
        self: &Arc<AppendPermits>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> AppendPermit {
        let waiter = Waiter { is_granted: AtomicBool::new(false), wake: Box::new(wake) };
        AppendPermit { host: Some((self.clone(), Arc::new(waiter))), stage: Stage::Without }
    }

    /// Takes a free permit. If there is none, joins the line.
    fn take_or_join(&self, waiter: &Arc<Waiter>) -> bool {
        let mut state = self.0.lock();
        let is_free = state.free > 0;
        match is_free {
            true => state.free -= 1,
            false => state.waiting.push_back(waiter.clone()),
        }
        is_free
    }

    /// Returns whether the waiter had been given a permit.
    fn leave_line(&self, waiter: &Arc<Waiter>) -> bool {
        let mut state = self.0.lock();
        state.waiting.retain(|other| !Arc::ptr_eq(other, waiter));
        waiter.is_granted.swap(false, Ordering::Acquire)
    }

    fn is_contended(&self) -> bool {
        !self.0.lock().waiting.is_empty()
    }

    /// Gives a permit back: to the first in line, or to whoever comes next.
    fn release(&self) {
        let mut state = self.0.lock();
        let Some(next) = state.waiting.pop_front() else {
            state.free += 1;
            return;
        };
        next.is_granted.store(true, Ordering::Release);
        drop(state);
        (next.wake)();
    }
}

/// What one engine has of them. Given back when it is dropped.
#[derive(Default)]
pub(crate) struct AppendPermit {
    /// `None`: the node stands alone, and needs no permit.
    host: Option<(Arc<AppendPermits>, Arc<Waiter>)>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Without,
    /// It waits in line, or has left that with a permit.
    Waits { since: Duration },
    /// It has a permit, until the sync of this count has ended.
    Holds { since: Duration, sync: u64 },
}

impl AppendPermit {
    pub(super) fn is_needed(&self) -> bool {
        self.host.is_some()
    }

    /// Whether a batch may be written at `now`, which sync number `sync` will cover. If not, the
    /// engine is woken when it may.
    pub(super) fn acquire(&mut self, sync: u64, now: Duration) -> bool {
        let Some((permits, waiter)) = &self.host else { return true };
        let is_granted = match self.stage {
            Stage::Without => permits.take_or_join(waiter),
            Stage::Waits { since } if now >= since + WAIT_MAX => {
                self.give_back();
                return true;
            }
            Stage::Waits { .. } => waiter.is_granted.swap(false, Ordering::Acquire),
            // Others wait: the next batch goes when this one is synced, behind theirs.
            Stage::Holds { .. } => !permits.is_contended(),
        };
        self.stage = match self.stage {
            Stage::Holds { since, .. } if is_granted => Stage::Holds { since, sync },
            _ if is_granted => Stage::Holds { since: now, sync },
            Stage::Without => Stage::Waits { since: now },
            stage => stage,
        };
        is_granted
    }

    /// When it is given back although its sync goes on, if others wait for it.
    pub(super) fn held_until(&self) -> Option<Duration> {
        let (Some((permits, _)), Stage::Holds { since, .. }) = (&self.host, self.stage) else {
            return None;
        };
        permits.is_contended().then_some(since + PERMIT_TIME_MAX)
    }

    /// Gives it back if the sync of its batch has ended, or there will be none, or it was held for
    /// too long. `begun` and `ended` are the newest sync that was begun, and that has ended.
    pub(super) fn end(&mut self, begun: u64, ended: u64, now: Duration) {
        if let Stage::Holds { since, sync } = self.stage
            && (ended >= sync || begun < sync || now >= since + PERMIT_TIME_MAX)
        {
            self.give_back();
        }
    }

    /// No longer waits for one. One that is held stays.
    pub(super) fn stop_waiting(&mut self) {
        if matches!(self.stage, Stage::Waits { .. }) {
            self.give_back();
        }
    }

    /// Until when it is waited for.
    pub(super) fn awaited_until(&self) -> Option<Duration> {
        match self.stage {
            Stage::Waits { since } => Some(since + WAIT_MAX),
            _ => None,
        }
    }

    /// Whether groups of the host wait for each other.
    pub(super) fn is_contended(&self) -> bool {
        self.host.as_ref().is_some_and(|(permits, _)| permits.is_contended())
    }

    /// Gives it back, or no longer waits for it.
    pub(super) fn give_back(&mut self) {
        let Some((permits, waiter)) = &self.host else { return };
        let has_one = match std::mem::take(&mut self.stage) {
            Stage::Without => false,
            Stage::Holds { .. } => true,
            Stage::Waits { .. } => permits.leave_line(waiter),
        };
        if has_one {
            permits.release();
        }
    }
}

impl Drop for AppendPermit {
    fn drop(&mut self) {
        self.give_back();
    }
}
