//! Trouble: what happens to a cluster, and when it is over.

use super::cluster::{Cluster, CrashKind};
use super::config::{Fault, OperationKind, TROUBLES};
use super::event_queue::{Event, Micros};
use super::monitor::Trigger;
use super::node::Node;
use crate::engine::Command;
use crate::fork::Home;
use crate::reply::reply;

/// A crash waits for so many effects at most.
const FUSE_EFFECTS: u64 = 40;

/// The end of a trouble.
pub(crate) enum FaultEnd {
    /// A node that is down comes back.
    Restart(usize),
    /// A fuse that has not burnt down by now will not: the process dies here.
    BurnDown(usize, u64, CrashKind),
    Mend(Vec<(usize, usize)>),
    Room(usize),
    Descriptors(usize),
    Haste(usize),
}

impl Cluster {
    /// Something bad happens, and the next trouble is put down.
    pub(super) fn make_trouble(&mut self) {
        let pause = self.rng.around(self.config.trouble_mean);
        self.queue.put_in(pause, Event::Fault);
        let Some(kind) = self.rng.weighted(&self.config.troubles) else { return };
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        // Leaders get more than their share: there is more to be upset there.
        let node = if self.rng.percent(50) { self.leader().unwrap_or(node) } else { node };
        let until = self.queue.now + self.rng.around(self.config.outage_mean);
        let kind = TROUBLES[kind];
        self.monitor.lock().note(&[20, kind as u64, node as u64], || {
            format!("trouble: {kind:?}, node {}", node + 1)
        });
        self.monitor.lock().coverage.saw(&format!("troubles: {kind:?}"));
        self.befall(kind, node, until);
    }

    fn befall(&mut self, kind: Fault, node: usize, until: Micros) {
        match kind {
            // What tells damage from a torn write may not have been synced before the log is opened
            // again.
            Fault::SyncFailure | Fault::DiskFault if self.nodes[node].is_harmed => {}
            // Between two sleeps it lives for a while: whoever never wakes answers nobody.
            Fault::Pause | Fault::PausePastElection
                if self.nodes[node].asleep_until > self.queue.now => {}
            Fault::Kill => self.light_fuse(node, CrashKind::Killed),
            Fault::PowerCut => self.light_fuse(node, CrashKind::PowerCut),
            Fault::PowerCutOfAll => {
                (0..self.nodes.len()).for_each(|node| self.die(node, CrashKind::PowerCut))
            }
            Fault::Stop => self.stop(node),
            Fault::Pause => self.nodes[node].asleep_until = until,
            // Others lead by the time when it wakes, and nobody can tell it.
            Fault::PausePastElection => {
                let wakes = until + self.config.election * self.rng.between(1, 3);
                self.nodes[node].asleep_until = wakes;
                let alone = self.config.election + self.rng.around(self.config.election);
                self.isolate(node, wakes + alone);
            }
            Fault::Isolation => self.isolate(node, until),
            Fault::Split => {
                let sides: Vec<bool> = self.nodes.iter().map(|_| self.rng.percent(50)).collect();
                self.cut(self.pairs().filter(|&(a, b)| sides[a] != sides[b]).collect(), until);
            }
            // It is heard, and hears nobody.
            Fault::OneWay if self.rng.percent(60) => {
                self.cut(self.pairs().filter(|&(_, to)| to == node).collect(), until)
            }
            Fault::OneWay => {
                let pairs: Vec<_> = self.pairs().collect();
                let deaf = pairs.into_iter().filter(|_| self.rng.percent(30)).collect();
                self.cut(deaf, until);
            }
            Fault::Clog => {
                let clogged: Vec<_> = self.pairs().filter(|&(from, _)| from == node).collect();
                clogged.into_iter().for_each(|(from, to)| self.network.clog(from, to, until));
            }
            Fault::SyncFailure => self.nodes[node].doom_next_sync(),
            Fault::DiskFault => self.nodes[node].doom_some_call(&mut self.rng),
            // Dice of its own, so that seeds of before mean what they meant.
            Fault::FullDisk if self.rng.fork(2).percent(40) => {
                self.nodes[node].disk.is_poor = true;
                self.monitor.lock().coverage.saw("processes without descriptors");
                self.queue.put(until, Event::FaultEnd(FaultEnd::Descriptors(node)));
            }
            Fault::FullDisk => {
                self.nodes[node].disk.set_full(true);
                self.queue.put(until, Event::FaultEnd(FaultEnd::Room(node)));
                // After a write that stopped short, being refused the rest is final.
                if self.config.troubles[Fault::DiskFault as usize] == 0 && self.rng.percent(50) {
                    self.nodes[node].disk.refuse_writes(&mut self.rng);
                }
            }
            Fault::ClockJump => {
                let jump = self.rng.between(0, 20_000) as i64 - 10_000;
                self.nodes[node].clock.wall_ms += jump;
            }
            Fault::Damage => self.corruption(node),
            Fault::SlowDisk => {
                self.nodes[node].slowness = self.rng.between(5, 50);
                // Dice of its own, so that seeds of before mean what they meant.
                let mut rng = self.rng.fork(8);
                if rng.percent(50) {
                    self.nodes[node].disk.read_rate = Some(rng.between(100, 2000));
                    self.monitor.lock().coverage.saw("disks that read slowly");
                }
                self.queue.put(until, Event::FaultEnd(FaultEnd::Haste(node)));
            }
        }
    }

