//! Appends on a node with an append hook.
//!
//! An entry learns its place before the hook is called, and has it only afterwards: the hook may
//! take its time or panic, and the place must then be as free as before. So one lock is held from
//! the one to the other, and makes places go to one entry after the other. The queue is not locked
//! while the hook runs: the engine takes batches, ends the leadership and releases the window
//! meanwhile, and hosts read the status. What the engine did is looked at afterwards: if the place
//! is no longer the next one, the payload that the hook changed is dropped, and everything begins
//! anew with that of the host.
//!
//! Lock order: the places before the queue.

use super::hook::{Changed, Hooked, Payload, fill};
use super::line::Work;
use super::{Admission, AppendState, Queue, Sequencer};
use crate::append_hook::{Place, is_in_hook};
use crate::error::AppendError;
use crate::fork::Home;
use crate::future::AppendFuture;
use crate::primitives::{Instant, MutexGuard};

impl Sequencer {
    /// Queues the payload of a host. If there is no room, it waits as
    /// [`wait_for_room`](Self::wait_for_room) does.
    pub(super) fn append_hooked(
        &self,
        hooked: &Hooked,
        payload: Payload<'_>,
        cost: u64,
        fence: Option<u64>,
        deadline: Option<Instant>,
    ) -> AppendFuture {
        self.place_or(hooked, payload, cost, fence, |queue| {
            self.wait_for_room(queue, cost, fence, deadline, || payload.to_work())
        })
    }

    /// Queues one payload as soon as there is room for it.
    pub(super) fn append_hooked_when_ready(
        &self,
        hooked: &Hooked,
        payload: &[u8],
        cost: u64,
    ) -> Admission {
        let (parts, mut ticket) = ([payload], None);
        let payload = Payload::Entry(&parts);
        let settled = self.place_or(hooked, payload, cost, None, |mut queue| {
            if let AppendState::Closed(error) = &queue.append_state {
                return AppendFuture::refused(error.clone());
            }
            ticket = Some(queue.join(payload.to_work(), cost, None));
            // It is not the future that counts.
            AppendFuture::refused(AppendError::Stopped)
        });
        ticket.map_or(Admission::Settled(settled), Admission::Waits)
    }

    /// Queues the payload, or goes on with `otherwise` if it is not admitted.
    fn place_or(
        &self,
        hooked: &Hooked,
        payload: Payload<'_>,
        cost: u64,
        fence: Option<u64>,
        otherwise: impl FnOnce(MutexGuard<'_, Queue>) -> AppendFuture,
    ) -> AppendFuture {
        if is_in_hook() {
            return AppendFuture::refused(AppendError::CalledFromWaker { under_way: false });
        }
        let mut buffer = hooked.lock_places();
        loop {
            let queue = self.queue.lock();
            if let Err(error) = queue.check_term(fence) {
                return AppendFuture::refused(error);
            }
            if !queue.admits(cost, self.limits.window) {
                drop(buffer);
                return otherwise(queue);
            }
            let place = queue.next_place();
            drop(queue);
            let changed = match hooked.change(&place, payload, &mut buffer) {
                Ok(changed) => changed,
                Err(error) => return AppendFuture::refused(error),
            };
            let mut queue = self.queue.lock();
            if queue.next_place() == place && queue.admits(cost, self.limits.window) {
                let (future, wakes) = queue.push_changed(changed, &buffer, cost, self.home);
                drop(queue);
                drop(buffer);
                if wakes {
                    (self.wake_engine)();
                }
                return future;
            }
        }
    }

    /// Queues the appends that wait, as far as there is room. Each stays in the line while the hook
    /// runs for it, so that it is refused with the others if the leadership ends.
    pub(super) fn serve_hooked(&self, hooked: &Hooked) {
        if is_in_hook() {
            // A hook has dropped an append that waited, and what is behind it may fit now. It did
            // not fit when this one was the first, so something is under way, and its end comes
            // back here.
            return;
        }
        let (mut served, mut buffer) = (Vec::new(), hooked.lock_places());
        loop {
            let mut queue = self.queue.lock();
            let Some((number, waiting)) = queue.line.first() else { break };
            if !queue.has_room(waiting.cost, self.limits.window) {
                break;
            }
            let place = queue.next_place();
            let batch = match &waiting.work {
                Work::Entry { payload, .. } => {
                    fill(&mut buffer, &[payload]);
                    None
                }
                Work::Batch(open) => Some(open.clone()),
            };
            if let Err(error) = queue.check_term(waiting.fence) {
                let left = queue.line.leave(number);
                served.extend(left.map(|left| (left.answer, AppendFuture::refused(error))));
                continue;
            }
            drop(queue);
            let changed = match batch {
                Some(open) => hooked.change_batch(&place, open),
                None => hooked.change_entry(&place, &mut buffer),
            };
            let mut queue = self.queue.lock();
            let cost = match queue.line.first() {
                Some((first, waiting)) if first == number => waiting.cost,
                _ => continue,
            };
            if queue.next_place() != place || !queue.has_room(cost, self.limits.window) {
                continue;
            }
            let Some(waiting) = queue.line.pop_first() else { continue };
            let (future, wakes) = match changed {
                Ok(changed) => queue.push_changed(changed, &buffer, cost, self.home),
                Err(error) => (AppendFuture::refused(error), false),
            };
            drop(queue);
            if wakes {
                (self.wake_engine)();
            }
            served.push((waiting.answer, future));
        }
        drop(buffer);
        for (answer, future) in served {
            answer.grant(future, self.home);
        }
    }
}

impl Queue {
    /// The place of the next entry.
    fn next_place(&self) -> Place {
        Place { index: self.next_index, position: self.next_position, term: self.term }
    }

    /// Gives the next places to what the hook was called for. Also returns whether the engine must
    /// be woken.
    fn push_changed(
        &mut self,
        changed: Changed,
        buffer: &[u8],
        cost: u64,
        home: Home,
    ) -> (AppendFuture, bool) {
        self.in_flight += cost;
        let was_empty = self.batches.is_empty();
        let future = match changed {
            Changed::Entry { crc } => self.push(&[buffer], crc, cost, home),
            Changed::Batch(open) => self.push_batch(open, cost, home),
        };
        let wakes = !self.batches.is_empty() && self.wakes(was_empty);
        (future, wakes)
    }
}
