//! Follows the status of a node.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::entry::NodeId;
use crate::primitives::Instant;
use crate::role::Status;
use crate::shared::NodeShared;
use crate::wakers::is_in_waker;

/// Follows the [`Status`] of a node. Made by [`DLedger::watch`](crate::DLedger::watch), at any
/// time and as often as is wished.
///
/// The first status that it gives is the present one; then it gives the newest one each time that
/// role, term, leader, `group_uid`, `asleep`, `full`, `repair`, `refused`, `fault` or `stopped`
/// have changed, or of a member its `voter`, `advertised`, `reached`, `refused` or `progress`.
/// It is no queue: of several changes that came before it was asked, only what they led to is
/// given. The last one is never missed: it has `stopped` set, and after it there is only `None`.
///
/// What moves all the time is filled in when a status is given, and is no change: how far the log
/// has come (`committed`, `oldest_position`, `committed_position`, `end_index`), what is under way
/// (`in_flight_bytes`), what was `removed`, and of a member `heard`, `end_index` and
/// `in_flight_bytes`. Of the log [`DLedger::tail`](crate::DLedger::tail) and
/// [`DLedger::committed_past`](crate::DLedger::committed_past) tell.
///
/// As an iterator it blocks until there is a change, and ends when the node is stopped and its last
/// status was given. It does not keep the node running. On a thread of the node, within a waker for
/// instance, nothing waits: there is `None` if there is nothing new, and it goes on elsewhere. In a
/// forked child there is always `None`.
///
/// ```
/// # use dledger::{DLedger, Role};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// let ledger = DLedger::builder(1).dir(home.path().join("ledger")).open()?;
/// let mut watch = ledger.watch();
/// assert_eq!(watch.next().map(|status| status.role), Some(Role::Leader));
/// ledger.shutdown()?;
/// assert!(watch.next().is_some_and(|status| status.stopped));
/// assert!(watch.next().is_none());
/// # Ok(())
/// # }
/// ```
pub struct StatusWatch {
    shared: Arc<NodeShared>,
    /// The version of the status that was given last. They count from 1.
    seen: u64,
}

impl StatusWatch {
    pub(crate) fn new(shared: Arc<NodeShared>) -> StatusWatch {
        StatusWatch { shared, seen: 0 }
    }

    /// The next status. Blocks until there is one, for `timeout` at most: `None` if there was
    /// none by then, or the node is stopped and its last status was given. With
    /// [`Duration::ZERO`] it does not wait. A timeout beyond what the clock can express never
    /// passes.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Status> {
        self.next_until(Instant::now().checked_add(timeout))
    }

    /// The next status, for a task: ready when there is one, or with `None` once the node is
    /// stopped and its last status was given. Needs no runtime. Cancel-safe: a future that is
    /// dropped before it was ready has taken nothing, and the next one gives what it would have
    /// given.
    pub fn changed(&mut self) -> impl Future<Output = Option<Status>> + Send + Unpin + '_ {
        Changed { watch: self, key: None }
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Status> {
        if !self.shared.home.is_here() {
            return None;
        }
        let deadline = if is_in_waker() { Some(Instant::now()) } else { deadline };
        let find = |status: &Status, version| news(self.seen, status, version);
        let news = self.shared.status.wait(deadline, find)?;
        self.give(news)
    }

    fn give(&mut self, news: Option<(Status, u64)>) -> Option<Status> {
        let (mut status, version) = news?;
        self.seen = version;
        self.shared.refresh(&mut status);
        Some(status)
    }
}

/// The next status with its version, or the end.
fn news(seen: u64, status: &Status, version: u64) -> Option<Option<(Status, u64)>> {
    match version > seen {
        true => Some(Some((status.clone(), version))),
        false => status.stopped.then_some(None),
    }
}

impl Iterator for StatusWatch {
    type Item = Status;

    fn next(&mut self) -> Option<Status> {
        self.next_until(None)
    }
}

impl fmt::Debug for StatusWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusWatch").field("node", &self.shared).field("seen", &self.seen).finish()
    }
}

struct Changed<'a> {
    watch: &'a mut StatusWatch,
    key: Option<u64>,
}

impl Future for Changed<'_> {
    type Output = Option<Status>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Status>> {
        let Changed { watch, key } = &mut *self;
        if !watch.shared.home.is_here() {
            return Poll::Ready(None);
        }
        let find = |status: &Status, version| news(watch.seen, status, version);
        watch.shared.status.poll(context.waker(), key, find).map(|news| watch.give(news))
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        self.watch.shared.status.forget(self.key);
    }
}

/// Blocks until a leader is known, for `timeout` at most, and not on a thread of the node.
pub(crate) fn wait_for_leader(shared: &NodeShared, timeout: Duration) -> Option<NodeId> {
    if !shared.home.is_here() {
        return None;
    }
    let now = Instant::now();
    let deadline = if is_in_waker() { Some(now) } else { now.checked_add(timeout) };
    shared.status.wait(deadline, |status, _| leader(status)).flatten()
}

/// The leader, or `Some(None)` if this node will never know of one.
fn leader(status: &Status) -> Option<Option<NodeId>> {
    match status.stopped || status.fault.is_some() {
        true => Some(None),
        false => status.leader.map(Some),
    }
}

/// Ready when a leader is known.
pub(crate) struct LeaderKnown {
    shared: Arc<NodeShared>,
    key: Option<u64>,
}

impl LeaderKnown {
    pub(crate) fn new(shared: Arc<NodeShared>) -> LeaderKnown {
        LeaderKnown { shared, key: None }
    }
}

impl Future for LeaderKnown {
    type Output = Option<NodeId>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<NodeId>> {
        let LeaderKnown { shared, key } = &mut *self;
        match shared.home.is_here() {
            true => shared.status.poll(context.waker(), key, |status, _| leader(status)),
            false => Poll::Ready(None),
        }
    }
}

impl Drop for LeaderKnown {
    fn drop(&mut self) {
        self.shared.status.forget(self.key);
    }
}
