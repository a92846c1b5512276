//! The load: one thread that keeps a window of appends in flight.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use dledger::{AppendFuture, DLedger};
use hdrhistogram::Histogram;

/// Latencies are taken of one append in so many when many are in flight, so that the clock (24 ns)
/// does not weigh on what it measures. Prime, so that it does not beat with the window.
const SAMPLED: u64 = 17;

/// Appends `payload` again and again, with at most `window` appends in flight.
pub(crate) struct Load<'a> {
    ledger: &'a DLedger,
    payload: &'a [u8],
    window: usize,
    in_flight: VecDeque<(Option<Instant>, AppendFuture)>,
}

/// What came of it.
pub(crate) struct Outcome {
    /// Acknowledged within the time that it took.
    pub(crate) appends: u64,
    pub(crate) took: Duration,
    /// From the call to the moment that the caller has the answer, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl<'a> Load<'a> {
    pub(crate) fn new(ledger: &'a DLedger, payload: &'a [u8], window: usize) -> Load<'a> {
        Load { ledger, payload, window, in_flight: VecDeque::with_capacity(window) }
    }

    /// Appends `count` times, or for `time`, whichever ends first. What is in flight at the end of
    /// the time is waited for and not counted.
    pub(crate) fn run(&mut self, count: u64, time: Duration) -> Outcome {
        let mut latency = Histogram::new(3).expect("three digits are a legal precision");
        let sampled = if self.window == 1 { 1 } else { SAMPLED };
        let (mut issued, mut appends) = (0, 0);
        let began = Instant::now();
        // A time beyond what the clock can express is one that never ends.
        let end = began.checked_add(time);
        let mut now = began;
        while end.is_none_or(|end| now < end) && appends < count {
            while self.in_flight.len() < self.window && issued < count {
                let since = (issued % sampled == 0).then(Instant::now);
                self.in_flight.push_back((since, self.ledger.append_async(self.payload)));
                issued += 1;
            }
            if let Some(since) = self.settle_oldest() {
                now = Instant::now();
                latency.record((now - since).as_nanos() as u64).expect("it resizes");
            }
            appends += 1;
        }
        let took = began.elapsed();
        while !self.in_flight.is_empty() {
            self.settle_oldest();
        }
        Outcome { appends, took, latency }
    }

    /// Waits for the oldest append. Returns when it was issued, if it is a sample.
    fn settle_oldest(&mut self) -> Option<Instant> {
        let (since, future) = self.in_flight.pop_front()?;
        future.wait().expect("a healthy group acknowledges every append");
        since
    }
}
