//! Operational conditions that tests in memory leave out: names of directories that change their
//! meaning, limits of a process, unrelated processes, networks that stop responding. Each fact runs
//! in a child process of its own, for many of them change the whole process: its working directory,
//! its limits, its clock, its children.
//!
//! ```text
//! cargo test --test field                 needs neither root nor minutes
//! cargo test --test field -- --ignored    the rest: as root, on Linux, with `ip`, `tc`, `unshare`
//! ```

#![cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, unused_imports, reason = "some tests need Linux")
)]
#![expect(clippy::unwrap_used, reason = "every part of this is a test")]

#[macro_use]
mod child;
mod backup;
mod calls;
mod clock;
mod directory;
mod disks;
mod every_call;
#[cfg(target_os = "linux")]
mod fork;
mod group;
mod limits;
mod neighbours;
mod network;
mod purge;
mod rejoin;
#[cfg(target_os = "linux")]
mod resources;
#[cfg(target_os = "linux")]
mod rights;
mod transfer;

facts! {
    fn a_fact_may_change_its_whole_process() {
        std::env::set_current_dir("/").unwrap();
        assert!(std::env::args().any(|argument| argument == "--exact"));
    }
}
