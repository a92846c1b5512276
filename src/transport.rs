//! What speaks: the trait that carries opaque messages between the nodes of a group, best effort.
//!
//! # The contract
//!
//! 1. A transport may drop, delay, reorder or duplicate messages. It never alters one, never
//!    invents one, and never delivers one to a node that it was not sent to.
//! 2. [`send`] never blocks on a peer. What a slow or dead peer does not take is dropped, within
//!    bounds that are documented, and the node is told by [`Inbox::unreachable`].
//! 3. A message is delivered only if its sender is who it says: a transport that crosses machines
//!    knows the peer at the other end of a connection and drops what claims to come from another.
//! 4. Only nodes whose [`TransportContext::cluster`] is the same are connected. The number is made
//!    of the group's name and its members, so nodes that were told of other members are kept apart
//!    as well. A message does not say which group it belongs to: nothing behind the transport would
//!    notice.
//! 5. After [`stop`] nothing is delivered, and every thread of the transport ends soon.
//!
//! [`conformance`] is a test suite for this that any implementation can be put to.
//!
//! [`send`]: Transport::send
//! [`stop`]: Transport::stop

pub mod conformance;
pub(crate) mod frame;
pub(crate) mod hello;
mod memory;
mod tcp;

use std::fmt;
use std::io;
use std::sync::Arc;

pub use self::memory::{MemoryNetwork, MemoryTransport};
pub use self::tcp::TcpTransport;
#[cfg(any(test, fuzzing))]
pub(crate) use self::{frame::fuzzing, hello::fuzzing as fuzzing_of_hellos};
use crate::entry::NodeId;
pub use crate::message::{Message, MessageError};
use crate::role::check_advertised;
pub use crate::storage::DirectoryIdentity;

/// Carries messages between this node and its peers. See the [module](self) for the contract.
pub trait Transport: Send {
    /// Takes its place in the group. Called once, before anything is sent.
    ///
    /// # Errors
    /// Whatever keeps it from being reached: an address that cannot be parsed or bound.
    fn start(&mut self, context: TransportContext) -> io::Result<()>;

    /// Sends each message to the node that it names. Takes the messages out of `messages` and
    /// leaves it empty.
    fn send(&mut self, messages: &mut Vec<Message>);

    /// This node speaks from another data directory from now on, or says from now on whether its
    /// log is complete: peers are to be told so with the next connection. If the directory is
    /// another one, those that are open are closed. A transport that does not tell peers who speaks
    /// has nothing to do, which is the default.
    fn introduce(&mut self, identity: DirectoryIdentity) {
        let _ = identity;
    }

    /// Stops delivering, closes every connection and asks the threads to end. Idempotent; does not
    /// wait.
    fn stop(&mut self);
}

/// All that a transport is told when it starts: who this node is, who its peers are, and where
/// arrivals go.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportContext {
    /// This node.
    pub node: NodeId,
    /// The name of the group.
    pub group: String,
    /// The number that tells this group from others of the same name. Made of the name and the
    /// members that the group began with.
    pub cluster: u64,
    /// Which copy of this node's disk speaks.
    pub identity: DirectoryIdentity,
    /// Every member and its address, this node included: its own address is where it listens.
    pub addresses: Vec<(NodeId, String)>,
    /// What this node lets every member know ([`Builder::advertise`](crate::Builder::advertise)):
    /// at most 255 bytes, without control characters. May be
    /// empty. A transport that carries it has each peer report it with [`Inbox::advertised`] before
    /// the first message; one that does not leaves it unknown.
    pub advertised: String,
    /// The data-directory ids of peers, as far as this node has met them.
    pub known: Vec<(NodeId, u128)>,
    /// The largest message that any member sends, in bytes. Anything larger is refused before it is
    /// read.
    pub message_bytes_max: usize,
    /// Where arrivals go.
    pub inbox: Inbox,
    /// How the transport gets threads.
    pub spawner: Spawner,
}

impl TransportContext {
    /// A seat for a test of a transport: node `node` of a group named `group` with these members.
    /// The rest can be set afterwards.
    pub fn new(
        node: NodeId,
        group: &str,
        addresses: Vec<(NodeId, String)>,
        inbox: Inbox,
        spawner: Spawner,
    ) -> TransportContext {
        TransportContext {
            node,
            group: group.to_owned(),
            cluster: 0,
            identity: DirectoryIdentity {
                directory: u128::from(node.get()),
                incarnation: 1,
                complete: true,
            },
            addresses,
            advertised: String::new(),
            known: Vec::new(),
            message_bytes_max: 32 << 20,
            inbox,
            spawner,
        }
    }

    /// # Errors
    /// If what it advertises would be refused by its peers.
    fn check_advertised(&self) -> io::Result<()> {
        let told = |why| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("what this node advertises: {why}"))
        };
        check_advertised(&self.advertised).map_err(told)
    }
}

