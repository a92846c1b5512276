//! One turn of a load, summed up.

use std::time::Duration;

use dledger::DLedger;

use super::load::Load;
use super::machine;

/// What one turn came to.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) per_second: f64,
    /// Of one append, from the call to the moment that the caller has the answer.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Processor time of all processes that took part, over the time of the turn.
    pub(crate) cores: f64,
}

/// Keeps `window` appends of `payload` in flight for `time`, from this thread.
pub(crate) fn append(ledger: &DLedger, payload: &[u8], window: usize, time: Duration) -> Turn {
    let mut load = Load::new(ledger, payload, window);
    let (outcome, cores) = machine::cores_busy(|| load.run(u64::MAX, time));
    let quantile = |at| Duration::from_nanos(outcome.latency.value_at_quantile(at));
    Turn { per_second: outcome.appends as f64 / outcome.took.as_secs_f64(), p50: quantile(0.5), p99: quantile(0.99), cores }
}
