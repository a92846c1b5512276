//! The prefix of log lines: the node that the current thread works for.
//!
//! Storages and transports serve any node and know of none. Their log lines begin with the node of
//! the thread that they run on, in the form that the engine uses as well: `group G node N: `. On a
//! thread of no node there is no prefix.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use crate::entry::NodeId;

thread_local!(static OWNER: RefCell<Option<LogPrefix>> = const { RefCell::new(None) });

/// The prefix of one node of one group.
#[derive(Clone)]
pub(crate) struct LogPrefix {
    prefix: Arc<str>,
}

impl LogPrefix {
    pub(crate) fn new(group: &str, node: NodeId) -> LogPrefix {
        LogPrefix { prefix: format!("group {group} node {node}: ").into() }
    }

    /// The prefix of what all groups of a host share.
    pub(crate) fn of_host(host: NodeId) -> LogPrefix {
        LogPrefix { prefix: format!("host {host}: ").into() }
    }

    /// Sets the prefix of this thread until the returned guard is dropped, which restores the one
    /// before.
    #[must_use]
    pub(crate) fn adopt(self) -> Adopted {
        Adopted { before: OWNER.replace(Some(self)) }
    }
}

impl fmt::Display for LogPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)
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

/// The prefix of the current thread, for a log line.
pub(crate) fn log_prefix() -> impl fmt::Display {
    // A thread that ends may log after its thread-locals are dropped.
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
