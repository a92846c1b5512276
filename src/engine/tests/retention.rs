//! Retention and pins, turn by turn. A log in memory counts batches of 1 KiB together as a
//! segment.

use super::sleeping::sleeping_leader;
use super::*;
use crate::pins::Pin;
use crate::removed::{Removed, RemovedSegments};
use crate::retention::choose_below;

/// A payload that fills a segment of the log in memory.
const FULL: usize = 900;
const HOUR: Duration = Duration::from_secs(3600);
const CHECK: Duration = Duration::from_millis(250);

impl Harness {
    fn keep(&mut self, policy: Retention) {
        self.input(Input::Command(Command::SetRetention(policy)));
        self.work();
    }

    /// Commits so many entries, each of which fills a segment.
    fn fill_segments(&mut self, count: usize) {
        for _ in 0..count {
            let future = self.append(&"x".repeat(FULL));
            self.work();
            self.pass_hold();
            self.work();
            assert!(outcome(&future).unwrap().is_ok());
        }
    }

    /// Lets the engine look at its segments.
    fn check(&mut self) {
        self.pass(CHECK);
        self.work();
        while let Ok(task) = self.tasks.try_recv() {
            task();
        }
    }

    fn first(&self) -> u64 {
        self.shared.status().committed.start
    }

    fn pin(&self, index: u64) -> Result<Pin, u64> {
        self.shared.pins.pin(index, &*self.shared.reader)
    }

    fn purge(&mut self, index: u64) -> u64 {
        let answer = self.command(|reply| Command::Purge { index, reply });
        self.work();
        answer.try_recv().unwrap().unwrap()
    }

    fn removed(&self) -> Removed {
        self.shared.status().removed
    }
}

#[test]
fn what_is_beyond_max_bytes_goes_and_is_counted() {
    let mut harness = Harness::alone();
    harness.fill_segments(4);
    harness.check();
    assert_eq!(harness.first(), 0, "everything is kept");
    harness.keep(Retention::keep_all().max_bytes(2 << 10));
    assert_eq!(harness.first(), 2, "a new policy holds at once");
    let RemovedSegments { segments, bytes } = harness.removed().bytes;
    assert!(segments >= 2 && bytes >= 2 * FULL as u64, "{segments}, {bytes}");
    harness.fill_segments(2);
    harness.check();
    assert_eq!(harness.first(), 4);
    assert_eq!(harness.removed().age, RemovedSegments::default());
    harness.purge(5);
    assert_eq!((harness.first(), harness.removed().asked.segments), (5, 1));
}

#[test]
fn age_counts_by_a_clock_that_is_never_set() {
    const YEAR_MS: u64 = 365 * 24 * 3_600_000;
    let mut harness = Harness::alone();
    harness.keep(Retention::keep_all().max_age(HOUR));
    // The clock of a leader runs ahead: every entry bears that time for decades.
    harness.now.unix_ms = 80 * YEAR_MS;
    harness.fill_segments(2);
    harness.check();
    for jump in [90 * YEAR_MS, 0, 50 * YEAR_MS] {
        harness.now.unix_ms = jump;
        harness.pass(HOUR / 4);
        harness.check();
        assert_eq!(harness.first(), 0, "at {jump} ms");
    }
    harness.pass(HOUR / 4);
    harness.check();
    assert_eq!(harness.first(), 2, "an hour later");
    assert!(harness.removed().age.segments >= 2);
}

#[test]
fn a_sleeping_node_wakes_for_what_becomes_too_old_and_its_group_sleeps_on() {
    let mut harness = sleeping_leader();
    harness.keep(Retention::keep_all().max_age(HOUR));
    let (asked, wake_at) = (harness.now.elapsed, harness.engine.wake_at());
    assert!(wake_at > asked && wake_at <= asked + HOUR, "{wake_at:?} after {asked:?}");
    let base = harness.shared.reader.base().point.raft_index;
    harness.now.elapsed = wake_at;
    harness.work();
    assert!(harness.shared.reader.base().point.raft_index > base, "the control batch is gone");
    assert!(harness.shared.status().asleep && harness.sent().is_empty());
    assert_eq!(harness.engine.wake_at(), Duration::MAX, "nothing is left that ages");
    harness.keep(Retention::keep_all());
    assert_eq!(harness.engine.wake_at(), Duration::MAX);
}

