//! Groups at hosts: opened, closed, removed and made anew, and what comes of their turns.

use std::sync::Arc;

use super::disk::Removal;
use super::event::HostEvent;
use super::host::{HostProcess, Joined, node_id};
use super::{Gone, Hosts};
use crate::message::Message;
use crate::sim::event::CrashKind;
use crate::sim::hosted::Ended;
use crate::transport::tcp::LocalGroup;
use crate::transport::{Inbox, TransportContext, TransportEvent};

impl Hosts {
    /// Does what the last events of a group ask for.
    pub(super) fn settle(&mut self, group: usize) {
        loop {
            let outcome = self.groups[group].cluster.take_outcome();
            let is_over =
                outcome.sent.is_empty() && outcome.exits.is_empty() && outcome.triggers.is_empty();
            for (node, message) in outcome.sent {
                self.send(group, node, message);
            }
            for (node, kind, ended) in outcome.exits {
                match ended {
                    Ended::Process => self.crash(node, kind),
                    Ended::Group => self.closed(group, node),
                }
            }
            for (trigger, node) in outcome.triggers {
                self.aim_fault(trigger, node);
            }
            if is_over {
                break;
            }
        }
        for host in 0..self.hosts.len() {
            self.follow(group, host);
        }
        let violation = self.groups[group].cluster.monitor().violation().cloned();
        if let Some(violation) = violation {
            self.violated(format!("group {}: {violation}", group + 1));
        }
    }

    /// The transport of a group learns what its engine has told it.
    fn follow(&mut self, group: usize, host: usize) {
        let node = &self.groups[group].cluster.nodes[host];
        let Some(process) = &node.process else { return };
        let Some(joined) = self.hosts[host].process.as_ref().and_then(|it| it.joined(group)) else {
            return;
        };
        let (local, has_left) = (joined.local.clone(), process.has_left());
        if has_left {
            return self.leave(group, host);
        }
        let (identity, uid) = (process.identity(), process.group_uid());
        let is_named = uid != joined.group_uid && local.registry.lock().set_group_uid(uid);
        if let Some(joined) = self.joined_mut(group, host) {
            joined.group_uid = uid;
        }
        if is_named {
            self.coverage.hit("slots that ended with the id of the group");
        }
        if local.registry.lock().introduce(identity) || is_named {
            let now = self.instant(self.queue.now);
            self.each_sender(host, |sender| sender.queue.introduce_again(local.number, now));
            self.give_up_slots(host, local.number);
        }
    }

    fn joined_mut(&mut self, group: usize, host: usize) -> Option<&mut Joined> {
        let process = self.hosts[host].process.as_mut()?;
        process.groups.iter_mut().find(|joined| joined.group == group)
    }

    /// Queues a message of a group.
    fn send(&mut self, group: usize, host: usize, message: Message) {
        let (now, time) = (self.instant(self.queue.now), self.queue.now);
        let peer = message.to().get() as usize - 1;
        let hash = hash_of(&message);
        *self.groups[group].sent.entry((host, hash)).or_default() += 1;
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(local) = process.joined(group).map(|joined| joined.local.clone()) else { return };
        let Some(sender) = process.senders.get_mut(&peer) else { return };
        let (queue, len) = (&mut sender.queue, message.encoded_len());
        if !queue.has_room(local.number, message.is_urgent(), len) {
            self.coverage.hit("messages that found a queue full");
            return local.inbox.unreachable(node_id(peer));
        }
        let slot = queue.accepted(local.number).map(|(slot, _)| slot);
        match (slot, queue.gathers(&message)) {
            (Some(slot), Some(beat)) => {
                queue.put_beat(slot, beat, now);
                self.coverage.hit("beats gathered");
            }
            (slot, _) => {
                slot.map(|slot| queue.hurry_beats(slot, now));
                queue.put(local.number, message, len);
            }
        }
        self.wake_writer(host, peer, time);
    }

