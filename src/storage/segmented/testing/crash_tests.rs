//! Crash tests: the log under power cuts, failing calls, full disks and bit flips.

mod bit_flips;
mod crash_states;
mod driver;
mod failures;
mod history;
mod model;
mod repair;
mod workload;
