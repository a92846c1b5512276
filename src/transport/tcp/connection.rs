//! An inbound connection: its stream, its peer after the handshake, the groups that have a slot on
//! it, and whether it is open.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::inbound_slots::{InboundSlots, InvalidSlot};
use super::local_group::LocalGroup;
use super::stream::write_frame;
use crate::entry::NodeId;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::primitives::{Condvar, Instant, Mutex, OnceLock};
use crate::transport::frame::{self, Kind};
use crate::transport::hello::Hello;
use crate::transport::hello::slots::ConnectionHello;

/// A peer that has answered a ping is not asked again for this long: all its groups come at once.
const ANSWER_COUNTS: Duration = Duration::from_millis(250);
/// While one connection waits for the answer of another one, its own peer hears of it so often.
const WAIT_INTERVAL: Duration = Duration::from_millis(250);

/// Shared by the thread that reads from it and by all that may close or ping it.
pub(super) struct InboundConnection {
    pub(super) stream: TcpStream,
    /// Set by the handshake.
    hello: OnceLock<ConnectionHello>,
    slots: Mutex<InboundSlots>,
    /// Whether there are slots that the peer is to be told of.
    has_given_up: AtomicBool,
    closed: AtomicBool,
    /// Nothing was read for a while.
    is_silent: AtomicBool,
    /// Held while a frame is written.
    writing: Mutex<()>,
    answers: Mutex<Answers>,
    /// Notified by each pong, and by the close.
    changed: Condvar,
}

/// The pings that the peer has answered.
#[derive(Default)]
struct Answers {
    /// The highest number of them.
    number: u64,
    /// The number of the last ping, and when it was sent.
    asked: (u64, Option<Instant>),
    /// When the last answered one was sent.
    alive: Option<Instant>,
}

impl InboundConnection {
    pub(super) fn new(stream: TcpStream) -> InboundConnection {
        InboundConnection {
            stream,
            hello: OnceLock::new(),
            slots: Mutex::default(),
            has_given_up: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            writing: Mutex::default(),
            answers: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The handshake succeeded: the connection is that of the process that sent `hello`.
    pub(super) fn identify(&self, hello: &ConnectionHello) {
        let _ = self.hello.set(*hello);
    }

    pub(super) fn is_from(&self, peer: NodeId) -> bool {
        self.hello.get().is_some_and(|hello| hello.from == peer)
    }

    /// The node of the peer, after the handshake.
    pub(super) fn peer(&self) -> Option<NodeId> {
        self.hello.get().map(|hello| hello.from)
    }

    /// The process of the peer, as the hello of the connection names it. 0 before the handshake.
    pub(super) fn process(&self) -> u64 {
        self.hello.get().map_or(0, |hello| hello.process)
    }

    /// Whether a group has a slot here for another process of the node that sent `hello`.
    pub(super) fn is_rival_of(&self, group: &LocalGroup, hello: &Hello) -> bool {
        self.is_from(hello.from) && self.slots.lock().is_other(group.number, hello.nonce)
    }

    /// The peer introduces a group with this slot: see [`InboundSlots::introduce`].
    pub(super) fn introduce(&self, slot: u32) -> Result<(), InvalidSlot> {
        self.slots.lock().introduce(slot)
    }

    /// The peer has introduced `group`, and was accepted.
    pub(super) fn accept(&self, slot: u32, group: &Arc<LocalGroup>, hello: &Hello) {
        self.slots.lock().accept(slot, group, hello.nonce);
    }

    /// The group of an accepted slot: see [`InboundSlots::group`].
    pub(super) fn group(&self, slot: u32) -> Option<Arc<LocalGroup>> {
        self.slots.lock().group(slot)
    }

    /// The group that a message of this slot is for: see [`InboundSlots::receiver`].
    pub(super) fn receiver(&self, slot: u32) -> Result<Option<Arc<LocalGroup>>, InvalidSlot> {
        self.slots.lock().receiver(slot)
    }

    /// Whether that peer is heard here for a group.
    pub(super) fn carries(&self, peer: NodeId, group: u64) -> bool {
        self.is_from(peer)
            && !self.is_closed()
            && !self.is_silent.load(Ordering::SeqCst)
            && self.slots.lock().has(group)
    }

    /// Sets whether nothing was read for a while. Returns whether that was different before.
    pub(super) fn set_silent(&self, is_silent: bool) -> bool {
        self.is_silent.swap(is_silent, Ordering::SeqCst) != is_silent
    }

    /// The groups of the accepted slots.
    pub(super) fn groups(&self) -> Vec<Arc<LocalGroup>> {
        self.slots.lock().groups()
    }

    /// How many slots are accepted.
    pub(super) fn slots(&self) -> usize {
        self.slots.lock().len()
    }

    /// Ends a slot: the peer knows, or is told now.
    pub(super) fn remove(&self, slot: u32) {
        self.slots.lock().remove(slot);
    }

    /// Ends the slot of a group, if it has one. The thread that reads tells the peer.
    pub(super) fn give_up(&self, group: u64) -> bool {
        let mut slots = self.slots.lock();
        let is_given_up = slots.give_up(group);
        if is_given_up {
            self.has_given_up.store(true, Ordering::Relaxed);
        }
        is_given_up
    }

    /// The slots that the peer is to be told of.
    pub(super) fn take_given_up(&self) -> Vec<u32> {
        if !self.has_given_up.swap(false, Ordering::Relaxed) {
            return Vec::new();
        }
        self.slots.lock().take_given_up()
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Fails if the peer has closed it first: nothing is left to do then.
        let _ = self.stream.shutdown(Shutdown::Both);
        let _answers = self.answers.lock();
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether the peer is alive: sends a ping whose number is new, and waits for its pong. Older
    /// bytes of a process that has ended do not answer it. Calls `meanwhile` now and then.
    pub(super) fn is_alive(&self, number: u64, deadline: Instant, meanwhile: impl Fn()) -> bool {
        if self.is_closed() {
            return false;
        }
        {
            let (mut answers, now) = (self.answers.lock(), Instant::now());
            if answers.alive.is_some_and(|at| now.saturating_duration_since(at) < ANSWER_COUNTS) {
                return true;
            }
            answers.asked = (number, Some(now));
        }
        if self.write_frame(&frame::numbered(Kind::Ping, number)).is_err() {
            return false;
        }
        let mut answers = self.answers.lock();
        while answers.number < number && !self.is_closed() {
            let next = deadline.min(Instant::now() + WAIT_INTERVAL);
            if self.changed.wait_until(&mut answers, next).timed_out() {
                if next == deadline {
                    break;
                }
                drop(answers);
                meanwhile();
                answers = self.answers.lock();
            }
        }
        answers.number >= number && !self.is_closed()
    }

    /// The peer has answered the ping of that number.
    pub(super) fn handle_pong(&self, number: Option<u64>) {
        let mut answers = self.answers.lock();
        answers.number = number.unwrap_or(0).max(answers.number);
        if number == Some(answers.asked.0) {
            answers.alive = answers.asked.1.or(answers.alive);
        }
        self.changed.notify_all();
    }

    pub(super) fn write_frame(&self, frame: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock();
        write_frame(&self.stream, frame)
    }
}