    /// A group is opened at a host. One that is not there yet is created.
    pub(super) fn open(&mut self, group: usize, generation: u64, host: usize) {
        let it = &self.groups[group];
        if it.generation != generation || self.is_gone(group, host) {
            return;
        }
        if self.hosts[host].paused_until > self.queue.now {
            let event = HostEvent::Open { group, generation, host };
            return self.queue.put(self.hosts[host].paused_until, event);
        }
        let is_up = self.hosts[host].process.is_some();
        if self.hosts[host].disk.generation(group).is_none() {
            if !is_up {
                let event = HostEvent::Open { group, generation, host };
                return self.queue.put_in(self.config.base.heartbeat, event);
            }
            self.hosts[host].disk.create(group, generation);
            self.coverage.hit("groups created at a host");
        }
        // A host that starts opens all groups that it has.
        if is_up && self.groups[group].cluster.nodes[host].process.is_none() {
            self.open_now(group, host);
        }
    }

    fn is_gone(&self, group: usize, host: usize) -> bool {
        let removal = &self.groups[group].removal;
        removal.as_ref().is_some_and(|gone| gone[host].is_certain)
    }

    pub(super) fn open_now(&mut self, group: usize, host: usize) {
        let now = self.queue.now;
        let cluster = &mut self.groups[group].cluster;
        cluster.pass_to(now);
        cluster.open(host);
        cluster.nodes[host].paused_until = self.hosts[host].paused_until;
        self.join(group, host);
        self.settle(group);
    }

    /// An open group joins the port of its host.
    fn join(&mut self, group: usize, host: usize) {
        let nonce = self.rng.next();
        let cluster = &self.groups[group].cluster;
        let node = &cluster.nodes[host];
        let (Some(process), Some(directory)) = (&node.process, node.directory()) else { return };
        let generation = self.groups[group].generation;
        self.directories.insert(directory, (group, generation));
        let (down, inner) = (process.down.clone(), process.inbox.clone());
        let inbox = Inbox::new(move |event| {
            match &event {
                TransportEvent::PeerDown(peer) => drop(down.lock().insert(*peer)),
                TransportEvent::PeerUp(peer) => drop(down.lock().remove(peer)),
                _ => {}
            }
            inner.put(event)
        });
        let group_uid = process.group_uid();
        let removed = self.hosts[host].disk.removed();
        let context = TransportContext { inbox, removed, ..process.context.clone() };
        self.hosts[host].disk.set_directory(group, directory);
        let Some(process) = &mut self.hosts[host].process else { return };
        process.opened += 1;
        let local = Arc::new(LocalGroup::new(process.opened, &context, nonce));
        process.groups.push(Joined {
            group,
            generation,
            local: local.clone(),
            group_uid,
            refused: Default::default(),
            newest: Default::default(),
        });
        let id = process.id;
        let now = self.instant(self.queue.now);
        self.each_sender(host, |sender| sender.queue.join(&local, now));
        let numbers = [40, host as u64, group as u64, generation];
        self.note(&numbers, || {
            format!("host {}, process {id}: opens group {}.{generation}", host + 1, group + 1)
        });
        self.wake_group(group, host);
    }

    /// The transport of a group has stopped.
    fn leave(&mut self, group: usize, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(place) = process.groups.iter().position(|joined| joined.group == group) else {
            return;
        };
        let local = process.groups.remove(place).local;
        local.stop();
        self.coverage.hit("groups that left a running process");
        self.note(&[41, host as u64, group as u64], || {
            format!("host {}: group {} leaves", host + 1, group + 1)
        });
        self.give_up_slots(host, local.number);
        self.each_sender(host, |sender| sender.queue.leave(local.number));
    }

