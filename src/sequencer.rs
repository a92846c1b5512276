//! Where appends queue on the leader: one short lock assigns index and position and copies the payload into the open batch.
//!
//! The gate is open while this node is leader and ready. Host threads fill the open batch; the engine takes everything there is once a turn,
//! so batches grow by themselves while a sync or a round trip is under way. Nothing here is done per entry but the copy, the checksum
//! (outside the lock) and a count on the shared completion.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{OpenBatch, payload_crc, payload_len};
use crate::error::AppendError;
use crate::fork::Home;
use crate::future::{AppendFuture, Completion};
use crate::primitives::{Condvar, Instant, Mutex, MutexGuard};

/// A batch is closed when its payloads and table reach this: large enough to make the cost per batch vanish, small enough that copying it
/// to the page cache does not delay the ones behind it.
const BATCH_BYTES: usize = 1 << 20;

/// What an entry counts in the window beyond its payload, so that empty payloads are bounded as well.
pub(crate) const ENTRY_OVERHEAD: u64 = 32;

/// The limits that the builder sets, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) entry: u64,
    pub(crate) batch: u64,
    pub(crate) window: u64,
}

/// A closed batch on its way to the replica.
pub(crate) struct ClosedBatch {
    pub(crate) body: Bytes,
    pub(crate) completion: Arc<Completion>,
    /// What it takes of the window, given back when it is settled.
    pub(crate) cost: u64,
}

/// See the [module](self).
pub(crate) struct Sequencer {
    limits: Limits,
    queue: Mutex<Queue>,
    /// Signalled when bytes leave the window or the gate moves.
    room: Condvar,
    /// Wakes the engine. Called once for each time that the queue turns from empty to not empty.
    doorbell: Box<dyn Fn() + Send + Sync>,
    /// Where there is an engine, and somebody who gives back the lock.
    home: Home,
}

struct Queue {
    gate: Gate,
    next_index: u64,
    next_position: u64,
    /// The newest timestamp of the ledger: a clock that steps back does not take it along.
    timestamp: u64,
    in_flight: u64,
    /// Threads that wait for room. While there are any, the window is given out in the order of their wake.
    waiters: usize,
    batches: VecDeque<PendingBatch>,
    /// About as much as the largest of the last batches that were filled here took, their tables included: the next is likely to be like them, and is not
    /// copied to where there is more room while it is filled or closed.
    usual_bytes: usize,
}

enum Gate {
    Open,
    /// This node leads, but takes nothing for a moment: it is handing over.
    Paused,
    Closed(AppendError),
}

/// A batch with its place in the ledger. Only the last of the queue is still being filled.
struct PendingBatch {
    open: OpenBatch,
    first_index: u64,
    first_position: u64,
    completion: Arc<Completion>,
    cost: u64,
    /// An atomic batch of the host: nothing is added to it.
    sealed: bool,
}

impl Sequencer {
    pub(crate) fn new(limits: Limits, doorbell: impl Fn() + Send + Sync + 'static) -> Sequencer {
        let queue = Queue {
            gate: Gate::Closed(AppendError::NotLeader { leader: None, address: None, refused: Vec::new() }),
            next_index: 0,
            next_position: 0,
            timestamp: 0,
            in_flight: 0,
            waiters: 0,
            batches: VecDeque::new(),
            usual_bytes: 0,
        };
        Sequencer { limits, queue: Mutex::new(queue), room: Condvar::new(), doorbell: Box::new(doorbell), home: Home::default() }
    }

    /// The same, for the process at home alone: its forked children append nothing.
    pub(crate) fn within(self, home: Home) -> Sequencer {
        Sequencer { home, ..self }
    }

    /// The process that appends.
    pub(crate) fn home(&self) -> Home {
        self.home
    }

    /// Queues one payload. Without a `deadline` a full window is refused at once; with one it is waited for.
    pub(crate) fn append(&self, payload: &[u8], deadline: Option<Instant>) -> AppendFuture {
        self.append_parts(&[payload], deadline)
    }

