//! A group of nodes in this process: opened, stopped, crashed, cut off and compared by the tests.

use std::fmt::Display;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dledger::storage::MemoryLog;
use dledger::transport::MemoryNetwork;
use dledger::{Builder, DLedger, Entry, FlushPolicy, NodeId, Role};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::gated::{Gate, GatedLog};

/// How long anything may take before a test gives up on it. Never waited for when all is well.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// What the nodes talk over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransportKind {
    Memory,
    Tcp,
}

/// What the nodes remember with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// A [`MemoryLog`], which can lose power and whose syncs can be held up.
    Memory,
    /// The default storage, in a temporary directory.
    Directory,
}

/// Flush policies that the tests run under.
pub(crate) const FLUSHES: [FlushPolicy; 2] =
    [FlushPolicy::Sync, FlushPolicy::Async { interval: Duration::from_millis(5) }];

type Tune = Arc<dyn Fn(Builder) -> Builder + Send + Sync>;

/// A group to be opened.
#[derive(Clone)]
pub(crate) struct Plan {
    size: u64,
    wire: TransportKind,
    disk: Disk,
    heartbeat: Duration,
    election: Duration,
    tune: Tune,
}

/// A group of `size` nodes that change their leader only for a good reason, over memory.
pub(crate) fn cluster_of(size: u64) -> Plan {
    Plan {
        size,
        wire: TransportKind::Memory,
        disk: Disk::Memory,
        heartbeat: Duration::from_millis(20),
        election: Duration::from_millis(200),
        tune: Arc::new(|builder| builder),
    }
}

impl Plan {
    pub(crate) fn over(mut self, wire: TransportKind) -> Plan {
        self.wire = wire;
        self
    }

    pub(crate) fn on(mut self, disk: Disk) -> Plan {
        self.disk = disk;
        self
    }

    /// Nodes that time out soon: for tests that kill leaders.
    pub(crate) fn impatient(mut self) -> Plan {
        (self.heartbeat, self.election) = (Duration::from_millis(10), Duration::from_millis(50));
        self
    }

    /// Nodes that elect nobody else however busy the machine is: for tests that end with an
    /// election that they did not cause.
    pub(crate) fn patient(mut self) -> Plan {
        (self.heartbeat, self.election) = (Duration::from_millis(50), Duration::from_secs(1));
        self
    }

    /// More settings, for every node and every time that it is opened.
    pub(crate) fn with(
        mut self,
        tune: impl Fn(Builder) -> Builder + Send + Sync + 'static,
    ) -> Plan {
        let before = self.tune;
        self.tune = Arc::new(move |builder| tune(before(builder)));
        self
    }

    /// Opens all nodes.
    pub(crate) fn open(self) -> Cluster {
        let cluster = self.prepare();
        cluster.ids().for_each(|id| cluster.start(id));
        cluster
    }

    /// The same without any node running yet.
    pub(crate) fn prepare(self) -> Cluster {
        let addresses = match self.wire {
            TransportKind::Memory => (1..=self.size).map(|id| format!("memory:{id}")).collect(),
            TransportKind::Tcp => free_addresses(self.size),
        };
        Cluster {
            slots: (0..self.size).map(|_| NodeSlot::default()).collect(),
            network: MemoryNetwork::new(),
            root: tempfile::tempdir().expect("there is room for temporary files"),
            addresses,
            plan: self,
        }
    }
}

/// Addresses of this machine on which no process listens.
pub(crate) fn free_addresses(count: u64) -> Vec<String> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().expect("it is bound").to_string())
        .collect()
}

/// A group of nodes; some may be stopped.
pub(crate) struct Cluster {
    plan: Plan,
    slots: Vec<NodeSlot>,
    addresses: Vec<String>,
    root: TempDir,
    pub(crate) network: MemoryNetwork,
}

/// What is kept of a node across its restarts.
#[derive(Default)]
struct NodeSlot {
    memory: MemoryLog,
    gate: Gate,
    ledger: Mutex<Option<DLedger>>,
}

impl Cluster {
    pub(crate) fn ids(&self) -> RangeInclusive<u64> {
        1..=self.plan.size
    }

    pub(crate) fn others(&self, than: u64) -> Vec<u64> {
        self.ids().filter(|id| *id != than).collect()
    }

    fn slot(&self, id: u64) -> &NodeSlot {
        &self.slots[id as usize - 1]
    }

    pub(crate) fn address(&self, id: u64) -> &str {
        &self.addresses[id as usize - 1]
    }

