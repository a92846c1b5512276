//! What the parts of a node do, whatever threads they run on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::{Engine, Input, Notice, Now, SyncJob};
use crate::log_prefix::log_prefix;
use crate::primitives::Instant;
use crate::primitives::channel::Receiver;
use crate::role::Status;
use crate::storage::StorageError;

/// A host's observer of role changes.
pub(crate) type Observer = Arc<dyn Fn(&Status) + Send + Sync>;

/// A host's observer of moves: it is told the first index that is kept.
pub(crate) type MoveObserver = Arc<dyn Fn(u64) + Send + Sync>;

/// The observers of one node.
#[derive(Clone, Default)]
pub(crate) struct Observers {
    pub(crate) roles: Vec<Observer>,
    pub(crate) moves: Vec<MoveObserver>,
}

/// What a node holds of its host for as long as its storage is open.
pub(crate) type Claim = Box<dyn Any + Send>;

/// An engine and its clock.
pub(super) struct Driven {
    pub(super) engine: Engine,
    began: Instant,
    _claim: Option<Claim>,
}

impl Driven {
    pub(super) fn new(engine: Engine, claim: Option<Claim>) -> Driven {
        Driven { engine, began: Instant::now(), _claim: claim }
    }

    /// One turn. Returns whether there are more.
    pub(super) fn turn(&mut self) -> bool {
        let engine = &mut self.engine;
        let now = Now { elapsed: self.began.elapsed(), unix_ms: unix_ms() };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| engine.turn(now))) {
            engine.fail(&format!("its engine panicked, which is a bug: {}", panic_text(&*panic)));
        }
        !engine.is_stopped()
    }

    /// When the next turn is due, if nothing comes in. `None` if that is never.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.began.checked_add(self.engine.wake_at())
    }

    pub(super) fn is_due(&self) -> bool {
        self.began.elapsed() >= self.engine.wake_at()
    }
}

/// Waits for the newest sync of `first` and those queued behind it: one sync covers all that were
/// begun before it.
pub(super) fn wait_for_newest(first: SyncJob, jobs: &Receiver<SyncJob>) -> Input {
    let job = jobs
        .try_iter()
        .fold(first, |older, newer| SyncJob { number: older.number.with(newer.number), ..newer });
    let outcome = catch_unwind(AssertUnwindSafe(|| job.pending.wait())).unwrap_or_else(|panic| {
        Err(StorageError::Poisoned(format!("a sync panicked: {}", panic_text(&*panic))))
    });
    Input::Synced(job.number, outcome)
}

pub(super) fn notify_observers(notice: &Notice, observers: &Observers) {
    let notify = |kind: &str, observer: &dyn Fn()| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(observer)) {
            let what = panic_text(&*panic);
            log::error!("{}an observer of {kind} panicked: {what}", log_prefix());
        }
    };
    match notice {
        Notice::Role(status) => {
            observers.roles.iter().for_each(|observer| notify("role changes", &|| observer(status)))
        }
        Notice::Moved(first) => {
            observers.moves.iter().for_each(|observer| notify("moves", &|| observer(*first)))
        }
    }
}

/// What an engine is told of a part that panicked.
pub(super) fn panicked(part: &str, panic: &(dyn Any + Send)) -> Input {
    Input::Panicked(format!("its {part} thread panicked: {}", panic_text(panic)))
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
