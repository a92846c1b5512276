//! Three hosts with many groups, a process each: this program starts itself again, once for each,
//! and tells its children what to do line by line. [`served_host`](super::served_host) is the
//! child's side.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tempfile::TempDir;

use crate::measure::cluster::free_addresses;
use crate::measure::scratch::scratch;
use crate::measure::turn::decode_latencies;
use crate::served_host::HOST;

/// Longer than any of this takes on a machine that works.
const LONG: Duration = Duration::from_secs(120);

/// Three hosts on loopback TCP, a process each. Their data is removed when dropped.
pub(crate) struct Hosts {
    processes: Vec<Process>,
    addresses: String,
    sleep_after: Option<Duration>,
    dir: TempDir,
}

struct Process {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What a process has and has used.
#[derive(Clone, Copy)]
pub(crate) struct HostUsage {
    pub(crate) cpu: Duration,
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
    /// In use, as the allocator of the C library counts it.
    pub(crate) heap_bytes: u64,
    /// Anonymous memory.
    pub(crate) resident_bytes: u64,
}

impl Hosts {
    /// Groups sleep after that time, or never.
    pub(crate) fn start(sleep_after: Option<Duration>) -> Hosts {
        let addresses: Vec<String> =
            free_addresses(3).into_iter().map(|(_, address)| address).collect();
        let mut hosts = Hosts {
            processes: Vec::new(),
            addresses: addresses.join(","),
            sleep_after,
            dir: scratch(),
        };
        hosts.start_processes();
        hosts
    }

    fn start_processes(&mut self) {
        let dir = |id: usize| self.dir.path().join(format!("host-{id}"));
        let start = |id| Process::start(id, &self.addresses, &dir(id), self.sleep_after);
        self.processes = (1..=3).map(start).collect();
    }

    /// Ends the processes in good order, and starts others with their directories.
    pub(crate) fn restart(&mut self) {
        // All at once: one that waits for others to take over its groups does not wait for long.
        self.processes.iter_mut().for_each(|process| process.commands = None);
        self.processes.clear();
        self.start_processes();
    }

    /// Makes and opens so many groups, and waits until each has a leader. Returns how long the
    /// opening took.
    pub(crate) fn open(&mut self, groups: usize) -> Duration {
        let took = self.ask_all(&format!("open {groups}"));
        self.wait_for_leaders(groups);
        slowest(&took)
    }

    /// Opens what lies on disk. Returns how long the slowest took.
    pub(crate) fn open_all(&mut self) -> Duration {
        slowest(&self.ask_all("open_all"))
    }

    pub(crate) fn wait_for_leaders(&mut self, groups: usize) {
        self.wait_until("each group is led", |hosts| hosts.sum("led") >= groups as u64);
    }

    pub(crate) fn wait_until_asleep(&mut self, groups: usize) {
        let all = 3 * groups as u64;
        self.wait_until("all groups sleep", |hosts| hosts.sum("asleep") == all);
    }

    /// Gives the leadership of group n to host `to(n)`, the first of which is 1.
    pub(crate) fn place(&mut self, groups: usize, to: &str) {
        self.wait_until("the leaders are where they should be", |hosts| {
            hosts.ask_all(&format!("place {to}"));
            hosts.sum(&format!("placed {to}")) == groups as u64
        });
    }

    /// Appends one entry to each group.
    pub(crate) fn touch(&mut self) {
        self.ask_all("touch");
    }

    pub(crate) fn usage(&mut self) -> Vec<HostUsage> {
        let answers = self.ask_all("usage");
        let usage = |answer: &String| {
            let words: Vec<u64> = answer.split(' ').map(number).collect();
            let [cpu, threads, descriptors, heap_bytes, resident_bytes] = words[..] else {
                panic!("a child answers in full, not {answer}")
            };
            let cpu = Duration::from_nanos(cpu);
            HostUsage { cpu, threads, descriptors, heap_bytes, resident_bytes }
        };
        answers.iter().map(usage).collect()
    }

    /// The part of a core that the busiest process takes.
    pub(crate) fn cores(&mut self, time: Duration) -> f64 {
        let (before, began) = (self.usage(), Instant::now());
        thread::sleep(time);
        let (after, took) = (self.usage(), began.elapsed());
        let of = |(before, after): (&HostUsage, &HostUsage)| {
            (after.cpu - before.cpu).as_secs_f64() / took.as_secs_f64()
        };
        before.iter().zip(&after).map(of).fold(0.0, f64::max)
    }

