//! A node whose log is not complete, and those that it asks.

use super::*;
use crate::message::{NoState, PeerState, Word};

/// Node 1 of 3, on a log that was marked as incomplete.
fn incomplete() -> Desk {
    let memory = MemoryLog::new();
    let membership = Membership::of_voters([1, 2, 3].map(NodeId::from));
    let mut log = memory.clone();
    log.open(&Genesis { group: "desk".to_owned(), node: NodeId::from(1), cluster: 1, membership }).unwrap();
    log.set_complete(false).unwrap();
    drop(log);
    Desk::open(3, None, memory, Vec::new(), |_, _| {}).unwrap()
}

/// The numbers of the questions that left since this was last asked, by whom they are for.
fn questions(desk: &Desk) -> Vec<(u64, u64)> {
    let number = |letter: Letter| if let Word::StateRequest(number) = letter.word { Some((letter.to.get(), number)) } else { None };
    desk.letters().into_iter().filter_map(number).collect()
}

fn states(desk: &Desk) -> Vec<(u64, u64, Result<PeerState, NoState>)> {
    let state = |letter: Letter| if let Word::State(number, state) = letter.word { Some((letter.to.get(), number, state)) } else { None };
    desk.letters().into_iter().filter_map(state).collect()
}

fn answer(desk: &mut Desk, from: u64, number: u64, term: u64, last: (u64, u64)) {
    desk.hear_letter(from, 1, Word::State(number, Ok(PeerState { term, last })));
    desk.work();
}

fn repair(desk: &Desk) -> String {
    desk.shared.status().repair.unwrap_or_default()
}

/// Node 1, which both have told that logs reach to batch 3 of term 2, and terms to 5.
fn bound() -> Desk {
    bound_with(1)
}

fn bound_with(seed: u64) -> Desk {
    let mut desk = incomplete();
    desk.engine.settings.replica.seed = seed;
    desk.tick();
    let asked = questions(&desk);
    answer(&mut desk, 2, asked[0].1, 5, (1, 1));
    answer(&mut desk, 3, asked[1].1, 4, (2, 3));
    desk.sent();
    desk
}

#[test]
fn it_stands_still_until_both_others_have_answered_and_then_its_vote_is_spent() {
    let mut desk = incomplete();
    desk.tick();
    let asked = questions(&desk);
    assert_eq!(asked.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3]);
    for message in ["vote-request from=2 to=1 term=9 after=9/9", "heartbeat from=2 to=1 term=9", "append from=2 to=1 term=9 after=1/1"] {
        desk.hear(message);
        desk.work();
    }
    desk.hear_letter(3, 1, Word::StateRequest(7));
    desk.work();
    assert_eq!(states(&desk), [(3, 7, Err(NoState::Incomplete))], "of all that, only this is answered");
    answer(&mut desk, 2, asked[0].1, 5, (1, 1));
    for _ in 0..5 * ELECTION_TICKS {
        desk.tick();
    }
    assert!(desk.sent().iter().all(|message| message.contains("1->3 where do you stand?")), "it asks again who has not answered");
    assert!(repair(&desk).ends_with("node 3 has not answered"), "{}", repair(&desk));
    answer(&mut desk, 3, asked[1].1, 4, (2, 3));
    assert!(repair(&desk).contains("lacks batch 3 of term 2"), "{}", repair(&desk));
    let hard_state = desk.recovered().hard_state;
    assert_eq!((hard_state.term, hard_state.vote), (5, Some(NodeId::from(1))), "durably");
}

#[test]
fn it_votes_for_nobody_and_stands_for_nothing_that_lacks_what_it_owes() {
    let mut desk = bound();
    for _ in 0..5 * ELECTION_TICKS {
        desk.tick();
    }
    for message in
        ["pre-vote-request from=2 to=1 term=6 after=9/1", "vote-request from=2 to=1 term=6 after=2/2", "take-over from=2 to=1 term=6"]
    {
        desk.hear(message);
        desk.work();
    }
    assert_eq!(desk.sent(), [""; 0]);
    desk.hear("vote-request from=3 to=1 term=6 after=3/2");
    desk.work();
    assert_eq!(desk.sent(), ["1->3 vote-answer t6 yes"]);
    assert!(!desk.engine.identity.complete);
}