    fn purge_everywhere(&mut self) {
        let index = self.watch().ledger.len() as u64;
        for node in 0..self.nodes.len() {
            if let Some(process) = &self.nodes[node].process {
                let (reply, _) = reply(Home::default());
                process.command(Command::Purge { index, reply });
                self.ring(node);
            }
        }
    }

    fn isolate(&mut self, node: usize, until: Micros) {
        let others = (0..self.nodes.len()).filter(|&other| other != node);
        self.cut(others.flat_map(|other| [(node, other), (other, node)]).collect(), until);
    }

    /// A node has just done something, and this is when a disturbance does most harm.
    pub(super) fn make_use_of(&mut self, news: Trigger, node: usize) {
        match news {
            Trigger::Stands => return self.network.haunt_candidate(&mut self.queue, node),
            Trigger::Leads => self.network.haunt_leader(&mut self.queue, node),
            // What was not durable before stays so for a while.
            Trigger::Lacks => {
                return self.befall(
                    Fault::SlowDisk,
                    node,
                    self.queue.now + 2 * self.config.election,
                );
            }
            Trigger::Gives => {}
        }
        if !self.rng.percent(self.config.upsets) {
            return;
        }
        let can_lose_power = self.config.flush_interval.is_none();
        let kind = match news {
            Trigger::Gives => Fault::PowerCut,
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
            format!("upset: {kind:?}, node {}", node + 1)
        });
        match kind {
            Fault::Split => self.leave_with_one(node, until),
            Fault::PowerCut if !can_lose_power => self.befall(Fault::Kill, node, until),
            kind => self.befall(kind, node, until),
        }
    }

    /// A leader and one other hear nothing of the rest.
    fn leave_with_one(&mut self, node: usize, until: Micros) {
        let friend = self.rng.below(self.nodes.len() as u64) as usize;
        let is_inside = |other: usize| other == node || other == friend;
        self.cut(self.pairs().filter(|&(a, b)| is_inside(a) != is_inside(b)).collect(), until);
    }

    pub(super) fn relieve(&mut self, fault_end: FaultEnd) {
        match fault_end {
            FaultEnd::Restart(node) => {
                if self.nodes[node].process.is_none() {
                    self.perhaps_cut_power(node);
                    self.open(node);
                }
            }
            FaultEnd::BurnDown(node, process, death) => {
                if self.nodes[node].process.as_ref().is_some_and(|now| now.number == process) {
                    self.die(node, death);
                }
            }
            FaultEnd::Mend(links) => {
                // Who was away may find that what it missed is not kept any more.
                if !self.healed
                    && self
                        .rng
                        .percent(self.config.wishes[OperationKind::Purge as usize].min(1) * 60 + 10)
                {
                    self.purge_everywhere();
                }
                links.into_iter().for_each(|(from, to)| self.network.repair(from, to));
            }
            FaultEnd::Descriptors(node) => self.nodes[node].disk.is_poor = false,
            FaultEnd::Room(node) => self.nodes[node].disk.set_full(false),
            FaultEnd::Haste(node) => {
                self.nodes[node].slowness = 1;
                self.nodes[node].disk.read_rate = None;
            }
        }
    }

    /// The process dies, and finds its log damaged when it is back. Not more than a minority at a
    /// time: everything that was lost is on sound disks too, or was never committed.
    fn corruption(&mut self, node: usize) {
        if self.rng.fork(9).percent(50)
            && let Some(node) = (0..self.nodes.len()).find(|node| self.can_be_put_back(*node))
        {
            return self.put_back(node);
        }
        if self.rng.fork(6).percent(40) {
            return self.lose(node);
        }
        let is_damaged = |node: &usize| self.nodes[*node].is_at_risk(&self.watch());
        let damaged = (0..self.nodes.len()).filter(is_damaged).count();
        if damaged + 1 > (self.nodes.len() - 1) / 2
            || is_damaged(&node)
            || self.nodes[node].is_doomed
        {
            return;
        }
        self.die(node, CrashKind::Killed);
        self.deaths[node] = CrashKind::Killed;
        if self.nodes[node].process.is_none() {
            let mut monitor = self.monitor.lock();
            if let Err(why) =
                self.nodes[node].corruption(self.config.nodes, &monitor, &mut self.rng)
            {
                monitor.violated(format!("A1: node {}: {why}", node + 1));
            }
        }
    }

    /// The process dies, and its disk with it. One at a time: of two that have forgotten what they
    /// promised, neither can come back.
    fn lose(&mut self, node: usize) {
        let is_alone =
            self.nodes.len() == 1 || self.nodes.iter().any(|node| node.is_at_risk(&self.watch()));
        if is_alone || self.nodes[node].is_doomed {
            return;
        }
        self.die(node, CrashKind::Killed);
        self.deaths[node] = CrashKind::Killed;
        if self.nodes[node].process.is_none() {
            let (mut monitor, seed) = (self.monitor.lock(), self.rng.fork(7).next());
            if let Err(why) = self.nodes[node].lose(self.config.nodes, seed, &mut monitor) {
                monitor.violated(format!("A1: node {}: {why}", node + 1));
            }
        }
    }

    /// Whether all others would notice if the disk of a node were put back to its backup now.
    fn can_be_put_back(&self, node: usize) -> bool {
        let Some(backup) = self.nodes[node].backup() else { return false };
        let knows = |other: &Node| {
            other.process.as_ref().is_some_and(|process| process.knows_later(node, &backup))
        };
        let is_noticed = self.nodes.iter().filter(|other| other.number != node).all(knows);
        let is_at_risk = self.nodes.iter().any(|node| node.is_at_risk(&self.watch()));
        self.nodes.len() > 1 && is_noticed && !is_at_risk && !self.nodes[node].is_doomed
    }

    /// The process dies, and before it comes back its disk is put back to its backup, as if nothing
    /// had been lost.
    fn put_back(&mut self, node: usize) {
        let backup = self.nodes[node].backup();
        self.die(node, CrashKind::Killed);
        self.deaths[node] = CrashKind::Killed;
        // As it died it may have been backed up again.
        if self.nodes[node].process.is_none() && self.nodes[node].backup() == backup {
            let seed = self.rng.fork(7).next();
            self.nodes[node].put_back(seed, &mut self.monitor.lock());
            self.queue.put_in(self.config.heartbeat / 10, Event::FaultEnd(FaultEnd::Restart(node)));
        }
    }

    /// The power may fail while a node is down.
    fn perhaps_cut_power(&mut self, node: usize) {
        if self.config.troubles[Fault::PowerCut as usize] > 0
            && self.rng.percent(20)
            && !self.nodes[node].is_harmed
        {
            self.nodes[node].cut_power(self.rng.percent(40));
        }
    }

    /// The process dies within the next few effects.
    fn light_fuse(&mut self, node: usize, death: CrashKind) {
        let effects = self.rng.below(FUSE_EFFECTS);
        let patience = self.config.heartbeat;
        let Some(process) =
            self.nodes[node].process.as_ref().filter(|process| !process.crash_point.is_lit())
        else {
            return;
        };
        process.crash_point.light(effects);
        let number = process.number;
        self.deaths[node] = death;
        self.queue.put_in(patience, Event::FaultEnd(FaultEnd::BurnDown(node, number, death)));
    }

    fn cut(&mut self, links: Vec<(usize, usize)>, until: Micros) {
        links.iter().for_each(|&(from, to)| self.network.cut(from, to));
        self.queue.put(until, Event::FaultEnd(FaultEnd::Mend(links)));
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let nodes = self.nodes.len();
        (0..nodes).flat_map(move |a| (0..nodes).filter(move |&b| a != b).map(move |b| (a, b)))
    }
}
