//! The trait that carries opaque messages between the nodes of a group, best effort.
//!
//! # The contract
//!
//! 1. A transport may drop, delay, reorder or duplicate messages. It never alters one, never
//!    invents one, and never delivers one to another node than its receiver.
//! 2. [`send`] never blocks on a peer. Messages that a slow or dead peer does not accept are
//!    dropped, within documented bounds, and reported to the node by [`Inbox::unreachable`].
//! 3. A message is delivered only if its sender is genuine: a transport between machines identifies
//!    the peer of a connection, and drops messages that claim another sender.
//! 4. Only nodes with the same [`TransportContext::cluster`] are connected. That number is made of
//!    the name of the group and its members, so nodes with different lists of members are kept
//!    apart as well. A message does not name its group: no layer above the transport would notice.
//!    For the same reason nodes that know different [unique ids](TransportContext::group_uid) are
//!    kept apart, and nothing that was sent to a stopped transport reaches one that was started
//!    under the same name since.
//! 5. After [`stop`] nothing is delivered, and every thread of the transport ends soon.
//!
//! [`conformance`] tests any implementation against this contract.
//!
//! [`send`]: Transport::send
//! [`stop`]: Transport::stop

pub mod conformance;
pub(crate) mod frame;
pub(crate) mod hello;
mod memory;
mod removed_groups;
pub(crate) mod tcp;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use self::memory::{MemoryHost, MemoryNetwork, MemoryTransport};
pub use self::removed_groups::RemovedGroups;
pub use self::tcp::{TcpHostTransport, TcpTransport};
#[cfg(any(test, fuzzing))]
pub(crate) use self::{frame::fuzzing, hello::fuzzing as fuzzing_of_hellos};
use crate::entry::NodeId;
pub use crate::message::{Message, MessageError};
use crate::role::check_advertised;
pub use crate::storage::DirectoryIdentity;

/// Carries messages between this node and its peers. See the [module](self) for the contract.
pub trait Transport: Send {
    /// Joins the group. Called once, before the first send.
    ///
    /// # Errors
    /// If peers could not reach it: an address that cannot be parsed or bound.
    fn start(&mut self, context: TransportContext) -> io::Result<()>;

    /// Sends each message to its receiver. Leaves `messages` empty.
    fn send(&mut self, messages: &mut Vec<Message>);

    /// Changes the identity of this node: another data directory, or whether its log is complete.
    /// Later handshakes present the new one. If the directory is another one, open connections are
    /// closed. The default does nothing, for a transport without handshakes.
    fn introduce(&mut self, identity: DirectoryIdentity) {
        let _ = identity;
    }

    /// The unique id of the group is known now, and durable. Later handshakes present it
    /// ([`TransportContext::group_uid`]). Connections to peers that know none yet stay; those to
    /// peers that have presented another one are closed. Called once at most. The default does
    /// nothing, for a transport without handshakes.
    fn set_group_uid(&mut self, uid: u128) {
        let _ = uid;
    }

    /// Stops delivering, closes every connection and asks the threads to end. Idempotent; does not
    /// wait.
    fn stop(&mut self);
}

/// The transport of a host: carries the messages of all its groups. Each group has a
/// [`Transport`] of it, which keeps the [contract](self); what one group does leaves the others
/// alone.
pub trait HostTransport: Send + Sync {
    /// Called once, before [`group`](HostTransport::group). Listens on [`HostContext::listen`], and
    /// connects to [`HostContext::peers`] as groups need them. Does not wait for peers.
    ///
    /// # Errors
    /// If peers could not reach it: an address that cannot be parsed or bound.
    fn start(&self, context: HostContext) -> io::Result<()>;

    /// A transport for one more group, to be started with the [`TransportContext`] of that group.
    /// Its [`node`](TransportContext::node) is the host. Its
    /// [`addresses`](TransportContext::addresses) name hosts by id: an address that is not that of
    /// the host of this id is ignored. Its [`spawner`](TransportContext::spawner) is not used.
    ///
    /// Starting it is an error before [`start`](HostTransport::start) and after
    /// [`stop`](HostTransport::stop), if the group has a member that is no peer of the host, and if
    /// a group of that name is started here and not stopped.
    fn group(&self) -> Box<dyn Transport>;

    /// Whether [`PeerDown`](TransportEvent::PeerDown) and [`PeerUp`](TransportEvent::PeerUp) are
    /// reported, within about a second, of every peer that was connected. Only then may idle groups
    /// sleep: nothing else would tell a sleeping follower that the process of its leader is gone.
    /// Default false.
    fn reports_presence(&self) -> bool {
        false
    }

