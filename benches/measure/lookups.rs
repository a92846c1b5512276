//! Reads: random and in order, of the ledger and of the raw map beside it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use dledger::DLedger;

use super::raw_records::RawRecords;

/// The payload of every entry that is looked up, in bytes.
pub(crate) const PAYLOAD: usize = 1 << 10;

/// Entries in a batch while a log is filled: as large as a busy host's.
const FILL_BATCH: u64 = 256;

/// Appends `count` entries of [`PAYLOAD`] bytes.
pub(crate) fn fill(ledger: &DLedger, count: u64) {
    let batch = vec![[0x5a; PAYLOAD]; FILL_BATCH as usize];
    let mut appended = 0;
    while appended < count {
        let next = FILL_BATCH.min(count - appended);
        ledger.append_batch(&batch[..next as usize]).expect("a healthy node acknowledges");
        appended += next;
    }
}

/// Numbers below `below` in no order, the same ones at every run.
pub(crate) struct Shuffled {
    state: u64,
    below: u64,
}

impl Shuffled {
    pub(crate) fn new(seed: u64, below: u64) -> Shuffled {
        Shuffled { state: seed | 1, below }
    }
}

impl Iterator for Shuffled {
    type Item = u64;

    /// Xorshift.
    fn next(&mut self) -> Option<u64> {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        Some(((u128::from(self.state) * u128::from(self.below)) >> 64) as u64)
    }
}

/// Gets the entries of these numbers.
pub(crate) fn get_each(ledger: &DLedger, indexes: impl Iterator<Item = u64>) -> Duration {
    let began = Instant::now();
    for index in indexes {
        let entry = ledger.get(index).expect("the log is whole");
        black_box(&entry.expect("it is committed")[..]);
    }
    began.elapsed()
}

/// The same, of the raw records.
pub(crate) fn read_each(records: &RawRecords, numbers: impl Iterator<Item = u64>) -> Duration {
    let began = Instant::now();
    for number in numbers {
        black_box(records.read(number));
    }
    began.elapsed()
}

/// Reads `count` entries from the first on, in order.
pub(crate) fn read_in_order(ledger: &DLedger, count: u64) -> Duration {
    let began = Instant::now();
    let mut seen = 0;
    for entry in ledger.read(0).take(count as usize) {
        black_box(&entry.expect("the log is whole")[..]);
        seen += 1;
    }
    assert_eq!(seen, count, "the log is as long as it was made");
    began.elapsed()
}
