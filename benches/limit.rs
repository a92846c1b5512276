//! Every goal of the append path beside its physical limit, in the same run and in turns with it.
//!
//! ```sh
//! cargo bench --bench limit -- [--pairs 5] [--seconds 0.5] [--date 2026-11-25] \
//!   ["three nodes, sync, 1 KiB"] ..
//! ```
//!
//! A name takes the rows that hold it; without names all rows are taken. With `--smoke`, and
//! without `--bench`, which `cargo bench` adds, it only shows that every row runs.

mod measure;

use std::str::FromStr;
use std::time::Duration;

use dledger::FlushPolicy;

use measure::blocking::append_blocking;
use measure::cluster::{ASYNC, Cluster, Shape};
use measure::loopback::round_trip;
use measure::processes::{Processes, serve_as_member};
use measure::raw_log::{RawLogs, record_bytes};
use measure::raw_sync::{RawSync, Synced};
use measure::scratch::scratch;
use measure::table::{Table, median, micros, rate};
use measure::turn::{Turn, append, no_latencies};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if serve_as_member(&arguments) {
        return;
    }
    let plan = Plan::from_arguments(arguments.into_iter());
    println!("dledger {}, {}", env!("CARGO_PKG_VERSION"), plan.date);
    println!("{}\n", measure::machine::describe(scratch().path()));
    let mut table = Table::new(&[
        "append", "ours", "limit", "ratio", "least", "most", "goal", "keeping", "ratio", "p50 us",
        "p99 us", "cores", "probe us",
    ]);
    for row in Row::all().filter(|row| plan.wants(&row.name())) {
        eprintln!("{} ..", row.name());
        table.row(row.measure(&plan).cells(&row));
    }
    table.print();
    println!(
        "Medians of {} pairs, each a turn of {} ms of ours and one of the limit; the ratio is \
         taken pair by pair. Keeping: the limit, if it keeps what it writes as ours does. Probe: \
         the median of a raw `pwrite` and `fdatasync` of 4 KiB between the turns.\n\
         Restless: over 1 ms. Such pairs are taken again, and a row that says so is worth \
         nothing.\n",
        plan.pairs,
        plan.time.as_millis()
    );
}

/// How much of everything.
struct Plan {
    date: String,
    pairs: usize,
    /// Of one turn.
    time: Duration,
    /// Of each raw log.
    file_bytes: u64,
    /// Which rows: those whose name holds one of these. Empty: all.
    wanted: Vec<String>,
}

impl Plan {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Plan {
        let mut plan = Plan {
            date: "undated".to_owned(),
            pairs: 5,
            time: Duration::from_millis(500),
            file_bytes: 256 << 20,
            wanted: Vec::new(),
        };
        let (mut real, mut smoke) = (false, false);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => real = true,
                "--test" | "--smoke" => smoke = true,
                "--date" => plan.date = value(&argument, arguments.next()),
                "--pairs" => plan.pairs = value(&argument, arguments.next()),
                "--seconds" => {
                    plan.time = Duration::from_secs_f64(value(&argument, arguments.next()))
                }
                _ => plan.wanted.push(argument),
            }
        }
        if smoke || !real {
            (plan.pairs, plan.time, plan.file_bytes) = (1, Duration::from_millis(20), 4 << 20);
        }
        plan
    }

    fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| name.contains(wanted))
    }
}

fn value<T: FromStr>(name: &str, text: Option<String>) -> T {
    let Some(value) = text.as_deref().and_then(|text| text.parse().ok()) else {
        panic!("{name} needs a value, not {text:?}")
    };
    value
}

/// One row of the table: a load on a group, and what it is held against.
#[derive(Clone, Copy)]
struct Row {
    nodes: Nodes,
    flush: FlushPolicy,
    bytes: usize,
    load: Callers,
    /// The host gives up what is older than the newest [`KEPT_BYTES`] as it goes, as one with a
    /// retention does: segments are used again.
    purges: bool,
    goal: Option<Goal>,
}

