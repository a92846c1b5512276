//! The load of those that are asynchronous: as many tasks as there shall be appends in flight, each
//! of which appends and waits.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use crate::measure::machine;
use crate::measure::turn::{Turn, no_latencies};

/// With as many threads as the machine has processors.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().enable_all().build().expect("threads can be had")
}

/// Runs `append` from `clients` tasks for `time`. `cpu` tells the processor time of other processes
/// that take part.
pub(crate) fn run<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    clients: usize,
    time: Duration,
    cpu: impl Fn() -> Duration,
    append: impl Fn() -> F + Clone + Send + 'static,
) -> Turn {
    let before = cpu();
    let (done, cores) = machine::cores_busy(|| {
        runtime.block_on(async {
            let tasks: Vec<_> =
                (0..clients).map(|_| tokio::spawn(client(append.clone(), time))).collect();
            let mut latency = no_latencies();
            for task in tasks {
                latency.add(task.await.expect("a client does not panic")).expect("it resizes");
            }
            latency
        })
    });
    let others = (cpu() - before).as_secs_f64() / time.as_secs_f64();
    Turn {
        per_second: done.len() as f64 / time.as_secs_f64(),
        latency: done,
        cores: cores + others,
    }
}

async fn client<F: Future<Output = ()>>(
    append: impl Fn() -> F,
    time: Duration,
) -> hdrhistogram::Histogram<u64> {
    let mut latency = no_latencies();
    let began = Instant::now();
    let mut now = began;
    loop {
        append().await;
        let after = Instant::now();
        if after - began >= time {
            return latency;
        }
        latency.record((after - now).as_nanos() as u64).expect("it resizes");
        now = after;
    }
}
