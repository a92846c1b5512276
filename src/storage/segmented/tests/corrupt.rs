//! Corrupt logs: what is still readable, and what is reported of the rest.

use super::super::spare::SPARE_SUFFIX;
use super::*;

/// Opens a corrupt log.
pub(super) fn open_damaged(dir: &Path) -> (DiskLog, Recovered) {
    let (log, recovered) = open(dir);
    assert!(!recovered.corruption.is_empty());
    (log, recovered)
}

/// A closed directory with `count` batches of one entry each and of `bytes` bytes, every `chunk` of
/// them synced, each with a commit just before it; if `sealed`, all full segments are sealed.
pub(super) fn closed(
    count: usize,
    bytes: usize,
    chunk: usize,
    sealed: bool,
) -> (tempfile::TempDir, Vec<Batch>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let all = singles(&mut LogPoint::INITIAL.clone(), 1, count, bytes);
    for some in all.chunks(chunk) {
        log.append(some, some[0].raft_index() - 1).unwrap();
        sync(&mut log);
        if sealed {
            run_background_tasks(&mut log);
        }
    }
    (dir, all)
}

/// Every entry is what was appended or a typed error; every log point and batch too. Returns the
/// indexes of the entries that are errors.
pub(super) fn check_reads(log: &DiskLog, all: &[Batch]) -> Vec<u64> {
    let reader = log.reader();
    let mut bad = Vec::new();
    let mut before = LogPoint::INITIAL;
    for (index, expected) in (0..).zip(all) {
        match reader.batch_containing(index).map(|batch| batch.map(|batch| batch.entry(index))) {
            Ok(Some(Ok(entry))) => assert_eq!(entry, expected.entry(index).unwrap()),
            Ok(Some(Err(_))) | Err(StorageError::Corrupt { .. }) => bad.push(index),
            other => panic!("index {index}: {other:?}"),
        }
        match reader.entry(index) {
            Ok(entry) => assert_eq!(
                (entry, bad.last() == Some(&index)),
                (expected.entry(index).unwrap(), false)
            ),
            Err(StorageError::Corrupt { .. }) => assert_eq!(bad.last(), Some(&index)),
            other => panic!("index {index}: {other:?}"),
        }
        let (raft_index, after) = (expected.raft_index(), expected.point_after(&before).unwrap());
        match reader.point(raft_index) {
            Ok(point) => assert_eq!(point, Some(after)),
            Err(error) => assert!(matches!(error, StorageError::Corrupt { .. }), "{error}"),
        }
        match reader.batches(raft_index, raft_index + 1, 0) {
            Ok(batches) => assert_eq!(batches, std::slice::from_ref(expected)),
            Err(error) => assert!(matches!(error, StorageError::Corrupt { .. }), "{error}"),
        }
        before = after;
    }
    bad
}

fn refuses_writes(log: &mut DiskLog, recovered: &Recovered) {
    let mut point = recovered.last;
    let refused = [
        log.append(&singles(&mut point, 9, 1, 1), 0),
        log.save_hard_state(recovered.hard_state),
        log.reset(&recovered.base),
        log.purge(1, 1),
        log.save_peer(NodeId::from(2), 1),
        log.begin_sync().wait(),
    ];
    for outcome in refused {
        assert!(matches!(outcome, Err(StorageError::Corrupt { .. })), "{outcome:?}");
    }
    assert!(log.next_task().is_none());
}

