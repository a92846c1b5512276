//! A crash anywhere while a damaged log is mended: afterwards it is as damaged as before or less, says so, and can still be mended to the last batch.

use super::super::simulated::{Call, Draws, Failure, Fault, Platter, SimulatedDisk};
use super::super::{Disk, STATE_NAME};
use super::crash_states::choices_of;
use super::workload::{batch_after, genesis, log_on};
use crate::storage::{Batch, Damage, HardState, Mark, Recovered, Remedy, Storage, StorageError};

/// How a log is damaged.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Payload,
    Header,
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
    log.open(&genesis()).unwrap();
    let (mut mark, mut all) = (Mark::GENESIS, Vec::new());
    for salt in 0..count {
        let batch = batch_after(&mark, 1, salt, &[900, 20]);
        log.append(std::slice::from_ref(&batch), mark.raft_index).unwrap();
        log.begin_sync().wait().unwrap();
        mark = batch.mark_after(&mark).unwrap();
        all.push(batch);
        while let Some(chore) = log.next_chore().filter(|_| sealed) {
            chore();
        }
    }
    all
}

/// Damages the copy of each batch of `hits`.
fn harm(disk: &SimulatedDisk, all: &[Batch], hits: &[usize], harm: Harm) {
    for hit in hits {
        let body = all[*hit].body();
        let mut names: Vec<String> = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")).collect();
        names.sort();
        let place = names.iter().find_map(|name| {
            let mut bytes = vec![0; disk.bytes_of(name) as usize];
            super::super::file_io::read_full(&disk.open(name).unwrap(), &mut bytes, 0).unwrap();
            Some((name, bytes.windows(body.len()).position(|window| window == *body)?))
        });
        let Some((name, at)) = place else { continue };
        match harm {
            Harm::Payload => disk.flip(name, (at as u64 + 100) * 8),
            Harm::Header => disk.flip(name, (at as u64 - 76) * 8),
            Harm::Lost => {
                disk.remove(name).unwrap();
                disk.sync_dir().unwrap();
            }
        }
    }
}

/// Mends what is open, so many batches at a time. It is let begin behind `base` before, unless it does.
fn mend(
    log: &mut dyn Storage,
    mut recovered: Recovered,
    all: &[Batch],
    base: Option<Mark>,
    window: usize,
) -> Result<Recovered, StorageError> {
    if let Some(base) = base.filter(|base| recovered.base.mark != *base) {
        recovered = log.mend(Remedy::Rebase(base))?;
    } else if !recovered.damage.is_empty() {
        recovered = log.mend(Remedy::Fill(&[]))?;
    }
    while let Some(damage) = recovered.damage.iter().find(|damage| !damage.raft_indexes.is_empty()) {
        let from = (damage.raft_indexes.start - 2) as usize;
        recovered = log.mend(Remedy::Fill(&all[from..all.len().min(from + window)]))?;
    }
    Ok(recovered)
}

/// Opens the log on `platter`: nothing is lost but some of what was `lost` before, that is told, and
/// all of it can be mended.
fn check(platter: Platter, all: &[Batch], lost: &[Damage], base: Option<Mark>, seed: u64) -> Result<(), String> {
    let disk = SimulatedDisk::with(platter, seed);
    let mut log = log_on(&disk);
    let recovered = log.open(&genesis()).map_err(|error| error.to_string())?;
    let reader = log.reader();
    for batch in all.iter().filter(|batch| batch.raft_index() > recovered.base.mark.raft_index) {
        let raft_index = batch.raft_index();
        let is_in = |damage: &[Damage]| damage.iter().any(|damage| damage.raft_indexes.contains(&raft_index));
        let is_told = is_in(&recovered.damage) && is_in(lost);
        match reader.batches(raft_index, raft_index + 1, 0) {
            Ok(found) if found == std::slice::from_ref(batch) => {}
            other if is_told && other.is_err() => {}
            other => return Err(format!("batch {raft_index}: {other:?}, and told is {:?}", recovered.damage)),
        }
    }
    let mended = mend(&mut log, recovered, all, base, 5).map_err(|error| error.to_string())?;
    let first = base.map_or(2, |base| base.raft_index + 1);
    let found = reader.batches(first, u64::MAX, u64::MAX).map_err(|error| error.to_string())?;
    if found != all[first as usize - 2..] || mended.last.raft_index != all.len() as u64 + 1 {
        return Err(format!("it was mended to {:?}", mended.last));
    }
    log.append(&[batch_after(&mended.last, 2, 99, &[5])], 1).map_err(|error| error.to_string())?;
    log.begin_sync().wait().map_err(|error| error.to_string())?;
    while let Some(chore) = log.next_chore() {
        chore();
    }
    drop(log);
    let again = log_on(&disk).open(&genesis()).map_err(|error| error.to_string())?;
    let leftover = disk.list().map_err(|error| error.to_string())?.into_iter().find(|name| name.ends_with(".mend"));
    if !again.damage.is_empty() || leftover.is_some() {
        return Err(format!("after that, {:?} {leftover:?}", again.damage));
    }
    Ok(())
}

