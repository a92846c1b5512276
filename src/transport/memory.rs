//! A network inside one process, which can be cut.

mod presence;
#[cfg(test)]
mod presence_tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use self::presence::{Presence, Reports};
use super::hello::{HandshakeRejection, PeerRegistry, Way};
use super::{
    DirectoryIdentity, HostContext, HostTransport, Inbox, Message, Transport, TransportContext,
    TransportEvent,
};
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::primitives::Mutex;

/// A network between nodes of the same process. Clones are the same network.
///
/// Messages are delivered at once, on the thread that sends them. A message is lost if a cut lies
/// between the two nodes, if the other one is not attached, or if it is busy. The peer is reported
/// unreachable to the sender.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<NetworkState>>);

#[derive(Default)]
struct NetworkState {
    attached_so_far: u64,
    endpoints: Vec<Endpoint>,
    isolated: HashSet<NodeId>,
    /// Both directions of every pair that cannot reach each other.
    cut: HashSet<(NodeId, NodeId)>,
    reports: Reports,
}

/// A started transport.
struct Endpoint {
    number: u64,
    context: TransportContext,
    registry: PeerRegistry,
    /// The numbers of the connected endpoints: both sides accepted the hello of the other.
    connected: Vec<u64>,
    /// Of an endpoint of a host: which peers it was told are there.
    presence: Option<Presence>,
}

impl MemoryNetwork {
    /// A network without nodes or cuts.
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::default()
    }

    /// A transport for the builder of `node`. A node that restarts takes a new one, which replaces
    /// the old.
    pub fn transport(&self, node: NodeId) -> MemoryTransport {
        MemoryTransport {
            network: self.clone(),
            node,
            host: None,
            endpoint: None,
            addressed: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// A transport for all groups of a host. What cuts a node off cuts off each of its groups. A
    /// peer is reported down at once when it is cut off or closes the group, and up again
    /// afterwards, so idle groups sleep.
    pub fn host(&self, host: impl Into<NodeId>) -> MemoryHost {
        let host = host.into();
        MemoryHost { network: self.clone(), host, state: Arc::default() }
    }

    /// Cuts `node` off from all others, until [`rejoin`](MemoryNetwork::rejoin) or
    /// [`heal`](MemoryNetwork::heal).
    pub fn isolate(&self, node: NodeId) {
        self.change(|state| state.isolated.insert(node));
    }

    /// Takes back [`isolate`](MemoryNetwork::isolate).
    pub fn rejoin(&self, node: NodeId) {
        self.change(|state| state.isolated.remove(&node));
    }

    /// Cuts every node of `one` off from every node of `other`, both ways, until
    /// [`heal`](MemoryNetwork::heal).
    pub fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        let pairs = one.iter().flat_map(|&a| other.iter().flat_map(move |&b| [(a, b), (b, a)]));
        self.change(|state| state.cut.extend(pairs));
    }

    /// Removes every cut.
    pub fn heal(&self) {
        self.change(|state| {
            state.isolated.clear();
            state.cut.clear();
        });
    }

    /// Changes who reaches whom, and reports what that means to the groups of hosts.
    fn change<T>(&self, change: impl FnOnce(&mut NetworkState) -> T) -> T {
        let outcome = self.0.lock().change(change);
        self.report_presence();
        outcome
    }

    /// Tells what is to be told, with no lock held: whoever is told may change the network.
    fn report_presence(&self) {
        loop {
            let next = self.0.lock().reports.next();
            let Some((inbox, event)) = next else { return };
            inbox.put(event);
            self.0.lock().reports.told();
        }
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        let nodes: Vec<NodeId> =
            state.endpoints.iter().map(|endpoint| endpoint.context.node).collect();
        f.debug_struct("MemoryNetwork")
            .field("nodes", &nodes)
            .field("isolated", &state.isolated)
            .field("cut", &state.cut)
            .finish()
    }
}

