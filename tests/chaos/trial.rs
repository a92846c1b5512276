//! One run: a group is started, used and troubled; then it is healed, struck once more, and judged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dledger::sim::check::check;

use crate::cluster::{Cluster, KillOnDrop, nodes};
use crate::config::Settings;
use crate::environment::Environment;
use crate::faults::FaultInjector;
use crate::figures::Sheet;
use crate::hosts::{self, ClientProfile};
use crate::readers::{self, read_some};
use crate::rng::Rng;

/// How long anything may take, once all is healed, before the run gives up on it. Never waited for
/// when all is well.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Runs for about `length`, and returns what it was like.
///
/// # Panics
/// If anything was seen that must not be.
pub(crate) fn run(environment: Environment, length: Duration, mut rng: Rng) -> Sheet {
    let settings = draw_settings(&mut rng, environment.has_volumes());
    println!("{length:?} of chaos: {settings:?}");
    let cluster = Cluster::new(environment, settings, ClientProfile::draw(&mut rng));
    let _kill_on_drop = KillOnDrop(cluster.clone());
    let mut trial =
        Trial { faults: FaultInjector::new(cluster.clone(), Rng::from_seed(rng.draw())), cluster };
    trial.chaos(length, &mut rng);
    trial.afterwards();
    trial.judge();
    let sheet = trial.cluster.figures.sheet();
    println!("{sheet}");
    sheet
}

fn draw_settings(rng: &mut Rng, power_fails: bool) -> Settings {
    let segment_bytes = [64 << 10, 256 << 10, 1 << 20, 4 << 20][rng.below(4) as usize];
    // A node that loses power before a sync loses what it confirmed: that is no fault of an
    // asynchronous flush.
    let flush_ms = if power_fails || rng.once_in(2) { 0 } else { 1 + rng.below(200) };
    Settings { seed: rng.draw(), segment_bytes, flush_ms }
}

struct Trial {
    cluster: Arc<Cluster>,
    faults: FaultInjector,
}

impl Trial {
    fn chaos(&mut self, length: Duration, rng: &mut Rng) {
        let cluster = &self.cluster;
        nodes().for_each(|node| cluster.want(node));
        let hosts = hosts::start(cluster, rng);
        let readers = readers::start(cluster, rng);
        self.faults.run(Instant::now() + length);
        self.faults.heal();
        self.wait_until("all nodes are open", |cluster| {
            nodes().all(|node| cluster.process(node).is_some())
        });
        self.faults.pass(Duration::from_secs(1));
        self.cluster.close();
        let idle = hosts
            .into_iter()
            .map(|host| host.join().expect("hosts do not panic"))
            .filter(|idle| *idle)
            .count();
        readers.into_iter().for_each(|reader| reader.join().expect("readers do not panic"));
        self.demand_soundness();
        assert_eq!(
            idle,
            hosts::HOSTS as usize,
            "some calls never ended, though every call has its time"
        );
    }

    /// Everything is healed. It must take appends, and must do so again after the end of all
    /// processes at once.
    fn afterwards(&mut self) {
        self.append();
        nodes().for_each(|node| self.cluster.kill(node));
        nodes().for_each(|node| self.cluster.environment.cut_power(node));
        nodes().for_each(|node| self.cluster.want(node));
        self.wait_until("all nodes are open again", |cluster| {
            nodes().all(|node| cluster.process(node).is_some())
        });
        let last = self.append();
        for node in nodes() {
            self.read_all(node, last + 1);
        }
    }

    fn append(&mut self) -> u64 {
        let mut index = None;
        self.wait_until("an append is acknowledged", |cluster| {
            let processes = nodes().filter_map(|node| cluster.process(node));
            index = processes
                .filter_map(|process| hosts::append_once(cluster, &process, TIMEOUT))
                .next();
            index.is_some()
        });
        index.expect("it was waited for")
    }

    /// Reads everything that a node retains, up to `end`, where the ledger must end.
    fn read_all(&mut self, node: u64, end: u64) {
        let mut next = 0;
        self.wait_until("a node has the whole ledger", |cluster| {
            let process = cluster.process(node).expect("all is healed");
            while let Some(reached) =
                read_some(cluster, &process, next).filter(|reached| *reached != next)
            {
                next = reached;
            }
            next >= end
        });
        if next != end {
            self.cluster.violated(format!(
                "node {node} ends at {next}, where the last append was acknowledged as entry {}",
                end - 1
            ));
        }
        self.demand_soundness();
    }

    fn judge(&self) {
        let (history, ledger) = (self.cluster.record.take(), self.cluster.seen.ledger());
        println!(
            "{} operations and {} entries are checked",
            history.operations.len(),
            ledger.payloads.len()
        );
        if let Err(anomaly) = check(&history, &ledger) {
            self.cluster.violated(anomaly.to_string());
        }
        self.demand_soundness();
        for node in nodes() {
            let process = self.cluster.process(node).expect("all is healed");
            process.expect_end();
            let answer = process.ask_and_wait("stop", TIMEOUT);
            assert_eq!(answer.as_deref(), Some("done"), "node {node} did not stop in good order");
            assert!(process.wait(), "node {node} did not end well");
        }
    }

    fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Cluster) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !holds(&self.cluster) {
            self.demand_soundness();
            if Instant::now() > deadline {
                self.cluster.violated(format!("waited in vain until {what}"));
            }
            self.faults.pass(Duration::from_millis(20));
        }
    }

    fn demand_soundness(&self) {
        if let Some(violation) = self.cluster.violation() {
            panic!("VIOLATION {violation}\n{}", self.cluster.figures.sheet());
        }
    }
}