/// All files but the state, which counts how often the log was opened.
pub(super) fn files(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    // Each opening removes the spares of earlier runs.
    let changes = |name: &std::ffi::OsStr| {
        name == STATE_NAME || name.to_string_lossy().ends_with(SPARE_SUFFIX)
    };
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| !changes(&entry.file_name()));
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_flipped_bit_in_the_synced_tail_costs_one_batch_whose_number_is_told() {
    let (dir, all) = closed(4, 40, 1, false);
    let name = segments(dir.path())[0].clone();
    for at in 4096..4096 + 4 * 176 {
        let copy = killed(dir.path());
        flip(&copy.path().join(&name), at, 1 << (at % 8));
        let before = files(copy.path());
        let (mut log, recovered) = open_damaged(copy.path());
        let bad = (at as u64 - 4096) / 176;
        let [corruption] = &recovered.corruption[..] else {
            panic!("byte {at}: {:?}", recovered.corruption)
        };
        assert_eq!(
            (corruption.offset, &corruption.raft_indexes),
            (4096 + bad * 176, &(bad + 2..bad + 3)),
            "byte {at}: {corruption}"
        );
        assert!(corruption.path.ends_with(&name));
        assert!(corruption.term.is_none_or(|term| term == 1));
        assert_eq!(check_reads(&log, &all), [bad], "byte {at}");
        let is_last_unreadable = log.reader().point(5).is_err();
        assert_eq!(recovered.last.raft_index, if is_last_unreadable { 4 } else { 5 }, "byte {at}");
        assert!(recovered.hard_state.commit >= 3, "byte {at}: {}", recovered.hard_state.commit);
        assert!(log.reader().point(recovered.hard_state.commit).is_ok());
        refuses_writes(&mut log, &recovered);
        drop(log);
        assert!(
            before == files(copy.path()),
            "byte {at}: opening a corrupt log changes nothing but how often it was opened"
        );
        let incarnation = recovered.identity.incarnation + 1;
        let again = Recovered {
            identity: DirectoryIdentity { incarnation, ..recovered.identity },
            ..recovered
        };
        assert_eq!(open_damaged(copy.path()).1, again, "byte {at}: nor does opening it again");
    }
}

#[test]
fn several_damaged_places_are_told_each() {
    let (dir, all) = closed(12, 40, 1, false);
    let path = dir.path().join(&segments(dir.path())[0]);
    let at = |record: usize| 4096 + record * 176;
    for (record, byte) in [(0, 20), (3, 20), (4, 20), (7, 150), (9, 16)] {
        flip(&path, at(record) + byte, 0x40);
    }
    let (log, recovered) = open_damaged(dir.path());
    let reported: Vec<_> = recovered
        .corruption
        .iter()
        .map(|corruption| {
            (corruption.offset as usize, corruption.raft_indexes.clone(), corruption.term)
        })
        .collect();
    assert_eq!(
        reported,
        [(at(0), 2..3, None), (at(3), 5..7, None), (at(7), 9..10, Some(1)), (at(9), 11..12, None)]
    );
    assert_eq!(check_reads(&log, &all), [0, 3, 4, 7, 9]);
    let intact = log.reader().batches(7, 9, u64::MAX).unwrap();
    assert_eq!(intact, all[5..7]);
    let up_to_the_damage = log.reader().batches(7, 14, u64::MAX).unwrap();
    assert_eq!(up_to_the_damage, all[5..7]);
}

/// A payload may hold a copy of a segment file, and must not be taken for the segment's own
/// records.
#[test]
fn a_payload_that_looks_like_records_is_not_taken_for_some() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = DiskLog::new(dir.path(), SegmentOptions { segment_bytes: 64 << 10, ..SMALL });
    log.open(&owner()).unwrap();
    let mut point = LogPoint::INITIAL;
    let mut all = singles(&mut point, 1, 3, 40);
    log.append(&all, 0).unwrap();
    let name = segments(dir.path())[0].clone();
    let copy = std::fs::read(dir.path().join(&name)).unwrap()[4096..4096 + 3 * 176].to_vec();
    for payload in [&copy[..], b"after"] {
        let some = [batch(&mut point, 1, &[payload])];
        log.append(&some, 0).unwrap();
        sync(&mut log);
        all.extend(some);
    }
    drop(log);
    flip(&dir.path().join(&name), 4096 + 3 * 176 + 8, 1);
    let (log, recovered) = open_damaged(dir.path());
    assert_eq!(recovered.corruption[0].raft_indexes, 5..6);
    assert_eq!(check_reads(&log, &all), [3]);
}

#[test]
fn what_a_crash_tore_behind_the_damage_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let all = singles(&mut point, 1, 8, 40);
    for some in all[..5].chunks(1) {
        log.append(some, 1).unwrap();
        sync(&mut log);
    }
    log.append(&all[5..], 1).unwrap();
    let copy = killed(dir.path());
    let path = copy.path().join(&segments(copy.path())[0]);
    flip(&path, 4096 + 2 * 176 + 8, 1);
    flip(&path, 4096 + 6 * 176 + 8, 1);
    let (log, recovered) = open_damaged(copy.path());
    assert_eq!(recovered.corruption.len(), 1);
    assert_eq!(recovered.corruption[0].raft_indexes, 4..5);
    assert_eq!(check_reads(&log, &all[..6]), [2]);
    assert_eq!((recovered.last.raft_index, log.reader().batch_containing(6).unwrap()), (7, None));
}

