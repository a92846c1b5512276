//! Small appends that wait for those that are under way.

use super::*;

/// A leader with one append under way, of raft index 3.
fn with_one_under_way() -> (Harness, AppendFuture) {
    let mut harness = Harness::leader();
    harness.pass(HOLD);
    let first = harness.append("one");
    harness.work();
    assert!(proposed(&harness, 3));
    (harness, first)
}

/// Whether the batch of this raft index was sent since the last call.
fn proposed(harness: &Harness, index: u64) -> bool {
    let entry = format!("[{index}");
    harness.sent().iter().any(|message| message.starts_with("1->2") && message.contains(&entry))
}

#[test]
fn small_appends_go_together_with_the_commit_of_what_was_under_way() {
    let (mut harness, first) = with_one_under_way();
    let next = [harness.append("two"), harness.append("three")];
    assert!(harness.engine.inputs().is_empty(), "they wake nobody");
    harness.turn();
    assert!(!proposed(&harness, 4));
    harness.hear("append-response from=2 to=1 term=2 index=3");
    harness.turn();
    assert!(outcome(&first).unwrap().is_ok());
    assert!(proposed(&harness, 4), "in the turn of the commit");
    harness.work();
    harness.hear("append-response from=2 to=1 term=2 index=4");
    harness.work();
    let indexes = next.map(|future| outcome(&future).unwrap().unwrap().index);
    assert_eq!(indexes, [1, 2]);
}

#[test]
fn small_appends_are_held_back_for_a_moment_only() {
    let (mut harness, first) = with_one_under_way();
    assert_eq!(harness.engine.wake_at(), harness.now.elapsed + HOLD);
    let second = harness.append("two");
    harness.pass_hold();
    assert!(proposed(&harness, 4));
    assert!(is_open(&first) && is_open(&second));
    assert_eq!(harness.engine.wake_at(), harness.now.elapsed + HOLD);
    harness.pass_hold();
    assert!(harness.engine.wake_at() > harness.now.elapsed + HOLD, "nothing is held back");
    let _third = harness.append("three");
    assert!(!harness.engine.inputs().is_empty(), "so it wakes the engine");
}

#[test]
fn a_transfer_proposes_what_was_held_back() {
    let (mut harness, _first) = with_one_under_way();
    let _second = harness.append("two");
    let _answer = harness.command(|reply| Command::Transfer { to: NodeId::from(2), reply });
    harness.turn();
    assert!(proposed(&harness, 4));
}
