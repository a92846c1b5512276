//! A connection that this node has made: what is written to it, and whether the peer is still
//! there.
//!
//! Whoever reads what this node writes answers with a pong, at most four a second, and this node
//! writes something at least twice a second. So a connection on which nothing was heard for two
//! seconds is given up: its packets vanish, or the process at the other end stands still. One that
//! is slow is not: as long as anything arrives there, pongs come back.

use std::io::{self, IoSlice, Read};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;

use super::LOOK_INTERVAL;
use crate::primitives::Instant;
use crate::transport::frame::{self, FrameReader, Kind};

/// After so many looks in vain the peer is taken to be gone.
const LOOKS_IN_VAIN_MAX: u32 = 4;
/// How often it is looked while somebody waits for an answer of the peer, and for how long.
const HURRY: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(2));
/// The most pieces that one system call takes.
const IOV_MAX: usize = 1024;
/// A ping with any number but 0 is answered at once.
const AT_ONCE: u64 = 1;

#[derive(Debug)]
pub(super) struct Outbound {
    stream: TcpStream,
    reader: FrameReader,
    next_look: Instant,
    /// When the looks in vain were last counted, and how many they are.
    counted: Instant,
    in_vain: u32,
    hurry_until: Option<Instant>,
    /// The peer has asked whether this node is there.
    asked: Option<u64>,
    refusal: Option<Bytes>,
}

impl Outbound {
    /// `reader` has heard the peer's hello.
    pub(super) fn new(stream: TcpStream, reader: FrameReader) -> io::Result<Outbound> {
        // Where a read cannot be told not to wait, it waits for this long.
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        let now = Instant::now();
        Ok(Outbound {
            stream,
            reader,
            next_look: now + LOOK_INTERVAL,
            counted: now,
            in_vain: 0,
            hurry_until: None,
            asked: None,
            refusal: None,
        })
    }

    pub(super) fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Somebody waits to hear whether the peer is there.
    pub(super) fn hurry(&mut self) {
        let now = Instant::now();
        (self.next_look, self.hurry_until) = (now, Some(now + HURRY.1));
    }

    /// What the peer said when it refused this node on the open connection.
    pub(super) fn refusal(&self) -> Option<Bytes> {
        self.refusal.clone()
    }

    /// Writes all of `parts`. Blocks as long as the peer is there.
    pub(super) fn write(&mut self, parts: &[Bytes]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = rest.len().min(IOV_MAX);
            match write_parts(&self.stream, &rest[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if super::is_timeout(&error) => drop(self.look()?),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes in what the peer has answered. Returns whether it has.
    ///
    /// # Errors
    /// If the peer has hung up or refused this node, or was not heard for too long.
    pub(super) fn look(&mut self) -> io::Result<bool> {
        let mut is_heard = false;
        loop {
            while let Some(frame) = self.reader.next()? {
                is_heard = true;
                match frame.kind {
                    Kind::Pong => {}
                    Kind::Ping => self.asked = frame.number(),
                    Kind::Refusal => {
                        self.refusal = Some(frame.content);
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
            match self.reader.read_from(&mut Ready(&self.stream)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if super::is_timeout(&error) => break,
                Err(error) => return Err(error),
            }
        }
        self.count(is_heard)?;
        Ok(is_heard)
    }

    fn count(&mut self, is_heard: bool) -> io::Result<()> {
        let now = Instant::now();
        if is_heard {
            (self.in_vain, self.counted, self.hurry_until) = (0, now, None);
        } else if now.saturating_duration_since(self.counted) >= LOOK_INTERVAL {
            // Time alone proves nothing: this process may have stood still.
            (self.in_vain, self.counted) = (self.in_vain + 1, now);
        }
        if self.in_vain >= LOOKS_IN_VAIN_MAX {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it has not answered for two seconds",
            ));
        }
        self.hurry_until = self.hurry_until.filter(|until| now < *until);
        self.next_look = now + self.hurry_until.map_or(LOOK_INTERVAL, |_| HURRY.0);
        Ok(())
    }

    /// Answers the peer if it has asked, and gives it something to answer if there was nothing
    /// else.
    pub(super) fn answer_and_ask(&mut self, has_written: bool) -> io::Result<()> {
        let mut parts = Vec::new();
        if let Some(number) = self.asked.take() {
            parts.push(Bytes::from(frame::numbered(Kind::Pong, number)));
        }
        if self.hurry_until.is_some() || !has_written {
            let number = self.hurry_until.map_or(0, |_| AT_ONCE);
            parts.push(Bytes::from(frame::numbered(Kind::Ping, number)));
        }
        self.write(&parts)
    }
}

/// What has arrived on a connection, without waiting for more.
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

/// A connection that is gone is an error, also in a host that is to end when a pipe of it breaks:
/// no signal.
#[cfg(target_os = "linux")]
fn write_parts(stream: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    Ok(sendmsg(stream, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
}

/// Elsewhere the socket says so for all that is written to it, or there are no such signals.
#[cfg(not(target_os = "linux"))]
fn write_parts(mut stream: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    io::Write::write_vectored(&mut stream, parts)
}
