//! The queue of appends on the leader: one short lock assigns index and position and copies the
//! payload into the open batch.
//!
//! The sequencer is open while this node is leader and ready. Host threads fill the open batch; the
//! engine takes all batches once a turn, so batches grow while a sync or a round trip is pending.
//! The cost of an entry is the copy, the checksum (outside the lock) and a count on the shared
//! completion.
//!
//! All that is queued belongs to one term, the one for which the sequencer was opened, and is
//! proposed in it or not at all: an append that asks for a term is compared with it under the lock
//! that gives it its place, and the replica is told the term with each batch.

mod hook;
mod hooked;
mod line;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use self::hook::{Hooked, Payload};
use self::line::{Answer, Line, Waiting, Work};
use crate::append_hook::AppendHook;
use crate::batch::{OpenBatch, payload_crc, payload_len};
use crate::error::AppendError;
use crate::fork::Home;
use crate::future::{AppendFuture, Completion};
use crate::primitives::{Instant, Mutex, MutexGuard};

/// A batch is closed when its payloads and table reach this: large enough to make the cost per
/// batch vanish, small enough that copying it to the page cache does not delay the ones behind it.
const BATCH_TARGET_BYTES: usize = 1 << 20;

/// From so many bytes on, what is queued wakes the engine also while it holds appends back: a
/// hundred entries of 128 bytes, so that the cost per batch is small for each.
const HELD_BYTES: usize = 16 << 10;

/// The cost of an entry in the window beyond its payload, so that empty payloads are bounded too.
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
    /// The term in which it is proposed, or else not at all.
    pub(crate) term: u64,
    /// Its cost in the window, released when it is resolved.
    pub(crate) cost: u64,
}

/// See the [module](self).
pub(crate) struct Sequencer {
    limits: Limits,
    /// What the engine takes in a turn: a batch that reaches this is the last one.
    turn_bytes: u64,
    queue: Mutex<Queue>,
    /// Wakes the engine. Called whenever the queue turns from empty to not empty; if the engine
    /// holds appends back, when it turns from small to large.
    wake_engine: Box<dyn Fn() + Send + Sync>,
    hooked: Option<Box<Hooked>>,
    /// The process of the engine. A forked child would wait for the lock for ever.
    home: Home,
}

struct Queue {
    append_state: AppendState,
    /// While it is open or paused: the term in which this node leads. Else the newest term that the
    /// node has announced.
    term: u64,
    next_index: u64,
    next_position: u64,
    /// The newest timestamp of the ledger. It never decreases, also if the clock does.
    timestamp: u64,
    in_flight: u64,
    /// Appends that wait for room. While it is not empty, every new append joins it.
    line: Line,
    batches: VecDeque<PendingBatch>,
    /// About the bytes of the largest recent batch, its table included: the initial capacity of the
    /// next one, which then seldom grows by a copy.
    typical_bytes: usize,
    /// How long threads that wait for an append may spin before they sleep.
    spin: Duration,
    /// The engine takes what is small by itself in a moment: only what is large wakes it.
    held: bool,
}

/// The result of an append that may wait for room.
pub(crate) enum Admission {
    /// It is queued, or was refused.
    Settled(AppendFuture),
    Waits(Ticket),
}

/// A place in the line.
pub(crate) struct Ticket {
    number: u64,
    answer: Arc<Answer>,
}

impl Ticket {
    /// The append, once it was queued or refused. `waker` is woken when it is resolved or refused.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<AppendFuture> {
        self.answer.poll(waker)
    }
}

enum AppendState {
    Open,
    /// This node leads, but accepts no appends during a leadership transfer.
    Paused,
    Closed(AppendError),
}

/// A batch with its place in the ledger. Only the last of the queue is still filled.
struct PendingBatch {
    open: OpenBatch,
    first_index: u64,
    first_position: u64,
    completion: Arc<Completion>,
    cost: u64,
    /// An atomic batch of the host: no entry is added to it.
    is_atomic: bool,
}

