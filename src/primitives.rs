//! What threads meet at: locks, condition variables, atomics, channels, threads and the clock, as every file of this crate gets them.
//!
//! They are those of `std`, `parking_lot` and `crossbeam-channel`. A test build with `--cfg loom` or `--cfg shuttle` puts the doubles of a checker in their
//! place, which tries every schedule of a few threads, or very many of a whole node: see `tests/threads/README.md`. No other build knows of that.

#[cfg(all(test, any(loom, shuttle)))]
mod doubles;

#[cfg(all(test, any(loom, shuttle)))]
pub(crate) use doubles::{Condvar, Instant, Mutex, MutexGuard, OnceLock, RwLock, atomic, channel, thread};

#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) use {
    crossbeam_channel as channel,
    parking_lot::{Condvar, Mutex, MutexGuard, RwLock},
    std::sync::{OnceLock, atomic},
    std::thread,
    std::time::Instant,
};
