//! A running node: what its handles share, and how it is stopped.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Command, Input};
use crate::entry::NodeId;
use crate::error::ShutdownError;
use crate::primitives::atomic::AtomicU64;
use crate::primitives::channel::Sender;
use crate::reply::{Reply, Response, reply};
use crate::shared::NodeShared;
use crate::threads::Threads;
use crate::wakers::is_in_waker;

/// One running node. It is stopped when the last handle is dropped.
pub(crate) struct RunningNode {
    pub(crate) shared: Arc<NodeShared>,
    pub(crate) inputs: Sender<Input>,
    pub(crate) threads: Threads,
    pub(crate) append_timeout: Duration,
    /// How long another voter may take to lead when this node is shut down.
    pub(crate) handover_timeout: Duration,
    pub(crate) next_barrier: AtomicU64,
    pub(crate) id: NodeId,
    /// What has to outlive the node: its host.
    pub(crate) host: Option<Arc<dyn Any + Send + Sync>>,
}

impl RunningNode {
    pub(crate) fn command(&self, command: Command) {
        // If the engine is gone, so is its end of the reply, which tells the asker.
        let _ = self.inputs.send(Input::Command(command));
    }

    pub(crate) fn reply<T>(&self) -> (Reply<T>, Response<T>) {
        reply(self.shared.home)
    }

    /// Begins to stop. If a time is given, a leader hands over first.
    pub(crate) fn begin_shutdown(
        &self,
        hand_over: Option<Duration>,
    ) -> Response<Result<(), ShutdownError>> {
        let (reply, answer) = self.reply();
        self.command(Command::Stop { hand_over, reply });
        answer
    }

    pub(crate) fn shutdown(&self, hand_over: Option<Duration>) -> Result<(), ShutdownError> {
        let is_engine = self.threads.is_engine();
        if is_engine || is_in_waker() {
            // A task that an engine woke. This one stops when it is done with that, and the others
            // after it. Another node may share the thread, or wait for this one in the same way.
            drop(self.begin_shutdown(hand_over.filter(|_| !is_engine)));
            return Ok(());
        }
        let answer = self.begin_shutdown(hand_over);
        self.end_shutdown(&answer)
    }

    /// Waits until the node has stopped: its storage is closed.
    pub(crate) fn end_shutdown(
        &self,
        answer: &Response<Result<(), ShutdownError>>,
    ) -> Result<(), ShutdownError> {
        let outcome = answer.recv().unwrap_or(Ok(()));
        self.threads.join();
        outcome
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        if !self.shared.home.is_here() {
            // What ends with the last owner must not end here: it would wake and detach threads
            // that are the parent's. One more owner of each sees to that.
            let host = self.host.take();
            let owned = (self.shared.clone(), self.inputs.clone(), self.threads.clone(), host);
            std::mem::forget(owned);
            return;
        }
        if let Err(error) = self.shutdown(None) {
            let group = self.shared.status().group;
            log::warn!("group {group} node {}: closed with an error: {error}", self.id);
        }
    }
}
