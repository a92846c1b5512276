//! A cluster as one of several groups in the same processes: the hosts give it its turns, its
//! messages and its crashes.

use super::Cluster;
use crate::sim::config::RunConfig;
use crate::sim::event::{CrashKind, Event};
use crate::sim::hosted::Hosted;
use crate::sim::rng::Rng;
use crate::sim::time::Micros;
use crate::sim::trace::Lines;

impl Cluster {
    /// A group of hosts. `salt` tells its payloads from those of other groups.
    pub(in crate::sim) fn hosted(
        config: RunConfig,
        rng: Rng,
        lines: Option<Lines>,
        salt: u64,
    ) -> Cluster {
        let mut cluster = Cluster::of(config, rng, lines);
        cluster.hosted = Some(Hosted::default());
        cluster.monitor().salt = salt;
        cluster
    }

    /// Its clients begin soon.
    pub(in crate::sim) fn start_clients(&mut self) {
        for client in 0..self.config.clients {
            self.queue.put_in(self.config.election, Event::Client(client));
        }
    }

    /// Time passes without an event of this group.
    pub(in crate::sim) fn pass_to(&mut self, now: Micros) {
        self.queue.now = now.max(self.queue.now);
        self.monitor().now = self.queue.now;
    }

    /// Handles the next event.
    pub(in crate::sim) fn step(&mut self) {
        let Some(event) = self.queue.next() else { return };
        self.events += 1;
        self.monitor().now = self.queue.now;
        self.handle(event);
    }

    /// What has happened since the last call.
    pub(in crate::sim) fn take_outcome(&mut self) -> Hosted {
        self.hosted.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The process of a node crashes soon, within an effect of this group.
    pub(in crate::sim) fn crash_soon(&mut self, node: usize, kind: CrashKind) {
        self.arm_crash_point(node, kind);
    }

    /// The process of a node has ended with its host: the group may be open there or not.
    pub(in crate::sim) fn end_with_host(&mut self, node: usize, kind: CrashKind) {
        if self.nodes[node].process.is_some() {
            self.crash(node, kind);
        } else if kind == CrashKind::PowerCut {
            self.nodes[node].cut_power(self.rng.percent(40));
        }
        self.nodes[node].paused_until = 0;
    }

    /// Whether it must be restarted to heal: its disk has failed or is going to, or it is to crash.
    pub(in crate::sim) fn is_doomed(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        let process = node.process.as_ref();
        node.is_doomed || process.is_some_and(|process| process.crash_point.is_armed())
    }

    pub(in crate::sim) fn has_progress(&self) -> bool {
        self.clients.has_progress
    }

    pub(in crate::sim) fn expect_progress(&mut self) {
        self.clients.expect_progress();
    }

    /// Whether the clients begin no more operations.
    pub(in crate::sim) fn set_quiet(&mut self) {
        self.quiet = true;
    }

    /// A line for each node.
    pub(in crate::sim) fn describe_all(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(Cluster::describe).collect();
        nodes.join("; ")
    }

    pub(in crate::sim) fn sleeps(&self) -> bool {
        self.all_sleep()
    }
}
