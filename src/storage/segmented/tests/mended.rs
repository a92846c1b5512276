//! What becomes of a damaged log that is given what it lost.

use super::damaged::{check_reads, closed, files, open_damaged};
use super::*;

/// Gives the log what it has lost, `window` batches at a time. Returns how often that was.
fn mend(log: &mut DiskLog, recovered: &mut Recovered, all: &[Batch], window: usize) -> usize {
    let mut steps = 0;
    *recovered = log.mend(Remedy::Fill(&[])).unwrap();
    while let Some(first) = recovered.damage.iter().find(|damage| !damage.raft_indexes.is_empty()) {
        let from = (first.raft_indexes.start - 2) as usize;
        let some = &all[from..all.len().min(from + window)];
        *recovered = log.mend(Remedy::Fill(some)).unwrap_or_else(|error| panic!("{some:?}: {error}; {:?}", recovered.damage));
        steps += 1;
        assert!(steps < 200, "it gets no better: {:?}", recovered.damage);
    }
    steps
}

/// The log in `dir` is damaged; mended, it is `all`, takes more, and is found sound by the next opening.
#[track_caller]
fn is_made_whole(dir: &Path, all: &[Batch], window: usize) -> usize {
    let (mut log, mut recovered) = open_damaged(dir);
    let incarnation = recovered.identity.incarnation;
    let reader = log.reader();
    let steps = mend(&mut log, &mut recovered, all, window);
    assert_eq!(check_reads(&log, all), [0; 0]);
    assert_eq!(reader.batches(2, 3, 0).unwrap(), all[..1], "readers of before go on");
    assert_eq!((recovered.last.raft_index, recovered.identity.incarnation), (all.len() as u64 + 1, incarnation));
    let mut last = recovered.last;
    let more = singles(&mut last, 9, 3, 4000);
    log.append(&more, 3).unwrap();
    sync(&mut log);
    run_chores(&mut log);
    drop(log);
    let (log, again) = open(dir);
    assert_eq!((&again.damage[..], again.last), (&[][..], last));
    assert_eq!(contents(&log), [all, &more].concat());
    let verified = {
        drop(log);
        tools::verify(dir).unwrap()
    };
    assert!(verified.damage.is_empty(), "{:?}", verified.damage);
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(mend::MEND_SUFFIX)).count(), 0);
    steps
}

#[test]
fn the_commit_of_a_log_with_cold_damage_lies_where_its_mark_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let all = singles(&mut Mark::GENESIS.clone(), 1, 20, 300);
    for batch in &all {
        log.append(std::slice::from_ref(batch), 1).unwrap();
    }
    sync(&mut log);
    run_chores(&mut log);
    // In the middle of a sealed segment: what is known of the last of one stands in its seal.
    log.save(HardState { term: 1, vote: None, commit: 4 }).unwrap();
    drop(log);
    let path = dir.path().join(&segments(dir.path())[0]);
    let whole = std::fs::read(&path).unwrap();
    for (record, commit) in [(2, 3), (1, 2), (0, 1)] {
        let body = all[record].body();
        let at = whole.windows(body.len()).position(|window| window == *body).expect("it is in the first segment");
        // Within the header of its record.
        flip(&path, at - 76, 4);
        let (log, recovered) = open_verified(dir.path());
        assert_eq!((recovered.damage.len(), recovered.hard_state.commit), (3 - record, commit));
        assert!(log.reader().mark(commit).is_ok());
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
            mend(&mut log, &mut recovered, &all, window);
            let body_was_hit = (at - 4096) % 176 >= 96 + 32;
            assert!(!body_was_hit || whole == files(copy.path()), "byte {at}: a record whose header was intact comes back to the last bit");
            drop(log);
            flip(&copy.path().join(&name), at, 1 << (at % 8));
            is_made_whole(copy.path(), &all, window);
        }
    }
}

