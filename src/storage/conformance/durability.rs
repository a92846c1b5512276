//! Cases about what is left when something goes wrong.

use super::Rule;
use super::trial::{Case, Trial, broken};
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{Base, HardState, Mark, StorageError};

pub(super) fn closed_without_a_sync(case: &mut Case<'_>) {
    let mut trial = case.begin();
    for round in 0..6 {
        trial.append(&[&[10], &[]]);
        trial.sync();
        trial.next_term();
        trial.append_after(trial.last() - round % 3, &[&[20], &[30, 0]]);
        trial.remember(round, 5);
        let past = trial.close();
        trial = case.reopen(past);
    }
}

pub(super) fn syncs_under_way(case: &mut Case<'_>) {
    let mut trial = case.begin();
    // One after the other, each while more is taken.
    trial.append(&[&[10]]);
    let (first, covers_first) = trial.begin_sync();
    trial.append(&[&[20], &[]]);
    let (second, covers_second) = trial.begin_sync();
    trial.append(&[&[30]]);
    trial.must(Rule::Taken, "the first of two syncs", first.wait());
    trial.synced(covers_first);
    trial.must(Rule::Taken, "the second of two syncs", second.wait());
    trial.synced(covers_second);
    let past = case.stop(trial);

    // The newer one alone.
    let mut trial = case.reopen(past);
    trial.append(&[&[10]]);
    let (older, _) = trial.begin_sync();
    trial.next_term();
    trial.append_after(trial.last() - 1, &[&[20], &[30]]);
    let (newer, covers) = trial.begin_sync();
    drop(older);
    trial.must(Rule::Taken, "a sync after one that nobody waited for", newer.wait());
    trial.synced(covers);
    let past = case.stop(trial);

    // On another thread, while this one goes on.
    let mut trial = case.reopen(past);
    for _ in 0..20 {
        trial.append(&[&[10], &[3_000]]);
        let (sync, covers) = trial.begin_sync();
        let name = case.name;
        let wait = case.bench.start(Box::new(move || {
            if let Err(error) = sync.wait() {
                broken(name, Rule::Taken, format!("a sync on another thread failed: {error}"));
            }
        }));
        trial.append(&[&[20]]);
        wait();
        trial.synced(covers);
    }
    let past = case.stop(trial);
    case.reopen(past);
}

pub(super) fn a_crash_after_opening(case: &mut Case<'_>) {
    let trial = case.begin();
    let past = case.stop(trial);
    let mut trial = case.reopen(past);
    trial.append(&[&[10]]);
    trial.sync();
    for _ in 0..3 {
        let past = case.stop(trial);
        trial = case.reopen(past);
    }
}

/// One step of a ledger's life.
#[derive(Clone, Copy, Debug)]
enum Step {
    Append(usize),
    /// Cuts off so many batches and appends one.
    Cut(u64),
    Vote,
    /// All that is in the log is known to be committed.
    Commit,
    Remember(u64),
    Purge,
    Reset(u64),
    Sync,
}

use Step::{Append, Commit, Cut, Purge, Remember, Reset, Sync, Vote};

/// Cuts of what was synced and of what was not, purges before and after a sync, one reset upon another; and commits of batches that may be lost, and
/// those that they took the place of be back.
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
        let mut trial = case.begin();
        LIFE[..steps].iter().for_each(|&step| take(&mut trial, step));
        let past = case.stop(trial);
        // What was found is durable: a second crash finds the same.
        let trial = case.reopen(past);
        let past = case.stop(trial);
        let mut trial = case.reopen(past);
        trial.append(&[&[10], &[]]);
        trial.sync();
        let past = case.stop(trial);
        case.reopen(past);
        if !case.staged {
            return;
        }
    }
}

fn take(trial: &mut Trial, step: Step) {
    match step {
        Append(count) => trial.append(&vec![&[10, 2_000][..]; count]),
        Cut(count) => {
            trial.next_term();
            let kept = trial.last().saturating_sub(count).max(trial.log().base().mark.raft_index);
            trial.append_after(kept, &[&[20]]);
        }
        Vote => trial.next_term(),
        Commit => {
            let commit = trial.last();
            trial.save(HardState { commit, ..trial.hard_state() });
        }
        Remember(peer) => trial.remember(peer, u128::from(trial.last())),
        Purge => {
            let last = trial.log().last();
            trial.purge(last.next_index - last.next_index.min(2), last.raft_index - 1);
        }
        Reset(raft_index) => {
            let mark = Mark { raft_index, term: trial.hard_state().term, next_index: raft_index * 10, ..trial.log().last() };
            trial.reset(Base { mark, membership: Membership::of_voters([2, 3, raft_index].map(NodeId::from)) });
        }
        Sync => trial.sync(),
    }
}

