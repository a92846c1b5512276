//! Backups: their contents, while the log continues and after, and what is refused.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;
use crate::storage::{Backup, BackupError};
use tools::Restore;

/// The directory of the log, and one for backups.
struct Home {
    _home: tempfile::TempDir,
    dir: PathBuf,
    backups: PathBuf,
}

impl Home {
    fn new() -> Home {
        let home = tempfile::tempdir().unwrap();
        let (dir, backups) = (home.path().join("log"), home.path().join("backups"));
        std::fs::create_dir(&backups).unwrap();
        Home { _home: home, dir, backups }
    }

    /// Everything in the directory of backups.
    fn backups(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.backups).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn back_up(log: &mut DiskLog, commit: u64, to: &Path) -> Result<Backup, BackupError> {
    log.begin_backup(commit)?.write(to, &|| false)
}

/// A log of sealed and unsealed segments, truncated at some places.
fn varied(dir: &Path) -> (DiskLog, LogPoint) {
    let (mut log, _) = open(dir);
    let mut point = LogPoint::INITIAL;
    for (round, kept) in [40, 35, 41, 20, 38, 39].into_iter().enumerate() {
        let last = log.reader().base().point.raft_index + kept;
        point = log.reader().point(last.min(point.raft_index)).unwrap().unwrap();
        let term = round as u64 + 2;
        log.save_hard_state(HardState { term, vote: Some(2.into()), commit: 1 }).unwrap();
        for some in singles(&mut point, term, 30, 400 + 90 * round).chunks(4) {
            log.append(some, 1).unwrap();
        }
        if round % 2 == 0 {
            sync(&mut log);
            run_background_tasks(&mut log);
        }
    }
    (log, point)
}

#[test]
fn a_backup_up_to_any_batch_holds_the_log_up_to_there_and_opens() {
    let home = Home::new();
    let (mut log, point) = varied(&home.dir);
    let all = contents(&log);
    log.save_peer(3.into(), 99).unwrap();
    let (mut linked, mut copied) = (0, 0);
    for commit in 1..=point.raft_index {
        let to = home.backups.join(commit.to_string());
        let backup = back_up(&mut log, commit, &to).unwrap();
        let end = log.reader().point(commit).unwrap().unwrap();
        assert_eq!((backup.committed, backup.position), (0..end.next_index, end.next_position));
        assert_eq!(backup.end_index, end.next_index);
        (linked, copied) = (linked + backup.linked_bytes, copied + backup.copied_bytes);
        let verified = tools::verify(&to).unwrap();
        assert_eq!(
            (verified.corruption, verified.inspection.last),
            (Vec::new(), end),
            "up to {commit}"
        );
        assert_eq!((verified.inspection.owner, verified.inspection.peers), (owner(), Vec::new()));
        let (copy, recovered) = open(&to);
        assert_eq!(recovered.corruption, []);
        assert_eq!(recovered.hard_state, HardState { term: 7, vote: None, commit });
        assert_eq!(contents(&copy), all[..commit as usize - 1], "up to {commit}");
        drop(copy);
        std::fs::remove_dir_all(to).unwrap();
    }
    assert!(linked > copied && copied > 0, "{linked} bytes were linked, and {copied} copied");
    assert_eq!(contents(&log), all);
}

#[test]
fn a_backup_goes_on_as_a_log_of_its_own() {
    let home = Home::new();
    let (mut log, mut point) = varied(&home.dir);
    let (expected, to) = (contents(&log), home.backups.join("copy"));
    back_up(&mut log, point.raft_index, &to).unwrap();
    let (mut copy, _) = open(&to);
    let mut other = point;
    let here = singles(&mut point, 8, 50, 300);
    let there = singles(&mut other, 9, 50, 300);
    for (here, there) in here.chunks(5).zip(there.chunks(5)) {
        log.append(here, 0).unwrap();
        copy.append(there, 0).unwrap();
        sync(&mut log);
        sync(&mut copy);
        run_background_tasks(&mut log);
        run_background_tasks(&mut copy);
    }
    drop(copy);
    assert_eq!(contents(&open(&to).0), [&expected[..], &there].concat());
    drop(log);
    assert_eq!(contents(&open(&home.dir).0), [expected, here].concat());
}

#[test]
fn what_is_purged_and_used_again_is_still_in_the_backup() {
    let home = Home::new();
    let (mut log, _) = open(&home.dir);
    let mut point = LogPoint::INITIAL;
    let append = |log: &mut DiskLog, batch: Batch| {
        log.append(&[batch], 0).unwrap();
        sync(log);
        run_background_tasks(log);
    };
    singles(&mut point, 1, 40, 2_500).into_iter().for_each(|batch| append(&mut log, batch));
    let copied = |log: &DiskLog| -> Vec<Vec<u8>> {
        contents(log).iter().map(|batch| batch.body().to_vec()).collect()
    };
    let (expected, to) = (copied(&log), home.backups.join("copy"));
    let backup = back_up(&mut log, point.raft_index, &to).unwrap();
    assert!(backup.linked_bytes > 0);
    // No readers, so that nothing else keeps the files from being recycled.
    log.purge(point.next_index, point.raft_index).unwrap();
    singles(&mut point, 9, 80, 1_000).into_iter().for_each(|batch| append(&mut log, batch));
    assert_eq!(tools::verify(&to).unwrap().corruption, []);
    let (copy, recovered) = open(&to);
    assert_eq!((copied(&copy), recovered.corruption), (expected, Vec::new()));
}

/// Changes the log whenever the backup checks whether to stop.
fn meanwhile(
    log: DiskLog,
    commit: u64,
    to: &Path,
    mut work: impl FnMut(&mut DiskLog),
) -> (DiskLog, Backup) {
    let log = RefCell::new(log);
    let work = RefCell::new(&mut work);
    let pending = log.borrow_mut().begin_backup(commit).unwrap();
    let backup = pending.write(to, &|| {
        work.borrow_mut()(&mut log.borrow_mut());
        false
    });
    (log.into_inner(), backup.unwrap())
}

#[test]
fn appends_cuts_and_purges_go_on_during_a_backup() {
    for purges_at in 0..12 {
        let home = Home::new();
        let (log, point) = varied(&home.dir);
        let (all, to) = (contents(&log), home.backups.join("copy"));
        let commit = point.raft_index - 5;
        let (mut calls, mut term, mut end) = (0, 9, log.reader().point(commit).unwrap().unwrap());
        let (log, backup) = meanwhile(log, commit, &to, |log| {
            if calls > 100 {
                return;
            }
            // What lies behind the commit is truncated and written again; and the log is sealed.
            let cut =
                if calls % 3 == 0 { log.reader().point(commit).unwrap().unwrap() } else { end };
            end = cut;
            log.append(&singles(&mut end, term, 6, 500), commit).unwrap();
            term += 1;
            if calls >= purges_at {
                let first = log.reader().base().point.next_index;
                let index =
                    (first + 9).min(log.reader().point(commit).unwrap().unwrap().next_index - 3);
                log.purge(index, commit).unwrap();
            }
            sync(log);
            run_background_tasks(log);
            calls += 1;
        });
        assert!(calls > 10);
        assert!(log.reader().base().point.next_index > 0, "something was purged meanwhile");
        let (copy, recovered) = open(&to);
        assert_eq!(recovered.corruption, []);
        let first = recovered.base.point;
        assert_eq!(backup.committed, first.next_index..recovered.last.next_index);
        assert_eq!(recovered.last.raft_index, commit);
        assert_eq!(contents(&copy), all[first.raft_index as usize - 1..commit as usize - 1]);
    }
}

#[test]
fn a_log_that_was_purged_beyond_the_backup_says_so() {
    let home = Home::new();
    let (mut log, point) = varied(&home.dir);
    let pending = log.begin_backup(9).unwrap();
    sync(&mut log);
    log.purge(point.next_index, point.raft_index).unwrap();
    let refused = pending.write(&home.backups.join("copy"), &|| false);
    assert!(
        matches!(refused, Err(BackupError::Storage(StorageError::Purged { .. }))),
        "{refused:?}"
    );
    assert_eq!(home.backups(), [""; 0]);
    let to = home.backups.join("copy");
    let base = log.reader().base().point;
    let backup = back_up(&mut log, point.raft_index, &to).unwrap();
    assert_eq!(backup.committed, base.next_index..point.next_index);
    assert_eq!(open(&to).1.base.point, base);
    // A log with no entries left.
    log.reset(&Base { point, membership: owner().membership }).unwrap();
    let to = home.backups.join("empty");
    let backup = back_up(&mut log, point.raft_index, &to).unwrap();
    assert_eq!(backup.committed, point.next_index..point.next_index);
    let recovered = open(&to).1;
    assert_eq!((recovered.base.point, recovered.last), (point, point));
}

#[test]
fn a_backup_that_is_stopped_leaves_nothing() {
    let home = Home::new();
    let (mut log, point) = varied(&home.dir);
    let to = home.backups.join("copy");
    for calls in 0u32.. {
        let left = Cell::new(calls);
        let is_stopped = || left.replace(left.get().saturating_sub(1)) == 0;
        match log.begin_backup(point.raft_index).unwrap().write(&to, &is_stopped) {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, BackupError::Stopped), "{error}"),
        }
        assert_eq!(home.backups(), [""; 0], "after {calls} calls");
        assert!(calls < 10_000);
    }
    assert_eq!(home.backups(), ["copy"]);
    assert_eq!(tools::verify(&to).unwrap().inspection.last, point);
}

