//! Every public call in every situation that a host may make it in: it returns, within the time
//! that its documentation gives, and with an error that fits.

use std::cell::Cell;
use std::fmt::Debug;
use std::fs;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dledger::storage::MemoryLog;
use dledger::transport::MemoryNetwork;
use dledger::{Builder, DLedger, Role};

use crate::calls::{Doomed, within_a_waker};
use crate::group::{TIMEOUT, eventually, home, leader, three};

type Call = fn(&DLedger) -> String;

/// Every call of a handle and of what it gives, and what came of it. The last one ends the node.
const CALLS: [(&str, Call); 23] = [
    ("append", |ledger| kind(&ledger.append("x"))),
    ("append_async", |ledger| kind(&ledger.append_async("x").wait())),
    ("append_in_term", |ledger| kind(&ledger.append_in_term(ledger.status().term, "x"))),
    ("append_batch", |ledger| kind(&ledger.append_batch(["x", "y"]))),
    ("get", |ledger| kind(&ledger.get(0))),
    ("read", |ledger| ledger.read(0).next().map_or("none".into(), |entry| kind(&entry))),
    ("tail", |ledger| ledger.tail(0).next().map_or("none".into(), |entry| kind(&entry))),
    ("tail at the end", |ledger| {
        let next = ledger.tail(ledger.committed().end).next_timeout(Duration::from_millis(50));
        next.transpose().map_or("none".into(), |entry| kind(&entry))
    }),
    ("committed", |ledger| (ledger.committed().end > 0).to_string()),
    ("barrier", |ledger| kind(&ledger.barrier())),
    ("status", |ledger| ledger.status().role.to_string()),
    ("transfer", |ledger| kind(&ledger.transfer_leadership(2))),
    ("purge", |ledger| kind(&ledger.purge(0))),
    ("backup", |ledger| kind(&ledger.backup(home().path().join("backup")))),
    ("append_when_ready", |ledger| task(ledger.append_when_ready("x"))),
    ("barrier_async", |ledger| task(ledger.barrier_async())),
    ("transfer_async", |ledger| task(ledger.transfer_leadership_async(2))),
    ("purge_async", |ledger| task(ledger.purge_async(0))),
    ("committed_past", |ledger| task(ledger.committed_past(0))),
    ("wait_for_leader", |ledger| {
        let leader = ledger.wait_for_leader(Duration::from_millis(50));
        leader.map_or("none".into(), |_| "ok".into())
    }),
    ("watch", |ledger| ledger.watch().next().map_or("none".into(), |_| "ok".into())),
    ("shutdown_async", |ledger| task(ledger.shutdown_async())),
    ("shutdown", |ledger| kind(&ledger.shutdown())),
];

/// The same for a future. Within a waker it cannot be awaited: that it returns is all.
fn task<T, E: Debug>(future: impl Future<Output = Result<T, E>>) -> String {
    let mut future = pin!(future);
    let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    match polled {
        Poll::Ready(outcome) => kind(&outcome),
        Poll::Pending if WITHIN_A_WAKER.get() => "ok".into(),
        Poll::Pending => kind(&pollster::block_on(future)),
    }
}

thread_local!(static WITHIN_A_WAKER: Cell<bool> = const { Cell::new(false) });

/// `ok`, or the name of the error.
fn kind<T, E: Debug>(outcome: &Result<T, E>) -> String {
    let Err(error) = outcome else { return "ok".into() };
    let name = format!("{error:?}");
    name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().into()
}

/// Makes every call, each on a thread of its own, and says what came of it.
fn make_all(ledger: &DLedger) -> Vec<(&'static str, String)> {
    CALLS.iter().map(|(name, call)| (*name, within_time(name, ledger, *call))).collect()
}

fn within_time(name: &str, ledger: &DLedger, call: Call) -> String {
    let (done, returned) = mpsc::channel();
    let ledger = ledger.clone();
    std::thread::spawn(move || done.send(call(&ledger)));
    returned.recv_timeout(TIMEOUT).unwrap_or_else(|_| panic!("{name} has not returned"))
}

