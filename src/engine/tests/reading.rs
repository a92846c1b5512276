//! A leader reads a little at a time for followers that lack batches.

use super::*;

/// The most that a message carries, and what one batch of these tests takes.
const MESSAGE_BYTES: u64 = 4 << 10;
const PAYLOAD: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

fn answer(desk: &mut Desk, nodes: &[u64], index: u64) {
    for node in nodes {
        desk.hear(&format!("append-answer from={node} to=1 term=2 index={index}"));
    }
}

/// Node 1 of 5, which leads. Nodes 2 and 3 have all there is, 4 and 5 only what they have acknowledged
/// in the beginning. Gives also the raft index of the last batch.
fn with_two_behind() -> (Desk, u64) {
    let mut desk = Desk::with_messages(5, MESSAGE_BYTES);
    while desk.sent().is_empty() {
        desk.tick();
    }
    for answer in ["pre-vote-answer", "vote-answer"] {
        (2..4).for_each(|node| desk.hear(&format!("{answer} from={node} to=1 term=2")));
        desk.work();
    }
    answer(&mut desk, &[2, 3, 4, 5], 2);
    desk.work();
    assert_eq!(desk.shared.status().role, Role::Leader);
    (4..6).for_each(|node| desk.input(Input::Arrival(Arrival::Unreachable(NodeId::from(node)))));
    let mut last = 2;
    for _ in 0..400 {
        drop(desk.append(PAYLOAD));
        desk.work();
        last += 1;
        answer(&mut desk, &[2, 3], last);
        desk.work();
    }
    desk.sent();
    desk.reads.take_bytes();
    (desk, last)
}

/// Of each append message: to whom, and behind which raft index it goes.
fn appends(desk: &Desk) -> Vec<(u64, u64)> {
    let messages = std::mem::take(&mut desk.sent.lock().messages);
    let lacked = messages.iter().filter(|message| message.append().is_some_and(|(_, bytes)| bytes > 0));
    lacked.map(|message| (message.to().get(), message.inner().index)).collect()
}

#[test]
fn followers_that_lag_are_sent_one_message_a_turn_in_turns_until_all_is_under_way() {
    let (mut desk, last) = with_two_behind();
    // They are back: what was sent to them before did not arrive.
    for node in [4, 5] {
        desk.hear(&format!("append-answer from={node} to=1 term=2 index=3"));
    }
    let mut sent = Vec::new();
    for turn in 0.. {
        assert!(turn < 100, "it comes to an end");
        desk.turn();
        let bytes = desk.reads.take_bytes();
        assert!(bytes <= MESSAGE_BYTES, "{bytes} in turn {turn}");
        let now = appends(&desk);
        assert!(now.len() <= 1, "{now:?}");
        sent.extend(now);
        if desk.engine.wake_at() > desk.now.elapsed {
            break;
        }
        assert!(bytes > 0, "no turn for nothing");
    }
    for node in [4, 5] {
        let to: Vec<u64> = sent.iter().filter(|(to, _)| *to == node).map(|(_, behind)| *behind).collect();
        assert!(to.is_sorted() && to.len() > 8, "{to:?}");
    }
    assert!(sent.windows(2).take(16).all(|pair| pair[0].0 != pair[1].0), "they take turns: {sent:?}");
    // Who is there already has nothing to wait for.
    drop(desk.append(PAYLOAD));
    desk.turn();
    let mut sent = appends(&desk);
    sent.sort_unstable();
    assert_eq!(sent, [(2, last), (3, last), (4, last), (5, last)]);
    assert_eq!(desk.reads.take_bytes(), 0);
}

#[test]
fn a_heartbeat_goes_out_before_anything_is_read_and_who_leads_no_more_reads_nothing() {
    let (mut desk, _) = with_two_behind();
    answer(&mut desk, &[4, 5], 3);
    let mut heartbeats = 0;
    for _ in 0..4 {
        desk.pass(TICK);
        desk.turn();
        // Without those that carry nothing.
        let messages = std::mem::take(&mut desk.sent.lock().messages);
        let lacked: Vec<bool> = messages
            .iter()
            .map(|message| message.append().map(|(_, bytes)| bytes))
            .filter(|it| *it != Some(0))
            .map(|it| it.is_some())
            .collect();
        assert_eq!(lacked.last(), Some(&true), "each turn reads something");
        assert!(!lacked[..lacked.len() - 1].contains(&true), "and that is said last: {lacked:?}");
        heartbeats += lacked.len() - 1;
    }
    assert!(heartbeats >= 8, "{heartbeats}");
    assert_eq!(desk.engine.wake_at(), desk.now.elapsed);
    desk.hear("heartbeat from=3 to=1 term=3");
    desk.turn();
    desk.reads.take_bytes();
    desk.turn();
    assert_eq!(desk.reads.take_bytes(), 0);
    assert!(desk.engine.wake_at() > desk.now.elapsed);
}

#[test]
fn what_cannot_be_read_at_present_is_not_tried_again_at_once() {
    let (mut desk, _) = with_two_behind();
    desk.reads.lack_but_for_end();
    answer(&mut desk, &[4, 5], 3);
    desk.turn();
    desk.turn();
    assert!(desk.engine.wake_at() > desk.now.elapsed);
}
