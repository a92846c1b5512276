//! Bounds the memory of messages that wait for engines: for each node, and for all nodes of a host.
//!
//! What does not fit is dropped, as if the network had lost it. One message passes whatever its
//! size if nothing else waits, so a bound that is too small for it does not stop a group.

use std::sync::Arc;

use crate::primitives::atomic::{AtomicU64, Ordering};

/// The most bytes of messages that wait for one engine.
pub(crate) const NODE_BYTES: u64 = 128 << 20;

/// The most bytes of messages that wait for all engines of a host.
const HOST_BYTES: u64 = 256 << 20;

/// What one group of a host may take of that.
const GROUP_BYTES: u64 = 64 << 20;

/// The space of one node.
#[derive(Debug)]
pub(crate) struct InboxSpace {
    own: Counted,
    own_max: u64,
    host: Option<Arc<HostInboxSpace>>,
}

/// The space that all nodes of a host share.
#[derive(Debug, Default)]
pub(crate) struct HostInboxSpace(Counted);

#[derive(Debug, Default)]
struct Counted(AtomicU64);

impl Counted {
    fn reserve(&self, bytes: u64, max: u64) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= max;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    fn release(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl InboxSpace {
    /// Of a node of its own, or of one of a host.
    pub(crate) fn new(host: Option<Arc<HostInboxSpace>>) -> InboxSpace {
        let own_max = host.as_ref().map_or(NODE_BYTES, |_| GROUP_BYTES);
        InboxSpace { own: Counted::default(), own_max, host }
    }

    /// Whether there is room for so many bytes. If so, they are counted.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        if !self.own.reserve(bytes, self.own_max) {
            return false;
        }
        let fits = self.host.as_ref().is_none_or(|host| host.0.reserve(bytes, HOST_BYTES));
        if !fits {
            self.own.release(bytes);
        }
        fits
    }

    /// So many of the counted bytes no longer wait.
    pub(crate) fn release(&self, bytes: u64) {
        self.own.release(bytes);
        if let Some(host) = &self.host {
            host.0.release(bytes);
        }
    }

    /// The bytes that wait.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.own.0.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_group_takes_its_share_and_all_groups_together_what_the_host_has() {
        let host = Arc::new(HostInboxSpace::default());
        let spaces: Vec<_> = (0..6).map(|_| InboxSpace::new(Some(host.clone()))).collect();
        assert!(spaces[0].reserve(GROUP_BYTES), "all of its share");
        assert!(!spaces[0].reserve(1), "and no more");
        assert!(spaces[1..4].iter().all(|space| space.reserve(GROUP_BYTES)));
        assert!(!spaces[4].reserve(1), "the host has no more");
        assert_eq!(spaces[4].bytes(), 0);
        spaces[0].release(GROUP_BYTES);
        assert!(spaces[4].reserve(1));
        for (space, bytes) in spaces[1..5].iter().zip([GROUP_BYTES, GROUP_BYTES, GROUP_BYTES, 1]) {
            space.release(bytes);
        }
        assert!(spaces[5].reserve(2 * HOST_BYTES), "one passes alone, whatever its size");
        assert!(!spaces[0].reserve(1));
        spaces[5].release(2 * HOST_BYTES);
        assert_eq!(host.0.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_node_of_its_own_has_more() {
        let space = InboxSpace::new(None);
        assert!(space.reserve(NODE_BYTES) && !space.reserve(1));
        space.release(NODE_BYTES);
        assert_eq!(space.bytes(), 0);
    }
}
