//! The node that a thread works for, in front of each line of the log.
//!
//! Storages and transports serve any node and know of none. What they log begins with the node of
//! the thread that they run on, in the form that the engine uses as well: `group G node N: `.
//! Nothing stands in front on a thread that works for no node.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use crate::entry::NodeId;

thread_local!(static OWNER: RefCell<Option<Owner>> = const { RefCell::new(None) });

/// One node of one group.
#[derive(Clone)]
pub(crate) struct Owner {
    prefix: Arc<str>,
}

impl Owner {
    pub(crate) fn new(group: &str, node: NodeId) -> Owner {
        Owner { prefix: format!("group {group} node {node}: ").into() }
    }

    /// This thread works for it until what this returns is dropped, and then for whom it did
    /// before.
    #[must_use]
    pub(crate) fn adopt(self) -> Adopted {
        Adopted { before: OWNER.replace(Some(self)) }
    }
}

/// See [`Owner::adopt`].
pub(crate) struct Adopted {
    before: Option<Owner>,
}

impl Drop for Adopted {
    fn drop(&mut self) {
        OWNER.set(self.before.take());
    }
}

/// What stands in front of a line that this thread logs.
pub(crate) fn owner() -> impl fmt::Display {
    // A thread that ends may log when this is gone.
    let owner = OWNER.try_with(|owner| owner.borrow().clone());
    Prefix(owner.ok().flatten())
}

struct Prefix(Option<Owner>);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |owner| f.write_str(&owner.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_works_for_one_node_at_a_time() {
        assert_eq!(owner().to_string(), "");
        let outer = Owner::new("orders", 1.into()).adopt();
        {
            let _inner = Owner::new("orders", 2.into()).adopt();
            assert_eq!(owner().to_string(), "group orders node 2: ");
        }
        assert_eq!(owner().to_string(), "group orders node 1: ");
        let elsewhere = std::thread::spawn(|| owner().to_string());
        assert_eq!(elsewhere.join().unwrap(), "", "each thread has its own");
        drop(outer);
        assert_eq!(owner().to_string(), "");
    }
}
