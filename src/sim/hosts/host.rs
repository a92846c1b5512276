//! A host: its disk, and the process that runs its groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::time::Micros;
use super::disk::HostDisk;
use crate::entry::NodeId;
use crate::transport::hello::slots::ConnectionHello;
use crate::transport::tcp::{LocalGroup, PeerQueue, QueueWork};

pub(super) fn node_id(host: usize) -> NodeId {
    NodeId::from(host as u64 + 1)
}

/// One host.
pub(super) struct Host {
    pub(super) disk: HostDisk,
    pub(super) process: Option<HostProcess>,
    pub(super) paused_until: Micros,
}

/// The process of a host, as its transport sees it.
pub(super) struct HostProcess {
    pub(super) id: u64,
    /// Number of groups that were opened.
    pub(super) opened: u64,
    pub(super) groups: Vec<Joined>,
    pub(super) senders: BTreeMap<usize, Sender>,
}

/// A group that is open here.
pub(super) struct Joined {
    pub(super) group: usize,
    pub(super) generation: u64,
    pub(super) local: Arc<LocalGroup>,
    /// The peers that refuse it, or are refused.
    pub(super) refused: BTreeSet<usize>,
    /// The unique id that the group has announced. 0: none.
    pub(super) group_uid: u128,
    /// The newest process of each peer that was accepted.
    pub(super) newest: BTreeMap<usize, u64>,
}

/// What goes to one peer.
pub(super) struct Sender {
    pub(super) queue: PeerQueue,
    pub(super) work: QueueWork,
    pub(super) connection: Option<u64>,
    /// An attempt to connect is scheduled.
    pub(super) is_dialling: bool,
    /// An earlier process of the peer has introduced a group since the last attempt to connect: its
    /// bytes were late. Then the queue may take the process at the other end for a replaced one.
    pub(super) has_seen_earlier: bool,
    pub(super) pause: Micros,
    /// When the writer looks for work next.
    pub(super) due: Micros,
}

impl HostProcess {
    pub(super) fn new(id: u64, host: usize, hosts: usize, pause: Micros) -> HostProcess {
        let sender = || Sender {
            queue: PeerQueue::default(),
            work: QueueWork::default(),
            connection: None,
            is_dialling: false,
            has_seen_earlier: false,
            pause,
            due: Micros::MAX,
        };
        let peers = (0..hosts).filter(|peer| *peer != host);
        let senders = peers.map(|peer| (peer, sender())).collect();
        HostProcess { id, opened: 0, groups: Vec::new(), senders }
    }

    pub(super) fn hello(&self, host: usize, peer: usize) -> ConnectionHello {
        ConnectionHello { from: node_id(host), to: node_id(peer), process: self.id }
    }

    pub(super) fn joined(&self, group: usize) -> Option<&Joined> {
        self.groups.iter().find(|joined| joined.group == group)
    }

    pub(super) fn by_number(&mut self, number: u64) -> Option<&mut Joined> {
        self.groups.iter_mut().find(|joined| joined.local.number == number)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Arc<LocalGroup>> {
        let joined = self.groups.iter().find(|joined| joined.local.name == name)?;
        Some(joined.local.clone())
    }
}
