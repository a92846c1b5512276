//! The world: a cluster, its network, its hosts and their troubles, and the one loop in which everything happens.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::agenda::{Agenda, Event, Micros, Who};
use super::chance::Chance;
use super::check;
use super::hosts::Hosts;
use super::network::{Network, Opened, Parcel};
use super::node::{End, Node, NotOpen};
use super::swarm::{Swarm, Trouble};
use super::trace::Lines;
use super::trouble::Relief;
use super::watch::Watch;
use super::witness::Fuse;
use crate::batch::Mark;
use crate::engine::Command;
use crate::entry::NodeId;
use crate::fork::Home;
use crate::reply::reply;
use crate::role::Role;
use crate::transport::hello::Stranger;

/// The elections that a group which has healed may take until it works.
const ELECTIONS_TO_HEAL: u64 = 10;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// What it wrote is still in the page cache.
    Killed,
    /// What it did not sync may be gone.
    PowerCut,
}

/// See the [module](self).
pub(super) struct World {
    pub(super) swarm: Swarm,
    pub(super) agenda: Agenda,
    pub(super) chance: Chance,
    pub(super) watch: Arc<Mutex<Watch>>,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    hosts: Hosts,
    /// How the process of each node is going to end, once its fuse has burnt down.
    pub(super) deaths: Vec<Death>,
    /// Once so many batches are committed, the disks are looked at.
    next_audit: u64,
    /// No more trouble.
    pub(super) healed: bool,
    /// Hosts ask for nothing more.
    quiet: bool,
    pub(super) events: u64,
}

impl World {
    pub(super) fn new(seed: u64, lines: Option<Lines>) -> World {
        let chance = Chance::new(seed);
        World::of(Swarm::draw(&mut chance.fork(1)), chance, lines)
    }

    /// A world in these circumstances.
    pub(super) fn of(swarm: Swarm, chance: Chance, lines: Option<Lines>) -> World {
        let watch = Watch::new(swarm.nodes, swarm.flush_interval.is_some(), lines);
        let world = World {
            agenda: Agenda::default(),
            watch: Arc::new(Mutex::new(watch)),
            nodes: (0..swarm.nodes).map(|number| Node::new(number, chance.fork(100 + number as u64).next(), &swarm)).collect(),
            network: Network::new(swarm.nodes, swarm.weather.clone(), chance.fork(2)),
            hosts: Hosts::new(&swarm, chance.fork(3)),
            deaths: vec![Death::Killed; swarm.nodes],
            chance: chance.fork(4),
            next_audit: 2,
            healed: false,
            quiet: false,
            events: 0,
            swarm,
        };
        world.watch().note(&[], || "the world begins".to_owned());
        world
    }

