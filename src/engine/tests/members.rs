//! What a node shows of the other members of its group.

use super::*;
use crate::role::{Member, Progress};

fn member(harness: &Harness, id: u64) -> Member {
    let members = harness.shared.status().members;
    members.into_iter().find(|member| member.id.get() == id).unwrap()
}

fn report(harness: &mut Harness, event: TransportEvent) {
    harness.input(Input::TransportEvent(event));
    harness.work();
}

fn advertise(harness: &mut Harness, peer: u64, text: &str) {
    report(harness, TransportEvent::Advertised { peer: NodeId::from(peer), text: text.into() });
}

/// How often the status has changed.
fn version(harness: &Harness) -> u64 {
    harness.shared.status.wait(None, |_, version| Some(version)).unwrap()
}

/// A second, in which node 2 answers every other tick and node 3 on demand.
fn second(harness: &mut Harness, mut every_other_tick: impl FnMut(&mut Harness)) {
    for tick in 0..100 {
        if tick % 2 == 0 {
            harness.hear("heartbeat from=2 to=1 term=2 commit=1");
            every_other_tick(harness);
        }
        harness.tick();
    }
}

#[test]
fn a_member_is_reached_until_something_is_lost_and_again_when_it_is_met() {
    let mut harness = Harness::new(3);
    harness.tick();
    assert_eq!(
        (member(&harness, 2).reached, member(&harness, 2).heard),
        (None, None),
        "nothing is known of it"
    );
    harness.hear("heartbeat from=2 to=1 term=2 commit=1");
    report(&mut harness, TransportEvent::PeerIdentified { peer: NodeId::from(3), directory: 3 });
    harness.tick();
    let reached = |harness: &Harness| [2, 3].map(|id| member(harness, id).reached);
    assert_eq!(reached(&harness), [Some(true); 2]);
    report(&mut harness, TransportEvent::Unreachable(NodeId::from(3)));
    harness.tick();
    assert_eq!(reached(&harness), [Some(true), Some(false)]);
    // Both in one turn, as when it was restarted.
    harness.input(Input::TransportEvent(TransportEvent::Unreachable(NodeId::from(3))));
    report(&mut harness, TransportEvent::PeerIdentified { peer: NodeId::from(3), directory: 3 });
    harness.tick();
    assert_eq!(reached(&harness), [Some(true); 2]);
    assert!(
        member(&harness, 1).reached.is_none() && member(&harness, 1).heard.is_none(),
        "of itself a node says neither"
    );
}

#[test]
fn one_that_is_heard_and_not_reached_does_not_flicker() {
    let mut harness = Harness::new(3);
    harness.hear("heartbeat from=2 to=1 term=2 commit=1");
    harness.tick();
    for _ in 0..5 {
        report(&mut harness, TransportEvent::Unreachable(NodeId::from(2)));
        let before = version(&harness);
        second(&mut harness, |harness| {
            assert!(member(harness, 2).reached == Some(false) || version(harness) == before)
        });
        assert_eq!(member(&harness, 2).reached, Some(false));
    }
    second(&mut harness, |_| ());
    second(&mut harness, |_| ());
    assert_eq!(member(&harness, 2).reached, Some(true), "nothing was lost for two seconds");
}

#[test]
fn how_long_ago_a_member_was_heard_grows_and_is_no_change() {
    let mut harness = Harness::new(3);
    second(&mut harness, |_| ());
    report(&mut harness, TransportEvent::PeerIdentified { peer: NodeId::from(3), directory: 3 });
    harness.tick();
    let before = version(&harness);
    second(&mut harness, |_| ());
    assert_eq!(version(&harness), before);
    let heard = |id| member(&harness, id).heard.unwrap();
    assert!(heard(2) < Duration::from_millis(500), "{:?}", heard(2));
    assert!((1000..5000).contains(&heard(3).as_millis()), "{:?}", heard(3));
}

#[test]
fn what_followers_have_is_shown_and_no_change_as_long_as_they_keep_up() {
    let mut harness = Harness::leader();
    for answer in
        ["append-response from=2 to=1 term=2 index=2", "append-response from=3 to=1 term=2 index=2"]
    {
        harness.hear(answer);
    }
    harness.tick();
    harness.tick();
    let shown = |harness: &Harness| {
        [2, 3].map(|id| member(harness, id)).map(|m| (m.progress, m.end_index, m.in_flight_bytes))
    };
    assert_eq!(shown(&harness), [(Some(Progress::InStep), Some(0), Some(0)); 2]);
    let before = version(&harness);
    for index in 0..40 {
        drop(harness.append("four"));
        harness.work();
        harness.hear(&format!("append-response from=2 to=1 term=2 index={}", index + 3));
        harness.hear(&format!("append-response from=3 to=1 term=2 index={}", index + 2));
        harness.tick();
        harness.tick();
        let step = Some(Progress::InStep);
        assert_eq!(
            shown(&harness),
            [(step, Some(index + 1), Some(0)), (step, Some(index), Some(4))]
        );
    }
    assert_eq!(version(&harness), before, "a group at work wakes no watcher");
    assert_eq!(harness.shared.status().in_flight_bytes, 0);
    assert_eq!(
        (member(&harness, 1).end_index, member(&harness, 1).in_flight_bytes),
        (Some(40), None)
    );
}

