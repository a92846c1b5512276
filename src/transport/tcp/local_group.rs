//! One group on a port: whom it accepts, where its events go, and what is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::refusals::Refusals;
use crate::entry::NodeId;
use crate::log_prefix::{Adopted, LogPrefix};
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::transport::hello::{PeerRegistry, ProcessId};
use crate::transport::{Inbox, Message, TransportContext};

/// See the [module](self).
pub(super) struct LocalGroup {
    /// Its number on this port. Another opening of the same group has another one.
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) message_bytes_max: usize,
    pub(super) inbox: Inbox,
    pub(super) registry: Mutex<PeerRegistry>,
    pub(super) refusals: Refusals,
    pub(super) members: Vec<NodeId>,
    log_prefix: LogPrefix,
    presence: Mutex<Presence>,
    stopped: AtomicBool,
}

/// What was reported of the peers.
struct Presence {
    down: BTreeSet<NodeId>,
    /// The process of each that was met last.
    met: BTreeMap<NodeId, ProcessId>,
}

impl LocalGroup {
    /// `nonce` is random: it tells this opening from others of the same directory.
    pub(super) fn new(number: u64, context: &TransportContext, nonce: u64) -> LocalGroup {
        let others = || context.addresses.iter().map(|(peer, _)| *peer);
        let others = || others().filter(|peer| *peer != context.node);
        // Until they are heard. A group would not sleep while it waits for one that is not there.
        others().for_each(|peer| context.inbox.peer_down(peer));
        LocalGroup {
            number,
            name: context.group.clone(),
            message_bytes_max: context.message_bytes_max,
            inbox: context.inbox.clone(),
            registry: Mutex::new(PeerRegistry::new(context, nonce)),
            refusals: Refusals::new(context),
            members: context.addresses.iter().map(|(node, _)| *node).collect(),
            log_prefix: LogPrefix::new(&context.group, context.node),
            presence: Mutex::new(Presence { down: others().collect(), met: BTreeMap::new() }),
            stopped: AtomicBool::new(false),
        }
    }

    /// Delivers a message, unless the group has left. False if its inbox is full.
    pub(super) fn deliver(&self, message: Message) -> bool {
        self.is_stopped() || self.inbox.deliver(message)
    }

    /// Reports that nothing comes from `peer` any more, unless it has a connection. That is asked
    /// under the lock: whoever makes one calls [`set_up`](LocalGroup::set_up) afterwards.
    pub(super) fn set_down(&self, peer: NodeId, is_connected: impl FnOnce() -> bool) {
        let mut presence = self.presence.lock();
        if !self.is_stopped() && !is_connected() && presence.down.insert(peer) {
            self.inbox.peer_down(peer);
        }
    }

    /// Reports that `peer` is there again, if it was down.
    pub(super) fn set_up(&self, peer: NodeId) {
        if self.presence.lock().down.remove(&peer) {
            self.inbox.peer_up(peer);
        }
    }

    /// Reports that `peer` is there, if it was down, or if this is another process than before.
    pub(super) fn meet(&self, peer: NodeId, process: ProcessId) {
        let mut presence = self.presence.lock();
        let before = presence.met.insert(peer, process);
        if presence.down.remove(&peer) || before.is_some_and(|before| before != process) {
            self.inbox.peer_up(peer);
        }
    }

    /// Log lines of this thread are about this group while the result lives.
    #[must_use]
    pub(super) fn logs(&self) -> Adopted {
        self.log_prefix.clone().adopt()
    }

    /// Nothing is delivered any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}
