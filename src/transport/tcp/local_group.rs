//! One group on a port: whom it accepts, where its events go, and what is refused.

use crate::entry::NodeId;
use crate::log_prefix::{Adopted, LogPrefix};
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::transport::hello::PeerRegistry;
use crate::transport::{Inbox, Message, TransportContext};

use super::refusals::Refusals;

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
    stopped: AtomicBool,
}

impl LocalGroup {
    /// `nonce` is random: it tells this opening from others of the same directory.
    pub(super) fn new(number: u64, context: &TransportContext, nonce: u64) -> LocalGroup {
        LocalGroup {
            number,
            name: context.group.clone(),
            message_bytes_max: context.message_bytes_max,
            inbox: context.inbox.clone(),
            registry: Mutex::new(PeerRegistry::new(context, nonce)),
            refusals: Refusals::new(context),
            members: context.addresses.iter().map(|(node, _)| *node).collect(),
            log_prefix: LogPrefix::new(&context.group, context.node),
            stopped: AtomicBool::new(false),
        }
    }

    /// Delivers a message, unless the group has left. False if its inbox is full.
    pub(super) fn deliver(&self, message: Message) -> bool {
        self.is_stopped() || self.inbox.deliver(message)
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
