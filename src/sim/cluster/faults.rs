//! Faults of a cluster: drawn at random or aimed at a critical event, and their ends.

use super::Cluster;
use crate::engine::Command;
use crate::fork::Home;
use crate::reply::reply;
use crate::sim::config::{FAULTS, Fault, OperationKind};
use crate::sim::event::{CrashKind, Event, FaultEnd, ProcessRef, Snapshot};
use crate::sim::monitor::{Monitor, Trigger};
use crate::sim::node::Node;
use crate::sim::time::Micros;
use crate::storage::HardState;

/// Upper limit for the effects before a crash point.
const CRASH_EFFECTS_MAX: u64 = 40;

impl Cluster {
    /// Begins a random fault, and schedules the next.
    pub(super) fn begin_fault(&mut self) {
        let pause = self.rng.around(self.config.fault_mean);
        self.queue.put_in(pause, Event::Fault);
        let Some(kind) = self.rng.weighted(&self.config.fault_weights) else { return };
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        // Leaders are hit more often: faults there are more likely to expose a bug.
        let node = if self.rng.percent(50) { self.leader().unwrap_or(node) } else { node };
        let until = self.queue.now + self.rng.around(self.config.outage_mean);
        let kind = FAULTS[kind];
        self.monitor.lock().note(&[20, kind as u64, node as u64], || {
            format!("fault: {kind:?}, node {}", node + 1)
        });
        self.monitor.lock().coverage.hit(&format!("faults: {kind:?}"));
        self.inject(kind, node, until);
    }

    fn inject(&mut self, kind: Fault, node: usize, until: Micros) {
        match kind {
            // The durability evidence may not have been synced before the log is opened again.
            Fault::SyncFailure | Fault::DiskFailure if self.nodes[node].is_corrupted => {}
            // Pauses do not follow each other at once: a process that never runs answers no call.
            Fault::Pause | Fault::PausePastElection
                if self.nodes[node].paused_until > self.queue.now => {}
            Fault::Kill => self.arm_crash_point(node, CrashKind::Killed),
            Fault::PowerCut => self.arm_crash_point(node, CrashKind::PowerCut),
            Fault::PowerCutOfAll => {
                (0..self.nodes.len()).for_each(|node| self.crash(node, CrashKind::PowerCut))
            }
            Fault::Stop => self.stop(node),
            Fault::Pause => self.nodes[node].paused_until = until,
            // When it resumes another node leads, and no message reaches it.
            Fault::PausePastElection => {
                let resumes = until + self.config.election * self.rng.between(1, 3);
                self.nodes[node].paused_until = resumes;
                let isolated = self.config.election + self.rng.around(self.config.election);
                self.isolate(node, resumes + isolated);
            }
            Fault::Isolation => self.isolate(node, until),
            Fault::Split => {
                let sides: Vec<bool> = self.nodes.iter().map(|_| self.rng.percent(50)).collect();
                self.cut(self.pairs().filter(|&(a, b)| sides[a] != sides[b]).collect(), until);
            }
            // It can send, and receives nothing.
            Fault::OneWay if self.rng.percent(60) => {
                self.cut(self.pairs().filter(|&(_, to)| to == node).collect(), until)
            }
            Fault::OneWay => {
                let pairs: Vec<_> = self.pairs().collect();
                let links = pairs.into_iter().filter(|_| self.rng.percent(30)).collect();
                self.cut(links, until);
            }
            Fault::Stall => {
                let links: Vec<_> = self.pairs().filter(|&(from, _)| from == node).collect();
                links.into_iter().for_each(|(from, to)| self.network.stall(from, to, until));
            }
            Fault::SyncFailure => self.nodes[node].doom_next_sync(),
            Fault::DiskFailure => self.nodes[node].doom_some_call(&mut self.rng),
            // A generator of its own: the other draws stay as they were.
            Fault::FullDisk if self.rng.fork(2).percent(40) => {
                self.nodes[node].disk.lacks_descriptors = true;
                self.monitor.lock().coverage.hit("processes without descriptors");
                self.queue.put(until, Event::FaultEnd(FaultEnd::Descriptors(node)));
            }
            Fault::FullDisk => {
                self.nodes[node].disk.set_full(true);
                self.queue.put(until, Event::FaultEnd(FaultEnd::Space(node)));
                // After a short write a full disk is a final failure, so not both.
                if self.config.fault_weights[Fault::DiskFailure as usize] == 0
                    && self.rng.percent(50)
                {
                    self.nodes[node].disk.reject_writes(&mut self.rng);
                }
            }
            Fault::ClockJump => {
                let jump = self.rng.between(0, 20_000) as i64 - 10_000;
                self.nodes[node].clock.wall_ms += jump;
            }
            Fault::Corruption => self.corrupt(node),
            Fault::SlowDisk => {
                self.nodes[node].slowness = self.rng.between(5, 50);
                // Numbers of its own, so that earlier seeds keep their meaning.
                let mut rng = self.rng.fork(8);
                if rng.percent(50) {
                    self.nodes[node].disk.read_rate = Some(rng.between(100, 2000));
                    self.monitor.lock().coverage.hit("disks that read slowly");
                }
                self.queue.put(until, Event::FaultEnd(FaultEnd::FastDisk(node)));
            }
        }
    }

