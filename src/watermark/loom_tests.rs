//! Every schedule of one publisher, its waiters, and the close.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::primitives::{Alarm, thread, three_preemptions};

/// A watermark, and what it stands for: only the watermark puts the entries in order.
struct Ledger {
    point: Watermark,
    entries: [AtomicU64; 2],
}

fn ledger() -> Arc<Ledger> {
    Arc::new(Ledger {
        point: Watermark::new(0, 0),
        entries: [AtomicU64::new(0), AtomicU64::new(0)],
    })
}

impl Ledger {
    fn commit(&self, index: usize) {
        self.entries[index].store(index as u64 + 1, Ordering::Relaxed);
        self.point.publish(index as u64 + 1, 10 * (index as u64 + 1));
    }

    fn assert_readable_below(&self, end: u64) {
        for index in 0..end as usize {
            assert_eq!(
                self.entries[index].load(Ordering::Relaxed),
                index as u64 + 1,
                "a committed entry cannot be read"
            );
        }
    }

    fn wait_past(&self, index: u64, deadline: Option<Instant>) -> bool {
        let passed = self.point.wait_past(index, deadline);
        if passed {
            self.assert_readable_below(index + 1);
        }
        passed
    }
}

#[test]
fn who_sees_the_end_finds_the_entries_below_it() {
    loom::model(|| {
        let ledger = ledger();
        let writer = thread::spawn({
            let ledger = ledger.clone();
            move || (0..2).for_each(|index| ledger.commit(index))
        });
        ledger.assert_readable_below(ledger.point.end());
        let (end, position) = ledger.point.end_and_position();
        assert_eq!(position, 10 * end, "a position of another end");
        ledger.assert_readable_below(end);
        writer.join().unwrap();
    });
}

#[test]
fn no_wake_by_a_commit_is_lost() {
    loom::model(|| {
        let ledger = ledger();
        let waiter = thread::spawn({
            let ledger = ledger.clone();
            move || assert!(ledger.wait_past(1, None))
        });
        (0..2).for_each(|index| ledger.commit(index));
        waiter.join().unwrap();
    });
}

#[test]
fn one_commit_wakes_all_who_wait_for_it() {
    three_preemptions(|| {
        let ledger = ledger();
        let waiters = [0, 1].map(|_| {
            let ledger = ledger.clone();
            thread::spawn(move || assert!(ledger.wait_past(0, None)))
        });
        ledger.commit(0);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

#[test]
fn the_end_of_the_node_wakes_who_waits_for_more() {
    loom::model(|| {
        let ledger = ledger();
        let waiter = thread::spawn({
            let ledger = ledger.clone();
            move || (ledger.wait_past(0, None), ledger.wait_past(1, None))
        });
        ledger.commit(0);
        ledger.point.close();
        assert_eq!(waiter.join().unwrap(), (true, false));
    });
}

#[test]
fn a_wait_that_times_out_leaves_nothing_behind() {
    loom::model(|| {
        let ledger = ledger();
        let waiter = thread::spawn({
            let ledger = ledger.clone();
            move || ledger.wait_past(0, Some(Instant::now() + Duration::from_millis(5)))
        });
        ledger.commit(0);
        waiter.join().unwrap();
        assert_eq!(ledger.point.waiters.load(Ordering::Relaxed), 0);
        assert!(ledger.wait_past(0, None));
    });
}

/// Reads one entry after the other, as a stream does: with one key, which it keeps.
fn read_as_a_task(ledger: &Ledger, entries: u64) -> u64 {
    let (alarm, mut key) = (Arc::new(Alarm::default()), None);
    let waker = Waker::from(alarm.clone());
    let mut index = 0;
    while index < entries {
        match ledger.point.poll_past(index, &waker, &mut key) {
            Poll::Pending => alarm.sleep(),
            Poll::Ready(true) => {
                ledger.assert_readable_below(index + 1);
                index += 1;
            }
            Poll::Ready(false) => break,
        }
    }
    ledger.point.forget(index, key);
    index
}

#[test]
fn a_task_that_reads_entry_by_entry_misses_no_wake() {
    loom::model(|| {
        let ledger = ledger();
        let task = thread::spawn({
            let ledger = ledger.clone();
            move || assert_eq!(read_as_a_task(&ledger, 2), 2)
        });
        (0..2).for_each(|index| ledger.commit(index));
        task.join().unwrap();
        assert!(ledger.point.held.lock().tasks.is_empty(), "a waker was left behind");
    });
}

#[test]
fn the_end_of_the_node_wakes_a_task_that_waits_for_more() {
    loom::model(|| {
        let ledger = ledger();
        let task = thread::spawn({
            let ledger = ledger.clone();
            move || assert_eq!(read_as_a_task(&ledger, 2), 1)
        });
        ledger.commit(0);
        ledger.point.close();
        task.join().unwrap();
    });
}
