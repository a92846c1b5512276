//! One node: a ledger, and the map that follows it.

use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dledger::{AppendError, DLedger, Role, Status};

use crate::Result;
use crate::map::{Command, Map};
use crate::prompt::Host;

const PATIENCE: Duration = Duration::from_secs(10);

/// A member of a group of processes, read from `ID=HOST:PORT`.
#[derive(Clone)]
pub(crate) struct Peer {
    id: u64,
    address: String,
}

impl FromStr for Peer {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Peer, Self::Err> {
        let (id, address) = text.split_once('=').ok_or("not ID=HOST:PORT")?;
        let id = id.parse().map_err(|_| "the id is not a number")?;
        Ok(Peer { id, address: address.to_owned() })
    }
}

pub(crate) struct Node {
    pub(crate) ledger: DLedger,
    follower: Arc<Follower>,
    replay: JoinHandle<()>,
}

/// The map, shared between the thread that replays the log and those that read.
#[derive(Default)]
struct Follower {
    map: Mutex<Map>,
    moved: Condvar,
}

impl Follower {
    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Joins a group of processes that speak TCP.
    pub(crate) fn join(id: u64, peers: &[Peer], dir: &Path) -> Result<Node> {
        let mut builder = DLedger::builder(id).group("kv_store").dir(dir);
        for Peer { id, address } in peers {
            builder = builder.peer(*id, address);
        }
        // Told to every node, and by those that do not lead to their clients.
        let builder = builder.advertise(format!("the prompt of process {}", std::process::id()));
        let node = Node::replaying(builder.on_role_change(announce).open()?)?;
        println!("node {id} is up, one of {}: type help", peers.len());
        Ok(node)
    }

    /// Rebuilds the map from the first entry on, then keeps it up to date. There is nothing else to
    /// load: the log is the state.
    pub(crate) fn replaying(ledger: DLedger) -> Result<Node> {
        let follower = Arc::new(Follower::default());
        let (tail, shared) = (ledger.tail(0), Arc::clone(&follower));
        let replay = thread::Builder::new().name("replay".to_owned()).spawn(move || {
            for entry in tail {
                match entry {
                    Ok(entry) => shared.lock().replay(&entry),
                    Err(error) => return eprintln!("the log cannot be read: {error}"),
                }
                shared.moved.notify_all();
            }
        })?;
        Ok(Node { ledger, follower, replay })
    }

    /// The map as it is on this node, with everything in it that anyone was told is done before
    /// this call.
    ///
    /// Any node can do this, leader or not: the barrier asks the leader how far the log reaches by
    /// now, and then the map has only to get there.
    pub(crate) fn read(&self) -> Result<Map> {
        let end = self.barrier()?;
        let behind = |map: &mut Map| map.next < end;
        let (map, waited) = self
            .follower
            .moved
            .wait_timeout_while(self.follower.lock(), PATIENCE, behind)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            Err("the map does not keep up with the log".into())
        } else {
            Ok(map.clone())
        }
    }

    /// Where the log holds exactly `command`, from `from` on, if it does.
    pub(crate) fn find(&self, command: &Command, from: u64) -> Result<Option<u64>> {
        let end = self.barrier()?;
        for entry in self.ledger.read(from) {
            let entry = entry?;
            if entry.index() >= end {
                break;
            }
            if *entry == command.bytes() {
                return Ok(Some(entry.index()));
            }
        }
        Ok(None)
    }

    /// A node that has just started, or just lost its leader, needs a moment before it can ask how
    /// far the log reaches.
    fn barrier(&self) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ledger.barrier() {
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                answer => return Ok(answer?),
            }
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.ledger.status().role == Role::Leader
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.ledger.shutdown()?;
        self.replay.join().map_err(|_| "the replaying thread panicked".into())
    }
}

fn announce(status: &Status) {
    match (status.role, status.leader) {
        (Role::Follower, Some(leader)) => {
            println!("node {} follows node {leader} in term {}", status.id, status.term)
        }
        (role, _) => println!("node {} is {role} in term {}", status.id, status.term),
    }
}

/// One line on how a node is.
pub(crate) fn describe(status: &Status) -> String {
    let leader =
        status.leader.map_or("no node leads".to_owned(), |leader| format!("node {leader} leads"));
    format!(
        "node {}: {} in term {}, {leader}, {} entries",
        status.id, status.role, status.term, status.committed.end
    )
}

/// What keeps a node from its work, and what to do about it.
fn troubles(status: &Status) -> Vec<String> {
    let Status { fault, repair, full, .. } = status;
    fault.iter().chain(repair).chain(full).cloned().chain(status.refusals()).collect()
}

impl Host for Node {
    fn write(&mut self, command: &Command) -> Result<u64> {
        self.ledger.append(command.bytes()).map_err(|error| match error {
            AppendError::NotLeader { leader: Some(leader), advertised: Some(place), .. } => {
                format!("node {leader} leads: ask at {place}").into()
            }
            error if error.may_have_committed() => {
                format!("{error}: it may be done or not, read to see").into()
            }
            error => error.into(),
        })
    }

    fn read(&mut self) -> Result<Map> {
        Node::read(self)
    }

    fn status(&mut self) -> Vec<String> {
        let status = self.ledger.status();
        let mut lines = vec![describe(&status)];
        lines.extend(troubles(&status).iter().map(|trouble| format!("  {trouble}")));
        lines
    }

    fn stop(&mut self) -> Result<()> {
        Ok(self.ledger.shutdown()?)
    }
}
