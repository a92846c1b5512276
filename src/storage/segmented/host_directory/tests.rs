//! Hosts on a real disk.

use std::path::PathBuf;

use super::super::tests::singles;
use super::super::tools;
use super::*;
use crate::batch::{Batch, LogPoint};
use crate::role::Membership;
use crate::storage::{LogOwner, Recovered, Storage};

const HOST: u64 = 3;
const UID: u128 = 0xabc << 80 | 7;

fn open(path: &Path) -> HostDirectory {
    HostDirectory::open(path, HOST.into(), Create::IfMissing).unwrap()
}

fn owner(group: &str) -> LogOwner {
    LogOwner::new(group, HOST, 9, Membership::of_voters([NodeId::from(HOST)]))
}

/// The log of a group, open.
fn open_group(host: &HostDirectory, group: &str) -> (SegmentedLog, Recovered) {
    let mut log = host.storage(group, SegmentOptions::small());
    let recovered = log.open(&owner(group)).unwrap();
    (log, recovered)
}

fn append(log: &mut SegmentedLog, last: LogPoint, count: usize) -> Vec<Batch> {
    let batches = singles(&mut last.clone(), 1, count, 700);
    log.append(&batches, 1).unwrap();
    log.begin_sync().wait().unwrap();
    while let Some(background_task) = log.next_task() {
        background_task();
    }
    batches
}

/// A group with some entries, closed.
fn fill(host: &HostDirectory, group: &str, uid: u128) -> Vec<Batch> {
    let (mut log, recovered) = open_group(host, group);
    if uid != 0 {
        log.save_group_uid(uid).unwrap();
    }
    append(&mut log, recovered.last, 20)
}

fn contents(log: &SegmentedLog) -> Vec<Batch> {
    let reader = log.reader();
    reader.batches(reader.base().point.raft_index + 1, u64::MAX, u64::MAX).unwrap()
}

fn dir() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("host");
    (home, path)
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for name in names(from) {
        std::fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

#[test]
fn groups_are_listed_and_hold_what_they_held() {
    let (_home, path) = dir();
    let host = open(&path);
    assert_eq!(host.groups().unwrap(), [""; 0]);
    let written = ["b-2", "a", "C_3"].map(|group| (group, fill(&host, group, 0)));
    assert_eq!(host.groups().unwrap(), ["C_3", "a", "b-2"]);
    drop(host);
    let host = HostDirectory::open(&path, HOST.into(), Create::Never).unwrap();
    for (group, batches) in written {
        assert_eq!(contents(&open_group(&host, group).0), batches, "{group}");
    }
    assert_eq!(names(&path), ["HOST", "LOCK", "TOMBSTONES", "groups"]);
}

#[test]
fn one_host_at_a_time_and_one_log_of_a_group() {
    let (_home, path) = dir();
    let host = open(&path);
    let again = || HostDirectory::open(&path, HOST.into(), Create::IfMissing).map(drop);
    assert!(matches!(again(), Err(StorageError::InUse { .. })));
    let (log, _) = open_group(&host, "a");
    let second = host.storage("a", SegmentOptions::small()).open(&owner("a"));
    assert!(matches!(&second, Err(StorageError::InUse { path }) if path.ends_with("groups/a")));
    drop(host);
    assert!(matches!(again(), Err(StorageError::InUse { .. })), "a log is open");
    let reader = log.reader();
    drop(log);
    again().unwrap();
    drop(reader);
    let host = open(&path);
    drop(open_group(&host, "a"));
    drop(open_group(&host, "a"));
}

#[test]
fn another_host_and_what_create_forbids_is_refused_and_nothing_is_made() {
    let (_home, path) = dir();
    let open = |host: u64, create| HostDirectory::open(&path, host.into(), create).map(drop);
    assert!(matches!(open(HOST, Create::Never), Err(StorageError::NoLog { .. })));
    assert!(!path.exists());
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(open(HOST, Create::Never), Err(StorageError::NoLog { .. })));
    assert_eq!(names(&path), [""; 0]);
    open(HOST, Create::New).unwrap();
    assert!(matches!(open(HOST, Create::New), Err(StorageError::HoldsLog { .. })));
    open(HOST, Create::Never).unwrap();
    let refused = open(4, Create::IfMissing).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "{} belongs to the host 3, not to 4: open it with that id, or name another directory",
            path.display()
        )
    );
}

