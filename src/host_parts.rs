//! What the nodes of one host share: threads, connections, a directory, and the table of its open
//! groups.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::entry::NodeId;
use crate::error::OpenError;
use crate::fork::Home;
use crate::inbox_space::HostInboxSpace;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::running_node::RunningNode;
use crate::storage::segmented::{HostDirectory, home};
use crate::threads::HostThreads;
use crate::transport::HostTransport;

/// What the log of an open group keeps open: its state, and the segment that takes records.
const DESCRIPTORS_OF_A_GROUP: u64 = 2;

/// What is left for all else: connections, files that are made or read, the host's own.
const OTHER_DESCRIPTORS: u64 = 128;

/// See the [module](self).
pub(crate) struct HostParts {
    pub(crate) id: NodeId,
    /// All hosts, this one included, or none at all.
    pub(crate) peers: Vec<(NodeId, String)>,
    pub(crate) threads: Arc<HostThreads>,
    pub(crate) transport: Arc<dyn HostTransport>,
    pub(crate) groups: Arc<OpenGroups>,
    /// For messages that wait.
    pub(crate) inbox: Arc<HostInboxSpace>,
    /// Idle groups sleep after this time.
    pub(crate) sleep_after: Option<Duration>,
    /// Locked while this is here.
    directory: Mutex<Option<Arc<HostDirectory>>>,
    pub(crate) home: Home,
}

impl HostParts {
    /// Runs in this directory, which stays locked until the host ends.
    pub(crate) fn new(
        id: NodeId,
        peers: Vec<(NodeId, String)>,
        directory: HostDirectory,
        threads: Arc<HostThreads>,
        transport: Box<dyn HostTransport>,
        sleep_after: Duration,
    ) -> HostParts {
        let may_sleep = sleep_after < Duration::MAX && transport.reports_presence();
        HostParts {
            sleep_after: may_sleep.then_some(sleep_after),
            id,
            peers,
            threads,
            transport: transport.into(),
            groups: Arc::default(),
            inbox: Arc::default(),
            directory: Mutex::new(Some(Arc::new(directory))),
            home: home(),
        }
    }

    /// Refuses a claimed group if it and all others may need more descriptors than the process may
    /// have: then none of them could be relied upon any more.
    pub(crate) fn refuse_if_too_many(&self) -> Result<(), OpenError> {
        let (claimed, limit) = (self.groups.table.lock().claimed.len(), descriptors_max());
        match claimed > groups_max(limit) {
            true => Err(OpenError::TooManyGroups { open: claimed - 1, limit }),
            false => Ok(()),
        }
    }

    /// `None` once the host was shut down.
    pub(crate) fn directory(&self) -> Option<Arc<HostDirectory>> {
        self.directory.lock().clone()
    }

    /// Ends all that was started. No group is open any more. Idempotent. Waits for the threads,
    /// unless the caller is one of them.
    pub(crate) fn end(&self) {
        self.transport.stop();
        self.threads.close();
        let directory = self.directory.lock().take();
        drop(directory);
    }

    /// For a node and its engine, which keep their host running.
    pub(crate) fn keep(self: &Arc<HostParts>) -> Arc<dyn Any + Send + Sync> {
        self.clone()
    }
}

/// How many groups the limit of descriptors leaves room for.
fn groups_max(limit: u64) -> usize {
    let groups = limit.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_OF_A_GROUP;
    usize::try_from(groups).unwrap_or(usize::MAX)
}

#[cfg(unix)]
fn descriptors_max() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(not(unix))]
fn descriptors_max() -> u64 {
    u64::MAX
}

impl Drop for HostParts {
    fn drop(&mut self) {
        if !self.home.is_here() {
            // Threads and connections are the parent's: one more owner sees to it that they do not
            // end here.
            std::mem::forget((self.threads.clone(), self.transport.clone()));
            return;
        }
        self.end();
    }
}

/// The groups of a host that are open, or are being opened, closed or removed.
#[derive(Default)]
pub(crate) struct OpenGroups {
    table: Mutex<Table>,
    /// Signalled when a group is given back.
    freed: Condvar,
}

#[derive(Default)]
struct Table {
    /// `None` for a group without a running node: it is being opened or removed.
    claimed: BTreeMap<String, Option<Weak<RunningNode>>>,
    /// The host is being shut down.
    closed: bool,
}

/// The right to use the directory of a group. Given back when dropped: when the log is closed.
pub(crate) struct GroupClaim {
    groups: Arc<OpenGroups>,
    group: String,
}

impl OpenGroups {
    /// # Errors
    /// [`OpenError::GroupInUse`] if the group is claimed, [`OpenError::HostStopped`] if the host is
    /// being shut down.
    pub(crate) fn claim(self: &Arc<OpenGroups>, group: &str) -> Result<GroupClaim, OpenError> {
        let mut table = self.table.lock();
        if table.closed {
            return Err(OpenError::HostStopped);
        }
        if table.claimed.contains_key(group) {
            return Err(OpenError::GroupInUse { group: group.to_owned() });
        }
        table.claimed.insert(group.to_owned(), None);
        Ok(GroupClaim { groups: self.clone(), group: group.to_owned() })
    }

    /// The claimed group has a running node now.
    pub(crate) fn set_running(&self, group: &str, node: &Arc<RunningNode>) {
        if let Some(claimed) = self.table.lock().claimed.get_mut(group) {
            *claimed = Some(Arc::downgrade(node));
        }
    }

    /// The running node of a group.
    pub(crate) fn running(&self, group: &str) -> Option<Arc<RunningNode>> {
        self.table.lock().claimed.get(group)?.as_ref()?.upgrade()
    }

    /// All claimed groups, and the nodes of those that run.
    pub(crate) fn all(&self) -> Vec<(String, Option<Arc<RunningNode>>)> {
        let table = self.table.lock();
        let node = |node: &Option<Weak<RunningNode>>| node.as_ref().and_then(Weak::upgrade);
        table.claimed.iter().map(|(group, weak)| (group.clone(), node(weak))).collect()
    }

    /// Blocks until that group is not claimed, or the deadline has passed. Returns whether it is
    /// free.
    pub(crate) fn wait_until_free(&self, group: &str, deadline: Instant) -> bool {
        let mut table = self.table.lock();
        while table.claimed.contains_key(group) {
            if self.freed.wait_until(&mut table, deadline).timed_out() {
                return !table.claimed.contains_key(group);
            }
        }
        true
    }

    /// No group is claimed from now on.
    pub(crate) fn close(&self) {
        self.table.lock().closed = true;
    }
}

impl Drop for GroupClaim {
    fn drop(&mut self) {
        self.groups.table.lock().claimed.remove(&self.group);
        self.groups.freed.notify_all();
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_descriptors_bounds_the_groups() {
        assert_eq!([100, 128, 131, 1024, 20_000].map(groups_max), [0, 0, 1, 448, 9936]);
        assert!(groups_max(u64::MAX) > 1 << 30);
    }
}
