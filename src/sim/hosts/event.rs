//! Events of hosts.

use std::sync::Arc;

use crate::transport::tcp::LocalGroup;

/// The direction of bytes on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the process that dialled.
    Forward,
    Back,
}

pub(super) enum HostEvent {
    /// The process of a host dials a peer.
    Dial {
        host: usize,
        process: u64,
        peer: usize,
    },
    /// The writer of a connection looks for work.
    Write {
        host: usize,
        process: u64,
        peer: usize,
    },
    /// Bytes, or the end of a connection, arrive.
    Arrive {
        connection: u64,
        way: Way,
    },
    /// A process sends pings, and looks which peers are silent.
    Probe {
        host: usize,
        process: u64,
    },
    /// A connection from `peer` has ended a while ago.
    ReportEnd {
        host: usize,
        process: u64,
        peer: usize,
        groups: Vec<Arc<LocalGroup>>,
    },
    Fault,
    /// These links carry bytes again.
    Reconnect(Vec<(usize, usize)>),
    /// The disks of a host are as before, for one group or for all.
    Relief(usize),
    Restart(usize),
    /// A group is opened at a host: created, or again.
    Open {
        group: usize,
        generation: u64,
        host: usize,
    },
    /// A step of the removal of a group from a host.
    Remove {
        group: usize,
        generation: u64,
        host: usize,
    },
}
