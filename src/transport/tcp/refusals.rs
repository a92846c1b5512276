//! Rejections between this node and its peers, for the node's status.
//!
//! Each direction counts by itself. A rejection ends when a handshake in its direction succeeds, or
//! [`EXPIRY`] after the last one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::entry::NodeId;
use crate::primitives::{Instant, Mutex};
use crate::transport::Inbox;
use crate::transport::hello::{HandshakeRejection, Rejection};

/// A rejected node tries again at least once a second.
const EXPIRY: Duration = Duration::from_secs(10);

/// Bounds the peers that are kept: a rejected connection can claim any id.
const PEERS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// This node refuses the peer.
    Us,
    /// The peer refuses this node.
    Peer,
}

pub(super) struct Refusals {
    inbox: Inbox,
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
}

impl Refusals {
    pub(super) fn new(inbox: Inbox) -> Refusals {
        Refusals { inbox, peers: Mutex::default() }
    }

    pub(super) fn set(&self, peer: NodeId, by: By, why: Rejection) {
        let mut peers = self.peers.lock();
        if peers.len() >= PEERS_MAX && !peers.contains_key(&peer) {
            return;
        }
        let directions = peers.entry(peer).or_default();
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