impl Sequencer {
    pub(crate) fn new(limits: Limits, wake_engine: impl Fn() + Send + Sync + 'static) -> Sequencer {
        let queue = Queue {
            append_state: AppendState::Closed(AppendError::NotLeader {
                leader: None,
                address: None,
                advertised: None,
                refused: Box::default(),
            }),
            term: 0,
            next_index: 0,
            next_position: 0,
            timestamp: 0,
            in_flight: 0,
            line: Line::default(),
            batches: VecDeque::new(),
            typical_bytes: 0,
            spin: Duration::ZERO,
            held: false,
        };
        let (queue, wake_engine) = (Mutex::new(queue), Box::new(wake_engine));
        let home = Home::default();
        Sequencer { limits, turn_bytes: u64::MAX, queue, wake_engine, hooked: None, home }
    }

    /// The same, for this process alone: its forked children append nothing.
    pub(crate) fn within(self, home: Home) -> Sequencer {
        Sequencer { home, ..self }
    }

    /// The same, whose hosts may spin for so long before they sleep.
    pub(crate) fn spinning(self, spin: Duration) -> Sequencer {
        self.queue.lock().spin = spin;
        self
    }

    /// The same, whose engine takes batches of about so many bytes in a turn.
    pub(crate) fn with_turns_of(self, turn_bytes: u64) -> Sequencer {
        Sequencer { turn_bytes, ..self }
    }

    /// The same, that calls `hook` for each entry. Call this after [`within`](Self::within).
    pub(crate) fn calling(self, hook: Option<AppendHook>) -> Sequencer {
        let hooked = hook.map(|hook| Box::new(Hooked::new(hook, self.home)));
        Sequencer { hooked, ..self }
    }

    /// The same, of a node that has been in `term` when it ran last.
    pub(crate) fn in_term(self, term: u64) -> Sequencer {
        self.queue.lock().term = term;
        self
    }

    /// The process that appends.
    pub(crate) fn home(&self) -> Home {
        self.home
    }

    /// Queues one payload. If the window is full: without a `deadline` it is refused at once, with
    /// one it waits.
    pub(crate) fn append(&self, payload: &[u8], deadline: Option<Instant>) -> AppendFuture {
        self.append_fenced(&[payload], None, deadline)
    }

    /// The same with a payload in several parts, which are concatenated.
    #[inline]
    pub(crate) fn append_parts(&self, parts: &[&[u8]], deadline: Option<Instant>) -> AppendFuture {
        self.append_fenced(parts, None, deadline)
    }

    /// The same, which is appended in the term `fence` or not at all, if that is given.
    #[inline]
    pub(crate) fn append_fenced(
        &self,
        parts: &[&[u8]],
        fence: Option<u64>,
        deadline: Option<Instant>,
    ) -> AppendFuture {
        let cost = match self.check(parts) {
            Ok(cost) => cost,
            Err(error) => return AppendFuture::refused(error),
        };
        if let Some(hooked) = &self.hooked {
            return self.append_hooked(hooked, Payload::Entry(parts), cost, fence, deadline);
        }
        let crc = payload_crc(parts);
        let mut queue = self.queue.lock();
        if let Err(error) = queue.check_term(fence) {
            return AppendFuture::refused(error);
        }
        if !queue.admits(cost, self.limits.window) {
            let work = || Work::Entry { payload: parts.concat().into(), crc };
            return self.wait_for_room(queue, cost, fence, deadline, work);
        }
        queue.in_flight += cost;
        let was_empty = queue.batches.is_empty();
        let future = queue.push(parts, crc, cost, self.home);
        let wakes = queue.wakes(was_empty);
        drop(queue);
        if wakes {
            (self.wake_engine)();
        }
        future
    }

