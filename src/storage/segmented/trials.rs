//! The log put to the worst that a disk can do.

mod beside_the_model;
mod bit_flips;
mod crash_states;
mod failures;
mod history;
mod mending;
mod workload;
