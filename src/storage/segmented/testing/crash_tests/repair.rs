//! A crash anywhere while a corrupt log is repaired: afterwards it is as corrupt as before or less,
//! says so, and can still be repaired to the last batch.

use super::super::simulated_disk::{
    CallFailure, CallFault, CallKind, DiskImage, Rng, SimulatedDisk,
};
use super::crash_states::choices_of;
use super::driver::{batch_after, log_on, owner};
use crate::storage::segmented::fs::Disk;
use crate::storage::segmented::metadata::STATE_NAME;
use crate::storage::{
    Batch, Corruption, HardState, LogPoint, Recovered, RepairAction, Storage, StorageError,
};

/// How a log is corrupt.
#[derive(Clone, Copy, Debug)]
enum CorruptionKind {
    Payload,
    RecordHeader,
    /// The file is gone.
    Lost,
}

/// A closed log on a disk, each batch synced by itself.
fn filled(count: u64, sealed: bool) -> (SimulatedDisk, Vec<Batch>) {
    let disk = SimulatedDisk::new(5);
    let all = fill(&disk, count, sealed);
    (disk, all)
}

fn fill(disk: &SimulatedDisk, count: u64, sealed: bool) -> Vec<Batch> {
    let mut log = log_on(disk);
    log.open(&owner()).unwrap();
    let (mut point, mut all) = (LogPoint::INITIAL, Vec::new());
    for salt in 0..count {
        let batch = batch_after(&point, 1, salt, &[900, 20]);
        log.append(std::slice::from_ref(&batch), point.raft_index).unwrap();
        log.begin_sync().wait().unwrap();
        point = batch.point_after(&point).unwrap();
        all.push(batch);
        while let Some(background_task) = log.next_task().filter(|_| sealed) {
            background_task();
        }
    }
    all
}

/// Corrupts the copy of each batch of `hits`.
fn corruption(disk: &SimulatedDisk, all: &[Batch], hits: &[usize], corruption: CorruptionKind) {
    for hit in hits {
        let body = all[*hit].body();
        let mut names: Vec<String> =
            disk.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")).collect();
        names.sort();
        let place = names.iter().find_map(|name| {
            let mut bytes = vec![0; disk.bytes_of(name) as usize];
            crate::storage::segmented::file_io::read_full(&disk.open(name).unwrap(), &mut bytes, 0)
                .unwrap();
            Some((name, bytes.windows(body.len()).position(|window| window == *body)?))
        });
        let Some((name, at)) = place else { continue };
        match corruption {
            CorruptionKind::Payload => disk.flip(name, (at as u64 + 100) * 8),
            CorruptionKind::RecordHeader => disk.flip(name, (at as u64 - 76) * 8),
            CorruptionKind::Lost => {
                disk.remove(name).unwrap();
                disk.sync_dir().unwrap();
            }
        }
    }
}

/// Repairs the open log, so many batches at a time. Its base is moved to `base` first, unless it is
/// there.
fn repair(
    log: &mut dyn Storage,
    mut recovered: Recovered,
    all: &[Batch],
    base: Option<LogPoint>,
    window: usize,
) -> Result<Recovered, StorageError> {
    if let Some(base) = base.filter(|base| recovered.base.point != *base) {
        recovered = log.repair(RepairAction::TruncateHead(base))?;
    } else if !recovered.corruption.is_empty() {
        recovered = log.repair(RepairAction::Fill(&[]))?;
    }
    while let Some(corruption) =
        recovered.corruption.iter().find(|corruption| !corruption.raft_indexes.is_empty())
    {
        let from = (corruption.raft_indexes.start - 2) as usize;
        recovered = log.repair(RepairAction::Fill(&all[from..all.len().min(from + window)]))?;
    }
    Ok(recovered)
}

/// Opens the log on `image`: nothing is lost but some of what was `lost` before, that is reported,
/// and all of it can be repaired.
fn check(
    image: DiskImage,
    all: &[Batch],
    lost: &[Corruption],
    base: Option<LogPoint>,
    seed: u64,
) -> Result<(), String> {
    let disk = SimulatedDisk::with(image, seed);
    let mut log = log_on(&disk);
    let recovered = log.open(&owner()).map_err(|error| error.to_string())?;
    let reader = log.reader();
    for batch in all.iter().filter(|batch| batch.raft_index() > recovered.base.point.raft_index) {
        let raft_index = batch.raft_index();
        let is_in = |corruption: &[Corruption]| {
            corruption.iter().any(|corruption| corruption.raft_indexes.contains(&raft_index))
        };
        let is_known = is_in(&recovered.corruption) && is_in(lost);
        match reader.batches(raft_index, raft_index + 1, 0) {
            Ok(found) if found == std::slice::from_ref(batch) => {}
            other if is_known && other.is_err() => {}
            other => {
                return Err(format!(
                    "batch {raft_index}: {other:?}, and reported is {:?}",
                    recovered.corruption
                ));
            }
        }
    }
    let repaired = repair(&mut log, recovered, all, base, 5).map_err(|error| error.to_string())?;
    let first = base.map_or(2, |base| base.raft_index + 1);
    let found = reader.batches(first, u64::MAX, u64::MAX).map_err(|error| error.to_string())?;
    if found != all[first as usize - 2..] || repaired.last.raft_index != all.len() as u64 + 1 {
        return Err(format!("it was repaired to {:?}", repaired.last));
    }
    log.append(&[batch_after(&repaired.last, 2, 99, &[5])], 1)
        .map_err(|error| error.to_string())?;
    log.begin_sync().wait().map_err(|error| error.to_string())?;
    while let Some(background_task) = log.next_task() {
        background_task();
    }
    drop(log);
    let again = log_on(&disk).open(&owner()).map_err(|error| error.to_string())?;
    let leftover = disk
        .list()
        .map_err(|error| error.to_string())?
        .into_iter()
        .find(|name| name.ends_with(".mend"));
    if !again.corruption.is_empty() || leftover.is_some() {
        return Err(format!("after that, {:?} {leftover:?}", again.corruption));
    }
    Ok(())
}

