//! Runs simulated clusters, each from its seed: `-- --seeds 1000..2000 [--jobs 2]`, or one of them
//! to be read: `-- --seed 1234 --trace`.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use dledger::sim::{self, CoverageCounts, Report, hosts};

/// Runs simulated clusters, each from its seed, and checks every answer of theirs.
#[derive(Parser)]
struct Cli {
    /// The seeds, one run each
    #[arg(long, value_name = "FROM..TO", default_value = "0..100", value_parser = parse_range)]
    seeds: Range<u64>,
    /// One seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// How many run at a time
    #[arg(
        long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    jobs: u64,
    /// Print every event of each run
    #[arg(long)]
    trace: bool,
    /// Print a hash of each run, the same for the same seed
    #[arg(long)]
    hashes: bool,
    /// Runs with several groups in each process
    #[arg(long)]
    hosts: bool,
    /// Stop after so many violations
    #[arg(long, value_name = "N", default_value_t = 10)]
    stop_after: usize,
}

impl Cli {
    fn seeds(&self) -> Range<u64> {
        self.seed.map_or(self.seeds.clone(), |seed| seed..seed.saturating_add(1))
    }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is FROM..TO")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    Ok(number(from)?..number(to)?)
}

/// What came of all runs together.
#[derive(Default)]
struct Tally {
    runs: u64,
    simulated: Duration,
    events: u64,
    operations: u64,
    coverage: CoverageCounts,
    violations: Vec<Report>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let began = Instant::now();
    let tally = if cli.trace { trace(&cli) } else { campaign(&cli) };
    print_summary(&tally, began.elapsed());
    if tally.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn trace(cli: &Cli) -> Tally {
    let mut tally = Tally::default();
    for seed in cli.seeds() {
        tally.take(run_traced(cli.hosts, seed), cli);
    }
    tally
}

fn run_traced(hosts: bool, seed: u64) -> Report {
    let print = |line: &str| println!("{line}");
    if hosts { hosts::run_traced(seed, print) } else { sim::run_traced(seed, print) }
}

/// All seeds, on so many threads.
fn campaign(cli: &Cli) -> Tally {
    let seeds = cli.seeds();
    let next = AtomicU64::new(seeds.start);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..cli.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough =
                        tally.lock().expect("no run panics").violations.len() >= cli.stop_after;
                    if seed >= seeds.end || enough {
                        return;
                    }
                    let report = if cli.hosts { hosts::run(seed) } else { sim::run(seed) };
                    tally.lock().expect("no run panics").take(report, cli);
                }
            });
        }
    });
    tally.into_inner().expect("no run panics")
}

impl Tally {
    fn take(&mut self, report: Report, cli: &Cli) {
        if cli.hashes {
            println!("{} {:016x}", report.seed, report.hash);
        }
        if report.violation.is_some() {
            println!("{report}");
        }
        self.runs += 1;
        self.simulated += report.simulated;
        self.events += report.events;
        self.operations += report.operations;
        self.coverage.add(&report.coverage);
        if report.violation.is_some() {
            self.violations.push(report);
        }
    }
}

fn print_summary(tally: &Tally, took: Duration) {
    print!("{}", tally.coverage);
    let (simulated, took) = (tally.simulated.as_secs_f64(), took.as_secs_f64());
    println!(
        "{} runs, {} events, {} operations, {simulated:.0} s simulated in {took:.1} s: {:.0} \
         times as fast as time; {} violations",
        tally.runs,
        tally.events,
        tally.operations,
        simulated / took,
        tally.violations.len()
    );
}
