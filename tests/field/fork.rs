//! Hosts that fork, as servers of old and runtimes of scripts do: the child has a handle of a
//! ledger whose threads are elsewhere, and locks that are never unlocked.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dledger::transport::MemoryNetwork;
use dledger::{
    AppendError, AppendFuture, BackupError, BarrierError, DLedger, PurgeError, ReadError,
    ShutdownError, TransferError,
};

use crate::calls::within_a_waker;
use crate::group::{TIMEOUT, addresses, eventually, home, leader};

/// A child that takes longer waits for somebody who is not there.
const CHILD_SECONDS: u32 = 20;

/// Runs `work` in a forked child, which then ends at once. `work` returns what is wrong.
fn in_child(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    // SAFETY: the child touches nothing that other threads lock, but what is examined here, and the
    // allocator, which survives a fork.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: neither touches memory of this process, and nothing runs at the end of the child.
        unsafe { libc::alarm(CHILD_SECONDS) };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let code = match outcome {
            Ok(Ok(())) => 0,
            Ok(Err(wrong)) => {
                let line = format!("in the child: {wrong}\n");
                // SAFETY: the bytes are there. Nothing of `std` is used, whose locks may be held.
                unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
                1
            }
            Err(_) => 2,
        };
        // SAFETY: as above.
        unsafe { libc::_exit(code) };
    }
    match end_of(child) {
        (0, 0) => Ok(()),
        (code, signal) => Err(format!("the child ended with code {code}, by signal {signal}")),
    }
}

/// Waits for the end of a child: its code, and the signal that ended it.
fn end_of(child: libc::pid_t) -> (i32, i32) {
    let mut status = 0;
    // SAFETY: the status is a place of its own.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    (libc::WEXITSTATUS(status), libc::WTERMSIG(status))
}

/// Reports a value other than the expected one.
macro_rules! expect {
    ($outcome:expr, $expected:pat) => {
        match $outcome {
            $expected => {}
            other => return Err(format!("{}: {other:?}", stringify!($outcome))),
        }
    };
}

fn expect_unknown(mut future: AppendFuture) -> Result<(), String> {
    let may_have_committed = |outcome: &Result<_, AppendError>| match outcome {
        Err(error @ AppendError::Forked { .. }) => error.may_have_committed(),
        _ => false,
    };
    let polled = Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(polled) = polled else { return Err("a future is pending".into()) };
    let waited = future.wait_timeout(Duration::from_secs(3600)).ok_or("a future waits")?;
    let looked = future.wait_timeout(Duration::ZERO).ok_or("a look at a future finds nothing")?;
    let _ = format!("{future:?}");
    let outcomes = [polled, waited, looked, future.wait()];
    match outcomes.iter().all(may_have_committed) {
        true => Ok(()),
        false => Err(format!("a future says {outcomes:?}")),
    }
}

/// Makes every call of a handle that was opened in the parent.
fn expect_refusals(ledger: &DLedger, backup: &Path) -> Result<(), String> {
    let refused = ledger.append("x").expect_err("no thread is there to append it");
    expect!(refused, AppendError::Forked { under_way: false, .. });
    if refused.may_have_committed() || !refused.to_string().contains("forked child") {
        return Err(refused.to_string());
    }
    expect!(ledger.append_async("x").wait(), Err(AppendError::Forked { under_way: false, .. }));
    expect!(ledger.append_parts(&[b"x"]), Err(AppendError::Forked { under_way: false, .. }));
    expect!(ledger.append_in_term(1, "x"), Err(AppendError::Forked { under_way: false, .. }));
    expect!(ledger.append_batch(["x", "y"]), Err(AppendError::Forked { under_way: false, .. }));
    expect!(ledger.append_batch([""; 0]), Err(AppendError::Forked { under_way: false, .. }));
    expect!(
        ledger.append_batch_async(["x", "y"]).wait(),
        Err(AppendError::Forked { under_way: false, .. })
    );
    expect!(ledger.get(0), Err(ReadError::Forked));
    expect!(ledger.get(u64::MAX), Err(ReadError::Forked));
    let mut cursor = ledger.read(0);
    expect!(cursor.next(), Some(Err(ReadError::Forked)));
    expect!(cursor.next(), None);
    for mut tail in [ledger.tail(0), ledger.tail(u64::MAX)] {
        expect!(tail.next(), Some(Err(ReadError::Forked)));
        expect!(tail.next_timeout(Duration::from_secs(3600)), Err(ReadError::Forked));
        let _ = format!("{tail:?}");
    }
    expect!(ledger.committed().end, 0);
    expect!(ledger.barrier(), Err(BarrierError::Forked));
    expect!(ledger.transfer_leadership(2), Err(TransferError::Forked));
    expect!(ledger.purge(u64::MAX), Err(PurgeError::Forked));
    expect!(ledger.backup(backup), Err(BackupError::Forked));
    let status = ledger.status();
    expect!((status.id.get(), &*status.group, status.members.len()), (1, "default", 1));
    expect!(status.fault, Some(_));
    let _ = format!("{ledger:?}");
    let refused = now(ledger.append_when_ready("x"));
    expect!(refused, Some(Err(AppendError::Forked { under_way: false, .. })));
    expect!(now(ledger.barrier_async()), Some(Err(BarrierError::Forked)));
    expect!(now(ledger.transfer_leadership_async(2)), Some(Err(TransferError::Forked)));
    expect!(now(ledger.purge_async(u64::MAX)), Some(Err(PurgeError::Forked)));
    expect!(now(ledger.committed_past(0)), Some(Err(ReadError::Forked)));
    expect!(now(ledger.leader_async()), Some(None));
    expect!(ledger.wait_for_leader(Duration::from_secs(3600)), None);
    expect!(ledger.watch().next(), None);
    expect!(now(ledger.watch().changed()), Some(None));
    expect!(now(ledger.shutdown_async()), Some(Err(ShutdownError::Forked)));
    expect!(ledger.shutdown(), Err(ShutdownError::Forked));
    Ok(())
}

