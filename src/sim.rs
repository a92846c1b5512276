//! Deterministic simulation: a whole cluster in one thread, with virtual time and faults of the
//! network, the disks and the processes, all derived from one seed.
//!
//! [`run`] draws a configuration from the seed, and drives real engines on real storages through a
//! phase with faults. Then all faults end, the group must make progress, and all replicas must
//! agree. Each message of a node, each write to its storage and each result for a client is checked
//! when it happens, and the history of all clients at the end ([`check`]). The same seed gives the
//! same run, to the last bit.
//!
//! ```
//! let report = dledger::sim::run(7);
//! assert_eq!(report.violation, None);
//! assert_eq!(report.hash, dledger::sim::run(7).hash);
//! ```
//!
//! [`hosts::run`] does the same with several groups in each process, on one transport.
//!
//! # How to run it
//!
//! ```text
//! # A range of seeds, in several threads:
//! cargo run --release --features sim --example simulate -- --seeds 0..100000 --jobs 2
//! # One seed, with a line for each event:
//! cargo run --release --features sim --example simulate -- --seed 7 --trace
//! # Several groups in each process:
//! cargo run --release --features sim --example simulate -- --hosts --seeds 0..100000 --jobs 2
//! # A budget of seeds as a test, and all corruption patterns:
//! SIM_SEEDS=4000 SIM_HOST_SEEDS=1000 cargo test --release --features sim --test sim
//! # A thousand seeds in two processes, with the same hashes:
//! cargo test --release --features sim --test sim -- --ignored
//! # Each mutant of the sources, until a seed detects it:
//! tests/mutants.sh
//! # The checker against one that tries every order, on every history of six operations:
//! cargo test --release --features sim --lib history_of_six -- --ignored --nocapture
//! # The checker's speed: ten million operations, 3 seconds:
//! cargo test --release --features sim --lib ten_million -- --ignored --nocapture
//! ```
//!
//! All 67 mutants that a simulation can detect are detected: the median takes 5 seeds, 54 of them
//! take up to 100, the last takes 1,117. The script lists the others, with the reason.
//!
//! A seed takes 20 milliseconds on one core and simulates 8 seconds of a cluster. A violation is
//! printed with the command that replays it. Any change of `config.rs`, or of the order in which
//! random numbers are drawn, changes the runs of all seeds.
//!
//! # Real and simulated parts
//!
//! | part | in a simulation |
//! |---|---|
//! | engine, sequencer, replica, raft-rs, message checks, codec, frames, hello | real |
//! | storage | real, on a simulated disk |
//! | threads | none: their work is done at virtual times (`cluster.rs`) |
//! | network | simulated (`network.rs`): it carries the frames that TCP would |
//! | clients | simulated (`clients.rs`): they use the same parts as `DLedger` |
//!
//! # The files
//!
//! - `config.rs`: configuration of a run, drawn from the seed.
//! - `cluster.rs`, `event.rs`, `event_queue.rs`, `time.rs`: event loop and virtual time.
//! - `node.rs`, `process.rs`, `checked.rs`, `node_disk.rs`, `crash_point.rs`: one node, its
//!   processes, their storage and transport, its disk.
//! - `network.rs`, `cluster/faults.rs`: faults.
//! - `watch.rs`, `cluster/sleeping.rs`: which processes are heard, and groups that sleep.
//! - `clients.rs`, `commit_probe.rs`, `stamps.rs`: load, and the append hook.
//! - `hosts.rs`, `hosts/`, `hosted.rs`, `cluster/hosted.rs`: several groups in each process.
//! - `laggards.rs`: a leader with a slow disk, and followers far behind.
//! - `patterns.rs`: all ways to corrupt three entries on three replicas.
//! - `monitor.rs`, `storage_model.rs`: checks of each event, and what each storage owes. The
//!   monitor also reports critical events, at which faults are aimed.
//! - `group_uids.rs`: checks of the unique id of the group.
//! - `check.rs`: checks of a history, simulated or not.
//! - `trace.rs`, `rng.rs`: trace of a run, and its random numbers.

pub mod check;
mod checked;
mod clients;
mod cluster;
mod commit_probe;
mod config;
mod consumer;
mod crash_point;
mod event;
mod event_queue;
mod group_uids;
mod hosted;
pub mod hosts;
mod kept;
pub mod laggards;
mod monitor;
mod network;
mod node;
mod node_disk;
pub mod patterns;
mod positions;
mod process;
mod rng;
mod stamps;
mod storage_model;
mod time;
mod trace;
mod watch;

use std::fmt;
use std::time::Duration;

pub use trace::CoverageCounts;

/// Result of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed of the run.
    pub seed: u64,
    /// The first violation.
    pub violation: Option<String>,
    /// Hash over all events.
    pub hash: u64,
    /// Virtual time of the run.
    pub simulated: Duration,
    /// Number of events.
    pub events: u64,
    /// Number of operations of the clients.
    pub operations: u64,
    /// How often the run reached each state worth testing.
    pub coverage: CoverageCounts,
    /// How the example `simulate` is told to run it.
    options: &'static str,
}

/// Runs a seed.
pub fn run(seed: u64) -> Report {
    report(seed, None)
}

/// Runs a seed, and gives `lines` a readable line for each event.
pub fn run_traced(seed: u64, lines: impl FnMut(&str) + Send + 'static) -> Report {
    report(seed, Some(Box::new(lines)))
}

fn report(seed: u64, lines: Option<trace::Lines>) -> Report {
    let mut cluster = cluster::Cluster::new(seed, lines);
    cluster.run();
    let monitor = cluster.monitor();
    Report {
        seed,
        violation: monitor.violation().cloned(),
        hash: monitor.trace.hash(),
        simulated: Duration::from_micros(cluster.queue.now),
        events: cluster.events,
        operations: cluster.operations(),
        coverage: monitor.coverage.clone(),
        options: "",
    }
}

/// One line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, hash, simulated, events, operations, options, .. } = self;
        write!(
            f,
            "seed {seed}: {:.1} s, {events} events, {operations} operations, hash {hash:016x}",
            simulated.as_secs_f64()
        )?;
        match &self.violation {
            None => Ok(()),
            Some(violation) => {
                write!(
                    f,
                    "\nVIOLATION {violation}\nreplay: cargo run --release --features sim --example \
                     simulate -- {options}--seed {seed} --trace"
                )
            }
        }
    }
}
