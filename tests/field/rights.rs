//! A log that may not be written to for a moment: somebody lowers a limit, changes the mode of a
//! directory, or lets a backup hold its files still. The node steps back, says what to do, and goes
//! on once it may.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dledger::storage::StorageError;
use dledger::{AppendError, Builder, DLedger, FlushPolicy, PurgeError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::group::{eventually, home, leader, three};

const SEGMENT_BYTES: u64 = 64 << 10;

/// One entry of it fills a segment.
static ENTRY: [u8; 56 << 10] = [7; 56 << 10];

fn alone(dir: &Path) -> Builder {
    DLedger::builder(1).dir(dir).segment_bytes(SEGMENT_BYTES)
}

/// Lets this process write no file beyond `bytes`, or as it may otherwise. What exceeds the limit
/// raises a signal that ends the process.
fn limit_file_bytes(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let limit = Rlimit { current: bytes.or(maximum), maximum };
    setrlimit(Resource::Fsize, limit)
        .expect("a process may lower its own limits, and raise them again");
}

/// Modes mean nothing to root: from here on this process is nobody, as `home` is nobody's.
fn without_privileges(home: &Path) {
    const NOBODY: u32 = 65534;
    if rustix::process::geteuid().is_root() {
        chown(home, Some(NOBODY), Some(NOBODY)).unwrap();
        // SAFETY: neither touches memory.
        let gone = unsafe { (libc::setgid(NOBODY), libc::setuid(NOBODY)) };
        assert_eq!(gone, (0, 0), "{}", std::io::Error::last_os_error());
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Appends until one is refused, and returns why.
fn refusal(ledger: &DLedger) -> String {
    let mut refusals = (0..1000).filter_map(|_| ledger.append(ENTRY).err());
    match refusals.next().expect("it may not be written to") {
        refused @ AppendError::StorageFull { .. } => {
            assert!(!refused.may_have_committed());
            refused.to_string()
        }
        other => panic!("{other}"),
    }
}

/// Appends until one is taken, and shows that nothing is wrong any more.
fn recovers(ledger: &DLedger) {
    eventually("it takes appends again", || ledger.append("again").is_ok());
    let status = ledger.status();
    assert_eq!((status.fault, status.full), (None, None));
}

/// Shows that what `ledger` has committed is there when it is opened once more.
fn reopens(ledger: DLedger, dir: &Path) {
    let committed = ledger.committed();
    ledger.shutdown().unwrap();
    drop(ledger);
    let ledger = alone(dir).open().unwrap();
    assert_eq!(ledger.committed(), committed);
    assert_eq!(ledger.read(0).map(Result::unwrap).count() as u64, committed.end);
}

facts! {
    fn a_limit_for_the_length_of_files_that_is_lowered_for_a_moment_ends_no_node() {
        for flush in [FlushPolicy::Sync, FlushPolicy::Async { interval: Duration::from_millis(20) }]
        {
            // Nothing may be written, or no more segments, or nothing behind a place in the middle
            // of one.
            for limit in [0, 40 << 10, 51_111, (64 << 10) - 1] {
                let home = home();
                let ledger = alone(home.path()).flush(flush).open().unwrap();
                let before = ledger.append(ENTRY).unwrap();
                limit_file_bytes(Some(limit));
                let refused = refusal(&ledger);
                let (status, read) = (ledger.status(), ledger.get(before));
                limit_file_bytes(None);
                assert!(refused.contains("RLIMIT_FSIZE"), "{refused}");
                assert_eq!(status.fault, None, "a limit of {limit}");
                assert!(status.full.is_some_and(|why| why.contains("RLIMIT_FSIZE")));
                assert_eq!(*read.unwrap().unwrap(), ENTRY);
                recovers(&ledger);
                reopens(ledger, home.path());
            }
        }
    }

    fn a_directory_that_may_not_be_written_to_for_a_moment_ends_no_node() {
        let home = home();
        without_privileges(home.path());
        let dir = home.path().join("log");
        let ledger = alone(&dir).open().unwrap();
        let before = ledger.append("before").unwrap();
        let mut tail = ledger.tail(0);
        set_mode(&dir, 0o500);
        let refused = refusal(&ledger);
        assert!(
            refused.contains("Permission denied")
                && refused.contains("let this process write there"),
            "{refused}"
        );
        let status = ledger.status();
        assert_eq!((status.fault, status.full.is_some()), (None, true));
        assert_eq!(*ledger.get(before).unwrap().unwrap(), *b"before");
        assert_eq!(*tail.next().unwrap().unwrap(), *b"before");
        // Nothing of it is new: what a purge changes lies in a file that is open.
        match ledger.purge(u64::MAX) {
            Ok(_) | Err(PurgeError::Storage(StorageError::Denied { .. })) => {}
            other => panic!("{other:?}"),
        }
        // An opening meanwhile fails with the reason.
        let elsewhere = home.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        set_mode(&elsewhere, 0o500);
        let refused = alone(&elsewhere).open().expect_err("nothing can be made there");
        assert!(
            matches!(&refused, dledger::OpenError::Storage(StorageError::Io { .. })),
            "{refused}"
        );
        set_mode(&dir, 0o700);
        recovers(&ledger);
        let committed = ledger.committed();
        ledger.shutdown().unwrap();
        drop(ledger);
        assert_eq!(alone(&dir).open().unwrap().committed(), committed);
    }

    fn a_group_whose_leader_may_not_write_goes_on_without_it_and_takes_it_back() {
        let home = home();
        without_privileges(home.path());
        let nodes = three(home.path(), |builder| builder.segment_bytes(SEGMENT_BYTES));
        let leads = leader(&nodes);
        nodes[leads].append("before").unwrap();
        let dir = home.path().join(nodes[leads].status().id.to_string());
        set_mode(&dir, 0o500);
        // Of what it had sent when it was refused, the others decide.
        let is_refused = (0..1000).any(|_| nodes[leads].append(ENTRY).is_err());
        assert!(is_refused, "it may not be written to");
        let others = || nodes.iter().enumerate().filter(|(at, _)| *at != leads);
        eventually("another node takes appends", || {
            others().any(|(_, node)| node.append("meanwhile").is_ok())
        });
        set_mode(&dir, 0o700);
        let taken = |node: &DLedger| node.append("again").is_ok();
        eventually("some node takes appends again", || nodes.iter().any(taken));
        let end = nodes.iter().map(|node| node.committed().end).max().unwrap();
        for node in &nodes {
            eventually("all of them go on", || {
                node.committed().end >= end && node.status().full.is_none()
            });
            assert_eq!(node.status().fault, None);
        }
    }

    #[ignore = "as root, with `chattr`, on a file system that knows immutable files"]
    fn files_that_are_held_still_for_a_moment_end_no_node() {
        let home = home();
        let ledger = alone(home.path()).open().unwrap();
        let before = ledger.append("before").unwrap();
        let chattr = |flag: &str| {
            let files = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
            let status = Command::new("chattr")
                .arg(flag)
                .args(files.collect::<Vec<_>>())
                .arg(home.path())
                .status();
            assert!(status.unwrap().success(), "chattr {flag}");
        };
        chattr("+i");
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| refusal(&ledger)));
        let (status, read) = (ledger.status(), ledger.get(before));
        chattr("-i");
        let refused = refused.unwrap();
        assert!(refused.contains("Operation not permitted"), "{refused}");
        assert_eq!((status.fault, status.full.is_some()), (None, true));
        assert_eq!(*read.unwrap().unwrap(), *b"before");
        recovers(&ledger);
        reopens(ledger, home.path());
    }
}
