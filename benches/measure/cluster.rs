//! What is measured: one node, or three in this process, each with a directory of its own.

use std::thread;
use std::time::{Duration, Instant};

use dledger::transport::MemoryNetwork;
use dledger::{Builder, DLedger, FlushPolicy, Role};
use tempfile::TempDir;

const ELECTION_MAX: Duration = Duration::from_secs(30);

/// The default of a host that does not want to wait for its disk.
pub(crate) const ASYNC: FlushPolicy = FlushPolicy::Async { interval: Duration::from_millis(100) };

/// Where benchmarks keep their data: below `DLEDGER_BENCH_DIR`, or where temporary files go. Removed when dropped.
pub(crate) fn scratch() -> TempDir {
    let parent = std::env::var_os("DLEDGER_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    tempfile::Builder::new().prefix("dledger-bench-").tempdir_in(parent).expect("the directory of the benchmarks can be written")
}

/// Nodes 1 to n of one group, open. Shut down, and their data removed, when dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<DLedger>,
    _dir: TempDir,
}

impl Cluster {
    /// Opens `members` nodes with what `set` changes of the defaults. The nodes of a larger group talk through memory.
    pub(crate) fn open(members: u64, set: impl Fn(Builder) -> Builder) -> Cluster {
        let dir = scratch();
        let network = MemoryNetwork::new();
        let open = |id| {
            let mut builder = set(DLedger::builder(id).dir(dir.path().join(format!("node-{id}"))));
            if members > 1 {
                builder = builder.peers((1..=members).map(|peer| (peer, ""))).transport(network.transport(id));
            }
            builder.open().expect("a node opens in a directory of its own")
        };
        Cluster { nodes: (1..=members).map(open).collect(), _dir: dir }
    }

    /// Waits until one of the nodes leads. Returns its place in `nodes`.
    pub(crate) fn leader(&self) -> usize {
        let deadline = Instant::now() + ELECTION_MAX;
        while Instant::now() < deadline {
            if let Some(leader) = self.nodes.iter().position(|node| node.status().role == Role::Leader) {
                return leader;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("no leader within {ELECTION_MAX:?}: {:?}", self.nodes);
    }
}
