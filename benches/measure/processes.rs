//! A group whose nodes are processes: this program starts itself again, once for each, and tells
//! its children what to do line by line.
//!
//! A child reads commands from its standard input and answers each with one line; it ends when the
//! input does, so none outlives its parent.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use dledger::{DLedger, FlushPolicy, Role};
use tempfile::TempDir;

use super::cluster::{ASYNC, ELECTION_MAX, free_addresses, purging};
use super::machine;
use super::scratch::scratch;
use super::turn::{Turn, append, decode_latencies, encode_latencies};

/// The first argument of a child: then come its number, the addresses of all, its directory, `sync`
/// or `async`, and how many entries its host keeps or `all`.
const MEMBER: &str = "--member";

/// Three nodes on loopback TCP, a process each. Their data is removed when dropped.
pub(crate) struct Processes {
    members: Vec<Member>,
    _dir: TempDir,
}

struct Member {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Processes {
    /// Hosts keep their newest `kept` entries; without it, all of them.
    pub(crate) fn start(flush: FlushPolicy, kept: Option<u64>) -> Processes {
        let dir = scratch();
        let addresses: Vec<String> =
            free_addresses(3).into_iter().map(|(_, address)| address).collect();
        let kept = kept.map_or("all".to_owned(), |kept| kept.to_string());
        let policy = if flush == FlushPolicy::Sync { "sync" } else { "async" };
        let member = |id: usize| {
            Member::start(id, &addresses, &dir.path().join(format!("node-{id}")), policy, &kept)
        };
        Processes { members: (1..=3).map(member).collect(), _dir: dir }
    }

    /// Keeps `window` appends of `bytes` in flight, within the leader's process.
    pub(crate) fn append(&mut self, bytes: usize, window: usize, time: Duration) -> Turn {
        let leader = self.leader();
        let before = self.cpu();
        let answer =
            self.members[leader].ask(&format!("append {bytes} {window} {}", time.as_nanos()));
        let cpu = self.cpu() - before;
        let (per_second, latencies) = answer.split_once(' ').expect("a child answers in full");
        let latency = decode_latencies(latencies);
        let per_second = per_second.parse().expect("a child answers with numbers");
        Turn { per_second, latency, cores: cpu.as_secs_f64() / time.as_secs_f64() }
    }

    /// Gives up what was appended, so that the disk does not fill up.
    pub(crate) fn purge(&mut self) {
        self.members.iter_mut().for_each(|member| drop(member.ask("purge")));
    }

    /// How many entries were appended so far.
    pub(crate) fn end(&mut self) -> u64 {
        let leader = self.leader();
        self.members[leader].ask("end").parse().expect("a child answers with a number")
    }

    fn leader(&mut self) -> usize {
        let deadline = Instant::now() + ELECTION_MAX;
        while Instant::now() < deadline {
            if let Some(leader) = self
                .members
                .iter_mut()
                .position(|member| member.ask("role") == Role::Leader.to_string())
            {
                return leader;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("no leader within {ELECTION_MAX:?}");
    }

    /// Processor time of all children so far.
    fn cpu(&mut self) -> Duration {
        let of = |member: &mut Member| {
            Duration::from_nanos(member.ask("cpu").parse().expect("a child answers with a number"))
        };
        self.members.iter_mut().map(of).sum()
    }
}

impl Member {
    fn start(id: usize, addresses: &[String], dir: &Path, policy: &str, kept: &str) -> Member {
        let program = std::env::current_exe().expect("a program knows where it lies");
        let mut command = Command::new(program);
        command.args([MEMBER, &id.to_string(), &addresses.join(",")]).arg(dir).args([policy, kept]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program can start itself");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Member { child, commands, answers }
    }

    fn ask(&mut self, command: &str) -> String {
        let commands = self.commands.as_mut().expect("it is open until the end");
        writeln!(commands, "{command}").expect("a child reads its commands");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("a child answers in text");
        assert!(answer.ends_with('\n'), "a child ended early");
        answer.trim_end().to_owned()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.commands = None;
        if let Err(error) = self.child.wait() {
            eprintln!("a child was not waited for: {error}");
        }
    }
}

/// If this process is such a child: does what it is told until its input ends. Returns whether it
/// was one.
pub(crate) fn serve_as_member(arguments: &[String]) -> bool {
    let [marker, id, addresses, dir, policy, kept] = arguments else { return false };
    if marker != MEMBER {
        return false;
    }
    let flush = if policy == "sync" { FlushPolicy::Sync } else { ASYNC };
    let id: u64 = id.parse().expect("a node is a number");
    let peers = (1_u64..).zip(addresses.split(','));
    let ledger = DLedger::builder(id)
        .peers(peers)
        .dir(dir)
        .flush(flush)
        .open()
        .expect("a node opens in a directory of its own");
    let work = || {
        for command in std::io::stdin().lines().map_while(Result::ok) {
            println!("{}", obey(&ledger, &command));
        }
    };
    match kept.parse() {
        Ok(kept) => purging(slice::from_ref(&ledger), kept, work),
        Err(_) => work(),
    }
    true
}

fn obey(ledger: &DLedger, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["role"] => ledger.status().role.to_string(),
        ["end"] => ledger.committed().end.to_string(),
        ["cpu"] => machine::usage().map_or(0, |usage| usage.cpu.as_nanos()).to_string(),
        ["purge"] => {
            ledger.purge(ledger.committed().end).expect("a healthy node purges");
            "done".to_owned()
        }
        ["append", bytes, window, nanos] => {
            let number = |text: &str| text.parse::<u64>().expect("a parent asks with numbers");
            let payload = vec![0x5a; number(bytes) as usize];
            let turn = append(
                ledger,
                &payload,
                number(window) as usize,
                Duration::from_nanos(number(nanos)),
            );
            format!("{} {}", turn.per_second, encode_latencies(&turn.latency))
        }
        _ => panic!("unknown command: {command}"),
    }
}
