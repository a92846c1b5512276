//! Groups of nodes that stay up, or come back: every replica ends with the same ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dledger::{AppendError, BarrierError, DLedger, FlushPolicy, NodeId, Role};

use crate::cluster_of::{
    Cluster, Disk, FLUSHES, Plan, TIMEOUT, TransportKind, cluster_of, until, whole,
};
use crate::lossy::{LARGE, LossyTransport};
use crate::rng::Rng;

/// The groups that every fact about replication is proved on.
fn groups() -> impl Iterator<Item = Cluster> {
    let kinds: [(u64, TransportKind, Disk, FlushPolicy); 6] = [
        (1, TransportKind::Memory, Disk::Directory, FLUSHES[1]),
        (3, TransportKind::Memory, Disk::Memory, FLUSHES[0]),
        (3, TransportKind::Tcp, Disk::Directory, FLUSHES[0]),
        (3, TransportKind::Tcp, Disk::Memory, FLUSHES[1]),
        (5, TransportKind::Memory, Disk::Directory, FLUSHES[1]),
        (5, TransportKind::Tcp, Disk::Memory, FLUSHES[0]),
    ];
    kinds.into_iter().map(|(size, wire, disk, flush)| plan(size, wire, disk, flush).open())
}

fn plan(size: u64, wire: TransportKind, disk: Disk, flush: FlushPolicy) -> Plan {
    eprintln!("{size} nodes, {wire:?}, {disk:?}, {flush:?}");
    cluster_of(size)
        .over(wire)
        .on(disk)
        .with(move |builder| builder.flush(flush).segment_bytes(64 << 10))
}

/// Appends payloads of every odd size, one by one and in batches of every odd length. Returns what
/// the ledger should hold.
fn append_all_kinds(leader: &DLedger) -> Vec<Vec<u8>> {
    let mut expected: Vec<Vec<u8>> = Vec::new();
    let mut rng = Rng::new();
    let mut bytes = |len: usize| (0..len).map(|_| rng.below(256) as u8).collect::<Vec<u8>>();
    for len in [0, 1, 4095, 4096, 4097, 1 << 20] {
        let payload = bytes(len);
        assert_eq!(leader.append(&payload).expect("a leader takes it"), expected.len() as u64);
        expected.push(payload);
    }
    for count in [1, 2, 10_000] {
        let payloads: Vec<Vec<u8>> = (0..count).map(|n| bytes(n % 50)).collect();
        let range = leader.append_batch(&payloads).expect("a leader takes it");
        assert_eq!(range, expected.len() as u64..(expected.len() + count) as u64);
        expected.extend(payloads);
    }
    expected
}

#[test]
fn every_replica_ends_with_the_same_indexes_positions_terms_timestamps_and_bytes() {
    for cluster in groups() {
        let leader = cluster.node(cluster.leader());
        let expected = append_all_kinds(&leader);
        let ledger = cluster.agree();
        assert!(ledger.iter().map(|entry| &**entry).eq(expected.iter().map(Vec::as_slice)));
        cluster.ids().for_each(|id| cluster.stop(id));
    }
}

/// Else each round would take until the next heartbeat, about the interval of heartbeats.
#[test]
fn every_follower_learns_of_a_commit_at_once_though_nothing_follows() {
    const ROUNDS: u32 = 20;
    const HEARTBEAT: Duration = Duration::from_millis(200);
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        let slow = |builder: dledger::Builder| {
            builder.heartbeat_interval(HEARTBEAT).election_timeout(4 * HEARTBEAT)
        };
        let cluster = cluster_of(3).over(wire).with(slow).open();
        let leader = cluster.node(cluster.leader());
        let mut took = Duration::ZERO;
        for _ in 0..ROUNDS {
            let index = leader.append("and nothing more").expect("a leader takes it");
            let acknowledged = Instant::now();
            for id in cluster.ids() {
                until("it is committed everywhere", || {
                    Some(()).filter(|()| cluster.node(id).committed().end > index)
                });
            }
            took += acknowledged.elapsed();
        }
        assert!(took < ROUNDS * HEARTBEAT / 2, "{took:?} for {ROUNDS} rounds over {wire:?}");
    }
}

