//! The hosts: threads that append, read, wait and transfer leaderships, and record each call and
//! its outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dledger::sim::check::{Invocation, Outcome};
use parking_lot::{Condvar, Mutex};

use crate::cluster::Cluster;
use crate::environment::NODES;
use crate::process::Process;
use crate::rng::Rng;

/// How many hosts there are.
pub(crate) const HOSTS: u32 = 6;

/// How hosts behave. Redrawn for each phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientProfile {
    /// Calls that one host has under way at one node.
    depth: u32,
    /// The most payloads in a batch.
    batch_max: u64,
    /// In a hundred: appends. Of the rest, reads of all kinds.
    appends: u64,
    /// The longest that a host thinks between two calls, in microseconds.
    think_us: u64,
    /// In a hundred: calls that go to any node instead of the leader.
    strays: u64,
}

impl ClientProfile {
    pub(crate) fn draw(rng: &mut Rng) -> ClientProfile {
        let mut one_of = |choices: [u64; 4]| choices[rng.below(4) as usize];
        ClientProfile {
            depth: one_of([2, 8, 16, 32]) as u32,
            batch_max: one_of([16, 64, 256, 1024]),
            appends: one_of([50, 70, 80, 90]),
            think_us: one_of([0, 0, 200, 2000]),
            strays: one_of([2, 5, 10, 30]),
        }
    }
}

/// How many calls of a host are under way, at each node.
struct Slots {
    taken: Mutex<[u32; NODES as usize]>,
    freed: Condvar,
    /// The last answer was a refusal: think before the next call.
    refused: AtomicBool,
}

impl Slots {
    fn take(&self, node: u64, depth: u32) -> bool {
        let mut taken = self.taken.lock();
        let slot = &mut taken[node as usize - 1];
        let free = *slot < depth;
        *slot += u32::from(free);
        free
    }

    fn free(&self, node: u64) {
        self.taken.lock()[node as usize - 1] -= 1;
        self.freed.notify_all();
    }

    fn wait(&self, limit: Duration) {
        self.freed.wait_for(&mut self.taken.lock(), limit);
    }

    fn are_free(&self) -> bool {
        self.taken.lock().iter().all(|taken| *taken == 0)
    }
}

/// One host, which runs until the cluster is closing, and then until all its calls have come to an
/// end.
struct Host {
    number: u32,
    cluster: Arc<Cluster>,
    slots: Arc<Slots>,
    rng: Rng,
}

/// Starts all hosts. Each ends with whether all its calls did.
pub(crate) fn start(cluster: &Arc<Cluster>, rng: &mut Rng) -> Vec<JoinHandle<bool>> {
    let host = |number| {
        let slots = Arc::new(Slots {
            taken: Mutex::default(),
            freed: Condvar::new(),
            refused: AtomicBool::new(false),
        });
        let mut host =
            Host { number, cluster: cluster.clone(), slots, rng: Rng::from_seed(rng.draw()) };
        thread::spawn(move || host.run())
    };
    (0..HOSTS).map(host).collect()
}

