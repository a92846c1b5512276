//! The only room that spawns threads, and the clock of the engine: it runs an engine and its work,
//! and waits for all of it at the end. A panic in it ends that node's part in its group, never the
//! host.
//!
//! | part of a node | what it does | when |
//! |---|---|---|
//! | engine | [`Engine::turn`] | at an input or the next tick |
//! | sync | waits for the newest sync, which covers those before it | at a sync |
//! | tasks | background tasks of the storage | at a task |
//! | roles | calls the host's observers, in order | at a change of role |
//!
//! A node that stands alone has a thread for each of them, and those of its transport
//! ([`own_threads`]). The nodes of one [`Host`](crate::Host) share a few ([`host_threads`]).

mod host_threads;
mod mailboxes;
mod own_threads;
mod parallel;
mod parts;
mod pool;
mod queues;
mod run_state;
mod work;

use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

pub(crate) use self::host_threads::HostThreads;
use self::own_threads::OwnThreads;
pub(crate) use self::parallel::in_parallel;
use self::parts::Parts;
pub(crate) use self::queues::{Queues, WorkReceivers};
use self::work::Driven;
pub(crate) use self::work::{Claim, Observers};
use crate::engine::{Engine, Input};
use crate::entry::NodeId;
use crate::fork::Home;
use crate::primitives::channel::Sender;
use crate::transport::Spawner;

/// What runs one node.
#[derive(Clone)]
pub(crate) struct Threads {
    parts: Arc<Parts>,
    /// Threads of the node alone. A node of a host has none but those of its own transport.
    own: OwnThreads,
}

impl Threads {
    pub(crate) fn new(group: &str, node: NodeId, inputs: Sender<Input>, home: Home) -> Threads {
        let parts = Arc::new(Parts::new(home));
        Threads { own: OwnThreads::new(group, node, inputs, parts.clone()), parts }
    }

    /// The spawner for a transport.
    pub(crate) fn spawner(&self) -> Spawner {
        self.own.spawner()
    }

    /// Starts the engine and its work: on the threads of the host that `receivers` belong to, or on
    /// own ones, which may spin for `spin` before they sleep. The engine is dropped when it ends,
    /// which closes its storage, and `claim` after it.
    pub(crate) fn start(
        &self,
        engine: Engine,
        receivers: WorkReceivers,
        observers: Observers,
        spin: Duration,
        claim: Option<Claim>,
    ) -> io::Result<()> {
        let (engine, work) = (Driven::new(engine, claim), receivers);
        match work.mailboxes.is_some() {
            true => host_threads::start(&self.parts, engine, self.own.inputs(), work, observers),
            false => self.own.start(engine, work, observers, spin),
        }
    }

    /// Waits for every thread to end; no more are spawned. Every caller waits, not only the first:
    /// when this returns, the storage is closed. A thread of the node does not wait for its own
    /// end, and no other caller waits for it while it waits here.
    pub(crate) fn join(&self) {
        self.parts.join();
    }

    /// [`join`](Self::join) for a task: ready when all has ended its work, and the storage is
    /// closed. While it is pending, `waker` is registered at `key`.
    pub(crate) fn poll_ended(&self, waker: &Waker, key: &mut Option<u64>) -> Poll<()> {
        self.parts.poll_ended(waker, key)
    }

    /// The task with this key no longer waits.
    pub(crate) fn forget(&self, key: Option<u64>) {
        self.parts.forget(key);
    }

    /// Whether the caller is on the thread that runs the engine, which must not wait for itself.
    pub(crate) fn is_engine(&self) -> bool {
        self.parts.is_engine()
    }
}
