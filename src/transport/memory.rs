//! A network inside one process, which can be cut.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::hello::{HandshakeRejection, PeerRegistry, Way};
use super::{DirectoryIdentity, Inbox, Message, Transport, TransportContext, TransportEvent};
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::primitives::Mutex;

/// A network between nodes of the same process. Clones are the same network.
///
/// Messages are delivered at once, on the thread that sends them. A message is lost if a cut lies
/// between the two nodes, if nobody sits at the other end, or if that node is too busy to take it;
/// the sender is told that the peer is unreachable.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<NetworkState>>);

#[derive(Default)]
struct NetworkState {
    seats_so_far: u64,
    chairs: Vec<Endpoint>,
    isolated: HashSet<NodeId>,
    /// Both directions of every pair that cannot reach each other.
    cut: HashSet<(NodeId, NodeId)>,
}

/// A node that has taken its seat.
struct Endpoint {
    number: u64,
    context: TransportContext,
    acquaintances: PeerRegistry,
    /// The numbers of the chairs whose hello was accepted here, and ours there.
    met: Vec<u64>,
}

impl MemoryNetwork {
    /// A network without nodes or cuts.
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::default()
    }

    /// A place for `node`, to be given to its builder. A node that comes back takes a new one,
    /// which replaces the old.
    pub fn transport(&self, node: NodeId) -> MemoryTransport {
        MemoryTransport {
            network: self.clone(),
            node,
            chair: None,
            addressed: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// Cuts `node` off from everybody, until [`rejoin`](MemoryNetwork::rejoin) or
    /// [`heal`](MemoryNetwork::heal).
    pub fn isolate(&self, node: NodeId) {
        self.0.lock().isolated.insert(node);
    }

    /// Takes back [`isolate`](MemoryNetwork::isolate).
    pub fn rejoin(&self, node: NodeId) {
        self.0.lock().isolated.remove(&node);
    }

    /// Cuts every node of `one` off from every node of `other`, both ways, until
    /// [`heal`](MemoryNetwork::heal).
    pub fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        let mut wires = self.0.lock();
        for &a in one {
            for &b in other {
                wires.cut.extend([(a, b), (b, a)]);
            }
        }
    }

    /// Removes every cut.
    pub fn heal(&self) {
        let mut wires = self.0.lock();
        wires.isolated.clear();
        wires.cut.clear();
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wires = self.0.lock();
        let nodes: Vec<NodeId> = wires.chairs.iter().map(|chair| chair.context.node).collect();
        f.debug_struct("MemoryNetwork")
            .field("nodes", &nodes)
            .field("isolated", &wires.isolated)
            .field("cut", &wires.cut)
            .finish()
    }
}

impl NetworkState {
    /// Where a message from the chair `number` at node `from` to node `to` arrives, if it does.
    fn route(&self, number: u64, from: NodeId, to: NodeId) -> Option<&Inbox> {
        if self.isolated.contains(&from)
            || self.isolated.contains(&to)
            || self.cut.contains(&(from, to))
        {
            return None;
        }
        let chair = self
            .chairs
            .iter()
            .find(|chair| chair.context.node == to && chair.met.contains(&number))?;
        Some(&chair.context.inbox)
    }

    /// Seats a node and introduces it to everybody here. Returns whom to tell what.
    fn attach(&mut self, number: u64, context: TransportContext) -> Vec<(Inbox, TransportEvent)> {
        let place =
            |context: &TransportContext| (context.node, context.cluster, context.group.clone());
        let earlier = self
            .chairs
            .iter()
            .find(|chair| place(&chair.context) == place(&context))
            .map(|chair| chair.number);
        if let Some(earlier) = earlier {
            self.detach(earlier);
        }
        self.put(Endpoint {
            number,
            acquaintances: PeerRegistry::new(&context, 0),
            context,
            met: Vec::new(),
        })
    }

    fn put(&mut self, mut new: Endpoint) -> Vec<(Inbox, TransportEvent)> {
        let mut news = Vec::new();
        for other in &mut self.chairs {
            if other.context.group != new.context.group
                || other.context.cluster != new.context.cluster
            {
                continue;
            }
            let (here, there) = (new.context.node, other.context.node);
            // A chair is the address of its node: who sits there was found where it should be.
            let heard = other.acquaintances.admit(&new.acquaintances.hello_to(there), Way::Out);
            let answered = new.acquaintances.admit(&other.acquaintances.hello_to(here), Way::Out);
            if heard == Err(HandshakeRejection::OutdatedDirectory) {
                news.push((new.context.inbox.clone(), TransportEvent::OutdatedDirectory(there)));
            }
            let refusal = heard
                .map_err(|why| (there, here, why))
                .and(answered.map_err(|why| (here, there, why)));
            if let Err((refusing, refused, why)) = refusal {
                log::warn!("{}node {refusing} refuses node {refused}: {why}", log_prefix());
                continue;
            }
            new.met.push(other.number);
            other.met.push(new.number);
            let met = |peer, of: &TransportContext| TransportEvent::PeerIdentified {
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
                news.extend(
                    [met(peer, context), advertised(peer, context)]
                        .map(|arrival| (inbox.clone(), arrival)),
                );
            }
        }
        self.chairs.push(new);
        news
    }

