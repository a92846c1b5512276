//! Ages and sizes of segments, and logs whose last segment was closed.

use std::time::Duration;

use super::super::testing::simulated_disk::SimulatedDisk;
use super::*;
use crate::storage::SegmentInfo;

const HOUR: Duration = Duration::from_secs(3600);
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

fn append<D: Disk>(log: &mut DiskLog<D>, point: &mut LogPoint, count: usize, bytes: usize) {
    let batches = singles(point, 2, count, bytes);
    log.append(&batches, point.raft_index).unwrap();
    sync(log);
    run_background_tasks(log);
}

fn oldest(log: &DiskLog) -> SegmentInfo {
    log.segments()[0]
}

#[test]
fn segments_are_told_without_a_gap_with_the_length_of_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    assert_eq!(log.segments(), []);
    let mut point = LogPoint::INITIAL;
    for count in [1, 3, 40] {
        append(&mut log, &mut point, count, 900);
    }
    let check = |log: &DiskLog, closed: bool| {
        let told = log.segments();
        assert!(told.len() > 3);
        let (first, last) = (told[0], *told.last().unwrap());
        assert_eq!((first.first_index, first.first_raft_index), (0, 2));
        assert_eq!(
            (last.end_index, last.last_raft_index, last.is_closed),
            (point.next_index, point.raft_index, closed)
        );
        for pair in told.windows(2) {
            assert_eq!(pair[0].end_index, pair[1].first_index);
            assert_eq!(pair[0].last_raft_index + 1, pair[1].first_raft_index);
            assert!(pair[0].is_closed);
        }
        let bytes: u64 = told.iter().map(|one| one.bytes).sum();
        let names = segments(dir.path());
        let sizes = names.iter().map(|name| dir.path().join(name).metadata().unwrap().len());
        assert_eq!(bytes, sizes.sum::<u64>());
    };
    check(&log, false);
    drop(log);
    let (mut log, _) = open(dir.path());
    check(&log, false);
    log.close_segment().unwrap();
    check(&log, true);
}

#[test]
fn age_is_the_time_for_which_the_log_was_open_and_no_wall_clock_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut point = LogPoint::INITIAL;
    let (mut log, _) = open(dir.path());
    log.pass_time(HOUR, 50 * YEAR_MS);
    append(&mut log, &mut point, 20, 900);
    assert_eq!(oldest(&log).age, Duration::ZERO);
    log.pass_time(3 * HOUR, 2 * YEAR_MS);
    assert_eq!(oldest(&log).age, 2 * HOUR);
    drop(log);
    // Years pass while it is closed, or the clock says so.
    for unix_ms in [90 * YEAR_MS, 0] {
        let (mut log, _) = open(dir.path());
        let before = oldest(&log).age;
        log.pass_time(HOUR, unix_ms);
        assert_eq!(oldest(&log).age, before + HOUR);
    }
    let (log, _) = open(dir.path());
    assert_eq!(oldest(&log).age, 4 * HOUR);
}

#[test]
fn a_killed_process_forgets_only_what_passed_since_its_last_seal() {
    let dir = tempfile::tempdir().unwrap();
    let mut point = LogPoint::INITIAL;
    let (mut log, _) = open(dir.path());
    append(&mut log, &mut point, 20, 900);
    log.pass_time(5 * HOUR, 0);
    append(&mut log, &mut point, 20, 900);
    log.pass_time(7 * HOUR, 0);
    assert_eq!(oldest(&log).age, 7 * HOUR);
    let copy = killed(dir.path());
    let (log, _) = open(copy.path());
    assert_eq!(oldest(&log).age, 5 * HOUR);
}

