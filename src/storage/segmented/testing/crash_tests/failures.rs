//! Every failure of the disk: each call of each kind fails once, in each workload; and the disk is
//! full at every block.
//!
//! After an error: nothing is acknowledged any more, every later write and sync is refused, readers
//! keep what they saw, and after a restart of the process or of the machine all that was
//! acknowledged is there. After a full disk: the log is as before, votes can still be remembered,
//! and it goes on when there is room.

use std::io;

use super::super::simulated_disk::{
    BLOCK_BYTES, CallFailure, CallFault, CallKind, Rng, SimulatedDisk,
};
use super::driver::{LogDriver, owner};
use super::history::{History, Moment};
use super::workload::{Step, random_steps, workloads};
use crate::storage::{Base, LogPoint, StorageError};

fn nothing() -> History {
    History::new(Base { point: LogPoint::INITIAL, membership: owner().membership })
}

/// The workloads, without steps that end the machine: a new one has no fault planned.
fn faultable() -> Vec<(String, Vec<Step>)> {
    let named = workloads().into_iter().map(|(name, steps)| (name.to_owned(), steps));
    let random =
        (0..3).map(|seed| (format!("random {seed}"), random_steps(&mut Rng::new(seed), 40)));
    let stays = |step: &Step| !matches!(step, Step::Kill | Step::Crash);
    named
        .chain(random)
        .map(|(name, steps)| (name, steps.into_iter().filter(stays).collect()))
        .collect()
}

/// Runs `steps` on a disk with `fault`, until one fails, and then checks that nothing was lost.
fn run_into(steps: &[Step], fault: CallFault, place: &str) {
    let disk = SimulatedDisk::new(fault.after);
    disk.plan(fault);
    let mut driver = match LogDriver::on(disk.clone(), nothing(), 0, false) {
        Ok(driver) => driver,
        Err(error) => {
            assert!(disk.has_failed(), "{place}: {error}");
            let next = LogDriver::on(disk.crash(), nothing(), 0, false);
            next.map(|_| ()).unwrap_or_else(|error| panic!("{place}, opening once more: {error}"));
            return;
        }
    };
    for step in steps {
        let before = driver.history.now().clone();
        if let Err(error) = driver.step(step) {
            assert!(disk.has_failed(), "{place}, {step:?}: {error}");
            assert!(!matches!(error, StorageError::Full { .. }), "{place}, {step:?}: {error}");
            if fault.on.changes() {
                check_poisoned(&mut driver, &before, &format!("{place}, {step:?}"));
            }
            break;
        }
        // If a read meets the fault, it returns an error, once.
        let seen = driver.history.now().compare(&*driver.reader).or_else(|error| {
            let is_known = error.contains("could not") || error.contains("Err(Io");
            let may_fail = disk.has_failed() && !fault.on.changes() && is_known;
            if may_fail { driver.history.now().compare(&*driver.reader) } else { Err(error) }
        });
        seen.unwrap_or_else(|error| panic!("{place}, {step:?}: {error}"));
    }
    restart_both_ways(&driver, place);
}

/// What was acknowledged is there after a power cut, and after a restart of the process, which may
/// see more than the disk has. What the log reported after the restart is there after the next
/// power cut.
fn restart_both_ways(driver: &LogDriver, place: &str) {
    let judge = |disk: SimulatedDisk, how: &str| {
        let history = driver.history.after_crash(driver.disk.changes());
        let again = LogDriver::on(disk, history, 0, false)
            .unwrap_or_else(|error| panic!("{place}, after {how}: {error}"));
        let changes = again.disk.changes();
        let left = again.disk.crash_keeping_nothing();
        let last = LogDriver::on(left, again.history.after_crash(changes), 0, false);
        last.map(|_| ())
            .unwrap_or_else(|error| panic!("{place}, after {how} and a power cut: {error}"));
    };
    for seed in 1..4 {
        judge(SimulatedDisk::with(driver.disk.image(), seed).crash(), "a power cut");
    }
    if !driver.disk.is_read_only() {
        judge(SimulatedDisk::with(driver.disk.image(), 4), "a restart");
    }
}