    /// Where a node keeps its log, if that is a directory.
    pub(crate) fn dir(&self, id: u64) -> PathBuf {
        self.root.path().join(id.to_string())
    }

    /// The builder of a node as the plan wants it.
    pub(crate) fn builder(&self, id: u64) -> Builder {
        let slot = self.slot(id);
        let mut builder = DLedger::builder(id)
            .dir(self.dir(id))
            .peers(self.ids().zip(self.addresses.iter().cloned()))
            .heartbeat_interval(self.plan.heartbeat)
            .election_timeout(self.plan.election);
        if self.plan.disk == Disk::Memory {
            builder =
                builder.storage(GatedLog { log: slot.memory.clone(), gate: slot.gate.clone() });
        }
        if self.plan.wire == TransportKind::Memory {
            builder = builder.transport(self.network.transport(id.into()));
        }
        (self.plan.tune)(builder)
    }

    pub(crate) fn start(&self, id: u64) {
        self.start_as(id, |builder| builder);
    }

    /// Opens a node with other settings for once.
    pub(crate) fn start_as(&self, id: u64, tune: impl FnOnce(Builder) -> Builder) {
        let ledger = tune(self.builder(id)).open().expect("a node can be opened");
        assert!(self.slot(id).ledger.lock().replace(ledger).is_none(), "node {id} runs already");
    }

    /// Shuts a node down in good order.
    pub(crate) fn stop(&self, id: u64) {
        let ledger =
            self.slot(id).ledger.lock().take().expect("only a running node can be stopped");
        ledger.shutdown().expect("a sound node closes without an error");
    }

    /// Cuts the power of a node: what its disk was not made to keep is gone. For a log in memory;
    /// another is shut down.
    pub(crate) fn crash(&self, id: u64) {
        if self.plan.disk == Disk::Directory {
            return self.stop(id);
        }
        let ledger = self.slot(id).ledger.lock().take().expect("only a running node can crash");
        self.slot(id).memory.crash();
        self.gate(id).open();
        // It says no more to anybody: a leader that is shut down hands over first.
        self.network.isolate(id.into());
        // Fails or not, depending on whether it wrote anything since.
        let _ = ledger.shutdown();
        self.network.rejoin(id.into());
    }

    /// Holds up the syncs of a node. For a log in memory.
    pub(crate) fn gate(&self, id: u64) -> &Gate {
        &self.slot(id).gate
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        self.ids().filter(|id| self.slot(*id).ledger.lock().is_some()).collect()
    }

    /// The handle of a node, if it runs.
    pub(crate) fn find(&self, id: u64) -> Option<DLedger> {
        self.slot(id).ledger.lock().clone()
    }

    /// The handle of a node that runs.
    #[track_caller]
    pub(crate) fn node(&self, id: u64) -> DLedger {
        self.find(id).expect("the node runs")
    }

    /// Waits until one of these nodes leads, and a majority of the group follows it.
    #[track_caller]
    pub(crate) fn leader_among(&self, ids: &[u64]) -> u64 {
        let majority = self.plan.size as usize / 2 + 1;
        until("a leader", || {
            let statuses: Vec<_> =
                ids.iter().filter_map(|id| self.find(*id)).map(|ledger| ledger.status()).collect();
            let leader = statuses
                .iter()
                .filter(|status| status.role == Role::Leader)
                .max_by_key(|status| status.term)?;
            let followed = statuses
                .iter()
                .filter(|status| status.leader == Some(leader.id) && status.term == leader.term)
                .count();
            (followed >= majority).then_some(leader.id.get())
        })
    }

    /// Runs what holds under one leader, with its number. It may fail if the group elects another
    /// one meanwhile, which it does where a machine is busy: then it is run again.
    #[track_caller]
    pub(crate) fn under_one_leader<T>(&self, run: impl Fn(u64) -> T) -> T {
        let term = |id: u64| self.find(id).map(|ledger| ledger.status().term);
        until("a leader that stays", || {
            let leader = self.leader();
            let before = term(leader);
            match catch_unwind(AssertUnwindSafe(|| run(leader))) {
                Ok(outcome) => Some(outcome),
                Err(_) if self.running().into_iter().any(|id| term(id) > before) => None,
                Err(panic) => resume_unwind(panic),
            }
        })
    }

    /// Waits for a leader and gives its number.
    #[track_caller]
    pub(crate) fn leader(&self) -> u64 {
        self.leader_among(&self.running())
    }

