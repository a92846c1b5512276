//! Locks, condition variables, atomics, channels, threads, the clock and random keys, for all files
//! of this crate.
//!
//! They are those of `std` and `parking_lot`, and channels made of them. A test build with `--cfg
//! loom` or `--cfg shuttle` replaces them with those of a model checker, which tries every schedule
//! of a few threads, or very many schedules of a whole node. One with `--cfg tsan` avoids those
//! that the thread sanitizer cannot observe. See `tests/threads/README.md`. Other builds are not
//! affected.

#[cfg(all(test, any(loom, shuttle)))]
mod model_checked;

pub(crate) mod channel;

#[cfg(not(any(all(test, any(loom, shuttle)), tsan)))]
pub(crate) mod broadcast;
#[cfg(any(all(test, any(loom, shuttle)), tsan))]
mod cell;

/// The thread sanitizer observes these, and not the locks and cells of `std`.
#[cfg(tsan)]
pub(crate) mod broadcast {
    pub(crate) use parking_lot::{Condvar, Mutex};
}

#[cfg(all(test, any(loom, shuttle)))]
pub(crate) use model_checked::{
    Condvar, Instant, Mutex, MutexGuard, RandomState, RwLock, atomic, broadcast, thread,
};

#[cfg(all(test, loom))]
pub(crate) use model_checked::{Alarm, three_preemptions};

#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) use {
    parking_lot::{Condvar, Mutex, MutexGuard, RwLock},
    std::hash::RandomState,
    std::sync::atomic,
    std::thread,
    std::time::Instant,
};

#[cfg(any(all(test, any(loom, shuttle)), tsan))]
pub(crate) use cell::OnceLock;
#[cfg(not(any(all(test, any(loom, shuttle)), tsan)))]
pub(crate) use std::sync::OnceLock;