impl NetworkState {
    /// Changes who reaches whom, and notes what is to be reported of that.
    fn change<T>(&mut self, change: impl FnOnce(&mut NetworkState) -> T) -> T {
        let outcome = change(self);
        let nodes: BTreeMap<u64, NodeId> =
            self.endpoints.iter().map(|one| (one.number, one.context.node)).collect();
        for at in 0..self.endpoints.len() {
            let Endpoint { connected, context, presence, .. } = &self.endpoints[at];
            if presence.is_none() {
                continue;
            }
            let peers = connected.iter().filter_map(|number| Some((*nodes.get(number)?, *number)));
            let up: BTreeMap<_, _> =
                peers.filter(|(peer, _)| !self.is_cut(*peer, context.node)).collect();
            let Endpoint { context, presence, .. } = &mut self.endpoints[at];
            if let Some(presence) = presence {
                presence.note(context, up, &mut self.reports);
            }
        }
        outcome
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.isolated.contains(&from)
            || self.isolated.contains(&to)
            || self.cut.contains(&(from, to))
    }

    /// The inbox for a message from the endpoint `number` of node `from` to node `to`, if
    /// connected.
    fn route(&self, number: u64, from: NodeId, to: NodeId) -> Option<&Inbox> {
        if self.is_cut(from, to) {
            return None;
        }
        let endpoint = self
            .endpoints
            .iter()
            .find(|endpoint| endpoint.context.node == to && endpoint.connected.contains(&number))?;
        Some(&endpoint.context.inbox)
    }

    /// Attaches a node, in place of an earlier endpoint of it. Returns the events to deliver.
    fn attach(
        &mut self,
        number: u64,
        context: TransportContext,
        presence: Option<Presence>,
    ) -> Vec<(Inbox, TransportEvent)> {
        let place =
            |context: &TransportContext| (context.node, context.cluster, context.group.clone());
        let earlier = self
            .endpoints
            .iter()
            .find(|endpoint| place(&endpoint.context) == place(&context))
            .map(|endpoint| endpoint.number);
        if let Some(earlier) = earlier {
            self.detach(earlier);
        }
        self.put(Endpoint {
            number,
            registry: PeerRegistry::new(&context, 0),
            context,
            connected: Vec::new(),
            presence,
        })
    }

    fn put(&mut self, mut new: Endpoint) -> Vec<(Inbox, TransportEvent)> {
        let mut events = Vec::new();
        for other in &mut self.endpoints {
            if other.context.group != new.context.group
                || other.context.cluster != new.context.cluster
            {
                continue;
            }
            let (here, there) = (new.context.node, other.context.node);
            // An endpoint is the address of its node, so both hellos are as of outbound
            // connections.
            let heard = other.registry.admit(&new.registry.hello_to(there), Way::Out);
            let answered = new.registry.admit(&other.registry.hello_to(here), Way::Out);
            if heard == Err(HandshakeRejection::OutdatedDirectory) {
                events.push((new.context.inbox.clone(), TransportEvent::OutdatedDirectory(there)));
            }
            let refusal = heard
                .map_err(|why| (there, here, why))
                .and(answered.map_err(|why| (here, there, why)));
            if let Err((refusing, refused, why)) = refusal {
                log::warn!("{}node {refusing} refuses node {refused}: {why}", log_prefix());
                continue;
            }
            new.connected.push(other.number);
            other.connected.push(new.number);
            let identified = |peer, of: &TransportContext| TransportEvent::PeerIdentified {
                peer,
                directory: of.identity.directory,
            };
            let advertised = |peer, of: &TransportContext| TransportEvent::Advertised {
                peer,
                text: of.advertised.as_str().into(),
            };
            for (inbox, peer, context) in [
                (&other.context.inbox, here, &new.context),
                (&new.context.inbox, there, &other.context),
            ] {
                events.extend(
                    [identified(peer, context), advertised(peer, context)]
                        .map(|event| (inbox.clone(), event)),
                );
            }
        }
        self.endpoints.push(new);
        events
    }

    /// Changes the identity of an endpoint.
    fn introduce(
        &mut self,
        number: u64,
        identity: DirectoryIdentity,
    ) -> Vec<(Inbox, TransportEvent)> {
        let Some(at) = self.endpoints.iter().position(|endpoint| endpoint.number == number) else {
            return Vec::new();
        };
        self.endpoints[at].context.identity = identity;
        if !self.endpoints[at].registry.introduce(identity) {
            return Vec::new();
        }
        let mut endpoint = self.endpoints.remove(at);
        endpoint.connected.clear();
        self.detach(number);
        self.put(endpoint)
    }

