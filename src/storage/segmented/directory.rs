//! One directory of the operating system, by a handle that stays open, or by its name in another
//! one.
//!
//! The name of a directory with a handle is resolved once. From then on every file is named
//! relative to the handle, so changes of the name have no effect: whether the process changes its
//! working directory, a link on the way is switched, the directory is renamed, or another one or a
//! file system is put in its place. The path is kept for messages only.
//!
//! A host has too many groups for a handle each. The directory of a group is opened for each use,
//! by its name in the directory that has a handle, and compared with the one that was opened first:
//! if another one has the name by then, nothing is done, and the call fails.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::retry_on_intr;

use super::error::{no_directory, no_parent};
use crate::log_prefix::log_prefix;
use crate::storage::{DiskUse, StorageError};

#[derive(Debug)]
pub(super) struct Directory {
    handle: Handle,
    path: PathBuf,
}

#[derive(Debug)]
enum Handle {
    Open(File),
    /// Opened for each use.
    Within {
        parent: Arc<Directory>,
        name: String,
        /// What the name must lead to.
        id: FileId,
    },
}

/// A directory that is open for as long as this exists.
enum Opened<'a> {
    Kept(&'a File),
    Now(File),
}

impl Deref for Opened<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Opened::Kept(file) => file,
            Opened::Now(file) => file,
        }
    }
}

/// The device, and the number of the file on it.
type FileId = (u64, u64);

