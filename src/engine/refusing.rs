//! Reports which peers refuse this node, and whose messages this node refuses. What is shown and
//! when: see [`refused_peers`](super::refused_peers).

use std::time::Duration;

use super::Engine;
use crate::entry::NodeId;
use crate::message::Kind;
use crate::replica::Settings;
use crate::role::{Refusal, Role};

/// After this time without another rejected message a run is forgotten. A transport remembers a
/// refused connection for as long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

impl Engine {
    /// Sets the refusal that the transport reports of a peer. `None`: there is none any more.
    pub(super) fn set_refused(&mut self, peer: NodeId, reason: Option<String>) {
        self.refused_peers.reported.retain(|refusal| refusal.peer != peer);
        self.refused_peers.reported.extend(reason.map(|reason| Refusal::new(peer, reason)));
        self.show_refused();
    }

    /// The replica has rejected a message of a peer.
    pub(super) fn note_refusal(&mut self, peer: NodeId, kind: Kind, reason: &str) {
        let Settings { group, node, election_ticks, .. } = &self.settings.replica;
        log::debug!("group {group} node {node}: refused a message of node {peer}: {reason}");
        // Nothing is kept of nodes that are no members: there may be any number of them.
        if !self.replica.membership().contains(peer) || kind.may_go_astray() {
            return;
        }
        let election_timeout = self.settings.tick * *election_ticks as u32;
        if self.refused_peers.refuse(peer, kind, reason, self.now.elapsed, election_timeout) {
            self.show_refused();
        }
    }

    /// The replica has taken a message of a peer.
    pub(super) fn note_taken(&mut self, peer: NodeId, kind: Kind) {
        if !self.refused_peers.runs.is_empty() && self.refused_peers.take(peer, kind) {
            self.show_refused();
        }
    }

    /// Forgets old refusals, and writes the report that is due.
    pub(super) fn tick_refusals(&mut self) {
        let now = self.now.elapsed;
        if !self.refused_peers.runs.is_empty()
            && self.refused_peers.forget(|run| now >= run.last + FORGOTTEN_AFTER)
        {
            self.show_refused();
        }
        let Some(lines) = self.refused_peers.due(now) else { return };
        if lines.is_empty() {
            self.inform("no refusal between this node and its peers is left");
        }
        lines.iter().for_each(|line| self.warn(line));
    }

    /// Shows the refusals in the status and in the errors of appends.
    fn show_refused(&mut self) {
        self.refused_peers.plan(self.now.elapsed);
        self.shared.status.change(|status| status.refused = self.refused_peers.shown());
        self.refuse_appends_anew();
    }

    /// Updates the error of appends on a node that does not lead, though the role has not changed.
    pub(super) fn refuse_appends_anew(&mut self) {
        let is_told_why = self.is_suspended() || self.stopped;
        if !is_told_why && self.replica.role_state().role != Role::Leader {
            self.shared.sequencer.close(self.refusal());
        }
    }
}
