//! Appends for one term of leadership.

use std::ops::Range;

use super::{DLedger, refuse_in_waker};
use crate::error::AppendError;
use crate::future::AppendFuture;

/// # For one term
/// A host that believes that it is still the master may have been deposed a moment ago, and may
/// even lead again, after another that it knows nothing of. These calls tell it: they append in the
/// term of leadership that the host names, or not at all. The host takes the term from the status
/// that its observer ([`Builder::on_role_change`](crate::Builder::on_role_change)) is given when
/// this node begins to lead, or from [`Status::term`](crate::Status::term), and keeps it with all
/// that it does as this master.
///
/// ```
/// # use std::sync::mpsc;
/// # use dledger::{AppendError, DLedger, Role};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let dir = home.path().join("log");
/// let (changes, seen) = mpsc::channel();
/// let ledger = DLedger::builder(1)
///     .dir(dir)
///     .on_role_change(move |status| {
///         if status.role == Role::Leader {
///             let _ = changes.send(status.term); // the term of this mastership
///         }
///     })
///     .open()?;
/// let term = seen.recv()?;
/// let index = ledger.append_in_term(term, "as the master of this term")?;
/// assert_eq!(ledger.get(index)?.expect("committed").term(), term);
///
/// // A master of an earlier term that has not noticed that its time is over:
/// let stale = ledger.append_in_term(term - 1, "too late").unwrap_err();
/// assert!(matches!(stale, AppendError::WrongTerm { wanted, .. } if wanted == term - 1));
/// assert!(!stale.may_have_committed());
/// # Ok(())
/// # }
/// ```
///
/// What a node answers that does not lead in the term that was asked for:
///
/// | this node | answer |
/// |---|---|
/// | leads in another term, earlier or later | [`AppendError::WrongTerm`] |
/// | does not lead, and knows a later term than `wanted` | `WrongTerm`: that term has passed |
/// | does not lead, and knows no later term | [`AppendError::NotLeader`], as to any append |
/// | has failed, or is shut down | that, as to any append |
///
/// Each of these is certain: nothing was appended, now or ever. An append that was queued in the
/// right term and not yet proposed when the leadership ended fails as any other does, with
/// `NotLeader` for instance. It is never carried over into another term, also if this node leads
/// again at once. One that was proposed is decided by the next leader
/// ([`AppendError::OutcomeUnknown`]); if it is committed, its entry has the term that was asked
/// for.
impl DLedger {
    /// Appends one payload in `term` or not at all, and blocks until it is committed. Otherwise as
    /// [`append`](Self::append): it waits for room in the window and for the commit, each up to
    /// `Builder::append_timeout`, and returns the index.
    ///
    /// # Errors
    /// [`AppendError::WrongTerm`] if this node leads in another term, or the term has passed, also
    /// if that happens while the append waits for room; and those of [`append`](Self::append).
    pub fn append_in_term(&self, term: u64, payload: impl AsRef<[u8]>) -> Result<u64, AppendError> {
        refuse_in_waker(AppendError::CalledFromWaker { under_way: false })?;
        let (parts, deadline) = ([payload.as_ref()], Some(self.deadline()));
        let future = self.node.shared.sequencer.append_fenced(&parts, Some(term), deadline);
        self.await_commit(future)
    }

    /// Appends one payload in `term` or not at all, without waiting, as
    /// [`append_async`](Self::append_async) does. If the term is wrong, the future is resolved
    /// already. Dropping the future does not cancel the append.
    pub fn append_in_term_async(&self, term: u64, payload: impl AsRef<[u8]>) -> AppendFuture {
        self.node.shared.sequencer.append_fenced(&[payload.as_ref()], Some(term), None)
    }

    /// Appends several payloads at consecutive indexes in `term`, all or nothing, and blocks until
    /// they are committed, as [`append_batch`](Self::append_batch) does. Returns their indexes.
    /// Without any payload it appends nothing, but is refused all the same if the term is wrong.
    ///
    /// # Errors
    /// [`AppendError::WrongTerm`], as for [`append_in_term`](Self::append_in_term), and those of
    /// [`append_batch`](Self::append_batch).
    pub fn append_batch_in_term<P: AsRef<[u8]>>(
        &self,
        term: u64,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<Range<u64>, AppendError> {
        refuse_in_waker(AppendError::CalledFromWaker { under_way: false })?;
        let (sequencer, deadline) = (&self.node.shared.sequencer, Some(self.deadline()));
        let (future, count) = sequencer.append_batch_fenced(payloads, Some(term), deadline);
        let start = self.await_commit(future)?;
        Ok(start..start + count)
    }
}
