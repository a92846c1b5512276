//! Trouble: what happens to a cluster, and when it is over.

use super::agenda::{Event, Micros};
use super::node::Node;
use super::swarm::{TROUBLES, Trouble, Wish};
use super::watch::News;
use super::world::{Death, World};
use crate::engine::Command;
use crate::fork::Home;
use crate::reply::reply;

/// A crash waits for so many effects at most.
const FUSE_EFFECTS: u64 = 40;

/// The end of a trouble.
pub(crate) enum Relief {
    /// A node that is down comes back.
    Restart(usize),
    /// A fuse that has not burnt down by now will not: the process dies here.
    BurnDown(usize, u64, Death),
    Mend(Vec<(usize, usize)>),
    Room(usize),
    Descriptors(usize),
    Haste(usize),
}

impl World {
    /// Something bad happens, and the next trouble is put down.
    pub(super) fn make_trouble(&mut self) {
        let pause = self.chance.around(self.swarm.trouble_mean);
        self.agenda.put_in(pause, Event::Trouble);
        let Some(kind) = self.chance.weighted(&self.swarm.troubles) else { return };
        let node = self.chance.below(self.nodes.len() as u64) as usize;
        // Leaders get more than their share: there is more to be upset there.
        let node = if self.chance.percent(50) { self.leader().unwrap_or(node) } else { node };
        let until = self.agenda.now + self.chance.around(self.swarm.outage_mean);
        let kind = TROUBLES[kind];
        self.watch.lock().note(&[20, kind as u64, node as u64], || format!("trouble: {kind:?}, node {}", node + 1));
        self.watch.lock().sightings.saw(&format!("troubles: {kind:?}"));
        self.befall(kind, node, until);
    }

    fn befall(&mut self, kind: Trouble, node: usize, until: Micros) {
        match kind {
            // What tells damage from a torn write may not have been synced before the log is opened again.
            Trouble::SyncFailure | Trouble::DiskFault if self.nodes[node].is_harmed => {}
            // Between two sleeps it lives for a while: whoever never wakes answers nobody.
            Trouble::Pause | Trouble::Trance if self.nodes[node].asleep_until > self.agenda.now => {}
            Trouble::Kill => self.light_fuse(node, Death::Killed),
            Trouble::PowerCut => self.light_fuse(node, Death::PowerCut),
            Trouble::PowerCutOfAll => (0..self.nodes.len()).for_each(|node| self.die(node, Death::PowerCut)),
            Trouble::Stop => self.stop(node),
            Trouble::Pause => self.nodes[node].asleep_until = until,
            // Others lead by the time when it wakes, and nobody can tell it.
            Trouble::Trance => {
                let wakes = until + self.swarm.election * self.chance.between(1, 3);
                self.nodes[node].asleep_until = wakes;
                let alone = self.swarm.election + self.chance.around(self.swarm.election);
                self.isolate(node, wakes + alone);
            }
            Trouble::Isolation => self.isolate(node, until),
            Trouble::Split => {
                let sides: Vec<bool> = self.nodes.iter().map(|_| self.chance.percent(50)).collect();
                self.cut(self.pairs().filter(|&(a, b)| sides[a] != sides[b]).collect(), until);
            }
            // It is heard, and hears nobody.
            Trouble::OneWay if self.chance.percent(60) => self.cut(self.pairs().filter(|&(_, to)| to == node).collect(), until),
            Trouble::OneWay => {
                let pairs: Vec<_> = self.pairs().collect();
                let deaf = pairs.into_iter().filter(|_| self.chance.percent(30)).collect();
                self.cut(deaf, until);
            }
            Trouble::Clog => {
                let clogged: Vec<_> = self.pairs().filter(|&(from, _)| from == node).collect();
                clogged.into_iter().for_each(|(from, to)| self.network.clog(from, to, until));
            }
            Trouble::SyncFailure => self.nodes[node].doom_next_sync(),
            Trouble::DiskFault => self.nodes[node].doom_some_call(&mut self.chance),
            // Dice of its own, so that seeds of before mean what they meant.
            Trouble::FullDisk if self.chance.fork(2).percent(40) => {
                self.nodes[node].medium.is_poor = true;
                self.watch.lock().sightings.saw("processes without descriptors");
                self.agenda.put(until, Event::Relief(Relief::Descriptors(node)));
            }
            Trouble::FullDisk => {
                self.nodes[node].medium.set_full(true);
                self.agenda.put(until, Event::Relief(Relief::Room(node)));
                // After a write that stopped short, being refused the rest is final.
                if self.swarm.troubles[Trouble::DiskFault as usize] == 0 && self.chance.percent(50) {
                    self.nodes[node].medium.refuse_writes(&mut self.chance);
                }
            }
            Trouble::ClockJump => {
                let jump = self.chance.between(0, 20_000) as i64 - 10_000;
                self.nodes[node].clock.wall_ms += jump;
            }
            Trouble::Damage => self.harm(node),
            Trouble::SlowDisk => {
                self.nodes[node].slowness = self.chance.between(5, 50);
                // Dice of its own, so that seeds of before mean what they meant.
                let mut chance = self.chance.fork(8);
                if chance.percent(50) {
                    self.nodes[node].medium.read_rate = Some(chance.between(100, 2000));
                    self.watch.lock().sightings.saw("disks that read slowly");
                }
                self.agenda.put(until, Event::Relief(Relief::Haste(node)));
            }
        }
    }

