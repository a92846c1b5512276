//! Idle groups sleep, and wake when anything happens to them.

use super::*;
use crate::message::{SleepKind, SleepMessage, SleepPoint};

/// Three election timeouts.
const IDLE: Duration = Duration::from_millis(300);
const HOUR: Duration = Duration::from_secs(3600);

impl Harness {
    /// Its group sleeps when it is idle.
    fn sleepy(mut self) -> Harness {
        self.engine.settings.sleep_after = Some(IDLE);
        self.engine.disturb();
        self
    }

    fn is_asleep(&self) -> bool {
        let asleep = self.shared.status().asleep;
        assert_eq!(asleep, self.engine.wake_at() == Duration::MAX);
        asleep
    }

    fn event(&self, event: TransportEvent) {
        self.input(Input::TransportEvent(event));
    }

    fn hear_of_sleep(&self, sleep_kind: SleepKind, from: u64, round: u64, term: u64, last: u64) {
        let (from, to, point) = (from.into(), 1.into(), SleepPoint { term, last });
        let message: Message = SleepMessage { from, to, sleep_kind, round, point }.into();
        assert!(self.shared.reserve_inbox(&message));
        self.event(TransportEvent::Message(message));
    }

    fn asleep(&self, from: u64, round: u64) {
        self.hear_of_sleep(SleepKind::Asleep, from, round, 2, 2);
    }

    fn down(&self, peer: u64) {
        self.event(TransportEvent::PeerDown(peer.into()));
    }

    fn up(&self, peer: u64) {
        self.event(TransportEvent::PeerUp(peer.into()));
    }

    /// These nodes respond to a leader that has committed batch 2, and know that.
    fn respond(&self, nodes: &[u64]) {
        for node in nodes {
            self.hear(&format!("append-response from={node} to=1 term=2 index=2 commit=2"));
        }
    }

    /// Lets so much time pass, in which these nodes respond.
    fn idle(&mut self, time: Duration, nodes: &[u64]) {
        for _ in 0..time.as_millis() / TICK.as_millis() {
            self.respond(nodes);
            self.tick();
        }
    }

    /// What left of the messages that put a group to sleep.
    fn sent_of_sleep(&self) -> Vec<String> {
        self.sent().into_iter().filter(|sent| sent.contains("sleep")).collect()
    }
}

/// A leader of three that has asked nodes 2 and 3 to sleep.
fn asking() -> Harness {
    let mut harness = Harness::leader().sleepy();
    harness.respond(&[2, 3]);
    harness.work();
    harness.idle(IDLE, &[2, 3]);
    assert_eq!(
        harness.sent_of_sleep(),
        ["1->2 sleep t2 at 2 (round 1)", "1->3 sleep t2 at 2 (round 1)"]
    );
    harness
}

/// A leader of three that sleeps.
fn sleeping_leader() -> Harness {
    let mut harness = asking();
    harness.asleep(2, 1);
    harness.asleep(3, 1);
    harness.work();
    assert!(harness.is_asleep());
    harness.sent();
    harness
}

/// A follower of node 2 that has batch 2, and knows that it is committed.
fn follower() -> Harness {
    let mut harness = Harness::new(3).sleepy();
    harness.hear("append from=2 to=1 term=2 after=1/1 batch=2/2 commit=1");
    harness.work();
    harness.hear("heartbeat from=2 to=1 term=2 commit=2");
    harness.work();
    harness.sent();
    harness
}

fn sleeping_follower() -> Harness {
    let mut harness = follower();
    harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
    harness.work();
    assert!(harness.is_asleep());
    assert_eq!(harness.sent(), ["1->2 asleep t2 at 2 (round 1)"]);
    harness
}

#[test]
fn an_idle_leader_sleeps_once_all_members_do() {
    let mut harness = Harness::leader().sleepy();
    harness.respond(&[2, 3]);
    harness.work();
    harness.idle(IDLE - TICK, &[2, 3]);
    assert_eq!(harness.sent_of_sleep(), [""; 0], "it is not idle for long enough");
    harness.tick();
    assert_eq!(harness.sent_of_sleep().len(), 2);
    harness.asleep(2, 1);
    harness.work();
    assert!(!harness.is_asleep(), "node 3 may miss its heartbeats");
    harness.asleep(3, 1);
    harness.work();
    assert!(harness.is_asleep());
    assert_eq!(harness.shared.status().role, Role::Leader);
    harness.pass(HOUR);
    harness.work();
    assert!(harness.is_asleep());
    assert_eq!(harness.sent(), [""; 0]);
}

