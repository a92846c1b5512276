//! A suite that any [`Transport`] can be put to, to see whether it keeps the [contract](super).
//!
//! ```
//! use dledger::transport::{MemoryNetwork, Spawner, conformance};
//!
//! let spawner = Spawner::new(|name, work| std::thread::Builder::new().name(name).spawn(work).map(drop));
//! conformance::run(&spawner, |nodes| {
//!     let network = MemoryNetwork::new();
//!     conformance::Bench::new(vec![String::new(); nodes], move |node| Box::new(network.transport(node)))
//! });
//! ```

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Arrival, Inbox, Message, Seat, Spawner, Transport};
use crate::entry::NodeId;

/// How long the suite waits for what must happen in the end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it watches whether something happens that must not.
const WATCH: Duration = Duration::from_millis(300);
/// How often a message that may have been lost is sent again.
const RESEND: Duration = Duration::from_millis(20);
/// The longest that handing messages over may take.
const SEND_MAX: Duration = Duration::from_secs(2);
/// The largest message of the group that the suite makes up.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// A network that nobody is on yet, and how to get a transport for each node of it.
pub struct Bench {
    addresses: Vec<(NodeId, String)>,
    transport: Box<dyn FnMut(NodeId) -> Box<dyn Transport>>,
}

impl Bench {
    /// A network for nodes 1, 2, 3 and so on, with these addresses. `transport` makes the transport of a node; it is asked again for a
    /// node that comes back.
    pub fn new(addresses: Vec<String>, transport: impl FnMut(NodeId) -> Box<dyn Transport> + 'static) -> Bench {
        let addresses = (1..).map(NodeId::from).zip(addresses).collect();
        Bench { addresses, transport: Box::new(transport) }
    }
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("addresses", &self.addresses).finish()
    }
}

/// Runs the whole suite. `bench` is called with a number of nodes and gives a fresh network for as many; `spawner` starts the threads
/// that the transports ask for. Takes some seconds, most of them waiting.
///
/// # Panics
/// If the transport does not keep the contract. The text says which part of it.
pub fn run(spawner: &Spawner, mut bench: impl FnMut(usize) -> Bench) {
    everyone_reaches_everyone_and_nothing_is_altered(Hall::new(bench(3), spawner));
    a_large_message_arrives_whole(Hall::new(bench(2), spawner));
    nobody_speaks_for_another(Hall::new(bench(3), spawner));
    a_dead_peer_blocks_nobody_and_is_reported(Hall::new(bench(3), spawner));
    a_busy_peer_blocks_nobody_and_recovers(Hall::new(bench(2), spawner));
    nothing_is_delivered_after_stop_and_every_thread_ends(Hall::new(bench(2), spawner));
    a_peer_that_comes_back_is_reached_again(Hall::new(bench(2), spawner));
    sending_without_a_seat_is_harmless(Hall::new(bench(2), spawner));
}

fn everyone_reaches_everyone_and_nothing_is_altered(mut hall: Hall) {
    hall.start_all();
    let pairs = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)].map(|(from, to)| (NodeId::from(from), NodeId::from(to)));
    let sent: Vec<Message> = pairs.iter().flat_map(|&(from, to)| Message::specimens(from, to)).collect();
    for message in &sent {
        hall.send_until_it_arrives(message);
    }
    for node in 1..=3 {
        for message in hall.arrived(NodeId::from(node)) {
            assert_eq!(message.to(), NodeId::from(node), "{message:?} was delivered to another node than the one it was for");
            assert!(sent.contains(&message), "{message:?} was delivered, but nobody sent it like that");
        }
    }
    hall.close();
}

fn a_large_message_arrives_whole(mut hall: Hall) {
    hall.start_all();
    let empty = Message::specimen(NodeId::from(1), NodeId::from(2), 1, 0).encoded_len();
    let largest = Message::specimen(NodeId::from(1), NodeId::from(2), 1, MESSAGE_BYTES_MAX - empty);
    assert_eq!(largest.encoded_len(), MESSAGE_BYTES_MAX);
    hall.send_until_it_arrives(&largest);
    hall.close();
}

fn nobody_speaks_for_another(mut hall: Hall) {
    hall.start_all();
    hall.send_until_it_arrives(&Message::specimen(NodeId::from(1), NodeId::from(2), 1, 10));
    let forged = Message::specimen(NodeId::from(3), NodeId::from(2), 2, 10);
    hall.send(NodeId::from(1), vec![forged.clone()]);
    hall.watch();
    assert!(!hall.arrived(NodeId::from(2)).contains(&forged), "node 1 sent a message in the name of node 3, and it was delivered");
    hall.close();
}

