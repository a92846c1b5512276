//! Appends per second: 128 B and 1 KiB, 1 and 1,024 in flight, one node and three in this process
//! (through memory and through loopback TCP), both flush policies; and with an append hook.

mod measure;

use std::time::Duration;

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use dledger::{Builder, FlushPolicy};
use hdrhistogram::Histogram;

use measure::cluster::{ASYNC, Cluster, Shape};
use measure::load::Load;

fn append(criterion: &mut Criterion) {
    let shapes =
        [("one", Shape::One), ("three", Shape::Three), ("three-over-tcp", Shape::ThreeOverTcp)];
    let policies = [("sync", FlushPolicy::Sync), ("async", ASYNC)];
    for ((nodes, shape), (policy, flush)) in
        shapes.into_iter().flat_map(|shape| policies.map(|policy| (shape, policy)))
    {
        let mut group = criterion.benchmark_group(format!("append/{nodes}/{policy}"));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        for (name, bytes) in [("128B", 128), ("1KiB", 1 << 10)] {
            group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes });
            for window in [1, 1024] {
                let cluster = Cluster::open(shape, |builder| builder.flush(flush));
                let leader = &cluster.nodes[cluster.leader()];
                let payload = vec![0x5a; bytes as usize];
                let mut latency = Histogram::new(3).expect("three digits are a legal precision");
                group.bench_function(BenchmarkId::new(name, window), |bencher| {
                    bencher.iter_custom(|count| {
                        let outcome = Load::new(leader, &payload, window).run(count, Duration::MAX);
                        assert_eq!(
                            outcome.appends, count,
                            "without an end of the time, all are made"
                        );
                        latency.add(&outcome.latency).expect("it resizes");
                        outcome.took
                    });
                });
                let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
                println!(
                    "                        latency: p50 {:.1} us, p99 {:.1} us\n",
                    micros(0.5),
                    micros(0.99)
                );
            }
        }
        group.finish();
    }
}

/// One node, 128 B, asynchronous: what the appends cost apart from the disk. Without a hook, with
/// one that does nothing, and with one that writes the position of the entry into it.
fn hook(criterion: &mut Criterion) {
    type Set = fn(Builder) -> Builder;
    let sets: [(&str, Set); 3] = [
        ("none", |builder| builder),
        ("empty", |builder| builder.append_hook(|_, _| {})),
        ("position", |builder| {
            builder.append_hook(|place, payload| {
                payload[..8].copy_from_slice(&place.position.to_be_bytes());
            })
        }),
    ];
    let mut group = criterion.benchmark_group("append/hook");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Elements(1));
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for window in [1, 1024] {
        for (name, set) in sets {
            let cluster = Cluster::open(Shape::One, |builder| set(builder.flush(ASYNC)));
            let leader = &cluster.nodes[cluster.leader()];
            group.bench_function(BenchmarkId::new(name, window), |bencher| {
                bencher.iter_custom(|count| {
                    Load::new(leader, &[0x5a; 128], window).run(count, Duration::MAX).took
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, append, hook);
criterion_main!(benches);
