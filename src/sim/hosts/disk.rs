//! The directory of a host: real tombstones on a simulated disk, and the names in `groups`.
//!
//! The steps of a removal are those of `HostDirectory`: tombstone, move, sync of the names, mark.
//! The logs of the groups have simulated disks of their own, which fail together.

use crate::storage::StorageError;
use crate::storage::segmented::testing::simulated_disk::SimulatedDisk;
use crate::storage::segmented::{Tombstone, Tombstones};

/// The generation of a group whose directory is in its place.
#[derive(Clone, Copy, Default)]
struct Name {
    now: Option<u64>,
    /// After a power cut.
    durable: Option<u64>,
}

/// How far a removal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// Its tombstone is durable: it will be removed, whatever happens.
    Certain,
    Done,
}

/// See the [module](self).
pub(super) struct HostDisk {
    disk: SimulatedDisk,
    tombstones: Option<Tombstones<SimulatedDisk>>,
    names: Vec<Name>,
    /// The number of the tombstone of each group that is being removed.
    numbers: Vec<Option<u64>>,
}

fn uid_of(group: usize, generation: u64) -> u128 {
    (group as u128 + 1) << 64 | u128::from(generation)
}

impl HostDisk {
    pub(super) fn new(seed: u64, groups: usize) -> HostDisk {
        HostDisk {
            disk: SimulatedDisk::new(seed),
            tombstones: None,
            names: vec![Name::default(); groups],
            numbers: vec![None; groups],
        }
    }

    /// Opens it, and finishes removals that were interrupted. Returns these.
    pub(super) fn open(&mut self) -> Result<Vec<usize>, StorageError> {
        let mut tombstones = Tombstones::open(&self.disk)?;
        let mut finished = Vec::new();
        for (number, tombstone) in tombstones.pending() {
            let group = (tombstone.group_uid >> 64) as usize - 1;
            if self.names[group].now == Some(tombstone.group_uid as u64) {
                self.names[group].now = None;
            }
            self.sync_names();
            tombstones.mark_done(&self.disk, number)?;
            finished.push(group);
        }
        self.tombstones = Some(tombstones);
        self.numbers.fill(None);
        Ok(finished)
    }

    /// The directory of a new group. It is durable before its log is created.
    pub(super) fn create(&mut self, group: usize, generation: u64) {
        self.names[group].now = Some(generation);
        self.sync_names();
    }

    /// The generation of a group that has a directory.
    pub(super) fn generation(&self, group: usize) -> Option<u64> {
        self.names[group].now
    }

    fn sync_names(&mut self) {
        self.names.iter_mut().for_each(|name| name.durable = name.now);
    }

    /// The next step of the removal of a group whose log is closed.
    pub(super) fn remove(
        &mut self,
        group: usize,
        generation: u64,
        directory: u128,
    ) -> Result<Removal, StorageError> {
        let Some(tombstones) = &mut self.tombstones else { return Ok(Removal::Certain) };
        let Some(number) = self.numbers[group] else {
            let tombstone = Tombstone {
                group: format!("group-{group}"),
                directory,
                group_uid: uid_of(group, generation),
            };
            let added = tombstones.add(&self.disk, tombstone).map_err(|(_, error)| error)?;
            self.numbers[group] = Some(added);
            return Ok(Removal::Certain);
        };
        if self.names[group].now.take().is_some() {
            return Ok(Removal::Certain);
        }
        if self.names[group].durable.is_some() {
            self.names[group].durable = None;
            return Ok(Removal::Certain);
        }
        tombstones.mark_done(&self.disk, number)?;
        self.numbers[group] = None;
        Ok(Removal::Done)
    }

    /// Whether a group was removed, by its tombstone.
    pub(super) fn has_tombstone(&self, group: usize, generation: u64) -> bool {
        let uid = uid_of(group, generation);
        self.tombstones.as_ref().is_some_and(|tombstones| tombstones.contains(uid))
    }

    /// The process has ended. `loses`: so did the power, and a move of a directory that is not
    /// durable is undone, or not.
    pub(super) fn end(&mut self, power_cut: bool, mut loses: impl FnMut() -> bool) {
        self.tombstones = None;
        self.disk = if power_cut { self.disk.crash() } else { self.disk.kill() };
        for name in self.names.iter_mut().filter(|_| power_cut) {
            if name.now != name.durable && loses() {
                name.now = name.durable;
            }
            name.durable = name.now;
        }
    }
}
