//! The transport of a host, which carries the messages of all its groups.

use std::io;

use super::{Spawner, Transport};
use crate::entry::NodeId;

/// Carries the messages of all groups of a [`Host`](crate::Host).
pub trait HostTransport: Send + Sync {
    /// Called once, before [`group`](Self::group). Listens, and connects to the peers.
    ///
    /// # Errors
    /// If peers could not reach it: an address that cannot be parsed or bound.
    fn start(&self, context: HostContext) -> io::Result<()>;

    /// A transport for one more group, to be started with the context of that group. Where the
    /// addresses of that context differ from those of the host, those of the host count.
    fn group(&self) -> Box<dyn Transport>;

    /// Stops the transports of all groups, closes connections, and asks the threads to end.
    /// Idempotent; does not wait.
    fn stop(&self);
}

/// What the transport of a host needs to start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostContext {
    /// This host: its id as a member of its groups.
    pub host: NodeId,
    /// The address to listen on.
    pub listen: String,
    /// All hosts and their addresses, this one included.
    pub peers: Vec<(NodeId, String)>,
    /// The largest message of any member of any group, in bytes.
    pub message_bytes_max: usize,
    /// How the transport gets threads. They belong to the host.
    pub spawner: Spawner,
}

impl HostContext {
    /// A context for a test of a transport.
    pub fn new(
        host: NodeId,
        listen: String,
        peers: Vec<(NodeId, String)>,
        spawner: Spawner,
    ) -> HostContext {
        HostContext { host, listen, peers, message_bytes_max: 32 << 20, spawner }
    }
}
