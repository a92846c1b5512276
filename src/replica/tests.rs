//! What a script cannot show of one replica: what it says of itself, and that one that has failed
//! does nothing more.

use super::*;
use crate::batch::OpenBatch;
use crate::storage::reads::FailingReader;
use crate::storage::{DirectoryIdentity, LogOwner, MemoryLog, Storage};

/// One replica of nodes 1 to 3 and, if it is another one, learner 4, with its log.
struct One {
    replica: Replica,
    log: MemoryLog,
    reads: Arc<FailingReader>,
    settings: Settings,
    identity: DirectoryIdentity,
    next_batch: BatchId,
}

impl One {
    fn new(node: u64) -> One {
        let mut membership = Membership::of_voters([1, 2, 3].map(NodeId::from));
        membership.learners = vec![NodeId::from(4)];
        One::of(node, membership)
    }

    fn of(node: u64, membership: Membership) -> One {
        let owner =
            LogOwner { group: "one".to_owned(), node: NodeId::from(node), cluster: 1, membership };
        let mut log = MemoryLog::new();
        let recovered = log.open(&owner).unwrap();
        let settings = Settings {
            group: owner.group,
            node: owner.node,
            election_ticks: 10,
            heartbeat_ticks: 2,
            message_bytes: 1 << 20,
            counts_unsynced: false,
            catch_up_bytes: u64::MAX,
            seed: 1,
            new_group_uid: 0,
        };
        let reads = Arc::new(FailingReader::new(log.reader()));
        let replica =
            Replica::new(&settings, &recovered, LogPoint::INITIAL, reads.clone()).unwrap();
        One { replica, log, reads, settings, identity: recovered.identity, next_batch: 0 }
    }

    /// As an engine does when a write finds no room.
    fn step_back(&mut self) {
        self.log.begin_sync().wait().unwrap();
        self.replica.restart(&self.settings, self.identity, None, self.reads.clone()).unwrap();
    }

    /// Carries out all effects, and syncs as it goes. Returns those that are visible outside.
    fn carry_out(&mut self) -> Vec<Effect> {
        let mut others = self.carry_out_effects();
        while self.replica.owes_reading() {
            self.replica.read_for_followers();
            others.extend(self.carry_out_effects());
        }
        others
    }

    fn carry_out_effects(&mut self) -> Vec<Effect> {
        let mut others = Vec::new();
        while let Some(effect) = self.replica.poll_effect() {
            match effect {
                Effect::Write { batches, hard_state, commit } => {
                    hard_state
                        .into_iter()
                        .for_each(|hard_state| self.log.save_hard_state(hard_state).unwrap());
                    if !batches.is_empty() {
                        self.log.append(&batches, commit).unwrap();
                    }
                }
                Effect::Sync(number) => {
                    self.log.begin_sync().wait().unwrap();
                    self.replica.handle_synced(number);
                }
                other => others.push(other),
            }
        }
        others
    }

    /// A message arrives. Whether it was refused.
    fn hear(&mut self, message: &str) -> Option<MessageRejection> {
        let words: Vec<&str> = message.split_whitespace().collect();
        self.replica.handle_message(Message::forge(&words)).err()
    }

    fn append(&mut self) -> bool {
        let last = self.replica.last().unwrap();
        let mut open = OpenBatch::with_capacity(1);
        open.push(b"x", crc32fast::hash(b"x"));
        self.next_batch += 1;
        self.replica
            .handle_append(self.next_batch, open.close(last.next_index, last.next_position, 0))
    }
}

/// Node 1, whom the others have elected; its first batch is yet to be committed.
fn elected() -> One {
    let mut one = One::new(1);
    while one.carry_out().is_empty() {
        one.replica.tick();
    }
    one.hear("pre-vote-response from=2 to=1 term=2");
    one.carry_out();
    one.hear("vote-response from=2 to=1 term=2");
    one.carry_out();
    one
}

fn leader() -> One {
    let mut one = elected();
    one.hear("append-response from=2 to=1 term=2 index=2");
    one.carry_out();
    assert_eq!(one.replica.role_state().role, Role::Leader);
    one.replica.send_commit();
    one.carry_out();
    one
}

