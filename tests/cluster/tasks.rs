//! Hosts that must not block: the futures of a ledger under three executors, and under one that
//! runs each task within its waker.

use std::fs;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use dledger::storage::MemoryLog;
use dledger::{AppendError, AppendWhenReady, BarrierError, Builder, DLedger};
use dledger::{PurgeError, ReadError, TransferError};
use parking_lot::Mutex;

use crate::cluster_of::{TIMEOUT, cluster_of, until};
use crate::gated::{Gate, GatedLog};

/// What an entry counts in the window beyond its payload.
const OVERHEAD: u64 = 32;

/// Runs `work` on a thread of its own. Fails if it takes too long.
#[track_caller]
pub(crate) fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    outcome.recv_timeout(TIMEOUT).expect("it neither panics nor waits for ever")
}

/// Awaits a future as a thread without an executor does.
#[track_caller]
fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    in_time(|| pollster::block_on(future))
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A node of its own in memory, with room for `entries` of one byte, whose syncs can be held up.
fn gated(entries: u64) -> (DLedger, Gate) {
    let (log, gate) = (MemoryLog::new(), Gate::default());
    let builder = DLedger::builder(1).max_in_flight_bytes(entries * (OVERHEAD + 1));
    (builder.storage(GatedLog { log, gate: gate.clone() }).open().expect("it opens"), gate)
}

fn payloads(ledger: &DLedger) -> Vec<u8> {
    ledger.read(0).map(|entry| entry.expect("what is committed can be read")[0]).collect()
}

/// An executor that runs its task within its waker, on whatever thread that is called.
struct Inline(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        // A task that is woken while it runs is not polled again: the one below is woken by one
        // thread at a time.
        let Some(mut task) = self.0.lock().take() else { return };
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            *self.0.lock() = Some(task);
        }
    }
}

#[test]
fn two_thousand_tasks_share_a_window_without_busy_and_in_their_order() {
    const TASKS: u64 = 2000;
    const BYTES: usize = 64 << 10;
    let home = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let builder = DLedger::builder(1).dir(home.path().join(name)).max_in_flight_bytes(16 << 20);
        builder.append_timeout(TIMEOUT).open().unwrap()
    };
    let ledger = open("tokio");
    in_time(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let ledger = ledger.clone();
                    let payload = [task as u8; BYTES];
                    tokio::spawn(async move { (task, ledger.append_when_ready(payload).await) })
                })
                .collect();
            for task in tasks {
                let (task, outcome) = task.await.unwrap();
                assert_eq!(outcome.unwrap().index, task);
            }
            tokio::time::timeout(TIMEOUT, ledger.shutdown_async()).await.unwrap().unwrap();
        });
    });
    let ledger = open("smol");
    in_time(move || {
        let executor = smol::Executor::new();
        let appends = (0..TASKS).map(|task| ledger.append_when_ready([task as u8; BYTES]));
        let tasks: Vec<_> = appends.map(|append| executor.spawn(append)).collect();
        smol::block_on(executor.run(async {
            for (task, index) in tasks.into_iter().zip(0..) {
                assert_eq!(task.await.unwrap().index, index);
            }
            ledger.shutdown_async().await.unwrap();
        }));
    });
}

#[test]
fn a_future_dropped_in_the_queue_is_not_appended_and_holds_up_none() {
    let (ledger, gate) = gated(2);
    gate.shut();
    let first = [b'a', b'b'].map(|payload| ledger.append_async([payload]));
    let mut waiting: Vec<Option<AppendWhenReady>> = Vec::new();
    waiting.extend((0..100u8).map(|n| Some(ledger.append_when_ready([n]))));
    assert!(waiting.iter_mut().flatten().all(|append| poll_once(append).is_pending()));
    // Some of them were never polled.
    let unpolled: Vec<_> = (100..103u8).map(|n| ledger.append_when_ready([n])).collect();
    let busy = ledger.append_async("c").wait();
    assert!(matches!(busy, Err(AppendError::Busy { .. })), "{busy:?}");
    waiting.iter_mut().step_by(2).for_each(|append| *append = None);
    gate.open();
    first.into_iter().for_each(|append| assert!(append.wait().is_ok()));
    until("all that were left to be appended", || (ledger.committed().end == 55).then_some(()));
    let odd = (0..100).filter(|n| n % 2 == 1);
    let expected: Vec<u8> = [b'a', b'b'].into_iter().chain(odd).chain(100..103).collect();
    assert_eq!(payloads(&ledger), expected);
    for (append, index) in waiting.into_iter().flatten().chain(unpolled).zip(2..) {
        assert_eq!(block_on(append).unwrap().index, index);
    }
}