    fn purge_everywhere(&mut self) {
        let index = self.monitor().ledger.len() as u64;
        for node in 0..self.nodes.len() {
            if let Some(process) = &self.nodes[node].process {
                let (reply, _) = reply(Home::default());
                process.command(Command::Purge { index, reply });
                self.wake_engine(node);
            }
        }
    }

    fn isolate(&mut self, node: usize, until: Micros) {
        let others = (0..self.nodes.len()).filter(|&other| other != node);
        self.cut(others.flat_map(|other| [(node, other), (other, node)]).collect(), until);
    }

    /// Begins a fault right after a critical event of a node.
    pub(super) fn aim_fault(&mut self, trigger: Trigger, node: usize) {
        match trigger {
            Trigger::Campaigns => return self.network.replay_to_candidate(&mut self.queue, node),
            Trigger::Leads => self.network.replay_to_leader(&mut self.queue, node),
            // Unsynced batches stay so for a while.
            Trigger::DiskFull => {
                return self.inject(
                    Fault::SlowDisk,
                    node,
                    self.queue.now + 2 * self.config.election,
                );
            }
            Trigger::Truncates => {}
        }
        if !self.rng.percent(self.config.aimed_faults) {
            return;
        }
        let can_lose_power = self.config.flush_interval.is_none();
        let kind = match trigger {
            Trigger::Truncates => Fault::PowerCut,
            _ => *self.rng.pick(&[
                Fault::Isolation,
                Fault::Isolation,
                Fault::Split,
                Fault::PowerCut,
                Fault::Kill,
                Fault::Pause,
            ]),
        };
        let until = self.queue.now + self.rng.around(self.config.outage_mean);
        self.monitor.lock().note(&[21, kind as u64, node as u64], || {
            format!("aimed fault: {kind:?}, node {}", node + 1)
        });
        match kind {
            Fault::Split => self.split_off_with_one(node, until),
            Fault::PowerCut if !can_lose_power => self.inject(Fault::Kill, node, until),
            kind => self.inject(kind, node, until),
        }
    }

    /// A leader and one other node are cut off from the rest.
    fn split_off_with_one(&mut self, node: usize, until: Micros) {
        let follower = self.rng.below(self.nodes.len() as u64) as usize;
        let is_inside = |other: usize| other == node || other == follower;
        self.cut(self.pairs().filter(|&(a, b)| is_inside(a) != is_inside(b)).collect(), until);
    }

