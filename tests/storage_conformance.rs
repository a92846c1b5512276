//! The storages that come with the crate, put to the suite that anyone's storage can be put to.

use std::panic;
use std::thread;

use dledger::storage::{MemoryLog, SegmentOptions, SegmentedLog, Storage, conformance};
use tempfile::TempDir;

#[derive(Default)]
struct Memory(MemoryLog);

impl conformance::Harness for Memory {
    fn fresh(&mut self) {
        self.0 = MemoryLog::new();
    }

    fn handle(&mut self) -> Box<dyn Storage> {
        Box::new(self.0.clone())
    }

    fn start(&mut self, work: Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce()> {
        on_a_thread(work)
    }

    fn crash(&mut self) -> bool {
        self.0.crash();
        true
    }

    fn fail_next_sync(&mut self) -> bool {
        self.0.fail_next_sync();
        true
    }

    fn fill(&mut self, full: bool) -> bool {
        self.0.set_full(full);
        true
    }
}

/// Segments as small as they can be, so that every case rolls. A real disk can be neither crashed
/// nor filled here: other tests do that.
struct Segmented(TempDir);

impl conformance::Harness for Segmented {
    fn fresh(&mut self) {
        self.0 = TempDir::new().expect("a temporary directory");
    }

    fn handle(&mut self) -> Box<dyn Storage> {
        let mut options = SegmentOptions::default();
        options.segment_bytes = SegmentOptions::SEGMENT_BYTES_MIN;
        Box::new(SegmentedLog::new(self.0.path().join("log"), options))
    }

    fn start(&mut self, work: Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce()> {
        on_a_thread(work)
    }
}

fn on_a_thread(work: Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce()> {
    let thread = thread::spawn(work);
    Box::new(move || thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)))
}

#[test]
fn the_segmented_log_keeps_every_rule() {
    let left_out = conformance::run(&mut Segmented(TempDir::new().unwrap()));
    println!("not tried on a real disk: {left_out:?}");
}

#[test]
fn the_log_in_memory_keeps_every_rule() {
    assert_eq!(conformance::run(&mut Memory::default()), [""; 0]);
}
