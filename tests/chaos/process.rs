//! A node process seen from its parent: questions and answers, signals, and its end.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use crate::config::ProcessConfig;
use crate::node_process::{CONFIG, NODE_TEST};

/// Handles an answer, or `None` if the process ends first.
type Then = Box<dyn FnOnce(Option<&str>) + Send>;

/// Handles a notice of the process, or `None` when it has ended.
type Listen = Box<dyn Fn(&Process, Option<&str>) + Send>;

/// One process, from its start to its end. Killed when it is dropped.
pub(crate) struct Process {
    /// Unique within a run.
    pub(crate) number: u32,
    pub(crate) node: u64,
    child: Mutex<Child>,
    answers: Mutex<UnixStream>,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    opened: AtomicBool,
    /// Whether its end is expected.
    may_end: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    gone: bool,
    questions: HashMap<u64, Then>,
}

impl Process {
    /// Starts a process under `program` with its arguments, if there are any.
    pub(crate) fn start(
        number: u32,
        config: &ProcessConfig,
        program: &[String],
        listen: Listen,
    ) -> Arc<Process> {
        let (ours, theirs) = UnixStream::pair().expect("there are descriptors");
        let test = env::current_exe().expect("a running program has a path");
        let mut words: Vec<&OsStr> = program.iter().map(OsStr::new).collect();
        words.push(test.as_os_str());
        words.extend(
            ["--exact", NODE_TEST, "--ignored", "--nocapture", "--test-threads=1"].map(OsStr::new),
        );
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env(CONFIG, config.write())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
        drop(command); // and with it the child's end of the socket
        let process = Arc::new(Process {
            number,
            node: config.node,
            child: Mutex::new(child),
            answers: Mutex::new(ours.try_clone().expect("there are descriptors")),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            opened: AtomicBool::new(false),
            may_end: AtomicBool::new(false),
        });
        let reader = process.clone();
        thread::spawn(move || reader.read_answers(ours, &listen));
        process
    }

    /// Asks, and does `then` with the answer.
    pub(crate) fn ask(&self, question: &str, then: impl FnOnce(Option<&str>) + Send + 'static) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.waiting.lock();
        if waiting.gone {
            drop(waiting);
            return then(None);
        }
        waiting.questions.insert(id, Box::new(then));
        drop(waiting);
        // If it is gone, the reader of its answers finds the question waiting.
        let _ = self.answers.lock().write_all(format!("{id} {question}\n").as_bytes());
    }

    /// Asks and waits for the answer. `None` if the process has ended, or does not answer in time.
    pub(crate) fn ask_and_wait(&self, question: &str, timeout: Duration) -> Option<String> {
        let (sender, answer) = channel();
        self.ask(question, move |answer| drop(sender.send(answer.map(str::to_owned))));
        answer.recv_timeout(timeout).ok().flatten()
    }

    fn read_answers(&self, control: UnixStream, listen: &Listen) {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            let (id, what) = line.split_once(' ').expect("a number and what is said");
            match id.parse().expect("a number") {
                0 => {
                    self.opened.fetch_or(what == "opened", Ordering::Relaxed);
                    listen(self, Some(what));
                }
                id => {
                    let then = self.waiting.lock().questions.remove(&id);
                    then.expect("nothing is answered that was not asked")(Some(what));
                }
            }
        }
        let mut waiting = self.waiting.lock();
        waiting.gone = true;
        let questions = std::mem::take(&mut waiting.questions);
        drop(waiting);
        questions.into_values().for_each(|then| then(None));
        listen(self, None);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.opened.load(Ordering::Relaxed) && !self.is_gone()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.waiting.lock().gone
    }

    pub(crate) fn may_end(&self) -> bool {
        self.may_end.load(Ordering::Relaxed)
    }

    /// From now on its end is expected.
    pub(crate) fn expect_end(&self) {
        self.may_end.store(true, Ordering::Relaxed);
    }

    /// SIGSTOP: it stops, and its connections stay open.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let mut child = self.child.lock();
        if child.try_wait().is_ok_and(|ended| ended.is_none()) {
            kill_process(Pid::from_child(&child), signal)
                .expect("a child process can be signalled");
        }
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&self) {
        self.expect_end();
        let mut child = self.child.lock();
        let _ = child.kill();
        child.wait().expect("it is a child of ours");
    }

    /// Waits until it ends by itself. Whether it ended well.
    pub(crate) fn wait(&self) -> bool {
        self.child.lock().wait().expect("it is a child of ours").success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}
