//! Many groups in one process: one directory, one port, one pair of connections to each other
//! process, and a few threads for all of them.

mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::settings::HostBuilder;
use crate::builder::Builder;
use crate::dledger::DLedger;
use crate::entry::NodeId;
use crate::error::{OpenError, ShutdownError};
use crate::fork::FORKED;
use crate::host_parts::{GroupClaim, HostParts};
use crate::log_prefix::LogPrefix;
use crate::primitives::Instant;
use crate::role::Role;
use crate::running_node::RunningNode;
use crate::storage::StorageError;
use crate::threads::in_parallel;
use crate::wakers::is_in_waker;

/// How long a removal waits for another call that opens, closes or removes the same group.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a group that is shut down may take to hand over its leadership, before it stops all the
/// same.
const HANDOVER_TIMEOUT: Duration = Duration::from_millis(100);

/// Runs many groups: each is a [`DLedger`] of its own, and all of them share a directory, a port,
/// one pair of connections to each other process, and a few threads. Cheap to clone, usable from
/// any thread.
///
/// The hosts of the other processes have the same groups; in each of them this host is the node
/// with its [id](HostBuilder), and the [peers](HostBuilder::peer) are the other members.
///
/// ```
/// use dledger::Host;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let dir = home.path().join("host");
/// let host = Host::builder(1).dir(dir).open()?;
/// let orders = host.group("orders").open()?;
/// let payments = host.group("payments").max_entry_bytes(1 << 10).open()?;
/// orders.append("an order")?;
/// payments.append("a payment")?;
/// assert_eq!(host.groups().len(), 2);
/// host.remove("payments")?;
/// host.shutdown()?;
/// # Ok(())
/// # }
/// ```
///
/// # When it ends
/// The host runs until [`shutdown`](Self::shutdown), or until the last clone of it and the last
/// handle of its groups are dropped.
///
/// # Groups do not disturb each other
/// A group takes its turn behind the others: a turn takes in 1 MiB of appends at most. Eight groups
/// write appends at the same time; others wait for the end of a sync, 0.1 s at most, and what is
/// appended to them meanwhile goes together. While any wait, followers learn of a commit with the
/// next batch of its group, or after 20 ms. If a disk holds up all threads for a tenth of a second,
/// another one is started, up to 16, and the log of the process says which groups hold them up. The
/// same holds for observers of changes of role
/// ([`Builder::on_role_change`]), which have threads apart from those of the groups. A group that
/// has a fault, a full disk or a damaged log is so alone.
///
/// # How many
/// An open group keeps two files open. One more than the limit of the process leaves room for
/// (`ulimit -n`, often 1,024 by default: 448 groups) is refused:
/// [`OpenError::TooManyGroups`](crate::OpenError::TooManyGroups).
#[derive(Clone)]
pub struct Host {
    parts: Arc<HostParts>,
    group_settings: GroupSettings,
}

/// What a host changes of the builders of its groups.
type GroupSettings = Arc<dyn Fn(Builder) -> Builder + Send + Sync>;

/// A group of a host, as [`Host::groups`] found it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Whether it is open in this host. One that is not lies on disk.
    pub open: bool,
    /// What this host is in it. `None` if it is not open.
    pub role: Option<Role>,
    /// Who leads it, if it is open and that is known.
    pub leader: Option<NodeId>,
    /// The unique id of the group ([`Status::group_uid`](crate::Status::group_uid)), if it is open
    /// and that is known.
    pub group_uid: Option<u128>,
}

/// Why a group was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The host has no such group, open or on disk.
    #[error("this host has no group {group}")]
    #[non_exhaustive]
    Unknown {
        /// The name.
        group: String,
    },
    /// Another call opens, closes or removes it, for longer than ten seconds.
    #[error("another call opens, closes or removes group {group}: try again after it")]
    #[non_exhaustive]
    InUse {
        /// The name.
        group: String,
    },
    /// Called within a waker, on a thread that the removal would wait for.
    #[error("called within a waker, on a thread that the removal would wait for: use another one")]
    CalledFromWaker,
    /// The host was shut down.
    #[error("the host is shut down: open it again first")]
    HostStopped,
    /// This process is a forked child of the one that opened the host. Nothing was done.
    #[error("{FORKED}")]
    Forked,
    /// The removal could not be made durable. If it had begun, it is finished when the host is
    /// opened again; if not, the group is as it was.
    #[error("the group could not be removed from the disk: {0}")]
    Storage(#[from] StorageError),
}

