//! Leaders are killed, cut off and replaced while appends are under way: no acknowledged entry is
//! lost, no lost one was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dledger::{AppendError, BarrierError, Entry, FlushPolicy, Role};
use parking_lot::Mutex;

use crate::cluster_of::{Cluster, Disk, FLUSHES, Plan, TransportKind, cluster_of, until};
use crate::history::{self, History};
use crate::rng::Rng;

/// A fault of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultKind {
    ShutDown,
    PowerCut,
    /// And not only it.
    AllLosePower,
    CutOff,
    /// It keeps a minority with it.
    CutOffWithFew,
    HandsOver,
}

/// Everything that was ever shown to a reader, by index: it must never change.
type Shown = Mutex<BTreeMap<u64, Entry>>;

/// Injects a fault at the leader `rounds` times while three clients append, a reader follows on
/// every node, and barriers are asked for everywhere. Then everything that anyone saw is compared
/// with what the replicas agree about.
fn inject(cluster: &Cluster, rounds: usize, faults: &[FaultKind]) {
    let mut rng = Rng::new();
    let stop = AtomicBool::new(false);
    let acknowledged_end = AtomicU64::new(0);
    let shown = Shown::default();
    let histories: Vec<History> = thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|client| {
                scope.spawn({
                    let (stop, acknowledged_end) = (&stop, &acknowledged_end);
                    move || History::make(cluster, client, stop, acknowledged_end)
                })
            })
            .collect();
        for id in cluster.ids() {
            scope.spawn({
                let (stop, shown) = (&stop, &shown);
                move || follow(cluster, id, stop, shown)
            });
        }
        scope.spawn(|| ask_for_barriers(cluster, &stop, &acknowledged_end));
        let done = Done(&stop);
        for round in 0..rounds {
            let wanted = acknowledged_end.load(Ordering::SeqCst) + 1 + rng.below(50);
            until(format!("progress in round {round}"), || {
                (acknowledged_end.load(Ordering::SeqCst) >= wanted).then_some(())
            });
            let fault = rng.pick(faults);
            inject_one(cluster, fault, &mut rng);
        }
        drop(done);
        clients
            .into_iter()
            .map(|client| client.join().expect("a client's own checks hold"))
            .collect()
    });
    let ledger = cluster.agree();
    history::check(&ledger, &histories);
    for (index, entry) in shown.into_inner() {
        assert_eq!(ledger[index as usize], entry, "what a reader was shown stands");
    }
    let count = |of: fn(&History) -> usize| histories.iter().map(of).sum::<usize>();
    let (acknowledged, unknown, refused) = (
        count(|history| history.acknowledged.len()),
        count(|history| history.unknown.len()),
        count(|history| history.refused.len()),
    );
    eprintln!(
        "{rounds} rounds: acknowledged {acknowledged}, unknown {unknown}, refused {refused}, in \
         the ledger {}",
        ledger.len()
    );
}

/// Ends the other threads of a scope, also when this one panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn inject_one(cluster: &Cluster, fault: FaultKind, rng: &mut Rng) {
    let leader = cluster.leader();
    let others = cluster.others(leader);
    let (kept, rest) = match fault {
        FaultKind::CutOffWithFew => others.split_at(others.len() / 2 - 1),
        _ => others.split_at(0),
    };
    match fault {
        FaultKind::ShutDown => cluster.stop(leader),
        FaultKind::PowerCut => cluster.crash(leader),
        FaultKind::AllLosePower => {
            cluster.ids().for_each(|id| cluster.crash(id));
            return cluster.ids().for_each(|id| cluster.start(id));
        }
        FaultKind::CutOff => cluster.isolate(leader),
        FaultKind::CutOffWithFew => cluster.partition(&[kept, &[leader]].concat(), rest),
        // Refused or late: then somebody else leads, or still does.
        FaultKind::HandsOver => {
            return drop(cluster.node(leader).transfer_leadership(rng.pick(&others)));
        }
    }
    // Sometimes the old leader is back before anyone has noticed.
    if rng.below(8) > 0 {
        cluster.leader_among(rest);
    }
    match fault {
        FaultKind::ShutDown | FaultKind::PowerCut => cluster.start(leader),
        _ => cluster.network.heal(),
    }
}

