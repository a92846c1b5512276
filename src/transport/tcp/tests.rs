//! TCP beyond the contract of a transport: rejections, and attacks from outside.

mod groups;
mod names;
mod presence;
mod refused;
mod rivals;
mod silence;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::TcpTransport;
use super::local_group::LocalGroup;
use super::peer_sender::{PeerSender, QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX};
use super::resolver::system_lookup;
use super::stream::{HELLO_TIMEOUT, is_timeout};
use crate::entry::NodeId;
use crate::storage::DirectoryIdentity;
use crate::transport::frame::{self, Frame, FrameReader, Kind};
use crate::transport::hello::slots::{self, ConnectionHello};
use crate::transport::hello::{HandshakeRejection, Hello};
use crate::transport::{Inbox, Message, Spawner, Transport, TransportContext, TransportEvent};

/// A node of a group of three, with a real transport.
struct Node {
    context: TransportContext,
    transport: TcpTransport,
    threads: Arc<Mutex<Vec<std::thread::JoinHandle<()>>>>,
    arrived: Arc<Mutex<Arrived>>,
}

#[derive(Default)]
struct Arrived {
    messages: Vec<Message>,
    identified: Vec<(NodeId, u128)>,
    unreachable: Vec<NodeId>,
    refused: BTreeMap<NodeId, String>,
    /// Peers that went down, and came up.
    presence: Vec<(NodeId, bool)>,
    is_full: bool,
}

fn addresses() -> Vec<(NodeId, String)> {
    let free: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    (1..)
        .map(NodeId::from)
        .zip(free.iter().map(|listener| listener.local_addr().unwrap().to_string()))
        .collect()
}

impl Node {
    fn new(node: u64, addresses: &[(NodeId, String)]) -> Node {
        let (threads, arrived) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Arrived::default())));
        let (started, recording_inbox) = (threads.clone(), arrived.clone());
        let spawner = Spawner::new(move |_, work| {
            started.lock().push(std::thread::spawn(work));
            Ok(())
        });
        let spawner = spawner.with_detached(|_, work| {
            std::thread::spawn(work);
            Ok(())
        });
        let inbox = Inbox::new(move |arrival| {
            let mut arrived = recording_inbox.lock();
            match arrival {
                TransportEvent::Message(_) if arrived.is_full => return false,
                TransportEvent::Message(message) => arrived.messages.push(message),
                TransportEvent::PeerIdentified { peer, directory } => {
                    arrived.identified.push((peer, directory))
                }
                TransportEvent::Unreachable(peer) => arrived.unreachable.push(peer),
                TransportEvent::Refused { peer, reason } => {
                    drop(arrived.refused.insert(peer, reason))
                }
                TransportEvent::Accepted(peer) => drop(arrived.refused.remove(&peer)),
                TransportEvent::PeerDown(peer) => arrived.presence.push((peer, false)),
                TransportEvent::PeerUp(peer) => arrived.presence.push((peer, true)),
                TransportEvent::OutdatedDirectory(_) | TransportEvent::Advertised { .. } => {}
            }
            true
        });
        let context =
            TransportContext::new(NodeId::from(node), "orders", addresses.to_vec(), inbox, spawner);
        Node { context, transport: TcpTransport::new(), threads, arrived }
    }

    fn started(mut self) -> Node {
        self.transport.start(self.context.clone()).unwrap();
        self
    }

    fn address(&self) -> &str {
        &self.context.addresses[self.context.node.get() as usize - 1].1
    }

    fn hello_to(&self, other: &Node) -> Hello {
        Hello::new(&self.context, other.context.node, 7)
    }

    fn send(&mut self, to: u64, number: u64) {
        self.transport.send(&mut vec![Message::sample(
            self.context.node,
            NodeId::from(to),
            number,
            1000,
        )]);
    }

    /// Stops the transport and returns how long it took its threads to end.
    fn stop(&mut self) -> Duration {
        let began = Instant::now();
        self.transport.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            thread.join().unwrap();
        }
        began.elapsed()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The slot that a client introduces its group with.
const SLOT: u32 = 1;

/// A client that speaks the protocol by hand.
struct RawClient(TcpStream, FrameReader);

