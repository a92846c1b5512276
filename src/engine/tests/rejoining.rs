//! A node whose log is not complete, and those that it asks.

use super::*;
use crate::message::{NoState, PeerState, RepairBody};

/// Node 1 of 3, on a log that was marked as incomplete.
fn incomplete() -> Harness {
    let memory = MemoryLog::new();
    let membership = Membership::of_voters([1, 2, 3].map(NodeId::from));
    let mut log = memory.clone();
    log.open(&LogOwner { group: "test".to_owned(), node: NodeId::from(1), cluster: 1, membership })
        .unwrap();
    log.set_complete(false).unwrap();
    drop(log);
    Harness::open(3, None, memory, Vec::new(), |_, _| {}).unwrap()
}

/// The numbers of the questions that left since this was last asked, by whom they are for.
fn questions(harness: &Harness) -> Vec<(u64, u64)> {
    let number = |repair_message: RepairMessage| {
        if let RepairBody::StateRequest(number) = repair_message.repair_body {
            Some((repair_message.to.get(), number))
        } else {
            None
        }
    };
    harness.repair_messages().into_iter().filter_map(number).collect()
}

fn states(harness: &Harness) -> Vec<(u64, u64, Result<PeerState, NoState>)> {
    let state = |repair_message: RepairMessage| {
        if let RepairBody::State(number, state) = repair_message.repair_body {
            Some((repair_message.to.get(), number, state))
        } else {
            None
        }
    };
    harness.repair_messages().into_iter().filter_map(state).collect()
}

fn answer(harness: &mut Harness, from: u64, number: u64, term: u64, last: (u64, u64)) {
    harness.hear_letter(from, 1, RepairBody::State(number, Ok(PeerState { term, last })));
    harness.work();
}

fn repair(harness: &Harness) -> String {
    harness.shared.status().repair.unwrap_or_default()
}

/// Node 1, which both have reported that logs reach to batch 3 of term 2, and terms to 5.
fn bound() -> Harness {
    bound_with(1)
}

fn bound_with(seed: u64) -> Harness {
    let mut harness = incomplete();
    harness.engine.settings.replica.seed = seed;
    harness.tick();
    let asked = questions(&harness);
    answer(&mut harness, 2, asked[0].1, 5, (1, 1));
    answer(&mut harness, 3, asked[1].1, 4, (2, 3));
    harness.sent();
    harness
}

/// A heartbeat says what the node had acknowledged: a log that is long enough may still have lost
/// the end of it.
#[test]
fn a_leader_that_knows_another_batch_here_proves_a_loss() {
    let follower = || {
        let mut harness = Harness::new(3);
        harness.hear("append from=2 to=1 term=2 after=1/1 batch=2/2 batch=3/2 commit=1");
        harness.work();
        harness
    };
    // The end of the log was replaced in term 3, and was put back by a disk.
    let mut harness = follower();
    harness.hear("heartbeat from=3 to=1 term=3 commit=3 commit-term=3");
    harness.work();
    assert!(!harness.engine.identity.complete);
    assert!(repair(&harness).contains("its log is not complete"), "{}", repair(&harness));
    assert!(harness.engine.replica.committed().raft_index < 3, "it is not that batch");
    // One that has it, of whatever leader, and one whose leader has purged it.
    for known in ["commit=3 commit-term=2", "commit=3"] {
        let mut harness = follower();
        harness.hear(&format!("heartbeat from=3 to=1 term=3 {known}"));
        harness.work();
        assert_eq!((harness.engine.identity.complete, repair(&harness)), (true, String::new()));
        assert_eq!(harness.engine.replica.committed().raft_index, 3);
    }
}

/// If batches count before they are synced, such a loss is no fault: the node is sent the end of
/// the log again.
#[test]
fn a_node_that_may_lose_what_it_acknowledged_is_sent_what_replaced_the_end_of_its_log() {
    let mut harness = Harness::begin(
        3,
        Some(Duration::from_secs(1)),
        1 << 20,
        MemoryLog::new(),
        Vec::new(),
        |_, _| {},
    )
    .unwrap();
    harness.hear("append from=2 to=1 term=2 after=1/1 batch=2/2 batch=3/2 commit=1");
    harness.work();
    harness.sent();
    harness.hear("heartbeat from=3 to=1 term=3 commit=3 commit-term=3");
    harness.work();
    assert!(harness.engine.identity.complete);
    assert!(harness.engine.replica.committed().raft_index < 3, "it is not that batch");
    let sent = harness.sent();
    assert!(
        sent.iter().any(|sent| sent.starts_with("1->3 append-response t3 no 3, try 2")),
        "{sent:?}"
    );
}

