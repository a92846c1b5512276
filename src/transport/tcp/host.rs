//! The transport of a host: one port for all its groups.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::open_port::{Membership, OpenPort, check_group, check_peers};
use super::port::PortSettings;
use super::resolver::{Lookup, system_lookup};
use crate::primitives::Mutex;
use crate::transport::{
    DirectoryIdentity, HostContext, HostTransport, Message, Transport, TransportContext,
};

/// The TCP transport of a host: one listener, and one connection each way to each peer, for all
/// groups of the host.
///
/// What [`TcpTransport`](super::TcpTransport) says of queues, pauses and attacks holds here for
/// each peer, whatever the number of groups. Of the queue of a peer one group takes at most half
/// while others wait. A group that is too busy to take its messages loses them, while the others go
/// on; the only group on a connection makes its peer wait instead.
///
/// Two hosts are connected while they have a group in common. A group that is open at one of them
/// only is asked for about once a second; after five seconds the status of its node says so.
pub struct TcpHostTransport {
    listen: Option<String>,
    lookup: Lookup,
    port: Arc<Mutex<Option<Arc<OpenPort>>>>,
}

impl TcpHostTransport {
    /// A transport that listens on [`HostContext::listen`].
    pub fn new() -> TcpHostTransport {
        TcpHostTransport::made(None)
    }

    /// A transport that listens on `address` instead: behind address translation, or to listen on
    /// all interfaces (`"0.0.0.0:7001"`).
    pub fn listening_on(address: impl Into<String>) -> TcpHostTransport {
        TcpHostTransport::made(Some(address.into()))
    }

    fn made(listen: Option<String>) -> TcpHostTransport {
        TcpHostTransport { listen, lookup: system_lookup(), port: Arc::default() }
    }
}

impl Default for TcpHostTransport {
    fn default() -> TcpHostTransport {
        TcpHostTransport::new()
    }
}

impl HostTransport for TcpHostTransport {
    fn start(&self, context: HostContext) -> io::Result<()> {
        let mut port = self.port.lock();
        if port.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the transport was started already",
            ));
        }
        check_peers(context.host, &context.peers)?;
        let settings = PortSettings {
            node: context.host,
            is_lone: false,
            peers: context.peers,
            message_bytes_max: context.message_bytes_max,
            silence: context.silence.max(Duration::from_millis(1)),
            removed: context.removed,
            spawner: context.spawner,
        };
        let address = self.listen.as_ref().unwrap_or(&context.listen);
        *port = Some(Arc::new(OpenPort::open(&settings, address, &self.lookup)?));
        Ok(())
    }

    fn group(&self) -> Box<dyn Transport> {
        Box::new(GroupTransport { port: self.port.clone(), membership: None })
    }

    fn reports_presence(&self) -> bool {
        true
    }

    fn stop(&self) {
        if let Some(port) = &*self.port.lock() {
            port.close();
        }
    }
}

impl Drop for TcpHostTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for TcpHostTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.port.lock().as_ref().map(|port| port.node());
        f.debug_struct("TcpHostTransport")
            .field("listen", &self.listen)
            .field("host", &host)
            .finish_non_exhaustive()
    }
}

/// The transport of one group of a host.
struct GroupTransport {
    port: Arc<Mutex<Option<Arc<OpenPort>>>>,
    membership: Option<Membership>,
}

impl Transport for GroupTransport {
    fn start(&mut self, context: TransportContext) -> io::Result<()> {
        if self.membership.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the transport was started already",
            ));
        }
        check_group(&context)?;
        let Some(port) = self.port.lock().clone() else {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the transport of the host is not started",
            ));
        };
        self.membership = Some(port.join(&context)?);
        Ok(())
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        match &mut self.membership {
            Some(membership) => membership.send(messages),
            None => messages.clear(),
        }
    }

    fn introduce(&mut self, identity: DirectoryIdentity) {
        if let Some(membership) = &self.membership {
            membership.introduce(identity);
        }
    }

    fn set_group_uid(&mut self, uid: u128) {
        if let Some(membership) = &self.membership {
            membership.set_group_uid(uid);
        }
    }

    fn stop(&mut self) {
        if let Some(membership) = &self.membership {
            membership.leave();
        }
    }
}

impl Drop for GroupTransport {
    fn drop(&mut self) {
        self.stop();
    }
}
