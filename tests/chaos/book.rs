//! What was ever seen of the ledger, on any node: once an entry was shown, nobody may show another
//! in its place.

use dledger::sim::check::{ANY, Ledger};
use parking_lot::Mutex;

/// Everything that was read from any node.
#[derive(Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    /// The payload at each index, and the stamp over the rest of the entry.
    entries: Vec<Option<(u64, u32)>>,
    /// Below this index everything was seen.
    whole: usize,
}

impl Book {
    /// A node shows these entries, from index `from` on.
    pub(crate) fn show(&self, node: u64, from: u64, shown: &[(u64, u32)]) -> Result<(), String> {
        let mut pages = self.0.lock();
        let from = from as usize;
        if pages.entries.len() < from + shown.len() {
            pages.entries.resize(from + shown.len(), None);
        }
        for (index, &entry) in (from..).zip(shown) {
            match pages.entries[index].replace(entry) {
                Some(before) if before != entry => {
                    return Err(format!(
                        "A5: node {node} shows {entry:?} at index {index}, where {before:?} was \
                         shown before"
                    ));
                }
                _ => {}
            }
        }
        while pages.entries.get(pages.whole).is_some_and(Option::is_some) {
            pages.whole += 1;
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
