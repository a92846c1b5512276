//! openraft: three nodes in this process, their logs and messages in memory only. Nothing is
//! encoded, nothing is written anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    BasicNode, Config, Entry, EntryPayload, LogId, LogState, OptionalSend, Raft, RaftLogReader,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, SnapshotPolicy, StorageError, StoredMembership,
    Vote,
};
use tokio::runtime::Runtime;

use crate::clients;
use crate::measure::turn::Turn;
use crate::subject::Subject;

openraft::declare_raft_types!(
    /// Payloads that are cloned by counting, and answers that say nothing.
    pub(crate) Types: D = Bytes, R = (), Node = BasicNode
);

/// Where nodes find each other.
type Directory = Arc<Mutex<BTreeMap<u64, Raft<Types>>>>;

pub(crate) struct OpenRaft {
    runtime: Runtime,
    nodes: Directory,
    leader: Raft<Types>,
}

pub(crate) fn open() -> Option<Box<dyn Subject>> {
    let runtime = clients::runtime();
    let nodes = Directory::default();
    let leader = runtime.block_on(async {
        // It keeps what followers could still need, and nothing makes it write snapshots.
        let config = Config {
            heartbeat_interval: 100,
            election_timeout_min: 1000,
            election_timeout_max: 2000,
            max_payload_entries: 1024,
            snapshot_policy: SnapshotPolicy::Never,
            ..Config::default()
        };
        let config = Arc::new(config.validate().expect("the configuration is sound"));
        for id in 1..=3 {
            let node = Raft::new(
                id,
                config.clone(),
                Network(nodes.clone()),
                Log::default(),
                Machine::default(),
            )
            .await
            .expect("it starts");
            nodes.lock().expect("no thread panics with it").insert(id, node);
        }
        let first = nodes.lock().expect("no thread panics with it")[&1].clone();
        first.initialize(BTreeSet::from([1, 2, 3])).await.expect("it is new");
        loop {
            let leader = first.current_leader().await;
            if let Some(leader) = leader {
                return nodes.lock().expect("no thread panics with it")[&leader].clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    Some(Box::new(OpenRaft { runtime, nodes, leader }))
}

impl Subject for OpenRaft {
    fn append(&mut self, bytes: usize, window: usize, time: Duration) -> Turn {
        let (leader, payload) = (self.leader.clone(), Bytes::from(vec![0x5a; bytes]));
        clients::run(
            &self.runtime,
            window,
            time,
            || Duration::ZERO,
            move || {
                let (leader, payload) = (leader.clone(), payload.clone());
                async move {
                    leader.client_write(payload).await.expect("a healthy group takes every write");
                }
            },
        )
    }

    fn purge(&mut self) {
        let nodes: Vec<_> =
            self.nodes.lock().expect("no thread panics with it").values().cloned().collect();
        self.runtime.block_on(async {
            for node in nodes {
                let applied =
                    node.metrics().borrow().last_applied.map_or(0, |applied| applied.index);
                node.trigger().purge_log(applied.saturating_sub(1)).await.expect("it runs");
            }
        });
    }
}

impl Drop for OpenRaft {
    fn drop(&mut self) {
        let nodes: Vec<_> =
            self.nodes.lock().expect("no thread panics with it").values().cloned().collect();
        self.runtime.block_on(async {
            for node in nodes {
                drop(node.shutdown().await);
            }
        });
    }
}

#[derive(Clone)]
struct Network(Directory);

struct Link {
    nodes: Directory,
    to: u64,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: u64, _node: &BasicNode) -> Link {
        Link { nodes: self.0.clone(), to }
    }
}

impl Link {
    fn node(&self) -> Result<Raft<Types>, Unreachable> {
        let found = self.nodes.lock().expect("no thread panics with it").get(&self.to).cloned();
        found.ok_or_else(|| Unreachable::new(&std::io::Error::from(std::io::ErrorKind::NotFound)))
    }
}

type Failed = RPCError<u64, BasicNode, RaftError<u64>>;

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        self.node()?
            .append_entries(rpc)
            .await
            .map_err(|error| RemoteError::new(self.to, error).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failed> {
        self.node()?.vote(rpc).await.map_err(|error| RemoteError::new(self.to, error).into())
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<u64>,
        RPCError<u64, BasicNode, RaftError<u64, InstallSnapshotError>>,
    > {
        unreachable!("no node falls behind")
    }
}

/// A log in a tree.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    entries: BTreeMap<u64, Entry<Types>>,
    purged: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
}

impl Log {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().expect("no thread panics with it")
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        Ok(self.kept().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let kept = self.kept();
        let last = kept.entries.last_key_value().map(|(_, entry)| entry.log_id).or(kept.purged);
        Ok(LogState { last_purged_log_id: kept.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        self.kept().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self.kept().vote)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.kept().entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.kept().entries.split_off(&from.index);
        Ok(())
    }

    async fn purge(&mut self, to: LogId<u64>) -> Result<(), StorageError<u64>> {
        let mut kept = self.kept();
        kept.entries = kept.entries.split_off(&(to.index + 1));
        kept.purged = Some(to);
        Ok(())
    }
}

/// A state machine that forgets everything but how far it came.
#[derive(Clone, Default)]
struct Machine {
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        unreachable!("no snapshots are asked for")
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), StorageError<u64>> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(
        &mut self,
    ) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        unreachable!("no snapshots are sent")
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta<u64, BasicNode>,
        _snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        unreachable!("no snapshots are sent")
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        Ok(None)
    }
}
