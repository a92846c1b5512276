//! The tools, on directories that are intact, corrupt, open or hold no log.

use super::super::tests::{
    batch, flip, open, owner, photograph, run_background_tasks, segments, singles, sync,
};
use super::*;
use crate::storage::Storage;

/// A closed log of two sealed segments and an open one: batches of one entry, and one of three.
fn closed_log() -> (tempfile::TempDir, LogPoint) {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    let leading = batch(&mut point, 2, &[]);
    log.append(&[leading], 1).unwrap();
    for _ in 0..14 {
        log.append(&singles(&mut point, 2, 1, 500), point.raft_index).unwrap();
    }
    let three = batch(&mut point, 3, &[b"one", b"", b"three"]);
    log.append(&[three], point.raft_index).unwrap();
    sync(&mut log);
    run_background_tasks(&mut log);
    sync(&mut log);
    (dir, point)
}

fn verified(dir: &Path) -> Verification {
    verify(dir).unwrap()
}

fn dumped(dir: &Path, indexes: Range<u64>) -> Vec<Result<u64, String>> {
    let mut all = Vec::new();
    let each = |entry: Result<Entry, StorageError>| {
        all.push(entry.map(|entry| entry.index()).map_err(|error| error.to_string()));
        ControlFlow::Continue(())
    };
    dump(dir, indexes, each).unwrap();
    all
}

#[test]
fn a_sound_log_is_counted_and_not_touched() {
    let (dir, point) = closed_log();
    let before = (photograph(dir.path()), dir.path().metadata().unwrap().modified().unwrap());
    let mut steps = Vec::new();
    let found = verify_with(dir.path(), |progress| steps.push(progress)).unwrap();
    assert_eq!(found.corruption, []);
    assert_eq!((found.batches, found.entries, found.payload_bytes), (16, 17, point.next_position));
    assert_eq!(steps.first(), Some(&Progress { done: 1, total: 16 }));
    assert_eq!(steps.last(), Some(&Progress { done: 16, total: 16 }));
    let inspection = inspect(dir.path()).unwrap();
    assert_eq!(
        (inspection.last, inspection.base.point, inspection.owner),
        (point, LogPoint::INITIAL, owner())
    );
    assert_eq!(inspection.identity.incarnation, 1);
    let kinds: Vec<_> = inspection.segments.iter().map(|segment| segment.is_sealed).collect();
    assert_eq!(kinds, [true, true, false]);
    assert_eq!(dumped(dir.path(), 0..u64::MAX), (0..17).map(Ok).collect::<Vec<_>>());
    assert_eq!(dumped(dir.path(), 7..14), (7..14).map(Ok).collect::<Vec<_>>());
    assert_eq!(
        (photograph(dir.path()), dir.path().metadata().unwrap().modified().unwrap()),
        before
    );
}

#[test]
fn each_damaged_batch_is_named_and_the_others_are_read() {
    let (dir, _) = closed_log();
    let sound = verified(dir.path()).inspection;
    let first = dir.path().join(&sound.segments[0].name);
    // In the second and the fourth record: a header, and a payload.
    let at = |record: usize| 4096 + 96 + (record - 1) * 640;
    flip(&first, at(1) + 20, 1);
    flip(&first, at(3) + 96 + 32 + 300, 1);
    let found = verified(dir.path());
    let named: Vec<_> = found
        .corruption
        .iter()
        .map(|corruption| {
            (
                corruption.path.clone(),
                corruption.offset,
                corruption.raft_indexes.clone(),
                corruption.term,
            )
        })
        .collect();
    assert_eq!(
        named,
        [(first.clone(), at(1) as u64, 3..4, Some(2)), (first, at(3) as u64, 5..6, Some(2))]
    );
    assert_eq!((found.batches, found.entries), (14, 15));
    let dumped = dumped(dir.path(), 0..u64::MAX);
    assert_eq!(dumped.len(), 17);
    assert_eq!(dumped.iter().filter(|entry| entry.is_err()).count(), 2);
}

#[test]
fn damage_beside_the_batches_is_found_too() {
    let (dir, _) = closed_log();
    let sealed = dir.path().join(&verified(dir.path()).inspection.segments[1].name);
    let whole = std::fs::read(&sealed).unwrap();
    let footer_at = u64::from_le_bytes(whole[512 + 24..512 + 32].try_into().unwrap());
    for (path, at) in
        [(&sealed, 20), (&sealed, footer_at as usize + 9), (&dir.path().join("identity"), 100)]
    {
        flip(path, at, 4);
        let found = verified(dir.path());
        assert_eq!(
            (found.corruption.len(), found.batches),
            (1, 16),
            "{} at {at}: {:?}",
            path.display(),
            found.corruption
        );
        assert_eq!(
            (&found.corruption[0].path, found.corruption[0].raft_indexes.is_empty()),
            (path, true)
        );
        flip(path, at, 4);
    }
    assert_eq!(verified(dir.path()).corruption, []);
}

#[test]
fn a_batch_with_a_sound_checksum_that_does_not_continue_the_log_is_damage() {
    let (dir, _) = closed_log();
    let inspection = verified(dir.path()).inspection;
    let path = dir.path().join(&inspection.segments[0].name);
    let (id, _) = format::parse_segment_name(&inspection.segments[0].name).unwrap();
    let seed = format::checksum_seed(inspection.identity.directory, id);
    let (mut bytes, at) = (std::fs::read(&path).unwrap(), 4096 + 96 + 640);
    let mut header = format::RecordHeader::decode(&bytes[at..], id, seed).unwrap();
    header.point.chain ^= 1;
    let encoded = header.encode(seed, &bytes[at + 96..at + 128]);
    bytes[at..at + 96].copy_from_slice(&encoded);
    std::fs::write(&path, bytes).unwrap();
    let found: Vec<_> = verified(dir.path())
        .corruption
        .into_iter()
        .map(|corruption| (corruption.offset, corruption.raft_indexes))
        .collect();
    assert_eq!(found, [(at as u64, 4..5)]);
}

#[test]
fn a_missing_segment_is_told_by_its_raft_indexes() {
    let (dir, _) = closed_log();
    let sound = verified(dir.path()).inspection;
    std::fs::remove_file(dir.path().join(&sound.segments[1].name)).unwrap();
    let found = verified(dir.path());
    let lost: Vec<_> =
        found.corruption.iter().map(|corruption| corruption.raft_indexes.clone()).collect();
    assert_eq!(lost, [sound.segments[1].raft_indexes.clone()]);
}

#[test]
fn an_open_log_is_refused_and_a_log_that_is_looked_at_does_not_open() {
    let (dir, _) = closed_log();
    let opened = OpenedLog::open(dir.path()).unwrap();
    inspect(dir.path()).unwrap();
    assert!(matches!(
        super::super::DiskLog::new(dir.path(), Default::default()).open(&owner()),
        Err(StorageError::InUse { .. })
    ));
    drop(opened);
    let (_log, _) = open(dir.path());
    assert!(matches!(inspect(dir.path()), Err(StorageError::InUse { .. })));
}

#[test]
fn what_is_no_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(inspect(dir.path().join("nothing")), Err(StorageError::Io { .. })));
    assert!(matches!(inspect(dir.path()), Err(StorageError::Io { .. })));
    assert_eq!(segments(dir.path()), [""; 0]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
