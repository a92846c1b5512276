//! Nodes whose disks have changed what was synced: they say so, can be read, and take no part until
//! their peers have sent them what they lost.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dledger::{
    AppendError, BarrierError, Builder, DLedger, PurgeError, ReadError, Role, ShutdownError,
    TransferError,
};

use crate::cluster_of::{Cluster, Disk, TransportKind, cluster_of, until};

const ENTRIES: u64 = 40;

fn payload(index: u64) -> Vec<u8> {
    format!("entry number {index:08} of many;").into_bytes().repeat(20)
}

/// The settings of the only node of a group, in `dir`.
fn one_in(dir: &Path) -> Builder {
    let ms = Duration::from_millis;
    DLedger::builder(1)
        .dir(dir.join("node"))
        .segment_bytes(64 << 10)
        .heartbeat_interval(ms(20))
        .election_timeout(ms(100))
}

/// A closed directory with so many entries, each in a batch of its own.
fn filled(count: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let ledger = one_in(dir.path()).open().unwrap();
    (0..count).for_each(|index| assert_eq!(ledger.append(payload(index)).unwrap(), index));
    ledger.shutdown().unwrap();
    dir
}

/// The segment of a directory with this entry, the place of its payload, and whether the segment is
/// sealed.
fn find(node: &Path, index: u64) -> (PathBuf, usize, bool) {
    let segments = fs::read_dir(node)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "seg"));
    let wanted = payload(index);
    for path in segments {
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            return (path, at, bytes[516..520] == *b"DLse");
        }
    }
    panic!("entry {index} is in no segment");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The header of a record lies in front of the payload, and the fixed part of the batch between
/// them.
const HEADER_BEFORE: usize = 32 + 96;

#[track_caller]
fn takes_no_part(ledger: &DLedger) -> String {
    let status = ledger.status();
    assert_eq!((status.role, status.leader), (Role::Follower, None));
    let fault = status.fault.expect("the node says what is wrong with it");
    let refused = ledger.append("more").unwrap_err();
    assert!(!refused.may_have_committed());
    assert!(
        matches!(refused, AppendError::Failed { ref reason, .. } if *reason == fault),
        "{refused}"
    );
    assert!(
        matches!(ledger.barrier(), Err(BarrierError::Failed { reason, .. }) if reason == fault)
    );
    assert!(matches!(ledger.purge(10), Err(PurgeError::Failed { reason, .. }) if reason == fault));
    let refused = ledger.transfer_leadership(1);
    assert!(matches!(refused, Err(TransferError::Failed { reason, .. }) if reason == fault));
    fault
}

/// Every entry reads as it was appended, but for those in `damaged`, which are typed errors.
#[track_caller]
fn reads_all_but(ledger: &DLedger, damaged: &[u64]) {
    let end = ledger.committed().end;
    for index in 0..end {
        match ledger.get(index) {
            Ok(entry) => assert!(
                !damaged.contains(&index) && *entry.unwrap() == *payload(index),
                "entry {index} is read"
            ),
            Err(ReadError::Damaged { index: told, reason, .. }) => {
                assert!(told == index && damaged.contains(&index), "entry {index}: {reason}")
            }
            Err(error) => panic!("entry {index}: {error}"),
        }
    }
    let first_bad = damaged.iter().copied().min().unwrap_or(end);
    let in_order: Vec<_> = ledger.read(0).collect();
    assert_eq!(
        in_order.iter().filter(|entry| entry.is_ok()).count() as u64,
        first_bad.min(end),
        "a cursor stops where the damage is"
    );
}

#[test]
fn one_node_with_a_damaged_tail_opens_at_once_to_be_read() {
    let dir = filled(ENTRIES);
    let node = dir.path().join("node");
    for (index, before, name) in
        [(20, 0, "payload"), (21, HEADER_BEFORE, "header"), (0, HEADER_BEFORE, "first header")]
    {
        let (path, at, is_sealed) = find(&node, index);
        assert!(!is_sealed);
        let whole = fs::read(&path).unwrap();
        flip(&path, at - before);
        let began = Instant::now();
        let ledger = one_in(dir.path()).open().unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{name}: it waited for a leadership that cannot come"
        );
        let fault = takes_no_part(&ledger);
        for part in [
            path.to_str().unwrap(),
            &format!("offset {}", at - HEADER_BEFORE),
            "raft index ",
            "restore it from a backup",
        ] {
            assert!(fault.contains(part), "{name}: {part:?} is not in {fault:?}");
        }
        assert_eq!(ledger.committed(), 0..ENTRIES, "{name}");
        reads_all_but(&ledger, &[index]);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(ledger.status().role, Role::Follower, "{name}: it has campaigned");
        let kept = ledger.get(ENTRIES - 1).unwrap().unwrap();
        assert!(matches!(ledger.shutdown(), Err(ShutdownError::Failed { .. })), "{name}");
        assert_eq!(*kept, *payload(ENTRIES - 1));
        fs::write(&path, whole).unwrap();
    }
    let ledger = one_in(dir.path()).open().unwrap();
    assert_eq!(
        ledger.append(payload(ENTRIES)).unwrap(),
        ENTRIES,
        "once the bytes are back, so is the node"
    );
    reads_all_but(&ledger, &[]);
}

