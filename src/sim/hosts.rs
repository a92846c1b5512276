//! Several groups in each process: one simulated connection for each direction between two
//! processes, presence of processes, sleep, and groups that are removed and made anew.
//!
//! [`run`] draws two to four groups over the same hosts. A crash, a power cut or a pause hits all
//! groups of a host at once; a failed disk or a shutdown hits one. Each group has its own clients,
//! its own monitor and its own history, as in a run of [one group](super::run). What is checked of
//! the hosts:
//!
//! - **A15** No message of one group reaches another, nor one of a group that was removed its
//!   successor, nor one of an earlier process. A connection ends only if a link, a process or a
//!   timer ends it: a refusal, a failed or a closed group does not.
//! - **A16** A removal that was begun durably is finished, whatever crashes, and stays.
//!
//! After the faults every group makes progress and agrees, those that sleep fall asleep when they
//! are left alone, and have a leader again after the host that led them is gone.
//!
//! Real are, besides the parts of a [run of one group](super): the queue of a peer with its slots
//! and gathered beats, the slots of an inbound connection, the state of a group on a port, the
//! handshakes, the frames and the tombstones. The threads and sockets around them are simulated
//! (`dialling.rs`, `accepting.rs`, `presence.rs`), and so is the directory of the host (`disk.rs`).
//!
//! ```
//! let report = dledger::sim::hosts::run(7);
//! assert_eq!(report.violation, None);
//! ```

mod accepting;
mod config;
mod dialling;
mod disk;
mod event;
mod faults;
mod groups;
mod healing;
mod host;
mod presence;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::config::HostsConfig;
use self::disk::HostDisk;
use self::event::HostEvent;
use self::host::Host;
use self::wire::Connection;
use super::cluster::Cluster;
use super::event_queue::EventQueue;
use super::network::Network;
use super::rng::Rng;
use super::time::Micros;
use super::trace::{CoverageCounts, Lines, Trace};
use super::{Report, trace};
use crate::transport::tcp::some_instant;

/// Runs a seed.
pub fn run(seed: u64) -> Report {
    report(seed, None)
}

/// Runs a seed, and gives `lines` a readable line for each event.
pub fn run_traced(seed: u64, lines: impl FnMut(&str) + Send + 'static) -> Report {
    report(seed, Some(Box::new(lines)))
}

fn report(seed: u64, lines: Option<trace::Lines>) -> Report {
    let mut hosts = Hosts::new(seed, lines);
    hosts.run();
    for group in 0..hosts.groups.len() {
        hosts.add_up(group);
    }
    Report {
        seed,
        violation: hosts.violation.take(),
        hash: hosts.trace.hash(),
        simulated: Duration::from_micros(hosts.queue.now),
        events: hosts.events,
        operations: hosts.operations,
        coverage: hosts.coverage,
        options: "--hosts ",
    }
}

/// One group, in its present generation.
struct Group {
    generation: u64,
    cluster: Cluster,
    /// What its nodes have sent: their process, and a hash of the message.
    sent: BTreeMap<(usize, u64), u32>,
    /// `Some` while it is removed: the hosts where it is gone, or certain to go.
    removal: Option<Vec<Gone>>,
}

/// The removal of a group from one host.
#[derive(Clone, Copy, Default)]
struct Gone {
    is_certain: bool,
    is_done: bool,
}

/// All hosts of a run: see the [module](self).
struct Hosts {
    config: HostsConfig,
    queue: EventQueue<HostEvent>,
    rng: Rng,
    trace: Trace,
    lines: Option<Arc<Mutex<Lines>>>,
    coverage: CoverageCounts,
    violation: Option<String>,
    groups: Vec<Group>,
    hosts: Vec<Host>,
    /// Which links are cut or stalled.
    links: Network,
    connections: BTreeMap<u64, Connection>,
    /// Number of connections and processes so far.
    made: u64,
    /// The group and the generation of each data directory.
    directories: BTreeMap<u128, (usize, u64)>,
    /// The time of the queues of the transport that stands for the beginning of the run. Only
    /// differences matter.
    beginning: Instant,
    healed: bool,
    events: u64,
    operations: u64,
}

/// A writer of lines that are marked as those of a group.
fn lines_of(lines: &Option<Arc<Mutex<Lines>>>, mark: String) -> Option<Lines> {
    let lines = lines.clone()?;
    Some(Box::new(move |line| lines.lock()(&format!("{mark} {line}"))))
}