/// After a final error, what the log held `before` is still readable, and nothing more is accepted.
fn check_poisoned(driver: &mut LogDriver, before: &Moment, place: &str) {
    before
        .compare(&*driver.reader)
        .unwrap_or_else(|error| panic!("{place}, readers after the failure: {error}"));
    if driver.log.is_none() {
        return;
    }
    for step in [
        Step::Append(vec![vec![1]]),
        Step::Term,
        Step::SavePeer(1),
        Step::Reset(1),
        Step::Begin,
        Step::Wait,
    ] {
        match driver.step(&step) {
            Err(StorageError::Poisoned(_)) => {}
            Ok(()) if matches!(step, Step::Begin) => {}
            other => panic!("{place}: after the failure {step:?} gave {other:?}"),
        }
    }
    driver.step(&Step::BackgroundTasks).expect("chores report nothing");
    before
        .compare(&*driver.reader)
        .unwrap_or_else(|error| panic!("{place}, readers after more was refused: {error}"));
    driver.disk.evict();
    before
        .compare_what_reads(&*driver.reader)
        .unwrap_or_else(|error| panic!("{place}, readers after the cache was dropped: {error}"));
}

/// The number of calls of this kind that `steps` make on an intact disk, and the space they take.
fn measure(steps: &[Step], call: CallKind) -> (u64, u64) {
    let mut driver = LogDriver::begin(0, false);
    let disk = driver.disk.clone();
    let mut room = disk.taken();
    for step in steps {
        driver.run(std::slice::from_ref(step));
        room = room.max(disk.taken());
    }
    drop(driver);
    (disk.count(call), room)
}

/// Fails each call of this kind in each workload, one after the other.
fn fail_every(call: CallKind) {
    let kind = io::ErrorKind::Other;
    for (name, steps) in faultable() {
        for after in 0..measure(&steps, call).0 {
            let fault = CallFault { on: call, after, times: 1, then: CallFailure::Error(kind) };
            run_into(&steps, fault, &format!("{name}, {call:?} number {after} fails"));
        }
    }
}