#[test]
fn a_directory_that_has_lost_a_part_is_not_begun_anew() {
    for (lost, file) in [(HOST_NAME, HOST_NAME), (GROUPS_NAME, GROUPS_NAME)] {
        let (home, path) = dir();
        fill(&open(&path), "a", 0);
        std::fs::rename(path.join(lost), home.path().join("lost")).unwrap();
        let refused = HostDirectory::open(&path, HOST.into(), Create::IfMissing).unwrap_err();
        assert!(
            matches!(&refused, StorageError::Corrupt { path, .. } if path.ends_with(file)),
            "{refused}"
        );
        std::fs::rename(home.path().join("lost"), path.join(lost)).unwrap();
        assert_eq!(open(&path).groups().unwrap(), ["a"]);
    }
}

#[test]
fn a_creation_that_was_interrupted_is_done_again() {
    let (_home, path) = dir();
    std::fs::create_dir(&path).unwrap();
    std::fs::create_dir(path.join(GROUPS_NAME)).unwrap();
    std::fs::write(path.join(LOCK_NAME), "").unwrap();
    std::fs::write(path.join("HOST.tmp"), "half").unwrap();
    let host = open(&path);
    std::fs::create_dir(path.join("groups/half")).unwrap();
    assert_eq!(host.groups().unwrap(), [""; 0], "its log was not created");
    fill(&host, "half", 0);
    assert_eq!(host.groups().unwrap(), ["half"]);
}

#[test]
fn what_is_no_group_is_ignored() {
    let (_home, path) = dir();
    let host = open(&path);
    fill(&host, "a", 0);
    for name in ["lost+found", ".hidden", "-b"] {
        std::fs::create_dir(path.join("groups").join(name)).unwrap();
    }
    std::fs::write(path.join("groups/file"), "").unwrap();
    std::fs::write(path.join("note"), "").unwrap();
    assert_eq!(host.groups().unwrap(), ["a"]);
    for name in ["", "..", "../a", "a/b", "-b"] {
        let refused = host.storage(name, SegmentOptions::small()).open(&owner("a"));
        assert!(matches!(refused, Err(StorageError::InvalidState(_))), "{name}: {refused:?}");
        assert!(matches!(host.remove(name), Err(StorageError::NoLog { .. })), "{name}");
    }
}

#[test]
fn a_host_and_a_single_ledger_keep_off_each_other() {
    let (home, path) = dir();
    fill(&open(&path), "a", 0);
    for dir in [path.clone(), path.join("groups/a"), path.join("groups/new")] {
        let refused = SegmentedLog::new(&dir, SegmentOptions::small()).open(&owner("a"));
        assert!(matches!(&refused, Err(StorageError::OfHost { path }) if *path == dir));
    }
    assert_eq!(names(&path.join("groups")), ["a"]);
    let lone = home.path().join("lone");
    drop(SegmentedLog::new(&lone, SegmentOptions::small()).open(&owner("a")).unwrap());
    let before = names(&lone);
    let refused = HostDirectory::open(&lone, HOST.into(), Create::IfMissing).unwrap_err();
    assert!(refused.to_string().contains("the log of a single ledger"), "{refused}");
    assert_eq!(names(&lone), before);
}

#[test]
fn a_removed_group_is_gone_and_its_name_can_be_used_again() {
    let (_home, path) = dir();
    let host = open(&path);
    fill(&host, "a", UID);
    fill(&host, "b", UID + 1);
    assert!(!host.is_removed(UID) && !host.is_removed(0));
    let (log, _) = open_group(&host, "a");
    assert!(matches!(host.remove("a"), Err(StorageError::InUse { .. })));
    drop(log);
    host.remove("a").unwrap();
    assert!(matches!(host.remove("a"), Err(StorageError::NoLog { .. })));
    assert_eq!(names(&path), ["HOST", "LOCK", "TOMBSTONES", "groups"]);
    let (mut log, recovered) = open_group(&host, "a");
    assert_eq!((recovered.last, recovered.group_uid), (LogPoint::INITIAL, 0));
    log.save_group_uid(UID + 2).unwrap();
    let batches = append(&mut log, recovered.last, 3);
    drop((log, host));
    let host = open(&path);
    assert_eq!(host.groups().unwrap(), ["a", "b"]);
    assert_eq!(contents(&open_group(&host, "a").0), batches);
    let removed = [0, UID, UID + 1, UID + 2].map(|uid| host.is_removed(uid));
    assert_eq!(removed, [false, true, false, false]);
}

