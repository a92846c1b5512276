//! What groups of hosts are told of their peers.

use std::sync::Arc;

use super::*;
use crate::transport::Spawner;

type Told = Arc<Mutex<Vec<(u64, bool)>>>;

fn no_threads() -> Spawner {
    Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()))
}

/// The transport of a group of three on a host, and what it is told.
fn group(network: &MemoryNetwork, node: u64, incarnation: u64) -> (Box<dyn Transport>, Told) {
    let host = network.host(node);
    let addresses: Vec<_> = (1..=3).map(|id| (NodeId::from(id), String::new())).collect();
    let context = HostContext::new(node.into(), "", addresses.clone(), no_threads());
    host.start(context).unwrap();
    let (told, mut transport) = (Told::default(), host.group());
    let tell = told.clone();
    let inbox = Inbox::new(move |event| {
        match event {
            TransportEvent::PeerDown(peer) => tell.lock().push((peer.get(), false)),
            TransportEvent::PeerUp(peer) => tell.lock().push((peer.get(), true)),
            _ => {}
        }
        true
    });
    let mut context = TransportContext::new(node.into(), "orders", addresses, inbox, no_threads());
    context.identity.incarnation = incarnation;
    transport.start(context).unwrap();
    std::mem::forget(host); // it would stop
    (transport, told)
}

#[test]
fn groups_of_hosts_are_told_who_is_there() {
    let network = MemoryNetwork::new();
    let (_one, told) = group(&network, 1, 1);
    let news = || std::mem::take(&mut *told.lock());
    assert_eq!(news(), [(2, false), (3, false)]);
    let (mut two, told_two) = group(&network, 2, 1);
    assert_eq!((news(), &told_two.lock()[..]), (vec![(2, true)], &[(3, false)][..]));
    network.isolate(2.into());
    assert_eq!(news(), [(2, false)]);
    assert_eq!(told_two.lock().last(), Some(&(1, false)));
    network.partition(&[1.into()], &[2.into()]);
    network.rejoin(2.into());
    assert_eq!(news(), [], "it is cut off in two ways");
    network.heal();
    assert_eq!(news(), [(2, true)]);
    two.stop();
    assert_eq!(news(), [(2, false)]);
    let (_again, _) = group(&network, 2, 2);
    assert_eq!(news(), [(2, true)]);
    let (_third, _) = group(&network, 2, 3);
    assert_eq!(news(), [(2, true)], "another process of it, at once");
}
