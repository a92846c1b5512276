//! The other load: many threads, each of which appends and waits, again and again.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dledger::DLedger;

/// Appends a second of `threads` threads together.
pub(crate) fn append_blocking(
    ledger: &DLedger,
    payload: &[u8],
    threads: usize,
    time: Duration,
) -> f64 {
    let (ended, ready) = (AtomicBool::new(false), Barrier::new(threads + 1));
    let append = || {
        ready.wait();
        let mut appends = 0_u64;
        while !ended.load(Ordering::Relaxed) {
            ledger.append(payload).expect("a healthy group acknowledges every append");
            appends += 1;
        }
        appends
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(append)).collect();
        ready.wait();
        let began = Instant::now();
        thread::sleep(time);
        ended.store(true, Ordering::Relaxed);
        let appends: u64 = workers
            .into_iter()
            .map(|worker| worker.join().expect("an append does not panic"))
            .sum();
        appends as f64 / began.elapsed().as_secs_f64()
    })
}