    fn purge_everywhere(&mut self) {
        let index = self.watch().ledger.len() as u64;
        for node in 0..self.nodes.len() {
            if let Some(life) = &self.nodes[node].life {
                let (reply, _) = reply(Home::default());
                life.command(Command::Purge { index, reply });
                self.ring(node);
            }
        }
    }

    fn isolate(&mut self, node: usize, until: Micros) {
        let others = (0..self.nodes.len()).filter(|&other| other != node);
        self.cut(others.flat_map(|other| [(node, other), (other, node)]).collect(), until);
    }

    /// A node has just done something, and this is when a disturbance does most harm.
    pub(super) fn make_use_of(&mut self, news: News, node: usize) {
        match news {
            News::Stands => return self.network.haunt_candidate(&mut self.agenda, node),
            News::Leads => self.network.haunt_leader(&mut self.agenda, node),
            // What was not durable before stays so for a while.
            News::Lacks => return self.befall(Trouble::SlowDisk, node, self.agenda.now + 2 * self.swarm.election),
            News::Gives => {}
        }
        if !self.chance.percent(self.swarm.upsets) {
            return;
        }
        let can_lose_power = self.swarm.flush_interval.is_none();
        let kind = match news {
            News::Gives => Trouble::PowerCut,
            _ => *self.chance.pick(&[
                Trouble::Isolation,
                Trouble::Isolation,
                Trouble::Split,
                Trouble::PowerCut,
                Trouble::Kill,
                Trouble::Pause,
            ]),
        };
        let until = self.agenda.now + self.chance.around(self.swarm.outage_mean);
        self.watch.lock().note(&[21, kind as u64, node as u64], || format!("upset: {kind:?}, node {}", node + 1));
        match kind {
            Trouble::Split => self.leave_with_one(node, until),
            Trouble::PowerCut if !can_lose_power => self.befall(Trouble::Kill, node, until),
            kind => self.befall(kind, node, until),
        }
    }

    /// A leader and one other hear nothing of the rest.
    fn leave_with_one(&mut self, node: usize, until: Micros) {
        let friend = self.chance.below(self.nodes.len() as u64) as usize;
        let is_inside = |other: usize| other == node || other == friend;
        self.cut(self.pairs().filter(|&(a, b)| is_inside(a) != is_inside(b)).collect(), until);
    }

