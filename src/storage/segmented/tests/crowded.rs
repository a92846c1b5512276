//! How much of a log is mapped and held open, however long it is and whoever reads it; and what is left of
//! earlier lives.

use std::sync::Arc;

use super::super::maps::Maps;
use super::super::simulated::{Call, Failure, Fault, SimulatedDisk};
use super::*;
use crate::primitives::thread;

const MAPPED_MAX: usize = SMALL.mapped_segments_max;

/// A log of `count` segments, all sealed but the last, of an entry each.
fn of_segments(dir: &Path, count: usize) -> (DiskLog, Vec<Batch>) {
    let (mut log, _) = open(dir);
    let all = singles(&mut Mark::GENESIS.clone(), 1, count, SMALL.segment_bytes as usize / 2);
    for batch in &all {
        log.append(std::slice::from_ref(batch), batch.raft_index()).unwrap();
        sync(&mut log);
        run_chores(&mut log);
    }
    (log, all)
}

#[test]
fn no_more_is_mapped_than_is_allowed_and_every_entry_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (log, all) = of_segments(dir.path(), 30);
    assert_eq!(segments(dir.path()).len(), 30);
    let reader = log.reader();
    for round in 0..3 {
        for (index, batch) in (0..).zip(&all) {
            assert_eq!(reader.entry(index).unwrap(), batch.entry(index).unwrap(), "round {round}");
            assert!(log.maps.count() <= MAPPED_MAX);
        }
    }
    assert_eq!(log.maps.count(), MAPPED_MAX);
}

#[test]
fn threads_that_read_at_random_leave_no_more_mapped_than_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, all) = of_segments(dir.path(), 12);
    let all = Arc::new(all);
    let readers = (0..4u64).map(|seed| {
        let (reader, all) = (log.reader(), all.clone());
        thread::spawn(move || {
            let mut dice = seed;
            for _ in 0..2_000 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed + 1);
                let index = (dice >> 33) % 12;
                assert_eq!(reader.entry(index).unwrap(), all[index as usize].entry(index).unwrap());
            }
        })
    });
    readers.collect::<Vec<_>>().into_iter().for_each(|reader| reader.join().unwrap());
    assert!((1..=MAPPED_MAX).contains(&log.maps.count()), "{}", log.maps.count());
}

/// What is read all the time stays mapped while another reader goes through the whole log.
#[test]
fn what_is_read_again_and_again_stays_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = of_segments(dir.path(), 20);
    let (reader, live) = (log.reader(), log.live.load_full());
    let favourite = &live.stretches[0].segment;
    reader.entry(0).unwrap();
    let first = favourite.cached().expect("it was read just now");
    for index in 1..19 {
        reader.entry(index).unwrap();
        reader.entry(0).unwrap();
    }
    assert!(favourite.cached().is_some_and(|now| Arc::ptr_eq(&first, &now)));
}

#[test]
fn nothing_is_kept_of_a_map_that_could_not_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let (log, all) = of_segments(dir.path(), 4);
    let reader = log.reader();
    let name = dir.path().join(&segments(dir.path())[0]);
    let aside = dir.path().join("aside");
    std::fs::rename(&name, &aside).unwrap();
    assert!(matches!(reader.entry(0), Err(StorageError::Io { .. })));
    std::fs::rename(&aside, &name).unwrap();
    assert_eq!(reader.entry(0).unwrap(), all[0].entry(0).unwrap());
}

/// Nothing is synced and no chore run: the log makes durable and seals by itself what would be too much.
#[test]
fn full_segments_are_not_held_open_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut mark = Mark::GENESIS;
    let mut was_behind = false;
    for batch in singles(&mut mark, 1, 60, SMALL.segment_bytes as usize / 2) {
        log.append(std::slice::from_ref(&batch), batch.raft_index()).unwrap();
        was_behind |= log.is_behind();
        let unsealed = log.live.load().stretches.iter().filter(|stretch| !stretch.segment.is_sealed()).count();
        assert!(unsealed <= 8, "{unsealed} segments are held open");
    }
    assert!(was_behind, "it asks for a sync before it comes to that");
    assert_eq!(contents(&log).len(), 60);
    sync(&mut log);
    assert!(!log.is_behind());
}

#[test]
fn what_cannot_be_sealed_or_removed_is_tried_again() {
    let disk = SimulatedDisk::new(1);
    let mut log = DiskLog::on(disk.clone(), SMALL);
    log.open(&genesis()).unwrap();
    let mut mark = Mark::GENESIS;
    for batch in singles(&mut mark, 1, 20, SMALL.segment_bytes as usize / 2) {
        log.append(std::slice::from_ref(&batch), batch.raft_index()).unwrap();
        sync(&mut log);
        run_chores(&mut log);
    }
    log.purge(mark.next_index, mark.raft_index).unwrap();
    sync(&mut log);
    disk.plan(Fault { on: Call::Remove, after: 0, times: 5, then: Failure::Error(std::io::ErrorKind::Other) });
    run_chores(&mut log);
    let count = || disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")).count();
    assert!(count() > 5, "{} segments: some could not be removed", count());
    for _ in 0..20 {
        run_chores(&mut log);
    }
    assert!(count() <= 2, "{} segments are still there", count());
}