/// How to open an existing directory. Not `NOFOLLOW`: its name may be a link.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The unique id of a file: the one of this name, or of the open file if the name is empty. Only
/// the inode is queried: a query for the times of a file makes Linux store new ones at the next
/// write, and that took a third of the time of an append (6.13 and later: "multigrain timestamps").
#[cfg(target_os = "linux")]
fn id_of(at: impl rustix::fd::AsFd, name: &str) -> rustix::io::Result<FileId> {
    let flags = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    match rustix::fs::statx(&at, name, flags, rustix::fs::StatxFlags::INO) {
        Ok(found) => Ok((
            u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor),
            found.stx_ino,
        )),
        // Sandboxes that do not know the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => stat_of(at, name),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
use stat_of as id_of;

fn stat_of(at: impl rustix::fd::AsFd, name: &str) -> rustix::io::Result<FileId> {
    let found = if name.is_empty() {
        rustix::fs::fstat(at)?
    } else {
        rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?
    };
    Ok((found.st_dev as u64, found.st_ino))
}

impl Directory {
    /// Opens the directory of this name. `None` if there is none.
    pub(super) fn open(name: &Path) -> Result<Option<Directory>, StorageError> {
        let path = std::path::absolute(name).map_err(|error| no_directory(name, error))?;
        match open_dir(&path) {
            Ok(handle) => {
                let directory = Directory { handle: Handle::Open(handle), path };
                directory.sync_own_name().map_err(|error| no_directory(name, error))?;
                Ok(Some(directory))
            }
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() =>
            {
                Ok(None)
            }
            Err(error) => Err(no_directory(&path, error)),
        }
    }

    /// Creates the directory of this name, durably. Its parent must exist.
    pub(super) fn create_dir(name: &Path) -> Result<Directory, StorageError> {
        let path = std::path::absolute(name).map_err(|error| no_directory(name, error))?;
        let (Some(parent), Some(own)) = (path.parent(), path.file_name()) else {
            return Err(no_directory(&path, io::ErrorKind::InvalidInput.into()));
        };
        let parent = open_dir(parent).map_err(|error| no_parent(&path, parent, error))?;
        let handle = make_in(&parent, own).map_err(|error| no_directory(&path, error))?;
        Ok(Directory { handle: Handle::Open(handle), path })
    }

    /// Opens the directory `name` in this one, and keeps it open: it is no link. `None` if there is
    /// none.
    pub(super) fn open_in(&self, name: &str) -> Result<Option<Directory>, StorageError> {
        let path = self.path(name);
        match self.at().and_then(|at| openat(&at, name, DIRECTORY | OFlags::NOFOLLOW)) {
            Ok(handle) => Ok(Some(Directory { handle: Handle::Open(handle), path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(no_directory(&path, error)),
        }
    }

    /// Creates the directory `name` in this one, durably, and keeps it open.
    pub(super) fn create_in(&self, name: &str) -> Result<Directory, StorageError> {
        let path = self.path(name);
        let made = self.at().and_then(|at| make_in(&at, OsStr::new(name)));
        let handle = made.map_err(|error| no_directory(&path, error))?;
        Ok(Directory { handle: Handle::Open(handle), path })
    }

    /// This directory, which was found as `name` in `parent`, without a handle of its own. Its name
    /// is made durable first, if it may not be yet.
    pub(super) fn close_in(
        self,
        parent: &Arc<Directory>,
        name: &str,
    ) -> Result<Directory, StorageError> {
        let Directory { path, .. } = &self;
        self.sync_own_name().map_err(|error| no_directory(path, error))?;
        let id = self.at().and_then(|at| Ok(id_of(&*at, "")?));
        let id = id.map_err(|error| no_directory(path, error))?;
        let (parent, name) = (parent.clone(), name.to_owned());
        Ok(Directory { handle: Handle::Within { parent, name, id }, path: self.path })
    }

    /// The directory, open.
    fn at(&self) -> io::Result<Opened<'_>> {
        match &self.handle {
            Handle::Open(file) => Ok(Opened::Kept(file)),
            Handle::Within { parent, name, id } => {
                let found = openat(&*parent.at()?, name, DIRECTORY | OFlags::NOFOLLOW)?;
                if id_of(&found, "")? == *id { Ok(Opened::Now(found)) } else { Err(replaced()) }
            }
        }
    }

    /// The directory that this one is in, if it can be opened.
    pub(super) fn parent(&self) -> Option<Directory> {
        let handle = openat(&*self.at().ok()?, "..", DIRECTORY).ok()?;
        let path = self.path.parent()?.to_path_buf();
        Some(Directory { handle: Handle::Open(handle), path })
    }

    /// Makes the name of the directory durable. The process that created it may have ended before
    /// that; then it is still empty.
    fn sync_own_name(&self) -> io::Result<()> {
        if !self.list()?.is_empty() {
            return Ok(());
        }
        match openat(&*self.at()?, "..", DIRECTORY) {
            Ok(parent) => parent.sync_all(),
            // The parent is not accessible. Then this process did not create a name in it.
            Err(_) => Ok(()),
        }
    }

    /// The path of `name`, for messages. The directory itself for an empty name.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.path.clone() } else { self.path.join(name) }
    }

    /// The names in it, except those that are not UTF-8, which are not of the log.
    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&*self.at()?)? {
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Whether `name` is a directory in it, and no link to one.
    pub(super) fn is_dir(&self, name: &str) -> io::Result<bool> {
        let found = rustix::fs::statat(&*self.at()?, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(found.st_mode).is_dir())
    }

    /// Opens a file to be read.
    pub(super) fn open_to_read(&self, name: &str) -> io::Result<File> {
        openat(&*self.at()?, name, OFlags::RDONLY | OWN_FILE)
    }

    /// Opens a file to be read and written.
    pub(super) fn open_file(&self, name: &str) -> io::Result<File> {
        openat(&*self.at()?, name, OFlags::RDWR | OWN_FILE)
    }

    /// Creates a new file.
    pub(super) fn create_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OWN_FILE;
        self.at().and_then(|at| openat(&at, name, flags)).map_err(|error| match error.kind() {
            // A plain name in a directory that is open: only that directory can be missing.
            io::ErrorKind::NotFound => {
                io::Error::new(error.kind(), "the directory was removed while it was in use")
            }
            _ => error,
        })
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let at = self.at()?;
        Ok(retry_on_intr(|| rustix::fs::renameat(&*at, from, &*at, to))?)
    }

    /// Moves the directory `from` in this one to `target`, where it is called `to`.
    pub(super) fn move_dir(&self, from: &str, target: &Directory, to: &str) -> io::Result<()> {
        let (at, target) = (self.at()?, target.at()?);
        Ok(retry_on_intr(|| rustix::fs::renameat(&*at, from, &*target, to))?)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        let at = self.at()?;
        Ok(retry_on_intr(|| rustix::fs::unlinkat(&*at, name, AtFlags::empty()))?)
    }

    /// Removes the directory `name` in this one, which is empty.
    pub(super) fn remove_dir(&self, name: &str) -> io::Result<()> {
        let at = self.at()?;
        Ok(retry_on_intr(|| rustix::fs::unlinkat(&*at, name, AtFlags::REMOVEDIR))?)
    }

    /// Links a file, under the same name, into the directory `to`.
    pub(super) fn link(&self, name: &str, to: &Path) -> io::Result<()> {
        let at = self.at()?;
        let link = || rustix::fs::linkat(&*at, name, CWD, to.join(name), AtFlags::empty());
        Ok(retry_on_intr(link)?)
    }

    /// How full the file system is, by the same rule as `df`.
    pub(super) fn usage(&self) -> io::Result<DiskUse> {
        let found = rustix::fs::fstatvfs(&*self.at()?)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let used = found.f_blocks.saturating_sub(found.f_bfree);
        Ok(DiskUse::new(bytes(used), bytes(found.f_bavail)))
    }

    /// Makes names durable: files created, renamed and removed so far.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.at()?.sync_all()
    }

    /// Whether `name` is a name of this open file.
    pub(super) fn holds(&self, name: &str, file: &File) -> io::Result<bool> {
        let open = id_of(file, "")?;
        let named = match &self.handle {
            Handle::Open(handle) => id_of(handle, name),
            // Not opened for it: this comes with every sync, and must not fail for lack of a
            // descriptor. The same file is in the same directory.
            Handle::Within { parent, name: own, .. } => {
                id_of(&*parent.at()?, &format!("{own}/{name}"))
            }
        };
        match named {
            Ok(named) => Ok(named == open),
            // Nothing in it, or in its parent, has this name any more.
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Locks the directory itself: exclusively, or `shared` with other readers. Whether that
    /// succeeded. Files in it may be removed, and the lock holds all the same. Where a directory
    /// cannot be locked, the lock on a file decides alone.
    pub(super) fn try_lock(&self, shared: bool) -> io::Result<bool> {
        let Handle::Open(handle) = &self.handle else { return Err(not_kept_open()) };
        Ok(try_lock(handle, shared).unwrap_or_else(|error| {
            log::debug!("{}{} cannot be locked itself: {error}", log_prefix(), self.path.display());
            true
        }))
    }

    /// Locks one of its files in the same way. On a network file system this reaches other
    /// machines, and a lock on a directory need not.
    pub(super) fn try_lock_file(file: &File, shared: bool) -> io::Result<bool> {
        try_lock(file, shared)
    }

    /// Unlocks explicitly: a child that is about to be started may hold a copy of the descriptor.
    pub(super) fn unlock(&self) {
        if let Handle::Open(handle) = &self.handle {
            unlock(handle);
        }
    }

    pub(super) fn unlock_file(file: &File) {
        unlock(file);
    }
}

/// Flags for every file of a log: none of them is a link.
const OWN_FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

fn open_dir(path: &Path) -> io::Result<File> {
    let handle = retry_on_intr(|| rustix::fs::open(path, DIRECTORY, Mode::empty()))?;
    Ok(handle.into())
}

fn openat(directory: &File, name: &str, flags: OFlags) -> io::Result<File> {
    let file =
        retry_on_intr(|| rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR))?;
    Ok(file.into())
}

fn make_in(parent: &File, name: &OsStr) -> io::Result<File> {
    match retry_on_intr(|| rustix::fs::mkdirat(parent, name, Mode::RWXU)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    parent.sync_all()?;
    let handle = retry_on_intr(|| rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()))?;
    Ok(handle.into())
}

fn replaced() -> io::Error {
    let text = "another directory has its name now";
    io::Error::new(io::ErrorKind::NotFound, text)
}

fn not_kept_open() -> io::Error {
    io::Error::other("a directory that is not kept open cannot be locked")
}

fn try_lock(file: &File, shared: bool) -> io::Result<bool> {
    match if shared { file.try_lock_shared() } else { file.try_lock() } {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn unlock(file: &File) {
    if let Err(error) = file.unlock() {
        log::debug!("{}a lock could not be given back: {error}", log_prefix());
    }
}