#[test]
fn the_last_entry_of_a_damaged_log_is_not_forgotten_silently() {
    let dir = filled(ENTRIES);
    let (path, at, _) = find(&dir.path().join("node"), ENTRIES - 1);
    flip(&path, at - HEADER_BEFORE);
    let ledger = one_in(dir.path()).open().unwrap();
    takes_no_part(&ledger);
    assert_eq!(ledger.committed(), 0..ENTRIES - 1);
    reads_all_but(&ledger, &[]);
}

/// Sealed segments are not read when a log is opened, so that opening costs the tail alone.
#[test]
fn damage_in_a_sealed_segment_is_told_when_it_is_read() {
    let dir = filled(400);
    let node = dir.path().join("node");
    let (payload_hit, header_hit) = (60, 61);
    for (index, before) in [(payload_hit, 0), (header_hit, HEADER_BEFORE)] {
        let (path, at, is_sealed) = find(&node, index);
        assert!(is_sealed, "of 400 entries in segments of 64 KiB, the first hundred are sealed");
        flip(&path, at - before);
    }
    let ledger = one_in(dir.path()).open().unwrap();
    assert_eq!((ledger.status().role, ledger.status().fault), (Role::Leader, None));
    assert_eq!(ledger.append(payload(400)).unwrap(), 400);
    reads_all_but(&ledger, &[payload_hit, header_hit]);
    ledger.shutdown().unwrap();
}

#[test]
fn a_lost_segment_is_told_and_the_others_are_read() {
    let dir = filled(400);
    let node = dir.path().join("node");
    let (path, _, _) = find(&node, 200);
    let lost: Vec<u64> = (0..400).filter(|index| find(&node, *index).0 == path).collect();
    fs::remove_file(path).unwrap();
    let ledger = one_in(dir.path()).open().unwrap();
    let fault = takes_no_part(&ledger);
    assert!(
        fault.contains("a file is missing") && fault.contains(node.to_str().unwrap()),
        "{fault}"
    );
    assert_eq!(ledger.committed(), 0..400);
    // The entry in front of the gap was not yet known to be committed when it was written, so the
    // lost segment may have replaced it.
    let unsure = lost[0] - 1;
    reads_all_but(&ledger, &[&[unsure], &lost[..]].concat());
}

fn corruption(cluster: &Cluster, id: u64, index: u64, before: usize) {
    let (path, at, _) = find(&cluster.dir(id), index);
    flip(&path, at - before);
}

fn whole(cluster: &Cluster, id: u64) {
    until(format!("node {id} is whole again"), || {
        let status = cluster.node(id).status();
        assert_eq!(status.fault, None);
        status.repair.is_none().then_some(())
    });
}

/// Waits for the node to show so many entries, and reads all of them.
fn shows(cluster: &Cluster, id: u64, count: u64) {
    let ledger = cluster.node(id);
    until(format!("node {id} shows {count} entries"), || {
        (ledger.committed().end >= count).then_some(())
    });
    reads_all_but(&ledger, &[]);
}

/// A group that has so many entries. All lie in open segments: only these are verified when a log
/// is opened. A node closes one early if an election has its log cut off.
fn filled_cluster(wire: TransportKind) -> Cluster {
    until("a group without an election that cuts off a log", || {
        let cluster = cluster_of(3)
            .over(wire)
            .on(Disk::Directory)
            .impatient()
            .with(|builder| builder.segment_bytes(64 << 10))
            .open();
        for index in 0..ENTRIES {
            assert_eq!(cluster.append(&payload(index)), index);
        }
        cluster.agree();
        let is_open = |id| (0..ENTRIES).all(|index| !find(&cluster.dir(id), index).2);
        cluster.ids().all(is_open).then_some(cluster)
    })
}

#[test]
fn a_damaged_member_is_mended_by_the_others_and_counts_again() {
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        let cluster = filled_cluster(wire);
        let damaged = cluster.leader();
        cluster.stop(damaged);
        let (path, at, _) = find(&cluster.dir(damaged), 30);
        let before = fs::read(&path).unwrap();
        let record = at - HEADER_BEFORE..at + payload(30).len();
        corruption(&cluster, damaged, 30, 0);
        corruption(&cluster, damaged, 20, HEADER_BEFORE);
        corruption(&cluster, damaged, ENTRIES - 1, HEADER_BEFORE);
        cluster.start(damaged);
        whole(&cluster, damaged);
        shows(&cluster, damaged, ENTRIES);
        assert_eq!(
            fs::read(&path).unwrap()[record.clone()],
            before[record],
            "a record whose header was intact comes back bit for bit"
        );
        // With another one gone, the repaired node is needed for a majority.
        let other = cluster.others(damaged)[0];
        cluster.stop(other);
        for index in ENTRIES..2 * ENTRIES {
            assert_eq!(cluster.append(&payload(index)), index);
        }
        shows(&cluster, damaged, 2 * ENTRIES);
        cluster.start(other);
        cluster.agree();
        cluster.stop(damaged);
        let verified = dledger::tools::verify(cluster.dir(damaged)).unwrap();
        assert!(verified.corruption.is_empty(), "{:?}", verified.corruption);
    }
}

