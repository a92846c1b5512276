//! The state that all connections and groups of one port share: who this process is, which groups
//! it has, which connections are open, and whether the port is closed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::connection::InboundConnection;
use super::local_group::LocalGroup;
use super::refusals::By;
use super::stream::ConnectError;
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::hello::slots::ConnectionHello;
use crate::transport::hello::{HandshakeRejection, Hello, Rejection, Way, claim};
use crate::transport::{Spawner, TransportContext};

/// A process of a node that does not answer for this long counts as gone.
const RIVAL_TIMEOUT: Duration =
    if cfg!(test) { Duration::from_millis(700) } else { Duration::from_secs(2) };
/// Least time between two log lines of the same kind.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Inbound connections whose hellos claim the same node.
const CLAIMS_MAX: usize = 8;
/// Least time between two refusals of a process that all groups are told of.
const SPREAD_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two looks for refusals that are over.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);

/// See the [module](self).
pub(super) struct Port {
    pub(super) node: NodeId,
    /// Random: tells this process from others of this node.
    pub(super) process: u64,
    pub(super) message_bytes_max: usize,
    /// A peer that is silent for so long is reported down.
    pub(super) silence: Duration,
    pub(super) spawner: Spawner,
    /// Whether it has one group only, that of a transport by itself.
    is_lone: bool,
    peers: Vec<NodeId>,
    groups: Mutex<Groups>,
    /// All inbound connections that are open, before and after their handshake.
    pub(super) connections: Mutex<Vec<Arc<InboundConnection>>>,
    /// The number of the next ping that asks whether a peer is alive.
    next_ping: AtomicU64,
    stopped: Mutex<bool>,
    stopping: Condvar,
    expired: Mutex<Option<Instant>>,
    /// One for each reason of a rejection, and one for bytes that are no hello.
    rejection_logs: [LogRateLimit; HandshakeRejection::ALL.len() + 1],
    oversize_log: LogRateLimit,
    overload_log: LogRateLimit,
}

#[derive(Default)]
struct Groups {
    opened: u64,
    by_name: BTreeMap<String, Arc<LocalGroup>>,
    /// When all groups were told that this peer is refused, or refuses this process.
    spread: BTreeMap<NodeId, Instant>,
}

/// What a port needs to know of its process.
pub(super) struct PortSettings {
    pub(super) node: NodeId,
    pub(super) is_lone: bool,
    pub(super) peers: Vec<(NodeId, String)>,
    pub(super) message_bytes_max: usize,
    pub(super) silence: Duration,
    pub(super) spawner: Spawner,
}

impl Port {
    pub(super) fn new(settings: &PortSettings) -> Port {
        Port {
            node: settings.node,
            process: random(),
            message_bytes_max: settings.message_bytes_max,
            silence: settings.silence,
            spawner: settings.spawner.clone(),
            is_lone: settings.is_lone,
            peers: settings.peers.iter().map(|(peer, _)| *peer).collect(),
            groups: Mutex::default(),
            connections: Mutex::default(),
            next_ping: AtomicU64::new(1),
            stopped: Mutex::new(false),
            stopping: Condvar::new(),
            expired: Mutex::default(),
            rejection_logs: Default::default(),
            oversize_log: LogRateLimit::default(),
            overload_log: LogRateLimit::default(),
        }
    }

