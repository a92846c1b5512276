//! Reads of 1 KiB entries, verified: random `get`, beside a raw read of a memory map with a
//! checksum, and `read` in order.

mod measure;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dledger::DLedger;

use measure::lookups::{PAYLOAD, Shuffled, fill, get_each, read_each, read_in_order};
use measure::raw_records::RawRecords;
use measure::scratch::scratch;

fn get(criterion: &mut Criterion) {
    // Without `--bench` criterion runs everything once, to see that it runs.
    let sizes: &[(&str, u64)] = if std::env::args().any(|arg| arg == "--bench") {
        &[("16MiB", 16 << 20), ("1GiB", 1 << 30)]
    } else {
        &[("1MiB", 1 << 20)]
    };
    let mut group = criterion.benchmark_group("get");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: PAYLOAD as u64 });
    for &(name, bytes) in sizes {
        let count = bytes / PAYLOAD as u64;
        let dir = scratch();
        let ledger = DLedger::builder(1)
            .dir(dir.path().join("node"))
            .open()
            .expect("a node opens in a directory of its own");
        fill(&ledger, count);
        let records = RawRecords::new(count, PAYLOAD);
        let mut indexes = Shuffled::new(1, count);
        group.bench_function(BenchmarkId::new("random", name), |bencher| {
            bencher
                .iter_custom(|lookups| get_each(&ledger, indexes.by_ref().take(lookups as usize)));
        });
        let mut numbers = Shuffled::new(2, count);
        group.bench_function(BenchmarkId::new("raw", name), |bencher| {
            bencher.iter_custom(|lookups| {
                read_each(&records, numbers.by_ref().take(lookups as usize))
            });
        });
        group.bench_function(BenchmarkId::new("in-order", name), |bencher| {
            bencher.iter_custom(|lookups| {
                let whole = lookups.div_ceil(count);
                let took: Duration =
                    (0..whole).map(|_| read_in_order(&ledger, count.min(lookups))).sum();
                took.mul_f64(lookups as f64 / (whole * count.min(lookups)) as f64)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, get);
criterion_main!(benches);