/// What a transport has to report. It reports a refusal once, and again only if its reason changes.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransportEvent {
    /// A message for this node.
    Message(Message),
    /// Messages to this peer were dropped, or the connection to it broke.
    Unreachable(NodeId),
    /// A connection to this peer was made, and this is the id of its data directory.
    PeerIdentified {
        /// The peer.
        peer: NodeId,
        /// The id of its data directory, to be remembered.
        directory: u128,
    },
    /// What this peer lets every member know, in place of what it did before. Empty: nothing.
    #[non_exhaustive]
    Advertised {
        /// The peer.
        peer: NodeId,
        /// At most 255 bytes, without control characters.
        text: Arc<str>,
    },
    /// This node and a peer do not talk to each other, since one of the two refuses the other.
    Refused {
        /// The peer.
        peer: NodeId,
        /// Who refuses whom, why, and what to do.
        reason: String,
    },
    /// What was reported of this peer as [`Refused`](Arrival::Refused) is over.
    Accepted(NodeId),
    /// This peer has met a later opening of the same data directory: this one is an older copy, and
    /// has forgotten what came since.
    OutdatedDirectory(NodeId),
}

/// Where a transport puts what arrives. Cheap to clone, usable from any thread, never blocks.
#[derive(Clone)]
pub struct Inbox(Arc<dyn Fn(TransportEvent) -> bool + Send + Sync>);

impl Inbox {
    /// An inbox that hands every arrival to `take`, which says whether there was room for it.
    pub fn new(take: impl Fn(TransportEvent) -> bool + Send + Sync + 'static) -> Inbox {
        Inbox(Arc::new(take))
    }

    fn put(&self, arrival: TransportEvent) -> bool {
        (self.0)(arrival)
    }

    /// Delivers a message. False if the node is too busy to take it: the message is gone, as if the
    /// network had lost it. A transport that can make its peer wait may keep a clone and try again.
    pub fn deliver(&self, message: Message) -> bool {
        (self.0)(TransportEvent::Message(message))
    }

    /// Reports that messages to `peer` were lost.
    pub fn unreachable(&self, peer: NodeId) {
        (self.0)(TransportEvent::Unreachable(peer));
    }

    /// Reports which data directory `peer` speaks from.
    pub fn peer_identified(&self, peer: NodeId, directory: u128) {
        (self.0)(TransportEvent::PeerIdentified { peer, directory });
    }

    /// Reports what `peer` lets every member know: its [`TransportContext::advertised`], also if
    /// that is empty. A text of more than 255 bytes, or with a control character in it, is not
    /// taken: false.
    pub fn advertised(&self, peer: NodeId, text: &str) -> bool {
        check_advertised(text).is_ok()
            && self.put(TransportEvent::Advertised { peer, text: text.into() })
    }

    /// Reports that one of this node and `peer` refuses the other, and why.
    pub fn refused(&self, peer: NodeId, reason: String) {
        (self.0)(TransportEvent::Refused { peer, reason });
    }

    /// Reports that `peer` has met a later opening of this node's data directory.
    pub fn directory_outdated(&self, peer: NodeId) {
        (self.0)(TransportEvent::OutdatedDirectory(peer));
    }

    /// Reports that this node and `peer`, of which a refusal was reported, refuse each other no
    /// more.
    pub fn accepted(&self, peer: NodeId) {
        (self.0)(TransportEvent::Accepted(peer));
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox")
    }
}

type Spawn = dyn Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync;

/// Grants threads. The node that granted one waits for it to end when it shuts down, and fails if
/// it panics.
#[derive(Clone)]
pub struct Spawner {
    joined: Arc<Spawn>,
    detached: Arc<Spawn>,
}

impl Spawner {
    /// A spawner that runs `spawn` with the name of the thread and its work.
    pub fn new(
        spawn: impl Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Spawner {
        let joined: Arc<Spawn> = Arc::new(spawn);
        Spawner { detached: joined.clone(), joined }
    }

    /// Runs what is detached by `spawn` instead: on threads that nobody waits for.
    #[must_use]
    pub fn with_detached(
        self,
        spawn: impl Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Spawner {
        Spawner { detached: Arc::new(spawn), ..self }
    }

    /// Runs `work` on a new thread named `name`.
    ///
    /// # Errors
    /// If the operating system grants no thread, or the node is shutting down.
    pub fn spawn(
        &self,
        name: impl Into<String>,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        (self.joined)(name.into(), Box::new(work))
    }

    /// Runs `work` on a new thread that the node does not wait for when it shuts down: only for
    /// what cannot be interrupted, ends by itself, and holds nothing of the node. Names are
    /// resolved so.
    ///
    /// # Errors
    /// If the operating system grants no thread.
    pub fn spawn_detached(
        &self,
        name: impl Into<String>,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        (self.detached)(name.into(), Box::new(work))
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spawner")
    }
}
