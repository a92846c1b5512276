//! Rejections between this node and its peers, for the node's status.
//!
//! Each direction counts by itself. A rejection ends when a handshake in its direction succeeds, or
//! [`EXPIRY`] after the last one.
//!
//! A rejected connection can claim any id and give any reason, as often as it can connect. So
//! members have places of their own, beside [`STRANGERS_MAX`] for others, and the reason for which
//! this node rejects a peer is replaced by another one no sooner than [`REASON_STAYS`] after it
//! was last given: each report costs this node more than it costs a stranger.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::entry::NodeId;
use crate::primitives::{Instant, Mutex};
use crate::transport::hello::{HandshakeRejection, Rejection};
use crate::transport::{Inbox, TransportContext};

/// A rejected node tries again at least once a second.
const EXPIRY: Duration = Duration::from_secs(10);

/// Bounds the ids that are kept beside those of members.
const STRANGERS_MAX: usize = 16;

/// A peer that is rejected for another reason now tries again after this time.
const REASON_STAYS: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// This node refuses the peer.
    Us,
    /// The peer refuses this node.
    Peer,
}

pub(super) struct Refusals {
    inbox: Inbox,
    members: Vec<NodeId>,
    peers: Mutex<BTreeMap<NodeId, Directions>>,
}

/// The rejection of a peer, and that by it.
#[derive(Default)]
struct Directions([Option<(Rejection, Instant)>; 2]);

impl Directions {
    fn text(&self, peer: NodeId) -> String {
        let [by_us, by_peer] = &self.0;
        let by_us = by_us.as_ref().map(|(why, _)| format!("this node refuses node {peer}: {why}"));
        let by_peer =
            by_peer.as_ref().map(|(why, _)| format!("node {peer} refuses this node: {why}"));
        by_us.into_iter().chain(by_peer).collect::<Vec<_>>().join("; ")
    }

    fn refused_lately_for_another_reason(&self, why: &Rejection) -> bool {
        let [by_us, _] = &self.0;
        by_us.as_ref().is_some_and(|(known, since)| known != why && since.elapsed() < REASON_STAYS)
    }
}

impl Refusals {
    pub(super) fn new(context: &TransportContext) -> Refusals {
        let members = context.addresses.iter().map(|(node, _)| *node).collect();
        Refusals { inbox: context.inbox.clone(), members, peers: Mutex::default() }
    }

    fn has_place(&self, peer: NodeId, peers: &BTreeMap<NodeId, Directions>) -> bool {
        let is_member = |id: &NodeId| self.members.contains(id);
        let strangers = || peers.keys().filter(|id| !is_member(id)).count();
        is_member(&peer) || peers.contains_key(&peer) || strangers() < STRANGERS_MAX
    }

    pub(super) fn set(&self, peer: NodeId, by: By, why: Rejection) {
        let mut peers = self.peers.lock();
        if !self.has_place(peer, &peers) {
            return;
        }
        let directions = peers.entry(peer).or_default();
        if by == By::Us && directions.refused_lately_for_another_reason(&why) {
            return;
        }
        let before = directions.text(peer);
        let is_outdated = by == By::Peer && why.reason == HandshakeRejection::OutdatedDirectory;
        directions.0[by as usize] = Some((why, Instant::now()));
        let now = directions.text(peer);
        if now != before {
            self.inbox.refused(peer, now);
            if is_outdated {
                self.inbox.directory_outdated(peer);
            }
        }
    }

    /// A handshake has succeeded. It does not end the rejection of messages that followed one.
    pub(super) fn clear(&self, peer: NodeId, by: By) {
        let is_over = |why: &Rejection| why.reason != HandshakeRejection::Unreadable;
        self.retain(|other, direction, why, _| (other, direction) != (peer, by) || !is_over(why));
    }

    /// Removes rejections that were not repeated.
    pub(super) fn expire(&self) {
        self.retain(|_, _, _, since| since.elapsed() < EXPIRY);
    }

    fn retain(&self, keeps: impl Fn(NodeId, By, &Rejection, Instant) -> bool) {
        let mut peers = self.peers.lock();
        peers.retain(|&peer, directions| {
            let before = directions.text(peer);
            for (direction, by) in directions.0.iter_mut().zip([By::Us, By::Peer]) {
                *direction = direction.take().filter(|(why, since)| keeps(peer, by, why, *since));
            }
            let now = directions.text(peer);
            match now.is_empty() {
                true => self.inbox.accepted(peer),
                false if now != before => self.inbox.refused(peer, now),
                false => {}
            }
            directions.0.iter().any(Option::is_some)
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::transport::hello::{Hello, PeerRegistry};
    use crate::transport::{Spawner, TransportEvent};

    /// Node 1 of two, and what it reports.
    fn refusals() -> (Refusals, PeerRegistry, Arc<Mutex<Vec<NodeId>>>) {
        let reports = Arc::<Mutex<Vec<NodeId>>>::default();
        let told = reports.clone();
        let inbox = Inbox::new(move |event| {
            told.lock().extend(match event {
                TransportEvent::Refused { peer, .. } => Some(peer),
                _ => None,
            });
            true
        });
        let addresses = (1..=2).map(|id| (NodeId::from(id), String::new())).collect();
        let no_threads = Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()));
        let context =
            TransportContext::new(NodeId::from(1), "orders", addresses, inbox, no_threads);
        (Refusals::new(&context), PeerRegistry::new(&context, 1), reports)
    }

    fn why(known: &PeerRegistry, members: &[u64]) -> Rejection {
        let members = members.iter().map(|id| NodeId::from(*id)).collect();
        let hello = Hello { members, ..known.hello_to(NodeId::from(1)) };
        known.rejection(HandshakeRejection::Members, &hello.encode())
    }

    #[test]
    fn strangers_leave_members_their_places() {
        let (refusals, known, reports) = refusals();
        for id in 1000..2000 {
            refusals.set(NodeId::from(id), By::Us, why(&known, &[9]));
        }
        assert_eq!(reports.lock().len(), STRANGERS_MAX);
        refusals.set(NodeId::from(2), By::Us, why(&known, &[9]));
        assert_eq!(reports.lock().last(), Some(&NodeId::from(2)));
    }

    #[test]
    fn one_that_says_something_else_each_time_is_reported_once_in_a_while() {
        let (refusals, known, reports) = refusals();
        for id in 1000..2000 {
            refusals.set(NodeId::from(2), By::Us, why(&known, &[id]));
            refusals.set(NodeId::from(3), By::Us, why(&known, &[id]));
        }
        assert_eq!(*reports.lock(), [2, 3].map(NodeId::from));
        std::thread::sleep(REASON_STAYS);
        refusals.set(NodeId::from(2), By::Us, why(&known, &[2000]));
        assert_eq!(reports.lock().len(), 3);
    }
}
