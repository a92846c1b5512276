//! `examples/kv_store` as three processes that speak TCP: the leader dies by SIGKILL with puts on
//! their way, and nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// `cargo test` builds the examples beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let profile =
        test.parent().and_then(Path::parent).expect("tests are built in target/<profile>/deps");
    let program =
        profile.join("examples").join(format!("kv_store{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.exists(),
        "{} is missing: `cargo test` builds it, so does `cargo build --example kv_store`",
        program.display()
    );
    program
}

/// Three addresses of this machine on which no process listens.
fn addresses() -> Vec<String> {
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().expect("it is bound").to_string())
        .collect()
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Process {
    fn start(id: usize, addresses: &[String], dir: &Path) -> Process {
        let peers: Vec<String> =
            addresses.iter().zip(1..).map(|(address, id)| format!("{id}={address}")).collect();
        let mut command = Command::new(program());
        command
            .args(["--node", &id.to_string(), "--peers", &peers.join(","), "--dir"])
            .arg(dir.join(id.to_string()));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let input = child.stdin.take().expect("it was piped");
        let lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let (sender, output) = channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let process = Process { child, input, output };
        process.line_where(|line| line.contains(" is up"));
        process
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it reads its input");
    }

    /// The next line that is `wanted`; what the node says of itself unasked is passed over.
    fn line_where(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.lines_to(wanted).pop().expect("the wanted line is the last")
    }

    fn lines_to(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => lines.push(line),
                Err(error) => panic!("no answer: {error}, after {lines:?}"),
            }
            if lines.last().is_some_and(|line| wanted(line)) {
                return lines;
            }
        }
    }

    /// `Ok` with the index, or `Err` with what was said.
    fn put(&mut self, key: &str, value: &str) -> Result<u64, String> {
        self.tell(&format!("put {key} {value}"));
        let line = self.line_where(|line| line.starts_with("ok: ") || line.starts_with("error: "));
        acknowledged(&line).map(|(_, _, index)| index).ok_or(line)
    }

    fn leads(&mut self) -> bool {
        self.tell("status");
        self.line_where(|line| line.starts_with("node ") && line.contains(" entries"))
            .contains(": leader in term")
    }

    fn list(&mut self) -> BTreeMap<String, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.tell("list");
            let mut map = BTreeMap::new();
            loop {
                let line = self.line_where(|line| {
                    line.contains(" = ") || line.ends_with(" keys") || line.starts_with("error: ")
                });
                match line.split_once(" = ") {
                    Some((key, value)) => drop(map.insert(key.to_owned(), value.to_owned())),
                    None if line.ends_with(" keys") => return map,
                    None => break,
                }
            }
        }
        panic!("the map could not be read");
    }

    /// Kills it as `kill -9` does and returns what it said before.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
        let mut said = Vec::new();
        loop {
            match self.output.recv_timeout(PATIENCE) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => return said,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the output of a dead process does not end")
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Key, value and index from `ok: put key value is entry 7`.
fn acknowledged(line: &str) -> Option<(String, String, u64)> {
    let (put, index) = line.strip_prefix("ok: put ")?.split_once(" is entry ")?;
    let (key, value) = put.split_once(' ')?;
    Some((key.to_owned(), value.to_owned(), index.parse().ok()?))
}

fn wait_for_leader(nodes: &mut BTreeMap<usize, Process>) -> usize {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let mut leading = nodes.iter_mut().filter_map(|(id, node)| node.leads().then_some(*id));
        if let Some(id) = leading.next() {
            return id;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("no node leads");
}

/// Every put that was acknowledged, by the index that it was given.
#[derive(Default)]
struct Promises(BTreeMap<u64, (String, String)>);

impl Promises {
    fn note(&mut self, key: String, value: String, index: u64) {
        let other = self.0.insert(index, (key, value));
        assert_eq!(other, None, "index {index} was given twice");
    }

    /// Puts `count` keys one after the other through the leader.
    fn gather(&mut self, nodes: &mut BTreeMap<usize, Process>, name: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut leader = wait_for_leader(nodes);
        for number in 0..count {
            let (key, value) = (format!("{name}-{number}"), number.to_string());
            let index = loop {
                match nodes.get_mut(&leader).expect("it is up").put(&key, &value) {
                    Ok(index) => break index,
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
                leader = wait_for_leader(nodes);
            };
            let newest = self.0.last_key_value().map(|(index, _)| *index);
            assert!(Some(index) > newest, "entry {index} was acknowledged after entry {newest:?}");
            self.note(key, value, index);
        }
    }
}

#[test]
fn what_three_processes_acknowledged_survives_kill_9_of_the_leader() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let mut nodes: BTreeMap<usize, Process> =
        (1..=3).map(|id| (id, Process::start(id, &addresses, dir.path()))).collect();
    let mut promises = Promises::default();
    promises.gather(&mut nodes, "before", 50);

    // A follower sends the client to the leader.
    let leader = wait_for_leader(&mut nodes);
    let place =
        format!("node {leader} leads: ask at the prompt of process {}", nodes[&leader].child.id());
    let follower = nodes.iter_mut().find(|(id, _)| **id != leader).unwrap().1;
    let refusal = follower.put("elsewhere", "0").unwrap_err();
    assert!(refusal.contains(&place), "{refusal}");

    // The leader is killed while puts are on their way to it. What it acknowledged before it died
    // counts.
    let mut victim = nodes.remove(&leader).unwrap();
    (0..1_000).for_each(|number| victim.tell(&format!("put during-{number} {number}")));
    let said = victim.lines_to(|line| line.starts_with("ok: put during-50 "));
    for line in said.into_iter().chain(victim.kill()) {
        if let Some((key, value, index)) = acknowledged(&line) {
            promises.note(key, value, index);
        }
    }

    promises.gather(&mut nodes, "after", 50);
    nodes.insert(leader, Process::start(leader, &addresses, dir.path()));

    let maps: Vec<BTreeMap<String, String>> = nodes.values_mut().map(Process::list).collect();
    assert!(maps.windows(2).all(|pair| pair[0] == pair[1]), "the nodes hold different maps");
    let lost: Vec<_> =
        promises.0.values().filter(|(key, value)| maps[0].get(key) != Some(value)).collect();
    assert_eq!(lost, Vec::<&(String, String)>::new(), "acknowledged and lost");
    assert!(promises.0.len() >= 151, "the test made too few promises to mean anything");

    for (id, mut node) in nodes {
        node.tell("quit");
        assert!(node.child.wait().unwrap().success(), "node {id} did not end in peace");
    }
}

#[test]
fn help_is_code_0_and_wrong_usage_code_2() {
    let run = |arguments: &[&str]| Command::new(program()).args(arguments).output().unwrap();
    let help = run(&["--help"]);
    assert_eq!((help.status.code(), help.stderr.len()), (Some(0), 0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("--interactive"));
    for wrong in [
        &["--node", "1"][..],
        &["--dir", "x"],
        &["--interactive", "--dir", "x"],
        &["--node", "1", "--peers", "1:127.0.0.1:7001", "--dir", "x"],
        &["--tour"],
    ] {
        let output = run(wrong);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{wrong:?}");
    }
}
