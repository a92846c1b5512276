//! Harness: how the suite gets at the storage under test.

use crate::storage::Storage;

/// Access of the suite to a storage.
///
/// The optional methods stage events that a test cannot bring about by itself. Each returns whether
/// it could; a case that needs one that could not is skipped.
pub trait Harness {
    /// Replaces the storage under test by a new one, which was never opened. No earlier handle is
    /// used any more.
    fn fresh(&mut self);

    /// A handle on the storage under test, not opened yet. Earlier handles on the same storage may
    /// still be open.
    fn handle(&mut self) -> Box<dyn Storage>;

    /// Starts `work` on another thread. The returned closure joins it, and passes on its panic. The
    /// default does the work at once, which tests nothing about threads.
    fn start(&mut self, work: Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce()> {
        work();
        Box::new(|| ())
    }

    /// Cuts the power: unsynced changes may be lost. The open handles are dropped after this, and
    /// must change nothing any more.
    fn crash(&mut self) -> bool {
        false
    }

    /// Makes the next sync of the storage under test fail.
    fn fail_next_sync(&mut self) -> bool {
        false
    }

    /// Fills the disk, or frees space again. On a full disk the storage may accept another 64 MB
    /// before it reports it.
    fn fill(&mut self, full: bool) -> bool {
        let _ = full;
        false
    }
}
