//! Purged segments are recycled, and readers are not affected.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use super::super::spare::SPARE_SUFFIX;
use super::*;

/// The files of the log by inode.
fn files(dir: &Path) -> BTreeMap<u64, String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.metadata().unwrap().ino(), entry.file_name().into_string().unwrap()))
        .collect()
}

/// Keeps the inodes of removed files from being reused.
fn hold(dir: &Path) -> Vec<std::fs::File> {
    files(dir).values().map(|name| std::fs::File::open(dir.join(name)).unwrap()).collect()
}

/// A log of several full segments, all durable and sealed.
fn filled(dir: &Path) -> (DiskLog, Vec<Batch>, LogPoint) {
    let (mut log, _) = open(dir);
    let mut point = LogPoint::INITIAL;
    let all = singles(&mut point, 1, 40, 2_500);
    all.iter().for_each(|batch| append(&mut log, batch));
    (log, all, point)
}

fn append(log: &mut DiskLog, batch: &Batch) {
    log.append(std::slice::from_ref(batch), batch.raft_index()).unwrap();
    sync(log);
    run_background_tasks(log);
}

/// Purges all but the last `kept` entries. Returns the files that are no segments any more.
fn purge(log: &mut DiskLog, dir: &Path, point: &LogPoint, kept: u64) -> Vec<u64> {
    let before = files(dir);
    log.purge(point.next_index - kept, point.raft_index).unwrap();
    sync(log);
    run_background_tasks(log);
    let after = files(dir);
    let is_segment = |ino: &u64| after.get(ino).is_some_and(|name| name.ends_with(".seg"));
    before
        .into_iter()
        .filter(|(ino, name)| name.ends_with(".seg") && !is_segment(ino))
        .map(|(ino, _)| ino)
        .collect()
}

#[test]
fn a_purged_segment_without_readers_becomes_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, mut all, mut point) = filled(dir.path());
    let purged = purge(&mut log, dir.path(), &point, 10);
    let spares = || {
        files(dir.path())
            .into_iter()
            .filter(|(_, name)| name.ends_with(SPARE_SUFFIX))
            .map(|(ino, _)| ino)
    };
    assert!(
        spares().any(|ino| purged.contains(&ino)),
        "none of {purged:?} is kept: {:?}",
        files(dir.path())
    );
    assert!(spares().count() <= 2, "what is purged makes room: {:?}", files(dir.path()));
    for batch in singles(&mut point, 2, 20, 2_000) {
        append(&mut log, &batch);
        all.push(batch);
    }
    assert!(
        files(dir.path()).iter().any(|(ino, name)| purged.contains(ino) && name.ends_with(".seg")),
        "{:?}",
        files(dir.path())
    );
    let expected = |log: &DiskLog| {
        all.iter()
            .filter(|batch| batch.raft_index() > log.reader().base().point.raft_index)
            .cloned()
            .collect()
    };
    let read: Vec<Batch> = expected(&log);
    assert_eq!(contents(&log), read);

    // The old records in the last segment are ignored, by a log that was not closed and by the
    // tools.
    let copy = tempfile::tempdir().unwrap();
    for name in files(dir.path()).values() {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let (mut log, recovered) = open(copy.path());
    assert_eq!((recovered.last, recovered.corruption), (point, Vec::new()));
    assert_eq!(contents(&log), read);
    append(&mut log, &singles(&mut point, 3, 1, 100)[0]);
    drop(log);
    let verified = tools::verify(copy.path()).unwrap();
    assert_eq!((verified.corruption, verified.inspection.last), (Vec::new(), point));
}

/// Regression: a full segment grew by its footer, so its length was not that of a segment: purged
/// ones were removed, and new ones created.
#[test]
fn a_full_segment_holds_its_footer() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let mut point = LogPoint::INITIAL;
    for batch in singles(&mut point, 1, 200, 40) {
        append(&mut log, &batch);
    }
    let names = segments(dir.path());
    assert!(names.len() > 3, "{names:?}");
    for name in names {
        assert_eq!(
            std::fs::metadata(dir.path().join(&name)).unwrap().len(),
            SMALL.segment_bytes,
            "{name}"
        );
    }
    let _held = hold(dir.path());
    let purged = purge(&mut log, dir.path(), &point, 10);
    assert!(
        files(dir.path()).keys().any(|ino| purged.contains(ino)),
        "none of {purged:?} is kept: {:?}",
        files(dir.path())
    );
}

#[test]
fn a_purged_segment_is_kept_though_another_was_ordered_at_the_same_time() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, point) = filled(dir.path());
    for spare in log.writer().unwrap().shared.spares.ready.lock().drain(..) {
        std::fs::remove_file(dir.path().join(&spare.name)).unwrap();
    }
    let (before, _held) = (files(dir.path()), hold(dir.path()));
    log.purge(point.next_index - 10, point.raft_index).unwrap();
    sync(&mut log);
    let background_tasks: Vec<_> = std::iter::from_fn(|| log.next_task()).collect();
    assert!(background_tasks.len() > 1, "a spare is ordered as well");
    background_tasks.into_iter().for_each(|background_task| background_task());
    let after = files(dir.path());
    let kept = after
        .iter()
        .filter(|(ino, name)| before.contains_key(ino) && name.ends_with(SPARE_SUFFIX))
        .count();
    assert!(kept > 0, "{before:?} became {after:?}");
}

/// What a reader of a purged segment holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    /// A slice of every segment.
    Entries,
    /// The old segment set.
    SegmentSet,
}

/// Regression: a segment is published when it is active, and again when it is sealed. Only
/// references to the second kept its file from being recycled: an entry that was read before the
/// sealing, and held over a purge, changed under its reader.
#[test]
fn a_segment_with_readers_is_never_written_again() {
    for (held, is_sealed) in [
        (Held::Entries, true),
        (Held::Entries, false),
        (Held::SegmentSet, true),
        (Held::SegmentSet, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        let mut point = LogPoint::INITIAL;
        let all = singles(&mut point, 1, 40, 2_500);
        for batch in &all {
            log.append(std::slice::from_ref(batch), batch.raft_index()).unwrap();
            sync(&mut log);
        }
        if is_sealed {
            run_background_tasks(&mut log);
        }
        let before = (held == Held::SegmentSet).then(|| log.live.load_full());
        let mut entries: Vec<_> =
            (0..30).map(|index| log.reader().entry(index).unwrap().unwrap()).collect();
        if held == Held::SegmentSet {
            entries.clear();
        }
        run_background_tasks(&mut log);

        let _held = hold(dir.path());
        let purged = purge(&mut log, dir.path(), &point, 10);
        assert!(purged.len() > 1, "{purged:?}");
        for batch in singles(&mut point, 2, 60, 2_000) {
            append(&mut log, &batch);
        }
        assert!(
            files(dir.path()).keys().all(|ino| !purged.contains(ino)),
            "{held:?}, {is_sealed}: {purged:?} in {:?}",
            files(dir.path())
        );
        for (entry, batch) in entries.iter().zip(&all) {
            assert_eq!(Some(entry), batch.entry(entry.index).unwrap().as_ref());
        }
        drop(before);
    }
}
