//! Backups of ledgers that run: what they hold, what keeps them from being made, and what is left
//! of one that was not finished.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dledger::{Backup, BackupError, Builder, DLedger, Role, tools};

use crate::child::{IN_CHILD, KillOnDrop};
use crate::group::{eventually, home, leader, three};

const SEGMENT_BYTES: u64 = 64 << 10;

/// Where `backs_up_until_it_is_killed` has its log and its backups.
const DIRECTORY: &str = "DLEDGER_FIELD_BACKUP_DIRECTORY";

fn alone(dir: &Path) -> Builder {
    DLedger::builder(1).dir(dir).segment_bytes(SEGMENT_BYTES)
}

/// The payload of entry `index`: of some length, and like no other.
fn payload(index: u64) -> Vec<u8> {
    let len = 20 + (index * 37 % 3000) as usize;
    index.to_le_bytes().iter().copied().cycle().take(len).collect()
}

fn fill(ledger: &DLedger, count: u64) {
    let first = ledger.status().end_index;
    let futures: Vec<_> =
        (first..first + count).map(|index| ledger.append_async(payload(index))).collect();
    futures.into_iter().for_each(|future| {
        let _ = future.wait().unwrap();
    });
}

/// Checks a backup of entries that [`payload`] gives.
#[track_caller]
fn check(backup: &Backup, dir: &Path) {
    let verified = tools::verify(dir).unwrap();
    assert_eq!(verified.corruption, []);
    let mut indexes = backup.committed.clone();
    let each = |entry: Result<dledger::Entry, _>| {
        let entry = entry.unwrap();
        assert_eq!(Some(entry.index()), indexes.next());
        assert_eq!(*entry, *payload(entry.index()));
        std::ops::ControlFlow::Continue(())
    };
    tools::dump(dir, 0..u64::MAX, each).unwrap();
    assert_eq!(indexes.next(), None);
    let last = verified.inspection.last;
    assert_eq!((last.next_index, last.next_position), (backup.end_index, backup.position));
}

/// Opens the backup of a group of one.
#[track_caller]
fn open_and_check(backup: &Backup, dir: &Path) {
    let ledger = alone(dir).open().unwrap();
    assert_eq!(ledger.status().fault, None);
    assert_eq!(ledger.committed(), backup.committed);
    ledger.append("it goes on").unwrap();
    ledger.shutdown().unwrap();
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|it| it == "seg")).collect();
    paths.sort();
    paths
}

/// The names in `dir`, hidden ones included.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Makes backups while hosts append and purge, and checks each of them when all are made.
fn backs_up_under_load(ledger: &DLedger, to: &Path, count: usize, purges: bool) -> Vec<Backup> {
    let done = AtomicBool::new(false);
    let backups = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let end = ledger.committed().end;
                // A log that grows on and on would only make the test slow.
                fill(ledger, if end < 3000 || purges { 200 } else { 1 });
                if purges {
                    ledger.purge(end.saturating_sub(300)).unwrap();
                }
            }
        });
        let mut backups = Vec::new();
        for at in 0..count {
            let before = ledger.committed().end;
            // The host may have purged all of it meanwhile.
            let backup = loop {
                match ledger.backup(to.join(at.to_string())) {
                    Err(BackupError::Storage(_)) if purges => {}
                    backup => break backup,
                }
            };
            let Ok(backup) = backup else {
                done.store(true, Ordering::Relaxed);
                panic!("backup {at}: {backup:?}");
            };
            assert!(backup.committed.end >= before, "what was acknowledged before is in it");
            assert_eq!(backup.end_index, backup.committed.end);
            backups.push(backup);
        }
        done.store(true, Ordering::Relaxed);
        backups
    });
    assert_eq!(names(to).len(), count);
    for (at, backup) in backups.iter().enumerate() {
        check(backup, &to.join(at.to_string()));
    }
    backups
}