/// Node 2, which follows node 1.
fn follower() -> One {
    let mut one = One::new(2);
    one.hear("append from=1 to=2 term=2 after=1/1 batch=2/2 commit=2");
    one.carry_out();
    one
}

#[test]
fn a_node_is_what_the_membership_says_before_anything_happens() {
    for (node, role) in [(1, Role::Follower), (4, Role::Learner)] {
        let role_state = One::new(node).replica.role_state();
        assert_eq!(role_state, RoleState { role, term: 1, leader: None });
    }
}

#[test]
fn one_that_has_failed_does_nothing_more_not_even_in_the_same_turn() {
    for (me, mut one) in [(2, follower()), (1, leader())] {
        let before = one.replica.role_state();
        assert!(one.append() == (me == 1), "a follower takes none, and passes none on");
        one.carry_out();
        // What it was about to say.
        one.replica.effects.push_back(Effect::Barrier(vec![7]));
        one.hear(&format!("append from=3 to={me} term=3 after=1/1 batch=2/3"));
        // Its caller learns of that with the next effect only.
        one.hear(&format!("heartbeat from=3 to={me} term=9"));
        (0..100).for_each(|_| one.replica.tick());
        one.replica.handle_synced(u64::MAX);
        one.replica.handle_unreachable(NodeId::from(3));
        one.replica.handle_barrier(1);
        assert_eq!(one.replica.handle_transfer(NodeId::from(3)), Err(TransferRejection::NotLeader));
        assert!(!one.append());
        assert!(!one.replica.has_unsent_commit());
        one.replica.send_commit();
        let effects = one.carry_out();
        assert!(
            matches!(effects[..], [Effect::Fail(_), Effect::Resolve(_, ProposalOutcome::Dropped)]),
            "{effects:?}"
        );
        one.replica.tick();
        assert!(one.carry_out().is_empty());
        assert_eq!((one.replica.role_state(), one.replica.core.term()), (before, before.term));
    }
}

#[test]
fn only_an_announced_leader_that_leads_still_hands_over_and_only_to_a_voter() {
    let check = |one: &One, to: u64| one.replica.check_transfer(NodeId::from(to));
    assert_eq!(check(&follower(), 3), Err(TransferRejection::NotLeader));
    assert_eq!(
        check(&elected(), 2),
        Err(TransferRejection::NotLeader),
        "nothing of its term is committed"
    );
    let mut one = leader();
    assert_eq!([2, 3, 4, 5].map(|to| check(&one, to).is_ok()), [true, true, false, false]);
    assert_eq!(check(&one, 4), Err(TransferRejection::NotAVoter));
    one.hear("heartbeat from=3 to=1 term=3");
    assert_eq!(one.replica.role_state().role, Role::Leader, "it is not announced yet");
    assert_eq!(check(&one, 2), Err(TransferRejection::NotLeader));
}

#[test]
fn two_ticks_come_together_unless_an_election_or_a_transfer_is_near() {
    assert!(!One::new(2).replica.can_wait_for_two_ticks(), "it waits for a leader");
    let mut one = follower();
    let mut waited = 0;
    loop {
        let can_wait = one.replica.can_wait_for_two_ticks();
        waited += u64::from(can_wait);
        one.replica.tick();
        if !one.carry_out().is_empty() {
            assert!(!can_wait, "it stands for election one tick late");
            break;
        }
    }
    assert!(
        waited >= 8,
        "an election timeout has ten ticks at least, and it waited for two in {waited}"
    );
    let mut one = leader();
    for _ in 0..40 {
        assert!(one.replica.can_wait_for_two_ticks(), "a leader stands for nothing");
        one.replica.tick();
        one.carry_out();
        one.hear("append-response from=2 to=1 term=2 index=2");
    }
    one.replica.handle_transfer(NodeId::from(2)).unwrap();
    assert!(one.replica.is_transferring() && !one.replica.can_wait_for_two_ticks());
}

