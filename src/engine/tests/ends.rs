//! How an engine begins and ends, and what a host has done that is no append.

use super::*;

#[test]
fn a_node_that_is_stopped_remembers_its_commit_and_ends_every_wait() {
    let mut harness = Harness::alone();
    let future = harness.append("x");
    harness.work();
    assert!(outcome(&future).unwrap().is_ok());
    harness.reported();
    let queued = harness.append("queued");
    let answer = harness.command(|reply| Command::Stop { hand_over: None, reply });
    harness.turn();
    assert!(answer.try_recv().unwrap().is_ok());
    assert!(matches!(outcome(&queued), Some(Err(AppendError::Stopped))), "{:?}", outcome(&queued));
    assert!(harness.sent.lock().is_stopped && harness.engine.is_stopped());
    assert_eq!(harness.reported(), [(Role::Follower, None)]);
    assert_eq!(
        (harness.engine.wake_at(), harness.shared.sequencer.in_flight()),
        (Duration::MAX, 0)
    );
    assert!(harness.stop().is_ok(), "once more");
    harness.input(Input::Panicked("too late".to_owned()));
    harness.turn();
    assert_eq!(harness.shared.status().fault, None);
    let transfer = harness.command(|reply| Command::Transfer { to: NodeId::from(1), reply });
    let purge = harness.command(|reply| Command::Purge { index: 1, reply });
    harness.turn();
    assert!(matches!(transfer.try_recv(), Ok(Err(TransferError::Stopped))));
    assert!(matches!(purge.try_recv(), Ok(Err(PurgeError::Stopped))));
    harness.pass(100 * TICK);
    harness.turn();
    assert!(harness.reported().is_empty());
    let recovered = harness.recovered();
    assert_eq!(recovered.hard_state.commit, recovered.last.raft_index);
    assert_eq!(recovered.last.next_index, 1);
}

#[test]
fn a_node_that_cannot_close_its_log_says_so() {
    let mut harness = Harness::alone();
    harness.spoil(|refusals| refusals.save = true);
    assert!(harness.stop().is_err());
    assert!(harness.engine.is_stopped());
}

#[test]
fn a_purge_without_room_changes_nothing_and_one_that_fails_ends_the_part_of_the_node() {
    let mut harness = Harness::alone();
    for payload in ["a", "b", "c"] {
        drop(harness.append(payload));
        harness.work();
    }
    let purge = |harness: &mut Harness, index| {
        let answer = harness.command(|reply| Command::Purge { index, reply });
        harness.work();
        answer.try_recv().unwrap()
    };
    harness.fill(|refusals| refusals.purge = true);
    assert!(purge(&mut harness, 2).is_err());
    assert!(harness.shared.status().fault.is_none());
    assert_eq!(purge(&mut harness, 2).unwrap(), 2);
    assert_eq!(harness.shared.status().committed, 2..3);
    harness.spoil(|refusals| refusals.purge = true);
    assert!(purge(&mut harness, 3).is_err());
    assert!(harness.shared.status().fault.is_some());
}

#[test]
fn whom_a_node_met_is_remembered_unless_there_is_no_room() {
    let mut harness = Harness::leader();
    let met = |harness: &mut Harness, peer: u64| {
        harness.input(Input::TransportEvent(TransportEvent::PeerIdentified {
            peer: NodeId::from(peer),
            directory: peer.into(),
        }));
        harness.work();
    };
    harness.fill(|refusals| refusals.remember = true);
    met(&mut harness, 2);
    assert!(harness.shared.status().fault.is_none() && harness.shared.status().full.is_none());
    met(&mut harness, 3);
    assert!(harness.engine.dirty);
    assert!(harness.stop().is_ok());
    let recovered = harness.recovered();
    assert_eq!(recovered.peers, [(NodeId::from(3), 3)]);
}

#[test]
fn a_message_that_was_handled_no_longer_takes_of_the_inbox() {
    let mut harness = Harness::leader();
    harness.hear("append-response from=2 to=1 term=2 index=2");
    assert!(harness.shared.inbox.bytes() > 0);
    harness.turn();
    assert_eq!(harness.shared.inbox.bytes(), 0);
    harness.engine.fail("for a reason");
    harness.hear("append-response from=2 to=1 term=2 index=2");
    harness.turn();
    assert_eq!(harness.shared.inbox.bytes(), 0, "nor does one that came too late");
}

#[test]
fn a_transfer_ends_when_the_other_takes_appends_or_in_time() {
    let transfer = |harness: &mut Harness, to: u64| {
        harness.command(|reply| Command::Transfer { to: NodeId::from(to), reply })
    };
    let mut harness = Harness::leader();
    let (own, stranger) = (transfer(&mut harness, 1), transfer(&mut harness, 9));
    harness.work();
    assert!(
        matches!(own.try_recv(), Ok(Ok(())))
            && matches!(stranger.try_recv(), Ok(Err(TransferError::NotAVoter(_))))
    );
    let before = harness.append("before");
    let answer = transfer(&mut harness, 2);
    harness.work();
    assert!(
        harness.sent().iter().any(|message| message.contains("[3/t2]")),
        "what is queued is proposed first"
    );
    assert!(matches!(outcome(&harness.append("during")), Some(Err(AppendError::Busy { .. }))));
    assert!(answer.try_recv().is_err() && is_open(&before));
    harness.pass_hold();
    assert_eq!(harness.engine.wake_at(), harness.engine.next_tick);
    harness.hear("append from=2 to=1 term=3 after=3/2 batch=4/3 commit=3");
    harness.work();
    assert!(outcome(&before).unwrap().is_ok());
    assert!(answer.try_recv().is_err(), "nothing of its term is known to be committed");
    harness.hear("append from=2 to=1 term=3 after=4/3 commit=4");
    harness.work();
    assert!(matches!(answer.try_recv(), Ok(Ok(()))));
    // One to a node that is not there ends by itself, and appends go on.
    let mut harness = Harness::leader();
    let answer = transfer(&mut harness, 2);
    for _ in 0..3 * ELECTION_TICKS {
        harness.hear("append-response from=3 to=1 term=2 index=2");
        harness.tick();
    }
    assert!(matches!(answer.try_recv(), Ok(Err(TransferError::TimedOut(_)))));
    assert!(is_open(&harness.append("after")));
    let answer = transfer(&mut harness, 3);
    harness.turn();
    assert!(harness.stop().is_ok());
    assert!(matches!(answer.try_recv(), Ok(Err(TransferError::Stopped))));
}

#[test]
fn the_recovered_commit_is_where_an_engine_begins() {
    let harness = Harness::new(3);
    assert_eq!(harness.engine.replica.hard_state().commit, LogPoint::INITIAL.raft_index);
    assert_eq!(harness.shared.status().committed, 0..0);
}
