//! Tests of the whole log, on a real disk.

mod aging;
mod backup;
mod corrupt;
mod golden;
#[cfg(target_os = "linux")]
mod new_base;
mod opening;
#[cfg(unix)]
mod recycled;
mod repaired;
mod resources;
mod salvaged;
#[cfg(unix)]
mod sizes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::fs::Disk;
use super::metadata::STATE_NAME;
use super::{DiskLog, SegmentOptions, format, tools};
use crate::batch::OpenBatch;
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{
    Base, Batch, DirectoryIdentity, HardState, LogOwner, LogPoint, Recovered, RepairAction,
    Storage, StorageError,
};

const SMALL: SegmentOptions = SegmentOptions::small();

pub(super) fn owner() -> LogOwner {
    let membership = Membership::of_voters([1, 2, 3].map(NodeId::from));
    LogOwner::new("orders", 1, 7, membership)
}

pub(super) fn open(dir: &Path) -> (DiskLog, Recovered) {
    let mut log = DiskLog::new(dir, SMALL);
    let recovered = log.open(&owner()).unwrap();
    (log, recovered)
}

/// The batch of `payloads` after `point`, which is advanced.
pub(super) fn batch(point: &mut LogPoint, term: u64, payloads: &[&[u8]]) -> Batch {
    let body = if payloads.is_empty() {
        bytes::Bytes::new()
    } else {
        let mut open = OpenBatch::with_capacity(0);
        payloads.iter().for_each(|payload| open.push(payload, crc32fast::hash(payload)));
        open.close(point.next_index, point.next_position, point.timestamp + 1)
    };
    let batch = Batch::new(point.raft_index + 1, term, body).unwrap();
    *point = batch.point_after(point).unwrap();
    batch
}

/// `count` batches of one entry each, of `bytes` bytes.
pub(super) fn singles(point: &mut LogPoint, term: u64, count: usize, bytes: usize) -> Vec<Batch> {
    (0..count)
        .map(|_| {
            let payload = vec![point.raft_index as u8 ^ term as u8; bytes];
            batch(point, term, &[&payload])
        })
        .collect()
}

pub(super) fn sync<D: Disk>(log: &mut DiskLog<D>) {
    log.begin_sync().wait().unwrap();
}

pub(super) fn run_background_tasks<D: Disk>(log: &mut DiskLog<D>) {
    while let Some(background_task) = log.next_task() {
        background_task();
    }
}

/// All batches that the log holds.
fn contents(log: &DiskLog) -> Vec<Batch> {
    let reader = log.reader();
    let batches = reader.batches(reader.base().point.raft_index + 1, u64::MAX, u64::MAX).unwrap();
    batches.iter().for_each(|batch| batch.verify().unwrap());
    batches
}

pub(super) fn segments(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    names
}

/// Every file with its bytes and the time of its last change.
pub(super) fn photograph(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            (
                path.clone(),
                (std::fs::read(&path).unwrap(), path.metadata().unwrap().modified().unwrap()),
            )
        })
        .collect()
}

pub(super) fn flip(path: &Path, at: usize, mask: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= mask;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_new_log_is_empty_and_begins_at_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovered) = open(&dir.path().join("a"));
    assert_eq!((recovered.base.point, recovered.last), (LogPoint::INITIAL, LogPoint::INITIAL));
    assert_eq!(recovered.hard_state, HardState { term: 1, vote: None, commit: 1 });
    assert_eq!(recovered.identity.incarnation, 1);
    assert_eq!(log.reader().batch_containing(0).unwrap(), None);
}

#[test]
fn what_was_appended_reads_back_at_once_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let mut all = vec![batch(&mut point, 2, &[])];
    for bytes in [0, 1, 7, 8, 9, 4095, 4096, 4097, 100_000] {
        all.push(batch(&mut point, 2, &[&vec![bytes as u8; bytes], b"", b"x"]));
    }
    log.append(&all[..3], 0).unwrap();
    log.append(&all[3..], 4).unwrap();
    assert_eq!(contents(&log), all);
    sync(&mut log);
    run_background_tasks(&mut log);
    assert_eq!(contents(&log), all);
    let directory = {
        drop(log);
        let (log, recovered) = open(dir.path());
        assert_eq!(
            (recovered.last, recovered.hard_state.commit, recovered.hard_state.term),
            (point, 4, 1)
        );
        assert_eq!(recovered.identity.incarnation, 2);
        assert_eq!(contents(&log), all);
        let reader = log.reader();
        for index in 0..point.next_index {
            let batch = reader.batch_containing(index).unwrap().unwrap();
            assert_eq!(batch.entry(index).unwrap().unwrap().index(), index);
        }
        assert_eq!(reader.batch_containing(point.next_index).unwrap(), None);
        assert_eq!(reader.point(point.raft_index).unwrap(), Some(point));
        assert_eq!(reader.point(point.raft_index + 1).unwrap(), None);
        recovered.identity.directory
    };
    assert_eq!(
        open(dir.path()).1.identity,
        DirectoryIdentity { directory, incarnation: 3, complete: true }
    );
}

