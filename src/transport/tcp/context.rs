//! The state that inbound and outbound connections of one transport share: who this node is, which
//! peers it accepts, where messages go, and whether the transport is stopped.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::connection::InboundConnection;
use super::refusals::{By, Refusals};
use super::stream::ConnectError;
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::hello::{HandshakeRejection, Hello, PeerRegistry, Rejection, Way, claim};
use crate::transport::{DirectoryIdentity, Inbox, Spawner, TransportContext};

/// A process of a node that does not answer for this long counts as gone.
const RIVAL_TIMEOUT: Duration =
    if cfg!(test) { Duration::from_millis(700) } else { Duration::from_secs(2) };
/// Least time between two log lines of the same kind.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// See the [module](self).
pub(super) struct TcpContext {
    pub(super) node: NodeId,
    pub(super) message_bytes_max: usize,
    pub(super) inbox: Inbox,
    pub(super) spawner: Spawner,
    pub(super) registry: Mutex<PeerRegistry>,
    pub(super) refusals: Refusals,
    /// All inbound connections that are open, before and after their handshake.
    pub(super) connections: Mutex<Vec<Arc<InboundConnection>>>,
    /// The number of the next ping that asks whether a peer is alive.
    next_ping: AtomicU64,
    stopped: Mutex<bool>,
    stopping: Condvar,
    /// One for each reason of a rejection, and one for bytes that are no hello.
    rejection_logs: [LogRateLimit; HandshakeRejection::ALL.len() + 1],
    oversize_log: LogRateLimit,
}

impl TcpContext {
    pub(super) fn new(context: &TransportContext) -> TcpContext {
        TcpContext {
            node: context.node,
            message_bytes_max: context.message_bytes_max,
            inbox: context.inbox.clone(),
            spawner: context.spawner.clone(),
            registry: Mutex::new(PeerRegistry::new(context, random())),
            refusals: Refusals::new(context),
            connections: Mutex::default(),
            next_ping: AtomicU64::new(1),
            stopped: Mutex::new(false),
            stopping: Condvar::new(),
            rejection_logs: Default::default(),
            oversize_log: LogRateLimit::default(),
        }
    }

    /// Decides on the hello of a peer: in answer to that of this node if `expected` names a peer.
    /// `has_rival` reports, by a deadline, whether another process of that node is connected
    /// elsewhere than to this node.
    pub(super) fn judge(
        &self,
        hello: &[u8],
        expected: Option<NodeId>,
        has_rival: impl FnOnce(&Hello, Instant) -> bool,
    ) -> Result<Hello, Rejection> {
        self.admit(hello, expected, has_rival).map_err(|reason| {
            let why = self.registry.lock().rejection(reason, hello);
            if let Some(peer) = expected.or_else(|| Some(claim(hello)?.1)) {
                self.refusals.set(peer, By::Us, why.clone());
            }
            why
        })
    }

    fn admit(
        &self,
        hello: &[u8],
        expected: Option<NodeId>,
        has_rival: impl FnOnce(&Hello, Instant) -> bool,
    ) -> Result<Hello, HandshakeRejection> {
        let hello = Hello::decode(hello)?;
        if expected.is_some_and(|peer| peer != hello.from) {
            return Err(HandshakeRejection::WrongNode);
        }
        let way = if expected.is_some() { Way::Out } else { Way::In };
        let checked = self.registry.lock().check(&hello, way);
        // Also for an outdated copy: a process that is told so rejoins as a node that has lost its
        // directory. The node of a live process has not lost it.
        if matches!(checked, Ok(()) | Err(HandshakeRejection::OutdatedDirectory)) {
            let deadline = Instant::now() + RIVAL_TIMEOUT;
            if self.has_inbound_rival(&hello, deadline) || has_rival(&hello, deadline) {
                return Err(HandshakeRejection::Duplicate);
            }
        }
        checked?;
        let mut registry = self.registry.lock();
        registry.admit(&hello, way)?;
        // Under the lock, so in the order of the handshakes: the directory of a peer may change
        // from one to the next.
        if registry.knows(&hello) {
            self.inbox.peer_identified(hello.from, hello.identity.directory);
        }
        self.inbox.advertised(hello.from, &hello.advertised);
        drop(registry);
        Ok(hello)
    }

    /// Whether another process of that node is connected to this node, and alive.
    fn has_inbound_rival(&self, hello: &Hello, deadline: Instant) -> bool {
        let connections = self.connections.lock().clone();
        let number = || self.next_ping.fetch_add(1, Ordering::Relaxed);
        connections
            .iter()
            .filter(|connection| connection.is_rival_of(hello))
            .any(|connection| connection.is_alive(number(), deadline))
    }

    /// Sets the directory of this node. Returns whether it is another one than before.
    pub(super) fn introduce(&self, identity: DirectoryIdentity) -> bool {
        self.registry.lock().introduce(identity)
    }

    pub(super) fn close_connections(&self) {
        self.connections.lock().iter().for_each(|connection| connection.close());
    }

    /// Ends all waits. Returns false if the transport was stopped before.
    pub(super) fn stop(&self) -> bool {
        if std::mem::replace(&mut *self.stopped.lock(), true) {
            return false;
        }
        self.stopping.notify_all();
        true
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.lock()
    }

    /// Sleeps for `pause`, or until the transport is stopped. Returns whether it is.
    pub(super) fn wait_or_stopped(&self, pause: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.stopping.wait_for(&mut stopped, pause);
        }
        *stopped
    }

    /// Logs why an inbound connection was closed, at a limited rate. A disconnect is no rejection.
    pub(super) fn log_rejection(&self, about: &str, why: &ConnectError) {
        let kind = match why {
            ConnectError::HandshakeRejection(why) => why.reason as usize,
            ConnectError::Io(error) if error.kind() == io::ErrorKind::InvalidData => 0,
            ConnectError::Io(error) => return log::debug!("{}lost {about}: {error}", log_prefix()),
        };
        // The status of the node shows the rejection of a member at its own address. Of any other
        // the address helps.
        let is_in_status =
            matches!(why, ConnectError::HandshakeRejection(why) if why.reason.is_of_a_member());
        if !is_in_status && self.rejection_logs[kind].permits() {
            log::warn!("{}refused a connection from {about}: {why}", log_prefix());
        }
    }

    /// Logs that a message to `peer` was dropped for its length, at a limited rate.
    pub(super) fn log_oversize(&self, len: usize, peer: NodeId) {
        if self.oversize_log.permits() {
            log::warn!(
                "{}dropped a message of {len} bytes to node {peer}, for the limit is {}",
                log_prefix(),
                self.message_bytes_max
            );
        }
    }
}

/// Permits one log line per [`LOG_INTERVAL`].
#[derive(Debug, Default)]
pub(super) struct LogRateLimit(Mutex<Option<Instant>>);

impl LogRateLimit {
    pub(super) fn permits(&self) -> bool {
        let (mut last, now) = (self.0.lock(), Instant::now());
        let permitted = last.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL);
        if permitted {
            *last = Some(now);
        }
        permitted
    }
}

/// A random number.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
