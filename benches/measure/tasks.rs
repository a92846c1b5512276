//! A load of many tasks, as an async host has them: each appends, awaits the answer, and rests for
//! a random time. One thread runs them all; it needs no runtime.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use dledger::{AppendFuture, DLedger};
use hdrhistogram::Histogram;

use super::machine;
use super::turn::{Turn, no_latencies};

/// When tasks that have rested go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Each at a moment of its own.
    Exact,
    /// All together at the next full millisecond, as the timers of most runtimes let them.
    Millisecond,
}

/// What is asked of the tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tasks {
    pub(crate) count: usize,
    /// Appends of all tasks together, if an append took no time.
    pub(crate) per_second: f64,
    pub(crate) bytes: usize,
    pub(crate) timer: Timer,
}

impl Tasks {
    /// Runs the tasks for `time`. Returns their appends, and the cores that this thread kept busy
    /// alone, which are among those of the turn.
    pub(crate) fn run(&self, ledger: &DLedger, time: Duration) -> (Turn, f64) {
        let mut runner = Runner::new(*self, ledger);
        let own = machine::thread_cpu();
        let began = Instant::now();
        let (appends, cores) = machine::cores_busy(|| runner.run(began, began + time));
        let took = began.elapsed().as_secs_f64();
        let own = (machine::thread_cpu() - own).as_secs_f64() / took;
        runner.settle();
        (Turn { per_second: appends as f64 / took, latency: runner.latency, cores }, own)
    }
}

/// The tasks that were woken, and the thread that runs them.
struct Woken {
    tasks: Mutex<Vec<usize>>,
    runner: Thread,
}

struct TaskWaker {
    task: usize,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut tasks = self.woken.tasks.lock().expect("no thread panics with it");
        let is_first = tasks.is_empty();
        tasks.push(self.task);
        drop(tasks);
        if is_first {
            self.woken.runner.unpark();
        }
    }
}

/// One turn of the load.
struct Runner<'a> {
    plan: Tasks,
    ledger: &'a DLedger,
    payload: Vec<u8>,
    woken: Arc<Woken>,
    wakers: Vec<Waker>,
    /// What each task awaits, and since when.
    awaited: Vec<Option<(Instant, AppendFuture)>>,
    resting: BinaryHeap<Reverse<(Duration, usize)>>,
    rng: u64,
    latency: Histogram<u64>,
}

impl<'a> Runner<'a> {
    fn new(plan: Tasks, ledger: &'a DLedger) -> Runner<'a> {
        let woken = Arc::new(Woken { tasks: Mutex::default(), runner: thread::current() });
        let waker = |task| Waker::from(Arc::new(TaskWaker { task, woken: woken.clone() }));
        Runner {
            plan,
            ledger,
            payload: vec![0x5a; plan.bytes],
            wakers: (0..plan.count).map(waker).collect(),
            woken,
            awaited: (0..plan.count).map(|_| None).collect(),
            resting: BinaryHeap::with_capacity(plan.count),
            rng: 0x9e37_79b9_7f4a_7c15,
            latency: no_latencies(),
        }
    }

    /// Returns how many appends were acknowledged.
    fn run(&mut self, began: Instant, end: Instant) -> u64 {
        (0..self.plan.count).for_each(|task| self.rest(task, Duration::ZERO));
        let mut appends = 0;
        let mut woken = Vec::new();
        loop {
            std::mem::swap(
                &mut woken,
                &mut *self.woken.tasks.lock().expect("no thread panics with it"),
            );
            let now = Instant::now();
            if now >= end {
                return appends;
            }
            for task in woken.drain(..) {
                appends += u64::from(self.poll(task, began));
            }
            while let Some(Reverse((due, task))) = self.resting.peek().copied()
                && began + due <= now
            {
                self.resting.pop();
                self.awaited[task] =
                    Some((Instant::now(), self.ledger.append_async(&self.payload)));
                appends += u64::from(self.poll(task, began));
            }
            let next = self.resting.peek().map_or(end, |Reverse((due, _))| began + *due);
            let is_idle = self.woken.tasks.lock().expect("no thread panics with it").is_empty();
            if let (true, Some(pause)) =
                (is_idle, next.min(end).checked_duration_since(Instant::now()))
            {
                thread::park_timeout(pause);
            }
        }
    }

    /// Whether the append of `task` is acknowledged. It then rests.
    fn poll(&mut self, task: usize, began: Instant) -> bool {
        let Some((since, future)) = &mut self.awaited[task] else { return false };
        match Pin::new(future).poll(&mut Context::from_waker(&self.wakers[task])) {
            Poll::Pending => false,
            Poll::Ready(outcome) => {
                outcome.expect("a healthy group acknowledges every append");
                self.latency.record(since.elapsed().as_nanos() as u64).expect("it resizes");
                self.awaited[task] = None;
                self.rest(task, began.elapsed());
                true
            }
        }
    }

    /// Exponentially distributed, so that appends come independently of each other.
    fn rest(&mut self, task: usize, since: Duration) {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        let uniform = ((self.rng >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        let mean = self.plan.count as f64 / self.plan.per_second;
        let due = since + Duration::from_secs_f64(-mean * uniform.ln());
        let due = match self.plan.timer {
            Timer::Exact => due,
            Timer::Millisecond => Duration::from_millis(due.as_millis() as u64 + 1),
        };
        self.resting.push(Reverse((due, task)));
    }

    /// Waits for what is under way.
    fn settle(&mut self) {
        for (_, future) in self.awaited.drain(..).flatten() {
            future.wait().expect("a healthy group acknowledges every append");
        }
    }
}
