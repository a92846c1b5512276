//! What nodes keep: by size, by age, and what a pin holds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dledger::{DLedger, NodeId, OpenError, ReadError, Retention, RetentionError};
use parking_lot::Mutex;

use crate::cluster_of::{Disk, cluster_of, until};

const KIB: u64 = 1 << 10;

fn open(dir: &Path, retention: Retention) -> DLedger {
    let builder = DLedger::builder(1).dir(dir).segment_bytes(64 * KIB).pin_bytes_max(u64::MAX);
    builder.retention(retention).open().expect("a node of its own opens")
}

/// The bytes of all segment files.
fn segment_bytes(dir: &Path) -> u64 {
    let files =
        std::fs::read_dir(dir).expect("it is there").map(|file| file.expect("it can be read"));
    files
        .filter(|file| file.file_name().to_string_lossy().ends_with(".seg"))
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}

#[test]
fn a_log_stays_as_short_as_it_may_be_and_its_newest_entries_can_be_read() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("log");
    let ledger = open(&dir, Retention::keep_all().max_bytes(512 * KIB));
    for _ in 0..400 {
        ledger.append([7; 8 << 10]).unwrap();
    }
    until("it is short", || (segment_bytes(&dir) <= 512 * KIB).then_some(()));
    let status = ledger.status();
    assert!(status.committed.start > 300 && status.committed.end == 400, "{status:?}");
    assert!(status.removed.bytes.segments > 20, "{:?}", status.removed);
    assert_eq!(status.removed.age.segments + status.removed.asked.segments, 0);
    let first = status.committed.start;
    assert!(ledger.get(first).unwrap().is_some() && ledger.get(399).unwrap().is_some());
    match ledger.get(first - 1) {
        Err(ReadError::Purged { first: told, .. }) => assert_eq!(told, first),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_quiet_log_forgets_by_age_and_goes_on_over_restarts() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("log");
    let age = Duration::from_millis(800);
    let mut ledger = open(&dir, Retention::keep_all().max_age(age));
    for round in 0..3 {
        let before = std::time::Instant::now();
        ledger.append(b"early").unwrap();
        ledger.append(b"late").unwrap();
        assert_eq!(ledger.committed(), 2 * round..2 * round + 2);
        until("it has forgotten", || ledger.committed().is_empty().then_some(()));
        assert!(before.elapsed() >= age, "it forgot early: {:?}", before.elapsed());
        assert!(matches!(ledger.get(2 * round), Err(ReadError::Purged { first, .. })
            if first == 2 * round + 2));
        if round == 1 {
            ledger.shutdown().unwrap();
            ledger = open(&dir, Retention::keep_all().max_age(age));
        }
    }
    assert!(ledger.status().removed.age.segments > 0);
    // Without a limit it keeps.
    ledger.set_retention(Retention::keep_all()).unwrap();
    ledger.append(b"kept").unwrap();
    thread::sleep(2 * age);
    assert_eq!(ledger.committed(), 6..7);
}

#[test]
fn a_consumer_that_reads_through_a_pin_is_never_overtaken() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("log");
    let ledger = open(&dir, Retention::keep_all().max_bytes(1));
    let pin = ledger.pin(0).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let consumer = {
        let (ledger, is_done) = (ledger.clone(), is_done.clone());
        thread::spawn(move || {
            while !is_done.load(Ordering::Acquire) || pin.index() < ledger.committed().end {
                let index = pin.index();
                match ledger.get(index).expect("it is pinned") {
                    Some(entry) => {
                        assert_eq!(&entry[..8], &index.to_le_bytes());
                        pin.advance(index + 1);
                    }
                    None => thread::sleep(Duration::from_micros(200)),
                }
            }
            assert!(!pin.is_released());
        })
    };
    for index in 0..400_u64 {
        let payload = [&index.to_le_bytes()[..], &[1; 8 << 10]].concat();
        assert_eq!(ledger.append(payload).unwrap(), index);
        if index % 50 == 0 {
            ledger.purge(u64::MAX).unwrap();
        }
    }
    is_done.store(true, Ordering::Release);
    consumer.join().unwrap();
    until("what was held is gone", || (ledger.committed().start > 350).then_some(()));
    assert!(matches!(ledger.pin(0), Err(ReadError::Purged { index: 0, .. })));
}

#[test]
fn pins_that_hold_back_too_much_are_released_and_say_so() {
    let home = tempfile::tempdir().unwrap();
    let builder = DLedger::builder(1).dir(home.path().join("log")).segment_bytes(64 * KIB);
    let ledger = builder.pin_bytes_max(300 * KIB).open().unwrap();
    let (far, near) = (ledger.pin(0).unwrap(), ledger.pin(150).unwrap());
    for _ in 0..200 {
        ledger.append([7; 8 << 10]).unwrap();
    }
    assert_eq!(ledger.purge(10).unwrap(), 0, "within the bound");
    assert!(!far.is_released());
    let kept = ledger.purge(170).unwrap();
    assert!(far.is_released() && !near.is_released());
    assert!((1..=150).contains(&kept), "{kept}");
    assert!(ledger.get(150).unwrap().is_some());
    drop(near);
    assert!(ledger.purge(170).unwrap() > 150);
}

#[test]
fn a_follower_that_fell_behind_is_moved_forward_and_its_host_is_told() {
    let told: Arc<Mutex<Vec<u64>>> = Arc::default();
    let telling = told.clone();
    let plan = cluster_of(3).on(Disk::Directory).with(move |builder| {
        let told = telling.clone();
        builder
            .segment_bytes(64 << 10)
            .retention(Retention::keep_all().max_bytes(200 << 10))
            .on_moved(move |first| told.lock().push(first))
    });
    let cluster = plan.open();
    let leader = cluster.leader();
    let late = cluster.others(leader)[0];
    cluster.append(b"first");
    cluster.stop(late);
    for _ in 0..100 {
        cluster.append(&[7; 8 << 10]);
    }
    let start = until("its leader has forgotten", || {
        Some(cluster.node(leader).committed().start).filter(|start| *start > 50)
    });
    assert_eq!(told.lock().len(), 0, "what a node removes itself is no move");
    cluster.start(late);
    let first = until("it is told", || told.lock().first().copied());
    assert!(first >= start, "{first}, {start}");
    until("it has come", || (cluster.node(late).committed().end == 101).then_some(()));
    match cluster.node(late).get(0) {
        Err(ReadError::Purged { first: kept, .. }) => assert!(kept >= first),
        other => panic!("{other:?}"),
    }
}

#[test]
fn limits_that_make_no_sense_are_refused_and_change_nothing() {
    let home = tempfile::tempdir().unwrap();
    let builder = DLedger::builder(NodeId::from(1)).dir(home.path().join("log"));
    let senseless = Retention::keep_all().disk_used(1.5);
    let refused = builder.clone().retention(senseless).open();
    assert!(matches!(refused, Err(OpenError::Setting { setting: "retention", .. })));
    let ledger = builder.open().unwrap();
    let refused = ledger.set_retention(senseless).unwrap_err();
    assert!(matches!(&refused, RetentionError::Setting { .. }));
    assert_eq!(refused.to_string(), "Retention::disk_used: a part of the disk is between 0 and 1");
    ledger.shutdown().unwrap();
    let stopped = ledger.set_retention(Retention::keep_all());
    assert!(matches!(stopped, Err(RetentionError::Stopped)));
    assert!(matches!(ledger.pin(0), Err(ReadError::Stopped)));
}
