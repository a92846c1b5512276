//! What readers at the tail take and cost that read entry by entry, or in chunks.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dledger::{DLedger, Tail};

use super::machine::thread_cpu;
use super::turn::append;

const PAYLOAD: [u8; 128] = [0x5a; 128];

/// The limits of a chunk.
const ENTRIES_MAX: usize = 1024;
const BYTES_MAX: usize = 1 << 20;

/// How a tail is read.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Next,
    NextTimeout,
    NextChunk,
}

impl Way {
    pub(crate) const ALL: [(&'static str, Way); 3] =
        [("next", Way::Next), ("next_timeout", Way::NextTimeout), ("next_chunk", Way::NextChunk)];

    /// Takes what comes next, and returns how many entries that is. `None` at the end of the node,
    /// and for `next` where a time-out is asked for.
    fn take(self, tail: &mut Tail, timeout: Duration) -> usize {
        let whole = "the log is whole";
        match self {
            Way::Next => usize::from(black_box(tail.next()).transpose().expect(whole).is_some()),
            Way::NextTimeout => {
                usize::from(black_box(tail.next_timeout(timeout)).expect(whole).is_some())
            }
            Way::NextChunk => {
                black_box(tail.next_chunk(ENTRIES_MAX, BYTES_MAX, timeout)).expect(whole).len()
            }
        }
    }
}

/// Fills a log with `count` entries of 128 B, in batches of 256.
pub(crate) fn fill(ledger: &DLedger, count: u64) {
    while ledger.committed().end < count {
        let batch = [PAYLOAD; 256];
        ledger.append_batch(&batch[..]).expect("a node alone takes appends");
    }
}

/// Entries that a reader which is behind takes in a second of processor time.
pub(crate) fn drained(ledger: &DLedger, way: Way) -> f64 {
    let (mut tail, count, mut taken) = (ledger.tail(0), ledger.committed().end, 0);
    let began = thread_cpu();
    while taken < count {
        taken += way.take(&mut tail, Duration::from_secs(1)) as u64;
    }
    taken as f64 / (thread_cpu() - began).as_secs_f64()
}

/// A reader beside a leader that has 1,024 appends of 128 B in flight.
pub(crate) struct Beside {
    /// Appends a second.
    pub(crate) appends: f64,
    /// Processor time of the reader, in nanoseconds for each entry that it took.
    pub(crate) nanos: f64,
    /// Entries that it had yet to take at the end.
    pub(crate) behind: u64,
}

/// Appends a second with 1,024 of 128 B in flight, and nobody reads.
pub(crate) fn alone(ledger: &DLedger, time: Duration) -> f64 {
    append(ledger, &PAYLOAD, 1024, time).per_second
}

/// The same beside a reader at the tail.
pub(crate) fn beside(ledger: &DLedger, way: Way, time: Duration) -> Beside {
    let (ended, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let from = ledger.committed().end;
    let follow = || {
        let (mut tail, began) = (ledger.tail(from), thread_cpu());
        while !ended.load(Ordering::Relaxed) {
            let count = way.take(&mut tail, Duration::from_millis(10));
            taken.fetch_add(count as u64, Ordering::Relaxed);
        }
        (thread_cpu() - began).as_nanos() as f64
    };
    thread::scope(|scope| {
        let reader = scope.spawn(follow);
        let appends = append(ledger, &PAYLOAD, 1024, time).per_second;
        let taken = taken.load(Ordering::Relaxed);
        let behind = (ledger.committed().end - from).saturating_sub(taken);
        ended.store(true, Ordering::Relaxed);
        // One that waits without a time-out is woken by one entry more.
        ledger.append(PAYLOAD).expect("a node alone takes appends");
        let nanos = reader.join().expect("a reader reads") / taken.max(1) as f64;
        Beside { appends, nanos, behind }
    })
}

/// Processor time of the process, as a share of a core, while nothing is appended, with this many
/// tails that wait.
#[cfg(feature = "stream")]
pub(crate) fn idle(ledger: &DLedger, tails: usize, time: Duration) -> f64 {
    let end = ledger.committed().end;
    with_tasks((0..tails).map(|_| ledger.tail(end)), || {
        thread::sleep(time / 2);
        super::machine::cores_busy(|| thread::sleep(time)).1
    })
}

/// Appends a second, 1,024 in flight, with this many tails at the end of the log that each read all
/// of it in chunks, and the processor time of the process, as a share of a core.
#[cfg(feature = "stream")]
pub(crate) fn loaded(ledger: &DLedger, tails: usize, time: Duration) -> (f64, f64) {
    let end = ledger.committed().end;
    with_tasks((0..tails).map(|_| ledger.tail(end)), || {
        let turn = append(ledger, &PAYLOAD, 1024, time);
        (turn.per_second, turn.cores)
    })
}

/// Does `work` beside tasks that each follow a tail, on one thread of a runtime.
#[cfg(feature = "stream")]
fn with_tasks<T>(tails: impl Iterator<Item = Tail>, work: impl FnOnce() -> T) -> T {
    use smol::stream::StreamExt;

    let executor = smol::Executor::new();
    let tasks: Vec<_> = tails
        .map(|tail| {
            let mut chunks = tail.into_chunk_stream(ENTRIES_MAX, BYTES_MAX);
            executor.spawn(async move {
                while let Some(chunk) = chunks.next().await {
                    black_box(chunk.expect("the log is whole"));
                }
            })
        })
        .collect();
    let (end, ended) = smol::channel::bounded::<()>(1);
    let done = thread::scope(|scope| {
        scope
            .spawn(|| smol::block_on(executor.run(async { assert!(ended.recv().await.is_err()) })));
        let done = work();
        drop(end);
        done
    });
    drop(tasks);
    done
}
