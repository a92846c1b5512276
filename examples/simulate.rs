//! Runs simulated clusters, each from its seed: `-- --seeds 1000..2000 [--jobs 2]`, or one of them to be read: `-- --seed 1234 --trace`.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dledger::sim::{self, Report, Sightings};

/// What was asked for.
struct Wanted {
    seeds: Range<u64>,
    jobs: usize,
    trace: bool,
    hashes: bool,
    violations_max: usize,
}

/// What came of all runs together.
#[derive(Default)]
struct Tally {
    runs: u64,
    simulated: Duration,
    events: u64,
    operations: u64,
    sightings: Sightings,
    violations: Vec<Report>,
}

fn main() -> ExitCode {
    let wanted = match wanted(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(why) => {
            eprintln!("{why}\nusage: simulate --seeds FROM..TO [--jobs N] [--hashes] [--stop-after N] | --seed N [--trace]");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let tally = if wanted.trace { trace(&wanted) } else { campaign(&wanted) };
    tell(&tally, began.elapsed());
    if tally.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn wanted(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted { seeds: 0..100, jobs: 1, trace: false, hashes: false, violations_max: 10 };
    while let Some(word) = words.next() {
        let mut number = || words.next().ok_or(format!("{word} wants a value"));
        let parse = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--seed" => {
                let seed = parse(&number()?)?;
                wanted.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let range = number()?;
                let (from, to) = range.split_once("..").ok_or("a range is FROM..TO")?;
                wanted.seeds = parse(from)?..parse(to)?;
            }
            "--jobs" => wanted.jobs = parse(&number()?)?.max(1) as usize,
            "--stop-after" => wanted.violations_max = parse(&number()?)? as usize,
            "--trace" => wanted.trace = true,
            "--hashes" => wanted.hashes = true,
            _ => return Err(format!("{word} means nothing here")),
        }
    }
    Ok(wanted)
}

fn trace(wanted: &Wanted) -> Tally {
    let mut tally = Tally::default();
    for seed in wanted.seeds.clone() {
        tally.take(sim::run_traced(seed, |line| println!("{line}")), wanted);
    }
    tally
}

/// All seeds, on so many threads.
fn campaign(wanted: &Wanted) -> Tally {
    let next = AtomicU64::new(wanted.seeds.start);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..wanted.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = tally.lock().expect("no run panics").violations.len() >= wanted.violations_max;
                    if seed >= wanted.seeds.end || enough {
                        return;
                    }
                    let report = sim::run(seed);
                    tally.lock().expect("no run panics").take(report, wanted);
                }
            });
        }
    });
    tally.into_inner().expect("no run panics")
}

impl Tally {
    fn take(&mut self, report: Report, wanted: &Wanted) {
        if wanted.hashes {
            println!("{} {:016x}", report.seed, report.hash);
        }
        if report.violation.is_some() {
            println!("{report}");
        }
        self.runs += 1;
        self.simulated += report.simulated;
        self.events += report.events;
        self.operations += report.operations;
        self.sightings.add(&report.sightings);
        if report.violation.is_some() {
            self.violations.push(report);
        }
    }
}

fn tell(tally: &Tally, took: Duration) {
    print!("{}", tally.sightings);
    let (simulated, took) = (tally.simulated.as_secs_f64(), took.as_secs_f64());
    println!(
        "{} runs, {} events, {} operations, {simulated:.0} s simulated in {took:.1} s: {:.0} times as fast as time; {} violations",
        tally.runs,
        tally.events,
        tally.operations,
        simulated / took,
        tally.violations.len()
    );
}
