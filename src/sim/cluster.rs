//! The world: a cluster, its network, its hosts and their troubles, and the one loop in which
//! everything happens.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::check;
use super::checked::CrashPoint;
use super::clients::Clients;
use super::config::{Fault, RunConfig};
use super::event_queue::{Event, EventQueue, Micros, ProcessRef};
use super::faults::FaultEnd;
use super::monitor::Monitor;
use super::network::{Decoded, Network, Packet};
use super::node::{Node, NotOpen, ProcessExit};
use super::rng::Rng;
use super::trace::Lines;
use crate::batch::LogPoint;
use crate::engine::Command;
use crate::entry::NodeId;
use crate::fork::Home;
use crate::reply::reply;
use crate::role::Role;
use crate::transport::hello::HandshakeRejection;

/// The elections that a group which has healed may take until it works.
const ELECTIONS_TO_HEAL: u64 = 10;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CrashKind {
    /// What it wrote is still in the page cache.
    Killed,
    /// What it did not sync may be gone.
    PowerCut,
}

/// See the [module](self).
pub(super) struct Cluster {
    pub(super) config: RunConfig,
    pub(super) queue: EventQueue,
    pub(super) rng: Rng,
    pub(super) monitor: Arc<Mutex<Monitor>>,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    clients: Clients,
    /// How the process of each node is going to end, once its fuse has burnt down.
    pub(super) deaths: Vec<CrashKind>,
    /// Once so many batches are committed, the disks are looked at.
    next_audit: u64,
    /// No more trouble.
    pub(super) healed: bool,
    /// Hosts ask for nothing more.
    quiet: bool,
    pub(super) events: u64,
}

impl Cluster {
    pub(super) fn new(seed: u64, lines: Option<Lines>) -> Cluster {
        let rng = Rng::new(seed);
        Cluster::of(RunConfig::draw(&mut rng.fork(1)), rng, lines)
    }

    /// A world in these circumstances.
    pub(super) fn of(config: RunConfig, rng: Rng, lines: Option<Lines>) -> Cluster {
        let monitor = Monitor::new(config.nodes, config.flush_interval.is_some(), lines);
        let world = Cluster {
            queue: EventQueue::default(),
            monitor: Arc::new(Mutex::new(monitor)),
            nodes: (0..config.nodes)
                .map(|number| Node::new(number, rng.fork(100 + number as u64).next(), &config))
                .collect(),
            network: Network::new(config.nodes, config.network_faults.clone(), rng.fork(2)),
            clients: Clients::new(&config, rng.fork(3)),
            deaths: vec![CrashKind::Killed; config.nodes],
            rng: rng.fork(4),
            next_audit: 2,
            healed: false,
            quiet: false,
            events: 0,
            config,
        };
        world.watch().note(&[], || "the world begins".to_owned());
        world
    }