#[test]
fn a_full_disk_is_asked_again_after_each_removal() {
    let mut harness = Harness::alone();
    harness.fill_segments(6);
    let bytes = 6 * FULL as u64;
    harness.refusals.lock().disk = Some(DiskUse::new(10 * bytes, 9 * bytes));
    harness.keep(Retention::keep_all().max_age(HOUR).disk_used_force(0.5));
    harness.check();
    assert_eq!(harness.first(), 0, "what the disk says is not known yet");
    harness.check();
    assert_eq!(harness.first(), 1, "a tenth of what is too much: one segment");
    // The sync of that removal is done, so the disk was asked anew, and says the same.
    harness.check();
    assert_eq!(harness.first(), 2);
    harness.refusals.lock().disk = Some(DiskUse::new(bytes, 2 * bytes));
    (0..8).for_each(|_| harness.check());
    assert!(harness.first() <= 3, "{}", harness.first());
    assert!(harness.removed().disk_forced.segments >= 2);
}

#[test]
fn a_pin_holds_against_retention_and_purges_until_it_is_moved_or_dropped() {
    let mut harness = Harness::alone();
    harness.fill_segments(6);
    let pin = harness.pin(2).unwrap();
    assert_eq!(harness.purge(4), 2);
    harness.keep(Retention::keep_all().max_bytes(0));
    assert_eq!((harness.first(), pin.is_released()), (2, false));
    pin.advance(4);
    pin.advance(1);
    assert_eq!(pin.index(), 4);
    harness.pass(Duration::from_secs(1));
    harness.check();
    assert_eq!(harness.first(), 4, "looked at again, though nothing was appended");
    assert!(matches!(harness.pin(3), Err(4)));
    drop(pin);
    harness.pass(Duration::from_secs(1));
    harness.check();
    assert_eq!(harness.first(), 6);
}

#[test]
fn the_pin_that_lies_furthest_back_is_released_when_all_hold_back_too_much() {
    let mut harness = Harness::alone();
    harness.fill_segments(6);
    let full = harness.engine.segments()[1].bytes;
    let bound = 2 * full + full / 2;
    let (board, reader) = (
        Arc::new(crate::pins::PinBoard::new(bound, harness.shared.home)),
        harness.shared.reader.clone(),
    );
    let (far, near) = (board.pin(0, &*reader).unwrap(), board.pin(4, &*reader).unwrap());
    let chosen = |index| choose_below(index, &harness.engine.segments(), u64::MAX);
    let (limit, released) = board.purge(2, &chosen(2), |limit| limit);
    assert_eq!((limit, far.is_released(), released.indexes.len()), (0, false, 0), "within it");
    let (limit, released) = board.purge(5, &chosen(5), |limit| limit);
    assert_eq!((limit, far.is_released(), near.is_released()), (4, true, false));
    assert_eq!(released.indexes, [0]);
    far.advance(6);
    drop(far);
    let (limit, _) = board.purge(5, &chosen(5), |limit| limit);
    assert_eq!(limit, 4, "the other pin still holds");
}

#[test]
fn a_node_that_is_moved_forward_tells_its_host_and_releases_pins() {
    let mut harness = Harness::new(3);
    harness.hear("append from=2 to=1 term=2 after=1/1 batch=2/2 commit=1");
    harness.work();
    let pin = harness.pin(0).unwrap();
    let far = Base::new(
        LogPoint { raft_index: 50, term: 2, next_index: 40, ..LogPoint::INITIAL },
        harness.owner.membership.clone(),
    );
    harness.engine.move_forward(&far);
    assert!(pin.is_released());
    let moves: Vec<u64> = harness
        .roles
        .try_iter()
        .filter_map(|notice| match notice {
            Notice::Moved(first) => Some(first),
            Notice::Role(_) => None,
        })
        .collect();
    assert_eq!(moves, [40]);
    assert!(matches!(harness.pin(39), Err(40)));
}
