//! Faults of hosts: drawn at random, or aimed at a critical event of a group.

use super::Hosts;
use super::config::{HOST_FAULTS, HostFault};
use super::event::{HostEvent, Way};
use crate::sim::event::CrashKind;
use crate::sim::monitor::Trigger;
use crate::sim::time::Micros;
use crate::transport::frame::Frames;

impl Hosts {
    /// Begins a random fault, and schedules the next.
    pub(super) fn begin_fault(&mut self) {
        let pause = self.rng.around(self.config.base.fault_mean);
        self.queue.put_in(pause, HostEvent::Fault);
        let Some(kind) = self.rng.weighted(&self.config.weights) else { return };
        let kind = HOST_FAULTS[kind];
        let group = self.rng.below(self.groups.len() as u64) as usize;
        let host = self.rng.below(self.hosts.len() as u64) as usize;
        let leader = self.groups[group].cluster.leader();
        let host = if self.rng.percent(50) { leader.unwrap_or(host) } else { host };
        let until = self.queue.now + self.rng.around(self.config.base.outage_mean);
        self.note(&[20, kind as u64, host as u64, group as u64], || {
            format!("fault: {kind:?}, host {}, group {}", host + 1, group + 1)
        });
        self.coverage.hit(&format!("faults: {kind:?}"));
        self.inject(kind, group, host, until);
        self.settle(group);
    }

    fn inject(&mut self, kind: HostFault, group: usize, host: usize, until: Micros) {
        let now = self.queue.now;
        self.groups[group].cluster.pass_to(now);
        match kind {
            HostFault::Kill => self.crash_soon(group, host, CrashKind::Killed),
            HostFault::PowerCut => self.crash_soon(group, host, CrashKind::PowerCut),
            HostFault::PowerCutOfAll => {
                (0..self.hosts.len()).for_each(|host| self.crash(host, CrashKind::PowerCut));
            }
            HostFault::Pause => self.pause(host, until),
            HostFault::Isolation => self.isolate(host, until),
            HostFault::Split => {
                let sides: Vec<bool> = self.hosts.iter().map(|_| self.rng.percent(50)).collect();
                self.cut(self.pairs().filter(|&(a, b)| sides[a] != sides[b]).collect(), until);
            }
            HostFault::OneWay => {
                self.cut(self.pairs().filter(|&(_, to)| to == host).collect(), until);
            }
            HostFault::Stall => {
                let links: Vec<_> = self.pairs().filter(|&(from, _)| from == host).collect();
                links.into_iter().for_each(|(from, to)| self.links.stall(from, to, until));
            }
            HostFault::Reset => self.reset(),
            HostFault::DiskFailure => {
                let cluster = &mut self.groups[group].cluster;
                let mut rng = self.rng.fork(7);
                cluster.nodes[host].doom_some_call(&mut rng);
                self.rng.next();
            }
            HostFault::FullDisk => {
                let all = self.rng.percent(50);
                for (place, other) in self.groups.iter_mut().enumerate() {
                    if all || place == group {
                        other.cluster.nodes[host].disk.set_full(true);
                    }
                }
                self.queue.put(until, HostEvent::Relief(host));
            }
            HostFault::SlowDisk => {
                let slowness = self.rng.between(5, 50);
                for group in &mut self.groups {
                    group.cluster.nodes[host].slowness = slowness;
                }
                self.queue.put(until, HostEvent::Relief(host));
            }
            HostFault::ClockJump => {
                let jump = self.rng.between(0, 20_000) as i64 - 10_000;
                for group in &mut self.groups {
                    group.cluster.nodes[host].clock.wall_ms += jump;
                }
            }
            HostFault::Closing => {
                if self.groups[group].removal.is_none() {
                    self.groups[group].cluster.stop(host);
                }
            }
            HostFault::Garbage => self.send_garbage(group, host),
            HostFault::Removal => self.begin_removal(group),
        }
    }

    /// The disks of a host are as before.
    pub(super) fn relieve(&mut self, host: usize) {
        for group in &mut self.groups {
            group.cluster.nodes[host].disk.set_full(false);
            group.cluster.nodes[host].slowness = 1;
        }
    }

    /// A process crashes within the next effects of one of its groups.
    fn crash_soon(&mut self, group: usize, host: usize, kind: CrashKind) {
        if self.groups[group].cluster.nodes[host].process.is_some() {
            self.groups[group].cluster.crash_soon(host, kind);
        } else {
            self.crash(host, kind);
        }
    }

    pub(super) fn pause(&mut self, host: usize, until: Micros) {
        if self.hosts[host].paused_until > self.queue.now || self.hosts[host].process.is_none() {
            return;
        }
        self.hosts[host].paused_until = until;
        for group in &mut self.groups {
            group.cluster.nodes[host].paused_until = until;
        }
    }

    pub(super) fn isolate(&mut self, host: usize, until: Micros) {
        let others = (0..self.hosts.len()).filter(|&other| other != host);
        self.cut(others.flat_map(|other| [(host, other), (other, host)]).collect(), until);
    }

    fn cut(&mut self, links: Vec<(usize, usize)>, until: Micros) {
        links.iter().for_each(|&(from, to)| self.links.cut(from, to));
        self.queue.put(until, HostEvent::Reconnect(links));
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let hosts = self.hosts.len();
        (0..hosts).flat_map(move |a| (0..hosts).filter(move |&b| a != b).map(move |b| (a, b)))
    }

    /// A connection breaks. One of its ends may learn of it only when it is silent for long.
    fn reset(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let (id, which) = (*self.rng.pick(&ids), self.rng.below(3));
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if self.rng.percent(50) {
            connection.forward.lose();
            connection.back.lose();
            connection.may_break = true;
        }
        match which {
            0 => self.close(id, Way::Forward),
            1 => self.close(id, Way::Back),
            _ => {
                self.close(id, Way::Forward);
                self.close(id, Way::Back);
            }
        }
    }

    /// A group sends a message that its peers do not understand, as a later version might.
    fn send_garbage(&mut self, group: usize, host: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        let Some(joined) = process.joined(group) else { return };
        let slot = |sender: &super::host::Sender| {
            let (slot, _) = sender.queue.accepted(joined.local.number)?;
            // In the middle of a message in pieces it would be a piece of that.
            Some((sender.connection?, slot)).filter(|_| sender.queue.bytes == 0)
        };
        let slots: Vec<(u64, u32)> = process.senders.values().filter_map(slot).collect();
        for (connection, slot) in slots {
            let bytes = vec![bytes::Bytes::from_static(&[0xee; 40])];
            let frame = Frames::of(slot, bytes).concat();
            self.transmit(connection, Way::Forward, Some(frame.into()));
        }
    }

    /// A fault right after a critical event of a group.
    pub(super) fn aim_fault(&mut self, trigger: Trigger, host: usize) {
        if self.healed || !self.rng.percent(self.config.base.aimed_faults / 2) {
            return;
        }
        let kinds = match trigger {
            Trigger::Leads | Trigger::Campaigns => {
                [HostFault::Isolation, HostFault::Pause, HostFault::Kill]
            }
            Trigger::Truncates | Trigger::DiskFull => [HostFault::Kill; 3],
        };
        let kind = *self.rng.pick(&kinds);
        let until = self.queue.now + self.rng.around(self.config.base.outage_mean);
        self.note(&[21, kind as u64, host as u64], || {
            format!("aimed fault: {kind:?}, host {}", host + 1)
        });
        match kind {
            HostFault::Kill => self.crash(host, CrashKind::Killed),
            HostFault::Pause => self.pause(host, until),
            _ => self.isolate(host, until),
        }
    }
}
