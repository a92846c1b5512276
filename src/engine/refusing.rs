//! Who refuses whom: what the transport reports of connections, and what this node refuses of the
//! messages that a peer sends it all the same.
//!
//! A message that is refused once is no news: it may be torn, or come from a time that is over. A
//! peer of which nothing of one kind is taken for an election timeout, while it keeps sending that,
//! stands still towards this node, and whoever looks for the reason finds it nowhere else: it is
//! shown, until something of that kind is taken or nothing of it has come for ten seconds.
//!
//! The log tells what is shown, a second late: peers refuse a node for the same reason, one after
//! the other, and are named together.

use std::time::Duration;

use super::Engine;
use crate::entry::NodeId;
use crate::message::Kind;
use crate::replica::Settings;
use crate::role::{Refusal, Role, grouped};

/// How long a peer need not have sent any more of what is refused until it is forgotten. As long as
/// a transport remembers.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// How long the log waits for more of the same.
const GATHERED_FOR: Duration = Duration::from_secs(1);
/// Nothing new is told sooner than this after what was told last: whatever comes and goes does not
/// fill the log.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// What lasts is told again.
const REPEATED_EVERY: Duration = Duration::from_secs(60);

/// What is refused at the moment.
#[derive(Default)]
pub(super) struct Refusing {
    /// What the transport reports: one of each peer at most.
    reported: Vec<Refusal>,
    /// One of each member and kind of message at most.
    runs: Vec<Run>,
    /// What the log told last, and when.
    told: (Vec<String>, Option<Duration>),
    /// When it tells the next.
    commit_notice_at: Option<Duration>,
}

/// Messages of one kind that a peer sends, and that are refused one after the other.
struct Run {
    peer: NodeId,
    /// That of the last one.
    kind: Kind,
    reason: String,
    first: Duration,
    last: Duration,
    /// When its reason was shown, if it is.
    shown: Option<Duration>,
}

