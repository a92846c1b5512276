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

use crate::entry::NodeId;
use crate::message::Kind;
use crate::role::{Refusal, grouped};

/// How long the log waits for more of the same.
const GATHERED_FOR: Duration = Duration::from_secs(1);
/// Nothing new is told sooner than this after what was told last: whatever comes and goes does not
/// fill the log.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// What lasts is told again.
const REPEATED_EVERY: Duration = Duration::from_secs(60);

/// What is refused at the moment.
#[derive(Default)]
pub(super) struct RefusedPeers {
    /// What the transport reports: one of each peer at most.
    pub(super) reported: Vec<Refusal>,
    /// One of each member and kind of message at most.
    pub(super) runs: Vec<Run>,
    /// What the log told last, and when.
    told: (Vec<String>, Option<Duration>),
    /// When it tells the next.
    report_at: Option<Duration>,
}

/// Messages of one kind that a peer sends, and that are refused one after the other.
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
    /// One of each peer, by ascending id. A transport that refuses a peer lets through nothing that
    /// could be refused here.
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

    /// What is shown may have changed: the log is to tell so.
    pub(super) fn plan(&mut self, now: Duration) {
        let (told, told_at) = &self.told;
        if grouped(&self.shown()) != *told {
            let due = (now + GATHERED_FOR)
                .max(told_at.map_or(Duration::ZERO, |told_at| told_at + TOLD_EVERY));
            self.report_at = Some(self.report_at.map_or(due, |report_at| report_at.min(due)));
        }
    }

    /// What the log is to tell by now: what is new, or all of it if nothing is. `Some` of nothing:
    /// what was told is over.
    pub(super) fn due(&mut self, now: Duration) -> Option<Vec<String>> {
        self.report_at.take_if(|report_at| *report_at <= now)?;
        let lines = grouped(&self.shown());
        self.report_at = (!lines.is_empty()).then(|| now + REPEATED_EVERY);
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
    pub(super) fn take(&mut self, peer: NodeId, kind: Kind) -> bool {
        // Batches that go behind the refused ones are taken, too, but not appended.
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
            "this node takes no {} of node {}: {}; let both run the same version, and look for what changes messages on their way",
            self.kind.name, self.peer, self.reason
        )
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// What the log is told at each second, of peers that refuse this node from one second to
    /// before another.
    fn told(refusals: &[(u64, std::ops::Range<u64>)], seconds: u64) -> Vec<(u64, Vec<String>)> {
        let (mut refusing, mut told) = (RefusedPeers::default(), Vec::new());
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