/// Each of `outcomes` is one of those that are named in the same row of `expected`, in any case for
/// calls that it does not name: those succeed.
#[track_caller]
fn expect(outcomes: &[(&str, String)], expected: &[(&str, &[&str])]) {
    for (call, outcome) in outcomes {
        let row = |call: &str| expected.iter().find(|(name, _)| *name == call);
        let find = |call: &str| row(call).map(|(_, outcomes)| *outcomes);
        // A call of a task comes to what the call of a thread does.
        let blocking = match *call {
            "append_when_ready" | "append_in_term" => Some("append"),
            call => call.strip_suffix("_async"),
        };
        let named = find(call).or_else(|| find(blocking?));
        let usual: &[&str] = match *call {
            "committed" => &["true"],
            "tail at the end" => &["none"],
            "wait_for_leader" => match find("status") {
                Some(["leader"]) => &["ok"],
                _ => &["ok", "none"],
            },
            _ => &["ok"],
        };
        let fitting = named.unwrap_or(usual);
        assert!(
            fitting.contains(&outcome.as_str()),
            "{call}: {outcome} is not one of {fitting:?}; all: {outcomes:?}"
        );
    }
}

fn quick(builder: Builder) -> Builder {
    let ms = Duration::from_millis;
    builder.heartbeat_interval(ms(50)).election_timeout(ms(400)).append_timeout(ms(1500))
}

fn alone(home: &tempfile::TempDir) -> Builder {
    quick(DLedger::builder(1)).dir(home.path().join("log"))
}

const NOBODY_ELSE: (&str, &[&str]) = ("transfer", &["NotAVoter"]);
const LEADER: (&str, &[&str]) = ("status", &["leader"]);
const FOLLOWER: (&str, &[&str]) = ("status", &["follower", "candidate"]);