#[test]
fn it_follows_and_is_complete_when_its_log_is() {
    let mut desk = bound();
    desk.hear("append from=3 to=1 term=6 after=1/1 batch=2/2");
    desk.work();
    assert_eq!(desk.sent(), ["1->3 append-answer t6 up to 2"], "what it has counts");
    assert!(!repair(&desk).is_empty() && !desk.engine.identity.complete);
    desk.fill(|refusals| refusals.set_complete = true);
    desk.hear("append from=3 to=1 term=6 after=2/2 batch=3/2 batch=4/6 commit=4");
    desk.work();
    desk.tick();
    assert_eq!((repair(&desk), desk.engine.identity.complete), (String::new(), true), "tried again once there is room");
    assert_eq!(desk.sent.lock().identity, Some(desk.engine.identity));
    for _ in 0..3 * ELECTION_TICKS {
        desk.tick();
    }
    assert!(desk.sent().iter().any(|message| message.contains("pre-vote-request")), "it may lead again");
    assert!(desk.recovered().identity.complete);
}

#[test]
fn an_answer_waits_until_what_it_says_is_durable_and_the_directory_of_who_asks_is_known() {
    let mut desk = Desk::leader();
    drop(desk.append("x"));
    desk.fill(|refusals| refusals.remember = true);
    desk.input(Input::Arrival(Arrival::Met { peer: NodeId::from(3), directory: 77 }));
    desk.hear_letter(3, 1, Word::StateRequest(70));
    desk.work();
    assert_eq!(states(&desk), [], "its directory could not be remembered");
    desk.tick();
    drop(desk.append("y"));
    desk.hear_letter(3, 1, Word::StateRequest(71));
    desk.turn();
    assert_eq!(states(&desk), [], "it is not durable yet");
    desk.work();
    assert_eq!(states(&desk), [(3, 71, Ok(PeerState { term: 2, last: (2, 3) }))]);
    assert_eq!(desk.recovered().peers, [(NodeId::from(3), 77)]);
}

#[test]
fn whoever_asks_is_sent_all_that_it_had_acknowledged() {
    let mut desk = Desk::leader();
    for payload in ["x", "y"] {
        drop(desk.append(payload));
        desk.work();
    }
    desk.hear("append-answer from=3 to=1 term=2 index=4");
    desk.work();
    desk.hear_letter(3, 1, Word::StateRequest(70));
    desk.work();
    desk.sent();
    desk.tick();
    desk.tick();
    let sent = desk.sent();
    assert!(sent.iter().any(|message| message.starts_with("1->3 heartbeat t2 commit 0")), "nothing that it lacks is told: {sent:?}");
    desk.hear("append-answer from=3 to=1 term=2 index=4");
    desk.work();
    assert_eq!(desk.shared.status().committed, 0..2);
}

#[test]
fn a_leader_that_knows_of_more_and_a_peer_that_knows_a_later_opening_are_believed_and_it_is_written_down() {
    for shows in [
        |desk: &mut Desk| desk.hear("heartbeat from=2 to=1 term=2 commit=9"),
        |desk: &mut Desk| desk.input(Input::Arrival(Arrival::Outlived(NodeId::from(2)))),
    ] {
        let mut desk = Desk::new(3);
        let before = desk.engine.identity;
        desk.work();
        shows(&mut desk);
        desk.work();
        assert!(desk.engine.identity.directory != before.directory && !desk.engine.identity.complete);
        assert_eq!(desk.sent.lock().identity, Some(desk.engine.identity), "peers are told");
        desk.tick();
        assert_eq!(questions(&desk).len(), 2);
        assert_eq!(desk.shared.status().fault, None);
        let now = desk.engine.identity;
        let again = desk.recovered().identity;
        assert_eq!((again.directory, again.complete), (now.directory, false), "it still knows after a loss of power");
    }
}

/// A backup that was copied into place a second time, without being restored: peers know its directory, and later openings of it.
#[test]
fn one_that_is_an_older_copy_of_what_was_not_complete_speaks_from_another_directory_as_well() {
    for mut desk in [incomplete(), bound()] {
        desk.tick();
        let (before, asked) = (desk.engine.identity, questions(&desk));
        desk.input(Input::Arrival(Arrival::Outlived(NodeId::from(2))));
        desk.work();
        assert!(desk.engine.identity.directory != before.directory && !desk.engine.identity.complete);
        let now = desk.engine.identity;
        assert_eq!(desk.sent.lock().identity, Some(now));
        desk.tick();
        let again = questions(&desk);
        assert!(again.len() == 2 && again.iter().all(|question| !asked.contains(question)), "both are asked anew");
        // The other says so of the directory of before.
        desk.input(Input::Arrival(Arrival::Outlived(NodeId::from(3))));
        desk.tick();
        assert_eq!(desk.engine.identity, now);
        let noted = desk.recovered().identity;
        assert_eq!((noted.directory, noted.complete), (now.directory, false));
    }
}

