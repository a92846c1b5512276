//! What this node knows of the other members.

use std::sync::Arc;
use std::time::Duration;

use super::lagging::{Lag, News};
use crate::entry::NodeId;
use crate::members::MemberLog;
use crate::replica::Follower;
use crate::role::{Member, Progress};

/// A member that is heard is reached if nothing that was sent to it was lost for so long: longer
/// than a transport takes from one attempt to connect to the next.
const WHOLE_AFTER: Duration = Duration::from_secs(2);

/// Commits that are remembered, and how many of them pass in an election timeout.
const COMMITS: usize = 3;
const COMMITS_PER_TIMEOUT: usize = 2;

/// The other members, and how far the log was committed lately.
#[derive(Default)]
pub(super) struct Contacts {
    pub(super) others: Vec<Contact>,
    /// What was committed at the last beginnings of half an election timeout, newest first.
    pub(super) commits: [u64; COMMITS],
    ticks: usize,
}

/// What is known of one other member.
pub(super) struct Contact {
    pub(super) id: NodeId,
    /// When a message of it arrived last, or it was met.
    pub(super) heard: Option<Duration>,
    /// When something that was sent to it was lost last, or its connection. Forgotten when another
    /// connection is made.
    pub(super) lost: Option<Duration>,
    pub(super) advertised: Option<Arc<str>>,
    pub(super) log: Option<MemberLog>,
    /// While this node leads.
    pub(super) lag: Lag,
    pub(super) reached: Option<bool>,
    pub(super) progress: Option<Progress>,
}

impl Contact {
    pub(super) fn new(id: NodeId) -> Contact {
        Contact {
            id,
            heard: None,
            lost: None,
            advertised: None,
            log: None,
            lag: Lag::default(),
            reached: None,
            progress: None,
        }
    }

    /// Whether messages get there, as far as is known.
    pub(super) fn is_reached(&self) -> Option<bool> {
        match (self.lost, self.heard) {
            (None, None) => None,
            (None, Some(_)) => Some(true),
            // It may be heard where it is not reached: each way has a connection of its own.
            (Some(lost), heard) => Some(heard > Some(lost + WHOLE_AFTER)),
        }
    }

    /// How far it has come, as it was measured last.
    pub(super) fn progress(&self, is_moved: bool) -> Option<Progress> {
        match (self.reached, is_moved) {
            (Some(false), _) => None,
            (_, true) => Some(Progress::MovedForward),
            _ if self.log.is_none() => None,
            _ if self.lag.is_behind() => Some(Progress::CatchingUp),
            _ => Some(Progress::InStep),
        }
    }

    /// Takes what this leader knows of it as a follower. Returns what is to be reported of that.
    pub(super) fn follow(
        &mut self,
        follower: &Follower,
        commits: &[u64; COMMITS],
        now: Duration,
    ) -> [Option<News>; 2] {
        let [_, younger, older] = *commits;
        let has = follower.log.map_or(0, |log| log.confirmed);
        self.log = follower.log;
        self.lag.measure(has, younger, older);
        [self.lag.note_move(follower.is_moved, now), self.lag.news(has, now)]
    }
}

impl Contacts {
    pub(super) fn find(&mut self, id: NodeId) -> Option<&mut Contact> {
        self.others.iter_mut().find(|contact| contact.id == id)
    }

    pub(super) fn advertised(&self, id: NodeId) -> Option<Arc<str>> {
        self.others.iter().find(|contact| contact.id == id)?.advertised.clone()
    }

    /// Remembers how far the ledger is committed, twice in an election timeout. Returns what a
    /// follower has that is in step.
    pub(super) fn note_commit(&mut self, commit: u64, election_ticks: usize) -> u64 {
        if self.ticks == 0 {
            let [newest, younger, _] = self.commits;
            self.commits = [commit, newest, younger];
        }
        self.ticks = (self.ticks + 1) % election_ticks.div_ceil(COMMITS_PER_TIMEOUT).max(1);
        self.commits[1]
    }

    /// Puts what is known of the others into the status.
    pub(super) fn show(&self, members: &mut [Member]) {
        for contact in &self.others {
            if let Some(member) = members.iter_mut().find(|member| member.id == contact.id) {
                member.advertised.clone_from(&contact.advertised);
                (member.reached, member.progress) = (contact.reached, contact.progress);
            }
        }
    }
}
