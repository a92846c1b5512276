//! Closing: every thread ends, every promise is kept or taken back, and the directory is free.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use dledger::storage::{MemoryLog, StorageError};
use dledger::{AppendError, BarrierError, DLedger, OpenError, ReadError, TransferError};
use parking_lot::Mutex;

use crate::cluster_of::{Disk, TIMEOUT, TransportKind, cluster_of, until};
use crate::gated::{Gate, GatedLog};

/// The threads of this process that belong to node `id`. Tests that run beside this one use other
/// numbers.
fn threads_of(id: u64) -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux shows the threads of a process");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let is_of_node = |name: &String| name.contains(&format!("/{id}-"));
    names.map(|name| name.trim().to_owned()).filter(is_of_node).collect()
}

/// A thread is still shown for a moment after it was joined.
fn assert_no_threads_of(id: u64) {
    until(format!("the threads of node {id} to be gone"), || {
        threads_of(id).is_empty().then_some(())
    });
}

#[cfg(target_os = "linux")]
#[test]
fn shutdown_ends_every_thread_and_so_does_the_drop_of_the_last_handle() {
    for id in [9001, 9002] {
        let ledger = DLedger::builder(id).storage(MemoryLog::new()).open().unwrap();
        let clone = ledger.clone();
        ledger.append("entry").unwrap();
        assert!(!threads_of(id).is_empty(), "they are found by their names");
        if id == 9001 {
            clone.shutdown().unwrap();
        } else {
            drop(ledger);
            clone.append("a handle is left").unwrap();
            drop(clone);
        }
        assert_no_threads_of(id);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_threads_of_the_network_end_as_well() {
    let addresses = crate::cluster_of::free_addresses(3);
    let open = |id: u64| {
        let peers = [9011, 9012, 9013].into_iter().zip(addresses.iter().cloned());
        let quick = |builder: dledger::Builder| {
            builder
                .heartbeat_interval(Duration::from_millis(20))
                .election_timeout(Duration::from_millis(200))
        };
        let builder = DLedger::builder(id).storage(MemoryLog::new());
        quick(builder.peers(peers)).open().unwrap()
    };
    let ledgers: Vec<DLedger> = [9011, 9012, 9013].into_iter().map(open).collect();
    until("an append", || ledgers.iter().find_map(|ledger| ledger.append("entry").ok()));
    for (ledger, id) in ledgers.iter().zip([9011, 9012, 9013]) {
        ledger.shutdown().unwrap();
        assert_no_threads_of(id);
    }
}

#[test]
fn a_clone_that_was_shut_down_elsewhere_says_so() {
    let cluster = cluster_of(3).open();
    let leader = cluster.leader();
    cluster.append(b"entry");
    cluster.agree(); // a follower that had not heard of the entry yet would have nothing to refuse
    for id in [leader, cluster.others(leader)[0]] {
        let ledger = cluster.node(id);
        cluster.stop(id);
        let error = ledger.append("too late").unwrap_err();
        assert!(matches!(error, AppendError::Stopped) && !error.may_have_committed(), "{error:?}");
        assert!(matches!(ledger.append_async("too late").wait(), Err(AppendError::Stopped)));
        assert!(matches!(ledger.append_batch(["too", "late"]), Err(AppendError::Stopped)));
        assert!(matches!(ledger.get(0), Err(ReadError::Stopped)));
        assert!(matches!(ledger.read(0).next(), Some(Err(ReadError::Stopped))));
        assert!(ledger.tail(0).next().is_none());
        assert!(matches!(ledger.barrier(), Err(BarrierError::Stopped)));
        assert!(matches!(ledger.transfer_leadership(2), Err(TransferError::Stopped)));
        assert_eq!(ledger.status().fault, None);
        ledger.shutdown().expect("a second time is as good as the first");
    }
}

#[test]
fn every_wait_ends_with_the_node() {
    let cluster = cluster_of(3)
        .with(|builder| builder.append_timeout(Duration::from_secs(600)).max_in_flight_bytes(1000))
        .open();
    let leader = cluster.leader();
    let ledger = cluster.node(leader);
    cluster.append(b"entry");
    cluster.others(leader).into_iter().for_each(|id| cluster.stop(id));
    thread::scope(|scope| {
        let under_way = ledger.append_async([0; 900]);
        let full = scope.spawn(|| ledger.append([1; 900]));
        let tail = scope.spawn(|| ledger.tail(1).next());
        let asks = scope.spawn(|| ledger.barrier());
        let transfers = scope.spawn(|| ledger.transfer_leadership(cluster.others(leader)[0]));
        // By now they wait. The assertions below hold even if one does not wait yet.
        thread::sleep(Duration::from_millis(20));
        cluster.stop(leader);
        assert!(matches!(under_way.wait(), Err(error) if error.may_have_committed()));
        assert!(full.join().unwrap().is_err());
        assert!(tail.join().unwrap().is_none());
        assert!(matches!(asks.join().unwrap(), Err(BarrierError::Stopped)));
        assert!(transfers.join().unwrap().is_err());
    });
}

#[test]
fn threads_may_shut_down_at_once_and_the_log_is_free_when_any_of_them_returns() {
    for _ in 0..20 {
        let memory = MemoryLog::new();
        let ledger = DLedger::builder(1).storage(memory.clone()).open().unwrap();
        ledger.append("entry").unwrap();
        let first_to_return = AtomicBool::new(true);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    ledger.shutdown().unwrap();
                    if first_to_return.swap(false, Ordering::Relaxed) {
                        let again = DLedger::builder(1)
                            .storage(memory.clone())
                            .open()
                            .expect("the log is free");
                        assert_eq!(again.committed(), 0..1);
                    }
                });
            }
        });
    }
}