#[test]
fn a_large_append_waits_its_turn_and_those_behind_it_wait_for_it() {
    let (ledger, gate) = gated(4);
    gate.shut();
    let first = [b'a', b'b'].map(|payload| ledger.append_async([payload]));
    let mut large = ledger.append_when_ready([b'c'; 90]);
    let mut small = ledger.append_when_ready([b'd']);
    assert!(poll_once(&mut large).is_pending() && poll_once(&mut small).is_pending());
    let blocked = std::thread::spawn({
        let ledger = ledger.clone();
        move || ledger.append([b'e'])
    });
    gate.open();
    first.into_iter().for_each(|append| assert!(append.wait().is_ok()));
    assert_eq!([block_on(large), block_on(small)].map(|append| append.unwrap().index), [2, 3]);
    blocked.join().unwrap().unwrap();
}

#[test]
fn a_thousand_who_wait_end_with_the_node() {
    let (ledger, gate) = gated(1);
    gate.shut();
    let under_way = ledger.append_async("x");
    let waiting: Vec<_> = (0..1000).map(|_| ledger.append_when_ready("y")).collect();
    let end = ledger.committed().end;
    let past: Vec<_> = (0..1000).map(|more| ledger.committed_past(end + more)).collect();
    let executor = smol::Executor::new();
    let appends: Vec<_> = waiting.into_iter().map(|append| executor.spawn(append)).collect();
    let reads: Vec<_> = past.into_iter().map(|past| executor.spawn(past)).collect();
    while executor.try_tick() {}
    let shutdown = ledger.shutdown_async();
    gate.open();
    in_time(move || {
        smol::block_on(executor.run(async {
            shutdown.await.unwrap();
            for append in appends {
                let outcome = append.await;
                assert!(matches!(outcome, Err(AppendError::Stopped)), "{outcome:?}");
            }
            for read in reads {
                let outcome = read.await;
                assert!(matches!(outcome, Err(ReadError::Stopped)), "{outcome:?}");
            }
        }));
    });
    assert!(under_way.wait().is_err());
    let late = block_on(ledger.append_when_ready("z"));
    assert!(matches!(late, Err(AppendError::Stopped)), "{late:?}");
}

#[test]
fn who_waits_for_room_is_told_that_the_leadership_is_lost() {
    let cluster = cluster_of(3).with(|builder| builder.max_in_flight_bytes(100)).open();
    cluster.append(b"so that the group is in order");
    let leader = cluster.leader();
    let ledger = cluster.node(leader);
    cluster.isolate(leader);
    let under_way = ledger.append_async([0; 60]);
    let waiting: Vec<_> = (0..10).map(|_| ledger.append_when_ready([1; 60])).collect();
    for append in waiting {
        let refused = block_on(append).unwrap_err();
        assert!(!refused.may_have_committed());
        assert!(matches!(refused, AppendError::NotLeader { .. }), "{refused:?}");
    }
    assert!(under_way.wait().is_err());
    cluster.heal();
}

#[test]
fn every_call_is_answered_to_a_task() {
    let cluster = cluster_of(3).patient().with(|builder| builder.segment_bytes(64 << 10)).open();
    let leader = cluster.leader();
    let ledger = cluster.node(leader);
    let appended = block_on(ledger.append_when_ready("entry")).unwrap();
    assert_eq!(appended.index, 0);
    assert!(block_on(ledger.barrier_async()).unwrap() > 0);
    assert_eq!(block_on(ledger.purge_async(0)).unwrap(), 0);
    let refused = block_on(ledger.transfer_leadership_async(99));
    assert!(matches!(refused, Err(TransferError::NotAVoter(_))));
    let to = cluster.others(leader)[0];
    block_on(ledger.transfer_leadership_async(to)).unwrap();
    assert_eq!(block_on(ledger.leader_async()).map(u64::from), Some(to));
    assert_eq!(ledger.wait_for_leader(TIMEOUT).map(u64::from), Some(to));
    assert!(block_on(ledger.barrier_async()).unwrap() > 0, "a follower asks its leader");
    for id in [to, leader] {
        let ledger = cluster.node(id);
        block_on(ledger.shutdown_async()).unwrap();
        block_on(ledger.shutdown_async()).expect("a second time is as good as the first");
        assert!(matches!(block_on(ledger.barrier_async()), Err(BarrierError::Stopped)));
        assert!(matches!(block_on(ledger.purge_async(0)), Err(PurgeError::Stopped)));
        let refused = block_on(ledger.transfer_leadership_async(1));
        assert!(matches!(refused, Err(TransferError::Stopped)));
        assert!(matches!(block_on(ledger.committed_past(0)), Err(ReadError::Stopped)));
        assert!(matches!(block_on(ledger.append_when_ready("x")), Err(AppendError::Stopped)));
        assert_eq!(block_on(ledger.leader_async()), None);
        assert_eq!(ledger.wait_for_leader(TIMEOUT), None);
    }
}