    /// Stops the transports of all groups, closes all connections, and asks the threads to end.
    /// Idempotent; does not wait.
    fn stop(&self);
}

/// What the transport of a host needs to start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostContext {
    /// This host.
    pub host: NodeId,
    /// The address to listen on: a host name or IP address, and a port.
    pub listen: String,
    /// The ids and addresses of all hosts, as far as they are known. This one may be among them.
    pub peers: Vec<(NodeId, String)>,
    /// The largest message of any group, in bytes. A larger one is rejected before it is read. The
    /// same on all hosts.
    pub message_bytes_max: usize,
    /// A peer from which nothing was read for this long is reported down
    /// ([`TransportEvent::PeerDown`]). Peers write at least twice a second, so less than 600 ms
    /// reports peers that are well. Default 1 s.
    pub silence: Duration,
    /// The groups that were removed from this host: a peer that presents the unique id of one, for
    /// a group that is not open here, is told so.
    pub removed: RemovedGroups,
    /// How the transport gets threads.
    pub spawner: Spawner,
}

/// The default of [`HostContext::silence`].
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

impl HostContext {
    /// A context with the largest message that groups send, and all defaults.
    pub fn new(
        host: NodeId,
        listen: impl Into<String>,
        peers: Vec<(NodeId, String)>,
        spawner: Spawner,
    ) -> HostContext {
        let message_bytes_max = Message::BYTES_MAX;
        let (listen, silence) = (listen.into(), SILENCE);
        let removed = RemovedGroups::default();
        HostContext { host, listen, peers, message_bytes_max, silence, removed, spawner }
    }
}

/// What a transport needs to start: this node, its peers, and where events go.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportContext {
    /// This node.
    pub node: NodeId,
    /// The name of the group.
    pub group: String,
    /// Tells this group from others of the same name. Made of the name, the first members and the
    /// first position.
    pub cluster: u64,
    /// The position of the first byte of the group, the same on every node.
    pub first_position: u64,
    /// The data directory of this node, and its incarnation.
    pub identity: DirectoryIdentity,
    /// The unique id of the group, 0 if this node does not know it yet. Nodes that know different
    /// ones are kept apart, for one of them belongs to a group that was removed and made again. A
    /// transport that cannot present it may be used where no name is used twice.
    pub group_uid: u128,
    /// The groups that were removed from this host: a peer that presents the id of one is refused,
    /// unless this node knows that id as its own, or knows none and its log is not complete.
    pub removed: RemovedGroups,
    /// Every member and its address. This node listens on its own.
    pub addresses: Vec<(NodeId, String)>,
    /// The text that this node advertises to every member
    /// ([`Builder::advertise`](crate::Builder::advertise)): at most 255 bytes, without control
    /// characters, perhaps empty. A transport that carries it has each peer report it with
    /// [`Inbox::advertised`] before the first message; without that it stays unknown.
    pub advertised: String,
    /// The known data-directory ids of peers.
    pub known: Vec<(NodeId, u128)>,
    /// The largest message of any member, in bytes. A larger one is rejected before it is read.
    pub message_bytes_max: usize,
    /// Where events go.
    pub inbox: Inbox,
    /// How the transport gets threads.
    pub spawner: Spawner,
}

impl TransportContext {
    /// A context for a test of a transport: node `node` of a group named `group` with these
    /// members. The other fields can be set afterwards.
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
            first_position: 0,
            identity: DirectoryIdentity {
                directory: u128::from(node.get()),
                incarnation: 1,
                complete: true,
            },
            group_uid: 0,
            removed: RemovedGroups::default(),
            addresses,
            advertised: String::new(),
            known: Vec::new(),
            message_bytes_max: 32 << 20,
            inbox,
            spawner,
        }
    }

    /// # Errors
    /// If peers would reject the advertised text.
    fn check_advertised(&self) -> io::Result<()> {
        let invalid = |why| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("what this node advertises: {why}"))
        };
        check_advertised(&self.advertised).map_err(invalid)
    }
}