#[test]
fn a_damaged_member_that_reaches_no_peer_waits_and_can_be_read() {
    let cluster = filled_cluster(TransportKind::Memory);
    let damaged = cluster.leader();
    cluster.stop(damaged);
    corruption(&cluster, damaged, 30, HEADER_BEFORE);
    cluster.isolate(damaged);
    cluster.start(damaged);
    let ledger = cluster.node(damaged);
    let account = until("it says why", || {
        ledger.status().repair.filter(|account| account.contains("does not answer"))
    });
    for part in [
        "offset",
        "raft index",
        "no record can be read here",
        &cluster.dir(damaged).to_string_lossy(),
    ] {
        assert!(account.contains(part), "{part:?} is not in {account:?}");
    }
    thread::sleep(Duration::from_millis(300));
    let status = ledger.status();
    assert_eq!((status.role, status.leader, status.fault), (Role::Follower, None, None));
    assert!(matches!(ledger.append("more"), Err(AppendError::NotLeader { .. })));
    assert!(matches!(ledger.purge(10), Err(PurgeError::Failed { .. })));
    reads_all_but(&ledger, &[30]);
    // The others may change their leader meanwhile: where a machine is busy, impatient nodes do. So
    // each append asks who leads.
    for index in ENTRIES..2 * ENTRIES {
        assert_eq!(cluster.append(&payload(index)), index);
    }
    assert_eq!(ledger.status().term, status.term, "it has campaigned");
    assert_eq!(ledger.status().end_index, ENTRIES, "it takes no batches");
    cluster.heal();
    whole(&cluster, damaged);
    shows(&cluster, damaged, 2 * ENTRIES);
}

#[test]
fn members_that_lost_different_entries_mend_each_other() {
    let cluster = filled_cluster(TransportKind::Memory);
    (1..=3).for_each(|id| cluster.stop(id));
    for (id, index, before) in [
        (1, 5, 0),
        (1, ENTRIES - 1, HEADER_BEFORE),
        (2, 6, HEADER_BEFORE),
        (2, 5, 0),
        (3, 7, HEADER_BEFORE),
    ] {
        corruption(&cluster, id, index, before);
    }
    (1..=3).for_each(|id| cluster.start(id));
    (1..=3).for_each(|id| whole(&cluster, id));
    assert_eq!(cluster.append(&payload(ENTRIES)), ENTRIES);
    (1..=3).for_each(|id| shows(&cluster, id, ENTRIES + 1));
}

#[test]
fn what_no_peer_has_is_waited_for_and_never_guessed() {
    let cluster = filled_cluster(TransportKind::Memory);
    (1..=3).for_each(|id| cluster.stop(id));
    (1..=3).for_each(|id| corruption(&cluster, id, 12, 0));
    (1..=3).for_each(|id| cluster.start(id));
    for id in 1..=3 {
        let ledger = cluster.node(id);
        until("it says why", || {
            ledger
                .status()
                .repair
                .filter(|account| account.matches("is damaged there too").count() == 2)
        });
    }
    for id in 1..=3 {
        let ledger = cluster.node(id);
        reads_all_but(&ledger, &[12]);
        assert_eq!(ledger.status().role, Role::Follower);
        ledger.shutdown().unwrap();
    }
}

#[test]
fn damage_in_the_cold_part_is_mended_by_a_member_that_reads_everything() {
    let cluster = cluster_of(3)
        .on(Disk::Directory)
        .impatient()
        .with(|builder| builder.segment_bytes(64 << 10))
        .open();
    for index in 0..300 {
        assert_eq!(cluster.append(&payload(index)), index);
    }
    cluster.agree();
    let id = cluster.leader();
    cluster.stop(id);
    corruption(&cluster, id, 20, 0);
    corruption(&cluster, id, 21, HEADER_BEFORE);
    cluster.start_as(id, |builder| builder.verify_on_open(true));
    whole(&cluster, id);
    shows(&cluster, id, 300);
}

#[test]
fn a_member_that_lost_a_file_gets_it_back() {
    let cluster = cluster_of(3)
        .on(Disk::Directory)
        .impatient()
        .with(|builder| builder.segment_bytes(64 << 10))
        .open();
    for index in 0..300 {
        assert_eq!(cluster.append(&payload(index)), index);
    }
    cluster.agree();
    for lost in [0, 150, 299] {
        let id = cluster.leader();
        cluster.stop(id);
        fs::remove_file(find(&cluster.dir(id), lost).0).unwrap();
        cluster.start(id);
        whole(&cluster, id);
        shows(&cluster, id, 300);
    }
}
