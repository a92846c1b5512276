//! Messages over TCP: one connection to every peer, and one from every peer.
//!
//! Each direction of a pair of nodes has its own connection, opened by the node that sends. A
//! thread for each peer connects, writes its queue, and reconnects ([`peer_sender`]). One thread
//! accepts ([`listener`]), and each accepted connection has a thread that reads ([`inbound`]). An
//! idle transport sleeps, but for two probes a second of each connection ([`outbound`]).
//!
//! A connection begins with a hello in both directions. A rejected node is sent the reason; the log
//! and the node's status show it too ([`refusals`]). There is no encryption and no authentication:
//! the network between the nodes must be trusted.
//!
//! # Slow connections
//!
//! Heartbeats, votes and acknowledgements go before batches, and a batch of more than 64 KiB goes
//! in pieces of that size. So an urgent message waits behind 256 KiB of batches at most: a round of
//! up to 128 KiB that is being written, 64 KiB unsent in the operating system, and the bytes that
//! it accepts beyond that. A slow connection is kept as long as bytes arrive. A connection on which
//! nothing is heard for two seconds is closed, and an attempt to connect ends after one. So nodes
//! are connected within two seconds after their network is back.
//!
//! # Two processes of one node
//!
//! Two copies of one directory, both started, are two processes of one node. The second one is
//! rejected while the first one is connected and answers a ping within two seconds, whatever the
//! incarnations. The operating system closes the connections of a process that has ended, so its
//! successor does not wait; after a power loss it waits for those two seconds. If no node can reach
//! the first process any more, the second is let in: it looks like a restart.
//!
//! # Cost of an attack
//!
//! Unknown peers are bounded by [`pending`]: less than 1 MiB and 128 threads, whatever their
//! number. Each member of the group has one inbound connection: 64 KiB of buffer, and one message
//! of at most [`Message::BYTES_MAX`], whose memory grows as it arrives, never to more than twice
//! that, or 2 MiB; and 14 MiB more while it is decoded. It may hold that as long as its connection
//! lasts. Messages that wait for the node take at most 128 MiB for all members together, counted as
//! they lie in memory; messages that wait to be sent take at most 64 MiB of batches, or one larger
//! batch, and 8,192 small messages for each peer.

mod address;
mod connection;
mod context;
mod host;
mod inbound;
mod listener;
mod outbound;
mod peer_sender;
mod pending;
mod refusals;
mod resolver;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;

use self::address::check_address;
use self::context::TcpContext;
pub use self::host::TcpHostTransport;
use self::inbound::Inbound;
use self::listener::{AcceptWaker, Listener};
use self::peer_sender::{PeerSender, PeerSenders};
use self::resolver::{Lookup, system_lookup};
use super::hello::{GROUP_BYTES_MAX, MEMBERS_MAX};
use super::{DirectoryIdentity, Message, Transport, TransportContext};
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;

/// The transport of a group whose nodes are processes of their own.
///
/// A node listens on its own address of the [`TransportContext`]. Host names are resolved for each
/// attempt to connect, at most once in five seconds. The queue of a peer is bounded at 64 MiB and
/// 8,192 messages. A message that does not fit is dropped; so is the queue when a connection breaks
/// or cannot be made. A broken connection is retried after 50 ms, then after pauses of up to 500
/// ms, or at once when the peer itself connects.
///
/// A connection whose packets are lost is closed after two seconds. So a group whose network is
/// whole again has a leader within three election timeouts, or five seconds if that is more,
/// however long it was cut. Heartbeats and votes never wait behind more than 256 KiB of batches: a
/// link that carries those well within an election timeout carries batches of any size.
///
/// If two processes run from copies of one directory, the second one is rejected as long as the
/// first one is connected and answers.
pub struct TcpTransport {
    listen: Option<String>,
    lookup: Lookup,
    tcp: Option<TcpState>,
    /// The peers of dropped messages. Empty between two calls; kept for its capacity.
    lost: Vec<NodeId>,
}

impl TcpTransport {
    /// Checks the form of an address: that of a peer to reach, or this node's own to listen on.
    pub(crate) fn check_address(address: &str, is_own: bool) -> Result<(), String> {
        check_address(address, is_own)
    }

    /// A transport that listens on this node's address of the group.
    pub fn new() -> TcpTransport {
        TcpTransport::made(None, system_lookup())
    }

    /// A transport that listens on `address` instead of this node's address of the group: behind
    /// address translation, or to listen on all interfaces (`"0.0.0.0:7001"`).
    pub fn listening_on(address: impl Into<String>) -> TcpTransport {
        TcpTransport::made(Some(address.into()), system_lookup())
    }