    pub(super) fn watch(&self) -> MutexGuard<'_, Monitor> {
        self.monitor.lock()
    }

    /// The whole run: trouble, then healing, then the demand that everything works and agrees. The
    /// first violation ends it.
    pub(super) fn run(&mut self) {
        for node in 0..self.nodes.len() {
            self.open(node);
        }
        for host in 0..self.config.clients {
            self.queue.put_in(self.config.election, Event::Client(host));
        }
        let calm = self.rng.around(self.config.trouble_mean);
        self.queue.put_in(calm, Event::Fault);
        self.go_on_until(self.config.duration, |_| false);
        self.heal();
        self.must_come(
            ELECTIONS_TO_HEAL * self.config.election,
            "A10: no append was acknowledged",
            |world| world.clients.fresh,
        );
        self.quiet = true;
        let patience = ELECTIONS_TO_HEAL * self.config.election + self.config.append_timeout;
        self.must_come(patience, "A10: the nodes do not agree", Cluster::agrees);
        self.must_come(
            patience,
            "A10: what is settled still takes of a window",
            Cluster::takes_nothing,
        );
        self.close();
        self.check_history();
    }

    fn is_over(&self) -> bool {
        self.watch().violation().is_some()
    }

    /// Lets time pass until `end`, or until `enough`.
    pub(super) fn go_on_until(&mut self, end: Micros, enough: impl Fn(&Cluster) -> bool) -> bool {
        while !self.is_over() {
            if enough(self) {
                return true;
            }
            if self.queue.now >= end {
                return false;
            }
            let Some(event) = self.queue.next() else { return false };
            self.events += 1;
            self.watch().now = self.queue.now;
            self.happen(event);
        }
        false
    }

    fn must_come(&mut self, within: Micros, otherwise: &str, what: impl Fn(&Cluster) -> bool) {
        // Clocks that run slow wait longer.
        let slowest = self.config.drifts.iter().min().copied().unwrap_or(0).min(0).unsigned_abs();
        let within = within + within * slowest / 500_000;
        let end = self.queue.now + within;
        if !self.go_on_until(end, what) && !self.is_over() {
            let accounts: Vec<String> = self.nodes.iter().map(Cluster::account).collect();
            self.watch().violated(format!(
                "{otherwise} within {} ms of healing: {}",
                within / 1000,
                accounts.join("; ")
            ));
        }
    }

    fn account(node: &Node) -> String {
        let Some(process) = &node.process else {
            return format!("node {} is down", node.number + 1);
        };
        let status = process.shared.status();
        let (role, term, leader, committed) =
            (status.role, status.term, status.leader, status.committed);
        format!(
            "node {}: {role} in term {term}, leader {leader:?}, committed {committed:?}, {:?} {:?} {:?}",
            node.number + 1,
            status.fault,
            status.full,
            status.repair
        )
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(who) => self.turn(who),
            Event::Synced(who) => self.with_life(who, Event::Synced(who), |world, who| {
                let Some(process) = &mut world.nodes[who.node].process else { return };
                match process.end_sync() {
                    Ok(()) => {
                        world.begin_sync(who);
                        world.ring(who.node);
                    }
                    Err(end) => world.end(who.node, end),
                }
            }),
            Event::BackgroundTask(who) => {
                self.with_life(who, Event::BackgroundTask(who), |world, who| {
                    if let Err(end) = world.nodes[who.node].do_background_task() {
                        world.end(who.node, end);
                    }
                })
            }
            Event::Packet(packet) => self.deliver(packet),
            Event::Client(host) => self.host_acts(host),
            Event::Fault if self.healed => {}
            Event::Fault => self.make_trouble(),
            Event::FaultEnd(fault_end) => self.relieve(fault_end),
        }
    }

    /// Does something to a life that still is. While its process is stopped, `again` waits.
    fn with_life(
        &mut self,
        who: ProcessRef,
        again: Event,
        act: impl FnOnce(&mut Cluster, ProcessRef),
    ) {
        let node = &self.nodes[who.node];
        if node.process.as_ref().is_none_or(|process| process.number != who.process) {
            return;
        }
        if node.asleep_until > self.queue.now {
            return self.queue.put(node.asleep_until, again);
        }
        act(self, who);
    }

    pub(super) fn open(&mut self, node: usize) {
        let seed = self.rng.next();
        let now = self.queue.now;
        let crash_point = CrashPoint::new();
        // Some die while they are opened.
        if !self.healed && self.config.troubles[Fault::Kill as usize] > 0 && self.rng.percent(10) {
            crash_point.light(self.rng.below(12));
        }
        match self.nodes[node].open(now, seed, crash_point, &self.config, &self.monitor) {
            Ok(()) => {}
            Err(NotOpen::Died) => {
                return self.on_exit(node, self.deaths[node], "deaths while opening");
            }
            Err(NotOpen::Full) => {
                return self.on_exit(node, CrashKind::Killed, "openings that found the disk full");
            }
            Err(NotOpen::Wrong(_)) if self.nodes[node].may_fail() => {
                return self.on_exit(node, CrashKind::PowerCut, "openings that the disk failed");
            }
            Err(NotOpen::Wrong(why)) => {
                return self.watch().violated(format!("A1: node {}: {why}", node + 1));
            }
        }
        let process = self.nodes[node].process.as_mut().expect("just opened");
        process.look(node, &mut self.monitor.lock());
        let who = ProcessRef { node, process: process.number };
        if self.nodes[node].is_older() && !self.all_know_better(node) {
            return self.die(node, CrashKind::Killed);
        }
        self.queue.put(now, Event::Turn(who));
    }

    /// Whether every other node would tell this one that it has met a later opening of its log. A
    /// group promises nothing where one of them may have forgotten that.
    fn all_know_better(&self, node: usize) -> bool {
        let Some(process) = &self.nodes[node].process else { return false };
        let knows = |other: &Node| {
            other
                .process
                .as_ref()
                .is_some_and(|peer| peer.knows_better(node, &process.hello_to(other.number)))
        };
        self.nodes.iter().filter(|other| other.number != node).all(knows)
    }

    /// Something has come in for a node's engine.
    pub(super) fn ring(&mut self, node: usize) {
        let mut late = self.rng.around(self.config.pace.late_mean);
        if self.rng.happens(self.config.pace.stalls) {
            late += self.rng.around(self.config.pace.stall_mean);
        }
        self.due(node, self.queue.now + late);
    }

    fn due(&mut self, node: usize, at: Micros) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if at < process.due {
            process.due = at;
            self.queue.put(at, Event::Turn(ProcessRef { node, process: process.number }));
        }
    }

    fn turn(&mut self, who: ProcessRef) {
        let now = self.queue.now;
        let node = &mut self.nodes[who.node];
        let Some(process) = node
            .process
            .as_mut()
            .filter(|process| process.number == who.process && process.due <= now)
        else {
            return;
        };
        if node.asleep_until > now {
            return self.queue.put(node.asleep_until, Event::Turn(who));
        }
        process.due = Micros::MAX;
        let outcome = node.turn(now);
        if outcome.is_ok() {
            node.follow_identity(&mut self.monitor.lock());
        }
        self.look(who.node);
        match outcome {
            Ok(wake) => self.after_turn(who, wake),
            Err(end) => self.end(who.node, end),
        }
    }

    fn end(&mut self, node: usize, end: ProcessExit) {
        match end {
            ProcessExit::Crash => self.die(node, self.deaths[node]),
            ProcessExit::Stopped => {
                self.demand_answers(node, "stopped in good order");
                self.on_exit(node, CrashKind::Killed, "stops in good order");
            }
            ProcessExit::Panic(text) => {
                self.watch().violated(format!("node {}: it panicked: {text}", node + 1))
            }
        }
    }

    /// Whoever waits for something at a node that does nothing more is told.
    fn demand_answers(&self, node: usize, what: &str) {
        if let Some(call) = self.clients.unanswered(node) {
            self.watch().violated(format!(
                "A10: node {} has {what}, and never answers this: {call}",
                node + 1
            ));
        }
    }

    fn after_turn(&mut self, who: ProcessRef, wake: Micros) {
        if wake < Micros::MAX {
            let late = self.rng.around(self.config.pace.late_mean);
            self.due(who.node, wake.saturating_add(late));
        }
        self.begin_sync(who);
        let may_fail = self.nodes[who.node].may_fail();
        let Some(process) = &mut self.nodes[who.node].process else { return };
        for _ in 0..process.take_background_tasks() {
            let delay = self.rng.around(self.config.pace.background_task_mean);
            self.queue.put_in(delay, Event::BackgroundTask(who));
        }
        if let Some(fault) = process.fault.take() {
            self.monitor
                .lock()
                .note(&[4, who.node as u64], || format!("node {}: fails: {fault}", who.node + 1));
            self.monitor.lock().demand(may_fail, || {
                format!("node {} failed for no reason of its disk: {fault}", who.node + 1)
            });
            self.demand_answers(who.node, "failed");
            // Somebody looks after it in a while, and power-cycles it, or only begins the process
            // anew.
            let later = self.rng.around(self.config.outage_mean);
            let death = if self.rng.percent(50) { self.hard_death() } else { CrashKind::Killed };
            self.queue
                .put_in(later, Event::FaultEnd(FaultEnd::BurnDown(who.node, who.process, death)));
        }
    }

    /// The worst way to die that the group promises to survive.
    fn hard_death(&self) -> CrashKind {
        if self.config.flush_interval.is_some() { CrashKind::Killed } else { CrashKind::PowerCut }
    }

    fn begin_sync(&mut self, who: ProcessRef) {
        let Some(process) = &mut self.nodes[who.node].process else { return };
        if process.begin_sync() {
            let pace = &self.config.pace;
            let delay =
                (pace.sync_min + self.rng.around(pace.sync_mean)) * self.nodes[who.node].slowness;
            self.queue.put_in(delay, Event::Synced(who));
        }
    }

    /// What a node has shown, said and answered since it was driven, up to the moment of its death
    /// if it died.
    fn look(&mut self, node: usize) {
        let now = self.queue.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        let mut monitor = self.monitor.lock();
        process.look(node, &mut monitor);
        let top = *monitor.newest();
        if top.raft_index >= self.next_audit
            && !(0..self.nodes.len()).any(|node| self.nodes[node].is_at_risk(&monitor))
        {
            self.next_audit = 2 * top.raft_index + self.rng.below(8);
            audit(&self.nodes, &self.config, &top, &mut monitor);
        }
        // What was read in this turn took its time, and nothing left before.
        let busy = self.nodes[node].asleep_until.saturating_sub(now);
        let Some(process) = &mut self.nodes[node].process else { return };
        self.clients.settle(node, now, process, &self.config, &mut monitor);
        let messages = std::mem::take(&mut *process.outbox.lock());
        let news = monitor.news.take();
        for message in messages {
            monitor.note(&[5, node as u64, message.term(), message.encoded_len() as u64], || {
                format!("send {message:?}")
            });
            let to = message.to().get() as usize - 1;
            let sent =
                self.network.send(&mut self.queue, node, to, process.hello_to(to), &message, busy);
            if !sent {
                process.inbox.unreachable(NodeId::from(to as u64 + 1));
                process.due = process.due.min(now);
                self.queue.put(now, Event::Turn(ProcessRef { node, process: process.number }));
            }
        }
        drop(monitor);
        if let Some(news) = news.filter(|_| !self.healed) {
            self.make_use_of(news, node);
        }
    }

    fn deliver(&mut self, packet: Box<Packet>) {
        let (from, to) = (packet.from, packet.to);
        if self.nodes[to].asleep_until > self.queue.now {
            let until = self.nodes[to].asleep_until;
            return self.queue.put(until, Event::Packet(packet));
        }
        self.network.arrived(&packet);
        let cut = self.network.is_cut(from, to);
        if !cut && !packet.is_forged && self.is_from_or_to_older(&packet) {
            return;
        }
        let mut monitor = self.monitor.lock();
        let Some(process) = self.nodes[to].process.as_mut().filter(|_| !cut) else { return };
        if packet.is_forged && process.connected[from].is_none() {
            return; // who has met nobody yet cannot tell a clone
        }
        // A process that is gone opens no connection. Whoever has forgotten its peers would let it
        // in.
        let is_gone = monitor.gone.contains(&packet.hello.identity.directory);
        if is_gone && !packet.is_forged && !process.is_connected(from, &packet.hello) {
            return;
        }
        match process.meet(if packet.is_forged { usize::MAX } else { from }, &packet.hello) {
            Err(stranger) => {
                return monitor.coverage.saw(&format!("strangers turned away: {stranger}"));
            }
            Ok(()) if packet.is_forged => {
                return monitor.violated(format!(
                    "node {} takes messages of a stranger: {:?}",
                    to + 1,
                    packet.hello
                ));
            }
            Ok(()) if process.is_outlived(from, &packet.hello, &monitor.gone) => {
                return monitor.violated(format!(
                    "node {} takes messages of an earlier life of node {}: {:?}",
                    to + 1,
                    from + 1,
                    packet.hello
                ));
            }
            Ok(()) => {}
        }
        match packet.open() {
            Decoded::Noticed => monitor.coverage.saw("damaged frames noticed"),
            Decoded::Overlooked => monitor.violated(format!(
                "node {} takes a damaged frame of node {}",
                to + 1,
                from + 1
            )),
            Decoded::Message(message) => {
                monitor.note(&[6, from as u64, to as u64, message.term()], || {
                    format!("take {message:?}")
                });
                process.inbox.deliver(message);
                drop(monitor);
                self.ring(to);
            }
        }
    }

    /// A message from or to a node whose log is older than it knows travels on no connection: the
    /// other end has refused that, and says why. Whether it is one.
    fn is_from_or_to_older(&mut self, packet: &Packet) -> bool {
        let Some(older) =
            [packet.from, packet.to].into_iter().find(|node| self.nodes[*node].is_older())
        else {
            return false;
        };
        let other = packet.from + packet.to - older;
        let (Some(process), Some(peer)) = (&self.nodes[older].process, &self.nodes[other].process)
        else {
            return older == packet.to;
        };
        let hello = process.hello_to(other);
        if older == packet.from && hello != packet.hello {
            return false; // an earlier life has sent it
        }
        let judged = peer.judge(&hello);
        self.watch().demand(judged == Err(HandshakeRejection::OutdatedDirectory), || {
            format!(
                "node {} has met a later opening of this, and says {judged:?}: {hello:?}",
                other + 1
            )
        });
        let is_cut = self.network.is_cut(packet.to, packet.from);
        if let Some(process) = self.nodes[older].process.as_mut().filter(|_| !is_cut) {
            process.be_outlived(other);
            self.ring(older);
        }
        true
    }

    fn host_acts(&mut self, host: usize) {
        if self.quiet {
            return;
        }
        let (pause, touched) = self.clients.act(
            host,
            self.queue.now,
            &self.config,
            &mut self.nodes,
            &mut self.monitor.lock(),
        );
        self.queue.put_in(pause, Event::Client(host));
        if let Some(node) = touched {
            // What was refused at once is answered at once.
            self.look(node);
            self.ring(node);
        }
        let patience = self.config.append_timeout
            + 4 * (self.config.outage_mean + self.config.election)
            + self.longest_sleep();
        if let Some(overdue) = self.clients.overdue(self.queue.now, patience) {
            self.watch().violated(format!("A10: {overdue}"));
        }
    }

    /// How long any process has been, or will have been, stopped from now.
    fn longest_sleep(&self) -> Micros {
        let sleep = |node: &Node| node.asleep_until.saturating_sub(self.queue.now);
        self.nodes.iter().map(sleep).max().unwrap_or(0) + 10 * self.config.outage_mean
    }

    /// A process dies, and will be back.
    pub(super) fn die(&mut self, node: usize, death: CrashKind) {
        self.look(node);
        if self.nodes[node].process.is_none() {
            return;
        }
        self.on_exit(
            node,
            death,
            if death == CrashKind::Killed { "processes killed" } else { "power cuts" },
        );
    }

    /// A process is gone, or never came to be.
    fn on_exit(&mut self, node: usize, death: CrashKind, sighting: &str) {
        // Whoever dies forgets which openings it has met.
        if let Some(older) = self
            .nodes
            .iter()
            .position(|older| older.is_older() && older.process.is_some() && older.number != node)
        {
            self.die(older, CrashKind::Killed);
        }
        self.watch()
            .note(&[7, node as u64, death as u64], || format!("node {}: {sighting}", node + 1));
        self.watch().coverage.saw(sighting);
        self.watch().coverage.saw_many("segments begun", self.nodes[node].disk.segments_made());
        let process = self.nodes[node].process.take();
        if let Some(process) = &process {
            self.clients.bereave(
                node,
                self.queue.now,
                process,
                &self.config,
                &mut self.monitor.lock(),
            );
            // What a process tidies up when it ends in good order, a dead one leaves as it is.
            process.crash_point.put_out();
        }
        match death {
            CrashKind::Killed if !self.nodes[node].may_fail() => self.nodes[node].kill(),
            CrashKind::Killed if self.nodes[node].disk.is_writable() => {
                self.nodes[node].kill_after_failure(self.rng.percent(50))
            }
            CrashKind::Killed | CrashKind::PowerCut => {
                self.nodes[node].cut_power(self.rng.percent(40))
            }
        }
        drop(process);
        let is_sound = death == CrashKind::Killed
            && !self.nodes[node].is_at_risk(&self.watch())
            && !self.nodes[node].power_failed;
        if is_sound && self.rng.fork(5).percent(30) {
            self.nodes[node].back_up();
        }
        if self.nodes[node].is_older() {
            let seed = self.rng.fork(8).next();
            self.nodes[node].own_up(self.config.nodes, seed, &mut self.monitor.lock());
        }
        self.nodes[node].asleep_until = 0;
        let outage = if self.healed { 0 } else { self.rng.around(self.config.restart_mean) };
        self.queue.put_in(outage, Event::FaultEnd(FaultEnd::Restart(node)));
    }

    /// A host shuts its node down in good order.
    pub(super) fn stop(&mut self, node: usize) {
        if let Some(process) = &self.nodes[node].process {
            let (reply, _) = reply(Home::default());
            process.command(Command::Stop { hand_over: None, reply });
            self.ring(node);
        }
    }

    pub(super) fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| {
            node.process.as_ref().is_some_and(|process| process.role == Role::Leader)
        })
    }

    /// Every trouble ends. Nodes that are down come back, and so do those that have failed.
    fn heal(&mut self) {
        self.watch().note(&[8], || "everything heals".to_owned());
        self.healed = true;
        self.network.heal(self.config.network_faults.calm(self.config.election));
        self.config.pace = self.config.pace.calm(self.config.election);
        self.config.wishes[super::config::OperationKind::Transfer as usize] = 0;
        // What is demanded from now on is demanded of the group: its hosts make up their minds at
        // once.
        self.config.think_mean = self.config.think_mean.min(self.config.election / 20);
        for host in 0..self.config.clients {
            self.queue.put_in(1, Event::Client(host));
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.set_full(false);
            self.nodes[node].disk.is_poor = false;
            self.nodes[node].slowness = 1;
            self.nodes[node].disk.read_rate = None;
            self.nodes[node].asleep_until = self.nodes[node].asleep_until.min(self.queue.now);
            let is_doomed = self.nodes[node].is_doomed;
            let death = self.hard_death();
            match &self.nodes[node].process {
                None => {
                    // What was to fail on a disk that nobody used does not.
                    self.nodes[node].kill();
                    self.open(node);
                }
                Some(_) if is_doomed => self.die(node, death),
                Some(process) if process.crash_point.is_lit() => self.die(node, self.deaths[node]),
                Some(_) => self.shake_awake(node),
            }
        }
        self.clients.expect_progress();
    }

    /// What a node waits for happens soon, however long it was to take.
    fn shake_awake(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let who = ProcessRef { node, process: process.number };
        process.due = Micros::MAX;
        self.queue.put_in(self.config.pace.sync_mean, Event::Synced(who));
        for _ in 0..process.background_tasks_waiting() {
            self.queue.put_in(self.config.pace.background_task_mean, Event::BackgroundTask(who));
        }
        self.ring(node);
    }

    /// Whether all nodes show the same and nobody waits for anything.
    fn agrees(&self) -> bool {
        let end = self.watch().ledger.len() as u64;
        let shows_all = |node: &Node| {
            node.process.as_ref().is_some_and(|process| process.shared.watermark.end() == end)
        };
        self.clients.is_idle() && self.nodes.iter().all(shows_all)
    }

    /// Whether all room in the windows for appends has been given back.
    fn takes_nothing(&self) -> bool {
        let in_flight = |node: &Node| {
            node.process.as_ref().map_or(0, |process| process.shared.sequencer.in_flight())
        };
        self.nodes.iter().all(|node| in_flight(node) == 0)
    }

    /// The power of all nodes is cut, and what comes back is compared once more.
    fn close(&mut self) {
        let death = self.hard_death();
        for node in 0..self.nodes.len() {
            self.die(node, death);
            if !self.is_over() {
                self.open(node);
            }
        }
    }

    fn check_history(&mut self) {
        if self.is_over() {
            return;
        }
        let ledger = self.clients.ledger(&self.monitor.lock());
        if let Err(anomaly) = check::check(&self.clients.history, &ledger) {
            self.watch().violated(anomaly.to_string());
        }
    }

    pub(super) fn operations(&self) -> u64 {
        self.clients.history.operations.len() as u64
    }
}

/// A9 to the letter: logs are opened on what a majority of the disks would have if the power failed
/// at this moment, and the newest batch that anyone shows as committed is in them. The books say
/// the same of every batch; this says that the books are right.
fn audit(nodes: &[Node], config: &RunConfig, top: &LogPoint, monitor: &mut Monitor) {
    let power_cut = config.flush_interval.is_none();
    let disks = nodes
        .iter()
        .filter(|node| node.disk.would_have(top, &node.owner(config.nodes), power_cut))
        .count();
    monitor.coverage.saw("audits of the disks");
    monitor.demand(disks > nodes.len() / 2, || {
        format!(
            "A9: batch {} is shown as committed, and {disks} disks have it if the power fails now",
            top.raft_index
        )
    });
}