    /// Checks the limits, without the lock. Returns the cost of the payload in the window.
    #[inline]
    fn check(&self, parts: &[&[u8]]) -> Result<u64, AppendError> {
        let (len, limit) = (payload_len(parts) as u64, self.limits.entry);
        if len > limit {
            return Err(AppendError::TooLarge { len, limit });
        }
        if !self.home.is_here() {
            return Err(AppendError::Forked { under_way: false });
        }
        Ok(len + ENTRY_OVERHEAD)
    }

    /// Queues one payload as soon as there is room for it, without a timeout.
    pub(crate) fn append_when_ready(&self, payload: &[u8]) -> Admission {
        let cost = match self.check(&[payload]) {
            Ok(cost) => cost,
            Err(error) => return Admission::Settled(AppendFuture::refused(error)),
        };
        if let Some(hooked) = &self.hooked {
            return self.append_hooked_when_ready(hooked, payload, cost);
        }
        let crc = payload_crc(&[payload]);
        let mut queue = self.queue.lock();
        if let AppendState::Closed(error) = &queue.append_state {
            return Admission::Settled(AppendFuture::refused(error.clone()));
        }
        if !queue.admits(cost, self.limits.window) {
            let work = Work::Entry { payload: payload.into(), crc };
            return Admission::Waits(queue.join(work, cost, None));
        }
        queue.in_flight += cost;
        let was_empty = queue.batches.is_empty();
        let future = queue.push(&[payload], crc, cost, self.home);
        let wakes = queue.wakes(was_empty);
        drop(queue);
        if wakes {
            (self.wake_engine)();
        }
        Admission::Settled(future)
    }

    /// Leaves the line. An append that has not been queued yet never is.
    pub(crate) fn leave(&self, ticket: &Ticket) {
        if !self.home.is_here() {
            return; // the ticket and the lock are the parent's
        }
        let mut queue = self.queue.lock();
        let left = queue.line.leave(ticket.number);
        // Smaller appends behind a large one may fit now.
        self.serve(queue);
        drop(left);
    }

    /// Queues several payloads as one batch: consecutive, all or nothing. Also returns their
    /// number.
    pub(crate) fn append_batch<P: AsRef<[u8]>>(
        &self,
        payloads: impl IntoIterator<Item = P>,
        deadline: Option<Instant>,
    ) -> (AppendFuture, u64) {
        self.append_batch_fenced(payloads, None, deadline)
    }

    /// The same, in the term `fence` or not at all, if that is given.
    pub(crate) fn append_batch_fenced<P: AsRef<[u8]>>(
        &self,
        payloads: impl IntoIterator<Item = P>,
        fence: Option<u64>,
        deadline: Option<Instant>,
    ) -> (AppendFuture, u64) {
        let open = match self.collect(payloads) {
            Ok(open) => open,
            Err(error) => return (AppendFuture::refused(error), 0),
        };
        let (count, bytes) = (u64::from(open.count()), open.payload_bytes() as u64);
        let cost = bytes + count * ENTRY_OVERHEAD;
        if let Some(hooked) = &self.hooked {
            let batch = Payload::Batch(&open);
            return (self.append_hooked(hooked, batch, cost, fence, deadline), count);
        }
        let mut queue = self.queue.lock();
        if let Err(error) = queue.check_term(fence) {
            return (AppendFuture::refused(error), 0);
        }
        if !queue.admits(cost, self.limits.window) {
            let work = || Work::Batch(open);
            return (self.wait_for_room(queue, cost, fence, deadline, work), count);
        }
        queue.in_flight += cost;
        let was_empty = queue.batches.is_empty();
        let future = queue.push_batch(open, cost, self.home);
        let wakes = queue.wakes(was_empty);
        drop(queue);
        if wakes && count > 0 {
            (self.wake_engine)();
        }
        (future, count)
    }