#[test]
fn damage_is_told_by_its_file_and_leaves_nothing() {
    let home = Home::new();
    let (mut log, point) = varied(&home.dir);
    let inspected: Vec<_> = {
        let to = home.backups.join("intact");
        back_up(&mut log, point.raft_index, &to).unwrap();
        tools::inspect(&to).unwrap().segments
    };
    std::fs::remove_dir_all(home.backups.join("intact")).unwrap();
    assert!(
        inspected.iter().any(|segment| segment.is_sealed)
            && inspected.iter().any(|segment| !segment.is_sealed)
    );
    for segment in inspected {
        // In a header and in a payload of its first record.
        for at in [4096 + 20, 4096 + 200] {
            let path = home.dir.join(&segment.name);
            flip(&path, at, 1);
            match back_up(&mut log, point.raft_index, &home.backups.join("copy")) {
                Err(BackupError::Damaged { path: reported, offset, .. }) => {
                    assert_eq!((reported, offset), (path.clone(), 4096))
                }
                other => panic!("{}: {other:?}", segment.name),
            }
            assert_eq!(home.backups(), [""; 0]);
            // A backup of what lies before it still works.
            let before = segment.raft_indexes.start - 1;
            let to = home.backups.join("before");
            back_up(&mut log, before, &to).unwrap();
            assert_eq!(tools::verify(&to).unwrap().inspection.last.raft_index, before);
            std::fs::remove_dir_all(to).unwrap();
            flip(&path, at, 1);
        }
    }
    back_up(&mut log, point.raft_index, &home.backups.join("copy")).unwrap();
}

