//! The only file that spawns threads, and the only clock: it drives an engine, runs what the engine hands out, and joins everything at the
//! end. A panic in any thread of a node ends that node's part in the group, never the host.
//!
//! A node has four threads of its own, and those that its transport asks for:
//!
//! | thread | what it does | where it waits |
//! |---|---|---|
//! | engine | [`Engine::turn`] | for an input or the next tick |
//! | sync | waits for the newest sync, which covers those before it | for a sync |
//! | chores | what the storage wants done in the background | for a chore |
//! | roles | calls the host's observers, in order | for a change of role |

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::{Backstage, Engine, Input, Now, SyncJob};
use crate::entry::NodeId;
use crate::fork::Home;
use crate::owner::{Owner, owner};
use crate::primitives::channel::{Receiver, Sender, unbounded};
use crate::primitives::thread::{self, JoinHandle, ThreadId};
use crate::primitives::{Condvar, Instant, Mutex};
use crate::role::Status;
use crate::spin::AdaptiveWait;
use crate::storage::{Chore, StorageError};
use crate::transport::Spawner;
use crate::wakers::{Wakers, forbid_waits, is_in_waker, wake_all};

/// A host's observer of role changes.
pub(crate) type Observer = Arc<dyn Fn(&Status) + Send + Sync>;

/// The threads of one node.
#[derive(Clone)]
pub(crate) struct Threads {
    group: Arc<str>,
    node: NodeId,
    inputs: Sender<Input>,
    crew: Arc<Crew>,
}

/// Who is at work.
struct Crew {
    roster: Mutex<Roster>,
    /// Signalled when a thread leaves the list of those who are at work.
    ended: Condvar,
    home: Home,
}

#[derive(Default)]
struct Roster {
    handles: Vec<JoinHandle<()>>,
    /// Those whose work has not ended, and who do not wait for the end of the others' themselves.
    at_work: Vec<ThreadId>,
    engine: Option<ThreadId>,
    /// The node is being shut down: nothing is granted any more.
    closed: bool,
    /// Tasks that wait until nobody is at work.
    tasks: Wakers,
}

impl Crew {
    fn leave(&self, thread: ThreadId) {
        let mut roster = self.roster.lock();
        roster.at_work.retain(|at_work| *at_work != thread);
        let tasks = match roster.at_work.is_empty() {
            true => roster.tasks.take(),
            false => BTreeMap::new(),
        };
        drop(roster);
        self.ended.notify_all();
        wake_all(tasks.into_values(), self.home);
    }
}

/// The far ends of an engine's [`Backstage`].
pub(crate) struct Stagehands {
    syncs: Receiver<SyncJob>,
    chores: Receiver<Chore>,
    roles: Receiver<Status>,
}

/// A backstage, and what serves it once the threads run.
pub(crate) fn backstage() -> (Backstage, Stagehands) {
    let (syncs, sync_jobs) = unbounded();
    let (chores, chore_jobs) = unbounded();
    let (roles, role_changes) = unbounded();
    (Backstage { syncs, chores, roles }, Stagehands { syncs: sync_jobs, chores: chore_jobs, roles: role_changes })
}

impl Threads {
    pub(crate) fn new(group: &str, node: NodeId, inputs: Sender<Input>, home: Home) -> Threads {
        let crew = Crew { roster: Mutex::default(), ended: Condvar::new(), home };
        Threads { group: group.into(), node, inputs, crew: Arc::new(crew) }
    }

    /// How a transport gets threads.
    pub(crate) fn spawner(&self) -> Spawner {
        let (threads, detached) = (self.clone(), (self.group.clone(), self.node));
        Spawner::new(move |name, work| threads.spawn(&name, work).map(drop)).with_detached(
            // Nobody joins it: what it does may take longer than a shutdown may.
            move |name, work| {
                let (group, node) = &detached;
                let owner = Owner::new(group, *node);
                let owned = move || {
                    let _adopted = owner.adopt();
                    work();
                };
                thread::Builder::new().name(thread_name(group, *node, &name)).spawn(owned).map(drop)
            },
        )
    }

    /// Starts the engine and those who serve it. They may spin for so long before they sleep. The engine is dropped, and its storage closed, when its thread ends.
    pub(crate) fn start(&self, engine: Engine, stagehands: Stagehands, observers: Vec<Observer>, spin: Duration) -> io::Result<()> {
        let Stagehands { syncs, chores, roles } = stagehands;
        let inputs = self.inputs.clone();
        self.spawn("sync", Box::new(move || wait_for_syncs(&syncs, &inputs, spin)))?;
        self.spawn("chores", Box::new(move || chores.iter().for_each(|chore| chore())))?;
        self.spawn("roles", Box::new(move || tell_roles(&roles, &observers)))?;
        let engine = self.spawn("engine", Box::new(move || drive(engine, spin)))?;
        self.crew.roster.lock().engine = Some(engine);
        Ok(())
    }

    /// Waits for every thread to end, and grants no more. Every caller waits, not only the first: when this returns, the storage is closed. One
    /// of the threads themselves does not wait for its own end, nor does anyone wait for it while it waits here.
    pub(crate) fn join(&self) {
        let me = thread::current().id();
        self.crew.leave(me);
        let mut roster = self.crew.roster.lock();
        roster.closed = true;
        while !roster.at_work.is_empty() {
            self.crew.ended.wait(&mut roster);
        }
        let (own, others): (Vec<_>, Vec<_>) = roster.handles.drain(..).partition(|handle| handle.thread().id() == me);
        roster.handles = own;
        drop(roster);
        for handle in others {
            // A panic was reported when it happened.
            let _ = handle.join();
        }
    }