#[test]
fn a_loss_that_cannot_be_written_down_ends_the_part_of_the_node() {
    let mut desk = Desk::new(3);
    desk.work();
    desk.spoil(|refusals| refusals.set_complete = true);
    desk.hear("heartbeat from=2 to=1 term=2 commit=9");
    desk.work();
    let fault = desk.shared.status().fault.unwrap();
    assert!(fault.contains("part of the log was lost; and that could not be noted"), "{fault}");
}

#[test]
fn a_loss_that_finds_no_room_to_be_written_down_is_written_down_when_there_is_some() {
    let mut desk = Desk::new(3);
    desk.work();
    desk.fill(|refusals| refusals.set_complete = true);
    desk.hear("heartbeat from=2 to=1 term=2 commit=9");
    desk.hear_letter(3, 1, Word::StateRequest(70));
    desk.work();
    let status = desk.shared.status();
    assert!(status.fault.is_none() && status.full.is_some() && status.repair.is_some(), "{status:?}");
    assert_eq!(states(&desk), [(3, 70, Err(NoState::Incomplete))], "it knows already, and asks nobody yet");
    desk.tick();
    assert_eq!((questions(&desk).len(), desk.shared.status().full), (2, None));
    assert!(!desk.engine.identity.complete && !desk.recovered().identity.complete);
}

#[test]
fn a_disk_without_room_is_asked_again_before_the_node_takes_part() {
    let mut desk = incomplete();
    desk.tick();
    let asked = questions(&desk);
    desk.fill(|refusals| refusals.save = true);
    answer(&mut desk, 2, asked[0].1, 5, (1, 1));
    answer(&mut desk, 3, asked[1].1, 4, (2, 3));
    assert!(desk.shared.status().full.is_some() && desk.engine.rejoin.is_some());
    desk.tick();
    assert!(desk.shared.status().full.is_none() && desk.engine.rejoin.is_none());
}

#[test]
fn who_waits_while_a_log_is_not_complete_is_answered() {
    let mut desk = incomplete();
    desk.work();
    let future = desk.append("x");
    desk.work();
    assert!(matches!(outcome(&future), Some(Err(AppendError::NotLeader { .. }))));
    let purge = desk.command(|reply| Command::Purge { index: 1, reply });
    let barrier = desk.barrier(5);
    desk.work();
    assert!(matches!(purge.try_recv(), Ok(Err(PurgeError::Failed { reason })) if reason.contains("not complete")));
    assert!(desk.stop().is_ok());
    assert!(matches!(barrier.try_recv(), Ok(Err(BarrierError::Stopped))));
}

/// A sync that was begun before the question came says nothing of what was written since.
#[test]
fn a_sync_of_before_does_not_answer_a_question_that_comes_with_it() {
    let mut desk = Desk::leader();
    drop(desk.append("x"));
    desk.turn();
    desk.input(Input::Arrival(Arrival::Met { peer: NodeId::from(3), directory: 77 }));
    desk.hear_letter(3, 1, Word::StateRequest(70));
    assert!(desk.sync(), "it was under way");
    desk.turn();
    assert_eq!(states(&desk), [], "neither the directory nor the batch behind it is durable");
    desk.work();
    assert_eq!(states(&desk), [(3, 70, Ok(PeerState { term: 2, last: (2, 3) }))]);
}

/// A node that may not stand has lost its leader all the same, whatever its election timeout, and listens to whoever would follow it.
#[test]
fn it_votes_for_a_log_that_is_enough_when_the_leader_is_gone() {
    for seed in 1..40 {
        let mut desk = bound_with(seed);
        desk.hear("heartbeat from=2 to=1 term=5");
        desk.work();
        for _ in 0..4 * ELECTION_TICKS {
            desk.tick();
        }
        assert_eq!(desk.shared.status().leader, None, "nothing was heard of it for so long (seed {seed})");
        desk.sent();
        desk.hear("pre-vote-request from=3 to=1 term=6 after=3/2");
        desk.work();
        assert_eq!(desk.sent(), ["1->3 pre-vote-answer t6 yes"], "seed {seed}");
    }
}

#[test]
fn its_status_says_how_much_is_to_come_and_from_whom() {
    let mut desk = bound();
    let told = repair(&desk);
    assert!(told.contains("no entries so far, in batches up to 1, and 2 more batches are to come; no leader is known"), "{told}");
    desk.hear("append from=2 to=1 term=5 after=1/1 batch=2/2:0:x commit=1");
    desk.work();
    desk.tick();
    let told = repair(&desk);
    assert!(told.contains("entries 0 to below 1, in batches up to 2, and 1 more batch is to come; node 2 leads"), "{told}");
}
