//! A suite that tests any [`Transport`] against the [contract](super).
//!
//! ```
//! use dledger::transport::{MemoryNetwork, Spawner, conformance};
//!
//! let spawner =
//!     Spawner::new(|name, work| std::thread::Builder::new().name(name).spawn(work).map(drop));
//! conformance::run(&spawner, |nodes| {
//!     let network = MemoryNetwork::new();
//!     conformance::Harness::new(vec![String::new(); nodes], move |node| {
//!         Box::new(network.transport(node))
//!     })
//! });
//! ```

mod hosts;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

pub use self::hosts::{HostHarness, run_hosts};
use super::{Inbox, Message, Spawner, Transport, TransportContext, TransportEvent};
use crate::entry::NodeId;

/// Timeout of what must happen in the end.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the suite waits for what must not happen.
const WATCH: Duration = Duration::from_millis(300);
/// How often a message that may be lost is sent again.
const RESEND: Duration = Duration::from_millis(20);
/// The longest time that a call of `send` may take.
const SEND_MAX: Duration = Duration::from_secs(2);
/// The largest message of the test group.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// A fresh network: the addresses of its nodes, and how to make their transports.
pub struct Harness {
    addresses: Vec<(NodeId, String)>,
    transport: Box<dyn FnMut(NodeId) -> Box<dyn Transport>>,
}

impl Harness {
    /// A network of nodes 1, 2, 3 and so on, with these addresses. `transport` makes the transport
    /// of a node, and another one when the node restarts.
    pub fn new(
        addresses: Vec<String>,
        transport: impl FnMut(NodeId) -> Box<dyn Transport> + 'static,
    ) -> Harness {
        let addresses = (1..).map(NodeId::from).zip(addresses).collect();
        Harness { addresses, transport: Box::new(transport) }
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("addresses", &self.addresses).finish()
    }
}

/// Runs the whole suite. `harness` makes a fresh network of a given number of nodes; `spawner`
/// starts the threads of the transports. Takes some seconds, most of them waiting.
///
/// # Panics
/// If the transport breaks the contract. The text names the part.
pub fn run(spawner: &Spawner, mut harness: impl FnMut(usize) -> Harness) {
    everyone_reaches_everyone_and_nothing_is_altered(TestNetwork::new(harness(3), spawner));
    a_large_message_arrives_whole(TestNetwork::new(harness(2), spawner));
    no_message_claims_another_sender(TestNetwork::new(harness(3), spawner));
    a_dead_peer_blocks_no_sender_and_is_reported(TestNetwork::new(harness(3), spawner));
    a_busy_peer_blocks_no_sender_and_recovers(TestNetwork::new(harness(2), spawner));
    nothing_is_delivered_after_stop_and_every_thread_ends(TestNetwork::new(harness(2), spawner));
    a_peer_that_comes_back_is_reached_again(TestNetwork::new(harness(2), spawner));
    sending_before_the_start_is_harmless(TestNetwork::new(harness(2), spawner));
}

fn everyone_reaches_everyone_and_nothing_is_altered(mut network: TestNetwork) {
    network.start_all();
    let pairs = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)]
        .map(|(from, to)| (NodeId::from(from), NodeId::from(to)));
    let sent: Vec<Message> =
        pairs.iter().flat_map(|&(from, to)| Message::samples(from, to)).collect();
    for message in &sent {
        network.send_until_it_arrives(message);
    }
    for node in 1..=3 {
        for message in network.arrived(NodeId::from(node)) {
            assert_eq!(
                message.to(),
                NodeId::from(node),
                "{message:?} was delivered to another node than the one it was for"
            );
            assert!(
                sent.contains(&message),
                "{message:?} was delivered, but was not sent like that"
            );
        }
    }
    network.close();
}

fn a_large_message_arrives_whole(mut network: TestNetwork) {
    network.start_all();
    let empty = Message::sample(NodeId::from(1), NodeId::from(2), 1, 0).encoded_len();
    let largest = Message::sample(NodeId::from(1), NodeId::from(2), 1, MESSAGE_BYTES_MAX - empty);
    assert_eq!(largest.encoded_len(), MESSAGE_BYTES_MAX);
    network.send_until_it_arrives(&largest);
    network.close();
}

fn no_message_claims_another_sender(mut network: TestNetwork) {
    network.start_all();
    network.send_until_it_arrives(&Message::sample(NodeId::from(1), NodeId::from(2), 1, 10));
    let forged = Message::sample(NodeId::from(3), NodeId::from(2), 2, 10);
    network.send(NodeId::from(1), vec![forged.clone()]);
    network.watch();
    assert!(
        !network.arrived(NodeId::from(2)).contains(&forged),
        "node 1 sent a message in the name of node 3, and it was delivered"
    );
    network.close();
}

