//! Refusals between this node and its peers: refused connections, as the transport reports them,
//! and messages of peers that this node rejects.
//!
//! A single rejected message is not shown: it may be corrupt, or late. If all messages of one kind
//! of a peer are rejected for an election timeout, that is shown, since nothing else explains why
//! the peer makes no progress. It is shown until a message of that kind is taken, or none has come
//! for ten seconds.
//!
//! The log reports the same a second later. So peers that refuse this node for the same reason, one
//! after the other, are named together.

use std::time::Duration;

use crate::entry::NodeId;
use crate::message::Kind;
use crate::role::{Refusal, grouped};

/// How long the log waits for further refusals to group.
const GATHERED_FOR: Duration = Duration::from_secs(1);
/// The least time between two reports, so that refusals that come and go do not fill the log.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Lasting refusals are reported again after this time.
const REPEATED_EVERY: Duration = Duration::from_secs(60);

/// The current refusals.
#[derive(Default)]
pub(super) struct RefusedPeers {
    /// Refused connections, at most one of each peer.
    pub(super) reported: Vec<Refusal>,
    /// At most one for each member and kind of message.
    pub(super) runs: Vec<Run>,
    /// The last report in the log, and its time.
    logged: (Vec<String>, Option<Duration>),
    /// When the next report is due.
    report_at: Option<Duration>,
}

/// Messages of one kind of a peer that were rejected one after the other.
pub(super) struct Run {
    peer: NodeId,
    /// That of the last one.
    kind: Kind,
    reason: String,
    first: Duration,
    pub(super) last: Duration,
    /// When its reason was shown, if it is.
    shown: Option<Duration>,
}

impl RefusedPeers {
    /// The refusals to show, one of each peer, by ascending id. A refused connection delivers no
    /// messages that could be rejected here.
    pub(super) fn shown(&self) -> Vec<Refusal> {
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

    /// Whether something is shown that may soon be over, or is to be reported and was not yet. That
    /// all is over can be reported at any time.
    pub(super) fn has_news(&self) -> bool {
        let (shown, logged) = (self.shown(), &self.logged.0);
        self.runs.iter().any(|run| run.shown.is_some())
            || !shown.is_empty() && grouped(&shown) != *logged
    }

    /// Whether a refusal lasts, which is reported again and again while a node is awake.
    pub(super) fn has_lasting(&self) -> bool {
        !self.shown().is_empty()
    }

    /// A report that is planned is due now.
    pub(super) fn hurry(&mut self, now: Duration) {
        self.report_at = self.report_at.map(|_| now);
    }

    /// Plans a report, if the refusals to show have changed.
    pub(super) fn plan(&mut self, now: Duration) {
        let (logged, logged_at) = &self.logged;
        if grouped(&self.shown()) != *logged {
            let due = (now + GATHERED_FOR)
                .max(logged_at.map_or(Duration::ZERO, |logged_at| logged_at + TOLD_EVERY));
            self.report_at = Some(self.report_at.map_or(due, |report_at| report_at.min(due)));
        }
    }

    /// The lines that are due: new ones, or all if none is new. `Some` of an empty list: all
    /// refusals are over.
    pub(super) fn due(&mut self, now: Duration) -> Option<Vec<String>> {
        self.report_at.take_if(|report_at| *report_at <= now)?;
        let lines = grouped(&self.shown());
        self.report_at = (!lines.is_empty()).then(|| now + REPEATED_EVERY);
        let (before, _) = std::mem::replace(&mut self.logged, (lines.clone(), Some(now)));
        let news: Vec<String> =
            lines.iter().filter(|line| !before.contains(line)).cloned().collect();
        match (before.is_empty(), lines.is_empty()) {
            (true, true) => None,
            (false, true) => Some(Vec::new()),
            _ if before == lines => Some(lines),
            _ => Some(news).filter(|news| !news.is_empty()),
        }
    }

    /// Counts a rejected message. Returns whether something new is to be shown.
    pub(super) fn refuse(
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
        // Rejections that are far apart in time are unrelated.
        if now > run.last + election_timeout && run.shown.is_none() {
            run.first = now;
        }
        (run.last, run.kind) = (now, kind);
        // If reasons alternate, each is shown for a while.
        let is_due = now >= run.shown.unwrap_or(run.first) + election_timeout;
        if !is_due || run.shown.is_some() && run.reason == reason {
            return false;
        }
        reason.clone_into(&mut run.reason);
        run.shown = Some(now);
        true
    }

    /// Counts a message that was taken. Returns whether something is no longer to be shown.
    pub(super) fn take(&mut self, peer: NodeId, kind: Kind) -> bool {
        // Batches behind the rejected ones are taken too, but not appended.
        self.forget(|run| {
            run.peer == peer && run.kind.name == kind.name && kind.place <= run.kind.place
        })
    }

    pub(super) fn forget(&mut self, is_over: impl Fn(&Run) -> bool) -> bool {
        self.runs
            .extract_if(.., |run| is_over(run))
            .fold(false, |any, run| any | run.shown.is_some())
    }
}

impl Run {
    fn text(&self) -> String {
        format!(
            "this node takes no {} of node {}: {}; let both run the same version, and look for \
             what changes messages on their way",
            self.kind.name, self.peer, self.reason
        )
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// What is logged at each second, of peers that refuse this node from one second to
    /// before another.
    fn logged(refusals: &[(u64, std::ops::Range<u64>)], seconds: u64) -> Vec<(u64, Vec<String>)> {
        let (mut refusing, mut logged) = (RefusedPeers::default(), Vec::new());
        for second in 0..seconds {
            let refuses =
                refusals.iter().filter(|(_, when)| when.contains(&second)).map(|(peer, _)| *peer);
            refusing.reported = refuses
                .map(|peer| {
                    Refusal::new(peer.into(), format!("node {peer} refuses this node: new"))
                })
                .collect();
            refusing.plan(Duration::from_secs(second));
            logged.extend(refusing.due(Duration::from_secs(second)).map(|lines| (second, lines)));
        }
        logged
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
        assert_eq!(logged(&nodes, 300), expected);
        let later = [(2, 5..60), (3, 8..60)];
        let expected =
            [(6, line("node 2 refuses")), (16, line("nodes 2 and 3 refuse")), (61, Vec::new())];
        assert_eq!(logged(&later, 300), expected);
    }

    #[test]
    fn a_refusal_that_comes_and_goes_is_told_every_ten_seconds_at_most() {
        let flapping: Vec<_> = (0..100).map(|at| (2, 3 * at..3 * at + 1)).collect();
        let logged = logged(&flapping, 300);
        assert!((2..=31).contains(&logged.len()), "{logged:?}");
    }
}
