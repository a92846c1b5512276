//! One directory of the operating system, by its absolute path, where `std` has no handles of
//! directories.
//!
//! Does what `directory.rs` does on Unix, as far as possible: the path is made absolute once, so
//! that a change of the working directory has no effect. The file `LOCK` is locked, and cannot be
//! removed while it is open.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{no_directory, no_parent};
use crate::primitives::OnceLock;
use crate::storage::{DiskUse, StorageError};

const LOCK_NAME: &str = "LOCK";

#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: OnceLock<File>,
}

impl Directory {
    /// Opens the directory of this name. `None` if there is none.
    pub(super) fn open(name: &Path) -> Result<Option<Directory>, StorageError> {
        let path = std::path::absolute(name).map_err(|error| no_directory(name, error))?;
        match path.metadata() {
            Ok(found) if found.is_dir() => Ok(Some(Directory { path, lock: OnceLock::new() })),
            Ok(_) => Err(StorageError::NotADirectory { path }),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() =>
            {
                Ok(None)
            }
            Err(error) => Err(no_directory(&path, error)),
        }
    }

    /// Creates the directory of this name. Its parent must exist.
    pub(super) fn create_dir(name: &Path) -> Result<Directory, StorageError> {
        let path = std::path::absolute(name).map_err(|error| no_directory(name, error))?;
        let Some(parent) = path.parent() else {
            return Err(no_directory(&path, io::ErrorKind::InvalidInput.into()));
        };
        parent.metadata().map_err(|error| no_parent(&path, parent, error))?;
        match DirBuilder::new().create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(no_directory(&path, error))
            }
            _ => Ok(Directory { path, lock: OnceLock::new() }),
        }
    }

    /// Opens the directory `name` in this one. `None` if there is none.
    pub(super) fn open_in(&self, name: &str) -> Result<Option<Directory>, StorageError> {
        Directory::open(&self.path(name))
    }

    /// Creates the directory `name` in this one.
    pub(super) fn create_in(&self, name: &str) -> Result<Directory, StorageError> {
        Directory::create_dir(&self.path(name))
    }

    /// This directory, which was found as `name` in `parent`. It has no handle here.
    pub(super) fn close_in(
        self,
        _parent: &Arc<Directory>,
        _name: &str,
    ) -> Result<Directory, StorageError> {
        Ok(self)
    }

    /// The directory that this one is in.
    pub(super) fn parent(&self) -> Option<Directory> {
        Some(Directory { path: self.path.parent()?.to_path_buf(), lock: OnceLock::new() })
    }

    /// The path of `name`. The directory itself for an empty name.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.path.clone() } else { self.path.join(name) }
    }

    /// The names in it, except those that are not UTF-8, which are not of the log.
    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.map(|entry| entry.file_name().into_string().ok()).transpose()
        };
        std::fs::read_dir(&self.path)?.filter_map(name).collect()
    }

    /// Whether `name` is a directory in it, and no link to one.
    pub(super) fn is_dir(&self, name: &str) -> io::Result<bool> {
        Ok(self.path(name).symlink_metadata()?.is_dir())
    }

    /// Opens a file to be read.
    pub(super) fn open_to_read(&self, name: &str) -> io::Result<File> {
        File::open(self.path(name))
    }

    /// Opens a file to be read and written.
    pub(super) fn open_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path(name))
    }

    /// Creates a new file.
    pub(super) fn create_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path(name))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    /// Moves the directory `from` in this one to `target`, where it is called `to`.
    pub(super) fn move_dir(&self, from: &str, target: &Directory, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), target.path(to))
    }

    /// Removes the directory `name` in this one, which is empty.
    pub(super) fn remove_dir(&self, name: &str) -> io::Result<()> {
        std::fs::remove_dir(self.path(name))
    }

    /// Links a file, under the same name, into the directory `to`.
    pub(super) fn link(&self, name: &str, to: &Path) -> io::Result<()> {
        std::fs::hard_link(self.path(name), to.join(name))
    }

    /// Unknown without a call that `std` does not have.
    pub(super) fn usage(&self) -> io::Result<DiskUse> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Names are as durable as the file system makes them: directories cannot be opened to be
    /// synced.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// Unknown without a call that `std` does not have.
    pub(super) fn holds(&self, _name: &str, _file: &File) -> io::Result<bool> {
        Ok(true)
    }

    /// Locks the directory: exclusively, or `shared` with other readers. Whether that succeeded.
    pub(super) fn try_lock(&self, shared: bool) -> io::Result<bool> {
        let mut options = OpenOptions::new();
        options.read(true).write(!shared).create(!shared).truncate(false);
        // To read and to write, not to remove or rename.
        #[cfg(windows)]
        std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 1 | 2);
        let file = match options.open(self.path(LOCK_NAME)) {
            // A copy of a directory need not have it.
            Err(error) if shared && error.kind() == io::ErrorKind::NotFound => return Ok(true),
            file => file?,
        };
        match if shared { file.try_lock_shared() } else { file.try_lock() } {
            Ok(()) => Ok(self.lock.set(file).is_ok()),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// A lock on a file would exclude its owner too, through another handle.
    pub(super) fn try_lock_file(_file: &File, _shared: bool) -> io::Result<bool> {
        Ok(true)
    }

    /// Unlocks.
    pub(super) fn unlock(&self) {
        if let Some(file) = self.lock.get() {
            let _ = file.unlock();
        }
    }

    pub(super) fn unlock_file(_file: &File) {}
}