#[test]
fn a_leader_that_a_task_shuts_down_hands_over_first() {
    let cluster = cluster_of(3).with(|builder| builder.election_timeout(TIMEOUT)).prepare();
    // One of them is impatient enough to begin.
    cluster.start_as(1, |builder| builder.election_timeout(Duration::from_millis(100)));
    cluster.start(2);
    cluster.start(3);
    assert_eq!(cluster.node(2).wait_for_leader(TIMEOUT).map(u64::from), Some(1));
    cluster.append(b"so that all follow");
    cluster.agree();
    block_on(cluster.node(1).shutdown_async()).unwrap();
    // Without that no node would lead before the test gives up.
    cluster.leader_among(&[2, 3]);
}

#[test]
fn what_is_dropped_half_way_leaves_the_node_well() {
    let cluster = cluster_of(3).open();
    let leader = cluster.leader();
    let ledger = cluster.node(leader);
    for round in 0..50u64 {
        let mut barrier = ledger.barrier_async();
        let mut past = ledger.committed_past(1000 + round);
        let _ = (poll_once(&mut barrier), poll_once(&mut past));
        drop((barrier, past, ledger.barrier_async(), ledger.purge_async(0), ledger.leader_async()));
    }
    assert!(block_on(ledger.barrier_async()).is_ok());
    drop(ledger.transfer_leadership_async(cluster.others(leader)[0]));
    cluster.append(b"through the leader of now");
    let mut shutdown = ledger.shutdown_async();
    let _ = poll_once(&mut shutdown);
    drop(shutdown);
    until("it to stop all the same", || ledger.status().stopped.then_some(()));
}

#[test]
fn a_barrier_of_a_task_times_out_by_itself() {
    let timeout = Duration::from_millis(300);
    let cluster = cluster_of(3).with(move |builder| builder.append_timeout(timeout)).open();
    let follower = cluster.others(cluster.leader())[0];
    cluster.isolate(follower);
    let ask = || block_on(cluster.node(follower).barrier_async());
    until("a barrier to be left without an answer", || match ask() {
        Err(BarrierError::TimedOut(after)) => (after == timeout).then_some(()),
        other => panic!("{other:?}"),
    });
    cluster.heal();
    until("it to answer again", || ask().ok());
}

#[test]
fn a_task_waits_for_a_commit_on_every_node() {
    let cluster = cluster_of(3).open();
    let ledgers: Vec<DLedger> = cluster.ids().map(|id| cluster.node(id)).collect();
    let each = ledgers.iter().flat_map(|ledger| (0..20).map(|index| (ledger.clone(), index)));
    let readers: Vec<_> = each
        .map(|(ledger, index)| {
            smol::spawn(async move {
                ledger.committed_past(index).await?;
                ledger.get(index).map(|entry| entry.is_some())
            })
        })
        .collect();
    (0..20).for_each(|index| assert_eq!(cluster.append(b"entry"), index));
    in_time(|| readers.into_iter().for_each(|reader| assert!(smol::block_on(reader).unwrap())));
}

/// Everything that a task awaits here is polled by the thread that woke it, within the waker.
#[test]
fn a_task_that_runs_within_its_waker_may_await_anything() {
    let (ledger, gate) = gated(1);
    gate.shut();
    let under_way = ledger.append_async("x");
    let (done, outcome) = mpsc::channel();
    let task = {
        let ledger = ledger.clone();
        async move {
            let index = ledger.append_when_ready("y").await.unwrap().index;
            ledger.committed_past(index).await.unwrap();
            assert!(ledger.barrier_async().await.unwrap() > index);
            ledger.purge_async(0).await.unwrap();
            let refused = ledger.transfer_leadership_async(9).await;
            assert!(matches!(refused, Err(TransferError::NotAVoter(_))));
            assert!(ledger.leader_async().await.is_some());
            assert_eq!(ledger.append_when_ready("z").await.unwrap().index, index + 1);
            let mut watch = ledger.watch();
            assert!(watch.changed().await.is_some());
            let both = (ledger.shutdown_async(), ledger.shutdown_async());
            both.0.await.unwrap();
            both.1.await.unwrap();
            assert!(watch.changed().await.is_some_and(|status| status.stopped));
            assert!(watch.changed().await.is_none());
            done.send(()).unwrap();
        }
    };
    Waker::from(Arc::new(Inline(Mutex::new(Some(Box::pin(task)))))).wake();
    gate.open();
    outcome.recv_timeout(TIMEOUT).expect("the task comes to its end");
    assert!(under_way.wait().is_ok());
}

