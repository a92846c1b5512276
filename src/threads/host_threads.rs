//! The threads that all nodes of a host share: a few for each part of a node.
//!
//! | pool | threads | more, if all are held up |
//! |---|---|---|
//! | engines | [`HostThreads::new`] is told, 2 to 4 as a rule | up to 16 |
//! | syncs | up to 8, for they only wait for disks ([`AppendPermits`]) | |
//! | tasks | 1 | up to 4 |
//! | observers | 1 | up to 16 |
//!
//! If all threads for observers are held up, those of a node that is shut down are not called any
//! more: its end does not wait for the observers of others.
//!
//! A part of a node is an actor of its pool, and its queue is the mailbox. So parts of a node run
//! at the same time, and each of them runs on one thread at a time, in order.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::mailboxes::{Mailbox, Mailboxes};
use super::parts::{PartNumber, Parts};
use super::pool::{Pool, Settings, Then, Work};
use super::queues::WorkReceivers;
use super::work::{Driven, Observers, notify_observers, panic_text, panicked, wait_for_newest};
use crate::engine::{AppendPermits, Input, Notice, SyncJob};
use crate::entry::NodeId;
use crate::log_prefix::{LogPrefix, log_prefix};
use crate::primitives::channel::{Receiver, Sender, TryRecvError};
use crate::primitives::thread::{self, JoinHandle};
use crate::primitives::{Instant, Mutex};
use crate::storage::BackgroundTask;
use crate::transport::Spawner;
use crate::wakers::{forbid_waits, is_in_observer, is_in_waker};

/// Threads that sync. As many groups write appends at the same time.
const SYNC_THREADS: usize = 8;

/// See the [module](self).
pub(crate) struct HostThreads {
    engines: Pool,
    syncs: Pool,
    tasks: Pool,
    roles: Pool,
    permits: Arc<AppendPermits>,
    /// The threads of the transport.
    transport: Mutex<TransportThreads>,
}

#[derive(Default)]
struct TransportThreads {
    handles: Vec<JoinHandle<()>>,
    closed: bool,
}

impl HostThreads {
    /// `engines` threads turn engines, and may spin for `spin` before they sleep, as those for
    /// syncs may.
    ///
    /// # Errors
    /// If the operating system grants no thread for one of the pools.
    pub(crate) fn new(engines: usize, spin: Duration) -> io::Result<HostThreads> {
        let pool = |name, usual, most, spin| {
            Pool::new(Settings { name, usual, most, spin, for_observers: name == "observers" })
        };
        let threads = HostThreads {
            engines: pool("engines", engines, engines.max(16), spin),
            syncs: pool("syncs", SYNC_THREADS, SYNC_THREADS, spin),
            tasks: pool("tasks", 1, 4, Duration::ZERO),
            roles: pool("observers", 1, 16, Duration::ZERO),
            permits: AppendPermits::new(SYNC_THREADS),
            transport: Mutex::default(),
        };
        let started = threads.pools().iter().try_for_each(|pool| pool.start());
        started.inspect_err(|_| threads.close()).map(|()| threads)
    }

    fn pools(&self) -> [&Pool; 4] {
        [&self.engines, &self.syncs, &self.tasks, &self.roles]
    }

    /// Ends all threads. The transport was stopped, and no node runs any more. Waits for them,
    /// but not within a waker or an observer: another one that calls this may wait for it.
    pub(crate) fn close(&self) {
        self.transport.lock().closed = true;
        self.pools().iter().for_each(|pool| pool.close());
        if is_in_waker() || is_in_observer() {
            return;
        }
        self.pools().iter().for_each(|pool| pool.join());
        let handles = std::mem::take(&mut self.transport.lock().handles);
        let me = thread::current().id();
        for handle in handles.into_iter().filter(|handle| handle.thread().id() != me) {
            let _ = handle.join(); // a panic was reported when it happened
        }
    }

    /// The spawner for the transport of host `id`.
    pub(crate) fn spawner(self: &Arc<HostThreads>, id: NodeId) -> Spawner {
        let threads = Arc::downgrade(self);
        let joined = move |name: String, work| {
            let Some(threads) = threads.upgrade() else { return Err(is_ending()) };
            let mut transport = threads.transport.lock();
            if transport.closed {
                return Err(is_ending());
            }
            transport.handles.retain(|handle| !handle.is_finished());
            transport.handles.push(spawn_guarded(id, &name, work)?);
            Ok(())
        };
        Spawner::new(joined)
            .with_detached(move |name, work| spawn_guarded(id, &name, work).map(drop))
    }

    /// The mailboxes of one more node.
    pub(crate) fn mailboxes(&self, owner: &LogPrefix) -> Mailboxes {
        let [engine, sync, tasks, roles] =
            self.pools().map(|pool| Mailbox::of(pool.actor(owner.clone())));
        let permit = self.permits.of_group(engine.waker());
        Mailboxes { engine, sync, tasks, roles, permit }
    }
}

