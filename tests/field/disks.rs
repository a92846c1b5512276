//! What file systems, sandboxes, limits and other people do to the files of a log.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dledger::{DLedger, OpenError};

use crate::child::{IN_CHILD, KillOnDrop};
use crate::group::home;

/// What the process may write to a file at most (`ulimit -f`).
#[cfg(target_os = "linux")]
fn limit_files(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: it only reads the limit that it is given.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
}

/// Has the kernel answer a system call with an error, as sandboxes do, from now on and for good.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn refuse(call: libc::c_long, error: i32) {
    const NUMBER_AT: u32 = 0; // in the data of a system call
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let is_not = |k: u32| libc::sock_filter { jt: 0, jf: 1, ..statement(0x15, k) };
    let mut filter = [
        statement(0x20, NUMBER_AT), // load the number of the call
        is_not(call as u32),
        statement(0x06, libc::SECCOMP_RET_ERRNO | error as u32),
        statement(0x06, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program outlives the call, and has the length that it says.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let set = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}

/// Enough for several segments of 64 KiB.
fn append_some(ledger: &DLedger) {
    for _ in 0..50 {
        ledger.append([7; 4000]).unwrap();
    }
}

/// Where `logs_until_it_is_killed` has its log.
const DIRECTORY: &str = "DLEDGER_FIELD_DIRECTORY";

/// What tools, editors and file systems leave in a directory, by names and contents.
fn litter(dir: &Path) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let mut left = Vec::new();
    for name in ["lost+found", ".snapshot", "some.spare.d"] {
        fs::create_dir_all(dir.join(name)).unwrap();
        left.push((dir.join(name), None));
    }
    for name in [
        ".DS_Store",
        ".nfs00000000012",
        "notes~",
        "#seg#",
        "core.1",
        "x.seg",
        "0.seg.swp",
        "identity~",
    ] {
        fs::write(dir.join(name), name).unwrap();
        left.push((dir.join(name), Some(name.as_bytes().to_vec())));
    }
    #[cfg(target_os = "linux")]
    {
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe.seg");
        fs::write(dir.join(name), "x").unwrap();
        left.push((dir.join(name), Some(b"x".to_vec())));
    }
    left
}

facts! {
    // A volume of its own has `lost+found` in it before anything else is.
    fn what_is_not_of_the_log_does_not_matter_and_is_left_alone() {
        let home = home();
        let dir = home.path().join("d");
        fs::create_dir(&dir).unwrap();
        let open = || DLedger::builder(1).dir(&dir).segment_bytes(64 << 10).open().unwrap();
        let mut left = litter(&dir);
        append_some(&open());
        // Copies that somebody made of files of the log, beside them.
        for file in fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if file.extension().is_some_and(|is| is == "seg") && name.len() > 20 {
                let copy = dir.join(format!("{name}.bak"));
                fs::copy(&file, &copy).unwrap();
                left.push((copy.clone(), Some(fs::read(&copy).unwrap())));
            }
        }
        let ledger = open();
        append_some(&ledger);
        assert_eq!((ledger.committed(), ledger.status().fault), (0..100, None));
        ledger.purge(90).unwrap();
        drop(ledger);
        assert_eq!(open().committed().end, 100);
        for (path, bytes) in left {
            assert_eq!(fs::read(&path).ok(), bytes, "{}", path.display());
            assert!(path.exists(), "{}", path.display());
        }
    }

    // What the next one starts; by itself it does nothing.
    fn logs_until_it_is_killed() {
        let Some(dir) = std::env::var_os(DIRECTORY) else { return };
        let ledger = DLedger::builder(1).dir(dir).segment_bytes(64 << 10).open().unwrap();
        loop {
            append_some(&ledger);
        }
    }

    // What a supervisor does that does not wait: most of all while the directory is made.
    fn a_node_that_is_killed_while_it_starts_starts_again() {
        let home = home();
        for round in 0..24u64 {
            let dir = home.path().join((round / 3).to_string());
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "disks::logs_until_it_is_killed"])
                .env(IN_CHILD, "1")
                .env(DIRECTORY, &dir)
                .stdout(Stdio::null())
                .spawn();
            let child = KillOnDrop(child.unwrap());
            std::thread::sleep(Duration::from_millis(2 + round * 5 % 37));
            drop(child);
            let ledger = DLedger::builder(1).dir(&dir).segment_bytes(64 << 10).open().unwrap();
            assert_eq!(ledger.status().fault, None, "round {round}");
            ledger.append("it goes on").unwrap();
        }
    }
}

#[cfg(target_os = "linux")]
facts! {
    // By default a write behind the limit ends the process with SIGXFSZ.
    fn a_limit_of_the_length_of_files_is_told_at_opening_and_kills_no_process() {
        let home = home();
        let long = home.path().join("long");
        // It gets a segment of its own size.
        let large = vec![7; 3 << 20];
        DLedger::builder(1).dir(&long).open().unwrap().append(&large).unwrap();
        limit_files(2 << 20);
        let refused = |opened: Result<DLedger, OpenError>| {
            let error = opened.unwrap_err();
            assert!(matches!(error, OpenError::Storage(_)), "{error:?}");
            assert!(error.to_string().contains("RLIMIT_FSIZE"), "{error}");
        };
        refused(DLedger::builder(1).dir(home.path().join("new")).open());
        assert!(!home.path().join("new").exists(), "nothing was made");
        // Its files are longer than the limit: it could not be written on.
        refused(DLedger::builder(1).dir(&long).segment_bytes(1 << 20).open());
        let short =
            DLedger::builder(1).dir(home.path().join("short")).segment_bytes(1 << 20).open();
        append_some(&short.unwrap());
        limit_files(libc::RLIM_INFINITY);
        let whole = DLedger::builder(1).dir(&long).open().unwrap();
        assert_eq!(whole.get(0).unwrap().unwrap().len(), large.len());
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
facts! {
    fn a_sandbox_that_knows_no_allocation_of_files_is_as_good_as_any() {
        let home = home();
        refuse(libc::SYS_fallocate, libc::ENOSYS);
        let ledger = DLedger::builder(1).dir(home.path().join("d")).segment_bytes(64 << 10).open();
        append_some(&ledger.unwrap());
    }
}

#[cfg(target_os = "linux")]
facts! {
    fn a_few_segments_are_written() {
        let home = home();
        let dir = home.path().join("d");
        append_some(&DLedger::builder(1).dir(dir).segment_bytes(64 << 10).open().unwrap());
    }

    // What the timer of a profiler does to it on many file systems: every other call.
    #[ignore = "needs strace"]
    fn an_allocation_that_a_signal_interrupts_is_made_all_the_same() {
        let mut traced = std::process::Command::new("strace");
        traced.args(["-f", "-o", "/dev/null", "-e", "inject=fallocate:error=EINTR:when=1+2"]);
        traced.arg(std::env::current_exe().unwrap());
        traced.args(["--exact", "disks::a_few_segments_are_written"]);
        assert!(traced.status().unwrap().success());
    }
}
