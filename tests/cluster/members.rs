//! What each node knows of the others: what they advertise, whether they are reached, how far they
//! have come.

use std::thread;
use std::time::Duration;

use dledger::{AppendError, DLedger, Member, Progress, TransferError};

use crate::cluster_of::{Cluster, TransportKind, cluster_of, until};

const STEP: Option<Progress> = Some(Progress::InStep);

fn member(ledger: &DLedger, id: u64) -> Member {
    let members = ledger.status().members;
    members.into_iter().find(|member| member.id.get() == id).expect("it is one of them")
}

fn advertised(ledger: &DLedger) -> Vec<Option<String>> {
    let members = ledger.status().members;
    members.into_iter().map(|member| member.advertised.map(|text| text.to_string())).collect()
}

fn text_of(id: u64) -> String {
    format!("broker-{id}.example:9876")
}

/// Waits until the leader knows all others to be in step.
fn settled(cluster: &Cluster) -> (u64, DLedger) {
    until("all to be in step", || {
        let leader = cluster.leader();
        let ledger = cluster.find(leader)?;
        let is_settled = |id: &u64| {
            let member = member(&ledger, *id);
            (member.reached, member.progress) == (Some(true), STEP)
        };
        cluster.others(leader).iter().all(is_settled).then_some((leader, ledger))
    })
}

/// All others say where the leader is, and it hands over to one of them.
fn clients_are_sent_to(cluster: &Cluster, leader: u64) {
    let [other, third] = cluster.others(leader)[..] else { unreachable!() };
    for id in [other, third] {
        let refused =
            until("it follows", || match cluster.node(id).append("x").expect_err("it follows") {
                error @ AppendError::NotLeader { leader: Some(named), .. } => {
                    Some(error).filter(|_| named.get() == leader) // it may know the one before yet
                }
                _ => None,
            });
        assert!(refused.to_string().contains(&text_of(leader)), "{refused}");
        let AppendError::NotLeader { advertised, address, .. } = refused else { unreachable!() };
        assert_eq!(
            (advertised.as_deref(), address.as_deref()),
            (Some(&*text_of(leader)), Some(cluster.address(leader)))
        );
    }
    let refused = cluster.node(third).transfer_leadership(third).expect_err("it does not lead");
    let TransferError::NotLeader { advertised: Some(advertised), .. } = &refused else {
        panic!("{refused:?}")
    };
    assert_eq!(**advertised, *text_of(leader));
    cluster.node(leader).transfer_leadership(other).expect("it takes over");
}

#[test]
fn all_know_what_the_others_advertise_and_clients_are_sent_there() {
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        let cluster = cluster_of(3).patient().over(wire).prepare();
        cluster.ids().for_each(|id| cluster.start_as(id, |builder| builder.advertise(text_of(id))));
        let all: Vec<_> = cluster.ids().map(|id| Some(text_of(id))).collect();
        for id in cluster.ids() {
            until("all texts", || (advertised(&cluster.node(id)) == all).then_some(()));
        }
        for _ in 0..2 {
            cluster.under_one_leader(|leader| clients_are_sent_to(&cluster, leader));
        }
        // A node may come back with another text, or with none.
        for (text, known) in [("elsewhere:1", Some("elsewhere:1".to_owned())), ("", None)] {
            cluster.stop(3);
            cluster.start_as(3, |builder| builder.advertise(text));
            for id in cluster.ids() {
                until("the new text", || (advertised(&cluster.node(id))[2] == known).then_some(()));
            }
        }
    }
}

#[test]
fn a_follower_that_is_gone_is_not_reached_and_was_heard_ever_longer_ago() {
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        let cluster = cluster_of(3).over(wire).open();
        cluster.append(b"entry");
        let (leader, ledger) = settled(&cluster);
        let gone = cluster.others(leader)[0];
        until("it has the entry", || (member(&ledger, gone).end_index == Some(1)).then_some(()));
        assert!(member(&ledger, gone).heard.is_some_and(|heard| heard < Duration::from_secs(5)));
        cluster.stop(gone);
        until("it is not reached", || (member(&ledger, gone).reached == Some(false)).then_some(()));
        let before = member(&ledger, gone);
        assert_eq!((before.progress, before.end_index), (None, Some(1)));
        thread::sleep(Duration::from_millis(200));
        let after = member(&ledger, gone).heard.expect("it was heard once");
        assert!(
            after >= before.heard.expect("it was heard once") + Duration::from_millis(150),
            "{after:?}"
        );
        assert_eq!(
            ledger.status().members.iter().filter(|member| member.reached == Some(false)).count(),
            1
        );
        cluster.start(gone);
        settled(&cluster);
    }
}

