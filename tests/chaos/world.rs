//! The group and everything around it, as the threads of a run share it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::book::Book;
use crate::environment::{Environment, NODES};
use crate::figures::Figures;
use crate::hosts::ClientProfile;
use crate::life::Life;
use crate::links::{Link, Route};
use crate::part::{Part, Settings};
use crate::record::Record;
use crate::rng::Rng;

/// See the [module](self).
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) environment: Environment,
    pub(crate) record: Record,
    pub(crate) book: Book,
    pub(crate) figures: Arc<Figures>,
    pub(crate) profile: Mutex<ClientProfile>,
    links: Vec<Arc<Link>>,
    places: Vec<Mutex<Place>>,
    lives: AtomicU32,
    /// Who leads, as far as is known here, and in which term.
    leader: Mutex<(u64, u64)>,
    /// Who ever led which term.
    leaders: Mutex<HashMap<u64, u64>>,
    /// Behind the newest index that was acknowledged.
    end: AtomicU64,
    violation: Mutex<Option<String>>,
    closing: AtomicBool,
}

/// Where the process of a node is, or should be.
#[derive(Default)]
struct Place {
    life: Option<Arc<Life>>,
    /// Whether there should be one.
    wanted: bool,
}

/// Nodes by number, from 1.
pub(crate) fn nodes() -> impl Iterator<Item = u64> {
    1..=NODES
}

/// Every direction of every pair.
pub(crate) fn pairs() -> impl Iterator<Item = (u64, u64)> {
    nodes().flat_map(|from| nodes().map(move |to| (from, to))).filter(|(from, to)| from != to)
}

impl World {
    /// Opens the ways between the nodes, and starts none of them.
    pub(crate) fn new(
        environment: Environment,
        settings: Settings,
        profile: ClientProfile,
    ) -> Arc<World> {
        let figures = Arc::new(Figures::default());
        let mut rng = Rng::from_seed(!settings.seed);
        let links: Vec<Arc<Link>> =
            (0..NODES * NODES).map(|_| Link::new(rng.draw(), figures.clone())).collect();
        let world = World {
            settings,
            environment,
            record: Record::default(),
            book: Book::default(),
            figures,
            profile: Mutex::new(profile),
            links,
            places: nodes().map(|_| Mutex::default()).collect(),
            lives: AtomicU32::new(0),
            leader: Mutex::default(),
            leaders: Mutex::default(),
            end: AtomicU64::new(0),
            violation: Mutex::default(),
            closing: AtomicBool::new(false),
        };
        for (from, to) in pairs() {
            let (listen, source) =
                (world.environment.proxy(from, to), world.environment.face(from));
            let target = world.environment.address(to);
            world.link(from, to).open(world.link(to, from), Route { listen, source, target });
        }
        Arc::new(world)
    }

    pub(crate) fn link(&self, from: u64, to: u64) -> &Arc<Link> {
        &self.links[((from - 1) * NODES + to - 1) as usize]
    }

    /// The process of a node, if it is up and answers.
    pub(crate) fn life(&self, node: u64) -> Option<Arc<Life>> {
        self.place(node).lock().life.clone().filter(|life| life.is_open())
    }

    fn place(&self, node: u64) -> &Mutex<Place> {
        &self.places[node as usize - 1]
    }

    /// From now on this node should be up.
    pub(crate) fn want(&self, node: u64) {
        self.place(node).lock().wanted = true;
    }

    /// Starts what should be up and is not. Called from one thread only: processes end with the
    /// thread that started them.
    pub(crate) fn start_what_is_wanted(self: &Arc<World>) {
        for node in nodes() {
            let mut place = self.place(node).lock();
            if place.wanted && place.life.as_ref().is_none_or(|life| life.is_gone()) {
                place.life = Some(self.start(node));
            }
        }
    }

    fn start(self: &Arc<World>, node: u64) -> Arc<Life> {
        let told = |to: u64| {
            if to == node {
                self.environment.address(node)
            } else {
                self.environment.proxy(node, to)
            }
        };
        let addresses = nodes().map(|to| told(to).to_string()).collect();
        let part =
            Part { node, dir: self.environment.dir(node), settings: self.settings, addresses };
        let world = self.clone();
        let number = self.lives.fetch_add(1, Ordering::Relaxed);
        Life::start(
            number,
            &part,
            &self.environment.program(node),
            Box::new(move |life, what| world.hear(life, what)),
        )
    }

    /// Kills the process of a node, which then stays down until it is wanted.
    pub(crate) fn kill(&self, node: u64) {
        let mut place = self.place(node).lock();
        place.wanted = false;
        if let Some(life) = place.life.take() {
            life.kill();
        }
    }

    /// The process of a node, in whatever state, unless it is down.
    pub(crate) fn with_process(&self, node: u64, act: impl FnOnce(&Life)) {
        let life = self.place(node).lock().life.clone();
        if let Some(life) = life {
            act(&life);
        }
    }

    /// What a process says unasked.
    fn hear(&self, life: &Life, what: Option<&str>) {
        let node = life.node;
        match what.map(|what| what.split_once(' ').unwrap_or((what, ""))) {
            Some(("opened", _)) => self.figures.count("openings", 1),
            Some(("leads", term)) => self.crown(node, term.parse().expect("a number")),
            Some(("full", _)) => {
                self.figures.count("openings that found the disk full", 1);
                life.doom();
            }
            Some((_, what)) => self.violated(format!("node {node}: {what}")),
            None if life.is_doomed() => {}
            None => self.violated(format!("the process of node {node} ended by itself")),
        }
    }

    fn crown(&self, node: u64, term: u64) {
        self.figures.count("leaders", 1);
        let before = *self.leaders.lock().entry(term).or_insert(node);
        if before != node {
            self.violated(format!("A8: node {node} leads term {term}, which node {before} led"));
        }
        let mut leader = self.leader.lock();
        *leader = (*leader).max((term, node));
    }

    /// Who leads, as far as is known. 0 before anybody has led.
    pub(crate) fn leader(&self) -> u64 {
        self.leader.lock().1
    }

    /// An append was acknowledged: the ledger reaches as far as `end`.
    pub(crate) fn reached(&self, end: u64) {
        self.end.fetch_max(end, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Something that must not be. The first one counts.
    pub(crate) fn violated(&self, what: String) {
        let mut violation = self.violation.lock();
        if violation.is_none() {
            eprintln!("VIOLATION {what}");
            *violation = Some(what);
        }
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.lock().clone()
    }

    /// Hosts begin nothing new.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.violation.lock().is_some()
    }
}

/// Kills every process when the run is over, however it ends.
pub(crate) struct KillOnDrop(pub(crate) Arc<World>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.close();
        nodes().for_each(|node| self.0.kill(node));
    }
}
