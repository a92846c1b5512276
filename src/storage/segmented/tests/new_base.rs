//! A corrupt log that begins anew behind what it lost.

use super::corrupt::{closed, open_damaged};
use super::repaired::{open_verified, repair};
use super::*;

/// The log points before and after each of `all`.
fn points_of(all: &[Batch]) -> Vec<LogPoint> {
    let mut points = vec![LogPoint::INITIAL];
    all.iter().for_each(|batch| points.push(batch.point_after(points.last().unwrap()).unwrap()));
    points
}

/// Moves the base of the corrupt log in `dir` to `point`, and repairs the rest: then it holds
/// `kept`, accepts appends, and is intact at the next opening.
#[track_caller]
pub(super) fn begins_behind(
    mut log: DiskLog,
    dir: &Path,
    point: LogPoint,
    all: &[Batch],
    kept: &[Batch],
) {
    let mut recovered = log.repair(RepairAction::TruncateHead(point)).unwrap();
    assert_eq!(recovered.base.point, point);
    if !recovered.corruption.is_empty() {
        repair(&mut log, &mut recovered, all, 2);
    }
    let mut end = kept.iter().fold(point, |point, batch| batch.point_after(&point).unwrap());
    assert_eq!((recovered.base.point, recovered.last), (point, end));
    assert_eq!(contents(&log), kept);
    let more = singles(&mut end, 3, 40, 300);
    log.append(&more, point.raft_index).unwrap();
    sync(&mut log);
    run_background_tasks(&mut log);
    drop(log);
    let (log, again) = open(dir);
    assert_eq!((&again.corruption[..], again.base.point, again.last), (&[][..], point, end));
    assert_eq!(contents(&log), [kept, &more].concat());
    drop(log);
    assert_eq!(tools::verify(dir).unwrap().corruption, []);
}

#[test]
fn a_log_may_begin_behind_what_it_lost_or_in_the_middle_of_it() {
    for hits in [
        &[0][..],
        &[2],
        &[2, 3, 4],
        &[1, 4, 5, 9],
        &[8, 9, 10],
        &[11],
        &[9, 10, 11],
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    ] {
        for byte in [20, 150] {
            for base in
                [0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 20].into_iter().filter(|base| *base >= hits[0])
            {
                let (dir, all) = closed(12, 40, 1, false);
                let points = points_of(&all);
                let mut far = points[12];
                singles(&mut far, 1, 9, 40);
                let point = points.get(base + 1).copied().unwrap_or(far);
                let path = dir.path().join(&segments(dir.path())[0]);
                hits.iter().for_each(|hit| flip(&path, 4096 + hit * 176 + byte, 0x40));
                let (log, _) = open_damaged(dir.path());
                begins_behind(
                    log,
                    dir.path(),
                    point,
                    &all,
                    all.get(base + 1..).unwrap_or_default(),
                );
            }
        }
    }
}

#[test]
fn a_log_that_lost_files_may_begin_anywhere_in_what_they_held() {
    for sealed in [false, true] {
        let (dir, all) = closed(60, 300, 5, sealed);
        let (names, points) = (segments(dir.path()), points_of(&all));
        let first = |name: &String| format::parse_segment_name(name).unwrap().1 as usize - 2;
        for lost in [0..1, 1..3, 2..names.len(), 0..names.len(), names.len() - 1..names.len()] {
            let held = first(&names[lost.start])..names.get(lost.end).map_or(all.len(), first);
            for base in [held.start, held.start + 1, (held.start + held.end) / 2, held.end - 1]
                .into_iter()
                .filter(|base| *base < all.len())
            {
                let copy = killed(dir.path());
                names[lost.clone()]
                    .iter()
                    .for_each(|name| std::fs::remove_file(copy.path().join(name)).unwrap());
                let (log, _) = open_damaged(copy.path());
                begins_behind(log, copy.path(), points[base + 1], &all, &all[base + 1..]);
            }
        }
    }
}

#[test]
fn a_log_may_begin_in_the_middle_of_a_sealed_segment() {
    let (dir, all) = closed(60, 300, 60, true);
    let (names, points) = (segments(dir.path()), points_of(&all));
    let first = |name: &String| format::parse_segment_name(name).unwrap().1 as usize - 2;
    let (from, to) = (first(&names[1]), first(&names[2]));
    for hits in [vec![from], vec![to - 1], vec![from, from + 1, to - 2], (from..to).collect()] {
        for base in hits[0]..to {
            let copy = killed(dir.path());
            let bytes = std::fs::read(copy.path().join(&names[1])).unwrap();
            for hit in &hits {
                let at = bytes
                    .windows(all[*hit].body().len())
                    .position(|window| window == *all[*hit].body())
                    .unwrap();
                flip(&copy.path().join(&names[1]), at - 76, 4);
            }
            let (log, recovered) = open_verified(copy.path());
            assert_eq!(recovered.corruption[0].raft_indexes.start, hits[0] as u64 + 2);
            begins_behind(log, copy.path(), points[base + 1], &all, &all[base + 1..]);
        }
    }
}

#[test]
fn of_another_log_nothing_stays_behind_a_base() {
    for (hit, base) in [(2, 4), (2, 2), (4, 7)] {
        let (dir, all) = closed(12, 40, 1, false);
        flip(&dir.path().join(&segments(dir.path())[0]), 4096 + hit * 176 + 20, 1);
        let point = points_of(&all)[base + 1];
        let (log, _) = open_damaged(dir.path());
        begins_behind(log, dir.path(), LogPoint { chain: point.chain ^ 1, ..point }, &all, &[]);
    }
}
