//! Probe on an append: how much of the log was readable at the moment when its future resolved.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake};

use crate::future::AppendFuture;
use crate::shared::NodeShared;

/// Waker of a future. Records the commit watermark when it wakes.
pub(super) struct CommitProbe {
    shared: Arc<NodeShared>,
    end: AtomicU64,
}

impl CommitProbe {
    /// Attaches a probe to `future`. One that is resolved already was rejected, and never wakes.
    pub(super) fn on(future: &mut AppendFuture, shared: &Arc<NodeShared>) -> Arc<CommitProbe> {
        let probe = Arc::new(CommitProbe { shared: shared.clone(), end: AtomicU64::new(0) });
        let waker = probe.clone().into();
        let _ = Future::poll(Pin::new(future), &mut Context::from_waker(&waker));
        probe
    }

    /// The index after the last entry that was readable when the future resolved.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }
}

impl Wake for CommitProbe {
    fn wake(self: Arc<Self>) {
        self.end.store(self.shared.watermark.end(), Ordering::Relaxed);
    }
}
