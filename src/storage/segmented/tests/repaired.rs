//! Repair of a corrupt log, from the batches that it lost.

use super::super::rewrite::REWRITE_SUFFIX;
use super::super::testing::simulated_disk::SimulatedDisk;
use super::corrupt::{check_reads, closed, files, open_damaged};
use super::new_base::begins_behind;
use super::*;

/// Repairs the log, `window` batches at a time. Returns the number of steps.
pub(super) fn repair(
    log: &mut DiskLog,
    recovered: &mut Recovered,
    all: &[Batch],
    window: usize,
) -> usize {
    let mut steps = 0;
    *recovered = log.repair(RepairAction::Fill(&[])).unwrap();
    while let Some(first) =
        recovered.corruption.iter().find(|corruption| !corruption.raft_indexes.is_empty())
    {
        let from = (first.raft_indexes.start - 2) as usize;
        let some = &all[from..all.len().min(from + window)];
        *recovered = log
            .repair(RepairAction::Fill(some))
            .unwrap_or_else(|error| panic!("{some:?}: {error}; {:?}", recovered.corruption));
        steps += 1;
        assert!(steps < 200, "it gets no better: {:?}", recovered.corruption);
    }
    steps
}

/// The log in `dir` is corrupt; after repair it holds `all`, accepts appends, and is intact at the
/// next opening.
#[track_caller]
pub(super) fn is_made_whole(dir: &Path, all: &[Batch], window: usize) -> usize {
    let (mut log, mut recovered) = open_damaged(dir);
    let incarnation = recovered.identity.incarnation;
    let reader = log.reader();
    let steps = repair(&mut log, &mut recovered, all, window);
    assert_eq!(check_reads(&log, all), [0; 0]);
    assert_eq!(reader.batches(2, 3, 0).unwrap(), all[..1], "readers of before go on");
    assert_eq!(
        (recovered.last.raft_index, recovered.identity.incarnation),
        (all.len() as u64 + 1, incarnation)
    );
    let mut last = recovered.last;
    let more = singles(&mut last, 9, 3, 4000);
    log.append(&more, 3).unwrap();
    sync(&mut log);
    run_background_tasks(&mut log);
    drop(log);
    let (log, again) = open(dir);
    assert_eq!((&again.corruption[..], again.last), (&[][..], last));
    assert_eq!(contents(&log), [all, &more].concat());
    let verify_on_open = {
        drop(log);
        tools::verify(dir).unwrap()
    };
    assert!(verify_on_open.corruption.is_empty(), "{:?}", verify_on_open.corruption);
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(REWRITE_SUFFIX)).count(), 0);
    steps
}

#[test]
fn the_commit_of_a_log_with_cold_damage_lies_where_its_point_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let all = singles(&mut LogPoint::INITIAL.clone(), 1, 20, 300);
    for batch in &all {
        log.append(std::slice::from_ref(batch), 1).unwrap();
    }
    sync(&mut log);
    run_background_tasks(&mut log);
    // In the middle of a sealed segment: the last log point of a segment is in its seal.
    log.save_hard_state(HardState { term: 1, vote: None, commit: 4 }).unwrap();
    drop(log);
    let path = dir.path().join(&segments(dir.path())[0]);
    let whole = std::fs::read(&path).unwrap();
    for (record, commit) in [(2, 3), (1, 2), (0, 1)] {
        let body = all[record].body();
        let at = whole
            .windows(body.len())
            .position(|window| window == *body)
            .expect("it is in the first segment");
        // Within the header of its record.
        flip(&path, at - 76, 4);
        let (log, recovered) = open_verified(dir.path());
        assert_eq!((recovered.corruption.len(), recovered.hard_state.commit), (3 - record, commit));
        assert!(log.reader().point(commit).is_ok());
    }
}

#[test]
fn any_damaged_record_of_the_tail_is_mended() {
    let (dir, all) = closed(4, 40, 1, false);
    let name = segments(dir.path())[0].clone();
    for at in (4096..4096 + 4 * 176).step_by(13) {
        for window in [1, 4] {
            let copy = killed(dir.path());
            let whole = files(copy.path());
            flip(&copy.path().join(&name), at, 1 << (at % 8));
            let (mut log, mut recovered) = open_damaged(copy.path());
            repair(&mut log, &mut recovered, &all, window);
            let body_was_hit = (at - 4096) % 176 >= 96 + 32;
            assert!(
                !body_was_hit || whole == files(copy.path()),
                "byte {at}: a record whose header was intact comes back to the last bit"
            );
            drop(log);
            flip(&copy.path().join(&name), at, 1 << (at % 8));
            is_made_whole(copy.path(), &all, window);
        }
    }
}

