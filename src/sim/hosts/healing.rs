//! A whole run: a phase with faults, then healing, and the final checks of all groups.

use super::event::HostEvent;
use super::{Group, Hosts};
use crate::role::Role;
use crate::sim::event::CrashKind;
use crate::sim::time::Micros;

/// Number of election timeouts within which healed groups must work.
const ELECTIONS_TO_HEAL: u64 = 10;
/// Number of election timeouts for which sleeping groups are left alone.
const ELECTIONS_ASLEEP: u64 = 6;
/// Number of election timeouts within which sleeping groups have another leader.
const ELECTIONS_TO_NOTICE: u64 = 12;

/// What happens to the host that leads most sleeping groups.
#[derive(Clone, Copy, Debug)]
enum Shock {
    Nothing,
    Kill,
    PowerCut,
    Pause,
    Isolation,
}

impl Hosts {
    /// The whole run. The first violation ends it.
    pub(super) fn run(&mut self) {
        for host in 0..self.hosts.len() {
            self.start(host);
            for group in 0..self.groups.len() {
                let late = self.rng.around(self.config.base.heartbeat);
                self.queue.put_in(late, HostEvent::Open { group, generation: 1, host });
            }
        }
        let delay = self.rng.around(self.config.base.fault_mean);
        self.queue.put_in(delay, HostEvent::Fault);
        self.run_until(self.config.base.duration, |_| false);
        self.heal();
        self.work();
        self.check_sleep();
        self.crash_all();
        for group in 0..self.groups.len() {
            if self.violation.is_none() {
                self.groups[group].cluster.check_history();
            }
        }
    }

    fn worst_crash(&self) -> CrashKind {
        match self.config.base.flush_interval {
            Some(_) => CrashKind::Killed,
            None => CrashKind::PowerCut,
        }
    }

    /// All faults end. Hosts that are down or have a failed disk restart.
    fn heal(&mut self) {
        self.note(&[8], || "everything heals".to_owned());
        self.healed = true;
        let calm = self.links.network_faults.calm(self.config.base.election);
        self.links.heal(calm);
        let now = self.queue.now;
        for host in &mut self.hosts {
            host.paused_until = host.paused_until.min(now);
        }
        for group in &mut self.groups {
            group.cluster.pass_to(now);
            group.cluster.calm_down();
            group.cluster.expect_progress();
        }
        for host in 0..self.hosts.len() {
            let is_doomed = self.groups.iter().any(|group| group.cluster.is_doomed(host));
            if self.hosts[host].process.is_none() {
                for group in &mut self.groups {
                    // Planned failures of its disk are dropped.
                    group.cluster.nodes[host].kill();
                }
                self.queue.put_in(1, HostEvent::Restart(host));
            } else if is_doomed {
                self.crash(host, self.worst_crash());
            } else {
                self.groups.iter_mut().for_each(|group| group.cluster.hurry(host));
            }
        }
        for group in 0..self.groups.len() {
            self.settle(group);
        }
        self.hurry();
        // Removals that were begun are finished, and everything is open.
        let limit = 20 * self.config.base.election;
        self.demand_within(limit, "A10: not everything is open", |group| {
            group.removal.is_none() && group.cluster.nodes.iter().all(|node| node.process.is_some())
        });
        for group in &mut self.groups {
            group.cluster.expect_progress();
        }
    }

    /// What was to be opened or removed at some time is so now.
    fn hurry(&mut self) {
        for group in 0..self.groups.len() {
            let (it, generation) = (&self.groups[group], self.groups[group].generation);
            let is_removed = it.removal.is_some();
            for host in 0..self.hosts.len() {
                let event = match is_removed {
                    true => HostEvent::Remove { group, generation, host },
                    false => HostEvent::Open { group, generation, host },
                };
                self.queue.put_in(1, event);
            }
        }
    }

    fn demand_within(
        &mut self,
        within: Micros,
        otherwise: &str,
        condition: impl Fn(&Group) -> bool,
    ) {
        let end = self.queue.now + self.slowly(within);
        let is_met = self.run_until(end, |hosts| hosts.groups.iter().all(&condition));
        if !is_met && self.violation.is_none() {
            let late = self.describe(|group| !condition(group));
            self.violated(format!("{otherwise} within {} ms of healing: {late}", within / 1000));
        }
    }

    /// Slow clocks take longer.
    fn slowly(&self, within: Micros) -> Micros {
        let slowest = self.config.base.drifts.iter().min().copied().unwrap_or(0);
        within + within * slowest.min(0).unsigned_abs() / 500_000
    }