impl Host {
    /// Begins to set up host `id`. In all groups it is the node of this id.
    pub fn builder(id: impl Into<NodeId>) -> HostBuilder {
        HostBuilder::new(id.into())
    }

    /// A builder for the group of this name, which knows the host's directory, members and
    /// connections. `open()` gives an ordinary [`DLedger`]; the group is made if it is not there.
    ///
    /// Its members are this host and all peers, or those of them that [`Builder::peer`] names. It
    /// has no directory of its own ([`Builder::dir`]), and [`Builder::spin`] is the host's.
    pub fn group(&self, name: impl Into<String>) -> Builder {
        let builder = Builder::of_host(self.parts.clone(), name.into());
        (self.group_settings)(builder)
    }

    /// All groups of this host, by name: those that are open, and those that lie on disk.
    ///
    /// If the directory cannot be read, a warning is logged, and only those that are open are
    /// listed. Empty in a forked child. Blocks for the disk.
    pub fn groups(&self) -> Vec<GroupInfo> {
        if !self.parts.home.is_here() {
            return Vec::new();
        }
        let names = self.names_on_disk().unwrap_or_else(|error| {
            let host = LogPrefix::of_host(self.parts.id);
            log::warn!("{host}its groups cannot be listed: {error}");
            Vec::new()
        });
        self.infos(names)
    }

    /// Of these groups, and of all that are open, by name.
    fn infos(&self, names: Vec<String>) -> Vec<GroupInfo> {
        let open = self.parts.groups.all().into_iter();
        let mut infos: BTreeMap<String, GroupInfo> =
            names.into_iter().map(|name| (name.clone(), info(name, None))).collect();
        infos.extend(open.map(|(name, node)| (name.clone(), info(name, node))));
        infos.into_values().collect()
    }

    /// Opens all groups that lie on disk and are not open, several at a time, each with the
    /// settings of [`group`](Self::group). Returns what became of each, by name. Blocks until all
    /// are open.
    ///
    /// # Errors
    /// If the directory cannot be read, or there is no thread for it.
    /// [`OpenError::CalledFromWaker`] within a waker.
    #[expect(clippy::type_complexity, reason = "a list of names and outcomes")]
    pub fn open_all(&self) -> Result<Vec<(String, Result<DLedger, OpenError>)>, OpenError> {
        if !self.parts.home.is_here() {
            return Err(OpenError::Forked);
        }
        if is_in_waker() {
            return Err(OpenError::CalledFromWaker);
        }
        let closed = self.infos(self.names_on_disk()?).into_iter().filter(|group| !group.open);
        let (names, host) = (closed.map(|group| group.name).collect(), self.clone());
        in_parallel(names, move |name: &String| (name.clone(), host.group(name).open()))
            .map_err(OpenError::Thread)
    }

    /// Removes a group from this host: shuts it down, for all handles, then deletes it, durably.
    /// Blocks until it is gone.
    ///
    /// Remove it at all of its hosts. Once it is, its name can be used again, for a new group with
    /// another [unique id](crate::Status::group_uid). A host that was down meanwhile still has its
    /// copy of the old group. That copy and the new group refuse each other, whichever is opened
    /// first, and [`Status::refused`](crate::Status::refused) says so at both ends: remove it there
    /// too. A host remembers the last 65,536 groups that it removed.
    ///
    /// If other hosts still have the group and it is opened here again, then this node has lost its
    /// log to them, and they refuse it. If that is to be a copy of their group, open it with
    /// [`Builder::rejoin_empty`]: that also takes back a group that was removed here.
    ///
    /// # Errors
    /// Any [`RemoveError`].
    pub fn remove(&self, name: &str) -> Result<(), RemoveError> {
        if !self.parts.home.is_here() {
            return Err(RemoveError::Forked);
        }
        if is_in_waker() {
            return Err(RemoveError::CalledFromWaker);
        }
        let _claim = self.claim_for_removal(name)?;
        let directory = self.parts.directory().ok_or(RemoveError::HostStopped)?;
        directory.remove(name).map_err(|error| match error {
            StorageError::NoLog { .. } => RemoveError::Unknown { group: name.to_owned() },
            error => RemoveError::Storage(error),
        })
    }

