//! Every figure of the crate in one run, each beside what the machine itself can do, as tables for a page.
//!
//! ```sh
//! cargo bench --bench figures -- [--date 2026-11-23] [--runs 3] [--seconds 1] [--rows text] [idle] [append] [read] [open] [failover]
//! ```
//!
//! Without names all figures are taken. Without `--bench`, which `cargo bench` adds, it only shows that every part runs.

#[path = "measure/cluster.rs"]
mod cluster;
#[path = "measure/load.rs"]
mod load;
#[path = "measure/lookups.rs"]
mod lookups;
#[path = "measure/machine.rs"]
mod machine;
#[path = "measure/raw_records.rs"]
mod raw_records;
#[path = "measure/raw_sync.rs"]
mod raw_sync;
#[path = "measure/scratch.rs"]
mod scratch;
#[path = "measure/table.rs"]
mod table;

use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use dledger::{Builder, DLedger, FlushPolicy};

use cluster::{ASYNC, Cluster, Shape};
use load::{Load, Outcome};
use lookups::{PAYLOAD, Shuffled, fill, get_each, read_each, read_in_order};
use raw_records::RawRecords;
use raw_sync::{RawSync, raw_sync};
use scratch::scratch;
use table::{Table, median, micros, millis, rate};

/// How much of everything.
struct Plan {
    /// Only to see that it runs.
    smoke: bool,
    date: String,
    runs: usize,
    time: Duration,
    /// Which rows of the table of appends: those whose name holds this.
    rows: String,
    /// What to take. Empty: everything.
    wanted: Vec<String>,
}

type Figure = fn(&Plan);

/// The idle cluster comes first, before anything else has left its traces in this process.
const FIGURES: [(&str, Figure); 5] = [("idle", idle), ("append", append), ("read", read), ("open", open), ("failover", failover)];

fn main() {
    let plan = Plan::from_arguments(std::env::args().skip(1));
    println!("dledger {}, {}", env!("CARGO_PKG_VERSION"), plan.date);
    println!("{}\n", machine::describe(scratch().path()));
    for (name, take) in FIGURES {
        if plan.wanted.is_empty() || plan.wanted.iter().any(|wanted| wanted == name) {
            take(&plan);
        }
    }
}

impl Plan {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Plan {
        let mut plan = Plan {
            smoke: true,
            date: "undated".to_owned(),
            runs: 3,
            time: Duration::from_secs(1),
            rows: String::new(),
            wanted: Vec::new(),
        };
        let mut test = false;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => plan.smoke = false,
                "--test" => test = true,
                "--date" => plan.date = value(&argument, arguments.next()),
                "--runs" => plan.runs = value(&argument, arguments.next()),
                "--seconds" => plan.time = Duration::from_secs_f64(value(&argument, arguments.next())),
                "--rows" => plan.rows = value(&argument, arguments.next()),
                other => plan.wanted.push(other.to_owned()),
            }
        }
        plan.smoke |= test;
        if plan.smoke {
            (plan.runs, plan.time) = (1, Duration::from_millis(20));
        }
        plan
    }
}

fn value<T: FromStr>(name: &str, text: Option<String>) -> T {
    let Some(value) = text.as_deref().and_then(|text| text.parse().ok()) else { panic!("{name} needs a value, not {text:?}") };
    value
}

/// What a cluster costs that nobody uses.
fn idle(plan: &Plan) {
    let (settle, time) =
        if plan.smoke { (Duration::from_millis(20), plan.time) } else { (Duration::from_secs(2), Duration::from_secs(10)) };
    let cluster = Cluster::open(Shape::Three, |builder| builder);
    cluster.leader();
    thread::sleep(settle);
    let Some(before) = machine::usage() else { return println!("This system does not tell what an idle cluster costs.\n") };
    thread::sleep(time);
    let Some(after) = machine::usage() else { return };
    let seconds = time.as_secs_f64();
    let mut table = Table::new(&["idle", "% of one core", "context switches/s", "resident beyond the map, MB"]);
    table.row([
        "three nodes, default timing".to_owned(),
        format!("{:.3}", (after.cpu - before.cpu).as_secs_f64() / seconds * 100.0),
        format!("{:.0}", (after.switches - before.switches) as f64 / seconds),
        format!("{:.1}", after.resident_bytes as f64 / 1e6),
    ]);
    table.print();
}