#[test]
fn many_places_are_mended_one_after_the_other_or_at_once() {
    for hits in
        [&[0, 3, 4, 7, 9][..], &[11], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], &[10, 11], &[0, 11]]
    {
        for (window, byte) in [(1, 20), (3, 20), (12, 20), (1, 130), (12, 150), (5, 8)] {
            let (dir, all) = closed(12, 40, 1, false);
            let path = dir.path().join(&segments(dir.path())[0]);
            hits.iter().for_each(|record| flip(&path, 4096 + record * 176 + byte, 0x40));
            is_made_whole(dir.path(), &all, window);
        }
    }
}

#[test]
fn lost_and_emptied_files_are_made_anew() {
    for sealed in [false, true] {
        let (dir, all) = closed(60, 300, 5, sealed);
        for name in segments(dir.path()) {
            for window in [1, 60] {
                for contents in [None, Some(vec![]), Some(vec![0xA5; 8192])] {
                    let copy = killed(dir.path());
                    match &contents {
                        None => std::fs::remove_file(copy.path().join(&name)).unwrap(),
                        Some(bytes) => std::fs::write(copy.path().join(&name), bytes).unwrap(),
                    }
                    is_made_whole(copy.path(), &all, window);
                }
            }
        }
    }
}

/// Regression, found by simulation: nothing is readable in such a file, but its name says where it
/// begins. It was taken for a missing one that may have truncated the log anywhere, so what the
/// file before it held was dropped, and could not be assigned to a file.
#[test]
fn files_that_are_empty_behind_their_heads_have_cut_nothing_off() {
    let (dir, all) = closed(60, 300, 5, false);
    let names = segments(dir.path());
    for emptied in names[1..names.len() - 1].windows(2) {
        for count in [1, 2] {
            let copy = killed(dir.path());
            for name in &emptied[..count] {
                let path = copy.path().join(name);
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[format::RECORDS_AT as usize..].fill(0);
                std::fs::write(&path, bytes).unwrap();
            }
            is_made_whole(copy.path(), &all, 60);
        }
    }
}

/// What follows a lost file may be evidence for that file only, though the next one was lost with
/// it: then all of it comes back in one.
#[test]
fn several_files_in_a_row_can_be_lost() {
    for chunk in [5, 14, 25] {
        let (dir, all) = closed(60, 300, chunk, false);
        let names = segments(dir.path());
        for lost in [0..2, 1..3, 1..4, 2..5] {
            for window in [4, 60] {
                let copy = killed(dir.path());
                names[lost.clone()]
                    .iter()
                    .for_each(|name| std::fs::remove_file(copy.path().join(name)).unwrap());
                is_made_whole(copy.path(), &all, window);
            }
        }
    }
}

#[test]
fn all_files_can_be_lost() {
    for sealed in [false, true] {
        for kept in 0..2 {
            let (dir, all) = closed(60, 300, 5, sealed);
            segments(dir.path())
                .iter()
                .skip(kept)
                .for_each(|name| std::fs::remove_file(dir.path().join(name)).unwrap());
            is_made_whole(dir.path(), &all, 9);
        }
    }
}

/// Opens a log with `verify_on_open`.
pub(super) fn open_verified(dir: &Path) -> (DiskLog, Recovered) {
    let mut log = DiskLog::new(dir, SegmentOptions { verify_on_open: true, ..SMALL });
    let recovered = log.open(&owner()).unwrap();
    (log, recovered)
}

