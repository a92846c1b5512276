//! Threads that many groups share: each takes the next [`Actor`] from one queue, and runs it.
//!
//! An actor is run by one thread at a time: whenever somebody has put something into its mailbox
//! and [requested](Actor::request) a run, or a time has come that it named. It takes its turn
//! behind those that were queued before.
//!
//! A run may be held up, by a disk or by a host's own code. If nothing was taken from the queue for
//! [`HELD_UP`] though something is due, all threads are held up: one more is started, up to a
//! limit. It ends when it finds nothing more to do. One thread, the standby, only watches for that.
//! It sleeps while nothing is due.
//!
//! An idle thread sleeps until the earliest time that an actor named. If several are idle, the one
//! that fell asleep last is woken first, for its processor's caches are warm.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::run_state::RunState;
use super::work::panic_text;
use crate::log_prefix::LogPrefix;
use crate::primitives::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::primitives::thread::{self, JoinHandle};
use crate::primitives::{Condvar, Instant, Mutex};
use crate::spin::AdaptiveWait;
use crate::wakers::{allow_observers, forbid_waits};

/// All threads are held up if none takes anything for so long though something is due.
const HELD_UP: Duration = Duration::from_millis(100);

/// Times that are not near are rounded up to a multiple of this. They are ticks of idle groups:
/// what many groups send at the same time is read at the same time elsewhere, and handled without
/// a thread being woken for each message.
const GRID: Duration = Duration::from_millis(10);

/// Times that are nearer than this are kept as they are: a short tick must not be missed.
const NEAR: Duration = Duration::from_millis(40);

/// Something that threads of a pool run.
pub(super) trait Work: Send {
    /// Takes all that is in the mailbox.
    fn run(&mut self) -> Then;

    /// Whether it need not run any more: it only ends. Asked while all threads are held up.
    fn is_over(&self) -> bool {
        false
    }
}

/// When an actor is run next, unless a run is requested before.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// On request.
    Wait,
    At(Instant),
    /// Behind those that are queued.
    Again,
    /// Never. Its work is dropped.
    End,
}

/// How a pool differs from another.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    /// The names of its threads begin with this.
    pub(super) name: &'static str,
    /// Threads that are started as soon as there is work for them.
    pub(super) usual: usize,
    /// Threads in all, with those that are started because others are held up.
    pub(super) most: usize,
    /// How long a thread may spin before it sleeps.
    pub(super) spin: Duration,
    /// Whether it runs observers: a host's own code, which may wait for a node.
    pub(super) for_observers: bool,
}

/// See the [module](self).
pub(super) struct Pool(Arc<Shared>);

/// See the [module](self).
pub(super) struct Actor {
    owner: LogPrefix,
    state: RunState,
    /// `None` before it was given any, and after its end.
    work: Mutex<Option<Box<dyn Work>>>,
    /// Its key among the timers. Used under the lock of the pool only.
    timer: Mutex<Option<TimerKey>>,
    pool: Arc<Shared>,
}

type TimerKey = (Instant, u64);

struct Shared {
    settings: Settings,
    queue: Mutex<Queue>,
    closed: AtomicBool,
    /// Wakes the standby.
    standby: Condvar,
    /// For threads that spin, which have not locked the queue: its length, and when the earliest
    /// timer is due, in nanoseconds since the pool was made.
    queued: AtomicUsize,
    timer_due: AtomicU64,
    made: Instant,
    /// The number of threads that spin. They find what is queued without being woken.
    spinning: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Arc<Actor>>,
    timers: BTreeMap<TimerKey, Arc<Actor>>,
    timers_so_far: u64,
    /// How many were taken so far.
    taken: u64,
    running: Vec<Arc<Actor>>,
    /// The threads that sleep. The last one fell asleep last.
    sleeping: Vec<Arc<Condvar>>,
    /// The number of threads, without the standby.
    threads: usize,
    threads_so_far: u64,
    has_standby: bool,
    standby_sleeps: bool,
    handles: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool that has no thread yet.
    pub(super) fn new(settings: Settings) -> Pool {
        Pool(Arc::new(Shared {
            settings,
            queue: Mutex::default(),
            closed: AtomicBool::new(false),
            standby: Condvar::new(),
            queued: AtomicUsize::new(0),
            timer_due: AtomicU64::new(u64::MAX),
            made: Instant::now(),
            spinning: AtomicUsize::new(0),
        }))
    }