    /// The group of an endpoint has an id now. Nodes of other groups are connected no more.
    fn set_group_uid(&mut self, number: u64, uid: u128) -> Vec<(Inbox, TransportEvent)> {
        let Some(at) = self.endpoints.iter().position(|endpoint| endpoint.number == number) else {
            return Vec::new();
        };
        self.endpoints[at].context.group_uid = uid;
        if !self.endpoints[at].registry.set_group_uid(uid) {
            return Vec::new();
        }
        let mut endpoint = self.endpoints.remove(at);
        endpoint.connected.clear();
        self.detach(number);
        self.put(endpoint)
    }

    /// Removes an endpoint and its connections.
    fn detach(&mut self, number: u64) {
        self.endpoints.retain(|endpoint| endpoint.number != number);
        self.endpoints
            .iter_mut()
            .for_each(|endpoint| endpoint.connected.retain(|&other| other != number));
    }
}

fn deliver(events: Vec<(Inbox, TransportEvent)>) {
    for (inbox, event) in events {
        inbox.put(event);
    }
}

/// The transport of one node of a [`MemoryNetwork`].
pub struct MemoryTransport {
    network: MemoryNetwork,
    node: NodeId,
    host: Option<Arc<Mutex<HostState>>>,
    endpoint: Option<(u64, Inbox)>,
    /// Empty between two calls; kept for their capacity.
    addressed: Vec<(Option<Inbox>, Message)>,
    lost: Vec<NodeId>,
}

impl Transport for MemoryTransport {
    fn start(&mut self, context: TransportContext) -> io::Result<()> {
        if context.node != self.node {
            let told = format!(
                "this is the transport of node {}, not of node {}",
                self.node, context.node
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        }
        context.check_advertised()?;
        let inbox = context.inbox.clone();
        // Held until the endpoint is there, for a stop of the host to find it.
        let mut host = self.host.as_ref().map(|host| host.lock());
        if let Some(host) = &host {
            host.check(&self.network, &context)?;
        }
        let presence = host.as_ref().map(|_| Presence::default());
        // What is to be reported waits until no lock is held.
        let (number, events) = self.network.0.lock().change(|state| {
            state.attached_so_far += 1;
            let number = state.attached_so_far;
            (number, state.attach(number, context, presence))
        });
        if let Some(host) = &mut host {
            host.endpoints.push(number);
        }
        drop(host);
        self.endpoint = Some((number, inbox));
        deliver(events);
        self.network.report_presence();
        Ok(())
    }

    fn introduce(&mut self, identity: DirectoryIdentity) {
        let Some((number, _)) = self.endpoint else { return };
        let events = self.network.change(|state| state.introduce(number, identity));
        deliver(events);
    }

    fn set_group_uid(&mut self, uid: u128) {
        let Some((number, _)) = self.endpoint else { return };
        let events = self.network.change(|state| state.set_group_uid(number, uid));
        deliver(events);
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        let Some((number, own_inbox)) = &self.endpoint else { return messages.clear() };
        {
            let state = self.network.0.lock();
            let addressed = messages.drain(..).filter(|message| message.from() == self.node);
            self.addressed.extend(
                addressed.map(|message| {
                    (state.route(*number, self.node, message.to()).cloned(), message)
                }),
            );
        }
        // No lock from here on: the receiver of a message may send, cut or stop.
        for (inbox, message) in self.addressed.drain(..) {
            let to = message.to();
            let taken = inbox.is_some_and(|inbox| inbox.deliver(message));
            if !taken && !self.lost.contains(&to) {
                self.lost.push(to);
            }
        }
        for peer in self.lost.drain(..) {
            own_inbox.unreachable(peer);
        }
    }

    fn stop(&mut self) {
        if let Some((number, _)) = self.endpoint.take() {
            if let Some(host) = &self.host {
                host.lock().endpoints.retain(|other| *other != number);
            }
            self.network.change(|state| state.detach(number));
        }
    }
}

/// The transport of one host of a [`MemoryNetwork`].
pub struct MemoryHost {
    network: MemoryNetwork,
    host: NodeId,
    state: Arc<Mutex<HostState>>,
}

#[derive(Default)]
struct HostState {
    /// All hosts, once it is started and until it is stopped.
    peers: Option<Vec<NodeId>>,
    was_started: bool,
    /// The started transports of groups.
    endpoints: Vec<u64>,
}

impl HostState {
    /// # Errors
    /// If a group with this context cannot start.
    fn check(&self, network: &MemoryNetwork, context: &TransportContext) -> io::Result<()> {
        let Some(peers) = &self.peers else {
            let told = "the transport of the host is not started, or stopped";
            return Err(io::Error::new(io::ErrorKind::NotConnected, told));
        };
        let is_known = |node: &NodeId| *node == context.node || peers.contains(node);
        if let Some((stranger, _)) = context.addresses.iter().find(|(node, _)| !is_known(node)) {
            let told = format!("node {stranger} is no peer of this host: it has no address here");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        }
        let state = network.0.lock();
        let mut own = state.endpoints.iter().filter(|one| self.endpoints.contains(&one.number));
        if own.any(|one| one.context.group == context.group) {
            let told = format!("group {:?} is on this host already", context.group);
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, told));
        }
        Ok(())
    }
}

