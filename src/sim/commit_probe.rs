//! A bell on a future: what a host could read at the very moment when it was told that its append
//! is committed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake};

use crate::future::AppendFuture;
use crate::shared::NodeShared;

/// Rings when a future resolves, and notes how far the ledger is shown as committed then.
pub(super) struct CommitProbe {
    shared: Arc<NodeShared>,
    end: AtomicU64,
}

impl CommitProbe {
    /// Hangs a bell on `future`. One that is resolved already was refused, and never rings.
    pub(super) fn on(future: &mut AppendFuture, shared: &Arc<NodeShared>) -> Arc<CommitProbe> {
        let commit_probe = Arc::new(CommitProbe { shared: shared.clone(), end: AtomicU64::new(0) });
        let waker = commit_probe.clone().into();
        let _ = Future::poll(Pin::new(future), &mut Context::from_waker(&waker));
        commit_probe
    }

    /// The index after the last entry that could be read when it rang.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }
}

impl Wake for CommitProbe {
    fn wake(self: Arc<Self>) {
        self.end.store(self.shared.watermark.end(), Ordering::Relaxed);
    }
}
