//! Where appends queue on the leader: one short lock assigns index and position and copies the payload into the open batch.
//!
//! The gate is open while this node is leader and ready. Host threads fill the open batch; the engine takes everything there is once a turn,
//! so batches grow by themselves while a sync or a round trip is under way. Nothing here is done per entry but the copy, the checksum
//! (outside the lock) and a count on the shared completion.

mod line;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use self::line::{Line, Place, Waiting};
use crate::batch::{OpenBatch, payload_crc, payload_len};
use crate::error::AppendError;
use crate::fork::Home;
use crate::future::{AppendFuture, Completion};
use crate::primitives::{Instant, Mutex, MutexGuard};

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
    /// Who waits for room. While there is anybody, nobody else takes any.
    line: Line,
    batches: VecDeque<PendingBatch>,
    /// About as much as the largest of the last batches that were filled here took, their tables included: the next is likely to be like them, and is not
    /// copied to where there is more room while it is filled or closed.
    usual_bytes: usize,
    /// How long threads that wait for an append may spin before they sleep.
    spin: Duration,
}

/// What an append that waits adds to the queue.
enum Work {
    Entry { payload: Box<[u8]>, crc: u32 },
    Batch(OpenBatch),
}

/// What became of an append that may wait for room.
pub(crate) enum Admission {
    /// It is under way, or was refused.
    Settled(AppendFuture),
    Waits(Ticket),
}

/// A place in the line.
pub(crate) struct Ticket {
    number: u64,
    place: Arc<Place>,
}

