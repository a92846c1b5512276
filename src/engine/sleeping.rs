//! Idle groups sleep: their nodes have no timers, and send nothing. A host may have thousands of
//! groups, and most are idle at any moment.
//!
//! ```text
//!             nothing to do for `sleep_after`        all members that are up have answered,
//!             and every member is level              and they are a quorum
//!   awake  ----------------------------------> asking ----------------------------------> asleep
//!     ^                                          |                                          |
//!     +------------------------------------------+------------------------------------------+
//!          something to do, a message of the group, a peer is down or up; asking: no answer
//! ```
//!
//! A leader begins, and asks all members that are up: [`SleepKind::Sleep`]. A follower sleeps and
//! answers [`SleepKind::Asleep`] if it is exactly where its leader says. Of a sleeping group these
//! hold:
//!
//! 1. **Nothing is owed.** Every batch is committed, and durable on all members but those that were
//!    down. Each member that sleeps knows that.
//! 2. **The leader's process stands for the leader.** The transport watches the processes, for all
//!    groups at once. When the process of its leader is no longer heard, a follower wakes, forgets
//!    the leader and campaigns. It votes for others meanwhile: a sleeping node has no lease that
//!    could end.
//! 3. **Nobody is forgotten.** The members that were down are a minority. When one of them is heard
//!    again, the leader wakes and sends heartbeats. It wakes too when it hears no quorum any more.
//! 4. **Any message wakes**, whoever sends it. A vote request does, so that no candidate waits for
//!    a sleeper; a heartbeat of a new leader does. Exceptions are those that say nothing new: the
//!    messages of this protocol, and at the leader the late responses to what it sent before.
//! 5. **No time passes.** A node that wakes goes on from that moment. A follower waits for a full
//!    election timeout; a leader counts the members that are up as heard just now, and nothing that
//!    it knew before counts as a lease.
//!
//! What can be lost: a request or an answer (the leader gives up, and wakes those that sleep by a
//! heartbeat), or a heartbeat that should have woken a follower (the leader is awake, and sends the
//! next). Events of the transport are not lost: they come from the same process.

use std::time::Duration;

use super::Engine;
use super::sleep_state::Stage;
use crate::entry::NodeId;
use crate::message::{SleepKind, SleepMessage};
use crate::role::Role;
use crate::transport::TransportEvent;

impl Engine {
    pub(super) fn is_asleep(&self) -> bool {
        self.sleep.is_asleep() && self.fault.is_none() && !self.stopped
    }

    /// Something has happened in the group: it is not idle.
    pub(super) fn disturb(&mut self) {
        self.sleep.asked = None;
        self.wake();
        (self.sleep.idle_since, self.sleep.failed) = (self.now.elapsed, 0);
    }

    /// An event of the transport disturbs, unless it says nothing new.
    pub(super) fn disturb_by(&mut self, event: &TransportEvent) {
        let TransportEvent::Message(message) = event else { return };
        if self.settings.sleep_after.is_none() {
            return;
        }
        let leads = self.replica.leader_last_index().is_some();
        let is_late = leads && message.is_plain_response(self.replica.role_state().term);
        let is_known = self.replica.membership().contains(message.from());
        if is_known && !is_late && message.sleep_message().is_none() {
            self.disturb();
        }
    }

    pub(super) fn handle_sleep(&mut self, message: SleepMessage) {
        let me = self.settings.replica.node;
        let is_known = self.replica.membership().contains(message.from);
        if message.to != me || message.from == me || !is_known {
            return;
        }
        match message.sleep_kind {
            SleepKind::Sleep => self.sleep.asked = Some(message),
            SleepKind::Asleep => self.sleep.note_asleep(&message),
        }
    }

    /// The process of a peer is no longer heard.
    pub(super) fn handle_peer_down(&mut self, peer: NodeId) {
        if !self.replica.membership().contains(peer) {
            return;
        }
        self.sleep.set_down(peer);
        if self.settings.sleep_after.is_none() || !self.is_active() {
            return;
        }
        if self.replica.follows(peer) {
            self.disturb();
            self.replica.forget_leader();
        } else if self.is_leading() && !self.sleep.hears_quorum(self.replica.membership()) {
            self.disturb();
        }
        self.refresh_members();
    }