#[test]
fn a_flipped_bit_anywhere_in_a_sealed_segment_never_gives_a_wrong_answer() {
    let (dir, all) = closed(60, 300, 60, true);
    let name = segments(dir.path())[0].clone();
    let bytes = std::fs::read(dir.path().join(&name)).unwrap().len();
    for at in (0..bytes).step_by(11).chain(500..700) {
        let copy = killed(dir.path());
        flip(&copy.path().join(&name), at, 1 << (at % 8));
        let (log, recovered) = open(copy.path());
        assert!(
            recovered.corruption.is_empty(),
            "byte {at}: {:?}: sealed segments are not read at opening",
            recovered.corruption
        );
        assert!(check_reads(&log, &all).len() <= 1, "byte {at}");
    }
}

#[test]
fn the_footer_names_a_damaged_record_of_a_sealed_segment() {
    let (dir, all) = closed(60, 300, 60, true);
    let name = segments(dir.path())[0].clone();
    let points: Vec<LogPoint> = all
        .iter()
        .scan(LogPoint::INITIAL, |point, batch| {
            *point = batch.point_after(point).unwrap();
            Some(*point)
        })
        .collect();
    for byte in [16, 50, 200] {
        let copy = killed(dir.path());
        flip(&copy.path().join(&name), 4096 + 5 * 440 + byte, 1);
        let (log, _) = open(copy.path());
        let reader = log.reader();
        assert_eq!(reader.verify_batch(6).unwrap(), None);
        let corruption = reader.verify_batch(7).unwrap().unwrap();
        assert_eq!((corruption.offset, corruption.raft_indexes), (4096 + 5 * 440, 7..8));
        assert_eq!((corruption.term, corruption.chain), (Some(1), Some(points[5].chain)));
        assert_eq!(check_reads(&log, &all), [5]);
    }
}

#[test]
fn records_around_a_bad_one_are_read_though_the_footer_is_bad_as_well() {
    let (dir, all) = closed(60, 300, 60, true);
    let path = dir.path().join(&segments(dir.path())[0]);
    let page: [u8; 4096] = std::fs::read(&path).unwrap()[..4096].try_into().unwrap();
    let (id, first) =
        format::parse_segment_name(path.file_name().unwrap().to_str().unwrap()).unwrap();
    let directory = tools::inspect(dir.path()).unwrap().identity.directory;
    let seal =
        format::Seal::decode(&page, id, first, format::checksum_seed(directory, id)).unwrap();
    flip(&path, seal.footer_at as usize + 40, 1);
    for record in [0, 3, seal.records as usize - 1] {
        let copy = killed(dir.path());
        flip(&copy.path().join(path.file_name().unwrap()), 4096 + record * 440 + 20, 1);
        assert_eq!(check_reads(&open(copy.path()).0, &all), [record as u64]);
    }
}

#[test]
fn a_damaged_last_record_of_a_sealed_segment_is_found_at_opening() {
    let (dir, all) = closed(60, 300, 60, true);
    let names = segments(dir.path());
    // A log that ends with a sealed segment: the open one behind it held nothing that counted.
    let kept = names.len() - 1;
    let copy = killed(dir.path());
    std::fs::remove_file(copy.path().join(&names[kept])).unwrap();
    flip(&copy.path().join("state"), 32768 + 24, 1);
    let sound = open(copy.path()).1;
    assert!(sound.corruption.is_empty() && sound.last.raft_index < 61);
    let last = sound.last.raft_index;
    let path = copy.path().join(&names[kept - 1]);
    let bytes = std::fs::read(&path).unwrap();
    let at = (4096..bytes.len())
        .step_by(440)
        .find(|at| bytes[at + 16..at + 24] == last.to_le_bytes())
        .unwrap();
    flip(&path, at + 20, 1);
    let (log, recovered) = open_damaged(copy.path());
    assert_eq!(
        (recovered.corruption[0].raft_indexes.clone(), recovered.corruption[0].term),
        (last..last + 1, Some(1))
    );
    assert_eq!(check_reads(&log, &all[..last as usize - 1]), [last - 2]);
}