#[test]
fn others_are_told_of_a_commit_once_if_there_are_others() {
    assert!(!elected().replica.has_unsent_commit(), "its first batch tells of it");
    let mut one = leader();
    assert!(!one.replica.has_unsent_commit());
    assert!(one.append());
    one.carry_out();
    assert!(!one.replica.has_unsent_commit(), "nothing of it is committed");
    one.hear("append-response from=2 to=1 term=2 index=3");
    one.carry_out();
    assert!(
        one.replica.has_unsent_commit() && one.append() && !one.replica.has_unsent_commit(),
        "the batch tells of it"
    );
    one.carry_out();
    one.hear("append-response from=2 to=1 term=2 index=4");
    one.carry_out();
    assert!(one.replica.has_unsent_commit());
    one.replica.send_commit();
    let told: usize = one
        .carry_out()
        .iter()
        .map(|effect| if let Effect::Send(messages) = effect { messages.len() } else { 0 })
        .sum();
    assert!(told >= 1 && !one.replica.has_unsent_commit());
    one.replica.send_commit();
    assert!(one.carry_out().is_empty(), "they know");
    let mut alone = One::of(1, Membership::of_voters([NodeId::from(1)]));
    alone.replica.tick();
    alone.carry_out();
    assert!(alone.append());
    alone.carry_out();
    assert_eq!(
        (alone.replica.role_state().role, alone.replica.committed.next_index),
        (Role::Leader, 1)
    );
    assert!(!alone.replica.has_unsent_commit());
}

#[test]
fn a_follower_that_does_not_answer_is_sent_only_so_much() {
    let mut one = leader();
    let sent = (0..100).map(|_| {
        assert!(one.append());
        let effects = one.carry_out();
        let messages = effects.iter().filter_map(|effect| {
            if let Effect::Send(messages) = effect { Some(messages) } else { None }
        });
        messages.flatten().filter(|message| message.to() == NodeId::from(2)).count()
    });
    assert_eq!(sent.sum::<usize>(), adapter::MESSAGES_MAX);
}

#[test]
fn a_leader_says_where_its_log_ends_and_whether_it_takes_appends() {
    let one = elected();
    assert_eq!(
        (one.replica.leader_last_index(), one.replica.leads_and_commits(NodeId::from(1))),
        (Some(2), false)
    );
    let mut one = leader();
    assert_eq!([1, 2].map(|node| one.replica.leads_and_commits(NodeId::from(node))), [true, false]);
    one.append();
    assert_eq!(one.replica.leader_last_index(), Some(3), "though it is not written");
    let one = follower();
    assert_eq!(
        (one.replica.leader_last_index(), one.replica.leads_and_commits(NodeId::from(1))),
        (None, true)
    );
}

#[test]
fn a_log_that_begins_anew_brings_its_membership() {
    let mut leader =
        One::of(1, Membership { voters: vec![NodeId::from(1)], learners: vec![NodeId::from(4)] });
    let mut moved = One::of(
        4,
        Membership { voters: [1, 2].map(NodeId::from).to_vec(), learners: vec![NodeId::from(4)] },
    );
    leader.replica.tick();
    leader.carry_out();
    (0..3).for_each(|_| assert!(leader.append() && !leader.carry_out().is_empty()));
    leader.log.purge(2, leader.replica.hard_state().commit).unwrap();
    leader.replica.handle_purged(leader.log.reader().base());
    for _ in 0..20 {
        leader.replica.tick();
        for effect in leader.carry_out() {
            let Effect::Send(messages) = effect else { continue };
            messages.into_iter().for_each(|message| moved.replica.handle_message(message).unwrap());
        }
        for effect in moved.carry_out() {
            match effect {
                Effect::InstallSnapshot(base) => moved.log.reset(&base).unwrap(),
                Effect::Send(messages) => messages
                    .into_iter()
                    .for_each(|message| leader.replica.handle_message(message).unwrap()),
                _ => {}
            }
        }
    }
    assert_eq!(moved.replica.last(), leader.replica.last());
    assert_eq!(moved.replica.membership(), leader.replica.membership());
}

