//! The conformance suite, and random histories compared with the log in memory, on a disk that
//! crashes, fills up and fails.

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::super::simulated_disk::{CallFailure, CallFault, CallKind, SimulatedDisk};
use super::driver::log_on;
use crate::storage::Storage;
use crate::storage::conformance::model::{histories, live_through};
use crate::storage::conformance::{self, Harness};

/// A simulated disk as the harness of the suites.
struct Workbench {
    disk: SimulatedDisk,
    seed: u64,
}

impl Workbench {
    fn new(seed: u64) -> Workbench {
        Workbench { disk: SimulatedDisk::new(seed), seed }
    }
}

impl Harness for Workbench {
    fn fresh(&mut self) {
        self.seed += 1;
        self.disk = SimulatedDisk::new(self.seed);
    }

    fn handle(&mut self) -> Box<dyn Storage> {
        Box::new(log_on(&self.disk))
    }

    fn crash(&mut self) -> bool {
        self.disk = self.disk.crash();
        true
    }

    fn fail_next_sync(&mut self) -> bool {
        self.disk.plan(CallFault {
            on: CallKind::Sync,
            after: 0,
            times: 1,
            then: CallFailure::Error(std::io::ErrorKind::Other),
        });
        true
    }

    fn fill(&mut self, full: bool) -> bool {
        self.disk.set_room(full.then(|| self.disk.taken()));
        true
    }
}

#[test]
fn the_conformance_suite_holds_on_any_disk() {
    for seed in 0..4 {
        assert_eq!(conformance::run(&mut Workbench::new(seed << 32)), [""; 0]);
    }
}

/// Runs so many histories, and reports the first that failed.
fn live_through_many(cases: u32, seed: u8) {
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 5_000, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let lived = runner.run(&histories(60), |history| {
        live_through(&mut Workbench::new(history.len() as u64), &history);
        Ok::<(), TestCaseError>(())
    });
    lived.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

#[test]
fn any_history_goes_as_in_memory() {
    live_through_many(150, 1);
}

#[test]
#[ignore = "minutes"]
fn thousands_of_histories_go_as_in_memory() {
    (0..100).for_each(|seed| live_through_many(1_000, seed));
}
