//! Runs a fact in a child process: this test binary once more, with the name of that one test.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set in a child. The fact is to be run there, not handed on.
pub(crate) const IN_CHILD: &str = "DLEDGER_FIELD_CHILD";

/// A child that takes longer has failed.
const CHILD_TIMEOUT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 300 } else { 150 });

/// Declares tests, each of which runs in a process of its own.
macro_rules! facts {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            crate::child::run(concat!(module_path!(), "::", stringify!($name)), || $body);
        }
    )*};
}

/// Runs `fact`, the body of the test `path`, in a child, and fails if that does.
pub(crate) fn run(path: &str, fact: impl FnOnce()) {
    if std::env::var_os(IN_CHILD).is_some() {
        return fact();
    }
    let (_, name) = path.split_once("::").expect("a test has a module");
    let child = Command::new(std::env::current_exe().expect("a program has a path"))
        .args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads", "1"])
        .env(IN_CHILD, "1")
        .stdin(Stdio::null())
        .spawn()
        .expect("this program can be started once more");
    let mut child = KillOnDrop(child);
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().expect("a child can be waited for") {
            break status;
        }
        assert!(began.elapsed() < CHILD_TIMEOUT, "{name} has not ended after {CHILD_TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{name} failed in its process: {status}");
}

/// A child that does not outlive the test.
pub(crate) struct KillOnDrop(pub(crate) Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