/// Holds up the disk of a follower that comes back, so that it is seen on its way.
fn comes_back(cluster: &Cluster, before_it_does: impl Fn(&DLedger), progress: Progress) {
    cluster.append(b"first");
    let (leader, ledger) = settled(cluster);
    let late = cluster.others(leader)[0];
    until("it has the first", || (member(&ledger, late).end_index == Some(1)).then_some(()));
    cluster.stop(late);
    for _ in 0..50 {
        ledger.append("while it is away").expect("two of three are there");
    }
    before_it_does(&ledger);
    // Until what it lacks is old.
    thread::sleep(Duration::from_millis(500));
    cluster.gate(late).shut();
    cluster.start(late);
    until("it is on its way", || (member(&ledger, late).progress == Some(progress)).then_some(()));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(member(&ledger, late).progress, Some(progress), "until it has confirmed something");
    cluster.gate(late).open();
    until("it has come", || {
        let Member { progress, end_index, in_flight_bytes, .. } = member(&ledger, late);
        ((progress, end_index, in_flight_bytes) == (STEP, Some(51), Some(0))).then_some(())
    });
    assert_eq!(
        cluster
            .node(late)
            .status()
            .members
            .iter()
            .filter(|member| member.progress.is_some())
            .count(),
        0
    );
}

#[test]
fn who_comes_back_is_seen_to_catch_up() {
    comes_back(&cluster_of(3).open(), |_| (), Progress::CatchingUp);
}

#[test]
fn who_lacks_what_was_purged_is_seen_to_be_moved_forward() {
    let purge = |ledger: &DLedger| assert!(ledger.purge(40).expect("it is committed") > 1);
    let cluster = cluster_of(3).open();
    comes_back(&cluster, purge, Progress::MovedForward);
    let status = cluster.node(cluster.leader()).status();
    let kept: u64 = 5 + (status.committed.start - 1) * 16;
    assert_eq!((status.oldest_position, status.committed_position), (kept, 5 + 50 * 16));
}

#[test]
fn bytes_on_their_way_are_shown_and_no_append_wakes_who_watches() {
    let cluster = cluster_of(3).open();
    let (leader, ledger) = settled(&cluster);
    let slow = cluster.others(leader)[0];
    let mut watch = ledger.watch();
    let mut quiet = || while watch.next_timeout(Duration::from_millis(50)).is_some() {};
    quiet();
    for index in 0..50 {
        ledger.append([0; 100]).expect("it leads");
        for id in cluster.others(leader) {
            until("it has it", || (member(&ledger, id).end_index == Some(index + 1)).then_some(()));
        }
    }
    let now = (ledger.status().leader, ledger.status().term);
    assert_eq!(
        (watch.next_timeout(Duration::ZERO).map(|status| (status.leader, status.term))),
        None,
        "{now:?}"
    );
    cluster.gate(slow).shut();
    ledger.append([0; 100]).expect("the other one has it");
    until("it is on its way", || {
        (member(&ledger, slow).in_flight_bytes == Some(100)).then_some(())
    });
    cluster.gate(slow).open();
    until("it is there", || (member(&ledger, slow).in_flight_bytes == Some(0)).then_some(()));
    cluster.gate(slow).shut();
    cluster.gate(cluster.others(leader)[1]).shut();
    let pending = ledger.append_async([0; 100]);
    assert_eq!(ledger.status().in_flight_bytes, 132);
    cluster.ids().for_each(|id| cluster.gate(id).open());
    pending.wait().expect("all have it");
    until("nothing is under way", || (ledger.status().in_flight_bytes == 0).then_some(()));
}