#[test]
fn many_places_are_mended_one_after_the_other_or_at_once() {
    for hits in [&[0, 3, 4, 7, 9][..], &[11], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], &[10, 11], &[0, 11]] {
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

/// Nothing can be read in such a file, but its name says where it begins. It was once taken for one that is missing and may have cut the log anywhere, so
/// that what the file before it held was given up, and nobody knew where that belonged. A simulated cluster showed it.
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

/// What follows a lost file may know no more of what was durable than that this one was, though the next was lost with it: then all of it comes back in one.
#[test]
fn several_files_in_a_row_can_be_lost() {
    for chunk in [5, 14, 25] {
        let (dir, all) = closed(60, 300, chunk, false);
        let names = segments(dir.path());
        for lost in [0..2, 1..3, 1..4, 2..5] {
            for window in [4, 60] {
                let copy = killed(dir.path());
                names[lost.clone()].iter().for_each(|name| std::fs::remove_file(copy.path().join(name)).unwrap());
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
            segments(dir.path()).iter().skip(kept).for_each(|name| std::fs::remove_file(dir.path().join(name)).unwrap());
            is_made_whole(dir.path(), &all, 9);
        }
    }
}

/// Opens a log that reads everything when it is opened.
fn open_verified(dir: &Path) -> (DiskLog, Recovered) {
    let mut log = DiskLog::new(dir, SegmentOptions { verified: true, ..SMALL });
    let recovered = log.open(&genesis()).unwrap();
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
    for (hits, before) in [(&[3][..], 76), (&[3, 4, 5], 76), (&[0, 7, 30], 0), (&[1, 2, 20, 21, 40], 90), (&[3, 25], -40)] {
        for window in [1, 60] {
            let copy = killed(dir.path());
            for hit in hits {
                let (name, at) = place(*hit);
                flip(&copy.path().join(name), (at as i64 - before) as usize, 4);
            }
            assert!(open(copy.path()).1.damage.is_empty(), "opening alone does not look");
            let (mut log, mut recovered) = open_verified(copy.path());
            let told: Vec<u64> = recovered.damage.iter().map(|damage| damage.raft_indexes.start - 2).collect();
            assert_eq!(told, hits.iter().map(|hit| *hit as u64).collect::<Vec<_>>());
            assert!(recovered.damage.iter().all(|damage| damage.chain.is_some()), "the footer knows them");
            mend(&mut log, &mut recovered, &all, window);
            assert_eq!(check_reads(&log, &all), [0; 0]);
            drop(log);
            assert_eq!(tools::verify(copy.path()).unwrap().damage, []);
            // Of a lost header two numbers are not known any more.
            let header_was_lost = before >= 0;
            assert!(header_was_lost || whole == files(copy.path()), "{hits:?}");
        }
    }
}

#[test]
fn a_lost_head_is_mended_without_anybody() {
    let (dir, all) = closed(40, 300, 1, false);
    for name in segments(dir.path()) {
        let whole = files(dir.path());
        flip(&dir.path().join(&name), 5, 1);
        let (mut log, _) = open_damaged(dir.path());
        assert_eq!(log.mend(Remedy::Fill(&[])).unwrap().damage, []);
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
    let mark = |raft_index: u64| log.reader().mark(raft_index).unwrap().unwrap();
    let (five, nine) = (mark(6), mark(10));
    let others = |mut mark: Mark, term, bytes| singles(&mut mark, term, 1, bytes);
    let flipped = |batch: &Batch| {
        let mut body = batch.body().to_vec();
        body[40] ^= 1;
        Batch::new(batch.raft_index(), batch.term(), body.into()).unwrap()
    };
    let wrong = [
        ("another batch of the same size", others(five, 1, 40).into_iter().map(|batch| flip_payload(&batch)).collect()),
        ("another length", others(five, 1, 48)),
        ("another term", others(five, 2, 40)),
        ("a batch with a flipped bit", vec![flipped(&all[5])]),
        ("a gap", vec![all[5].clone(), all[7].clone()]),
        ("what the header knows better", [&all[5..9], &[flip_payload(&others(nine, 1, 40)[0])][..]].concat()),
    ];
    for (name, batches) in wrong {
        let refused = log.mend(Remedy::Fill(&batches));
        let is_partly_right = batches.first() == Some(&all[5]);
        assert!(matches!(refused, Err(StorageError::OutOfLine(_))), "{name}: {refused:?}");
        assert!(is_partly_right || before == files(dir.path()), "{name}");
    }
    let refused = log.append(&singles(&mut recovered.last.clone(), 3, 1, 1), 1).unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }));
    drop(log);
    is_made_whole(dir.path(), &all, 1);
    let (mut log, _) = open(dir.path());
    assert!(matches!(log.mend(Remedy::Fill(&all)), Err(StorageError::OutOfLine(_))), "a sound log wants nothing");
}