    /// Whoever sits there speaks so from now on.
    fn introduce(
        &mut self,
        number: u64,
        identity: DirectoryIdentity,
    ) -> Vec<(Inbox, TransportEvent)> {
        let Some(at) = self.chairs.iter().position(|chair| chair.number == number) else {
            return Vec::new();
        };
        self.chairs[at].context.identity = identity;
        if !self.chairs[at].acquaintances.introduce(identity) {
            return Vec::new();
        }
        let mut chair = self.chairs.remove(at);
        chair.met.clear();
        self.detach(number);
        self.put(chair)
    }

    /// Whoever sits there neither hears nor reaches anybody any more.
    fn detach(&mut self, number: u64) {
        self.chairs.retain(|chair| chair.number != number);
        self.chairs.iter_mut().for_each(|chair| chair.met.retain(|&met| met != number));
    }
}

fn tell(news: Vec<(Inbox, TransportEvent)>) {
    for (inbox, news) in news {
        inbox.put(news);
    }
}

/// The place of one node in a [`MemoryNetwork`].
pub struct MemoryTransport {
    network: MemoryNetwork,
    node: NodeId,
    chair: Option<(u64, Inbox)>,
    /// Emptied with every batch; kept for their room.
    addressed: Vec<(Option<Inbox>, Message)>,
    lost: Vec<NodeId>,
}

impl Transport for MemoryTransport {
    fn start(&mut self, context: TransportContext) -> io::Result<()> {
        if context.node != self.node {
            let told =
                format!("this is the place of node {}, not of node {}", self.node, context.node);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        }
        context.check_advertised()?;
        let inbox = context.inbox.clone();
        let (number, news) = {
            let mut wires = self.network.0.lock();
            wires.seats_so_far += 1;
            let number = wires.seats_so_far;
            (number, wires.attach(number, context))
        };
        self.chair = Some((number, inbox));
        tell(news);
        Ok(())
    }

    fn introduce(&mut self, identity: DirectoryIdentity) {
        let Some((number, _)) = self.chair else { return };
        let news = self.network.0.lock().introduce(number, identity);
        tell(news);
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        let Some((number, own_inbox)) = &self.chair else { return messages.clear() };
        {
            let wires = self.network.0.lock();
            let addressed = messages.drain(..).filter(|message| message.from() == self.node);
            self.addressed.extend(
                addressed.map(|message| {
                    (wires.route(*number, self.node, message.to()).cloned(), message)
                }),
            );
        }
        // Nothing is locked from here on: whoever takes the message may send, cut or stop.
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
        if let Some((number, _)) = self.chair.take() {
            self.network.0.lock().detach(number);
        }
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
            .field("seated", &self.chair.is_some())
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

    fn attach(node: u64, inbox: Inbox) -> TransportContext {
        let addresses = (1..=3).map(|id| (NodeId::from(id), String::new())).collect();
        let no_threads = Spawner::new(|_, _| Err(io::ErrorKind::Unsupported.into()));
        TransportContext::new(NodeId::from(node), "orders", addresses, inbox, no_threads)
    }

    impl Node {
        fn seated(
            network: &MemoryNetwork,
            node: u64,
            change: impl FnOnce(&mut TransportContext),
        ) -> Node {
            let arrivals = Arc::new(Mutex::new(Vec::new()));
            let recording_inbox = arrivals.clone();
            let mut context = attach(
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
        [1, 2, 3].map(|node| Node::seated(network, node, |_| ()))
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
    fn a_node_that_comes_back_takes_its_seat_again_and_the_old_one_is_void() {
        let network = MemoryNetwork::new();
        let [mut one, mut old, _three] = three(&network);
        let new = Node::seated(&network, 2, |context| context.identity.incarnation = 2);
        assert!(one.send_to_all().is_empty());
        assert_eq!((old.messages(), new.messages()), (0, 1));
        assert_eq!(old.send_to_all(), [1, 3], "a process that has been replaced reaches nobody");
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
            Node::seated(&network, 1, |context| context.known = vec![(NodeId::from(3), 55)]);
        let two = Node::seated(&network, 2, |context| context.advertised = "two".to_owned());
        let _three = Node::seated(&network, 3, |context| {
            context.identity = DirectoryIdentity { directory: 56, incarnation: 1, complete: true }
        });
        let told = |node: &Node| format!("{:?}", node.arrivals.lock());
        let met = |peer, directory, text| {
            format!(
                "PeerIdentified {{ peer: node {peer}, directory: {directory} }}, Advertised {{ peer: node {peer}, text: {text:?} }}"
            )
        };
        assert_eq!(told(&one), format!("[{}]", met(2, 2, "two")));
        assert_eq!(told(&two), format!("[{}, {}]", met(1, 1, ""), met(3, 56, "")));
        let mut forger = attach(4, Inbox::new(|_| true));
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
        let elsewhere = Node::seated(&network, 2, |context| context.group = "payments".into());
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
        let mut context = attach(2, look);
        context.identity.incarnation = 2;
        curious.start(context).unwrap();
        assert_eq!(one.send_to_all(), [2]);
        assert_eq!(one.send_to_all(), [2, 3]);
    }
}