#[test]
fn damage_in_sealed_segments_is_found_by_reading_everything_and_mended_bit_for_bit() {
    let (dir, all) = closed(60, 300, 60, true);
    let names = segments(dir.path());
    let whole = files(dir.path());
    let place = |index: usize| {
        let body = all[index].body();
        let find = |name: &String| {
            let bytes = std::fs::read(dir.path().join(name)).unwrap();
            Some((name.clone(), bytes.windows(body.len()).position(|window| window == *body)?))
        };
        names.iter().find_map(find).unwrap()
    };
    for (hits, before) in [
        (&[3][..], 76),
        (&[3, 4, 5], 76),
        (&[0, 7, 30], 0),
        (&[1, 2, 20, 21, 40], 90),
        (&[3, 25], -40),
    ] {
        for window in [1, 60] {
            let copy = killed(dir.path());
            for hit in hits {
                let (name, at) = place(*hit);
                flip(&copy.path().join(name), (at as i64 - before) as usize, 4);
            }
            assert!(open(copy.path()).1.corruption.is_empty(), "opening alone does not read it");
            let (mut log, mut recovered) = open_verified(copy.path());
            let reported: Vec<u64> = recovered
                .corruption
                .iter()
                .map(|corruption| corruption.raft_indexes.start - 2)
                .collect();
            assert_eq!(reported, hits.iter().map(|hit| *hit as u64).collect::<Vec<_>>());
            assert!(
                recovered.corruption.iter().all(|corruption| corruption.chain.is_some()),
                "the footer knows them"
            );
            repair(&mut log, &mut recovered, &all, window);
            assert_eq!(check_reads(&log, &all), [0; 0]);
            drop(log);
            assert_eq!(tools::verify(copy.path()).unwrap().corruption, []);
            // Two numbers of a lost header are unknown.
            let header_was_lost = before >= 0;
            assert!(header_was_lost || whole == files(copy.path()), "{hits:?}");
        }
    }
}

#[test]
fn a_lost_header_is_restored_without_batches_of_peers() {
    let (dir, all) = closed(40, 300, 1, false);
    for name in segments(dir.path()) {
        let whole = files(dir.path());
        flip(&dir.path().join(&name), 5, 1);
        let (mut log, _) = open_damaged(dir.path());
        assert_eq!(log.repair(RepairAction::Fill(&[])).unwrap().corruption, []);
        assert!(whole == files(dir.path()));
        assert_eq!(check_reads(&log, &all), [0; 0]);
    }
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let (dir, all) = closed(12, 40, 1, false);
    let path = dir.path().join(&segments(dir.path())[0]);
    flip(&path, 4096 + 5 * 176 + 20, 1);
    flip(&path, 4096 + 9 * 176 + 150, 1);
    let before = files(dir.path());
    let (mut log, recovered) = open_damaged(dir.path());
    let point = |raft_index: u64| log.reader().point(raft_index).unwrap().unwrap();
    let (five, nine) = (point(6), point(10));
    let others = |mut point: LogPoint, term, bytes| singles(&mut point, term, 1, bytes);
    let flipped = |batch: &Batch| {
        let mut body = batch.body().to_vec();
        body[40] ^= 1;
        Batch::new(batch.raft_index(), batch.term(), body.into()).unwrap()
    };
    let wrong = [
        (
            "another batch of the same size",
            others(five, 1, 40).into_iter().map(|batch| flip_payload(&batch)).collect(),
        ),
        ("another length", others(five, 1, 48)),
        ("another term", others(five, 2, 40)),
        ("a batch with a flipped bit", vec![flipped(&all[5])]),
        ("a gap", vec![all[5].clone(), all[7].clone()]),
        (
            "what the header knows better",
            [&all[5..9], &[flip_payload(&others(nine, 1, 40)[0])][..]].concat(),
        ),
    ];
    for (name, batches) in wrong {
        let refused = log.repair(RepairAction::Fill(&batches));
        let is_partly_right = batches.first() == Some(&all[5]);
        assert!(matches!(refused, Err(StorageError::NotContiguous(_))), "{name}: {refused:?}");
        assert!(is_partly_right || before == files(dir.path()), "{name}");
    }
    let refused = log.append(&singles(&mut recovered.last.clone(), 3, 1, 1), 1).unwrap_err();
    assert!(matches!(refused, StorageError::Corrupt { .. }));
    drop(log);
    is_made_whole(dir.path(), &all, 1);
    let (mut log, _) = open(dir.path());
    assert!(
        matches!(log.repair(RepairAction::Fill(&all)), Err(StorageError::InvalidState(_))),
        "an intact log needs no repair"
    );
}

/// The same batch with another payload, and its checksum.
fn flip_payload(batch: &Batch) -> Batch {
    let (index, entry) =
        (batch.first_index().unwrap(), batch.entry(batch.first_index().unwrap()).unwrap().unwrap());
    let payload: Vec<u8> = entry.iter().map(|byte| byte ^ 0xFF).collect();
    let mut open = OpenBatch::with_capacity(0);
    open.push(&payload, crc32fast::hash(&payload));
    Batch::new(
        batch.raft_index(),
        batch.term(),
        open.close(index, entry.position(), entry.timestamp()),
    )
    .unwrap()
}