facts! {
    fn in_good_order() {
        let home = home();
        let ledger = alone(&home).open().unwrap();
        expect(&make_all(&ledger), &[NOBODY_ELSE, LEADER]);
    }

    fn after_the_shutdown() {
        let home = home();
        let ledger = alone(&home).open().unwrap();
        ledger.append("x").unwrap();
        ledger.shutdown().unwrap();
        let stopped: &[&str] = &["Stopped"];
        expect(
            &make_all(&ledger),
            &[
                ("append", stopped),
                ("append_async", stopped),
                ("append_batch", stopped),
                ("get", stopped),
                ("read", stopped),
                ("tail", &["none"]),
                ("tail at the end", stopped),
                ("wait_for_leader", &["none"]),
                ("committed_past", stopped),
                ("barrier", stopped),
                ("transfer", stopped),
                ("purge", stopped),
                ("backup", stopped),
                FOLLOWER,
            ],
        );
    }

    fn within_a_waker_that_the_node_runs() {
        let home = home();
        let ledger = alone(&home).open().unwrap();
        ledger.append("x").unwrap();
        let refused: &[&str] = &["CalledFromWaker"];
        within_a_waker(&ledger, |ledger| {
            WITHIN_A_WAKER.set(true);
            let outcomes: Vec<_> = CALLS.iter().map(|(name, call)| (*name, call(ledger))).collect();
            expect(
                &outcomes,
                &[
                    ("append_when_ready", &["ok"]),
                    ("barrier_async", &["ok"]),
                    ("transfer_async", &["ok"]),
                    ("purge_async", &["ok"]),
                    ("append", refused),
                    ("append_async", refused),
                    ("append_batch", refused),
                    ("tail at the end", refused),
                    ("barrier", refused),
                    ("transfer", refused),
                    ("purge", refused),
                    ("backup", refused),
                    LEADER,
                ],
            );
        });
    }

    fn within_an_observer() {
        let home = home();
        let handle = Arc::new(OnceLock::<DLedger>::new());
        let (done, outcomes) = mpsc::channel();
        let observer = {
            let handle = handle.clone();
            move |status: &dledger::Status| {
                if status.role == Role::Leader {
                    let ledger = handle.wait();
                    let _ = done.send(CALLS.map(|(name, call)| (name, call(ledger))));
                }
            }
        };
        let ledger = alone(&home).on_role_change(observer).open().unwrap();
        handle.set(ledger.clone()).expect("it is set once");
        let outcomes = outcomes.recv_timeout(TIMEOUT).expect("every call returns");
        expect(&outcomes, &[NOBODY_ELSE, LEADER]);
    }

    fn in_many_threads_at_once() {
        let home = home();
        let nodes = three(home.path(), |builder| quick(builder).append_timeout(TIMEOUT));
        let at = leader(&nodes);
        let to = nodes[(at + 1) % 3].status().id;
        nodes[at].append("x").unwrap();
        let changes = ["transfer", "transfer_async", "shutdown", "shutdown_async"];
        for (name, call) in CALLS.iter().filter(|(name, _)| !changes.contains(name)) {
            let at = leader(&nodes);
            std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| within_time(name, &nodes[at], *call))).collect();
                for thread in threads {
                    expect(
                        &[(*name, thread.join().unwrap())],
                        &[LEADER, ("tail at the end", &["none", "ok"])],
                    );
                }
            });
        }
        // All of them ask for the same, and it is done.
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| nodes[at].transfer_leadership(to))).collect();
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap().expect("it is handed over"));
        });
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| nodes[at].shutdown())).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap().expect("it is shut down"));
        });
    }

    fn on_a_node_with_a_fault() {
        let home = home();
        let (doom, told) = mpsc::channel();
        let ledger = alone(&home).transport(Doomed::when(told)).open().unwrap();
        ledger.append("x").unwrap();
        doom.send(()).unwrap();
        eventually("the node to fail", || ledger.status().fault.is_some());
        let failed: &[&str] = &["Failed"];
        expect(
            &make_all(&ledger),
            &[
                ("append", failed),
                ("append_async", failed),
                ("append_batch", failed),
                ("tail at the end", failed),
                ("barrier", failed),
                ("transfer", failed),
                ("purge", failed),
                ("wait_for_leader", &["none"]),
                ("shutdown_async", failed),
                FOLLOWER,
            ],
        );
    }

    fn on_a_node_whose_disk_is_full() {
        let log = MemoryLog::new();
        let ledger = quick(DLedger::builder(1)).storage(log.clone()).open().unwrap();
        ledger.append("x").unwrap();
        log.set_full(true);
        let _ = ledger.append("no room");
        let full: &[&str] = &["StorageFull"];
        expect(
            &make_all(&ledger),
            &[
                ("append", full),
                ("append_async", full),
                ("append_batch", full),
                // No node leads, and none can.
                ("barrier", &["TimedOut"]),
                ("transfer", &["NotLeader", "NotAVoter"]),
                ("purge", &["ok", "Storage"]),
                ("backup", &["Unsupported"]),
                ("shutdown", &["ok", "Storage"]),
                FOLLOWER,
            ],
        );
    }

    fn on_a_node_under_repair() {
        let home = home();
        let nodes = three(home.path(), quick);
        nodes[leader(&nodes)].append(vec![7; 1000]).unwrap();
        eventually("all to have it", || nodes.iter().all(|node| node.committed().end == 1));
        nodes.iter().for_each(|node| node.shutdown().unwrap());
        drop(nodes);
        let files = fs::read_dir(home.path().join("1")).unwrap().map(|entry| entry.unwrap().path());
        for path in files.filter(|path| path.extension().is_some_and(|it| it == "seg")) {
            let mut bytes = fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(1000).position(|window| window == [7; 1000]) {
                bytes[at] = 8;
                fs::write(&path, bytes).unwrap();
            }
        }
        let builder = quick(DLedger::builder(1)).dir(home.path().join("1")).verify_on_open(true);
        let builder = builder.peers([1u64, 2, 3].map(|id| (id, "")));
        let ledger = builder.transport(MemoryNetwork::new().transport(1.into())).open().unwrap();
        assert!(ledger.status().repair.is_some(), "{:?}", ledger.status());
        let elsewhere: &[&str] = &["NotLeader"];
        expect(
            &make_all(&ledger),
            &[
                ("append", elsewhere),
                ("append_async", elsewhere),
                ("append_batch", elsewhere),
                ("get", &["Damaged"]),
                ("read", &["Damaged"]),
                ("tail", &["Damaged"]),
                ("barrier", &["TimedOut"]),
                ("transfer", elsewhere),
                ("purge", &["Failed"]),
                ("backup", &["Damaged"]),
                FOLLOWER,
            ],
        );
    }

    fn on_a_leader_whose_peers_have_gone() {
        for waits in [false, true] {
            let home = home();
            let nodes = three(home.path(), quick);
            let at = leader(&nodes);
            nodes[at].append("x").unwrap();
            let others = nodes.iter().enumerate().filter(|(node, _)| *node != at);
            others.for_each(|(_, node)| node.shutdown().unwrap());
            if waits {
                eventually("it to step down", || nodes[at].status().role != Role::Leader);
            }
            let unknown: &[&str] = &["TimedOut", "OutcomeUnknown", "NotLeader"];
            expect(
                &make_all(&nodes[at]),
                &[
                    ("append", unknown),
                    ("append_async", unknown),
                    ("append_batch", unknown),
                    ("barrier", &["TimedOut"]),
                    ("transfer", &["TimedOut", "NotLeader", "ok"]),
                    ("status", &["leader", "follower", "candidate"]),
                ],
            );
        }
    }
}