fn a_dead_peer_blocks_no_sender_and_is_reported(mut network: TestNetwork) {
    network.start(NodeId::from(1));
    network.start(NodeId::from(3));
    let (me, dead) = (NodeId::from(1), NodeId::from(2));
    for round in 0..50 {
        network.send(
            me,
            (0..20).map(|number| Message::sample(me, dead, round * 20 + number, 100_000)).collect(),
        );
    }
    network.send_until_it_arrives(&Message::sample(me, NodeId::from(3), 1, 10));
    let reported =
        network.recording_inbox(me).wait(TIMEOUT, |recorded| recorded.unreachable.contains(&dead));
    assert!(
        reported,
        "messages to a dead peer were dropped, and the node was never told that it is unreachable"
    );
    network.close();
}

fn a_busy_peer_blocks_no_sender_and_recovers(mut network: TestNetwork) {
    network.start_all();
    let (me, busy) = (NodeId::from(1), NodeId::from(2));
    network.send_until_it_arrives(&Message::sample(me, busy, 0, 10));
    network.recording_inbox(busy).recorded.lock().is_full = true;
    for number in 1..=200 {
        network.send(me, vec![Message::sample(me, busy, number, 100_000)]);
    }
    network.send_until_it_arrives(&Message::sample(busy, me, 1, 10));
    network.recording_inbox(busy).recorded.lock().is_full = false;
    network.send_until_it_arrives(&Message::sample(me, busy, 201, 10));
    network.close();
}

fn nothing_is_delivered_after_stop_and_every_thread_ends(mut network: TestNetwork) {
    network.start_all();
    let (me, leaving) = (NodeId::from(1), NodeId::from(2));
    network.send_until_it_arrives(&Message::sample(me, leaving, 0, 10));
    network.send_until_it_arrives(&Message::sample(leaving, me, 0, 10));
    network.send(me, (1..100).map(|number| Message::sample(me, leaving, number, 1000)).collect());
    network.stop(leaving);
    network.stop(leaving);
    // A message that was being delivered at that moment is allowed.
    network.watch();
    let before = network.arrived(leaving).len();
    network.send(me, (100..200).map(|number| Message::sample(me, leaving, number, 1000)).collect());
    network.watch();
    assert_eq!(
        network.arrived(leaving).len(),
        before,
        "messages were delivered to a node whose transport had been stopped"
    );
    network.close();
}

fn a_peer_that_comes_back_is_reached_again(mut network: TestNetwork) {
    network.start_all();
    let (me, peer) = (NodeId::from(1), NodeId::from(2));
    for number in 0..3 {
        network.send_until_it_arrives(&Message::sample(me, peer, number, 10));
        network.send_until_it_arrives(&Message::sample(peer, me, number, 10));
        network.stop(peer);
        network.wait_for_threads(Some(me));
        network.send(me, vec![Message::sample(me, peer, 100 + number, 10)]);
        network.start(peer);
    }
    network.send_until_it_arrives(&Message::sample(me, peer, 50, 10));
    network.send_until_it_arrives(&Message::sample(peer, me, 50, 10));
    network.close();
}

fn sending_before_the_start_is_harmless(mut network: TestNetwork) {
    let (me, peer) = (NodeId::from(1), NodeId::from(2));
    let mut early = (network.harness.transport)(me);
    let mut messages = vec![Message::sample(me, peer, 1, 10)];
    early.send(&mut messages);
    assert!(messages.is_empty(), "send leaves the messages that it was given");
    early.stop();
    drop(early);
    network.start_all();
    network.stop(me);
    network.send(me, vec![Message::sample(me, peer, 2, 10)]);
    network.watch();
    assert_eq!(network.arrived(peer), [], "a transport that had been stopped sent a message");
    network.close();
}

/// The nodes of a network while a test runs.
struct TestNetwork {
    harness: Harness,
    nodes: Vec<Node>,
    spawned: Spawned,
}

/// Counts the running threads of each node. Index 0 is node 1.
struct Spawned {
    spawner: Spawner,
    threads: Arc<(Mutex<Vec<usize>>, Condvar)>,
}

impl Spawned {
    fn new(nodes: usize, spawner: &Spawner) -> Spawned {
        let threads = Arc::new((Mutex::new(vec![0; nodes]), Condvar::new()));
        Spawned { spawner: spawner.clone(), threads }
    }

    /// Grants threads through the host's spawner, and counts those that run.
    fn spawner(&self, at: usize) -> Spawner {
        let (host, threads) = (self.spawner.clone(), self.threads.clone());
        Spawner::new(move |name, work| {
            let (running, ended) = (threads.clone(), threads.clone());
            running.0.lock()[at] += 1;
            let spawned = host.spawn(name, move || {
                work();
                ended.0.lock()[at] -= 1;
                ended.1.notify_all();
            });
            spawned.inspect_err(|_| running.0.lock()[at] -= 1)
        })
    }

    fn running(&self, at: usize) -> usize {
        self.threads.0.lock()[at]
    }

    /// Waits until no transport of those nodes has threads left.
    fn wait(&self, of: impl Fn(usize) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        let count = |running: &[usize]| {
            let counted = running.iter().enumerate().filter(|(at, _)| of(*at));
            counted.map(|(_, count)| count).sum::<usize>()
        };
        let mut running = self.threads.0.lock();
        while count(&running) > 0 {
            let late = self.threads.1.wait_until(&mut running, deadline).timed_out();
            assert!(
                !late,
                "{} threads still run long after their transport was stopped",
                count(&running)
            );
        }
    }
}