#[test]
fn while_it_asks_a_leader_sends_no_heartbeats_and_if_it_gives_up_it_sends_them_at_once() {
    let mut harness = asking();
    harness.asleep(2, 1);
    for _ in 1..ELECTION_TICKS / 2 {
        harness.tick();
        assert_eq!(harness.sent(), ["1->3 sleep t2 at 2 (round 1)"], "it asks again");
    }
    harness.tick();
    let heartbeats = ["1->2 heartbeat t2 commit 2", "1->3 heartbeat t2 commit 2"];
    let mut sent = harness.sent();
    sent.sort();
    assert_eq!(sent, heartbeats);
    assert!(!harness.is_asleep());
    harness.idle(TICK * (ELECTION_TICKS as u32 - 1), &[2, 3]);
    assert_eq!(harness.sent_of_sleep(), [""; 0]);
    harness.tick();
    // The answer of node 2 was to the round before.
    harness.asleep(2, 1);
    harness.asleep(3, 2);
    harness.work();
    assert!(!harness.is_asleep());
    harness.asleep(2, 2);
    harness.work();
    assert!(harness.is_asleep());
}

#[test]
fn an_answer_about_another_point_or_of_a_stranger_does_not_count() {
    let mut harness = asking();
    harness.asleep(2, 1);
    harness.hear_of_sleep(SleepKind::Asleep, 3, 1, 2, 1);
    harness.hear_of_sleep(SleepKind::Asleep, 3, 1, 1, 2);
    harness.asleep(4, 1);
    harness.work();
    assert!(!harness.is_asleep());
}

#[test]
fn a_leader_asks_only_when_every_member_has_and_knows_everything() {
    for of_node_3 in ["index=1 commit=1", "index=2 commit=1"] {
        let mut harness = Harness::leader().sleepy();
        harness.respond(&[2]);
        for _ in 0..3 * IDLE.as_millis() / TICK.as_millis() {
            harness.respond(&[2]);
            harness.hear(&format!("append-response from=3 to=1 term=2 {of_node_3}"));
            harness.tick();
        }
        assert_eq!(harness.sent_of_sleep(), [""; 0], "node 3 has {of_node_3}");
        harness.respond(&[3]);
        harness.work();
        harness.tick();
        assert_eq!(harness.sent_of_sleep().len(), 2);
    }
}

#[test]
fn a_leader_with_something_to_do_does_not_sleep() {
    let mut harness = asking();
    harness.asleep(2, 1);
    let append = harness.append("more");
    harness.asleep(3, 1);
    harness.work();
    assert!(!harness.is_asleep() && is_open(&append));
    let sent = harness.sent();
    assert!(sent.iter().any(|sent| sent.contains("1->2 append")), "{sent:?}");
    assert!(sent.iter().any(|sent| sent.contains("1->2 heartbeat")), "it may sleep: {sent:?}");

    let mut harness = asking();
    let answer = harness.barrier(1);
    harness.asleep(2, 1);
    harness.asleep(3, 1);
    harness.work();
    assert!(!harness.is_asleep() && answer.try_recv().is_err());
}

#[test]
fn each_command_and_append_begins_the_idle_time_anew() {
    let mut harness = Harness::leader().sleepy();
    harness.respond(&[2, 3]);
    harness.idle(IDLE - TICK, &[2, 3]);
    let answer = harness.command(|reply| Command::Backup { reply });
    harness.work();
    harness.idle(IDLE - TICK, &[2, 3]);
    assert!(answer.try_recv().is_ok());
    assert_eq!(harness.sent_of_sleep(), [""; 0]);
    harness.tick();
    assert_eq!(harness.sent_of_sleep().len(), 2);
}

#[test]
fn what_is_not_durable_is_synced_before_the_group_sleeps() {
    let mut harness = Harness::leader().sleepy();
    harness.respond(&[2, 3]);
    harness.work();
    harness.idle(IDLE - TICK, &[2, 3]);
    harness.event(TransportEvent::PeerIdentified { peer: 2.into(), directory: 7 });
    harness.turn();
    harness.pass(TICK);
    harness.turn();
    assert_eq!(harness.sent_of_sleep(), [""; 0]);
    harness.work();
    harness.tick();
    assert_eq!(harness.sent_of_sleep().len(), 2);
}

