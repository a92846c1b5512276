//! All groups of a host on a network inside one process.

use std::fmt;
use std::io;

use super::MemoryNetwork;
use crate::entry::NodeId;
use crate::transport::{HostContext, HostTransport, Transport};

/// The transport of one host on a [`MemoryNetwork`]: see [`MemoryNetwork::host`].
pub struct MemoryHost {
    network: MemoryNetwork,
    host: NodeId,
}

impl MemoryNetwork {
    /// The transport of a host: its groups meet those of the same name of other hosts.
    pub fn host(&self, host: impl Into<NodeId>) -> MemoryHost {
        MemoryHost { network: self.clone(), host: host.into() }
    }
}

impl HostTransport for MemoryHost {
    fn start(&self, context: HostContext) -> io::Result<()> {
        if context.host == self.host {
            return Ok(());
        }
        let told =
            format!("this is the transport of host {}, not of host {}", self.host, context.host);
        Err(io::Error::new(io::ErrorKind::InvalidInput, told))
    }

    fn group(&self) -> Box<dyn Transport> {
        Box::new(self.network.transport(self.host))
    }

    /// Each group detaches itself.
    fn stop(&self) {}
}

impl fmt::Debug for MemoryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryHost").field("host", &self.host).finish_non_exhaustive()
    }
}
