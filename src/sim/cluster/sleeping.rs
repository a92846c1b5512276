//! Groups that sleep: the beats of processes, lulls in which clients do nothing, and the checks of
//! a healed group that is left alone.

use super::Cluster;
use crate::engine::Input;
use crate::entry::NodeId;
use crate::role::Role;
use crate::sim::event::{CrashKind, Event};
use crate::sim::time::Micros;
use crate::sim::watch::Sign;
use crate::transport::TransportEvent;

/// Number of election timeouts for which a sleeping group is left alone.
const ELECTIONS_ASLEEP: u64 = 10;

/// Number of election timeouts within which a sleeping group has another leader. For some of them
/// the processes do not notice that one is silent.
const ELECTIONS_TO_NOTICE: u64 = 12;

/// What happens to the leader of a sleeping group.
#[derive(Clone, Copy, Debug)]
enum Shock {
    Nothing,
    Kill,
    Pause,
    Isolation,
}

impl Cluster {
    /// Every process looks at its peers, and again a heartbeat later.
    pub(super) fn watch(&mut self) {
        let now = self.queue.now;
        self.queue.put_in(self.config.heartbeat, Event::Watch);
        for (peer, at) in self.pairs().collect::<Vec<_>>() {
            if self.nodes[at].paused_until > now {
                continue;
            }
            let beat = self.beat(peer, at);
            let Some(process) = &self.nodes[at].process else { continue };
            for sign in self.watchers.look(now, (at, process.number), peer, beat) {
                let (coverage, note) = match sign {
                    Sign::Down => ("peers down", 0),
                    Sign::Up => ("peers up", 1),
                };
                self.report(peer, at, sign);
                self.monitor().coverage.hit(coverage);
                self.monitor().note(&[30, at as u64, peer as u64, note], || {
                    format!("node {}: node {}: {sign:?}", at + 1, peer + 1)
                });
                self.wake_engine(at);
            }
        }
    }

    fn report(&self, peer: usize, at: usize, sign: Sign) {
        let peer = NodeId::from(peer as u64 + 1);
        let event = match sign {
            Sign::Down => TransportEvent::PeerDown(peer),
            Sign::Up => TransportEvent::PeerUp(peer),
        };
        if let Some(process) = &self.nodes[at].process {
            let _ = process.inputs.send(Input::TransportEvent(event));
        }
    }

    /// The process of `peer` that is heard at another node now. A node that has failed has closed
    /// its connections.
    fn beat(&mut self, peer: usize, at: usize) -> Option<u64> {
        let is_heard = self.network.carries(peer, at, self.queue.now)
            && self.nodes[peer].paused_until <= self.queue.now;
        let process = self.nodes[peer].process.as_ref().filter(|_| is_heard)?;
        let watcher = self.nodes[at].process.as_ref()?;
        let is_met = process.fault.is_none() && watcher.check_hello(&process.hello_to(at)).is_ok();
        is_met.then_some(process.number)
    }

    /// A node that sleeps after a turn was told of no reason to be awake: a follower hears the
    /// process of its leader, and a leader hears a quorum.
    pub(super) fn check_sleeper(&self, node: usize) {
        let Some(process) = self.nodes[node].process.as_ref().filter(|it| it.is_asleep) else {
            return;
        };
        let hears = |peer: usize| match &self.hosted {
            Some(_) => !process.down.lock().contains(&NodeId::from(peer as u64 + 1)),
            None => !self.watchers.is_down((node, process.number), peer),
        };
        let status = process.shared.status();
        let holds = match status.leader {
            Some(leader) if leader != status.id => hears(leader.get() as usize - 1),
            Some(_) => {
                let heard = (0..self.nodes.len()).filter(|peer| *peer == node || hears(*peer));
                2 * heard.count() > self.nodes.len()
            }
            None => false,
        };
        self.monitor().demand(holds, || {
            format!("A11: node {} sleeps, and should be awake: {status:?}", node + 1)
        });
    }

    /// When the present lull ends, if this is one.
    pub(super) fn lull_until(&self) -> Option<Micros> {
        let sleep = self.config.sleep.as_ref().filter(|_| !self.healed)?;
        let into = self.queue.now % (sleep.busy + sleep.lull);
        (into >= sleep.busy).then(|| self.queue.now - into + sleep.busy + sleep.lull)
    }

    /// A healed group that has nothing to do must sleep, and work again when anything happens.
    pub(super) fn check_sleep(&mut self) {
        let Some(sleep) = &self.config.sleep else { return };
        let (election, alone) = (self.config.election, ELECTIONS_ASLEEP * self.config.election);
        // Rejected messages of the time before are to be reported first, within ten seconds.
        let within = 12_000_000 + 3 * (sleep.after + alone);
        self.demand_within(within, "A11: an idle group does not sleep", |cluster| {
            // Retention wakes a node, and not its group.
            let rests = cluster.queue.now >= cluster.last_turn + alone;
            cluster.all_sleep() && (rests || !cluster.config.retention.keeps_all())
        });
        if self.is_over() {
            return;
        }
        self.monitor().coverage.hit("groups left alone that slept");
        let shocks = [Shock::Nothing, Shock::Kill, Shock::Pause, Shock::Isolation];
        let known = if self.nodes.len() > 1 { &shocks[..] } else { &shocks[..2] };
        let shock = *self.rng.pick(known);
        let leader = self.leader();
        self.monitor().note(&[31, shock as u64], || format!("to a sleeping group: {shock:?}"));
        let Some(leader) = leader else {
            return self.monitor().violated("A11: a group sleeps without a leader");
        };
        self.shock(shock, leader);
        let limit = ELECTIONS_TO_NOTICE * election;
        self.demand_within(limit, "A11: a sleeping group has no new leader", |cluster| {
            let leads = |node: &usize| {
                let process = cluster.nodes[*node].process.as_ref();
                process.is_some_and(|process| process.role == Role::Leader)
            };
            match shock {
                Shock::Nothing | Shock::Kill => cluster.leader().is_some(),
                _ => (0..cluster.nodes.len()).filter(leads).any(|node| node != leader),
            }
        });
        self.network.heal(self.config.network_faults.calm(election));
        let resumes = self.nodes[leader].paused_until;
        self.run_until(resumes, |_| false);
    }

    fn shock(&mut self, shock: Shock, leader: usize) {
        match shock {
            Shock::Nothing => {}
            Shock::Kill => self.crash(leader, CrashKind::Killed),
            Shock::Pause => {
                let elections = ELECTIONS_TO_NOTICE;
                self.nodes[leader].paused_until = self.queue.now + elections * self.config.election;
            }
            Shock::Isolation => {
                let others = (0..self.nodes.len()).filter(|other| *other != leader);
                for other in others.collect::<Vec<_>>() {
                    self.network.cut(leader, other);
                    self.network.cut(other, leader);
                }
            }
        }
    }

    pub(super) fn all_sleep(&self) -> bool {
        self.nodes.iter().all(|node| node.process.as_ref().is_some_and(|process| process.is_asleep))
    }
}