#[test]
fn a_member_that_is_down_is_left_out_and_met_again_it_wakes_the_leader() {
    let mut harness = Harness::leader().sleepy();
    harness.down(3);
    harness.respond(&[2]);
    harness.work();
    harness.idle(IDLE, &[2]);
    assert_eq!(harness.sent_of_sleep(), ["1->2 sleep t2 at 2 (round 1)"]);
    harness.asleep(2, 1);
    harness.work();
    assert!(harness.is_asleep());
    harness.pass(HOUR);
    harness.up(3);
    harness.turn();
    assert!(!harness.is_asleep());
    let sent = harness.sent();
    assert!(sent.iter().any(|sent| sent.starts_with("1->3 heartbeat")), "{sent:?}");
}

#[test]
fn no_leader_sleeps_without_a_quorum_that_is_up() {
    let mut harness = Harness::leader().sleepy();
    harness.respond(&[2, 3]);
    harness.work();
    harness.down(2);
    harness.down(3);
    harness.idle(2 * IDLE, &[2, 3]);
    assert_eq!(harness.sent_of_sleep(), [""; 0]);
    assert!(!harness.is_asleep());
}

#[test]
fn who_agreed_and_is_down_or_came_back_since_does_not_count() {
    let mut harness = asking();
    harness.asleep(2, 1);
    harness.down(2);
    harness.down(3);
    harness.work();
    assert!(!harness.is_asleep(), "this node alone is no quorum");

    let mut harness = asking();
    harness.asleep(2, 1);
    harness.down(2);
    harness.up(2);
    harness.asleep(3, 1);
    harness.work();
    assert!(!harness.is_asleep(), "another process of node 2 may follow nobody");
}

#[test]
fn a_sleeping_leader_that_hears_no_quorum_wakes_and_is_deposed() {
    let mut harness = sleeping_leader();
    harness.pass(HOUR);
    harness.down(2);
    harness.work();
    assert!(harness.is_asleep(), "node 3 is a quorum with it");
    assert_eq!(harness.shared.status().members[1].reached, Some(false), "but that is shown");
    harness.down(3);
    harness.work();
    assert!(!harness.is_asleep());
    for _ in 0..ELECTION_TICKS {
        harness.tick();
    }
    assert_ne!(harness.shared.status().role, Role::Leader);
}

#[test]
fn a_leader_that_wakes_is_not_deposed_for_what_it_did_not_hear_in_its_sleep() {
    for later in 0..ELECTION_TICKS as u32 {
        let mut harness = Harness::leader().sleepy();
        harness.respond(&[2, 3]);
        harness.work();
        harness.engine.settings.sleep_after = Some(IDLE + TICK * later);
        // A check of the quorum may come after the last response.
        harness.idle(IDLE + TICK * later - 3 * TICK, &[2, 3]);
        harness.idle(3 * TICK, &[]);
        harness.asleep(2, 1);
        harness.asleep(3, 1);
        harness.work();
        assert!(harness.is_asleep());
        harness.pass(HOUR);
        let append = harness.append("at last");
        harness.work();
        let sent = harness.sent();
        assert!(sent.iter().any(|sent| sent.starts_with("1->3 append")), "{sent:?}");
        assert!(sent.iter().any(|sent| sent.starts_with("1->3 heartbeat")), "{sent:?}");
        for _ in 0..ELECTION_TICKS - 1 {
            harness.tick();
            assert_eq!(harness.shared.status().role, Role::Leader, "asleep {later} ticks later");
        }
        harness.hear("append-response from=2 to=1 term=2 index=3");
        harness.work();
        assert!(matches!(outcome(&append), Some(Ok(_))));
    }
}

#[test]
fn late_responses_do_not_wake_a_leader_and_all_else_does() {
    let mut harness = sleeping_leader();
    harness.respond(&[2, 3]);
    harness.hear("heartbeat-response from=2 to=1 term=2 commit=2");
    harness.asleep(2, 1);
    harness.hear("heartbeat from=4 to=1 term=9 commit=2");
    harness.work();
    assert!(harness.is_asleep());
    for message in [
        "append-response from=2 to=1 term=3 index=2",
        "heartbeat-response from=2 to=1 term=3",
        "pre-vote-request from=2 to=1 term=3 after=2/2",
        "vote-request from=3 to=1 term=3 after=2/2",
        "heartbeat from=3 to=1 term=4 commit=2",
    ] {
        let mut harness = sleeping_leader();
        harness.hear(message);
        harness.turn();
        assert!(!harness.is_asleep(), "{message}");
    }
}

