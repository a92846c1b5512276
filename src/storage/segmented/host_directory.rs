//! The directory of a host: the logs of many groups under one lock.
//!
//! ```text
//! LOCK          locked while the host is open; empty
//! HOST          the id of the host, and the random id of the directory
//! TOMBSTONES    the groups that were removed
//! groups/NAME/  the log of a group, as that of a single ledger
//! removed-ID/   what is left of a group that was removed
//! ```
//!
//! `format.md` documents every byte. A group's directory exists, durably, before a log is created
//! in it. A group is removed in four steps: its tombstone is written; its directory is moved out of
//! `groups`; the tombstone is marked as done; the files are removed. Each is durable before the
//! next one begins. Opening finishes what a crash has interrupted: it moves the directory that a
//! tombstone names, if the tombstone is not done and the directory is still the same one.

mod host_identity;
mod tombstones;

use std::io;
use std::path::Path;
use std::sync::Arc;

use self::host_identity::HostIdentity;
pub(crate) use self::tombstones::{Tombstone, Tombstones};
use super::directory::Directory;
use super::directory_lock::{DirectoryLock, GroupLock, HostLock};
use super::disk_log::DiskLog;
use super::error::{broken, corrupt, failed, not_written};
use super::format::parse_segment_name;
use super::fs::Disk;
use super::host_place::{GROUPS_NAME, HOST_NAME, LOCK_NAME};
use super::identity::IDENTITY_NAME;
use super::metadata::{MetadataFile, STATE_NAME};
use super::options::{Create, SegmentOptions};
use super::real_disk::RealDisk;
use super::segmented_log::SegmentedLog;
use crate::entry::{NodeId, is_group_name};
use crate::log_prefix::log_prefix;
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::storage::StorageError;

/// The prefix of directories whose groups were removed.
const REMOVED_PREFIX: &str = "removed-";

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct HostDirectory {
    disk: RealDisk,
    groups: Arc<Directory>,
    tombstones: Mutex<Tombstones<RealDisk>>,
    lock: Arc<HostLock>,
    /// Names in `groups` that are no groups were logged.
    has_reported_strangers: AtomicBool,
}

impl HostDirectory {
    /// Opens the directory `path` of the host `host`, or creates one as `create` says, and locks it
    /// until this and all logs in it are dropped. Finishes removals that were interrupted. The
    /// parent of `path` is never created.
    ///
    /// # Errors
    /// [`StorageError::OtherHost`] if the directory is that of another host;
    /// [`StorageError::InUse`] if it is open, or a tool reads a log in it;
    /// [`StorageError::NoLog`] and [`StorageError::HoldsLog`] as `create` says;
    /// [`StorageError::InvalidState`] if it holds the log of a single ledger;
    /// [`StorageError::Corrupt`] if `HOST` or `groups` is lost.
    pub(crate) fn open(
        path: &Path,
        host: NodeId,
        create: Create,
    ) -> Result<HostDirectory, StorageError> {
        let disk = RealDisk::new(path.to_path_buf());
        disk.attach(create != Create::Never)?;
        check_create(&disk, create)?;
        let lock = lock(&disk)?;
        // It may have been created since the first check.
        let is_host = check_create(&disk, create)?;
        let groups = if is_host { find(&disk, host)? } else { make(&disk, host)? };
        let host_directory = HostDirectory {
            tombstones: Mutex::new(Tombstones::open(&disk)?),
            disk,
            groups: Arc::new(groups),
            lock: HostLock::new(lock),
            has_reported_strangers: AtomicBool::new(false),
        };
        host_directory.finish_removals()?;
        Ok(host_directory)
    }

    /// The names of the groups that have a log here, in order. Names that cannot be those of
    /// groups are ignored, and logged the first time.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the directory cannot be read.
    pub(crate) fn groups(&self) -> Result<Vec<String>, StorageError> {
        let names = self.list();
        names.map_err(|error| StorageError::io("list", self.groups.path(""), error))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let (mut groups, mut strangers) = (Vec::new(), Vec::new());
        for name in self.groups.list()? {
            match is_group_name(&name) && self.groups.is_dir(&name)? {
                true => groups.push(name),
                false => strangers.push(name),
            }
        }
        if !strangers.is_empty() && !self.has_reported_strangers.swap(true, Ordering::Relaxed) {
            let (path, log_prefix) = (self.groups.path(""), log_prefix());
            strangers.truncate(10);
            log::warn!("{log_prefix}{} holds what is no group: {strangers:?}", path.display());
        }
        // One without identity was being created when the process ended.
        groups.retain(|group| self.holds_log(group));
        groups.sort_unstable();
        Ok(groups)
    }