#[test]
fn a_group_whose_files_are_lost_can_be_removed() {
    let (_home, path) = dir();
    let host = open(&path);
    for lost in [Some("state"), Some("identity"), None] {
        fill(&host, "a", UID);
        match lost {
            Some(name) => std::fs::remove_file(path.join("groups/a").join(name)).unwrap(),
            None => std::fs::write(path.join("groups/a/state"), vec![1; 36_864]).unwrap(),
        }
        host.remove("a").unwrap();
        assert_eq!(names(&path.join("groups")), [""; 0]);
    }
}

/// How far a removal came before the process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Nothing,
    Buried,
    Moved,
    Done,
    /// Some of its files are removed.
    Deleting,
}

/// A host whose group `a` is being removed.
fn interrupted(path: &Path, step: Step) {
    let host = open(path);
    fill(&host, "a", UID);
    fill(&host, "b", UID + 1);
    if step == Step::Nothing {
        return;
    }
    let tombstone = host.tombstone_of("a").unwrap().unwrap();
    assert_eq!(tombstone.group_uid, UID);
    let number = host.tombstones.lock().add(&host.disk, tombstone).unwrap();
    if step == Step::Buried {
        return;
    }
    let aside = host.move_aside("a").unwrap();
    if step != Step::Moved {
        host.mark_done(number).unwrap();
    }
    if step == Step::Deleting {
        std::fs::remove_file(path.join(aside).join("state")).unwrap();
    }
}

#[test]
fn a_removal_that_was_interrupted_is_finished_when_the_host_is_opened() {
    for step in [Step::Nothing, Step::Buried, Step::Moved, Step::Done, Step::Deleting] {
        let (_home, path) = dir();
        interrupted(&path, step);
        for _ in 0..2 {
            let host = open(&path);
            let (groups, is_removed) = match step {
                Step::Nothing => (&["a", "b"][..], false),
                _ => (&["b"][..], true),
            };
            assert_eq!(host.groups().unwrap(), groups, "{step:?}");
            assert_eq!(host.is_removed(UID), is_removed, "{step:?}");
            assert!(!host.is_removed(UID + 1));
            assert_eq!(host.tombstones.lock().pending(), [], "{step:?}");
            assert_eq!(names(&path), ["HOST", "LOCK", "TOMBSTONES", "groups"], "{step:?}");
        }
        let host = open(&path);
        host.remove("b").unwrap();
        fill(&host, "a", 0);
        assert_eq!(host.groups().unwrap(), ["a"]);
    }
}

/// Only a crash leaves a tombstone that is not done. What is put in the place of the group later
/// was put there on purpose.
#[test]
fn what_takes_the_place_of_a_removed_group_stays() {
    let (home, path) = dir();
    let host = open(&path);
    let batches = fill(&host, "a", UID);
    let saved = home.path().join("saved");
    copy(&path.join("groups/a"), &saved);
    host.remove("a").unwrap();
    drop(host);
    copy(&saved, &path.join("groups/a"));
    let host = open(&path);
    assert_eq!(contents(&open_group(&host, "a").0), batches);
    drop(host);

    // The removal was interrupted, and the directory is another one by the next opening.
    let (_home, path) = dir();
    interrupted(&path, Step::Buried);
    std::fs::remove_dir_all(path.join("groups/a")).unwrap();
    tools::restore(&saved, path.join("groups/a"), HOST, tools::Restore::WholeGroup).unwrap();
    let host = open(&path);
    assert_eq!(contents(&open_group(&host, "a").0), batches);
    assert!(host.is_removed(UID));
}

#[test]
fn a_group_that_could_not_be_removed_is_as_before() {
    let (_home, path) = dir();
    let host = open(&path);
    let batches = fill(&host, "a", UID);
    // The target of the move is taken away.
    let tombstone = host.tombstone_of("a").unwrap().unwrap();
    let number = host.tombstones.lock().add(&host.disk, tombstone).unwrap();
    let lock = host.lock.take("a").unwrap();
    let error = host.give_up(number, lock, StorageError::NotContiguous(String::new()));
    assert!(matches!(error, StorageError::NotContiguous(_)));
    assert!(!host.is_removed(UID));
    assert_eq!(contents(&open_group(&host, "a").0), batches);
    drop(host);
    let host = open(&path);
    assert_eq!(contents(&open_group(&host, "a").0), batches);
    host.lock.take("a").unwrap().keep();
    let closed = host.storage("a", SegmentOptions::small()).open(&owner("a"));
    assert!(matches!(closed, Err(StorageError::InUse { .. })));
}

