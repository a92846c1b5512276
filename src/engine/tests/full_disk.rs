//! A node whose disk is full.

use super::*;

#[test]
fn a_leader_without_room_steps_back_and_leads_again_when_there_is_some() {
    let mut harness = Harness::alone();
    harness.reported();
    harness.fill(|refusals| refusals.append = true);
    let lost = harness.append("no room");
    let barrier = harness.barrier(1);
    harness.work();
    assert!(
        matches!(outcome(&lost), Some(Err(AppendError::StorageFull { .. }))),
        "{:?}",
        outcome(&lost)
    );
    assert!(harness.shared.status().full.is_some());
    assert_eq!(harness.reported(), [(Role::Follower, None)]);
    assert!(matches!(outcome(&harness.append("x")), Some(Err(AppendError::StorageFull { .. }))));
    assert_eq!(harness.shared.sequencer.in_flight(), 0);
    // It is patient for an election timeout, then tries.
    for _ in 1..ELECTION_TICKS {
        harness.tick();
        assert_eq!(harness.shared.status().role, Role::Follower);
        assert_eq!(harness.engine.wake_at(), harness.engine.next_tick);
    }
    (0..3).for_each(|_| harness.tick());
    assert_eq!(harness.shared.status().role, Role::Leader);
    assert_eq!(harness.shared.status().full, None, "a batch found room");
    assert_eq!(barrier.try_recv().unwrap().unwrap(), 0, "who asked before is answered");
    let future = harness.append("room");
    harness.work();
    assert_eq!(outcome(&future).unwrap().unwrap().index, 0);
}

#[test]
fn a_sync_of_the_time_before_a_full_disk_counts_for_nothing() {
    let mut harness = Harness::leader();
    drop(harness.append("written"));
    harness.turn();
    let old = harness.syncs.try_recv().unwrap();
    harness.pass(HOLD);
    harness.fill(|refusals| refusals.append = true);
    drop(harness.append("no room"));
    harness.turn();
    assert!(harness.shared.status().full.is_some());
    harness.hear("heartbeat from=2 to=1 term=5 commit=2");
    harness.turn();
    harness.sent();
    let count = harness.engine.syncs;
    harness
        .input(Input::Synced(SyncId { epoch: old.number.epoch, number: u64::MAX, count }, Ok(())));
    harness.turn();
    assert!(harness.sent().is_empty(), "the answer waits for a sync of its own time");
    harness.work();
    assert_eq!(harness.sent().len(), 1);
}

#[test]
fn a_node_without_room_hears_and_votes_and_takes_no_batches() {
    let mut harness = Harness::leader();
    harness.fill(|refusals| refusals.append = true);
    drop(harness.append("no room"));
    harness.work();
    harness.sent();
    harness.hear("append from=2 to=1 term=3 after=2/2 batch=3/3 commit=2");
    harness.work();
    assert_eq!((harness.shared.status().term, harness.sent().len()), (2, 0));
    harness.hear("heartbeat from=2 to=1 term=3 commit=2");
    harness.work();
    assert_eq!((harness.shared.status().term, harness.sent().len()), (3, 1));
    // A term that finds no room is no reason to stop either.
    harness.fill(|refusals| refusals.save = true);
    harness.hear("heartbeat from=3 to=1 term=4 commit=2");
    harness.work();
    assert!(harness.shared.status().fault.is_none() && harness.shared.status().full.is_some());
    assert_eq!(harness.sent().len(), 0, "it said nothing in a term that it did not write");
}