impl Refusing {
    /// One of each peer, by ascending id. A transport that refuses a peer lets through nothing that
    /// could be refused here.
    fn shown(&self) -> Vec<Refusal> {
        let mut shown = self.reported.clone();
        for run in self.runs.iter().filter(|run| run.shown.is_some()) {
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

    /// What is shown may have changed: the log is to tell so.
    fn plan(&mut self, now: Duration) {
        let (told, told_at) = &self.told;
        if grouped(&self.shown()) != *told {
            let due = (now + GATHERED_FOR)
                .max(told_at.map_or(Duration::ZERO, |told_at| told_at + TOLD_EVERY));
            self.commit_notice_at = Some(
                self.commit_notice_at.map_or(due, |commit_notice_at| commit_notice_at.min(due)),
            );
        }
    }

    /// What the log is to tell by now: what is new, or all of it if nothing is. `Some` of nothing:
    /// what was told is over.
    fn due(&mut self, now: Duration) -> Option<Vec<String>> {
        self.commit_notice_at.take_if(|commit_notice_at| *commit_notice_at <= now)?;
        let lines = grouped(&self.shown());
        self.commit_notice_at = (!lines.is_empty()).then(|| now + REPEATED_EVERY);
        let (before, _) = std::mem::replace(&mut self.told, (lines.clone(), Some(now)));
        let news: Vec<String> =
            lines.iter().filter(|line| !before.contains(line)).cloned().collect();
        match (before.is_empty(), lines.is_empty()) {
            (true, true) => None,
            (false, true) => Some(Vec::new()),
            _ if before == lines => Some(lines),
            _ => Some(news).filter(|news| !news.is_empty()),
        }
    }

    /// A message was refused. Whether something new is to be shown.
    fn refuse(
        &mut self,
        peer: NodeId,
        kind: Kind,
        reason: &str,
        now: Duration,
        election_timeout: Duration,
    ) -> bool {
        let at = self.runs.iter().position(|run| run.peer == peer && run.kind.name == kind.name);
        let Some(at) = at else {
            self.runs.push(Run {
                peer,
                kind,
                reason: reason.to_owned(),
                first: now,
                last: now,
                shown: None,
            });
            return false;
        };
        let run = &mut self.runs[at];
        // Strays that lie far apart have nothing to do with each other.
        if now > run.last + election_timeout && run.shown.is_none() {
            run.first = now;
        }
        (run.last, run.kind) = (now, kind);
        // Of several reasons that come in turns, each is shown for a while.
        let is_due = now >= run.shown.unwrap_or(run.first) + election_timeout;
        if !is_due || run.shown.is_some() && run.reason == reason {
            return false;
        }
        reason.clone_into(&mut run.reason);
        run.shown = Some(now);
        true
    }

    /// A message was taken. Whether something is no longer to be shown.
    fn take(&mut self, peer: NodeId, kind: Kind) -> bool {
        // Batches that go behind the refused ones are taken, too, but not appended.
        self.forget(|run| {
            run.peer == peer && run.kind.name == kind.name && kind.place <= run.kind.place
        })
    }

    fn forget(&mut self, is_over: impl Fn(&Run) -> bool) -> bool {
        self.runs
            .extract_if(.., |run| is_over(run))
            .fold(false, |any, run| any | run.shown.is_some())
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
    pub(super) fn note_refusal(&mut self, peer: NodeId, kind: Kind, reason: &str) {
        let Settings { group, node, election_ticks, .. } = &self.settings.replica;
        log::debug!("group {group} node {node}: refused a message of node {peer}: {reason}");
        // Of others nothing is remembered: there may be any number of them.
        if !self.replica.membership().contains(peer) || kind.may_go_astray() {
            return;
        }
        let election_timeout = self.settings.tick * *election_ticks as u32;
        if self.refusing.refuse(peer, kind, reason, self.now.elapsed, election_timeout) {
            self.show_refused();
        }
    }

    /// The replica has taken a message of a peer.
    pub(super) fn note_taken(&mut self, peer: NodeId, kind: Kind) {
        if !self.refusing.runs.is_empty() && self.refusing.take(peer, kind) {
            self.show_refused();
        }
    }

    /// Forgets what is not sent any more, and writes to the log what is due.
    pub(super) fn tick_refusals(&mut self) {
        let now = self.now.elapsed;
        if !self.refusing.runs.is_empty()
            && self.refusing.forget(|run| now >= run.last + FORGOTTEN_AFTER)
        {
            self.show_refused();
        }
        let Some(lines) = self.refusing.due(now) else { return };
        if lines.is_empty() {
            self.inform("no refusal between this node and its peers is left");
        }
        lines.iter().for_each(|line| self.warn(line));
    }

    /// Shows who refuses whom, and tells it to whoever appends here in vain.
    fn show_refused(&mut self) {
        self.refusing.plan(self.now.elapsed);
        self.shared.status.change(|status| status.refused = self.refusing.shown());
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// What the log is told at each second, of peers that refuse this node from one second to
    /// before another.
    fn told(refusals: &[(u64, std::ops::Range<u64>)], seconds: u64) -> Vec<(u64, Vec<String>)> {
        let (mut refusing, mut told) = (Refusing::default(), Vec::new());
        for second in 0..seconds {
            let refuses =
                refusals.iter().filter(|(_, when)| when.contains(&second)).map(|(peer, _)| *peer);
            refusing.reported = refuses
                .map(|peer| {
                    Refusal::new(peer.into(), format!("node {peer} refuses this node: new"))
                })
                .collect();
            refusing.plan(Duration::from_secs(second));
            told.extend(refusing.due(Duration::from_secs(second)).map(|lines| (second, lines)));
        }
        told
    }

    fn line(of: &str) -> Vec<String> {
        vec![format!("{of} this node: new")]
    }

    #[test]
    fn peers_that_refuse_within_a_second_are_named_in_one_line_that_comes_again_and_ends() {
        let nodes = [(2, 5..70), (3, 6..70)];
        let expected = [
            (6, line("nodes 2 and 3 refuse")),
            (66, line("nodes 2 and 3 refuse")),
            (76, Vec::new()),
        ];
        assert_eq!(told(&nodes, 300), expected);
        let later = [(2, 5..60), (3, 8..60)];
        let expected =
            [(6, line("node 2 refuses")), (16, line("nodes 2 and 3 refuse")), (61, Vec::new())];
        assert_eq!(told(&later, 300), expected);
    }

    #[test]
    fn a_refusal_that_comes_and_goes_is_told_every_ten_seconds_at_most() {
        let flapping: Vec<_> = (0..100).map(|at| (2, 3 * at..3 * at + 1)).collect();
        let told = told(&flapping, 300);
        assert!((2..=31).contains(&told.len()), "{told:?}");
    }
}