/// What a future gives at its first poll.
fn now<F: Future>(future: F) -> Option<F::Output> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

facts! {
    fn a_child_has_the_futures_of_its_parents_tasks_and_waits_for_none() {
        let home = home();
        let builder = DLedger::builder(1).dir(home.path().join("log"));
        let ledger = builder.max_in_flight_bytes(100).open().unwrap();
        for _ in 0..100 {
            let first = ledger.append_when_ready([1; 60]);
            let mut waits = ledger.append_when_ready([2; 60]);
            let mut futures =
                (ledger.barrier_async(), ledger.committed_past(u64::MAX), ledger.watch());
            let polled = Pin::new(&mut waits).poll(&mut Context::from_waker(Waker::noop()));
            in_child(|| {
                match polled {
                    Poll::Pending => expect!(
                        now(&mut waits),
                        Some(Ok(_) | Err(AppendError::Forked { under_way: true, .. }))
                    ),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Err(error.to_string()),
                }
                expect!(now(&mut futures.0), Some(Err(BarrierError::Forked)));
                expect!(now(&mut futures.1), Some(Err(ReadError::Forked)));
                expect!(futures.2.next(), None);
                drop((waits, futures));
                Ok(())
            })
            .unwrap();
            pollster::block_on(first).unwrap();
        }
        let waits: Vec<_> = (0..100).map(|_| ledger.append_when_ready([2; 60])).collect();
        in_child(|| {
            drop(waits);
            Ok(())
        })
        .unwrap();
        ledger.shutdown().unwrap();
    }

    fn a_child_is_refused_at_once_whatever_the_parent_was_doing() {
        let home = home();
        let (dir, backup) = (home.path().join("log"), home.path().join("backup"));
        let ledger = DLedger::builder(1).dir(&dir).segment_bytes(64 << 10).open().unwrap();
        let first = ledger.append("first").unwrap();
        let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(1));
        let is_on = || !stop.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while is_on() {
                        let under_way: Vec<_> =
                            (0..50).map(|_| ledger.append_async([7; 40])).collect();
                        acknowledged.fetch_add(
                            under_way.into_iter().filter_map(|it| it.wait().ok()).count() as u64,
                            Ordering::Relaxed,
                        );
                    }
                });
            }
            scope.spawn(|| {
                while is_on() {
                    drop(ledger.status())
                }
            });
            scope.spawn(|| ledger.tail(0).take_while(|_| is_on()).for_each(drop));
            scope.spawn(|| {
                while is_on() {
                    drop((ledger.purge(0), ledger.barrier()))
                }
            });
            let mut half_read = ledger.read(0);
            assert_eq!(*half_read.next().unwrap().unwrap(), *b"first");
            let mut outcome = Ok(());
            for _ in 0..300 {
                let under_way = ledger.append_async("under way");
                acknowledged.fetch_add(1, Ordering::Relaxed);
                outcome = in_child(|| {
                    match under_way.wait() {
                        Ok(_) | Err(AppendError::Forked { under_way: true, .. }) => {}
                        other => return Err(format!("{other:?}")),
                    }
                    expect!(half_read.next(), Some(Err(ReadError::Forked)));
                    expect_refusals(&ledger, &backup)?;
                    // SAFETY: this is the last use of it in the child, which has no other thread.
                    drop(unsafe { std::ptr::read(&ledger) });
                    Ok(())
                });
                if outcome.is_err() {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
            ledger.append("so that the tail ends").unwrap();
            outcome.unwrap();
        });
        assert_eq!((ledger.status().fault, backup.exists()), (None, false));
        let appended = acknowledged.into_inner() + 1;
        assert_eq!(*ledger.get(first).unwrap().unwrap(), *b"first");
        assert_eq!(ledger.committed(), 0..appended);
        ledger.shutdown().unwrap();
        let ledger = DLedger::builder(1).dir(&dir).segment_bytes(64 << 10).open().unwrap();
        assert_eq!(ledger.read(0).map(Result::unwrap).count() as u64, appended);
    }

    fn an_append_that_was_under_way_at_the_fork_is_unknown_in_the_child() {
        let home = home();
        let network = MemoryNetwork::new();
        let nodes = [1u64, 2, 3].map(|id| {
            let builder =
                DLedger::builder(id).dir(home.path().join(id.to_string())).append_timeout(TIMEOUT);
            builder
                .transport(network.transport(id.into()))
                .peers([1u64, 2, 3].map(|id| (id, "")))
                .open()
                .unwrap()
        });
        let leads = leader(&nodes);
        let known = nodes[leads].append_async("known");
        known.wait_timeout(TIMEOUT).expect("it is committed").unwrap();
        let id = nodes[leads].status().id;
        network.isolate(id);
        let under_way = nodes[leads].append_async("no other node has heard of it");
        in_child(|| {
            expect!(known.wait(), Ok(_));
            expect_unknown(under_way)
        })
        .unwrap();
        network.rejoin(id);
        eventually("an append", || nodes.iter().any(|node| node.append("all is well").is_ok()));
        nodes.iter().for_each(|node| node.shutdown().unwrap());
    }

    // It has copies of the sockets, and of the files that are locked.
    fn a_child_that_lingers_keeps_nothing_from_the_parent() {
        let (home, addresses) = (home(), addresses(3));
        let open = |id: usize| {
            let builder = DLedger::builder(id as u64).dir(home.path().join(id.to_string()));
            builder.peers((1u64..=3).zip(addresses.clone())).open().unwrap()
        };
        let mut nodes = [1, 2, 3].map(open);
        let leads = leader(&nodes);
        nodes[leads].append("x").unwrap();
        // SAFETY: the child does nothing but wait for a signal.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above. It ends by itself if it is not ended.
            unsafe {
                libc::alarm(2 * CHILD_SECONDS);
                libc::pause();
                libc::_exit(0);
            }
        }
        for at in [leads, (leads + 1) % 3] {
            nodes[at].shutdown().unwrap();
            // A peer that sees the end of a connection need not wait for a silence.
            eventually("the others go on", || nodes.iter().any(|node| node.append("y").is_ok()));
            nodes[at] = open(at + 1);
        }
        let end = nodes.iter().map(|node| node.committed().end).max().unwrap();
        for node in &nodes {
            eventually("all are connected", || node.committed().end >= end);
        }
        drop(nodes);
        // SAFETY: it is this process's own child, which was not waited for yet.
        unsafe { libc::kill(child, libc::SIGKILL) };
        assert_eq!(end_of(child), (0, libc::SIGKILL), "it lingered until now");
    }

    fn a_child_that_comes_back_from_a_waker_does_not_go_on_as_the_node() {
        let home = home();
        let dir = home.path().join("log");
        let ledger = DLedger::builder(1).dir(&dir).open().unwrap();
        let (told, child) = std::sync::mpsc::channel();
        within_a_waker(&ledger, move |_| {
            // SAFETY: the child does nothing but return from here.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: no file of a core is wanted, and it ends by itself if it is not ended.
                unsafe {
                    libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 });
                    libc::alarm(CHILD_SECONDS);
                }
            } else {
                told.send(child).unwrap();
            }
        });
        assert_eq!(end_of(child.recv().unwrap()), (0, libc::SIGABRT));
        let end = ledger.append("x").unwrap() + 1;
        ledger.shutdown().unwrap();
        drop(ledger);
        assert_eq!(DLedger::builder(1).dir(&dir).open().unwrap().committed(), 0..end);
    }

    fn a_child_of_a_ledger_that_was_shut_down_is_refused_too() {
        let home = home();
        let ledger = DLedger::builder(1).dir(home.path().join("log")).open().unwrap();
        ledger.append("x").unwrap();
        ledger.shutdown().unwrap();
        in_child(|| {
            expect!(ledger.append("x"), Err(AppendError::Forked { under_way: false, .. }));
            expect!(ledger.get(0), Err(ReadError::Forked));
            expect!(ledger.shutdown(), Err(ShutdownError::Forked));
            // SAFETY: this is the last use of it in the child, which has no other thread.
            drop(unsafe { std::ptr::read(&ledger) });
            Ok(())
        })
        .unwrap();
        drop(ledger);
        DLedger::builder(1).dir(home.path().join("log")).open().unwrap().append("y").unwrap();
    }
}