/// Appends per second, and how long one takes. Medians of the runs, each on a new cluster.
fn append(plan: &Plan) {
    let head = ["append", "appends/s", "p50 us", "p99 us", "cores busy", "raw p50 us", "raw p99 us", "raw entries/s", "of raw"];
    let mut table = Table::new(&head);
    for case in AppendCase::all().filter(|case| case.name().contains(&plan.rows)) {
        let runs: Vec<Appends> = (0..plan.runs).map(|_| case.run(plan)).collect();
        let figure = |of: &dyn Fn(&Appends) -> f64| median(&runs.iter().map(of).collect::<Vec<_>>());
        let quantile = |at| micros(figure(&|run| run.outcome.latency.value_at_quantile(at) as f64) as u64);
        // The probe with the median rate says how the disk was.
        let mut probes: Vec<&RawSync> = runs.iter().filter_map(|run| run.raw.as_ref()).collect();
        probes.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        let raw = |of: &dyn Fn(&RawSync) -> String| probes.get(probes.len() / 2).map_or_else(String::new, |probe| of(probe));
        let restless = runs.iter().any(|run| run.raw.as_ref().is_some_and(RawSync::is_restless));
        table.row([
            case.name() + if restless { " (restless)" } else { "" },
            rate(figure(&Appends::per_second)),
            quantile(0.5),
            quantile(0.99),
            format!("{:.2}", figure(&|run| run.cores)),
            raw(&|probe| micros(probe.latency.value_at_quantile(0.5))),
            raw(&|probe| micros(probe.latency.value_at_quantile(0.99))),
            raw(&|probe| rate(probe.per_second * case.window as f64)),
            raw(&|_| format!("{:.2}", figure(&|run| run.of_raw(case.window)))),
        ]);
    }
    table.print();
    println!(
        "Raw: all that is in flight written with one `pwrite` and synced with one `fdatasync`, into one zeroed file for each node, all at once."
    );
    println!(
        "Restless: in one of the runs that took over 1 ms at the median, and 1 ms for each MiB. Such a row is worth nothing: take it again on a quiet machine.\n"
    );
}

/// One row of the table.
#[derive(Clone, Copy)]
struct AppendCase {
    shape: Shape,
    flush: FlushPolicy,
    bytes: usize,
    window: usize,
}

/// One run of it, and the probe just before.
struct Appends {
    outcome: Outcome,
    cores: f64,
    raw: Option<RawSync>,
}

impl AppendCase {
    fn all() -> impl Iterator<Item = AppendCase> {
        let shapes = [Shape::One, Shape::Three, Shape::ThreeOverTcp].into_iter();
        let loads = [(128, 1), (128, 1024), (1 << 10, 1), (1 << 10, 1024)];
        shapes
            .flat_map(|shape| [FlushPolicy::Sync, ASYNC].map(|flush| (shape, flush)))
            .flat_map(move |(shape, flush)| loads.map(|(bytes, window)| AppendCase { shape, flush, bytes, window }))
    }

    fn name(&self) -> String {
        let nodes = match self.shape {
            Shape::One => "one node",
            Shape::Three => "three nodes",
            Shape::ThreeOverTcp => "three over TCP",
        };
        let policy = if self.is_synced() { "sync" } else { "async" };
        format!("{nodes}, {policy}, {} B, {} in flight", self.bytes, self.window)
    }

    fn is_synced(&self) -> bool {
        self.flush == FlushPolicy::Sync
    }

    fn run(&self, plan: &Plan) -> Appends {
        let warm_up = plan.time.mul_f64(0.3);
        let raw = self.is_synced().then(|| raw_sync(self.shape.members(), self.bytes * self.window, warm_up));
        let cluster = Cluster::open(self.shape, |builder| builder.flush(self.flush));
        let payload = vec![0x5a; self.bytes];
        let mut load = Load::new(&cluster.nodes[cluster.leader()], &payload, self.window);
        load.run(u64::MAX, warm_up);
        let before = machine::usage();
        let outcome = load.run(u64::MAX, plan.time);
        let cpu = machine::usage().zip(before).map_or(0.0, |(after, before)| (after.cpu - before.cpu).as_secs_f64());
        Appends { cores: cpu / outcome.took.as_secs_f64(), outcome, raw }
    }
}

impl Appends {
    fn per_second(&self) -> f64 {
        self.outcome.appends as f64 / self.outcome.took.as_secs_f64()
    }

    fn of_raw(&self, window: usize) -> f64 {
        self.raw.as_ref().map_or(0.0, |raw| self.per_second() / (raw.per_second * window as f64))
    }
}