#[test]
fn payloads_lie_in_the_file_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    log.append(&[batch(&mut LogPoint::INITIAL.clone(), 1, &[b"needle in a haystack"])], 0).unwrap();
    let bytes = std::fs::read(dir.path().join(&segments(dir.path())[0])).unwrap();
    assert!(bytes.windows(20).any(|window| window == b"needle in a haystack"));
}

#[test]
fn a_log_of_many_segments_reads_the_same_sealed_or_not() {
    for sealed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let mut point = LogPoint::INITIAL;
        let all = singles(&mut point, 1, 200, 500);
        for some in all.chunks(7) {
            log.append(some, 0).unwrap();
            sync(&mut log);
            if sealed {
                run_background_tasks(&mut log);
            }
        }
        assert!(segments(dir.path()).len() > 10);
        assert_eq!(contents(&log), all);
        drop(log);
        let (mut log, recovered) = open(dir.path());
        assert_eq!(recovered.last, point);
        assert_eq!(contents(&log), all);
        let more = singles(&mut point, 2, 30, 500);
        log.append(&more, 0).unwrap();
        run_background_tasks(&mut log);
        assert_eq!(contents(&log), [&all[..], &more].concat());
        for index in 0..point.next_index {
            assert_eq!(
                log.reader().batch_containing(index).unwrap().unwrap().first_index(),
                Some(index)
            );
        }
    }
}

#[test]
fn a_conflicting_tail_is_replaced_and_what_was_read_of_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let old = singles(&mut point, 1, 40, 500);
    log.append(&old, 0).unwrap();
    sync(&mut log);
    run_background_tasks(&mut log);
    let read = contents(&log);
    let (mut expected, mut term) = (old.clone(), 2);
    for kept in [35, 30, 17, 16, 3, 0] {
        let mut point = log.reader().point(kept as u64 + 1).unwrap().unwrap();
        let new = singles(&mut point, term, 20, 700);
        log.append(&new, 0).unwrap();
        expected.truncate(kept);
        expected.extend(new);
        term += 1;
        assert_eq!(contents(&log), expected);
        if term % 2 == 0 {
            sync(&mut log);
            run_background_tasks(&mut log);
        }
        drop(log);
        log = open(dir.path()).0;
        assert_eq!(contents(&log), expected, "after reopening");
    }
    assert_eq!(read, old, "bytes that were handed out have not changed");
    sync(&mut log);
    run_background_tasks(&mut log);
    assert_eq!(segments(dir.path()).len(), 20 / 4, "segments with nothing left are removed");
}

#[test]
fn what_does_not_continue_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let all = singles(&mut point, 1, 3, 10);
    for wrong in [&all[1..], &[all[0].clone(), all[2].clone()]] {
        assert!(matches!(log.append(wrong, 0), Err(StorageError::NotContiguous(_))));
    }
    assert_eq!(contents(&log), []);
    log.append(&all, 0).unwrap();
    let at_the_base = Batch::new(1, 1, bytes::Bytes::new()).unwrap();
    assert!(matches!(log.append(&[at_the_base], 0), Err(StorageError::NotContiguous(_))));
}

#[test]
fn purging_gives_up_whole_segments_below_what_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let all = singles(&mut point, 1, 100, 1000);
    log.append(&all, 0).unwrap();
    sync(&mut log);
    run_background_tasks(&mut log);
    let held = log.reader().batch_containing(3).unwrap().unwrap().entry(3).unwrap().unwrap();
    let before = segments(dir.path()).len();

    log.purge(50, 0).unwrap();
    assert_eq!(
        log.reader().base().point,
        LogPoint::INITIAL,
        "nothing is purged that is not committed"
    );
    log.purge(50, 30).unwrap();
    let base = log.reader().base().point;
    assert!((20..=30).contains(&base.raft_index), "{base:?}");
    assert!(matches!(
        log.reader().batch_containing(base.next_index - 1),
        Err(StorageError::Purged { first }) if first == base.next_index
    ));
    assert!(matches!(
        log.reader().batches(base.raft_index, 90, 1),
        Err(StorageError::Purged { .. })
    ));
    run_background_tasks(&mut log);
    assert_eq!(segments(dir.path()).len(), before, "files stay until the new base is durable");
    sync(&mut log);
    run_background_tasks(&mut log);
    assert!(segments(dir.path()).len() < before);
    assert_eq!(&*held, &[4 ^ 1; 1000][..], "an entry stays readable after its segment is gone");

    log.purge(u64::MAX, u64::MAX).unwrap();
    drop(log);
    let (log, recovered) = open(dir.path());
    assert_eq!(recovered.last, point);
    assert!(recovered.base.point.raft_index > 90);
    assert_eq!(contents(&log), all[recovered.base.point.raft_index as usize - 1..]);
}

