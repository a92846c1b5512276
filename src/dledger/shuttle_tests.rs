//! A whole node, and a group of three, with all of their threads, under schedules drawn at random.
//! `tests/threads/README.md` says how to run them.
//!
//! Every thread of a node and of its hosts runs as it does in a process; the checker decides after
//! each step at a lock, a channel or an atomic which one goes on. A thread that is never woken is a
//! deadlock, which it reports. Whether time passes is drawn as well.

mod faulty;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use shuttle::rand::{Rng, RngCore, thread_rng};
use shuttle::scheduler::RandomScheduler;

use self::faulty::{Fault, FaultyLog};
use super::*;
use crate::host::Host;
use crate::primitives::Mutex;
use crate::primitives::channel::unbounded;
use crate::primitives::thread::{self, JoinHandle};
use crate::storage::MemoryLog;
use crate::storage::segmented::DiskLog;
use crate::storage::segmented::testing::simulated_disk::SimulatedDisk;

/// Runs `test` under as many schedules as `DLEDGER_SCHEDULES` says, each with a seed of its own,
/// from `DLEDGER_SEED` on.
fn under_random_schedules(name: &str, test: impl Fn() + Send + Sync + 'static) {
    let number = |name: &str, usual| {
        std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
    };
    let (first, count) = (
        number("DLEDGER_SEED", std::hash::RandomState::new().hash_one("seed")),
        number("DLEDGER_SCHEDULES", 100),
    );
    let test = Arc::new(test);
    for seed in (0..count).map(|more| first.wrapping_add(more)) {
        let mut config = shuttle::Config::new();
        config.stack_size = 256 << 10;
        config.max_steps = shuttle::MaxSteps::FailAfter(2_000_000);
        config.failure_persistence = shuttle::FailurePersistence::None;
        config.silence_warnings = true;
        let test = test.clone();
        let run = || {
            shuttle::Runner::new(RandomScheduler::new_from_seed(seed, 1), config)
                .run(move || test())
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            eprintln!(
                "{name} failed. Again: DLEDGER_SEED={seed} DLEDGER_SCHEDULES=1 \
                 tests/threads/run.sh shuttle {name}"
            );
            resume_unwind(panic);
        }
    }
    eprintln!("{name}: {count} schedules from seed {first}");
}

fn a_node_on(disk: &MemoryLog) -> DLedger {
    // Room for two of the entries that are appended here, so that a third waits.
    DLedger::builder(1).storage(disk.clone()).max_in_flight_bytes(80).open().expect("a node opens")
}

/// What became of each payload that a host offered.
#[derive(Clone, Default)]
struct History(Arc<Mutex<Vec<(String, Result<u64, AppendError>)>>>);

impl History {
    fn note(&self, payload: String, outcome: Result<u64, AppendError>) {
        self.0.lock().push((payload, outcome));
    }

    /// Compares it with all that `ledger` holds.
    fn assert_kept_by(&self, ledger: &DLedger) {
        let mut found = BTreeMap::new();
        let first = ledger.committed().start;
        for (entry, index) in ledger.read(first).zip(first..) {
            let entry = entry.expect("what is committed can be read");
            assert_eq!(entry.index(), index, "indexes are dense");
            let payload = String::from_utf8(entry.to_vec()).expect("it was text");
            assert_eq!(found.insert(payload, index), None, "an entry is there twice");
        }
        for (payload, outcome) in &*self.0.lock() {
            match outcome {
                Ok(index) if *index < first => {}
                Ok(index) => {
                    assert_eq!(found.get(payload), Some(index), "{payload} was acknowledged")
                }
                Err(error) if error.may_have_committed() => {}
                Err(error) => {
                    assert_eq!(found.get(payload), None, "{payload} was refused: {error}")
                }
            }
        }
    }
}

/// A host that appends `count` entries, one after the other, and reads each back.
fn appender(
    ledger: &DLedger,
    history: &History,
    name: &'static str,
    count: usize,
) -> JoinHandle<()> {
    let (ledger, history) = (ledger.clone(), history.clone());
    thread::spawn(move || {
        for number in 0..count {
            let payload = format!("{name}{number}");
            let outcome = ledger.append(&payload);
            if let Ok(index) = outcome {
                match ledger.get(index) {
                    Ok(entry) => assert_eq!(
                        &entry.expect("acknowledged, so readable")[..],
                        payload.as_bytes()
                    ),
                    Err(error) => assert!(
                        matches!(error, ReadError::Stopped | ReadError::Purged { .. }),
                        "{error}"
                    ),
                }
            }
            history.note(payload, outcome);
        }
    })
}

