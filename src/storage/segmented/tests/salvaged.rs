//! Salvage: which segments of a corrupt log take part, and what is reported as lost.

use super::corrupt::{check_reads, closed, open_damaged};
use super::repaired::{is_made_whole, repair};
use super::*;

const LARGE: usize = SMALL.segment_bytes as usize / 2;

/// Appends each of `batches` by itself, with the commit that `commit` gives for its raft index.
fn append_each(log: &mut DiskLog, batches: &[Batch], commit: impl Fn(u64) -> u64, synced: bool) {
    for batch in batches {
        log.append(std::slice::from_ref(batch), commit(batch.raft_index())).unwrap();
        if synced {
            sync(log);
        }
    }
}

/// A batch of one entry for each of `sizes`, of that many bytes.
fn sized(point: &mut LogPoint, term: u64, sizes: &[usize]) -> Vec<Batch> {
    sizes.iter().flat_map(|bytes| singles(point, term, 1, *bytes)).collect()
}

fn firsts(names: &[String]) -> Vec<u64> {
    names.iter().map(|name| format::parse_segment_name(name).unwrap().1).collect()
}

/// First raft index of each corruption, and the one after its last. The same for a header.
fn reported(recovered: &Recovered) -> Vec<(u64, u64)> {
    let ranges = recovered.corruption.iter().map(|corruption| &corruption.raft_indexes);
    ranges.map(|range| (range.start, range.end)).collect()
}

fn damage_header(dir: &Path, name: &str) {
    flip(&dir.join(name), 5, 1);
}

/// Fills all behind the header.
fn overwrite(dir: &Path, name: &str, byte: u8) {
    let mut bytes = std::fs::read(dir.join(name)).unwrap();
    bytes[format::RECORDS_AT as usize..].fill(byte);
    std::fs::write(dir.join(name), bytes).unwrap();
}

fn damage_watermark(dir: &Path) {
    flip(&dir.join(STATE_NAME), 32768 + 24, 1);
}

#[test]
fn a_commit_in_a_newer_segment_does_not_vouch_for_what_a_lost_one_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let old = singles(&mut LogPoint::INITIAL.clone(), 1, 12, 40);
    append_each(&mut log, &old, |raft_index| 5.min(raft_index - 1), true);
    let mut point = log.reader().point(8).unwrap().unwrap();
    let new = sized(&mut point, 2, &[40, 40, LARGE]);
    append_each(&mut log, &new, |raft_index| raft_index - 1, true);
    let copy = killed(dir.path());
    let names = segments(copy.path());
    assert_eq!(firsts(&names), [2, 9, 11]);
    std::fs::remove_file(copy.path().join(&names[1])).unwrap();
    let all = [&old[..7], &new].concat();
    let (log, recovered) = open_damaged(copy.path());
    assert_eq!(reported(&recovered), [(6, 11)]);
    assert_eq!(check_reads(&log, &all), [4, 5, 6, 7, 8]);
    drop(log);
    is_made_whole(copy.path(), &all, 60);
}

#[test]
fn an_unsynced_truncation_counts_if_it_continues_the_log() {
    for (kept, bytes) in [(1, 40), (6, 40), (8, LARGE)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let old = singles(&mut LogPoint::INITIAL.clone(), 1, 8, 40);
        append_each(&mut log, &old, |_| 1, true);
        let mut point = log.reader().point(kept as u64 + 1).unwrap().unwrap();
        let new = singles(&mut point, 2, 1, bytes);
        append_each(&mut log, &new, |_| 1, false);
        let copy = killed(dir.path());
        let names = segments(copy.path());
        assert_eq!(firsts(&names), [2, kept as u64 + 2]);
        damage_header(copy.path(), &names[0]);
        let (log, recovered) = open_damaged(copy.path());
        assert_eq!((reported(&recovered), recovered.last), (vec![(2, 2)], point), "{kept} kept");
        assert_eq!(check_reads(&log, &[&old[..kept], &new].concat()), [0; 0]);
    }
}