/// The same batch with another payload, and its checksum.
fn flip_payload(batch: &Batch) -> Batch {
    let (index, entry) = (batch.first_index().unwrap(), batch.entry(batch.first_index().unwrap()).unwrap().unwrap());
    let payload: Vec<u8> = entry.iter().map(|byte| byte ^ 0xFF).collect();
    let mut open = OpenBatch::with_capacity(0);
    open.push(&payload, crc32fast::hash(&payload));
    Batch::new(batch.raft_index(), batch.term(), open.close(index, entry.position(), entry.timestamp())).unwrap()
}

#[test]
fn what_was_never_committed_is_replaced() {
    for (hit, from) in [(5, 5), (5, 3), (11, 11), (11, 2), (0, 0)] {
        let (dir, all) = closed(12, 40, 1, false);
        let path = dir.path().join(&segments(dir.path())[0]);
        flip(&path, 4096 + hit * 176 + 20, 1);
        let (mut log, _) = open_damaged(dir.path());
        let mut mark = log.reader().mark(from as u64 + 1).unwrap().unwrap();
        let new = singles(&mut mark, 2, 4, 50);
        let recovered = log.mend(Remedy::Replace(&new)).unwrap();
        assert_eq!((&recovered.damage[..], recovered.last), (&[][..], mark));
        // It is durable, so damage to the last of it is never taken for a torn end.
        let copy = killed(dir.path());
        flip(&copy.path().join(segments(copy.path()).last().unwrap()), 4096 + 3 * 192 + 20, 1);
        assert!(open_damaged(copy.path()).1.damage[0].raft_indexes.contains(&mark.raft_index));
        let expected = [&all[..from], &new].concat();
        assert_eq!(contents(&log), expected);
        let more = singles(&mut mark, 3, 40, 300);
        log.append(&more, 3).unwrap();
        sync(&mut log);
        run_chores(&mut log);
        drop(log);
        let (log, again) = open(dir.path());
        assert_eq!((&again.damage[..], again.last), (&[][..], mark));
        assert_eq!(contents(&log), [expected, more].concat());
    }
}

/// Seeds 500027 and 505013 once ended with a node that stayed damaged for ever: of a segment that was not sealed nothing could be read, so it was left out
/// as if it had never taken part; what it had held was then in no segment, and there was no free number for one.
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
            assert_eq!(check_reads(&log, &all), [at], "no more is in doubt: {:?}", recovered.damage);
            assert!(recovered.damage[0].path.ends_with(name), "{:?}", recovered.damage);
            drop(log);
            is_made_whole(copy.path(), &all, 1);
        }
    }
}

/// Seed 13613550 once ended with a node that stayed damaged for ever. A power cut had taken the end of a segment and left the one behind it; the next
/// opening sealed the first where it then ended, and removed the second, but another power cut brought that back. Then its head was damaged, and for that it
/// was taken for one that the log had reached: what lies between was missing, and belonged to no file.
#[test]
fn a_segment_behind_what_a_crash_took_never_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let all = singles(&mut Mark::GENESIS.clone(), 1, 30, 300);
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
            run_chores(&mut log);
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

