//! A process that runs one host of three, and does what [`Hosts`](super::hosts::Hosts) tells it: a
//! line from its standard input is a command, and each is answered with one line. It ends when the
//! input does, so none outlives its parent.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dledger::{AppendFuture, DLedger, Host, NodeId, Role, Status};
use hdrhistogram::Histogram;

use crate::measure::machine;
use crate::measure::turn::{encode_latencies, no_latencies};

/// The first argument of such a process: then come its number, the addresses of all, its directory,
/// and after how many milliseconds groups sleep, or `never`.
pub(crate) const HOST: &str = "--host";

/// How many groups are made at the same time.
const OPENERS: usize = 16;

/// Between two appends to a quiet group.
const QUIET_INTERVAL: Duration = Duration::from_millis(10);

struct Served {
    id: NodeId,
    host: Host,
    /// In the order of their names, which is that of their numbers.
    groups: Vec<DLedger>,
    /// The names of groups that this host has come to lead.
    elected: Receiver<String>,
    recovered: Arc<Mutex<Vec<(usize, u64)>>>,
}

/// If this process is such a child: does what it is told until its input ends. Returns whether it
/// was one.
pub(crate) fn serve_as_host(arguments: &[String]) -> bool {
    let [marker, id, addresses, dir, sleep_after] = arguments else { return false };
    if marker != HOST {
        return false;
    }
    machine::raise_descriptors();
    let id: u64 = id.parse().expect("a host is a number");
    let sleep_after = sleep_after.parse().map_or(Duration::MAX, Duration::from_millis);
    let (elects, elected) = mpsc::channel();
    let elects = Mutex::new(elects);
    let host = Host::builder(id)
        .dir(dir)
        .peers((1_u64..).zip(addresses.split(',')))
        .sleep_after(sleep_after)
        .group_settings(move |builder| {
            let elects = elects.lock().expect("nothing panics under it").clone();
            builder.on_role_change(move |status| note_elected(&elects, status))
        })
        .open()
        .expect("a host opens in a directory of its own");
    let mut served =
        Served { id: id.into(), host, groups: Vec::new(), elected, recovered: Arc::default() };
    for command in std::io::stdin().lines().map_while(Result::ok) {
        println!("{}", served.obey(&command));
    }
    served.host.shutdown().expect("a healthy host is closed");
    true
}

fn note_elected(elects: &Sender<String>, status: &Status) {
    if status.role == Role::Leader {
        // Nobody listens at the end.
        let _ = elects.send(status.group.clone());
    }
}

/// Of the system's clock, which all processes share.
pub(crate) fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    since.as_nanos() as u64
}

impl Served {
    fn obey(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let number = |text: &str| text.parse::<u64>().expect("a parent asks with numbers");
        let time = |text| Duration::from_nanos(number(text));
        let count = |text| number(text) as usize;
        match words[..] {
            ["open", groups] => self.open(count(groups)).as_nanos().to_string(),
            ["open_all"] => self.open_all().as_nanos().to_string(),
            ["led"] => self.count(|status| status.role == Role::Leader).to_string(),
            ["asleep"] => self.count(|status| status.asleep).to_string(),
            ["place", to] => self.place(to),
            ["placed", to] => {
                self.led().filter(|led| place_of(*led, to) == self.id).count().to_string()
            }
            ["touch"] => self.touch(),
            ["usage"] => usage(),
            ["append", groups, bytes, window, nanos] => {
                let payload = vec![0x5a; count(bytes)];
                let stop = AtomicBool::new(false);
                let groups = &self.groups[..count(groups)];
                keep_in_flight(groups, &payload, count(window), time(nanos), &stop).to_string()
            }
            ["quiet", groups, window, nanos] => {
                encode_latencies(&self.quiet(count(groups), count(window), time(nanos)))
            }
            ["watch"] => self.watch(),
            ["recovered"] => self.recovered(),
            ["purge"] => self.purge(),
            ["state"] => self.state(),
            _ => panic!("unknown command: {command}"),
        }
    }