#[test]
fn commands_that_need_no_other_node_do_not_wake() {
    let mut harness = sleeping_leader();
    let purge = harness.command(|reply| Command::Purge { index: 0, reply });
    let backup = harness.command(|reply| Command::Backup { reply });
    let transfer = harness.command(|reply| Command::Transfer { to: 1.into(), reply });
    harness.work();
    assert!(purge.try_recv().unwrap().is_ok() && backup.try_recv().is_ok());
    assert!(transfer.try_recv().unwrap().is_ok());
    assert!(harness.is_asleep());
    let _barrier = harness.barrier(1);
    harness.turn();
    assert!(!harness.is_asleep());

    let mut harness = sleeping_leader();
    let _transfer = harness.command(|reply| Command::Transfer { to: 2.into(), reply });
    harness.turn();
    assert!(!harness.is_asleep());
    assert!(harness.sent().contains(&"1->2 timeout-now t2".to_owned()));
}

#[test]
fn a_node_that_is_shut_down_or_fails_does_not_sleep() {
    let mut harness = sleeping_leader();
    harness.input(Input::Panicked("a thread".to_owned()));
    harness.work();
    assert!(!harness.shared.status().asleep);
    let mut harness = sleeping_leader();
    assert!(harness.stop().is_ok());
    assert!(!harness.shared.status().asleep);
}

#[test]
fn a_sleeper_syncs_what_it_notes_of_a_peer() {
    let mut harness = sleeping_follower();
    harness.event(TransportEvent::PeerIdentified { peer: 3.into(), directory: 7 });
    harness.work();
    assert!(harness.is_asleep());
    assert_eq!(harness.recovered().peers, [(3.into(), 7)]);
}

#[test]
fn a_follower_sleeps_only_where_its_leader_says() {
    for (from, term, last) in [(2, 2, 1), (2, 2, 3), (2, 1, 2), (2, 3, 2), (3, 2, 2), (4, 2, 2)] {
        let mut harness = follower();
        harness.hear_of_sleep(SleepKind::Sleep, from, 1, term, last);
        harness.work();
        assert!(!harness.is_asleep(), "node {from} says: {last} in term {term}");
        assert_eq!(harness.sent(), [""; 0]);
    }
}

#[test]
fn a_follower_with_something_to_do_or_to_learn_does_not_sleep() {
    let mut harness = Harness::new(3).sleepy();
    harness.hear("append from=2 to=1 term=2 after=1/1 batch=2/2 commit=1");
    harness.work();
    harness.sent();
    harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
    harness.work();
    assert!(!harness.is_asleep(), "it does not know that batch 2 is committed");

    let mut harness = follower();
    let _barrier = harness.barrier(1);
    harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
    harness.work();
    assert!(!harness.is_asleep());

    let mut harness = follower();
    harness.engine.settings.sleep_after = None;
    harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
    harness.work();
    assert!(!harness.is_asleep(), "nobody watches over processes for it");

    let mut harness = follower();
    harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
    harness.hear("heartbeat from=2 to=1 term=2 commit=2");
    harness.work();
    assert!(!harness.is_asleep(), "its leader has changed its mind");
}

#[test]
fn a_follower_does_not_sleep_under_a_leader_that_is_down() {
    let mut harness = follower();
    harness.down(2);
    harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
    harness.work();
    assert!(!harness.is_asleep());
    // A message of that leader may still be under way.
    harness.hear("heartbeat from=2 to=1 term=2 commit=2");
    harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
    harness.work();
    assert!(!harness.is_asleep());
    harness.up(2);
    harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
    harness.work();
    assert!(harness.is_asleep());
}

#[test]
fn a_sleeping_follower_answers_again_and_sleeps_on() {
    let mut harness = sleeping_follower();
    harness.hear_of_sleep(SleepKind::Sleep, 2, 2, 2, 2);
    harness.down(3);
    harness.up(3);
    harness.pass(HOUR);
    harness.work();
    assert!(harness.is_asleep());
    assert_eq!(harness.sent(), ["1->2 asleep t2 at 2 (round 2)"]);
    harness.hear_of_sleep(SleepKind::Sleep, 3, 1, 2, 2);
    harness.work();
    assert!(!harness.is_asleep(), "something is wrong");
}

