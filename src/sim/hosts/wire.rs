//! Simulated connections: two streams of bytes that keep their order, as on TCP.

use std::collections::VecDeque;

use bytes::Bytes;

use super::super::time::Micros;
use super::event::Way;
use crate::transport::frame::{Frame, FrameError, FrameReader};
use crate::transport::hello::slots::ConnectionHello;
use crate::transport::tcp::InboundSlots;

/// The longest message, for all readers.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// One end of a connection: a process of a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) host: usize,
    pub(super) process: u64,
    pub(super) is_closed: bool,
}

/// One direction.
#[derive(Default)]
pub(super) struct Stream {
    /// What is under way, and when it arrives. `None` is the end.
    parts: VecDeque<(Micros, Option<Bytes>)>,
    last_arrival: Micros,
    pub(super) bytes: usize,
}

impl Stream {
    /// Sends a part that arrives at `arrival`, or after what was sent before. Returns when.
    pub(super) fn send(&mut self, arrival: Micros, part: Option<Bytes>) -> Micros {
        let arrival = arrival.max(self.last_arrival);
        self.last_arrival = arrival;
        self.bytes += part.as_ref().map_or(0, Bytes::len);
        self.parts.push_back((arrival, part));
        arrival
    }

    /// The next part, if it has arrived.
    pub(super) fn take(&mut self, now: Micros) -> Option<Option<Bytes>> {
        let (arrival, _) = self.parts.front()?;
        if *arrival > now {
            return None;
        }
        let (_, part) = self.parts.pop_front()?;
        self.bytes -= part.as_ref().map_or(0, Bytes::len);
        Some(part)
    }

    /// All that is under way is lost.
    pub(super) fn lose(&mut self) {
        self.parts.clear();
        self.bytes = 0;
    }
}

/// See the [module](self).
pub(super) struct Connection {
    pub(super) dialler: End,
    pub(super) acceptor: End,
    pub(super) forward: Stream,
    pub(super) back: Stream,
    /// What the acceptor reads, and which groups have slots there.
    pub(super) reader: FrameReader,
    pub(super) slots: InboundSlots,
    /// The hello of the dialler, once it was read.
    pub(super) hello: Option<ConnectionHello>,
    /// When the acceptor has read something last, and when it said so.
    pub(super) heard: Micros,
    pub(super) ponged: Micros,
    pub(super) is_silent: bool,
    /// What the dialler reads, and when it has read something last.
    pub(super) answers: FrameReader,
    pub(super) answered: Micros,
    /// Something was sent on it that ends it.
    pub(super) may_break: bool,
}

impl Connection {
    pub(super) fn new(now: Micros, dialler: End, acceptor: End) -> Connection {
        let reader = || {
            let mut reader = FrameReader::new();
            reader.set_len_max(MESSAGE_BYTES_MAX);
            reader
        };
        Connection {
            dialler,
            acceptor,
            forward: Stream::default(),
            back: Stream::default(),
            reader: reader(),
            slots: InboundSlots::default(),
            hello: None,
            heard: now,
            ponged: now,
            is_silent: false,
            answers: reader(),
            answered: now,
            may_break: false,
        }
    }

    /// The end that sends this way, and the one that reads.
    pub(super) fn ends(&self, way: Way) -> (End, End) {
        match way {
            Way::Forward => (self.dialler, self.acceptor),
            Way::Back => (self.acceptor, self.dialler),
        }
    }

    pub(super) fn stream(&mut self, way: Way) -> &mut Stream {
        match way {
            Way::Forward => &mut self.forward,
            Way::Back => &mut self.back,
        }
    }

    /// Reads the frames in a part.
    pub(super) fn read(&mut self, way: Way, part: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let reader = match way {
            Way::Forward => &mut self.reader,
            Way::Back => &mut self.answers,
        };
        let (mut frames, mut source) = (Vec::new(), part);
        loop {
            while let Some(frame) = reader.next()? {
                frames.push(frame);
            }
            if source.is_empty() {
                return Ok(frames);
            }
            reader.read_from(&mut source).expect("it is read from memory");
        }
    }

    /// Whether a process has an open end here.
    pub(super) fn is_open_at(&self, host: usize, process: u64) -> bool {
        let is_there = |end: &End| end.host == host && end.process == process && !end.is_closed;
        is_there(&self.dialler) || is_there(&self.acceptor)
    }
}
