//! Every figure of the crate but the appends, which `limit` takes: reads beside what the memory can
//! do, and what a group costs that is idle, opens or loses its leader. As tables for a page.
//!
//! ```sh
//! cargo bench --bench figures -- [--date 2026-11-23] [--runs 3] \
//!   [idle] [cpu] [async] [retention] [read] [follow] [dispatch] [open] [failover]
//! cargo bench --bench figures -- growth [--entries 100000000]
//! ```
//!
//! Without names all figures are taken but `growth`, which takes minutes and 15 GB. Without
//! `--bench`, which `cargo bench` adds, it only shows that every part runs.

mod measure;

use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use dledger::transport::MemoryNetwork;
use dledger::{Builder, DLedger};

use measure::async_tasks::How;
use measure::cluster::{Cluster, Shape};
use measure::dispatch::{self, Way};
use measure::followers::{UnderLoad, caught_up, caught_up_under_load, tailed};
use measure::load::Load;
use measure::lookups::{PAYLOAD, Shuffled, fill, get_each, read_each, read_in_order};
use measure::raw_records::RawRecords;
use measure::retained::beside;
use measure::scratch::scratch;
use measure::table::{Table, median, micros, millis, rate};
use measure::tasks::{Tasks, Timer};
use measure::turn::Turn;

/// How much of everything.
struct Plan {
    /// Only to see that it runs.
    smoke: bool,
    date: String,
    runs: usize,
    /// How far a log grows.
    entries: u64,
    /// What to take. Empty: everything that does not take minutes.
    wanted: Vec<String>,
}

type Figure = fn(&Plan);

/// The idle cluster comes first, before anything else has left its traces in this process.
const FIGURES: [(&str, Figure); 10] = [
    ("idle", idle),
    ("cpu", cpu),
    ("async", async_tasks),
    ("retention", retention),
    ("read", read),
    ("follow", follow),
    ("dispatch", dispatch),
    ("open", open),
    ("failover", failover),
    ("growth", growth),
];