    fn holds_log(&self, group: &str) -> bool {
        match self.groups.open_in(group) {
            Ok(Some(directory)) => directory.open_to_read(IDENTITY_NAME).is_ok(),
            Ok(None) => false,
            // Opening the group will tell what is wrong with it.
            Err(_) => true,
        }
    }

    /// The log of a group, not opened yet. Touches no file. It can be open once at a time.
    pub(crate) fn storage(&self, group: &str, options: SegmentOptions) -> SegmentedLog {
        let disk = RealDisk::of_group(&self.groups, &self.lock, group);
        SegmentedLog::of(DiskLog::on(disk, options))
    }

    /// Removes a group whose log is closed. Its tombstone is durable first. When this returns
    /// `Ok`, the group is removed for good, and its name can be used again; files that cannot be
    /// removed are logged, and tried again when the host is opened.
    ///
    /// # Errors
    /// [`StorageError::InUse`] if the log is open; [`StorageError::NoLog`] if there is no such
    /// group; a [temporary](StorageError::is_temporary) one: the group is as before.
    /// [`StorageError::Io`]: it is as before; or it is removed, or will be when the host is opened
    /// again, and cannot be opened until then.
    pub(crate) fn remove(&self, group: &str) -> Result<(), StorageError> {
        let path = self.groups.path(group);
        if !is_group_name(group) {
            return Err(StorageError::NoLog { path });
        }
        let lock = self.lock.take(group).ok_or(StorageError::InUse { path: path.clone() })?;
        let tombstone = self.tombstone_of(group)?.ok_or(StorageError::NoLog { path })?;
        let added = self.tombstones.lock().add(&self.disk, tombstone);
        let number = match added {
            Ok(number) => number,
            Err((None, error)) => return Err(error),
            Err((Some(number), error)) => return Err(self.give_up(number, lock, error)),
        };
        let aside = match self.move_aside(group) {
            Ok(aside) => aside,
            Err(error) => return Err(self.give_up(number, lock, error)),
        };
        // From here on it is removed, or will be when the host is opened again.
        if let Err(error) = self.sync_names().and_then(|()| self.mark_done(number)) {
            lock.keep();
            return Err(error);
        }
        self.delete(&aside);
        Ok(())
    }

    /// Withdraws a tombstone. If that fails, the group stays closed: the next opening may remove
    /// it, with what it would acknowledge meanwhile.
    fn give_up(&self, number: u64, lock: GroupLock, error: StorageError) -> StorageError {
        if self.tombstones.lock().withdraw(&self.disk, number).is_err() {
            lock.keep();
        }
        error
    }

    fn mark_done(&self, number: u64) -> Result<(), StorageError> {
        self.tombstones.lock().mark_done(&self.disk, number)
    }

    /// Whether the group with this unique id was removed from this directory. The newest 65,536
    /// are remembered. 0 is the id of no group. The result does not keep the directory locked.
    pub(crate) fn removed(&self) -> impl Fn(u128) -> bool + Send + Sync + 'static {
        self.tombstones.lock().lookup()
    }

    #[cfg(test)]
    fn is_removed(&self, group_uid: u128) -> bool {
        self.removed()(group_uid)
    }

    /// The tombstone for the log that has this name now, if there is one.
    fn tombstone_of(&self, group: &str) -> Result<Option<Tombstone>, StorageError> {
        let Some(directory) = self.groups.open_in(group)? else { return Ok(None) };
        let path = directory.path(STATE_NAME);
        let read_failed =
            |source: io::Error| StorageError::Io { action: "read", path, source: source.into() };
        let state = match directory.open_file(STATE_NAME) {
            // Its creation was interrupted, or it lost the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(read_failed(error)),
            Ok(file) => MetadataFile::<RealDisk>::read(Arc::new(file)).map_err(read_failed)?,
        };
        let (directory, group_uid) =
            state.map_or((0, 0), |file| (file.state.known_as, file.state.group_uid));
        Ok(Some(Tombstone { group: group.to_owned(), directory, group_uid }))
    }

    /// Moves the directory of a group out of `groups`, and returns its new name.
    fn move_aside(&self, group: &str) -> Result<String, StorageError> {
        let aside = format!("{REMOVED_PREFIX}{:032x}", self.disk.random_id());
        let directory = self.disk.directory();
        let moved = directory.and_then(|target| self.groups.move_dir(group, target, &aside));
        let name = format!("{GROUPS_NAME}/{group}");
        moved.map_err(|error| not_written(&self.disk, "move aside", &name, error))?;
        Ok(aside)
    }

    /// Makes a move out of `groups` durable.
    fn sync_names(&self) -> Result<(), StorageError> {
        self.disk.sync_dir().map_err(|error| broken(&self.disk, "sync", "", error))?;
        self.groups.sync().map_err(|error| broken(&self.disk, "sync", GROUPS_NAME, error))
    }

    /// Removes the files of a group that was moved aside. What is left only takes space.
    fn delete(&self, aside: &str) {
        let remove = || -> io::Result<()> {
            let directory = self.disk.directory()?;
            let Some(removed) = directory.open_in(aside).map_err(io::Error::other)? else {
                return Ok(());
            };
            removed.list()?.iter().try_for_each(|name| removed.remove(name))?;
            directory.remove_dir(aside)
        };
        if let Err(error) = remove() {
            let (path, log_prefix) = (self.disk.path(aside), log_prefix());
            log::warn!("{log_prefix}could not remove {}: {error}", path.display());
        }
    }

    /// Finishes removals that were interrupted after the tombstone was written.
    fn finish_removals(&self) -> Result<(), StorageError> {
        let pending = self.tombstones.lock().pending();
        for (number, tombstone) in pending {
            // A directory that was put there since is another one, and stays.
            if self.tombstone_of(&tombstone.group)?.as_ref() == Some(&tombstone) {
                self.move_aside(&tombstone.group)?;
            }
            self.sync_names()?;
            self.mark_done(number)?;
        }
        let names = self.disk.list().map_err(|error| failed(&self.disk, "open", "", error))?;
        names.iter().filter(|name| name.starts_with(REMOVED_PREFIX)).for_each(|name| {
            self.delete(name);
        });
        Ok(())
    }
}