pub(super) fn a_failed_sync(case: &mut Case<'_>) {
    for another_under_way in [false, true] {
        let mut trial = case.begin();
        trial.append(&[&[10], &[20]]);
        trial.sync();
        trial.append(&[&[30]]);
        if !case.bench.fail_next_sync() {
            case.staged = false;
            return;
        }
        let (sync, _) = trial.begin_sync();
        let newer = another_under_way.then(|| trial.begin_sync().0);
        if sync.wait().is_ok() {
            broken(case.name, Rule::FailedSync, "the sync that the bench made fail returned Ok");
        }
        if newer.is_some_and(|newer| newer.wait().is_ok()) {
            broken(case.name, Rule::FailedSync, "a sync that covers a failed one returned Ok");
        }
        refuses_everything(case.name, &mut trial);
        trial.verify(Rule::FailedSync);
        let past = trial.close();
        let mut trial = case.reopen(past);
        trial.append(&[&[40]]);
        trial.sync();
    }
}

fn refuses_everything(case: &str, trial: &mut Trial) {
    let batches = trial.draw(trial.last(), &[&[1]]);
    let base = Base { mark: trial.log().last(), membership: trial.log().base().membership.clone() };
    let hard_state = HardState { term: 9, ..trial.hard_state() };
    for (call, result) in [
        ("append", trial.storage.append(&batches, 1)),
        ("save", trial.storage.save(hard_state)),
        ("reset", trial.storage.reset(&base)),
        ("remember", trial.storage.remember(NodeId::from(1), 1)),
        ("a sync", trial.storage.begin_sync().wait()),
        ("another sync", trial.storage.begin_sync().wait()),
    ] {
        if !matches!(result, Err(StorageError::Poisoned(_))) {
            broken(case, Rule::FailedSync, format!("after a failed sync {call} gave {result:?} instead of Poisoned"));
        }
    }
}

/// An append of three batches, 64 KiB in all; so many of them make 64 MB.
const THREE: [&[usize]; 3] = [&[20_000], &[], &[45_000]];
const APPENDS_MAX: usize = 1_000;

pub(super) fn a_full_disk(case: &mut Case<'_>) {
    let mut trial = case.begin();
    trial.append(&EARLIER);
    trial.sync();
    let held = trial.hold();
    if !case.bench.fill(true) {
        case.staged = false;
        return;
    }
    for round in 0..3 {
        append_until_full(case.name, &mut trial, round);
        meet_full(case.name, &mut trial);
    }
    case.bench.fill(false);
    go_on(&mut trial);
    trial.unchanged(&held);
    let past = trial.close();
    case.reopen(past);
}

const EARLIER: [&[usize]; 5] = [&[10], &[], &[20], &[30], &[]];

/// Cuts off so many batches and appends, then goes on behind the last, until the storage says that it is full.
fn append_until_full(case: &str, trial: &mut Trial, cut_off: u64) {
    let mut kept = trial.last().saturating_sub(cut_off).max(trial.log().base().mark.raft_index);
    for _ in 0..APPENDS_MAX {
        let batches = trial.draw(kept, &THREE);
        match trial.storage.append(&batches, 1) {
            Ok(()) => trial.took(kept, batches),
            Err(StorageError::Full { .. }) => return trial.verify(Rule::Full),
            Err(error) => broken(case, Rule::Full, format!("on a full disk append failed: {error}")),
        }
        kept = trial.last();
    }
    broken(case, Rule::Full, "the bench said that the disk is full, and 64 MB were taken");
}

/// The other calls may find room or not; if not, they change nothing either.
fn meet_full(case: &str, trial: &mut Trial) {
    let hard_state = HardState { term: trial.hard_state().term + 1, ..trial.hard_state() };
    if found_room(case, "save", trial.storage.save(hard_state)) {
        trial.saved(hard_state);
    }
    if found_room(case, "remember", trial.storage.remember(NodeId::from(1), 1)) {
        trial.remembered(1, 1);
    }
    let base = Base { mark: trial.log().last(), membership: Membership::of_voters([NodeId::from(2)]) };
    if found_room(case, "reset", trial.storage.reset(&base)) {
        trial.was_reset(base);
    }
    trial.verify(Rule::Full);
}

fn found_room(case: &str, call: &str, result: Result<(), StorageError>) -> bool {
    match result {
        Ok(()) => true,
        Err(StorageError::Full { .. }) => false,
        Err(error) => broken(case, Rule::Full, format!("on a full disk {call} failed: {error}")),
    }
}

/// There is room again: everything is taken.
fn go_on(trial: &mut Trial) {
    for cut_off in [0, 1] {
        let kept = trial.last() - cut_off;
        let batches = trial.draw(kept, &THREE);
        let result = trial.storage.append(&batches, 1);
        trial.must(Rule::Full, "with room again, append", result);
        trial.took(kept, batches);
    }
    trial.next_term();
    trial.remember(3, 3);
    trial.sync();
}