    /// Copies the payloads of a batch, and checks the limits.
    fn collect<P: AsRef<[u8]>>(
        &self,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<OpenBatch, AppendError> {
        let mut open = OpenBatch::with_capacity(0);
        for payload in payloads {
            let payload = payload.as_ref();
            let total = open.payload_bytes() as u64
                + payload.len() as u64
                + u64::from(open.count()) * ENTRY_OVERHEAD;
            let too_large = if payload.len() as u64 > self.limits.entry {
                Some((payload.len() as u64, self.limits.entry))
            } else {
                Some((total, self.limits.batch)).filter(|_| total > self.limits.batch)
            };
            if let Some((len, limit)) = too_large {
                return Err(AppendError::TooLarge { len, limit });
            }
            // A hook may change the payload first.
            let crc = if self.hooked.is_some() { 0 } else { crc32fast::hash(payload) };
            open.push(payload, crc);
        }
        if self.home.is_here() { Ok(open) } else { Err(AppendError::Forked { under_way: false }) }
    }

    /// Waits in line until there is room for `cost` bytes and all earlier appends are queued.
    #[cold]
    fn wait_for_room(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        cost: u64,
        fence: Option<u64>,
        deadline: Option<Instant>,
        work: impl FnOnce() -> Work,
    ) -> AppendFuture {
        if let AppendState::Closed(error) = &queue.append_state {
            return AppendFuture::refused(error.clone());
        }
        let limit = self.limits.window;
        let busy = |queue: &Queue| AppendError::Busy { in_flight: queue.in_flight, limit };
        let Some(deadline) = deadline else { return AppendFuture::refused(busy(&queue)) };
        let Ticket { number, answer } = queue.join(work(), cost, fence);
        drop(queue);
        if let Some(future) = answer.wait(Some(deadline)) {
            return future;
        }
        let mut queue = self.queue.lock();
        let left = queue.line.leave(number);
        let too_late = AppendFuture::refused(busy(&queue));
        self.serve(queue);
        match left {
            Some(_) => too_late,
            // It was queued just at the deadline.
            None => answer.wait(None).unwrap_or(too_late),
        }
    }

    /// Queues the appends that wait, as far as there is room, and releases the lock.
    fn serve(&self, mut queue: MutexGuard<'_, Queue>) {
        if queue.line.is_empty() {
            return;
        }
        if let Some(hooked) = &self.hooked {
            drop(queue);
            return self.serve_hooked(hooked);
        }
        let was_empty = queue.batches.is_empty();
        let mut served = Vec::new();
        while let Some((_, first)) = queue.line.first()
            && queue.has_room(first.cost, self.limits.window)
            && let Some(Waiting { work, cost, fence, answer }) = queue.line.pop_first()
        {
            if let Err(error) = queue.check_term(fence) {
                served.push((answer, AppendFuture::refused(error)));
                continue;
            }
            queue.in_flight += cost;
            let future = match work {
                Work::Entry { payload, crc } => queue.push(&[&payload[..]], crc, cost, self.home),
                Work::Batch(open) => queue.push_batch(open, cost, self.home),
            };
            served.push((answer, future));
        }
        let wakes = !queue.batches.is_empty() && queue.wakes(was_empty);
        drop(queue);
        for (answer, future) in served {
            answer.grant(future, self.home);
        }
        if wakes {
            (self.wake_engine)();
        }
    }

    /// Opens the sequencer: this node leads in `term`, and the next entry gets `index` and
    /// `position`.
    pub(crate) fn open(&self, term: u64, index: u64, position: u64, timestamp: u64) {
        let mut queue = self.queue.lock();
        assert!(queue.batches.is_empty(), "a close empties the queue");
        queue.term = term;
        queue.next_index = index;
        queue.next_position = position;
        queue.timestamp = queue.timestamp.max(timestamp);
        queue.append_state = AppendState::Open;
        self.serve(queue);
    }

    /// Accepts no appends until it is resumed, opened or closed; those with a deadline wait. The
    /// queue stays.
    pub(crate) fn pause(&self) {
        let mut queue = self.queue.lock();
        if matches!(queue.append_state, AppendState::Open) {
            queue.append_state = AppendState::Paused;
        }
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        let mut queue = self.queue.lock();
        if matches!(queue.append_state, AppendState::Paused) {
            queue.append_state = AppendState::Open;
        }
        self.serve(queue);
    }

    /// Closes the sequencer. Batches that were not taken were never proposed: they fail with
    /// `error`, certainly not committed.
    pub(crate) fn close(&self, error: AppendError) {
        self.close_in(0, error);
    }

    /// The same, of a node that is in `term` now, or later.
    pub(crate) fn close_in(&self, term: u64, error: AppendError) {
        let mut queue = self.queue.lock();
        queue.term = queue.term.max(term);
        let term = queue.term;
        let untaken = std::mem::take(&mut queue.batches);
        queue.in_flight -= untaken.iter().map(|batch| batch.cost).sum::<u64>();
        queue.append_state = AppendState::Closed(error.clone());
        queue.held = false;
        let refused = queue.line.take();
        drop(queue);
        for batch in untaken.into_iter() {
            batch.completion.resolve(Err(error.clone()));
        }
        for waiting in refused {
            let error = passed(waiting.fence, term, &error).unwrap_or_else(|| error.clone());
            waiting.answer.refuse(error, self.home);
        }
    }

    /// Whether what is queued, if anything, is small. If so, appends do not wake the engine until
    /// they are large: it must come by itself, and hold or take them again.
    pub(crate) fn hold(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.held = queue.is_small();
        queue.held
    }

    /// Whether anything is queued for the engine.
    pub(crate) fn has_batches(&self) -> bool {
        !self.queue.lock().batches.is_empty()
    }

    /// Takes batches, as many as a turn may. `now` is the wall clock in milliseconds since 1970. If
    /// more are left, the engine is woken for them.
    pub(crate) fn take(&self, now: u64) -> Vec<ClosedBatch> {
        let (batches, term, timestamp, are_left) = {
            let mut queue = self.queue.lock();
            queue.held = false;
            if queue.batches.is_empty() {
                return Vec::new();
            }
            queue.timestamp = queue.timestamp.max(now);
            let newest = queue.batches.back().map_or(0, |batch| batch.open.closed_bytes());
            queue.typical_bytes = newest.max(queue.typical_bytes - queue.typical_bytes / 8);
            let taken = queue.take_for_a_turn(self.turn_bytes);
            (taken, queue.term, queue.timestamp, !queue.batches.is_empty())
        };
        if are_left {
            (self.wake_engine)();
        }
        batches.into_iter().map(|batch| batch.close(term, timestamp)).collect()
    }

    /// The cost in the window of all batches that are queued or not resolved.
    pub(crate) fn in_flight(&self) -> u64 {
        self.queue.lock().in_flight
    }

    /// Releases the cost of resolved batches.
    pub(crate) fn release(&self, cost: u64) {
        let mut queue = self.queue.lock();
        queue.in_flight -= cost;
        if !queue.line.is_empty() {
            self.serve(queue);
        }
    }
}

impl Queue {
    /// Whether an append that is to be appended in the term `fence`, if that is given, may be
    /// queued now or wait.
    #[inline]
    fn check_term(&self, fence: Option<u64>) -> Result<(), AppendError> {
        match (fence, &self.append_state) {
            (None, _) => Ok(()),
            (_, AppendState::Closed(error)) => {
                Err(passed(fence, self.term, error).unwrap_or_else(|| error.clone()))
            }
            (Some(wanted), _) if wanted == self.term => Ok(()),
            (Some(wanted), _) => Err(AppendError::WrongTerm { wanted, term: self.term }),
        }
    }