impl HostTransport for MemoryHost {
    fn start(&self, context: HostContext) -> io::Result<()> {
        if context.host != self.host {
            let told = format!(
                "this is the transport of host {}, not of host {}",
                self.host, context.host
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        }
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.was_started, true) {
            let told = "the transport was started already";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, told));
        }
        state.peers = Some(context.peers.iter().map(|(peer, _)| *peer).collect());
        Ok(())
    }

    fn group(&self) -> Box<dyn Transport> {
        let mut transport = self.network.transport(self.host);
        transport.host = Some(self.state.clone());
        Box::new(transport)
    }

    fn stop(&self) {
        let endpoints = {
            let mut host = self.state.lock();
            host.peers = None;
            std::mem::take(&mut host.endpoints)
        };
        self.network.change(|state| endpoints.iter().for_each(|number| state.detach(*number)));
    }

    fn reports_presence(&self) -> bool {
        true
    }
}

impl Drop for MemoryHost {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for MemoryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryHost").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport")
            .field("node", &self.node)
            .field("started", &self.endpoint.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Spawner;

    struct Node {
        transport: MemoryTransport,
        arrivals: Arc<Mutex<Vec<TransportEvent>>>,
    }

    fn context(node: u64, inbox: Inbox) -> TransportContext {
        let addresses = (1..=3).map(|id| (NodeId::from(id), String::new())).collect();
        let no_threads = Spawner::new(|_, _| Err(io::ErrorKind::Unsupported.into()));
        TransportContext::new(NodeId::from(node), "orders", addresses, inbox, no_threads)
    }

    impl Node {
        fn started(
            network: &MemoryNetwork,
            node: u64,
            change: impl FnOnce(&mut TransportContext),
        ) -> Node {
            let arrivals = Arc::new(Mutex::new(Vec::new()));
            let recording_inbox = arrivals.clone();
            let mut context = context(
                node,
                Inbox::new(move |arrival| {
                    recording_inbox.lock().push(arrival);
                    true
                }),
            );
            change(&mut context);
            let mut transport = network.transport(node.into());
            transport.start(context).unwrap();
            Node { transport, arrivals }
        }

        /// Sends one message to each of the three, and says what was reported unreachable.
        fn send_to_all(&mut self) -> Vec<u64> {
            self.arrivals.lock().clear();
            let from = self.transport.node;
            let others = (1..=3).map(NodeId::from).filter(|&to| to != from);
            self.transport.send(&mut others.map(|to| Message::sample(from, to, 1, 10)).collect());
            let reports = self.arrivals.lock();
            let unreachable = reports.iter().map(|arrival| {
                if let TransportEvent::Unreachable(peer) = arrival { peer.get() } else { 0 }
            });
            unreachable.collect()
        }

        fn messages(&self) -> usize {
            self.arrivals
                .lock()
                .iter()
                .filter(|arrival| matches!(arrival, TransportEvent::Message(_)))
                .count()
        }
    }

    fn three(network: &MemoryNetwork) -> [Node; 3] {
        [1, 2, 3].map(|node| Node::started(network, node, |_| ()))
    }

    #[test]
    fn a_cut_holds_until_it_is_healed_and_both_ways() {
        let network = MemoryNetwork::new();
        let [mut one, mut two, mut three] = three(&network);
        assert_eq!(
            (one.send_to_all(), two.send_to_all(), three.send_to_all()),
            (vec![], vec![], vec![])
        );
        network.isolate(2.into());
        assert_eq!(
            (one.send_to_all(), two.send_to_all(), three.send_to_all()),
            (vec![2], vec![1, 3], vec![2])
        );
        network.isolate(3.into());
        network.rejoin(2.into());
        assert_eq!(
            (one.send_to_all(), two.send_to_all(), three.send_to_all()),
            (vec![3], vec![3], vec![1, 2])
        );
        network.heal();
        network.partition(&[NodeId::from(1), NodeId::from(2)], &[NodeId::from(3)]);
        assert_eq!(
            (one.send_to_all(), two.send_to_all(), three.send_to_all()),
            (vec![3], vec![3], vec![1, 2])
        );
        network.clone().heal();
        assert_eq!(
            (one.send_to_all(), two.send_to_all(), three.send_to_all()),
            (vec![], vec![], vec![])
        );
    }

    #[test]
    fn a_node_that_restarts_replaces_its_old_endpoint() {
        let network = MemoryNetwork::new();
        let [mut one, mut old, _three] = three(&network);
        let new = Node::started(&network, 2, |context| context.identity.incarnation = 2);
        assert!(one.send_to_all().is_empty());
        assert_eq!((old.messages(), new.messages()), (0, 1));
        assert_eq!(old.send_to_all(), [1, 3], "a process that has been replaced reaches no node");
        drop(old);
        assert!(one.send_to_all().is_empty());
        assert_eq!(new.messages(), 2);
        drop(new);
        assert_eq!(one.send_to_all(), [2]);
    }

    #[test]
    fn those_who_meet_learn_of_each_other_and_a_wiped_disk_stays_outside() {
        let network = MemoryNetwork::new();
        let mut one =
            Node::started(&network, 1, |context| context.known = vec![(NodeId::from(3), 55)]);
        let two = Node::started(&network, 2, |context| context.advertised = "two".to_owned());
        let _three = Node::started(&network, 3, |context| {
            context.identity = DirectoryIdentity { directory: 56, incarnation: 1, complete: true }
        });
        let told = |node: &Node| format!("{:?}", node.arrivals.lock());
        let met = |peer, directory, text| {
            format!(
                "PeerIdentified {{ peer: node {peer}, directory: {directory} }}, \
                 Advertised {{ peer: node {peer}, text: {text:?} }}"
            )
        };
        assert_eq!(told(&one), format!("[{}]", met(2, 2, "two")));
        assert_eq!(told(&two), format!("[{}, {}]", met(1, 1, ""), met(3, 56, "")));
        let mut forger = context(4, Inbox::new(|_| true));
        forger.advertised = "two\nlines".to_owned();
        assert_eq!(
            network.transport(4.into()).start(forger).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(one.send_to_all(), [3]);
    }

    #[test]
    fn groups_on_one_network_do_not_hear_each_other() {
        let network = MemoryNetwork::new();
        let [mut one, two, _three] = three(&network);
        let elsewhere = Node::started(&network, 2, |context| context.group = "payments".into());
        assert!(one.send_to_all().is_empty());
        assert_eq!((two.messages(), elsewhere.messages()), (1, 0));
    }

    #[test]
    fn an_inbox_may_use_the_network_while_it_takes_a_message() {
        let network = MemoryNetwork::new();
        let [mut one, _two, _three] = three(&network);
        let inner = network.clone();
        let mut curious = network.transport(2.into());
        let look = Inbox::new(move |arrival| {
            if matches!(arrival, TransportEvent::Message(_)) {
                inner.isolate(3.into());
            }
            false
        });
        let mut context = context(2, look);
        context.identity.incarnation = 2;
        curious.start(context).unwrap();
        assert_eq!(one.send_to_all(), [2]);
        assert_eq!(one.send_to_all(), [2, 3]);
    }
}
