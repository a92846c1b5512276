//! What happened, as one number and, if somebody wants to read it, as lines; and what was seen at
//! all.

use std::collections::BTreeMap;
use std::fmt;

use super::event_queue::Micros;
use crate::replica::splitmix64;

/// Where the lines of a trace go.
pub(crate) type Lines = Box<dyn FnMut(&str) + Send>;

/// The history of a run. Two runs that did the same have the same hash.
pub(crate) struct Trace {
    hash: u64,
    lines: Option<Lines>,
}

impl Trace {
    pub(crate) fn new(lines: Option<Lines>) -> Trace {
        Trace { hash: 0, lines }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Enters one event: its numbers count, the text is for reading.
    pub(crate) fn note(&mut self, now: Micros, numbers: &[u64], text: impl FnOnce() -> String) {
        self.hash = numbers.iter().fold(splitmix64(self.hash ^ now), |hash, number| {
            splitmix64(hash.rotate_left(5) ^ number)
        });
        if let Some(lines) = &mut self.lines {
            lines(&format!("{:>10}.{:03} ms  {}", now / 1000, now % 1000, text()));
        }
    }
}

/// How often what was seen. A test that never sees a full disk proves nothing about full disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoverageCounts(BTreeMap<String, u64>);

impl CoverageCounts {
    pub(crate) fn saw(&mut self, what: &str) {
        self.saw_many(what, 1);
    }

    pub(crate) fn saw_many(&mut self, what: &str, count: u64) {
        if let Some(seen) = self.0.get_mut(what) {
            *seen += count;
        } else {
            self.0.insert(what.to_owned(), count);
        }
    }

    /// How often `what` was seen.
    pub fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds what was seen in another run.
    pub fn add(&mut self, other: &CoverageCounts) {
        other.0.iter().for_each(|(what, count)| self.saw_many(what, *count));
    }
}

impl fmt::Display for CoverageCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &self.0 {
            writeln!(f, "  {count:>12}  {what}")?;
        }
        Ok(())
    }
}
