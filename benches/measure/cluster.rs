//! What is measured: one node, or three in this process, each with a directory of its own.

use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use dledger::transport::MemoryNetwork;
use dledger::{Builder, DLedger, FlushPolicy, Role};
use tempfile::TempDir;

use super::scratch::scratch;

pub(crate) const ELECTION_MAX: Duration = Duration::from_secs(30);

/// The default of a host that does not want to wait for its disk.
pub(crate) const ASYNC: FlushPolicy = FlushPolicy::Async { interval: Duration::from_millis(100) };

/// How many nodes, and what lies between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    /// In this process, messages go through memory.
    Three,
    /// In this process, messages go through the loopback device.
    ThreeOverTcp,
}

impl Shape {
    pub(crate) fn members(self) -> u64 {
        if self == Shape::One { 1 } else { 3 }
    }
}

/// The nodes of one group, open. Shut down, and their data removed, when dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<DLedger>,
    /// What lies between [`Shape::Three`].
    pub(crate) network: MemoryNetwork,
    _dir: TempDir,
}

impl Cluster {
    /// Opens every node with what `set` changes of the defaults.
    pub(crate) fn open(shape: Shape, set: impl Fn(Builder) -> Builder) -> Cluster {
        let dir = scratch();
        let network = MemoryNetwork::new();
        let addresses = free_addresses(shape.members());
        let open = |id: u64| {
            let builder = set(DLedger::builder(id).dir(dir.path().join(format!("node-{id}"))));
            let builder = match shape {
                Shape::One => builder,
                Shape::Three => {
                    builder.peers(addresses.clone()).transport(network.transport(id.into()))
                }
                Shape::ThreeOverTcp => builder.peers(addresses.clone()),
            };
            builder.open().expect("a node opens in a directory of its own")
        };
        Cluster { nodes: (1..=shape.members()).map(open).collect(), network, _dir: dir }
    }

    /// Waits until one of the nodes leads. Returns its place in `nodes`.
    pub(crate) fn leader(&self) -> usize {
        let deadline = Instant::now() + ELECTION_MAX;
        while Instant::now() < deadline {
            if let Some(leader) =
                self.nodes.iter().position(|node| node.status().role == Role::Leader)
            {
                return leader;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("no leader within {ELECTION_MAX:?}: {:?}", self.nodes);
    }

    /// Does `work` beside a host with a retention: every node gives up what all of them have, but
    /// for the newest `kept` entries.
    pub(crate) fn purging<T>(&self, kept: u64, work: impl FnOnce() -> T) -> T {
        purging(&self.nodes, kept, work)
    }
}

/// Does `work` beside a host that makes `nodes` give up what all of them have, but for the newest
/// `kept` entries.
pub(crate) fn purging<T>(nodes: &[DLedger], kept: u64, work: impl FnOnce() -> T) -> T {
    const PAUSE: Duration = Duration::from_millis(10);
    // Nothing is ever sent: that the work is done is seen when its end is dropped, also by a panic.
    let (end, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let level =
                    nodes.iter().map(|node| node.committed().end).min().expect("there are nodes");
                for node in nodes {
                    node.purge(level.saturating_sub(kept)).expect("a healthy node purges");
                }
            }
        });
        let _end = end;
        work()
    })
}

/// One address for each node, on which no process listened a moment ago.
pub(crate) fn free_addresses(members: u64) -> Vec<(u64, String)> {
    let listeners: Vec<TcpListener> = (0..members)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback is there"))
        .collect();
    let address = |listener: &TcpListener| listener.local_addr().expect("it is bound").to_string();
    (1..).zip(listeners.iter().map(address)).collect()
}