impl RawClient {
    fn connect(node: &Node) -> RawClient {
        let stream = TcpStream::connect(node.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        RawClient(stream, FrameReader::new())
    }

    fn write_frame(&mut self, kind: Kind, content: Vec<u8>) {
        // A connection that is refused early cannot finish.
        let _ = self.0.write_all(&frame::encode(kind, content));
    }

    fn say(&mut self, kind: Kind, slot: u32, content: &[u8]) {
        self.write_frame(kind, slots::with_bytes(slot, content));
    }

    fn write_message(&mut self, message: &Message) {
        self.say(Kind::Message, SLOT, &message.encode().concat());
    }

    /// The next frame about the slot of the client, without it.
    fn hear_of_slot(&mut self) -> Option<Frame> {
        let mut frame = self.read_frame()?;
        let (slot, content) = slots::split(&frame.content).unwrap();
        assert_eq!(slot, SLOT);
        frame.content = content.to_vec().into();
        Some(frame)
    }

    /// The next frame that is neither ping nor pong, or `None` if the other side hangs up.
    fn read_frame(&mut self) -> Option<Frame> {
        loop {
            let frame = self.hear_any()?;
            if ![Kind::Ping, Kind::Pong].contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    fn hear_any(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.1.next().unwrap() {
                return Some(frame);
            }
            match self.1.read_from(&mut &self.0) {
                Ok(0) => return None,
                Err(error) if is_timeout(&error) => {
                    panic!("the other side neither speaks nor hangs up")
                }
                Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// A client that is connected as a process of node `hello.from`.
    fn greeting(node: &Node, hello: &Hello) -> RawClient {
        let mut client = RawClient::connect(node);
        client.write_frame(Kind::Hello, connection_hello(hello).encode());
        let answer = client.read_frame().unwrap();
        assert_eq!(answer.kind, Kind::Hello);
        let answer = ConnectionHello::decode(&answer.content).unwrap();
        assert_eq!((answer.from, answer.to), (hello.to, hello.from));
        client
    }

    /// A client that introduces its group, and the answer.
    fn introducing(node: &Node, hello: &Hello) -> (Frame, RawClient) {
        let mut client = RawClient::greeting(node, hello);
        client.say(Kind::Introduction, SLOT, &hello.encode());
        (client.hear_of_slot().unwrap(), client)
    }

    /// A client that was admitted as `from`.
    fn admitted(node: &Node, from: &Node) -> RawClient {
        let (answer, client) = RawClient::introducing(node, &from.hello_to(node));
        assert_eq!(answer.kind, Kind::Acceptance);
        client
    }

    /// The connection that a node opens to `listener`, after both hellos. `hello` is the answer.
    fn called(listener: &TcpListener, hello: &Hello) -> RawClient {
        let mut client = RawClient(listener.accept().unwrap().0, FrameReader::new());
        client.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(client.read_frame().unwrap().kind, Kind::Hello);
        client.write_frame(Kind::Hello, connection_hello(hello).encode());
        client
    }

    /// Accepts the next group that the node introduces.
    fn accept(&mut self, hello: &Hello) {
        let introduction = self.read_frame().unwrap();
        assert_eq!(introduction.kind, Kind::Introduction);
        let (slot, _) = slots::split(&introduction.content).unwrap();
        self.say(Kind::Acceptance, slot, &hello.encode());
    }
}

/// Each process has one group here: one number for both.
fn connection_hello(hello: &Hello) -> ConnectionHello {
    let process = hello.nonce ^ hello.identity.incarnation << 32;
    ConnectionHello { from: hello.from, to: hello.to, process }
}

#[test]
fn a_rejected_peer_is_sent_the_reason_and_its_messages_go_nowhere() {
    let addresses = addresses();
    let mut node = Node::new(1, &addresses);
    node.context.known = vec![(NodeId::from(3), 999)];
    let node = node.started();
    let (friend, wiped) = (Node::new(2, &addresses), Node::new(3, &addresses));
    let good = friend.hello_to(&node);
    let elsewhere = Hello { to: NodeId::from(2), ..good.clone() };
    let mut client = RawClient::connect(&node);
    client.write_frame(Kind::Hello, connection_hello(&elsewhere).encode());
    let answer = client.read_frame().unwrap();
    let wrong_node = HandshakeRejection::WrongNode as u8;
    assert_eq!((answer.kind, answer.content[0]), (Kind::Refusal, wrong_node));
    assert_eq!(client.read_frame(), None);
    let cases = [
        (Hello { cluster: 1, ..good.clone() }, HandshakeRejection::Cluster),
        (Hello { group: "others".into(), ..good.clone() }, HandshakeRejection::Group),
        (Hello { from: NodeId::from(9), ..good.clone() }, HandshakeRejection::NotAMember),
        (
            Hello { members: [1, 2].map(NodeId::from).into(), cluster: 1, ..good.clone() },
            HandshakeRejection::Members,
        ),
        (wiped.hello_to(&node), HandshakeRejection::DirectoryChanged),
    ];
    for (hello, reason) in cases {
        let (answer, mut client) = RawClient::introducing(&node, &hello);
        assert_eq!((answer.kind, answer.content[0]), (Kind::Decline, reason as u8), "{reason}");
        client.write_message(&Message::sample(hello.from, hello.to, 1, 10));
        // All of it is read before the pong.
        client.write_frame(Kind::Ping, 9_u64.to_le_bytes().to_vec());
        assert_eq!(client.hear_any().unwrap().number(), Some(9));
    }
    let mut client = RawClient::greeting(&node, &good);
    client.say(Kind::Introduction, SLOT, &elsewhere.encode());
    let answer = client.hear_of_slot().unwrap();
    assert_eq!((answer.kind, answer.content[0]), (Kind::Decline, wrong_node));
    RawClient::admitted(&node, &friend);
    assert_eq!(node.arrived.lock().messages, []);
}

#[test]
fn garbage_and_early_messages_end_the_connection() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let message = Message::sample(NodeId::from(2), NodeId::from(1), 1, 10).encode().concat();
    let mut client = RawClient::connect(&node);
    client.say(Kind::Message, SLOT, &message);
    assert_eq!(client.read_frame().unwrap().kind, Kind::Refusal);
    let mut client = RawClient::greeting(&node, &Node::new(2, &addresses).hello_to(&node));
    client.say(Kind::Message, SLOT, &message);
    assert_eq!(client.read_frame(), None, "the slot was not introduced");
    let mut client = RawClient::connect(&node);
    client.0.write_all(b"GET /index.html HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(client.read_frame(), None);
    let mut client = RawClient::admitted(&node, &Node::new(2, &addresses));
    client.say(Kind::Message, SLOT, &message[1..]);
    assert_eq!(client.hear_of_slot().unwrap().kind, Kind::Decline);
    assert_eq!(client.read_frame(), None);
    assert_eq!(node.arrived.lock().messages, []);
}

#[test]
fn a_message_in_another_name_ends_the_connection() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let peer = Node::new(2, &addresses);
    for (from, to) in [(3, 1), (2, 3)] {
        let mut client = RawClient::admitted(&node, &peer);
        client.write_message(&Message::sample(NodeId::from(from), NodeId::from(to), 1, 10));
        assert_eq!(client.hear_of_slot().unwrap().kind, Kind::Decline);
        assert_eq!(client.read_frame(), None, "from {from} to {to}");
    }
    assert_eq!(node.arrived.lock().messages, []);
}

#[test]
fn silent_connections_are_closed_and_many_of_them_delay_no_peer() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let mut silent: Vec<RawClient> = (0..200).map(|_| RawClient::connect(&node)).collect();
    // The silent connections are still open, as many as there may be, when a peer says hello.
    let mut peer = RawClient::admitted(&node, &Node::new(2, &addresses));
    peer.write_message(&Message::sample(NodeId::from(2), NodeId::from(1), 1, 10));
    until("the message of a peer gets through", || node.arrived.lock().messages.len() == 1);
    for client in &mut silent {
        assert_eq!(client.read_frame(), None);
    }
}

#[test]
fn a_drip_of_bytes_does_not_extend_the_time_to_say_hello() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let mut client = RawClient::connect(&node);
    let began = Instant::now();
    let hello = connection_hello(&Node::new(2, &addresses).hello_to(&node));
    for byte in frame::encode(Kind::Hello, hello.encode()) {
        if client.0.write_all(&[byte]).is_err() || began.elapsed() > HELLO_TIMEOUT * 4 {
            break;
        }
        std::thread::sleep(HELLO_TIMEOUT / 8);
    }
    assert!(began.elapsed() < HELLO_TIMEOUT * 4, "still connected after {:?}", began.elapsed());
}

#[test]
fn a_peer_that_connects_anew_replaces_its_earlier_connection() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let peer = Node::new(2, &addresses);
    let mut earlier = RawClient::admitted(&node, &peer);
    let mut later = RawClient::admitted(&node, &peer);
    assert_eq!(earlier.read_frame(), None);
    later.write_message(&Message::sample(NodeId::from(2), NodeId::from(1), 1, 10));
    until("the later connection is read", || node.arrived.lock().messages.len() == 1);
}

#[test]
fn a_busy_node_makes_its_peer_wait_and_loses_nothing() {
    let addresses = addresses();
    let (mut sender, receiver) =
        (Node::new(1, &addresses).started(), Node::new(2, &addresses).started());
    until("a first message gets through", || {
        sender.send(2, 0);
        !receiver.arrived.lock().messages.is_empty()
    });
    receiver.arrived.lock().is_full = true;
    for number in 1..=300 {
        sender.send(2, number);
    }
    std::thread::sleep(Duration::from_millis(100));
    receiver.arrived.lock().is_full = false;
    let expected: Vec<Message> = (1..=300)
        .map(|number| Message::sample(NodeId::from(1), NodeId::from(2), number, 1000))
        .collect();
    until("all has arrived, in order", || receiver.arrived.lock().messages.ends_with(&expected));
}

#[test]
fn both_sides_report_the_directory_of_the_peer_and_a_wiped_one_is_rejected() {
    let addresses = addresses();
    let (mut one, mut two) =
        (Node::new(1, &addresses).started(), Node::new(2, &addresses).started());
    until("both are identified", || {
        [&one, &two].iter().all(|node| !node.arrived.lock().identified.is_empty())
    });
    assert_eq!(one.arrived.lock().identified[0], (NodeId::from(2), 2));
    two.stop();
    let mut wiped = Node::new(2, &addresses);
    wiped.context.identity = DirectoryIdentity { directory: 77, incarnation: 1, complete: true };
    let mut wiped = wiped.started();
    for number in 0..20 {
        wiped.send(1, number);
        one.send(2, number);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((&one.arrived.lock().messages, &wiped.arrived.lock().messages), (&vec![], &vec![]));
}

#[test]
fn a_peer_that_comes_back_is_found_at_once_however_long_it_was_away() {
    let addresses = addresses();
    let mut node = Node::new(1, &addresses).started();
    // By then the next attempt is a second away, or two.
    let failures =
        |node: &Node| node.arrived.lock().unreachable.iter().filter(|peer| peer.get() == 2).count();
    until("many attempts have failed", || {
        node.send(2, 0);
        failures(&node) >= 8
    });
    let peer = Node::new(2, &addresses).started();
    let began = Instant::now();
    until("a message gets through", || {
        node.send(2, 1);
        !peer.arrived.lock().messages.is_empty()
    });
    assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
}

#[test]
fn a_connection_to_an_earlier_life_of_a_peer_is_given_up() {
    let addresses = addresses();
    let listener = TcpListener::bind(&addresses[1].1).unwrap();
    let node = Node::new(1, &addresses).started();
    let mut peer = Node::new(2, &addresses);
    let mut impostor = RawClient::called(&listener, &Node::new(3, &addresses).hello_to(&node));
    assert_eq!(impostor.read_frame().unwrap().kind, Kind::Refusal);
    assert_eq!(
        impostor.read_frame(),
        None,
        "another node at the address of a peer is not spoken to"
    );
    let hello = peer.hello_to(&node);
    let mut earlier = RawClient::called(&listener, &hello);
    earlier.accept(&hello);
    until("the peer is identified", || !node.arrived.lock().identified.is_empty());
    peer.context.identity.incarnation = 2;
    // It answers all the while: it is given up for the later one, not for silence.
    let mut stream = earlier.0.try_clone().unwrap();
    std::thread::spawn(move || {
        while stream.write_all(&frame::numbered(Kind::Pong, 0)).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let _inbound = RawClient::admitted(&node, &peer);
    assert_eq!(earlier.read_frame(), None);
    RawClient::called(&listener, &peer.hello_to(&node));
}

/// A sender to node 2, and the number of a group that it has.
fn sender() -> (PeerSender, u64) {
    let sender = PeerSender::new(NodeId::from(2), String::new(), system_lookup());
    sender.join(&Arc::new(LocalGroup::new(1, &Node::new(1, &addresses()).context, 1)));
    (sender, 1)
}

#[test]
fn what_waits_for_a_peer_is_bounded_in_number_and_in_bytes() {
    for (len, limit) in [(100, QUEUE_MESSAGES_MAX), (1 << 20, QUEUE_BYTES_MAX >> 20)] {
        let (link, group) = sender();
        let message = |number| Message::sample(NodeId::from(1), NodeId::from(2), number, 10);
        let taken = (0..QUEUE_MESSAGES_MAX as u64 + 1)
            .filter(|number| link.push(group, message(*number), len))
            .count();
        assert_eq!(taken, limit, "messages of {len} bytes");
        // What is urgent has room of its own, and that is bounded as well.
        let urgent = Message::samples(NodeId::from(1), NodeId::from(2)).remove(0);
        let taken =
            (0..QUEUE_MESSAGES_MAX + 1).filter(|_| link.push(group, urgent.clone(), 100)).count();
        assert_eq!(taken, QUEUE_MESSAGES_MAX, "urgent messages");
    }
}

/// Raft repeats an append with every heartbeat that is answered, as long as it does not know what
/// became of it.
#[test]
fn a_large_message_that_is_repeated_waits_once() {
    let (link, group) = sender();
    let (len, message) =
        (60 << 20, |number| Message::sample(NodeId::from(1), NodeId::from(2), number, 10));
    assert!((0..100).all(|_| link.push(group, message(1), len)));
    assert!(!link.push(group, message(2), len), "another one of that length finds no room");
}

#[test]
fn a_forged_message_is_not_even_sent_and_a_large_one_is_dropped_alone() {
    let addresses = addresses();
    let (mut sender, receiver) =
        (Node::new(1, &addresses).started(), Node::new(2, &addresses).started());
    until("a first message gets through", || {
        sender.send(2, 0);
        !receiver.arrived.lock().messages.is_empty()
    });
    let forged = Message::sample(NodeId::from(3), NodeId::from(2), 1, 10);
    let large =
        Message::sample(NodeId::from(1), NodeId::from(2), 2, sender.context.message_bytes_max);
    let genuine = Message::sample(NodeId::from(1), NodeId::from(2), 3, 10);
    sender.transport.send(&mut vec![forged, large, genuine.clone()]);
    until("the genuine one arrives", || receiver.arrived.lock().messages.last() == Some(&genuine));
}

#[test]
fn an_address_that_is_taken_or_nonsense_is_an_error_that_names_it() {
    let mut addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let mut second = Node::new(1, &addresses);
    let error = second.transport.start(second.context.clone()).unwrap_err();
    assert!(error.to_string().contains(node.address()), "{error}");
    for nonsense in ["", "no port", "256.1.1.1:1"] {
        addresses[0].1 = nonsense.to_owned();
        let mut node = Node::new(1, &addresses);
        assert!(node.transport.start(node.context.clone()).is_err(), "{nonsense}");
    }
}

/// As behind a translation of addresses: the one that the peers know belongs to somebody else, who
/// passes on what comes.
#[test]
fn a_node_may_listen_elsewhere_than_where_its_peers_find_it() {
    let addresses = addresses();
    let door = TcpListener::bind(&addresses[1].1).unwrap();
    let home = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut second = Node::new(2, &addresses);
    second.transport = TcpTransport::listening_on(home.clone());
    let second = second.started();
    let porter = std::thread::spawn(move || {
        let (outside, inside) = (door.accept().unwrap().0, TcpStream::connect(home).unwrap());
        let (mut answers, mut back) = (inside.try_clone().unwrap(), outside.try_clone().unwrap());
        let answering = std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
        let _ = std::io::copy(&mut &outside, &mut &inside);
        inside.shutdown(std::net::Shutdown::Both).ok();
        answering.join().unwrap().ok();
    });
    let mut first = Node::new(1, &addresses).started();
    until("a message comes through the door", || {
        first.send(2, 1);
        !second.arrived.lock().messages.is_empty()
    });
    first.stop();
    porter.join().unwrap();
}

#[test]
fn stopping_takes_no_time_whatever_the_threads_wait_for() {
    let addresses = addresses();
    // Node 2 accepts and says nothing; node 3 is not there; somebody who said nothing sits in the
    // pending connections; a peer sends to a full inbox.
    let mute = TcpListener::bind(&addresses[1].1).unwrap();
    let mut node = Node::new(1, &addresses).started();
    let mut silent = TcpStream::connect(node.address()).unwrap();
    node.arrived.lock().is_full = true;
    let mut client = RawClient::admitted(&node, &Node::new(3, &addresses));
    client.write_message(&Message::sample(NodeId::from(3), NodeId::from(1), 1, 10));
    let _caught = mute.accept().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let took = node.stop();
    assert!(took < HELLO_TIMEOUT / 2, "{took:?}");
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
    node.stop();
}
