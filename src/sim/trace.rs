//! Trace of a run: a hash over all events, the events as lines on request, and coverage counts.

use std::collections::BTreeMap;
use std::fmt;

use super::time::Micros;
use crate::replica::splitmix64;

/// Where the lines of a trace go.
pub(crate) type Lines = Box<dyn FnMut(&str) + Send>;

/// Trace of a run. Two runs with the same events have the same hash.
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

    /// Records one event: `numbers` enter the hash, `text` is for readers only.
    pub(crate) fn note(&mut self, now: Micros, numbers: &[u64], text: impl FnOnce() -> String) {
        self.hash = numbers.iter().fold(splitmix64(self.hash ^ now), |hash, number| {
            splitmix64(hash.rotate_left(5) ^ number)
        });
        if let Some(lines) = &mut self.lines {
            lines(&format!("{:>10}.{:03} ms  {}", now / 1000, now % 1000, text()));
        }
    }
}

/// How often a run reached each state worth testing. A test that never fills a disk proves nothing
/// about full disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoverageCounts(BTreeMap<String, u64>);

impl CoverageCounts {
    pub(crate) fn hit(&mut self, state: &str) {
        self.hit_many(state, 1);
    }

    pub(crate) fn hit_many(&mut self, state: &str, count: u64) {
        if let Some(counted) = self.0.get_mut(state) {
            *counted += count;
        } else {
            self.0.insert(state.to_owned(), count);
        }
    }

    /// How often `state` was reached.
    pub fn count(&self, state: &str) -> u64 {
        self.0.get(state).copied().unwrap_or(0)
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &CoverageCounts) {
        other.0.iter().for_each(|(state, count)| self.hit_many(state, *count));
    }
}

impl fmt::Display for CoverageCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (state, count) in &self.0 {
            writeln!(f, "  {count:>12}  {state}")?;
        }
        Ok(())
    }
}