struct Node {
    transport: Option<Box<dyn Transport>>,
    recording_inbox: Arc<RecordingInbox>,
    incarnation: u64,
}

/// Records the events of one node.
#[derive(Default)]
struct RecordingInbox {
    recorded: Mutex<Recorded>,
    changed: Condvar,
}

#[derive(Default)]
struct Recorded {
    messages: Vec<Message>,
    unreachable: HashSet<NodeId>,
    is_full: bool,
}

impl RecordingInbox {
    fn take(&self, event: TransportEvent) -> bool {
        let mut recorded = self.recorded.lock();
        match event {
            TransportEvent::Message(_) if recorded.is_full => return false,
            TransportEvent::Message(message) => recorded.messages.push(message),
            TransportEvent::Unreachable(peer) => drop(recorded.unreachable.insert(peer)),
            TransportEvent::PeerIdentified { .. } | TransportEvent::Advertised { .. } => {}
            TransportEvent::Refused { .. }
            | TransportEvent::Accepted(_)
            | TransportEvent::OutdatedDirectory(_)
            | TransportEvent::PeerDown(_)
            | TransportEvent::PeerUp(_) => {}
        }
        self.changed.notify_all();
        true
    }

    /// Waits until `holds`. Returns whether it did in time.
    fn wait(&self, timeout: Duration, holds: impl Fn(&Recorded) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut recorded = self.recorded.lock();
        while !holds(&recorded) {
            if self.changed.wait_until(&mut recorded, deadline).timed_out() {
                return holds(&recorded);
            }
        }
        true
    }
}

impl TestNetwork {
    fn new(harness: Harness, spawner: &Spawner) -> TestNetwork {
        let nodes: Vec<Node> = harness
            .addresses
            .iter()
            .map(|_| Node { transport: None, recording_inbox: Arc::default(), incarnation: 0 })
            .collect();
        let spawned = Spawned::new(nodes.len(), spawner);
        TestNetwork { harness, nodes, spawned }
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.get() as usize - 1]
    }

    fn recording_inbox(&self, node: NodeId) -> Arc<RecordingInbox> {
        self.nodes[node.get() as usize - 1].recording_inbox.clone()
    }

    fn arrived(&self, node: NodeId) -> Vec<Message> {
        self.recording_inbox(node).recorded.lock().messages.clone()
    }

    fn start_all(&mut self) {
        for at in 0..self.nodes.len() {
            self.start(self.harness.addresses[at].0);
        }
    }

    fn start(&mut self, node: NodeId) {
        let recording_inbox = self.recording_inbox(node);
        let inbox = Inbox::new(move |event| recording_inbox.take(event));
        let mut context = TransportContext::new(
            node,
            "conformance",
            self.harness.addresses.clone(),
            inbox,
            self.spawned.spawner(node.get() as usize - 1),
        );
        self.node(node).incarnation += 1;
        context.identity.incarnation = self.node(node).incarnation;
        context.message_bytes_max = MESSAGE_BYTES_MAX;
        let mut transport = (self.harness.transport)(node);
        transport
            .start(context)
            .unwrap_or_else(|error| panic!("node {node} could not start: {error}"));
        self.node(node).transport = Some(transport);
    }

    fn stop(&mut self, node: NodeId) {
        self.node(node).transport.as_mut().expect("a test stops what it started").stop();
    }

    fn send(&mut self, from: NodeId, mut messages: Vec<Message>) {
        let began = Instant::now();
        self.node(from)
            .transport
            .as_mut()
            .expect("a test sends from where it started")
            .send(&mut messages);
        assert!(messages.is_empty(), "send leaves the messages that it was given");
        let took = began.elapsed();
        assert!(took < SEND_MAX, "send took {took:?}: it waits for a peer");
    }

    /// A transport may lose a message, but not every one.
    fn send_until_it_arrives(&mut self, message: &Message) {
        let recording_inbox = self.recording_inbox(message.to());
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            self.send(message.from(), vec![message.clone()]);
            if recording_inbox.wait(RESEND, |recorded| recorded.messages.contains(message)) {
                return;
            }
        }
        panic!(
            "{message:?} of {} bytes was sent for {TIMEOUT:?} and did not arrive as it was",
            message.encoded_len()
        );
    }

    /// Waits, for what must not happen.
    fn watch(&self) {
        RecordingInbox::default().wait(WATCH, |_| false);
    }

    /// Waits until no transport has threads left, other than the one of `node`.
    fn wait_for_threads(&self, node: Option<NodeId>) {
        self.spawned.wait(|at| node.is_none_or(|node| node.get() as usize - 1 != at));
    }

    /// Ends a test: stops every transport and waits for its threads.
    fn close(mut self) {
        for node in &mut self.nodes {
            if let Some(transport) = &mut node.transport {
                transport.stop();
            }
        }
        self.wait_for_threads(None);
    }
}