#[test]
fn it_stands_still_until_both_others_have_answered_and_then_its_vote_is_spent() {
    let mut harness = incomplete();
    harness.tick();
    let asked = questions(&harness);
    assert_eq!(asked.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3]);
    for message in [
        "vote-request from=2 to=1 term=9 after=9/9",
        "heartbeat from=2 to=1 term=9",
        "append from=2 to=1 term=9 after=1/1",
    ] {
        harness.hear(message);
        harness.work();
    }
    harness.hear_letter(3, 1, RepairBody::StateRequest(7));
    harness.work();
    assert_eq!(
        states(&harness),
        [(3, 7, Err(NoState::Incomplete))],
        "of all that, only this is answered"
    );
    answer(&mut harness, 2, asked[0].1, 5, (1, 1));
    for _ in 0..5 * ELECTION_TICKS {
        harness.tick();
    }
    assert!(
        harness.sent().iter().all(|message| message.contains("1->3 where do you stand?")),
        "it asks those again that have not answered"
    );
    assert!(repair(&harness).ends_with("node 3 has not answered"), "{}", repair(&harness));
    answer(&mut harness, 3, asked[1].1, 4, (2, 3));
    assert!(repair(&harness).contains("lacks batch 3 of term 2"), "{}", repair(&harness));
    let hard_state = harness.recovered().hard_state;
    assert_eq!((hard_state.term, hard_state.vote), (5, Some(NodeId::from(1))), "durably");
}

#[test]
fn a_log_without_what_it_acknowledged_gets_no_vote_of_it_and_its_own_does_not_stand() {
    let mut harness = bound();
    for _ in 0..5 * ELECTION_TICKS {
        harness.tick();
    }
    for message in [
        "pre-vote-request from=2 to=1 term=6 after=9/1",
        "vote-request from=2 to=1 term=6 after=2/2",
        "timeout-now from=2 to=1 term=6",
    ] {
        harness.hear(message);
        harness.work();
    }
    assert_eq!(harness.sent(), [""; 0]);
    harness.hear("vote-request from=3 to=1 term=6 after=3/2");
    harness.work();
    assert_eq!(harness.sent(), ["1->3 vote-response t6 yes"]);
    assert!(!harness.engine.identity.complete);
}

#[test]
fn it_follows_and_is_complete_when_its_log_is() {
    let mut harness = bound();
    harness.hear("append from=3 to=1 term=6 after=1/1 batch=2/2");
    harness.work();
    assert_eq!(harness.sent(), ["1->3 append-response t6 up to 2"], "what it has counts");
    assert!(!repair(&harness).is_empty() && !harness.engine.identity.complete);
    harness.fill(|refusals| refusals.set_complete = true);
    harness.hear("append from=3 to=1 term=6 after=2/2 batch=3/2 batch=4/6 commit=4");
    harness.work();
    harness.tick();
    assert_eq!(
        (repair(&harness), harness.engine.identity.complete),
        (String::new(), true),
        "tried again once there is room"
    );
    assert_eq!(harness.sent.lock().identity, Some(harness.engine.identity));
    for _ in 0..3 * ELECTION_TICKS {
        harness.tick();
    }
    assert!(
        harness.sent().iter().any(|message| message.contains("pre-vote-request")),
        "it may lead again"
    );
    assert!(harness.recovered().identity.complete);
}

#[test]
fn an_answer_waits_until_what_it_says_is_durable_and_the_directory_of_who_asks_is_known() {
    let mut harness = Harness::leader();
    drop(harness.append("x"));
    harness.fill(|refusals| refusals.remember = true);
    harness.input(Input::TransportEvent(TransportEvent::PeerIdentified {
        peer: NodeId::from(3),
        directory: 77,
    }));
    harness.hear_letter(3, 1, RepairBody::StateRequest(70));
    harness.work();
    assert_eq!(states(&harness), [], "its directory could not be remembered");
    harness.tick();
    drop(harness.append("y"));
    harness.hear_letter(3, 1, RepairBody::StateRequest(71));
    harness.turn();
    assert_eq!(states(&harness), [], "it is not durable yet");
    harness.work();
    assert_eq!(states(&harness), [(3, 71, Ok(PeerState { term: 2, last: (2, 3) }))]);
    assert_eq!(harness.recovered().peers, [(NodeId::from(3), 77)]);
}

