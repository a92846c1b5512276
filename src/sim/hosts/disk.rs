//! The directory of a host: real tombstones on a simulated disk, and the names in `groups`.
//!
//! The steps of a removal are those of `HostDirectory`: tombstone, move, sync of the names, mark.
//! The logs of the groups have simulated disks of their own, which fail together.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::StorageError;
use crate::storage::segmented::testing::simulated_disk::SimulatedDisk;
use crate::storage::segmented::{Tombstone, Tombstones};
use crate::transport::RemovedGroups;

/// The name of a group in `groups`.
#[derive(Clone, Copy, Default)]
struct Name {
    /// The generation of the group whose directory is in its place.
    now: Option<u64>,
    /// After a power cut.
    durable: Option<u64>,
    /// The id of that directory. 0: no log was created in it.
    directory: u128,
    /// The number of its tombstone, while it is being removed.
    number: Option<u64>,
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
    tombstones: Option<Arc<Mutex<Tombstones<SimulatedDisk>>>>,
    names: Vec<Name>,
}

impl HostDisk {
    pub(super) fn new(seed: u64, groups: usize) -> HostDisk {
        HostDisk {
            disk: SimulatedDisk::new(seed),
            tombstones: None,
            names: vec![Name::default(); groups],
        }
    }

    /// Opens it, and finishes removals that were interrupted. Returns these.
    pub(super) fn open(&mut self) -> Result<Vec<usize>, StorageError> {
        let mut tombstones = Tombstones::open(&self.disk)?;
        let mut finished = Vec::new();
        for (number, tombstone) in tombstones.pending() {
            let place = tombstone.group.trim_start_matches("group-").parse().unwrap_or(0);
            let name = &mut self.names[place];
            if name.directory == tombstone.directory {
                name.now = None;
                finished.push(place);
            }
            self.sync_names();
            tombstones.mark_done(&self.disk, number)?;
        }
        self.tombstones = Some(Arc::new(Mutex::new(tombstones)));
        self.names.iter_mut().for_each(|name| name.number = None);
        Ok(finished)
    }

    /// The groups that were removed from this host.
    pub(super) fn removed(&self) -> RemovedGroups {
        let Some(tombstones) = self.tombstones.clone() else { return RemovedGroups::default() };
        RemovedGroups::new(move |uid| tombstones.lock().contains(uid))
    }

    /// The directory of a new group. It is durable before its log is created.
    pub(super) fn create(&mut self, group: usize, generation: u64) {
        (self.names[group].now, self.names[group].directory) = (Some(generation), 0);
        self.sync_names();
    }

    /// A log was created in it.
    pub(super) fn set_directory(&mut self, group: usize, directory: u128) {
        self.names[group].directory = directory;
    }

    /// The generation of a group that has a directory.
    pub(super) fn generation(&self, group: usize) -> Option<u64> {
        self.names[group].now
    }

    fn sync_names(&mut self) {
        self.names.iter_mut().for_each(|name| name.durable = name.now);
    }

    /// The next step of the removal of a group whose log is closed.
    pub(super) fn remove(&mut self, group: usize, uid: u128) -> Result<Removal, StorageError> {
        let Some(tombstones) = &self.tombstones else { return Ok(Removal::Certain) };
        let (mut tombstones, name) = (tombstones.lock(), &mut self.names[group]);
        let Some(number) = name.number else {
            let (directory, group) = (name.directory, format!("group-{group}"));
            let tombstone = Tombstone { group, directory, group_uid: uid };
            let added = tombstones.add(&self.disk, tombstone).map_err(|(_, error)| error)?;
            name.number = Some(added);
            return Ok(Removal::Certain);
        };
        if name.now.take().is_some() {
            return Ok(Removal::Certain);
        }
        if name.durable.take().is_some() {
            return Ok(Removal::Certain);
        }
        tombstones.mark_done(&self.disk, number)?;
        name.number = None;
        Ok(Removal::Done)
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
