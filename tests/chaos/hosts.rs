//! The hosts: threads that append, read, wait and hand over leaderships, and write down what they
//! asked for and what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dledger::sim::check::{Invocation, Outcome};
use parking_lot::{Condvar, Mutex};

use crate::environment::NODES;
use crate::life::Life;
use crate::rng::Rng;
use crate::world::World;

/// How many hosts there are.
pub(crate) const HOSTS: u32 = 6;

/// How hosts behave. Drawn anew now and then.
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

/// One host, which runs until the world is closing, and then until all its calls have come to an
/// end.
struct Host {
    number: u32,
    world: Arc<World>,
    slots: Arc<Slots>,
    rng: Rng,
}

/// Starts all hosts. Each ends with whether all its calls did.
pub(crate) fn start(world: &Arc<World>, rng: &mut Rng) -> Vec<JoinHandle<bool>> {
    let host = |number| {
        let slots = Arc::new(Slots {
            taken: Mutex::default(),
            freed: Condvar::new(),
            refused: AtomicBool::new(false),
        });
        let mut host =
            Host { number, world: world.clone(), slots, rng: Rng::from_seed(rng.draw()) };
        thread::spawn(move || host.run())
    };
    (0..HOSTS).map(host).collect()
}

impl Host {
    fn run(&mut self) -> bool {
        while !self.world.is_closing() {
            let profile = *self.world.profile.lock();
            let leader = self.world.leader();
            let stray = leader == 0 || self.rng.below(100) < profile.strays;
            let node = if stray { 1 + self.rng.below(NODES) } else { leader };
            match self.world.life(node) {
                Some(life) if self.slots.take(node, profile.depth) => self.act(&life, profile),
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

    fn act(&mut self, life: &Arc<Life>, profile: ClientProfile) {
        // Of one host and one process: what it asked before, and of whom, is another session.
        let session = life.number * (HOSTS + 1) + self.number;
        if self.rng.below(100) < profile.appends {
            let count = if self.rng.once_in(2) { 1 } else { 1 + self.rng.below(profile.batch_max) };
            return self.append(life, session, count as u32);
        }
        match self.rng.below(100) {
            0..40 => self.get(life, session, "get"),
            40..70 => self.get(life, session, "look"),
            70..99 => self.barrier(life, session),
            _ => self.transfer(life),
        }
    }

    fn append(&mut self, life: &Arc<Life>, session: u32, count: u32) {
        let (world, slots, node, number) =
            (self.world.clone(), self.slots.clone(), life.node, life.number);
        let (call, first) = world.record.offer(session, count);
        world.figures.count("appends offered", 1);
        world.figures.count("entries offered", count.into());
        life.ask(&format!("append {first} {count}"), move |answer| {
            let outcome = settle(&world, number, call, count, answer);
            slots.refused.store(outcome == Outcome::Refused, Ordering::Relaxed);
            slots.free(node);
        });
    }

    fn some_index(&mut self) -> u64 {
        let end = self.world.end();
        if self.rng.once_in(2) {
            end.saturating_sub(4) + self.rng.below(6)
        } else {
            self.rng.below(end + 2)
        }
    }

    fn get(&mut self, life: &Arc<Life>, session: u32, verb: &'static str) {
        let (world, slots, node, index) =
            (self.world.clone(), self.slots.clone(), life.node, self.some_index());
        let call = world.record.begin_read(session);
        life.ask(&format!("{verb} {index}"), move |answer| {
            let linearizable = verb == "look";
            match answer.map(|answer| answer.split_once(' ').unwrap_or((answer, ""))) {
                Some(("found", payload)) => {
                    let found = Some(payload.parse().expect("a number"));
                    world.record.end_read(call, Invocation::Get { index, found, linearizable });
                    world.figures.count("reads that found something", 1);
                }
                Some(("missing", _)) => {
                    world
                        .record
                        .end_read(call, Invocation::Get { index, found: None, linearizable });
                    world.figures.count("reads that found nothing", 1);
                }
                Some(("purged", _)) => world.figures.count("reads of what was purged", 1),
                _ => world.figures.count("reads without an answer", 1),
            }
            slots.free(node);
        });
    }

    fn barrier(&mut self, life: &Arc<Life>, session: u32) {
        let (world, slots, node) = (self.world.clone(), self.slots.clone(), life.node);
        let call = world.record.begin_read(session);
        life.ask("barrier", move |answer| {
            if let Some(end) = answer.and_then(|answer| answer.strip_prefix("end ")) {
                world.record.end_read(call, Invocation::Barrier(end.parse().expect("a number")));
                world.figures.count("barriers", 1);
            } else {
                world.figures.count("barriers without an answer", 1);
            }
            slots.free(node);
        });
    }

    fn transfer(&mut self, life: &Arc<Life>) {
        let (world, slots, node, to) =
            (self.world.clone(), self.slots.clone(), life.node, 1 + self.rng.below(NODES));
        life.ask(&format!("transfer {to}"), move |answer| {
            world.figures.count(
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

/// Writes down how an append ended. Without an answer nobody knows, and nobody knows when.
fn settle(world: &World, life: u32, call: usize, count: u32, answer: Option<&str>) -> Outcome {
    let outcome = match answer.map(|answer| answer.split_once(' ').unwrap_or((answer, ""))) {
        Some(("ok", index)) => Outcome::Acknowledged(index.parse().expect("a number")),
        Some(("refused", _)) => Outcome::Refused,
        Some(_) => Outcome::Unknown,
        None => {
            world.figures.count("entries whose process ended before it answered", count.into());
            return Outcome::Unknown;
        }
    };
    world.record.end_append(call, outcome);
    match outcome {
        Outcome::Acknowledged(index) => {
            world.reached(index + u64::from(count));
            world.figures.acknowledged(life);
            world.figures.count("entries acknowledged", count.into());
        }
        Outcome::Refused => world.figures.count("entries refused", count.into()),
        Outcome::Unknown => world.figures.count("entries of unknown outcome", count.into()),
    }
    outcome
}

/// One more append, by nobody in particular, and its index if it was acknowledged.
pub(crate) fn append_once(world: &World, life: &Arc<Life>, patience: Duration) -> Option<u64> {
    let session = life.number * (HOSTS + 1) + HOSTS;
    let (call, first) = world.record.offer(session, 1);
    let answer = life.ask_and_wait(&format!("append {first} 1"), patience);
    match settle(world, life.number, call, 1, answer.as_deref()) {
        Outcome::Acknowledged(index) => Some(index),
        _ => None,
    }
}