    /// A group was shut down at a host, which goes on: it is removed, or opened again.
    fn closed(&mut self, group: usize, host: usize) {
        self.leave(group, host);
        let generation = self.groups[group].generation;
        if self.groups[group].removal.is_some() {
            return self.queue.put_in(1, HostEvent::Remove { group, generation, host });
        }
        self.coverage.hit("groups closed at one host");
        let pause = if self.healed { 1 } else { self.rng.around(self.config.base.restart_mean) };
        self.queue.put_in(pause, HostEvent::Open { group, generation, host });
    }

    /// A group is to be removed at all hosts, at each at a time of its own.
    pub(super) fn begin_removal(&mut self, group: usize) {
        if self.groups[group].removal.is_some() {
            return;
        }
        self.coverage.hit("removals begun");
        self.groups[group].removal = Some(vec![Gone::default(); self.hosts.len()]);
        let generation = self.groups[group].generation;
        self.note(&[42, group as u64, generation], || {
            format!("group {}.{generation} is to be removed", group + 1)
        });
        for host in 0..self.hosts.len() {
            let pause = self.rng.around(self.config.base.outage_mean);
            self.queue.put_in(pause, HostEvent::Remove { group, generation, host });
        }
    }

    /// The next step of a removal at a host.
    pub(super) fn remove(&mut self, group: usize, generation: u64, host: usize) {
        let it = &self.groups[group];
        let gone = it.removal.as_ref().filter(|_| it.generation == generation);
        let Some(gone) = gone.map(|gone| gone[host]).filter(|gone| !gone.is_done) else { return };
        let event = HostEvent::Remove { group, generation, host };
        let now = self.queue.now;
        if self.hosts[host].process.is_none() || self.hosts[host].paused_until > now {
            return self.queue.put_in(self.config.base.heartbeat, event);
        }
        let cluster = &mut self.groups[group].cluster;
        cluster.pass_to(now);
        if cluster.nodes[host].process.is_some() {
            // It is called again when that is done. One that has failed is not driven any more.
            match cluster.nodes[host].process.as_ref().is_some_and(|it| it.fault.is_some()) {
                true => self.queue.put_in(self.config.base.heartbeat, event),
                false => cluster.stop(host),
            }
            return;
        }
        let uid = cluster.monitor().group_uids.announced(host);
        if self.hosts[host].disk.generation(group).is_none() && !gone.is_certain {
            // It was never created here.
            return self.set_gone(group, host, Removal::Done);
        }
        match self.hosts[host].disk.remove(group, uid) {
            Err(error) => self.violated(format!("A16: group {}: {error}", group + 1)),
            Ok(step) => {
                self.set_gone(group, host, step);
                let pause = self.rng.around(self.config.base.heartbeat / 4);
                self.queue.put_in(pause + 1, event);
            }
        }
    }

    pub(super) fn set_gone(&mut self, group: usize, host: usize, step: Removal) {
        let generation = self.groups[group].generation;
        let Some(gone) = &mut self.groups[group].removal else { return };
        gone[host].is_certain = true;
        gone[host].is_done |= step == Removal::Done;
        let is_over = gone.iter().all(|gone| gone.is_done);
        self.note(&[43, group as u64, host as u64], || {
            format!("host {}: group {}.{generation}: removal: {step:?}", host + 1, group + 1)
        });
        if is_over {
            self.make_anew(group);
        }
    }

    /// A group is gone at all hosts. Its history is checked, and another one of its name begins.
    fn make_anew(&mut self, group: usize) {
        self.groups[group].cluster.check_history();
        self.add_up(group);
        let generation = self.groups[group].generation + 1;
        self.coverage.hit("groups made anew");
        self.groups[group] = self.make_group(group, generation);
        for host in 0..self.hosts.len() {
            let pause = self.rng.around(self.config.base.restart_mean) + 1;
            self.queue.put_in(pause, HostEvent::Open { group, generation, host });
        }
        if self.healed {
            self.groups[group].cluster.calm_down();
            self.groups[group].cluster.expect_progress();
        }
    }

