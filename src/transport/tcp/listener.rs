//! The listening socket and the thread that accepts connections.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::address::resolve;
use super::inbound::Inbound;
use super::stream::CONNECT_TIMEOUT;
use crate::primitives::Mutex;

/// Connections that the operating system holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed, most likely for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

pub(super) struct Listener(TcpListener);

impl Listener {
    pub(super) fn bind(address: &str) -> io::Result<Listener> {
        let mut failure =
            io::Error::new(io::ErrorKind::InvalidInput, "the address stands for no host");
        for address in resolve(address)? {
            match Listener::bind_to(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn bind_to(address: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of the previous process may stay in TIME_WAIT for minutes.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Listener(socket.into()))
    }

    /// The address of the socket.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Wakes the thread that accepts, from any other.
    pub(super) fn accept_waker(&self) -> io::Result<AcceptWaker> {
        Ok(AcceptWaker(Mutex::new(Some(self.0.try_clone()?))))
    }

    /// Accepts connections until the transport is stopped.
    pub(super) fn run(self, inbound: &Arc<Inbound>) {
        let port = &inbound.port;
        loop {
            let accepted = self.0.accept();
            if port.is_stopped() {
                return;
            }
            match accepted {
                Ok((stream, address)) => inbound.accept_connection(stream, address),
                Err(error) => {
                    port.log_rejection("a connection", &error.into());
                    port.wait_or_stopped(ACCEPT_RETRY);
                }
            }
        }
    }
}

/// Ends a pending accept, once.
pub(super) struct AcceptWaker(Mutex<Option<TcpListener>>);

impl AcceptWaker {
    pub(super) fn wake(&self) {
        let Some(listener) = self.0.lock().take() else { return };
        // Systems that do not shut a listening socket down need one more connection to it.
        if SockRef::from(&listener).shutdown(Shutdown::Both).is_err()
            && let Ok(mut address) = listener.local_addr()
        {
            if address.ip().is_unspecified() {
                address.set_ip(if address.is_ipv4() {
                    Ipv4Addr::LOCALHOST.into()
                } else {
                    Ipv6Addr::LOCALHOST.into()
                });
            }
            let _ = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
        }
    }
}
