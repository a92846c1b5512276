//! What file systems, sandboxes and limits do to the files of a log.

use dledger::{DLedger, OpenError};

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
    const NUMBER_AT: u32 = 0; // in what the kernel tells of a call
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

#[cfg(target_os = "linux")]
facts! {
    // By default a write behind the limit ends the process with SIGXFSZ.
    fn a_limit_of_the_length_of_files_is_told_at_opening_and_kills_nobody() {
        let home = home();
        let long = home.path().join("long");
        DLedger::builder(1).dir(&long).open().unwrap().append([7; 10_000]).unwrap();
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
        let short = DLedger::builder(1).dir(home.path().join("short")).segment_bytes(1 << 20).open();
        append_some(&short.unwrap());
        limit_files(libc::RLIM_INFINITY);
        let whole = DLedger::builder(1).dir(&long).open().unwrap();
        assert_eq!(whole.get(0).unwrap().unwrap().len(), 10_000);
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
