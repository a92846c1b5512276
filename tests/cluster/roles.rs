//! What observers of role changes are told, and what they may do.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, unbounded};
use dledger::storage::MemoryLog;
use dledger::{AppendError, DLedger, NodeId, Role, Status};
use parking_lot::Mutex;

use crate::cluster_of::{TIMEOUT, cluster_of, until};

type Told = Arc<Mutex<HashMap<NodeId, Vec<Status>>>>;

#[test]
fn every_change_is_told_in_order_and_each_term_has_one_leader() {
    let told = Told::default();
    let cluster = cluster_of(3)
        .impatient()
        .with({
            let told = told.clone();
            move |builder| {
                let told = told.clone();
                builder.on_role_change(move |status| {
                    told.lock().entry(status.id).or_default().push(status.clone())
                })
            }
        })
        .open();
    for round in 0..8_u64 {
        cluster.append(&round.to_le_bytes());
        let leader = cluster.leader();
        if round % 2 == 0 {
            cluster.isolate(leader);
            cluster.leader_among(&cluster.others(leader));
            cluster.network.heal();
        } else {
            let to = cluster.others(leader)[round as usize / 2 % 2];
            let _ = cluster.node(leader).transfer_leadership(to);
        }
        cluster.leader();
    }
    let ledger = cluster.agree();
    let ends: Vec<Status> = cluster.ids().map(|id| cluster.node(id).status()).collect();
    cluster.ids().for_each(|id| cluster.stop(id));

    let told = told.lock();
    let mut leaders: HashMap<u64, NodeId> = HashMap::new();
    for end in &ends {
        let told = &told[&end.id];
        let key = |status: &Status| (status.role, status.term, status.leader, status.stopped);
        assert!(
            told.windows(2).all(|pair| key(&pair[0]) != key(&pair[1])),
            "only changes are told"
        );
        assert!(
            told.windows(2).all(|pair| pair[0].term <= pair[1].term
                && pair[0].committed.end <= pair[1].committed.end),
            "in order"
        );
        assert!(told.iter().any(|status| key(status) == key(end)), "up to the newest");
        for status in told {
            assert_eq!((&*status.group, status.members.len()), ("default", 3));
            let leader =
                status.leader.into_iter().chain((status.role == Role::Leader).then_some(status.id));
            for leader in leader {
                assert_eq!(
                    *leaders.entry(status.term).or_insert(leader),
                    leader,
                    "term {} has one leader",
                    status.term
                );
            }
        }
    }
    for entry in &ledger {
        let leader = leaders[&entry.term()];
        let announced = told[&leader]
            .iter()
            .any(|status| status.role == Role::Leader && status.term == entry.term());
        assert!(announced, "the leader that appended in term {} was announced", entry.term());
    }
}

#[test]
fn a_leader_is_announced_only_when_it_can_take_appends_and_knows_all_commits() {
    let (changes, told) = unbounded();
    let cluster = cluster_of(3)
        .impatient()
        .with(move |builder| {
            let changes = changes.clone();
            builder.on_role_change(move |status| drop(changes.send(status.clone())))
        })
        .open();
    let (mut acknowledged_end, mut term, mut taken) = (0, 0, 0);
    while taken < 6 {
        let leader = leader_after(term, &told);
        term = leader.term;
        assert!(leader.committed.end >= acknowledged_end, "it knows of everything acknowledged");
        match cluster.node(leader.id.get()).append("entry") {
            Ok(index) => {
                acknowledged_end = index + 1;
                taken += 1;
                cluster.stop(leader.id.get());
                cluster.start(leader.id.get());
            }
            // Only because it does not lead any more: then the next leader is announced.
            Err(error) => assert!(
                matches!(error, AppendError::NotLeader { .. } | AppendError::OutcomeUnknown),
                "{error:?}"
            ),
        }
    }
}

/// The first leader of a later term that is announced.
fn leader_after(term: u64, told: &Receiver<Status>) -> Status {
    let mut changes = iter::from_fn(|| told.recv_timeout(TIMEOUT).ok());
    changes
        .find(|status| status.role == Role::Leader && status.term > term)
        .expect("somebody is elected")
}

#[test]
fn a_panic_in_an_observer_is_contained() {
    let calls = Arc::new(AtomicUsize::new(0));
    let cluster = cluster_of(3)
        .with({
            let calls = calls.clone();
            move |builder| {
                let calls = calls.clone();
                builder
                    .on_role_change(|_| panic!("a host's own mistake, on purpose"))
                    .on_role_change(move |_| {
                        calls.fetch_add(1, Ordering::Relaxed);
                    })
            }
        })
        .open();
    cluster.append(b"goes on");
    let before = calls.load(Ordering::Relaxed);
    cluster.isolate(cluster.leader());
    until("the second observer to hear of later changes", || {
        (calls.load(Ordering::Relaxed) > before + 2).then_some(())
    });
    cluster.network.heal();
    cluster.append(b"and on");
    cluster.agree();
    cluster.ids().for_each(|id| cluster.stop(id));
}

#[test]
fn an_observer_may_append_read_and_shut_its_own_node_down() {
    let (handles, handle) = unbounded::<DLedger>();
    let (outcomes, outcome) = unbounded();
    let memory = MemoryLog::new();
    let ledger = DLedger::builder(1)
        .storage(memory.clone())
        .on_role_change(move |status| {
            if status.role == Role::Leader {
                let ledger: DLedger = handle.recv_timeout(TIMEOUT).expect("the host hands it over");
                let index = ledger.append("from an observer").expect("a leader takes it");
                assert!(ledger.get(index).expect("it is there").is_some());
                outcomes.send(ledger.shutdown()).expect("the test listens");
            }
        })
        .open()
        .unwrap();
    handles.send(ledger.clone()).unwrap();
    outcome.recv_timeout(TIMEOUT).expect("it does not wait for itself").unwrap();
    ledger.shutdown().expect("a second time is as good as the first");
    assert!(ledger.append("too late").is_err());
    drop(ledger);
    assert_eq!(DLedger::builder(1).storage(memory).open().unwrap().committed(), 0..1);
}

#[test]
fn an_observer_may_hold_the_last_handle() {
    let (handles, handle) = unbounded::<DLedger>();
    let (dropped, gone) = unbounded();
    let memory = MemoryLog::new();
    let ledger = DLedger::builder(1)
        .storage(memory.clone())
        .on_role_change(move |_| {
            if let Ok(ledger) = handle.recv_timeout(TIMEOUT) {
                drop(ledger);
                let _ = dropped.send(());
            }
        })
        .open()
        .unwrap();
    handles.send(ledger).unwrap();
    gone.recv_timeout(TIMEOUT).expect("the node closes without waiting for this very thread");
    drop(handles);
    until("the log to be free", || DLedger::builder(1).storage(memory.clone()).open().ok());
}

#[test]
fn a_slow_observer_holds_up_only_itself() {
    let (release, released) = unbounded::<()>();
    let ledger = DLedger::builder(1)
        .storage(MemoryLog::new())
        .on_role_change(move |_| {
            let _ = released.recv_timeout(TIMEOUT);
        })
        .open()
        .unwrap();
    for n in 0..100 {
        assert_eq!(ledger.append("entry").unwrap(), n);
    }
    drop(release);
    ledger.shutdown().unwrap();
}