    fn names_on_disk(&self) -> Result<Vec<String>, StorageError> {
        self.parts.directory().map_or(Ok(Vec::new()), |directory| directory.groups())
    }

    fn claim_for_removal(&self, name: &str) -> Result<GroupClaim, RemoveError> {
        let (groups, deadline) = (&self.parts.groups, Instant::now() + CLAIM_TIMEOUT);
        loop {
            if let Some(node) = groups.running(name) {
                // Its own fault is no reason to keep it.
                let _ = node.shutdown(Some(HANDOVER_TIMEOUT));
            }
            match groups.claim(name) {
                Ok(claim) => return Ok(claim),
                Err(OpenError::HostStopped) => return Err(RemoveError::HostStopped),
                Err(_) if Instant::now() >= deadline => {
                    return Err(RemoveError::InUse { group: name.to_owned() });
                }
                // One that is being opened is shut down once it is open.
                Err(_) => drop(groups.wait_until_free(name, Instant::now() + HANDOVER_TIMEOUT)),
            }
        }
    }

    /// Shuts all groups down, each as [`DLedger::shutdown`] does, and all at the same time; then
    /// closes the connections, ends the threads and unlocks the directory. Idempotent. Blocks until
    /// that is done. An observer of a group may call it; it then does not wait for the threads of
    /// the host. Within a waker it only has the groups begin to stop.
    ///
    /// # Errors
    /// [`ShutdownError`] if a group could not be closed properly, with the names of those groups.
    /// All are closed all the same. [`ShutdownError::Forked`] at once in a forked child, where
    /// nothing is done.
    pub fn shutdown(&self) -> Result<(), ShutdownError> {
        let parts = &self.parts;
        if !parts.home.is_here() {
            return Err(ShutdownError::Forked);
        }
        parts.groups.close();
        let mut failed = Vec::new();
        loop {
            let groups = parts.groups.all();
            if groups.is_empty() {
                break;
            }
            failed.extend(shut_down(&groups));
            if is_in_waker() {
                return Ok(());
            }
            for (group, _) in &groups {
                parts.groups.wait_until_free(group, Instant::now() + HANDOVER_TIMEOUT);
            }
        }
        parts.end();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(ShutdownError::Failed { reason: failed.join("; ") }),
        }
    }
}

/// Shuts groups down at the same time. Returns what went wrong.
fn shut_down(groups: &[(String, Option<Arc<RunningNode>>)]) -> Vec<String> {
    let running = || groups.iter().filter_map(|(name, node)| Some((name, node.as_ref()?)));
    let answers: Vec<_> =
        running().map(|(_, node)| node.begin_shutdown(Some(node.handover_timeout))).collect();
    if is_in_waker() {
        return Vec::new();
    }
    let failure = |((name, node), answer): ((&String, &Arc<RunningNode>), _)| {
        let error = node.end_shutdown(&answer).err()?;
        Some(format!("group {name}: {error}"))
    };
    running().zip(answers).filter_map(failure).collect()
}

fn info(name: String, node: Option<Arc<RunningNode>>) -> GroupInfo {
    let of = |node: &Arc<RunningNode>| {
        node.shared.status.read(|status| (Some(status.role), status.leader, status.group_uid))
    };
    let (role, leader, group_uid) = node.as_ref().map_or((None, None, None), of);
    GroupInfo { name, open: node.is_some(), role, leader, group_uid }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Host");
        f.field("id", &self.parts.id);
        if self.parts.home.is_here() {
            f.field("open", &self.parts.groups.all().len());
        }
        f.finish()
    }
}
