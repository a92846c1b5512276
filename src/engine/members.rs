//! What this node knows of the other members, and shows in its status: when they were heard of,
//! whether they are reached, what they advertise, and on the leader how far they have come.
//!
//! All of it is looked at once a tick. What comes in between leaves no more than a time. What moves
//! all the time (when a member was heard, what it has) goes to a board that a status is filled in
//! from, and wakes nobody. The rest is a change of the status: it is kept steady, so that a group
//! at work does not wake who watches it.

use std::sync::Arc;

use super::Engine;
use super::contacts::{Contact, Contacts};
use super::lagging::Lag;
use crate::entry::NodeId;
use crate::members::MemberNumbers;
use crate::role::{Member, Membership, Role};
use crate::transport::TransportEvent;

impl Engine {
    /// Takes what an event tells of a member.
    pub(super) fn note_contact(&mut self, event: &TransportEvent) {
        let now = Some(self.now.elapsed);
        match event {
            TransportEvent::Message(message) => {
                if let Some(contact) = self.contact(message.from()) {
                    contact.heard = now;
                }
            }
            TransportEvent::PeerIdentified { peer, .. } => {
                if let Some(contact) = self.contact(*peer) {
                    (contact.heard, contact.lost) = (now, None);
                }
            }
            TransportEvent::Unreachable(peer) => {
                if let Some(contact) = self.contact(*peer) {
                    contact.lost = now;
                }
            }
            TransportEvent::Advertised { peer, text } => self.set_advertised(*peer, text),
            TransportEvent::Refused { .. }
            | TransportEvent::Accepted(_)
            | TransportEvent::OutdatedDirectory(_)
            | TransportEvent::PeerDown(_)
            | TransportEvent::PeerUp(_) => {}
        }
    }

    /// What is known of a member. Of others nothing is remembered: there may be any number of them.
    fn contact(&mut self, id: NodeId) -> Option<&mut Contact> {
        let is_known = self.contacts.others.iter().any(|contact| contact.id == id);
        if !is_known {
            let is_other =
                id != self.settings.replica.node && self.replica.membership().contains(id);
            self.contacts.others.extend(is_other.then(|| Contact::new(id)));
        }
        self.contacts.find(id)
    }

    /// Adds the members that were never heard of: they may lag too.
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
        if self.replica.role_state().leader == Some(peer) {
            self.refuse_appends_anew();
        }
    }

    /// The text by which clients find `node`.
    pub(super) fn advertised(&self, node: NodeId) -> Option<Arc<str>> {
        self.contacts.advertised(node)
    }

    /// Looks at what is known of the others. Called once a tick.
    pub(super) fn tick_members(&mut self) {
        self.know_members();
        if self.contacts.others.is_empty() {
            return;
        }
        let leads = self.is_active() && self.replica.role_state().role == Role::Leader;
        let in_step =
            self.contacts.note_commit(self.replica.commit(), self.settings.replica.election_ticks);
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
                let Some(contact) = others.iter_mut().find(|contact| contact.id == follower.id)
                else {
                    return;
                };
                let reported = contact.follow(&follower, commits, now).into_iter().flatten();
                let has = follower.log.map_or(0, |log| log.confirmed);
                news.extend(reported.map(|news| (follower.id, news, has)));
                let progress = contact.progress(follower.is_moved);
                is_changed |= progress != contact.progress;
                contact.progress = progress;
            });
        }
        news.into_iter().for_each(|(id, news, has)| self.report_follower(id, news, has));
        self.note_numbers();
        if is_changed {
            self.show_members();
        }
    }

    /// Lets a status show when the others were heard, and what they have.
    fn note_numbers(&self) {
        let others = self.contacts.others.iter();
        let numbers = others.map(|contact| MemberNumbers {
            id: contact.id,
            heard: contact.heard,
            log: contact.log,
        });
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
        let leads =
            takes_part && self.is_active() && self.replica.role_state().role == Role::Leader;
        for contact in &mut self.contacts.others {
            contact.reached = contact.reached.filter(|_| takes_part);
            contact.progress = contact.progress.filter(|_| leads);
            contact.log = contact.log.filter(|_| leads);
        }
        match takes_part {
            true => self.note_numbers(),
            false => self.shared.members.clear(),
        }
        let mut members =
            self.shared.members_of(self.replica.membership(), &self.settings.addresses);
        self.contacts.show(&mut members);
        members
    }
}