#[test]
fn an_active_segment_is_as_old_as_its_first_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut point = LogPoint::INITIAL;
    let (mut log, _) = open(dir.path());
    log.pass_time(HOUR, 0);
    append(&mut log, &mut point, 1, 100);
    log.pass_time(2 * HOUR, 0);
    append(&mut log, &mut point, 1, 100);
    assert_eq!((oldest(&log).age, oldest(&log).is_closed), (HOUR, false));
    log.close_segment().unwrap();
    assert_eq!((oldest(&log).age, oldest(&log).is_closed), (Duration::ZERO, true));
    log.close_segment().unwrap();
    assert_eq!(log.segments().len(), 1, "an empty one is not closed");
}

#[test]
fn a_closed_log_is_purged_to_its_end_and_goes_on_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut point = LogPoint::INITIAL;
    let (mut log, _) = open(dir.path());
    append(&mut log, &mut point, 30, 900);
    let end = point;
    log.purge(u64::MAX, end.raft_index).unwrap();
    assert_ne!(log.reader().base().point, end, "not the active segment");
    log.close_segment().unwrap();
    for (index, commit) in [(end.next_index - 1, end.raft_index), (u64::MAX, end.raft_index - 1)] {
        log.purge(index, commit).unwrap();
        assert_ne!(log.reader().base().point, end, "purge({index}, {commit})");
    }
    log.purge(end.next_index, end.raft_index).unwrap();
    assert_eq!((log.reader().base().point, log.segments()), (end, vec![]));
    sync(&mut log);
    run_background_tasks(&mut log);
    assert_eq!(segments(dir.path()), [""; 0]);
    drop(log);
    let (mut log, recovered) = open(dir.path());
    assert_eq!((recovered.base.point, recovered.last), (end, end));
    append(&mut log, &mut point, 2, 100);
    assert_eq!(contents(&log).len(), 2);
    drop(log);
    let (_, recovered) = open(dir.path());
    assert_eq!((recovered.base.point, recovered.last), (end, point));
}

#[test]
fn what_is_not_durable_is_not_purged_though_its_segment_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut point = LogPoint::INITIAL;
    let (mut log, _) = open(dir.path());
    let batches = singles(&mut point, 2, 3, 100);
    log.append(&batches, point.raft_index).unwrap();
    log.close_segment().unwrap();
    log.purge(u64::MAX, point.raft_index).unwrap();
    assert_eq!(log.reader().base().point, LogPoint::INITIAL);
    sync(&mut log);
    log.purge(u64::MAX, point.raft_index).unwrap();
    assert_eq!(log.reader().base().point, point);
}

#[test]
fn a_quiet_log_whose_segments_are_closed_for_their_age_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let options = SegmentOptions { segment_bytes: 1 << 20, ..SMALL };
    let mut log = DiskLog::new(dir.path(), options);
    log.open(&owner()).unwrap();
    let mut point = LogPoint::INITIAL;
    for _ in 0..8 {
        append(&mut log, &mut point, 1, 100);
        log.close_segment().unwrap();
    }
    assert!(log.segments().iter().all(|one| one.bytes == 8 << 10), "{:?}", log.segments());
}

/// Of others: one cannot clean up when the disk is nearly full, as cleaning writes.
#[test]
fn a_purge_needs_no_room() {
    let disk = SimulatedDisk::new(7);
    let mut log = DiskLog::on(disk.clone(), SMALL);
    log.open(&owner()).unwrap();
    let mut point = LogPoint::INITIAL;
    append(&mut log, &mut point, 60, 900);
    disk.set_room(Some(disk.taken()));
    assert_eq!(log.disk_probe().unwrap()().unwrap().free, 0);
    let more = singles(&mut point.clone(), 2, 60, 900);
    let full = log.append(&more, point.raft_index);
    assert!(matches!(full, Err(StorageError::Full { .. })), "{full:?}");
    log.close_segment().unwrap();
    log.purge(u64::MAX, point.raft_index).unwrap();
    sync(&mut log);
    run_background_tasks(&mut log);
    assert_eq!(log.reader().base().point, point);
    assert!(log.disk_probe().unwrap()().unwrap().free > 0);
    append(&mut log, &mut point, 5, 900);
}