    /// A process of a host starts, with all groups that lie on its disk.
    pub(super) fn start(&mut self, host: usize) {
        if self.hosts[host].process.is_some() || self.violation.is_some() {
            return;
        }
        self.made += 1;
        let (id, hosts) = (self.made, self.hosts.len());
        self.note(&[44, host as u64, id], || format!("host {}: process {id} starts", host + 1));
        self.reset_stale(host);
        self.hosts[host].process = Some(HostProcess::new(id, host, hosts, self.config.backoff.0));
        match self.hosts[host].disk.open() {
            Ok(finished) => {
                for group in finished {
                    self.coverage.hit("removals finished at a start");
                    self.set_gone(group, host, Removal::Done);
                }
            }
            Err(error) => {
                return self.violated(format!("A16: host {} does not open: {error}", host + 1));
            }
        }
        self.check_removals(host);
        self.queue.put_in(1, HostEvent::Probe { host, process: id });
        for group in 0..self.groups.len() {
            let is_same = self.hosts[host].process.as_ref().is_some_and(|it| it.id == id);
            if is_same && self.hosts[host].disk.generation(group).is_some() {
                self.open_now(group, host);
            }
        }
    }

    /// A removal whose tombstone was durable is finished, and what was removed is not back.
    fn check_removals(&mut self, host: usize) {
        for group in 0..self.groups.len() {
            let (it, disk) = (&self.groups[group], &self.hosts[host].disk);
            let is_certain = it.removal.as_ref().is_some_and(|gone| gone[host].is_certain);
            let on_disk = disk.generation(group);
            let is_back = on_disk.is_some_and(|on_disk| on_disk != it.generation);
            if is_certain && on_disk.is_some() || is_back {
                let found = format!("generation {on_disk:?} of group {}", group + 1);
                self.violated(format!("A16: host {}: {found} was removed, and is back", host + 1));
            }
        }
    }

    /// The process of a host ends, with all its groups.
    pub(super) fn crash(&mut self, host: usize, kind: CrashKind) {
        let Some(process) = self.hosts[host].process.take() else { return };
        let is_power_cut = kind == CrashKind::PowerCut;
        self.coverage.hit(if is_power_cut { "hosts without power" } else { "hosts killed" });
        self.note(&[45, host as u64, kind as u64], || {
            format!("host {}: process {} ends: {kind:?}", host + 1, process.id)
        });
        process.groups.iter().for_each(|joined| joined.local.stop());
        for group in 0..self.groups.len() {
            let cluster = &mut self.groups[group].cluster;
            cluster.pass_to(self.queue.now);
            cluster.end_with_host(host, kind);
            // What it has sent in its last moment is lost with the process.
            cluster.take_outcome();
        }
        let mut rng = self.rng.clone();
        self.hosts[host].disk.end(is_power_cut, || rng.percent(50));
        self.rng = rng;
        self.abandon(host, process.id, is_power_cut);
        self.hosts[host].paused_until = 0;
        let outage = if self.healed { 1 } else { self.rng.around(self.config.base.restart_mean) };
        self.queue.put_in(outage, HostEvent::Restart(host));
    }

    /// A group has an input.
    pub(super) fn wake_group(&mut self, group: usize, host: usize) {
        let cluster = &mut self.groups[group].cluster;
        cluster.pass_to(self.queue.now);
        cluster.wake_engine(host);
    }

    /// All groups of a host may have an input.
    pub(super) fn wake_groups(&mut self, host: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        let groups: Vec<usize> = process.groups.iter().map(|joined| joined.group).collect();
        groups.into_iter().for_each(|group| self.wake_group(group, host));
    }
}

/// A hash over the bytes of a message.
pub(super) fn hash_of(message: &Message) -> u64 {
    let (mut hasher, mut len) = (crc32fast::Hasher::new(), 0);
    for part in message.encode() {
        hasher.update(&part);
        len += part.len() as u64;
    }
    u64::from(hasher.finalize()) | len << 32
}
