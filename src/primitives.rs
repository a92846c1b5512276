//! What threads meet at: locks, condition variables, atomics, channels, threads, the clock and random keys, as every file of this crate gets them.
//!
//! They are those of `std` and `parking_lot`, and channels made of them. A test build with `--cfg loom` or `--cfg shuttle` puts the doubles of a checker in their
//! place, which tries every schedule of a few threads, or very many of a whole node, and one with `--cfg tsan` leaves out what the sanitizer of threads is
//! blind to: see `tests/threads/README.md`. No other build knows of that.

#[cfg(all(test, any(loom, shuttle)))]
mod doubles;

pub(crate) mod channel;

#[cfg(any(all(test, any(loom, shuttle)), tsan))]
mod cell;
#[cfg(not(any(all(test, any(loom, shuttle)), tsan)))]
pub(crate) mod crowd;

/// The sanitizer of threads does not see into the locks and cells of `std`, but into these.
#[cfg(tsan)]
pub(crate) mod crowd {
    pub(crate) use parking_lot::{Condvar, Mutex};
}

#[cfg(all(test, any(loom, shuttle)))]
pub(crate) use doubles::{Condvar, Instant, Mutex, MutexGuard, RandomState, RwLock, atomic, crowd, thread};

#[cfg(all(test, loom))]
pub(crate) use doubles::interrupted_thrice;

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
