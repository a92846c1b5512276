//! The same work through this crate and others, in one run: one table, and one page with charts.
//!
//! ```sh
//! cargo run --release --manifest-path benches/versus/Cargo.toml --target-dir target/versus -- \
//!   --date 2026-11-25 --html versus.html
//! ```
//!
//! `--only text` takes those whose name holds it, `--rounds` and `--seconds` set how often and how
//! long, `--smoke` only shows that everything runs.

mod bare_raft;
mod clients;
mod engine;
mod etcd;
mod gets;
#[path = "../../measure/mod.rs"]
mod measure;
mod open_raft;
mod ours;
mod report;
mod results;
mod subject;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use measure::processes::serve_as_member;
use measure::scratch::scratch;
use results::{Cell, PAYLOADS, Results, Subject, WINDOWS};
use subject::Entrant;

const ENTRANTS: [Entrant; 8] = [
    Entrant {
        name: "dledger, one node",
        means: "in the caller's process; synced on its disk before it is acknowledged",
        of: "dledger",
        open: ours::one,
    },
    Entrant {
        name: "dledger, three nodes",
        means: "in the caller's process, messages through memory; synced on two of three files \
            before it is acknowledged",
        of: "dledger",
        open: ours::three,
    },
    Entrant {
        name: "dledger, three nodes, async",
        means: "the same; acknowledged when two of three have written it, synced every 100 ms",
        of: "dledger",
        open: ours::three_unsynced,
    },
    Entrant {
        name: "dledger, three processes",
        means: "a process each, messages through loopback TCP, the caller in the leader's process; \
            synced on two of three",
        of: "dledger",
        open: ours::processes,
    },
    Entrant {
        name: "bare raft-rs loop",
        means: "three threads of one process, each with a RawNode and a file; synced on two of \
            three. No host interface, no reads, no recovery",
        of: "raft",
        open: bare_raft::open,
    },
    Entrant {
        name: "raft-engine, one node",
        means: "a log store, nothing is replicated; all that is in flight is one synced batch",
        of: "raft-engine",
        open: engine::open,
    },
    Entrant {
        name: "openraft, in memory",
        means: "three nodes in the caller's process; acknowledged when two of three have it in \
            memory: nothing is encoded, sent or written to a disk",
        of: "openraft",
        open: open_raft::open,
    },
    Entrant {
        name: "etcd, three processes",
        means: "a key-value store, not a log: it keeps a tree beside its log, and its client is in \
            another process and speaks gRPC; synced on two of three",
        of: "etcd",
        open: etcd::open,
    },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if serve_as_member(&arguments) {
        return;
    }
    let plan = Plan::from_arguments(arguments.into_iter());
    let mut results = Results {
        date: plan.date.clone(),
        machine: measure::machine::describe(scratch().path()),
        rounds: plan.rounds,
        time: plan.time,
        subjects: Vec::new(),
        gets: Vec::new(),
    };
    for entrant in ENTRANTS.iter().filter(|entrant| entrant.name.contains(&plan.only)) {
        results.subjects.push(Subject {
            name: entrant.name,
            means: entrant.means,
            version: version_of(entrant.of),
            cells: Vec::new(),
        });
    }
    for round in 1..=plan.rounds {
        for subject in &mut results.subjects {
            eprintln!("round {round} of {}: {} ..", plan.rounds, subject.name);
            let entrant = ENTRANTS
                .iter()
                .find(|entrant| entrant.name == subject.name)
                .expect("it was made of one");
            let Some(mut open) = (entrant.open)() else { continue };
            for (bytes, _) in PAYLOADS {
                for window in WINDOWS {
                    open.append(bytes, window, plan.time.mul_f64(0.4));
                    let turn = open.append(bytes, window, plan.time);
                    open.purge();
                    Cell::of(&mut subject.cells, bytes, window).turns.push(turn);
                }
            }
        }
    }
    if plan.only.is_empty() {
        eprintln!("gets ..");
        results.gets = gets::measure(plan.get_bytes, plan.rounds * 3, plan.lookups);
    }
    results.print();
    if let Some(path) = &plan.html {
        std::fs::write(path, report::page(&results))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The version that was built, or that is on the PATH.
fn version_of(name: &str) -> String {
    if name == "etcd" {
        return etcd::version().unwrap_or_else(|| "not found".to_owned());
    }
    let lock = include_str!("../Cargo.lock");
    let package = lock
        .split("[[package]]")
        .find(|package| package.lines().any(|line| line == format!("name = \"{name}\"")));
    let version = package
        .and_then(|package| package.lines().find_map(|line| line.strip_prefix("version = ")));
    version.unwrap_or("?").trim_matches('"').to_owned()
}

/// How much of everything.
struct Plan {
    date: String,
    html: Option<PathBuf>,
    only: String,
    rounds: usize,
    /// Of one turn.
    time: Duration,
    get_bytes: u64,
    lookups: usize,
}

impl Plan {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Plan {
        let mut plan = Plan {
            date: "undated".to_owned(),
            html: None,
            only: String::new(),
            rounds: 3,
            time: Duration::from_millis(500),
            get_bytes: 1 << 30,
            lookups: 50_000,
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--smoke" => {
                    (plan.rounds, plan.time, plan.get_bytes, plan.lookups) =
                        (1, Duration::from_millis(20), 1 << 20, 100)
                }
                "--date" => plan.date = value(&argument, arguments.next()),
                "--html" => plan.html = Some(value(&argument, arguments.next())),
                "--only" => plan.only = value(&argument, arguments.next()),
                "--rounds" => plan.rounds = value(&argument, arguments.next()),
                "--seconds" => {
                    plan.time = Duration::from_secs_f64(value(&argument, arguments.next()))
                }
                other => panic!("unknown: {other}"),
            }
        }
        plan
    }
}

fn value<T: FromStr>(name: &str, text: Option<String>) -> T {
    let Some(value) = text.as_deref().and_then(|text| text.parse().ok()) else {
        panic!("{name} needs a value, not {text:?}")
    };
    value
}