    pub(super) fn end_fault(&mut self, fault_end: FaultEnd) {
        match fault_end {
            FaultEnd::Restart(node) => {
                if self.nodes[node].process.is_none() {
                    self.cut_power_of_some(node);
                    self.open(node);
                }
            }
            FaultEnd::Crash(at, kind) => {
                let process = self.nodes[at.node].process.as_ref();
                if process.is_some_and(|process| process.number == at.process) {
                    self.crash(at.node, kind);
                }
            }
            // Healing has reconnected all, and a link that is cut since stays cut.
            FaultEnd::Reconnect(_) if self.healed => {}
            FaultEnd::Reconnect(links) => {
                // The batches that an isolated node missed may be purged by then.
                let purges = self.config.operation_weights[OperationKind::Purge as usize].min(1);
                if self.rng.percent(purges * 60 + 10) {
                    self.purge_everywhere();
                }
                links.into_iter().for_each(|(from, to)| self.network.reconnect(from, to));
            }
            FaultEnd::Descriptors(node) => self.nodes[node].disk.lacks_descriptors = false,
            FaultEnd::RollBack(snapshot) => self.roll_back(*snapshot),
            FaultEnd::Space(node) => self.nodes[node].disk.set_full(false),
            FaultEnd::FastDisk(node) => {
                self.nodes[node].slowness = 1;
                self.nodes[node].disk.read_rate = None;
            }
        }
    }

    /// A process crashes, and its log is corrupted before it restarts. At most a minority at a
    /// time: each lost batch is on an intact disk too, or was never committed.
    fn corrupt(&mut self, node: usize) {
        if self.rng.fork(10).percent(40) && self.plan_rollback(node) {
            return;
        }
        if self.rng.fork(9).percent(50)
            && let Some(node) = (0..self.nodes.len()).find(|node| self.can_be_restored(*node))
        {
            return self.restore_backup(node);
        }
        if self.rng.fork(6).percent(40) {
            return self.lose_disk(node);
        }
        let is_at_risk = |node: &usize| self.nodes[*node].is_at_risk(&self.monitor());
        let at_risk = (0..self.nodes.len()).filter(is_at_risk).count();
        if at_risk + 1 > (self.nodes.len() - 1) / 2
            || is_at_risk(&node)
            || self.nodes[node].is_doomed
        {
            return;
        }
        self.crash(node, CrashKind::Killed);
        self.crash_kinds[node] = CrashKind::Killed;
        if self.nodes[node].process.is_none() {
            let mut monitor = self.monitor.lock();
            let nodes = self.config.nodes;
            if let Err(why) = self.nodes[node].corrupt(nodes, &monitor, &mut self.rng) {
                monitor.violated(format!("A1: node {}: {why}", node + 1));
            }
        }
    }

    /// A process crashes, and its disk is lost. One at a time: of two incomplete nodes neither can
    /// rejoin.
    fn lose_disk(&mut self, node: usize) {
        let is_alone =
            self.nodes.len() == 1 || self.nodes.iter().any(|node| node.is_at_risk(&self.monitor()));
        if is_alone || self.nodes[node].is_doomed {
            return;
        }
        self.crash(node, CrashKind::Killed);
        self.crash_kinds[node] = CrashKind::Killed;
        if self.nodes[node].process.is_none() {
            let (mut monitor, seed) = (self.monitor.lock(), self.rng.fork(7).next());
            if let Err(why) = self.nodes[node].lose_disk(self.config.nodes, seed, &mut monitor) {
                monitor.violated(format!("A1: node {}: {why}", node + 1));
            }
        }
    }

    /// Whether all others would detect it if the backup of a node was restored now.
    fn can_be_restored(&self, node: usize) -> bool {
        let Some(backup) = self.nodes[node].backup() else { return false };
        let knows = |other: &Node| {
            other.process.as_ref().is_some_and(|process| process.knows_later(node, &backup))
        };
        let is_detected = self.nodes.iter().filter(|other| other.number != node).all(knows);
        let is_at_risk = self.nodes.iter().any(|node| node.is_at_risk(&self.monitor()));
        self.nodes.len() > 1 && is_detected && !is_at_risk && !self.nodes[node].is_doomed
    }

    /// A process crashes, and its backup is restored before it restarts, without a mark that the
    /// log is incomplete.
    fn restore_backup(&mut self, node: usize) {
        let backup = self.nodes[node].backup();
        self.crash(node, CrashKind::Killed);
        self.crash_kinds[node] = CrashKind::Killed;
        // The crash may have taken another backup.
        if self.nodes[node].process.is_none() && self.nodes[node].backup() == backup {
            let seed = self.rng.fork(7).next();
            self.nodes[node].restore_backup(seed, &mut self.monitor.lock());
            self.queue.put_in(self.config.heartbeat / 10, Event::FaultEnd(FaultEnd::Restart(node)));
        }
    }

