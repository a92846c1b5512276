//! Simulated cluster: nodes, network and clients, and the event loop that drives them.

mod delivery;
mod faults;
mod healing;
mod hosted;
mod sleeping;

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::clients::Clients;
use super::config::{Fault, RunConfig};
use super::crash_point::CrashPoint;
use super::event::{CrashKind, Event, FaultEnd, ProcessRef};
use super::event_queue::EventQueue;
use super::hosted::{Ended, Hosted};
use super::monitor::{Monitor, Trigger};
use super::network::Network;
use super::node::{Node, NotOpen};
use super::process::ProcessExit;
use super::rng::Rng;
use super::time::Micros;
use super::trace::Lines;
use super::watch::Watchers;
use crate::batch::LogPoint;
use crate::engine::Command;
use crate::entry::NodeId;
use crate::fork::Home;
use crate::message::SenderClaim;
use crate::reply::reply;
use crate::role::Role;

/// Simulated cluster: see the [module](self).
pub(super) struct Cluster {
    pub(super) config: RunConfig,
    pub(super) queue: EventQueue,
    pub(super) rng: Rng,
    pub(super) monitor: Arc<Mutex<Monitor>>,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    watchers: Watchers,
    clients: Clients,
    /// How the process of each node ends at its crash point.
    crash_kinds: Vec<CrashKind>,
    /// The disks are audited once this batch is committed.
    next_audit: u64,
    /// No more faults.
    healed: bool,
    /// Clients begin no more operations.
    quiet: bool,
    /// When an engine was driven last.
    pub(super) last_turn: Micros,
    /// `Some` if this group is one of several in each process: what the hosts are to do.
    pub(super) hosted: Option<Hosted>,
    pub(super) events: u64,
}

impl Cluster {
    pub(super) fn new(seed: u64, lines: Option<Lines>) -> Cluster {
        let rng = Rng::new(seed);
        Cluster::of(RunConfig::draw(&mut rng.fork(1)), rng, lines)
    }

    /// A cluster of this configuration.
    pub(super) fn of(config: RunConfig, rng: Rng, lines: Option<Lines>) -> Cluster {
        let counts_unsynced = config.flush_interval.is_some();
        let monitor = Monitor::new(config.nodes, config.first_position, counts_unsynced, lines)
            .expecting_stamps(config.stamps);
        let cluster = Cluster {
            queue: EventQueue::default(),
            monitor: Arc::new(Mutex::new(monitor)),
            nodes: (0..config.nodes)
                .map(|number| Node::new(number, rng.fork(100 + number as u64).next(), &config))
                .collect(),
            network: Network::new(config.nodes, config.network_faults.clone(), rng.fork(2)),
            watchers: Watchers::new(config.nodes, config.election, rng.fork(6)),
            clients: Clients::new(&config, rng.fork(3)),
            crash_kinds: vec![CrashKind::Killed; config.nodes],
            rng: rng.fork(4),
            next_audit: 2,
            healed: false,
            quiet: false,
            last_turn: 0,
            hosted: None,
            events: 0,
            config,
        };
        cluster.monitor().note(&[], || "the run begins".to_owned());
        cluster
    }

