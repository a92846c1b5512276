//! Shutdown of a node: every wait is resolved, and the log is closed.

use std::time::Duration;

use super::Engine;
use super::requests::{PendingStop, Stopped};
use crate::error::{AppendError, BarrierError, ShutdownError, TransferError};
use crate::primitives::channel::TryRecvError;
use crate::reply::reply;
use crate::role::Role;
use crate::storage::StorageError;

impl Engine {
    /// Stops, at once or after a handover. Later calls wait for the same shutdown, unless they ask
    /// for no handover.
    pub(super) fn begin_stop(&mut self, hand_over: Option<Duration>, reply: Stopped) {
        let has_lead = self.replica.role_state().role == Role::Leader && self.is_active();
        let stopping = match (self.stopping.take(), hand_over) {
            (stopping, None) => stopping.map(PendingStop::without_handover),
            (None, Some(timeout)) if has_lead => Some(self.plan_stop(timeout)),
            (stopping, Some(_)) => stopping,
        };
        match stopping {
            None => {
                let outcome = self.stop();
                reply.send(outcome);
            }
            Some(mut stopping) => {
                stopping.replies.push(reply);
                self.stopping = Some(stopping);
                self.continue_stop();
            }
        }
    }

    fn plan_stop(&self, timeout: Duration) -> PendingStop {
        let me = self.settings.replica.node;
        let voters = self.replica.membership().voters.iter().copied();
        let successors = voters.filter(|voter| *voter != me).collect();
        PendingStop { timeout, successors, asked: None, replies: Vec::new() }
    }

    /// Continues the handover. Stops once another node leads, or none takes over.
    pub(super) fn continue_stop(&mut self) {
        let Some(mut stopping) = self.stopping.take() else { return };
        if !self.awaits_successor(&mut stopping) {
            let outcome = self.stop();
            stopping.replies.into_iter().for_each(|reply| reply.send(outcome.clone()));
        } else {
            self.stopping = Some(stopping);
        }
    }

    /// Whether a voter that was asked may still take over.
    fn awaits_successor(&mut self, stopping: &mut PendingStop) -> bool {
        loop {
            if let Some((answer, until)) = &stopping.asked {
                match answer.try_recv() {
                    Err(TryRecvError::Empty) if self.now.elapsed < *until => return true,
                    Err(TryRecvError::Empty) => {}
                    Ok(Err(TransferError::TimedOut(_) | TransferError::Superseded(_))) => {}
                    Ok(_) | Err(TryRecvError::Disconnected) => return false,
                }
            }
            let Some(successor) = stopping.successors.pop_front() else { return false };
            let (reply, answer) = reply(self.shared.home);
            self.begin_transfer(successor, reply);
            stopping.asked = Some((answer, self.now.elapsed + stopping.timeout));
        }
    }

    pub(super) fn stop(&mut self) -> Result<(), ShutdownError> {
        if self.stopped {
            return Ok(());
        }
        self.transport.stop();
        let outcome = match self.fault.clone() {
            Some(reason) => Err(ShutdownError::Failed { reason }),
            // All writes are durable.
            None if self.is_suspended() => Ok(()),
            None => self.close_storage().map_err(ShutdownError::from),
        };
        self.resolve_all(
            AppendError::Stopped,
            &AppendError::OutcomeUnknown,
            &BarrierError::Stopped,
        );
        self.refuse_transfers(&TransferError::Stopped);
        self.stopped = true;
        self.permit.give_back();
        // First the watermark: observers of the stop then find nothing to wait for.
        self.shared.watermark.close();
        self.announce_absence();
        self.inform("stopped");
        outcome
    }

    /// Syncs the batches first: the stored commit must not be ahead of the durable log.
    fn close_storage(&mut self) -> Result<(), StorageError> {
        self.storage.begin_sync().wait()?;
        match self.save_group_uid() {
            Err(error) if !error.is_temporary() => return Err(error),
            _ => {} // what was not saved is learned again
        }
        self.storage.save_hard_state(self.replica.hard_state())?;
        self.storage.begin_sync().wait()
    }

    /// Resolves every wait: appends that were not proposed with `refused`, proposals with
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