fn is_ending() -> io::Error {
    io::Error::other("the host is shutting down")
}

/// A thread of a transport. A panic in it ends that thread alone.
fn spawn_guarded(
    host: NodeId,
    name: &str,
    work: Box<dyn FnOnce() + Send>,
) -> io::Result<JoinHandle<()>> {
    let guarded = move || {
        forbid_waits();
        let _adopted = LogPrefix::of_host(host).adopt();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            log::error!(
                "{}a thread of the transport panicked, which is a bug: {}",
                log_prefix(),
                panic_text(&*panic)
            );
        }
    };
    thread::Builder::new().name(format!("host-{host}/{name}")).spawn(guarded)
}

/// Starts the parts of a node of a host.
pub(super) fn start(
    parts: &Arc<Parts>,
    mut engine: Driven,
    inputs: &Sender<Input>,
    receivers: WorkReceivers,
    observers: Observers,
) -> io::Result<()> {
    let WorkReceivers { syncs, background_tasks, roles, mailboxes } = receivers;
    let mailboxes = mailboxes.expect("the queues of a node of a host have mailboxes");
    let part = |name| {
        let number = parts.add_shared()?;
        Ok::<_, io::Error>(Part { parts: parts.clone(), number, name, inputs: inputs.clone() })
    };
    let (sync, task, role, turns) =
        (part("sync")?, part("tasks")?, part("roles")?, part("engine")?);
    parts.set_engine(turns.number);
    parts.set_observers(role.number);
    mailboxes.sync.start(Syncs { part: sync, jobs: syncs });
    mailboxes.tasks.start(Tasks { part: task, tasks: background_tasks });
    mailboxes.roles.start(Roles { part: role, changes: roles, observers });
    engine.engine.set_permit(mailboxes.permit);
    mailboxes.engine.start(Turns { part: turns, driven: Some(engine) });
    Ok(())
}

/// A part of a node that threads of the host run. It has ended when this is dropped.
struct Part {
    parts: Arc<Parts>,
    number: PartNumber,
    name: &'static str,
    inputs: Sender<Input>,
}

impl Part {
    /// Runs `work` on this thread. A panic in it ends the part, and the node's part in its group.
    fn run(&self, work: impl FnOnce() -> Then) -> Then {
        self.parts.enter(self.number);
        let then = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            // The receiver is gone once the engine is.
            let _ = self.inputs.send(panicked(self.name, &*panic));
            Then::End
        });
        self.parts.leave(self.number);
        then
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.parts.end(self.number);
    }
}

/// Runs `each` with the next item, if there is one, and takes its turn again for those behind it.
/// Ends once there will be none.
fn serve<T>(queue: &Receiver<T>, each: impl FnOnce(T)) -> Then {
    match queue.try_recv() {
        Ok(item) => {
            each(item);
            Then::Again
        }
        Err(TryRecvError::Empty) => Then::Wait,
        Err(TryRecvError::Disconnected) => Then::End,
    }
}

struct Turns {
    /// Dropped before the part ends: then the storage is closed.
    driven: Option<Driven>,
    part: Part,
}

impl Work for Turns {
    fn run(&mut self) -> Then {
        let Turns { driven, part } = self;
        part.run(|| {
            let Some(running) = driven else { return Then::End };
            if running.turn() {
                return match running.wake_at() {
                    Some(at) if at <= Instant::now() => Then::Again,
                    Some(at) => Then::At(at),
                    None => Then::Wait,
                };
            }
            *driven = None;
            Then::End
        })
    }
}

struct Syncs {
    part: Part,
    jobs: Receiver<SyncJob>,
}

impl Work for Syncs {
    fn run(&mut self) -> Then {
        let Syncs { part, jobs } = self;
        // If the engine is gone, so is the sender of jobs, and the next run is the last one.
        part.run(|| serve(jobs, |first| drop(part.inputs.send(wait_for_newest(first, jobs)))))
    }
}

struct Tasks {
    part: Part,
    tasks: Receiver<BackgroundTask>,
}

impl Work for Tasks {
    fn run(&mut self) -> Then {
        self.part.run(|| serve(&self.tasks, |task| task()))
    }
}

struct Roles {
    part: Part,
    changes: Receiver<Notice>,
    observers: Observers,
}

impl Work for Roles {
    fn run(&mut self) -> Then {
        self.part.run(|| serve(&self.changes, |notice| notify_observers(&notice, &self.observers)))
    }

    /// The node has stopped. What its observers were not told of yet is about that.
    fn is_over(&self) -> bool {
        self.changes.is_disconnected()
    }
}