facts! {
    fn fifty_backups_under_load_are_sound_and_open() {
        let home = home();
        let ledger = alone(&home.path().join("log")).open().unwrap();
        fill(&ledger, 100);
        let to = home.path().join("backups");
        fs::create_dir(&to).unwrap();
        let backups = backs_up_under_load(&ledger, &to, 50, false);
        ledger.shutdown().unwrap();
        for (at, backup) in backups.iter().enumerate() {
            let dir = to.join(at.to_string());
            open_and_check(backup, &dir);
        }
        // They wrote to files of their own.
        check_entries_of_the_original(&backups[49], &home.path().join("log"));
        assert!(backups.iter().any(|backup| backup.linked_bytes > 0) || cfg!(not(unix)));
    }

    fn backups_outlive_what_the_ledger_purges_and_uses_again() {
        let home = home();
        let ledger = alone(&home.path().join("log")).open().unwrap();
        fill(&ledger, 100);
        let to = home.path().join("backups");
        fs::create_dir(&to).unwrap();
        let backups = backs_up_under_load(&ledger, &to, 20, true);
        fill(&ledger, 1000);
        ledger.purge(u64::MAX >> 8).unwrap();
        fill(&ledger, 1000);
        for (at, backup) in backups.iter().enumerate() {
            check(backup, &to.join(at.to_string()));
        }
        drop(ledger);
        for (at, backup) in backups.iter().enumerate() {
            open_and_check(backup, &to.join(at.to_string()));
        }
    }

    #[cfg(target_os = "linux")]
    fn a_target_on_another_file_system_gets_copies() {
        let home = home();
        let ledger = alone(&home.path().join("log")).open().unwrap();
        fill(&ledger, 500);
        let Ok(memory) = tempfile::tempdir_in("/dev/shm") else { return };
        let device =
            |path: &Path| std::os::linux::fs::MetadataExt::st_dev(&fs::metadata(path).unwrap());
        if device(memory.path()) == device(home.path()) {
            return;
        }
        let to = memory.path().join("backup");
        let backup = ledger.backup(&to).unwrap();
        assert_eq!((backup.linked_bytes, backup.committed.clone()), (0, 0..500));
        check(&backup, &to);
        open_and_check(&backup, &to);
        let many = memory.path().join("many");
        fs::create_dir(&many).unwrap();
        backs_up_under_load(&ledger, &many, 5, true);
        assert!(
            matches!(ledger.backup("/dev/shm"), Err(BackupError::Target { .. })),
            "it is not empty, and mounted"
        );
    }

    fn a_follower_and_a_node_with_a_fault_are_backed_up() {
        let home = home();
        let nodes = three(home.path(), |builder| builder.segment_bytes(SEGMENT_BYTES));
        let at = leader(&nodes);
        fill(&nodes[at], 300);
        let follower = &nodes[(at + 1) % 3];
        eventually("the follower has it all", || follower.committed().end == 300);
        for (name, node) in [("leader", &nodes[at]), ("follower", follower)] {
            let to = home.path().join(name);
            let backup = node.backup(&to).unwrap();
            assert_eq!(backup.committed, 0..300);
            check(&backup, &to);
        }
        let (doom, told) = std::sync::mpsc::channel();
        let failing = alone(&home.path().join("failing"))
            .transport(crate::calls::Doomed::when(told))
            .open()
            .unwrap();
        fill(&failing, 300);
        doom.send(()).unwrap();
        eventually("the node to fail", || failing.status().fault.is_some());
        let to = home.path().join("failed");
        let backup = failing.backup(&to).unwrap();
        assert_eq!(backup.committed, 0..300);
        open_and_check(&backup, &to);
    }

    fn damage_is_refused_by_the_name_of_its_file_and_a_lone_node_says_what_helps() {
        let home = home();
        let dir = home.path().join("log");
        let ledger = alone(&dir).open().unwrap();
        fill(&ledger, 300);
        let sound = home.path().join("sound");
        let backup = ledger.backup(&sound).unwrap();
        ledger.shutdown().unwrap();
        drop(ledger);
        let file = segments(&dir)[2].clone();
        // A file that the backup shares is another one from now on, as after a loss of the disk.
        let mut bytes = fs::read(&file).unwrap();
        bytes[4096 + 300] ^= 1;
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
        for verifies in [false, true] {
            let ledger = alone(&dir).verify_on_open(verifies).open().unwrap();
            let to = home.path().join("damaged");
            match ledger.backup(&to) {
                Err(BackupError::Damaged { path, offset, .. }) => {
                    assert_eq!((path, offset), (file.clone(), 4096), "verified: {verifies}");
                }
                other => panic!("{other:?}"),
            }
            assert!(!to.exists());
            if verifies {
                let fault = ledger.status().fault.unwrap();
                assert!(fault.contains("restore it from a backup"), "{fault}");
                assert!(!fault.contains("peers"), "it has none: {fault}");
            }
            let _ = ledger.shutdown();
        }
        match tools::backup(&dir, home.path().join("damaged")) {
            Err(BackupError::Damaged { path, .. }) => assert_eq!(path, file),
            other => panic!("{other:?}"),
        }
        // What helps.
        fs::remove_dir_all(&dir).unwrap();
        tools::restore(&sound, &dir, 1, tools::Restore::OneNode).unwrap();
        open_and_check(&backup, &dir);
    }

    fn a_closed_ledger_is_backed_up_and_an_open_one_refused() {
        let home = home();
        let dir = home.path().join("log");
        let ledger = alone(&dir).open().unwrap();
        fill(&ledger, 300);
        let to = home.path().join("backup");
        match tools::backup(&dir, &to) {
            Err(error @ BackupError::InUse { .. }) => {
                assert!(error.to_string().contains("DLedger::backup"))
            }
            other => panic!("{other:?}"),
        }
        ledger.shutdown().unwrap();
        let backup = tools::backup(&dir, &to).unwrap();
        assert_eq!((backup.committed.clone(), backup.end_index), (0..300, 300));
        check(&backup, &to);
        open_and_check(&backup, &to);
        open_and_check(&backup, &dir);
    }

    fn a_shutdown_ends_a_backup_and_leaves_nothing() {
        let home = home();
        let ledger = alone(&home.path().join("log")).open().unwrap();
        fill(&ledger, 5000);
        let to = home.path().join("backups");
        fs::create_dir(&to).unwrap();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|thread| {
                    scope.spawn({
                        let (ledger, to) = (&ledger, &to);
                        move || {
                            (0..)
                                .map(|at| format!("{thread}-{at}"))
                                .find_map(|name| ledger.backup(to.join(&name)).err())
                        }
                    })
                })
                .collect();
            eventually("a backup under way", || {
                names(&to).iter().any(|name| name.starts_with('.'))
            });
            let began = Instant::now();
            ledger.shutdown().unwrap();
            assert!(began.elapsed() < Duration::from_secs(20), "it waits for no backup");
            for thread in threads {
                let error = thread.join().unwrap().unwrap();
                assert!(matches!(error, BackupError::Stopped), "{error}");
            }
        });
        let left = names(&to);
        assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
        left.iter()
            .for_each(|name| assert_eq!(tools::verify(to.join(name)).unwrap().corruption, []));
        assert!(matches!(ledger.backup(to.join("late")), Err(BackupError::Stopped)));
    }

    fn of_two_backups_to_one_place_one_is_made() {
        let home = home();
        let ledger = alone(&home.path().join("log")).open().unwrap();
        fill(&ledger, 500);
        for round in 0..5 {
            let to = home.path().join(format!("backup-{round}"));
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| ledger.backup(&to))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let made: Vec<_> =
                outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
            assert_eq!(made.len(), 1, "{outcomes:?}");
            let is_refusal = |error: &BackupError| matches!(error, BackupError::Target { .. });
            assert!(
                outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).all(is_refusal),
                "{outcomes:?}"
            );
            check(made[0], &to);
        }
        assert_eq!(names(home.path()).len(), 6);
    }

    // Run as a child of the fact below, and ended by it.
    fn backs_up_until_it_is_killed() {
        let Some(home) = std::env::var_os(DIRECTORY) else { return };
        let home = Path::new(&home);
        let ledger = alone(&home.join("log")).open().unwrap();
        fill(&ledger, 500);
        for at in 0.. {
            fill(&ledger, 20);
            ledger
                .backup(home.join("backups").join(format!("{}-{at}", std::process::id())))
                .unwrap();
        }
    }

    fn what_is_killed_in_the_middle_leaves_whole_backups_only() {
        let home = home();
        let to = home.path().join("backups");
        fs::create_dir(&to).unwrap();
        let mut met_a_partial_one = false;
        for round in 0..30 {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "backup::backs_up_until_it_is_killed"])
                .env(IN_CHILD, "1")
                .env(DIRECTORY, home.path())
                .stdout(Stdio::null())
                .spawn();
            let child = KillOnDrop(child.unwrap());
            let whole = names(&to).iter().filter(|name| !name.starts_with('.')).count();
            let more = || names(&to).iter().filter(|name| !name.starts_with('.')).count() > whole;
            eventually("a backup is made", more);
            std::thread::sleep(Duration::from_millis(round * 7 % 23));
            drop(child);
            met_a_partial_one |= names(&to).iter().any(|name| name.starts_with('.'));
            for name in names(&to).iter().filter(|name| !name.starts_with('.')) {
                assert_eq!(
                    tools::verify(to.join(name)).unwrap().corruption,
                    [],
                    "round {round}: {name}"
                );
                fs::remove_dir_all(to.join(name)).unwrap();
            }
            assert!(names(&to).len() <= 1, "the next one removes what is left: {:?}", names(&to));
        }
        assert!(met_a_partial_one, "none was killed in the middle");
    }

    #[cfg(target_os = "linux")]
    #[ignore = "as root: mounts a small file system"]
    fn a_full_target_is_told_as_such_and_leaves_nothing() {
        let home = home();
        let ledger = alone(&home.path().join("log")).open().unwrap();
        fill(&ledger, 2000);
        let small = home.path().join("small");
        fs::create_dir(&small).unwrap();
        let mount = |arguments: &[&str]| {
            assert!(Command::new("mount").args(arguments).arg(&small).status().unwrap().success())
        };
        mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
        let outcome = ledger.backup(small.join("backup"));
        let left = names(&small);
        let onto = ledger.backup(&small);
        assert!(Command::new("umount").arg(&small).status().unwrap().success());
        assert!(
            matches!(&outcome, Err(BackupError::Full { path, .. }) if path.starts_with(&small)),
            "{outcome:?}"
        );
        assert_eq!(left, [""; 0]);
        match onto {
            Err(BackupError::Target { reason, .. }) => {
                assert!(reason.contains("mounted"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
        fill(&ledger, 10);
        assert_eq!(ledger.status().full, None, "that disk is none of the node's");
        assert_eq!(ledger.status().role, Role::Leader);
    }
}

/// The original still has all that its backup has.
fn check_entries_of_the_original(backup: &Backup, dir: &Path) {
    let mut indexes = backup.committed.clone();
    let each = |entry: Result<dledger::Entry, _>| {
        let entry = entry.unwrap();
        assert_eq!((Some(entry.index()), &*entry), (indexes.next(), &*payload(entry.index())));
        std::ops::ControlFlow::Continue(())
    };
    tools::dump(dir, backup.committed.clone(), each).unwrap();
    assert_eq!(indexes.next(), None);
}