impl Host {
    fn run(&mut self) -> bool {
        while !self.cluster.is_closing() {
            let profile = *self.cluster.profile.lock();
            let leader = self.cluster.leader();
            let stray = leader == 0 || self.rng.below(100) < profile.strays;
            let node = if stray { 1 + self.rng.below(NODES) } else { leader };
            match self.cluster.process(node) {
                Some(process) if self.slots.take(node, profile.depth) => {
                    self.act(&process, profile)
                }
                _ => self.slots.wait(Duration::from_millis(2)),
            }
            if self.slots.refused.swap(false, Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5 + self.rng.below(20)));
            } else if profile.think_us > 0 {
                thread::sleep(Duration::from_micros(self.rng.below(profile.think_us)));
            }
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.slots.are_free() && Instant::now() < deadline {
            self.slots.wait(Duration::from_millis(50));
        }
        self.slots.are_free()
    }

    fn act(&mut self, process: &Arc<Process>, profile: ClientProfile) {
        // Of one host and one process: what it asked before, and of whom, is another session.
        let session = process.number * (HOSTS + 1) + self.number;
        if self.rng.below(100) < profile.appends {
            let count = if self.rng.once_in(2) { 1 } else { 1 + self.rng.below(profile.batch_max) };
            return self.append(process, session, count as u32);
        }
        match self.rng.below(100) {
            0..40 => self.get(process, session, "get"),
            40..70 => self.get(process, session, "linearizable-get"),
            70..99 => self.barrier(process, session),
            _ => self.transfer(process),
        }
    }

    fn append(&mut self, process: &Arc<Process>, session: u32, count: u32) {
        let (cluster, slots, node, number) =
            (self.cluster.clone(), self.slots.clone(), process.node, process.number);
        let (call, first) = cluster.record.offer(session, count);
        cluster.figures.count("appends offered", 1);
        cluster.figures.count("entries offered", count.into());
        process.ask(&format!("append {first} {count}"), move |answer| {
            let outcome = settle(&cluster, number, call, count, answer);
            slots.refused.store(outcome == Outcome::Refused, Ordering::Relaxed);
            slots.free(node);
        });
    }

    fn some_index(&mut self) -> u64 {
        let end = self.cluster.end();
        if self.rng.once_in(2) {
            end.saturating_sub(4) + self.rng.below(6)
        } else {
            self.rng.below(end + 2)
        }
    }

    fn get(&mut self, process: &Arc<Process>, session: u32, verb: &'static str) {
        let (cluster, slots, node, index) =
            (self.cluster.clone(), self.slots.clone(), process.node, self.some_index());
        let call = cluster.record.begin_read(session);
        process.ask(&format!("{verb} {index}"), move |answer| {
            let linearizable = verb == "linearizable-get";
            match answer.map(|answer| answer.split_once(' ').unwrap_or((answer, ""))) {
                Some(("found", payload)) => {
                    let found = Some(payload.parse().expect("a number"));
                    cluster.record.end_read(call, Invocation::Get { index, found, linearizable });
                    cluster.figures.count("reads that found something", 1);
                }
                Some(("missing", _)) => {
                    cluster
                        .record
                        .end_read(call, Invocation::Get { index, found: None, linearizable });
                    cluster.figures.count("reads that found nothing", 1);
                }
                Some(("purged", _)) => cluster.figures.count("reads of what was purged", 1),
                _ => cluster.figures.count("reads without an answer", 1),
            }
            slots.free(node);
        });
    }

    fn barrier(&mut self, process: &Arc<Process>, session: u32) {
        let (cluster, slots, node) = (self.cluster.clone(), self.slots.clone(), process.node);
        let call = cluster.record.begin_read(session);
        process.ask("barrier", move |answer| {
            if let Some(end) = answer.and_then(|answer| answer.strip_prefix("end ")) {
                cluster.record.end_read(call, Invocation::Barrier(end.parse().expect("a number")));
                cluster.figures.count("barriers", 1);
            } else {
                cluster.figures.count("barriers without an answer", 1);
            }
            slots.free(node);
        });
    }

    fn transfer(&mut self, process: &Arc<Process>) {
        let (cluster, slots, node, to) =
            (self.cluster.clone(), self.slots.clone(), process.node, 1 + self.rng.below(NODES));
        process.ask(&format!("transfer {to}"), move |answer| {
            cluster.figures.count(
                if answer == Some("done") {
                    "transfers that succeeded"
                } else {
                    "transfers that failed"
                },
                1,
            );
            slots.free(node);
        });
    }
}

/// Records the outcome of an append. Without an answer it is unknown, and so is its time.
fn settle(
    cluster: &Cluster,
    process: u32,
    call: usize,
    count: u32,
    answer: Option<&str>,
) -> Outcome {
    let outcome = match answer.map(|answer| answer.split_once(' ').unwrap_or((answer, ""))) {
        Some(("ok", index)) => Outcome::Acknowledged(index.parse().expect("a number")),
        Some(("refused", _)) => Outcome::Refused,
        Some(_) => Outcome::Unknown,
        None => {
            cluster.figures.count("entries whose process ended before it answered", count.into());
            return Outcome::Unknown;
        }
    };
    cluster.record.end_append(call, outcome);
    match outcome {
        Outcome::Acknowledged(index) => {
            cluster.reached(index + u64::from(count));
            cluster.figures.acknowledged(process);
            cluster.figures.count("entries acknowledged", count.into());
        }
        Outcome::Refused => cluster.figures.count("entries refused", count.into()),
        Outcome::Unknown => cluster.figures.count("entries of unknown outcome", count.into()),
    }
    outcome
}

/// One more append, of no host, and its index if it was acknowledged.
pub(crate) fn append_once(
    cluster: &Cluster,
    process: &Arc<Process>,
    timeout: Duration,
) -> Option<u64> {
    let session = process.number * (HOSTS + 1) + HOSTS;
    let (call, first) = cluster.record.offer(session, 1);
    let answer = process.ask_and_wait(&format!("append {first} 1"), timeout);
    match settle(cluster, process.number, call, 1, answer.as_deref()) {
        Outcome::Acknowledged(index) => Some(index),
        _ => None,
    }
}
