//! What this node knows of the other members, and shows in its status: when they were heard of,
//! whether they are reached, what they advertise, and on the leader how far they have come.
//!
//! All of it is looked at once a tick. What comes in between leaves no more than a time. What moves
//! all the time (when a member was heard, what it has) goes to a board that a status is filled in
//! from, and wakes nobody. The rest is a change of the status: it is kept steady, so that a group
//! at work does not wake who watches it.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::lagging::{Lag, News};
use crate::entry::NodeId;
use crate::members::{MemberLog, MemberNumbers};
use crate::replica::Follower;
use crate::role::{Member, Membership, Progress, Role};
use crate::transport::Arrival;

/// A member that is heard is reached if nothing that was sent to it was lost for so long: longer
/// than a transport takes from one attempt to connect to the next.
const WHOLE_AFTER: Duration = Duration::from_secs(2);

/// Commits that are remembered, and how many of them pass in an election timeout.
const COMMITS: usize = 3;
const COMMITS_PER_TIMEOUT: usize = 2;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Contacts {
    others: Vec<Contact>,
    /// What was committed at the last beginnings of half an election timeout, newest first.
    commits: [u64; COMMITS],
    ticks: usize,
}

/// What is known of one other member.
struct Contact {
    id: NodeId,
    /// When a message of it arrived last, or it was met.
    heard: Option<Duration>,
    /// When something that was sent to it was lost last, or its connection. Forgotten when another
    /// connection is made.
    lost: Option<Duration>,
    advertised: Option<Arc<str>>,
    log: Option<MemberLog>,
    /// While this node leads.
    lag: Lag,
    reached: Option<bool>,
    progress: Option<Progress>,
}

impl Contact {
    fn new(id: NodeId) -> Contact {
        Contact { id, heard: None, lost: None, advertised: None, log: None, lag: Lag::default(), reached: None, progress: None }
    }

    /// Whether messages get there, as far as is known.
    fn is_reached(&self) -> Option<bool> {
        match (self.lost, self.heard) {
            (None, None) => None,
            (None, Some(_)) => Some(true),
            // It may be heard where it is not reached: each way has a connection of its own.
            (Some(lost), heard) => Some(heard > Some(lost + WHOLE_AFTER)),
        }
    }

    /// How far it has come, as it was measured last.
    fn progress(&self, is_moved: bool) -> Option<Progress> {
        match (self.reached, is_moved) {
            (Some(false), _) => None,
            (_, true) => Some(Progress::MovedForward),
            _ if self.log.is_none() => None,
            _ if self.lag.is_behind() => Some(Progress::CatchingUp),
            _ => Some(Progress::InStep),
        }
    }

    /// What is to be told of it as a follower, which is known now to have this.
    fn follow(&mut self, follower: &Follower, commits: &[u64; COMMITS], now: Duration) -> [Option<News>; 2] {
        let [_, younger, older] = *commits;
        let has = follower.log.map_or(0, |log| log.confirmed);
        self.log = follower.log;
        self.lag.measure(has, younger, older);
        [self.lag.note_move(follower.is_moved, now), self.lag.news(has, now)]
    }
}

impl Contacts {
    fn find(&mut self, id: NodeId) -> Option<&mut Contact> {
        self.others.iter_mut().find(|contact| contact.id == id)
    }

    fn advertised(&self, id: NodeId) -> Option<Arc<str>> {
        self.others.iter().find(|contact| contact.id == id)?.advertised.clone()
    }

    /// Remembers how far the ledger is committed, twice in an election timeout. Returns what a
    /// follower has that is in step.
    fn note_commit(&mut self, commit: u64, election_ticks: usize) -> u64 {
        if self.ticks == 0 {
            let [newest, younger, _] = self.commits;
            self.commits = [commit, newest, younger];
        }
        self.ticks = (self.ticks + 1) % election_ticks.div_ceil(COMMITS_PER_TIMEOUT).max(1);
        self.commits[1]
    }

    /// Puts what is known of the others into the status.
    fn show(&self, members: &mut [Member]) {
        for contact in &self.others {
            if let Some(member) = members.iter_mut().find(|member| member.id == contact.id) {
                member.advertised.clone_from(&contact.advertised);
                (member.reached, member.progress) = (contact.reached, contact.progress);
            }
        }
    }
}

