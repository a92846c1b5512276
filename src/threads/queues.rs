//! The queues between the parts of a node.

use super::mailboxes::Mailboxes;
use crate::engine::{Input, Notice, SyncJob, WorkSenders};
use crate::primitives::channel::{Receiver, Sender, unbounded};
use crate::storage::BackgroundTask;

/// The queues of a node, both ends. What is put into one has its part run.
pub(crate) struct Queues {
    pub(crate) inputs: Sender<Input>,
    pub(crate) engine_inputs: Receiver<Input>,
    pub(crate) work: WorkSenders,
    pub(crate) receivers: WorkReceivers,
}

/// The receiving ends of an engine's [`WorkSenders`].
pub(crate) struct WorkReceivers {
    pub(super) syncs: Receiver<SyncJob>,
    pub(super) background_tasks: Receiver<BackgroundTask>,
    pub(super) roles: Receiver<Notice>,
    /// Those of a node of a host.
    pub(super) mailboxes: Option<Mailboxes>,
}

impl Queues {
    /// For a node whose parts run on threads of its own, or on those of these mailboxes.
    pub(crate) fn new(mailboxes: Option<Mailboxes>) -> Queues {
        let Some(mailboxes) = mailboxes else {
            let (inputs, engine_inputs) = unbounded();
            let (syncs, background_tasks, roles) = (unbounded(), unbounded(), unbounded());
            return Queues::of((inputs, engine_inputs), syncs, background_tasks, roles, None);
        };
        let inputs = mailboxes.engine.queue();
        let syncs = mailboxes.sync.queue();
        let (tasks, roles) = (mailboxes.tasks.queue(), mailboxes.roles.queue());
        Queues::of(inputs, syncs, tasks, roles, Some(mailboxes))
    }

    fn of(
        inputs: (Sender<Input>, Receiver<Input>),
        syncs: (Sender<SyncJob>, Receiver<SyncJob>),
        tasks: (Sender<BackgroundTask>, Receiver<BackgroundTask>),
        roles: (Sender<Notice>, Receiver<Notice>),
        mailboxes: Option<Mailboxes>,
    ) -> Queues {
        let work = WorkSenders { syncs: syncs.0, background_tasks: tasks.0, roles: roles.0 };
        let receivers =
            WorkReceivers { syncs: syncs.1, background_tasks: tasks.1, roles: roles.1, mailboxes };
        Queues { inputs: inputs.0, engine_inputs: inputs.1, work, receivers }
    }
}