#[test]
fn a_missing_segment_is_told_and_the_others_are_read() {
    for sealed in [false, true] {
        let (dir, all) = closed(60, 300, 5, sealed);
        let names = segments(dir.path());
        let firsts: Vec<u64> = names
            .iter()
            .map(|name| format::parse_segment_name(name).unwrap().1)
            .chain([62])
            .collect();
        for (n, name) in names.iter().enumerate() {
            let copy = killed(dir.path());
            std::fs::remove_file(copy.path().join(name)).unwrap();
            let (mut log, recovered) = open_damaged(copy.path());
            let [corruption] = &recovered.corruption[..] else {
                panic!("{name}: {:?}", recovered.corruption)
            };
            let std::ops::Range { start, end } = corruption.raft_indexes.clone();
            assert_eq!(end, firsts[n + 1], "{name}: {corruption}");
            // What a missing segment may have truncated is not served: at most the append that
            // continued in it, and the one before, which is known to be committed from what was
            // written after it.
            assert!(start <= firsts[n] && firsts[n] - start < 2 * 5, "{name}: {corruption}");
            assert_eq!(check_reads(&log, &all), (start - 2..end - 2).collect::<Vec<_>>(), "{name}");
            refuses_writes(&mut log, &recovered);
        }
    }
}

#[test]
fn a_missing_segment_that_had_cut_the_log_takes_what_it_cut_along() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let old = singles(&mut point, 1, 12, 40);
    log.append(&old, 5).unwrap();
    sync(&mut log);
    let mut point = log.reader().point(8).unwrap().unwrap();
    let new = singles(&mut point, 2, 8, 40);
    log.append(&new, 5).unwrap();
    sync(&mut log);
    log.append(&singles(&mut point, 2, 1, 40), 14).unwrap();
    log.save_hard_state(HardState { term: 2, vote: None, commit: 14 }).unwrap();
    drop(log);
    let names = segments(dir.path());
    assert_eq!(names.len(), 2);
    std::fs::remove_file(dir.path().join(&names[1])).unwrap();
    let (log, recovered) = open_damaged(dir.path());
    assert_eq!(recovered.corruption[0].raft_indexes, 6..18);
    assert_eq!(
        (recovered.last.raft_index, recovered.hard_state.commit, recovered.hard_state.term),
        (5, 5, 2)
    );
    for index in 0..16 {
        match log.reader().batch_containing(index) {
            Ok(batch) => assert!(
                index < 4 && batch.as_ref() == Some(&old[index as usize]),
                "index {index}: {batch:?}"
            ),
            Err(error) => assert!(
                index >= 4 && matches!(error, StorageError::Corrupt { .. }),
                "index {index}: {error}"
            ),
        }
    }
}

#[test]
fn a_segment_that_lost_its_head_is_told() {
    let (dir, all) = closed(4, 40, 1, false);
    let name = segments(dir.path())[0].clone();
    for at in 0..32 {
        let copy = killed(dir.path());
        flip(&copy.path().join(&name), at, 1 << (at % 8));
        let (log, recovered) = open_damaged(copy.path());
        assert_eq!(
            (recovered.corruption[0].offset, recovered.corruption[0].raft_indexes.is_empty()),
            (0, true),
            "byte {at}"
        );
        assert_eq!(check_reads(&log, &all), [0; 0]);
    }
}

#[test]
fn a_segment_of_zeros_or_of_nothing_is_a_gap() {
    let (dir, all) = closed(60, 300, 5, false);
    for name in segments(dir.path()) {
        for bytes in [vec![], vec![0; 8192], vec![0xA5; 8192]] {
            let copy = killed(dir.path());
            std::fs::write(copy.path().join(&name), bytes).unwrap();
            let (log, recovered) = open_damaged(copy.path());
            let (_, first) = format::parse_segment_name(&name).unwrap();
            assert!(
                recovered.corruption.iter().all(|corruption| corruption.path.ends_with(&name)),
                "{:?}",
                recovered.corruption
            );
            let bad = check_reads(&log, &all);
            assert_eq!(bad.first(), Some(&(first - 2)));
            assert!(bad.len() <= 16, "{name}: {bad:?}");
        }
    }
}