#[test]
fn a_node_that_asks_is_sent_all_that_it_had_acknowledged() {
    let mut harness = Harness::leader();
    for payload in ["x", "y"] {
        drop(harness.append(payload));
        harness.work();
    }
    harness.hear("append-response from=3 to=1 term=2 index=4");
    harness.work();
    harness.hear_letter(3, 1, RepairBody::StateRequest(70));
    harness.work();
    harness.sent();
    harness.tick();
    harness.tick();
    let sent = harness.sent();
    assert!(
        sent.iter().any(|message| message.starts_with("1->3 heartbeat t2 commit 0")),
        "nothing that it lacks is reported: {sent:?}"
    );
    harness.hear("append-response from=3 to=1 term=2 index=4");
    harness.work();
    assert_eq!(harness.shared.status().committed, 0..2);
}

#[test]
fn a_leader_with_more_and_a_peer_with_a_later_opening_are_believed_and_it_is_durable() {
    for shows in [
        |harness: &mut Harness| harness.hear("heartbeat from=2 to=1 term=2 commit=9"),
        |harness: &mut Harness| {
            harness.input(Input::TransportEvent(TransportEvent::OutdatedDirectory(NodeId::from(2))))
        },
    ] {
        let mut harness = Harness::new(3);
        let before = harness.engine.identity;
        harness.work();
        shows(&mut harness);
        harness.work();
        assert!(
            harness.engine.identity.directory != before.directory
                && !harness.engine.identity.complete
        );
        assert_eq!(
            harness.sent.lock().identity,
            Some(harness.engine.identity),
            "peers are reported"
        );
        harness.tick();
        assert_eq!(questions(&harness).len(), 2);
        assert_eq!(harness.shared.status().fault, None);
        let now = harness.engine.identity;
        let again = harness.recovered().identity;
        assert_eq!(
            (again.directory, again.complete),
            (now.directory, false),
            "it still knows after a loss of power"
        );
    }
}

/// A backup that was copied into place a second time, without being restored: peers know its
/// directory, and later openings of it.
#[test]
fn one_that_is_an_older_copy_of_what_was_not_complete_speaks_from_another_directory_as_well() {
    for mut harness in [incomplete(), bound()] {
        harness.tick();
        let (before, asked) = (harness.engine.identity, questions(&harness));
        harness.input(Input::TransportEvent(TransportEvent::OutdatedDirectory(NodeId::from(2))));
        harness.work();
        assert!(
            harness.engine.identity.directory != before.directory
                && !harness.engine.identity.complete
        );
        let now = harness.engine.identity;
        assert_eq!(harness.sent.lock().identity, Some(now));
        harness.tick();
        let again = questions(&harness);
        assert!(
            again.len() == 2 && again.iter().all(|question| !asked.contains(question)),
            "both are asked anew"
        );
        // The other says so of the directory of before.
        harness.input(Input::TransportEvent(TransportEvent::OutdatedDirectory(NodeId::from(3))));
        harness.tick();
        assert_eq!(harness.engine.identity, now);
        let noted = harness.recovered().identity;
        assert_eq!((noted.directory, noted.complete), (now.directory, false));
    }
}

#[test]
fn a_loss_that_cannot_be_written_down_ends_the_part_of_the_node() {
    let mut harness = Harness::new(3);
    harness.work();
    harness.spoil(|refusals| refusals.set_complete = true);
    harness.hear("heartbeat from=2 to=1 term=2 commit=9");
    harness.work();
    let fault = harness.shared.status().fault.unwrap();
    assert!(fault.contains("part of the log was lost; and that could not be noted"), "{fault}");
}

