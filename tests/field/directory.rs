//! What becomes of the directory of a ledger, and of its name, while the ledger is open: it is the
//! directory that was locked which is read and written, and no other process gets in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dledger::storage::StorageError;
use dledger::{AppendError, Builder, Create, DLedger, FlushPolicy, OpenError, tools};

/// Four of these fill a good part of the smallest segment, so that new files are made all the time.
const ENTRY_BYTES: usize = 4096;

fn builder(dir: impl Into<PathBuf>) -> Builder {
    DLedger::builder(1).dir(dir).segment_bytes(64 << 10)
}

fn open(dir: impl Into<PathBuf>) -> DLedger {
    builder(dir).open().unwrap()
}

/// Why a directory is not opened.
fn refusal(builder: Builder) -> StorageError {
    match builder.open() {
        Err(OpenError::Storage(error)) => error,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn is_in_use(dir: &Path) -> bool {
    let is_refused = matches!(refusal(builder(dir)), StorageError::InUse { .. });
    is_refused && matches!(tools::inspect(dir), Err(StorageError::InUse { .. }))
}

fn append(ledger: &DLedger, count: usize, byte: u8) {
    for _ in 0..count {
        ledger.append([byte; ENTRY_BYTES]).unwrap();
    }
}

/// The log in `dir` is sound, and holds `count` entries of this byte and nothing else.
fn check(dir: &Path, count: u64, byte: u8) {
    let verified = tools::verify(dir).unwrap();
    assert_eq!((verified.entries, verified.corruption.len()), (count, 0), "{}", dir.display());
    let ledger = open(dir);
    assert_eq!((ledger.committed(), ledger.status().fault), (0..count, None), "{}", dir.display());
    assert!(
        ledger.read(0).all(|entry| *entry.unwrap() == [byte; ENTRY_BYTES]),
        "{}",
        dir.display()
    );
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn await_fault(ledger: &DLedger) -> String {
    let began = Instant::now();
    loop {
        if let Some(fault) = ledger.status().fault {
            return fault;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no fault is reported");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Empties a directory in which a ledger is at work, and may make files meanwhile.
fn empty(dir: &Path) {
    for name in names(dir) {
        let _ = fs::remove_file(dir.join(name));
    }
}

/// What a ledger says that was robbed of its files.
fn robbed(ledger: &DLedger) -> AppendError {
    let began = Instant::now();
    loop {
        if let Err(error) = ledger.append([9; ENTRY_BYTES]) {
            return error;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it goes on");
    }
}

#[cfg(unix)]
fn link(to: &Path, name: &Path) {
    let _ = fs::remove_file(name);
    std::os::unix::fs::symlink(to, name).unwrap();
}

#[cfg(unix)]
facts! {
    fn a_relative_name_is_of_no_account_once_the_ledger_is_open() {
        let root = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| root.path().join(name));
        [&one, &two].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
        std::env::set_current_dir(&one).unwrap();
        let ledger = open("data");
        append(&ledger, 20, 1);
        std::env::set_current_dir(&two).unwrap();
        append(&ledger, 100, 1);
        assert_eq!(names(&two), [""; 0]);
        assert!(is_in_use(&one.join("data")));
        ledger.purge(60).unwrap();
        append(&ledger, 30, 1);
        assert!(ledger.committed().start > 0 && ledger.read(60).count() == 90);
        drop(ledger);
        assert_eq!(open(one.join("data")).committed().end, 150);
        assert_eq!(names(&two), [""; 0]);
    }

    fn a_link_that_is_switched_leads_two_ledgers_to_a_directory_each() {
        let root = tempfile::tempdir().unwrap();
        let [one, two, current] = ["one", "two", "current"].map(|name| root.path().join(name));
        [&one, &two].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
        link(&one, &current);
        let old = open(current.join("data"));
        append(&old, 20, 1);
        link(&two, &current);
        let new = open(current.join("data"));
        // Both are in their first run, and give their files the same names.
        for _ in 0..50 {
            append(&new, 2, 2);
            append(&old, 2, 1);
        }
        assert!(
            is_in_use(&one.join("data"))
                && is_in_use(&two.join("data"))
                && is_in_use(&current.join("data"))
        );
        drop((old, new));
        check(&one.join("data"), 120, 1);
        check(&two.join("data"), 100, 2);
    }

    fn a_directory_that_is_renamed_goes_on_and_so_does_one_in_its_place() {
        let root = tempfile::tempdir().unwrap();
        let [one, two, up] = ["one", "two", "up"].map(|name| root.path().join(name));
        let first = open(&one);
        append(&first, 20, 1);
        fs::rename(&one, &two).unwrap();
        append(&first, 20, 1);
        assert!(is_in_use(&two) && !one.exists());
        let second = open(&one);
        for _ in 0..40 {
            append(&first, 2, 1);
            append(&second, 2, 2);
        }
        // And whatever is above it.
        fs::create_dir(&up).unwrap();
        fs::rename(&two, up.join("two")).unwrap();
        fs::rename(&up, root.path().join("moved")).unwrap();
        append(&first, 40, 1);
        drop((first, second));
        check(&root.path().join("moved/two"), 160, 1);
        check(&one, 80, 2);
    }

    fn a_log_that_is_being_verified_may_be_moved() {
        let root = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| root.path().join(name));
        append(&open(&one), 100, 1);
        let mut is_moved = false;
        let verified = tools::verify_with(&one, |_| {
            if !std::mem::replace(&mut is_moved, true) {
                fs::rename(&one, &two).unwrap();
                fs::create_dir(&one).unwrap();
            }
        });
        let verified = verified.unwrap();
        assert_eq!((is_moved, verified.entries, verified.corruption.len()), (true, 100, 0));
    }

    fn whatever_file_is_removed_no_other_process_gets_in() {
        let root = tempfile::tempdir().unwrap();
        for (number, gone) in
            ["LOCK", "identity", "state", ".seg", ".spare", ""].into_iter().enumerate()
        {
            let dir = root.path().join(number.to_string());
            let ledger = open(&dir);
            append(&ledger, 100, 1);
            for name in names(&dir).iter().filter(|name| name.ends_with(gone)) {
                let _ = fs::remove_file(dir.join(name));
            }
            assert!(is_in_use(&dir), "without {gone:?}");
            assert_eq!(ledger.status().fault, None, "{gone:?}");
            drop(ledger);
            // What is missing is reported, and no new log begins beside what is left.
            match gone {
                "LOCK" | ".spare" => check(&dir, 100, 1),
                "" => drop(open(&dir)),
                ".seg" => assert!(open(&dir).status().fault.is_some()),
                _ => {
                    let refused = refusal(builder(&dir));
                    let StorageError::Corrupt { path, .. } = &refused else { panic!("{refused}") };
                    assert!(path.ends_with(gone), "{refused}");
                }
            }
        }
    }

    fn nothing_is_acknowledged_any_more_in_a_directory_that_was_emptied() {
        let root = tempfile::tempdir().unwrap();
        for flush in [FlushPolicy::Sync, FlushPolicy::Async { interval: Duration::from_millis(10) }]
        {
            let dir = root.path().join(format!("{flush:?}").split(' ').next().unwrap());
            let ledger = builder(&dir).flush(flush).open().unwrap();
            append(&ledger, 100, 1);
            empty(&dir);
            assert!(is_in_use(&dir));
            let error = match flush {
                FlushPolicy::Sync => ledger.append([9; ENTRY_BYTES]).unwrap_err(),
                _ => robbed(&ledger),
            };
            let fault = await_fault(&ledger);
            assert!(fault.contains("was removed"), "{fault}; {error}");
            assert!(is_in_use(&dir));
            assert!(matches!(ledger.append("more"), Err(AppendError::Failed { .. })));
            assert!(ledger.shutdown().is_err());
            // Until it noticed, the node may have made a segment or a spare there: then the
            // directory has been in use. Either way no new log is begun in it.
            match refusal(builder(&dir).create(Create::Never)) {
                StorageError::NoLog { .. } => {}
                StorageError::Corrupt { path, .. } if path.ends_with("identity") => {}
                refused => panic!("{flush:?}: {refused}"),
            }
        }
    }

    fn a_directory_that_was_removed_and_made_again_is_another() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let old = open(&dir);
        append(&old, 100, 1);
        while let Err(error) = fs::remove_dir_all(&dir) {
            assert_eq!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty);
        }
        let new = open(&dir);
        append(&new, 50, 2);
        robbed(&old);
        assert!(await_fault(&old).contains("was removed"));
        append(&new, 50, 2);
        drop((old, new));
        check(&dir, 100, 2);
    }

    #[ignore = "as root, on Linux: cargo test --test field -- --ignored mounted"]
    fn what_is_mounted_on_the_directory_is_not_written_to() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let ledger = open(&dir);
        append(&ledger, 20, 1);
        let run = |words: &[&str]| {
            assert!(Command::new(words[0]).args(&words[1..]).arg(&dir).status().unwrap().success())
        };
        run(&["mount", "-t", "tmpfs", "tmpfs"]);
        let is_hidden = names(&dir).is_empty();
        let appended: Result<Vec<u64>, _> =
            (0..100).map(|_| ledger.append([1; ENTRY_BYTES])).collect();
        let stays_empty = names(&dir).is_empty();
        run(&["umount"]);
        assert!(is_hidden && stays_empty && appended.is_ok(), "{appended:?}");
        assert!(is_in_use(&dir));
        drop(ledger);
        check(&dir, 120, 1);
    }

    fn a_ledger_that_was_shut_down_is_free_whatever_children_are_started() {
        const OPENINGS: usize = if cfg!(debug_assertions) { 300 } else { 1000 };
        let root = tempfile::tempdir().unwrap();
        // A child has copies of all descriptors from its birth to its exec; with memory to copy
        // that takes a little.
        let ballast = vec![1u8; 64 << 20];
        let is_over = Arc::new(AtomicBool::new(false));
        let starter = std::thread::spawn({
            let is_over = is_over.clone();
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            }
        });
        let dir = root.path().join("data");
        for opening in 0..OPENINGS {
            let ledger =
                builder(&dir).open().unwrap_or_else(|error| panic!("opening {opening}: {error}"));
            // An entry or a handle that is kept does not keep the directory locked.
            let kept = (ledger.append("x").unwrap(), ledger.get(0).unwrap(), ledger.clone());
            ledger.shutdown().unwrap();
            tools::inspect(&dir).unwrap_or_else(|error| panic!("after opening {opening}: {error}"));
            drop(kept);
        }
        is_over.store(true, Ordering::Relaxed);
        starter.join().unwrap();
        drop(ballast);
    }

    fn a_directory_whose_parent_is_missing_is_not_made() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join("data");
        for create in [Create::IfMissing, Create::New] {
            let refused = refusal(builder(parent.join("orders")).create(create));
            assert!(
                matches!(&refused, StorageError::NoParent { parent: at, .. } if *at == parent),
                "{refused}"
            );
            assert!(refused.to_string().contains("mount"), "{refused}");
        }
        assert!(matches!(
            refusal(builder(parent.join("orders")).create(Create::Never)),
            StorageError::NoLog { .. }
        ));
        assert_eq!(names(root.path()), [""; 0]);
        assert!(matches!(builder("").open(), Err(OpenError::Setting { setting: "dir", .. })));
        // The working directory is a directory like any other.
        std::env::set_current_dir(root.path()).unwrap();
        for dir in [".", "orders", "./more/"] {
            let ledger = open(dir);
            append(&ledger, 1, 1);
        }
        check(&root.path().join("orders"), 1, 1);
    }

    fn a_host_says_whether_it_expects_a_log() {
        let root = tempfile::tempdir().unwrap();
        let [missing, other, log] = ["missing", "other", "log"].map(|name| root.path().join(name));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("lost+found"), "").unwrap();
        for dir in [&missing, &other] {
            let before = dir.exists().then(|| names(dir));
            let refused = refusal(builder(dir).create(Create::Never));
            assert!(matches!(&refused, StorageError::NoLog { path } if path == dir), "{refused}");
            assert_eq!(dir.exists().then(|| names(dir)), before, "nothing was made");
        }
        for dir in [&missing, &other, &log] {
            append(&builder(dir).create(Create::New).open().unwrap(), 3, 1);
            let refused = refusal(builder(dir).create(Create::New));
            assert!(
                matches!(&refused, StorageError::HoldsLog { path } if path == dir),
                "{refused}"
            );
            for create in [Create::Never, Create::IfMissing] {
                assert_eq!(builder(dir).create(create).open().unwrap().committed(), 0..3);
            }
        }
        // The making of this one was cut short before it was anybody's.
        let begun = root.path().join("begun");
        fs::create_dir(&begun).unwrap();
        fs::write(begun.join("state"), [0; 5000]).unwrap();
        assert!(matches!(
            refusal(builder(&begun).create(Create::Never)),
            StorageError::NoLog { .. }
        ));
        append(&builder(&begun).create(Create::New).open().unwrap(), 3, 1);
        check(&begun, 3, 1);
    }

    fn a_name_that_leads_nowhere_is_told_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let [nowhere, name, file] = ["nowhere", "name", "file"].map(|name| root.path().join(name));
        link(&nowhere, &name);
        fs::write(&file, "").unwrap();
        for dir in [name.clone(), name.join("data")] {
            for create in [Create::IfMissing, Create::New] {
                let refused = refusal(builder(&dir).create(create));
                let StorageError::DanglingLink { path, target } = &refused else {
                    panic!("{refused}")
                };
                assert!(*path == name && *target == nowhere, "{refused}");
                assert!(refused.to_string().contains("mount or make that directory"), "{refused}");
            }
            assert!(tools::inspect(&dir).is_err());
        }
        for dir in [file.clone(), file.join("data")] {
            for refused in [refusal(builder(&dir)), tools::inspect(&dir).unwrap_err()] {
                assert!(
                    matches!(&refused, StorageError::NotADirectory { path } if *path == file),
                    "{refused}"
                );
            }
        }
        assert_eq!(names(root.path()), ["file", "name"]);
        fs::create_dir(&nowhere).unwrap();
        append(&open(&name), 5, 1);
        check(&nowhere, 5, 1);
    }
}
