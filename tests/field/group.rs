//! Groups in one process, for facts that need nothing else of the world.

use std::time::{Duration, Instant};

use dledger::transport::MemoryNetwork;
use dledger::{Builder, DLedger, Role};

/// How long anything may take before a fact gives up on it. Never waited for when all is well.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < TIMEOUT, "not within {TIMEOUT:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A temporary directory.
pub(crate) fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for temporary files")
}

/// Addresses of this machine on which no process listens.
pub(crate) fn addresses(count: usize) -> Vec<String> {
    let bind = |_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listeners: Vec<_> = (0..count).map(bind).collect();
    let address = |listener: &std::net::TcpListener| listener.local_addr().map(|at| at.to_string());
    listeners.iter().map(|listener| address(listener).expect("it is bound")).collect()
}

/// Three nodes over a network in memory, in directories `1` to `3` of `home`.
pub(crate) fn three(home: &std::path::Path, set: impl Fn(Builder) -> Builder) -> [DLedger; 3] {
    let network = MemoryNetwork::new();
    [1u64, 2, 3].map(|id| {
        let builder = DLedger::builder(id).dir(home.join(id.to_string()));
        let builder = builder.transport(network.transport(id.into()));
        set(builder.peers([1u64, 2, 3].map(|id| (id, "")))).open().expect("it opens")
    })
}

/// Three nodes over TCP.
pub(crate) fn three_over_tcp(home: &std::path::Path) -> [DLedger; 3] {
    let addresses = addresses(3);
    let peers = || (1u64..=3).zip(addresses.clone());
    [1u64, 2, 3].map(|id| {
        let builder = DLedger::builder(id).dir(home.join(id.to_string()));
        builder.peers(peers()).open().expect("it opens")
    })
}

/// Waits until one of the nodes leads, and says which.
pub(crate) fn leader(nodes: &[DLedger]) -> usize {
    let mut found = None;
    eventually("a leader", || {
        found = nodes.iter().position(|node| node.status().role == Role::Leader);
        found.is_some()
    });
    found.expect("it was found")
}
