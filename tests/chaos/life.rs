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

use crate::node_process::{PART, PLAYER};
use crate::part::Part;

/// What is done with an answer, or with none if the process ends first.
type Then = Box<dyn FnOnce(Option<&str>) + Send>;

/// What is done with what a process says unasked; with `None` when it has ended.
type Listen = Box<dyn Fn(&Life, Option<&str>) + Send>;

/// One process, from its start to its end. Killed when it is dropped.
pub(crate) struct Life {
    /// No two lives of a run have the same.
    pub(crate) number: u32,
    pub(crate) node: u64,
    child: Mutex<Child>,
    voice: Mutex<UnixStream>,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    opened: AtomicBool,
    /// Whether it was meant to end.
    doomed: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    gone: bool,
    questions: HashMap<u64, Then>,
}

impl Life {
    /// Starts a process under `program` with its arguments, if there are any.
    pub(crate) fn start(number: u32, part: &Part, program: &[String], listen: Listen) -> Arc<Life> {
        let (ours, theirs) = UnixStream::pair().expect("there are descriptors");
        let test = env::current_exe().expect("a running program has a path");
        let mut words: Vec<&OsStr> = program.iter().map(OsStr::new).collect();
        words.push(test.as_os_str());
        words.extend(
            ["--exact", PLAYER, "--ignored", "--nocapture", "--test-threads=1"].map(OsStr::new),
        );
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env(PART, part.write())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
        drop(command); // and with it the child's end of the socket
        let life = Arc::new(Life {
            number,
            node: part.node,
            child: Mutex::new(child),
            voice: Mutex::new(ours.try_clone().expect("there are descriptors")),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            opened: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
        });
        let heard = life.clone();
        thread::spawn(move || heard.hear(ours, &listen));
        life
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
        // If it is gone, whoever hears it out finds the question waiting.
        let _ = self.voice.lock().write_all(format!("{id} {question}\n").as_bytes());
    }

    /// Asks and waits for the answer. `None` if the process has ended, or does not answer in time.
    pub(crate) fn ask_and_wait(&self, question: &str, patience: Duration) -> Option<String> {
        let (sender, answer) = channel();
        self.ask(question, move |answer| drop(sender.send(answer.map(str::to_owned))));
        answer.recv_timeout(patience).ok().flatten()
    }

    fn hear(&self, control: UnixStream, listen: &Listen) {
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

    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }

    /// It will end now, and that is as it should be.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    /// SIGSTOP: it stands still, and its connections stay open.
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
            kill_process(Pid::from_child(&child), signal).expect("a child of ours can be told");
        }
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&self) {
        self.doom();
        let mut child = self.child.lock();
        let _ = child.kill();
        child.wait().expect("it is a child of ours");
    }

    /// Waits until it ends by itself. Whether it ended well.
    pub(crate) fn wait(&self) -> bool {
        self.child.lock().wait().expect("it is a child of ours").success()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}
