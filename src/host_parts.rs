//! What the nodes of one host share: threads, connections, a directory, and the table of its open
//! groups.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::entry::NodeId;
use crate::error::OpenError;
use crate::fork::Home;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::running_node::RunningNode;
use crate::storage::Create;
use crate::storage::segmented::{HostDirectory, home};
use crate::threads::HostThreads;
use crate::transport::HostTransport;

/// See the [module](self).
pub(crate) struct HostParts {
    pub(crate) id: NodeId,
    /// All hosts, this one included, or none at all.
    pub(crate) peers: Vec<(NodeId, String)>,
    pub(crate) threads: Arc<HostThreads>,
    pub(crate) transport: Arc<dyn HostTransport>,
    pub(crate) groups: Arc<OpenGroups>,
    /// Idle groups sleep after this time.
    pub(crate) sleep_after: Option<Duration>,
    /// Locked while this is here.
    directory: Mutex<Option<Arc<HostDirectory>>>,
    pub(crate) home: Home,
}

impl HostParts {
    /// Locks the directory. The threads and the transport are given up if that fails.
    pub(crate) fn open(
        id: NodeId,
        peers: Vec<(NodeId, String)>,
        (dir, create): (&Path, Create),
        threads: Arc<HostThreads>,
        transport: Box<dyn HostTransport>,
        sleep_after: Duration,
    ) -> Result<HostParts, OpenError> {
        let may_sleep = sleep_after < Duration::MAX && transport.reports_presence();
        let parts = HostParts {
            sleep_after: may_sleep.then_some(sleep_after),
            id,
            peers,
            threads,
            transport: transport.into(),
            groups: Arc::default(),
            directory: Mutex::default(),
            home: home(),
        };
        *parts.directory.lock() = Some(Arc::new(HostDirectory::open(dir, id, create)?));
        Ok(parts)
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