/// A failed sync leaves in memory, for readers to see, what the disk does not have.
#[test]
fn what_a_failed_sync_left_in_memory_is_written_again_however_much_it_is() {
    let options = SegmentOptions { segment_bytes: 8 << 20, ..SMALL };
    let disk = SimulatedDisk::new(1);
    let mut log = DiskLog::on(disk.clone(), options);
    log.open(&genesis()).unwrap();
    log.append(&singles(&mut Mark::GENESIS.clone(), 1, 30, 100_000), 1).unwrap();
    disk.plan(Fault { on: Call::Sync, after: 0, times: 1, then: Failure::Error(std::io::ErrorKind::Other) });
    assert!(log.begin_sync().wait().is_err());
    let disk = disk.kill();
    let mut log = DiskLog::on(disk.clone(), options);
    let found = log.open(&genesis()).unwrap().last;
    assert_eq!(found.raft_index, 31);
    sync(&mut log);
    let recovered = DiskLog::on(disk.crash_keeping_nothing(), options).open(&genesis()).unwrap();
    assert_eq!((recovered.last, recovered.damage), (found, Vec::new()));
}

/// As on Windows, where a file cannot be removed as long as somebody has it mapped.
#[test]
fn what_cannot_be_removed_for_long_is_removed_once_it_can_be() {
    let disk = SimulatedDisk::new(2);
    let mut log = DiskLog::on(disk.clone(), SMALL);
    log.open(&genesis()).unwrap();
    let mut mark = Mark::GENESIS;
    for batch in singles(&mut mark, 1, 8, SMALL.segment_bytes as usize / 2) {
        log.append(std::slice::from_ref(&batch), batch.raft_index()).unwrap();
        sync(&mut log);
        run_chores(&mut log);
    }
    let denied = Failure::Error(std::io::ErrorKind::PermissionDenied);
    disk.plan(Fault { on: Call::Remove, after: 0, times: u64::MAX, then: denied });
    log.purge(mark.next_index, mark.raft_index).unwrap();
    sync(&mut log);
    let count = || disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")).count();
    for _ in 0..30 {
        run_chores(&mut log);
    }
    let stuck = count();
    assert!(stuck > 2, "{stuck} segments: none of them could be removed");
    disk.spare(Call::Remove);
    for _ in 0..30 {
        run_chores(&mut log);
    }
    assert!(count() <= 2, "{} segments are still there, of {stuck}", count());
}

/// A process that is killed over and over before its chores have run.
#[test]
fn what_earlier_lives_left_goes_before_anything_new_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut mark = Mark::GENESIS;
    for batch in singles(&mut mark, 1, 4, 100) {
        log.append(std::slice::from_ref(&batch), batch.raft_index()).unwrap();
    }
    sync(&mut log);
    drop(log);
    let mut copy = killed(dir.path());
    for life in 0..20 {
        let (mut log, recovered) = open(copy.path());
        assert_eq!(recovered.last, mark);
        // A spare is made, and a file is left as if the life had ended while it was made.
        let chore = log.next_chore();
        chore.into_iter().for_each(|chore| chore());
        std::fs::write(copy.path().join(format!("{life:016x}-{:016x}{}", 9, spare::SPARE_SUFFIX)), [1; 9]).unwrap();
        std::fs::write(copy.path().join(format!("{life:016x}-{:016x}{}", 9, mend::MEND_SUFFIX)), [1; 9]).unwrap();
        let next = killed(copy.path());
        drop(log);
        copy = next;
        let names = std::fs::read_dir(copy.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left = names.filter(|name| {
            let name = name.to_string_lossy();
            name.ends_with(spare::SPARE_SUFFIX) || name.ends_with(mend::MEND_SUFFIX)
        });
        assert!(left.count() <= 4, "life {life}: more is left each time");
    }
}

/// A panic stands for the end of a process. A log that is open by then is closed on the way up, which writes what the dead process has not.
#[test]
fn a_process_that_ends_while_it_sweeps_writes_nothing_more() {
    let disk = SimulatedDisk::new(1);
    let (mut log, mut mark) = (DiskLog::on(disk.clone(), SMALL), Mark::GENESIS);
    log.open(&genesis()).unwrap();
    log.append(&singles(&mut mark, 1, 3, 100), 1).unwrap();
    sync(&mut log);
    run_chores(&mut log);
    let disk = disk.kill();
    disk.plan(Fault { on: Call::Remove, after: 0, times: 1, then: Failure::Panic });
    disk.trace();
    let open = || DiskLog::on(disk.clone(), SMALL).open(&genesis());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).is_err(), "there is something to sweep");
    let (changes, _) = disk.take_trace();
    assert_eq!(changes.last().map(|cut| cut.before), Some(Call::Remove));
}