/// Corrupts such a log, repairs it, and checks it after a crash at any moment meanwhile. Returns
/// the number of states.
fn crash_while_mending(
    count: u64,
    sealed: bool,
    kind: CorruptionKind,
    hits: &[usize],
    base: Option<usize>,
) -> usize {
    let (disk, all) = filled(count, sealed);
    let hits: Vec<usize> = hits.iter().map(|hit| *hit.min(&(all.len() - 1))).collect();
    let base = base.map(|base| {
        all[..=base]
            .iter()
            .fold(LogPoint::INITIAL, |point, batch| batch.point_after(&point).unwrap())
    });
    corruption(&disk, &all, &hits, kind);
    let disk = disk.kill();
    assert!(disk.list().unwrap().contains(&STATE_NAME.to_owned()));
    let mut log = log_on(&disk);
    disk.trace();
    let recovered = log.open(&owner()).unwrap();
    assert!(!recovered.corruption.is_empty());
    let lost = recovered.corruption.clone();
    repair(&mut log, recovered, &all, base, 4).unwrap();
    drop(log);
    let (cuts, _) = disk.take_trace();
    let mut states = 0;
    for cut in &cuts {
        let mut draws = Rng::new(cut.number as u64);
        for (choices, torn) in choices_of(&cut.image, 6, &mut draws) {
            let seed = draws.next() >> 24;
            let mut torn_draws = torn.then(|| Rng::new(seed));
            let state = cut.image.settle(&choices, torn_draws.as_mut());
            check(state, &all, &lost, base, seed).unwrap_or_else(|why| {
                let (number, before) = (cut.number, cut.before);
                panic!(
                    "{kind:?} {hits:?} of {count}, sealed {sealed}, behind {base:?}, \
                     cut {number} before {before:?}: {why}"
                )
            });
            states += 1;
        }
    }
    states
}

#[test]
fn a_crash_anywhere_while_mending_loses_nothing() {
    let mut states = 0;
    let last = usize::MAX;
    let harms = [
        (CorruptionKind::Payload, &[3, 4, 9][..]),
        (CorruptionKind::RecordHeader, &[0, 5]),
        (CorruptionKind::RecordHeader, &[last]),
        (CorruptionKind::Lost, &[2]),
        (CorruptionKind::Lost, &[last]),
    ];
    for (count, sealed) in [(12, false), (40, true), (40, false)] {
        // Opening does not look into sealed segments.
        for (kind, hits) in harms.into_iter().skip(if sealed { 2 } else { 0 }) {
            states += crash_while_mending(count, sealed, kind, hits, None);
        }
    }
    assert!(states > 500, "only {states} states");
}

#[test]
fn a_crash_anywhere_while_a_log_is_let_begin_later_loses_nothing_behind() {
    let mut states = 0;
    let all = (0..40).collect::<Vec<_>>();
    for (kind, hits, base) in [
        (CorruptionKind::RecordHeader, &[2, 3, 4][..], 3),
        (CorruptionKind::RecordHeader, &[2, 3, 4], 4),
        (CorruptionKind::RecordHeader, &[0, 4, 5], 0),
        (CorruptionKind::RecordHeader, &all[..12], 5),
        (CorruptionKind::Payload, &[3, 9], 6),
        (CorruptionKind::Lost, &[0, 7], 1),
        (CorruptionKind::Lost, &all, 20),
    ] {
        states += crash_while_mending(12.max(base as u64 * 2), false, kind, hits, Some(base));
    }
    states += crash_while_mending(40, true, CorruptionKind::Lost, &[9, 14], Some(10));
    states += crash_while_mending(40, true, CorruptionKind::Lost, &all, Some(10));
    assert!(states > 500, "only {states} states");
}

/// Regression, seeds 6056982 and 6068092: a log had reported what it lacked, and after a power cut
/// took it for a torn write: only the watermark told the two apart, and that was in the page cache
/// and not on the disk, since a sync of it had failed.
#[test]
fn what_tells_damage_from_a_torn_write_is_written_once_more() {
    let lacking = |disk: &SimulatedDisk| {
        let recovered = log_on(disk).open(&owner()).unwrap();
        recovered
            .corruption
            .iter()
            .flat_map(|corruption| corruption.raft_indexes.clone())
            .collect::<Vec<u64>>()
    };
    // The seed of a disk decides what a failed sync has written.
    for seed in 0..20 {
        let disk = SimulatedDisk::new(seed);
        let mut all = fill(&disk, 3, false);
        let mut log = log_on(&disk);
        let recovered = log.open(&owner()).unwrap();
        all.push(batch_after(&recovered.last, 1, 9, &[700]));
        log.append(&all[3..], recovered.last.raft_index).unwrap();
        log.begin_sync().wait().unwrap();
        log.save_hard_state(HardState { term: 7, ..recovered.hard_state }).unwrap();
        disk.plan(CallFault {
            on: CallKind::Sync,
            after: 0,
            times: 1,
            then: CallFailure::Error(std::io::ErrorKind::Other),
        });
        log.begin_sync().wait().unwrap_err();
        drop(log);
        let disk = disk.kill();
        corruption(&disk, &all, &[3], CorruptionKind::RecordHeader);
        assert_eq!(lacking(&disk), [5], "seed {seed}");
        assert_eq!(
            lacking(&disk.crash_keeping_nothing()),
            [5],
            "seed {seed}, once the power was gone"
        );
    }
}