    fn made(listen: Option<String>, lookup: Lookup) -> TcpTransport {
        TcpTransport { listen, lookup, tcp: None, lost: Vec::new() }
    }
}

impl Default for TcpTransport {
    fn default() -> TcpTransport {
        TcpTransport::new()
    }
}

impl Transport for TcpTransport {
    fn start(&mut self, context: TransportContext) -> io::Result<()> {
        self.check_start(&context)?;
        let own = context
            .addresses
            .iter()
            .find(|(node, _)| *node == context.node)
            .map(|(_, address)| address.clone());
        let address = self.listen.clone().or(own).unwrap_or_default();
        let listener = Listener::bind(&address).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("node {} could not listen on {address:?}: {error}", context.node),
            )
        })?;
        if listener
            .address()
            .is_ok_and(|listens| address::is_reached_from_here_only(&address, listens))
        {
            log::warn!(
                "{}listens on {address:?}, which stands here for an address that only this \
                 machine reaches: peers elsewhere cannot connect. Correct what the name stands \
                 for, or listen elsewhere (TcpTransport::listening_on)",
                log_prefix()
            );
        }
        let tcp = TcpState::new(&context, &self.lookup, listener.accept_waker()?);
        let spawned = tcp.spawn_threads(listener).inspect_err(|_| tcp.stop());
        self.tcp = Some(tcp);
        spawned
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        let Some(tcp) = &self.tcp else { return messages.clear() };
        for message in messages.drain(..) {
            let to = message.to();
            if !tcp.send(message) && !self.lost.contains(&to) {
                self.lost.push(to);
            }
        }
        for peer in self.lost.drain(..) {
            tcp.context.inbox.unreachable(peer);
        }
    }

    fn introduce(&mut self, identity: DirectoryIdentity) {
        if let Some(tcp) = &self.tcp {
            tcp.introduce(identity);
        }
    }

    fn stop(&mut self) {
        if let Some(tcp) = &self.tcp {
            tcp.stop();
        }
    }
}

impl TcpTransport {
    fn check_start(&self, context: &TransportContext) -> io::Result<()> {
        if self.tcp.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the transport was started already",
            ));
        }
        let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if context.group.len() > GROUP_BYTES_MAX {
            return invalid("the name of a group has at most 63 bytes".to_owned());
        }
        context.check_advertised()?;
        if context.addresses.len() > MEMBERS_MAX {
            return invalid("a group has at most 63 members".to_owned());
        }
        for (peer, address) in context.addresses.iter().filter(|(node, _)| *node != context.node) {
            if let Err(why) = check_address(address, false) {
                return invalid(format!("the address of node {peer}: {why}"));
            }
        }
        Ok(())
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.tcp.as_ref().map(|tcp| tcp.context.node);
        f.debug_struct("TcpTransport").field("listen", &self.listen).field("node", &node).finish()
    }
}

/// A started transport.
struct TcpState {
    context: Arc<TcpContext>,
    senders: Arc<PeerSenders>,
    inbound: Arc<Inbound>,
    accept_waker: AcceptWaker,
}

impl TcpState {
    fn new(context: &TransportContext, lookup: &Lookup, accept_waker: AcceptWaker) -> TcpState {
        let senders = Arc::new(PeerSenders::new(context, lookup));
        let context = Arc::new(TcpContext::new(context));
        let inbound = Arc::new(Inbound::new(context.clone(), senders.clone()));
        TcpState { context, senders, inbound, accept_waker }
    }

    fn spawn_threads(&self, listener: Listener) -> io::Result<()> {
        let spawner = &self.context.spawner;
        for (at, sender) in self.senders.all().iter().enumerate() {
            let (context, senders) = (self.context.clone(), self.senders.clone());
            spawner.spawn(format!("to-{}", sender.peer), move || {
                senders.all()[at].run(&context);
            })?;
        }
        let inbound = self.inbound.clone();
        spawner.spawn("accept", move || listener.run(&inbound))
    }

    /// Queues a message. False if it was dropped because the queue of its peer is full.
    fn send(&self, message: Message) -> bool {
        let (to, len) = (message.to(), message.encoded_len());
        let Some(sender) = self.senders.to(to).filter(|_| message.from() == self.context.node)
        else {
            return true;
        };
        if len <= self.context.message_bytes_max {
            return sender.push(message, len);
        }
        self.context.log_oversize(len, to);
        true
    }

    fn introduce(&self, identity: DirectoryIdentity) {
        if self.context.introduce(identity) {
            self.senders.all().iter().for_each(PeerSender::close_connection);
            self.context.close_connections();
        }
    }

    fn stop(&self) {
        if !self.context.stop() {
            return;
        }
        self.accept_waker.wake();
        self.senders.all().iter().for_each(PeerSender::stop);
        self.context.close_connections();
    }
}
