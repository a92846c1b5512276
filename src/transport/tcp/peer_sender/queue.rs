//! What waits for one peer: what is to be said of slots, and the messages of all groups.
//!
//! Urgent messages of all groups go first, in order. Beats, which are most of them while groups are
//! idle, are gathered for a few milliseconds, if there are several groups. Bulk goes in rounds of
//! [`ROUND_BYTES`]: groups take turns. A group whose slot is not accepted keeps its messages until
//! it is.
//!
//! Bounds: [`QUEUE_BYTES_MAX`] of bulk, and [`QUEUE_MESSAGES_MAX`] messages of each kind, for all
//! groups together; of that at most half for one group while others wait, and always one message
//! for a group that has none. So the sum exceeds a bound by one message at most.
//!
//! It has no clock: the caller passes the time. The simulation of hosts runs it too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::Socket;

use crate::entry::NodeId;
use crate::message::Beat;
use crate::primitives::Instant;
use crate::transport::Message;
use crate::transport::frame::{self, Frames, Kind, PARTIAL_MESSAGES_MAX, WHOLE_BYTES_MAX, beats};
use crate::transport::hello::{ProcessId, slots};
use crate::transport::tcp::local_group::LocalGroup;

/// Bytes and messages that may wait for one peer. Beyond that, messages to it are dropped.
pub(crate) const QUEUE_BYTES_MAX: usize = 64 << 20;
pub(crate) const QUEUE_MESSAGES_MAX: usize = 8192;
/// Introductions that wait for an answer at the same time.
const UNANSWERED_MAX: usize = 64;
/// Bulk bytes between two checks for urgent messages. One frame more at most.
const ROUND_BYTES: usize = 64 << 10;
/// Beats of several groups are gathered for this long: those of one tick of a host.
const GATHER_TIME: Duration = Duration::from_millis(5);
/// Beats that are gathered at most.
const GATHERED_MAX: usize = 1024;
/// The shortest pause between two introductions of a group.
const INTRODUCTION_PAUSE: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(crate) struct Queue {
    /// The unwritten part of a frame. It goes before all else.
    pub(crate) rest: Bytes,
    /// Introductions and withdrawals. They go next.
    control: Vec<Bytes>,
    /// Urgent messages of accepted slots, and how often they were handed over.
    urgent: Vec<(u32, Message)>,
    /// Heartbeats and answers to them, and when they are to go.
    beats: Vec<(u32, Beat)>,
    beats_due: Option<Instant>,
    handovers: u64,
    groups: BTreeMap<u64, GroupQueue>,
    /// The groups of the slots that were introduced on this connection, and have not ended.
    slots: BTreeMap<u32, u64>,
    last_slot: u32,
    /// When which group is to be introduced.
    introductions: BTreeSet<(Instant, u64)>,
    /// Introductions that wait for an answer.
    unanswered: usize,
    /// The groups that have bulk for an accepted slot, but for the one that is being written.
    turns: VecDeque<u64>,
    in_work: Option<InWork>,
    /// The encoded length of all bulk that waits or is being written.
    pub(crate) bytes: usize,
    bulk_messages: usize,
    /// Urgent messages of groups whose slots are not accepted.
    waiting_urgent: usize,
    /// The bulk messages that go in pieces and are begun: how many, and their length.
    partial: (usize, usize),
    /// The thread is writing or probing.
    pub(crate) is_busy: bool,
    /// A caller waits for a sign of life.
    pub(crate) is_probe_urgent: bool,
    /// The number of probes that heard the peer.
    pub(crate) times_heard: u64,
    /// The socket of the connection, or of the attempt, for other threads to close.
    pub(crate) socket: Option<Socket>,
    /// The process of the peer at the other end, once the handshake has succeeded.
    pub(crate) connected_to: Option<u64>,
    /// A group of this process was introduced by the peer since the last attempt to connect.
    pub(crate) is_seen: bool,
    /// The peer has another process than the one at the other end.
    pub(crate) is_replaced: bool,
    pub(crate) stopped: bool,
}

/// The bulk that is being written.
struct InWork {
    group: u64,
    slot: u32,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Closed,
    Introduced(u32),
    /// With the process of the peer, as the hello of the group names it.
    Accepted(u32, ProcessId),
}

