//! The directory that a backup is written to: under a temporary name until it is complete.
//!
//! A temporary directory left by a killed process is removed by the next backup with the same
//! parent. One in use is locked, so that it is not mistaken for a leftover.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::{failed, is_full, too_large};
use super::super::format::parse_segment_name;
use super::super::fs::Disk;
use super::super::identity::{IDENTITY_NAME, IdentityFile, NEW_NAME};
use super::super::metadata::STATE_NAME;
use super::super::real_disk::RealDisk;
use crate::log_prefix::log_prefix;
use crate::storage::{BackupError, StorageError};

/// The suffix of an incomplete backup.
const PARTIAL_SUFFIX: &str = ".dledger-partial";

/// See the [module](self).
pub(super) struct Target {
    parent: PathBuf,
    path: PathBuf,
    partial: PathBuf,
    disk: RealDisk,
    /// Keeps other processes from removing it.
    lock: Option<File>,
    is_whole: bool,
}

impl Target {
    /// Begins a backup to the directory `to`, which does not exist yet, or is empty.
    pub(super) fn begin(to: &Path) -> Result<Target, BackupError> {
        let (parent, path) = check_target(to)?;
        remove_leftovers(&parent);
        let (partial, lock) = make_partial(&parent, &path)?;
        let disk = RealDisk::new(partial.clone());
        disk.attach(false)?;
        Ok(Target { parent, path, partial, disk, lock, is_whole: false })
    }

    pub(super) fn disk(&self) -> &RealDisk {
        &self.disk
    }

    /// Gives what was written its identity, and then its name.
    pub(super) fn finish(mut self, identity: &IdentityFile) -> Result<(), BackupError> {
        let write_failed = |error| failed(&self.disk, "create", IDENTITY_NAME, error);
        identity
            .create(&self.disk)
            .map_err(write_failed)?
            .ok_or_else(|| too_large(&self.disk, IDENTITY_NAME))?;
        fs::rename(&self.partial, &self.path).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory => {
                refused(&self.path, "something was put there while the backup was written")
            }
            _ => io_failed("rename", &self.partial, error),
        })?;
        self.is_whole = true;
        let parent = RealDisk::new(self.parent.clone());
        parent.attach(false)?;
        parent.sync_dir().map_err(|error| io_failed("sync", &self.parent, error))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.is_whole {
            remove(&self.partial);
        }
        // Explicitly, for a forked child may hold a copy of the descriptor.
        if let Some(lock) = &self.lock {
            let _ = lock.unlock();
        }
    }
}

/// Checks the target. Its parent directory, and its path there.
fn check_target(to: &Path) -> Result<(PathBuf, PathBuf), BackupError> {
    let refused = |reason: &str| Err(refused(to, reason));
    let Ok(absolute) = std::path::absolute(to) else { return refused("it names no directory") };
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return refused("it names no directory");
    };
    let parent = match parent.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refused("the directory around it is missing: make that first");
        }
        parent => parent.map_err(|error| io_failed("open", parent_of(&absolute), error))?,
    };
    if parent.ancestors().any(is_log) {
        return refused("it lies within the directory of a ledger: choose a place outside");
    }
    let path = parent.join(name);
    let found = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((parent, path)),
        found => found.map_err(|error| io_failed("open", &path, error))?,
    };
    if !found.is_dir() {
        return refused("it is there, and no directory");
    }
    if is_log(&path) {
        return refused("it holds a log: choose a directory that is not there yet");
    }
    let mut names = fs::read_dir(&path).map_err(|error| io_failed("open", &path, error))?;
    if names.next().is_some() {
        return refused("it is not empty: choose a directory that is not there yet");
    }
    if is_mount_point(&parent, &found) {
        return refused("a file system is mounted there: choose a directory within it");
    }
    Ok((parent, path))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Whether `dir` is the directory of a ledger, intact or not.
fn is_log(dir: &Path) -> bool {
    dir.join(IDENTITY_NAME).exists() && dir.join(STATE_NAME).exists()
}

#[cfg(unix)]
fn is_mount_point(parent: &Path, found: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    parent.metadata().is_ok_and(|parent| parent.dev() != found.dev())
}

#[cfg(not(unix))]
fn is_mount_point(_parent: &Path, _found: &fs::Metadata) -> bool {
    false
}

/// Creates the temporary directory, and locks it.
fn make_partial(parent: &Path, path: &Path) -> Result<(PathBuf, Option<File>), BackupError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Another process may remove it as a leftover before it is locked.
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let number = RealDisk::new(parent.to_path_buf()).random_id() as u64;
        let partial = parent.join(format!(".{name}.{number:016x}{PARTIAL_SUFFIX}"));
        #[cfg_attr(not(unix), expect(unused_mut, reason = "it has no mode there"))]
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&partial).map_err(|error| io_failed("create", &partial, error))?;
        match lock(&partial) {
            Locked::Ours(lock) if partial.exists() => return Ok((partial, Some(lock))),
            Locked::Unsupported => return Ok((partial, None)),
            Locked::Ours(_) | Locked::Theirs => {}
        }
    }
    let error = io::Error::other("others remove it again and again");
    Err(io_failed("create", path, error))
}

#[cfg_attr(not(unix), expect(dead_code, reason = "directories cannot be locked there"))]
enum Locked {
    Ours(File),
    Theirs,
    Unsupported,
}

/// Locks a directory. Released with the file, and at the end of the process.
#[cfg(unix)]
fn lock(dir: &Path) -> Locked {
    let Ok(dir) = File::open(dir) else { return Locked::Theirs };
    match dir.try_lock() {
        Ok(()) => Locked::Ours(dir),
        Err(fs::TryLockError::WouldBlock) => Locked::Theirs,
        Err(fs::TryLockError::Error(_)) => Locked::Unsupported,
    }
}

#[cfg(not(unix))]
fn lock(_dir: &Path) -> Locked {
    Locked::Unsupported
}

/// Removes what backups of ended processes left in `parent`.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with('.') || !name.ends_with(PARTIAL_SUFFIX) {
            continue;
        }
        if let Locked::Ours(_held) = lock(&path) {
            remove(&path);
        }
    }
}

/// Removes an incomplete backup: the files that a backup has, and the directory if it has no
/// others.
fn remove(partial: &Path) {
    let is_ours = |name: &str| {
        [STATE_NAME, IDENTITY_NAME, NEW_NAME].contains(&name) || parse_segment_name(name).is_some()
    };
    let entries = fs::read_dir(partial).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
            let _ = fs::remove_file(&path);
        }
    }
    if let Err(error) = fs::remove_dir(partial) {
        log::warn!("{}could not remove {}: {error}", log_prefix(), partial.display());
    }
}

fn refused(to: &Path, reason: &str) -> BackupError {
    BackupError::Target { path: to.to_path_buf(), reason: reason.to_owned() }
}

fn io_failed(action: &'static str, path: &Path, error: io::Error) -> BackupError {
    if is_full(&error) {
        return BackupError::Full { path: path.to_path_buf() };
    }
    BackupError::Storage(StorageError::Io {
        action,
        path: path.to_path_buf(),
        source: Arc::new(error),
    })
}