#[test]
fn one_segment_at_least_is_mapped() {
    assert!(Maps::<RealDisk>::new(0).count() == 0);
    let dir = tempfile::tempdir().unwrap();
    drop(of_segments(dir.path(), 6));
    let options = SegmentOptions { mapped_segments_max: 0, ..SMALL };
    let mut log = DiskLog::new(dir.path(), options);
    log.open(&genesis()).unwrap();
    for index in 0..6 {
        log.reader().entry(index).unwrap().unwrap();
    }
    assert!(log.maps.count() <= 1);
}

/// Segments of the log that are held open, the one that takes records included.
fn unsealed<D: Disk>(log: &DiskLog<D>) -> usize {
    log.live.load().stretches.iter().filter(|stretch| !stretch.segment.is_sealed()).count()
}

/// A log on a simulated disk with as many full segments held open as may be. All of it is durable.
fn crowded() -> (SimulatedDisk, DiskLog<SimulatedDisk>, Mark) {
    let disk = SimulatedDisk::new(1);
    let mut log = DiskLog::on(disk.clone(), SMALL);
    log.open(&genesis()).unwrap();
    let mut mark = Mark::GENESIS;
    for batch in singles(&mut mark, 1, 8, SMALL.segment_bytes as usize / 2) {
        log.append(std::slice::from_ref(&batch), batch.raft_index()).unwrap();
        sync(&mut log);
    }
    assert_eq!(unsealed(&log), 8);
    (disk, log, mark)
}

/// An append of a segment of its own.
fn append_one(log: &mut DiskLog<SimulatedDisk>, mark: &Mark) -> Result<Mark, StorageError> {
    let mut after = *mark;
    let batch = singles(&mut after, 1, 1, SMALL.segment_bytes as usize / 2);
    log.append(&batch, mark.raft_index).map(|()| after)
}

fn write_fails_once(kind: std::io::ErrorKind) -> Fault {
    Fault { on: Call::Write, after: 0, times: 1, then: Failure::Error(kind) }
}

#[test]
fn an_append_waits_for_room_to_seal_and_gives_up_no_segment() {
    let (disk, mut log, mark) = crowded();
    disk.plan(write_fails_once(std::io::ErrorKind::StorageFull));
    let refused = append_one(&mut log, &mark);
    assert!(matches!(refused, Err(StorageError::Full { .. })), "{refused:?}");
    assert_eq!(log.reader().mark(mark.raft_index + 1).unwrap(), None);
    append_one(&mut log, &mark).unwrap();
    assert!(unsealed(&log) <= 2, "{} segments are held open", unsealed(&log));
}

#[test]
fn a_segment_that_cannot_be_sealed_at_all_stops_no_append() {
    let (disk, mut log, mut mark) = crowded();
    disk.plan(write_fails_once(std::io::ErrorKind::Other));
    for _ in 0..10 {
        mark = append_one(&mut log, &mark).unwrap();
    }
    sync(&mut log);
    for _ in 0..20 {
        run_chores(&mut log);
    }
    assert_eq!(unsealed(&log), 2, "it is read from memory, and is not tried again");
    drop(log);
    let mut log = DiskLog::on(disk.kill(), SMALL);
    let recovered = log.open(&genesis()).unwrap();
    assert_eq!((recovered.last, recovered.damage), (mark, Vec::new()));
}

#[test]
fn a_segment_that_found_no_room_to_be_sealed_is_sealed_later() {
    let (disk, mut log, _) = crowded();
    disk.plan(Fault { times: u64::MAX, ..write_fails_once(std::io::ErrorKind::StorageFull) });
    let writes = disk.count(Call::Write);
    run_chores(&mut log);
    assert!(disk.count(Call::Write) >= writes + 7, "each was tried");
    assert_eq!(unsealed(&log), 8);
    disk.spare(Call::Write);
    for _ in 0..20 {
        run_chores(&mut log);
    }
    assert_eq!(unsealed(&log), 1);
}

/// Where nothing can be removed, to try it over and over would keep a thread busy.
#[test]
fn what_failed_is_tried_again_now_and_then() {
    let (disk, mut log, mark) = crowded();
    run_chores(&mut log);
    log.purge(mark.next_index, mark.raft_index).unwrap();
    sync(&mut log);
    let denied = Failure::Error(std::io::ErrorKind::PermissionDenied);
    disk.plan(Fault { on: Call::Remove, after: 0, times: u64::MAX, then: denied });
    run_chores(&mut log);
    let mut tries = Vec::new();
    for call in 0..40 {
        let before = disk.count(Call::Remove);
        log.next_chore().into_iter().for_each(|chore| chore());
        if disk.count(Call::Remove) > before {
            tries.push(call);
        }
    }
    assert!((5..=10).contains(&tries.len()), "it was tried again at calls {tries:?}");
}