impl Engine {
    /// Takes what an arrival tells of a member.
    pub(super) fn note_contact(&mut self, arrival: &Arrival) {
        let now = Some(self.now.elapsed);
        match arrival {
            Arrival::Message(message) => {
                if let Some(contact) = self.contact(message.from()) {
                    contact.heard = now;
                }
            }
            Arrival::Met { peer, .. } => {
                if let Some(contact) = self.contact(*peer) {
                    (contact.heard, contact.lost) = (now, None);
                }
            }
            Arrival::Unreachable(peer) => {
                if let Some(contact) = self.contact(*peer) {
                    contact.lost = now;
                }
            }
            Arrival::Advertised { peer, text } => self.set_advertised(*peer, text),
            Arrival::Refused { .. } | Arrival::Accepted(_) | Arrival::Outlived(_) => {}
        }
    }

    /// What is known of a member. Of others nothing is remembered: there may be any number of them.
    fn contact(&mut self, id: NodeId) -> Option<&mut Contact> {
        let is_known = self.contacts.others.iter().any(|contact| contact.id == id);
        if !is_known {
            let is_other = id != self.settings.replica.node && self.replica.membership().contains(id);
            self.contacts.others.extend(is_other.then(|| Contact::new(id)));
        }
        self.contacts.find(id)
    }

    /// Also a member that was never heard of may lag.
    fn know_members(&mut self) {
        let Membership { voters, learners } = self.replica.membership();
        if self.contacts.others.len() + 1 >= voters.len() + learners.len() {
            return;
        }
        let members: Vec<NodeId> = voters.iter().chain(learners).copied().collect();
        for id in members {
            self.contact(id);
        }
    }

    fn set_advertised(&mut self, peer: NodeId, text: &Arc<str>) {
        let text = Some(text).filter(|text| !text.is_empty());
        let Some(contact) = self.contact(peer) else { return };
        if contact.advertised.as_ref() == text {
            return;
        }
        contact.advertised = text.cloned();
        self.show_members();
        if self.replica.standing().leader == Some(peer) {
            self.refuse_appends_anew();
        }
    }

    /// What clients are told to find `node` by.
    pub(super) fn advertised(&self, node: NodeId) -> Option<Arc<str>> {
        self.contacts.advertised(node)
    }

    /// Looks at what is known of the others. Called once a tick.
    pub(super) fn tick_members(&mut self) {
        self.know_members();
        if self.contacts.others.is_empty() {
            return;
        }
        let leads = self.is_at_work() && self.replica.standing().role == Role::Leader;
        let in_step = self.contacts.note_commit(self.replica.commit(), self.settings.replica.election_ticks);
        let Contacts { others, commits, .. } = &mut self.contacts;
        let (now, mut is_changed, mut news) = (self.now.elapsed, false, Vec::new());
        for contact in &mut *others {
            contact.log = None;
            let reached = contact.is_reached();
            is_changed |= reached != contact.reached || !leads && contact.progress.is_some();
            contact.reached = reached;
            contact.progress = contact.progress.filter(|_| leads);
            if !leads {
                contact.lag = Lag::default();
            }
        }
        if leads {
            self.replica.each_follower(in_step, |follower| {
                let Some(contact) = others.iter_mut().find(|contact| contact.id == follower.id) else { return };
                let told = contact.follow(&follower, commits, now).into_iter().flatten();
                let has = follower.log.map_or(0, |log| log.confirmed);
                news.extend(told.map(|news| (follower.id, news, has)));
                let progress = contact.progress(follower.is_moved);
                is_changed |= progress != contact.progress;
                contact.progress = progress;
            });
        }
        news.into_iter().for_each(|(id, news, has)| self.tell_follower(id, news, has));
        self.note_numbers();
        if is_changed {
            self.show_members();
        }
    }

    /// Lets a status show when the others were heard, and what they have.
    fn note_numbers(&self) {
        let others = self.contacts.others.iter();
        let numbers = others.map(|contact| MemberNumbers { id: contact.id, heard: contact.heard, log: contact.log });
        self.shared.members.note(self.now.elapsed, numbers);
    }

    fn show_members(&mut self) {
        self.shared.status.change(|status| self.contacts.show(&mut status.members));
    }

    /// All members, and what is known of them when role, term or leader change. A node that takes
    /// no part knows nothing of the others any more, but what
    /// they advertise; one that does not lead, nothing of their logs.
    pub(super) fn shown_members(&mut self) -> Vec<Member> {
        let takes_part = self.fault.is_none() && !self.stopped;
        let leads = takes_part && self.is_at_work() && self.replica.standing().role == Role::Leader;
        for contact in &mut self.contacts.others {
            contact.reached = contact.reached.filter(|_| takes_part);
            contact.progress = contact.progress.filter(|_| leads);
            contact.log = contact.log.filter(|_| leads);
        }
        match takes_part {
            true => self.note_numbers(),
            false => self.shared.members.clear(),
        }
        let mut members = self.shared.members_of(self.replica.membership(), &self.settings.addresses);
        self.contacts.show(&mut members);
        members
    }
}
