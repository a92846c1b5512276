//! Groups of a host that write appends: as many at a time as there are permits.

use super::*;
use crate::engine::permits::{PERMIT_TIME_MAX, WAIT_MAX};

/// Leaders of as many groups, with one permit.
fn leaders<const GROUPS: usize>() -> [Harness; GROUPS] {
    let permits = AppendPermits::new(1);
    [(); GROUPS].map(|()| {
        let mut harness = Harness::leader();
        let wake = harness.inputs.clone();
        // The engine may be gone.
        let permit = permits.of_group(move || drop(wake.send(Input::Appends)));
        harness.engine.set_permit(permit);
        harness
    })
}

/// The raft indexes of the batches that were sent to node 2 since the last call.
fn proposed(harness: &Harness) -> Vec<u64> {
    let sent = harness.sent();
    let to_one = sent.iter().filter(|message| message.starts_with("1->2"));
    let parts: Vec<&str> = to_one.flat_map(|message| message.split('[').skip(1)).collect();
    let digits = |part: &&str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
    parts.iter().filter_map(|part| digits(part).parse().ok()).collect()
}

fn append(harness: &mut Harness, payload: &str) -> AppendFuture {
    let future = harness.append(payload);
    harness.turn();
    future
}

/// The append of the first is under way, and the second waits with one.
fn with_one_that_waits<const GROUPS: usize>() -> [Harness; GROUPS] {
    let mut groups = leaders();
    let _under_way = append(&mut groups[0], "under way");
    assert_eq!(proposed(&groups[0]), [3]);
    let _waits = append(&mut groups[1], "waits");
    assert!(proposed(&groups[1]).is_empty());
    groups
}

fn end_sync(harness: &mut Harness) {
    assert!(harness.sync());
    harness.turn();
}

#[test]
fn what_waits_for_the_sync_of_another_group_becomes_one_batch() {
    let [mut one, mut other] = with_one_that_waits();
    let futures = [append(&mut other, "b"), append(&mut other, "c")];
    assert!(proposed(&other).is_empty() && other.engine.inputs().is_empty());
    end_sync(&mut one);
    assert!(!other.engine.inputs().is_empty(), "it is woken");
    other.turn();
    assert_eq!(proposed(&other), [3]);
    other.hear("append-response from=2 to=1 term=2 index=3");
    other.work();
    assert_eq!(futures.map(|future| outcome(&future).unwrap().unwrap().index), [1, 2]);
}

#[test]
fn a_group_alone_writes_on_beside_its_own_sync() {
    let [mut one] = leaders();
    let _first = append(&mut one, "first");
    let _second = append(&mut one, "second");
    one.pass_hold();
    assert_eq!(proposed(&one), [3, 4]);
}

#[test]
fn while_others_wait_a_group_has_one_batch_at_a_time_and_then_stands_behind_them() {
    let [mut one, mut other] = with_one_that_waits();
    let _next = append(&mut one, "next");
    one.pass_hold();
    assert!(proposed(&one).is_empty());
    end_sync(&mut one);
    assert!(proposed(&one).is_empty(), "the other one is first");
    other.turn();
    assert_eq!(proposed(&other), [3]);
    end_sync(&mut other);
    one.turn();
    assert_eq!(proposed(&one), [4]);
}

#[test]
fn a_group_does_not_wait_for_ever() {
    let [_one, mut other] = with_one_that_waits();
    assert!(other.engine.wake_at() <= other.now.elapsed + WAIT_MAX);
    other.pass(WAIT_MAX - Duration::from_micros(1));
    other.turn();
    assert!(proposed(&other).is_empty());
    other.pass(Duration::from_micros(1));
    other.turn();
    assert_eq!(proposed(&other), [3]);
}

#[test]
fn a_permit_is_given_back_though_the_sync_does_not_end() {
    let [mut one, mut other] = with_one_that_waits();
    assert!(one.engine.wake_at() <= one.now.elapsed + PERMIT_TIME_MAX);
    one.pass(PERMIT_TIME_MAX);
    one.turn();
    other.turn();
    assert_eq!(proposed(&other), [3]);
}

#[test]
fn who_fails_or_leads_no_more_or_is_gone_gives_its_permit_back() {
    let [mut one, mut other, mut third, mut last] = with_one_that_waits();
    let [_third, _last] = [append(&mut third, "waits too"), append(&mut last, "as well")];
    one.engine.fail("as the test wants it"); // it takes no further turn
    // It is woken with a permit, and has nothing to write any more.
    other.hear("heartbeat from=2 to=1 term=3 commit=0");
    other.work();
    third.turn();
    assert_eq!((proposed(&other), proposed(&third)), (vec![], vec![3]));
    drop(third);
    last.turn();
    assert_eq!(proposed(&last), [3]);
}

#[test]
fn what_is_not_synced_at_once_keeps_no_permit() {
    let mut one = Harness::with(1, Some(Duration::from_secs(1)));
    one.work();
    let permits = AppendPermits::new(1);
    one.engine.set_permit(permits.of_group(|| ()));
    let _written = append(&mut one, "written");
    let mut free = permits.of_group(|| ());
    assert!(free.acquire(1, Duration::ZERO));
}

#[test]
fn readers_elsewhere_learn_of_a_commit_with_the_next_batch_if_many_groups_write() {
    let [mut one, _other, mut third] = with_one_that_waits();
    let _waits = append(&mut third, "waits too");
    one.hear("append-response from=2 to=1 term=2 index=3");
    end_sync(&mut one);
    let soon = Duration::from_millis(1);
    assert!(one.engine.commit_notice_at.unwrap() > one.now.elapsed + soon);
    let [mut alone] = leaders();
    let _future = append(&mut alone, "alone");
    alone.hear("append-response from=2 to=1 term=2 index=3");
    end_sync(&mut alone);
    assert!(alone.engine.commit_notice_at.unwrap() < alone.now.elapsed + soon);
}
