//! The process that works on a log while its parent pulls the plug: this test program, started once
//! more.
//!
//! It says what it does, one line at a time, on its standard output. A line is in the pipe when
//! `say` returns, so nothing that was said is lost with the process.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(60);
const ROLE: &str = "DLEDGER_ROLE";

/// What a process plays: who it is, and what it needs to know, in words without blanks.
#[test]
#[ignore = "the other end of the tests here, which start it themselves"]
fn another_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    // The harness has begun a line of its own.
    say("");
    match words[0] {
        "log" => crate::log_subject::play(&words[1..]),
        "node" => crate::node_subject::play(&words[1..]),
        "sync" => crate::failing_sync::play(&words[1..]),
        other => panic!("unknown role: {other}"),
    }
}

/// Tells the parent.
pub(crate) fn say(line: &str) {
    // A parent that is gone has heard enough.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Tells the parent of something that is safe from now on, and when that became known.
pub(crate) fn acknowledge(what: &str) {
    say(&format!("safe {} {what}", moment()));
}

/// Now, in nanoseconds by a clock that all processes of a machine share.
pub(crate) fn moment() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What was said, with what was acknowledged before `moment`, and without what was acknowledged
/// later.
pub(crate) fn acknowledged_before(moment: u64, said: Vec<String>) -> Vec<String> {
    let judge =
        |line: String| match line.strip_prefix("safe ").and_then(|rest| rest.split_once(' ')) {
            Some((when, what)) => {
                (when.parse::<u64>().expect("a number") < moment).then(|| what.to_owned())
            }
            None => Some(line),
        };
    said.into_iter().filter_map(judge).collect()
}

/// Waits to be killed.
pub(crate) fn stand_still() -> ! {
    loop {
        thread::park();
    }
}

/// A process at work. Killed when it is dropped.
pub(crate) struct Actor {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Actor {
    pub(crate) fn start(role: &str) -> Actor {
        let nothing: [&str; 0] = [];
        Actor::start_under(&nothing, role)
    }

    /// The same, as the child of another program with its arguments.
    pub(crate) fn start_under<S: AsRef<OsStr>>(program: &[S], role: &str) -> Actor {
        let test = env::current_exe().expect("a running program has a path");
        let mut words: Vec<&OsStr> = program.iter().map(AsRef::as_ref).collect();
        words.push(test.as_os_str());
        words.extend(
            ["--exact", "actor::another_process", "--ignored", "--nocapture", "--test-threads=1"]
                .map(OsStr::new),
        );
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env(ROLE, role).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
        let output = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let (sender, lines) = channel();
        thread::spawn(move || output.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Actor { child, lines, said: Vec::new() }
    }

    /// Waits until it says `line`.
    pub(crate) fn wait_for(&mut self, line: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.said.last().is_none_or(|said| said != line) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(said) => self.said.push(said),
                Err(error) => {
                    panic!("waited for {line:?} in vain ({error}) after {:?}", self.said.last())
                }
            }
        }
    }

    /// What it has said so far.
    pub(crate) fn said(&mut self) -> &[String] {
        self.said.extend(self.lines.try_iter());
        &self.said
    }

    /// Kills it and returns all that it said.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it is there");
        self.hear_out()
    }

    /// Waits until it has ended by itself, or under the program that it was started with, and
    /// returns all that it said.
    pub(crate) fn hear_out(&mut self) -> Vec<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(said) => self.said.push(said),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it does not end, after {:?}", self.said.last())
                }
            }
        }
        self.child.wait().expect("it is a child of ours");
        std::mem::take(&mut self.said)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The numbers behind the last line that begins with `word`.
pub(crate) fn newest(said: &[String], word: &str) -> Option<u64> {
    said.iter().rev().find_map(|line| numbers(line, word)).map(|numbers| numbers[0])
}

/// The numbers of a line that begins with `word`.
pub(crate) fn numbers(line: &str, word: &str) -> Option<Vec<u64>> {
    let rest = line.strip_prefix(word)?.strip_prefix(' ')?;
    rest.split(' ').map(|number| number.parse().ok()).collect()
}