struct GroupQueue {
    group: Arc<LocalGroup>,
    slot: Slot,
    /// Urgent messages, while the slot is not accepted.
    urgent: Vec<Message>,
    /// Its messages in `Queue::urgent`, if that was handed over so often.
    handed: (u64, usize),
    bulk: VecDeque<Message>,
    /// The message that is written in part.
    partial: Option<Partial>,
    /// That message, to compare others with.
    current: Option<Message>,
    /// The encoded length of its bulk that waits or is being written.
    bytes: usize,
    /// It is in `Queue::turns`, or its bulk is being written.
    has_turn: bool,
    /// The pause before the next introduction.
    pause: Duration,
    /// The connection and the process of the peer that introduced this group last.
    seen: Option<(u64, ProcessId)>,
    /// The group knows that the peer is not reached.
    knows: bool,
    /// Since when the peer has no such group.
    absent: Option<Instant>,
}

/// The unwritten frames of a bulk message, and the length of the message.
struct Partial {
    frames: Frames,
    len: usize,
}

/// Messages taken from the queue, to be written.
#[derive(Default)]
pub(crate) struct Work {
    rest: Bytes,
    control: Vec<Bytes>,
    urgent: Vec<(u32, Message)>,
    beats: Vec<(u32, Beat)>,
    /// The slot of the bulk.
    slot: u32,
    partial: Option<Partial>,
    /// The bulk after it.
    bulk: VecDeque<Message>,
    /// The messages in pieces whose last piece is written: how many, and their length.
    ended: (usize, usize),
}

impl Work {
    /// Puts all that is urgent, and bulk up to the length of a round or a frame more.
    pub(crate) fn put_next_round(&mut self, parts: &mut Vec<Bytes>) {
        if !self.rest.is_empty() {
            parts.push(std::mem::take(&mut self.rest));
        }
        parts.append(&mut self.control);
        if !self.beats.is_empty() {
            parts.push(beats::frames(&self.beats).into());
            self.beats.clear();
        }
        for (slot, message) in self.urgent.drain(..) {
            let mut frames = Frames::of(slot, message.encode());
            while frames.next(parts).is_some() {}
        }
        let mut round = 0;
        while round < ROUND_BYTES {
            let slot = self.slot;
            let begin = |message: Message| Partial {
                len: message.encoded_len(),
                frames: Frames::of(slot, message.encode()),
            };
            let next = self.partial.take().or_else(|| self.bulk.pop_front().map(begin));
            let Some(mut next) = next else { break };
            round += next.frames.next(parts).unwrap_or(0);
            if next.frames.is_empty() && next.len > WHOLE_BYTES_MAX {
                self.ended = (self.ended.0 + 1, self.ended.1 + next.len);
            }
            self.partial = Some(next).filter(|next| !next.frames.is_empty());
        }
    }

    /// The bulk that is not written, or not all of it.
    fn left(&self) -> usize {
        let bulk: usize = self.bulk.iter().map(Message::encoded_len).sum();
        bulk + self.partial.as_ref().map_or(0, |partial| partial.len)
    }
}

/// Groups.
impl Queue {
    pub(crate) fn has_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    pub(crate) fn join(&mut self, group: &Arc<LocalGroup>, now: Instant) {
        self.introductions.insert((now, group.number));
        self.groups.insert(group.number, GroupQueue::new(group.clone()));
    }

    pub(crate) fn leave(&mut self, number: u64) {
        self.end_slot(number, &[]);
        self.groups.remove(&number);
        self.introductions.retain(|(_, other)| *other != number);
    }

    /// The accepted slot of a group.
    pub(crate) fn accepted(&self, number: u64) -> Option<(u32, ProcessId)> {
        match self.groups.get(&number)?.slot {
            Slot::Accepted(slot, process) => Some((slot, process)),
            _ => None,
        }
    }

    /// The group of a slot on this connection.
    pub(crate) fn group_of(&self, slot: u32) -> Option<Arc<LocalGroup>> {
        Some(self.groups.get(self.slots.get(&slot)?)?.group.clone())
    }