    /// Starts the first thread.
    ///
    /// # Errors
    /// If the operating system grants none.
    pub(super) fn start(&self) -> io::Result<()> {
        self.0.spawn_worker(&mut self.0.queue.lock())
    }

    /// An actor that has nothing to do until it is [given](Actor::give) some work.
    pub(super) fn actor(&self, owner: LogPrefix) -> Arc<Actor> {
        Arc::new(Actor {
            owner,
            state: RunState::new(),
            work: Mutex::new(None),
            timer: Mutex::new(None),
            pool: self.0.clone(),
        })
    }

    /// The threads end soon. What is queued is not run any more.
    pub(super) fn close(&self) {
        let queued = {
            let mut queue = self.0.queue.lock();
            self.0.closed.store(true, Ordering::Release);
            for sleeping in queue.sleeping.drain(..) {
                sleeping.notify_one();
            }
            self.0.standby.notify_one();
            queue.take_waiting()
        };
        queued.end(); // without the lock, which the end of an actor may need
    }

    /// Waits for the threads of a closed pool to end. None of them calls this.
    pub(super) fn join(&self) {
        let handles = std::mem::take(&mut self.0.queue.lock().handles);
        for handle in handles {
            let _ = handle.join();
        }
    }
}

impl Actor {
    /// Gives it its work, once.
    pub(super) fn give(&self, work: impl Work + 'static) {
        *self.work.lock() = Some(Box::new(work));
    }

    /// Has it run: soon, or once more if it is running.
    pub(super) fn request(self: &Arc<Actor>) {
        if self.state.request() {
            self.pool.push(self.clone());
        }
    }

    fn run(&self) -> Then {
        let _adopted = self.owner.clone().adopt();
        let mut work = self.work.lock();
        // Works contain their panics, for they know what to do about them. This is for the others.
        let run = AssertUnwindSafe(|| work.as_mut().map_or(Then::Wait, |work| work.run()));
        catch_unwind(run).unwrap_or_else(|panic| {
            log::error!("{}panicked, which is a bug: {}", self.owner, panic_text(&*panic));
            Then::End
        })
    }

    /// Asked while it is queued, so that no thread runs it.
    fn is_over(&self) -> bool {
        self.work.lock().as_ref().is_some_and(|work| work.is_over())
    }

    fn end(&self) {
        self.state.end();
        let work = self.work.lock().take();
        drop(work);
    }
}

impl Shared {
    fn push(self: &Arc<Shared>, actor: Arc<Actor>) {
        let mut queue = self.queue.lock();
        if self.closed.load(Ordering::Acquire) {
            drop(queue);
            return actor.end();
        }
        self.enqueue(&mut queue, actor);
        // One that spins looks again under the lock before it sleeps.
        if self.spinning.load(Ordering::Acquire) == 0 {
            self.wake_one(&mut queue);
        }
        self.wake_standby(&mut queue);
    }

    fn enqueue(&self, queue: &mut Queue, actor: Arc<Actor>) {
        queue.ready.push_back(actor);
        self.queued.store(queue.ready.len(), Ordering::Release);
    }

    fn wake_one(self: &Arc<Shared>, queue: &mut Queue) {
        if let Some(sleeping) = queue.sleeping.pop() {
            sleeping.notify_one();
        } else if queue.threads < self.settings.usual
            && let Err(error) = self.spawn_worker(queue)
        {
            log::warn!("{}: no further thread: {error}", self.settings.name);
        }
    }

    fn spawn_worker(self: &Arc<Shared>, queue: &mut Queue) -> io::Result<()> {
        queue.threads_so_far += 1;
        let shared = self.clone();
        let name = format!("{}-{}", self.settings.name, queue.threads_so_far);
        let for_observers = self.settings.for_observers;
        self.spawn(queue, name, move || {
            if for_observers {
                allow_observers()
            } else {
                forbid_waits()
            }
            shared.work();
        })?;
        queue.threads += 1;
        Ok(())
    }