    /// The same with a payload in several parts, which are copied one behind the other.
    #[inline]
    pub(crate) fn append_parts(&self, parts: &[&[u8]], deadline: Option<Instant>) -> AppendFuture {
        let len = payload_len(parts);
        if len as u64 > self.limits.entry {
            let too_large = AppendError::TooLarge { len: len as u64, limit: self.limits.entry };
            return AppendFuture::refused(too_large);
        }
        if !self.home.is_here() {
            return AppendFuture::refused(AppendError::Forked { under_way: false });
        }
        let crc = payload_crc(parts);
        let cost = len as u64 + ENTRY_OVERHEAD;
        let mut queue = self.queue.lock();
        if let Err(error) = self.admit(&mut queue, cost, deadline) {
            return AppendFuture::refused(error);
        }
        let was_empty = queue.batches.is_empty();
        let (index, position) = (queue.next_index, queue.next_position);
        let batch = queue.batch_for(len, self.home);
        batch.open.push_parts(parts, crc);
        batch.cost += cost;
        let completion = batch.completion.clone();
        queue.next_index += 1;
        queue.next_position += len as u64;
        drop(queue);
        if was_empty {
            (self.doorbell)();
        }
        AppendFuture::under_way(completion, index, position)
    }

    /// Queues several payloads as one batch: consecutive, all or nothing. Says how many there were.
    pub(crate) fn append_batch<P: AsRef<[u8]>>(
        &self,
        payloads: impl IntoIterator<Item = P>,
        deadline: Option<Instant>,
    ) -> (AppendFuture, u64) {
        let mut open = OpenBatch::with_capacity(0);
        for payload in payloads {
            let payload = payload.as_ref();
            let total = open.payload_bytes() as u64 + payload.len() as u64 + u64::from(open.count()) * ENTRY_OVERHEAD;
            let too_large = if payload.len() as u64 > self.limits.entry {
                Some((payload.len() as u64, self.limits.entry))
            } else {
                Some((total, self.limits.batch)).filter(|_| total > self.limits.batch)
            };
            if let Some((len, limit)) = too_large {
                return (AppendFuture::refused(AppendError::TooLarge { len, limit }), 0);
            }
            open.push(payload, crc32fast::hash(payload));
        }
        if !self.home.is_here() {
            return (AppendFuture::refused(AppendError::Forked { under_way: false }), 0);
        }
        let (count, bytes) = (u64::from(open.count()), open.payload_bytes() as u64);
        let cost = bytes + count * ENTRY_OVERHEAD;
        let mut queue = self.queue.lock();
        if let Err(error) = self.admit(&mut queue, cost, deadline) {
            return (AppendFuture::refused(error), 0);
        }
        let (first_index, first_position) = (queue.next_index, queue.next_position);
        let completion = Arc::new(Completion::within(self.home));
        if count == 0 {
            // Nothing to commit: it holds at once, at the place where the next entry goes. It has
            // no term and no time.
            completion.resolve(Ok(0));
            return (AppendFuture::under_way(completion, first_index, first_position), 0);
        }
        let was_empty = queue.batches.is_empty();
        queue.batches.push_back(PendingBatch { open, first_index, first_position, completion: completion.clone(), cost, sealed: true });
        queue.next_index += if planted!("a batch takes one number") { 1 } else { count };
        queue.next_position += bytes;
        drop(queue);
        if was_empty {
            (self.doorbell)();
        }
        (AppendFuture::under_way(completion, first_index, first_position), count)
    }

    /// Passes the gate and takes `cost` bytes of the window. An append larger than the whole window passes when it is alone.
    #[inline]
    fn admit(&self, queue: &mut MutexGuard<'_, Queue>, cost: u64, deadline: Option<Instant>) -> Result<(), AppendError> {
        if !queue.has_room(cost, self.limits.window) {
            self.await_room(queue, cost, deadline)?;
        }
        queue.in_flight += cost;
        Ok(())
    }

    /// Waits until the gate lets `cost` bytes pass.
    #[cold]
    fn await_room(&self, queue: &mut MutexGuard<'_, Queue>, cost: u64, deadline: Option<Instant>) -> Result<(), AppendError> {
        while !queue.has_room(cost, self.limits.window) {
            if let Gate::Closed(error) = &queue.gate {
                return Err(error.clone());
            }
            let busy = AppendError::Busy { in_flight: queue.in_flight, limit: self.limits.window };
            let Some(deadline) = deadline else { return Err(busy) };
            queue.waiters += 1;
            let timed_out = self.room.wait_until(queue, deadline).timed_out();
            queue.waiters -= 1;
            if timed_out {
                return Err(busy);
            }
        }
        Ok(())
    }

