//! A clock that was far ahead is reported.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use dledger::storage::{
    Base, Batch, HardState, LogOwner, LogReader, MemoryLog, PendingSync, Recovered, Storage,
    StorageError,
};
use dledger::{DLedger, NodeId};

use crate::group::eventually;

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        WARNINGS.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// How often it was warned of the clock.
fn warnings() -> usize {
    let warnings = WARNINGS.lock().unwrap();
    warnings.iter().filter(|text| text.contains("correct the clocks of all nodes")).count()
}

/// A log whose first entry was appended an hour from now.
struct FromTheFuture {
    log: MemoryLog,
    batch: Batch,
}

impl Storage for FromTheFuture {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        let mut recovered = self.log.open(owner)?;
        let last = self.batch.point_after(&recovered.base.point).unwrap();
        self.log.append(std::slice::from_ref(&self.batch), last.raft_index)?;
        self.log.begin_sync().wait()?;
        (recovered.last, recovered.hard_state.commit) = (last, last.raft_index);
        Ok(recovered)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.log.reader()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.log.append(batches, commit)
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.log.save_hard_state(hard_state)
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.log.reset(base)
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.log.purge(index, commit)
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.log.save_peer(peer, directory)
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        self.log.begin_sync()
    }
}

/// The batch of an append, as if it had been closed at another time.
fn batch_of(timestamp: u64) -> Batch {
    const TIMESTAMP_AT: usize = 24;
    let log = MemoryLog::new();
    let reader = log.reader();
    let ledger = DLedger::builder(1).storage(log).open().unwrap();
    ledger.append("an hour from now").unwrap();
    let batch = reader.batch_containing(0).unwrap().expect("it was appended");
    let mut body = batch.body().to_vec();
    body[TIMESTAMP_AT..TIMESTAMP_AT + 8].copy_from_slice(&timestamp.to_le_bytes());
    Batch::new(2, 1, body.into()).unwrap()
}

facts! {
    fn a_ledger_from_the_future_is_warned_of_once() {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let later = now + 3_600_000;
        let batch = batch_of(later);
        assert_eq!(warnings(), 0, "nothing is wrong yet");

        let storage = FromTheFuture { log: MemoryLog::new(), batch };
        let ledger = DLedger::builder(1).storage(storage).open().unwrap();
        eventually("it is told at the opening", || warnings() == 1);
        let index = ledger.append("now").unwrap();
        let entry = ledger.get(index).unwrap().expect("it was acknowledged");
        assert_eq!(entry.timestamp(), later, "time does not go back along a ledger");
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(warnings(), 1, "once is enough");
        let text = WARNINGS.lock().unwrap().concat();
        assert!(text.contains(&later.to_string()) && text.contains(" s earlier"), "{text}");
    }
}