    /// What [`join`](Self::join) is to a thread: ready when every thread has ended its work, and
    /// the storage is closed. Nothing is granted any more. While it is pending, `waker` is left
    /// at `key`.
    pub(crate) fn poll_ended(&self, waker: &Waker, key: &mut Option<u64>) -> Poll<()> {
        if !is_in_waker() {
            // An observer that waits for this does not wait for its own end.
            self.crew.leave(thread::current().id());
        }
        let waker = waker.clone();
        let mut roster = self.crew.roster.lock();
        roster.closed = true;
        if roster.at_work.is_empty() {
            return Poll::Ready(());
        }
        let replaced = roster.tasks.register(key, waker);
        drop(roster);
        drop(replaced);
        Poll::Pending
    }

    /// The task with this key no longer waits.
    pub(crate) fn forget(&self, key: Option<u64>) {
        if key.is_some() && self.crew.home.is_here() {
            let waker = self.crew.roster.lock().tasks.remove(key);
            drop(waker);
        }
    }

    /// Whether the caller is the engine itself, which must not wait for its own doing. It runs code of the host when it wakes a task.
    pub(crate) fn is_engine(&self) -> bool {
        self.crew.roster.lock().engine == Some(thread::current().id())
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<ThreadId> {
        let mut roster = self.crew.roster.lock();
        if roster.closed {
            return Err(io::Error::other("the node is shutting down"));
        }
        roster.handles.retain(|handle| !handle.is_finished());
        let (inputs, crew, what) = (self.inputs.clone(), self.crew.clone(), name.to_owned());
        let is_of_the_host = name == "roles";
        let owner = Owner::new(&self.group, self.node);
        let guarded = move || {
            let _adopted = owner.adopt();
            if !is_of_the_host {
                forbid_waits();
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                // Nobody listens any more once the engine is gone.
                let _ = inputs.send(Input::Panicked(format!("its {what} thread panicked: {}", panic_text(&*panic))));
            }
            crew.leave(thread::current().id());
        };
        let name = thread_name(&self.group, self.node, name);
        let handle = thread::Builder::new().name(name).spawn(guarded)?;
        let id = handle.thread().id();
        roster.at_work.push(id);
        roster.handles.push(handle);
        Ok(id)
    }
}

/// Linux shows so many bytes of a thread's name.
const THREAD_NAME_BYTES: usize = 15;

/// `group/node-name`. Of the group as much as there is room for, for the rest tells the threads of
/// a node apart. What is too long even so Linux cuts off at its end.
fn thread_name(group: &str, node: NodeId, name: &str) -> String {
    let rest = format!("/{node}-{name}");
    let room = THREAD_NAME_BYTES.saturating_sub(rest.len());
    let group: String = group.chars().take(room).collect(); // a name of a group is ASCII
    format!("{group}{rest}")
}

/// The engine's thread: turn, then wait for an input or for time to pass.
fn drive(mut engine: Engine, spin: Duration) {
    let began = Instant::now();
    let wait = AdaptiveWait::new();
    loop {
        let now = Now { elapsed: began.elapsed(), unix_ms: unix_ms() };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| engine.turn(now))) {
            engine.fail(&format!("its engine panicked, which is a bug: {}", panic_text(&*panic)));
        }
        if engine.is_stopped() {
            return;
        }
        wait_for_input(&engine, began, &wait, spin);
    }
}

fn wait_for_input(engine: &Engine, began: Instant, wait: &AdaptiveWait, spin: Duration) {
    let wake_at = engine.wake_at();
    let poll = || Some(()).filter(|()| !engine.inputs().is_empty() || began.elapsed() >= wake_at);
    // Arrived or not, the next turn finds out.
    let sleep = || engine.inputs().wait_until(began.checked_add(wake_at));
    wait.wait(spin, poll, sleep);
}

fn wait_for_syncs(jobs: &Receiver<SyncJob>, inputs: &Sender<Input>, spin: Duration) {
    let wait = AdaptiveWait::new();
    loop {
        let poll = || jobs.try_recv().ok().map(Some);
        let Some(first) = wait.wait(spin, poll, || jobs.recv().ok()) else { return };
        // One sync covers all that were begun before it.
        let job = jobs.try_iter().fold(first, |older, newer| SyncJob { number: older.number.with(newer.number), ..newer });
        let outcome = catch_unwind(AssertUnwindSafe(|| job.pending.wait()))
            .unwrap_or_else(|panic| Err(StorageError::Poisoned(format!("a sync panicked: {}", panic_text(&*panic)))));
        if inputs.send(Input::Synced(job.number, outcome)).is_err() {
            return;
        }
    }
}

fn tell_roles(changes: &Receiver<Status>, observers: &[Observer]) {
    for status in changes.iter() {
        for observer in observers {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| observer(&status))) {
                let what = panic_text(&*panic);
                log::error!("{}an observer of role changes panicked: {what}", owner());
            }
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(all(test, loom))]
mod exhaustive;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_thread_fits_and_tells_group_node_and_work() {
        for (group, node, name, expected) in [
            ("a", 1, "sync", "a/1-sync"),
            ("orders", 1, "engine", "orders/1-engine"),
            ("payments", 12, "engine", "payme/12-engine"),
            ("orders", 123_456_789, "engine", "/123456789-engine"),
        ] {
            assert_eq!(thread_name(group, NodeId::from(node), name), expected);
        }
    }
}