/// A segment that was truncated as a whole, before anything in it was durable, has the same first
/// raft index as the one that did that and is lost.
#[test]
fn what_a_lost_segment_held_does_not_go_into_the_one_that_it_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    append_each(&mut log, &singles(&mut LogPoint::INITIAL.clone(), 1, 3, 40), |_| 1, false);
    let all = sized(&mut LogPoint::INITIAL.clone(), 2, &[40, 40, LARGE]);
    append_each(&mut log, &all, |raft_index| raft_index - 1, true);
    let copy = killed(dir.path());
    let names = segments(copy.path());
    assert_eq!(firsts(&names), [2, 2, 4]);
    overwrite(copy.path(), &names[0], 0xA5);
    std::fs::remove_file(copy.path().join(&names[1])).unwrap();
    let (_, recovered) = open_damaged(killed(copy.path()).path());
    assert_eq!(reported(&recovered), [(2, 4)]);
    assert!(!recovered.corruption[0].path.ends_with(&names[0]), "{:?}", recovered.corruption);
    let (mut log, mut recovered) = open_damaged(copy.path());
    assert_eq!(repair(&mut log, &mut recovered, &all, 60), 1, "it is sent once");
    assert_eq!(check_reads(&log, &all), [0; 0]);
}

#[test]
fn a_bad_header_of_a_segment_that_a_lost_one_truncated_as_a_whole_is_not_reported() {
    // In the second case nothing before the cut was uncommitted.
    for (commit, kept) in [(5, 8), (13, 13)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let old = sized(&mut LogPoint::INITIAL.clone(), 1, &[&[40; 12][..], &[LARGE]].concat());
        append_each(&mut log, &old, |raft_index| raft_index.min(commit), true);
        let mut point = log.reader().point(kept).unwrap().unwrap();
        append_each(&mut log, &singles(&mut point, 2, 2, 40), |_| commit, true);
        let copy = killed(dir.path());
        let names = segments(copy.path());
        assert_eq!(firsts(&names), [2, 14, kept + 1]);
        damage_header(copy.path(), &names[1]);
        std::fs::remove_file(copy.path().join(&names[2])).unwrap();
        let (_, recovered) = open_damaged(copy.path());
        assert_eq!(reported(&recovered), [(commit + 1, kept + 3)]);
    }
}

#[test]
fn one_committed_record_before_a_lost_truncation_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let old = singles(&mut LogPoint::INITIAL.clone(), 1, 12, 40);
    append_each(&mut log, &old, |raft_index| 2.min(raft_index - 1), true);
    let mut point = log.reader().point(8).unwrap().unwrap();
    let new = singles(&mut point, 2, 2, 40);
    append_each(&mut log, &new, |_| 2, true);
    let copy = killed(dir.path());
    std::fs::remove_file(copy.path().join(&segments(copy.path())[1])).unwrap();
    let (log, recovered) = open_damaged(copy.path());
    assert_eq!((reported(&recovered), recovered.last.raft_index), (vec![(3, 11)], 2));
    assert_eq!(check_reads(&log, &old[..9]), [1, 2, 3, 4, 5, 6, 7, 8]);
}

/// Repaired records do not know the commit. Those before them still do.
#[test]
fn a_repaired_segment_does_not_hide_what_an_older_one_knows_to_be_committed() {
    let (dir, all) = closed(60, 300, 1, false);
    let names = segments(dir.path());
    std::fs::remove_file(dir.path().join(&names[1])).unwrap();
    let (mut log, mut recovered) = open_damaged(dir.path());
    repair(&mut log, &mut recovered, &all, 60);
    drop(log);
    let names = segments(dir.path());
    std::fs::remove_file(dir.path().join(&names[2])).unwrap();
    let (log, recovered) = open_damaged(dir.path());
    let start = recovered.corruption[0].raft_indexes.start;
    assert!(start + 2 >= firsts(&names)[1], "{:?}", recovered.corruption);
    assert_eq!(check_reads(&log, &all).first(), Some(&(start - 2)));
}

/// All that an older segment had written is durable and intact, but a lost one may have truncated
/// it. The newer one begins before its end, or behind it.
#[test]
fn a_whole_segment_before_a_lost_one_may_be_truncated() {
    for lost in [2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let old = singles(&mut LogPoint::INITIAL.clone(), 1, 8, 40);
        append_each(&mut log, &old, |raft_index| 5.min(raft_index - 1), true);
        let mut point = log.reader().point(7).unwrap().unwrap();
        let new = sized(&mut point, 2, &[&[40; 3][..lost], &[LARGE]].concat());
        append_each(&mut log, &new, |_| 5, false);
        let copy = killed(dir.path());
        let names = segments(copy.path());
        let newer = 8 + lost as u64;
        assert_eq!(firsts(&names), [2, 8, newer]);
        std::fs::remove_file(copy.path().join(&names[1])).unwrap();
        damage_header(copy.path(), &names[2]);
        let all = [&old[..6], &new].concat();
        let (log, recovered) = open_damaged(copy.path());
        assert_eq!(reported(&recovered), [(6, newer), (newer, newer)]);
        assert_eq!(check_reads(&log, &all), (4..newer - 2).collect::<Vec<_>>());
        drop(log);
        is_made_whole(copy.path(), &all, 60);
    }
}

