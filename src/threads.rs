//! The only file that spawns threads, and the clock of the engine: it runs an engine and its work,
//! and joins all threads at the end. A panic in a thread of a node ends that node's part in the
//! group, never the host.
//!
//! A node has four threads of its own, and those of its transport:
//!
//! | thread | what it does | where it waits |
//! |---|---|---|
//! | engine | [`Engine::turn`] | for an input or the next tick |
//! | sync | waits for the newest sync, which covers those before it | for a sync |
//! | tasks | background tasks of the storage | for a task |
//! | roles | calls the host's observers, in order | for a change of role |

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::{Engine, Input, Now, SyncJob, WorkSenders};
use crate::entry::NodeId;
use crate::fork::Home;
use crate::log_prefix::{LogPrefix, log_prefix};
use crate::primitives::channel::{Receiver, Sender, unbounded};
use crate::primitives::thread::{self, JoinHandle, ThreadId};
use crate::primitives::{Condvar, Instant, Mutex};
use crate::role::Status;
use crate::spin::AdaptiveWait;
use crate::storage::{BackgroundTask, StorageError};
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
    registry: Arc<ThreadRegistry>,
}

/// The running threads of a node, shared by all of them.
struct ThreadRegistry {
    thread_list: Mutex<ThreadList>,
    /// Signalled when a thread ends its work.
    ended: Condvar,
    home: Home,
}

#[derive(Default)]
struct ThreadList {
    handles: Vec<JoinHandle<()>>,
    /// Threads whose work has not ended, without those that wait in `join` themselves.
    running: Vec<ThreadId>,
    engine: Option<ThreadId>,
    /// The node is being shut down: no thread is spawned any more.
    closed: bool,
    /// Tasks that wait until no thread is running.
    tasks: Wakers,
}

impl ThreadRegistry {
    fn leave(&self, thread: ThreadId) {
        let mut thread_list = self.thread_list.lock();
        thread_list.running.retain(|running| *running != thread);
        let tasks = match thread_list.running.is_empty() {
            true => thread_list.tasks.take(),
            false => BTreeMap::new(),
        };
        drop(thread_list);
        self.ended.notify_all();
        wake_all(tasks.into_values(), self.home);
    }
}

/// The receiving ends of an engine's [`WorkSenders`].
pub(crate) struct WorkReceivers {
    syncs: Receiver<SyncJob>,
    background_tasks: Receiver<BackgroundTask>,
    roles: Receiver<Status>,
}

/// The queues for work of an engine, both ends.
pub(crate) fn work_channels() -> (WorkSenders, WorkReceivers) {
    let (syncs, sync_jobs) = unbounded();
    let (background_tasks, background_task_jobs) = unbounded();
    let (roles, role_changes) = unbounded();
    (
        WorkSenders { syncs, background_tasks, roles },
        WorkReceivers {
            syncs: sync_jobs,
            background_tasks: background_task_jobs,
            roles: role_changes,
        },
    )
}

impl Threads {
    pub(crate) fn new(group: &str, node: NodeId, inputs: Sender<Input>, home: Home) -> Threads {
        let registry =
            ThreadRegistry { thread_list: Mutex::default(), ended: Condvar::new(), home };
        Threads { group: group.into(), node, inputs, registry: Arc::new(registry) }
    }

    /// The spawner for a transport.
    pub(crate) fn spawner(&self) -> Spawner {
        let (threads, detached) = (self.clone(), (self.group.clone(), self.node));
        Spawner::new(move |name, work| threads.spawn(&name, work).map(drop)).with_detached(
            // Not joined: its work may take longer than a shutdown may.
            move |name, work| {
                let (group, node) = &detached;
                let log_prefix = LogPrefix::new(group, *node);
                let owned = move || {
                    let _adopted = log_prefix.adopt();
                    work();
                };
                thread::Builder::new().name(thread_name(group, *node, &name)).spawn(owned).map(drop)
            },
        )
    }

    /// Starts the engine and its work threads, which may spin for `spin` before they sleep. The
    /// engine is dropped, and its storage closed, when its thread ends.
    pub(crate) fn start(
        &self,
        engine: Engine,
        receivers: WorkReceivers,
        observers: Vec<Observer>,
        spin: Duration,
    ) -> io::Result<()> {
        let WorkReceivers { syncs, background_tasks, roles } = receivers;
        let inputs = self.inputs.clone();
        self.spawn("sync", Box::new(move || wait_for_syncs(&syncs, &inputs, spin)))?;
        self.spawn(
            "tasks",
            Box::new(move || background_tasks.iter().for_each(|background_task| background_task())),
        )?;
        self.spawn("roles", Box::new(move || notify_observers(&roles, &observers)))?;
        let engine = self.spawn("engine", Box::new(move || run_engine(engine, spin)))?;
        self.registry.thread_list.lock().engine = Some(engine);
        Ok(())
    }

