//! Cases of crashes, failed syncs and full disks.

use super::driver::{Case, StorageDriver, broken};
use super::rule::Rule;
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{Base, HardState, LogPoint, StorageError};

pub(super) fn closed_without_a_sync(case: &mut Case<'_>) {
    let mut driver = case.begin();
    for round in 0..6 {
        driver.append(&[&[10], &[]]);
        driver.sync();
        driver.next_term();
        driver.append_after(driver.last() - round % 3, &[&[20], &[30, 0]]);
        driver.save_peer(round, 5);
        let past = driver.close();
        driver = case.reopen(past);
    }
}

pub(super) fn syncs_under_way(case: &mut Case<'_>) {
    let mut driver = case.begin();
    // One after the other, each while more is accepted.
    driver.append(&[&[10]]);
    let (first, covers_first) = driver.begin_sync();
    driver.append(&[&[20], &[]]);
    let (second, covers_second) = driver.begin_sync();
    driver.append(&[&[30]]);
    driver.must(Rule::Accepted, "the first of two syncs", first.wait());
    driver.synced(covers_first);
    driver.must(Rule::Accepted, "the second of two syncs", second.wait());
    driver.synced(covers_second);
    let past = case.stop(driver);

    // The newer one alone.
    let mut driver = case.reopen(past);
    driver.append(&[&[10]]);
    let (older, _) = driver.begin_sync();
    driver.next_term();
    driver.append_after(driver.last() - 1, &[&[20], &[30]]);
    let (newer, covers) = driver.begin_sync();
    drop(older);
    driver.must(Rule::Accepted, "a sync after one that was not waited for", newer.wait());
    driver.synced(covers);
    let past = case.stop(driver);

    // On another thread, while this one goes on.
    let mut driver = case.reopen(past);
    for _ in 0..20 {
        driver.append(&[&[10], &[3_000]]);
        let (sync, covers) = driver.begin_sync();
        let name = case.name;
        let wait = case.harness.start(Box::new(move || {
            if let Err(error) = sync.wait() {
                broken(name, Rule::Accepted, format!("a sync on another thread failed: {error}"));
            }
        }));
        driver.append(&[&[20]]);
        wait();
        driver.synced(covers);
    }
    let past = case.stop(driver);
    case.reopen(past);
}

pub(super) fn a_crash_after_opening(case: &mut Case<'_>) {
    let driver = case.begin();
    let past = case.stop(driver);
    let mut driver = case.reopen(past);
    driver.append(&[&[10]]);
    driver.sync();
    for _ in 0..3 {
        let past = case.stop(driver);
        driver = case.reopen(past);
    }
}

/// One step of a history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Append(usize),
    /// Truncates this many batches, and appends one.
    Cut(u64),
    Vote,
    /// The commit advances to the end of the log.
    Commit,
    Remember(u64),
    Purge,
    Reset(u64),
    Sync,
}

use Step::{Append, Commit, Cut, Purge, Remember, Reset, Sync, Vote};

/// Truncations of synced and of unsynced batches, purges before and after a sync, one reset after
/// another; and commits of batches that a crash may lose, so that those before them are back.
#[rustfmt::skip]
const LIFE: [Step; 50] = [
    Append(3), Vote, Append(1), Remember(1), Sync, Append(4), Cut(2), Sync, Cut(1), Cut(3),
    Append(2), Sync, Vote, Cut(4), Append(1), Remember(2), Append(5), Sync, Purge, Append(1),
    Sync, Purge, Cut(0), Vote, Purge, Sync, Append(3), Reset(100), Append(2), Sync,
    Reset(200), Sync, Append(6), Vote, Cut(5), Sync, Cut(1), Purge, Reset(300), Remember(1),
    Append(4), Sync, Cut(3), Commit, Append(3), Sync, Cut(2), Append(1), Commit, Append(1),
];

pub(super) fn a_crash_after_every_step(case: &mut Case<'_>) {
    for steps in 0..=LIFE.len() {
        let mut driver = case.begin();
        LIFE[..steps].iter().for_each(|&step| take(&mut driver, step));
        let past = case.stop(driver);
        // The recovered state is durable: a second crash recovers the same.
        let driver = case.reopen(past);
        let past = case.stop(driver);
        let mut driver = case.reopen(past);
        driver.append(&[&[10], &[]]);
        driver.sync();
        let past = case.stop(driver);
        case.reopen(past);
        if !case.staged {
            return;
        }
    }
}

fn take(driver: &mut StorageDriver, step: Step) {
    match step {
        Append(count) => driver.append(&vec![&[10, 2_000][..]; count]),
        Cut(count) => {
            driver.next_term();
            let kept =
                driver.last().saturating_sub(count).max(driver.log().base().point.raft_index);
            driver.append_after(kept, &[&[20]]);
        }
        Vote => driver.next_term(),
        Commit => {
            let commit = driver.last();
            driver.save_hard_state(HardState { commit, ..driver.hard_state() });
        }
        Remember(peer) => driver.save_peer(peer, u128::from(driver.last())),
        Purge => {
            let last = driver.log().last();
            driver.purge(last.next_index - last.next_index.min(2), last.raft_index - 1);
        }
        Reset(raft_index) => {
            let point = LogPoint {
                raft_index,
                term: driver.hard_state().term,
                next_index: raft_index * 10,
                ..driver.log().last()
            };
            driver.reset(Base {
                point,
                membership: Membership::of_voters([2, 3, raft_index].map(NodeId::from)),
            });
        }
        Sync => driver.sync(),
    }
}