    /// Adds an append to the line.
    fn join(&mut self, work: Work, cost: u64, fence: Option<u64>) -> Ticket {
        let answer = Arc::new(Answer::default());
        let number = self.line.join(Waiting { work, cost, fence, answer: answer.clone() });
        Ticket { number, answer }
    }

    /// Whether a new append need not wait.
    #[inline]
    fn admits(&self, cost: u64, window: u64) -> bool {
        self.has_room(cost, window) && self.line.is_empty()
    }

    /// The first batches, of `bytes` at least if there is so much.
    fn take_for_a_turn(&mut self, bytes: u64) -> VecDeque<PendingBatch> {
        let mut taken = 0;
        let enough = self.batches.iter().position(|batch| {
            taken += batch.open.closed_bytes() as u64;
            taken >= bytes
        });
        let rest = enough.map_or_else(VecDeque::new, |last| self.batches.split_off(last + 1));
        std::mem::replace(&mut self.batches, rest)
    }

    /// An append larger than the whole window passes when it is alone.
    #[inline]
    fn has_room(&self, cost: u64, window: u64) -> bool {
        matches!(self.append_state, AppendState::Open)
            && (self.in_flight == 0 || self.in_flight + cost <= window)
    }

    /// Whether the engine must be woken for what was queued just now.
    #[inline]
    fn wakes(&mut self, was_empty: bool) -> bool {
        if self.held {
            self.held = self.is_small();
            return !self.held;
        }
        was_empty
    }