#[test]
fn the_largest_entry_and_the_largest_batch_reach_every_replica() {
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        // A debug build takes its time to copy and check so much.
        let cluster = cluster_of(3)
            .over(wire)
            .with(|builder| {
                builder.election_timeout(Duration::from_secs(1)).append_timeout(TIMEOUT)
            })
            .open();
        let leader = cluster.node(cluster.leader());
        leader.append(vec![1; 4 << 20]).unwrap();
        leader
            .append_batch([
                vec![2; 4 << 20],
                vec![3; 4 << 20],
                vec![4; 4 << 20],
                vec![5; (4 << 20) - 96],
            ])
            .unwrap();
        let too_large = leader.append_batch([
            vec![2; 4 << 20],
            vec![3; 4 << 20],
            vec![4; 4 << 20],
            vec![5; (4 << 20) - 95],
        ]);
        assert!(matches!(too_large, Err(AppendError::TooLarge { .. })));
        assert_eq!(cluster.agree().len(), 5);
    }
}

#[test]
fn followers_serve_reads_and_say_who_leads_and_where() {
    for cluster in groups() {
        let leader = cluster.leader();
        for n in 0..10_u64 {
            cluster.node(leader).append(n.to_le_bytes()).unwrap();
        }
        for id in cluster.others(leader) {
            let follower = cluster.node(id);
            assert_eq!(follower.barrier().unwrap(), 10, "an entry acknowledged before lies below");
            assert_eq!((follower.committed(), follower.status().role), (0..10, Role::Follower));
            assert_eq!(follower.get(9).unwrap().as_deref(), Some(&9_u64.to_le_bytes()[..]));
            assert_eq!(follower.read(3).count(), 7);
            assert_eq!(
                follower.tail(0).take(10).map(|entry| entry.unwrap().index()).collect::<Vec<_>>(),
                (0..10).collect::<Vec<_>>()
            );
            match follower.append("not here") {
                Err(
                    ref error @ AppendError::NotLeader {
                        leader: Some(named),
                        address: Some(ref address),
                        ..
                    },
                ) => {
                    assert_eq!((u64::from(named), &**address), (leader, cluster.address(leader)));
                    assert!(!error.may_have_committed());
                }
                other => panic!("expected the name of the leader, got {other:?}"),
            }
        }
        assert_eq!(cluster.agree().len(), 10);
    }
}

#[test]
fn a_follower_that_was_away_catches_up() {
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        let cluster = cluster_of(3).over(wire).open();
        let away = cluster.others(cluster.leader())[0];
        cluster.append(b"while all are here");
        cluster.stop(away);
        for n in 0..300_u64 {
            cluster.append(&n.to_le_bytes());
        }
        cluster.start(away);
        assert_eq!(cluster.agree().len(), 301);
    }
}

/// It may have 1 MiB a second, which is less than what is appended: it arrives because it may also
/// have a quarter more than that. Ticks are long, so that something is committed in each.
#[test]
fn a_follower_that_is_held_back_arrives_while_a_host_goes_on() {
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        let slow = |builder: dledger::Builder| {
            builder
                .heartbeat_interval(Duration::from_millis(500))
                .election_timeout(Duration::from_secs(1))
        };
        let cluster = cluster_of(3)
            .over(wire)
            .with(move |builder| slow(builder).catch_up_bytes_per_second(1 << 20))
            .open();
        let leader = cluster.node(cluster.leader());
        let away = cluster.others(cluster.leader())[0];
        cluster.stop(away);
        let payload = [7; 16 << 10];
        let append = |count: usize| {
            leader.append_batch(vec![&payload[..]; count]).expect("two of three are a majority").end
        };
        for _ in 0..8 {
            append(64);
        }
        cluster.start(away);
        until("it to come as near as a batch", || {
            (append(16) <= cluster.node(away).committed().end + 16).then_some(())
        });
        cluster.agree();
    }
}

#[test]
fn a_follower_that_was_cut_off_catches_up_without_disturbing_the_leader() {
    let cluster = cluster_of(3).patient().open();
    let leader = cluster.leader();
    let term = cluster.node(leader).status().term;
    let away = cluster.others(leader)[1];
    cluster.isolate(away);
    until("it to miss its leader", || cluster.node(away).status().leader.is_none().then_some(()));
    for n in 0..300_u64 {
        cluster.append(&n.to_le_bytes());
    }
    assert_eq!(cluster.node(away).committed(), 0..0);
    cluster.network.heal();
    assert_eq!(cluster.agree().len(), 300);
    let status = cluster.node(away).status();
    assert_eq!(
        (status.leader.map(u64::from), status.term),
        (Some(leader), term),
        "a vote was asked for only after a look around"
    );
}