    fn open(&mut self, groups: usize) -> Duration {
        let (began, next, opened) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Vec::new()));
        let open = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= groups {
                    return;
                }
                let group = self.host.group(format!("g{number:05}"));
                let group = group.open().expect("a group opens in a directory of its own");
                opened.lock().expect("nothing panics under it").push((number, group));
            }
        };
        thread::scope(|scope| (0..OPENERS).for_each(|_| drop(scope.spawn(open))));
        let mut opened = opened.into_inner().expect("nothing panics under it");
        opened.sort_by_key(|(number, _)| *number);
        self.groups = opened.into_iter().map(|(_, group)| group).collect();
        began.elapsed()
    }

    fn open_all(&mut self) -> Duration {
        let began = Instant::now();
        let opened = self.host.open_all().expect("the directory can be read");
        let opened = opened.into_iter();
        self.groups = opened.map(|(_, group)| group.expect("a healthy log opens")).collect();
        began.elapsed()
    }

    fn count(&self, is_so: impl Fn(&Status) -> bool) -> usize {
        self.groups.iter().filter(|group| is_so(&group.status())).count()
    }

    /// The numbers of the groups that this host leads.
    fn led(&self) -> impl Iterator<Item = usize> {
        let groups = self.groups.iter().enumerate();
        groups.filter(|(_, group)| group.status().role == Role::Leader).map(|(number, _)| number)
    }

    /// Hands over what another host is to lead.
    fn place(&self, to: &str) -> String {
        let elsewhere = self.led().filter(|number| place_of(*number, to) != self.id);
        let hand_over =
            |number: usize| self.groups[number].transfer_leadership_async(place_of(number, to));
        let futures: Vec<_> = elsewhere.map(hand_over).collect();
        // What fails is tried again by the parent.
        let failed =
            futures.into_iter().filter_map(|future| pollster::block_on(future).err()).count();
        failed.to_string()
    }

    fn touch(&self) -> String {
        let append = |number: usize| self.groups[number].append_async(b"one more");
        let futures: Vec<_> = self.led().map(append).collect();
        futures.into_iter().filter_map(|future| future.wait().ok()).count().to_string()
    }

    /// Group 0 has the load, and the others are the quiet ones.
    fn quiet(&self, groups: usize, window: usize, time: Duration) -> Histogram<u64> {
        let (stop, payload) = (AtomicBool::new(false), vec![0x5a; 1 << 10]);
        let busy = &self.groups[..1];
        let (end, mut all) = (Instant::now() + time, no_latencies());
        thread::scope(|scope| {
            if window > 0 {
                let load = || keep_in_flight(busy, &payload, window, 2 * time, &stop);
                scope.spawn(load);
            }
            let append = |group| scope.spawn(move || append_now_and_then(group, end));
            let threads: Vec<_> = self.groups[1..=groups].iter().map(append).collect();
            for thread in threads {
                let latency = thread.join().expect("an append does not panic");
                all.add(latency).expect("it resizes");
            }
            stop.store(true, Ordering::Relaxed);
        });
        all
    }

    /// Appends to each group that this host comes to lead from now on, and notes when that was
    /// acknowledged.
    fn watch(&mut self) -> String {
        let (_, nobody) = mpsc::channel();
        let elected = std::mem::replace(&mut self.elected, nobody);
        elected.try_iter().for_each(drop);
        let (groups, recovered) = (self.groups.clone(), self.recovered.clone());
        thread::spawn(move || append_when_elected(&groups, &elected, &recovered));
        "watching".to_owned()
    }

    fn recovered(&self) -> String {
        let recovered = self.recovered.lock().expect("nothing panics under it");
        recovered.iter().fold(String::new(), |mut text, (number, at)| {
            write!(text, "{number}:{at},").expect("memory is there");
            text
        })
    }

    fn purge(&self) -> String {
        for group in &self.groups {
            let end = group.committed().end;
            if end > group.committed().start + 16 {
                group.purge(end).expect("a healthy node purges");
            }
        }
        "done".to_owned()
    }

    /// For whoever looks for what is wrong.
    fn state(&self) -> String {
        let mut text = format!("host {}:", self.id);
        for status in self.groups.iter().map(DLedger::status) {
            let (role, term, leader) = (status.role, status.term, status.leader);
            if leader.is_none() || status.fault.is_some() || status.full.is_some() {
                let asleep = if status.asleep { ", asleep" } else { "" };
                let (name, why) = (status.group, status.fault.or(status.full));
                write!(text, " [{name}: {role}, term {term}, {leader:?}{asleep}, {why:?}]")
                    .expect("memory is there");
            }
        }
        text
    }
}

