//! The log put to the worst that a disk can do.

mod bit_flips;
mod crash_states;
mod failures;
mod history;
mod model;
mod repair;
mod workload;
