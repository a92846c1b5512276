//! The lock that excludes other processes from a directory.
//!
//! Two things are locked, both of which a log needs: the directory itself, so that no change of its
//! files lets another process in, and the file `state`, since on a network file system locks on
//! directories need not reach other machines.
//!
//! Locks belong to open files, and a child that `fork` makes has copies of those. So they are
//! released explicitly, and never by a child.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::directory::Directory;
use super::mmap::home;
use crate::fork::Home;

/// Held while the directory may be written.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    directory: Arc<Directory>,
    file: Option<Arc<File>>,
    /// Shared with other readers.
    shared: bool,
    home: Home,
}

impl DirectoryLock {
    /// `None` if another process has it, or another log of this one.
    pub(super) fn take(
        directory: &Arc<Directory>,
        shared: bool,
    ) -> io::Result<Option<DirectoryLock>> {
        let taken = directory.try_lock(shared)?;
        Ok(taken.then(|| DirectoryLock {
            directory: directory.clone(),
            file: None,
            shared,
            home: home(),
        }))
    }

    /// Locks one of the files too. Whether that succeeded.
    pub(super) fn take_file(&mut self, file: &Arc<File>) -> io::Result<bool> {
        let taken = Directory::try_lock_file(file, self.shared)?;
        self.file = Some(file.clone()).filter(|_| taken);
        Ok(taken)
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        if !self.home.is_here() {
            return; // it is the parent's, and still held there
        }
        self.file.iter().for_each(|file| Directory::unlock_file(file));
        self.directory.unlock();
    }
}