#[test]
fn any_of_them_can_be_restarted_one_a_minority_or_all() {
    for cluster in groups() {
        let size = cluster.ids().count();
        let mut rng = Rng::new();
        for round in 0..6_u64 {
            for n in 0..20_u64 {
                cluster.append(&(round * 20 + n).to_le_bytes());
            }
            let before = cluster.agree();
            let first = rng.below(size as u64);
            let away: Vec<u64> = cluster
                .ids()
                .cycle()
                .skip(first as usize)
                .take([1, (size - 1) / 2, size][round as usize % 3])
                .collect();
            away.iter().for_each(|id| cluster.stop(*id));
            if away.len() < size {
                cluster.append(b"while some are away");
            }
            away.iter().for_each(|id| cluster.start(*id));
            let after = cluster.agree();
            assert!(after.starts_with(&before), "what was agreed about before stands");
            until("everybody to say the same of it", || {
                cluster.ids().all(|id| whole(&cluster.node(id)) == after).then_some(())
            });
        }
    }
}

#[test]
fn groups_on_one_network_do_not_hear_each_other() {
    let cluster = cluster_of(3).open();
    let other = cluster_of(3).with(|builder| builder.group("other")).prepare();
    let ledgers: Vec<DLedger> = (1..=3)
        .map(|id| {
            other
                .builder(id)
                .transport(cluster.network.transport(NodeId::from(id)))
                .open()
                .expect("it opens")
        })
        .collect();
    cluster.append(b"one");
    let index = until("the other group to take an append", || {
        ledgers.iter().find_map(|ledger| ledger.append("other").ok())
    });
    assert_eq!(index, 0);
    assert_eq!(&*cluster.agree()[0], b"one");
    until("the other group to hold its own", || {
        ledgers
            .iter()
            .all(|ledger| ledger.get(0).unwrap().is_some_and(|entry| *entry == *b"other"))
            .then_some(())
    });
}

#[test]
fn a_barrier_waits_until_what_it_covers_is_here() {
    let loses = Arc::new(AtomicBool::new(false));
    let cluster =
        cluster_of(3).with(|builder| builder.append_timeout(Duration::from_millis(300))).prepare();
    for id in 1..=3 {
        let inner = cluster.network.transport(NodeId::from(id));
        cluster.start_as(id, |builder| {
            builder.transport(LossyTransport { inner, loses: loses.clone() })
        });
    }
    cluster.append(b"small");
    cluster.agree();
    let leader = cluster.leader();
    let away = cluster.others(leader)[0];
    // One follower misses an entry that the others commit. It goes on hearing from the leader.
    cluster.isolate(away);
    cluster.node(leader).append([7; 2 * LARGE]).expect("two of three are a majority");
    loses.store(true, Ordering::Relaxed);
    cluster.network.heal();
    let follower = cluster.node(away);
    until("it to follow again", || {
        (follower.status().leader == Some(NodeId::from(cluster.leader()))).then_some(())
    });
    match follower.barrier() {
        Err(BarrierError::TimedOut(_)) => assert_eq!(follower.committed(), 0..1),
        other => panic!("it cannot have what was acknowledged, and answers {other:?}"),
    }
    loses.store(false, Ordering::Relaxed);
    until("a barrier", || follower.barrier().ok().map(|end| assert_eq!(end, 2)));
    assert_eq!(cluster.agree().len(), 2);
}

#[test]
fn a_quorum_with_slow_disks_answers_barriers() {
    let cluster = cluster_of(3).open();
    cluster.append(b"entry");
    // A sync now takes longer than the heartbeat interval, and there is always one under way: no
    // question is answered before it would be asked again.
    cluster.ids().for_each(|id| cluster.gate(id).delay(Duration::from_millis(60)));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // A slow disk may cost an election now and then.
                    let _ = cluster.node(cluster.leader()).append("entry");
                }
            });
        }
        for _ in 0..3 {
            for id in cluster.ids() {
                let answer = cluster.node(id).barrier();
                stop.store(answer.is_err(), Ordering::Relaxed);
                assert!(answer.unwrap() >= 1);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
