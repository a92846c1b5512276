//! The transports of this crate pass the conformance suite.

use std::net::TcpListener;

use dledger::transport::{MemoryNetwork, Spawner, TcpTransport, conformance};

fn spawner() -> Spawner {
    Spawner::new(|name, work| std::thread::Builder::new().name(name).spawn(work).map(drop))
}

#[test]
fn the_network_in_memory_conforms() {
    conformance::run(&spawner(), |nodes| {
        let network = MemoryNetwork::new();
        conformance::Harness::new(vec![String::new(); nodes], move |node| {
            Box::new(network.transport(node))
        })
    });
}

#[test]
fn tcp_conforms() {
    conformance::run(&spawner(), |nodes| {
        let free: Vec<TcpListener> =
            (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses =
            free.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        conformance::Harness::new(addresses, |_| Box::new(TcpTransport::new()))
    });
}
