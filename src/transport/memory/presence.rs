//! Which peers a group of a host is told to be there, and what is to be told to whom.

use std::collections::{BTreeMap, VecDeque};

use crate::entry::NodeId;
use crate::transport::{Inbox, TransportContext, TransportEvent};

/// What one endpoint was told.
#[derive(Default)]
pub(super) struct Presence {
    /// The peers that are up, with the numbers of their endpoints: another number is another
    /// process. `None` before the endpoint was told anything.
    up: Option<BTreeMap<NodeId, u64>>,
}

/// What is to be told, in the order in which it happened.
#[derive(Default)]
pub(super) struct Reports {
    waiting: VecDeque<(Inbox, TransportEvent)>,
    /// A thread tells one of them at this moment. It goes on with the others.
    is_reporting: bool,
}

impl Presence {
    /// The endpoint with this context has these peers now.
    pub(super) fn note(
        &mut self,
        context: &TransportContext,
        up: BTreeMap<NodeId, u64>,
        reports: &mut Reports,
    ) {
        let mut report = |event| reports.waiting.push_back((context.inbox.clone(), event));
        match self.up.take() {
            // A group would not sleep while it waits for a peer that was never reported.
            None => {
                let peers = context.addresses.iter().map(|(peer, _)| *peer);
                let others = peers.filter(|peer| *peer != context.node && !up.contains_key(peer));
                others.for_each(|peer| report(TransportEvent::PeerDown(peer)));
            }
            Some(before) => {
                let gone = before.keys().filter(|peer| !up.contains_key(peer));
                gone.for_each(|peer| report(TransportEvent::PeerDown(*peer)));
                let come = up.iter().filter(|(peer, number)| before.get(peer) != Some(number));
                come.for_each(|(peer, _)| report(TransportEvent::PeerUp(*peer)));
            }
        }
        self.up = Some(up);
    }
}

impl Reports {
    /// The next one to be told, unless another thread is at it. [`told`](Self::told) is called
    /// afterwards.
    pub(super) fn next(&mut self) -> Option<(Inbox, TransportEvent)> {
        if self.is_reporting {
            return None;
        }
        let next = self.waiting.pop_front();
        self.is_reporting = next.is_some();
        next
    }

    pub(super) fn told(&mut self) {
        self.is_reporting = false;
    }
}
