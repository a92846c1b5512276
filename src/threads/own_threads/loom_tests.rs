//! Every schedule of an engine that begins syncs and the thread that waits for them.

use super::*;
use crate::engine::SyncId;
use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::primitives::channel::unbounded;
use crate::primitives::three_preemptions;
use crate::spin::SPIN_DEFAULT;
use crate::storage::{PendingSync, StorageError};

/// Covers all that was written before it was begun.
struct Sync {
    number: u64,
    durable: Arc<AtomicU64>,
}

impl PendingSync for Sync {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        self.durable.fetch_max(self.number, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn one_sync_covers_those_before_it_and_none_is_forgotten() {
    three_preemptions(|| {
        let durable = Arc::new(AtomicU64::new(0));
        let (jobs, work) = unbounded();
        let (notices, inputs) = unbounded();
        let waiter = thread::spawn(move || wait_for_syncs(&work, &notices, SPIN_DEFAULT));
        for number in 1..=2 {
            let pending = Box::new(Sync { number, durable: durable.clone() });
            jobs.send(SyncJob { number: SyncId::of(number), pending })
                .unwrap_or_else(|_| panic!("it takes every job"));
        }
        let mut synced = SyncId::of(0);
        while synced < SyncId::of(2) {
            let Ok(Input::Synced(number, Ok(()))) = inputs.recv() else {
                panic!("a sync was forgotten")
            };
            assert!(number > synced, "told twice, or out of order");
            assert!(
                SyncId::of(durable.load(Ordering::Relaxed)) >= number,
                "told before it was durable"
            );
            synced = number;
        }
        drop(jobs);
        waiter.join().unwrap();
    });
}
