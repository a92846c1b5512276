//! Messages over TCP: one connection to every peer, and one from every peer.
//!
//! Each direction of a pair of processes has its own connection, opened by the one that sends. A
//! thread for each peer connects, writes its queue, and reconnects ([`peer_sender`]). One thread
//! accepts ([`listener`]), and each accepted connection has a thread that reads ([`inbound`]). An
//! idle transport sleeps, but for two probes a second of each connection ([`outbound`]).
//!
//! A connection belongs to two processes, and begins with a hello in both directions. Groups have
//! slots on it ([`slots`]): the process that sends introduces each of its groups that the peer is a
//! member of, with the hello of that group, and the other one accepts or declines it. A refusal
//! between two nodes is that of a slot: all other groups go on. The refused node is sent the
//! reason, and asks again after 50 ms, then after pauses of up to 500 ms; the log and the node's
//! status show the reason too ([`refusals`]). A peer that has no such group is asked up to once a
//! second, and its answer is shown once it has been the same for five seconds. [`TcpTransport`] is
//! a port with one group, and [`TcpHostTransport`] one with any number of them.
//!
//! Heartbeats and the answers to them, without a context, are gathered for 5 ms if the two
//! processes share several groups, and go together, 29 bytes each ([`beats`]).
//!
//! There is no encryption and no authentication: the network between the nodes must be trusted.
//!
//! # Slow connections
//!
//! Heartbeats, votes and acknowledgements of all groups go before batches, and a batch of more than
//! 64 KiB goes in pieces of that size. So an urgent message waits behind 256 KiB of batches at
//! most: a round of up to 128 KiB that is being written, 64 KiB unsent in the operating system, and
//! the bytes that it accepts beyond that. Groups with batches take turns, one round each; messages
//! that are sent in part are together no longer than the longest one may be. A slow connection is
//! kept as long as bytes arrive. A connection on which nothing is heard for two seconds is closed,
//! and an attempt to connect ends after one. So nodes are connected within two seconds after their
//! network is back.
//!
//! Of a peer whose connection ends without another one within 200 ms, or is silent for a second,
//! its groups are told ([`PeerDown`](super::TransportEvent::PeerDown)); a connection that stays
//! silent is closed after five.
//!
//! A group that does not take its messages makes its peer wait if it is the only one on the
//! connection. Beside others its messages are dropped: Raft sends them again.
//!
//! # Two processes of one node
//!
//! Two copies of one directory, both started, are two processes of one node. The second one is
//! rejected while the first one is connected and answers a ping within two seconds, whatever the
//! incarnations. The operating system closes the connections of a process that has ended, so its
//! successor does not wait; after a power loss it waits for those two seconds, once for all its
//! groups. If no node can reach the first process any more, the second is let in: it looks like a
//! restart. That is decided for each group: a connection that claims to be of a node, and has no
//! group of it, keeps nobody out.
//!
//! # Cost of an attack
//!
//! Connections on which no group was accepted are bounded by [`pending`]: less than 1 MiB and 128
//! threads, whatever their number, and eight of them for each node that they claim to be. A
//! connection on which one was accepted has 64 KiB of buffer, and one message of at most
//! [`Message::BYTES_MAX`] or several that are together no longer, whose memory grows as they
//! arrive, never to more than twice that, or 2 MiB each; and 14 MiB more while one is decoded. It
//! may hold that as long as it lasts. Each group has one slot for each of its members, on any
//! connection, and a slot is some 100 bytes: there are never more connections with a group than
//! members of groups here. A connection may introduce 16,384 groups a second, and then waits.
//!
//! Messages that wait for a group take at most 128 MiB for all its members together, or 64 MiB in a
//! host, whose groups together take at most 256 MiB, counted as
//! they lie in memory; messages that wait to be sent take, for each peer and all groups together,
//! at most 64 MiB of batches and one more batch, and 8,192 small messages and one more. Of that one
//! group takes half while others wait.
//!
//! [`slots`]: super::hello::slots
//! [`beats`]: super::frame::beats

mod address;
mod connection;
mod host;
mod inbound;
mod inbound_slots;
mod listener;
mod local_group;
mod open_port;
mod outbound;
mod peer_sender;
mod pending;
mod port;
mod refusals;
mod resolver;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;

use self::address::check_address;
pub use self::host::TcpHostTransport;
use self::open_port::{Membership, OpenPort, check_group, check_peers};
use self::port::PortSettings;
use self::resolver::{Lookup, system_lookup};
#[cfg(feature = "sim")]
pub(crate) use self::{
    inbound_slots::InboundSlots,
    local_group::LocalGroup,
    peer_sender::{PeerQueue, QueueWork},
};
use super::{DirectoryIdentity, Message, SILENCE, Transport, TransportContext};

/// A moment to count the time of a simulation from. Which one it is makes no difference.
#[cfg(feature = "sim")]
pub(crate) fn some_instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// The transport of a group whose nodes are processes of their own.
///
/// A node listens on its own address of the [`TransportContext`], for this group alone. Host names
/// are resolved for each attempt to connect, at most once in five seconds. The queue of a peer is
/// bounded at 64 MiB and 8,192 messages. A message that does not fit is dropped; so is the queue
/// when a connection breaks or cannot be made. A broken connection is retried after 50 ms, then
/// after pauses of up to 500 ms, or at once when the peer itself connects.
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
    /// The only group of a port of its own.
    membership: Option<Membership>,
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
        TcpTransport { listen, lookup, membership: None }
    }
}

impl Default for TcpTransport {
    fn default() -> TcpTransport {
        TcpTransport::new()
    }
}

impl Transport for TcpTransport {
    fn start(&mut self, context: TransportContext) -> io::Result<()> {
        if self.membership.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the transport was started already",
            ));
        }
        check_group(&context)?;
        check_peers(context.node, &context.addresses)?;
        let own = context.addresses.iter().find(|(node, _)| *node == context.node);
        let address = self.listen.as_ref().or(own.map(|(_, address)| address));
        let settings = PortSettings {
            node: context.node,
            is_lone: true,
            peers: context.addresses.clone(),
            message_bytes_max: context.message_bytes_max,
            silence: SILENCE,
            removed: context.removed.clone(),
            spawner: context.spawner.clone(),
        };
        let address = address.map_or("", String::as_str);
        let port = Arc::new(OpenPort::open(&settings, address, &self.lookup)?);
        self.membership = Some(port.join(&context).inspect_err(|_| port.close())?);
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
            membership.port().close();
        }
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.membership.as_ref().map(|membership| membership.port().node());
        f.debug_struct("TcpTransport").field("listen", &self.listen).field("node", &node).finish()
    }
}
