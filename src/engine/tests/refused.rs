//! What a node shows of the messages that it refuses.

use super::*;

const HEARTBEAT: &str = "heartbeat from=2 to=1 term=2 commit=1";
/// The second does not continue the first.
const BROKEN: &str = "append from=2 to=1 term=2 after=1/1 batch=2/2:0:x batch=3/2:5:y commit=1";
/// Taken, but there is nothing here that they could go behind.
const BEHIND: &str = "append from=2 to=1 term=2 after=5/2 batch=6/2:4:z commit=1";
const SOUND: &str = "append from=2 to=1 term=2 after=1/1 batch=2/2:0:x commit=1";

/// A follower that hears these messages every other tick, for so many election timeouts.
fn hear(harness: &mut Harness, messages: &[&str], timeouts: usize) {
    for tick in 0..timeouts * ELECTION_TICKS {
        if tick % 2 == 0 {
            messages.iter().for_each(|message| harness.hear(message));
        }
        harness.tick();
    }
}

/// The peers that are shown, and why.
fn refused(harness: &Harness) -> Vec<(u64, String)> {
    let refused = harness.shared.status().refused;
    refused.into_iter().map(|refusal| (refusal.peer.get(), refusal.reason)).collect()
}

#[test]
fn a_peer_whose_batches_are_refused_for_an_election_timeout_is_shown_until_they_are_taken() {
    let mut harness = Harness::new(3);
    hear(&mut harness, &[HEARTBEAT, BROKEN, BEHIND], 1);
    assert_eq!(refused(&harness), [], "it may pass");
    hear(&mut harness, &[HEARTBEAT, BROKEN, BEHIND], 1);
    let shown = refused(&harness);
    assert!(
        matches!(
            &shown[..],
            [(2, reason)] if reason
                .contains("batches of node 2: an append whose batches do not continue")
        ),
        "{shown:?}"
    );
    hear(&mut harness, &[HEARTBEAT, BROKEN, BEHIND], 3);
    assert_eq!(refused(&harness), shown);
    hear(&mut harness, &[SOUND], 1);
    assert_eq!(refused(&harness), []);
}

#[test]
fn appends_in_vain_say_whose_messages_are_refused() {
    let mut harness = Harness::new(3);
    // Of messages that name two leaders of one term, the second is refused.
    hear(&mut harness, &[HEARTBEAT, "heartbeat from=3 to=1 term=2 commit=1"], 2);
    assert!(
        matches!(&refused(&harness)[..], [(3, reason)] if reason.contains("heartbeat of node 3")),
        "{:?}",
        refused(&harness)
    );
    hear(&mut harness, &["heartbeat from=3 to=1 term=2 commit=1"], 1);
    while harness.shared.status().leader.is_some() {
        harness.tick();
    }
    assert_eq!(refused_in_vain(&harness), [3]);

    // Nor need the role change for that.
    let mut harness = Harness::new(3);
    while refused(&harness).is_empty() {
        assert_eq!(refused_in_vain(&harness), [0_u64; 0]);
        hear(&mut harness, &[BROKEN], 1);
    }
    assert_eq!(refused_in_vain(&harness), [2]);
}

/// The peers that an append names which is refused for want of a leader.
fn refused_in_vain(harness: &Harness) -> Vec<u64> {
    match outcome(&harness.append("x")).unwrap().unwrap_err() {
        AppendError::NotLeader { leader: None, refused, .. } => {
            refused.iter().map(|refusal| refusal.peer.get()).collect()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn reasons_that_come_in_turns_do_not_make_the_status_flicker() {
    let mut harness = Harness::new(3);
    let gap = "append from=2 to=1 term=2 after=1/1 batch=3/2:0:x commit=1";
    let (mut changes, mut before) = (0, Vec::new());
    for _ in 0..10 * ELECTION_TICKS {
        harness.hear(HEARTBEAT);
        for message in [BROKEN, gap] {
            harness.hear(message);
            harness.turn();
            let now = refused(&harness);
            changes += usize::from(now != before);
            before = now;
        }
        harness.tick();
    }
    assert!((2..=10).contains(&changes), "{changes} changes in ten election timeouts");
}

#[test]
fn a_refusal_now_and_then_is_not_shown() {
    let mut harness = Harness::new(3);
    for _ in 0..10 {
        harness.hear(BROKEN);
        hear(&mut harness, &[HEARTBEAT], 2);
        assert_eq!(refused(&harness), [], "they lie far apart");
    }
    for _ in 0..10 {
        hear(&mut harness, &[HEARTBEAT, BROKEN, SOUND], 1);
        assert_eq!(refused(&harness), [], "others of the kind are taken");
    }
}

#[test]
fn what_is_not_sent_any_more_is_forgotten() {
    let mut harness = Harness::new(3);
    hear(&mut harness, &[HEARTBEAT, BROKEN], 2);
    let peers = |harness: &Harness| {
        harness.shared.status().refused.iter().map(|refusal| refusal.peer.get()).collect::<Vec<_>>()
    };
    assert_eq!(peers(&harness), [2]);
    // A report of the transport goes before, and leaves what was found here.
    harness.input(Input::TransportEvent(TransportEvent::Refused {
        peer: NodeId::from(2),
        reason: "another directory".to_owned(),
    }));
    harness.tick();
    assert_eq!(refused(&harness), [(2, "another directory".to_owned())]);
    harness.input(Input::TransportEvent(TransportEvent::Accepted(NodeId::from(2))));
    harness.tick();
    assert!(refused(&harness)[0].1.contains("batches"));
    hear(&mut harness, &[HEARTBEAT], 99);
    assert_eq!(peers(&harness), [2]);
    hear(&mut harness, &[HEARTBEAT], 3);
    assert_eq!(peers(&harness), [0_u64; 0]);
    assert!(harness.engine.refused_peers.is_empty());
}

#[test]
fn nothing_is_remembered_of_who_does_not_belong_to_the_group() {
    let mut harness = Harness::new(3);
    hear(&mut harness, &["heartbeat from=9 to=1 term=2 commit=1"], 3);
    assert_eq!(refused(&harness), []);
    assert!(harness.engine.refused_peers.is_empty());
}