/// Regression, from a power cut on ext4: the new base was durable and the segment that begins there
/// was not, and what the truncation had replaced, which was durable, was obsolete with the old
/// base.
#[test]
fn a_purge_waits_until_the_segment_of_a_cut_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    log.append(&singles(&mut point, 1, 3, 10), 0).unwrap();
    sync(&mut log);
    let kept = log.reader().point(2).unwrap().unwrap();
    log.append(&singles(&mut kept.clone(), 2, 1, 10), 0).unwrap();
    log.purge(u64::MAX, u64::MAX).unwrap();
    assert_eq!(log.reader().base().point, LogPoint::INITIAL);
    sync(&mut log);
    log.purge(u64::MAX, u64::MAX).unwrap();
    assert_eq!(log.reader().base().point, kept);
}

#[test]
fn a_reset_begins_anew_behind_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    log.append(&singles(&mut point, 1, 100, 1000), 0).unwrap();
    sync(&mut log);
    for base in [1000, 50] {
        let point = LogPoint {
            raft_index: base,
            term: 5,
            next_index: 77,
            next_position: 7,
            timestamp: 9,
            chain: 3,
        };
        let base = Base { point, membership: Membership::of_voters([NodeId::from(4)]) };
        log.reset(&base).unwrap();
        assert_eq!(contents(&log), []);
        assert_eq!(log.reader().base(), base);
        let mut last = point;
        let new = singles(&mut last, 6, 20, 1000);
        log.append(&new, 0).unwrap();
        sync(&mut log);
        run_background_tasks(&mut log);
        drop(log);
        let (reopened, recovered) = open(dir.path());
        assert_eq!((&recovered.base, recovered.last), (&base, last));
        assert_eq!(contents(&reopened), new);
        log = reopened;
    }
    assert_eq!(segments(dir.path()).len(), 20_usize.div_ceil(3), "the old segments are gone");
}

#[test]
fn hard_state_and_peers_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    for term in 2..20 {
        log.save_hard_state(HardState { term, vote: Some(NodeId::from(term % 3 + 1)), commit: 1 })
            .unwrap();
        log.save_peer(NodeId::from(term % 2 + 2), u128::from(term)).unwrap();
    }
    drop(log);
    let (_, recovered) = open(dir.path());
    assert_eq!(
        recovered.hard_state,
        HardState { term: 19, vote: Some(NodeId::from(2)), commit: 1 }
    );
    assert_eq!(recovered.peers, [(NodeId::from(2), 18), (NodeId::from(3), 19)]);
}

#[test]
fn a_directory_is_open_once_and_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let mut second = DiskLog::new(dir.path(), SMALL);
    assert!(matches!(second.open(&owner()), Err(StorageError::InUse { .. })));
    drop(log);
    for wrong in [
        LogOwner { group: "other".to_owned(), ..owner() },
        LogOwner { node: NodeId::from(2), ..owner() },
        LogOwner { cluster: 8, ..owner() },
        LogOwner { membership: Membership::of_voters([NodeId::from(1)]), ..owner() },
    ] {
        assert!(matches!(second.open(&wrong), Err(StorageError::Mismatch { .. })), "{wrong:?}");
    }
    second.open(&owner()).unwrap();
}

#[test]
fn a_directory_that_lost_its_identity_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    assert!(matches!(
        DiskLog::new(dir.path(), SMALL).open(&owner()),
        Err(StorageError::Corrupt { .. })
    ));
}

/// Copies the files of an open log, as a crash of the process would leave them.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_to_whole_batches_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let synced = singles(&mut point, 1, 3, 40);
    log.append(&synced, 0).unwrap();
    sync(&mut log);
    let torn = [
        batch(&mut point, 1, &[b"one", b"two"]),
        batch(&mut point, 1, &[]),
        batch(&mut point, 1, &[&[7; 50]]),
    ];
    log.append(&torn, 0).unwrap();
    let all = [&synced[..], &torn].concat();
    let copy = killed(dir.path());
    let path = copy.path().join(&segments(copy.path())[0]);
    let whole = std::fs::read(&path).unwrap();
    let state = std::fs::read(copy.path().join("state")).unwrap();
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let begin = 4096 + 3 * 176;
    for cut in begin..end {
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(copy.path().join("state"), &state).unwrap();
        segments(copy.path())[1..]
            .iter()
            .for_each(|name| std::fs::remove_file(copy.path().join(name)).unwrap());
        let (mut log, recovered) = open(copy.path());
        let found = contents(&log);
        assert!(found.len() >= 3 && found.len() < 6, "cut at {cut}: {}", found.len());
        assert_eq!(found, all[..found.len()]);
        if cut % 16 != 0 {
            continue;
        }
        let mut point = recovered.last;
        let more = singles(&mut point, 2, 2, 10);
        log.append(&more, 0).unwrap();
        drop(log);
        assert_eq!(contents(&open(copy.path()).0), [&all[..found.len()], &more].concat());
    }
}

#[cfg(unix)]
#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("log");
    let (mut log, _) = open(&dir);
    log.append(&singles(&mut LogPoint::INITIAL.clone(), 1, 1, 1), 0).unwrap();
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            entry.file_name()
        );
    }
}
