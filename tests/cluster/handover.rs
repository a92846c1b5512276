//! Handing over the leadership.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, unbounded};
use dledger::{Role, TransferError};

use crate::cluster_of::{TransportKind, cluster_of, until};
use crate::history::{self, History};
use crate::rng::Rng;

#[test]
fn the_leadership_goes_where_it_is_sent_and_appends_go_on() {
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        let cluster = cluster_of(3).over(wire).open();
        let stop = AtomicBool::new(false);
        let acknowledged_end = AtomicU64::new(0);
        let mut rng = Rng::new();
        let histories: Vec<History> = thread::scope(|scope| {
            let clients: Vec<_> = (0..2)
                .map(|client| {
                    let (cluster, stop, acknowledged_end) = (&cluster, &stop, &acknowledged_end);
                    scope.spawn(move || History::make(cluster, client, stop, acknowledged_end))
                })
                .collect();
            let mut moved = 0;
            for _ in 0..20 {
                let leader = cluster.leader();
                let to = rng.pick(&cluster.others(leader));
                let before = acknowledged_end.load(Ordering::SeqCst);
                if cluster.node(leader).transfer_leadership(to).is_ok() {
                    moved += 1;
                    assert_eq!(cluster.node(leader).status().leader.map(u64::from), Some(to));
                }
                until("appends to go on", || {
                    (acknowledged_end.load(Ordering::SeqCst) > before).then_some(())
                });
            }
            stop.store(true, Ordering::Relaxed);
            assert!(moved >= 15, "{moved} of 20 worked, and nothing stood in the way");
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        history::check(&cluster.agree(), &histories);
    }
}

#[test]
fn only_a_leader_hands_over_and_only_to_a_voter() {
    let cluster = cluster_of(3).open();
    cluster.append(b"so that all know who leads");
    cluster.agree();
    let leader = cluster.leader();
    let follower = cluster.others(leader)[0];
    match cluster.node(follower).transfer_leadership(follower + 100) {
        Err(TransferError::NotLeader { leader: named, .. }) => {
            assert_eq!(named.map(u64::from), Some(leader))
        }
        other => panic!("a follower cannot hand over, got {other:?}"),
    }
    match cluster.node(leader).transfer_leadership(100) {
        Err(TransferError::NotAVoter(id)) => assert_eq!(u64::from(id), 100),
        other => panic!("no member has that number, got {other:?}"),
    }
    cluster.node(leader).transfer_leadership(leader).expect("it leads already");
    assert_eq!(cluster.leader(), leader);
    cluster.append(b"undisturbed");
}

#[test]
fn a_target_that_does_not_answer_leaves_the_leader_where_it_is_and_appends_waiting() {
    let cluster = cluster_of(3).open();
    cluster.append(b"before");
    let leader = cluster.leader();
    let away = cluster.others(leader)[0];
    cluster.stop(away);
    let ledger = cluster.node(leader);
    thread::scope(|scope| {
        let handing_over = scope.spawn(|| ledger.transfer_leadership(away));
        let mut appended = 0;
        while !handing_over.is_finished() {
            ledger.append("meanwhile").expect("an append waits for the outcome");
            appended += 1;
        }
        assert!(appended >= 1);
        let outcome = handing_over.join().unwrap();
        assert!(matches!(outcome, Err(TransferError::TimedOut(to)) if u64::from(to) == away));
    });
    assert_eq!((ledger.status().role, cluster.leader()), (Role::Leader, leader));
    cluster.append(b"after");
    cluster.start(away);
    cluster.agree();
}

#[test]
fn a_refused_handover_does_not_break_into_one_that_is_under_way() {
    let cluster = cluster_of(3).open();
    cluster.append(b"before");
    let leader = cluster.leader();
    let away = cluster.others(leader)[0];
    cluster.stop(away);
    let ledger = cluster.node(leader);
    thread::scope(|scope| {
        let handing_over = scope.spawn(|| ledger.transfer_leadership(away));
        let mut appended = 0;
        while !handing_over.is_finished() {
            // While it waits for the one that is away, appends must go on waiting, whatever else is
            // asked for.
            assert!(matches!(ledger.transfer_leadership(100), Err(TransferError::NotAVoter(_))));
            if ledger.append_async("meanwhile").wait().is_ok() {
                appended += 1;
            }
        }
        handing_over.join().unwrap().unwrap_err();
        eprintln!("{appended} appends");
    });
    let index = cluster.append(b"after");
    assert_eq!(&*cluster.agree()[index as usize], b"after");
    assert_eq!(cluster.node(leader).status().fault, None);
}

#[test]
fn two_handovers_at_once_both_come_to_an_end() {
    let cluster = cluster_of(3).open();
    for _ in 0..5 {
        let leader = cluster.leader();
        let ledger = cluster.node(leader);
        let others = cluster.others(leader);
        thread::scope(|scope| {
            for to in [others[0], others[1], others[0]] {
                let ledger = ledger.clone();
                scope.spawn(move || drop(ledger.transfer_leadership(to)));
            }
        });
        cluster.append(b"goes on");
    }
    cluster.agree();
}

#[test]
fn a_handover_ends_even_if_the_leader_steps_down_meanwhile_and_no_other_leads() {
    let cluster = cluster_of(3).open();
    let leader = cluster.leader();
    let ledger = cluster.node(leader);
    let target = cluster.others(leader)[0];
    cluster.isolate(leader);
    let (outcomes, outcome) = unbounded();
    thread::spawn(move || {
        // One of these is under way when the leader notices that it has lost its majority.
        while ledger.status().role == Role::Leader {
            let _ = outcomes.send(ledger.transfer_leadership(target));
        }
    });
    loop {
        match outcome.recv_timeout(Duration::from_secs(2)) {
            Ok(Err(TransferError::TimedOut(to))) => assert_eq!(u64::from(to), target),
            Ok(Err(TransferError::NotLeader { .. })) | Err(RecvTimeoutError::Disconnected) => break,
            other => panic!("a handover that could not succeed: {other:?}"),
        }
    }
}

#[test]
fn a_leader_that_is_shut_down_hands_over_first() {
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        let cluster = cluster_of(3).over(wire).prepare();
        cluster.start(1);
        // The others would not campaign by themselves before this test has given up.
        [2, 3].into_iter().for_each(|id| {
            cluster.start_as(id, |builder| builder.election_timeout(Duration::from_secs(600)))
        });
        assert_eq!(cluster.leader(), 1);
        cluster.append(b"one");
        cluster.stop(1);
        let leader = cluster.leader_among(&[2, 3]);
        cluster.node(leader).append(b"two").expect("it leads");
        // No node is left to take it from the last one.
        cluster.stop(5 - leader);
        cluster.stop(leader);
    }
}
