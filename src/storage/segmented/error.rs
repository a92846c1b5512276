//! Typed errors for what the operating system said, and for what the bytes say.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::fs::Disk;
use crate::storage::StorageError;

/// The typed error for what the operating system said.
pub(super) fn failed<D: Disk>(
    disk: &D,
    action: &'static str,
    name: &str,
    error: io::Error,
) -> StorageError {
    match error {
        error if is_full(&error) => StorageError::Full { path: disk.path(name) },
        error if is_out_of_resources(&error) => {
            StorageError::OutOfResources { action, path: disk.path(name), source: Arc::new(error) }
        }
        error => broken(disk, action, name, error),
    }
}

/// The typed error for what the operating system said to a write, of which nothing was done, on a
/// log that is open: what may be allowed again in a moment does not end a node.
pub(super) fn not_written<D: Disk>(
    disk: &D,
    action: &'static str,
    name: &str,
    error: io::Error,
) -> StorageError {
    match error {
        error if is_denied(&error) => {
            StorageError::Denied { action, path: disk.path(name), source: Arc::new(error) }
        }
        error => failed(disk, action, name, error),
    }
}

/// The error for what is final whatever the operating system said: a sync, above all. Some of what
/// was written may be lost then, and no later sync would tell.
pub(super) fn broken<D: Disk>(
    disk: &D,
    action: &'static str,
    name: &str,
    error: io::Error,
) -> StorageError {
    StorageError::Io { action, path: disk.path(name), source: Arc::new(error) }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the call did nothing for want of something that the process or the system has a limit
/// on, and has again some day: descriptors, memory, maps.
pub(super) fn is_out_of_resources(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock)
        || error.raw_os_error().is_some_and(|code| LIMITS.contains(&code))
}

/// ENFILE and EMFILE.
#[cfg(unix)]
const LIMITS: [i32; 2] = [23, 24];

/// ERROR_TOO_MANY_OPEN_FILES, ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES,
/// ERROR_COMMITMENT_LIMIT.
#[cfg(not(unix))]
const LIMITS: [i32; 4] = [4, 8, 1450, 1455];

/// Whether the file system or the process may not write there at the moment: it was mounted anew or
/// given to somebody else, or a limit was lowered.
fn is_denied(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), ReadOnlyFilesystem | PermissionDenied | FileTooLarge)
}

/// Whether nothing was written, and something may be later.
pub(super) fn is_temporary(error: &io::Error) -> bool {
    is_full(error) || is_out_of_resources(error) || is_denied(error)
}

pub(super) fn corrupt<D: Disk>(
    disk: &D,
    name: &str,
    offset: u64,
    reason: impl Into<String>,
) -> StorageError {
    StorageError::Corrupt { path: disk.path(name), offset, reason: reason.into() }
}

pub(super) fn too_large<D: Disk>(disk: &D, name: &str) -> StorageError {
    let error =
        io::Error::new(io::ErrorKind::InvalidInput, "more members or peers than fit one page");
    broken(disk, "write", name, error)
}

/// The typed error for a directory that could not be opened or made by its name.
pub(super) fn no_directory(path: &Path, error: io::Error) -> StorageError {
    // Only asked in order to say what is wrong: nothing is decided by what a name means now.
    if let Some(target) = path.read_link().ok().filter(|_| !path.exists()) {
        return StorageError::DanglingLink { path: path.to_path_buf(), target };
    }
    if error.kind() == io::ErrorKind::NotADirectory {
        let file = path.ancestors().find(|path| path.exists()).unwrap_or(path);
        return StorageError::NotADirectory { path: file.to_path_buf() };
    }
    let (action, path) = ("open", path.to_path_buf());
    match error {
        error if is_out_of_resources(&error) => {
            StorageError::OutOfResources { action, path, source: Arc::new(error) }
        }
        error => StorageError::Io { action, path, source: Arc::new(error) },
    }
}

/// The typed error for a directory that is to be made at `path`, where `parent` could not be
/// opened.
pub(super) fn no_parent(path: &Path, parent: &Path, error: io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::NotFound if parent.read_link().is_err() => {
            StorageError::NoParent { path: path.to_path_buf(), parent: parent.to_path_buf() }
        }
        _ => no_directory(parent, error),
    }
}