#[test]
fn a_follower_whose_leader_is_gone_votes_for_another_at_once() {
    for is_new_process in [false, true] {
        let mut harness = sleeping_follower();
        harness.pass(HOUR);
        if is_new_process {
            harness.up(2)
        } else {
            harness.down(2)
        }
        harness.hear("pre-vote-request from=3 to=1 term=3 after=2/2");
        harness.work();
        assert!(!harness.is_asleep());
        assert_eq!(harness.shared.status().leader, None);
        harness.hear("vote-request from=3 to=1 term=3 after=2/2");
        harness.work();
        let sent = harness.sent();
        assert_eq!(sent, ["1->3 pre-vote-response t3 yes", "1->3 vote-response t3 yes"]);
    }
}

#[test]
fn a_follower_that_was_woken_before_its_leader_was_found_dead_votes_too() {
    for is_new_process in [false, true] {
        let mut harness = sleeping_follower();
        harness.hear("pre-vote-request from=3 to=1 term=3 after=2/2");
        harness.work();
        assert!(!harness.is_asleep());
        assert_eq!(harness.sent(), [""; 0], "its leader may be well");
        if is_new_process {
            harness.up(2)
        } else {
            harness.down(2)
        }
        harness.hear("pre-vote-request from=3 to=1 term=3 after=2/2");
        harness.work();
        assert_eq!(harness.sent(), ["1->3 pre-vote-response t3 yes"]);
    }
}

#[test]
fn a_leader_that_was_down_and_is_heard_again_is_followed() {
    let mut harness = follower();
    harness.down(2);
    harness.work();
    harness.hear("heartbeat from=2 to=1 term=2 commit=2");
    harness.up(2);
    harness.work();
    assert_eq!(harness.shared.status().leader, Some(2.into()));
}

#[test]
fn a_leader_that_gave_up_asks_again_soon_and_then_ever_later() {
    let mut harness = Harness::leader().sleepy();
    harness.engine.settings.sleep_after = Some(8 * IDLE);
    harness.respond(&[2, 3]);
    harness.work();
    harness.idle(8 * IDLE, &[2, 3]);
    assert_eq!(harness.sent_of_sleep().len(), 2);
    let timeout = TICK * ELECTION_TICKS as u32;
    let mut pauses = Vec::new();
    for round in 2..8 {
        let mut pause = Duration::ZERO;
        let is_asked = |sent: &[String]| sent.iter().any(|sent| sent.contains("(round"));
        harness.sent();
        loop {
            harness.respond(&[2, 3]);
            harness.tick();
            pause += TICK;
            let sent = harness.sent_of_sleep();
            if is_asked(&sent) && sent[0].contains(&format!("(round {round})")) {
                break;
            }
        }
        pauses.push(2 * pause.as_millis() / timeout.as_millis());
    }
    // In halves of an election timeout: an attempt takes one.
    assert_eq!(pauses, [3, 5, 9, 17, 33, 49]);
}

#[test]
fn the_end_of_a_refusal_is_reported_when_the_group_sleeps_at_the_latest() {
    let mut harness = Harness::leader().sleepy();
    harness.engine.settings.sleep_after = Some(10 * IDLE);
    harness.respond(&[2, 3]);
    harness.event(TransportEvent::Refused { peer: 3.into(), reason: "why".to_owned() });
    harness.idle(Duration::from_secs(2), &[2, 3]);
    harness.event(TransportEvent::Accepted(3.into()));
    let mut waited = Duration::ZERO;
    while harness.sent_of_sleep().is_empty() {
        harness.idle(TICK, &[2, 3]);
        waited += TICK;
        assert!(waited <= 10 * IDLE, "it waits for the report, which is due after ten seconds");
    }
    harness.asleep(2, 1);
    harness.asleep(3, 1);
    harness.work();
    assert!(harness.is_asleep());
    assert!(harness.engine.refused_peers.due(HOUR).is_none(), "it was reported");
}