    /// Takes a snapshot of a follower: `node`, or the one after it if that leads. It replaces the
    /// disk a little later. Returns whether it took one.
    fn plan_rollback(&mut self, node: usize) -> bool {
        let node = (node + usize::from(self.leader() == Some(node))) % self.nodes.len();
        if !self.can_be_rolled_back(node) {
            return false;
        }
        let Some(snapshot) = self.nodes[node].snapshot(&self.monitor()) else { return false };
        let delay = self.rng.fork(11).around(self.config.election);
        self.queue.put_in(delay, Event::FaultEnd(FaultEnd::RollBack(Box::new(snapshot))));
        true
    }

    /// Whether a leader may prove the loss if the disk of this node is rolled back. With unsynced
    /// batches that count, a node may lose what it has acknowledged, and no leader objects.
    fn can_be_rolled_back(&self, node: usize) -> bool {
        let monitor = self.monitor();
        let term = |node: usize| monitor.models[node].hard_state().term;
        let follows = |leader| leader != node && term(leader) == term(node);
        self.config.flush_interval.is_none()
            && self.leader().is_some_and(follows)
            && !self.nodes.iter().any(|node| node.is_at_risk(&monitor))
            && !self.nodes[node].is_doomed
    }

    /// A process crashes, and its disk is put back to a snapshot of this same process, without a
    /// mark that the log is incomplete. So no peer has met a later opening, but the leader knows
    /// the node to hold a committed batch that is not in the snapshot. Only batches are lost, and
    /// no vote: a node does not notice that by itself.
    fn roll_back(&mut self, snapshot: Snapshot) {
        let node = snapshot.of.node;
        let is_loss = |monitor: &Monitor| {
            let (model, newest) = (&monitor.models[node], monitor.newest());
            let vote = |state: HardState| (state.term, state.vote);
            vote(model.hard_state()) == vote(snapshot.hard_state)
                && monitor.lost_directories.len() == snapshot.lost_directories
                && !snapshot.log.holds(newest)
                && model.holds_durably(newest)
        };
        let process = self.nodes[node].process.as_ref();
        if self.healed
            || process.is_none_or(|process| process.number != snapshot.of.process)
            || !self.can_be_rolled_back(node)
            || !is_loss(&self.monitor())
        {
            return;
        }
        self.crash(node, CrashKind::Killed);
        self.crash_kinds[node] = CrashKind::Killed;
        if self.nodes[node].process.is_none() {
            let seed = self.rng.fork(7).next();
            self.nodes[node].roll_back(snapshot, seed, &mut self.monitor.lock());
            self.queue.put_in(self.config.heartbeat / 10, Event::FaultEnd(FaultEnd::Restart(node)));
        }
    }

    /// The power may fail while a node is down.
    fn cut_power_of_some(&mut self, node: usize) {
        if self.config.fault_weights[Fault::PowerCut as usize] > 0
            && self.rng.percent(20)
            && !self.nodes[node].is_corrupted
        {
            self.nodes[node].cut_power(self.rng.percent(40));
        }
    }

    /// A process crashes within its next effects, or after a heartbeat interval if it has too few.
    fn arm_crash_point(&mut self, node: usize, kind: CrashKind) {
        let effects = self.rng.below(CRASH_EFFECTS_MAX);
        let process = self.nodes[node].process.as_ref();
        let Some(process) = process.filter(|process| !process.crash_point.is_armed()) else {
            return;
        };
        process.crash_point.arm(effects);
        let at = ProcessRef { node, process: process.number };
        self.crash_kinds[node] = kind;
        self.queue.put_in(self.config.heartbeat, Event::FaultEnd(FaultEnd::Crash(at, kind)));
    }

    fn cut(&mut self, links: Vec<(usize, usize)>, until: Micros) {
        links.iter().for_each(|&(from, to)| self.network.cut(from, to));
        self.queue.put(until, Event::FaultEnd(FaultEnd::Reconnect(links)));
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let nodes = self.nodes.len();
        (0..nodes).flat_map(move |a| (0..nodes).filter(move |&b| a != b).map(move |b| (a, b)))
    }
}
