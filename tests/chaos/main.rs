//! Chaos: five real processes that speak TCP and write to real disks, while signals, partitions,
//! noise and power cuts hit them; and the checker of the simulator verifies the history of their
//! hosts.
//!
//! `README.md` says what is drawn and what is demanded. In short:
//!
//! ```sh
//! DLEDGER_CHAOS_SECONDS=120 cargo test --release --features sim --test chaos -- --nocapture
//! sudo -E DLEDGER_CHAOS_SECONDS=600 cargo test --release --features sim --test chaos -- \
//!   --ignored --nocapture volumes
//! ```
#![cfg(target_os = "linux")]

mod cluster;
mod config;
mod environment;
mod faults;
mod figures;
mod hosts;
mod links;
mod namespaces;
mod node_process;
mod payload;
mod process;
mod readers;
mod record;
#[path = "../shared/rng.rs"]
#[expect(dead_code, reason = "drawn by other tests only")]
mod rng;
mod seen_entries;
mod trial;
#[path = "../kernel/volume.rs"]
#[expect(dead_code, reason = "the volumes of the tests of the kernel beyond this")]
mod volume;

use std::time::Duration;

use environment::Environment;
use figures::Sheet;
use rng::Rng;

/// A volume holds what is left by a purge, and little more.
const VOLUME_BYTES: u64 = 192 << 20;

fn length(default: u64) -> Duration {
    let seconds =
        std::env::var("DLEDGER_CHAOS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(default))
}

/// A run that saw little proves little.
fn demand_sightings(sheet: &Sheet, length: Duration, what: &[&str]) {
    if length < Duration::from_secs(100) {
        return;
    }
    for what in what {
        assert!(sheet.of(what) > 0, "in {length:?} this never happened: {what}");
    }
}

const SEEN_ANYWHERE: [&str; 13] = [
    "all connections of some links broken",
    "barriers",
    "entries acknowledged",
    "entries refused",
    "frames damaged",
    "frames delayed",
    "frames lost",
    "frames repeated",
    "processes killed",
    "processes stopped for a while",
    "purges",
    "reads that found something",
    "transfers that succeeded",
];

#[test]
fn five_processes_lose_nothing() {
    let length = length(5);
    let sheet = trial::run(Environment::loopback(), length, Rng::new());
    demand_sightings(&sheet, length, &SEEN_ANYWHERE);
}

#[test]
#[ignore = "needs root, nftables and minutes; see README.md"]
fn five_processes_on_volumes_in_namespaces_lose_nothing() {
    if namespaces::enter("five_processes_on_volumes_in_namespaces_lose_nothing") {
        let length = length(600);
        let sheet = trial::run(Environment::namespaces(VOLUME_BYTES), length, Rng::new());
        // Eight kinds of faults take their turn, five on the loopback.
        demand_sightings(&sheet, length * 5 / 8, &SEEN_ANYWHERE);
        demand_sightings(&sheet, length * 5 / 8, &["disks filled up", "power cuts"]);
    }
}