#[test]
fn batches_that_do_not_continue_the_ledger_are_refused_wherever_they_stand() {
    let mut one = One::new(2);
    let append = |one: &mut One, after: &str, batch: &str| {
        one.hear(&format!("append from=1 to=2 term=2 after={after} batch={batch}: commit=1"))
            .map(|refusal| refusal.to_string())
    };
    let refused = Some("a batch does not continue the ledger".to_owned());
    let is_refused = |outcome: Option<String>| {
        outcome.is_some_and(|why| why.contains(refused.as_deref().expect("a text")))
    };
    // Behind the base; behind batches that are not written yet, though the last that was looked at
    // is another; in the middle; and at the end.
    assert!(is_refused(append(&mut one, "1/1", "2/2:1")));
    assert_eq!(append(&mut one, "1/1", "2/2:0"), None);
    assert_eq!(append(&mut one, "2/2", "3/2:1"), None);
    assert_eq!(append(&mut one, "3/2", "4/2:2"), None);
    assert_eq!(append(&mut one, "1/1", "2/2:0"), None);
    assert!(is_refused(append(&mut one, "3/2", "4/2:3")));
    assert!(is_refused(append(&mut one, "4/2", "5/2:2")));
    assert_eq!(append(&mut one, "4/2", "5/2:3"), None);
    one.carry_out();
    assert!(is_refused(append(&mut one, "2/2", "3/2:2")));
    assert!(is_refused(append(&mut one, "5/2", "6/2:3")));
    assert_eq!(append(&mut one, "5/2", "6/2:4"), None);
    one.carry_out();
    assert_eq!(one.replica.last().map(|last| (last.raft_index, last.next_index)), Some((6, 5)));
}

#[test]
fn the_same_seed_stands_for_election_at_the_same_ticks() {
    let stands = || {
        let mut one = One::new(1);
        let stood = (0..400).map(|_| {
            one.replica.tick();
            one.carry_out().iter().any(|effect| matches!(effect, Effect::Send(_)))
        });
        stood.collect::<Vec<bool>>()
    };
    let first = stands();
    assert!(first.iter().filter(|stood| **stood).count() >= 10);
    assert_eq!(first, stands());
}

/// Seed 1948 of the simulation once panicked: a process without descriptors stepped back from a
/// full disk, and raft-rs, which takes no error for the term of the last committed batch, asked for
/// it when the node stood for election.
#[test]
fn one_that_steps_back_knows_the_terms_of_its_log_without_reading_it() {
    let mut one = follower();
    one.hear("append from=1 to=2 term=3 after=2/2 batch=3/2 batch=4/3 batch=5/3 commit=2");
    one.carry_out();
    one.reads.run_out_but_at_end();
    one.step_back();
    let mut said = Vec::new();
    while !said.iter().any(|effect| matches!(effect, Effect::Send(_))) {
        one.replica.tick();
        said.extend(one.carry_out());
    }
    assert!(!said.iter().any(|effect| matches!(effect, Effect::ReadFailed(_))), "{said:?}");
    one.hear("pre-vote-response from=1 to=2 term=4");
    one.carry_out();
    one.hear("vote-response from=1 to=2 term=4");
    one.carry_out();
    assert_eq!(one.replica.leader_last_index(), Some(6), "it leads");
}

#[test]
fn one_does_not_begin_on_a_log_whose_terms_cannot_be_read_for_now() {
    let mut one = follower();
    one.hear("append from=1 to=2 term=3 after=2/2 batch=3/2 batch=4/3 commit=2");
    one.carry_out();
    let last = one.replica.last().unwrap();
    let committed = one.log.reader().point(2).unwrap().unwrap();
    let hard_state = HardState { commit: 2, ..one.replica.hard_state() };
    let recovered = Recovered {
        identity: one.identity,
        hard_state,
        base: one.log.reader().base(),
        last,
        peers: Vec::new(),
        group_uid: 0,
        corruption: Vec::new(),
    };
    let begin = || Replica::new(&one.settings, &recovered, committed, one.reads.clone());
    for fetch_error in [FailingReader::run_out_of_resources, FailingReader::run_out_but_at_end] {
        fetch_error(&one.reads);
        assert!(begin().is_err_and(|error| error.is_temporary()));
    }
    one.reads.recover();
    assert_eq!(begin().unwrap().last(), Some(last));
    one.reads.fail();
    assert!(begin().is_err_and(|error| !error.is_temporary()));
}
