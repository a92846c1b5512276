//! Interim.
use std::io;

use super::TcpTransport;
use crate::transport::{HostContext, HostTransport, Transport};

/// All groups over one port.
#[derive(Debug, Default)]
pub struct TcpHostTransport;

impl TcpHostTransport {
    /// One that listens where its host says.
    pub fn new() -> TcpHostTransport {
        TcpHostTransport
    }
}

impl HostTransport for TcpHostTransport {
    fn start(&self, _context: HostContext) -> io::Result<()> {
        Ok(())
    }

    fn group(&self) -> Box<dyn Transport> {
        Box::new(TcpTransport::new())
    }

    fn stop(&self) {}
}