    /// Takes a group in, unless one of that name is here.
    pub(super) fn join(&self, context: &TransportContext) -> io::Result<Arc<LocalGroup>> {
        let mut groups = self.groups.lock();
        if groups.by_name.contains_key(&context.group) {
            let told = format!("group {:?} is on this port already", context.group);
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, told));
        }
        groups.opened += 1;
        let group = Arc::new(LocalGroup::new(groups.opened, context, random()));
        groups.by_name.insert(context.group.clone(), group.clone());
        Ok(group)
    }

    /// A group leaves. Its peers are told soon.
    pub(super) fn leave(&self, group: &LocalGroup) {
        group.stop();
        let mut groups = self.groups.lock();
        if groups.by_name.get(&group.name).is_some_and(|here| here.number == group.number) {
            groups.by_name.remove(&group.name);
        }
        drop(groups);
        self.give_up_slots(group);
    }

    /// Ends the slots of a group on all inbound connections.
    pub(super) fn give_up_slots(&self, group: &LocalGroup) {
        for connection in &*self.connections.lock() {
            connection.give_up(group.number);
        }
    }

    /// The group that a hello is for. A port with one group judges every hello for that one.
    pub(super) fn group_of(&self, hello: &[u8]) -> Option<Arc<LocalGroup>> {
        let groups = self.groups.lock();
        if self.is_lone {
            return groups.by_name.values().next().cloned();
        }
        groups.by_name.get(&Hello::decode(hello).ok()?.group).cloned()
    }

    /// The hello of a connection to `peer`.
    pub(super) fn hello_to(&self, peer: NodeId) -> ConnectionHello {
        ConnectionHello { from: self.node, to: peer, process: self.process }
    }

    /// Decides on the hello of a peer for a group: in answer to that of this node if `expected`
    /// names a peer. `meanwhile` is called while the decision waits for another process of the
    /// peer. `has_rival` reports, by a deadline, whether this node is connected to another process.
    pub(super) fn judge(
        &self,
        group: &LocalGroup,
        hello: &[u8],
        expected: Option<NodeId>,
        meanwhile: impl Fn(),
        has_rival: impl FnOnce(&Hello, Instant) -> bool,
    ) -> Result<Hello, Rejection> {
        self.admit(group, hello, expected, meanwhile, has_rival).map_err(|reason| {
            let why = group.registry.lock().rejection(reason, hello);
            if let Some(peer) = expected.or_else(|| Some(claim(hello)?.1)) {
                group.refusals.set(peer, By::Us, why.clone());
            }
            why
        })
    }

    fn admit(
        &self,
        group: &LocalGroup,
        hello: &[u8],
        expected: Option<NodeId>,
        meanwhile: impl Fn(),
        has_rival: impl FnOnce(&Hello, Instant) -> bool,
    ) -> Result<Hello, HandshakeRejection> {
        let hello = Hello::decode(hello)?;
        if expected.is_some_and(|peer| peer != hello.from) {
            return Err(HandshakeRejection::WrongNode);
        }
        let way = if expected.is_some() { Way::Out } else { Way::In };
        let checked = group.registry.lock().check(&hello, way);
        // Also for an outdated copy: a process that is told so rejoins as a node that has lost its
        // directory. The node of a live process has not lost it.
        if matches!(checked, Ok(()) | Err(HandshakeRejection::OutdatedDirectory)) {
            let deadline = Instant::now() + RIVAL_TIMEOUT;
            if self.has_inbound_rival(group, &hello, deadline, meanwhile)
                || has_rival(&hello, deadline)
            {
                return Err(HandshakeRejection::Duplicate);
            }
        }
        checked?;
        let mut registry = group.registry.lock();
        registry.admit(&hello, way)?;
        // Under the lock, so in the order of the handshakes: the directory of a peer may change
        // from one to the next.
        if registry.knows(&hello) {
            group.inbox.peer_identified(hello.from, hello.identity.directory);
        }
        group.inbox.advertised(hello.from, &hello.advertised);
        drop(registry);
        Ok(hello)
    }

    /// Whether another process of that node has a slot for the group, and is alive. The connection
    /// of one that is not is closed: its other groups need not wait for it again.
    fn has_inbound_rival(
        &self,
        group: &LocalGroup,
        hello: &Hello,
        deadline: Instant,
        meanwhile: impl Fn(),
    ) -> bool {
        let connections = self.connections.lock().clone();
        let number = || self.next_ping.fetch_add(1, Ordering::Relaxed);
        let is_alive = |rival: &Arc<InboundConnection>| {
            let is_alive = rival.is_alive(number(), deadline, &meanwhile);
            if !is_alive {
                rival.close();
            }
            is_alive
        };
        let rivals = connections.iter().filter(|other| other.is_rival_of(group, hello));
        // All of them: each that does not answer is closed.
        rivals.map(is_alive).fold(false, |any, is_alive| any | is_alive)
    }

    /// A connection of that peer gets a slot for `group`. Its earlier slots elsewhere end: a peer
    /// that connects again has given up its earlier connection, also if that still looks open here.
    pub(super) fn accept(
        &self,
        connection: &Arc<InboundConnection>,
        slot: u32,
        group: &Arc<LocalGroup>,
        hello: &Hello,
    ) {
        let connections = self.connections.lock();
        let is_earlier = |other: &&Arc<InboundConnection>| {
            other.is_from(hello.from) && !Arc::ptr_eq(other, connection)
        };
        for earlier in connections.iter().filter(is_earlier) {
            if earlier.give_up(group.number) && earlier.slots() == 0 {
                earlier.close();
            }
        }
        connection.accept(slot, group, hello);
        drop(connections);
        // It may have left meanwhile.
        if group.is_stopped() {
            connection.give_up(group.number);
        }
        group.meet(hello.from, hello.process());
    }

    /// Tells a group that nothing comes from a peer any more, unless another connection brings it.
    pub(super) fn report_down(&self, group: &LocalGroup, peer: NodeId) {
        group.set_down(peer, || {
            self.connections.lock().iter().any(|other| other.carries(peer, group.number))
        });
    }

    /// A connection claims to be of a node. Of too many that do, the oldest without a group goes.
    pub(super) fn identify(&self, connection: &Arc<InboundConnection>, hello: &ConnectionHello) {
        let connections = self.connections.lock();
        // One that was closed already leaves as soon as its thread notices.
        let is_claim =
            |other: &&Arc<InboundConnection>| other.is_from(hello.from) && !other.is_closed();
        let claims: Vec<_> = connections.iter().filter(is_claim).collect();
        if claims.len() >= CLAIMS_MAX
            && let Some(oldest) = claims.iter().find(|other| other.slots() == 0)
        {
            oldest.close();
        }
        connection.identify(hello);
    }

    /// A process of that peer is refused, or refuses this one: this concerns all groups.
    pub(super) fn refuse_process(&self, peer: NodeId, by: By, why: &Rejection) {
        let mut groups = self.groups.lock();
        if !self.is_lone {
            let is_new = |at: &Instant| at.elapsed() >= SPREAD_INTERVAL;
            if !self.peers.contains(&peer) || !groups.spread.get(&peer).is_none_or(is_new) {
                return;
            }
            groups.spread.insert(peer, Instant::now());
        }
        let told: Vec<_> = groups.by_name.values().cloned().collect();
        drop(groups);
        let told = told.iter().filter(|group| self.is_lone || group.members.contains(&peer));
        told.for_each(|group| group.refusals.set(peer, by, why.clone()));
    }

    /// Ends the refusals of all groups that were not repeated.
    pub(super) fn expire_refusals(&self) {
        let now = Instant::now();
        {
            let mut last = self.expired.lock();
            if last.is_some_and(|last| now.saturating_duration_since(last) < EXPIRY_INTERVAL) {
                return;
            }
            *last = Some(now);
        }
        let groups: Vec<_> = self.groups.lock().by_name.values().cloned().collect();
        groups.iter().for_each(|group| group.refusals.expire());
    }

    pub(super) fn close_connections(&self) {
        self.connections.lock().iter().for_each(|connection| connection.close());
    }

    /// Ends all waits. Returns false if the port was closed before.
    pub(super) fn stop(&self) -> bool {
        if std::mem::replace(&mut *self.stopped.lock(), true) {
            return false;
        }
        let groups: Vec<_> = self.groups.lock().by_name.values().cloned().collect();
        groups.iter().for_each(|group| group.stop());
        self.stopping.notify_all();
        true
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.lock()
    }

    /// Sleeps for `pause`, or until the port is closed. Returns whether it is.
    pub(super) fn wait_or_stopped(&self, pause: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.stopping.wait_for(&mut stopped, pause);
        }
        *stopped
    }

    /// Logs that a message from `peer` was dropped because its group is busy, at a limited rate.
    pub(super) fn log_overload(&self, peer: NodeId) {
        if self.overload_log.permits() {
            log::warn!(
                "{}drops messages from node {peer}, for this group is too busy to take them: it \
                 shares the connection with other groups, which must not wait",
                log_prefix()
            );
        }
    }

    /// Logs why an inbound connection was closed, or one of its slots, at a limited rate. A
    /// disconnect is no rejection.
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

/// Between half of `pause` and all of it, so that two nodes do not retry in step.
pub(super) fn jitter(pause: Duration) -> Duration {
    pause / 2 + pause.mul_f64((random() % 1024) as f64 / 2048.0)
}
