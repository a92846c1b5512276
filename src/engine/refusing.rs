//! Who refuses whom: what the transport reports of connections, and what this node refuses of the messages that a peer sends it all the
//! same.
//!
//! A message that is refused once is no news: it may be torn, or come from a time that is over. A peer of which nothing of one kind is
//! taken for an election timeout, while it keeps sending that, stands still towards this node, and whoever looks for the reason finds
//! it nowhere else: it is shown, until something of that kind is taken or nothing of it has come for ten seconds.

use std::time::Duration;

use super::Engine;
use crate::entry::NodeId;
use crate::message::Kind;
use crate::role::{Refusal, Role};

/// How long a peer need not have sent any more of what is refused until it is forgotten. As long as a transport remembers.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// What is refused at the moment.
#[derive(Default)]
pub(super) struct Refusing {
    /// What the transport reports: one of each peer at most.
    reported: Vec<Refusal>,
    /// One of each member and kind of message at most.
    runs: Vec<Run>,
}

/// Messages of one kind that a peer sends, and that are refused one after the other.
struct Run {
    peer: NodeId,
    /// That of the last one.
    kind: Kind,
    reason: String,
    first: Duration,
    last: Duration,
    is_shown: bool,
}

impl Refusing {
    /// One of each peer, by ascending id. A transport that refuses a peer lets through nothing that could be refused here.
    fn shown(&self) -> Vec<Refusal> {
        let mut shown = self.reported.clone();
        for run in self.runs.iter().filter(|run| run.is_shown) {
            if shown.iter().all(|refusal| refusal.peer != run.peer) {
                shown.push(Refusal::new(run.peer, run.text()));
            }
        }
        shown.sort_by_key(|refusal| refusal.peer);
        shown
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.reported.is_empty() && self.runs.is_empty()
    }

    /// A message was refused. Whether there is something new to show.
    fn refuse(&mut self, peer: NodeId, kind: Kind, reason: String, now: Duration, election_timeout: Duration) -> bool {
        let at = self.runs.iter().position(|run| run.peer == peer && run.kind.name == kind.name);
        let Some(run) = at.map(|at| &mut self.runs[at]) else {
            self.runs.push(Run { peer, kind, reason, first: now, last: now, is_shown: false });
            return false;
        };
        // Strays that lie far apart have nothing to do with each other.
        if now > run.last + election_timeout && !run.is_shown {
            run.first = now;
        }
        let (was_shown, reason_before) = (run.is_shown, std::mem::replace(&mut run.reason, reason));
        (run.last, run.kind) = (now, kind);
        run.is_shown |= now >= run.first + election_timeout;
        run.is_shown && (!was_shown || run.reason != reason_before)
    }

    /// A message was taken. Whether something is no longer to be shown.
    fn take(&mut self, peer: NodeId, kind: Kind) -> bool {
        // Batches that go behind the refused ones are taken, too, but not appended.
        self.forget(|run| run.peer == peer && run.kind.name == kind.name && kind.place <= run.kind.place)
    }

    fn forget(&mut self, is_over: impl Fn(&Run) -> bool) -> bool {
        self.runs.extract_if(.., |run| is_over(run)).fold(false, |any, run| any | run.is_shown)
    }
}

impl Run {
    fn text(&self) -> String {
        format!(
            "this node takes no {} of node {}: {}; let both run the same version, and look for what changes messages on their way",
            self.kind.name, self.peer, self.reason
        )
    }
}

impl Engine {
    /// What a transport reports of a peer. `None`: all is well again.
    pub(super) fn set_refused(&mut self, peer: NodeId, reason: Option<String>) {
        self.refusing.reported.retain(|refusal| refusal.peer != peer);
        self.refusing.reported.extend(reason.map(|reason| Refusal::new(peer, reason)));
        self.show_refused();
    }

    /// The replica has refused a message of a peer.
    pub(super) fn note_refusal(&mut self, peer: NodeId, kind: Kind, reason: String) {
        log::debug!("group {}: refused a message of node {peer}: {reason}", self.settings.replica.group);
        // Of others nothing is remembered: there may be any number of them.
        let is_told = self.replica.membership().contains(peer) && !kind.may_go_astray();
        let election_timeout = self.settings.tick * self.settings.replica.election_ticks as u32;
        if is_told && self.refusing.refuse(peer, kind, reason, self.now.elapsed, election_timeout) {
            self.show_refused();
        }
    }

    /// The replica has taken a message of a peer.
    pub(super) fn note_taken(&mut self, peer: NodeId, kind: Kind) {
        if !self.refusing.runs.is_empty() && self.refusing.take(peer, kind) {
            self.show_refused();
        }
    }

    /// Forgets what is not sent any more.
    pub(super) fn forget_refusals(&mut self) {
        let now = self.now.elapsed;
        if !self.refusing.runs.is_empty() && self.refusing.forget(|run| now >= run.last + FORGOTTEN_AFTER) {
            self.show_refused();
        }
    }

    /// Shows who refuses whom, and tells it to whoever appends here in vain.
    fn show_refused(&mut self) {
        let shown = self.refusing.shown();
        {
            let refused = &mut self.shared.status.lock().refused;
            for refusal in shown.iter().filter(|refusal| !refused.contains(refusal)) {
                log::warn!("group {} node {}: {refusal}", self.settings.replica.group, self.settings.replica.node);
            }
            *refused = shown;
        }
        let is_told_why = self.repair.is_some() || self.stopped;
        if !is_told_why && self.replica.standing().role != Role::Leader {
            self.shared.sequencer.close(self.refusal());
        }
    }
}