    pub(super) fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Restart(node) => {
                if self.nodes[node].life.is_none() {
                    self.perhaps_cut_power(node);
                    self.open(node);
                }
            }
            Relief::BurnDown(node, life, death) => {
                if self.nodes[node].life.as_ref().is_some_and(|now| now.number == life) {
                    self.die(node, death);
                }
            }
            Relief::Mend(links) => {
                // Who was away may find that what it missed is not kept any more.
                if !self.healed && self.chance.percent(self.swarm.wishes[Wish::Purge as usize].min(1) * 60 + 10) {
                    self.purge_everywhere();
                }
                links.into_iter().for_each(|(from, to)| self.network.mend(from, to));
            }
            Relief::Descriptors(node) => self.nodes[node].medium.is_poor = false,
            Relief::Room(node) => self.nodes[node].medium.set_full(false),
            Relief::Haste(node) => {
                self.nodes[node].slowness = 1;
                self.nodes[node].medium.read_rate = None;
            }
        }
    }

    /// The process dies, and finds its log damaged when it is back. Not more than a minority at a time: everything that was lost is on sound disks too, or
    /// was never committed.
    fn harm(&mut self, node: usize) {
        if self.chance.fork(9).percent(50)
            && let Some(node) = (0..self.nodes.len()).find(|node| self.can_be_put_back(*node))
        {
            return self.put_back(node);
        }
        if self.chance.fork(6).percent(40) {
            return self.lose(node);
        }
        let is_damaged = |node: &usize| self.nodes[*node].is_at_risk(&self.watch());
        let damaged = (0..self.nodes.len()).filter(is_damaged).count();
        if damaged + 1 > (self.nodes.len() - 1) / 2 || is_damaged(&node) || self.nodes[node].is_doomed {
            return;
        }
        self.die(node, Death::Killed);
        self.deaths[node] = Death::Killed;
        if self.nodes[node].life.is_none() {
            let mut watch = self.watch.lock();
            if let Err(why) = self.nodes[node].harm(self.swarm.nodes, &watch, &mut self.chance) {
                watch.violated(format!("A1: node {}: {why}", node + 1));
            }
        }
    }

    /// The process dies, and its disk with it. One at a time: of two that have forgotten what they promised, neither can come back.
    fn lose(&mut self, node: usize) {
        let is_alone = self.nodes.len() == 1 || self.nodes.iter().any(|node| node.is_at_risk(&self.watch()));
        if is_alone || self.nodes[node].is_doomed {
            return;
        }
        self.die(node, Death::Killed);
        self.deaths[node] = Death::Killed;
        if self.nodes[node].life.is_none() {
            let (mut watch, seed) = (self.watch.lock(), self.chance.fork(7).next());
            if let Err(why) = self.nodes[node].lose(self.swarm.nodes, seed, &mut watch) {
                watch.violated(format!("A1: node {}: {why}", node + 1));
            }
        }
    }

    /// Whether all others would notice if the disk of a node were put back to its backup now.
    fn can_be_put_back(&self, node: usize) -> bool {
        let Some(backup) = self.nodes[node].backup() else { return false };
        let knows = |other: &Node| other.life.as_ref().is_some_and(|life| life.knows_later(node, &backup));
        let is_noticed = self.nodes.iter().filter(|other| other.number != node).all(knows);
        let is_at_risk = self.nodes.iter().any(|node| node.is_at_risk(&self.watch()));
        self.nodes.len() > 1 && is_noticed && !is_at_risk && !self.nodes[node].is_doomed
    }

    /// The process dies, and before it comes back its disk is put back to its backup, as if nothing
    /// had been lost.
    fn put_back(&mut self, node: usize) {
        let backup = self.nodes[node].backup();
        self.die(node, Death::Killed);
        self.deaths[node] = Death::Killed;
        // As it died it may have been backed up again.
        if self.nodes[node].life.is_none() && self.nodes[node].backup() == backup {
            let seed = self.chance.fork(7).next();
            self.nodes[node].put_back(seed, &mut self.watch.lock());
            self.agenda.put_in(self.swarm.heartbeat / 10, Event::Relief(Relief::Restart(node)));
        }
    }

    /// The power may fail while a node is down.
    fn perhaps_cut_power(&mut self, node: usize) {
        if self.swarm.troubles[Trouble::PowerCut as usize] > 0 && self.chance.percent(20) && !self.nodes[node].is_harmed {
            self.nodes[node].cut_power(self.chance.percent(40));
        }
    }

    /// The process dies within the next few effects.
    fn light_fuse(&mut self, node: usize, death: Death) {
        let effects = self.chance.below(FUSE_EFFECTS);
        let patience = self.swarm.heartbeat;
        let Some(life) = self.nodes[node].life.as_ref().filter(|life| !life.fuse.is_lit()) else { return };
        life.fuse.light(effects);
        let number = life.number;
        self.deaths[node] = death;
        self.agenda.put_in(patience, Event::Relief(Relief::BurnDown(node, number, death)));
    }

    fn cut(&mut self, links: Vec<(usize, usize)>, until: Micros) {
        links.iter().for_each(|&(from, to)| self.network.cut(from, to));
        self.agenda.put(until, Event::Relief(Relief::Mend(links)));
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let nodes = self.nodes.len();
        (0..nodes).flat_map(move |a| (0..nodes).filter(move |&b| a != b).map(move |b| (a, b)))
    }
}
