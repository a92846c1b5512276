//! Code of the host that a node calls while it appends.

use std::sync::Arc;

use super::Builder;
use crate::append_hook::Place;

impl Builder {
    /// Calls `hook` with the place and the payload of each entry that this node appends as leader,
    /// before the entry is checksummed, replicated and written. The hook may change the bytes in
    /// place, not their number: a broker writes the position of a message into the message. What
    /// it leaves is what every node has and every reader sees. Default: none, which costs nothing.
    ///
    /// It is called once for each entry, in the order of the ledger and never twice at a time,
    /// however the entry was appended: [`append`](crate::DLedger::append) and its kin, each entry
    /// of an `append_batch`, the joined parts of an `append_parts`, an empty payload too. Followers
    /// do not call it, nor does anything that a leader does to replicate, repair or recover. Each
    /// node may have another hook, or none; clones of the builder share it.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// # let dir = home.path().join("log");
    /// let ledger = dledger::DLedger::builder(1)
    ///     .dir(dir)
    ///     .append_hook(|place, message| {
    ///         if let Some(field) = message.first_chunk_mut() {
    ///             *field = place.position.to_be_bytes();
    ///         }
    ///     })
    ///     .open()?;
    /// let indexes = ledger.append_batch([b"________first", b"________other"])?;
    /// let other = ledger.get(indexes.start + 1)?.expect("committed");
    /// assert_eq!(&other[..], b"\0\0\0\0\0\0\0\x0dother");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # A place is not a promise
    /// The hook runs before the entry is committed. If it is not committed in the end (the
    /// leadership was lost before, say), its place goes to another entry, here in a later term or
    /// at another leader, and the hook runs for that one too, with another [`Place::term`]. If the
    /// leadership is lost or handed over while the hook runs, what it did to the payload is
    /// dropped; an append that goes on waiting then is given a place later, and the hook is called
    /// for it once more, with the payload as the host gave it. So what the hook does elsewhere, a
    /// count for instance, is of calls and not of entries. Of the committed entries each carries
    /// what one call made of it, with its own place.
    ///
    /// # Where it runs
    /// On the thread that appends, or, for an append that had to wait for room in the window, on
    /// the thread of the node's engine. All appends of this node, and the engine when it has such
    /// to serve, wait for it: it must be short, must not block, and above all must not wait for
    /// another thread that appends to this ledger. Reads, the status and the engine's other work
    /// wait for it at no time, unless the engine is the one that runs it.
    ///
    /// It may read this ledger and others, and ask for the status; if it owns a handle for that,
    /// the node runs until it is shut down. Every append in it, to whichever ledger, is refused
    /// with [`AppendError::CalledFromWaker`](crate::AppendError), and so is every other call that
    /// would wait for a node. A hook that forks must exec or exit in the child; the child is
    /// aborted when the hook returns there.
    ///
    /// # Panics
    /// A panic in the hook fails that append, or the whole batch of an `append_batch`, with
    /// [`AppendError::HookPanicked`](crate::AppendError::HookPanicked): certainly not committed.
    /// Its place goes to the next append, all others keep theirs, and the node goes on. In a
    /// program that is built with `panic = "abort"` a panic ends the process, as any panic does.
    pub fn append_hook(
        mut self,
        hook: impl Fn(&Place, &mut [u8]) + Send + Sync + 'static,
    ) -> Builder {
        self.append_hook = Some(Arc::new(hook));
        self
    }
}