    /// Whether that slot waits for an answer.
    pub(crate) fn is_introduced(&self, slot: u32) -> bool {
        let queue = self.slots.get(&slot).and_then(|number| self.groups.get(number));
        queue.is_some_and(|queue| queue.slot == Slot::Introduced(slot))
    }

    /// Whether introductions wait for an answer.
    pub(crate) fn awaits_answers(&self) -> bool {
        self.unanswered > 0
    }

    /// When the next group is to be introduced, if more introductions may be made.
    pub(crate) fn next_introduction(&self) -> Option<Instant> {
        let (at, _) = self.introductions.first()?;
        Some(*at).filter(|_| self.unanswered < UNANSWERED_MAX)
    }

    /// Introduces the groups that are due. Returns whether there were any.
    pub(crate) fn introduce(&mut self, peer: NodeId, now: Instant) -> bool {
        let before = self.last_slot;
        while self.next_introduction().is_some_and(|at| at <= now)
            && let Some((_, number)) = self.introductions.pop_first()
        {
            let Some(queue) = self.groups.get_mut(&number) else { continue };
            // A connection lasts less long than its slots: each takes some microseconds.
            self.last_slot += 1;
            queue.slot = Slot::Introduced(self.last_slot);
            let hello = queue.group.registry.lock().hello_to(peer);
            let content = slots::with_hello(self.last_slot, &hello);
            self.control.push(frame::encode(Kind::Introduction, content).into());
            self.slots.insert(self.last_slot, number);
            self.unanswered += 1;
        }
        self.last_slot > before
    }

    /// The peer has accepted a slot. Returns false if that slot has ended.
    pub(crate) fn accept(&mut self, slot: u32, process: ProcessId) -> bool {
        let Some(&number) = self.slots.get(&slot) else { return false };
        let Some(queue) = self.groups.get_mut(&number) else { return false };
        if queue.slot != Slot::Introduced(slot) {
            return false;
        }
        self.unanswered -= 1;
        queue.slot = Slot::Accepted(slot, process);
        (queue.pause, queue.knows, queue.absent) = (INTRODUCTION_PAUSE, false, None);
        queue.handed = (self.handovers, queue.urgent.len());
        self.waiting_urgent -= queue.urgent.len();
        self.urgent.extend(queue.urgent.drain(..).map(|message| (slot, message)));
        if !queue.bulk.is_empty() {
            queue.has_turn = true;
            self.turns.push_back(number);
        }
        if self.is_elsewhere(number) == Some(true) {
            self.is_replaced = true;
        }
        true
    }

    /// The peer has introduced a group, from that connection and process.
    pub(crate) fn see(&mut self, number: u64, connection: u64, process: ProcessId, now: Instant) {
        self.is_seen = true;
        let Some(queue) = self.groups.get_mut(&number) else { return };
        queue.seen = Some((connection, process));
        if queue.slot == Slot::Closed {
            self.introduce_at(number, now);
        }
        match self.is_elsewhere(number) {
            Some(true) => self.is_replaced = true,
            Some(false) => self.introduce_again(number, now),
            None => {}
        }
    }

    /// Forgets which processes the peer has shown, before an attempt to connect.
    pub(crate) fn look_away(&mut self) {
        self.is_seen = false;
        self.groups.values_mut().for_each(|queue| queue.seen = None);
    }

    /// Whether the process that introduced a group last is not the one that its slot leads to:
    /// true if it has a connection of its own, so that this one is to be replaced; false if the
    /// group was opened again in the process at the other end, so that it gets another slot.
    fn is_elsewhere(&self, number: u64) -> Option<bool> {
        let queue = self.groups.get(&number)?;
        let (Slot::Accepted(_, process), Some((connection, seen))) = (queue.slot, queue.seen)
        else {
            return None;
        };
        Some(self.connected_to != Some(connection)).filter(|_| process != seen)
    }

    /// The group speaks with another identity from now on: ends its slot and asks for another one.
    pub(crate) fn introduce_again(&mut self, number: u64, now: Instant) {
        self.end_slot(number, &[]);
        self.introduce_at(number, now);
    }

    fn introduce_at(&mut self, number: u64, at: Instant) {
        self.introductions.retain(|(_, other)| *other != number);
        self.introductions.insert((at, number));
    }