    #[inline]
    fn is_small(&self) -> bool {
        let open = self.batches.front().map_or(0, |batch| batch.open.closed_bytes());
        self.batches.len() <= 1 && open < HELD_BYTES
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
        AppendFuture::pending(completion, index, position)
    }

    /// Gives the next places to a batch of the host that was admitted.
    fn push_batch(&mut self, open: OpenBatch, cost: u64, home: Home) -> AppendFuture {
        let (first_index, first_position) = (self.next_index, self.next_position);
        let completion = Arc::new(Completion::within(home, self.spin));
        let (count, bytes) = (u64::from(open.count()), open.payload_bytes() as u64);
        if count == 0 {
            // Nothing to commit: it holds at once, at the place where the next entry goes.
            completion.resolve(Ok(0));
            return AppendFuture::pending(completion, first_index, first_position);
        }
        let future = AppendFuture::pending(completion.clone(), first_index, first_position);
        let batch =
            PendingBatch { open, first_index, first_position, completion, cost, is_atomic: true };
        self.batches.push_back(batch);
        self.next_index += count;
        self.next_position += bytes;
        future
    }

    /// The open batch, or a new one if `bytes` more would make it too large.
    fn batch_for(&mut self, bytes: usize, home: Home) -> &mut PendingBatch {
        let fits = self.batches.back().is_some_and(|batch| {
            !batch.is_atomic && batch.open.closed_bytes() + bytes <= BATCH_TARGET_BYTES
        });
        if !fits {
            let likely = self.typical_bytes.min(2 * BATCH_TARGET_BYTES).max(bytes);
            self.batches.push_back(PendingBatch {
                open: OpenBatch::with_capacity(likely),
                first_index: self.next_index,
                first_position: self.next_position,
                completion: Arc::new(Completion::within(home, self.spin)),
                cost: 0,
                is_atomic: false,
            });
        }
        self.batches.back_mut().expect("pushed if there was none")
    }
}

/// The error of an append for the term `fence` on a node that does not lead, and is in `term`: that
/// the term has passed, which is for good, rather than that another node leads. A node that is
/// stopped or failed says so.
fn passed(fence: Option<u64>, term: u64, refusal: &AppendError) -> Option<AppendError> {
    let leads_elsewhere =
        matches!(refusal, AppendError::NotLeader { .. } | AppendError::StorageFull { .. });
    let wanted = fence.filter(|wanted| *wanted < term && leads_elsewhere)?;
    Some(AppendError::WrongTerm { wanted, term })
}

impl PendingBatch {
    fn close(self, term: u64, timestamp: u64) -> ClosedBatch {
        self.completion.set_timestamp(timestamp);
        ClosedBatch {
            term,
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

#[cfg(all(test, not(loom)))]
mod hook_tests;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