#[test]
fn a_log_is_open_once_and_free_at_once_after_shutdown() {
    for disk in [Disk::Memory, Disk::Directory] {
        let cluster = cluster_of(1).on(disk).open();
        for n in 0..5 {
            assert_eq!(cluster.node(1).append("entry").unwrap(), n);
            let second = cluster.builder(1).open();
            assert!(
                matches!(second, Err(OpenError::Storage(StorageError::InUse { .. }))),
                "{second:?}"
            );
            assert_eq!(cluster.node(1).committed(), 0..n + 1, "the first is not disturbed");
            cluster.stop(1);
            cluster.start(1);
        }
    }
}

#[test]
fn a_group_over_tcp_can_be_reopened_at_the_same_addresses_at_once() {
    let cluster = cluster_of(3).over(TransportKind::Tcp).open();
    for n in 0..3 {
        assert_eq!(cluster.append(b"entry"), n);
        cluster.ids().for_each(|id| cluster.stop(id));
        cluster.ids().for_each(|id| cluster.start(id));
    }
    assert_eq!(cluster.agree().len(), 3);
}

#[test]
fn who_is_not_of_this_group_is_refused_by_its_log() {
    let memory = MemoryLog::new();
    let open =
        |id: u64, group: &str| DLedger::builder(id).group(group).storage(memory.clone()).open();
    open(1, "orders").unwrap().append("entry").unwrap();
    for (id, group) in [(2, "orders"), (1, "payments")] {
        let error = open(id, group).unwrap_err();
        assert!(matches!(error, OpenError::Storage(StorageError::Mismatch { .. })), "{error}");
    }
    assert_eq!(open(1, "orders").unwrap().committed(), 0..1);
}

/// An executor that was dropped leaves its tasks to the threads that wake them. If such a task
/// holds the last handle, the node is closed by a thread of its own, which must not wait for
/// itself.
#[test]
fn a_woken_task_may_hold_the_last_handle() {
    struct Task(Mutex<Option<DLedger>>);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().take());
        }
    }
    let gate = Gate::default();
    let memory = MemoryLog::new();
    let ledger = DLedger::builder(9021)
        .storage(GatedLog { log: memory.clone(), gate: gate.clone() })
        .open()
        .unwrap();
    gate.shut();
    let mut future = ledger.append_async("entry");
    let waker = Waker::from(Arc::new(Task(Mutex::new(Some(ledger)))));
    let polled = std::future::Future::poll(
        std::pin::Pin::new(&mut future),
        &mut Context::from_waker(&waker),
    );
    assert!(matches!(polled, Poll::Pending));
    drop(waker);
    gate.open();
    assert_eq!(future.wait_timeout(TIMEOUT).expect("it resolves").unwrap().index, 0);
    let again =
        until("the log to be free", || DLedger::builder(9021).storage(memory.clone()).open().ok());
    assert_eq!(again.committed(), 0..1);
}
