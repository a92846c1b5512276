//! One node of the group, in a process of its own: this test program, started once more. It does
//! what its parent asks, line by line.
//!
//! Parent and child talk over a socket that the child finds as its standard input. Every question
//! begins with a number, and the answer with the same; 0 marks a notice, which answers no request.
//!
//! | question | answers |
//! |---|---|
//! | `append FIRST COUNT` | `ok INDEX`, `refused LEADER` (0: unknown), `unknown` |
//! | `get INDEX` | `found NUMBER`, `missing`, `purged`, `none` |
//! | `linearizable-get INDEX` | the same, after a barrier |
//! | `barrier` | `end INDEX`, `none` |
//! | `read INDEX` | `entries` with number and stamp of each, `purged FIRST` |
//! | `committed` | `range START END` |
//! | `transfer NODE`, `purge INDEX`, `stop` | `done`, `none` |
//!
//! Notices: `opened`, `leads TERM`, `full TEXT` (too full to be opened), `broken TEXT` (a
//! violation).

use std::env;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use dledger::storage::StorageError;
use dledger::{AppendError, AppendFuture, Appended, DLedger, Entry, OpenError, ReadError, Role};
use parking_lot::Mutex;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::config::ProcessConfig;
use crate::payload::{number_of, payload};

/// The environment variable that holds the configuration.
pub(crate) const CONFIG: &str = "DLEDGER_CHAOS_CONFIG";
/// The name of the test that runs a node.
pub(crate) const NODE_TEST: &str = "node_process::a_node_of_the_group";
/// Entries that one answer holds at most.
const READ_MAX: usize = 4096;

#[test]
#[ignore = "a node of the group: the tests here start it themselves"]
fn a_node_of_the_group() {
    let Ok(config) = env::var(CONFIG) else { return };
    // A process that was stopped, too, ends with those who started it.
    set_parent_process_death_signal(Some(Signal::KILL)).expect("every process may ask for this");
    let control =
        UnixStream::from(io::stdin().as_fd().try_clone_to_owned().expect("the parent gave it"));
    let answers =
        Answers(Arc::new(Mutex::new(control.try_clone().expect("there are few descriptors yet"))));
    let config = ProcessConfig::read(&config);
    let notices = answers.clone();
    let opened = config.builder().on_role_change(move |status| {
        if status.role == Role::Leader {
            notices.say(0, &format!("leads {}", status.term));
        }
    });
    match opened.open() {
        Ok(ledger) => Node::new(ledger, config.settings.seed, answers).serve(control),
        Err(OpenError::Storage(error @ StorageError::Full { .. })) => {
            answers.say(0, &format!("full {error}"))
        }
        Err(error) => answers.say(0, &format!("broken it does not open: {error}")),
    }
}

/// The connection to the parent, for answers and notices.
#[derive(Clone)]
struct Answers(Arc<Mutex<UnixStream>>);

impl Answers {
    fn say(&self, id: u64, what: &str) {
        // The parent may be gone.
        let _ = self.0.lock().write_all(format!("{id} {}\n", what.replace('\n', " ")).as_bytes());
    }
}

#[derive(Clone)]
struct Node {
    ledger: DLedger,
    seed: u64,
    answers: Answers,
}

impl Node {
    fn new(ledger: DLedger, seed: u64, answers: Answers) -> Node {
        Node { ledger, seed, answers }
    }