    /// The process of a peer is heard again, or another process of it, which leads nothing.
    pub(super) fn handle_peer_up(&mut self, peer: NodeId) {
        if !self.replica.membership().contains(peer) {
            return;
        }
        let is_another = self.sleep.is_up(peer);
        self.sleep.set_up(peer);
        if self.settings.sleep_after.is_none() || !self.is_active() {
            return;
        }
        if self.is_leading() {
            // While the group is awake, it need not be idle for longer: the peer is asked, too.
            if !matches!(self.sleep.stage, Stage::Awake) {
                self.disturb();
            }
        } else if (is_another || self.is_asleep()) && self.replica.follows(peer) {
            self.disturb();
            self.replica.forget_leader();
        }
        self.refresh_members();
    }

    /// What a status shows of the members is looked at once a tick, and a sleeper has none.
    fn refresh_members(&mut self) {
        if self.is_asleep() {
            self.tick_members();
        }
    }

    fn is_leading(&self) -> bool {
        self.replica.role_state().role == Role::Leader
    }

    /// Wakes a node that has something to do.
    pub(super) fn wake_for_work(&mut self) {
        if !matches!(self.sleep.stage, Stage::Awake) && self.has_work() {
            self.disturb();
        }
    }

    fn wake(&mut self) {
        match std::mem::take(&mut self.sleep.stage) {
            Stage::Awake => {}
            // Those that sleep already are woken.
            Stage::Asking(_) => self.replica.ping(),
            Stage::Asleep => {
                self.next_tick = self.now.elapsed + self.settings.tick;
                let sleep = &self.sleep;
                self.replica.wake(|node| sleep.is_up(node));
                self.show_sleep();
            }
        }
    }

    fn fall_asleep(&mut self) {
        if !self.refused_peers.has_lasting() {
            self.refused_peers.hurry(self.now.elapsed);
            self.tick_refusals();
        }
        self.sleep.failed = 0;
        self.sleep.stage = Stage::Asleep;
        self.look_at_retention_soon();
        self.show_sleep();
    }

    fn show_sleep(&self) {
        let asleep = self.is_asleep();
        self.shared.status.change(|status| status.asleep = asleep);
    }

    /// Whether there is anything to do, to wait for or to report.
    fn has_work(&self) -> bool {
        let has_request = !self.in_flight.is_empty()
            || !self.barriers.is_empty()
            || !self.purges.is_empty()
            || !self.transfers.is_empty()
            || self.stopping.is_some()
            || !self.state_requests.is_empty()
            || !self.deferred_fetches.is_empty()
            || self.permit.awaited_until().is_some();
        let lacks_room = self.is_paused
            || self.overload_sync.is_some()
            || self.disk_full_reason.is_some()
            || !self.deferred_peer_ids.is_empty();
        let is_whole = self.is_active() && self.identity.complete && !self.loss.is_unrecorded;
        has_request
            || lacks_room
            || !is_whole
            // A follower keeps that note for the time when it leads.
            || self.must_reindex && self.is_leading()
            || self.refused_peers.has_news()
    }

    /// Whether everything written is durable. If not, that is seen to.
    fn is_synced(&mut self) -> bool {
        if self.dirty {
            self.begin_sync(0);
        }
        self.sleep.synced == self.syncs
    }

    /// A tick of a node that is awake. It comes after the effects: a heartbeat of this turn must
    /// not follow a request to sleep.
    fn tick_sleep(&mut self) {
        match &self.sleep.stage {
            Stage::Asking(round) if self.now.elapsed >= round.until => {
                self.give_up();
                self.carry_out_effects();
            }
            Stage::Asking(_) => self.ask_members(),
            Stage::Awake => self.try_to_sleep(),
            Stage::Asleep => {}
        }
    }