#[test]
fn a_loss_that_finds_no_room_to_be_written_down_is_written_down_when_there_is_some() {
    let mut harness = Harness::new(3);
    harness.work();
    harness.fill(|refusals| refusals.set_complete = true);
    harness.hear("heartbeat from=2 to=1 term=2 commit=9");
    harness.hear_letter(3, 1, RepairBody::StateRequest(70));
    harness.work();
    let status = harness.shared.status();
    assert!(
        status.fault.is_none() && status.full.is_some() && status.repair.is_some(),
        "{status:?}"
    );
    assert_eq!(
        states(&harness),
        [(3, 70, Err(NoState::Incomplete))],
        "it knows already, and sends no request yet"
    );
    harness.tick();
    assert_eq!((questions(&harness).len(), harness.shared.status().full), (2, None));
    assert!(!harness.engine.identity.complete && !harness.recovered().identity.complete);
}

#[test]
fn a_disk_without_room_is_asked_again_before_the_node_takes_part() {
    let mut harness = incomplete();
    harness.tick();
    let asked = questions(&harness);
    harness.fill(|refusals| refusals.save = true);
    answer(&mut harness, 2, asked[0].1, 5, (1, 1));
    answer(&mut harness, 3, asked[1].1, 4, (2, 3));
    assert!(harness.shared.status().full.is_some() && harness.engine.rejoin.is_some());
    harness.tick();
    assert!(harness.shared.status().full.is_none() && harness.engine.rejoin.is_none());
}

#[test]
fn who_waits_while_a_log_is_not_complete_is_answered() {
    let mut harness = incomplete();
    harness.work();
    let future = harness.append("x");
    harness.work();
    assert!(matches!(outcome(&future), Some(Err(AppendError::NotLeader { .. }))));
    let purge = harness.command(|reply| Command::Purge { index: 1, reply });
    let barrier = harness.barrier(5);
    harness.work();
    assert!(matches!(
        purge.try_recv(),
        Ok(Err(PurgeError::Failed { reason })) if reason.contains("not complete")
    ));
    assert!(harness.stop().is_ok());
    assert!(matches!(barrier.try_recv(), Ok(Err(BarrierError::Stopped))));
}

/// A sync that was begun before the question came says nothing of what was written since.
#[test]
fn a_sync_of_before_does_not_answer_a_question_that_comes_with_it() {
    let mut harness = Harness::leader();
    drop(harness.append("x"));
    harness.turn();
    harness.input(Input::TransportEvent(TransportEvent::PeerIdentified {
        peer: NodeId::from(3),
        directory: 77,
    }));
    harness.hear_letter(3, 1, RepairBody::StateRequest(70));
    assert!(harness.sync(), "it was under way");
    harness.turn();
    assert_eq!(states(&harness), [], "neither the directory nor the batch behind it is durable");
    harness.work();
    assert_eq!(states(&harness), [(3, 70, Ok(PeerState { term: 2, last: (2, 3) }))]);
}

/// A node that may not stand has lost its leader all the same, whatever its election timeout, and
/// hears candidates.
#[test]
fn it_votes_for_a_log_that_is_enough_when_the_leader_is_gone() {
    for seed in 1..40 {
        let mut harness = bound_with(seed);
        harness.hear("heartbeat from=2 to=1 term=5");
        harness.work();
        for _ in 0..4 * ELECTION_TICKS {
            harness.tick();
        }
        assert_eq!(
            harness.shared.status().leader,
            None,
            "nothing was heard of it for so long (seed {seed})"
        );
        harness.sent();
        harness.hear("pre-vote-request from=3 to=1 term=6 after=3/2");
        harness.work();
        assert_eq!(harness.sent(), ["1->3 pre-vote-response t6 yes"], "seed {seed}");
    }
}

#[test]
fn its_status_says_how_much_is_to_come_and_from_whom() {
    let mut harness = bound();
    let reported = repair(&harness);
    let expected = "no entries so far, in batches up to 1, and 2 more batches are to come; no \
                    leader is known";
    assert!(reported.contains(expected), "{reported}");
    harness.hear("append from=2 to=1 term=5 after=1/1 batch=2/2:0:x commit=1");
    harness.work();
    harness.tick();
    let reported = repair(&harness);
    assert!(
        reported.contains(
            "entries 0 to below 1, in batches up to 2, and 1 more batch is to come; node 2 leads"
        ),
        "{reported}"
    );
}