/// What a host that purges keeps.
const KEPT_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nodes {
    One,
    /// In this process, through memory.
    Three,
    /// Three processes, through loopback TCP.
    Processes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Callers {
    /// One thread that keeps so many appends in flight.
    InFlight(usize),
    /// So many threads, each in a blocking append.
    Threads(usize),
}

/// What the ratio of ours to the limit should be.
#[derive(Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

const PAYLOADS: [(usize, &str); 2] = [(128, "128 B"), (1 << 10, "1 KiB")];

impl Row {
    fn all() -> impl Iterator<Item = Row> {
        use Callers::{InFlight, Threads};
        use Goal::{AtLeast, AtMost};
        use Nodes::{One, Processes, Three};
        const SYNC: FlushPolicy = FlushPolicy::Sync;
        // Two goals each: for 128 B and for 1 KiB.
        let rows = [
            (One, SYNC, InFlight(1024), false, [Some(AtLeast(0.70)), Some(AtLeast(0.80))]),
            (One, SYNC, InFlight(1024), true, [Some(AtLeast(0.70)), Some(AtLeast(0.80))]),
            (One, ASYNC, InFlight(1024), false, [None, None]),
            (One, SYNC, InFlight(1), false, [Some(AtMost(1.30)); 2]),
            (Three, SYNC, InFlight(1024), false, [Some(AtLeast(0.65)), Some(AtLeast(0.75))]),
            (Three, SYNC, InFlight(1024), true, [Some(AtLeast(0.65)), Some(AtLeast(0.75))]),
            (Three, ASYNC, InFlight(1024), false, [Some(AtLeast(0.70)); 2]),
            (Three, ASYNC, InFlight(1024), true, [Some(AtLeast(0.70)); 2]),
            (Three, SYNC, InFlight(1), false, [Some(AtLeast(0.85)); 2]),
            (Three, SYNC, Threads(256), false, [Some(AtLeast(0.60)); 2]),
            (Processes, SYNC, InFlight(1024), false, [None, Some(AtLeast(0.60))]),
            (Processes, SYNC, InFlight(1024), true, [None, Some(AtLeast(0.60))]),
            (Processes, ASYNC, InFlight(1024), false, [None, None]),
            (Processes, SYNC, InFlight(1), false, [Some(AtLeast(0.80)); 2]),
        ];
        rows.into_iter().flat_map(|(nodes, flush, load, purges, goals)| {
            PAYLOADS.into_iter().zip(goals).map(move |((bytes, _), goal)| Row {
                nodes,
                flush,
                bytes,
                load,
                purges,
                goal,
            })
        })
    }

    fn name(&self) -> String {
        let nodes = match self.nodes {
            Nodes::One => "one node",
            Nodes::Three => "three nodes",
            Nodes::Processes => "three processes",
        };
        let policy = if self.is_synced() { "sync" } else { "async" };
        let payload =
            PAYLOADS.iter().find(|(bytes, _)| *bytes == self.bytes).map_or("?", |(_, name)| name);
        match self.load {
            Callers::InFlight(window) if self.purges => {
                format!("{nodes}, {policy}, {payload}, {window} in flight, purging")
            }
            Callers::InFlight(window) => {
                format!("{nodes}, {policy}, {payload}, {window} in flight")
            }
            Callers::Threads(threads) => {
                format!("{nodes}, {policy}, {payload}, {threads} blocking threads")
            }
        }
    }

    /// How many entries a host keeps, if it does not keep all.
    fn kept(&self) -> Option<u64> {
        self.purges.then_some(KEPT_BYTES / self.bytes as u64)
    }

    fn is_synced(&self) -> bool {
        self.flush == FlushPolicy::Sync
    }

    /// Takes pairs until there are enough of a quiet disk, but at most twice as many.
    fn measure(&self, plan: &Plan) -> Measured {
        let probe = RawSync::new(1, 4096);
        let limit = Limit::of(self, plan);
        let mut group = Group::open(self);
        group.append(self, plan.time.mul_f64(0.6));
        // The files of the limit are there before it begins. Those of a host that purges are once
        // it has written as much.
        while self.purges && group.end() * (self.bytes as u64) < plan.file_bytes {
            group.append(self, plan.time);
        }
        let mut pairs: Vec<Pair> = Vec::new();
        let quiet = |pairs: &[Pair]| pairs.iter().filter(|pair| !pair.probe.is_restless()).count();
        while quiet(&pairs) < plan.pairs && pairs.len() < 2 * plan.pairs {
            let probe = probe.run(plan.time.mul_f64(0.06));
            let turn = group.append(self, plan.time);
            group.purge();
            let (ours, limit_rate) = limit.beside(&turn, &mut group, self, plan.time);
            group.purge();
            let keeping = limit.keeping(self, plan.time);
            pairs.push(Pair { ours, limit: limit_rate, keeping, turn, probe });
        }
        let restless = quiet(&pairs) < plan.pairs;
        if !restless {
            pairs.retain(|pair| !pair.probe.is_restless());
        }
        Measured { pairs, restless, in_micros: matches!(limit, Limit::SyncLatency(_)) }
    }
}

/// The group that is measured. It stays open from one turn to the next.
enum Group {
    Here(Cluster),
    Apart(Processes),
}

impl Group {
    fn open(row: &Row) -> Group {
        let here = |shape| Group::Here(Cluster::open(shape, |builder| builder.flush(row.flush)));
        match row.nodes {
            Nodes::One => here(Shape::One),
            Nodes::Three => here(Shape::Three),
            Nodes::Processes => Group::Apart(Processes::start(row.flush, row.kept())),
        }
    }

    /// One turn of the row's load.
    fn append(&mut self, row: &Row, time: Duration) -> Turn {
        match row.load {
            Callers::InFlight(window) => self.append_pipelined(row, window, time),
            Callers::Threads(threads) => {
                let Group::Here(cluster) = self else { panic!("threads append in this process") };
                let payload = vec![0x5a; row.bytes];
                let leader = &cluster.nodes[cluster.leader()];
                let (per_second, cores) = measure::machine::cores_busy(|| {
                    append_blocking(leader, &payload, threads, time)
                });
                Turn { per_second, latency: no_latencies(), cores }
            }
        }
    }

    /// Processes purge from their start, if they do.
    fn append_pipelined(&mut self, row: &Row, window: usize, time: Duration) -> Turn {
        match self {
            Group::Here(cluster) => {
                let work = || {
                    append(&cluster.nodes[cluster.leader()], &vec![0x5a; row.bytes], window, time)
                };
                match row.kept() {
                    Some(kept) => cluster.purging(kept, work),
                    None => work(),
                }
            }
            Group::Apart(processes) => processes.append(row.bytes, window, time),
        }
    }

    /// How many entries were appended so far.
    fn end(&mut self) -> u64 {
        match self {
            Group::Here(cluster) => cluster.nodes[cluster.leader()].committed().end,
            Group::Apart(processes) => processes.end(),
        }
    }

    /// Gives up what was appended, so that the disk does not fill up.
    fn purge(&mut self) {
        match self {
            Group::Here(cluster) => cluster.nodes.iter().for_each(|node| {
                node.purge(node.committed().end).expect("a healthy node purges");
            }),
            Group::Apart(processes) => processes.purge(),
        }
    }
}

/// What a row is held against.
enum Limit {
    /// `limit/one` and `limit/three`: as many raw logs as there are nodes.
    Logs(RawLogs),
    /// A raw write and sync of one append, by its median.
    SyncLatency(RawSync),
    /// The same into as many files as there are nodes, by its rate.
    SyncRate(RawSync),
    /// The same, and a round trip of the loopback device.
    SyncAndRoundTrip(RawSync),
    /// As many futures in flight on the same group as there are threads.
    Futures(usize),
}

impl Limit {
    fn of(row: &Row, plan: &Plan) -> Limit {
        let nodes = if row.nodes == Nodes::One { 1 } else { 3 };
        let sync = || RawSync::new(nodes, record_bytes(1, row.bytes));
        match (row.load, row.nodes) {
            (Callers::Threads(threads), _) => Limit::Futures(threads),
            (Callers::InFlight(1), Nodes::One) => Limit::SyncLatency(sync()),
            (Callers::InFlight(1), Nodes::Three) => Limit::SyncRate(sync()),
            (Callers::InFlight(1), Nodes::Processes) => Limit::SyncAndRoundTrip(sync()),
            (Callers::InFlight(_), _) => Limit::Logs(RawLogs::new(nodes, plan.file_bytes)),
        }
    }

    /// The limit of a log that keeps what it writes, if that is another.
    fn keeping(&self, row: &Row, time: Duration) -> Option<f64> {
        match (self, row.load) {
            (Limit::Logs(logs), Callers::InFlight(window)) if !row.purges => {
                Some(logs.append_and_keep(&vec![0x5a; row.bytes], window, row.is_synced(), time))
            }
            _ => None,
        }
    }

    /// One turn of the limit, as two figures that compare: ours and its own.
    fn beside(&self, turn: &Turn, group: &mut Group, row: &Row, time: Duration) -> (f64, f64) {
        match self {
            Limit::Logs(logs) => {
                let Callers::InFlight(window) = row.load else {
                    panic!("a log is beside appends in flight")
                };
                (
                    turn.per_second,
                    logs.append(&vec![0x5a; row.bytes], window, row.is_synced(), time),
                )
            }
            Limit::SyncLatency(sync) => {
                (turn.quantile(0.5).as_secs_f64(), sync.run(time).p50.as_secs_f64())
            }
            Limit::SyncRate(sync) => (turn.per_second, sync.run(time).per_second),
            Limit::SyncAndRoundTrip(sync) => {
                let least =
                    sync.run(time / 2).p50 + round_trip(record_bytes(1, row.bytes), time / 2);
                (turn.per_second, 1.0 / least.as_secs_f64())
            }
            Limit::Futures(window) => {
                (turn.per_second, group.append_pipelined(row, *window, time).per_second)
            }
        }
    }
}

/// Two turns, and the probe before them.
struct Pair {
    ours: f64,
    limit: f64,
    keeping: Option<f64>,
    turn: Turn,
    probe: Synced,
}

/// What became of a row.
struct Measured {
    pairs: Vec<Pair>,
    restless: bool,
    /// Figures are seconds of one append, not appends a second.
    in_micros: bool,
}

impl Measured {
    fn cells(&self, row: &Row) -> [String; 13] {
        let all = |of: &dyn Fn(&Pair) -> f64| self.pairs.iter().map(of).collect::<Vec<_>>();
        let figure = |of: &dyn Fn(&Pair) -> f64| match (self.in_micros, median(&all(of))) {
            (true, seconds) => format!("{} us", micros((seconds * 1e9) as u64)),
            (false, per_second) => rate(per_second),
        };
        let time = |of: &dyn Fn(&Pair) -> Duration| {
            micros(median(&all(&|pair| of(pair).as_nanos() as f64)) as u64)
        };
        let latency = |of: &dyn Fn(&Pair) -> Duration| {
            if matches!(row.load, Callers::InFlight(_)) { time(of) } else { String::new() }
        };
        let ratios = all(&|pair| pair.ours / pair.limit);
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let kept: Vec<(f64, f64)> = self
            .pairs
            .iter()
            .filter_map(|pair| pair.keeping.map(|keeping| (keeping, pair.ours / keeping)))
            .collect();
        let (keeping, to_keeping): (Vec<f64>, Vec<f64>) = kept.iter().copied().unzip();
        let if_kept =
            |cell: &dyn Fn() -> String| if kept.is_empty() { String::new() } else { cell() };
        [
            row.name() + if self.restless { " (restless)" } else { "" },
            figure(&|pair| pair.ours),
            figure(&|pair| pair.limit),
            format!("{:.2}", median(&ratios)),
            format!("{least:.2}"),
            format!("{most:.2}"),
            row.goal.map_or_else(String::new, |goal| goal.judge(median(&ratios))),
            if_kept(&|| rate(median(&keeping))),
            if_kept(&|| format!("{:.2}", median(&to_keeping))),
            latency(&|pair| pair.turn.quantile(0.5)),
            latency(&|pair| pair.turn.quantile(0.99)),
            format!("{:.2}", median(&all(&|pair| pair.turn.cores))),
            time(&|pair| pair.probe.p50),
        ]
    }
}

impl Goal {
    fn judge(self, ratio: f64) -> String {
        let (text, met) = match self {
            Goal::AtLeast(least) => (format!(">= {least:.2}"), ratio >= least),
            Goal::AtMost(most) => (format!("<= {most:.2}"), ratio <= most),
        };
        text + if met { " met" } else { " MISSED" }
    }
}
