//! What a node shows of the other members of its group.

use super::*;
use crate::role::{Member, Progress};

fn member(desk: &Desk, id: u64) -> Member {
    let members = desk.shared.status().members;
    members.into_iter().find(|member| member.id.get() == id).unwrap()
}

fn report(desk: &mut Desk, arrival: Arrival) {
    desk.input(Input::Arrival(arrival));
    desk.work();
}

fn advertise(desk: &mut Desk, peer: u64, text: &str) {
    report(desk, Arrival::Advertised { peer: NodeId::from(peer), text: text.into() });
}

/// How often the status has changed.
fn version(desk: &Desk) -> u64 {
    desk.shared.status.wait(None, |_, version| Some(version)).unwrap()
}

/// A second, in which node 2 answers every other tick and node 3 as it is told to.
fn second(desk: &mut Desk, mut every_other_tick: impl FnMut(&mut Desk)) {
    for tick in 0..100 {
        if tick % 2 == 0 {
            desk.hear("heartbeat from=2 to=1 term=2 commit=1");
            every_other_tick(desk);
        }
        desk.tick();
    }
}

#[test]
fn a_member_is_reached_until_something_is_lost_and_again_when_it_is_met() {
    let mut desk = Desk::new(3);
    desk.tick();
    assert_eq!((member(&desk, 2).reached, member(&desk, 2).heard), (None, None), "nothing is known of it");
    desk.hear("heartbeat from=2 to=1 term=2 commit=1");
    report(&mut desk, Arrival::Met { peer: NodeId::from(3), directory: 3 });
    desk.tick();
    let reached = |desk: &Desk| [2, 3].map(|id| member(desk, id).reached);
    assert_eq!(reached(&desk), [Some(true); 2]);
    report(&mut desk, Arrival::Unreachable(NodeId::from(3)));
    desk.tick();
    assert_eq!(reached(&desk), [Some(true), Some(false)]);
    // Both in one turn, as when it was restarted.
    desk.input(Input::Arrival(Arrival::Unreachable(NodeId::from(3))));
    report(&mut desk, Arrival::Met { peer: NodeId::from(3), directory: 3 });
    desk.tick();
    assert_eq!(reached(&desk), [Some(true); 2]);
    assert!(member(&desk, 1).reached.is_none() && member(&desk, 1).heard.is_none(), "of itself a node says neither");
}

#[test]
fn one_that_is_heard_and_not_reached_does_not_flicker() {
    let mut desk = Desk::new(3);
    desk.hear("heartbeat from=2 to=1 term=2 commit=1");
    desk.tick();
    for _ in 0..5 {
        report(&mut desk, Arrival::Unreachable(NodeId::from(2)));
        let before = version(&desk);
        second(&mut desk, |desk| assert!(member(desk, 2).reached == Some(false) || version(desk) == before));
        assert_eq!(member(&desk, 2).reached, Some(false));
    }
    second(&mut desk, |_| ());
    second(&mut desk, |_| ());
    assert_eq!(member(&desk, 2).reached, Some(true), "nothing was lost for two seconds");
}

#[test]
fn how_long_ago_a_member_was_heard_grows_and_is_no_change() {
    let mut desk = Desk::new(3);
    second(&mut desk, |_| ());
    report(&mut desk, Arrival::Met { peer: NodeId::from(3), directory: 3 });
    desk.tick();
    let before = version(&desk);
    second(&mut desk, |_| ());
    assert_eq!(version(&desk), before);
    let heard = |id| member(&desk, id).heard.unwrap();
    assert!(heard(2) < Duration::from_millis(500), "{:?}", heard(2));
    assert!((1000..5000).contains(&heard(3).as_millis()), "{:?}", heard(3));
}

#[test]
fn what_followers_have_is_shown_and_no_change_as_long_as_they_keep_up() {
    let mut desk = Desk::leader();
    for answer in ["append-answer from=2 to=1 term=2 index=2", "append-answer from=3 to=1 term=2 index=2"] {
        desk.hear(answer);
    }
    desk.tick();
    desk.tick();
    let shown = |desk: &Desk| [2, 3].map(|id| member(desk, id)).map(|m| (m.progress, m.end_index, m.in_flight_bytes));
    assert_eq!(shown(&desk), [(Some(Progress::InStep), Some(0), Some(0)); 2]);
    let before = version(&desk);
    for index in 0..40 {
        drop(desk.append("four"));
        desk.work();
        desk.hear(&format!("append-answer from=2 to=1 term=2 index={}", index + 3));
        desk.hear(&format!("append-answer from=3 to=1 term=2 index={}", index + 2));
        desk.tick();
        desk.tick();
        let step = Some(Progress::InStep);
        assert_eq!(shown(&desk), [(step, Some(index + 1), Some(0)), (step, Some(index), Some(4))]);
    }
    assert_eq!(version(&desk), before, "a group at work wakes nobody");
    assert_eq!(desk.shared.status().in_flight_bytes, 0);
    assert_eq!((member(&desk, 1).end_index, member(&desk, 1).in_flight_bytes), (Some(40), None));
}