/// Reads on one node, through all its restarts, and compares with what others were shown.
fn follow(cluster: &Cluster, id: u64, stop: &AtomicBool, shown: &Shown) {
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(ledger) = cluster.find(id) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let mut tail = ledger.tail(next);
        while let Ok(Some(entry)) = tail.next_timeout(Duration::from_millis(5)) {
            assert_eq!(entry.index(), next);
            next += 1;
            let mut shown = shown.lock();
            let first = shown.entry(entry.index()).or_insert_with(|| entry.clone());
            assert_eq!(*first, entry, "node {id} shows what another has not shown");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Asks every node in turn, whatever its role. An append that was acknowledged before the question
/// lies below the answer, and can be read there.
fn ask_for_barriers(cluster: &Cluster, stop: &AtomicBool, acknowledged_end: &AtomicU64) {
    let mut answers = 0;
    for id in cluster.ids().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let Some(ledger) = cluster.find(id) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let before = acknowledged_end.load(Ordering::SeqCst);
        if let Ok(end) = ledger.barrier() {
            answers += 1;
            assert!(
                end >= before,
                "node {id} answers {end}, and {before} entries had been acknowledged"
            );
            assert!(ledger.committed().end >= end);
            if let Some(last) = end.checked_sub(1) {
                // Stopped meanwhile, or there.
                assert!(
                    !matches!(ledger.get(last), Ok(None)),
                    "node {id} does not show what its barrier covers"
                );
            }
        }
    }
    eprintln!("{answers} barriers");
}

fn impatient(size: u64) -> Plan {
    cluster_of(size).impatient().with(|builder| builder.append_timeout(Duration::from_millis(500)))
}

#[test]
fn a_hundred_leaders_fall_with_appends_under_way_and_nothing_acknowledged_is_lost() {
    use FaultKind::*;
    let faults = [
        ShutDown,
        PowerCut,
        PowerCut,
        AllLosePower,
        CutOff,
        CutOffWithFew,
        CutOffWithFew,
        HandsOver,
    ];
    for size in [3, 5] {
        let cluster = impatient(size).open();
        // Long enough that a loss of power finds something that was not synced yet.
        cluster.ids().for_each(|id| cluster.gate(id).delay(Duration::from_millis(id)));
        inject(&cluster, 50, &faults);
    }
}

/// Small segments, so that they are changed often.
fn on_disk(wire: TransportKind, flush: FlushPolicy) -> Plan {
    impatient(3)
        .over(wire)
        .on(Disk::Directory)
        .with(move |builder| builder.flush(flush).segment_bytes(64 << 10))
}

#[test]
fn leaders_fall_over_tcp() {
    for flush in FLUSHES {
        inject(
            &on_disk(TransportKind::Tcp, flush).open(),
            10,
            &[FaultKind::ShutDown, FaultKind::HandsOver],
        );
    }
}

#[test]
fn what_leaders_wrote_in_vain_is_cut_off_on_disk() {
    for flush in FLUSHES {
        inject(
            &on_disk(TransportKind::Memory, flush).open(),
            15,
            &[FaultKind::ShutDown, FaultKind::CutOff, FaultKind::CutOff, FaultKind::CutOffWithFew],
        );
    }
}

#[test]
fn leaders_fall_under_asynchronous_flushes() {
    // Without a power failure of a majority, asynchronous flushes lose nothing either.
    let plan = impatient(3).with(|builder| builder.flush(FLUSHES[1]));
    inject(&plan.open(), 15, &[FaultKind::ShutDown, FaultKind::CutOff, FaultKind::CutOffWithFew]);
}

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing_and_steps_down() {
    let cluster = impatient(3).open();
    cluster.append(b"before");
    let old = cluster.leader();
    let term = cluster.node(old).status().term;
    cluster.isolate(old);
    let lonely = cluster.node(old);
    let futures: Vec<_> = (0..50).map(|n: u64| lonely.append_async(n.to_le_bytes())).collect();
    until("it to step down", || (lonely.status().role != Role::Leader).then_some(()));
    let late = lonely.append("after it stepped down").unwrap_err();
    assert!(matches!(late, AppendError::NotLeader { .. }), "{late:?}");
    for future in futures {
        assert!(future.wait().is_err(), "only the node itself has it");
    }
    assert!(matches!(lonely.barrier(), Err(BarrierError::TimedOut(_))));
    assert_eq!(lonely.committed(), 0..1);
    let new = cluster.leader_among(&cluster.others(old));
    assert!(cluster.node(new).status().term > term);
    cluster.node(new).append("by the new leader").unwrap();
    cluster.network.heal();
    assert_eq!(
        cluster.agree().iter().map(|entry| entry.to_vec()).collect::<Vec<_>>(),
        [&b"before"[..], b"by the new leader"]
    );
}

#[test]
fn without_a_majority_nothing_is_acknowledged_and_with_it_everything_goes_on() {
    let cluster = impatient(5).open();
    cluster.append(b"with five");
    let leader = cluster.leader();
    let away: Vec<u64> = cluster.others(leader).into_iter().take(3).collect();
    away.iter().for_each(|id| cluster.crash(*id));
    assert!(cluster.node(leader).append("with two").is_err());
    until("the leader to step down", || {
        (cluster.node(leader).status().role != Role::Leader).then_some(())
    });
    for id in cluster.running() {
        assert!(matches!(cluster.node(id).barrier(), Err(BarrierError::TimedOut(_))));
        assert!(!cluster.node(id).append("with two").unwrap_err().may_have_committed());
        assert_eq!(
            &**cluster.node(id).get(0).unwrap().as_ref().unwrap(),
            b"with five",
            "reads go on"
        );
    }
    cluster.start(away[0]);
    let index = cluster.append(b"with three");
    away[1..].iter().for_each(|id| cluster.start(*id));
    let ledger = cluster.agree();
    assert_eq!(&*ledger[index as usize], b"with three");
}

#[test]
fn no_vote_counts_before_the_voters_disk_has_it() {
    let cluster = impatient(3).open();
    cluster.append(b"before");
    cluster.agree();
    // An election that was under way before is none of these.
    let (old, term, others) = until("a leader that is followed until it is gone", || {
        let old = cluster.leader();
        let (term, others) = (cluster.node(old).status().term, cluster.others(old));
        cluster.gate(others[0]).shut();
        cluster.isolate(old);
        if others.iter().all(|id| cluster.node(*id).status().term == term) {
            return Some((old, term, others));
        }
        cluster.heal();
        cluster.gate(others[0]).open();
        None
    });
    cluster.crash(old);
    // The one whose disk is stuck is asked for its vote, or votes for itself. The other's is not
    // enough.
    until("an election", || (cluster.node(others[0]).status().term > term).then_some(()));
    let end = Instant::now() + Duration::from_millis(400);
    while Instant::now() < end {
        for status in others.iter().map(|id| cluster.node(*id).status()) {
            // Not even one that could not commit anything yet.
            assert!(
                status.leader.is_none() || status.term == term,
                "a vote that may be forgotten made a leader: {status:?}"
            );
        }
        thread::sleep(Duration::from_millis(5));
    }
    cluster.gate(others[0]).open();
    cluster.append(b"with both");
}
