//! A cell that is set once, made of primitives that a model checker or a sanitizer can observe.

use std::sync::OnceLock as Cell;

#[cfg(all(test, any(loom, shuttle)))]
use super::model_checked::{atomic, thread};
#[cfg(not(all(test, any(loom, shuttle))))]
use std::{sync::atomic, thread};

/// A reader that finds it set sees all that happened before it was set.
pub(crate) struct OnceLock<T> {
    filled: atomic::AtomicBool,
    value: Cell<T>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> OnceLock<T> {
        OnceLock { filled: atomic::AtomicBool::new(false), value: Cell::new() }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.filled.load(atomic::Ordering::Acquire) { self.value.get() } else { None }
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        let set = self.value.set(value);
        if set.is_ok() {
            self.filled.store(true, atomic::Ordering::Release);
        }
        set
    }

    pub(crate) fn get_or_init(&self, value: impl FnOnce() -> T) -> &T {
        if self.get().is_none() {
            let _ = self.set(value());
        }
        loop {
            match self.get() {
                Some(value) => return value,
                // Another thread has set the value, and is about to set the flag.
                None => thread::yield_now(),
            }
        }
    }
}

impl<T> From<T> for OnceLock<T> {
    fn from(value: T) -> OnceLock<T> {
        let cell = OnceLock::new();
        let _ = cell.set(value);
        cell
    }
}

impl<T> std::fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnceLock").finish_non_exhaustive()
    }
}
