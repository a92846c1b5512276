//! A whole run: a phase with faults, then healing, and the final checks.

use super::Cluster;
use crate::sim::check;
use crate::sim::config::OperationKind;
use crate::sim::event::{Event, ProcessRef};
use crate::sim::node::Node;
use crate::sim::time::Micros;

/// Number of election timeouts within which a healed group must work.
const ELECTIONS_TO_HEAL: u64 = 10;

impl Cluster {
    /// The whole run: faults, then healing; after it the group must make progress and agree. The
    /// first violation ends the run.
    pub(in crate::sim) fn run(&mut self) {
        for node in 0..self.nodes.len() {
            self.open(node);
        }
        for client in 0..self.config.clients {
            self.queue.put_in(self.config.election, Event::Client(client));
        }
        let delay = self.rng.around(self.config.fault_mean);
        self.queue.put_in(delay, Event::Fault);
        if self.config.sleep.is_some() {
            self.queue.put_in(1, Event::Watch);
        }
        self.run_until(self.config.duration, |_| false);
        self.heal();
        self.work();
        self.check_sleep();
        if self.config.sleep.is_some() && !self.is_over() {
            self.begin_clients();
            self.work();
        }
        self.crash_all();
        self.check_history();
    }

    /// A healed group must make progress, and agree once the clients do nothing more.
    fn work(&mut self) {
        self.demand_within(
            ELECTIONS_TO_HEAL * self.config.election,
            "A10: no append was acknowledged",
            |cluster| cluster.clients.has_progress,
        );
        self.quiet = true;
        let limit = ELECTIONS_TO_HEAL * self.config.election + self.config.append_timeout;
        self.demand_within(limit, "A10: the nodes do not agree", Cluster::agrees);
        self.demand_within(limit, "A13: the group has no unique id", Cluster::is_named);
        self.demand_within(
            limit,
            "A10: resolved appends still take up a window",
            Cluster::has_empty_windows,
        );
    }

    /// Whether the leader knows the unique id of the group.
    fn is_named(&self) -> bool {
        let leader = self.leader().and_then(|node| self.nodes[node].process.as_ref());
        leader.is_some_and(|process| process.group_uid() != 0)
    }

    /// Clients begin operations, and expect the group to make progress.
    pub(in crate::sim) fn begin_clients(&mut self) {
        self.quiet = false;
        for client in 0..self.config.clients {
            self.queue.put_in(1, Event::Client(client));
        }
        self.clients.expect_progress();
    }

    pub(super) fn demand_within(
        &mut self,
        within: Micros,
        otherwise: &str,
        condition: impl Fn(&Cluster) -> bool,
    ) {
        // Slow clocks take longer.
        let slowest = self.config.drifts.iter().min().copied().unwrap_or(0).min(0).unsigned_abs();
        let within = within + within * slowest / 500_000;
        let end = self.queue.now + within;
        if !self.run_until(end, condition) && !self.is_over() {
            let nodes: Vec<String> = self.nodes.iter().map(Cluster::describe).collect();
            self.monitor().violated(format!(
                "{otherwise} within {} ms of healing: {}",
                within / 1000,
                nodes.join("; ")
            ));
        }
    }

    pub(super) fn describe(node: &Node) -> String {
        let Some(process) = &node.process else {
            return format!("node {} is down", node.number + 1);
        };
        let status = process.shared.status();
        let (role, term, leader, committed) =
            (status.role, status.term, status.leader, status.committed);
        format!(
            "node {}: {role} in term {term}, leader {leader:?}, committed {committed:?}, {:?} {:?} \
             {:?}",
            node.number + 1,
            status.fault,
            status.full,
            status.repair
        )
    }

    /// All faults end. Nodes that are down or have failed restart.
    fn heal(&mut self) {
        self.calm_down();
        self.network.heal(self.config.network_faults.calm(self.config.election));
        for node in 0..self.nodes.len() {
            let is_doomed = self.nodes[node].is_doomed;
            let worst = self.worst_crash();
            match &self.nodes[node].process {
                None => {
                    // Planned failures of its disk are dropped.
                    self.nodes[node].kill();
                    self.open(node);
                }
                Some(_) if is_doomed => self.crash(node, worst),
                Some(process) if process.crash_point.is_armed() => {
                    self.crash(node, self.crash_kinds[node])
                }
                Some(_) => self.hurry(node),
            }
        }
        self.clients.expect_progress();
    }

    /// No more faults. Disks and clocks are well again, and clients begin anew.
    pub(in crate::sim) fn calm_down(&mut self) {
        self.monitor().note(&[8], || "everything heals".to_owned());
        self.healed = true;
        self.config.latencies = self.config.latencies.calm(self.config.election);
        self.config.operation_weights[OperationKind::Transfer as usize] = 0;
        // The limits from here on are those of the group, so the clients must not wait long.
        self.config.think_mean = self.config.think_mean.min(self.config.election / 20);
        self.begin_clients();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.set_full(false);
            self.nodes[node].disk.lacks_descriptors = false;
            self.nodes[node].slowness = 1;
            self.nodes[node].disk.read_rate = None;
            self.nodes[node].paused_until = self.nodes[node].paused_until.min(self.queue.now);
        }
    }

    /// The events that a node waits for happen soon, even if they were scheduled for much later.
    pub(in crate::sim) fn hurry(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let at = ProcessRef { node, process: process.number };
        process.due = Micros::MAX;
        self.queue.put_in(self.config.latencies.sync_mean, Event::Synced(at));
        for _ in 0..process.background_tasks_waiting() {
            let delay = self.config.latencies.background_task_mean;
            self.queue.put_in(delay, Event::BackgroundTask(at));
        }
        self.wake_engine(node);
    }

    /// Whether all nodes show the same, and no call is pending.
    pub(in crate::sim) fn agrees(&self) -> bool {
        let end = self.monitor().ledger.len() as u64;
        let shows_all = |node: &Node| {
            node.process.as_ref().is_some_and(|process| process.shared.watermark.end() == end)
        };
        self.clients.is_idle() && self.nodes.iter().all(shows_all)
    }

    /// Whether the windows for appends of all nodes are empty.
    pub(in crate::sim) fn has_empty_windows(&self) -> bool {
        let in_flight = |node: &Node| {
            node.process.as_ref().map_or(0, |process| process.shared.sequencer.in_flight())
        };
        self.nodes.iter().all(|node| in_flight(node) == 0)
    }

    /// All nodes crash, and what they recover is checked.
    fn crash_all(&mut self) {
        let worst = self.worst_crash();
        for node in 0..self.nodes.len() {
            self.crash(node, worst);
            if !self.is_over() {
                self.open(node);
            }
        }
    }

    pub(in crate::sim) fn check_history(&mut self) {
        if self.is_over() {
            return;
        }
        let ledger = self.clients.ledger(&self.monitor.lock());
        if let Err(anomaly) = check::check(&self.clients.history, &ledger) {
            self.monitor().violated(anomaly.to_string());
        }
    }
}