/// A host that appends without waiting in between, then polls the futures as a task would.
fn pipeliner(ledger: &DLedger, history: &History, count: usize) -> JoinHandle<()> {
    let (ledger, history) = (ledger.clone(), history.clone());
    thread::spawn(move || {
        let offer = |number| {
            (format!("pipelined {number}"), ledger.append_async(format!("pipelined {number}")))
        };
        let under_way: Vec<_> = (0..count).map(offer).collect();
        for (payload, future) in under_way {
            history.note(payload, faulty::block_on(future).map(|appended| appended.index));
        }
    })
}

fn shut_down(ledger: &DLedger) -> JoinHandle<Result<(), ShutdownError>> {
    let ledger = ledger.clone();
    thread::spawn(move || ledger.shutdown())
}

fn assert_shut_down(shutdown: JoinHandle<Result<(), ShutdownError>>) {
    shutdown.join().expect("no panic").expect("nothing failed");
}

fn await_hosts(hosts: impl IntoIterator<Item = JoinHandle<()>>) {
    hosts.into_iter().for_each(|host| host.join().expect("no host panics"));
}

#[test]
fn appends_reads_tails_and_barriers_beside_each_other() {
    under_random_schedules("appends_reads_tails_and_barriers_beside_each_other", || {
        let (disk, history) = (MemoryLog::new(), History::default());
        let ledger = a_node_on(&disk);
        let hosts = [
            appender(&ledger, &history, "a", 2),
            appender(&ledger, &history, "b", 1),
            pipeliner(&ledger, &history, 2),
        ];
        let mut tail = ledger.tail(0);
        let reader = thread::spawn(move || {
            let read: Vec<u64> = tail
                .by_ref()
                .take(3)
                .map(|entry| entry.expect("it is committed").index())
                .collect();
            assert_eq!(read, [0, 1, 2]);
        });
        let before = ledger.append_batch(["x", "y"]).expect("a node of its own takes appends");
        assert_eq!(before.end - before.start, 2);
        assert!(ledger.barrier().expect("a node of its own answers") >= before.end);
        await_hosts(hosts);
        reader.join().expect("the reader sees every entry");
        history.assert_kept_by(&ledger);
        ledger.shutdown().expect("nothing failed");
    });
}

#[test]
fn a_shutdown_ends_every_wait() {
    under_random_schedules("a_shutdown_ends_every_wait", || {
        let (disk, history) = (MemoryLog::new(), History::default());
        let ledger = a_node_on(&disk);
        let hosts = [
            appender(&ledger, &history, "a", 2),
            appender(&ledger, &history, "b", 2),
            pipeliner(&ledger, &history, 1),
        ];
        let tail = ledger.tail(0);
        let reader = thread::spawn(move || {
            tail.map(|entry| entry.expect("an end is no error").index()).count()
        });
        let barrier = thread::spawn({
            let ledger = ledger.clone();
            move || ledger.barrier()
        });
        // Whichever was first: when it returns, the log is free. But only one at a time can take
        // it.
        let turn = Arc::new(Mutex::new(()));
        let both = [(); 2].map(|()| {
            let (ledger, disk, turn) = (ledger.clone(), disk.clone(), turn.clone());
            thread::spawn(move || {
                let ended = ledger.shutdown();
                let _mine = turn.lock();
                a_node_on(&disk).shutdown().and(ended)
            })
        });
        both.into_iter().for_each(assert_shut_down);
        await_hosts(hosts);
        reader.join().expect("the tail ends");
        assert!(matches!(barrier.join().expect("no panic"), Ok(_) | Err(BarrierError::Stopped)));
        drop(ledger);
        history.assert_kept_by(&a_node_on(&disk));
    });
}

