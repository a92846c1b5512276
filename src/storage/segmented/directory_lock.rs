//! The lock that keeps others out of a directory.
//!
//! Two things are locked that a log cannot do without: the directory itself, so that nothing that
//! is done to its files lets anybody in, and the file `state`, since on a network file system locks
//! on directories need not reach other machines.
//!
//! Locks belong to open files, and a child that `fork` makes has copies of those. So they are given
//! back by word, and never by a child.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::directory::Directory;
use super::mmap::home;
use crate::fork::Home;

/// Held as long as anybody may write to the directory.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    directory: Arc<Directory>,
    file: Option<Arc<File>>,
    /// Others who only look may have it too.
    shared: bool,
    home: Home,
}

impl DirectoryLock {
    /// `None` if somebody else has it.
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

    /// Locks one of the files too. Whether nobody else has.
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