    /// What the files of a host take on disk, the largest of all.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let of = |id| disk_bytes(&self.dir.path().join(format!("host-{id}")));
        (1..=3).map(of).max().unwrap_or(0)
    }

    /// Host 1, which leads them, keeps `window` appends in flight over its first `groups` groups.
    /// Returns the appends a second.
    pub(crate) fn append(
        &mut self,
        groups: usize,
        bytes: usize,
        window: usize,
        time: Duration,
    ) -> f64 {
        let nanos = time.as_nanos();
        let answer = self.processes[0].ask(&format!("append {groups} {bytes} {window} {nanos}"));
        self.ask_all("purge");
        answer.parse().expect("a child answers with a number")
    }

    /// Host 1 appends every 10 ms to each of `groups` groups, beside appends to another one if
    /// there is a `window`. Returns the latencies of the former, in nanoseconds.
    pub(crate) fn quiet(&mut self, groups: usize, window: usize, time: Duration) -> Histogram<u64> {
        let nanos = time.as_nanos();
        let answer = self.processes[0].ask(&format!("quiet {groups} {window} {nanos}"));
        self.ask_all("purge");
        decode_latencies(&answer)
    }

    /// Kills host 1, which leads all groups. Returns how long each of them took until it had
    /// acknowledged an append at another one; those that did not in time are left out.
    pub(crate) fn kill_the_leader(&mut self, groups: usize) -> Vec<Duration> {
        self.ask_all("watch");
        let killed = self.processes[0].kill();
        let mut first = vec![u64::MAX; groups];
        let began = Instant::now();
        while first.contains(&u64::MAX) && began.elapsed() < LONG / 4 {
            thread::sleep(Duration::from_millis(200));
            for process in &mut self.processes[1..] {
                for pair in process.ask("recovered").split_terminator(',') {
                    let (group, at) = pair.split_once(':').expect("a group and its time");
                    let first = &mut first[number(group) as usize];
                    *first = number(at).min(*first);
                }
            }
        }
        let took = |at: &u64| (*at < u64::MAX).then(|| Duration::from_nanos(at - killed));
        first.iter().filter_map(took).collect()
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&mut Hosts) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            if began.elapsed() > LONG {
                let states = self.ask_all("state");
                panic!("not in {LONG:?}: {what}\n{}", states.join("\n"));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn sum(&mut self, command: &str) -> u64 {
        self.ask_all(command).iter().map(|answer| number(answer)).sum()
    }

    /// All do it at the same time.
    fn ask_all(&mut self, command: &str) -> Vec<String> {
        self.processes.iter_mut().for_each(|process| process.tell(command));
        self.processes.iter_mut().map(Process::answer).collect()
    }
}

impl Process {
    fn start(id: usize, addresses: &str, dir: &Path, sleep_after: Option<Duration>) -> Process {
        let program = std::env::current_exe().expect("a program knows where it lies");
        let sleep_after =
            sleep_after.map_or("never".to_owned(), |time| time.as_millis().to_string());
        let mut command = Command::new(program);
        command.args([HOST, &id.to_string(), addresses]).arg(dir).arg(sleep_after);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("a program can start itself");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Process { child, commands, answers }
    }

    fn tell(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("it is open until the end");
        writeln!(commands, "{command}").expect("a child reads its commands");
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("a child answers in text");
        assert!(answer.ends_with('\n'), "a child ended early");
        answer.trim_end().to_owned()
    }

    fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    /// Ends it at once, as `kill -9` does. Returns when, in nanoseconds of the system's clock.
    fn kill(&mut self) -> u64 {
        let killed = super::served_host::unix_nanos();
        self.child.kill().expect("it is a child of this process");
        killed
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.commands = None;
        if let Err(error) = self.child.wait() {
            eprintln!("a child was not waited for: {error}");
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a child answers with numbers")
}

fn slowest(answers: &[String]) -> Duration {
    Duration::from_nanos(answers.iter().map(|answer| number(answer)).max().unwrap_or(0))
}

/// Of all files below, in blocks that they hold.
fn disk_bytes(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    metadata.blocks() * 512 + entries.map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}