fn a_dead_peer_blocks_nobody_and_is_reported(mut hall: Hall) {
    hall.start(NodeId::from(1));
    hall.start(NodeId::from(3));
    let (me, dead) = (NodeId::from(1), NodeId::from(2));
    for round in 0..50 {
        hall.send(me, (0..20).map(|number| Message::specimen(me, dead, round * 20 + number, 100_000)).collect());
    }
    hall.send_until_it_arrives(&Message::specimen(me, NodeId::from(3), 1, 10));
    let told = hall.desk(me).wait(PATIENCE, |papers| papers.unreachable.contains(&dead));
    assert!(told, "messages to a dead peer were dropped, and the node was never told that it is unreachable");
    hall.close();
}

fn a_busy_peer_blocks_nobody_and_recovers(mut hall: Hall) {
    hall.start_all();
    let (me, busy) = (NodeId::from(1), NodeId::from(2));
    hall.send_until_it_arrives(&Message::specimen(me, busy, 0, 10));
    hall.desk(busy).papers.lock().is_full = true;
    for number in 1..=200 {
        hall.send(me, vec![Message::specimen(me, busy, number, 100_000)]);
    }
    hall.send_until_it_arrives(&Message::specimen(busy, me, 1, 10));
    hall.desk(busy).papers.lock().is_full = false;
    hall.send_until_it_arrives(&Message::specimen(me, busy, 201, 10));
    hall.close();
}

fn nothing_is_delivered_after_stop_and_every_thread_ends(mut hall: Hall) {
    hall.start_all();
    let (me, leaving) = (NodeId::from(1), NodeId::from(2));
    hall.send_until_it_arrives(&Message::specimen(me, leaving, 0, 10));
    hall.send_until_it_arrives(&Message::specimen(leaving, me, 0, 10));
    hall.send(me, (1..100).map(|number| Message::specimen(me, leaving, number, 1000)).collect());
    hall.stop(leaving);
    hall.stop(leaving);
    // What was being handed over at that very moment is forgiven.
    hall.watch();
    let before = hall.arrived(leaving).len();
    hall.send(me, (100..200).map(|number| Message::specimen(me, leaving, number, 1000)).collect());
    hall.watch();
    assert_eq!(hall.arrived(leaving).len(), before, "messages were delivered to a node whose transport had been stopped");
    hall.close();
}

fn a_peer_that_comes_back_is_reached_again(mut hall: Hall) {
    hall.start_all();
    let (me, peer) = (NodeId::from(1), NodeId::from(2));
    for life in 0..3 {
        hall.send_until_it_arrives(&Message::specimen(me, peer, life, 10));
        hall.send_until_it_arrives(&Message::specimen(peer, me, life, 10));
        hall.stop(peer);
        hall.wait_for_threads(Some(me));
        hall.send(me, vec![Message::specimen(me, peer, 100 + life, 10)]);
        hall.start(peer);
    }
    hall.send_until_it_arrives(&Message::specimen(me, peer, 50, 10));
    hall.send_until_it_arrives(&Message::specimen(peer, me, 50, 10));
    hall.close();
}

fn sending_without_a_seat_is_harmless(mut hall: Hall) {
    let (me, peer) = (NodeId::from(1), NodeId::from(2));
    let mut early = (hall.bench.transport)(me);
    let mut messages = vec![Message::specimen(me, peer, 1, 10)];
    early.send(&mut messages);
    assert!(messages.is_empty(), "send leaves the messages that it was given");
    early.stop();
    drop(early);
    hall.start_all();
    hall.stop(me);
    hall.send(me, vec![Message::specimen(me, peer, 2, 10)]);
    hall.watch();
    assert_eq!(hall.arrived(peer), [], "a transport that had been stopped sent a message");
    hall.close();
}

/// The nodes on a bench while a test runs.
struct Hall {
    bench: Bench,
    spawner: Spawner,
    nodes: Vec<Node>,
    /// How many threads each node has running. Index 0 is node 1.
    threads: Arc<(Mutex<Vec<usize>>, Condvar)>,
}

struct Node {
    transport: Option<Box<dyn Transport>>,
    desk: Arc<Desk>,
    lives: u64,
}

/// Where the arrivals of one node pile up.
#[derive(Default)]
struct Desk {
    papers: Mutex<Papers>,
    changed: Condvar,
}