#[test]
fn the_last_handle_may_be_dropped_at_any_moment() {
    under_random_schedules("the_last_handle_may_be_dropped_at_any_moment", || {
        let (disk, history) = (MemoryLog::new(), History::default());
        let ledger = a_node_on(&disk);
        let future = ledger.append_async("left alone");
        let hosts = [appender(&ledger, &history, "a", 1), appender(&ledger, &history, "b", 1)];
        drop(ledger);
        await_hosts(hosts);
        history.note("left alone".to_owned(), future.wait().map(|appended| appended.index));
        history.assert_kept_by(&a_node_on(&disk));
    });
}

/// Segments are filled, made ready, sealed and removed under the eyes of readers.
#[test]
fn segments_come_and_go_while_they_are_read() {
    under_random_schedules("segments_come_and_go_while_they_are_read", || {
        let (disk, history) = (SimulatedDisk::new(thread_rng().next_u64()), History::default());
        let ledger = a_node_of_segments_on(&disk);
        // A segment holds two of these.
        let large = |name: &str, number: usize| format!("{name}{number:03000}");
        let hosts = ["a", "b"].map(|name| {
            let (ledger, history) = (ledger.clone(), history.clone());
            thread::spawn(move || {
                for number in 0..4 {
                    let payload = large(name, number);
                    history.note(payload.clone(), ledger.append(&payload));
                }
            })
        });
        let reader = thread::spawn({
            let ledger = ledger.clone();
            move || {
                for _ in 0..3 {
                    let read = ledger.read(ledger.committed().start);
                    let purged = |entry: &Result<Entry, ReadError>| {
                        matches!(entry, Err(ReadError::Purged { .. }))
                    };
                    read.take_while(|entry| !purged(entry))
                        .for_each(|entry| assert_eq!(entry.expect("it is committed").len(), 3001));
                }
            }
        });
        let first = ledger.purge(3).expect("a node of its own purges");
        assert!(first <= 3);
        await_hosts(hosts);
        reader.join().expect("no reader sees anything but the log");
        history.assert_kept_by(&ledger);
        ledger.shutdown().expect("nothing failed");
        drop(ledger);
        history.assert_kept_by(&a_node_of_segments_on(&disk));
    });
}

fn a_node_of_segments_on(disk: &SimulatedDisk) -> DLedger {
    let zero_fill = thread_rng().gen_bool(0.5);
    let options = SegmentOptions { zero_fill, ..SegmentOptions::small() };
    DLedger::builder(1).storage(DiskLog::on(disk.clone(), options)).open().expect("a node opens")
}

/// Whatever panics or fails within a node, the node says so, every waiting thread learns of it, and
/// what was acknowledged is kept.
#[test]
fn a_node_that_fails_ends_every_wait() {
    under_random_schedules("a_node_that_fails_ends_every_wait", || {
        let (disk, history) = (MemoryLog::new(), History::default());
        let fault = Fault::draw(&disk);
        let log = FaultyLog { log: disk.clone(), fault: fault.clone() };
        let observed = |_: &Status| faulty::panic_in_silence();
        let ledger = DLedger::builder(1)
            .storage(log)
            .max_in_flight_bytes(80)
            .on_role_change(observed)
            .open()
            .expect("a node opens");
        let hosts = [appender(&ledger, &history, "a", 2), pipeliner(&ledger, &history, 2)];
        fault.arm();
        let mut tail = ledger.tail(0);
        let reader = thread::spawn(move || tail.by_ref().count());
        let outcome = ledger.append("last");
        history.note("last".to_owned(), outcome);
        await_hosts(hosts);
        if fault.is_spent() {
            assert!(matches!(ledger.barrier(), Err(BarrierError::Failed { .. })));
            assert!(ledger.status().fault.is_some());
        }
        let ended = ledger.shutdown();
        assert_eq!(ended.is_err(), fault.is_spent(), "{ended:?}");
        reader.join().expect("the tail ends");
        drop(ledger);
        history.assert_kept_by(&a_node_on(&disk));
    });
}

