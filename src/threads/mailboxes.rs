//! The mailboxes of a node of a host: one for each of its parts.

use std::sync::Arc;

use super::pool::{Actor, Work};
use crate::engine::AppendPermit;
use crate::primitives::channel::{Receiver, Sender, unbounded_with};

/// The actors of one node, before they have their work.
pub(crate) struct Mailboxes {
    pub(super) engine: Mailbox,
    pub(super) sync: Mailbox,
    pub(super) tasks: Mailbox,
    pub(super) roles: Mailbox,
    pub(super) permit: AppendPermit,
}

/// An actor whose mailbox is a queue.
pub(super) struct Mailbox(Arc<Actor>);

impl Mailbox {
    pub(super) fn of(actor: Arc<Actor>) -> Mailbox {
        Mailbox(actor)
    }

    /// The queue: whatever is sent requests a run.
    pub(super) fn queue<T>(&self) -> (Sender<T>, Receiver<T>) {
        let actor = self.0.clone();
        unbounded_with(move || actor.request())
    }

    /// Requests a run, though nothing is sent.
    pub(super) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        let actor = self.0.clone();
        move || actor.request()
    }

    /// Gives the actor its work, and has it look at what was sent before.
    pub(super) fn start(self, work: impl Work + 'static) {
        self.0.give(work);
        self.0.request();
    }
}
