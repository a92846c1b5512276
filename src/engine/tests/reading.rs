//! A leader reads a little at a time for followers that lack batches.

use super::*;

/// The most that a message carries, and what one batch of these tests takes.
const MESSAGE_BYTES: u64 = 4 << 10;
const PAYLOAD: &str = "012345678901234567890123456789012345678901234567890123456789\
    0123456789012345678901234567890123456789";

fn answer(harness: &mut Harness, nodes: &[u64], index: u64) {
    for node in nodes {
        harness.hear(&format!("append-response from={node} to=1 term=2 index={index}"));
    }
}

/// Node 1 of 5, which leads. Nodes 2 and 3 have all there is, 4 and 5 only what they have
/// acknowledged in the beginning. Gives also the raft index of the last batch.
fn with_two_behind() -> (Harness, u64) {
    let mut harness = Harness::with_messages(5, MESSAGE_BYTES);
    while harness.sent().is_empty() {
        harness.tick();
    }
    for answer in ["pre-vote-response", "vote-response"] {
        (2..4).for_each(|node| harness.hear(&format!("{answer} from={node} to=1 term=2")));
        harness.work();
    }
    answer(&mut harness, &[2, 3, 4, 5], 2);
    harness.work();
    assert_eq!(harness.shared.status().role, Role::Leader);
    (4..6).for_each(|node| {
        harness.input(Input::TransportEvent(TransportEvent::Unreachable(NodeId::from(node))))
    });
    let mut last = 2;
    for _ in 0..400 {
        drop(harness.append(PAYLOAD));
        harness.work();
        last += 1;
        answer(&mut harness, &[2, 3], last);
        harness.work();
    }
    harness.sent();
    harness.reads.take_bytes();
    (harness, last)
}

/// Of each append message: to whom, and behind which raft index it goes.
fn appends(harness: &Harness) -> Vec<(u64, u64)> {
    let messages = std::mem::take(&mut harness.sent.lock().messages);
    let lacked =
        messages.iter().filter(|message| message.append().is_some_and(|(_, bytes)| bytes > 0));
    lacked.map(|message| (message.to().get(), message.inner().index)).collect()
}

#[test]
fn followers_that_lag_are_sent_one_message_a_turn_in_turns_until_all_is_under_way() {
    let (mut harness, last) = with_two_behind();
    // They are back: what was sent to them before did not arrive.
    for node in [4, 5] {
        harness.hear(&format!("append-response from={node} to=1 term=2 index=3"));
    }
    let mut sent = Vec::new();
    for turn in 0.. {
        assert!(turn < 100, "it comes to an end");
        harness.turn();
        let bytes = harness.reads.take_bytes();
        assert!(bytes <= MESSAGE_BYTES, "{bytes} in turn {turn}");
        let now = appends(&harness);
        assert!(now.len() <= 1, "{now:?}");
        sent.extend(now);
        if harness.engine.wake_at() > harness.now.elapsed {
            break;
        }
        assert!(bytes > 0, "no turn for nothing");
    }
    for node in [4, 5] {
        let to: Vec<u64> =
            sent.iter().filter(|(to, _)| *to == node).map(|(_, behind)| *behind).collect();
        assert!(to.is_sorted() && to.len() > 8, "{to:?}");
    }
    assert!(
        sent.windows(2).take(16).all(|pair| pair[0].0 != pair[1].0),
        "they take turns: {sent:?}"
    );
    // A reader that has everything already waits for nothing.
    drop(harness.append(PAYLOAD));
    harness.turn();
    let mut sent = appends(&harness);
    sent.sort_unstable();
    assert_eq!(sent, [(2, last), (3, last), (4, last), (5, last)]);
    assert_eq!(harness.reads.take_bytes(), 0);
}

#[test]
fn a_heartbeat_goes_out_before_anything_is_read_and_who_leads_no_more_reads_nothing() {
    let (mut harness, _) = with_two_behind();
    answer(&mut harness, &[4, 5], 3);
    let mut heartbeats = 0;
    for _ in 0..4 {
        harness.pass(TICK);
        harness.turn();
        // Without those that carry nothing.
        let messages = std::mem::take(&mut harness.sent.lock().messages);
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
    assert_eq!(harness.engine.wake_at(), harness.now.elapsed);
    harness.hear("heartbeat from=3 to=1 term=3");
    harness.turn();
    harness.reads.take_bytes();
    harness.turn();
    assert_eq!(harness.reads.take_bytes(), 0);
    assert!(harness.engine.wake_at() > harness.now.elapsed);
}

#[test]
fn what_cannot_be_read_at_present_is_not_tried_again_at_once() {
    let (mut harness, _) = with_two_behind();
    harness.reads.run_out_but_at_end();
    answer(&mut harness, &[4, 5], 3);
    harness.turn();
    harness.turn();
    assert!(harness.engine.wake_at() > harness.now.elapsed);
}
