//! The waker of a task that a thread of a model runs.

use std::sync::Arc;
use std::task::Wake;

use super::{Condvar, Mutex};

/// Rings when the task is woken.
#[derive(Default)]
pub(crate) struct Alarm {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.wake.notify_one();
    }
}

impl Alarm {
    /// Sleeps until it has rung.
    pub(crate) fn sleep(&self) {
        let mut rung = self.rung.lock();
        while !std::mem::take(&mut *rung) {
            self.wake.wait(&mut rung);
        }
    }
}