#[test]
fn one_that_lacks_what_is_older_than_an_election_timeout_catches_up() {
    let mut desk = Desk::leader();
    desk.hear("append-answer from=3 to=1 term=2 index=2");
    desk.tick();
    drop(desk.append("x"));
    desk.work();
    let keep_up = |desk: &mut Desk, from: &str| {
        for _ in 0..2 * ELECTION_TICKS {
            from.split(' ').for_each(|from| desk.hear(&format!("append-answer from={from} to=1 term=2 index=3")));
            desk.tick();
        }
    };
    keep_up(&mut desk, "2");
    let progress = |desk: &Desk| [2, 3].map(|id| member(desk, id).progress);
    assert_eq!(progress(&desk), [Some(Progress::InStep), Some(Progress::CatchingUp)]);
    report(&mut desk, Arrival::Unreachable(NodeId::from(3)));
    desk.tick();
    assert_eq!(progress(&desk), [Some(Progress::InStep), None], "who is not reached does not catch up");
    report(&mut desk, Arrival::Met { peer: NodeId::from(3), directory: 3 });
    keep_up(&mut desk, "2 3");
    assert_eq!(progress(&desk), [Some(Progress::InStep); 2]);
    desk.hear("heartbeat from=3 to=1 term=3 commit=2");
    desk.work();
    assert_eq!(progress(&desk), [None; 2], "only a leader knows");
    assert_eq!([2, 3].map(|id| member(&desk, id).end_index), [None; 2]);
}

#[test]
fn who_is_sent_elsewhere_is_told_what_the_leader_advertises_and_not_what_it_did() {
    let mut desk = Desk::new(3);
    advertise(&mut desk, 2, "broker-2:9876");
    advertise(&mut desk, 9, "of no member");
    desk.hear("heartbeat from=2 to=1 term=2 commit=1");
    desk.work();
    let told = |desk: &Desk| match outcome(&desk.append("x")).unwrap().unwrap_err() {
        AppendError::NotLeader { advertised, address, .. } => {
            assert_eq!(address.as_deref(), Some("host-2:1"));
            advertised.as_deref().unwrap_or("nothing").to_owned()
        }
        other => panic!("{other}"),
    };
    assert_eq!(told(&desk), "broker-2:9876");
    let text = outcome(&desk.append("x")).unwrap().unwrap_err().to_string();
    assert!(text.contains("node 2 does") && text.contains("broker-2:9876"), "{text}");
    let transfer = desk.command(|reply| Command::Transfer { to: NodeId::from(3), reply });
    desk.work();
    let refused = transfer.try_recv().unwrap().unwrap_err();
    assert!(matches!(&refused, TransferError::NotLeader { advertised: Some(text), .. } if &**text == "broker-2:9876"));
    advertise(&mut desk, 2, "broker-2:1");
    assert_eq!(told(&desk), "broker-2:1", "it was opened anew");
    let before = version(&desk);
    advertise(&mut desk, 2, "broker-2:1");
    assert_eq!(version(&desk), before);
    advertise(&mut desk, 2, "");
    assert_eq!((told(&desk).as_str(), member(&desk, 2).advertised), ("nothing", None));
}

#[test]
fn a_refusal_is_shown_with_the_member_that_it_concerns() {
    let mut desk = Desk::new(3);
    let reason = "another directory".to_owned();
    report(&mut desk, Arrival::Refused { peer: NodeId::from(3), reason: reason.clone() });
    assert_eq!([1, 2, 3].map(|id| member(&desk, id).refused), [None, None, Some(reason)]);
    report(&mut desk, Arrival::Accepted(NodeId::from(3)));
    assert_eq!(member(&desk, 3).refused, None);
}

#[test]
fn a_node_that_is_stopped_knows_what_others_advertise_and_nothing_else() {
    let mut desk = Desk::leader();
    advertise(&mut desk, 2, "broker-2");
    desk.hear("append-answer from=2 to=1 term=2 index=2");
    desk.tick();
    assert!(member(&desk, 2).heard.is_some() && member(&desk, 2).progress.is_some());
    desk.stop().unwrap();
    let Member { advertised, reached, progress, heard, end_index, .. } = member(&desk, 2);
    assert_eq!((advertised.as_deref(), reached, progress, heard, end_index), (Some("broker-2"), None, None, None, None));
    assert_eq!(desk.shared.status(), desk.shared.status());
}