/// What is read and written stays in the directory that was opened.
#[test]
#[cfg(unix)]
fn nothing_is_written_to_a_directory_that_takes_the_name_of_a_group() {
    let (home, path) = dir();
    let host = open(&path);
    let (mut log, recovered) = open_group(&host, "a");
    // Without a spare: the next segment is a new file.
    let batches = singles(&mut recovered.last.clone(), 1, 4, 700);
    log.append(&batches, 1).unwrap();
    let last = batches.iter().fold(recovered.last, |p, batch| batch.point_after(&p).unwrap());
    let place = path.join("groups/a");
    std::fs::rename(&place, home.path().join("moved")).unwrap();
    for put in ["empty", "link"] {
        match put {
            "empty" => std::fs::create_dir(&place).unwrap(),
            _ => {
                std::fs::remove_dir(&place).unwrap();
                std::os::unix::fs::symlink(home.path().join("moved"), &place).unwrap();
            }
        }
        let next = singles(&mut last.clone(), 1, 40, 700);
        let outcome = log.append(&next, 1).and_then(|()| log.begin_sync().wait());
        assert!(outcome.is_err(), "{put}");
        if put == "empty" {
            assert_eq!(names(&place), [""; 0]);
        }
        assert_eq!(contents(&log)[..4], batches, "{put}");
    }
    drop(log);
    let refused = host.storage("a", SegmentOptions::small()).open(&owner("a"));
    assert!(refused.is_err(), "a link is not followed");
}

#[test]
fn tools_read_a_group_of_a_host_that_is_closed() {
    let (_home, path) = dir();
    let host = open(&path);
    let batches = fill(&host, "a", UID);
    let group = path.join("groups/a");
    let refused = tools::inspect(&group).unwrap_err();
    assert!(matches!(&refused, StorageError::InUse { path: used } if *used == path), "{refused}");
    drop(host);
    let verified = tools::verify(&group).unwrap();
    assert_eq!((verified.batches, verified.corruption.len()), (batches.len() as u64, 0));
    assert_eq!(verified.inspection.group_uid, UID);
    let mut was_refused = false;
    tools::verify_with(&group, |_| {
        let opened = HostDirectory::open(&path, HOST.into(), Create::IfMissing);
        was_refused |= matches!(opened, Err(StorageError::InUse { .. }));
    })
    .unwrap();
    assert!(was_refused, "a host cannot be opened while a group of it is read");
    assert_eq!(open(&path).groups().unwrap(), ["a"]);
}

/// How many descriptors and mappings of this process lead into the directory.
#[cfg(target_os = "linux")]
fn held(path: &Path) -> (usize, usize) {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let open = entries.filter(|entry| entry.read_link().is_ok_and(|file| file.starts_with(path)));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mapped = maps.lines().filter(|line| line.contains(path.to_str().unwrap()));
    (open.count(), mapped.count())
}

/// Thousands of groups may be open in one process.
#[test]
#[cfg(target_os = "linux")]
fn an_open_group_holds_two_descriptors_and_one_mapping() {
    let (_home, path) = dir();
    let host = open(&path);
    assert_eq!(held(&path), (4, 0), "the directory, the lock, the groups, the tombstones");
    let group = path.join("groups/a");
    let (mut log, recovered) = open_group(&host, "a");
    append(&mut log, recovered.last, 1);
    assert_eq!(held(&group), (2, 1), "the state and the segment");
    let mut point = recovered.last;
    let batches = singles(&mut point, 1, 40, 700);
    for batch in &batches[1..] {
        log.append(std::slice::from_ref(batch), 1).unwrap();
    }
    log.begin_sync().wait().unwrap();
    while let Some(background_task) = log.next_task() {
        background_task();
    }
    assert!(names(&group).iter().any(|name| name.ends_with(".spare")), "{:?}", names(&group));
    assert_eq!(held(&group), (2, 1), "a spare and sealed segments are not open");
    drop(log);
    assert_eq!(held(&group), (0, 0));

    let (log, _) = open_group(&host, "a");
    assert_eq!(held(&group), (2, 1), "opened again");
    drop((log, host));
    assert_eq!(held(&path), (0, 0));
}
