//! Silent and slow connections: which are closed, which are kept, and which messages go first.

use socket2::{Domain, Socket, Type};

use super::*;
use crate::transport::frame::Frames;

/// A node, and its connection to a peer that the test plays. The connection buffers little.
fn called_by_a_node() -> (Node, RawClient) {
    let addresses = addresses();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.bind(&addresses[1].1.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(8).unwrap();
    let node = Node::new(1, &addresses).started();
    let hello = Node::new(2, &addresses).hello_to(&node);
    let mut client = RawClient::called(&TcpListener::from(socket), &hello);
    client.accept(&hello);
    until("they have met", || !node.arrived.lock().identified.is_empty());
    client.1.set_len_max(64 << 20);
    (node, client)
}

/// Sends pongs until the connection is closed.
pub(super) fn keep_answering(client: &RawClient) {
    let mut stream = client.0.try_clone().unwrap();
    std::thread::spawn(move || {
        while stream.write_all(&frame::numbered(Kind::Pong, 0)).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

fn bulk(number: u64) -> Message {
    Message::sample(NodeId::from(1), NodeId::from(2), number, 4 << 20)
}

/// An urgent message.
fn heartbeat() -> Message {
    Message::samples(NodeId::from(1), NodeId::from(2)).remove(0)
}

/// How many bytes come before the first whole message.
fn bytes_before_a_message(client: &mut RawClient) -> (usize, Frame) {
    let mut bytes = 0;
    loop {
        match client.1.next().unwrap() {
            Some(frame) if frame.kind == Kind::Message => return (bytes, frame),
            Some(_) => {}
            None => match client.1.read_from(&mut &client.0).unwrap() {
                0 => panic!("the node hung up"),
                read => bytes += read,
            },
        }
    }
}

#[test]
fn what_is_urgent_does_not_wait_behind_bulk() {
    let (mut node, mut client) = called_by_a_node();
    keep_answering(&client);
    node.transport.send(&mut (1..=4).map(bulk).collect());
    // Time for the connection to fill up. Had it not, the heartbeat would come earlier still.
    std::thread::sleep(Duration::from_millis(300));
    node.transport.send(&mut vec![heartbeat()]);
    let (bytes, first) = bytes_before_a_message(&mut client);
    assert_eq!(Message::decode(first.content).unwrap(), heartbeat());
    // Bytes in the receive buffer of the peer cannot be overtaken.
    assert!(bytes <= (256 << 10) + (64 << 10), "{bytes} bytes were before it");
    for number in 1..=4 {
        let (_, frame) = bytes_before_a_message(&mut client);
        assert_eq!(
            Message::decode(frame.content).unwrap(),
            bulk(number),
            "bulk keeps its order, and is whole"
        );
    }
}

#[test]
fn a_connection_on_which_nothing_comes_back_is_given_up() {
    for messages in [vec![], vec![heartbeat()], (1..=4).map(bulk).collect()] {
        let (mut node, mut client) = called_by_a_node();
        let count = messages.len();
        node.transport.send(&mut messages.clone());
        if count > 1 {
            // The thread that writes is blocked in a message. Nothing is read before it gives up.
            until("the node has given up", || !node.arrived.lock().unreachable.is_empty());
        }
        while client.hear_any().is_some() {}
    }
}

#[test]
fn a_connection_that_is_slow_is_kept_as_long_as_anything_arrives() {
    let (mut node, mut client) = called_by_a_node();
    node.arrived.lock().unreachable.clear();
    node.transport.send(&mut vec![bulk(1)]);
    let began = Instant::now();
    let mut buffer = [0; 4 << 10];
    while began.elapsed() < Duration::from_secs(5) {
        // As a node that reads from a slow connection.
        assert!(client.0.read(&mut buffer).unwrap() > 0, "the node hung up");
        client.0.write_all(&frame::numbered(Kind::Pong, 0)).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(!node.arrived.lock().unreachable.contains(&NodeId::from(2)));
}

#[test]
fn messages_are_answered_and_a_silent_connection_is_closed() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let mut client = RawClient::admitted(&node, &Node::new(2, &addresses));
    client.write_frame(Kind::Ping, 5_u64.to_le_bytes().to_vec());
    assert_eq!(
        client.hear_any().map(|frame| (frame.kind, frame.number())),
        Some((Kind::Pong, Some(5)))
    );
    let message =
        Frames::of(SLOT, Message::sample(NodeId::from(2), NodeId::from(1), 1, 300_000).encode())
            .concat();
    let part = message.len() / 3;
    for part in message.chunks(part) {
        // Parts of a message count as a sign of life.
        std::thread::sleep(Duration::from_millis(300));
        client.0.write_all(part).unwrap();
        assert_eq!(
            client.hear_any().map(|frame| (frame.kind, frame.number())),
            Some((Kind::Pong, Some(0)))
        );
    }
    until("the message has arrived", || node.arrived.lock().messages.len() == 1);
    assert_eq!(client.hear_any(), None, "nothing was said for five seconds");
}

/// The peer takes silence for a sign that the node is down.
#[test]
fn a_node_pings_also_while_it_has_something_to_say() {
    let (mut node, client) = called_by_a_node();
    let (mut client, mut pings) = (client, 0);
    keep_answering(&client);
    until("it has pinged", || {
        node.transport.send(&mut vec![heartbeat()]);
        pings += u32::from(client.hear_any().unwrap().kind == Kind::Ping);
        pings > 1
    });
}

/// A busy node reads nothing, but is alive.
#[test]
fn a_node_without_room_is_not_taken_for_one_that_is_gone() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    node.arrived.lock().is_full = true;
    let mut client = RawClient::admitted(&node, &Node::new(2, &addresses));
    client.write_message(&Message::sample(NodeId::from(2), NodeId::from(1), 1, 10));
    for _ in 0..12 {
        assert_eq!(client.hear_any().map(|frame| frame.kind), Some(Kind::Pong));
    }
    node.arrived.lock().is_full = false;
    until("the message has arrived", || node.arrived.lock().messages.len() == 1);
}
