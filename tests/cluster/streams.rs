//! Tails and changes of role as streams, under three executors, and under one that runs each task
//! within its waker.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use dledger::{DLedger, ReadError, Role};
use futures_core::Stream;
use parking_lot::Mutex;

use crate::cluster_of::{Disk, TIMEOUT, cluster_of};
use crate::tasks::{Inline, in_time};

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// What comes next, which is no error and no end.
async fn read<T, S: Stream<Item = Result<T, ReadError>> + Unpin>(stream: &mut S) -> T {
    next(stream).await.expect("the node runs").expect("the log is whole")
}

fn poll_once<S: Stream + Unpin>(stream: &mut S, waker: &Waker) -> Poll<Option<S::Item>> {
    Pin::new(stream).poll_next(&mut Context::from_waker(waker))
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Appends `count` entries, and reads them as a stream while they come.
async fn follow(ledger: DLedger, count: u64) {
    let (mut entries, mut chunks) =
        (ledger.tail(0).into_stream(), ledger.tail(0).into_chunk_stream(100, 1 << 20));
    for round in 0..count {
        ledger.append_when_ready(round.to_le_bytes()).await.expect("a node alone takes appends");
        let entry = read(&mut entries).await;
        assert_eq!((entry.index(), &entry[..]), (round, &round.to_le_bytes()[..]));
    }
    let mut seen = 0;
    while seen < count {
        for entry in read(&mut chunks).await {
            assert_eq!(entry.index(), seen);
            seen += 1;
        }
    }
    ledger.shutdown_async().await.expect("a healthy node closes in good order");
    assert!(next(&mut entries).await.is_none(), "a shutdown is the end");
    assert!(next(&mut entries).await.is_none(), "an end lasts");
    assert!(next(&mut chunks).await.is_none());
}

#[test]
fn a_stream_follows_the_log_under_three_executors() {
    let open = || cluster_of(1).open().node(1);
    let ledgers = [open(), open(), open()];
    in_time(move || {
        let [tokio, smol, pollster] = ledgers;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let tasks = tokio::time::timeout(TIMEOUT, tokio::spawn(follow(tokio, 200)));
            tasks.await.unwrap().unwrap();
        });
        smol::block_on(follow(smol, 200));
        pollster::block_on(follow(pollster, 200));
    });
}

#[test]
fn a_stream_may_run_within_the_waker_of_the_node() {
    let ledger = cluster_of(1).open().node(1);
    let (done, outcome) = mpsc::channel();
    let task = {
        let ledger = ledger.clone();
        async move {
            let mut changes = ledger.role_changes().into_stream();
            assert_eq!(next(&mut changes).await.unwrap().role, Role::Leader);
            follow(ledger, 50).await;
            assert!(next(&mut changes).await.is_some_and(|status| status.stopped));
            assert!(next(&mut changes).await.is_none());
            done.send(()).unwrap();
        }
    };
    Waker::from(Arc::new(Inline(Mutex::new(Some(Box::pin(task)))))).wake();
    outcome.recv_timeout(TIMEOUT).expect("the task comes to its end");
}

#[test]
fn a_waiting_stream_is_woken_once_by_a_commit_and_not_at_all_once_it_is_dropped() {
    let ledger = cluster_of(1).open().node(1);
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let woken = || count.0.swap(0, Ordering::Relaxed);
    let mut streams: Vec<_> = (0..100).map(|_| ledger.tail(0).into_stream()).collect();
    assert!(streams.iter_mut().all(|stream| poll_once(stream, &waker).is_pending()));
    // Polled again, a task is registered once.
    assert!(streams.iter_mut().all(|stream| poll_once(stream, &waker).is_pending()));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(woken(), 0, "nothing has been committed");
    ledger.append("one").unwrap();
    ledger.append("two").unwrap();
    assert_eq!(woken(), 100);
    for stream in &mut streams {
        for _ in 0..2 {
            assert!(poll_once(stream, &waker).is_ready());
        }
        assert!(poll_once(stream, &waker).is_pending());
    }
    streams.truncate(50);
    streams.iter_mut().take(20).for_each(|stream| stream.seek(9));
    ledger.append("three").unwrap();
    assert_eq!(woken(), 30);
    ledger.shutdown().unwrap();
}

#[test]
fn a_stream_ends_with_its_first_error_and_goes_on_where_it_is_told_to() {
    let plan = cluster_of(1).on(Disk::Directory);
    let ledger = plan.with(|builder| builder.segment_bytes(64 << 10)).open();
    let ledger = ledger.node(1);
    (0..50).for_each(|_| assert!(ledger.append([7; 8 << 10]).is_ok()));
    let mut entries = ledger.tail(3).into_stream();
    let mut chunks = ledger.tail(3).into_chunk_stream(10, 1 << 20);
    let first = ledger.purge(40).unwrap();
    assert!(first > 10);
    pollster::block_on(async {
        for told in [
            next(&mut entries).await.unwrap().map(drop),
            next(&mut chunks).await.unwrap().map(drop),
        ] {
            match told {
                Err(ReadError::Purged { index, first: kept, .. }) => {
                    assert_eq!((index, kept), (3, first));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(next(&mut entries).await.is_none() && next(&mut chunks).await.is_none());
        assert!(next(&mut entries).await.is_none(), "an end lasts");
        entries.seek(first);
        chunks.seek(first);
        assert_eq!(next(&mut entries).await.unwrap().unwrap().index(), first);
        assert_eq!(next(&mut chunks).await.unwrap().unwrap()[0].index(), first);
    });
    let mut tail = entries.into_tail();
    assert_eq!(tail.next().unwrap().unwrap().index(), first + 1);
}