/// As above, but what the crash took is a base, and nothing had been appended behind the one before it.
#[test]
fn a_segment_behind_a_base_that_a_crash_took_never_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut mark = Mark::GENESIS;
    log.append(&singles(&mut mark, 1, 9, 40), 1).unwrap();
    let mut reset = |log: &mut DiskLog, distance| {
        mark.raft_index += distance;
        log.reset(&Base { mark, membership: genesis().membership }).unwrap();
        mark
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

/// What the marks after `all` are, the one in front of them included.
fn marks_of(all: &[Batch]) -> Vec<Mark> {
    let mut marks = vec![Mark::GENESIS];
    all.iter().for_each(|batch| marks.push(batch.mark_after(marks.last().unwrap()).unwrap()));
    marks
}

/// The log in `dir`, which is damaged, is let begin behind `mark` and given the rest: then it is `kept`, takes more, and is found sound by the next opening.
#[track_caller]
fn begins_behind(mut log: DiskLog, dir: &Path, mark: Mark, all: &[Batch], kept: &[Batch]) {
    let mut recovered = log.mend(Remedy::Rebase(mark)).unwrap();
    assert_eq!(recovered.base.mark, mark);
    if !recovered.damage.is_empty() {
        mend(&mut log, &mut recovered, all, 2);
    }
    let mut end = kept.iter().fold(mark, |mark, batch| batch.mark_after(&mark).unwrap());
    assert_eq!((recovered.base.mark, recovered.last), (mark, end));
    assert_eq!(contents(&log), kept);
    let more = singles(&mut end, 3, 40, 300);
    log.append(&more, mark.raft_index).unwrap();
    sync(&mut log);
    run_chores(&mut log);
    drop(log);
    let (log, again) = open(dir);
    assert_eq!((&again.damage[..], again.base.mark, again.last), (&[][..], mark, end));
    assert_eq!(contents(&log), [kept, &more].concat());
    drop(log);
    assert_eq!(tools::verify(dir).unwrap().damage, []);
}

#[test]
fn a_log_may_begin_behind_what_it_lost_or_in_the_middle_of_it() {
    for hits in [&[0][..], &[2], &[2, 3, 4], &[1, 4, 5, 9], &[8, 9, 10], &[11], &[9, 10, 11], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]] {
        for byte in [20, 150] {
            for base in [0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 20].into_iter().filter(|base| *base >= hits[0]) {
                let (dir, all) = closed(12, 40, 1, false);
                let marks = marks_of(&all);
                let mut far = marks[12];
                singles(&mut far, 1, 9, 40);
                let mark = marks.get(base + 1).copied().unwrap_or(far);
                let path = dir.path().join(&segments(dir.path())[0]);
                hits.iter().for_each(|hit| flip(&path, 4096 + hit * 176 + byte, 0x40));
                let (log, _) = open_damaged(dir.path());
                begins_behind(log, dir.path(), mark, &all, all.get(base + 1..).unwrap_or_default());
            }
        }
    }
}

#[test]
fn a_log_that_lost_files_may_begin_anywhere_in_what_they_held() {
    for sealed in [false, true] {
        let (dir, all) = closed(60, 300, 5, sealed);
        let (names, marks) = (segments(dir.path()), marks_of(&all));
        let first = |name: &String| format::parse_segment_name(name).unwrap().1 as usize - 2;
        for lost in [0..1, 1..3, 2..names.len(), 0..names.len(), names.len() - 1..names.len()] {
            let held = first(&names[lost.start])..names.get(lost.end).map_or(all.len(), first);
            for base in [held.start, held.start + 1, (held.start + held.end) / 2, held.end - 1].into_iter().filter(|base| *base < all.len())
            {
                let copy = killed(dir.path());
                names[lost.clone()].iter().for_each(|name| std::fs::remove_file(copy.path().join(name)).unwrap());
                let (log, _) = open_damaged(copy.path());
                begins_behind(log, copy.path(), marks[base + 1], &all, &all[base + 1..]);
            }
        }
    }
}

#[test]
fn a_log_may_begin_in_the_middle_of_a_sealed_segment() {
    let (dir, all) = closed(60, 300, 60, true);
    let (names, marks) = (segments(dir.path()), marks_of(&all));
    let first = |name: &String| format::parse_segment_name(name).unwrap().1 as usize - 2;
    let (from, to) = (first(&names[1]), first(&names[2]));
    for hits in [vec![from], vec![to - 1], vec![from, from + 1, to - 2], (from..to).collect()] {
        for base in hits[0]..to {
            let copy = killed(dir.path());
            let bytes = std::fs::read(copy.path().join(&names[1])).unwrap();
            for hit in &hits {
                let at = bytes.windows(all[*hit].body().len()).position(|window| window == *all[*hit].body()).unwrap();
                flip(&copy.path().join(&names[1]), at - 76, 4);
            }
            let (log, recovered) = open_verified(copy.path());
            assert_eq!(recovered.damage[0].raft_indexes.start, hits[0] as u64 + 2);
            begins_behind(log, copy.path(), marks[base + 1], &all, &all[base + 1..]);
        }
    }
}

