//! Three nodes in this process, and how a client gets along with them while they come and go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dledger::transport::MemoryNetwork;
use dledger::{DLedger, NodeId};

use crate::Result;
use crate::map::{Command, Map};
use crate::node::{Node, describe};
use crate::prompt::Host;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Cluster {
    network: MemoryNetwork,
    members: u64,
    dir: PathBuf,
    /// Those that are up.
    pub(crate) nodes: BTreeMap<u64, Node>,
}

impl Cluster {
    /// Starts nodes 1 to `members`, each in a directory of its own below `dir`.
    pub(crate) fn start(members: u64, dir: &Path) -> Result<Cluster> {
        let mut cluster = Cluster {
            network: MemoryNetwork::new(),
            members,
            dir: dir.to_owned(),
            nodes: BTreeMap::new(),
        };
        for id in 1..=members {
            cluster.start_node(id)?;
        }
        Ok(cluster)
    }

    /// Starts one node, new or known. The default timeouts are made for machines; within one
    /// process they can be shorter.
    pub(crate) fn start_node(&mut self, id: u64) -> Result<()> {
        let mut builder =
            DLedger::builder(id).group("kv_store").dir(self.dir.join(format!("node-{id}")));
        for peer in 1..=self.members {
            builder = builder.peer(peer, "");
        }
        let builder = builder
            .heartbeat_interval(Duration::from_millis(50))
            .election_timeout(Duration::from_millis(300));
        let ledger = builder.transport(self.network.transport(NodeId::from(id))).open()?;
        self.nodes.insert(id, Node::replaying(ledger)?);
        Ok(())
    }

    pub(crate) fn stop_node(&mut self, id: u64) -> Result<()> {
        self.nodes.remove(&id).ok_or(format!("node {id} is not up"))?.stop()
    }

    /// Waits for a node that leads.
    pub(crate) fn leader(&self) -> Result<(u64, &Node)> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some((id, node)) = self.nodes.iter().find(|(_, node)| node.leads()) {
                return Ok((*id, node));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err("no node leads: more than half of them must be up".into())
    }

    /// Writes through the present leader, until it is certain that it is written. Returns the
    /// index.
    ///
    /// An error that says "not written" is met by trying again. An error that says "perhaps" is met
    /// by looking first: what became of a command on its way while the leader went away is not
    /// known to the client, but the log knows. `from` is where the command can stand at the
    /// earliest.
    pub(crate) fn write_through(&self, command: &Command, from: u64) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match self.leader()?.1.ledger.append(command.bytes()) {
                Ok(index) => return Ok(index),
                Err(error) => error,
            };
            if error.may_have_committed()
                && let Ok(Some(index)) = self.leader()?.1.find(command, from)
            {
                return Ok(index);
            }
            if Instant::now() >= deadline {
                return Err(error.into());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Host for Cluster {
    fn write(&mut self, command: &Command) -> Result<u64> {
        let from = self.leader()?.1.ledger.committed().end;
        self.write_through(command, from)
    }

    /// Reads from a follower if there is one, to show that it can.
    fn read(&mut self) -> Result<Map> {
        let node = self.nodes.values().find(|node| !node.leads()).or(self.nodes.values().next());
        node.ok_or("every node is down")?.read()
    }

    fn status(&mut self) -> Vec<String> {
        let line = |id| {
            self.nodes
                .get(&id)
                .map_or(format!("node {id}: down"), |node| describe(&node.ledger.status()))
        };
        (1..=self.members).map(line).collect()
    }

    fn kill(&mut self, id: u64) -> Result<()> {
        self.stop_node(id)
    }

    fn restart(&mut self, id: u64) -> Result<()> {
        match id {
            _ if self.nodes.contains_key(&id) => Err(format!("node {id} is up").into()),
            _ if !(1..=self.members).contains(&id) => Err(format!("there is no node {id}").into()),
            _ => self.start_node(id),
        }
    }

    fn stop(&mut self) -> Result<()> {
        while let Some((_, node)) = self.nodes.pop_first() {
            node.stop()?;
        }
        Ok(())
    }
}
