//! A test suite that any [`Storage`] can be put to, and must pass before a ledger is entrusted to
//! it.
//!
//! The suite drives the storage as a ledger would, keeps a plain list of what it must hold, and
//! compares the two after every step, after every reopening and, where that can be staged, after
//! crashes, failed syncs and on a full disk. It starts no thread and reads no clock, and it gives
//! the same calls in the same order every time. It needs about 20 MB of room.
//!
//! ```
//! use dledger::storage::{MemoryLog, Storage, conformance};
//!
//! #[derive(Default)]
//! struct Memory(MemoryLog);
//!
//! impl conformance::Bench for Memory {
//!     fn fresh(&mut self) {
//!         self.0 = MemoryLog::new();
//!     }
//!     fn handle(&mut self) -> Box<dyn Storage> {
//!         Box::new(self.0.clone())
//!     }
//!     fn crash(&mut self) -> bool {
//!         self.0.crash();
//!         true
//!     }
//! }
//!
//! let not_staged = conformance::check(&mut Memory::default());
//! assert_eq!(not_staged, ["a failed sync", "a full disk"]);
//! ```

mod appending;
mod complete;
mod driver;
mod durability;
mod expected;
#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod mutants;
mod opening;
mod removing;

use std::fmt;

use self::driver::Case;
use super::Storage;

/// What the suite needs from whoever wants a storage judged.
///
/// The optional methods stage what a test cannot bring about by itself. Each says whether it could;
/// what it could not is left out.
pub trait Harness {
    /// Throws away the storage under test. The handles that come next stand for a new one, which
    /// was never opened. No earlier handle is used any more.
    fn fresh(&mut self);

    /// A handle on the storage under test, not opened yet. Earlier handles on the same storage may
    /// still be open.
    fn handle(&mut self) -> Box<dyn Storage>;

    /// Starts `work` on another thread, and returns what waits for its end and passes its panic on.
    /// Unless it is overridden the work is done on the spot, and nothing is learned about threads.
    fn start(&mut self, work: Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce()> {
        work();
        Box::new(|| ())
    }

    /// Cuts the power: what was not synced may be lost, and the handles that are open are dead.
    /// They are dropped after this, and must not change anything any more.
    fn crash(&mut self) -> bool {
        false
    }

    /// Makes the next sync of the storage under test fail.
    fn fail_next_sync(&mut self) -> bool {
        false
    }

    /// Fills the disk, or makes room again. On a full disk the storage may go on for another 64 MB
    /// before it says so.
    fn fill(&mut self, full: bool) -> bool {
        let _ = full;
        false
    }
}

/// Puts the storage to the test. Returns the names of the cases that the bench could not stage.
///
/// # Panics
/// With the case, the rule of the [contract](super) that was broken, and what was seen.
pub fn check(harness: &mut dyn Harness) -> Vec<&'static str> {
    let mut not_staged = Vec::new();
    for &(name, run) in CASES {
        let mut case = Case::new(name, harness);
        run(&mut case);
        if !case.staged {
            not_staged.push(name);
        }
    }
    not_staged
}

type Run = fn(&mut Case<'_>);

/// From the plain to the intricate: the first case that fails is the one to look at.
const CASES: &[(&str, Run)] = &[
    ("a new log", opening::a_new_log),
    ("opened again", opening::opened_again),
    ("another's log", opening::anothers_log),
    ("opened twice", opening::opened_twice),
    ("payloads of every size", appending::payloads_of_every_size),
    ("control records", appending::control_records),
    ("the bounds of a read", appending::the_bounds_of_a_read),
    ("batches out of line", appending::batches_out_of_line),
    ("hard state and peers", appending::hard_state_and_peers),
    ("readers beside the writer", appending::readers_beside_the_writer),
    ("a cut at every point", removing::a_cut_at_every_point),
    ("cut upon cut", removing::cut_upon_cut),
    ("purge", removing::purge),
    ("reset", removing::reset),
    ("closed without a sync", durability::closed_without_a_sync),
    ("syncs under way", durability::syncs_under_way),
    ("a crash after opening", durability::a_crash_after_opening),
    ("a crash after every step", durability::a_crash_after_every_step),
    ("a failed sync", durability::a_failed_sync),
    ("a full disk", durability::a_full_disk),
    ("a log that is not complete", complete::a_log_that_is_not_complete),
];

/// The part of the contract that a check stands for.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Taken,
    BatchHeader,
    HardState,
    Unchanged,
    FailedSync,
    Full,
    Open,
    Append,
    Read,
    Purge,
    Reset,
    Peers,
    Complete,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Taken => {
                "rule 1 (what was taken is readable when the call returns, and durable once a sync begun afterwards has returned)"
            }
            Rule::BatchHeader => "rule 2 (a reopened log is a prefix of what was appended, at least as long as what was synced)",
            Rule::HardState => {
                "rule 3 (a reopened hard state is one that was saved, no older than the newest synced; its commit names nothing that is gone)"
            }
            Rule::Unchanged => "rule 4 (a batch, once read, never changes)",
            Rule::FailedSync => "rule 5 (a failed sync is final)",
            Rule::Full => "rule 6 (a call that finds the disk full changes nothing, and may be repeated)",
            Rule::Open => "the promise of `Storage::open`",
            Rule::Append => "the promise of `Storage::append` (only what continues the log is taken, all of it or nothing)",
            Rule::Read => "the promise of `LogReader`",
            Rule::Purge => "the promise of `Storage::purge` (nothing from `index` on is given up, nor anything beyond `commit`)",
            Rule::Reset => "the promise of `Storage::reset` (nothing of the old log remains)",
            Rule::Peers => "the promise of `Storage::remember`",
            Rule::Complete => "the promise of `Storage::set_complete`",
        })
    }
}