#[derive(Default)]
struct Papers {
    messages: Vec<Message>,
    unreachable: HashSet<NodeId>,
    is_full: bool,
}

impl Desk {
    fn take(&self, arrival: Arrival) -> bool {
        let mut papers = self.papers.lock();
        match arrival {
            Arrival::Message(_) if papers.is_full => return false,
            Arrival::Message(message) => papers.messages.push(message),
            Arrival::Unreachable(peer) => drop(papers.unreachable.insert(peer)),
            Arrival::Met { .. } | Arrival::Advertised { .. } => {}
            Arrival::Refused { .. } | Arrival::Accepted(_) | Arrival::Outlived(_) => {}
        }
        self.changed.notify_all();
        true
    }

    /// Waits until `holds`, and says whether it came to that in time.
    fn wait(&self, patience: Duration, holds: impl Fn(&Papers) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut papers = self.papers.lock();
        while !holds(&papers) {
            if self.changed.wait_until(&mut papers, deadline).timed_out() {
                return holds(&papers);
            }
        }
        true
    }
}

impl Hall {
    fn new(bench: Bench, spawner: &Spawner) -> Hall {
        let nodes: Vec<Node> = bench.addresses.iter().map(|_| Node { transport: None, desk: Arc::default(), lives: 0 }).collect();
        let threads = Arc::new((Mutex::new(vec![0; nodes.len()]), Condvar::new()));
        Hall { bench, spawner: spawner.clone(), nodes, threads }
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.get() as usize - 1]
    }

    fn desk(&self, node: NodeId) -> Arc<Desk> {
        self.nodes[node.get() as usize - 1].desk.clone()
    }

    fn arrived(&self, node: NodeId) -> Vec<Message> {
        self.desk(node).papers.lock().messages.clone()
    }

    fn start_all(&mut self) {
        for at in 0..self.nodes.len() {
            self.start(self.bench.addresses[at].0);
        }
    }

    fn start(&mut self, node: NodeId) {
        let desk = self.desk(node);
        let inbox = Inbox::new(move |arrival| desk.take(arrival));
        let mut seat = Seat::new(node, "conformance", self.bench.addresses.clone(), inbox, self.counting_spawner(node));
        self.node(node).lives += 1;
        seat.identity.incarnation = self.node(node).lives;
        seat.message_bytes_max = MESSAGE_BYTES_MAX;
        let mut transport = (self.bench.transport)(node);
        transport.start(seat).unwrap_or_else(|error| panic!("node {node} could not start: {error}"));
        self.node(node).transport = Some(transport);
    }

    /// Grants threads through the host's spawner, and knows which still run.
    fn counting_spawner(&self, node: NodeId) -> Spawner {
        let (host, threads, at) = (self.spawner.clone(), self.threads.clone(), node.get() as usize - 1);
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

    fn stop(&mut self, node: NodeId) {
        self.node(node).transport.as_mut().expect("a test stops what it started").stop();
    }

    fn send(&mut self, from: NodeId, mut messages: Vec<Message>) {
        let began = Instant::now();
        self.node(from).transport.as_mut().expect("a test sends from where it started").send(&mut messages);
        assert!(messages.is_empty(), "send leaves the messages that it was given");
        let took = began.elapsed();
        assert!(took < SEND_MAX, "send took {took:?}: it waits for a peer");
    }

    /// A transport may lose a message, but not every one.
    fn send_until_it_arrives(&mut self, message: &Message) {
        let desk = self.desk(message.to());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.send(message.from(), vec![message.clone()]);
            if desk.wait(RESEND, |papers| papers.messages.contains(message)) {
                return;
            }
        }
        panic!("{message:?} of {} bytes was sent for {PATIENCE:?} and did not arrive as it was", message.encoded_len());
    }

    /// Gives what must not happen the time to happen.
    fn watch(&self) {
        Desk::default().wait(WATCH, |_| false);
    }

    /// Waits until no transport has threads left, other than the one of `node`.
    fn wait_for_threads(&self, node: Option<NodeId>) {
        let deadline = Instant::now() + PATIENCE;
        let others = |running: &[usize]| {
            let counted = running.iter().enumerate().filter(|(at, _)| node.is_none_or(|node| node.get() as usize - 1 != *at));
            counted.map(|(_, count)| count).sum::<usize>()
        };
        let mut running = self.threads.0.lock();
        while others(&running) > 0 {
            let late = self.threads.1.wait_until(&mut running, deadline).timed_out();
            assert!(!late, "{} threads still run long after their transport was stopped", others(&running));
        }
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