    pub(super) fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock()
    }

    /// The whole run: trouble, then healing, then the demand that everything works and agrees. The first violation ends it.
    pub(super) fn run(&mut self) {
        for node in 0..self.nodes.len() {
            self.open(node);
        }
        for host in 0..self.swarm.hosts {
            self.agenda.put_in(self.swarm.election, Event::Host(host));
        }
        let calm = self.chance.around(self.swarm.trouble_mean);
        self.agenda.put_in(calm, Event::Trouble);
        self.go_on_until(self.swarm.duration, |_| false);
        self.heal();
        self.must_come(ELECTIONS_TO_HEAL * self.swarm.election, "A10: no append was acknowledged", |world| world.hosts.fresh);
        self.quiet = true;
        let patience = ELECTIONS_TO_HEAL * self.swarm.election + self.swarm.append_timeout;
        self.must_come(patience, "A10: the nodes do not agree", World::agrees);
        self.must_come(patience, "A10: what is settled still takes of a window", World::takes_nothing);
        self.close();
        self.check_history();
    }

    fn is_over(&self) -> bool {
        self.watch().violation().is_some()
    }

    /// Lets time pass until `end`, or until `enough`.
    pub(super) fn go_on_until(&mut self, end: Micros, enough: impl Fn(&World) -> bool) -> bool {
        while !self.is_over() {
            if enough(self) {
                return true;
            }
            if self.agenda.now >= end {
                return false;
            }
            let Some(event) = self.agenda.next() else { return false };
            self.events += 1;
            self.watch().now = self.agenda.now;
            self.happen(event);
        }
        false
    }

    fn must_come(&mut self, within: Micros, otherwise: &str, what: impl Fn(&World) -> bool) {
        // Clocks that run slow wait longer.
        let slowest = self.swarm.drifts.iter().min().copied().unwrap_or(0).min(0).unsigned_abs();
        let within = within + within * slowest / 500_000;
        let end = self.agenda.now + within;
        if !self.go_on_until(end, what) && !self.is_over() {
            let accounts: Vec<String> = self.nodes.iter().map(World::account).collect();
            self.watch().violated(format!("{otherwise} within {} ms of healing: {}", within / 1000, accounts.join("; ")));
        }
    }

    fn account(node: &Node) -> String {
        let Some(life) = &node.life else { return format!("node {} is down", node.number + 1) };
        let status = life.shared.status();
        let (role, term, leader, committed) = (status.role, status.term, status.leader, status.committed);
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
                let Some(life) = &mut world.nodes[who.node].life else { return };
                match life.end_sync() {
                    Ok(()) => {
                        world.begin_sync(who);
                        world.ring(who.node);
                    }
                    Err(end) => world.end(who.node, end),
                }
            }),
            Event::Chore(who) => self.with_life(who, Event::Chore(who), |world, who| {
                if let Err(end) = world.nodes[who.node].do_chore() {
                    world.end(who.node, end);
                }
            }),
            Event::Parcel(parcel) => self.deliver(parcel),
            Event::Host(host) => self.host_acts(host),
            Event::Trouble if self.healed => {}
            Event::Trouble => self.make_trouble(),
            Event::Relief(relief) => self.relieve(relief),
        }
    }

    /// Does something to a life that still is. While its process is stopped, `again` waits.
    fn with_life(&mut self, who: Who, again: Event, act: impl FnOnce(&mut World, Who)) {
        let node = &self.nodes[who.node];
        if node.life.as_ref().is_none_or(|life| life.number != who.life) {
            return;
        }
        if node.asleep_until > self.agenda.now {
            return self.agenda.put(node.asleep_until, again);
        }
        act(self, who);
    }

    pub(super) fn open(&mut self, node: usize) {
        let seed = self.chance.next();
        let now = self.agenda.now;
        let fuse = Fuse::new();
        // Some die while they are opened.
        if !self.healed && self.swarm.troubles[Trouble::Kill as usize] > 0 && self.chance.percent(10) {
            fuse.light(self.chance.below(12));
        }
        match self.nodes[node].open(now, seed, fuse, &self.swarm, &self.watch) {
            Ok(()) => {}
            Err(NotOpen::Died) => return self.bury(node, self.deaths[node], "deaths while opening"),
            Err(NotOpen::Full) => return self.bury(node, Death::Killed, "openings that found the disk full"),
            Err(NotOpen::Wrong(_)) if self.nodes[node].may_fail() => {
                return self.bury(node, Death::PowerCut, "openings that the disk failed");
            }
            Err(NotOpen::Wrong(why)) => return self.watch().violated(format!("A1: node {}: {why}", node + 1)),
        }
        let life = self.nodes[node].life.as_mut().expect("just opened");
        life.look(node, &mut self.watch.lock());
        let who = Who { node, life: life.number };
        if self.nodes[node].is_older() && !self.all_know_better(node) {
            return self.die(node, Death::Killed);
        }
        self.agenda.put(now, Event::Turn(who));
    }

    /// Whether every other node would tell this one that it has met a later opening of its log. A
    /// group promises nothing where one of them may have forgotten that.
    fn all_know_better(&self, node: usize) -> bool {
        let Some(life) = &self.nodes[node].life else { return false };
        let knows = |other: &Node| other.life.as_ref().is_some_and(|peer| peer.knows_better(node, &life.hello_to(other.number)));
        self.nodes.iter().filter(|other| other.number != node).all(knows)
    }

    /// Something has come in for a node's engine.
    pub(super) fn ring(&mut self, node: usize) {
        let mut late = self.chance.around(self.swarm.pace.late_mean);
        if self.chance.happens(self.swarm.pace.stalls) {
            late += self.chance.around(self.swarm.pace.stall_mean);
        }
        self.due(node, self.agenda.now + late);
    }

    fn due(&mut self, node: usize, at: Micros) {
        let Some(life) = &mut self.nodes[node].life else { return };
        if at < life.due {
            life.due = at;
            self.agenda.put(at, Event::Turn(Who { node, life: life.number }));
        }
    }

    fn turn(&mut self, who: Who) {
        let now = self.agenda.now;
        let node = &mut self.nodes[who.node];
        let Some(life) = node.life.as_mut().filter(|life| life.number == who.life && life.due <= now) else { return };
        if node.asleep_until > now {
            return self.agenda.put(node.asleep_until, Event::Turn(who));
        }
        life.due = Micros::MAX;
        let outcome = node.turn(now);
        if outcome.is_ok() {
            node.follow_identity(&mut self.watch.lock());
        }
        self.look(who.node);
        match outcome {
            Ok(wake) => self.after_turn(who, wake),
            Err(end) => self.end(who.node, end),
        }
    }

    fn end(&mut self, node: usize, end: End) {
        match end {
            End::Crash => self.die(node, self.deaths[node]),
            End::Stopped => {
                self.demand_answers(node, "stopped in good order");
                self.bury(node, Death::Killed, "stops in good order");
            }
            End::Panic(text) => self.watch().violated(format!("node {}: it panicked: {text}", node + 1)),
        }
    }

    /// Whoever waits for something at a node that does nothing more is told.
    fn demand_answers(&self, node: usize, what: &str) {
        if let Some(call) = self.hosts.unanswered(node) {
            self.watch().violated(format!("A10: node {} has {what}, and never answers this: {call}", node + 1));
        }
    }

    fn after_turn(&mut self, who: Who, wake: Micros) {
        if wake < Micros::MAX {
            let late = self.chance.around(self.swarm.pace.late_mean);
            self.due(who.node, wake.saturating_add(late));
        }
        self.begin_sync(who);
        let may_fail = self.nodes[who.node].may_fail();
        let Some(life) = &mut self.nodes[who.node].life else { return };
        for _ in 0..life.take_chores() {
            let delay = self.chance.around(self.swarm.pace.chore_mean);
            self.agenda.put_in(delay, Event::Chore(who));
        }
        if let Some(fault) = life.fault.take() {
            self.watch.lock().note(&[4, who.node as u64], || format!("node {}: fails: {fault}", who.node + 1));
            self.watch.lock().demand(may_fail, || format!("node {} failed for no reason of its disk: {fault}", who.node + 1));
            self.demand_answers(who.node, "failed");
            // Somebody looks after it in a while, and power-cycles it, or only begins the process anew.
            let later = self.chance.around(self.swarm.outage_mean);
            let death = if self.chance.percent(50) { self.hard_death() } else { Death::Killed };
            self.agenda.put_in(later, Event::Relief(Relief::BurnDown(who.node, who.life, death)));
        }
    }

    /// The worst way to die that the group promises to survive.
    fn hard_death(&self) -> Death {
        if self.swarm.flush_interval.is_some() { Death::Killed } else { Death::PowerCut }
    }

    fn begin_sync(&mut self, who: Who) {
        let Some(life) = &mut self.nodes[who.node].life else { return };
        if life.begin_sync() {
            let pace = &self.swarm.pace;
            let delay = (pace.sync_min + self.chance.around(pace.sync_mean)) * self.nodes[who.node].slowness;
            self.agenda.put_in(delay, Event::Synced(who));
        }
    }

    /// What a node has shown, said and answered since it was driven, up to the moment of its death if it died.
    fn look(&mut self, node: usize) {
        let now = self.agenda.now;
        let Some(life) = &mut self.nodes[node].life else { return };
        let mut watch = self.watch.lock();
        life.look(node, &mut watch);
        let top = *watch.newest();
        if top.raft_index >= self.next_audit && !(0..self.nodes.len()).any(|node| self.nodes[node].is_at_risk(&watch)) {
            self.next_audit = 2 * top.raft_index + self.chance.below(8);
            audit(&self.nodes, &self.swarm, &top, &mut watch);
        }
        // What was read in this turn took its time, and nothing left before.
        let busy = self.nodes[node].asleep_until.saturating_sub(now);
        let Some(life) = &mut self.nodes[node].life else { return };
        self.hosts.settle(node, now, life, &self.swarm, &mut watch);
        let messages = std::mem::take(&mut *life.outbox.lock());
        let news = watch.news.take();
        for message in messages {
            watch.note(&[5, node as u64, message.term(), message.encoded_len() as u64], || format!("send {message:?}"));
            let to = message.to().get() as usize - 1;
            let sent = self.network.send(&mut self.agenda, node, to, life.hello_to(to), &message, busy);
            if !sent {
                life.inbox.unreachable(NodeId::from(to as u64 + 1));
                life.due = life.due.min(now);
                self.agenda.put(now, Event::Turn(Who { node, life: life.number }));
            }
        }
        drop(watch);
        if let Some(news) = news.filter(|_| !self.healed) {
            self.make_use_of(news, node);
        }
    }

    fn deliver(&mut self, parcel: Box<Parcel>) {
        let (from, to) = (parcel.from, parcel.to);
        if self.nodes[to].asleep_until > self.agenda.now {
            let until = self.nodes[to].asleep_until;
            return self.agenda.put(until, Event::Parcel(parcel));
        }
        self.network.arrived(&parcel);
        let cut = self.network.is_cut(from, to);
        if !cut && !parcel.is_forged && self.is_from_or_to_older(&parcel) {
            return;
        }
        let mut watch = self.watch.lock();
        let Some(life) = self.nodes[to].life.as_mut().filter(|_| !cut) else { return };
        if parcel.is_forged && life.connected[from].is_none() {
            return; // who has met nobody yet cannot tell a clone
        }
        // A process that is gone opens no connection. Whoever has forgotten its peers would let it in.
        let is_gone = watch.gone.contains(&parcel.hello.identity.directory);
        if is_gone && !parcel.is_forged && !life.is_connected(from, &parcel.hello) {
            return;
        }
        match life.meet(if parcel.is_forged { usize::MAX } else { from }, &parcel.hello) {
            Err(stranger) => return watch.sightings.saw(&format!("strangers turned away: {stranger}")),
            Ok(()) if parcel.is_forged => {
                return watch.violated(format!("node {} takes messages of a stranger: {:?}", to + 1, parcel.hello));
            }
            Ok(()) if life.is_outlived(from, &parcel.hello, &watch.gone) => {
                return watch.violated(format!(
                    "node {} takes messages of an earlier life of node {}: {:?}",
                    to + 1,
                    from + 1,
                    parcel.hello
                ));
            }
            Ok(()) => {}
        }
        match parcel.open() {
            Opened::Noticed => watch.sightings.saw("damaged frames noticed"),
            Opened::Overlooked => watch.violated(format!("node {} takes a damaged frame of node {}", to + 1, from + 1)),
            Opened::Message(message) => {
                watch.note(&[6, from as u64, to as u64, message.term()], || format!("take {message:?}"));
                life.inbox.deliver(message);
                drop(watch);
                self.ring(to);
            }
        }
    }

    /// A message from or to a node whose log is older than it knows travels on no connection: the
    /// other end has refused that, and says why. Whether it is one.
    fn is_from_or_to_older(&mut self, parcel: &Parcel) -> bool {
        let Some(older) = [parcel.from, parcel.to].into_iter().find(|node| self.nodes[*node].is_older()) else { return false };
        let other = parcel.from + parcel.to - older;
        let (Some(life), Some(peer)) = (&self.nodes[older].life, &self.nodes[other].life) else { return older == parcel.to };
        let hello = life.hello_to(other);
        if older == parcel.from && hello != parcel.hello {
            return false; // an earlier life has sent it
        }
        let judged = peer.judge(&hello);
        self.watch().demand(judged == Err(Stranger::Outlived), || {
            format!("node {} has met a later opening of this, and says {judged:?}: {hello:?}", other + 1)
        });
        let is_cut = self.network.is_cut(parcel.to, parcel.from);
        if let Some(life) = self.nodes[older].life.as_mut().filter(|_| !is_cut) {
            life.be_outlived(other);
            self.ring(older);
        }
        true
    }

    fn host_acts(&mut self, host: usize) {
        if self.quiet {
            return;
        }
        let (pause, touched) = self.hosts.act(host, self.agenda.now, &self.swarm, &mut self.nodes, &mut self.watch.lock());
        self.agenda.put_in(pause, Event::Host(host));
        if let Some(node) = touched {
            // What was refused at once is answered at once.
            self.look(node);
            self.ring(node);
        }
        let patience = self.swarm.append_timeout + 4 * (self.swarm.outage_mean + self.swarm.election) + self.longest_sleep();
        if let Some(overdue) = self.hosts.overdue(self.agenda.now, patience) {
            self.watch().violated(format!("A10: {overdue}"));
        }
    }

    /// How long any process has been, or will have been, stopped from now.
    fn longest_sleep(&self) -> Micros {
        let sleep = |node: &Node| node.asleep_until.saturating_sub(self.agenda.now);
        self.nodes.iter().map(sleep).max().unwrap_or(0) + 10 * self.swarm.outage_mean
    }

    /// A process dies, and will be back.
    pub(super) fn die(&mut self, node: usize, death: Death) {
        self.look(node);
        if self.nodes[node].life.is_none() {
            return;
        }
        self.bury(node, death, if death == Death::Killed { "processes killed" } else { "power cuts" });
    }

    /// A process is gone, or never came to be.
    fn bury(&mut self, node: usize, death: Death, sighting: &str) {
        // Whoever dies forgets which openings it has met.
        if let Some(older) = self.nodes.iter().position(|older| older.is_older() && older.life.is_some() && older.number != node) {
            self.die(older, Death::Killed);
        }
        self.watch().note(&[7, node as u64, death as u64], || format!("node {}: {sighting}", node + 1));
        self.watch().sightings.saw(sighting);
        self.watch().sightings.saw_many("segments begun", self.nodes[node].medium.segments_made());
        let life = self.nodes[node].life.take();
        if let Some(life) = &life {
            self.hosts.bereave(node, self.agenda.now, life, &self.swarm, &mut self.watch.lock());
            // What a process tidies up when it ends in good order, a dead one leaves as it is.
            life.fuse.put_out();
        }
        match death {
            Death::Killed if !self.nodes[node].may_fail() => self.nodes[node].kill(),
            Death::Killed if self.nodes[node].medium.is_writable() => self.nodes[node].kill_after_failure(self.chance.percent(50)),
            Death::Killed | Death::PowerCut => self.nodes[node].cut_power(self.chance.percent(40)),
        }
        drop(life);
        let is_sound = death == Death::Killed && !self.nodes[node].is_at_risk(&self.watch()) && !self.nodes[node].power_failed;
        if is_sound && self.chance.fork(5).percent(30) {
            self.nodes[node].back_up();
        }
        if self.nodes[node].is_older() {
            let seed = self.chance.fork(8).next();
            self.nodes[node].own_up(self.swarm.nodes, seed, &mut self.watch.lock());
        }
        self.nodes[node].asleep_until = 0;
        let outage = if self.healed { 0 } else { self.chance.around(self.swarm.restart_mean) };
        self.agenda.put_in(outage, Event::Relief(Relief::Restart(node)));
    }

    /// A host shuts its node down in good order.
    pub(super) fn stop(&mut self, node: usize) {
        if let Some(life) = &self.nodes[node].life {
            let (reply, _) = reply(Home::default());
            life.command(Command::Stop { hand_over: None, reply });
            self.ring(node);
        }
    }

    pub(super) fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.life.as_ref().is_some_and(|life| life.role == Role::Leader))
    }

    /// Every trouble ends. Nodes that are down come back, and so do those that have failed.
    fn heal(&mut self) {
        self.watch().note(&[8], || "everything heals".to_owned());
        self.healed = true;
        self.network.heal(self.swarm.weather.calm(self.swarm.election));
        self.swarm.pace = self.swarm.pace.calm(self.swarm.election);
        self.swarm.wishes[super::swarm::Wish::Transfer as usize] = 0;
        // What is demanded from now on is demanded of the group: its hosts make up their minds at once.
        self.swarm.think_mean = self.swarm.think_mean.min(self.swarm.election / 20);
        for host in 0..self.swarm.hosts {
            self.agenda.put_in(1, Event::Host(host));
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].medium.set_full(false);
            self.nodes[node].medium.is_poor = false;
            self.nodes[node].slowness = 1;
            self.nodes[node].medium.read_rate = None;
            self.nodes[node].asleep_until = self.nodes[node].asleep_until.min(self.agenda.now);
            let is_doomed = self.nodes[node].is_doomed;
            let death = self.hard_death();
            match &self.nodes[node].life {
                None => {
                    // What was to fail on a disk that nobody used does not.
                    self.nodes[node].kill();
                    self.open(node);
                }
                Some(_) if is_doomed => self.die(node, death),
                Some(life) if life.fuse.is_lit() => self.die(node, self.deaths[node]),
                Some(_) => self.shake_awake(node),
            }
        }
        self.hosts.expect_progress();
    }

    /// What a node waits for happens soon, however long it was to take.
    fn shake_awake(&mut self, node: usize) {
        let Some(life) = &mut self.nodes[node].life else { return };
        let who = Who { node, life: life.number };
        life.due = Micros::MAX;
        self.agenda.put_in(self.swarm.pace.sync_mean, Event::Synced(who));
        for _ in 0..life.chores_waiting() {
            self.agenda.put_in(self.swarm.pace.chore_mean, Event::Chore(who));
        }
        self.ring(node);
    }

    /// Whether all nodes show the same and nobody waits for anything.
    fn agrees(&self) -> bool {
        let end = self.watch().ledger.len() as u64;
        let shows_all = |node: &Node| node.life.as_ref().is_some_and(|life| life.shared.watermark.end() == end);
        self.hosts.is_idle() && self.nodes.iter().all(shows_all)
    }

    /// Whether all room in the windows for appends has been given back.
    fn takes_nothing(&self) -> bool {
        let in_flight = |node: &Node| node.life.as_ref().map_or(0, |life| life.shared.sequencer.in_flight());
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
        let ledger = self.hosts.ledger(&self.watch.lock());
        if let Err(anomaly) = check::check(&self.hosts.history, &ledger) {
            self.watch().violated(anomaly.to_string());
        }
    }

    pub(super) fn operations(&self) -> u64 {
        self.hosts.history.operations.len() as u64
    }
}

/// A9 to the letter: logs are opened on what a majority of the disks would have if the power failed at this moment, and the newest batch that anyone shows
/// as committed is in them. The books say the same of every batch; this says that the books are right.
fn audit(nodes: &[Node], swarm: &Swarm, top: &Mark, watch: &mut Watch) {
    let power_cut = swarm.flush_interval.is_none();
    let disks = nodes.iter().filter(|node| node.medium.would_have(top, &node.genesis(swarm.nodes), power_cut)).count();
    watch.sightings.saw("audits of the disks");
    watch.demand(disks > nodes.len() / 2, || {
        format!("A9: batch {} is shown as committed, and {disks} disks have it if the power fails now", top.raft_index)
    });
}
