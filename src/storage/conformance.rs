//! Conformance suite for implementations of [`Storage`]. Run it before you use one with a ledger.
//!
//! The suite drives the storage as a ledger does, and compares it with a plain list of the expected
//! batches: after each step, after each reopening and, where the [`Harness`] can stage them, after
//! crashes, failed syncs and on a full disk. It starts no thread, reads no clock, and makes the
//! same calls in the same order every time. It needs about 20 MB of space.
//!
//! ```
//! use dledger::storage::{MemoryLog, Storage, conformance};
//!
//! #[derive(Default)]
//! struct Memory(MemoryLog);
//!
//! impl conformance::Harness for Memory {
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
//! let not_staged = conformance::run(&mut Memory::default());
//! assert_eq!(not_staged, ["a failed sync", "a full disk"]);
//! ```

mod aging;
mod appending;
mod by_position;
mod complete;
mod driver;
mod durability;
mod expected;
mod group_uid;
mod harness;
#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod mutants;
mod opening;
mod removing;
mod rule;

use self::driver::Case;
pub use self::harness::Harness;
#[cfg(doc)]
use super::Storage;

/// Runs the suite. Returns the names of the cases that the harness could not stage.
///
/// # Panics
/// With the case, the broken rule of the [contract](super), and the difference.
pub fn run(harness: &mut dyn Harness) -> Vec<&'static str> {
    let mut not_staged = Vec::new();
    for &(name, run_case) in CASES {
        let mut case = Case::new(name, harness);
        run_case(&mut case);
        if !case.staged {
            not_staged.push(name);
        }
    }
    not_staged
}

type Run = fn(&mut Case<'_>);

/// From the simple to the complex: the first case that fails is the most instructive.
const CASES: &[(&str, Run)] = &[
    ("a new log", opening::a_new_log),
    ("opened again", opening::opened_again),
    ("another's log", opening::anothers_log),
    ("opened twice", opening::opened_twice),
    ("the first position of a group", opening::the_first_position_of_a_group),
    ("payloads of every size", appending::payloads_of_every_size),
    ("control records", appending::control_records),
    ("the bounds of a read", appending::the_bounds_of_a_read),
    ("batches out of line", appending::batches_out_of_line),
    ("hard state and peers", appending::hard_state_and_peers),
    ("readers beside the writer", appending::readers_beside_the_writer),
    ("a cut at every point", removing::a_cut_at_every_point),
    ("cut upon cut", removing::cut_upon_cut),
    ("purge", removing::purge),
    ("segments", aging::segments),
    ("reset", removing::reset),
    ("closed without a sync", durability::closed_without_a_sync),
    ("syncs under way", durability::syncs_under_way),
    ("a crash after opening", durability::a_crash_after_opening),
    ("a crash after every step", durability::a_crash_after_every_step),
    ("a failed sync", durability::a_failed_sync),
    ("a full disk", durability::a_full_disk),
    ("a log that is not complete", complete::a_log_that_is_not_complete),
    ("the unique id of a group", group_uid::the_unique_id_of_a_group),
];
