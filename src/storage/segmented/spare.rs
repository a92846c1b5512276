//! Spare segments: files of full length, with their blocks set aside and a synced header. To begin
//! a segment is to rename one.

use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering};

/// The suffix of spares. Recovery removes all of them: one that was activated just before a crash
/// may hold records.
pub(super) const SPARE_SUFFIX: &str = ".spare";

/// The most spares: one that was created, and one from a purge.
pub(super) const SPARES_MAX: usize = 2;

/// A segment file that is not in use yet. It is not open: an idle log has one for long. What was
/// not synced when it was closed are zeros, and it reads as zeros without them.
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Its blocks are written up to here.
    pub(super) written: u64,
}

impl Spare {
    pub(super) fn satisfies(&self, request: SpareRequest) -> bool {
        self.bytes == request.bytes && self.written >= request.written.min(self.bytes)
    }

    /// Whether it is too short for the next segment. Lengths never descend, so it is of no use any
    /// more.
    pub(super) fn is_outgrown(&self, request: SpareRequest) -> bool {
        self.bytes < request.bytes
    }
}

/// The spares that are ready.
#[derive(Default)]
pub(super) struct Spares {
    pub(super) ready: Mutex<Vec<Spare>>,
    /// A background task is working on them.
    pub(super) busy: AtomicBool,
    /// The last attempt failed. No retry until something changes: a full disk must not keep a
    /// thread busy.
    pub(super) backed_off: AtomicBool,
    named: AtomicU64,
}

impl Spares {
    /// A spare of this length, if there is one: the one with the most blocks written. Waits for at
    /// most one step of zero-filling.
    pub(super) fn take(&self, bytes: u64) -> Option<Spare> {
        self.backed_off.store(false, Ordering::Relaxed);
        let mut ready = self.ready.lock();
        let best = (0..ready.len())
            .filter(|&at| ready[at].bytes == bytes)
            .max_by_key(|&at| ready[at].written)?;
        Some(ready.swap_remove(best))
    }

    /// Puts back a spare.
    pub(super) fn put(&self, spare: Spare) {
        self.ready.lock().push(spare);
    }

    /// Space was freed on the disk.
    pub(super) fn clear_backoff(&self) {
        self.backed_off.store(false, Ordering::Relaxed);
    }

    pub(super) fn name(&self, incarnation: u64) -> String {
        format!(
            "{incarnation:016x}-{:016x}{SPARE_SUFFIX}",
            self.named.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// Whether a spare satisfies `request`, and none is to be removed.
    pub(super) fn is_ready(&self, request: SpareRequest) -> bool {
        let ready = self.ready.lock();
        ready.iter().any(|spare| spare.satisfies(request))
            && !ready.iter().any(|spare| spare.is_outgrown(request))
    }
}

/// What the next spare should be.
#[derive(Clone, Copy)]
pub(super) struct SpareRequest {
    pub(super) incarnation: u64,
    pub(super) bytes: u64,
    /// How much of it should be zero-filled by now.
    pub(super) written: u64,
}