#[test]
fn of_another_log_nothing_stays_behind_a_base() {
    for (hit, base) in [(2, 4), (2, 2), (4, 7)] {
        let (dir, all) = closed(12, 40, 1, false);
        flip(&dir.path().join(&segments(dir.path())[0]), 4096 + hit * 176 + 20, 1);
        let mark = marks_of(&all)[base + 1];
        let (log, _) = open_damaged(dir.path());
        begins_behind(log, dir.path(), Mark { chain: mark.chain ^ 1, ..mark }, &all, &[]);
    }
}

#[test]
fn a_full_disk_keeps_a_log_from_being_mended_and_no_worse() {
    let disk = simulated::SimulatedDisk::new(3);
    let options = SMALL;
    let mut log = DiskLog::on(disk.clone(), options);
    log.open(&genesis()).unwrap();
    let mut mark = Mark::GENESIS;
    let all = singles(&mut mark, 1, 12, 40);
    for batch in &all {
        log.append(std::slice::from_ref(batch), 1).unwrap();
        sync(&mut log);
    }
    drop(log);
    let name = disk.list().unwrap().into_iter().find(|name| name.ends_with(".seg")).unwrap();
    disk.flip(&name, (4096 + 5 * 176 + 20) * 8);
    disk.set_room(Some(disk.taken()));
    let mut log = DiskLog::on(disk.clone(), options);
    assert_eq!(log.open(&genesis()).unwrap().damage.len(), 1);
    let taken = disk.taken();
    assert!(matches!(log.mend(Remedy::Fill(&all[5..6])), Err(StorageError::Full { .. })));
    assert_eq!(disk.taken(), taken);
    assert!(!disk.list().unwrap().iter().any(|name| name.ends_with(mend::MEND_SUFFIX)));
    disk.set_room(None);
    let recovered = log.mend(Remedy::Fill(&all[5..6])).unwrap();
    assert_eq!((&recovered.damage[..], recovered.last), (&[][..], mark));
}

/// A node died right after it had cut its log, and then what lies in front of the cut was damaged: nothing proved the newer segment to take part, so the
/// batches that it had cut off were told as lost. Given others for them, the log was whole, and no longer than it had been when the node died: the cut
/// counts again once what it stands on is there (seed 10014789 of the simulation).
#[test]
fn a_cut_counts_again_when_what_is_in_front_of_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut mark = Mark::GENESIS;
    let mut all = singles(&mut mark, 1, 8, 40);
    for batch in &all {
        log.append(std::slice::from_ref(batch), batch.raft_index() - 1).unwrap();
        sync(&mut log);
    }
    let mut mark = log.reader().mark(7).unwrap().unwrap();
    let cut = singles(&mut mark, 2, 1, 40);
    log.append(&cut, 5).unwrap();
    all.truncate(6);
    all.extend(cut);
    let copy = killed(dir.path());
    let record = |raft_index: usize| 4096 + (raft_index - 2) * 176;
    (6..10).for_each(|raft_index| flip(&copy.path().join(&segments(dir.path())[0]), record(raft_index) + 20, 1));
    let (mut log, recovered) = open_damaged(copy.path());
    assert_eq!((recovered.damage.len(), recovered.damage[0].raft_indexes.clone()), (1, 6..10));
    let given: Vec<Batch> = all[4..].iter().cloned().chain(singles(&mut mark, 3, 1, 40)).collect();
    let recovered = log.mend(Remedy::Fill(&given)).unwrap();
    assert_eq!((&recovered.damage[..], recovered.last), (&[][..], all[6].mark_after(&log.reader().mark(7).unwrap().unwrap()).unwrap()));
    assert_eq!(contents(&log), all);
    drop(log);
    let (log, again) = open(copy.path());
    assert_eq!((&again.damage[..], again.last), (&[][..], recovered.last));
    assert_eq!(contents(&log), all);
}