impl Hosts {
    fn new(seed: u64, lines: Option<Lines>) -> Hosts {
        let rng = Rng::new(seed);
        let config = HostsConfig::draw(&mut rng.fork(1));
        let lines = lines.map(|lines| Arc::new(Mutex::new(lines)));
        let (count, hosts) = (config.groups.len(), config.hosts());
        let faults = config.base.network_faults.clone();
        let mut made = Hosts {
            queue: EventQueue::default(),
            trace: Trace::new(lines_of(&lines, "hosts  ".to_owned())),
            lines,
            coverage: CoverageCounts::default(),
            violation: None,
            groups: Vec::new(),
            hosts: (0..hosts)
                .map(|number| Host {
                    disk: HostDisk::new(rng.fork(100 + number as u64).next(), count),
                    process: None,
                    paused_until: 0,
                })
                .collect(),
            links: Network::new(hosts, faults, rng.fork(2)),
            connections: BTreeMap::new(),
            made: 0,
            directories: BTreeMap::new(),
            beginning: some_instant(),
            healed: false,
            events: 0,
            operations: 0,
            rng: rng.fork(4),
            config,
        };
        made.note(&[], || "the run begins".to_owned());
        for group in 0..count {
            let group = made.make_group(group, 1);
            made.groups.push(group);
        }
        made
    }

    /// A generation of a group, open nowhere yet.
    fn make_group(&mut self, group: usize, generation: u64) -> Group {
        let mark = format!("group {}.{generation}", group + 1);
        let rng = Rng::new(self.rng.next());
        let config = self.config.groups[group].clone();
        let salt = ((group as u64 + 1) << 56) | (generation << 48) | 0x5a;
        let lines = lines_of(&self.lines, mark);
        let mut cluster = Cluster::hosted(config, rng, lines, salt);
        cluster.pass_to(self.queue.now);
        cluster.start_clients();
        Group { generation, cluster, sent: BTreeMap::new(), removal: None }
    }

    fn note(&mut self, numbers: &[u64], text: impl FnOnce() -> String) {
        self.trace.note(self.queue.now, numbers, text);
    }

    /// Reports a violation. The first is kept.
    fn violated(&mut self, violation: impl Into<String>) {
        let violation = violation.into();
        self.note(&[0xbad], || format!("VIOLATION {violation}"));
        self.violation.get_or_insert(violation);
    }

    /// The time of the queues of the transport.
    fn instant(&self, at: Micros) -> Instant {
        self.beginning + Duration::from_micros(at)
    }

    /// Handles events until `end`, or until `enough`. Returns whether it was enough.
    fn run_until(&mut self, end: Micros, enough: impl Fn(&Hosts) -> bool) -> bool {
        while self.violation.is_none() {
            if enough(self) {
                return true;
            }
            if self.queue.now >= end || !self.step() {
                return false;
            }
        }
        false
    }

    /// The next event of the hosts or of a group. False if there is none.
    fn step(&mut self) -> bool {
        let of_groups = self.groups.iter().enumerate();
        let next =
            of_groups.filter_map(|(group, it)| Some((it.cluster.queue.next_at()?, group))).min();
        let own = self.queue.next_at();
        match (own, next) {
            (None, None) => return false,
            (Some(at), next) if next.is_none_or(|(other, _)| at <= other) => {
                let Some(event) = self.queue.next() else { return false };
                self.events += 1;
                self.handle(event);
            }
            (_, Some((at, group))) => {
                self.queue.now = at;
                self.groups[group].cluster.step();
                self.settle(group);
            }
            (Some(_), None) => unreachable!("the first of two"),
        }
        true
    }

    fn handle(&mut self, event: HostEvent) {
        match event {
            HostEvent::Dial { host, process, peer } => self.dial(host, process, peer),
            HostEvent::Write { host, process, peer } => self.write(host, process, peer),
            HostEvent::Arrive { connection, way } => self.arrive(connection, way),
            HostEvent::Probe { host, process } => self.probe(host, process),
            HostEvent::ReportEnd { host, process, peer, groups } => {
                self.report_end(host, process, peer, groups);
            }
            HostEvent::Fault if self.healed => {}
            HostEvent::Fault => self.begin_fault(),
            HostEvent::Reconnect(_) if self.healed => {}
            HostEvent::Reconnect(links) => {
                links.into_iter().for_each(|(from, to)| self.links.reconnect(from, to));
            }
            HostEvent::Relief(host) => self.relieve(host),
            HostEvent::Restart(host) => self.start(host),
            HostEvent::Open { group, generation, host } => self.open(group, generation, host),
            HostEvent::Remove { group, generation, host } => self.remove(group, generation, host),
        }
    }

    /// Adds what a group has counted.
    fn add_up(&mut self, group: usize) {
        let cluster = &self.groups[group].cluster;
        self.events += cluster.events;
        self.operations += cluster.operations();
        let (violation, hash, coverage) = {
            let monitor = cluster.monitor();
            (monitor.violation().cloned(), monitor.trace.hash(), monitor.coverage.clone())
        };
        self.coverage.add(&coverage);
        self.note(&[hash], || format!("group {} is added up", group + 1));
        if let Some(violation) = violation {
            self.violated(format!("group {}: {violation}", group + 1));
        }
    }
}