#[test]
fn a_follower_whose_leader_is_gone_campaigns_within_one_election_timeout() {
    let mut waits = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut harness = follower();
        harness.engine.settings.replica.seed = seed;
        // Draws as often as the seed says.
        for _ in 0..seed {
            harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
            harness.work();
            harness.hear("heartbeat from=2 to=1 term=2 commit=2");
            harness.work();
        }
        harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
        harness.work();
        assert!(harness.is_asleep());
        harness.sent();
        harness.pass(HOUR);
        harness.down(2);
        harness.work();
        let mut wait = 0;
        while harness.sent().is_empty() {
            harness.tick();
            wait += 1;
        }
        waits.insert(wait);
    }
    assert!(waits.last() <= Some(&ELECTION_TICKS), "{waits:?}");
    assert!(waits.len() > ELECTION_TICKS / 2, "all at once is a storm: {waits:?}");
}

#[test]
fn a_woken_follower_waits_for_a_full_election_timeout() {
    let wakers: [&dyn Fn(&Harness); 3] = [
        &|harness| harness.hear("pre-vote-request from=3 to=1 term=3 after=2/2"),
        &|harness| drop(harness.barrier(1)),
        &|harness| harness.hear("heartbeat from=2 to=1 term=2 commit=2"),
    ];
    for wake in wakers {
        let mut harness = sleeping_follower();
        harness.pass(HOUR);
        wake(&harness);
        harness.work();
        assert!(!harness.is_asleep());
        harness.sent();
        for _ in 0..ELECTION_TICKS - 1 {
            harness.tick();
        }
        let sent = harness.sent();
        assert!(!sent.iter().any(|sent| sent.contains("vote")), "{sent:?}");
        for _ in 0..ELECTION_TICKS + 1 {
            harness.tick();
        }
        let sent = harness.sent();
        assert!(sent.iter().any(|sent| sent.contains("vote-request")), "{sent:?}");
    }
}

#[test]
fn a_barrier_of_a_sleeping_follower_asks_the_leader() {
    let mut harness = sleeping_follower();
    let _answer = harness.barrier(1);
    harness.turn();
    let sent = harness.sent();
    assert!(matches!(&sent[..], [sent] if sent.starts_with("1->2 read-request")), "{sent:?}");
}

#[test]
fn a_node_alone_sleeps_and_takes_appends() {
    let mut harness = Harness::alone().sleepy();
    harness.idle(IDLE + TICK, &[]);
    assert!(harness.is_asleep());
    harness.pass(HOUR);
    let append = harness.append("hello");
    harness.work();
    assert!(matches!(outcome(&append), Some(Ok(_))));
    assert!(!harness.is_asleep());
    harness.idle(IDLE - TICK, &[]);
    assert!(!harness.is_asleep());
    harness.idle(2 * TICK, &[]);
    assert!(harness.is_asleep());
}

#[test]
fn a_group_whose_host_did_not_ask_for_it_never_sleeps() {
    let mut harness = Harness::leader();
    harness.respond(&[2, 3]);
    harness.work();
    harness.idle(10 * IDLE, &[2, 3]);
    assert_eq!(harness.sent_of_sleep(), [""; 0]);
    assert!(!harness.is_asleep());
    harness.down(2);
    harness.down(3);
    harness.idle(10 * IDLE, &[2, 3]);
    assert_eq!(harness.shared.status().role, Role::Leader);
}

/// A deposed leader that refused a batch notes that the indexes it gave out are wrong, until it
/// leads again. The simulation found groups that never slept for it (seed 283).
#[test]
fn a_follower_that_gave_out_wrong_indexes_sleeps() {
    let mut harness = follower();
    harness.engine.must_reindex = true;
    harness.hear_of_sleep(SleepKind::Sleep, 2, 1, 2, 2);
    harness.work();
    assert!(harness.is_asleep());
}

/// A request to sleep that left before a heartbeat of the same turn put followers to sleep, and the
/// heartbeat woke them.
#[test]
fn no_heartbeat_follows_a_request_to_sleep() {
    for later in 0..2 {
        let mut harness = Harness::leader().sleepy();
        harness.respond(&[2, 3]);
        harness.work();
        harness.engine.settings.sleep_after = Some(IDLE + TICK * later);
        harness.idle(IDLE + TICK * later, &[2, 3]);
        let sent = harness.sent();
        assert!(sent[sent.len() - 2..].iter().all(|sent| sent.contains("sleep")), "{sent:?}");
        harness.tick();
        assert!(harness.sent().iter().all(|sent| sent.contains("sleep")));
    }
}
