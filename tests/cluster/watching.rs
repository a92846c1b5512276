//! Following the status of a node from any moment on.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use dledger::storage::MemoryLog;
use dledger::{DLedger, Progress, Role, Status, StatusWatch};

use crate::cluster_of::{TIMEOUT, cluster_of, until};
use crate::tasks::in_time;

/// Waits for a status that is as wished.
#[track_caller]
fn until_told(watch: &mut StatusWatch, wish: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match watch.next_timeout(deadline.saturating_duration_since(Instant::now())) {
            Some(status) if wish(&status) => return status,
            Some(_) => {}
            None => panic!("it was never told"),
        }
    }
}

#[test]
fn a_watch_begins_with_the_present_tells_every_change_and_ends() {
    let cluster = cluster_of(3).open();
    cluster.append(b"entry");
    let leader = cluster.leader();
    let ledger = cluster.node(leader);
    // Until it has seen all there are of them, and how far they are.
    until("both in step", || {
        let known = ledger.status().members.into_iter().filter_map(|member| member.progress);
        (known.filter(|progress| *progress == Progress::InStep).count() == 2).then_some(())
    });
    let mut watch = ledger.watch();
    let present = watch.next().unwrap();
    assert_eq!((present.role, present.id.get(), present.committed), (Role::Leader, leader, 0..1));
    assert_eq!(watch.next_timeout(Duration::ZERO), None, "nothing has changed");
    for to in [cluster.others(leader)[0], leader] {
        cluster.node(cluster.leader()).transfer_leadership(to).unwrap();
        let told = until_told(&mut watch, |status| status.leader.map(u64::from) == Some(to));
        assert!(told.term > present.term && !told.stopped);
    }
    let follower = thread::spawn({
        let watch = ledger.watch();
        move || watch.last()
    });
    let task = thread::spawn({
        let mut watch = ledger.watch();
        move || {
            pollster::block_on(async move {
                let mut last = None;
                while let Some(status) = watch.changed().await {
                    last = Some(status);
                }
                last
            })
        }
    });
    cluster.stop(leader);
    assert!(until_told(&mut watch, |status| status.stopped).leader.is_none());
    assert_eq!((watch.next(), watch.next_timeout(TIMEOUT)), (None, None));
    let lasts = in_time(|| [follower.join().unwrap(), task.join().unwrap()]);
    for last in lasts.into_iter().chain([ledger.watch().next()]) {
        let last = last.expect("the last status is never missed");
        assert!(last.stopped && last == ledger.status(), "{last:?}");
    }
}

#[test]
fn a_change_without_a_waiting_caller_is_told_to_the_next_one() {
    let memory = MemoryLog::new();
    let ms = Duration::from_millis;
    let builder = DLedger::builder(1).storage(memory.clone()).heartbeat_interval(ms(10));
    let ledger = builder.election_timeout(ms(50)).open().unwrap();
    let mut watch = ledger.watch();
    assert!(watch.next().is_some_and(|status| status.role == Role::Leader));
    for _ in 0..3 {
        {
            let mut changed = pin!(watch.changed());
            let polled = changed.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Pending);
            // It is dropped here.
        }
        memory.set_full(true);
        let _ = ledger.append("no room");
        until_told(&mut watch, |status| status.full.is_some());
        memory.set_full(false);
        until_told(&mut watch, |status| status.full.is_none() && status.role == Role::Leader);
    }
    ledger.append("room").unwrap();
    assert_eq!(watch.next_timeout(Duration::ZERO), None, "an append is no change");
}

#[test]
fn a_watch_does_not_keep_the_node_running() {
    let ledger = DLedger::builder(1).storage(MemoryLog::new()).open().unwrap();
    let watch = ledger.watch();
    drop(ledger);
    assert!(in_time(|| watch.last()).is_some_and(|status| status.stopped));
}

#[test]
fn a_node_that_finds_no_leader_does_not_wait_for_one_for_ever() {
    let cluster = cluster_of(3).prepare();
    cluster.start(1);
    let ledger = cluster.node(1);
    assert_eq!(ledger.wait_for_leader(Duration::from_millis(50)), None);
    let waits = thread::spawn({
        let ledger = ledger.clone();
        move || ledger.wait_for_leader(TIMEOUT)
    });
    let task = thread::spawn(move || pollster::block_on(ledger.leader_async()));
    cluster.start(2);
    let leader = Some(cluster.leader_among(&[1, 2]));
    let found = in_time(|| [waits.join().unwrap(), task.join().unwrap()]);
    assert_eq!(found.map(|found| found.map(u64::from)), [leader; 2]);
}
