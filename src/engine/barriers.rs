//! Barriers that hosts wait for.

use std::time::Duration;

use super::Engine;
use super::requests::{Answer, PendingBarrier};
use crate::error::BarrierError;

impl Engine {
    pub(super) fn begin_barrier(&mut self, id: u64, timeout: Option<Duration>, reply: Answer) {
        match &self.fault {
            _ if self.stopped => reply.send(Err(BarrierError::Stopped)),
            Some(reason) => reply.send(Err(BarrierError::Failed { reason: reason.clone() })),
            None => {
                let limit = timeout.map(|timeout| (self.now.elapsed, timeout));
                self.barriers.insert(id, PendingBarrier { limit, reply });
                self.replica.handle_barrier(id);
            }
        }
    }

    /// The caller no longer waits.
    pub(super) fn forget_barrier(&mut self, id: u64) {
        self.barriers.remove(&id);
        self.replica.forget_barrier(id);
    }

    pub(super) fn answer_barriers(&mut self, ids: &[u64]) {
        let end = self.shared.watermark.end();
        for id in ids {
            if let Some(barrier) = self.barriers.remove(id) {
                barrier.reply.send(Ok(end));
            }
        }
    }

    /// Resolves barriers that have timed out. The engine does it, since a task has no clock.
    pub(super) fn expire_barriers(&mut self) {
        let now = self.now.elapsed;
        let is_late = |_: &u64, barrier: &mut PendingBarrier| match barrier.limit {
            Some((since, timeout)) => now >= since.saturating_add(timeout),
            None => false,
        };
        for (id, barrier) in self.barriers.extract_if(is_late).collect::<Vec<_>>() {
            self.replica.forget_barrier(id);
            let (_, timeout) = barrier.limit.unwrap_or_default();
            barrier.reply.send(Err(self.shared.barrier_timed_out(timeout)));
        }
    }

    /// Resolves all barriers with `error`.
    pub(super) fn refuse_barriers(&mut self, error: &BarrierError) {
        for barrier in std::mem::take(&mut self.barriers).into_values() {
            barrier.reply.send(Err(error.clone()));
        }
    }
}
