//! What both sides report when one rejects the other, and until when.

use super::*;

fn told(node: &Node, peer: u64) -> String {
    node.arrived.lock().refused.get(&NodeId::from(peer)).cloned().unwrap_or_default()
}

#[test]
fn both_ends_are_told_who_refuses_whom_and_when_it_is_over() {
    let addresses = addresses();
    let mut one = Node::new(1, &addresses);
    one.context.known = vec![(NodeId::from(2), 999)];
    let one = one.started();
    let mut wiped = Node::new(2, &addresses).started();
    let (ours, theirs) = (
        "this node refuses node 2: it speaks from another data directory",
        "node 1 refuses this node: it speaks from another data directory",
    );
    until("the one that refuses says so", || told(&one, 2).starts_with(ours));
    until("the one that is refused says so", || told(&wiped, 1).starts_with(theirs));
    wiped.stop();
    let mut restored = Node::new(2, &addresses);
    restored.context.identity =
        DirectoryIdentity { directory: 999, incarnation: 7, complete: true };
    let restored = restored.started();
    until("it is over", || {
        told(&one, 2).is_empty() && restored.arrived.lock().identified.len() > 1
    });
    assert_eq!(told(&restored, 1), "");
}

#[test]
fn members_that_differ_are_named_at_both_ends() {
    let addresses = addresses();
    let one = Node::new(1, &addresses).started();
    let mut two = Node::new(2, &addresses);
    two.context.addresses.pop();
    let two = two.started();
    until("both say so", || {
        told(&one, 2).contains("its list of members differs (1, 2 instead of 1, 2, 3)")
            && told(&two, 1).contains(
                "node 1 refuses this node: its list of members differs (1, 2 instead of 1, 2, 3)",
            )
    });
}

#[test]
fn first_positions_that_differ_are_named_at_both_ends() {
    let addresses = addresses();
    let mut one = Node::new(1, &addresses);
    one.context.first_position = 1 << 40;
    // As the ids of groups that begin at different positions do.
    one.context.cluster += 1;
    let one = one.started();
    let two = Node::new(2, &addresses).started();
    until("both say so", || {
        told(&one, 2).contains("position (0 instead of 1099511627776): give the same")
            && told(&two, 1).contains(
                "node 1 refuses this node: its group began at another position (0 instead of \
                 1099511627776): give the same `first_position`",
            )
    });
}

#[test]
fn another_version_is_named_at_both_ends() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let peer = Node::new(2, &addresses);
    let mut client = RawClient::connect(&node);
    let hello = connection_hello(&peer.hello_to(&node)).encode();
    client.write_frame(Kind::Hello, [&77_u32.to_le_bytes()[..], &hello[4..], b"and more"].concat());
    let refusal = client.read_frame().unwrap();
    assert_eq!(
        (refusal.kind, refusal.content[0]),
        (Kind::Refusal, HandshakeRejection::Protocol as u8)
    );
    until("the node says so", || {
        told(&node, 2).contains("another version of the protocol (77 instead of 3)")
    });
}

#[test]
fn what_is_not_understood_is_told_to_both_ends() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let mut client = RawClient::admitted(&node, &Node::new(2, &addresses));
    client.say(Kind::Message, SLOT, b"words of a later version");
    let refusal = client.hear_of_slot().unwrap();
    assert_eq!(
        (refusal.kind, refusal.content[0]),
        (Kind::Decline, HandshakeRejection::Unreadable as u8)
    );
    until("the node says so", || told(&node, 2).contains("it sends what is not understood here"));
    // A reconnect with the same hello does not end the rejection.
    RawClient::admitted(&node, &Node::new(2, &addresses));
    assert!(!told(&node, 2).is_empty());
}

/// A node that is rejected on its own connection reads the rejection there.
#[test]
fn a_peer_that_refuses_an_accepted_slot_is_heard() {
    let addresses = addresses();
    let listener = TcpListener::bind(&addresses[1].1).unwrap();
    let node = Node::new(1, &addresses).started();
    let hello = Node::new(2, &addresses).hello_to(&node);
    let mut client = RawClient::called(&listener, &hello);
    client.accept(&hello);
    client.say(Kind::Decline, SLOT, &[HandshakeRejection::Unreadable as u8]);
    until("the node says so", || {
        told(&node, 2).starts_with("node 2 refuses this node: it sends what is not understood")
    });
}
