//! The settings of what a node keeps.

use std::sync::Arc;

use super::Builder;
use crate::retention::Retention;

impl Builder {
    /// How much of the ledger this node keeps. Default [`Retention::keep_all`]. It can be changed
    /// while the node runs: [`DLedger::set_retention`](crate::DLedger::set_retention). Limits that
    /// make no sense are refused when the ledger is opened.
    ///
    /// A [storage](Self::storage) of the host's own has to tell of its
    /// [segments](crate::storage::Storage::segments); with one that does not, nothing is removed.
    pub fn retention(mut self, retention: Retention) -> Builder {
        self.retention = retention;
        self
    }

    /// How many bytes of segments all [pins](crate::DLedger::pin) together may keep from being
    /// removed, in bytes; default 1 GiB. Only what retention or a
    /// [`purge`](crate::DLedger::purge) would remove counts, not what is kept anyway. Beyond it the
    /// pin that lies furthest back is released. With 0 pins hold nothing; with `u64::MAX` a
    /// consumer that never reads on fills the disk.
    pub fn pin_bytes_max(mut self, bytes: u64) -> Builder {
        self.pin_bytes_max = bytes;
        self
    }

    /// Calls `observer` with the first index that is kept here, whenever this node was moved
    /// forward: it fell so far behind that its leader had removed what it lacked, and its log
    /// begins anew at the leader's first entry. What lay before is gone here, read or not: a read
    /// of it returns [`ReadError::Purged`](crate::ReadError::Purged) with that index. A damaged log
    /// whose missing part the peers have purged too begins anew in the same way when it is
    /// repaired, and that is told as well. Retention and purges of this node itself are not told,
    /// nor is a move that a process made just before it ended: a host compares `committed().start`
    /// with what it knows when it opens the ledger.
    ///
    /// It is called in order with the [observers of changes of role](Self::on_role_change), on
    /// their thread, and the same holds for it: a panic in it is contained, while it blocks later
    /// notices wait, and clones of the builder share it.
    pub fn on_moved(mut self, observer: impl Fn(u64) + Send + Sync + 'static) -> Builder {
        self.observers.moves.push(Arc::new(observer));
        self
    }
}
