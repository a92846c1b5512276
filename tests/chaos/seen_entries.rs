//! The entries that any node ever showed: no node may show another entry at the same index.

use dledger::sim::check::{ANY, Ledger};
use parking_lot::Mutex;

/// Everything that was read from any node.
#[derive(Default)]
pub(crate) struct SeenEntries(Mutex<State>);

#[derive(Default)]
struct State {
    /// The payload at each index, and the stamp over the rest of the entry.
    entries: Vec<Option<(u64, u32)>>,
    /// Below this index everything was seen.
    whole: usize,
}

impl SeenEntries {
    /// Adds entries that a node shows, from index `from` on. An error if one of them contradicts an
    /// earlier one.
    pub(crate) fn add(&self, node: u64, from: u64, shown: &[(u64, u32)]) -> Result<(), String> {
        let mut state = self.0.lock();
        let from = from as usize;
        if state.entries.len() < from + shown.len() {
            state.entries.resize(from + shown.len(), None);
        }
        for (index, &entry) in (from..).zip(shown) {
            match state.entries[index].replace(entry) {
                Some(before) if before != entry => {
                    return Err(format!(
                        "A5: node {node} shows {entry:?} at index {index}, where {before:?} was \
                         shown before"
                    ));
                }
                _ => {}
            }
        }
        while state.entries.get(state.whole).is_some_and(Option::is_some) {
            state.whole += 1;
        }
        Ok(())
    }

    /// Below this index everything was seen on some node.
    pub(crate) fn whole(&self) -> u64 {
        self.0.lock().whole as u64
    }

    pub(crate) fn ledger(&self) -> Ledger {
        let payloads = self
            .0
            .lock()
            .entries
            .iter()
            .map(|entry| entry.map_or(ANY, |(payload, _)| payload))
            .collect();
        Ledger { first: 0, payloads }
    }
}
