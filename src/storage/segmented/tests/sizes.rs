//! The lengths of segment files: the first one is short, and each is at most twice as long as the
//! one before.

use std::os::unix::fs::MetadataExt;

use super::super::spare::SPARE_SUFFIX;
use super::*;

const KIB: u64 = 1 << 10;

/// Segments of 8 KiB to 64 KiB.
const GROWING: SegmentOptions = SegmentOptions { segment_bytes: 64 * KIB, ..SMALL };

fn open_growing(dir: &Path) -> DiskLog {
    let mut log = DiskLog::new(dir, GROWING);
    log.open(&owner()).unwrap();
    log
}

fn append(log: &mut DiskLog, batches: &[Batch]) {
    for batch in batches {
        log.append(std::slice::from_ref(batch), batch.raft_index()).unwrap();
        sync(log);
        run_background_tasks(log);
    }
}

/// The lengths of the segments in KiB, in order.
fn lengths(dir: &Path) -> Vec<u64> {
    let length = |name: &String| std::fs::metadata(dir.join(name)).unwrap().len() / KIB;
    segments(dir).iter().map(length).collect()
}

/// The lengths of the spares in KiB.
fn spares(dir: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let spares =
        entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(SPARE_SUFFIX));
    spares.map(|entry| entry.metadata().unwrap().len() / KIB).collect()
}

/// What files in `dir` take on the disk, in bytes.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| entry.metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn each_segment_is_twice_as_long_as_the_one_before_up_to_the_full_length() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_growing(dir.path());
    append(&mut log, &singles(&mut LogPoint::INITIAL.clone(), 1, 90, 2_000));
    assert_eq!(lengths(dir.path()), [8, 16, 32, 64, 64, 64]);
}

#[test]
fn they_grow_as_well_where_no_background_task_runs_and_within_one_append() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_growing(dir.path());
    log.append(&singles(&mut LogPoint::INITIAL.clone(), 1, 90, 2_000), 1).unwrap();
    assert_eq!(lengths(dir.path()), [8, 16, 32, 64, 64, 64]);
}

#[test]
fn a_log_that_is_opened_again_purged_or_cut_does_not_begin_with_short_segments_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_growing(dir.path());
    let mut point = LogPoint::INITIAL;
    append(&mut log, &singles(&mut point, 1, 16, 2_000));
    assert_eq!(lengths(dir.path()), [8, 16, 32]);
    drop(log);

    // Bytes behind the last record: the segment cannot be continued.
    let last = dir.path().join(segments(dir.path()).last().unwrap());
    let mut bytes = std::fs::read(&last).unwrap();
    *bytes.last_mut().unwrap() = 1;
    std::fs::write(&last, bytes).unwrap();
    let mut log = open_growing(dir.path());
    run_background_tasks(&mut log);
    assert_eq!(spares(dir.path()), [64]);
    append(&mut log, &singles(&mut point, 1, 1, 100));
    assert_eq!(lengths(dir.path()), [8, 16, 32, 64]);

    log.purge(point.next_index, point.raft_index).unwrap();
    sync(&mut log);
    run_background_tasks(&mut log);
    assert_eq!(lengths(dir.path()), [64]);
    let mut before = log.reader().base().point;
    log.append(&singles(&mut before, 2, 1, 100), 1).unwrap();
    assert_eq!(lengths(dir.path()), [64, 64]);

    log.reset(&log.reader().base()).unwrap();
    sync(&mut log);
    run_background_tasks(&mut log);
    let mut base = log.reader().base().point;
    append(&mut log, &singles(&mut base, 2, 1, 100));
    assert_eq!(lengths(dir.path()), [64]);
}

#[test]
fn a_spare_that_is_too_short_for_what_came_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_growing(dir.path());
    run_background_tasks(&mut log);
    assert_eq!(spares(dir.path()), [8]);
    let mut point = LogPoint::INITIAL;
    append(&mut log, &singles(&mut point, 1, 1, 20_000));
    assert_eq!(lengths(dir.path())[0], 24_364 / KIB, "a segment of the batch's own length");
    append(&mut log, &singles(&mut point, 1, 1, 4_000));
    run_background_tasks(&mut log);
    assert!(spares(dir.path()).iter().all(|&kib| kib > 8), "{:?}", spares(dir.path()));
    assert!(spares(dir.path()).len() <= 1, "{:?}", spares(dir.path()));
}

#[test]
fn a_purged_segment_is_recycled_only_if_it_has_the_length_of_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_growing(dir.path());
    let mut point = LogPoint::INITIAL;
    append(&mut log, &singles(&mut point, 1, 34, 2_000));
    assert_eq!(lengths(dir.path()), [8, 16, 32, 64]);
    log.purge(point.next_index, point.raft_index).unwrap();
    sync(&mut log);
    run_background_tasks(&mut log);
    assert_eq!(lengths(dir.path()), [64]);
    assert!(spares(dir.path()).iter().all(|&kib| kib == 64), "{:?}", spares(dir.path()));
}

/// Thousands of groups may be idle in one process.
#[test]
fn a_log_of_one_entry_takes_less_than_300_kib() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let mut log = DiskLog::new(dir.path(), SegmentOptions::default());
        let last = log.open(&owner()).unwrap().last;
        run_background_tasks(&mut log);
        append(&mut log, &singles(&mut last.clone(), 1, 1, 100));
        run_background_tasks(&mut log);
        let taken = disk_bytes(dir.path()) + std::fs::metadata(dir.path()).unwrap().blocks() * 512;
        assert!(taken < 300 * KIB, "{taken} bytes");
        assert!(taken > 128 * KIB, "{taken} bytes: blocks are set aside");
    }
}
