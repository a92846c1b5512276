//! Actors on the threads of a pool.

#![expect(clippy::unwrap_used, reason = "every part of this is a test")]

use std::sync::mpsc;

use super::*;
use crate::primitives::channel::{Receiver, Sender, unbounded_with};

const LONG: Duration = Duration::from_secs(60);

fn pool(usual: usize, most: usize) -> Pool {
    Pool::new(Settings { name: "test", usual, most, spin: Duration::ZERO, for_observers: true })
}

/// Passes on what is sent to it, one item a run.
struct Relay {
    mailbox: Receiver<Job>,
    done: mpsc::Sender<u64>,
}

type Job = Box<dyn FnOnce() -> u64 + Send>;

impl Work for Relay {
    fn run(&mut self) -> Then {
        let Ok(job) = self.mailbox.try_recv() else { return Then::Wait };
        self.done.send(job()).unwrap();
        Then::Again
    }
}

fn relay(pool: &Pool) -> (Sender<Job>, mpsc::Receiver<u64>) {
    let actor = pool.actor(LogPrefix::of_host(1.into()));
    let requested = actor.clone();
    let (sender, mailbox) = unbounded_with(move || requested.request());
    let (done, results) = mpsc::channel();
    actor.give(Relay { mailbox, done });
    (sender, results)
}

fn send(jobs: &Sender<Job>, job: impl FnOnce() -> u64 + Send + 'static) {
    jobs.send(Box::new(job)).unwrap_or_else(|_| panic!("its receiver is there"));
}

#[test]
fn every_item_is_handled_once_and_in_order_whoever_sends() {
    let pool = pool(3, 3);
    let relays: Vec<_> = (0..8).map(|_| relay(&pool)).collect();
    std::thread::scope(|scope| {
        for (jobs, _) in &relays {
            scope.spawn(move || (0..500).for_each(|number| send(jobs, move || number)));
        }
    });
    for (_, results) in &relays {
        for expected in 0..500 {
            assert_eq!(results.recv_timeout(LONG).unwrap(), expected);
        }
    }
    pool.close();
    pool.join();
}

#[test]
fn a_thread_that_is_held_up_is_replaced_and_the_others_have_their_turn() {
    let pool = pool(1, 3);
    let (release, held) = mpsc::channel::<()>();
    let (stuck, _results) = relay(&pool);
    send(&stuck, move || held.recv().map_or(1, |()| 0));
    for _ in 0..3 {
        let ((jobs, results), shared) = (relay(&pool), pool.0.clone());
        send(&jobs, move || shared.queue.lock().threads as u64);
        assert_eq!(results.recv_timeout(LONG).unwrap(), 2, "one more, while there is work for it");
    }
    let threads = || pool.0.queue.lock().threads;
    drop(release);
    let deadline = Instant::now() + LONG;
    while threads() > 1 {
        // One that is too many ends when it has nothing to do.
        let (jobs, results) = relay(&pool);
        send(&jobs, || 9);
        assert_eq!(results.recv_timeout(LONG).unwrap(), 9);
        assert!(Instant::now() < deadline);
    }
    pool.close();
    pool.join();
}

#[test]
fn no_more_threads_are_started_than_allowed() {
    let pool = pool(1, 2);
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let relays: Vec<_> = (0..3).map(|_| relay(&pool)).collect();
    for (jobs, _) in &relays {
        let held = held.clone();
        send(jobs, move || held.lock().recv().map_or(1, |()| 0));
    }
    std::thread::sleep(4 * HELD_UP);
    assert_eq!(pool.0.queue.lock().threads, 2);
    drop(release);
    for (_, results) in &relays {
        assert_eq!(results.recv_timeout(LONG).unwrap(), 1);
    }
    pool.close();
    pool.join();
}

/// Runs at times that it names.
struct Clock {
    times: Vec<Duration>,
    began: Instant,
    done: mpsc::Sender<Duration>,
}

impl Work for Clock {
    fn run(&mut self) -> Then {
        let elapsed = self.began.elapsed();
        if self.times.first().is_some_and(|time| *time <= elapsed) {
            self.times.remove(0);
            self.done.send(elapsed).unwrap();
        }
        self.times.first().map_or(Then::End, |next| Then::At(self.began + *next))
    }
}

#[test]
fn an_actor_runs_at_the_times_that_it_names_and_not_before() {
    let pool = pool(2, 2);
    let ms = Duration::from_millis;
    let clocks: Vec<_> = (0..20)
        .map(|number| {
            let actor = pool.actor(LogPrefix::of_host(1.into()));
            let (done, results) = mpsc::channel();
            let times = vec![ms(number), ms(10 + number), ms(15 + number)];
            actor.give(Clock { times: times.clone(), began: Instant::now(), done });
            actor.request();
            (times, results)
        })
        .collect();
    for (times, results) in clocks {
        for time in times {
            assert!(results.recv_timeout(LONG).unwrap() >= time);
        }
        assert!(results.recv_timeout(LONG).is_err(), "its work is dropped at the end");
    }
    assert!(pool.0.queue.lock().timers.is_empty());
    pool.close();
    pool.join();
}

#[test]
fn an_idle_pool_wakes_for_nothing() {
    let pool = pool(2, 4);
    let (jobs, results) = relay(&pool);
    send(&jobs, || 1);
    results.recv_timeout(LONG).unwrap();
    let deadline = Instant::now() + LONG;
    let rests = || {
        let queue = pool.0.queue.lock();
        queue.standby_sleeps && queue.sleeping.len() == queue.threads
    };
    while !rests() {
        assert!(Instant::now() < deadline, "something keeps it awake");
        std::thread::sleep(Duration::from_millis(1));
    }
    pool.close();
    pool.join();
}

#[test]
fn a_panic_ends_the_actor_and_not_the_thread() {
    let pool = pool(1, 1);
    let (jobs, results) = relay(&pool);
    send(&jobs, || panic!("on purpose"));
    assert!(results.recv_timeout(LONG).is_err(), "its work was dropped");
    let (jobs, results) = relay(&pool);
    send(&jobs, || 7);
    assert_eq!(results.recv_timeout(LONG).unwrap(), 7);
    pool.close();
    pool.join();
    pool.close();
    pool.join();
}

#[test]
fn times_that_are_not_near_fall_together_and_never_earlier() {
    let pool = pool(1, 1);
    let now = Instant::now();
    for far in [41, 50, 99, 60_000].map(Duration::from_millis) {
        let at = now + far + Duration::from_micros(1);
        let rounded = pool.0.on_grid(at);
        assert!(at <= rounded && rounded < at + GRID);
        let since = rounded - pool.0.made;
        assert_eq!(since.as_nanos() % GRID.as_nanos(), 0);
        assert_eq!(pool.0.on_grid(rounded), rounded);
    }
    let near = now + Duration::from_millis(39);
    assert_eq!(pool.0.on_grid(near), near);
    pool.close();
}