    fn describe(&self, which: impl Fn(&Group) -> bool) -> String {
        let groups = self.groups.iter().enumerate().filter(|(_, group)| which(group));
        let describe = |(place, group): (usize, &Group)| {
            let (number, nodes) = (place + 1, group.cluster.describe_all());
            format!("group {number}.{}: {nodes}", group.generation)
        };
        groups.map(describe).collect::<Vec<_>>().join("\n")
    }

    /// Healed groups make progress, and agree once the clients do nothing more.
    fn work(&mut self) {
        let limit = ELECTIONS_TO_HEAL * self.config.base.election;
        self.demand_within(limit, "A10: no append was acknowledged", |group| {
            group.cluster.has_progress()
        });
        self.groups.iter_mut().for_each(|group| group.cluster.set_quiet());
        let limit = limit + self.config.base.append_timeout;
        self.demand_within(limit, "A10: the nodes do not agree", |group| group.cluster.agrees());
        self.demand_within(limit, "A10: resolved appends still take up a window", |group| {
            group.cluster.has_empty_windows()
        });
    }

    /// Idle groups that may sleep do, and work again when anything happens.
    fn check_sleep(&mut self) {
        let sleepy = |group: &Group| group.cluster.config.sleep.is_some();
        if self.violation.is_some() || !self.groups.iter().any(sleepy) {
            return;
        }
        let election = self.config.base.election;
        let alone = ELECTIONS_ASLEEP * election;
        // Rejected messages of the time before are to be reported first, within ten seconds.
        let within = 12_000_000 + 10 * election + alone;
        let (end, slept) =
            (self.queue.now + self.slowly(within), |hosts: &Hosts, group: &Group| {
                let since = group.cluster.last_turn + alone;
                !sleepy(group) || group.cluster.sleeps() && hosts.queue.now >= since
            });
        let is_met = self.run_until(end, |hosts| hosts.groups.iter().all(|it| slept(hosts, it)));
        if self.violation.is_none() && !is_met {
            let late = self.describe(|group| !slept(self, group));
            self.violated(format!("A11: an idle group does not sleep: {late}"));
        }
        if self.violation.is_some() {
            return;
        }
        self.coverage.hit("groups of hosts that slept");
        self.shock();
        if self.violation.is_some() {
            return;
        }
        for group in &mut self.groups {
            group.cluster.pass_to(self.queue.now);
            group.cluster.begin_clients();
        }
        self.work();
    }

    /// Something happens to the host that leads the first group: each group that it led has another
    /// leader soon, whether it sleeps or not.
    fn shock(&mut self) {
        let shocks = [Shock::Nothing, Shock::Kill, Shock::PowerCut, Shock::Pause, Shock::Isolation];
        let shock = *self.rng.pick(&shocks);
        let Some(host) = self.groups[0].cluster.leader() else {
            return self.violated("A11: a group is idle without a leader");
        };
        self.note(&[31, shock as u64, host as u64], || {
            format!("to sleeping groups: {shock:?}, host {}", host + 1)
        });
        self.coverage.hit(&format!("sleepers shocked: {shock:?}"));
        let limit = ELECTIONS_TO_NOTICE * self.config.base.election;
        let until = self.queue.now + limit;
        match shock {
            Shock::Nothing => {}
            Shock::Kill => self.crash(host, CrashKind::Killed),
            Shock::PowerCut => self.crash(host, self.worst_crash()),
            Shock::Pause => self.pause(host, until),
            Shock::Isolation => self.isolate(host, until),
        }
        let is_alone = self.hosts.len() < 3 && matches!(shock, Shock::Pause | Shock::Isolation);
        if !is_alone {
            self.demand_within(limit, "A11: a sleeping group has no new leader", |group| {
                let leads = |node: &usize| {
                    let process = group.cluster.nodes[*node].process.as_ref();
                    process.is_some_and(|process| process.role == Role::Leader)
                };
                let mut leaders = (0..group.cluster.nodes.len()).filter(leads);
                match shock {
                    Shock::Nothing | Shock::Kill | Shock::PowerCut => leaders.next().is_some(),
                    Shock::Pause | Shock::Isolation => leaders.any(|node| node != host),
                }
            });
        }
        let calm = self.links.network_faults.calm(self.config.base.election);
        self.links.heal(calm);
        let resumes = self.hosts[host].paused_until;
        self.run_until(resumes, |_| false);
    }

    /// All hosts crash, and what they recover is checked.
    fn crash_all(&mut self) {
        let worst = self.worst_crash();
        for host in 0..self.hosts.len() {
            if self.violation.is_none() {
                self.crash(host, worst);
                self.start(host);
            }
        }
    }
}
