//! The log against the real kernel: power that fails, disks that run full, syncs that fail.
//!
//! Linux only, and all of it asks for more than `cargo test` may take: root (it mounts loop devices and tmpfs), `mkfs.ext4`, `mkfs.xfs`, `strace`.
//! So every test is ignored unless it is asked for. All at once, or one by its name:
//!
//! ```sh
//! sudo -E cargo test --test kernel -- --ignored --nocapture --test-threads 1
//! sudo -E DLEDGER_CUTS=2000 cargo test --test kernel -- --ignored --nocapture power_cut::ext4
//! ```
//!
//! | variable | what it is | default |
//! |---|---|---|
//! | `DLEDGER_CUTS` | how often the power fails, for each file system | 200 |
//! | `DLEDGER_SEED` | the seed of an earlier run; it fixes what is done, not what the kernel makes of it | drawn |
//! | `DLEDGER_IMAGES` | where images of file systems are kept. In memory nobody else's disk is disturbed | `/dev/shm` |
//!
//! Whatever a test mounts, it unmounts, also when it fails. Loop devices are given back with the mount. One that was killed leaves its mount
//! behind; run it under `unshare --mount` if that may happen.
#![cfg(target_os = "linux")]

mod actor;
mod dice;
mod disk_full;
mod failing_sync;
mod log_script;
mod log_subject;
mod node_subject;
mod power_cut;
mod volume;
