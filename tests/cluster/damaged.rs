//! Nodes whose disks have changed what was synced: they say so, can be read, and take no part.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dledger::{AppendError, BarrierError, Builder, DLedger, PurgeError, ReadError, Role, ShutdownError, TransferError};

use crate::cluster_of::{Cluster, Disk, Wire, cluster_of};

const ENTRIES: u64 = 40;

fn payload(index: u64) -> Vec<u8> {
    format!("entry number {index:08} of many;").into_bytes().repeat(20)
}

/// The settings of the only node of a group, in `dir`.
fn one_in(dir: &Path) -> Builder {
    let ms = Duration::from_millis;
    DLedger::builder(1).dir(dir.join("node")).segment_bytes(64 << 10).heartbeat_interval(ms(20)).election_timeout(ms(100))
}

/// A closed directory with so many entries, each in a batch of its own.
fn filled(count: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let ledger = one_in(dir.path()).open().unwrap();
    (0..count).for_each(|index| assert_eq!(ledger.append(payload(index)).unwrap(), index));
    ledger.shutdown().unwrap();
    dir
}

/// The segment of a directory with this entry, the place of its payload, and whether the segment is sealed.
fn find(node: &Path, index: u64) -> (PathBuf, usize, bool) {
    let segments =
        fs::read_dir(node).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "seg"));
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

/// The header of a record lies in front of the payload, and the fixed part of the batch between them.
const HEADER_BEFORE: usize = 32 + 96;

#[track_caller]
fn takes_no_part(ledger: &DLedger) -> String {
    let status = ledger.status();
    assert_eq!((status.role, status.leader), (Role::Follower, None));
    let fault = status.fault.expect("the node says what is wrong with it");
    let refused = ledger.append("more").unwrap_err();
    assert!(!refused.may_have_committed());
    assert!(matches!(refused, AppendError::Failed { ref reason, .. } if *reason == fault), "{refused}");
    assert!(matches!(ledger.barrier(), Err(BarrierError::Failed { reason, .. }) if reason == fault));
    assert!(matches!(ledger.purge(10), Err(PurgeError::Failed { reason, .. }) if reason == fault));
    assert!(matches!(ledger.transfer_leadership(1), Err(TransferError::Failed { reason, .. }) if reason == fault));
    fault
}

/// Every entry reads as it was appended, but for those in `damaged`, which are typed errors.
#[track_caller]
fn reads_all_but(ledger: &DLedger, damaged: &[u64]) {
    let end = ledger.committed().end;
    for index in 0..end {
        match ledger.get(index) {
            Ok(entry) => assert!(!damaged.contains(&index) && *entry.unwrap() == *payload(index), "entry {index}"),
            Err(ReadError::Damaged { index: told, .. }) => assert!(told == index && damaged.contains(&index), "entry {index}"),
            Err(error) => panic!("entry {index}: {error}"),
        }
    }
    let first_bad = damaged.iter().copied().min().unwrap_or(end);
    let in_order: Vec<_> = ledger.read(0).collect();
    assert_eq!(in_order.iter().filter(|entry| entry.is_ok()).count() as u64, first_bad.min(end), "a cursor stops where the damage is");
}

#[test]
fn one_node_with_a_damaged_tail_opens_at_once_to_be_read() {
    let dir = filled(ENTRIES);
    let node = dir.path().join("node");
    for (index, before, name) in [(20, 0, "payload"), (21, HEADER_BEFORE, "header"), (0, HEADER_BEFORE, "first header")] {
        let (path, at, is_sealed) = find(&node, index);
        assert!(!is_sealed);
        let whole = fs::read(&path).unwrap();
        flip(&path, at - before);
        let began = Instant::now();
        let ledger = one_in(dir.path()).open().unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{name}: it waited for a leadership that cannot come");
        let fault = takes_no_part(&ledger);
        for part in [path.to_str().unwrap(), &format!("offset {}", at - HEADER_BEFORE), "raft index ", "restored from its peers"] {
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
    assert_eq!(ledger.append(payload(ENTRIES)).unwrap(), ENTRIES, "once the bytes are back, so is the node");
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
fn damage_in_a_sealed_segment_is_told_by_whoever_reads_it() {
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
    assert!(fault.contains("a file is missing") && fault.contains(node.to_str().unwrap()), "{fault}");
    assert_eq!(ledger.committed(), 0..400);
    // The entry in front of the gap was not yet known to be committed when it was written, so the lost segment may have replaced it.
    let unsure = lost[0] - 1;
    reads_all_but(&ledger, &[&[unsure], &lost[..]].concat());
}

fn damage(cluster: &Cluster, id: u64, index: u64, before: usize) {
    let (path, at, _) = find(&cluster.dir(id), index);
    flip(&path, at - before);
}

#[test]
fn a_damaged_member_stays_out_while_the_others_go_on() {
    for wire in [Wire::Memory, Wire::Tcp] {
        let cluster = cluster_of(3).over(wire).on(Disk::Directory).impatient().open();
        for index in 0..ENTRIES {
            assert_eq!(cluster.append(&payload(index)), index);
        }
        cluster.agree();
        let damaged = cluster.leader();
        cluster.stop(damaged);
        damage(&cluster, damaged, 30, HEADER_BEFORE);
        cluster.start(damaged);
        let fault = takes_no_part(&cluster.node(damaged));
        assert!(fault.contains("raft index"), "{fault}");
        let sound = cluster.others(damaged);
        let term = cluster.node(cluster.leader_among(&sound)).status().term;
        let ledger = cluster.node(cluster.leader_among(&sound));
        for index in ENTRIES..2 * ENTRIES {
            assert_eq!(ledger.append(payload(index)).unwrap(), index);
        }
        assert_eq!(ledger.status().term, term, "nobody disturbs the group");
        reads_all_but(&cluster.node(damaged), &[30]);
        assert_eq!(cluster.node(damaged).status().end_index, ENTRIES, "it takes no batches");
        // Two of three are a majority; with one more gone the damaged one must not make up for it.
        let other = sound.iter().copied().find(|id| *id != ledger.status().id.get()).unwrap();
        cluster.stop(other);
        assert!(cluster.node(damaged).status().fault.is_some());
        let refused = ledger.append("without a majority").unwrap_err();
        assert!(refused.may_have_committed() || matches!(refused, AppendError::NotLeader { .. }), "{refused}");
        cluster.start(other);
        cluster.leader_among(&sound);
        let _ = cluster.find(damaged).unwrap().shutdown();
    }
}
