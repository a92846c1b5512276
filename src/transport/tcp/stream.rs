//! One TCP stream: its options, its timeouts, and single frames on it.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

use crate::primitives::Instant;
use crate::transport::frame::{Frame, FrameReader, HELLO_BYTES_MAX};
use crate::transport::hello::{self, Rejection};

/// The length of a frame bounds a hello before it is read. Every valid hello fits.
const _: () = assert!(hello::BYTES_MAX <= HELLO_BYTES_MAX);

/// Timeout of one attempt to connect. The operating system retransmits a SYN after a second, so an
/// attempt that began while the network was cut is given up then.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of the two hellos.
pub(super) const HELLO_TIMEOUT: Duration =
    if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(5) };
/// Time between two probes of an outbound connection: is the peer alive? Under loom there is none.
pub(super) const PROBE_INTERVAL: Duration =
    Duration::from_millis(if cfg!(all(test, loom)) { 3_600_000 } else { 500 });
/// An inbound connection that is silent for this long is closed. A live peer sends twice a second.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// The operating system gives a connection up after this long without an acknowledgement. It backs
/// the probes, and ends a connection whose peer reads nothing.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);
/// Bytes that the operating system may hold unsent.
const UNSENT_BYTES_MAX: u32 = 64 << 10;

/// Why a connection was not established, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    HandshakeRejection(Rejection),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Rejection> for ConnectError {
    fn from(why: Rejection) -> ConnectError {
        ConnectError::HandshakeRejection(why)
    }
}

/// Sets the options that both ends of a connection need.
pub(super) fn configure_stream(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PROBE_INTERVAL))?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        // Unsent bytes only: what is sent and not acknowledged grows with the round-trip time.
        socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    }
    #[cfg(not(target_os = "linux"))]
    socket.set_send_buffer_size(2 * UNSENT_BYTES_MAX as usize)?;
    Ok(())
}

pub(super) fn write_frame(mut stream: &TcpStream, frame: &[u8]) -> io::Result<()> {
    stream.write_all(frame)
}

/// Reads one frame. `deadline` covers all of it, also if it comes byte by byte.
pub(super) fn read_frame(
    mut stream: &TcpStream,
    reader: &mut FrameReader,
    deadline: Instant,
) -> io::Result<Frame> {
    loop {
        if let Some(frame) = reader.next()? {
            return Ok(frame);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it did not introduce itself in time",
            ));
        }
        stream.set_read_timeout(Some(left))?;
        match reader.read_from(&mut stream) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it hung up before it introduced itself",
                ));
            }
            Err(error) if !is_timeout(&error) => return Err(error),
            _ => {}
        }
    }
}

/// Whether a read or write only took too long. By itself no reason to close the connection.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
