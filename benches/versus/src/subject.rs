//! What is compared: anything that takes appends.

use std::time::Duration;

use crate::measure::turn::Turn;

/// One of those that are compared, open and ready for appends.
pub(crate) trait Subject {
    /// Keeps `window` appends of `bytes` each in flight for `time`.
    fn append(&mut self, bytes: usize, window: usize, time: Duration) -> Turn;

    /// Gives up what was appended, as far as it can, so that the disk does not fill up.
    fn purge(&mut self) {}
}

/// What is known of a subject before it is opened.
pub(crate) struct Entrant {
    pub(crate) name: &'static str,
    /// What it is, where its nodes live, and what its acknowledgement means.
    pub(crate) means: &'static str,
    /// The crate or program whose version is told.
    pub(crate) of: &'static str,
    /// `None` if it is not to be had on this machine.
    pub(crate) open: fn() -> Option<Box<dyn Subject>>,
}