impl Ticket {
    /// The append, once there was room for it or it was refused. `waker` is woken when it is
    /// resolved, or refused.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<AppendFuture> {
        self.place.poll(waker)
    }
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
            gate: Gate::Closed(AppendError::NotLeader { leader: None, address: None, advertised: None, refused: Box::default() }),
            next_index: 0,
            next_position: 0,
            timestamp: 0,
            in_flight: 0,
            line: Line::default(),
            batches: VecDeque::new(),
            usual_bytes: 0,
            spin: Duration::ZERO,
        };
        let (queue, doorbell) = (Mutex::new(queue), Box::new(doorbell));
        Sequencer { limits, queue, doorbell, home: Home::default() }
    }

    /// The same, for the process at home alone: its forked children append nothing.
    pub(crate) fn within(self, home: Home) -> Sequencer {
        Sequencer { home, ..self }
    }

    /// The same, whose hosts may spin for so long before they sleep.
    pub(crate) fn spinning(self, spin: Duration) -> Sequencer {
        self.queue.lock().spin = spin;
        self
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
        let (crc, cost) = match self.check(parts) {
            Ok(checked) => checked,
            Err(error) => return AppendFuture::refused(error),
        };
        let mut queue = self.queue.lock();
        if !queue.admits(cost, self.limits.window) {
            let work = || Work::Entry { payload: parts.concat().into(), crc };
            return self.wait_for_room(queue, cost, deadline, work);
        }
        queue.in_flight += cost;
        let was_empty = queue.batches.is_empty();
        let future = queue.push(parts, crc, cost, self.home);
        drop(queue);
        if was_empty {
            (self.doorbell)();
        }
        future
    }

    /// Checks what can be checked without the lock: the checksum of the payload, and what it
    /// takes of the window.
    #[inline]
    fn check(&self, parts: &[&[u8]]) -> Result<(u32, u64), AppendError> {
        let (len, limit) = (payload_len(parts) as u64, self.limits.entry);
        if len > limit {
            return Err(AppendError::TooLarge { len, limit });
        }
        if !self.home.is_here() {
            return Err(AppendError::Forked { under_way: false });
        }
        Ok((payload_crc(parts), len + ENTRY_OVERHEAD))
    }

    /// Queues one payload as soon as there is room for it, without a limit of time.
    pub(crate) fn append_when_ready(&self, payload: &[u8]) -> Admission {
        let (crc, cost) = match self.check(&[payload]) {
            Ok(checked) => checked,
            Err(error) => return Admission::Settled(AppendFuture::refused(error)),
        };
        let mut queue = self.queue.lock();
        if let Gate::Closed(error) = &queue.gate {
            return Admission::Settled(AppendFuture::refused(error.clone()));
        }
        if !queue.admits(cost, self.limits.window) {
            let (place, work) = (Arc::default(), Work::Entry { payload: payload.into(), crc });
            let number = queue.line.join(Waiting { work, cost, place: Arc::clone(&place) });
            return Admission::Waits(Ticket { number, place });
        }
        queue.in_flight += cost;
        let was_empty = queue.batches.is_empty();
        let future = queue.push(&[payload], crc, cost, self.home);
        drop(queue);
        if was_empty {
            (self.doorbell)();
        }
        Admission::Settled(future)
    }

    /// Gives up a place in the line: what has not been appended yet never is.
    pub(crate) fn leave(&self, ticket: &Ticket) {
        if !self.home.is_here() {
            return; // the place is the parent's, and so is the lock
        }
        let mut queue = self.queue.lock();
        let left = queue.line.leave(ticket.number);
        // Those behind one that takes much may find room at once.
        self.serve(queue);
        drop(left);
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
        if !queue.admits(cost, self.limits.window) {
            let future = self.wait_for_room(queue, cost, deadline, || Work::Batch(open));
            return (future, count);
        }
        queue.in_flight += cost;
        let was_empty = queue.batches.is_empty();
        let future = queue.push_batch(open, cost, self.home);
        drop(queue);
        if was_empty && count > 0 {
            (self.doorbell)();
        }
        (future, count)
    }

    /// Waits in line until the gate lets `cost` bytes pass and those before them have passed.
    #[cold]
    fn wait_for_room(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        cost: u64,
        deadline: Option<Instant>,
        work: impl FnOnce() -> Work,
    ) -> AppendFuture {
        if let Gate::Closed(error) = &queue.gate {
            return AppendFuture::refused(error.clone());
        }
        let limit = self.limits.window;
        let busy = |queue: &Queue| AppendError::Busy { in_flight: queue.in_flight, limit };
        let Some(deadline) = deadline else { return AppendFuture::refused(busy(&queue)) };
        let place = Arc::new(Place::default());
        let number = queue.line.join(Waiting { work: work(), cost, place: place.clone() });
        drop(queue);
        if let Some(future) = place.wait(Some(deadline)) {
            return future;
        }
        let mut queue = self.queue.lock();
        let left = queue.line.leave(number);
        let too_late = AppendFuture::refused(busy(&queue));
        self.serve(queue);
        match left {
            Some(_) => too_late,
            // It was served just when its time was over, or is being told so.
            None => place.wait(None).unwrap_or(too_late),
        }
    }

    /// Appends for those who wait, as far as there is room, and gives back the lock.
    fn serve(&self, mut queue: MutexGuard<'_, Queue>) {
        let was_empty = queue.batches.is_empty();
        let mut served = Vec::new();
        while let Some(cost) = queue.line.first_cost()
            && queue.has_room(cost, self.limits.window)
            && let Some(Waiting { work, cost, place }) = queue.line.pop_first()
        {
            queue.in_flight += cost;
            let future = match work {
                Work::Entry { payload, crc } => queue.push(&[&payload[..]], crc, cost, self.home),
                Work::Batch(open) => queue.push_batch(open, cost, self.home),
            };
            served.push((place, future));
        }
        let is_filled = was_empty && !queue.batches.is_empty();
        drop(queue);
        for (place, future) in served {
            place.grant(future, self.home);
        }
        if is_filled {
            (self.doorbell)();
        }
    }

    /// Opens the gate: this node leads, and the next entry goes to `index` and `position`.
    pub(crate) fn open(&self, index: u64, position: u64, timestamp: u64) {
        let mut queue = self.queue.lock();
        assert!(queue.batches.is_empty(), "closing the gate emptied the queue");
        queue.next_index = if planted!("numbers go on where they were in an earlier term") { index.max(queue.next_index) } else { index };
        queue.next_position = position;
        queue.timestamp = queue.timestamp.max(timestamp);
        queue.gate = Gate::Open;
        self.serve(queue);
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
        self.serve(queue);
    }

    /// Closes the gate. What is queued and was not taken was never proposed: it fails with `error`, certain not to be committed.
    pub(crate) fn close(&self, error: AppendError) {
        let mut queue = self.queue.lock();
        let orphans = std::mem::take(&mut queue.batches);
        if !planted!("what is queued keeps its share of the window when the gate closes") {
            queue.in_flight -= orphans.iter().map(|batch| batch.cost).sum::<u64>();
        }
        queue.gate = Gate::Closed(error.clone());
        let sent_away = queue.line.take();
        drop(queue);
        for batch in orphans.into_iter().filter(|_| !planted!("what is queued is forgotten when the gate closes")) {
            batch.completion.resolve(Err(error.clone()));
        }
        for waiting in sent_away {
            waiting.place.refuse(error.clone(), self.home);
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
    pub(crate) fn in_flight(&self) -> u64 {
        self.queue.lock().in_flight
    }

    /// Gives back what settled batches took of the window.
    pub(crate) fn release(&self, cost: u64) {
        let mut queue = self.queue.lock();
        queue.in_flight -= if planted!("the window is not given back") { 0 } else { cost };
        if !queue.line.is_empty() {
            self.serve(queue);
        }
    }
}

impl Queue {
    /// Whether an append that has just come need not wait.
    #[inline]
    fn admits(&self, cost: u64, window: u64) -> bool {
        self.has_room(cost, window) && self.line.is_empty()
    }

    /// An append larger than the whole window passes when it is alone.
    #[inline]
    fn has_room(&self, cost: u64, window: u64) -> bool {
        matches!(self.gate, Gate::Open) && (self.in_flight == 0 || self.in_flight + cost <= window)
    }

    /// Gives the next place to an entry that was admitted.
    #[inline]
    fn push(&mut self, parts: &[&[u8]], crc: u32, cost: u64, home: Home) -> AppendFuture {
        let (index, position, len) = (self.next_index, self.next_position, payload_len(parts));
        let batch = self.batch_for(len, home);
        batch.open.push_parts(parts, crc);
        batch.cost += cost;
        let completion = batch.completion.clone();
        self.next_index += 1;
        self.next_position += len as u64;
        AppendFuture::under_way(completion, index, position)
    }

    /// Gives the next places to a batch of the host that was admitted.
    fn push_batch(&mut self, open: OpenBatch, cost: u64, home: Home) -> AppendFuture {
        let (first_index, first_position) = (self.next_index, self.next_position);
        let completion = Arc::new(Completion::within(home, self.spin));
        let (count, bytes) = (u64::from(open.count()), open.payload_bytes() as u64);
        if count == 0 {
            // Nothing to commit: it holds at once, at the place where the next entry goes.
            completion.resolve(Ok(0));
            return AppendFuture::under_way(completion, first_index, first_position);
        }
        let future = AppendFuture::under_way(completion.clone(), first_index, first_position);
        let batch = PendingBatch { open, first_index, first_position, completion, cost, sealed: true };
        self.batches.push_back(batch);
        self.next_index += if planted!("a batch takes one number") { 1 } else { count };
        self.next_position += bytes;
        future
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
                completion: Arc::new(Completion::within(home, self.spin)),
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