    /// Answers until the parent asks it to stop, or is gone.
    fn serve(&self, control: UnixStream) {
        self.answers.say(0, "opened");
        let (futures, waiting) = channel();
        self.aside(move |node| node.settle(&waiting));
        let (reads, asked) = channel();
        self.aside(move |node| node.read(&asked));
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("a number");
            let id = number(0);
            match words[1] {
                "append" => self.append(id, number(2), number(3), &futures),
                "get" => self.answers.say(id, &self.get(number(2))),
                "read" => reads.send((id, number(2))).expect("that thread only ends with this one"),
                "committed" => {
                    let range = self.ledger.committed();
                    self.answers.say(id, &format!("range {} {}", range.start, range.end));
                }
                "stop" => {
                    let outcome = self.ledger.shutdown();
                    return self.answers.say(id, if outcome.is_ok() { "done" } else { "none" });
                }
                _ => {
                    let (verb, about) = (
                        words[1].to_owned(),
                        words.get(2).map_or(0, |word| word.parse().expect("a number")),
                    );
                    self.aside(move |node| {
                        node.answers.say(id, &node.answer_in_time(&verb, about))
                    });
                }
            }
        }
    }

    fn aside(&self, work: impl FnOnce(&Node) + Send + 'static) {
        let node = self.clone();
        thread::spawn(move || work(&node));
    }

    fn append(&self, id: u64, first: u64, count: u64, futures: &Sender<(u64, AppendFuture)>) {
        let future = if count == 1 {
            self.ledger.append_async(payload(self.seed, first))
        } else {
            self.ledger
                .append_batch_async((first..first + count).map(|number| payload(self.seed, number)))
        };
        if future.index().is_none() {
            return self.answers.say(id, &outcome(future.wait()));
        }
        futures.send((id, future)).expect("that thread only ends with this one");
    }

    fn settle(&self, futures: &Receiver<(u64, AppendFuture)>) {
        for (id, future) in futures {
            self.answers.say(id, &outcome(future.wait()));
        }
    }

    /// What may take a while.
    fn answer_in_time(&self, verb: &str, about: u64) -> String {
        let done = |ok: bool| if ok { "done" } else { "none" }.to_owned();
        match verb {
            "barrier" => {
                self.ledger.barrier().map_or("none".to_owned(), |end| format!("end {end}"))
            }
            "linearizable-get" => {
                self.ledger.barrier().map_or("none".to_owned(), |_| self.get(about))
            }
            "transfer" => done(self.ledger.transfer_leadership(about).is_ok()),
            "purge" => done(self.ledger.purge(about).is_ok()),
            other => panic!("unknown command: {other}"),
        }
    }

    fn get(&self, index: u64) -> String {
        match self.ledger.get(index) {
            Ok(Some(entry)) => {
                self.number_of(&entry).map_or("none".to_owned(), |number| format!("found {number}"))
            }
            Ok(None) => "missing".to_owned(),
            Err(ReadError::Purged { .. }) => "purged".to_owned(),
            Err(error) => {
                self.answers.say(0, &format!("broken entry {index} cannot be read: {error}"));
                "none".to_owned()
            }
        }
    }

    fn number_of(&self, entry: &Entry) -> Option<u64> {
        let number = number_of(self.seed, entry);
        if number.is_none() {
            self.answers.say(
                0,
                &format!(
                    "broken entry {} holds bytes that no client offered: {:?}",
                    entry.index(),
                    &entry[..]
                ),
            );
        }
        number
    }

    fn read(&self, asked: &Receiver<(u64, u64)>) {
        for (id, from) in asked {
            if let Some(fault) = self.ledger.status().fault {
                self.answers.say(0, &format!("broken it takes no config any more: {fault}"));
            }
            let answer = self.entries(from);
            self.answers.say(id, &answer);
        }
    }

    fn entries(&self, from: u64) -> String {
        let mut answer = "entries".to_owned();
        for entry in self.ledger.read(from).take(READ_MAX) {
            match entry {
                Ok(entry) => {
                    let Some(number) = self.number_of(&entry) else { break };
                    let _ = write!(answer, " {number} {}", stamp(&entry));
                }
                Err(ReadError::Purged { first, .. }) => return format!("purged {first}"),
                Err(error) => {
                    self.answers
                        .say(0, &format!("broken behind entry {from} it cannot be read: {error}"));
                    break;
                }
            }
        }
        answer
    }
}

fn outcome(outcome: Result<Appended, AppendError>) -> String {
    match outcome {
        Ok(appended) => format!("ok {}", appended.index),
        Err(error) if error.may_have_committed() => "unknown".to_owned(),
        Err(AppendError::NotLeader { leader: Some(leader), .. }) => {
            format!("refused {}", leader.get())
        }
        Err(_) => "refused 0".to_owned(),
    }
}

/// A number over all that replicas must agree on beside the payload.
fn stamp(entry: &Entry) -> u32 {
    let fields = [entry.index(), entry.position(), entry.term(), entry.timestamp()];
    crc32fast::hash(&fields.map(u64::to_le_bytes).concat())
}
