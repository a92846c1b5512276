//! The append hook: code of the host that changes payloads at their place in the ledger, and the
//! rules under which it is called.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::AppendError;
use crate::fork::Home;
use crate::wakers::without_waits;

/// Where an entry goes: what an [append hook](crate::Builder::append_hook) is told.
///
/// If the entry is committed, it has this index, position and term on every node, for ever. See
/// the hook for what becomes of a place whose entry is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The index of the entry, from 0 on.
    pub index: u64,
    /// The position of its first byte, in bytes: the lengths of all payloads before it, after
    /// [`Builder::first_position`](crate::Builder::first_position).
    pub position: u64,
    /// The term in which this node leads, and appends it.
    pub term: u64,
}

/// A hook of the host, shared by the clones of a builder.
pub(crate) type AppendHook = Arc<dyn Fn(&Place, &mut [u8]) + Send + Sync>;

thread_local!(static IS_RUNNING: Cell<bool> = const { Cell::new(false) });

/// Whether this thread runs a hook at the moment, of whichever ledger. An append in it would wait
/// for itself, or two hooks for each other.
///
/// Always false under a model checker, which runs many threads of a model on one thread.
pub(crate) fn is_in_hook() -> bool {
    !cfg!(all(test, any(loom, shuttle))) && IS_RUNNING.get()
}

/// Calls `hook` for the entry at `place`. Whatever it calls that would wait for a node is refused.
///
/// # Errors
/// [`AppendError::HookPanicked`].
pub(crate) fn call(
    hook: &AppendHook,
    place: &Place,
    payload: &mut [u8],
    home: Home,
) -> Result<(), AppendError> {
    let before = IS_RUNNING.replace(true);
    // If it panics, whoever calls this drops the payload, which is all that it could leave half
    // changed here.
    let outcome = without_waits(|| catch_unwind(AssertUnwindSafe(|| hook(place, payload))));
    IS_RUNNING.set(before);
    if !home.is_here() {
        // The hook forked, and this is the child. The append is the parent's, and so are the locks
        // that are held for it.
        std::process::abort();
    }
    outcome.map_err(|panic| AppendError::HookPanicked { message: message_of(panic) })
}

/// What a panic said.
fn message_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    if text.is_none() {
        // A value of the host's own may panic once more when it is dropped.
        std::mem::forget(panic);
    }
    text.unwrap_or_else(|| "no message".to_owned())
}
