//! Outcomes of appends in flight when their leader fails: committed, dropped or unknown, and never
//! the wrong one of them.

use std::sync::Arc;
use std::time::Duration;

use dledger::{AppendError, Role};
use parking_lot::Mutex;

use crate::cluster_of::{Cluster, TIMEOUT, cluster_of, until};

/// Three nodes that know each other: what one leader appends from here on goes to both of the
/// others at once. Most of what follows must happen within an election timeout.
fn three() -> Cluster {
    let cluster = cluster_of(3).open();
    cluster.append(b"before");
    cluster.agree();
    cluster
}

#[test]
fn an_append_that_a_new_leader_took_over_is_acknowledged_by_the_old_one() {
    let early = Arc::new(Mutex::new(Vec::new()));
    let cluster = cluster_of(3)
        .with({
            let early = early.clone();
            move |builder| {
                let early = early.clone();
                builder.on_role_change(move |status| {
                    if status.role == Role::Leader && status.committed.end < status.end_index {
                        early.lock().push(status.clone());
                    }
                })
            }
        })
        .open();
    cluster.append(b"before");
    cluster.agree();
    let old = cluster.leader();
    let others = cluster.others(old);
    let term = cluster.node(old).status().term;
    // Followers write it, and do not get to say so.
    others.iter().for_each(|id| cluster.gate(*id).shut());
    let future = cluster.node(old).append_async("taken over");
    until("followers to have it", || {
        others.iter().all(|id| cluster.node(*id).status().end_index == 2).then_some(())
    });
    cluster.isolate(old);
    others.iter().for_each(|id| cluster.gate(*id).open());
    let new = cluster.leader_among(&others);
    until("the new leader to commit it", || {
        (cluster.node(new).committed() == (0..2)).then_some(())
    });
    assert!(future.wait_timeout(Duration::ZERO).is_none(), "the old leader has not heard of it");
    cluster.network.heal();
    let appended = future.wait_timeout(TIMEOUT).expect("it resolves").expect("it is committed");
    assert_eq!(
        (appended.index, appended.position, appended.term),
        (1, 6, term),
        "the place that it was promised"
    );
    assert_eq!(&*cluster.agree()[1], b"taken over");
    assert!(
        early.lock().is_empty(),
        "announced before it had committed what it found: {:?}",
        early.lock()
    );
}

#[test]
fn an_append_that_a_new_leader_has_overwritten_is_lost_for_certain() {
    let cluster = three();
    let old = cluster.leader();
    let ledger = cluster.node(old);
    cluster.isolate(old);
    let futures: Vec<_> = (0..3_u64).map(|n| ledger.append_async(n.to_le_bytes())).collect();
    let new = cluster.leader_among(&cluster.others(old));
    // One batch more would prove as much: the new leader's own first one.
    cluster.network.heal();
    for future in futures {
        let error =
            future.wait_timeout(TIMEOUT).expect("it resolves").expect_err("no other node had it");
        let AppendError::NotLeader { leader: Some(named), .. } = error else { panic!("{error:?}") };
        assert_eq!(u64::from(named), new);
        assert!(!error.may_have_committed());
    }
    assert_eq!(cluster.agree().len(), 1);
}

#[test]
fn an_append_whose_fate_is_decided_elsewhere_is_unknown_in_time() {
    let cluster =
        cluster_of(3).with(|builder| builder.append_timeout(Duration::from_secs(5))).open();
    cluster.append(b"before");
    let old = cluster.leader();
    let ledger = cluster.node(old);
    cluster.isolate(old);
    let future = ledger.append_async("under way");
    let error = ledger.append("waited for").unwrap_err();
    assert!(error.may_have_committed(), "{error:?}");
    let error = future.wait_timeout(TIMEOUT).expect("it resolves without any help").unwrap_err();
    assert!(matches!(error, AppendError::OutcomeUnknown), "it leads no more: {error:?}");
    cluster.network.heal();
    assert_eq!(cluster.agree().len(), 1);
}

#[test]
fn an_append_under_way_at_shutdown_is_unknown_and_may_commit() {
    let cluster = three();
    let old = cluster.leader();
    let others = cluster.others(old);
    others.iter().for_each(|id| cluster.gate(*id).shut());
    let future = cluster.node(old).append_async("on its way");
    until("followers to have it", || {
        others.iter().all(|id| cluster.node(*id).status().end_index == 2).then_some(())
    });
    cluster.stop(old);
    let error = future.wait().unwrap_err();
    assert!(matches!(error, AppendError::OutcomeUnknown), "{error:?}");
    others.iter().for_each(|id| cluster.gate(*id).open());
    cluster.start(old);
    assert_eq!(&*cluster.agree()[1], b"on its way", "and here it did");
}

#[test]
fn a_leader_whose_own_disk_is_slow_acknowledges_by_the_others() {
    let cluster = three();
    let leader = cluster.leader();
    cluster.gate(leader).shut();
    for n in 0..20_u64 {
        assert_eq!(cluster.node(leader).append(n.to_le_bytes()).unwrap(), n + 1);
    }
    assert_eq!(cluster.node(leader).status().role, Role::Leader);
    cluster.gate(leader).open();
    assert_eq!(cluster.agree().len(), 21);
}

#[test]
fn a_batch_that_fails_fails_whole() {
    let cluster =
        cluster_of(3).with(|builder| builder.append_timeout(Duration::from_millis(300))).open();
    cluster.append(b"before");
    for round in 0..3 {
        let old = cluster.leader();
        let ledger = cluster.node(old);
        cluster.isolate(old);
        ledger.append_batch((0..100).map(|n| format!("round {round} entry {n}"))).unwrap_err();
        cluster.leader_among(&cluster.others(old));
        cluster.network.heal();
        let ledger = cluster.agree();
        let of_round = ledger
            .iter()
            .filter(|entry| entry.starts_with(format!("round {round}").as_bytes()))
            .count();
        assert!(of_round == 0 || of_round == 100, "{of_round} of 100 entries");
    }
}
