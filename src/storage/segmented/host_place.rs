//! Whether a directory belongs to a host.

use std::io::Read;
use std::path::Path;

use super::directory::Directory;
use crate::storage::StorageError;

/// The file that marks the directory of a host.
pub(super) const HOST_NAME: &str = "HOST";
/// The file in it that is locked.
pub(super) const LOCK_NAME: &str = "LOCK";
/// The directory in it that holds the directories of groups.
pub(super) const GROUPS_NAME: &str = "groups";
pub(super) const HOST_MAGIC: &[u8; 4] = b"DLho";

/// Whether this is the directory of a host.
fn is_host(directory: &Directory) -> bool {
    let mut head = [0; 8];
    let read = directory.open_to_read(HOST_NAME).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && &head[4..] == HOST_MAGIC
}

/// The directory of the host in which `directory` is that of a group.
pub(super) fn enclosing_host(directory: &Directory) -> Option<Directory> {
    directory.parent().and_then(|groups| host_of_groups(&groups))
}

/// The directory of the host whose groups are in `groups`.
fn host_of_groups(groups: &Directory) -> Option<Directory> {
    groups.parent().filter(is_host)
}

/// Refuses to open a log by the name of its directory if a host has it: the host does not lock it.
pub(super) fn refuse_if_of_host(name: &Path) -> Result<(), StorageError> {
    let path = std::path::absolute(name).unwrap_or_else(|_| name.to_path_buf());
    let is_of_host = match Directory::open(name)? {
        Some(directory) => is_host(&directory) || enclosing_host(&directory).is_some(),
        // It would be created.
        None => match path.parent().map(Directory::open) {
            Some(Ok(Some(parent))) => host_of_groups(&parent).is_some(),
            _ => false,
        },
    };
    if is_of_host { Err(StorageError::OfHost { path }) } else { Ok(()) }
}