#[test]
fn a_log_that_was_opened_with_damage_gives_what_lies_before_it() {
    let home = Home::new();
    let (log, point) = varied(&home.dir);
    let all = contents(&log);
    drop(log);
    let segment = tools::inspect(&home.dir).unwrap().segments.pop().unwrap();
    flip(&home.dir.join(&segment.name), 4096 + 200, 1);
    let (mut log, recovered) = open(&home.dir);
    assert_eq!(recovered.corruption.len(), 1, "{:?}", recovered.corruption);
    let damaged = recovered.corruption[0].raft_indexes.start;
    let refused = back_up(&mut log, point.raft_index, &home.backups.join("copy"));
    assert!(
        matches!(&refused, Err(BackupError::Damaged { path, .. }) if path.ends_with(&segment.name)),
        "{refused:?}"
    );
    let to = home.backups.join("before");
    back_up(&mut log, damaged - 1, &to).unwrap();
    assert_eq!(contents(&open(&to).0), all[..damaged as usize - 2]);
}

#[test]
fn only_a_free_place_outside_of_every_log_is_a_target() {
    let home = Home::new();
    let (mut log, point) = varied(&home.dir);
    let full = home.backups.join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("something"), "of somebody").unwrap();
    std::fs::write(home.backups.join("file"), "").unwrap();
    drop(open(&home.backups.join("other")));
    std::fs::create_dir(home.dir.join("within")).unwrap();
    for (to, why) in [
        (home.dir.clone(), "holds a log"),
        (home.dir.join("copy"), "within"),
        (home.dir.join("within/copy"), "within"),
        (home.backups.join("other"), "holds a log"),
        (home.backups.join("other/copy"), "within"),
        (full.clone(), "not empty"),
        (home.backups.join("file"), "no directory"),
        (home.backups.join("missing/copy"), "missing"),
        (PathBuf::new(), "names no"),
        (PathBuf::from("/"), "names no"),
    ] {
        match back_up(&mut log, point.raft_index, &to) {
            Err(BackupError::Target { path, reason }) => {
                assert!(path == to && reason.contains(why), "{}: {reason}", to.display());
            }
            other => panic!("{}: {other:?}", to.display()),
        }
    }
    assert_eq!(home.backups(), ["file", "full", "other"]);
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1);
    let empty = home.backups.join("empty");
    std::fs::create_dir(&empty).unwrap();
    back_up(&mut log, point.raft_index, &empty).unwrap();
    assert_eq!(tools::verify(&empty).unwrap().inspection.last, point);
}

