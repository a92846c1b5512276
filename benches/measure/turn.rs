//! One turn of a load, summed up.

use std::time::Duration;

use dledger::DLedger;
use hdrhistogram::Histogram;
use hdrhistogram::iterators::IterationValue;

use super::load::Load;
use super::machine;

/// What one turn came to.
#[derive(Clone)]
pub(crate) struct Turn {
    pub(crate) per_second: f64,
    /// Of one append, from the call to the moment that the caller has the answer, in nanoseconds.
    /// Empty where nothing was recorded.
    pub(crate) latency: Histogram<u64>,
    /// Processor time of all processes that took part, over the time of the turn.
    pub(crate) cores: f64,
}

impl Turn {
    pub(crate) fn quantile(&self, at: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(at))
    }
}

/// An empty histogram, of nanoseconds.
pub(crate) fn no_latencies() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are a legal precision")
}

/// Keeps `window` appends of `payload` in flight for `time`, from this thread.
pub(crate) fn append(ledger: &DLedger, payload: &[u8], window: usize, time: Duration) -> Turn {
    let mut load = Load::new(ledger, payload, window);
    let (outcome, cores) = machine::cores_busy(|| load.run(u64::MAX, time));
    Turn {
        per_second: outcome.appends as f64 / outcome.took.as_secs_f64(),
        latency: outcome.latency,
        cores,
    }
}

/// As one word: what a child tells its parent.
pub(crate) fn encode_latencies(latency: &Histogram<u64>) -> String {
    let steps = latency.iter_recorded();
    let pair = |step: IterationValue<u64>| {
        format!("{}:{},", step.value_iterated_to(), step.count_at_value())
    };
    steps.map(pair).collect()
}

/// What a child told.
pub(crate) fn decode_latencies(text: &str) -> Histogram<u64> {
    let number = |text: &str| text.parse().expect("a child answers with numbers");
    let mut latency = no_latencies();
    for pair in text.split_terminator(',') {
        let (nanos, count) = pair.split_once(':').expect("a latency is told with its count");
        latency.record_n(number(nanos), number(count)).expect("it resizes");
    }
    latency
}