pub(super) fn a_failed_sync(case: &mut Case<'_>) {
    for another_under_way in [false, true] {
        let mut driver = case.begin();
        driver.append(&[&[10], &[20]]);
        driver.sync();
        driver.append(&[&[30]]);
        if !case.harness.fail_next_sync() {
            case.staged = false;
            return;
        }
        let (sync, _) = driver.begin_sync();
        let newer = another_under_way.then(|| driver.begin_sync().0);
        if sync.wait().is_ok() {
            broken(case.name, Rule::FailedSync, "the sync that the harness made fail returned Ok");
        }
        if newer.is_some_and(|newer| newer.wait().is_ok()) {
            broken(case.name, Rule::FailedSync, "a sync that covers a failed one returned Ok");
        }
        refuses_everything(case.name, &mut driver);
        driver.verify(Rule::FailedSync);
        let past = driver.close();
        let mut driver = case.reopen(past);
        driver.append(&[&[40]]);
        driver.sync();
    }
}

fn refuses_everything(case: &str, driver: &mut StorageDriver) {
    let batches = driver.draw(driver.last(), &[&[1]]);
    let base =
        Base { point: driver.log().last(), membership: driver.log().base().membership.clone() };
    let hard_state = HardState { term: 9, ..driver.hard_state() };
    for (call, result) in [
        ("append", driver.storage.append(&batches, 1)),
        ("save", driver.storage.save_hard_state(hard_state)),
        ("reset", driver.storage.reset(&base)),
        ("remember", driver.storage.save_peer(NodeId::from(1), 1)),
        ("a sync", driver.storage.begin_sync().wait()),
        ("another sync", driver.storage.begin_sync().wait()),
    ] {
        if !matches!(result, Err(StorageError::Poisoned(_))) {
            broken(
                case,
                Rule::FailedSync,
                format!("after a failed sync {call} gave {result:?} instead of Poisoned"),
            );
        }
    }
}

/// Number of appends of three batches, 64 KiB in all, that make 64 MB.
const THREE: [&[usize]; 3] = [&[20_000], &[], &[45_000]];
const APPENDS_MAX: usize = 1_000;

pub(super) fn a_full_disk(case: &mut Case<'_>) {
    let mut driver = case.begin();
    driver.append(&EARLIER);
    driver.sync();
    let held = driver.hold();
    if !case.harness.fill(true) {
        case.staged = false;
        return;
    }
    for round in 0..3 {
        append_until_full(case.name, &mut driver, round);
        meet_full(case.name, &mut driver);
    }
    case.harness.fill(false);
    go_on(&mut driver);
    driver.unchanged(&held);
    let past = driver.close();
    case.reopen(past);
}

const EARLIER: [&[usize]; 5] = [&[10], &[], &[20], &[30], &[]];

/// Truncates this many batches and appends, then appends after the last, until the storage reports
/// a full disk.
fn append_until_full(case: &str, driver: &mut StorageDriver, cut_off: u64) {
    let mut kept = driver.last().saturating_sub(cut_off).max(driver.log().base().point.raft_index);
    for _ in 0..APPENDS_MAX {
        let batches = driver.draw(kept, &THREE);
        match driver.storage.append(&batches, 1) {
            Ok(()) => driver.took(kept, batches),
            Err(StorageError::Full { .. }) => return driver.verify(Rule::Full),
            Err(error) => {
                broken(case, Rule::Full, format!("on a full disk append failed: {error}"))
            }
        }
        kept = driver.last();
    }
    broken(case, Rule::Full, "the harness filled the disk, and 64 MB were accepted");
}

/// The other calls may find space or not; if not, they change nothing either.
fn meet_full(case: &str, driver: &mut StorageDriver) {
    let hard_state = HardState { term: driver.hard_state().term + 1, ..driver.hard_state() };
    if found_room(case, "save", driver.storage.save_hard_state(hard_state)) {
        driver.saved(hard_state);
    }
    if found_room(case, "remember", driver.storage.save_peer(NodeId::from(1), 1)) {
        driver.remembered(1, 1);
    }
    let base =
        Base { point: driver.log().last(), membership: Membership::of_voters([NodeId::from(2)]) };
    if found_room(case, "reset", driver.storage.reset(&base)) {
        driver.was_reset(base);
    }
    driver.verify(Rule::Full);
}

fn found_room(case: &str, call: &str, result: Result<(), StorageError>) -> bool {
    match result {
        Ok(()) => true,
        Err(StorageError::Full { .. }) => false,
        Err(error) => broken(case, Rule::Full, format!("on a full disk {call} failed: {error}")),
    }
}

/// There is space again: all changes are accepted.
fn go_on(driver: &mut StorageDriver) {
    for cut_off in [0, 1] {
        let kept = driver.last() - cut_off;
        let batches = driver.draw(kept, &THREE);
        let result = driver.storage.append(&batches, 1);
        driver.must(Rule::Full, "with room again, append", result);
        driver.took(kept, batches);
    }
    driver.next_term();
    driver.save_peer(3, 3);
    driver.sync();
}