/// What a transport reports. It reports a refusal once, and again only if its reason changes.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransportEvent {
    /// A message for this node.
    Message(Message),
    /// Messages to this peer were dropped, or the connection to it broke.
    Unreachable(NodeId),
    /// The handshake with a peer succeeded.
    PeerIdentified {
        /// The peer.
        peer: NodeId,
        /// The id of its data directory, to be saved.
        directory: u128,
    },
    /// The text that a peer advertises, in place of an earlier one. May be empty.
    #[non_exhaustive]
    Advertised {
        /// The peer.
        peer: NodeId,
        /// A text as [`Builder::advertise`](crate::Builder::advertise) takes it.
        text: Arc<str>,
    },
    /// One of this node and a peer refuses the other, so they are not connected.
    Refused {
        /// The peer.
        peer: NodeId,
        /// Who refuses whom, why, and what to do.
        reason: String,
    },
    /// The refusal between this node and this peer is over ([`Refused`](TransportEvent::Refused)).
    Accepted(NodeId),
    /// This peer has seen a later incarnation of this data directory: this one is an outdated copy,
    /// without what was written since.
    OutdatedDirectory(NodeId),
    /// Nothing comes from this peer any more: its connection to this node ended and it has not made
    /// another one for 200 ms, it was silent for a second (see [`HostContext::silence`]), or it has
    /// closed this group. Evidence, no proof: it may be the network. Also reported of each peer
    /// when the transport of a group starts, if it is not known to be connected: a group does not
    /// sleep while it waits for a peer that was never reported. It sleeps only under a leader whose
    /// process is heard, and over a transport that [reports](HostTransport::reports_presence) that.
    PeerDown(NodeId),
    /// A peer that was reported down is connected again, or heard again. Of one that was not
    /// reported down: another process of it is connected, or another opening of the group there,
    /// before anything noticed the end of the one before. What that one led has no leader.
    PeerUp(NodeId),
}

/// Takes the events of a transport. Cheap to clone, usable from any thread, never blocks.
#[derive(Clone)]
pub struct Inbox(Arc<dyn Fn(TransportEvent) -> bool + Send + Sync>);

impl Inbox {
    /// An inbox that passes every event to `take`, which returns whether there was room for it.
    pub fn new(take: impl Fn(TransportEvent) -> bool + Send + Sync + 'static) -> Inbox {
        Inbox(Arc::new(take))
    }

    pub(crate) fn put(&self, event: TransportEvent) -> bool {
        (self.0)(event)
    }

    /// Delivers a message. False if the node is busy: the message is dropped, as by a lossy
    /// network. A transport that can make its peer wait may keep a clone and retry.
    pub fn deliver(&self, message: Message) -> bool {
        (self.0)(TransportEvent::Message(message))
    }

    /// Reports that messages to `peer` were lost.
    pub fn unreachable(&self, peer: NodeId) {
        (self.0)(TransportEvent::Unreachable(peer));
    }

    /// Reports that the handshake with `peer` succeeded, and the id of its data directory.
    pub fn peer_identified(&self, peer: NodeId, directory: u128) {
        (self.0)(TransportEvent::PeerIdentified { peer, directory });
    }

    /// Reports the [`TransportContext::advertised`] of `peer`, also if it is empty. False, and
    /// ignored, for a text that [`Builder::advertise`](crate::Builder::advertise) would refuse.
    pub fn advertised(&self, peer: NodeId, text: &str) -> bool {
        check_advertised(text).is_ok()
            && self.put(TransportEvent::Advertised { peer, text: text.into() })
    }

    /// Reports that one of this node and `peer` refuses the other, and why.
    pub fn refused(&self, peer: NodeId, reason: String) {
        (self.0)(TransportEvent::Refused { peer, reason });
    }

    /// Reports that `peer` has seen a later incarnation of this node's data directory.
    pub fn directory_outdated(&self, peer: NodeId) {
        (self.0)(TransportEvent::OutdatedDirectory(peer));
    }

    /// Reports that nothing comes from `peer` any more.
    pub fn peer_down(&self, peer: NodeId) {
        (self.0)(TransportEvent::PeerDown(peer));
    }

    /// Reports that `peer`, which was reported down, is there again.
    pub fn peer_up(&self, peer: NodeId) {
        (self.0)(TransportEvent::PeerUp(peer));
    }

    /// Reports that a reported refusal between this node and `peer` is over.
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

/// Grants threads. At its shutdown the node waits for them to end. It fails if one panics.
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

    /// Runs detached work with `spawn` instead: on threads that the node does not wait for.
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

    /// Runs `work` on a new thread that a shutdown does not wait for: only for work that cannot be
    /// interrupted, ends by itself, and holds no resource of the node. Name resolution is one.
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
