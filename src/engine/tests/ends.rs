//! How an engine begins and ends, and what a host has done that is no append.

use super::*;

#[test]
fn a_node_that_is_stopped_remembers_its_commit_and_ends_every_wait() {
    let mut desk = Desk::alone();
    let future = desk.append("x");
    desk.work();
    assert!(outcome(&future).unwrap().is_ok());
    desk.told();
    let queued = desk.append("queued");
    let answer = desk.command(|reply| Command::Stop { hand_over: None, reply });
    desk.turn();
    assert!(answer.try_recv().unwrap().is_ok());
    assert!(matches!(outcome(&queued), Some(Err(AppendError::Stopped))), "{:?}", outcome(&queued));
    assert!(desk.sent.lock().is_stopped && desk.engine.is_stopped());
    assert_eq!(desk.told(), [(Role::Follower, None)]);
    assert_eq!((desk.engine.wake_at(), desk.shared.sequencer.in_flight()), (Duration::MAX, 0));
    assert!(desk.stop().is_ok(), "once more");
    desk.input(Input::Panicked("too late".to_owned()));
    desk.turn();
    assert_eq!(desk.shared.status().fault, None);
    let transfer = desk.command(|reply| Command::Transfer { to: NodeId::from(1), reply });
    let purge = desk.command(|reply| Command::Purge { index: 1, reply });
    desk.turn();
    assert!(matches!(transfer.try_recv(), Ok(Err(TransferError::Stopped))));
    assert!(matches!(purge.try_recv(), Ok(Err(PurgeError::Stopped))));
    desk.pass(100 * TICK);
    desk.turn();
    assert!(desk.told().is_empty());
    let recovered = desk.recovered();
    assert_eq!(recovered.hard_state.commit, recovered.last.raft_index);
    assert_eq!(recovered.last.next_index, 1);
}

#[test]
fn a_node_that_cannot_close_its_log_says_so() {
    let mut desk = Desk::alone();
    desk.spoil(|refusals| refusals.save = true);
    assert!(desk.stop().is_err());
    assert!(desk.engine.is_stopped());
}

#[test]
fn a_purge_without_room_changes_nothing_and_one_that_fails_ends_the_part_of_the_node() {
    let mut desk = Desk::alone();
    for payload in ["a", "b", "c"] {
        drop(desk.append(payload));
        desk.work();
    }
    let purge = |desk: &mut Desk, index| {
        let answer = desk.command(|reply| Command::Purge { index, reply });
        desk.work();
        answer.try_recv().unwrap()
    };
    desk.fill(|refusals| refusals.purge = true);
    assert!(purge(&mut desk, 2).is_err());
    assert!(desk.shared.status().fault.is_none());
    assert_eq!(purge(&mut desk, 2).unwrap(), 2);
    assert_eq!(desk.shared.status().committed, 2..3);
    desk.spoil(|refusals| refusals.purge = true);
    assert!(purge(&mut desk, 3).is_err());
    assert!(desk.shared.status().fault.is_some());
}

#[test]
fn whom_a_node_met_is_remembered_unless_there_is_no_room() {
    let mut desk = Desk::leader();
    let met = |desk: &mut Desk, peer: u64| {
        desk.input(Input::Arrival(Arrival::Met { peer: NodeId::from(peer), directory: peer.into() }));
        desk.work();
    };
    desk.fill(|refusals| refusals.remember = true);
    met(&mut desk, 2);
    assert!(desk.shared.status().fault.is_none() && desk.shared.status().full.is_none());
    met(&mut desk, 3);
    assert!(desk.engine.dirty);
    assert!(desk.stop().is_ok());
    let recovered = desk.recovered();
    assert_eq!(recovered.peers, [(NodeId::from(3), 3)]);
}

#[test]
fn a_message_that_was_handled_no_longer_takes_of_the_inbox() {
    let mut desk = Desk::leader();
    desk.hear("append-answer from=2 to=1 term=2 index=2");
    assert!(desk.shared.inbox_bytes.load(Ordering::Relaxed) > 0);
    desk.turn();
    assert_eq!(desk.shared.inbox_bytes.load(Ordering::Relaxed), 0);
    desk.engine.fail("for a reason");
    desk.hear("append-answer from=2 to=1 term=2 index=2");
    desk.turn();
    assert_eq!(desk.shared.inbox_bytes.load(Ordering::Relaxed), 0, "nor does one that came too late");
}

#[test]
fn a_transfer_ends_when_the_other_takes_appends_or_in_time() {
    let transfer = |desk: &mut Desk, to: u64| desk.command(|reply| Command::Transfer { to: NodeId::from(to), reply });
    let mut desk = Desk::leader();
    let (own, stranger) = (transfer(&mut desk, 1), transfer(&mut desk, 9));
    desk.work();
    assert!(matches!(own.try_recv(), Ok(Ok(()))) && matches!(stranger.try_recv(), Ok(Err(TransferError::NotAVoter(_)))));
    let before = desk.append("before");
    let answer = transfer(&mut desk, 2);
    desk.work();
    assert!(desk.sent().iter().any(|message| message.contains("[3/t2]")), "what is queued is proposed first");
    assert!(matches!(outcome(&desk.append("during")), Some(Err(AppendError::Busy { .. }))));
    assert!(answer.try_recv().is_err() && is_open(&before));
    assert_eq!(desk.engine.wake_at(), desk.engine.next_tick);
    desk.hear("append from=2 to=1 term=3 after=3/2 batch=4/3 commit=3");
    desk.work();
    assert!(outcome(&before).unwrap().is_ok());
    assert!(answer.try_recv().is_err(), "nothing of its term is known to be committed");
    desk.hear("append from=2 to=1 term=3 after=4/3 commit=4");
    desk.work();
    assert!(matches!(answer.try_recv(), Ok(Ok(()))));
    // One to a node that is not there ends by itself, and appends go on.
    let mut desk = Desk::leader();
    let answer = transfer(&mut desk, 2);
    for _ in 0..3 * ELECTION_TICKS {
        desk.hear("append-answer from=3 to=1 term=2 index=2");
        desk.tick();
    }
    assert!(matches!(answer.try_recv(), Ok(Err(TransferError::TimedOut(_)))));
    assert!(is_open(&desk.append("after")));
    let answer = transfer(&mut desk, 3);
    desk.turn();
    assert!(desk.stop().is_ok());
    assert!(matches!(answer.try_recv(), Ok(Err(TransferError::Stopped))));
}

#[test]
fn the_recovered_commit_is_where_an_engine_begins() {
    let desk = Desk::new(3);
    assert_eq!(desk.engine.replica.hard_state().commit, Mark::GENESIS.raft_index);
    assert_eq!(desk.shared.status().committed, 0..0);
}
