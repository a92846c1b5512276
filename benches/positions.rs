//! Reads by position and by time beside `get`, verified: nanoseconds of each, and the ratio.
//! Entries of 1 KiB, in no order, of logs of 16 MiB and 1 GiB.

mod measure;

use std::hint::black_box;
use std::time::{Duration, Instant};

use dledger::DLedger;

use measure::lookups::{PAYLOAD, Shuffled, fill, get_each};
use measure::scratch::scratch;
use measure::table::Table;

const TURNS: usize = 9;

/// One read of the entry with this number.
type Read = fn(&DLedger, u64, &[u64]);

/// What is measured, and how many of it are read in a turn.
const READS: &[(&str, Read)] = &[
    ("get_at", |ledger, number, _| {
        let entry = ledger.get_at(position(number)).expect("the log is whole");
        black_box(&entry.expect("it is committed")[..]);
    }),
    ("read_at, 1 KiB", |ledger, number, _| {
        let bytes = ledger.read_at(position(number), PAYLOAD).expect("the log is whole");
        black_box(&bytes.expect("it is committed")[..]);
    }),
    ("index_of", |ledger, number, _| {
        black_box(ledger.index_of(position(number)).expect("the log is whole"));
    }),
    ("position_of", |ledger, number, _| {
        black_box(ledger.position_of(number).expect("the log is whole"));
    }),
    ("index_at", |ledger, number, times| {
        black_box(ledger.index_at(times[number as usize]).expect("the log is whole"));
    }),
];

fn position(number: u64) -> u64 {
    number * PAYLOAD as u64
}

fn main() {
    // Without `--bench` everything runs once, to see that it runs.
    let sizes: &[(&str, u64, usize)] = if std::env::args().any(|arg| arg == "--bench") {
        &[("16 MiB", 16 << 20, 200_000), ("1 GiB", 1 << 30, 200_000)]
    } else {
        &[("1 MiB", 1 << 20, 1_000)]
    };
    let mut table = Table::new(&["1 KiB entries, random", "ns", "get ns", "ratio"]);
    for &(name, bytes, lookups) in sizes {
        let count = bytes / PAYLOAD as u64;
        let dir = scratch();
        let opened = DLedger::builder(1).dir(dir.path().join("node")).open();
        let ledger = opened.expect("a node opens in a directory of its own");
        fill(&ledger, count);
        let times: Vec<u64> =
            ledger.read(0).map(|entry| entry.expect("the log is whole").timestamp()).collect();
        for (what, read) in READS {
            // The first turn faults pages in, and does not count.
            let mut pairs: Vec<(f64, f64)> = (0..TURNS as u64)
                .map(|turn| {
                    let numbers = || Shuffled::new(turn + 1, count).take(lookups);
                    let began = Instant::now();
                    numbers().for_each(|number| read(&ledger, number, &times));
                    let took = began.elapsed();
                    (nanos(took, lookups), nanos(get_each(&ledger, numbers()), lookups))
                })
                .skip(1)
                .collect();
            pairs.sort_by(|one, next| (one.0 / one.1).total_cmp(&(next.0 / next.1)));
            let (ours, get) = pairs[pairs.len() / 2];
            table.row([
                format!("{what}, log of {name}"),
                format!("{ours:.0}"),
                format!("{get:.0}"),
                format!("{:.2}", ours / get),
            ]);
        }
    }
    table.print();
}

fn nanos(took: Duration, lookups: usize) -> f64 {
    took.as_nanos() as f64 / lookups as f64
}