#[test]
fn what_was_never_committed_is_replaced() {
    for (hit, from) in [(5, 5), (5, 3), (11, 11), (11, 2), (0, 0)] {
        let (dir, all) = closed(12, 40, 1, false);
        let path = dir.path().join(&segments(dir.path())[0]);
        flip(&path, 4096 + hit * 176 + 20, 1);
        let (mut log, _) = open_damaged(dir.path());
        let mut point = log.reader().point(from as u64 + 1).unwrap().unwrap();
        let new = singles(&mut point, 2, 4, 50);
        let recovered = log.repair(RepairAction::Replace(&new)).unwrap();
        assert_eq!((&recovered.corruption[..], recovered.last), (&[][..], point));
        // It is durable, so corruption at its end is never taken for a torn write.
        let copy = killed(dir.path());
        flip(&copy.path().join(segments(copy.path()).last().unwrap()), 4096 + 3 * 192 + 20, 1);
        assert!(open_damaged(copy.path()).1.corruption[0].raft_indexes.contains(&point.raft_index));
        let expected = [&all[..from], &new].concat();
        assert_eq!(contents(&log), expected);
        let more = singles(&mut point, 3, 40, 300);
        log.append(&more, 3).unwrap();
        sync(&mut log);
        run_background_tasks(&mut log);
        drop(log);
        let (log, again) = open(dir.path());
        assert_eq!((&again.corruption[..], again.last), (&[][..], point));
        assert_eq!(contents(&log), [expected, more].concat());
    }
}

/// Regression, seeds 500027 and 505013: a node stayed corrupt for ever. Nothing was readable in an
/// unsealed segment, so it was left out as if it had never taken part; what it had held was then in
/// no segment, and there was no unused id for one.
#[test]
fn a_segment_of_which_no_record_is_left_keeps_its_place() {
    let (dir, all) = closed(6, 3000, 1, false);
    let names = segments(dir.path());
    assert_eq!(names.len(), all.len(), "each batch has a segment of its own");
    for (at, name) in (0..).zip(&names) {
        for byte in [20, 200] {
            let copy = killed(dir.path());
            flip(&copy.path().join(name), 4096 + byte, 1);
            let (log, recovered) = open_damaged(copy.path());
            assert_eq!(
                check_reads(&log, &all),
                [at],
                "no more is in doubt: {:?}",
                recovered.corruption
            );
            assert!(recovered.corruption[0].path.ends_with(name), "{:?}", recovered.corruption);
            drop(log);
            is_made_whole(copy.path(), &all, 1);
        }
    }
}

/// Regression, seed 13613550: a node stayed corrupt for ever. A power cut had taken the end of a
/// segment and left the one behind it; the next opening sealed the first where it then ended, and
/// removed the second, but another power cut brought that back. Then its header was corrupt, so it
/// was taken for one that the log had reached: what lies between was missing, and belonged to no
/// file.
#[test]
fn a_segment_behind_what_a_crash_took_never_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let all = singles(&mut LogPoint::INITIAL.clone(), 1, 30, 300);
    log.append(&all, 1).unwrap();
    let names = segments(dir.path());
    let behind = format::parse_segment_name(&names[1]).unwrap().1 as usize - 2;
    let cut = killed(dir.path());
    for lost in [1, 2, 7] {
        for (kept_whole, emptied) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let copy = killed(cut.path());
            let record = 4096 + (behind - lost) * (96 + 32 + 300 + 8_usize).next_multiple_of(8);
            flip(&copy.path().join(&names[0]), record + 20, 1);
            let (mut log, recovered) = open(copy.path());
            assert_eq!(recovered.last.raft_index, (behind - lost) as u64 + 1);
            run_background_tasks(&mut log);
            drop(log);
            assert_eq!(segments(copy.path()), names[..1]);
            let come_back = kept_whole + emptied;
            for (at, name) in names[1..].iter().take(come_back + 1).enumerate() {
                let mut bytes = std::fs::read(cut.path().join(name)).unwrap();
                if at >= kept_whole {
                    bytes[format::RECORDS_AT as usize..].fill(0);
                }
                if at == come_back {
                    bytes.fill(0xA5);
                }
                std::fs::write(copy.path().join(name), bytes).unwrap();
            }
            is_made_whole(copy.path(), &all[..behind - lost], 30);
        }
    }
}

