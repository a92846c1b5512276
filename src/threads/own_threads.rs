//! The threads of a node that stands alone: one for each of its parts, and those of its transport.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::parts::{PartNumber, Parts};
use super::queues::WorkReceivers;
use super::work::{Driven, Observers, notify_observers, panicked, wait_for_newest};
use crate::engine::{Input, SyncJob};
use crate::entry::NodeId;
use crate::log_prefix::LogPrefix;
use crate::primitives::channel::{Receiver, Sender};
use crate::primitives::thread;
use crate::spin::AdaptiveWait;
use crate::transport::Spawner;
use crate::wakers::{allow_observers, forbid_waits};

/// See the [module](self).
#[derive(Clone)]
pub(super) struct OwnThreads {
    group: Arc<str>,
    node: NodeId,
    inputs: Sender<Input>,
    parts: Arc<Parts>,
}

impl OwnThreads {
    pub(super) fn new(
        group: &str,
        node: NodeId,
        inputs: Sender<Input>,
        parts: Arc<Parts>,
    ) -> OwnThreads {
        OwnThreads { group: group.into(), node, inputs, parts }
    }

    pub(super) fn inputs(&self) -> &Sender<Input> {
        &self.inputs
    }

    /// The spawner for a transport of this node alone.
    pub(super) fn spawner(&self) -> Spawner {
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

    /// Starts the engine and its work threads, which may spin for `spin` before they sleep.
    pub(super) fn start(
        &self,
        engine: Driven,
        receivers: WorkReceivers,
        observers: Observers,
        spin: Duration,
    ) -> io::Result<()> {
        let WorkReceivers { syncs, background_tasks, roles, .. } = receivers;
        let inputs = self.inputs.clone();
        self.spawn("sync", Box::new(move || wait_for_syncs(&syncs, &inputs, spin)))?;
        self.spawn("tasks", Box::new(move || background_tasks.iter().for_each(|task| task())))?;
        let observe = move || roles.iter().for_each(|notice| notify_observers(&notice, &observers));
        let roles = self.spawn(OBSERVERS, Box::new(observe))?;
        self.parts.set_observers(roles);
        let engine = self.spawn("engine", Box::new(move || run_engine(engine, spin)))?;
        self.parts.set_engine(engine);
        Ok(())
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<PartNumber> {
        let (inputs, parts, what) = (self.inputs.clone(), self.parts.clone(), name.to_owned());
        let calls_observers = name == OBSERVERS;
        let log_prefix = LogPrefix::new(&self.group, self.node);
        self.parts.add_thread(|number| {
            let guarded = move || {
                let _adopted = log_prefix.adopt();
                if calls_observers {
                    allow_observers()
                } else {
                    forbid_waits()
                }
                if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                    // The receiver is gone once the engine is.
                    let _ = inputs.send(panicked(&what, &*panic));
                }
                parts.end(number);
            };
            thread::Builder::new().name(thread_name(&self.group, self.node, name)).spawn(guarded)
        })
    }
}

/// The thread that calls observers.
const OBSERVERS: &str = "roles";

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
fn run_engine(mut driven: Driven, spin: Duration) {
    let wait = AdaptiveWait::new();
    while driven.turn() {
        let inputs = driven.engine.inputs();
        let poll = || Some(()).filter(|()| !inputs.is_empty() || driven.is_due());
        // Arrived or not, the next turn finds out.
        wait.wait(spin, poll, || inputs.wait_until(driven.wake_at()));
    }
}

fn wait_for_syncs(jobs: &Receiver<SyncJob>, inputs: &Sender<Input>, spin: Duration) {
    let wait = AdaptiveWait::new();
    loop {
        let poll = || jobs.try_recv().ok().map(Some);
        let Some(first) = wait.wait(spin, poll, || jobs.recv().ok()) else { return };
        if inputs.send(wait_for_newest(first, jobs)).is_err() {
            return;
        }
    }
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
