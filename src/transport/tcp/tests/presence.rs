//! What a group is told when a peer goes and comes back.

use super::*;

fn all_presence(node: &Node) -> Vec<(u64, bool)> {
    node.arrived.lock().presence.iter().map(|(peer, is_up)| (peer.get(), *is_up)).collect()
}

/// What was reported since node 2 was connected for the first time.
fn presence(node: &Node) -> Vec<(u64, bool)> {
    all_presence(node).into_iter().skip(3).collect()
}

#[test]
fn every_peer_is_down_until_it_is_connected() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    assert_eq!(all_presence(&node), [(2, false), (3, false)]);
    let _client = RawClient::admitted(&node, &Node::new(2, &addresses));
    until("it is up", || all_presence(&node) == [(2, false), (3, false), (2, true)]);
}

#[test]
fn a_peer_that_hangs_up_is_down_and_one_that_comes_back_at_once_is_not() {
    let (node, peer, again) = loop {
        let addresses = addresses();
        let node = Node::new(1, &addresses).started();
        let peer = Node::new(2, &addresses);
        let first = RawClient::admitted(&node, &peer);
        let began = Instant::now();
        drop(first);
        let again = RawClient::admitted(&node, &peer);
        if began.elapsed() < Duration::from_millis(100) {
            break (node, peer, again);
        }
        // It was not at once, for the machine is busy.
    };
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(presence(&node), []);
    drop(again);
    until("it is down", || presence(&node) == [(2, false)]);
    let _third = RawClient::admitted(&node, &peer);
    until("it is up again", || presence(&node) == [(2, false), (2, true)]);
    // One that was refused was never there.
    let wiped = DirectoryIdentity { directory: 77, incarnation: 9, complete: true };
    let refused = Hello { identity: wiped, ..peer.hello_to(&node) };
    drop(RawClient::introducing(&node, &refused));
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(presence(&node).len(), 2);
}

#[test]
fn another_process_of_a_peer_is_reported_though_the_end_of_the_one_before_was_not() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let peer = Node::new(2, &addresses);
    drop(RawClient::admitted(&node, &peer));
    let mut other = peer.hello_to(&node);
    other.identity.incarnation += 1;
    let _second = RawClient::introducing(&node, &other);
    // Where the machine is busy, its end may be noticed before.
    until("it is there", || presence(&node).last() == Some(&(2, true)));
}

#[test]
fn a_peer_that_closes_the_group_is_down_for_it() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let mut client = RawClient::admitted(&node, &Node::new(2, &addresses));
    client.say(Kind::Withdrawal, SLOT, &[]);
    until("it is down", || presence(&node) == [(2, false)]);
    let hello = Node::new(2, &addresses).hello_to(&node);
    client.say(Kind::Introduction, SLOT + 1, &hello.encode());
    until("it is up again", || presence(&node) == [(2, false), (2, true)]);
}

#[test]
fn a_silent_peer_is_down_until_it_is_heard() {
    let addresses = addresses();
    let node = Node::new(1, &addresses).started();
    let mut client = RawClient::admitted(&node, &Node::new(2, &addresses));
    until("it is down", || presence(&node) == [(2, false)]);
    client.write_message(&Message::sample(NodeId::from(2), NodeId::from(1), 1, 10));
    until("it is heard", || presence(&node) == [(2, false), (2, true)]);
    assert_eq!(node.arrived.lock().messages.len(), 1, "the connection has stayed");
}
