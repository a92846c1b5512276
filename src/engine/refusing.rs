//! Reports which peers refuse this node, and whose messages this node refuses. What is shown and
//! when: see [`refused_peers`](super::refused_peers).

use std::time::Duration;

use super::Engine;
use crate::entry::NodeId;
use crate::message::Kind;
use crate::replica::Settings;
use crate::role::{Refusal, Role};

/// How long a peer need not have sent any more of what is refused until it is forgotten. As long as
/// a transport remembers.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

impl Engine {
    /// What a transport reports of a peer. `None`: all is well again.
    pub(super) fn set_refused(&mut self, peer: NodeId, reason: Option<String>) {
        self.refused_peers.reported.retain(|refusal| refusal.peer != peer);
        self.refused_peers.reported.extend(reason.map(|reason| Refusal::new(peer, reason)));
        self.show_refused();
    }

    /// The replica has refused a message of a peer.
    pub(super) fn note_refusal(&mut self, peer: NodeId, kind: Kind, reason: &str) {
        let Settings { group, node, election_ticks, .. } = &self.settings.replica;
        log::debug!("group {group} node {node}: refused a message of node {peer}: {reason}");
        // Of others nothing is remembered: there may be any number of them.
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

    /// Forgets what is not sent any more, and writes to the log what is due.
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

    /// Shows who refuses whom, and tells it to whoever appends here in vain.
    fn show_refused(&mut self) {
        self.refused_peers.plan(self.now.elapsed);
        self.shared.status.change(|status| status.refused = self.refused_peers.shown());
        self.refuse_appends_anew();
    }

    /// What an append in vain is told has changed, though the role has not.
    pub(super) fn refuse_appends_anew(&mut self) {
        let is_told_why = self.stands_still() || self.stopped;
        if !is_told_why && self.replica.role_state().role != Role::Leader {
            self.shared.sequencer.close(self.refusal());
        }
    }
}