/// Nothing proves that the one in the middle held anything, but its name is the right one.
#[test]
fn an_empty_segment_between_two_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let all = sized(&mut LogPoint::INITIAL.clone(), 1, &[LARGE, LARGE, LARGE]);
    append_each(&mut log, &all[..1], |_| 1, true);
    append_each(&mut log, &all[1..], |_| 1, false);
    let copy = killed(dir.path());
    let names = segments(copy.path());
    assert_eq!(firsts(&names), [2, 3, 4]);
    overwrite(copy.path(), &names[1], 0);
    damage_header(copy.path(), &names[2]);
    let (_, recovered) = open_damaged(copy.path());
    assert_eq!(reported(&recovered), [(3, 4), (4, 4)]);
    is_made_whole(copy.path(), &all, 60);
}

/// The segment before the newest one never counted, and has an id that is not free.
#[test]
fn what_a_lost_first_segment_held_does_not_take_the_id_of_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let old = singles(&mut point, 1, 6, 40);
    append_each(&mut log, &old, |_| 1, true);
    append_each(&mut log, &singles(&mut point, 1, 1, LARGE), |_| 1, false);
    let mut point = log.reader().point(5).unwrap().unwrap();
    let new = singles(&mut point, 2, 2, 40);
    append_each(&mut log, &new, |_| 1, true);
    let copy = killed(dir.path());
    let names = segments(copy.path());
    assert_eq!(firsts(&names), [2, 8, 6]);
    std::fs::remove_file(copy.path().join(&names[0])).unwrap();
    overwrite(copy.path(), &names[1], 0);
    let all = [&old[..4], &new].concat();
    let (mut log, mut recovered) = open_damaged(copy.path());
    assert_eq!(reported(&recovered), [(2, 6)]);
    repair(&mut log, &mut recovered, &all, 60);
    assert_eq!(check_reads(&log, &all), [0; 0]);
    drop(log);
    assert!(segments(copy.path()).contains(&names[0]), "{:?}", segments(copy.path()));
}

#[test]
fn a_bad_header_of_an_empty_segment_is_reported_beside_other_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let all = singles(&mut point, 1, 8, 40);
    append_each(&mut log, &all, |_| 1, true);
    append_each(&mut log, &singles(&mut point, 1, 1, LARGE), |_| 1, false);
    let copy = killed(dir.path());
    let names = segments(copy.path());
    overwrite(copy.path(), &names[1], 0);
    damage_header(copy.path(), &names[1]);
    flip(&copy.path().join(&names[0]), 4096 + 3 * 176 + 20, 1);
    let (_, recovered) = open_damaged(copy.path());
    assert_eq!(reported(&recovered), [(5, 6), (10, 10)]);
    assert!(recovered.corruption[1].path.ends_with(&names[1]), "{:?}", recovered.corruption);
    is_made_whole(copy.path(), &all, 60);
}

/// The record after it is the only evidence that the last record of a segment was durable, or the
/// name of its file, if nothing in that is readable.
#[test]
fn a_damaged_record_before_the_newest_segment_is_reported() {
    for is_ruined in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let mut point = LogPoint::INITIAL;
        let all = singles(&mut point, 1, 9, 300);
        append_each(&mut log, &all[..8], |_| 1, true);
        append_each(&mut log, &all[8..], |_| 1, false);
        let copy = killed(dir.path());
        let names = segments(copy.path());
        assert_eq!(firsts(&names), [2, 10]);
        damage_watermark(copy.path());
        flip(&copy.path().join(&names[0]), 4096 + 7 * 440 + 20, 1);
        if is_ruined {
            std::fs::write(copy.path().join(&names[1]), [0xA5; 8192]).unwrap();
        }
        let (log, recovered) = open_damaged(copy.path());
        assert_eq!(reported(&recovered)[0], (9, 10), "{:?}", recovered.corruption);
        drop(log);
        is_made_whole(copy.path(), &all[..if is_ruined { 8 } else { 9 }], 60);
    }
}