    /// Ends the slot of a group: drops its messages, and withdraws the slot, for the reason in
    /// `refusal`, if any. Returns whether there were messages.
    fn end_slot(&mut self, number: u64, refusal: &[u8]) -> bool {
        let Some(queue) = self.groups.get_mut(&number) else { return false };
        let slot = match std::mem::replace(&mut queue.slot, Slot::Closed) {
            Slot::Closed => None,
            Slot::Introduced(slot) => {
                self.unanswered -= 1;
                Some(slot)
            }
            Slot::Accepted(slot, _) => Some(slot),
        };
        let had_messages = self.drop_messages(number, slot);
        if let Some(slot) = slot {
            self.slots.remove(&slot);
            let content = slots::with_bytes(slot, refusal);
            self.control.push(frame::encode(Kind::Withdrawal, content).into());
        }
        had_messages
    }

    /// Drops the messages of a group. Those that are being written are given back later.
    fn drop_messages(&mut self, number: u64, slot: Option<u32>) -> bool {
        let Some(queue) = self.groups.get_mut(&number) else { return false };
        let in_work = self.in_work.as_ref().filter(|work| Some(work.slot) == slot);
        let before = self.urgent.len();
        if let Some(slot) = slot {
            self.beats.retain(|(other, _)| *other != slot);
        }
        if slot.is_some() && queue.handed.0 == self.handovers && queue.handed.1 > 0 {
            self.urgent.retain(|(other, _)| Some(*other) != slot);
        }
        let had_messages =
            before > self.urgent.len() || !queue.urgent.is_empty() || queue.bytes > 0;
        self.bytes -= queue.bytes - in_work.map_or(0, |work| work.bytes);
        self.bulk_messages -= queue.bulk.len();
        self.waiting_urgent -= queue.urgent.len();
        if let Some(partial) = queue.partial.take() {
            self.partial = (self.partial.0 - 1, self.partial.1 - partial.len);
        }
        if std::mem::take(&mut queue.has_turn) {
            self.turns.retain(|other| *other != number);
        }
        queue.bulk.clear();
        queue.urgent.clear();
        (queue.bytes, queue.current, queue.handed) = (0, None, (0, 0));
        had_messages
    }

    /// The peer has declined or given up a slot, or is refused, for the reason in `refusal`. Its
    /// group is introduced again after a pause, which grows to `pause_max`: `retry_at` says when.
    /// Returns whether the group does not know yet that it does not reach the peer.
    pub(crate) fn close_slot(
        &mut self,
        slot: u32,
        refusal: &[u8],
        pause_max: Duration,
        retry_at: impl FnOnce(Duration) -> Instant,
    ) -> bool {
        let Some(&number) = self.slots.get(&slot) else { return false };
        let had_messages = self.end_slot(number, refusal);
        let Some(queue) = self.groups.get_mut(&number) else { return false };
        let pause = queue.pause;
        queue.pause = (pause * 2).min(pause_max);
        let is_news = !std::mem::replace(&mut queue.knows, true);
        self.introduce_at(number, retry_at(pause));
        had_messages || is_news
    }

    /// Since when the peer has had no group of that slot.
    pub(crate) fn note_absence(&mut self, slot: u32, now: Instant) -> Option<Duration> {
        let queue = self.groups.get_mut(self.slots.get(&slot)?)?;
        Some(now.saturating_duration_since(*queue.absent.get_or_insert(now)))
    }

    /// The connection is lost: ends all slots, and drops all that waits. Returns the groups that do
    /// not know yet that they do not reach the peer.
    pub(crate) fn reset(&mut self, now: Instant) -> Vec<Arc<LocalGroup>> {
        let mut news = Vec::new();
        for queue in self.groups.values_mut() {
            let had_messages = !queue.urgent.is_empty() || queue.bytes > 0;
            if had_messages || !queue.knows {
                news.push(queue.group.clone());
            }
            let (group, seen, absent) = (queue.group.clone(), queue.seen, queue.absent);
            *queue = GroupQueue { seen, absent, knows: true, ..GroupQueue::new(group) };
        }
        *self = Queue {
            introductions: self.groups.keys().map(|number| (now, *number)).collect(),
            groups: std::mem::take(&mut self.groups),
            is_seen: self.is_seen,
            times_heard: self.times_heard,
            stopped: self.stopped,
            ..Queue::default()
        };
        news
    }
}

