//! Typed errors for what the operating system said, and for what the bytes say.

use std::io;
use std::sync::Arc;

use super::fs::Disk;
use crate::storage::StorageError;

/// The typed error for what the operating system said.
pub(super) fn failed<D: Disk>(disk: &D, action: &'static str, name: &str, error: io::Error) -> StorageError {
    if is_full(&error) { StorageError::Full { path: disk.path(name) } } else { broken(disk, action, name, error) }
}

pub(super) fn broken<D: Disk>(disk: &D, action: &'static str, name: &str, error: io::Error) -> StorageError {
    StorageError::Io { action, path: disk.path(name), source: Arc::new(error) }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn damaged<D: Disk>(disk: &D, name: &str, offset: u64, reason: impl Into<String>) -> StorageError {
    StorageError::Damaged { path: disk.path(name), offset, reason: reason.into() }
}

pub(super) fn too_large<D: Disk>(disk: &D, name: &str) -> StorageError {
    let error = io::Error::new(io::ErrorKind::InvalidInput, "more members or peers than fit one page");
    broken(disk, "write", name, error)
}
