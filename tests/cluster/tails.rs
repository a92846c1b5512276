//! What a tail tells of an end, a time-out and entries that are not kept.

use std::thread;
use std::time::Duration;

use dledger::{DLedger, Entry, ReadError};

use crate::cluster_of::{Disk, TIMEOUT, cluster_of, until};
use crate::lines;

const LONG: Duration = Duration::from_secs(3600);

fn index(outcome: Result<Option<Entry>, ReadError>) -> u64 {
    outcome.expect("it can be read").expect("it is there").index()
}

fn purged(outcome: Result<Option<Entry>, ReadError>) -> (u64, u64) {
    match outcome {
        Err(ReadError::Purged { index, first, .. }) => (index, first),
        other => panic!("{other:?}"),
    }
}

fn fill(ledger: &DLedger, to: u64) {
    while ledger.committed().end < to {
        ledger.append([7; 8 << 10]).expect("there is a quorum");
    }
}

#[test]
fn a_tail_that_was_purged_goes_on_where_it_is_told_to() {
    let plan = cluster_of(1).on(Disk::Directory);
    let cluster = plan.with(|builder| builder.segment_bytes(64 << 10)).open();
    let ledger = cluster.node(1);
    fill(&ledger, 50);
    let mut tail = ledger.tail(3);
    let first = ledger.purge(40).unwrap();
    assert!(first > 10);
    for _ in 0..2 {
        assert_eq!(purged(tail.next_timeout(LONG)), (3, first), "it is told as long as it is so");
    }
    let told = tail.next();
    assert!(matches!(told, Some(Err(ReadError::Purged { .. }))), "{told:?}");
    assert!(tail.next().is_none(), "the iterator ends after the first error");
    tail.seek(first);
    assert_eq!(tail.next().unwrap().unwrap().index(), first);
    assert_eq!(index(tail.next_timeout(LONG)), first + 1);
    tail.seek(first);
    assert_eq!(index(tail.next_timeout(LONG)), first, "backwards too");
    tail.seek(50);
    assert!(matches!(tail.next_timeout(Duration::ZERO), Ok(None)));
    ledger.append("more").unwrap();
    assert_eq!(index(tail.next_timeout(LONG)), 50);
}

#[test]
fn a_tail_that_waits_on_a_node_that_is_moved_forward_is_told_and_can_go_on() {
    lines::listen();
    let plan = cluster_of(3).on(Disk::Directory);
    let cluster = plan.with(|builder| builder.group("tails").segment_bytes(64 << 10)).open();
    cluster.append(b"first");
    cluster.agree();
    let leader = cluster.leader();
    let away = cluster.others(leader)[0];
    cluster.isolate(away);
    let mut tail = cluster.node(away).tail(0);
    assert_eq!(index(tail.next_timeout(LONG)), 0);
    let waiting = thread::spawn(move || (tail.next_timeout(TIMEOUT), tail));
    fill(&cluster.node(leader), 50);
    let first = until("the others to purge", || {
        let purge = |id| cluster.node(id).purge(40).expect("it purges");
        cluster.others(away).into_iter().map(purge).min().filter(|first| *first > 10)
    });
    cluster.network.heal();
    let (told, mut tail) = waiting.join().unwrap();
    let (index_lacking, kept) = purged(told);
    assert_eq!(index_lacking, 1);
    assert!(kept >= first, "{kept} is kept, of {first} and more");
    tail.seek(kept);
    assert_eq!(index(tail.next_timeout(LONG)), kept);
    let who = format!("INFO group tails node {away}: moved forward: its log begins anew");
    let line = format!("{who} at entry {kept},");
    let lines = lines::of(&format!("group tails node {away}: "));
    assert!(lines.iter().any(|it| it.starts_with(&line)), "{lines:?}");
}

#[test]
fn a_tail_tells_a_shutdown_from_a_time_out() {
    let cluster = cluster_of(1).open();
    let ledger = cluster.node(1);
    let mut tail = ledger.tail(0);
    assert!(matches!(tail.next_timeout(Duration::from_millis(5)), Ok(None)));
    let waiting = thread::spawn(move || (tail.next_timeout(LONG), tail));
    thread::sleep(Duration::from_millis(20));
    ledger.shutdown().unwrap();
    let (end, mut tail) = waiting.join().unwrap();
    assert!(matches!(end, Err(ReadError::Stopped)), "{end:?}");
    assert!(tail.next().is_none());
    tail.seek(0);
    assert!(matches!(tail.next_timeout(LONG), Err(ReadError::Stopped)));
}