impl GroupQueue {
    fn new(group: Arc<LocalGroup>) -> GroupQueue {
        GroupQueue {
            group,
            slot: Slot::Closed,
            urgent: Vec::new(),
            handed: (0, 0),
            bulk: VecDeque::new(),
            partial: None,
            current: None,
            bytes: 0,
            has_turn: false,
            pause: INTRODUCTION_PAUSE,
            seen: None,
            knows: false,
            absent: None,
        }
    }

    /// How many urgent messages of it wait.
    fn urgent(&self, handovers: u64) -> usize {
        let (at, count) = self.handed;
        self.urgent.len() + if at == handovers { count } else { 0 }
    }
}

/// Messages.
impl Queue {
    /// Whether there is room for a message of a group.
    pub(crate) fn has_room(&self, number: u64, is_urgent: bool, len: usize) -> bool {
        let Some(queue) = self.groups.get(&number) else { return false };
        if is_urgent {
            let all = self.urgent.len() + self.beats.len() + self.waiting_urgent;
            return has_room(queue.urgent(self.handovers), all, 1, QUEUE_MESSAGES_MAX);
        }
        has_room(queue.bytes, self.bytes, len, QUEUE_BYTES_MAX)
            && has_room(queue.bulk.len(), self.bulk_messages, 1, QUEUE_MESSAGES_MAX)
    }

    /// Whether the queue holds all batches of this message: Raft repeats an append at each
    /// heartbeat response, and on a slow connection the copies would pile up.
    pub(crate) fn holds(&self, number: u64, message: &Message) -> bool {
        let Some(queue) = self.groups.get(&number) else { return false };
        queue.current.iter().chain(&queue.bulk).any(|waiting| waiting.is_repeated_by(message))
    }

    /// Whether a message waits a moment for others of its kind: a beat, if there are several
    /// groups.
    pub(crate) fn gathers(&self, message: &Message) -> Option<Beat> {
        if self.groups.len() > 1 { message.beat() } else { None }
    }

    /// Adds a beat for an accepted slot. Returns whether the thread that writes is to be woken.
    pub(crate) fn put_beat(&mut self, slot: u32, beat: Beat, now: Instant) -> bool {
        self.beats.push((slot, beat));
        let due = if self.beats.len() < GATHERED_MAX { now + GATHER_TIME } else { now };
        let is_sooner = self.beats_due.is_none_or(|before| due < before);
        if is_sooner {
            self.beats_due = Some(due);
        }
        is_sooner
    }

    /// Has the gathered beats go at once if one of them is of that slot: what is sent after it must
    /// not overtake it. Returns whether one is.
    pub(crate) fn hurry_beats(&mut self, slot: u32, now: Instant) -> bool {
        let is_behind = self.beats.iter().any(|(other, _)| *other == slot);
        if is_behind {
            self.beats_due = Some(now);
        }
        is_behind
    }

    /// When the gathered beats are to go.
    pub(crate) fn beats_due(&self) -> Option<Instant> {
        self.beats_due
    }

    /// Adds a message of `len` bytes. Returns whether the thread that writes is to be woken.
    pub(crate) fn put(&mut self, number: u64, message: Message, len: usize) -> bool {
        let Some(queue) = self.groups.get_mut(&number) else { return false };
        if !message.is_urgent() {
            (queue.bytes, self.bytes) = (queue.bytes + len, self.bytes + len);
            queue.bulk.push_back(message);
            self.bulk_messages += 1;
            let is_accepted = matches!(queue.slot, Slot::Accepted(..));
            let is_new = is_accepted && !std::mem::replace(&mut queue.has_turn, is_accepted);
            if is_new {
                self.turns.push_back(number);
            }
            return is_new;
        }
        match queue.slot {
            Slot::Accepted(slot, _) => {
                let before = queue.urgent(self.handovers);
                queue.handed = (self.handovers, before + 1);
                self.urgent.push((slot, message));
                self.urgent.len() == 1
            }
            _ => {
                queue.urgent.push(message);
                self.waiting_urgent += 1;
                false
            }
        }
    }