/// As above, but the crash took a base, and nothing had been appended after the one before it.
#[test]
fn a_segment_behind_a_base_that_a_crash_took_never_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    log.append(&singles(&mut point, 1, 9, 40), 1).unwrap();
    let mut reset = |log: &mut DiskLog, distance| {
        point.raft_index += distance;
        log.reset(&Base { point, membership: owner().membership }).unwrap();
        point
    };
    let kept = reset(&mut log, 5);
    sync(&mut log);
    let copy = killed(dir.path());
    let mut lost = reset(&mut log, 1);
    log.append(&singles(&mut lost, 2, 1, 40), 1).unwrap();
    std::fs::write(copy.path().join(segments(dir.path()).pop().unwrap()), [0xA5; 8192]).unwrap();
    let (log, _) = open_damaged(copy.path());
    begins_behind(log, copy.path(), kept, &[], &[]);
}

#[test]
fn a_full_disk_keeps_a_log_from_being_mended_and_no_worse() {
    let disk = SimulatedDisk::new(3);
    let options = SMALL;
    let mut log = DiskLog::on(disk.clone(), options);
    log.open(&owner()).unwrap();
    let mut point = LogPoint::INITIAL;
    let all = singles(&mut point, 1, 12, 40);
    for batch in &all {
        log.append(std::slice::from_ref(batch), 1).unwrap();
        sync(&mut log);
    }
    drop(log);
    let name = disk.list().unwrap().into_iter().find(|name| name.ends_with(".seg")).unwrap();
    disk.flip(&name, (4096 + 5 * 176 + 20) * 8);
    disk.set_room(Some(disk.taken()));
    let mut log = DiskLog::on(disk.clone(), options);
    assert_eq!(log.open(&owner()).unwrap().corruption.len(), 1);
    let taken = disk.taken();
    assert!(matches!(log.repair(RepairAction::Fill(&all[5..6])), Err(StorageError::Full { .. })));
    assert_eq!(disk.taken(), taken);
    assert!(!disk.list().unwrap().iter().any(|name| name.ends_with(REWRITE_SUFFIX)));
    disk.set_room(None);
    let recovered = log.repair(RepairAction::Fill(&all[5..6])).unwrap();
    assert_eq!((&recovered.corruption[..], recovered.last), (&[][..], point));
}

/// Regression, seed 10014789: a node died just after it had truncated its log, and then what lies
/// before the truncation was corrupt. Nothing proved that the newer segment took part, so the
/// batches that it had truncated were reported as lost. After repair with other batches, the log is
/// no longer than when the node died: the truncation counts again once what it continues is there.
#[test]
fn a_cut_counts_again_when_what_is_in_front_of_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let mut all = singles(&mut point, 1, 8, 40);
    for batch in &all {
        log.append(std::slice::from_ref(batch), batch.raft_index() - 1).unwrap();
        sync(&mut log);
    }
    let mut point = log.reader().point(7).unwrap().unwrap();
    let cut = singles(&mut point, 2, 1, 40);
    log.append(&cut, 5).unwrap();
    all.truncate(6);
    all.extend(cut);
    let copy = killed(dir.path());
    let record = |raft_index: usize| 4096 + (raft_index - 2) * 176;
    (6..10).for_each(|raft_index| {
        flip(&copy.path().join(&segments(dir.path())[0]), record(raft_index) + 20, 1)
    });
    let (mut log, recovered) = open_damaged(copy.path());
    assert_eq!(
        (recovered.corruption.len(), recovered.corruption[0].raft_indexes.clone()),
        (1, 6..10)
    );
    let given: Vec<Batch> = all[4..].iter().cloned().chain(singles(&mut point, 3, 1, 40)).collect();
    let recovered = log.repair(RepairAction::Fill(&given)).unwrap();
    assert_eq!(
        (&recovered.corruption[..], recovered.last),
        (&[][..], all[6].point_after(&log.reader().point(7).unwrap().unwrap()).unwrap())
    );
    assert_eq!(contents(&log), all);
    drop(log);
    let (log, again) = open(copy.path());
    assert_eq!((&again.corruption[..], again.last), (&[][..], recovered.last));
    assert_eq!(contents(&log), all);
}