/// The missing one had truncated what lies behind the cut: no peer has these batches, and none of
/// them counts, not even the first.
#[test]
fn a_missing_segment_that_had_cut_the_log_ends_where_it_ended() {
    for (count, kept) in [(12, 8), (12, 5), (5, 5), (6, 6), (5, 6)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        for batch in singles(&mut LogPoint::INITIAL.clone(), 1, count, 40) {
            log.append(std::slice::from_ref(&batch), 5.min(batch.raft_index() - 1)).unwrap();
            sync(&mut log);
        }
        let mut point = log.reader().point(kept).unwrap().unwrap();
        // A log that is not cut goes on in a segment of its own too, if what comes is large.
        let bytes = if kept == count as u64 + 1 { SMALL.segment_bytes as usize / 2 } else { 40 };
        for batch in singles(&mut point, 2, 2, bytes).iter().take(if bytes > 40 { 1 } else { 2 }) {
            log.append(std::slice::from_ref(batch), 5).unwrap();
            sync(&mut log);
        }
        drop(log);
        let names = segments(dir.path());
        assert_eq!(names.len(), 2);
        let end = kept + if bytes > 40 { 2 } else { 3 };
        std::fs::remove_file(dir.path().join(&names[1])).unwrap();
        let (log, recovered) = open_damaged(dir.path());
        let told: Vec<_> =
            recovered.corruption.iter().map(|corruption| corruption.raft_indexes.clone()).collect();
        assert_eq!(
            (told.len(), &told[0], recovered.last.raft_index),
            (1, &(6..end), 5),
            "{count}, cut behind {kept}"
        );
        assert!(matches!(log.reader().point(6), Err(StorageError::Corrupt { .. })));
    }
}

/// A log that begins behind a base has segments in a row, of one of which nothing is left, and the
/// next is missing: neither a witness nor what lies behind speaks for the first of the two.
#[test]
fn a_segment_of_which_nothing_is_left_is_told_by_its_name() {
    for sealed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let mut point = LogPoint {
            raft_index: 50,
            term: 5,
            next_index: 77,
            next_position: 7,
            timestamp: 9,
            chain: 3,
        };
        log.reset(&Base { point, membership: owner().membership }).unwrap();
        for batch in singles(&mut point, 5, 60, 300) {
            log.append(std::slice::from_ref(&batch), batch.raft_index() - 1).unwrap();
            sync(&mut log);
            if sealed {
                run_background_tasks(&mut log);
            }
        }
        drop(log);
        let names = segments(dir.path());
        let firsts: Vec<u64> =
            names.iter().map(|name| format::parse_segment_name(name).unwrap().1).collect();
        for (n, ruined) in names[..names.len() - 2].iter().enumerate() {
            let copy = killed(dir.path());
            std::fs::write(copy.path().join(ruined), [0xA5; 8192]).unwrap();
            std::fs::remove_file(copy.path().join(&names[n + 1])).unwrap();
            let (_, recovered) = open_damaged(copy.path());
            assert!(
                recovered.corruption.iter().all(|corruption| corruption.path.ends_with(ruined)),
                "{ruined}: {:?}",
                recovered.corruption
            );
            assert_eq!(
                recovered.corruption.last().map(|corruption| corruption.raft_indexes.clone()),
                Some(firsts[n]..firsts[n + 2])
            );
        }
    }
}

/// There is no evidence left of how far the log was durable. But a file gets its name when there is
/// a log up to where it begins: what the missing one held is lost, and must not be taken for never
/// written.
#[test]
fn what_is_missing_in_front_of_a_ruined_last_segment_is_told() {
    let (dir, all) = closed(60, 300, 1, true);
    let names = segments(dir.path());
    let firsts: Vec<u64> =
        names.iter().map(|name| format::parse_segment_name(name).unwrap().1).collect();
    for last in 2..names.len() {
        let copy = killed(dir.path());
        names[last - 1..]
            .iter()
            .for_each(|name| std::fs::remove_file(copy.path().join(name)).unwrap());
        std::fs::write(copy.path().join(&names[last]), [0xA5; 8192]).unwrap();
        flip(&copy.path().join(STATE_NAME), 32768 + 24, 1);
        let (log, recovered) = open_damaged(copy.path());
        let lost = recovered
            .corruption
            .iter()
            .find(|corruption| !corruption.raft_indexes.is_empty())
            .expect("it is told");
        assert_eq!(lost.raft_indexes.end, firsts[last], "{:?}", recovered.corruption);
        let bad = check_reads(&log, &all[..firsts[last] as usize - 2]);
        assert_eq!(bad, (lost.raft_indexes.start - 2..firsts[last] - 2).collect::<Vec<_>>());
    }
}

#[test]
fn a_damaged_first_record_of_any_open_segment_costs_itself() {
    let (dir, all) = closed(40, 300, 1, false);
    for name in segments(dir.path()) {
        let first = format::parse_segment_name(&name).unwrap().1;
        for byte in [20, 150] {
            let copy = killed(dir.path());
            flip(&copy.path().join(&name), 4096 + byte, 1);
            let (log, recovered) = open_damaged(copy.path());
            assert_eq!(recovered.corruption[0].raft_indexes, first..first + 1);
            assert_eq!(check_reads(&log, &all), [first - 2], "{name}");
        }
    }
}
