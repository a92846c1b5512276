//! The transports of this crate pass the conformance suite.

use std::net::TcpListener;

use dledger::transport::{
    HostContext, HostTransport, MemoryNetwork, Message, Spawner, TcpHostTransport, TcpTransport,
    Transport, TransportContext, conformance,
};

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
        conformance::Harness::new(free_addresses(nodes), |_| Box::new(TcpTransport::new()))
    });
}

fn free_addresses(count: usize) -> Vec<String> {
    let free: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    free.iter().map(|listener| listener.local_addr().expect("it is bound").to_string()).collect()
}

#[test]
fn the_network_in_memory_conforms_for_hosts() {
    conformance::run_hosts(&spawner(), |hosts| {
        let network = MemoryNetwork::new();
        conformance::HostHarness::new(vec![String::new(); hosts], move |host| {
            Box::new(network.host(host))
        })
    });
}

#[test]
fn one_port_of_tcp_conforms_for_hosts() {
    conformance::run_hosts(&spawner(), |hosts| {
        conformance::HostHarness::new(free_addresses(hosts), |_| Box::new(TcpHostTransport::new()))
    });
}

/// A group of a host conforms like any other transport.
#[test]
fn a_group_on_a_port_of_tcp_conforms() {
    conformance::run(&spawner(), |nodes| {
        conformance::Harness::new(free_addresses(nodes), |_| Box::new(Alone::default()))
    });
}

/// The only group of a host.
#[derive(Default)]
struct Alone {
    host: TcpHostTransport,
    group: Option<Box<dyn Transport>>,
}

impl Transport for Alone {
    fn start(&mut self, context: TransportContext) -> std::io::Result<()> {
        let (node, peers) = (context.node, context.addresses.clone());
        let listen = peers.iter().find(|(id, _)| *id == node).expect("it is a member").1.clone();
        let mut host = HostContext::new(node, listen, peers, context.spawner.clone());
        host.message_bytes_max = context.message_bytes_max;
        self.host.start(host)?;
        self.group.insert(self.host.group()).start(context)
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        match &mut self.group {
            Some(group) => group.send(messages),
            None => messages.clear(),
        }
    }

    fn stop(&mut self) {
        self.host.stop();
    }
}