    /// Opens the gate: this node leads, and the next entry goes to `index` and `position`.
    pub(crate) fn open(&self, index: u64, position: u64, timestamp: u64) {
        let mut queue = self.queue.lock();
        assert!(queue.batches.is_empty(), "closing the gate emptied the queue");
        queue.next_index = if planted!("numbers go on where they were in an earlier term") { index.max(queue.next_index) } else { index };
        queue.next_position = position;
        queue.timestamp = queue.timestamp.max(timestamp);
        queue.gate = Gate::Open;
        drop(queue);
        self.room.notify_all();
    }

    /// Takes nothing more until the gate is opened again or closed; who can wait waits. What is queued stays to be taken.
    pub(crate) fn pause(&self) {
        let mut queue = self.queue.lock();
        if matches!(queue.gate, Gate::Open) {
            queue.gate = Gate::Paused;
        }
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        let mut queue = self.queue.lock();
        if matches!(queue.gate, Gate::Paused) && !planted!("appends stay paused after a transfer") {
            queue.gate = Gate::Open;
        }
        drop(queue);
        self.room.notify_all();
    }

    /// Closes the gate. What is queued and was not taken was never proposed: it fails with `error`, certain not to be committed.
    pub(crate) fn close(&self, error: AppendError) {
        let mut queue = self.queue.lock();
        let orphans = std::mem::take(&mut queue.batches);
        if !planted!("what is queued keeps its share of the window when the gate closes") {
            queue.in_flight -= orphans.iter().map(|batch| batch.cost).sum::<u64>();
        }
        queue.gate = Gate::Closed(error.clone());
        drop(queue);
        self.room.notify_all();
        for batch in orphans.into_iter().filter(|_| !planted!("what is queued is forgotten when the gate closes")) {
            batch.completion.resolve(Err(error.clone()));
        }
    }

    /// Takes all that is queued. `now` is the wall clock in milliseconds since 1970.
    pub(crate) fn take(&self, now: u64) -> Vec<ClosedBatch> {
        let (batches, timestamp) = {
            let mut queue = self.queue.lock();
            if queue.batches.is_empty() {
                return Vec::new();
            }
            queue.timestamp = if planted!("timestamps follow a clock that steps back") { now } else { queue.timestamp.max(now) };
            let newest = queue.batches.back().map_or(0, |batch| batch.open.closed_bytes());
            queue.usual_bytes = newest.max(queue.usual_bytes - queue.usual_bytes / 8);
            (std::mem::take(&mut queue.batches), queue.timestamp)
        };
        batches.into_iter().map(|batch| batch.close(timestamp)).collect()
    }

    /// What queued and unsettled batches take of the window.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn in_flight(&self) -> u64 {
        self.queue.lock().in_flight
    }

    /// Gives back what settled batches took of the window.
    pub(crate) fn release(&self, cost: u64) {
        let mut queue = self.queue.lock();
        queue.in_flight -= if planted!("the window is not given back") { 0 } else { cost };
        let wake = queue.waiters > 0;
        drop(queue);
        if wake {
            self.room.notify_all();
        }
    }
}

impl Queue {
    fn has_room(&self, cost: u64, window: u64) -> bool {
        matches!(self.gate, Gate::Open) && (self.in_flight == 0 || self.in_flight + cost <= window)
    }

    /// The open batch, or a new one if `bytes` more would make it too large.
    fn batch_for(&mut self, bytes: usize, home: Home) -> &mut PendingBatch {
        let fits = self.batches.back().is_some_and(|batch| !batch.sealed && batch.open.closed_bytes() + bytes <= BATCH_BYTES);
        if !fits {
            let likely = self.usual_bytes.min(2 * BATCH_BYTES).max(bytes);
            self.batches.push_back(PendingBatch {
                open: OpenBatch::with_capacity(likely),
                first_index: self.next_index,
                first_position: self.next_position,
                completion: Arc::new(Completion::within(home)),
                cost: 0,
                sealed: false,
            });
        }
        self.batches.back_mut().expect("pushed if there was none")
    }
}

impl PendingBatch {
    fn close(self, timestamp: u64) -> ClosedBatch {
        self.completion.set_timestamp(timestamp);
        ClosedBatch {
            body: self.open.close(self.first_index, self.first_position, timestamp),
            completion: self.completion,
            cost: self.cost,
        }
    }
}

impl std::fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequencer").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod exhaustive;
#[cfg(all(test, not(loom)))]
mod tests;