/// A task that is woken by the engine, within the waker, may shut the node down or drop its last
/// handle.
#[test]
fn a_waker_may_shut_the_node_down() {
    under_random_schedules("a_waker_may_shut_the_node_down", || {
        let (disk, history) = (MemoryLog::new(), History::default());
        let ledger = a_node_on(&disk);
        let host = appender(&ledger, &history, "a", 2);
        let mut future = ledger.append_async("woken");
        let (done, is_done) = unbounded();
        let waker = faulty::waker({
            let ledger = ledger.clone();
            let drops = thread_rng().gen_bool(0.5);
            move || {
                if !drops {
                    ledger.shutdown().expect("nothing failed");
                }
                let _ = done.send(());
            }
        });
        drop(ledger);
        let polled =
            std::pin::Pin::new(&mut future).poll(&mut std::task::Context::from_waker(&waker));
        drop(waker);
        if polled.is_pending() {
            is_done.recv().expect("it is woken");
        }
        history.note("woken".to_owned(), future.wait().map(|appended| appended.index));
        host.join().expect("no host panics");
        history.assert_kept_by(&reopened(&disk));
    });
}

/// The node may still be stopping: its threads are not waited for when the engine itself dropped
/// it.
/// Groups that share the threads of a host: nothing waits for ever, and each can be opened again
/// once it is closed.
#[test]
fn groups_of_a_host_share_its_threads_and_end() {
    under_random_schedules("groups_of_a_host_share_its_threads_and_end", || {
        let home = tempfile::tempdir().expect("there is room for a directory");
        let host = Host::builder(1).dir(home.path().join("host")).threads(1);
        let host = host.open().expect("a host opens");
        let groups = ["a", "b"].map(|name| {
            let (disk, history) = (MemoryLog::new(), History::default());
            let ledger = host.group(name).storage(disk.clone()).open().expect("a group opens");
            (name, disk, history, ledger)
        });
        let hosts = groups.iter().flat_map(|(_, _, history, ledger)| {
            [appender(ledger, history, "x", 2), pipeliner(ledger, history, 2)]
        });
        let hosts: Vec<_> = hosts.collect();
        let stopped = shut_down(&groups[0].3);
        await_hosts(hosts);
        assert_shut_down(stopped);
        let (name, disk, history, _) = &groups[0];
        let again = host.group(*name).storage(disk.clone()).open().expect("its claim is free");
        history.assert_kept_by(&again);
        let (_, _, history, ledger) = &groups[1];
        history.assert_kept_by(ledger);
        host.shutdown().expect("nothing failed");
        assert!(again.status().stopped && ledger.status().stopped);
    });
}

fn reopened(disk: &MemoryLog) -> DLedger {
    loop {
        match DLedger::builder(1).storage(disk.clone()).open() {
            Err(OpenError::Storage(StorageError::InUse { .. })) => thread::yield_now(),
            opened => return opened.expect("a node opens"),
        }
    }
}

#[test]
fn three_nodes_agree() {
    under_random_schedules("three_nodes_agree", || {
        let (network, history) = (MemoryNetwork::new(), History::default());
        let nodes = [1, 2, 3].map(|id: u64| {
            let builder =
                DLedger::builder(id).peers((1..=3u64).map(|id| (id, format!("node {id}"))));
            let builder = builder.storage(MemoryLog::new()).transport(network.transport(id.into()));
            let patient = builder
                .heartbeat_interval(Duration::from_millis(100))
                .election_timeout(Duration::from_millis(400));
            patient.open().expect("a node opens")
        });
        let hosts = ["a", "b"].map(|name| {
            let (nodes, history) = (nodes.clone(), history.clone());
            thread::spawn(move || offer_until_taken(&nodes, &history, name))
        });
        let leader = nodes[0].clone();
        let transfer = thread::spawn(move || leader.transfer_leadership(2));
        await_hosts(hosts);
        let _ = transfer.join().expect("no panic");
        for node in &nodes {
            while node.barrier().is_err() {
                thread::yield_now();
            }
            history.assert_kept_by(node);
        }
        nodes.each_ref().map(shut_down).into_iter().for_each(assert_shut_down);
    });
}

/// Appends at whichever node leads. Each attempt has a payload of its own.
fn offer_until_taken(nodes: &[DLedger], history: &History, name: &str) {
    for attempt in 0.. {
        let payload = format!("{name}{attempt}");
        let outcome = nodes[attempt % nodes.len()].append(&payload);
        let taken = outcome.is_ok();
        history.note(payload, outcome);
        if taken {
            return;
        }
        thread::yield_now();
    }
}
