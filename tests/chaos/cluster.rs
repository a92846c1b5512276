//! The group and its environment, shared by the threads of a run.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::config::{ProcessConfig, Settings};
use crate::environment::{Environment, NODES};
use crate::figures::Figures;
use crate::hosts::ClientProfile;
use crate::links::{Link, Route};
use crate::process::Process;
use crate::record::Record;
use crate::rng::Rng;
use crate::seen_entries::SeenEntries;

/// See the [module](self).
pub(crate) struct Cluster {
    pub(crate) settings: Settings,
    pub(crate) environment: Environment,
    pub(crate) record: Record,
    pub(crate) seen: SeenEntries,
    pub(crate) figures: Arc<Figures>,
    pub(crate) profile: Mutex<ClientProfile>,
    links: Vec<Arc<Link>>,
    places: Vec<Mutex<Place>>,
    next_process: AtomicU32,
    /// Who leads, as far as is known here, and in which term.
    leader: Mutex<(u64, u64)>,
    /// Who ever led which term.
    leaders: Mutex<HashMap<u64, u64>>,
    /// Behind the newest index that was acknowledged.
    end: AtomicU64,
    violation: Mutex<Option<String>>,
    closing: AtomicBool,
}

/// The process of a node, and whether it should run.
#[derive(Default)]
struct Place {
    process: Option<Arc<Process>>,
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

impl Cluster {
    /// Opens the links between the nodes, and starts no node.
    pub(crate) fn new(
        environment: Environment,
        settings: Settings,
        profile: ClientProfile,
    ) -> Arc<Cluster> {
        let figures = Arc::new(Figures::default());
        let mut rng = Rng::from_seed(!settings.seed);
        let links: Vec<Arc<Link>> =
            (0..NODES * NODES).map(|_| Link::new(rng.draw(), figures.clone())).collect();
        let cluster = Cluster {
            settings,
            environment,
            record: Record::default(),
            seen: SeenEntries::default(),
            figures,
            profile: Mutex::new(profile),
            links,
            places: nodes().map(|_| Mutex::default()).collect(),
            next_process: AtomicU32::new(0),
            leader: Mutex::default(),
            leaders: Mutex::default(),
            end: AtomicU64::new(0),
            violation: Mutex::default(),
            closing: AtomicBool::new(false),
        };
        for (from, to) in pairs() {
            let (listen, source) =
                (cluster.environment.proxy(from, to), cluster.environment.face(from));
            let target = cluster.environment.address(to);
            cluster.link(from, to).open(cluster.link(to, from), Route { listen, source, target });
        }
        Arc::new(cluster)
    }

    pub(crate) fn link(&self, from: u64, to: u64) -> &Arc<Link> {
        &self.links[((from - 1) * NODES + to - 1) as usize]
    }

    /// The process of a node, if it is up and answers.
    pub(crate) fn process(&self, node: u64) -> Option<Arc<Process>> {
        self.place(node).lock().process.clone().filter(|process| process.is_open())
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
    pub(crate) fn start_what_is_wanted(self: &Arc<Cluster>) {
        for node in nodes() {
            let mut place = self.place(node).lock();
            if place.wanted && place.process.as_ref().is_none_or(|process| process.is_gone()) {
                place.process = Some(self.start(node));
            }
        }
    }

    fn start(self: &Arc<Cluster>, node: u64) -> Arc<Process> {
        let told = |to: u64| {
            if to == node {
                self.environment.address(node)
            } else {
                self.environment.proxy(node, to)
            }
        };
        let addresses = nodes().map(|to| told(to).to_string()).collect();
        let config = ProcessConfig {
            node,
            dir: self.environment.dir(node),
            settings: self.settings,
            addresses,
        };
        let cluster = self.clone();
        let number = self.next_process.fetch_add(1, Ordering::Relaxed);
        Process::start(
            number,
            &config,
            &self.environment.program(node),
            Box::new(move |process, what| cluster.handle_notice(process, what)),
        )
    }

    /// Kills the process of a node, which then stays down until it is wanted.
    pub(crate) fn kill(&self, node: u64) {
        let mut place = self.place(node).lock();
        place.wanted = false;
        if let Some(process) = place.process.take() {
            process.kill();
        }
    }

    /// The process of a node, in whatever state, unless it is down.
    pub(crate) fn with_process(&self, node: u64, act: impl FnOnce(&Process)) {
        let process = self.place(node).lock().process.clone();
        if let Some(process) = process {
            act(&process);
        }
    }

    /// A notice of a process, or its end (`None`).
    fn handle_notice(&self, process: &Process, what: Option<&str>) {
        let node = process.node;
        match what.map(|what| what.split_once(' ').unwrap_or((what, ""))) {
            Some(("opened", _)) => self.figures.count("openings", 1),
            Some(("leads", term)) => self.leader_elected(node, term.parse().expect("a number")),
            Some(("full", _)) => {
                self.figures.count("openings that found the disk full", 1);
                process.expect_end();
            }
            Some((_, what)) => self.violated(format!("node {node}: {what}")),
            None if process.may_end() => {}
            None => self.violated(format!("the process of node {node} ended by itself")),
        }
    }

    fn leader_elected(&self, node: u64, term: u64) {
        self.figures.count("leaders", 1);
        let before = *self.leaders.lock().entry(term).or_insert(node);
        if before != node {
            self.violated(format!("A8: node {node} leads term {term}, which node {before} led"));
        }
        let mut leader = self.leader.lock();
        *leader = (*leader).max((term, node));
    }

    /// Who leads, as far as is known. 0 before the first leader.
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

    /// Records a violation. The first one counts.
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
pub(crate) struct KillOnDrop(pub(crate) Arc<Cluster>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.close();
        nodes().for_each(|node| self.0.kill(node));
    }
}