/// A power cut took a segment that held nothing durable, and the cut that followed it is in a file
/// that is lost: what that held goes into a file of its number, not into the one that never counted.
#[test]
fn a_segment_that_never_counted_is_no_home_for_what_a_lost_cut_held() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut mark = Mark::GENESIS;
    let mut all = singles(&mut mark, 1, 6, 40);
    log.append(&all, 3).unwrap();
    sync(&mut log);
    log.append(&singles(&mut mark, 1, 1, SMALL.segment_bytes as usize / 2), 3).unwrap();
    let mut mark = log.reader().mark(5).unwrap().unwrap();
    all.truncate(4);
    for bytes in [40, 40, 40, 40, SMALL.segment_bytes as usize / 2] {
        all.extend(singles(&mut mark, 2, 1, bytes));
        log.append(&all[all.len() - 1..], 5).unwrap();
        sync(&mut log);
    }
    let copy = killed(dir.path());
    let names = segments(copy.path());
    let firsts: Vec<u64> = names.iter().map(|name| format::parse_segment_name(name).unwrap().1).collect();
    assert_eq!(firsts, [2, 8, 6, 10]);
    let never = copy.path().join(&names[1]);
    let mut bytes = std::fs::read(&never).unwrap();
    bytes[format::RECORDS_AT as usize..].fill(0);
    std::fs::write(&never, bytes).unwrap();
    std::fs::remove_file(copy.path().join(&names[2])).unwrap();
    is_made_whole(copy.path(), &all, 60);
}

/// What is broken in a segment behind the place where a lost one had cut it is nothing to mend there,
/// and one that it had cut off whole is nothing at all.
#[test]
fn what_a_lost_cut_held_does_not_go_into_the_segment_that_it_cut() {
    for has_rolled in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let mut mark = Mark::GENESIS;
        let mut all = singles(&mut mark, 1, 12, 40);
        if has_rolled {
            all.extend(singles(&mut mark, 1, 1, SMALL.segment_bytes as usize / 2));
        }
        for batch in &all {
            log.append(std::slice::from_ref(batch), 5.min(batch.raft_index() - 1)).unwrap();
            sync(&mut log);
        }
        let mut mark = log.reader().mark(8).unwrap().unwrap();
        all.truncate(7);
        all.extend(singles(&mut mark, 2, 8, 40));
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
            let told: Vec<_> = open_damaged(copy.path()).1.damage.into_iter().map(|damage| damage.raft_indexes).collect();
            assert_eq!((told.len(), &told[0]), (1, &(6..17)));
            is_made_whole(copy.path(), &all, 60);
        }
    }
}

/// What the disk has put elsewhere is noticed before the file takes the place of the old one.
#[test]
fn what_does_not_read_back_does_not_get_the_name() {
    use simulated::{Call, Failure, Fault};
    let mut refused = Vec::new();
    for after in 0..5 {
        let disk = simulated::SimulatedDisk::new(3);
        let mut log = DiskLog::on(disk.clone(), SMALL);
        log.open(&genesis()).unwrap();
        let mut mark = Mark::GENESIS;
        let all = singles(&mut mark, 1, 12, 40);
        for batch in &all {
            log.append(std::slice::from_ref(batch), 1).unwrap();
            sync(&mut log);
        }
        drop(log);
        let name = disk.list().unwrap().into_iter().find(|name| name.ends_with(".seg")).unwrap();
        disk.flip(&name, (4096 + 5 * 176 + 20) * 8);
        let mut log = DiskLog::on(disk.clone(), SMALL);
        log.open(&genesis()).unwrap();
        disk.plan(Fault { on: Call::Write, after, times: 1, then: Failure::Astray(4096) });
        let outcome = log.mend(Remedy::Fill(&all[5..6]));
        if matches!(outcome, Err(StorageError::Damaged { .. })) {
            refused.push(after);
            drop(log);
            let mut log = DiskLog::on(disk.kill(), SMALL);
            assert_eq!(log.open(&genesis()).unwrap().damage[0].raft_indexes, 7..8);
            assert_eq!(log.mend(Remedy::Fill(&all[5..6])).unwrap().last, mark);
        }
    }
    assert_eq!(refused.len(), 1, "the write of the record: {refused:?}");
}
