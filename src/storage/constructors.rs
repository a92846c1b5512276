//! Constructors for a host's own storage: the types are non-exhaustive, so that fields can be
//! added.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Backup, BackupError, StorageError};
use super::{
    Base, Corruption, DirectoryIdentity, HardState, LogOwner, LogPoint, Recovered, Storage,
};
use crate::entry::NodeId;
use crate::role::Membership;

impl HardState {
    /// A term, the vote in it, and how far the log is known to be committed.
    pub fn new(term: u64, vote: Option<NodeId>, commit: u64) -> HardState {
        HardState { term, vote, commit }
    }
}

impl Base {
    /// A log that begins after `point`, with these members.
    pub fn new(point: LogPoint, membership: Membership) -> Base {
        Base { point, membership }
    }
}

impl LogOwner {
    /// A log of `node` in the group of this name and number, which began with these members.
    /// `first_position` is 0, and can be set afterwards.
    pub fn new<G, N>(group: G, node: N, cluster: u64, membership: Membership) -> LogOwner
    where
        G: Into<String>,
        N: Into<NodeId>,
    {
        LogOwner { group: group.into(), node: node.into(), cluster, membership, first_position: 0 }
    }
}

impl DirectoryIdentity {
    /// A directory id, the number of openings, and whether the log holds all that its node promised
    /// to hold.
    pub fn new(directory: u128, incarnation: u64, complete: bool) -> DirectoryIdentity {
        DirectoryIdentity { directory, incarnation, complete }
    }
}

impl Recovered {
    /// An intact log from `base` to `last` without known peers: `peers`, `group_uid` and
    /// `corruption` can be set afterwards.
    pub fn new(
        identity: DirectoryIdentity,
        hard_state: HardState,
        base: Base,
        last: LogPoint,
    ) -> Recovered {
        let (peers, corruption) = (Vec::new(), Vec::new());
        Recovered { identity, hard_state, base, last, peers, group_uid: 0, corruption }
    }
}

impl Corruption {
    /// Batches that do not read back, and their location: `term` and `chain` are unknown, and can
    /// be set afterwards.
    pub fn new<P, R>(path: P, offset: u64, raft_indexes: Range<u64>, reason: R) -> Corruption
    where
        P: Into<PathBuf>,
        R: Into<String>,
    {
        let (path, reason) = (path.into(), reason.into());
        Corruption { path, offset, raft_indexes, term: None, chain: None, reason }
    }
}

impl Backup {
    /// A backup with the committed entries of these indexes, the position at their end, and entries
    /// up to below `end_index`. How much of it was linked and copied can be set afterwards.
    pub fn new(committed: Range<u64>, position: u64, end_index: u64) -> Backup {
        Backup { committed, position, end_index, linked_bytes: 0, copied_bytes: 0 }
    }
}

impl BackupError {
    /// [`BackupError::Target`]. Other kinds come from a [`StorageError`].
    pub fn target(path: impl Into<PathBuf>, reason: impl Into<String>) -> BackupError {
        BackupError::Target { path: path.into(), reason: reason.into() }
    }
}

impl dyn Storage {
    /// Checks a call of [`Storage::save_group_uid`] on a log with the id `known`. Returns whether
    /// there is something to save.
    pub(crate) fn check_group_uid(known: u128, uid: u128) -> Result<bool, StorageError> {
        match known {
            _ if uid == 0 => {
                Err(StorageError::InvalidState("0 is no unique id of a group".to_owned()))
            }
            0 => Ok(true),
            known if known == uid => Ok(false),
            known => Err(StorageError::InvalidState(format!(
                "it belongs to the group with the unique id {known:032x}, not {uid:032x}"
            ))),
        }
    }
}

/// One for each kind of error that any storage may return.
impl StorageError {
    /// [`StorageError::Io`]: final. `action` is a verb phrase, to be read as "could not `action`
    /// `path`".
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> StorageError {
        StorageError::Io { action, path: path.into(), source: Arc::new(source) }
    }

    /// [`StorageError::Full`]: nothing was changed, for lack of space for the file `path`.
    pub fn full(path: impl Into<PathBuf>) -> StorageError {
        StorageError::Full { path: path.into() }
    }

    /// [`StorageError::OutOfResources`]: nothing was changed. `action` as for [`io`](Self::io).
    pub fn out_of_resources<P>(action: &'static str, path: P, source: io::Error) -> StorageError
    where
        P: Into<PathBuf>,
    {
        StorageError::OutOfResources { action, path: path.into(), source: Arc::new(source) }
    }

    /// [`StorageError::Denied`]: nothing was changed. `action` as for [`io`](Self::io).
    pub fn denied<P>(action: &'static str, path: P, source: io::Error) -> StorageError
    where
        P: Into<PathBuf>,
    {
        StorageError::Denied { action, path: path.into(), source: Arc::new(source) }
    }

    /// [`StorageError::Corrupt`]: what was synced does not read back at `offset` of the file
    /// `path`.
    pub fn corrupt<P, R>(path: P, offset: u64, reason: R) -> StorageError
    where
        P: Into<PathBuf>,
        R: Into<String>,
    {
        StorageError::Corrupt { path: path.into(), offset, reason: reason.into() }
    }

    /// [`StorageError::InUse`]: the log at `path` is open already.
    pub fn in_use(path: impl Into<PathBuf>) -> StorageError {
        StorageError::InUse { path: path.into() }
    }

    /// [`StorageError::Mismatch`]: the log at `path` was begun by `found`, not by `expected`.
    pub fn mismatch(
        path: impl Into<PathBuf>,
        expected: &LogOwner,
        found: &LogOwner,
    ) -> StorageError {
        let (expected, found) = (expected.to_string(), found.to_string());
        StorageError::Mismatch { path: path.into(), expected, found }
    }

    /// [`StorageError::Purged`]: the log is kept from index `first` on.
    pub fn purged(first: u64) -> StorageError {
        StorageError::Purged { first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_and_named_once() {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId::from).collect::<Vec<_>>();
        let members = Membership::new(ids(&[3, 1, 3, 2]), ids(&[5, 2, 4, 5]));
        assert_eq!((members.voters, members.learners), (ids(&[1, 2, 3]), ids(&[4, 5])));
    }

    #[test]
    fn an_error_is_temporary_or_final_by_its_kind() {
        let source = || io::Error::other("a limit");
        for temporary in [
            StorageError::full("log"),
            StorageError::out_of_resources("open", "log", source()),
            StorageError::denied("write", "log", source()),
        ] {
            assert!(temporary.is_temporary(), "{temporary}");
        }
        let last = StorageError::io("sync", "log", source());
        assert!(!last.is_temporary());
        assert_eq!(last.to_string(), "could not sync log: a limit");
    }
}
