//! The history of the hosts: calls and outcomes, in the form that the checker reads.

use dledger::sim::check::{History, Invocation, NEVER, Operation, Outcome};
use parking_lot::Mutex;

/// The history, while it is being made. A call that never ends stays as it began, with an
/// unknown outcome.
#[derive(Default)]
pub(crate) struct Record(Mutex<State>);

#[derive(Default)]
struct State {
    history: History,
    /// Every moment of the history is one more.
    moment: u64,
    offered: u64,
}

impl Record {
    /// A batch of `count` payloads is about to be offered. Returns the call and the number of the
    /// first payload.
    pub(crate) fn offer(&self, session: u32, count: u32) -> (usize, u64) {
        let mut state = self.0.lock();
        let first = state.offered;
        state.offered += u64::from(count);
        (
            state.begin(session, Invocation::Append { first, count, outcome: Outcome::Unknown }),
            first,
        )
    }

    /// Something is about to be read. Until it is answered it says nothing.
    pub(crate) fn begin_read(&self, session: u32) -> usize {
        self.0.lock().begin(session, Invocation::Get { index: 0, found: None, linearizable: false })
    }

    pub(crate) fn end_append(&self, call: usize, outcome: Outcome) {
        let mut state = self.0.lock();
        if let Invocation::Append { outcome: recorded, .. } =
            &mut state.history.operations[call].what
        {
            *recorded = outcome;
        }
        state.end(call);
    }

    pub(crate) fn end_read(&self, call: usize, what: Invocation) {
        let mut state = self.0.lock();
        state.history.operations[call].what = what;
        state.end(call);
    }

    /// All of it, once nothing is added any more.
    pub(crate) fn take(&self) -> History {
        std::mem::take(&mut self.0.lock().history)
    }
}

impl State {
    fn begin(&mut self, session: u32, what: Invocation) -> usize {
        self.moment += 1;
        self.history.operations.push(Operation { session, began: self.moment, ended: NEVER, what });
        self.history.operations.len() - 1
    }

    fn end(&mut self, call: usize) {
        self.moment += 1;
        self.history.operations[call].ended = self.moment;
    }
}
