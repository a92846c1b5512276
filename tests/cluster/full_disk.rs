//! Disks that run full, in memory: the outcomes of appends in flight, and of a node that
//! opens without room.

use std::time::{Duration, Instant};

use dledger::storage::MemoryLog;
use dledger::{AppendError, AppendFuture, Builder, DLedger, Role};

use crate::cluster_of::{TIMEOUT, until, whole};
use crate::gated::{Gate, GatedLog};

/// So long that a test which passes cannot have waited for it.
const LONG: Duration = Duration::from_secs(600);

fn on(memory: &MemoryLog) -> Builder {
    let ms = Duration::from_millis;
    DLedger::builder(1)
        .storage(memory.clone())
        .heartbeat_interval(ms(10))
        .election_timeout(ms(50))
        .append_timeout(LONG)
}

/// The error of an append that was told at once, and for certain, that there is no room.
#[track_caller]
fn refused_for_want_of_room(outcome: Result<u64, AppendError>) {
    match outcome {
        Err(error @ AppendError::StorageFull { .. }) => {
            assert!(!error.may_have_committed());
            assert!(error.to_string().contains("no space"), "{error}");
        }
        other => panic!("there was no room, and the append said {other:?}"),
    }
}

/// Once, they waited for their timeout and then said that the outcome is unknown.
#[test]
fn appends_that_meet_a_full_disk_under_way_are_told_so_by_the_only_voter() {
    let memory = MemoryLog::new();
    let ledger = on(&memory).open().unwrap();
    assert_eq!(ledger.append("before").unwrap(), 0);
    memory.set_full(true);
    let under_way: Vec<AppendFuture> =
        (0..100).map(|n: u64| ledger.append_async(n.to_le_bytes())).collect();
    for future in under_way {
        refused_for_want_of_room(
            future
                .wait_timeout(TIMEOUT)
                .expect("it is told at once")
                .map(|appended| appended.index),
        );
    }
    // It tries to lead again and again meanwhile, and says the same at every moment.
    let until_then = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until_then {
        refused_for_want_of_room(ledger.append("no room"));
        assert!(ledger.status().full.is_some());
    }
    assert_eq!(whole(&ledger).len(), 1, "reads go on");
    memory.set_full(false);
    until("it to lead again", || (ledger.status().role == Role::Leader).then_some(()));
    assert_eq!(
        ledger.append("after").unwrap(),
        1,
        "what was refused is not there, and never will be"
    );
    assert!(ledger.status().full.is_none());
    ledger.shutdown().unwrap();
    let payloads: Vec<Vec<u8>> =
        whole(&on(&memory).open().unwrap()).iter().map(|entry| entry.to_vec()).collect();
    assert_eq!(payloads, [b"before".to_vec(), b"after".to_vec()]);
}

/// Only what was not written is lost. What was, and waited for its sync when the disk ran full,
/// commits once this node leads again.
#[test]
fn an_append_that_was_written_before_the_disk_ran_full_is_not_given_up() {
    let (memory, gate) = (MemoryLog::new(), Gate::default());
    let ledger =
        on(&memory).storage(GatedLog { log: memory.clone(), gate: gate.clone() }).open().unwrap();
    gate.shut();
    let written = ledger.append_async("written");
    until("it to be written", || (ledger.status().end_index == 1).then_some(()));
    memory.set_full(true);
    let unwritten = ledger.append_async("unwritten");
    gate.open();
    refused_for_want_of_room(
        unwritten.wait_timeout(TIMEOUT).expect("it is told at once").map(|appended| appended.index),
    );
    memory.set_full(false);
    assert_eq!(written.wait_timeout(TIMEOUT).expect("it commits").unwrap().index, 0);
    assert_eq!(ledger.get(0).unwrap().as_deref(), Some(&b"written"[..]));
    // It commits with the first batch of the new term; the node takes appends once it has said that
    // it leads.
    until("it to lead again", || (ledger.status().role == Role::Leader).then_some(()));
    assert_eq!(ledger.append("after").unwrap(), 1);
}

/// Once, it was waited for during 30 seconds and then refused without a reason: who needed the
/// ledger open to purge it could not.
#[test]
fn the_only_node_of_a_group_opens_on_a_full_disk_to_be_read_and_purged() {
    let memory = MemoryLog::new();
    let ledger = on(&memory).open().unwrap();
    ledger.append_batch(["a", "b"]).unwrap();
    ledger.shutdown().unwrap();
    drop(ledger);
    memory.set_full(true);
    let began = Instant::now();
    let ledger = on(&memory).open().unwrap();
    assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
    let status = ledger.status();
    assert!(
        status.full.is_some_and(|reason| reason.contains("no space"))
            && status.role != Role::Leader
            && status.fault.is_none()
    );
    assert_eq!(whole(&ledger).len(), 2);
    refused_for_want_of_room(ledger.append("no room"));
    ledger.purge(2).unwrap();
    memory.set_full(false);
    until("it to lead", || (ledger.status().role == Role::Leader).then_some(()));
    assert_eq!(ledger.append("c").unwrap(), 2);
}