    /// Waits for every thread to end; no more are spawned. Every caller waits, not only the first:
    /// when this returns, the storage is closed. A thread of the node does not wait for its own
    /// end, and no other caller waits for it while it waits here.
    pub(crate) fn join(&self) {
        let me = thread::current().id();
        self.registry.leave(me);
        let mut thread_list = self.registry.thread_list.lock();
        thread_list.closed = true;
        while !thread_list.running.is_empty() {
            self.registry.ended.wait(&mut thread_list);
        }
        let (own, others): (Vec<_>, Vec<_>) =
            thread_list.handles.drain(..).partition(|handle| handle.thread().id() == me);
        thread_list.handles = own;
        drop(thread_list);
        for handle in others {
            // A panic was reported when it happened.
            let _ = handle.join();
        }
    }

    /// [`join`](Self::join) for a task: ready when every thread has ended its work, and the storage
    /// is closed. No more threads are spawned. While it is pending, `waker` is registered at `key`.
    pub(crate) fn poll_ended(&self, waker: &Waker, key: &mut Option<u64>) -> Poll<()> {
        if !is_in_waker() {
            // An observer that waits for this does not wait for its own end.
            self.registry.leave(thread::current().id());
        }
        let waker = waker.clone();
        let mut thread_list = self.registry.thread_list.lock();
        thread_list.closed = true;
        if thread_list.running.is_empty() {
            return Poll::Ready(());
        }
        let replaced = thread_list.tasks.register(key, waker);
        drop(thread_list);
        drop(replaced);
        Poll::Pending
    }

    /// The task with this key no longer waits.
    pub(crate) fn forget(&self, key: Option<u64>) {
        if key.is_some() && self.registry.home.is_here() {
            let waker = self.registry.thread_list.lock().tasks.remove(key);
            drop(waker);
        }
    }

    /// Whether the caller is on the thread of the engine, which must not wait for itself. The
    /// engine runs code of the host when it wakes a task.
    pub(crate) fn is_engine(&self) -> bool {
        self.registry.thread_list.lock().engine == Some(thread::current().id())
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<ThreadId> {
        let mut thread_list = self.registry.thread_list.lock();
        if thread_list.closed {
            return Err(io::Error::other("the node is shutting down"));
        }
        thread_list.handles.retain(|handle| !handle.is_finished());
        let (inputs, registry, what) =
            (self.inputs.clone(), self.registry.clone(), name.to_owned());
        let is_of_the_host = name == "roles";
        let log_prefix = LogPrefix::new(&self.group, self.node);
        let guarded = move || {
            let _adopted = log_prefix.adopt();
            if !is_of_the_host {
                forbid_waits();
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                // The receiver is gone once the engine is.
                let _ = inputs.send(Input::Panicked(format!(
                    "its {what} thread panicked: {}",
                    panic_text(&*panic)
                )));
            }
            registry.leave(thread::current().id());
        };
        let name = thread_name(&self.group, self.node, name);
        let handle = thread::Builder::new().name(name).spawn(guarded)?;
        let id = handle.thread().id();
        thread_list.running.push(id);
        thread_list.handles.push(handle);
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
fn run_engine(mut engine: Engine, spin: Duration) {
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
        let job = jobs.try_iter().fold(first, |older, newer| SyncJob {
            number: older.number.with(newer.number),
            ..newer
        });
        let outcome =
            catch_unwind(AssertUnwindSafe(|| job.pending.wait())).unwrap_or_else(|panic| {
                Err(StorageError::Poisoned(format!("a sync panicked: {}", panic_text(&*panic))))
            });
        if inputs.send(Input::Synced(job.number, outcome)).is_err() {
            return;
        }
    }
}

fn notify_observers(changes: &Receiver<Status>, observers: &[Observer]) {
    for status in changes.iter() {
        for observer in observers {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| observer(&status))) {
                let what = panic_text(&*panic);
                log::error!("{}an observer of role changes panicked: {what}", log_prefix());
            }
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

#[cfg(all(test, loom))]
mod loom_tests;

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
