//! Host names of peers, and a slow resolver.

use std::sync::mpsc;

use super::*;

/// A node that looks for its peers under names. Until something is sent, or the sender is gone,
/// each lookup of one hangs.
fn node_with_slow_names(addresses: &[(NodeId, String)]) -> (Node, mpsc::Sender<()>) {
    let (release, held) = mpsc::channel();
    let held = Mutex::new(held);
    let mut named = addresses.to_vec();
    named[1].1 = format!("peer.invalid:{}", addresses[1].1.rsplit(':').next().unwrap());
    let mut node = Node::new(1, &named);
    node.transport = TcpTransport::made(
        None,
        Arc::new(move |name| {
            let _ = held.lock().recv();
            Ok(vec![name.replace("peer.invalid", "127.0.0.1").parse().unwrap()])
        }),
    );
    (node.started(), release)
}

#[test]
fn stopping_waits_for_no_name() {
    let (mut node, _release) = node_with_slow_names(&addresses());
    std::thread::sleep(Duration::from_millis(100));
    let took = node.stop();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_name_that_is_resolved_late_is_used_all_the_same() {
    let addresses = addresses();
    let (mut node, release) = node_with_slow_names(&addresses);
    let peer = Node::new(2, &addresses).started();
    std::thread::sleep(Duration::from_millis(100));
    assert!(node.arrived.lock().identified.iter().all(|(_, directory)| *directory == 2));
    drop(release);
    until("a message gets through", || {
        node.send(2, 1);
        !peer.arrived.lock().messages.is_empty()
    });
}
