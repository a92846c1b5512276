//! Typed errors: of the operating system, and of file contents.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::fs::Disk;
use crate::storage::StorageError;

/// The typed error for an error of the operating system.
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

/// The typed error for a write of which nothing was done, on a log that is open: a refusal that may
/// be temporary does not end a node.
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

/// The error for a failure that is always final: a sync, above all. Some of what was written may be
/// lost then, and a later sync would not tell.
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

/// Whether the call did nothing because of a limit of the process or the system, on descriptors,
/// memory or maps, so that it may succeed later.
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

/// Whether writing is not permitted at the moment: the file system was remounted or given to
/// another user, or a limit was lowered.
fn is_denied(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), ReadOnlyFilesystem | PermissionDenied | FileTooLarge)
}

/// Whether nothing was written, and a retry may succeed.
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

/// Whether a file did not exist.
pub(super) fn is_not_found(error: &StorageError) -> bool {
    let StorageError::Io { source, .. } = error else { return false };
    source.kind() == io::ErrorKind::NotFound
}

/// The typed error for a directory that could not be opened or created by its name.
pub(super) fn no_directory(path: &Path, error: io::Error) -> StorageError {
    // For the message only: nothing is decided by what a name means now.
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

/// The typed error for a directory to be created at `path`, where `parent` could not be opened.
pub(super) fn no_parent(path: &Path, parent: &Path, error: io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::NotFound if parent.read_link().is_err() => {
            StorageError::NoParent { path: path.to_path_buf(), parent: parent.to_path_buf() }
        }
        _ => no_directory(parent, error),
    }
}