/// Who is to lead this group: all the same host, or in turns (`spread`).
fn place_of(number: usize, to: &str) -> NodeId {
    NodeId::from(to.parse().unwrap_or(number as u64 % 3 + 1))
}

/// Keeps `window` appends in flight over all of `groups`, in turns. Returns the appends a second.
fn keep_in_flight(
    groups: &[DLedger],
    payload: &[u8],
    window: usize,
    time: Duration,
    stop: &AtomicBool,
) -> f64 {
    let mut in_flight: VecDeque<AppendFuture> = VecDeque::with_capacity(window);
    let (began, mut issued, mut appends) = (Instant::now(), 0, 0_u64);
    let wait = |future: AppendFuture| {
        future.wait().expect("a healthy group acknowledges every append");
    };
    while began.elapsed() < time && !stop.load(Ordering::Relaxed) {
        // The clock is asked once for some of them.
        for _ in 0..16 {
            while in_flight.len() < window {
                in_flight.push_back(groups[issued % groups.len()].append_async(payload));
                issued += 1;
            }
            in_flight.pop_front().into_iter().for_each(wait);
            appends += 1;
        }
    }
    let took = began.elapsed();
    in_flight.into_iter().for_each(wait);
    appends as f64 / took.as_secs_f64()
}

fn append_now_and_then(group: &DLedger, end: Instant) -> Histogram<u64> {
    let (payload, mut latency, mut next) = ([0x5a; 128], no_latencies(), Instant::now());
    while next < end {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let began = Instant::now();
        group.append(payload).expect("a healthy group acknowledges every append");
        latency.record(began.elapsed().as_nanos() as u64).expect("it resizes");
        next = Instant::now().max(next + QUIET_INTERVAL);
    }
    latency
}

fn append_when_elected(
    groups: &[DLedger],
    elected: &Receiver<String>,
    recovered: &Mutex<Vec<(usize, u64)>>,
) {
    let mut pending: Vec<(usize, AppendFuture)> = Vec::new();
    let begin = |number: usize| (number, groups[number].append_async(b"the next leader's"));
    while let Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) = {
        let next = elected.recv_timeout(Duration::from_millis(1));
        next.map(|name| pending.push(begin(name[1..].parse().expect("its number"))))
    } {
        pending = pending
            .into_iter()
            .filter_map(|(number, future)| match future.wait_timeout(Duration::ZERO) {
                None => Some((number, future)),
                Some(Ok(_)) => {
                    let mut recovered = recovered.lock().expect("nothing panics under it");
                    recovered.push((number, unix_nanos()));
                    None
                }
                Some(Err(_)) if groups[number].status().role == Role::Leader => Some(begin(number)),
                Some(Err(_)) => None,
            })
            .collect();
    }
}

/// Processor time in nanoseconds, threads, descriptors, bytes of heap and of anonymous memory.
fn usage() -> String {
    let usage = machine::usage();
    let (cpu, resident) =
        usage.map_or((0, 0), |usage| (usage.cpu.as_nanos(), usage.resident_bytes));
    let entries = |of| std::fs::read_dir(of).map_or(0, Iterator::count);
    let (threads, descriptors) = (entries("/proc/self/task"), entries("/proc/self/fd"));
    format!("{cpu} {threads} {descriptors} {} {resident}", heap_bytes())
}

/// What is in use, by the account of the allocator.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn heap_bytes() -> usize {
    // SAFETY: It has no preconditions, and gives its result by value.
    let account = unsafe { libc::mallinfo2() };
    account.uordblks + account.hblkhd
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn heap_bytes() -> usize {
    0
}