#[test]
fn one_that_lacks_what_is_older_than_an_election_timeout_catches_up() {
    let mut harness = Harness::leader();
    harness.hear("append-response from=3 to=1 term=2 index=2");
    harness.tick();
    drop(harness.append("x"));
    harness.work();
    let keep_up = |harness: &mut Harness, from: &str| {
        for _ in 0..2 * ELECTION_TICKS {
            from.split(' ').for_each(|from| {
                harness.hear(&format!("append-response from={from} to=1 term=2 index=3"))
            });
            harness.tick();
        }
    };
    keep_up(&mut harness, "2");
    let progress = |harness: &Harness| [2, 3].map(|id| member(harness, id).progress);
    assert_eq!(progress(&harness), [Some(Progress::InStep), Some(Progress::CatchingUp)]);
    report(&mut harness, TransportEvent::Unreachable(NodeId::from(3)));
    harness.tick();
    assert_eq!(
        progress(&harness),
        [Some(Progress::InStep), None],
        "who is not reached does not catch up"
    );
    report(&mut harness, TransportEvent::PeerIdentified { peer: NodeId::from(3), directory: 3 });
    keep_up(&mut harness, "2 3");
    assert_eq!(progress(&harness), [Some(Progress::InStep); 2]);
    harness.hear("heartbeat from=3 to=1 term=3 commit=2");
    harness.work();
    assert_eq!(progress(&harness), [None; 2], "only a leader knows");
    assert_eq!([2, 3].map(|id| member(&harness, id).end_index), [None; 2]);
}

#[test]
fn who_is_sent_elsewhere_is_told_what_the_leader_advertises_and_not_what_it_did() {
    let mut harness = Harness::new(3);
    advertise(&mut harness, 2, "broker-2:9876");
    advertise(&mut harness, 9, "of no member");
    harness.hear("heartbeat from=2 to=1 term=2 commit=1");
    harness.work();
    let reported = |harness: &Harness| match outcome(&harness.append("x")).unwrap().unwrap_err() {
        AppendError::NotLeader { advertised, address, .. } => {
            assert_eq!(address.as_deref(), Some("host-2:1"));
            advertised.as_deref().unwrap_or("nothing").to_owned()
        }
        other => panic!("{other}"),
    };
    assert_eq!(reported(&harness), "broker-2:9876");
    let text = outcome(&harness.append("x")).unwrap().unwrap_err().to_string();
    assert!(text.contains("node 2 does") && text.contains("broker-2:9876"), "{text}");
    let transfer = harness.command(|reply| Command::Transfer { to: NodeId::from(3), reply });
    harness.work();
    let refused = transfer.try_recv().unwrap().unwrap_err();
    assert!(matches!(
        &refused,
        TransferError::NotLeader { advertised: Some(text), .. } if &**text == "broker-2:9876"
    ));
    advertise(&mut harness, 2, "broker-2:1");
    assert_eq!(reported(&harness), "broker-2:1", "it was opened anew");
    let before = version(&harness);
    advertise(&mut harness, 2, "broker-2:1");
    assert_eq!(version(&harness), before);
    advertise(&mut harness, 2, "");
    assert_eq!((reported(&harness).as_str(), member(&harness, 2).advertised), ("nothing", None));
}

#[test]
fn a_refusal_is_shown_with_the_member_that_it_concerns() {
    let mut harness = Harness::new(3);
    let reason = "another directory".to_owned();
    report(&mut harness, TransportEvent::Refused { peer: NodeId::from(3), reason: reason.clone() });
    assert_eq!([1, 2, 3].map(|id| member(&harness, id).refused), [None, None, Some(reason)]);
    report(&mut harness, TransportEvent::Accepted(NodeId::from(3)));
    assert_eq!(member(&harness, 3).refused, None);
}

#[test]
fn a_node_that_is_stopped_knows_what_others_advertise_and_nothing_else() {
    let mut harness = Harness::leader();
    advertise(&mut harness, 2, "broker-2");
    harness.hear("append-response from=2 to=1 term=2 index=2");
    harness.tick();
    assert!(member(&harness, 2).heard.is_some() && member(&harness, 2).progress.is_some());
    harness.stop().unwrap();
    let Member { advertised, reached, progress, heard, end_index, .. } = member(&harness, 2);
    assert_eq!(
        (advertised.as_deref(), reached, progress, heard, end_index),
        (Some("broker-2"), None, None, None, None)
    );
    assert_eq!(harness.shared.status(), harness.shared.status());
}
