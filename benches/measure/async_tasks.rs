//! Many tasks of a runtime that append one entry after the other, as fast as they can.

use std::time::{Duration, Instant};

use dledger::DLedger;
use tokio::task::JoinSet;

/// How the tasks append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// `append_async`: the window must have room.
    Async,
    /// `append_when_ready`: waits for room.
    WhenReady,
    /// `append_async`, while ten tasks follow the status of the node with `watch`.
    Watched,
}

/// Appends `bytes` at a time from `count` tasks on one thread for `time`. Returns the appends per
/// second.
pub(crate) fn run(ledger: &DLedger, how: How, count: usize, bytes: usize, time: Duration) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it needs nothing");
    let began = Instant::now();
    let appends = runtime.block_on(async {
        if how == How::Watched {
            for _ in 0..10 {
                let mut watch = ledger.watch();
                tokio::spawn(async move { while watch.changed().await.is_some() {} });
            }
        }
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (ledger, payload) = (ledger.clone(), vec![0x5a; bytes]);
            tasks.spawn(async move {
                let mut appends = 0_u64;
                while began.elapsed() < time {
                    match how {
                        How::WhenReady => ledger.append_when_ready(&payload).await,
                        How::Async | How::Watched => ledger.append_async(&payload).await,
                    }
                    .expect("a healthy group acknowledges every append");
                    appends += 1;
                }
                appends
            });
        }
        tasks.join_all().await.into_iter().sum::<u64>()
    });
    appends as f64 / began.elapsed().as_secs_f64()
}