/// A power cut took a segment that held nothing durable, and the cut that followed it is in a file
/// that is lost: what that held goes into a file of its number, not into the one that never
/// counted.
#[test]
fn a_segment_that_never_counted_is_no_home_for_what_a_lost_cut_held() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let mut all = singles(&mut point, 1, 6, 40);
    log.append(&all, 3).unwrap();
    sync(&mut log);
    log.append(&singles(&mut point, 1, 1, SMALL.segment_bytes as usize / 2), 3).unwrap();
    let mut point = log.reader().point(5).unwrap().unwrap();
    all.truncate(4);
    for bytes in [40, 40, 40, 40, SMALL.segment_bytes as usize / 2] {
        all.extend(singles(&mut point, 2, 1, bytes));
        log.append(&all[all.len() - 1..], 5).unwrap();
        sync(&mut log);
    }
    let copy = killed(dir.path());
    let names = segments(copy.path());
    let firsts: Vec<u64> =
        names.iter().map(|name| format::parse_segment_name(name).unwrap().1).collect();
    assert_eq!(firsts, [2, 8, 6, 10]);
    let never = copy.path().join(&names[1]);
    let mut bytes = std::fs::read(&never).unwrap();
    bytes[format::RECORDS_AT as usize..].fill(0);
    std::fs::write(&never, bytes).unwrap();
    std::fs::remove_file(copy.path().join(&names[2])).unwrap();
    is_made_whole(copy.path(), &all, 60);
}

/// What is broken in a segment behind the place where a lost one had cut it is nothing to mend
/// there, and one that it had cut off whole is nothing at all.
#[test]
fn what_a_lost_cut_held_does_not_go_into_the_segment_that_it_cut() {
    for has_rolled in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let mut point = LogPoint::INITIAL;
        let mut all = singles(&mut point, 1, 12, 40);
        if has_rolled {
            all.extend(singles(&mut point, 1, 1, SMALL.segment_bytes as usize / 2));
        }
        for batch in &all {
            log.append(std::slice::from_ref(batch), 5.min(batch.raft_index() - 1)).unwrap();
            sync(&mut log);
        }
        let mut point = log.reader().point(8).unwrap().unwrap();
        all.truncate(7);
        all.extend(singles(&mut point, 2, 8, 40));
        log.append(&all[7..], 5).unwrap();
        sync(&mut log);
        let crashed = killed(dir.path());
        let names = segments(crashed.path());
        assert_eq!(names.len(), if has_rolled { 3 } else { 2 });
        std::fs::remove_file(crashed.path().join(names.last().unwrap())).unwrap();
        // The last record, and one before the cut.
        for hit in [11, 6] {
            flip(&crashed.path().join(&names[0]), 4096 + hit * 176 + 20, 1);
            let copy = killed(crashed.path());
            let told: Vec<_> = open_damaged(copy.path())
                .1
                .corruption
                .into_iter()
                .map(|corruption| corruption.raft_indexes)
                .collect();
            assert_eq!((told.len(), &told[0]), (1, &(6..17)));
            is_made_whole(copy.path(), &all, 60);
        }
    }
}

/// What the disk has put elsewhere is noticed before the file takes the place of the old one.
#[test]
fn what_does_not_read_back_does_not_get_the_name() {
    use super::super::testing::simulated_disk::{CallFailure, CallFault, CallKind};
    let mut refused = Vec::new();
    for after in 0..5 {
        let disk = SimulatedDisk::new(3);
        let mut log = DiskLog::on(disk.clone(), SMALL);
        log.open(&owner()).unwrap();
        let mut point = LogPoint::INITIAL;
        let all = singles(&mut point, 1, 12, 40);
        for batch in &all {
            log.append(std::slice::from_ref(batch), 1).unwrap();
            sync(&mut log);
        }
        drop(log);
        let name = disk.list().unwrap().into_iter().find(|name| name.ends_with(".seg")).unwrap();
        disk.flip(&name, (4096 + 5 * 176 + 20) * 8);
        let mut log = DiskLog::on(disk.clone(), SMALL);
        log.open(&owner()).unwrap();
        disk.plan(CallFault {
            on: CallKind::Write,
            after,
            times: 1,
            then: CallFailure::Astray(4096),
        });
        let outcome = log.repair(RepairAction::Fill(&all[5..6]));
        if matches!(outcome, Err(StorageError::Corrupt { .. })) {
            refused.push(after);
            drop(log);
            let mut log = DiskLog::on(disk.kill(), SMALL);
            assert_eq!(log.open(&owner()).unwrap().corruption[0].raft_indexes, 7..8);
            assert_eq!(log.repair(RepairAction::Fill(&all[5..6])).unwrap().last, point);
        }
    }
    assert_eq!(refused.len(), 2, "the copy, and the write of the record: {refused:?}");
}