/// Damages such a log, mends it, and looks at it after a crash at any moment meanwhile. Returns in how many states.
fn crash_while_mending(count: u64, sealed: bool, kind: Harm, hits: &[usize], base: Option<usize>) -> usize {
    let (disk, all) = filled(count, sealed);
    let hits: Vec<usize> = hits.iter().map(|hit| *hit.min(&(all.len() - 1))).collect();
    let base = base.map(|base| all[..=base].iter().fold(Mark::GENESIS, |mark, batch| batch.mark_after(&mark).unwrap()));
    harm(&disk, &all, &hits, kind);
    let disk = disk.kill();
    assert!(disk.list().unwrap().contains(&STATE_NAME.to_owned()));
    let mut log = log_on(&disk);
    disk.trace();
    let recovered = log.open(&genesis()).unwrap();
    assert!(!recovered.damage.is_empty());
    let lost = recovered.damage.clone();
    mend(&mut log, recovered, &all, base, 4).unwrap();
    drop(log);
    let (cuts, _) = disk.take_trace();
    let mut states = 0;
    for cut in &cuts {
        let mut draws = Draws::new(cut.number as u64);
        for (choices, torn) in choices_of(&cut.platter, 6, &mut draws) {
            let seed = draws.next() >> 24;
            let mut torn_draws = torn.then(|| Draws::new(seed));
            let state = cut.platter.settle(&choices, torn_draws.as_mut());
            check(state, &all, &lost, base, seed).unwrap_or_else(|why| {
                panic!("{kind:?} {hits:?} of {count}, sealed {sealed}, behind {base:?}, cut {} before {:?}: {why}", cut.number, cut.before)
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
    let harms =
        [(Harm::Payload, &[3, 4, 9][..]), (Harm::Header, &[0, 5]), (Harm::Header, &[last]), (Harm::Lost, &[2]), (Harm::Lost, &[last])];
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
        (Harm::Header, &[2, 3, 4][..], 3),
        (Harm::Header, &[2, 3, 4], 4),
        (Harm::Header, &[0, 4, 5], 0),
        (Harm::Header, &all[..12], 5),
        (Harm::Payload, &[3, 9], 6),
        (Harm::Lost, &[0, 7], 1),
        (Harm::Lost, &all, 20),
    ] {
        states += crash_while_mending(12.max(base as u64 * 2), false, kind, hits, Some(base));
    }
    states += crash_while_mending(40, true, Harm::Lost, &[9, 14], Some(10));
    states += crash_while_mending(40, true, Harm::Lost, &all, Some(10));
    assert!(states > 500, "only {states} states");
}

/// Seeds 6056982 and 6068092 ended with a log that had said what it lacked, and after a power cut took it for a write that was cut short: all that told
/// the two apart was the watermark, and that had been shown by the kernel and was not on the disk, since a sync of it had failed.
#[test]
fn what_tells_damage_from_a_torn_write_is_written_once_more() {
    let lacking = |disk: &SimulatedDisk| {
        let recovered = log_on(disk).open(&genesis()).unwrap();
        recovered.damage.iter().flat_map(|damage| damage.raft_indexes.clone()).collect::<Vec<u64>>()
    };
    // By its seed a disk draws what a sync that fails has brought to it before.
    for seed in 0..20 {
        let disk = SimulatedDisk::new(seed);
        let mut all = fill(&disk, 3, false);
        let mut log = log_on(&disk);
        let recovered = log.open(&genesis()).unwrap();
        all.push(batch_after(&recovered.last, 1, 9, &[700]));
        log.append(&all[3..], recovered.last.raft_index).unwrap();
        log.begin_sync().wait().unwrap();
        log.save(HardState { term: 7, ..recovered.hard_state }).unwrap();
        disk.plan(Fault { on: Call::Sync, after: 0, times: 1, then: Failure::Error(std::io::ErrorKind::Other) });
        log.begin_sync().wait().unwrap_err();
        drop(log);
        let disk = disk.kill();
        harm(&disk, &all, &[3], Harm::Header);
        assert_eq!(lacking(&disk), [5], "seed {seed}");
        assert_eq!(lacking(&disk.crash_keeping_nothing()), [5], "seed {seed}, once the power was gone");
    }
}