    /// Appends at the leader, again and again until it is acknowledged. If it is not known what
    /// became of it, because the leader was another meanwhile (where a machine is busy, impatient
    /// nodes change leaders), it is looked for: no other thread may append the same at that time.
    #[track_caller]
    pub(crate) fn append(&self, payload: &[u8]) -> u64 {
        let before = self.node(self.leader()).committed().end;
        until("an append to be acknowledged", || match self.node(self.leader()).append(payload) {
            Ok(index) => Some(index),
            Err(error) if error.may_have_committed() => self.find_committed(payload, before),
            Err(_) => None,
        })
    }

    /// Where this payload is, from index `before` on, if it is committed. If it is not by now, it
    /// never will be: a leader has committed all that was in its log when it began.
    #[track_caller]
    fn find_committed(&self, payload: &[u8], before: u64) -> Option<u64> {
        let (ledger, end) = until("a leader to know all that is committed", || {
            let ledger = self.node(self.leader());
            ledger.barrier().ok().map(|end| (ledger, end))
        });
        (before..end).find(|index| {
            ledger.get(*index).is_ok_and(|entry| entry.is_some_and(|entry| *entry == *payload))
        })
    }

    /// Waits until the running nodes have decided all that their logs hold and agree about it, and
    /// gives the ledger.
    #[track_caller]
    pub(crate) fn agree(&self) -> Vec<Entry> {
        self.leader();
        let ids = self.running();
        until("all nodes to know the same commits and hold nothing else", || {
            let statuses: Vec<_> = ids.iter().map(|id| self.node(*id).status()).collect();
            let ends: Vec<_> = statuses
                .iter()
                .map(|status| {
                    (status.committed.clone(), status.committed_position, status.end_index)
                })
                .collect();
            (ends.iter().all(|ends_here| *ends_here == ends[0]) && ends[0].2 == ends[0].0.end)
                .then_some(())
        });
        let ledger = whole(&self.node(ids[0]));
        for id in &ids[1..] {
            let here = whole(&self.node(*id));
            let differ = ledger.iter().zip(&here).find(|(one, other)| one != other);
            assert!(
                differ.is_none() && ledger.len() == here.len(),
                "nodes {} and {id} differ: {differ:?}",
                ids[0]
            );
        }
        ledger
    }

    pub(crate) fn isolate(&self, id: u64) {
        self.network.isolate(id.into());
    }

    pub(crate) fn heal(&self) {
        self.network.heal();
    }

    /// Cuts the group in two.
    pub(crate) fn partition(&self, one: &[u64], other: &[u64]) {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId::from).collect::<Vec<_>>();
        self.network.partition(&nodes(one), &nodes(other));
    }
}

/// A node whose syncs are held up could not be shut down.
impl Drop for Cluster {
    fn drop(&mut self) {
        self.slots.iter().for_each(|slot| slot.gate.open());
    }
}

/// Everything that is committed on a node, read by cursor, compared with `get`, and put to the
/// rules of a ledger.
#[track_caller]
pub(crate) fn whole(ledger: &DLedger) -> Vec<Entry> {
    let committed = ledger.committed();
    assert_eq!(committed.start, 0, "nothing was purged");
    let entries: Vec<Entry> = ledger
        .read(0)
        .take(committed.end as usize)
        .collect::<Result<_, _>>()
        .expect("what is committed can be read");
    assert_eq!(entries.len() as u64, committed.end, "a cursor reads all that is committed");
    let mut position = 0;
    for (entry, index) in entries.iter().zip(0..) {
        assert_eq!(
            (entry.index(), entry.position()),
            (index, position),
            "indexes are dense and positions sum the lengths"
        );
        position += entry.len() as u64;
    }
    let grows = |value: fn(&Entry) -> u64| {
        entries.windows(2).all(|pair| value(&pair[0]) <= value(&pair[1]))
    };
    assert!(grows(Entry::term) && grows(Entry::timestamp), "neither terms nor timestamps decrease");
    // Reading one by one finds the same. The ends and a stride between them, for ledgers may be
    // long.
    for entry in entries.iter().step_by(entries.len() / 500 + 1).chain(entries.last()) {
        assert_eq!(ledger.get(entry.index()).expect("a get works").as_ref(), Some(entry));
    }
    entries
}

/// Waits until `probe` finds what it looks for.
#[track_caller]
pub(crate) fn until<T>(what: impl Display, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {TIMEOUT:?} in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
