//! The log against the real kernel: power that fails, disks that run full, syncs that fail.
//!
//! Linux only, and it asks for more than `cargo test` may take: root, loop devices, `strace`. So
//! every test is ignored unless it is asked for. `README.md` says what each one demands and how to
//! run it; in short:
//!
//! ```sh
//! sudo -E DLEDGER_CUTS=2000 cargo test --test kernel -- --ignored --nocapture --test-threads 1
//! ```
#![cfg(target_os = "linux")]

mod actor;
mod disk_full;
mod failing_sync;
mod log_script;
mod log_subject;
mod node_subject;
mod power_cut;
#[path = "../shared/rng.rs"]
#[expect(dead_code, reason = "drawn by other tests only")]
mod rng;
mod volume;
