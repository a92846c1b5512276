//! The storages that come with the crate, put to the suite that anyone's storage can be put to.

use std::panic;
use std::thread;

use dledger::storage::{MemoryLog, Storage, conformance};

#[derive(Default)]
struct Memory(MemoryLog);

impl conformance::Bench for Memory {
    fn fresh(&mut self) {
        self.0 = MemoryLog::new();
    }

    fn handle(&mut self) -> Box<dyn Storage> {
        Box::new(self.0.clone())
    }

    fn start(&mut self, work: Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce()> {
        let thread = thread::spawn(work);
        Box::new(move || thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)))
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

#[test]
fn the_log_in_memory_keeps_every_rule() {
    assert_eq!(conformance::check(&mut Memory::default()), [""; 0]);
}
