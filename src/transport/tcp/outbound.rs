//! An outbound connection: writes frames, reads what the peer says of their slots, and probes
//! whether the peer is alive.
//!
//! The peer answers what it reads with a pong, at most four a second, and this node writes at least
//! twice a second. A connection without a pong for two seconds is closed: its packets are lost, or
//! the process at the other end stands still. A slow one is kept: as long as bytes arrive there,
//! pongs come back.

use std::io::{self, IoSlice, Read};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;

use super::stream::{PROBE_INTERVAL, is_timeout};
use crate::primitives::Instant;
use crate::transport::frame::{self, Frame, FrameReader, Kind};

/// After so many probes without a pong the peer counts as gone.
const UNANSWERED_MAX: u32 = 4;
/// The interval of probes while a caller waits for a sign of life, and how long that lasts.
const URGENT_PROBES: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(2));
/// While an answer is due, this is the pause between two looks for it: the first and the longest.
const ANSWER_POLLS: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(25));
/// Answers that are read before they are handled. More wait unread.
const ANSWERS_MAX: usize = 256;
/// The most pieces that one system call takes.
const IOV_MAX: usize = 1024;
/// A ping with a number other than 0 is answered at once.
const AT_ONCE: u64 = 1;

#[derive(Debug)]
pub(super) struct Outbound {
    stream: TcpStream,
    reader: FrameReader,
    next_probe: Instant,
    /// The probes without a pong, and when they were last counted.
    counted: Instant,
    unanswered: u32,
    urgent_until: Option<Instant>,
    /// The number of a ping that is to be answered.
    ping: Option<u64>,
    refusal: Option<Bytes>,
    /// What the peer said of slots.
    answers: Vec<Frame>,
    /// The next look for an answer that is due, and the pause before it.
    next_poll: Option<(Instant, Duration)>,
}

impl Outbound {
    /// `reader` has read the hello of the peer.
    pub(super) fn new(stream: TcpStream, reader: FrameReader) -> io::Result<Outbound> {
        // Systems without a non-blocking receive wait for this long.
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        let now = Instant::now();
        Ok(Outbound {
            stream,
            reader,
            next_probe: now + PROBE_INTERVAL,
            counted: now,
            unanswered: 0,
            urgent_until: None,
            ping: None,
            refusal: None,
            answers: Vec::new(),
            next_poll: None,
        })
    }

    pub(super) fn next_probe(&self) -> Instant {
        self.next_probe
    }

    /// When to look for an answer that is due.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        self.next_poll.map(|(next, _)| next)
    }

    /// An answer is due: looks for it soon.
    pub(super) fn expect_answers(&mut self) {
        self.next_poll = Some((Instant::now() + ANSWER_POLLS.0, ANSWER_POLLS.0));
    }

    /// No answer is due any more, or one still is: looks for it later.
    pub(super) fn expect_more(&mut self, is_due: bool) {
        self.next_poll = self.next_poll.filter(|_| is_due).map(|(_, pause)| {
            let pause = (pause * 2).min(ANSWER_POLLS.1);
            (Instant::now() + pause, pause)
        });
    }

    /// What the peer has said of slots, as far as it was read.
    pub(super) fn take_answers(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.answers)
    }

    /// A caller waits for a sign of life: probes more often for a while.
    pub(super) fn probe_urgently(&mut self) {
        let now = Instant::now();
        (self.next_probe, self.urgent_until) = (now, Some(now + URGENT_PROBES.1));
    }

    /// The rejection that the peer sent on the open connection.
    pub(super) fn refusal(&self) -> Option<Bytes> {
        self.refusal.clone()
    }

    /// Writes all of `parts`. Blocks as long as the peer is alive.
    pub(super) fn write(&mut self, parts: &[Bytes]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = rest.len().min(IOV_MAX);
            match write_parts(&self.stream, &rest[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => drop(self.probe()?),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what the peer has sent, and counts the silence. Returns whether there was anything.
    ///
    /// # Errors
    /// If the peer has closed the connection, rejected this node, or was silent for too long.
    pub(super) fn probe(&mut self) -> io::Result<bool> {
        let has_heard = self.read_ready()?;
        self.count(has_heard)?;
        Ok(has_heard)
    }

    /// Reads what the peer has sent, without waiting for it. Returns whether there was anything.
    ///
    /// # Errors
    /// If the peer has closed the connection, or rejected this node.
    pub(super) fn read_ready(&mut self) -> io::Result<bool> {
        let mut has_heard = false;
        loop {
            while self.answers.len() < ANSWERS_MAX
                && let Some(frame) = self.reader.next()?
            {
                has_heard = true;
                self.handle(frame)?;
            }
            if has_heard {
                (self.unanswered, self.counted) = (0, Instant::now());
            }
            if self.answers.len() >= ANSWERS_MAX {
                return Ok(has_heard);
            }
            match self.reader.read_from(&mut Ready(&self.stream)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Ok(has_heard),
                Err(error) => return Err(error),
            }
        }
    }

    fn handle(&mut self, frame: Frame) -> io::Result<()> {
        match frame.kind {
            Kind::Pong => {}
            Kind::Ping => self.ping = frame.number(),
            Kind::Acceptance | Kind::Decline | Kind::Withdrawal => self.answers.push(frame),
            Kind::Refusal => {
                self.refusal = Some(frame.content);
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(())
    }

    fn count(&mut self, has_heard: bool) -> io::Result<()> {
        let now = Instant::now();
        if has_heard {
            (self.unanswered, self.counted, self.urgent_until) = (0, now, None);
        } else if now.saturating_duration_since(self.counted) >= PROBE_INTERVAL {
            // Elapsed time alone proves nothing: this process may have been suspended.
            (self.unanswered, self.counted) = (self.unanswered + 1, now);
        }
        if self.unanswered >= UNANSWERED_MAX {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it has not answered for two seconds",
            ));
        }
        self.urgent_until = self.urgent_until.filter(|until| now < *until);
        self.next_probe = now + self.urgent_until.map_or(PROBE_INTERVAL, |_| URGENT_PROBES.0);
        Ok(())
    }

    /// Answers a ping of the peer, and sends one. The peer takes silence as a sign that this node
    /// is down, so it is sent also if other frames were written meanwhile.
    pub(super) fn pong_and_ping(&mut self) -> io::Result<()> {
        let mut parts = Vec::new();
        if let Some(number) = self.ping.take() {
            parts.push(Bytes::from(frame::numbered(Kind::Pong, number)));
        }
        let number = self.urgent_until.map_or(0, |_| AT_ONCE);
        parts.push(Bytes::from(frame::numbered(Kind::Ping, number)));
        self.write(&parts)
    }
}

/// Reads what has arrived, without waiting for more.
struct Ready<'a>(&'a TcpStream);

impl Read for Ready<'_> {
    #[cfg(target_os = "linux")]
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        use rustix::net::RecvFlags;
        Ok(rustix::net::recv(self.0, into, RecvFlags::DONTWAIT)?.0)
    }

    #[cfg(not(target_os = "linux"))]
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

/// A closed connection is an error and no SIGPIPE, also in a host that ends by that signal.
#[cfg(target_os = "linux")]
fn write_parts(stream: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    Ok(sendmsg(stream, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
}

/// Other systems have an option of the socket for that, or no such signal.
#[cfg(not(target_os = "linux"))]
fn write_parts(mut stream: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    io::Write::write_vectored(&mut stream, parts)
}
