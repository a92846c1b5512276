//! The node that a thread works for, in front of each line of the log.
//!
//! Storages and transports serve any node and know of none. What they log begins with the node of
//! the thread that they run on, in the form that the engine uses as well: `group G node N: `.
//! Nothing stands in front on a thread that works for no node.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use crate::entry::NodeId;

thread_local!(static OWNER: RefCell<Option<LogPrefix>> = const { RefCell::new(None) });

/// One node of one group.
#[derive(Clone)]
pub(crate) struct LogPrefix {
    prefix: Arc<str>,
}

impl LogPrefix {
    pub(crate) fn new(group: &str, node: NodeId) -> LogPrefix {
        LogPrefix { prefix: format!("group {group} node {node}: ").into() }
    }

    /// This thread works for it until what this returns is dropped, and then for whom it did
    /// before.
    #[must_use]
    pub(crate) fn adopt(self) -> Adopted {
        Adopted { before: OWNER.replace(Some(self)) }
    }
}

/// See [`LogPrefix::adopt`].
pub(crate) struct Adopted {
    before: Option<LogPrefix>,
}

impl Drop for Adopted {
    fn drop(&mut self) {
        OWNER.set(self.before.take());
    }
}

/// What stands in front of a line that this thread logs.
pub(crate) fn log_prefix() -> impl fmt::Display {
    // A thread that ends may log when this is gone.
    let log_prefix = OWNER.try_with(|log_prefix| log_prefix.borrow().clone());
    Prefix(log_prefix.ok().flatten())
}

struct Prefix(Option<LogPrefix>);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |log_prefix| f.write_str(&log_prefix.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_works_for_one_node_at_a_time() {
        assert_eq!(log_prefix().to_string(), "");
        let outer = LogPrefix::new("orders", 1.into()).adopt();
        {
            let _inner = LogPrefix::new("orders", 2.into()).adopt();
            assert_eq!(log_prefix().to_string(), "group orders node 2: ");
        }
        assert_eq!(log_prefix().to_string(), "group orders node 1: ");
        let elsewhere = std::thread::spawn(|| log_prefix().to_string());
        assert_eq!(elsewhere.join().unwrap(), "", "each thread has its own");
        drop(outer);
        assert_eq!(log_prefix().to_string(), "");
    }
}