    /// Hands over all that is urgent, and bulk of the next group for a round.
    pub(crate) fn give(&mut self, work: &mut Work, now: Instant, message_bytes_max: usize) {
        work.rest = std::mem::take(&mut self.rest);
        std::mem::swap(&mut self.control, &mut work.control);
        std::mem::swap(&mut self.urgent, &mut work.urgent);
        if self.beats_due.is_some_and(|due| due <= now) {
            std::mem::swap(&mut self.beats, &mut work.beats);
            self.beats_due = None;
        }
        self.handovers += 1;
        for _ in 0..self.turns.len() {
            let Some(number) = self.turns.pop_front() else { return };
            if self.give_bulk(number, work, message_bytes_max) {
                return;
            }
            // Its next message must wait until those of others that are begun are written.
            self.turns.push_back(number);
        }
    }

    fn give_bulk(&mut self, number: u64, work: &mut Work, message_bytes_max: usize) -> bool {
        let Some(queue) = self.groups.get_mut(&number) else { return true };
        let Slot::Accepted(slot, _) = queue.slot else { return true };
        work.slot = slot;
        work.partial = queue.partial.take();
        let mut given = work.partial.as_ref().map_or(0, |partial| partial.frames.left());
        while given < ROUND_BYTES
            && let Some(next) = queue.bulk.front()
        {
            let (len, (count, bytes)) = (next.encoded_len(), self.partial);
            if len > WHOLE_BYTES_MAX {
                let fits = bytes + len <= message_bytes_max && count < PARTIAL_MESSAGES_MAX;
                if !fits && count > 0 {
                    break;
                }
                self.partial = (count + 1, bytes + len);
                queue.current = Some(next.clone());
            }
            given += len;
            self.bulk_messages -= 1;
            work.bulk.extend(queue.bulk.pop_front());
        }
        self.in_work = Some(InWork { group: number, slot, bytes: work.left() })
            .filter(|_| work.partial.is_some() || !work.bulk.is_empty());
        self.in_work.is_some()
    }

    /// Takes back what is not written of the last round.
    pub(crate) fn take_back(&mut self, work: &mut Work) {
        let Some(InWork { group, slot, bytes }) = self.in_work.take() else { return };
        debug_assert!(work.bulk.is_empty(), "a round begins all that was given for it");
        work.bulk.clear();
        let (partial, mut ended) = (work.partial.take(), std::mem::take(&mut work.ended));
        let left = partial.as_ref().map_or(0, |partial| partial.len);
        let is_here =
            |queue: &&mut GroupQueue| matches!(queue.slot, Slot::Accepted(own, _) if own == slot);
        match self.groups.get_mut(&group).filter(is_here) {
            Some(queue) => {
                (queue.bytes, self.bytes) = (queue.bytes + left - bytes, self.bytes + left - bytes);
                queue.current = queue.current.take().filter(|_| partial.is_some());
                queue.partial = partial;
                queue.has_turn = queue.partial.is_some() || !queue.bulk.is_empty();
                if queue.has_turn {
                    self.turns.push_back(group);
                }
            }
            None => {
                self.bytes -= bytes;
                if let Some(partial) = partial {
                    ended = (ended.0 + 1, ended.1 + partial.len);
                }
            }
        }
        self.partial = (self.partial.0 - ended.0, self.partial.1 - ended.1);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
            && self.control.is_empty()
            && self.urgent.is_empty()
            && self.turns.is_empty()
    }

    /// Whether there is a connection and its thread has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_busy && self.is_empty() && self.connected_to.is_some() && !self.is_replaced
    }

    pub(crate) fn close_connection(&self) {
        if let Some(socket) = &self.socket {
            // Fails if the peer has closed it first: nothing is left to do then.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Whether a group that has `own` of `all` gets room for more, of `max`.
fn has_room(own: usize, all: usize, more: usize, max: usize) -> bool {
    if all + more <= max {
        return own == 0 || own == all || own + more <= max / 2;
    }
    all == 0 || own == 0 && all <= max
}
