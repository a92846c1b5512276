//! The lock that excludes other processes from a directory.
//!
//! Two things are locked, both of which a log needs: the directory itself, so that no change of its
//! files lets another process in, and the file `state`, since on a network file system locks on
//! directories need not reach other machines.
//!
//! A host locks its directory in the same way, with a file `LOCK` in place of `state`, and the logs
//! of its groups have no locks of their own: which of them are open is known in its memory.
//!
//! Locks belong to open files, and a child that `fork` makes has copies of those. So they are
//! released explicitly, and never by a child.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::directory::Directory;
use super::mmap::home;
use crate::fork::Home;
use crate::primitives::Mutex;

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

/// The lock on the directory of a host, and which of its groups are open.
#[derive(Debug)]
pub(crate) struct HostLock {
    /// Released when the host and all logs of its groups are closed.
    _directory: DirectoryLock,
    open: Mutex<HashSet<String>>,
}

impl HostLock {
    pub(super) fn new(directory: DirectoryLock) -> Arc<HostLock> {
        Arc::new(HostLock { _directory: directory, open: Mutex::default() })
    }

    /// `None` if the log of the group is open already.
    pub(super) fn take(self: &Arc<Self>, group: &str) -> Option<GroupLock> {
        let taken = self.open.lock().insert(group.to_owned());
        taken.then(|| GroupLock { host: self.clone(), group: group.to_owned(), is_kept: false })
    }
}

/// Held while the log of a group is open. The directory of the host stays locked meanwhile.
#[derive(Debug)]
pub(crate) struct GroupLock {
    host: Arc<HostLock>,
    group: String,
    is_kept: bool,
}

impl GroupLock {
    /// The group cannot be opened before the host is opened again.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for GroupLock {
    fn drop(&mut self) {
        if !self.is_kept {
            self.host.open.lock().remove(&self.group);
        }
    }
}

/// What keeps others from a log.
#[derive(Debug)]
pub(crate) enum LogLock {
    /// Of a log in a directory of its own.
    Directory(DirectoryLock),
    Group {
        _lock: GroupLock,
    },
}