fn main() {
    let plan = Plan::from_arguments(std::env::args().skip(1));
    println!("dledger {}, {}", env!("CARGO_PKG_VERSION"), plan.date);
    println!("{}\n", measure::machine::describe(scratch().path()));
    for (name, take) in FIGURES {
        let is_usual = plan.smoke || name != "growth";
        if plan.wanted.is_empty() && is_usual || plan.wanted.iter().any(|wanted| wanted == name) {
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
            entries: 100_000_000,
            wanted: Vec::new(),
        };
        let mut test = false;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => plan.smoke = false,
                "--test" | "--smoke" => test = true,
                "--date" => plan.date = value(&argument, arguments.next()),
                "--runs" => plan.runs = value(&argument, arguments.next()),
                "--entries" => plan.entries = value(&argument, arguments.next()),
                other => plan.wanted.push(other.to_owned()),
            }
        }
        plan.smoke |= test;
        if plan.smoke {
            (plan.runs, plan.entries) = (1, 2_000);
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

/// What an idle cluster costs.
fn idle(plan: &Plan) {
    let (settle, time) = if plan.smoke {
        (Duration::from_millis(20), Duration::from_millis(20))
    } else {
        (Duration::from_secs(2), Duration::from_secs(10))
    };
    let cluster = Cluster::open(Shape::Three, |builder| builder);
    cluster.leader();
    thread::sleep(settle);
    let Some(before) = measure::machine::usage() else {
        return println!("This system does not tell what an idle cluster costs.\n");
    };
    thread::sleep(time);
    let Some(after) = measure::machine::usage() else { return };
    let seconds = time.as_secs_f64();
    let mut table =
        Table::new(&["idle", "% of one core", "context switches/s", "resident beyond the map, MB"]);
    table.row([
        "three nodes, default timing".to_owned(),
        format!("{:.3}", (after.cpu - before.cpu).as_secs_f64() / seconds * 100.0),
        format!("{:.0}", (after.switches - before.switches) as f64 / seconds),
        format!("{:.1}", after.resident_bytes as f64 / 1e6),
    ]);
    table.print();
}

/// What a cluster costs that is used a little: many tasks that append now and then.
fn cpu(plan: &Plan) {
    const COUNT: usize = 2_000;
    let (settle, time) = match plan.smoke {
        true => (Duration::from_millis(20), Duration::from_millis(20)),
        false => (Duration::from_millis(500), Duration::from_secs(3)),
    };
    let cluster = Cluster::open(Shape::Three, |builder| builder);
    let leader = &cluster.nodes[cluster.leader()];
    let columns = [
        "2,000 tasks, 128 B, three nodes",
        "appends/s",
        "cores",
        "of them the tasks",
        "p50 us",
        "p99 us",
    ];
    let mut table = Table::new(&columns);
    for (name, timer) in
        [("at any moment", Timer::Exact), ("at full milliseconds", Timer::Millisecond)]
    {
        for per_second in [9_500.0, 38_000.0] {
            let tasks = Tasks { count: COUNT, per_second, bytes: 128, timer };
            tasks.run(leader, settle);
            let turns: Vec<_> = (0..plan.runs).map(|_| tasks.run(leader, time)).collect();
            let of = |figure: &dyn Fn(&(Turn, f64)) -> f64| {
                median(&turns.iter().map(figure).collect::<Vec<_>>())
            };
            let latency = |at| micros(of(&|(turn, _)| turn.quantile(at).as_nanos() as f64) as u64);
            table.row([
                format!("{} a second, {name}", rate(per_second)),
                rate(of(&|(turn, _)| turn.per_second)),
                format!("{:.2}", of(&|(turn, _)| turn.cores)),
                format!("{:.2}", of(&|(_, own)| *own)),
                latency(0.5),
                latency(0.99),
            ]);
        }
    }
    table.print();
}

/// Ways to append from many tasks, in turns.
fn async_tasks(plan: &Plan) {
    const COUNT: usize = 2_000;
    const WINDOW: u64 = 16 << 20;
    let time = Duration::from_millis(if plan.smoke { 20 } else { 1_000 });
    let columns = ["2,000 tasks, appends/s", "append_async", "append_when_ready", "ten watches"];
    let mut table = Table::new(&columns);
    for (name, bytes) in [("128 B", 128), ("64 KiB, window of 16 MiB", 64 << 10)] {
        let cluster = Cluster::open(Shape::Three, |builder| builder.max_in_flight_bytes(WINDOW));
        let leader = &cluster.nodes[cluster.leader()];
        let fits = (COUNT * bytes) as u64 <= WINDOW;
        let mut rates = [How::Async, How::WhenReady, How::Watched].map(|how| (how, Vec::new()));
        for _ in 0..plan.runs {
            for (how, rates) in rates.iter_mut().filter(|(how, _)| fits || *how == How::WhenReady) {
                rates.push(measure::async_tasks::run(leader, *how, COUNT, bytes, time));
            }
        }
        let [plain, ready, watched] = rates.map(|(_, rates)| match &rates[..] {
            [] => "refused: Busy".to_owned(),
            rates => rate(median(rates)),
        });
        table.row([name.to_owned(), plain, ready, watched]);
    }
    table.print();
}

/// Reads of 1 KiB entries, verified, in turns with the same of a raw map.
fn read(plan: &Plan) {
    let mut table = Table::new(&["read of 1 KiB, verified", "ns", "raw ns", "times raw"]);
    for (name, bytes) in if plan.smoke {
        vec![("1 MiB", 1 << 20)]
    } else {
        vec![("16 MiB", 16 << 20), ("1 GiB", 1 << 30)]
    } {
        let count = bytes / PAYLOAD as u64;
        // Short turns, and many: whatever else the machine does then falls on both sides alike.
        let (turns, lookups) = if plan.smoke { (2, 100) } else { (5 * plan.runs + 1, 100_000) };
        let dir = scratch();
        let ledger = DLedger::builder(1)
            .dir(dir.path().join("node"))
            .open()
            .expect("a node opens in a directory of its own");
        fill(&ledger, count);
        let records = RawRecords::new(count, PAYLOAD);
        let raw_in_order = || read_each(&records, 0..count);
        let mut row =
            |what: &str, of: u64, ours: &dyn Fn(u64) -> Duration, raw: &dyn Fn(u64) -> Duration| {
                // The first turn faults pages in, and does not count.
                let pairs: Vec<(f64, f64)> = (0..turns as u64)
                    .map(|turn| (nanos(ours(turn), of), nanos(raw(turn), of)))
                    .skip(1)
                    .collect();
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
        row("random", lookups, &|turn| get_each(&ledger, numbers(turn)), &|turn| {
            read_each(&records, numbers(turn))
        });
        row(
            "random, two threads",
            lookups * 2,
            &|turn| twice(|half| get_each(&ledger, numbers(2 * turn + half))),
            &|turn| twice(|half| read_each(&records, numbers(2 * turn + half))),
        );
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

/// What a reader at the tail costs, and a follower that was away; and whether they keep up.
fn follow(plan: &Plan) {
    let (time, bytes, file_bytes) = match plan.smoke {
        true => (Duration::from_millis(20), 1 << 20, 4 << 20),
        false => (Duration::from_secs(1), 1 << 30, 256 << 20),
    };
    let mut table = Table::new(&[
        "1 KiB, 1024 in flight, sync",
        "appends/s alone",
        "with it",
        "ratio",
        "behind at the end",
    ]);
    for (name, shape) in [
        ("a reader at the tail, one node", Shape::One),
        ("a reader at the tail, three nodes", Shape::Three),
    ] {
        let cluster = Cluster::open(shape, |builder| builder);
        let (alone, tailed, behind) = tailed(&cluster, time);
        table.row([
            name.to_owned(),
            rate(alone),
            rate(tailed),
            format!("{:.2}", tailed / alone),
            format!("{behind} entries"),
        ]);
    }
    let (caught_up, limit) = caught_up(bytes, file_bytes, time);
    let unbounded = |builder: Builder| builder.catch_up_bytes_per_second(u64::MAX);
    for (pace, set) in
        [("", &(|builder| builder) as &dyn Fn(Builder) -> Builder), (", unbounded", &unbounded)]
    {
        let UnderLoad { behind, before, during, after, took } =
            caught_up_under_load(bytes, set, time, 30 * time);
        let there = took.map_or_else(
            || "not there in time".to_owned(),
            |took| format!("there after {} ms", millis(took)),
        );
        for (beside, alone) in [("while it is away", before), ("once it is there", after)] {
            let what = format!(
                "a follower {} MiB behind{pace}, beside the appends {beside}",
                behind >> 20
            );
            table.row([
                what,
                rate(alone),
                rate(during),
                format!("{:.2}", during / alone),
                there.clone(),
            ]);
        }
    }
    table.print();
    let mut table = Table::new(&["behind an idle leader", "entries/s", "one raw writer", "ratio"]);
    table.row([
        format!("a follower {} MiB behind", bytes >> 20),
        rate(caught_up),
        rate(limit),
        format!("{:.2}", caught_up / limit),
    ]);
    table.print();
}

/// What a reader at the tail takes and costs that reads entry by entry, or in chunks.
fn dispatch(plan: &Plan) {
    let (time, count) = match plan.smoke {
        true => (Duration::from_millis(20), 1 << 12),
        false => (Duration::from_secs(1), 1 << 20),
    };
    let open = || Cluster::open(Shape::One, |builder| builder);
    let cluster = open();
    dispatch::fill(&cluster.nodes[0], count);
    let columns = ["128 B, behind", "entries a second of processor time", "ratio"];
    let mut table = Table::new(&columns);
    let mut rates = Way::ALL.map(|(name, way)| (name, way, Vec::new()));
    for _ in 0..plan.runs {
        for (_, way, rates) in &mut rates {
            rates.push(dispatch::drained(&cluster.nodes[0], *way));
        }
    }
    let first = median(&rates[0].2);
    for (name, _, rates) in &rates {
        table.row([(*name).to_owned(), rate(median(rates)), ratio(median(rates), first)]);
    }
    table.print();
    let cluster = open();
    let alone = dispatch::alone(&cluster.nodes[0], time);
    let mut table = Table::new(&[
        "128 B, 1024 in flight",
        "appends/s",
        "ratio",
        "reader, ns an entry",
        "behind",
    ]);
    table.row(["no reader".to_owned(), rate(alone), ratio(1.0, 1.0), String::new(), String::new()]);
    for (name, way) in Way::ALL {
        let beside = dispatch::beside(&cluster.nodes[0], way, time);
        table.row([
            name.to_owned(),
            rate(beside.appends),
            ratio(beside.appends, alone),
            format!("{:.0}", beside.nanos),
            format!("{} entries", beside.behind),
        ]);
    }
    table.print();
    #[cfg(feature = "stream")]
    many_tails(time);
}

/// What tails cost that tasks wait at.
#[cfg(feature = "stream")]
fn many_tails(time: Duration) {
    let cluster = Cluster::open(Shape::One, |builder| builder);
    let ledger = &cluster.nodes[0];
    let mut table = Table::new(&["tails", "idle: % of a core", "loaded: appends/s", "cores"]);
    for tails in [0, 1000] {
        let idle = dispatch::idle(ledger, tails, 2 * time);
        let (appends, cores) = dispatch::loaded(ledger, tails, time);
        table.row([
            tails.to_string(),
            format!("{:.3}", idle * 100.0),
            rate(appends),
            format!("{cores:.2}"),
        ]);
    }
    table.print();
}

fn ratio(part: f64, whole: f64) -> String {
    format!("{:.2}", part / whole)
}

/// Appends beside the removal of as much as comes.
fn retention(plan: &Plan) {
    let time = Duration::from_millis(if plan.smoke { 20 } else { 1_000 });
    let columns = ["1024 in flight, appends/s", "keeps all", "128 MiB", "ratio", "removed"];
    let mut table = Table::new(&columns);
    for (nodes, shape) in [("one node", Shape::One), ("three nodes", Shape::Three)] {
        for (name, bytes) in [("128 B", 128), ("4 KiB", 4 << 10)] {
            let compared = beside(shape, bytes, plan.runs.max(1) * 3, time);
            table.row([
                format!("{nodes}, {name}"),
                rate(compared.keeping),
                rate(compared.removing),
                format!("{:.3}", compared.ratio),
                compared.removed.to_string(),
            ]);
        }
    }
    table.print();
}

/// How long a node takes to open a log that was closed in good order, until it leads its group of
/// one.
fn open(plan: &Plan) {
    let mut table = Table::new(&["open", "entries", "ms"]);
    for (name, bytes) in if plan.smoke {
        vec![("1 MiB", 1 << 20)]
    } else {
        vec![("16 MiB", 16 << 20), ("1 GiB", 1 << 30)]
    } {
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

/// What a log costs that has grown: appends, reads and opening, at one hundredth, a tenth and all
/// of its length.
fn growth(plan: &Plan) {
    const PIECES: u64 = 10;
    const LOOKUPS: usize = 100_000;
    let step = plan.entries / 100;
    let dir = scratch();
    let open = || {
        DLedger::builder(1)
            .dir(dir.path().join("node"))
            .open()
            .expect("a node opens in a directory of its own")
    };
    let payload = [0x5a; 128];
    let mut ledger = open();
    let columns = [
        "entries of 128 B",
        "appends/s, 1024 in flight",
        "get ns, of all",
        "get ns, of the newest hundredth",
        "open ms",
        "again ms",
    ];
    let mut table = Table::new(&columns);
    for checkpoint in [step, plan.entries / 10, plan.entries] {
        let mut load = Load::new(&ledger, &payload, 1024);
        let missing = checkpoint - step - ledger.committed().end;
        load.run(missing, Duration::MAX);
        let rates: Vec<f64> = (0..PIECES)
            .map(|_| load.run(step / PIECES, Duration::MAX))
            .map(|outcome| outcome.appends as f64 / outcome.took.as_secs_f64())
            .collect();
        let lookups = if plan.smoke { 100 } else { LOOKUPS };
        let get = |from: u64, count: u64| {
            let numbers =
                |seed| Shuffled::new(seed, count).take(lookups).map(move |number| from + number);
            // The first time faults pages in, and does not count.
            get_each(&ledger, numbers(1));
            let took: Vec<f64> = (1..=plan.runs as u64)
                .map(|seed| nanos(get_each(&ledger, numbers(seed)), lookups as u64))
                .collect();
            median(&took)
        };
        let (of_all, of_newest) = (get(0, checkpoint), get(checkpoint - step, step));
        let opened: Vec<Duration> = (0..=plan.runs.max(1))
            .map(|_| {
                ledger.shutdown().expect("a healthy node closes in good order");
                let began = Instant::now();
                ledger = open();
                began.elapsed()
            })
            .collect();
        assert_eq!(ledger.committed(), 0..checkpoint, "everything is still there");
        table.row([
            checkpoint.to_string(),
            rate(median(&rates)),
            format!("{of_all:.0}"),
            format!("{of_newest:.0}"),
            millis(opened[0]),
            millis(median(&opened[1..])),
        ]);
    }
    table.print();
}

/// From the moment that the leader goes to the first append that the others acknowledge.
fn failover(plan: &Plan) {
    let rounds = if plan.smoke { 1 } else { 10 };
    let ms = Duration::from_millis;
    let mut table = Table::new(&["failover", "median ms", "least", "most", "rounds"]);
    for (name, heartbeat, election) in [("default timing", 100, 1000), ("fast timing", 50, 300)] {
        let timing = |builder: Builder| {
            builder.heartbeat_interval(ms(heartbeat)).election_timeout(ms(election))
        };
        let ways: [(&str, Farewell); 2] = [
            ("cut off", |leader, network| network.isolate(leader.status().id)),
            ("shut down", |leader, _| {
                leader.shutdown().expect("a healthy node closes in good order")
            }),
        ];
        for (how, farewell) in ways {
            let took: Vec<Duration> = (0..rounds)
                .map(|_| {
                    first_append_without_the_leader(Cluster::open(Shape::Three, timing), farewell)
                })
                .collect();
            table.row([
                format!(
                    "the leader is {how}; {name}: heartbeat {heartbeat} ms, election timeout \
                    {election} ms"
                ),
                millis(median(&took)),
                millis(took.iter().copied().min().unwrap_or_default()),
                millis(took.iter().copied().max().unwrap_or_default()),
                rounds.to_string(),
            ]);
        }
    }
    table.print();
}

/// How a leader goes.
type Farewell = fn(&DLedger, &MemoryNetwork);

fn first_append_without_the_leader(mut cluster: Cluster, farewell: Farewell) -> Duration {
    let leader = cluster.leader();
    cluster.nodes[leader].append(b"before").expect("a healthy group acknowledges");
    let gone = cluster.nodes.swap_remove(leader);
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| farewell(&gone, &cluster.network));
        loop {
            if cluster.nodes.iter().any(|node| node.append(b"after").is_ok()) {
                return began.elapsed();
            }
            thread::sleep(Duration::from_millis(1));
        }
    })
}