/// Reads of 1 KiB entries, verified, in turns with the same of a raw map.
fn read(plan: &Plan) {
    let mut table = Table::new(&["read of 1 KiB, verified", "ns", "raw ns", "times raw"]);
    for (name, bytes) in if plan.smoke { vec![("1 MiB", 1 << 20)] } else { vec![("16 MiB", 16 << 20), ("1 GiB", 1 << 30)] } {
        let count = bytes / PAYLOAD as u64;
        // Short turns, and many: whatever else the machine does then falls on both sides alike.
        let (turns, lookups) = if plan.smoke { (2, 100) } else { (5 * plan.runs + 1, 100_000) };
        let dir = scratch();
        let ledger = DLedger::builder(1).dir(dir.path().join("node")).open().expect("a node opens in a directory of its own");
        fill(&ledger, count);
        let records = RawRecords::new(count, PAYLOAD);
        let raw_in_order = || read_each(&records, 0..count);
        let mut row = |what: &str, of: u64, ours: &dyn Fn(u64) -> Duration, raw: &dyn Fn(u64) -> Duration| {
            // The first turn faults pages in, and does not count.
            let pairs: Vec<(f64, f64)> = (0..turns as u64).map(|turn| (nanos(ours(turn), of), nanos(raw(turn), of))).skip(1).collect();
            let (ours, raw): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
            let ratios: Vec<f64> = pairs.iter().map(|(ours, raw)| ours / raw).collect();
            table.row([
                format!("{what}, log of {name}"),
                format!("{:.0}", median(&ours)),
                format!("{:.0}", median(&raw)),
                format!("{:.2}", median(&ratios)),
            ]);
        };
        let numbers = |turn: u64| Shuffled::new(turn + 1, count).take(lookups as usize);
        row("in order", count, &|_| read_in_order(&ledger, count), &|_| raw_in_order());
        row("random", lookups, &|turn| get_each(&ledger, numbers(turn)), &|turn| read_each(&records, numbers(turn)));
        row("random, two threads", lookups * 2, &|turn| twice(|half| get_each(&ledger, numbers(2 * turn + half))), &|turn| {
            twice(|half| read_each(&records, numbers(2 * turn + half)))
        });
    }
    table.print();
}

fn nanos(took: Duration, of: u64) -> f64 {
    took.as_nanos() as f64 / of as f64
}

/// The same on two threads at once; how long both take together.
fn twice(work: impl Fn(u64) -> Duration + Sync) -> Duration {
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| work(0));
        work(1);
    });
    began.elapsed()
}

/// How long a node takes to open a log that was closed in good order, until it leads its group of one.
fn open(plan: &Plan) {
    let mut table = Table::new(&["open", "entries", "ms"]);
    for (name, bytes) in if plan.smoke { vec![("1 MiB", 1 << 20)] } else { vec![("16 MiB", 16 << 20), ("1 GiB", 1 << 30)] } {
        let count = bytes / PAYLOAD as u64;
        let dir = scratch();
        let builder = || DLedger::builder(1).dir(dir.path().join("node"));
        let ledger = builder().open().expect("a node opens in a directory of its own");
        fill(&ledger, count);
        ledger.shutdown().expect("a healthy node closes in good order");
        let took: Vec<Duration> = (0..plan.runs.max(2))
            .map(|_| {
                let began = Instant::now();
                let ledger = builder().open().expect("it opens again");
                let took = began.elapsed();
                assert_eq!(ledger.committed(), 0..count, "everything is still there");
                took
            })
            .collect();
        table.row([format!("a log of {name}"), count.to_string(), millis(median(&took))]);
    }
    table.print();
}

/// From the moment that the leader begins to shut down to the first append that the others acknowledge.
fn failover(plan: &Plan) {
    let rounds = if plan.smoke { 1 } else { 10 };
    let ms = Duration::from_millis;
    let mut table = Table::new(&["failover", "median ms", "least", "most", "rounds"]);
    for (name, heartbeat, election) in [("default timing", 100, 1000), ("fast timing", 50, 300)] {
        let timing = |builder: Builder| builder.heartbeat_interval(ms(heartbeat)).election_timeout(ms(election));
        let took: Vec<Duration> = (0..rounds).map(|_| first_append_without_the_leader(Cluster::open(Shape::Three, timing))).collect();
        table.row([
            format!("{name}: heartbeat {heartbeat} ms, election timeout {election} ms"),
            millis(median(&took)),
            millis(took.iter().copied().min().unwrap_or_default()),
            millis(took.iter().copied().max().unwrap_or_default()),
            rounds.to_string(),
        ]);
    }
    table.print();
}

fn first_append_without_the_leader(mut cluster: Cluster) -> Duration {
    let leader = cluster.leader();
    cluster.nodes[leader].append(b"before").expect("a healthy group acknowledges");
    let dead = cluster.nodes.swap_remove(leader);
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| dead.shutdown());
        loop {
            if cluster.nodes.iter().any(|node| node.append(b"after").is_ok()) {
                return began.elapsed();
            }
            thread::sleep(Duration::from_millis(1));
        }
    })
}