    /// Not all members have answered: one of them lacked something, as a rule. They are asked again
    /// after an election timeout, then twice that, up to the time that an idle group waits.
    fn give_up(&mut self) {
        let (failed, idle_since) = (self.sleep.failed, self.sleep.idle_since);
        self.disturb();
        let (idle, pause) = (self.sleep_after(), self.election_timeout() * (1 << failed.min(16)));
        let since = (self.now.elapsed + pause).saturating_sub(idle);
        self.sleep.idle_since = since.clamp(idle_since, self.now.elapsed);
        self.sleep.failed = failed + 1;
    }

    fn election_timeout(&self) -> Duration {
        self.settings.tick * self.settings.replica.election_ticks as u32
    }

    /// How long a group is idle before it sleeps. At least an election timeout: while it asks, a
    /// leader does not check its quorum.
    fn sleep_after(&self) -> Duration {
        self.settings.sleep_after.unwrap_or(Duration::MAX).max(self.election_timeout())
    }

    /// Asks the members of an idle group to sleep.
    fn try_to_sleep(&mut self) {
        if self.settings.sleep_after.is_none() {
            return;
        }
        let (now, ticks) = (self.now.elapsed, self.settings.replica.election_ticks as u32);
        if !self.is_leading() || self.has_work() {
            self.sleep.idle_since = now;
            return;
        }
        if now < self.sleep.idle_since + self.sleep_after()
            || !self.sleep.hears_quorum(self.replica.membership())
        {
            return;
        }
        let sleep = &self.sleep;
        let Some(point) = self.replica.sleep_point_of_leader(|node| sleep.is_up(node)) else {
            return;
        };
        if self.is_synced() {
            // Heartbeats pause for no longer than followers wait for them without a doubt.
            self.sleep.ask(point, now + self.settings.tick * (ticks / 2));
            self.ask_members();
        }
    }

    /// Asks those that have not answered.
    fn ask_members(&mut self) {
        let Stage::Asking(round) = &self.sleep.stage else { return };
        let (from, sleep_kind) = (self.settings.replica.node, SleepKind::Sleep);
        let (round, point) = (round.number, round.point);
        for to in self.sleep.awaited(from, self.replica.membership()) {
            self.send_message(SleepMessage { from, to, sleep_kind, round, point }.into());
        }
    }

    /// The end of a turn, when its effects are carried out: a follower answers, a leader decides.
    pub(super) fn end_turn_of_sleep(&mut self) {
        if std::mem::take(&mut self.sleep.has_ticked) {
            self.tick_sleep();
        }
        if let Some(asked) = self.sleep.asked.take() {
            self.answer(&asked);
        }
        let me = self.settings.replica.node;
        if self.sleep.is_agreed(me, self.replica.membership()) && self.is_still_level() {
            self.fall_asleep();
        }
        // A sleeper has no time at which it could sync what it notes.
        if self.is_asleep() && self.dirty {
            self.begin_sync(0);
        }
    }

    fn is_still_level(&self) -> bool {
        let Stage::Asking(round) = &self.sleep.stage else { return false };
        let point = self.replica.sleep_point_of_leader(|node| self.sleep.is_up(node));
        point == Some(round.point) && !self.has_work()
    }

    /// A leader asks this node to sleep. No answer is a refusal.
    fn answer(&mut self, asked: &SleepMessage) {
        let SleepMessage { from, to, round, point, .. } = *asked;
        let is_level =
            self.is_active() && self.replica.sleep_point_of_follower(from) == Some(point);
        if self.settings.sleep_after.is_none()
            || !is_level
            || !self.sleep.is_up(from)
            || self.has_work()
        {
            return self.disturb();
        }
        if !self.is_synced() {
            return; // the leader asks again
        }
        if !self.is_asleep() {
            self.fall_asleep();
        }
        let sleep_kind = SleepKind::Asleep;
        self.send_message(SleepMessage { from: to, to: from, sleep_kind, round, point }.into());
    }
}