    fn spawn(
        &self,
        queue: &mut Queue,
        name: String,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(io::Error::other("the host is shutting down"));
        }
        queue.handles.retain(|handle| !handle.is_finished());
        queue.handles.push(thread::Builder::new().name(name).spawn(work)?);
        Ok(())
    }

    /// A thread of the pool.
    fn work(self: Arc<Shared>) {
        let (wait, wake) = (AdaptiveWait::new(), Arc::new(Condvar::new()));
        let mut done = None;
        while let Some(actor) = self.next(done.take(), &wait, &wake) {
            let then = actor.run();
            done = Some((actor, then));
        }
    }

    /// The next actor to run, once there is one. `None` if the thread is to end.
    fn next(
        self: &Arc<Shared>,
        done: Option<(Arc<Actor>, Then)>,
        wait: &AdaptiveWait,
        wake: &Arc<Condvar>,
    ) -> Option<Arc<Actor>> {
        if let Some((actor, Then::End)) = &done {
            actor.end();
        }
        let mut queue = self.queue.lock();
        if let Some((actor, then)) = &done {
            self.settle(&mut queue, actor, *then);
        }
        while !self.closed.load(Ordering::Acquire) {
            self.fire_timers(&mut queue);
            if let Some(actor) = self.take(&mut queue) {
                return Some(actor);
            }
            if queue.threads > self.settings.usual {
                break;
            }
            drop(queue);
            self.wait_for_work(wait, wake);
            queue = self.queue.lock();
        }
        queue.threads -= 1;
        let closed = self.closed.load(Ordering::Acquire);
        let waiting = closed.then(|| queue.take_waiting());
        drop(queue); // the end of an actor may need the lock
        waiting.into_iter().for_each(Waiting::end);
        None
    }

    /// An actor was run.
    fn settle(self: &Arc<Shared>, queue: &mut Queue, actor: &Arc<Actor>, then: Then) {
        queue.running.retain(|running| !Arc::ptr_eq(running, actor));
        match then {
            Then::Wait => {}
            Then::At(at) => self.set_timer(queue, actor, at),
            Then::Again => drop(actor.state.request()),
            Then::End => {
                let key = actor.timer.lock().take();
                key.and_then(|key| queue.timers.remove(&key));
                self.note_timer(queue);
                return;
            }
        }
        if actor.state.finish() {
            self.enqueue(queue, actor.clone());
        }
    }

    /// An earlier timer stays: the run that it causes names the next time.
    fn set_timer(self: &Arc<Shared>, queue: &mut Queue, actor: &Arc<Actor>, at: Instant) {
        let at = self.on_grid(at);
        let mut timer = actor.timer.lock();
        if timer.is_some_and(|(set, _)| set <= at) {
            return;
        }
        if let Some(later) = timer.take() {
            queue.timers.remove(&later);
        }
        queue.timers_so_far += 1;
        let key = (at, queue.timers_so_far);
        *timer = Some(key);
        queue.timers.insert(key, actor.clone());
        drop(timer);
        self.note_timer(queue);
        self.wake_standby(queue);
    }

    fn on_grid(&self, at: Instant) -> Instant {
        let is_near = at.saturating_duration_since(Instant::now()) < NEAR;
        let beyond = at.saturating_duration_since(self.made).as_nanos() % GRID.as_nanos();
        if is_near || beyond == 0 {
            return at;
        }
        at.checked_add(GRID - Duration::from_nanos(beyond as u64)).unwrap_or(at)
    }

    fn note_timer(&self, queue: &Queue) {
        let due = queue.timers.first_key_value().map(|((at, _), _)| *at);
        let nanos = |at: Instant| at.saturating_duration_since(self.made).as_nanos() as u64;
        self.timer_due.store(due.map_or(u64::MAX, nanos), Ordering::Relaxed);
    }

    fn fire_timers(&self, queue: &mut Queue) {
        if queue.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(timer) = queue.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            let actor = timer.remove();
            *actor.timer.lock() = None;
            if actor.state.request() {
                self.enqueue(queue, actor);
            }
        }
        self.note_timer(queue);
    }

    fn take(self: &Arc<Shared>, queue: &mut Queue) -> Option<Arc<Actor>> {
        let actor = queue.ready.pop_front()?;
        self.queued.store(queue.ready.len(), Ordering::Release);
        queue.taken += 1;
        queue.running.push(actor.clone());
        if !queue.ready.is_empty() {
            self.wake_one(queue);
        }
        actor.state.begin();
        Some(actor)
    }

    /// Returns when something may be due.
    fn wait_for_work(&self, wait: &AdaptiveWait, wake: &Arc<Condvar>) {
        self.spinning.fetch_add(1, Ordering::AcqRel);
        let is_due = || {
            self.queued.load(Ordering::Acquire) > 0
                || self.closed.load(Ordering::Acquire)
                || self.made.elapsed().as_nanos() >= self.timer_due.load(Ordering::Relaxed).into()
        };
        let poll = || is_due().then_some(false);
        let has_slept = wait.wait(self.settings.spin, poll, || {
            self.spinning.fetch_sub(1, Ordering::AcqRel);
            self.sleep(wake);
            true
        });
        if !has_slept {
            self.spinning.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn sleep(&self, wake: &Arc<Condvar>) {
        let mut queue = self.queue.lock();
        if !queue.ready.is_empty() || self.closed.load(Ordering::Acquire) {
            return;
        }
        queue.sleeping.push(wake.clone());
        match queue.timers.first_key_value().map(|((at, _), _)| *at) {
            Some(at) => drop(wake.wait_until(&mut queue, at)),
            None => wake.wait(&mut queue),
        }
        queue.sleeping.retain(|sleeping| !Arc::ptr_eq(sleeping, wake));
    }

    /// Has the standby watch, now that something is or will be due.
    fn wake_standby(self: &Arc<Shared>, queue: &mut Queue) {
        if self.settings.most == self.settings.usual {
            return;
        }
        if !queue.has_standby {
            let (shared, name) = (self.clone(), format!("{}-standby", self.settings.name));
            queue.has_standby = self.spawn(queue, name, move || shared.stand_by()).is_ok();
        } else if std::mem::take(&mut queue.standby_sleeps) {
            self.standby.notify_one();
        }
    }

    /// The thread that starts others when all are held up.
    fn stand_by(self: Arc<Shared>) {
        forbid_waits();
        let (mut queue, mut taken, mut has_warned) = (self.queue.lock(), u64::MAX, false);
        while !self.closed.load(Ordering::Acquire) {
            let now = Instant::now();
            let is_late = |(at, _): &TimerKey| now.saturating_duration_since(*at) >= HELD_UP;
            let is_due = !queue.ready.is_empty()
                || queue.timers.first_key_value().is_some_and(|(key, _)| is_late(key));
            let is_held_up = is_due && queue.taken == taken;
            if is_held_up {
                let over = self.relieve(&mut queue, &mut has_warned);
                drop(queue); // the end of an actor may need the lock
                over.iter().for_each(|actor| actor.end());
                queue = self.queue.lock();
            }
            (taken, has_warned) = (queue.taken, has_warned && is_held_up);
            if queue.ready.is_empty() && queue.timers.is_empty() {
                queue.standby_sleeps = true;
                self.standby.wait(&mut queue);
                taken = u64::MAX;
            } else {
                self.standby.wait_for(&mut queue, HELD_UP);
            }
        }
    }

    /// Wakes or starts a thread. If there can be no further one, gives those that only wait for
    /// their end.
    fn relieve(self: &Arc<Shared>, queue: &mut Queue, has_warned: &mut bool) -> Vec<Arc<Actor>> {
        if let Some(sleeping) = queue.sleeping.pop() {
            sleeping.notify_one();
            return Vec::new();
        }
        let may_grow = queue.threads < self.settings.most;
        if may_grow || !std::mem::replace(has_warned, true) {
            let by: Vec<String> = queue.running.iter().map(|by| by.owner.to_string()).collect();
            let then = if may_grow { "one more is started" } else { "others wait for them" };
            log::warn!(
                "{}: all {} threads are held up, and {then}. They run: {}",
                self.settings.name,
                queue.threads,
                by.join(" ")
            );
        }
        if may_grow {
            if let Err(error) = self.spawn_worker(queue) {
                log::warn!("{}: no further thread: {error}", self.settings.name);
            }
            return Vec::new();
        }
        let (over, ready) =
            std::mem::take(&mut queue.ready).into_iter().partition(|actor| actor.is_over());
        queue.ready = ready;
        self.queued.store(queue.ready.len(), Ordering::Release);
        over.into()
    }
}

/// The actors of a closed pool that wait for a run, which they do not get.
struct Waiting {
    ready: VecDeque<Arc<Actor>>,
    /// An engine that ends at this moment, on its own thread, may be among them.
    _timers: BTreeMap<TimerKey, Arc<Actor>>,
}

impl Queue {
    fn take_waiting(&mut self) -> Waiting {
        let (ready, timers) = (std::mem::take(&mut self.ready), std::mem::take(&mut self.timers));
        Waiting { ready, _timers: timers }
    }
}

impl Waiting {
    /// Others may keep an actor, and wait for the end of its work.
    fn end(self) {
        self.ready.iter().for_each(|actor| actor.end());
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