/// Whether the directory is that of a host; refuses what `create` forbids, and the directory of a
/// log.
fn check_create(disk: &RealDisk, create: Create) -> Result<bool, StorageError> {
    let names = disk.list().map_err(|error| failed(disk, "open", "", error))?;
    let path = || disk.path("");
    let is_of_log = |name: &String| {
        name == IDENTITY_NAME || name == STATE_NAME || parse_segment_name(name).is_some()
    };
    if names.iter().any(is_of_log) {
        return Err(StorageError::InvalidState(format!(
            "{} holds the log of a single ledger, not the groups of a host: name another directory",
            path().display()
        )));
    }
    let is_host = names.iter().any(|name| name == HOST_NAME);
    match create {
        Create::Never if !is_host => Err(StorageError::NoLog { path: path() }),
        Create::New if is_host => Err(StorageError::HoldsLog { path: path() }),
        _ => Ok(is_host),
    }
}

/// Locks the directory, and the file `LOCK` in it.
fn lock(disk: &RealDisk) -> Result<DirectoryLock, StorageError> {
    let in_use = || StorageError::InUse { path: disk.path("") };
    let lock_failed = |error| failed(disk, "lock", LOCK_NAME, error);
    let directory = disk.directory().map_err(lock_failed)?;
    let mut lock =
        DirectoryLock::take(directory, false).map_err(lock_failed)?.ok_or_else(in_use)?;
    let file = match directory.create_file(LOCK_NAME) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(LOCK_NAME),
        made => made,
    };
    let file = Arc::new(file.map_err(lock_failed)?);
    if lock.take_file(&file).map_err(lock_failed)? { Ok(lock) } else { Err(in_use()) }
}

/// Checks the id of the host, and opens the directory of its groups.
fn find(disk: &RealDisk, host: NodeId) -> Result<Directory, StorageError> {
    let found = HostIdentity::read(disk)?;
    if found.host != host {
        let path = disk.path("");
        return Err(StorageError::OtherHost { path, expected: host, found: found.host });
    }
    let directory = disk.directory().map_err(|error| failed(disk, "open", "", error))?;
    let lost = || corrupt(disk, GROUPS_NAME, 0, "the directory is missing, with all groups in it");
    directory.open_in(GROUPS_NAME)?.ok_or_else(lost)
}

/// Creates the directory of the groups, and then the identity of the host.
fn make(disk: &RealDisk, host: NodeId) -> Result<Directory, StorageError> {
    let make_failed = |error| failed(disk, "open", GROUPS_NAME, error);
    let directory = disk.directory().map_err(make_failed)?;
    let groups = match directory.open_in(GROUPS_NAME)? {
        Some(groups) if !groups.list().map_err(make_failed)?.is_empty() => {
            let reason = "the file is missing, but the directory has been in use";
            return Err(corrupt(disk, HOST_NAME, 0, reason));
        }
        // Created again, for it may not be durable: that finds it.
        _ => directory.create_in(GROUPS_NAME)?,
    };
    HostIdentity { host, directory: disk.random_id() }
        .create(disk)
        .map_err(|error| not_written(disk, "create", HOST_NAME, error))?;
    Ok(groups)
}

#[cfg(test)]
mod tests;
