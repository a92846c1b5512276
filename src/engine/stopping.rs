//! The end of a node: everything that waits is resolved, and the log is closed.

use std::time::Duration;

use super::Engine;
use super::requests::{Leaving, Stopped};
use crate::error::{AppendError, BarrierError, ShutdownError, TransferError};
use crate::primitives::channel::TryRecvError;
use crate::reply::reply;
use crate::role::Role;
use crate::storage::StorageError;

impl Engine {
    /// Stops, at once or when it has handed over. Who asks meanwhile waits for the same, unless
    /// he is not to wait.
    pub(super) fn begin_stop(&mut self, hand_over: Option<Duration>, reply: Stopped) {
        let has_lead = self.replica.role_state().role == Role::Leader && self.is_at_work();
        let leaving = match (self.leaving.take(), hand_over) {
            (leaving, None) => leaving.map(Leaving::at_once),
            (None, Some(patience)) if has_lead => Some(self.plan_to_leave(patience)),
            (leaving, Some(_)) => leaving,
        };
        match leaving {
            None => {
                let outcome = self.stop();
                reply.send(outcome);
            }
            Some(mut leaving) => {
                leaving.replies.push(reply);
                self.leaving = Some(leaving);
                self.leave();
            }
        }
    }

    fn plan_to_leave(&self, patience: Duration) -> Leaving {
        let me = self.settings.replica.node;
        let voters = self.replica.membership().voters.iter().copied();
        let heirs = voters.filter(|voter| *voter != me).collect();
        Leaving { patience, heirs, asked: None, replies: Vec::new() }
    }

    /// Goes on with handing over, and stops when somebody else leads, or nobody takes over.
    pub(super) fn leave(&mut self) {
        let Some(mut leaving) = self.leaving.take() else { return };
        if !self.asks_another(&mut leaving) {
            let outcome = self.stop();
            leaving.replies.into_iter().for_each(|reply| reply.send(outcome.clone()));
        } else {
            self.leaving = Some(leaving);
        }
    }

    /// Whether somebody who was asked to take over may still do so.
    fn asks_another(&mut self, leaving: &mut Leaving) -> bool {
        loop {
            if let Some((answer, until)) = &leaving.asked {
                match answer.try_recv() {
                    Err(TryRecvError::Empty) if self.now.elapsed < *until => return true,
                    Err(TryRecvError::Empty) => {}
                    Ok(Err(TransferError::TimedOut(_) | TransferError::Superseded(_))) => {}
                    Ok(_) | Err(TryRecvError::Disconnected) => return false,
                }
            }
            let Some(heir) = leaving.heirs.pop_front() else { return false };
            let (reply, answer) = reply(self.shared.home);
            self.begin_transfer(heir, reply);
            leaving.asked = Some((answer, self.now.elapsed + leaving.patience));
        }
    }

    pub(super) fn stop(&mut self) -> Result<(), ShutdownError> {
        if self.stopped {
            return Ok(());
        }
        self.transport.stop();
        let outcome = match self.fault.clone() {
            Some(reason) => Err(ShutdownError::Failed { reason }),
            // Nothing was written that is not durable.
            None if self.stands_still() => Ok(()),
            None => self.close_storage().map_err(ShutdownError::from),
        };
        self.resolve_all(
            AppendError::Stopped,
            &AppendError::OutcomeUnknown,
            &BarrierError::Stopped,
        );
        self.refuse_transfers(&TransferError::Stopped);
        self.stopped = true;
        // Before it is said: whoever hears that the node is stopped finds nothing to wait for.
        self.shared.watermark.close();
        self.announce_absence();
        self.inform("stopped");
        outcome
    }

    /// The batches first: a commit is remembered only as far as it is durable.
    fn close_storage(&mut self) -> Result<(), StorageError> {
        self.storage.begin_sync().wait()?;
        self.storage.save_hard_state(self.replica.hard_state())?;
        self.storage.begin_sync().wait()
    }

    /// Ends every wait: of what was never proposed with `refused`, of what was proposed with
    /// `unknown`.
    pub(super) fn resolve_all(
        &mut self,
        refused: AppendError,
        unknown: &AppendError,
        barrier: &BarrierError,
    ) {
        self.shared.sequencer.close(refused);
        for batch in std::mem::take(&mut self.in_flight).into_values() {
            self.shared.sequencer.release(batch.cost);
            batch.completion.resolve(Err(unknown.clone()));
        }
        self.refuse_barriers(barrier);
        self.refuse_purges();
    }
}
