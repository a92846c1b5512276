//! Which peers and this node refuse each other, as the node's status tells it.
//!
//! Each direction counts by itself. A refusal is over when a handshake in its direction succeeds, or
//! when nobody has tried again for [`EXPIRY`].
//!
//! Whoever is refused can claim any id and give any reason, as often as it can connect. So members
//! have places of their own, beside [`STRANGERS_MAX`] of others, and the reason for which this node
//! refuses one is replaced by another one no sooner than after [`REASON_STAYS`]: each report
//! costs the node more than it costs a stranger.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::entry::NodeId;
use crate::primitives::{Instant, Mutex};
use crate::transport::hello::{Rejection, Stranger};
use crate::transport::{Inbox, Seat};

/// Whoever is refused tries again every second at least.
const EXPIRY: Duration = Duration::from_secs(10);

/// Of how many that are not members refusals are kept.
const STRANGERS_MAX: usize = 16;

/// Whoever is refused for another reason now tries again once this has passed.
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

/// The refusal of a peer, and that by it.
#[derive(Default)]
struct Directions([Option<(Rejection, Instant)>; 2]);

impl Directions {
    fn text(&self, peer: NodeId) -> String {
        let [by_us, by_peer] = &self.0;
        let by_us = by_us.as_ref().map(|(why, _)| format!("this node refuses node {peer}: {why}"));
        let by_peer = by_peer.as_ref().map(|(why, _)| format!("node {peer} refuses this node: {why}"));
        by_us.into_iter().chain(by_peer).collect::<Vec<_>>().join("; ")
    }

    fn refused_lately_for_another_reason(&self, why: &Rejection) -> bool {
        let [by_us, _] = &self.0;
        by_us.as_ref().is_some_and(|(known, since)| known != why && since.elapsed() < REASON_STAYS)
    }
}

impl Refusals {
    pub(super) fn new(seat: &Seat) -> Refusals {
        let members = seat.addresses.iter().map(|(node, _)| *node).collect();
        Refusals { inbox: seat.inbox.clone(), members, peers: Mutex::default() }
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
        let is_outlived = by == By::Peer && why.reason == Stranger::Outlived;
        directions.0[by as usize] = Some((why, Instant::now()));
        let now = directions.text(peer);
        if now != before {
            self.inbox.refused(peer, now);
            if is_outlived {
                self.inbox.outlived(peer);
            }
        }
    }

    /// A handshake has succeeded. What a peer sends behind it may be refused all the same.
    pub(super) fn clear(&self, peer: NodeId, by: By) {
        let is_over = |why: &Rejection| why.reason != Stranger::Unreadable;
        self.retain(|other, direction, why, _| (other, direction) != (peer, by) || !is_over(why));
    }

    /// Forgets what nobody has repeated.
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
    use crate::transport::hello::{Acquaintances, Hello};
    use crate::transport::{Arrival, Spawner};

    /// Node 1 of two, and what it reports.
    fn refusals() -> (Refusals, Acquaintances, Arc<Mutex<Vec<NodeId>>>) {
        let reports = Arc::<Mutex<Vec<NodeId>>>::default();
        let told = reports.clone();
        let inbox = Inbox::new(move |arrival| {
            told.lock().extend(match arrival {
                Arrival::Refused { peer, .. } => Some(peer),
                _ => None,
            });
            true
        });
        let addresses = (1..=2).map(|id| (NodeId::from(id), String::new())).collect();
        let no_threads = Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()));
        let seat = Seat::new(NodeId::from(1), "orders", addresses, inbox, no_threads);
        (Refusals::new(&seat), Acquaintances::new(&seat, 1), reports)
    }

    fn why(known: &Acquaintances, members: &[u64]) -> Rejection {
        let members = members.iter().map(|id| NodeId::from(*id)).collect();
        let hello = Hello { members, ..known.hello_to(NodeId::from(1)) };
        known.rejection(Stranger::Members, &hello.encode())
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
