//! Every schedule of hosts and an engine at the sequencer. The tests of the completion cover the
//! futures.

use std::time::Duration;

use super::*;
use crate::primitives::thread::{self, JoinHandle};
use crate::primitives::{Condvar, three_preemptions};

/// The cost of an entry of one byte in the window.
const COST: u64 = ENTRY_OVERHEAD + 1;

/// A deadline that never passes: a thread that relies on it blocks for ever.
fn no_deadline() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(3600))
}

struct Harness {
    sequencer: Sequencer,
    bell: Arc<Wakeups>,
}

/// The wake-up calls of the engine.
#[derive(Default)]
struct Wakeups {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Wakeups {
    fn ring(&self) {
        *self.rings.lock() += 1;
        self.rung.notify_one();
    }

    /// Blocks until there were more than `heard` calls.
    fn listen(&self, heard: u64) -> u64 {
        let mut rings = self.rings.lock();
        while *rings <= heard {
            self.rung.wait(&mut rings);
        }
        *rings
    }
}

/// An open sequencer with room for `entries` at a time.
fn harness(entries: u64) -> Arc<Harness> {
    let bell = Arc::new(Wakeups::default());
    let wake_engine = bell.clone();
    let limits = Limits { entry: 10, batch: 100, window: entries * COST };
    let sequencer = Sequencer::new(limits, move || wake_engine.ring());
    sequencer.open(1, 0, 0, 0);
    Arc::new(Harness { sequencer, bell })
}

impl Harness {
    /// Resolves all batches. Returns the number of their entries.
    fn settle(&self) -> u64 {
        let mut entries = 0;
        for batch in self.sequencer.take(0) {
            entries += batch.cost / COST;
            self.sequencer.release(batch.cost);
        }
        entries
    }

    /// An engine that waits for wake-up calls until it has resolved `entries`.
    fn settle_when_rung(&self, entries: u64) {
        let (mut settled, mut heard) = (0, 0);
        while settled < entries {
            heard = self.bell.listen(heard);
            settled += self.settle();
        }
    }

    /// Appends `count` entries, each alone if that is 1, else as a batch. Returns the index of the
    /// first.
    fn append(self: &Arc<Harness>, count: usize) -> JoinHandle<Option<u64>> {
        let harness = self.clone();
        thread::spawn(move || {
            let future = match count {
                1 => harness.sequencer.append(b"x", no_deadline()),
                _ => harness.sequencer.append_batch(vec![b"x"; count], no_deadline()).0,
            };
            assert_eq!(future.index(), future.position(), "entries of one byte");
            future.index()
        })
    }

    fn assert_at_rest(&self) {
        let queue = self.sequencer.queue.lock();
        assert_eq!((queue.in_flight, queue.line.len(), queue.batches.len()), (0, 0, 0));
    }
}

/// The indexes that hosts got, in order.
fn indexes<const N: usize>(hosts: [JoinHandle<Option<u64>>; N]) -> [Option<u64>; N] {
    let mut indexes = hosts.map(|host| host.join().unwrap());
    indexes.sort_unstable();
    indexes
}

#[test]
fn a_full_window_wakes_its_waiters_and_the_bell_is_never_missed() {
    three_preemptions(|| {
        let harness = harness(1);
        let hosts = [harness.append(1), harness.append(1)];
        harness.settle_when_rung(2);
        assert_eq!(indexes(hosts), [Some(0), Some(1)]);
        harness.assert_at_rest();
    });
}

#[test]
fn the_bell_is_rung_once_each_time_the_queue_fills() {
    loom::model(|| {
        let harness = harness(9);
        let hosts = [harness.append(1), harness.append(1)];
        let mut takes = u64::from(harness.settle() > 0);
        assert_eq!(indexes(hosts), [Some(0), Some(1)]);
        takes += u64::from(harness.settle() > 0);
        assert_eq!(*harness.bell.rings.lock(), takes);
        harness.assert_at_rest();
    });
}

#[test]
fn who_comes_when_appends_are_no_longer_held_back_is_heard() {
    loom::model(|| {
        let harness = harness(9);
        let host = harness.append(1);
        assert!(harness.sequencer.hold());
        let settled = harness.settle();
        harness.settle_when_rung(1 - settled);
        assert_eq!(host.join().unwrap(), Some(0));
        harness.assert_at_rest();
    });
}

#[test]
fn batches_are_dense_and_whole() {
    three_preemptions(|| {
        let harness = harness(2);
        let hosts = [harness.append(1), harness.append(2)];
        harness.settle_when_rung(3);
        assert!([[Some(0), Some(1)], [Some(0), Some(2)]].contains(&indexes(hosts)));
        harness.assert_at_rest();
    });
}

#[test]
fn closing_the_sequencer_ends_every_wait() {
    loom::model(|| {
        let harness = harness(1);
        let hosts = [harness.append(1), harness.append(1)];
        harness.sequencer.close(AppendError::Stopped);
        assert!([[None, None], [None, Some(0)]].contains(&indexes(hosts)));
        harness.assert_at_rest();
    });
}

#[test]
fn who_comes_in_a_pause_is_woken_by_its_end() {
    loom::model(|| {
        let harness = harness(1);
        harness.sequencer.pause();
        let host = harness.append(1);
        harness.sequencer.resume();
        harness.settle_when_rung(1);
        assert_eq!(host.join().unwrap(), Some(0));
        harness.assert_at_rest();
    });
}

#[test]
fn who_waits_for_a_leader_to_count_again_is_woken() {
    loom::model(|| {
        let harness = harness(1);
        harness.sequencer.pause();
        let host = harness.append(1);
        harness.sequencer.open(1, 5, 5, 0);
        harness.settle_when_rung(1);
        assert_eq!(host.join().unwrap(), Some(5));
        harness.assert_at_rest();
    });
}

#[test]
fn a_wait_for_room_that_times_out_takes_none() {
    loom::model(|| {
        let harness = harness(1);
        harness.append(1).join().unwrap();
        let host = thread::spawn({
            let harness = harness.clone();
            move || {
                harness
                    .sequencer
                    .append(b"x", Some(Instant::now() + Duration::from_millis(5)))
                    .index()
            }
        });
        let mut settled = harness.settle();
        let admitted = host.join().unwrap();
        settled += harness.settle();
        assert_eq!((settled, admitted.unwrap_or(1)), (1 + u64::from(admitted.is_some()), 1));
        harness.assert_at_rest();
    });
}