#[cfg(unix)]
#[test]
fn leftovers_of_dead_processes_go_and_those_of_others_stay() {
    let home = Home::new();
    let (mut log, point) = varied(&home.dir);
    let leftover = |name: &str| {
        let dir = home.backups.join(format!(".{name}.0123456789abcdef.dledger-partial"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("state"), "half of it").unwrap();
        std::fs::write(dir.join("0000000100000000-0000000000000002.seg"), "").unwrap();
        dir
    };
    let (obsolete, alive, foreign) = (leftover("dead"), leftover("alive"), leftover("foreign"));
    let held = std::fs::File::open(&alive).unwrap();
    held.try_lock().unwrap();
    std::fs::write(foreign.join("notes.txt"), "not ours").unwrap();
    back_up(&mut log, point.raft_index, &home.backups.join("copy")).unwrap();
    assert!(!obsolete.exists());
    assert_eq!(std::fs::read_dir(&alive).unwrap().count(), 2, "somebody writes there");
    assert!(foreign.join("notes.txt").exists());
    assert!(home.backups.join("copy").exists());
}

#[test]
fn a_closed_log_is_backed_up_whole_and_not_changed() {
    let home = Home::new();
    let (mut log, point) = varied(&home.dir);
    let all = contents(&log);
    let commit = 50;
    log.save_hard_state(HardState { term: 7, vote: Some(3.into()), commit }).unwrap();
    sync(&mut log);
    log.save_hard_state(HardState { term: 7, vote: Some(3.into()), commit }).unwrap();
    let to = home.backups.join("copy");
    let refused = tools::backup(&home.dir, &to);
    assert!(matches!(&refused, Err(BackupError::InUse { .. })), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("DLedger::backup"));
    drop(log);
    let before = photograph(&home.dir);
    let backup = tools::backup(&home.dir, &to).unwrap();
    assert_eq!(photograph(&home.dir), before);
    assert_eq!((backup.committed, backup.end_index), (0..commit - 1, point.next_index));
    let (copy, recovered) = open(&to);
    assert_eq!(contents(&copy), all, "what may have been acknowledged is there");
    assert_eq!(recovered.hard_state, HardState { term: 7, vote: None, commit });
}

#[test]
fn a_backup_becomes_the_log_of_any_member() {
    let home = Home::new();
    let (mut log, point) = varied(&home.dir);
    let (all, copy) = (contents(&log), home.backups.join("copy"));
    back_up(&mut log, point.raft_index, &copy).unwrap();
    let before = photograph(&copy);
    let mut known_as = BTreeSet::from([log.set_complete(true).unwrap().directory]);
    for node in [1u64, 2, 3] {
        let dir = home.backups.join(node.to_string());
        let restored = tools::restore(&copy, &dir, node, Restore::OneNode).unwrap();
        assert_eq!(restored.committed, 0..point.next_index);
        let mut log = DiskLog::new(&dir, SMALL);
        let recovered = log.open(&LogOwner { node: node.into(), ..owner() }).unwrap();
        assert_eq!((recovered.last, recovered.corruption), (point, Vec::new()));
        assert_eq!(contents(&log), all);
        assert_eq!(photograph(&copy), before);
        assert!(!recovered.identity.complete, "it has forgotten what it promised since");
        assert!(
            known_as.insert(recovered.identity.directory),
            "peers can tell it from every other copy"
        );
    }
    tools::restore(&copy, home.backups.join("5"), 2, Restore::WholeGroup).unwrap();
    let recovered = DiskLog::new(home.backups.join("5"), SMALL)
        .open(&LogOwner { node: 2.into(), ..owner() })
        .unwrap();
    assert!(recovered.identity.complete && known_as.insert(recovered.identity.directory));
    let refused = tools::restore(&copy, home.backups.join("4"), 4, Restore::OneNode).unwrap_err();
    assert!(matches!(refused, BackupError::NotAMember { .. }), "{refused}");
    assert_eq!(
        refused.to_string(),
        "node 4 is no member of the group in the backup: it has 1, 2, 3"
    );
    let refused =
        tools::restore(home.backups.join("nothing"), home.backups.join("4"), 1, Restore::OneNode)
            .unwrap_err();
    assert!(matches!(refused, BackupError::Storage(StorageError::Io { .. })), "{refused}");
    assert_eq!(home.backups(), ["1", "2", "3", "5", "copy"]);
}

/// What a backup has taken of a log that is purged further before it is whole.
#[test]
fn what_is_purged_during_a_backup_is_taken_out_of_it_again() {
    for purges_at in 1..5 {
        let home = Home::new();
        let (mut log, point) = varied(&home.dir);
        sync(&mut log);
        run_background_tasks(&mut log);
        let (commit, to) = (point.raft_index - 3, home.backups.join("copy"));
        let last = log.reader().point(commit).unwrap().unwrap();
        let (mut calls, mut taken) = (0, Vec::new());
        let (mut log, backup) = meanwhile(log, commit, &to, |log| {
            calls += 1;
            if calls == purges_at + 1 {
                let partial =
                    std::fs::read_dir(&home.backups).unwrap().next().unwrap().unwrap().path();
                taken = segments(&partial);
                log.purge(last.next_index - 6, commit).unwrap();
                sync(log);
                run_background_tasks(log);
            }
        });
        assert_eq!(taken.len(), purges_at, "so many were there by then");
        let held = segments(&to);
        assert!(taken.iter().all(|name| !held.contains(name)), "{taken:?} are still in {held:?}");
        let again = home.backups.join("again");
        let expected = back_up(&mut log, commit, &again).unwrap();
        assert_eq!(
            (held, backup),
            (segments(&again), expected),
            "as if it had been begun after the purge"
        );
        assert_eq!(open(&to).1.corruption, []);
    }
}

#[test]
fn a_copy_of_the_only_voter_has_promised_nothing_to_others() {
    let home = Home::new();
    let membership = Membership::of_voters([NodeId::from(1)]);
    let mut log = DiskLog::new(&home.dir, SMALL);
    log.open(&LogOwner { membership: membership.clone(), ..owner() }).unwrap();
    let mut point = LogPoint::INITIAL;
    log.append(&singles(&mut point, 1, 3, 40), 1).unwrap();
    sync(&mut log);
    let to = home.backups.join("copy");
    back_up(&mut log, point.raft_index, &to).unwrap();
    let recovered = DiskLog::new(&to, SMALL).open(&LogOwner { membership, ..owner() }).unwrap();
    assert!(recovered.identity.complete);
}

#[cfg(unix)]
#[test]
fn a_backup_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let (mut log, point) = varied(&home.dir);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let (to, modes) = (home.backups.join("copy"), Cell::new(None));
    let pending = log.begin_backup(point.raft_index).unwrap();
    let look = || {
        modes.set(
            std::fs::read_dir(&home.backups)
                .unwrap()
                .next()
                .map(|entry| mode(&entry.unwrap().path())),
        );
        false
    };
    pending.write(&to, &look).unwrap();
    assert_eq!((modes.get(), mode(&to)), (Some(0o700), 0o700));
    for entry in std::fs::read_dir(&to).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}