#[test]
fn a_task_that_owns_the_last_of_everything_may_be_dropped_by_its_waker() {
    struct Task(Mutex<Option<(DLedger, Vec<AppendWhenReady>)>>);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().take());
        }
    }
    let (ledger, gate) = gated(1);
    gate.shut();
    let mut first = ledger.append_async("x");
    let mut waits = ledger.append_when_ready("y");
    let more = (0..10).map(|_| ledger.append_when_ready("z")).collect();
    let task = Arc::new(Task(Mutex::new(Some((ledger.clone(), more)))));
    for future in [&mut first as &mut (dyn Future<Output = _> + Unpin), &mut waits] {
        assert!(pin!(future).poll(&mut Context::from_waker(&task.clone().into())).is_pending());
    }
    drop((task, ledger));
    // The old waker, and all that it owns, goes when another takes its place.
    for future in [&mut first as &mut (dyn Future<Output = _> + Unpin), &mut waits] {
        let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
        gate.open();
    }
    // The node has stopped, and no task is left waiting.
    for outcome in in_time(move || [pollster::block_on(first), pollster::block_on(waits)]) {
        let is_end =
            matches!(outcome, Ok(_) | Err(AppendError::Stopped | AppendError::OutcomeUnknown));
        assert!(is_end, "{outcome:?}");
    }
}

fn alone(id: u64, memory: &MemoryLog) -> Builder {
    DLedger::builder(id).storage(memory.clone())
}

#[test]
fn the_log_is_free_when_a_task_is_told_of_the_shutdown() {
    let memory = MemoryLog::new();
    for round in 0..30 {
        let ledger = alone(1, &memory).open().expect("the log is free");
        assert_eq!(ledger.append("entry").unwrap(), round);
        block_on(ledger.shutdown_async()).unwrap();
    }
}

#[test]
fn a_task_is_told_of_the_shutdown_when_every_thread_has_ended() {
    let (memory, has_ended) = (MemoryLog::new(), Arc::new(AtomicBool::new(false)));
    let observer = {
        let has_ended = has_ended.clone();
        move |status: &dledger::Status| {
            if status.stopped {
                std::thread::sleep(Duration::from_millis(100));
                has_ended.store(true, Ordering::SeqCst);
            }
        }
    };
    let ledger = alone(1, &memory).on_role_change(observer).open().unwrap();
    block_on(ledger.shutdown_async()).unwrap();
    assert!(has_ended.load(Ordering::SeqCst), "an observer was still at work");
}

#[test]
fn an_observer_may_await_the_shutdown_on_its_own_thread() {
    let (done, outcome) = mpsc::channel();
    let handle = Arc::new(std::sync::OnceLock::<DLedger>::new());
    let observed = handle.clone();
    let done = Mutex::new(done);
    let observe = move |status: &dledger::Status| {
        if status.role == dledger::Role::Leader {
            let _ = done.lock().send(pollster::block_on(observed.wait().shutdown_async()).is_ok());
        }
    };
    let ledger = alone(1, &MemoryLog::new()).on_role_change(observe).open().unwrap();
    handle.set(ledger).expect("it is set once");
    assert_eq!(outcome.recv_timeout(TIMEOUT), Ok(true));
}

#[cfg(target_os = "linux")]
#[test]
fn a_call_of_a_task_takes_no_thread() {
    let threads = || {
        fs::read_dir("/proc/self/task").unwrap().filter(|task| {
            let path = task.as_ref().expect("a thread is listed").path();
            let name = fs::read_to_string(path.join("comm")).ok();
            name.is_some_and(|name| name.starts_with("dl9031-"))
        })
    };
    let (log, gate) = (MemoryLog::new(), Gate::default());
    let storage = GatedLog { log, gate: gate.clone() };
    let ledger = DLedger::builder(9031).storage(storage).open().unwrap();
    let before = threads().count();
    gate.shut();
    let polls = AtomicU64::new(0);
    let mut waiting = Vec::new();
    for index in 0..500 {
        let mut all: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
        let (append, past) = (ledger.append_when_ready("x"), ledger.committed_past(index));
        let shared = ledger.clone();
        all.push(Box::pin(async { drop(append.await) }));
        all.push(Box::pin(async { drop(past.await) }));
        all.push(Box::pin(async move { while shared.watch().changed().await.is_none() {} }));
        for mut future in all {
            let _ = poll_once(&mut future);
            polls.fetch_add(1, Ordering::Relaxed);
            waiting.push(future);
        }
    }
    assert_eq!((threads().count(), polls.into_inner()), (before, 1500));
    gate.open();
    drop(waiting);
}