/// Runs `steps` on a disk that becomes full meanwhile, or in a process that lacks resources. Every
/// step that was refused for that is repeated once there is space, or resources.
fn run_full(steps: &[Step], disk: SimulatedDisk, place: &str) {
    let mut opened = LogDriver::on(disk.clone(), nothing(), 0, false);
    if opened.is_err() {
        disk.set_room(None);
        opened = LogDriver::on(disk.clone(), nothing(), 0, false);
    }
    let mut driver = opened.unwrap_or_else(|error| panic!("{place}, opening with space: {error}"));
    for step in steps {
        let before = driver.history.now().clone();
        match driver.step(step) {
            Ok(()) => {}
            // An opening reports that the log cannot be written.
            Err(error)
                if error.is_temporary() || driver.log.is_none() && driver.disk.has_failed() =>
            {
                before
                    .compare(&*driver.reader)
                    .unwrap_or_else(|error| panic!("{place}, {step:?} on a full disk: {error}"));
                // Nor does a restart bring back what there was no space for.
                restart_both_ways(&driver, &format!("{place}, {step:?}"));
                if driver.log.is_some() {
                    let saved = driver.step(&Step::Term).and_then(|()| driver.step(&Step::Sync));
                    saved.unwrap_or_else(|error| {
                        panic!("{place}, remembering a vote after {step:?}: {error}")
                    });
                    driver.step(&Step::BackgroundTasks).expect("chores report nothing");
                }
                disk.set_room(None);
                driver
                    .step(step)
                    .unwrap_or_else(|error| panic!("{place}, {step:?} with space: {error}"));
            }
            // On a file system that copies on write even a sync may find no space. That is final
            // like any other failure of a sync.
            Err(StorageError::Io { .. } | StorageError::Poisoned(_))
                if matches!(step, Step::Sync | Step::Wait) =>
            {
                check_poisoned(&mut driver, &before, place);
                break;
            }
            Err(error) => panic!("{place}, {step:?}: {error}"),
        }
        let seen = driver.history.now().compare(&*driver.reader).or_else(|error| {
            // If a read lacks it, it returns an error, once.
            let is_known = error.contains("could not") || error.contains("Err(OutOfResources");
            if is_known { driver.history.now().compare(&*driver.reader) } else { Err(error) }
        });
        seen.unwrap_or_else(|error| panic!("{place}, {step:?}: {error}"));
    }
    restart_both_ways(&driver, place);
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_is_final() {
    fail_every(CallKind::Sync);
}

#[test]
fn a_failed_sync_of_the_directory_acknowledges_nothing_and_is_final() {
    fail_every(CallKind::SyncDir);
}

#[test]
fn a_failed_write_loses_nothing_that_was_acknowledged() {
    fail_every(CallKind::Write);
}

#[test]
fn a_failed_change_of_names_or_lengths_loses_nothing_that_was_acknowledged() {
    [CallKind::Create, CallKind::Rename, CallKind::Remove, CallKind::Allocate]
        .into_iter()
        .for_each(fail_every);
}

#[test]
fn a_failed_read_is_an_error_and_loses_nothing_that_was_acknowledged() {
    [CallKind::Read, CallKind::Open, CallKind::List, CallKind::Size, CallKind::Map]
        .into_iter()
        .for_each(fail_every);
}

#[test]
fn a_short_write_or_read_is_gone_on_with() {
    for (name, steps) in faultable() {
        for (call, after) in [CallKind::Write, CallKind::Read]
            .into_iter()
            .flat_map(|call| (0..measure(&steps, call).0).step_by(3).map(move |n| (call, n)))
        {
            let disk = SimulatedDisk::new(0);
            disk.plan(CallFault { on: call, after, times: 2, then: CallFailure::Short });
            let mut driver = LogDriver::on(disk, nothing(), 0, false)
                .unwrap_or_else(|error| panic!("{name}, {call:?} {after}: {error}"));
            driver.run(&steps);
        }
    }
}

#[test]
fn a_full_disk_changes_nothing_and_the_log_goes_on_once_there_is_room() {
    for (name, steps) in faultable() {
        let (_, room) = measure(&steps, CallKind::Write);
        for blocks in 0..room / BLOCK_BYTES {
            let disk = SimulatedDisk::new(blocks);
            disk.set_room(Some(blocks * BLOCK_BYTES));
            run_full(&steps, disk, &format!("{name}, a disk of {blocks} blocks"));
        }
    }
}

#[test]
fn a_single_refusal_for_want_of_room_changes_nothing() {
    for call in [CallKind::Write, CallKind::Create, CallKind::Allocate, CallKind::Rename] {
        for (name, steps) in faultable() {
            for after in 0..measure(&steps, call).0 {
                let disk = SimulatedDisk::new(after);
                disk.plan(CallFault {
                    on: call,
                    after,
                    times: 1,
                    then: CallFailure::Error(io::ErrorKind::StorageFull),
                });
                run_full(&steps, disk, &format!("{name}, no space for {call:?} number {after}"));
            }
        }
    }
}

#[test]
fn a_moment_without_descriptors_or_memory_changes_nothing() {
    for call in [
        CallKind::Create,
        CallKind::Open,
        CallKind::Map,
        CallKind::Allocate,
        CallKind::Rename,
        CallKind::List,
    ] {
        for (name, steps) in faultable() {
            for after in 0..measure(&steps, call).0 {
                let disk = SimulatedDisk::new(after);
                let then = CallFailure::Error(io::ErrorKind::OutOfMemory);
                disk.plan(CallFault { on: call, after, times: 1, then });
                run_full(&steps, disk, &format!("{name}, {call:?} number {after} lacks memory"));
            }
        }
    }
}

#[test]
fn a_moment_without_leave_to_write_changes_nothing() {
    let kinds = [
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::FileTooLarge,
    ];
    for call in [CallKind::Write, CallKind::Create, CallKind::Allocate, CallKind::Rename] {
        for (name, steps) in faultable() {
            for (after, kind) in (0..measure(&steps, call).0).zip(kinds.into_iter().cycle()) {
                let disk = SimulatedDisk::new(after);
                disk.plan(CallFault { on: call, after, times: 1, then: CallFailure::Error(kind) });
                run_full(
                    &steps,
                    disk,
                    &format!("{name}, {call:?} number {after} ends with {kind:?}"),
                );
            }
        }
    }
}

/// The fate of the data is unknown, whatever the operating system reports.
#[test]
fn a_sync_that_fails_for_a_moment_is_final() {
    use io::ErrorKind::{
        FileTooLarge, OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
    };
    for kind in [OutOfMemory, ReadOnlyFilesystem, PermissionDenied, FileTooLarge, QuotaExceeded] {
        let mut driver = LogDriver::begin(0, false);
        driver.run(&[Step::Append(vec![vec![100]])]);
        let before = driver.history.now().clone();
        driver.disk.plan(CallFault {
            on: CallKind::Sync,
            after: 0,
            times: 1,
            then: CallFailure::Error(kind),
        });
        assert!(matches!(driver.step(&Step::Sync), Err(StorageError::Io { .. })), "{kind:?}");
        check_poisoned(&mut driver, &before, &format!("a sync that ends with {kind:?}"));
    }
}

/// Each opening writes a new generation of the state, and the fifth takes the place of the only one
/// that is durable. That is safe because it differs from it in one sector.
#[test]
fn openings_that_fail_one_after_the_other_do_not_use_up_the_state() {
    for seed in 0..60 {
        let mut driver = LogDriver::begin(seed, false);
        // So many peers that a generation takes several sectors.
        driver.run(&(4..60).map(Step::SavePeer).collect::<Vec<_>>());
        driver.run(&[Step::Append(vec![vec![100]]), Step::Term, Step::Sync]);
        driver.log = None;
        let (disk, history) =
            (driver.disk.clone(), driver.history.after_crash(driver.disk.changes()));
        for _ in 0..6 {
            // The sync of what was read succeeds, for there is nothing to do; that of the next
            // generation fails.
            let after = if seed % 2 == 0 { 2 } else { 0 };
            disk.plan(CallFault {
                on: CallKind::Sync,
                after,
                times: 1,
                then: CallFailure::Error(io::ErrorKind::Other),
            });
            let opened = LogDriver::on(disk.clone(), history.clone(), 0, false);
            assert!(opened.is_err() && disk.has_failed(), "seed {seed}");
        }
        let next = LogDriver::on(disk.crash(), history, 0, false);
        next.map(|_| ()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// Regression, found by simulation: the disk had space for one of the two copies of a new state, or
/// for some records of an append. That was refused as if nothing had been written, and after a
/// crash it was there: another vote, a log that was reset, batches that were refused.
#[test]
fn what_found_room_for_a_part_is_not_merely_refused() {
    for step in [
        Step::Term,
        Step::SavePeer(1),
        Step::Reset(1),
        Step::Append(vec![vec![100], vec![100], vec![100]]),
    ] {
        let mut driver = LogDriver::begin(0, false);
        driver.run(&[Step::Append(vec![vec![100]]), Step::Sync]);
        let before = driver.history.now().clone();
        driver.disk.plan(CallFault {
            on: CallKind::Write,
            after: 0,
            times: 1,
            then: CallFailure::Short,
        });
        driver.disk.plan(CallFault {
            on: CallKind::Write,
            after: 1,
            times: 1,
            then: CallFailure::Error(io::ErrorKind::StorageFull),
        });
        let place = format!("{step:?}");
        let outcome = driver.step(&step);
        assert!(matches!(outcome, Err(StorageError::Io { .. })), "{place}: {outcome:?}");
        check_poisoned(&mut driver, &before, &place);
        restart_both_ways(&driver, &place);
    }
}

/// Regression, seed 726268: an append filled one new segment and found no space for the next. It
/// was refused and the first removed, but not durably: the next sync should have done that and
/// failed, the node with it, and after a power cut the log held batches that were refused.
#[test]
fn segments_begun_for_an_append_that_is_refused_are_gone_for_good() {
    let batches = vec![vec![100]; 200];
    for seed in 0..40 {
        for append in [Step::Append(batches.clone()), Step::Truncate(1, batches.clone())] {
            let mut driver = LogDriver::begin(seed, false);
            driver.run(&[
                Step::Append(vec![vec![9000]]),
                Step::Append(vec![vec![3000]]),
                Step::Sync,
                Step::Term,
            ]);
            // The headers of four segments are written, then the records of the first. Those of the
            // second find no space.
            driver.disk.plan(CallFault {
                on: CallKind::Write,
                after: 5,
                times: 1,
                then: CallFailure::Error(io::ErrorKind::StorageFull),
            });
            let refused = driver.step(&append);
            assert!(matches!(refused, Err(StorageError::Full { .. })), "seed {seed}: {refused:?}");
            restart_both_ways(&driver, &format!("seed {seed}"));
        }
    }
}
