//! Two processes of one node, on copies of one directory.

use super::*;

/// Process `nonce` of node 2, with that incarnation.
fn process(addresses: &[(NodeId, String)], incarnation: u64, nonce: u64, node: &Node) -> Hello {
    let mut peer = Node::new(2, addresses);
    peer.context.identity.incarnation = incarnation;
    Hello { nonce, ..peer.hello_to(node) }
}

/// Introduces itself. Returns the response, and the connection.
fn says(hello: &Hello, node: &Node) -> (Frame, RawClient) {
    RawClient::introducing(node, hello)
}

/// Answers pings until the connection is closed. Returns what closes it.
fn answering(client: RawClient) -> impl FnOnce() {
    let stream = client.0.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let mut client = client;
        while let Some(frame) = client.hear_any() {
            if frame.kind == Kind::Ping {
                client.write_frame(Kind::Pong, frame.content.to_vec());
            }
        }
    });
    move || {
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        thread.join().unwrap();
    }
}

#[test]
fn while_the_first_answers_the_second_stays_outside_whatever_its_incarnation() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let (answer, first) = says(&process(&addresses, 5, 51, &node), &node);
    assert_eq!(answer.kind, Kind::Acceptance);
    let close = answering(first);
    for incarnation in [5, 6, 7, u64::MAX] {
        let (answer, _) = says(&process(&addresses, incarnation, 90, &node), &node);
        assert_eq!(
            (answer.kind, answer.content[0]),
            (Kind::Decline, HandshakeRejection::Duplicate as u8),
            "{incarnation}"
        );
    }
    let told = node.arrived.lock().refused[&NodeId::from(2)].clone();
    assert!(told.starts_with("this node refuses node 2: another process speaks for it"), "{told}");
    // The first one itself may reconnect.
    let (answer, first) = says(&process(&addresses, 5, 51, &node), &node);
    assert_eq!(answer.kind, Kind::Acceptance);
    let close_again = answering(first);
    close();
    close_again();
    // It has ended: its successor does not wait.
    until("the successor is let in", || {
        says(&process(&addresses, 6, 60, &node), &node).0.kind == Kind::Acceptance
    });
    assert!(node.arrived.lock().refused.is_empty());
    let (answer, _) = says(&process(&addresses, 5, 51, &node), &node);
    assert_eq!(answer.content[0], HandshakeRejection::OutdatedDirectory as u8);
}

#[test]
fn one_that_does_not_answer_gives_way_though_its_connection_is_open_and_full_of_words() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let (_, mut first) = says(&process(&addresses, 5, 51, &node), &node);
    // Bytes that it sent before its end are read only now, and prove nothing.
    node.arrived.lock().is_full = true;
    let message = Message::sample(NodeId::from(2), NodeId::from(1), 1, 10);
    (0..1000).for_each(|_| first.write_message(&message));
    let room = node.arrived.clone();
    let reading = std::thread::spawn(move || room.lock().is_full = false);
    let (answer, _) = says(&process(&addresses, 6, 60, &node), &node);
    assert_eq!(answer.kind, Kind::Acceptance);
    reading.join().unwrap();
}

/// A copy that is opened elsewhere while its node is down.
#[test]
fn another_directory_takes_the_place_of_a_known_one_only_at_the_address_of_its_node() {
    let addresses = addresses();
    let mut node = Node::new(1, &addresses);
    node.context.known = vec![(NodeId::from(2), 2)];
    let node = node.started();
    let known = process(&addresses, 5, 51, &node);
    let identity = DirectoryIdentity { directory: 99, complete: false, ..known.identity };
    let copied = Hello { identity, nonce: 60, ..known.clone() };
    let (answer, _) = says(&copied, &node);
    assert_eq!(
        (answer.kind, answer.content[0]),
        (Kind::Decline, HandshakeRejection::Elsewhere as u8)
    );
    let told = node.arrived.lock().refused[&NodeId::from(2)].clone();
    assert!(
        told.contains("node 2: it speaks from a data directory that is not known here"),
        "{told}"
    );
    let (answer, _) = says(&known, &node);
    assert_eq!(answer.kind, Kind::Acceptance, "it has not taken its place");

    let listener = TcpListener::bind(&addresses[1].1).unwrap();
    let mut there = RawClient::called(&listener, &copied);
    there.accept(&copied);
    until("it has met the other one", || {
        node.arrived.lock().identified.last() == Some(&(NodeId::from(2), 99))
    });
    assert_eq!(says(&copied, &node).0.kind, Kind::Acceptance);
    let (answer, _) = says(&known, &node);
    assert_eq!(
        (answer.kind, answer.content[0]),
        (Kind::Decline, HandshakeRejection::DirectoryChanged as u8)
    );
}

/// This node has connected to the first one, which has not connected to it yet.
#[test]
fn the_process_that_this_node_has_reached_is_the_first_one_too() {
    let addresses = addresses();
    let listener = TcpListener::bind(&addresses[1].1).unwrap();
    let node = Node::new(1, &addresses).started();
    let hello = process(&addresses, 5, 51, &node);
    let mut first = RawClient::called(&listener, &hello);
    first.accept(&hello);
    until("they have met", || !node.arrived.lock().identified.is_empty());
    let close = {
        let stream = first.0.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            // As a node that reads.
            while let Some(frame) = first.hear_any() {
                first.write_frame(Kind::Pong, frame.content[..8.min(frame.content.len())].to_vec());
            }
        });
        move || {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
            thread.join().unwrap();
        }
    };
    let second = process(&addresses, 6, 60, &node);
    let (answer, _) = says(&second, &node);
    assert_eq!(
        (answer.kind, answer.content[0]),
        (Kind::Decline, HandshakeRejection::Duplicate as u8)
    );
    drop(listener);
    close();
    until("the second is let in", || says(&second, &node).0.kind == Kind::Acceptance);
}
