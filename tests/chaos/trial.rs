//! One run: a group is started, used and troubled; then it is healed, struck once more, and judged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dledger::sim::check::check;

use crate::environment::Environment;
use crate::figures::Sheet;
use crate::hosts::{self, ClientProfile};
use crate::part::Settings;
use crate::readers::{self, read_some};
use crate::rng::Rng;
use crate::trouble::Trouble;
use crate::world::{KillOnDrop, World, nodes};

/// How long anything may take, once all is healed, before the run gives up on it. Never waited for
/// when all is well.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs for about `length`, and returns what it was like.
///
/// # Panics
/// If anything was seen that must not be.
pub(crate) fn run(environment: Environment, length: Duration, mut rng: Rng) -> Sheet {
    let settings = draw_settings(&mut rng, environment.has_volumes());
    println!("{length:?} of chaos: {settings:?}");
    let world = World::new(environment, settings, ClientProfile::draw(&mut rng));
    let _undertaker = KillOnDrop(world.clone());
    let mut trial =
        Trial { trouble: Trouble::new(world.clone(), Rng::from_seed(rng.draw())), world };
    trial.chaos(length, &mut rng);
    trial.afterwards();
    trial.judge();
    let sheet = trial.world.figures.sheet();
    println!("{sheet}");
    sheet
}

fn draw_settings(rng: &mut Rng, power_fails: bool) -> Settings {
    let segment_bytes = [64 << 10, 256 << 10, 1 << 20, 4 << 20][rng.below(4) as usize];
    // Who loses power before a sync loses what it confirmed: that is no fault of an asynchronous
    // flush.
    let flush_ms = if power_fails || rng.once_in(2) { 0 } else { 1 + rng.below(200) };
    Settings { seed: rng.draw(), segment_bytes, flush_ms }
}

struct Trial {
    world: Arc<World>,
    trouble: Trouble,
}

impl Trial {
    fn chaos(&mut self, length: Duration, rng: &mut Rng) {
        let world = &self.world;
        nodes().for_each(|node| world.want(node));
        let hosts = hosts::start(world, rng);
        let readers = readers::start(world, rng);
        self.trouble.make(Instant::now() + length);
        self.trouble.heal();
        self.wait_until("all nodes are open", |world| {
            nodes().all(|node| world.life(node).is_some())
        });
        self.trouble.pass(Duration::from_secs(1));
        self.world.close();
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
        nodes().for_each(|node| self.world.kill(node));
        nodes().for_each(|node| self.world.environment.cut_power(node));
        nodes().for_each(|node| self.world.want(node));
        self.wait_until("all nodes are open again", |world| {
            nodes().all(|node| world.life(node).is_some())
        });
        let last = self.append();
        for node in nodes() {
            self.read_all(node, last + 1);
        }
    }

    fn append(&mut self) -> u64 {
        let mut index = None;
        self.wait_until("an append is acknowledged", |world| {
            let lives = nodes().filter_map(|node| world.life(node));
            index = lives.filter_map(|life| hosts::append_once(world, &life, PATIENCE)).next();
            index.is_some()
        });
        index.expect("it was waited for")
    }

    /// Reads everything that a node retains, up to `end`, where the ledger must end.
    fn read_all(&mut self, node: u64, end: u64) {
        let mut next = 0;
        self.wait_until("a node has the whole ledger", |world| {
            let life = world.life(node).expect("all is healed");
            while let Some(reached) =
                read_some(world, &life, next).filter(|reached| *reached != next)
            {
                next = reached;
            }
            next >= end
        });
        if next != end {
            self.world.violated(format!(
                "node {node} ends at {next}, where the last append was acknowledged as entry {}",
                end - 1
            ));
        }
        self.demand_soundness();
    }

    fn judge(&self) {
        let (history, ledger) = (self.world.record.take(), self.world.book.ledger());
        println!(
            "{} operations and {} entries are checked",
            history.operations.len(),
            ledger.payloads.len()
        );
        if let Err(anomaly) = check(&history, &ledger) {
            self.world.violated(anomaly.to_string());
        }
        self.demand_soundness();
        for node in nodes() {
            let life = self.world.life(node).expect("all is healed");
            life.doom();
            let answer = life.ask_and_wait("stop", PATIENCE);
            assert_eq!(answer.as_deref(), Some("done"), "node {node} did not stop in good order");
            assert!(life.wait(), "node {node} did not end well");
        }
    }

    fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&World) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.world) {
            self.demand_soundness();
            if Instant::now() > deadline {
                self.world.violated(format!("waited in vain until {what}"));
            }
            self.trouble.pass(Duration::from_millis(20));
        }
    }

    fn demand_soundness(&self) {
        if let Some(violation) = self.world.violation() {
            panic!("VIOLATION {violation}\n{}", self.world.figures.sheet());
        }
    }
}