    pub(super) fn monitor(&self) -> MutexGuard<'_, Monitor> {
        self.monitor.lock()
    }

    fn is_over(&self) -> bool {
        self.monitor().violation().is_some()
    }

    /// Handles events until `end`, or until `enough`. Returns whether it was enough.
    pub(super) fn run_until(&mut self, end: Micros, enough: impl Fn(&Cluster) -> bool) -> bool {
        while !self.is_over() {
            if enough(self) {
                return true;
            }
            if self.queue.now >= end {
                return false;
            }
            let Some(event) = self.queue.next() else { return false };
            self.events += 1;
            self.monitor().now = self.queue.now;
            self.handle(event);
        }
        false
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Turn(at) => self.turn(at),
            Event::Synced(at) => self.end_sync(at),
            Event::BackgroundTask(at) => self.run_background_task(at),
            Event::Packet(packet) => self.deliver(packet),
            Event::Client(client) => self.act(client),
            Event::Watch => self.watch(),
            Event::Fault if self.healed => {}
            Event::Fault => self.begin_fault(),
            Event::FaultEnd(fault_end) => self.end_fault(fault_end),
        }
    }

    /// Whether this process is there and not paused. While it is paused, `event` waits.
    fn is_running(&mut self, at: ProcessRef, event: Event) -> bool {
        let node = &self.nodes[at.node];
        if node.process.as_ref().is_none_or(|process| process.number != at.process) {
            return false;
        }
        if node.paused_until > self.queue.now {
            self.queue.put(node.paused_until, event);
            return false;
        }
        true
    }

    /// Starts a process.
    pub(super) fn open(&mut self, node: usize) {
        let seed = self.rng.next();
        let now = self.queue.now;
        let crash_point = CrashPoint::new();
        // Some processes crash while they start.
        if !self.healed
            && self.config.fault_weights[Fault::Kill as usize] > 0
            && self.rng.percent(10)
        {
            crash_point.arm(self.rng.below(12));
        }
        match self.nodes[node].open(now, seed, crash_point, &self.config, &self.monitor) {
            Ok(()) => {}
            Err(NotOpen::Crashed) => {
                let kind = self.crash_kinds[node];
                return self.on_exit(node, kind, Ended::Process, "crashes while opening");
            }
            Err(NotOpen::Full) => {
                let event = "openings that found the disk full";
                return self.on_exit(node, CrashKind::Killed, Ended::Group, event);
            }
            Err(NotOpen::Wrong(_)) if self.nodes[node].may_fail() => {
                let event = "openings that the disk failed";
                return self.on_exit(node, CrashKind::PowerCut, Ended::Process, event);
            }
            Err(NotOpen::Wrong(why)) => {
                return self.monitor().violated(format!("A1: node {}: {why}", node + 1));
            }
        }
        let process = self.nodes[node].process.as_mut().expect("just opened");
        process.check(node, &mut self.monitor.lock());
        let at = ProcessRef { node, process: process.number };
        if self.nodes[node].is_outdated() && !self.all_know_later(node) {
            return self.crash(node, CrashKind::Killed);
        }
        self.queue.put(now, Event::Turn(at));
    }

    /// The engine of a node has an input.
    pub(super) fn wake_engine(&mut self, node: usize) {
        let mut late = self.rng.around(self.config.latencies.late_mean);
        if self.rng.happens(self.config.latencies.stalls) {
            late += self.rng.around(self.config.latencies.stall_mean);
        }
        self.schedule_turn(node, self.queue.now + late);
    }

    fn schedule_turn(&mut self, node: usize, at: Micros) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if at < process.due {
            process.due = at;
            self.queue.put(at, Event::Turn(ProcessRef { node, process: process.number }));
        }
    }

    fn turn(&mut self, at: ProcessRef) {
        let now = self.queue.now;
        let node = &mut self.nodes[at.node];
        let Some(process) = node
            .process
            .as_mut()
            .filter(|process| process.number == at.process && process.due <= now)
        else {
            return;
        };
        if node.paused_until > now {
            return self.queue.put(node.paused_until, Event::Turn(at));
        }
        process.due = Micros::MAX;
        self.last_turn = now;
        let outcome = node.turn(now);
        if outcome.is_ok() {
            node.follow_identity(&mut self.monitor.lock());
            node.follow_log(&mut self.monitor.lock());
        }
        self.check(at.node);
        self.check_sleeper(at.node);
        match outcome {
            Ok(wake) => self.after_turn(at, wake),
            Err(exit) => self.exit(at.node, exit),
        }
    }

    fn exit(&mut self, node: usize, exit: ProcessExit) {
        match exit {
            ProcessExit::Crash => self.crash(node, self.crash_kinds[node]),
            ProcessExit::Stopped => {
                self.demand_results(node, "has shut down");
                self.on_exit(node, CrashKind::Killed, Ended::Group, "shutdowns");
            }
            ProcessExit::Panic(text) => {
                self.monitor().violated(format!("node {}: it panicked: {text}", node + 1))
            }
        }
    }

    /// A node that has ended leaves no call pending.
    fn demand_results(&self, node: usize, how: &str) {
        if let Some(call) = self.clients.unanswered(node) {
            self.monitor().violated(format!(
                "A10: node {} {how}, and never answers this call: {call}",
                node + 1
            ));
        }
    }

    fn after_turn(&mut self, at: ProcessRef, wake: Micros) {
        if wake < Micros::MAX {
            let late = self.rng.around(self.config.latencies.late_mean);
            self.schedule_turn(at.node, wake.saturating_add(late));
        }
        self.begin_sync(at);
        let may_fail = self.nodes[at.node].may_fail();
        let Some(process) = &mut self.nodes[at.node].process else { return };
        for _ in 0..process.take_background_tasks() {
            let delay = self.rng.around(self.config.latencies.background_task_mean);
            self.queue.put_in(delay, Event::BackgroundTask(at));
        }
        if let Some(fault) = process.fault.take() {
            self.after_fault(at, &fault, may_fail);
        }
    }

    fn after_fault(&mut self, at: ProcessRef, fault: &str, may_fail: bool) {
        self.monitor()
            .note(&[4, at.node as u64], || format!("node {}: fails: {fault}", at.node + 1));
        self.monitor().demand(may_fail, || {
            format!("node {} failed, and its disk did not: {fault}", at.node + 1)
        });
        self.demand_results(at.node, "has failed");
        // An operator restarts the machine later, or only the process.
        let later = self.rng.around(self.config.outage_mean);
        let kind = if self.rng.percent(50) { self.worst_crash() } else { CrashKind::Killed };
        self.queue.put_in(later, Event::FaultEnd(FaultEnd::Crash(at, kind)));
    }

    /// The worst crash that the group promises to survive.
    fn worst_crash(&self) -> CrashKind {
        if self.config.flush_interval.is_some() { CrashKind::Killed } else { CrashKind::PowerCut }
    }

    fn begin_sync(&mut self, at: ProcessRef) {
        let Some(process) = &mut self.nodes[at.node].process else { return };
        if process.begin_sync() {
            let latencies = &self.config.latencies;
            let delay = (latencies.sync_min + self.rng.around(latencies.sync_mean))
                * self.nodes[at.node].slowness;
            self.queue.put_in(delay, Event::Synced(at));
        }
    }

    fn run_background_task(&mut self, at: ProcessRef) {
        if self.is_running(at, Event::BackgroundTask(at))
            && let Err(exit) = self.nodes[at.node].run_background_task()
        {
            self.exit(at.node, exit);
        }
    }

    fn end_sync(&mut self, at: ProcessRef) {
        if !self.is_running(at, Event::Synced(at)) {
            return;
        }
        let Some(process) = &mut self.nodes[at.node].process else { return };
        match process.end_sync() {
            Ok(()) => {
                self.begin_sync(at);
                self.wake_engine(at.node);
            }
            Err(exit) => self.exit(at.node, exit),
        }
    }

    /// Checks what a node has shown, takes its results and sends its messages, after a turn or a
    /// crash.
    fn check(&mut self, node: usize) {
        let now = self.queue.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        let mut monitor = self.monitor.lock();
        process.check(node, &mut monitor);
        let top = *monitor.newest();
        if top.raft_index >= self.next_audit
            && !(0..self.nodes.len()).any(|node| self.nodes[node].is_at_risk(&monitor))
        {
            self.next_audit = 2 * top.raft_index + self.rng.below(8);
            audit(&self.nodes, &self.config, &top, &mut monitor);
        }
        // The reads of this turn took their time, and no message left before.
        let busy = self.nodes[node].paused_until.saturating_sub(now);
        let is_rolled_back = self.nodes[node].is_rolled_back();
        let Some(process) = &mut self.nodes[node].process else { return };
        self.clients.take_results(node, now, process, &self.config, &mut monitor);
        let messages = std::mem::take(&mut *process.outbox.lock());
        let trigger = monitor.trigger.take();
        if let Some(hosted) = &mut self.hosted {
            for message in &messages {
                let numbers = [5, node as u64, message.term(), message.encoded_len() as u64];
                monitor.note(&numbers, || format!("send {message:?}"));
            }
            hosted.sent.extend(messages.into_iter().map(|message| (node, message)));
            drop(monitor);
            return self.take_trigger(trigger, node);
        }
        for message in messages {
            // The group promises nothing if a node votes before its loss is noticed.
            if is_rolled_back
                && matches!(message.promise(), SenderClaim::Stands | SenderClaim::Votes)
            {
                continue;
            }
            monitor.note(&[5, node as u64, message.term(), message.encoded_len() as u64], || {
                format!("send {message:?}")
            });
            let to = message.to().get() as usize - 1;
            let hello = process.hello_to(to);
            let sent = self.network.send(&mut self.queue, node, to, hello, &message, busy);
            if !sent {
                process.inbox.unreachable(NodeId::from(to as u64 + 1));
                process.due = process.due.min(now);
                self.queue.put(now, Event::Turn(ProcessRef { node, process: process.number }));
            }
        }
        drop(monitor);
        self.take_trigger(trigger, node);
    }

    fn take_trigger(&mut self, trigger: Option<Trigger>, node: usize) {
        let Some(trigger) = trigger.filter(|_| !self.healed) else { return };
        match &mut self.hosted {
            Some(hosted) => hosted.triggers.push((trigger, node)),
            None => self.aim_fault(trigger, node),
        }
    }

    /// A client begins an operation, or none.
    fn act(&mut self, client: usize) {
        if self.quiet {
            return;
        }
        if let Some(end) = self.lull_until() {
            let late = self.rng.around(self.config.think_mean);
            return self.queue.put(end + late, Event::Client(client));
        }
        let (pause, node) = self.clients.act(
            client,
            self.queue.now,
            &self.config,
            &mut self.nodes,
            &mut self.monitor.lock(),
        );
        self.queue.put_in(pause, Event::Client(client));
        if let Some(node) = node {
            // A rejected append has its result at once.
            self.check(node);
            self.wake_engine(node);
        }
        let limit = self.config.append_timeout
            + 4 * (self.config.outage_mean + self.config.election)
            + self.longest_pause();
        if let Some(overdue) = self.clients.overdue(self.queue.now, limit) {
            self.monitor().violated(format!("A10: {overdue}"));
        }
    }

    /// The longest time that a process may be paused, before now or after.
    fn longest_pause(&self) -> Micros {
        let pause = |node: &Node| node.paused_until.saturating_sub(self.queue.now);
        self.nodes.iter().map(pause).max().unwrap_or(0) + 10 * self.config.outage_mean
    }

    /// A process crashes. The node restarts later.
    pub(super) fn crash(&mut self, node: usize, kind: CrashKind) {
        self.check(node);
        if self.nodes[node].process.is_none() {
            return;
        }
        self.on_exit(
            node,
            kind,
            Ended::Process,
            if kind == CrashKind::Killed { "processes killed" } else { "power cuts" },
        );
    }

    /// A process has ended, or could not start.
    fn on_exit(&mut self, node: usize, kind: CrashKind, ended: Ended, event: &str) {
        // An ended process has forgotten the incarnations that it met, and cannot detect an
        // outdated copy any more.
        let is_other_outdated =
            |other: &Node| other.is_outdated() && other.process.is_some() && other.number != node;
        if let Some(outdated) = self.nodes.iter().position(is_other_outdated) {
            self.crash(outdated, CrashKind::Killed);
        }
        self.monitor()
            .note(&[7, node as u64, kind as u64], || format!("node {}: {event}", node + 1));
        self.monitor().coverage.hit(event);
        self.monitor().coverage.hit_many("segments begun", self.nodes[node].disk.segments_begun());
        let process = self.nodes[node].process.take();
        if let Some(process) = &process {
            self.clients.drop_calls(
                node,
                self.queue.now,
                process,
                &self.config,
                &mut self.monitor.lock(),
            );
            // The drop of the process below is no part of it and must not crash.
            process.crash_point.disarm();
        }
        match kind {
            CrashKind::Killed if !self.nodes[node].may_fail() => self.nodes[node].kill(),
            CrashKind::Killed if self.nodes[node].disk.is_writable() => {
                self.nodes[node].kill_after_failure(self.rng.percent(50))
            }
            CrashKind::Killed | CrashKind::PowerCut => {
                self.nodes[node].cut_power(self.rng.percent(40))
            }
        }
        drop(process);
        let is_intact = kind == CrashKind::Killed
            && !self.nodes[node].is_at_risk(&self.monitor())
            && !self.nodes[node].power_failed
            && self.hosted.is_none();
        if is_intact && self.rng.fork(5).percent(30) {
            self.nodes[node].back_up();
        }
        if self.nodes[node].is_unaware() {
            let seed = self.rng.fork(8).next();
            self.nodes[node].confess_loss(self.config.nodes, seed, &mut self.monitor.lock());
        }
        if let Some(hosted) = &mut self.hosted {
            return hosted.exits.push((node, kind, ended));
        }
        self.nodes[node].paused_until = 0;
        let outage = if self.healed { 0 } else { self.rng.around(self.config.restart_mean) };
        self.queue.put_in(outage, Event::FaultEnd(FaultEnd::Restart(node)));
    }

    /// Shuts a node down.
    pub(super) fn stop(&mut self, node: usize) {
        if let Some(process) = &self.nodes[node].process {
            let (reply, _) = reply(Home::default());
            process.command(Command::Stop { hand_over: None, reply });
            self.wake_engine(node);
        }
    }

    pub(super) fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| {
            node.process.as_ref().is_some_and(|process| process.role == Role::Leader)
        })
    }

    pub(super) fn operations(&self) -> u64 {
        self.clients.history.operations.len() as u64
    }
}

/// Checks A9 on the disks: after a power cut now, the logs of a majority would hold the newest
/// batch that a node shows as committed. The monitor checks this of every batch by the storage
/// models; the audit checks the models.
fn audit(nodes: &[Node], config: &RunConfig, top: &LogPoint, monitor: &mut Monitor) {
    let power_cut = config.flush_interval.is_none();
    let disks = nodes
        .iter()
        .filter(|node| node.disk.would_hold(top, &node.owner(config.nodes), power_cut))
        .count();
    monitor.coverage.hit("audits of the disks");
    monitor.demand(disks > nodes.len() / 2, || {
        format!(
            "A9: batch {} is shown as committed, and {disks} disks would hold it after a power cut \
             now",
            top.raft_index
        )
    });
}
