//! Follows the role of a node, change by change.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::primitives::Instant;
use crate::role::Status;
use crate::shared::NodeShared;
use crate::wakers::is_in_waker;

/// Every change of role, term or leader of a node, in order. Made by
/// [`DLedger::role_changes`](crate::DLedger::role_changes).
///
/// The first status that it gives is that of the moment at which it was made: the present role.
/// Each further one is what [`Builder::on_role_change`](crate::Builder::on_role_change) is called
/// with: the status as it was at that change. The last one has `stopped` set; after it there is
/// only `None`. [`StatusWatch`](crate::StatusWatch) gives what is newest instead, and more than the
/// role.
///
/// # A slow reader
/// It gets every change, however late it asks. What it has yet to take is kept for it, all of it: a
/// status of some hundred bytes for each change, which all readers of the node share. Only
/// elections make changes, a handful each, so what bounds this is how often the group elects: a
/// group in order goes for days without one, and one that cannot agree holds some in a second. Drop
/// a reader that nobody reads.
///
/// # What blocks
/// As an iterator it blocks until there is a change. It does not keep the node running. On a thread
/// of the node, within a waker for instance, nothing waits: there is `None` if there is nothing
/// new, and it goes on elsewhere. In a forked child there is always `None`. Tasks have
/// [`changed`](Self::changed), and with feature `stream` a stream: `into_stream`.
///
/// ```
/// # use dledger::{DLedger, Role};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// let ledger = DLedger::builder(1).dir(home.path().join("ledger")).open()?;
/// let mut changes = ledger.role_changes();
/// assert_eq!(changes.next().map(|status| status.role), Some(Role::Leader));
/// ledger.shutdown()?;
/// assert!(changes.next().is_some_and(|status| status.stopped));
/// assert!(changes.next().is_none());
/// # Ok(())
/// # }
/// ```
pub struct RoleChanges {
    shared: Arc<NodeShared>,
    /// The status that it begins with, until it was given.
    first: Option<Status>,
    /// Its number on the board. None in a forked child.
    reader: Option<u64>,
    /// The last status was given.
    has_ended: bool,
}

impl RoleChanges {
    pub(crate) fn new(shared: Arc<NodeShared>) -> RoleChanges {
        if !shared.home.is_here() {
            return RoleChanges { shared, first: None, reader: None, has_ended: true };
        }
        let (reader, newest) = shared.roles.join();
        // The status may already have changed again, which this reader is still to be told.
        let first = Status {
            role: newest.role,
            term: newest.term,
            leader: newest.leader,
            fault: newest.fault.clone(),
            stopped: newest.stopped,
            ..shared.status()
        };
        RoleChanges { shared, first: Some(first), reader: Some(reader), has_ended: false }
    }

    /// The next change. Blocks until there is one, for `timeout` at most: `None` if there was none
    /// by then, or the node is stopped and its last status was given. With [`Duration::ZERO`] it
    /// does not wait. A timeout beyond what the clock can express never passes.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Status> {
        self.next_until(Instant::now().checked_add(timeout))
    }

    /// The next change, for a task: ready when there is one, or with `None` once the node is
    /// stopped and its last status was given. Needs no runtime. Cancel-safe: a future that is
    /// dropped before it was ready has taken nothing, and the next one gives what it would have
    /// given.
    pub fn changed(&mut self) -> impl Future<Output = Option<Status>> + Send + Unpin + '_ {
        Changed { changes: self, key: None }
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Status> {
        let reader = self.open_reader()?;
        if let Some(first) = self.first.take() {
            return self.give(first);
        }
        let deadline = if is_in_waker() { Some(Instant::now()) } else { deadline };
        let status = self.shared.roles.wait(reader, deadline)?;
        self.give(Arc::unwrap_or_clone(status))
    }

    fn poll(&mut self, context: &mut Context<'_>, key: &mut Option<u64>) -> Poll<Option<Status>> {
        let Some(reader) = self.open_reader() else { return Poll::Ready(None) };
        if let Some(first) = self.first.take() {
            return Poll::Ready(self.give(first));
        }
        let polled = self.shared.roles.poll(reader, context.waker(), key);
        polled.map(|status| self.give(Arc::unwrap_or_clone(status)))
    }

    /// The number on the board, if there is more to come and this is the process of the node.
    fn open_reader(&self) -> Option<u64> {
        self.reader.filter(|_| !self.has_ended && self.shared.home.is_here())
    }

    fn give(&mut self, status: Status) -> Option<Status> {
        self.has_ended = status.stopped;
        Some(status)
    }
}

impl Iterator for RoleChanges {
    type Item = Status;

    fn next(&mut self) -> Option<Status> {
        self.next_until(None)
    }
}

impl Drop for RoleChanges {
    fn drop(&mut self) {
        if let Some(reader) = self.reader
            && self.shared.home.is_here()
        {
            self.shared.roles.leave(reader);
        }
    }
}

impl fmt::Debug for RoleChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleChanges").field("node", &self.shared).finish_non_exhaustive()
    }
}

struct Changed<'a> {
    changes: &'a mut RoleChanges,
    key: Option<u64>,
}

impl Future for Changed<'_> {
    type Output = Option<Status>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Status>> {
        let Changed { changes, key } = &mut *self;
        changes.poll(context, key)
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        self.changes.shared.roles.forget(self.key);
    }
}

#[cfg(feature = "stream")]
impl RoleChanges {
    /// The same as a stream for a task: pending while nothing has changed, without a thread or a
    /// runtime. Cancel-safe as [`changed`](Self::changed) is.
    ///
    /// Needs feature `stream`.
    pub fn into_stream(self) -> RoleChangeStream {
        RoleChangeStream { changes: self, key: None }
    }
}

/// [`RoleChanges`] as a stream. Made by [`RoleChanges::into_stream`]. Ends behind the status with
/// `stopped` set, and at once in a forked child; polled once more, it has ended still.
#[cfg(feature = "stream")]
#[derive(Debug)]
pub struct RoleChangeStream {
    changes: RoleChanges,
    key: Option<u64>,
}

#[cfg(feature = "stream")]
impl futures_core::Stream for RoleChangeStream {
    type Item = Status;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Status>> {
        let RoleChangeStream { changes, key } = &mut *self;
        changes.poll(context, key)
    }
}

#[cfg(feature = "stream")]
impl Drop for RoleChangeStream {
    fn drop(&mut self) {
        self.changes.shared.roles.forget(self.key);
    }
}
