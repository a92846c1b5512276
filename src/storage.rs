//! Storage of a node: the [`Storage`] trait and its contract, with two implementations.
//!
//! A [`Storage`] holds four things for one node: the log (a run of [`Batch`]es between two
//! [`LogPoint`]s), the [`HardState`] (term, vote), the [`LogOwner`] that it was created with, and
//! the data-directory ids of peers. One thread, the engine's, drives it. Readers ([`LogReader`])
//! are used from any thread at the same time, and take no lock that the writer holds while it
//! works.
//!
//! # The contract
//!
//! 1. Changes by [`append`], [`save_hard_state`] and [`reset`] are readable when the call returns,
//!    and durable when a sync that began after it ([`begin_sync`]) has returned `Ok`. Not before,
//!    and not if it failed.
//! 2. After a crash the log is a prefix of the appended batches, at least as long as the synced
//!    part; or it opens with [`Corruption`] that names file, offset and raft index; or opening
//!    fails with a typed error that names file and offset. A storage never guesses.
//! 3. The hard state after a crash is one that was saved, at least as new as the newest that was
//!    synced. Its commit may be lower, and names no batch that the crash lost.
//! 4. A batch, once read, never changes: truncating a conflicting tail or purging the head does not
//!    touch bytes that were handed out.
//! 5. A failed sync is final. The storage refuses every later write and sync with
//!    [`StorageError::Poisoned`]; readers go on.
//! 6. [`StorageError::Full`], [`StorageError::OutOfResources`] and [`StorageError::Denied`] are not
//!    final ([`is_temporary`](StorageError::is_temporary)): the call that returned them changed
//!    nothing, and may be repeated once there is space, or the resource, or the permission. A sync
//!    never fails with them.
//! 7. A log that was opened with corruption accepts only repairs: it rejects every other write and
//!    sync with [`StorageError::Corrupt`]. Readers return the intact part, and the same error for
//!    the rest.
//!
//! A storage never starts a thread. Slow work that can wait (preallocating the next segment,
//! deleting purged ones) is returned as a [`BackgroundTask`], and a sync as a [`PendingSync`]; the
//! driver of the storage decides where they run.
//!
//! The types that a storage returns have constructors (`new` of each type, and a function of
//! [`StorageError`] for each of its kinds), so that they can be extended later.
//!
//! [`conformance`] is a test suite for this contract, for any implementation.
//!
//! [`append`]: Storage::append
//! [`save_hard_state`]: Storage::save_hard_state
//! [`reset`]: Storage::reset
//! [`begin_sync`]: Storage::begin_sync

mod backup;
pub mod conformance;
mod constructors;
mod corruption;
mod log_reader;
mod memory;
#[cfg(test)]
pub(crate) mod reads;
pub(crate) mod segmented;
mod segments;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::backup::{Backup, BackupError, PendingBackup};
pub use self::corruption::Corruption;
pub use self::log_reader::LogReader;
pub use self::memory::MemoryLog;
#[cfg(any(test, fuzzing))]
pub(crate) use self::segmented::testing::fuzz as fuzzing;
pub use self::segmented::{Create, SegmentOptions, SegmentedLog, tools};
pub use self::segments::{DiskProbe, DiskUse, SegmentInfo};
pub use crate::batch::{Batch, BatchError, LogPoint};
use crate::entry::NodeId;
use crate::role::Membership;

/// The persistent state of Raft besides its log (Raft paper, figure 2). A vote that is lost can be
/// given twice, and two leaders follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HardState {
    /// The newest term that this node has seen.
    pub term: u64,
    /// The node that it voted for in that term.
    pub vote: Option<NodeId>,
    /// The newest raft index that it knew to be committed. A hint: it may lag behind, and is never
    /// ahead of the log. After a crash that brings back a truncated tail, it is lower than that
    /// tail.
    pub commit: u64,
}

/// Beginning of a log: the log point before its first batch, and the membership at that point.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Base {
    /// The log point before the first batch that is kept.
    pub point: LogPoint,
    /// The membership at that point.
    pub membership: Membership,
}

/// Owner of a log. Given to every [`Storage::open`]: the first one saves it, later ones compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOwner {
    /// The name of the group.
    pub group: String,
    /// The node that the log belongs to.
    pub node: NodeId,
    /// A number that distinguishes this group from others of the same name.
    pub cluster: u64,
    /// The members that the group began with.
    pub membership: Membership,
    /// The position of the first byte of the group, at most 2^60: see
    /// [`Builder::first_position`](crate::Builder::first_position).
    pub first_position: u64,
}

impl fmt::Display for LogOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogOwner { group, node, cluster, membership, first_position } = self;
        let Membership { voters, learners } = membership;
        write!(
            f,
            "{node:?} of group {group:?}, cluster {cluster:x}, begun with voters {voters:?}"
        )?;
        if !learners.is_empty() {
            write!(f, " and learners {learners:?}")?;
        }
        if *first_position > 0 { write!(f, " at position {first_position}") } else { Ok(()) }
    }
}

/// Identity of a data directory. A node that restarts with another `directory` has lost its data,
/// or is a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryIdentity {
    /// A random number, drawn when the storage is created and each time it is marked as
    /// [incomplete](Storage::set_complete). Peers identify the directory by it.
    pub directory: u128,
    /// Number of openings, this one included. From 1.
    pub incarnation: u64,
    /// Whether the log holds all that its node has acknowledged. If not, the node neither votes nor
    /// campaigns until it does: it may have lost a vote or an acknowledged batch, as its directory
    /// was wiped, replaced by an older copy, or restored from a backup.
    pub complete: bool,
}

/// State of a storage when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// The identity of the data directory.
    pub identity: DirectoryIdentity,
    /// Term, vote and commit hint. `commit` lies between `base.point.raft_index` and
    /// `last.raft_index`.
    pub hard_state: HardState,
    /// Where the log begins.
    pub base: Base,
    /// Where it ends. Everything up to here is durable. Of a corrupt log: the log point after the
    /// last readable batch.
    pub last: LogPoint,
    /// The data-directory ids of peers that this node has met.
    pub peers: Vec<(NodeId, u128)>,
    /// The unique id of the group: see [`Storage::save_group_uid`]. 0: none was saved.
    pub group_uid: u128,
    /// Corruption that opening has found, by ascending raft index. Empty for an intact log.
    pub corruption: Vec<Corruption>,
}

/// Work for another thread, when there is time. The storage learns the result by itself.
pub type BackgroundTask = Box<dyn FnOnce() + Send>;

/// Storage of one node: see the [module](self) for the contract.
pub trait Storage: Send {
    /// Opens the log, or creates one. Called once, before any other method. A new log is empty,
    /// begins at [`LogPoint::initial_at`] the first position of `owner` with its membership, and
    /// has the hard state {term 1, no vote, commit 1}. The returned state is durable.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] if the log belongs to another group, cluster or node, or began
    /// with other members or at another position; [`StorageError::InUse`] if it is open elsewhere;
    /// [`StorageError::Corrupt`] if the owner, the hard state or the base cannot be read. Corrupt
    /// batches are no error: see [`Recovered::corruption`].
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError>;

    /// A reader for any thread. It keeps working after the storage has failed or was dropped.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// Appends `batches`, which are contiguous. The raft index of the first may be any after the
    /// base, up to one after the last: the batches from there on are truncated first. `commit` is
    /// the newest raft index known to be committed, a hint to be saved.
    ///
    /// # Errors
    /// [`StorageError::NotContiguous`] if they do not continue the log; a
    /// [temporary](StorageError::is_temporary) error, in which case the log is as before;
    /// [`StorageError::Io`] and [`StorageError::Poisoned`].
    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError>;

    /// Saves the hard state. The log holds the batches up to its `commit` at this moment.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, [`StorageError::Io`],
    /// [`StorageError::Poisoned`].
    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError>;

    /// Drops the whole log, and begins a new one after `base`.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, in which case the log is as before;
    /// [`StorageError::Io`], [`StorageError::Poisoned`].
    fn reset(&mut self, base: &Base) -> Result<(), StorageError>;

    /// Purges entries below `index`, in whole segments. The log then begins at a later base: never
    /// beyond `commit`, and only up to a point after which a batch is durable, or, if its last
    /// segment is closed, to its end, if all of it is durable. Background tasks free the space once
    /// a sync that began later has succeeded and no reader uses it; until then a reopened log may
    /// hold purged entries again.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, [`StorageError::Io`],
    /// [`StorageError::Poisoned`].
    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError>;

    /// Tells the time, before the changes of a turn: how long the storage has been open by a clock
    /// that is never set, and the wall clock in milliseconds since 1970. Segments age by the former
    /// alone; a storage saves ages, so that they survive a reopening. The default ignores both.
    fn pass_time(&mut self, _open_for: Duration, _unix_ms: u64) {}

    /// The segments of the log, oldest first, without a gap: what a policy of retention chooses
    /// from. The default is none, and then nothing is ever chosen.
    fn segments(&self) -> Vec<SegmentInfo> {
        Vec::new()
    }

    /// Closes the segment that takes batches, if it holds any: the next append begins another one.
    /// The default does nothing.
    ///
    /// # Errors
    /// [`StorageError::Poisoned`], and a [temporary](StorageError::is_temporary) one.
    fn close_segment(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    /// What tells how full the disk is. The default is none: then no policy goes by it.
    fn disk_probe(&self) -> Option<DiskProbe> {
        None
    }

    /// Saves the data-directory id of a peer, in place of the one before.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, [`StorageError::Io`],
    /// [`StorageError::Poisoned`].
    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError>;

    /// Saves whether the log holds all that its node has acknowledged: see
    /// [`DirectoryIdentity::complete`]. An incomplete log gets a new [directory
    /// id](DirectoryIdentity::directory) each time, which distinguishes it from the directory that
    /// peers knew and from copies of it. It also drops the directory ids of peers, which may be out
    /// of date. Returns the new identity.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, [`StorageError::Io`],
    /// [`StorageError::Poisoned`]. [`StorageError::InvalidState`] from a storage that cannot save
    /// this, which is the default: a node that learns that its log is incomplete then stops for
    /// good.
    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        let _ = complete;
        Err(StorageError::InvalidState("this storage cannot be marked as incomplete".to_owned()))
    }

    /// Saves the unique id of the group, which all its members share: a random number drawn when
    /// the group was created, never 0. It distinguishes the group from a removed one of the same
    /// name and members. Set once in the life of a log; saving the same id again changes nothing.
    /// The default accepts every id and saves none.
    ///
    /// # Errors
    /// [`StorageError::InvalidState`] if the log has another id, or `uid` is 0; a
    /// [temporary](StorageError::is_temporary) error, [`StorageError::Io`],
    /// [`StorageError::Poisoned`].
    fn save_group_uid(&mut self, uid: u128) -> Result<(), StorageError> {
        let _ = uid;
        Ok(())
    }

    /// Begins a sync of all changes so far. The caller waits for it on another thread, while this
    /// storage accepts more. Syncs are waited for in the order in which they began; a newer one
    /// covers those before it.
    fn begin_sync(&mut self) -> Box<dyn PendingSync>;

    /// Applies a repair to a log that was opened with corruption, and returns its new state,
    /// durably. If `corruption` is empty then, the log accepts writes from now on, and readers see
    /// all of it. Batches must be given in order: the log point before the first has to be
    /// readable. A `Fill` without batches repairs corruption that needs none.
    ///
    /// # Errors
    /// [`StorageError::NotContiguous`] if they do not fit; [`StorageError::InvalidState`] if
    /// nothing is wrong with the log, or this storage cannot repair one; a
    /// [temporary](StorageError::is_temporary) one. After these the log is valid, and no worse than
    /// before. [`StorageError::Io`], [`StorageError::Corrupt`] and [`StorageError::Poisoned`],
    /// which are final.
    fn repair(&mut self, repair_action: RepairAction<'_>) -> Result<Recovered, StorageError> {
        let _ = repair_action;
        Err(StorageError::InvalidState("this storage cannot repair a log".to_owned()))
    }

    /// Begins a backup: a directory with the log up to raft index `commit`, which is committed and
    /// lies between the base and the last batch, and with the other files that a node needs to open
    /// it. The returned value does the work on another thread, while this storage accepts more.
    /// Works also for the readable part of a log that is corrupt or poisoned.
    ///
    /// # Errors
    /// [`BackupError::Unsupported`], the default.
    fn begin_backup(&mut self, commit: u64) -> Result<Box<dyn PendingBackup>, BackupError> {
        let _ = commit;
        Err(BackupError::Unsupported)
    }

    /// Whether so much is not durable yet that the driver should begin a sync early, and postpone
    /// whatever can wait until it has succeeded. If it appends more all the same, the storage may
    /// sync within [`append`](Self::append), which then blocks.
    fn is_behind(&self) -> bool {
        false
    }

    /// Work for another thread, if there is any. Called after each turn of the engine.
    fn next_task(&mut self) -> Option<BackgroundTask> {
        None
    }
}

/// Repair of a corrupt log. The caller has proved it: a storage checks that the batches are intact
/// and contiguous, not that they are the right ones.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum RepairAction<'a> {
    /// These contiguous batches are those that the log held at their raft indexes. Intact batches
    /// of the log are left as they are.
    Fill(&'a [Batch]),
    /// From the raft index of the first on, the log consists of these batches: those that it held
    /// there were never committed.
    Replace(&'a [Batch]),
    /// The log begins after this log point: the batches before it are committed, and no longer
    /// kept. Those after it stay, and missing ones stay missing; but if the log is known to differ
    /// at this point, all of it is dropped.
    TruncateHead(LogPoint),
}

/// A sync that has begun.
pub trait PendingSync: Send {
    /// Blocks until all changes before [`Storage::begin_sync`] are durable.
    ///
    /// # Errors
    /// Final: see rule 5 of the [contract](self).
    fn wait(self: Box<Self>) -> Result<(), StorageError>;
}

/// A sync that has nothing to do.
impl PendingSync for () {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }
}

/// Errors of a storage.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// A call of the operating system failed.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// The failed action, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// The disk, or a quota on it, is full. Nothing was changed; repeat the call once there is
    /// space.
    #[error("no space left for {}: free some space, the node goes on by itself", path.display())]
    Full {
        /// The file that should have grown.
        path: PathBuf,
    },
    /// The process or the system has run out of open files, memory or maps. Nothing was changed;
    /// repeat the call once there are some.
    #[error("could not {action} {}: {source}: raise the limit or free some, the node goes \
        on by itself", path.display())]
    #[non_exhaustive]
    OutOfResources {
        /// The failed action, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// Writing to an open log is not permitted: its file system is read-only, its directory or
    /// files have another owner, or the process may write no file of that length. Nothing was
    /// changed; repeat the call once it is permitted. A sync or an opening that fails so returns
    /// [`Io`](Self::Io).
    #[error("could not {action} {}: {source}{}, the node goes on by itself",
        path.display(), advice_for(source))]
    #[non_exhaustive]
    Denied {
        /// The failed action, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// Synced bytes do not read back as they were written. A node with peers repairs itself from
    /// them; one without is restored from a backup.
    #[error("{} is damaged at offset {offset}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The place in it, in bytes.
        offset: u64,
        /// The check that failed.
        reason: String,
    },
    /// The log is open already, in this process or another.
    #[error("{} is in use by another ledger: shut that one down first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is missing, and so is its parent.
    #[error(
        "{} cannot be made, for {} does not exist: mount the file system that it is on, or make it",
        path.display(),
        parent.display()
    )]
    NoParent {
        /// The directory of the log.
        path: PathBuf,
        /// The directory in which it would be.
        parent: PathBuf,
    },
    /// The name of the directory, or of one on the way to it, is a symbolic link to nothing.
    #[error(
        "{} is a symbolic link to {}, which does not exist: mount or make that directory, \
         or name another one",
        path.display(),
        target.display()
    )]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// The path of the directory is something else.
    #[error("{} is not a directory: name one, or one that can be made in a \
        directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// There is no log, and [`Create::Never`] demands one.
    #[error(
        "{} holds no log, and none is to be made: mount the file system that it is on, \
         name the right directory, or \
         let a new log begin with another `Create`",
        path.display()
    )]
    NoLog {
        /// The directory. It may be missing too.
        path: PathBuf,
    },
    /// There is a log, and [`Create::New`] demands none.
    #[error(
        "{} holds a log, and a new one was to be made: name another directory, \
         or go on with that log with another \
         `Create`",
        path.display()
    )]
    HoldsLog {
        /// The directory.
        path: PathBuf,
    },
    /// A file of the log was removed or replaced while the log was open. Its writes since the last
    /// sync are not acknowledged. The log accepts nothing more.
    #[error(
        "{} was removed or replaced while the log was open: restore this node \
         from its peers or from a backup",
        path.display()
    )]
    Removed {
        /// The file.
        path: PathBuf,
    },
    /// The log has another owner.
    #[error(
        "{} belongs to {found}, not to {expected}: name the group, the node, the \
         members and the first position that the log was begun \
         with, or another directory",
        path.display()
    )]
    Mismatch {
        /// The directory.
        path: PathBuf,
        /// The owner in the call.
        expected: String,
        /// The owner in the directory.
        found: String,
    },
    /// The directory belongs to a host, or is that of one of its groups.
    #[error(
        "{} belongs to a host of groups: open the group through that host, or name another \
         directory",
        path.display()
    )]
    OfHost {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another host.
    #[error(
        "{} belongs to the host {found}, not to {expected}: open it with that id, or name another \
         directory",
        path.display()
    )]
    OtherHost {
        /// The directory.
        path: PathBuf,
        /// The id in the call.
        expected: NodeId,
        /// The id in the directory.
        found: NodeId,
    },
    /// The file was written by a newer version.
    #[error("{} has format version {found}; this build reads version {known}: open it \
        with a newer build", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this build reads.
        known: u32,
    },
    /// The file was written by a build with features that this one does not have.
    #[error("{} uses features that this build does not know (bits {found:#x}): open it with a \
        newer build", path.display())]
    UnknownFeatures {
        /// The file.
        path: PathBuf,
        /// The bits in the file that this build does not know.
        found: u32,
    },
    /// The index lies before the first batch that is kept.
    #[error("purged: the log is kept from index {first} on")]
    Purged {
        /// The first index that is kept.
        first: u64,
    },
    /// The batches do not continue the log. A bug of the caller.
    #[error("the batches do not continue the log: {0}")]
    NotContiguous(String),
    /// The log is not in a state in which this can be done: it is not open, nothing is wrong with
    /// it, or this storage cannot do it at all. The text says which. Nothing was changed.
    #[error("this cannot be done with the log: {0}")]
    InvalidState(String),
    /// An earlier sync or write failed, and it is unknown which of its bytes are durable. The log
    /// accepts nothing more: open it again.
    #[error(
        "the log takes no more writes since an earlier one failed ({0}): open it anew once the \
         disk is sound"
    )]
    Poisoned(String),
}

impl StorageError {
    /// Whether the call changed nothing and may be repeated: it lacked space, open files, memory or
    /// permission. Every other error of a write is final.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            StorageError::Full { .. }
                | StorageError::OutOfResources { .. }
                | StorageError::Denied { .. }
        )
    }
}

/// Advice for a write that was denied.
fn advice_for(denied: &io::Error) -> &'static str {
    match denied.kind() {
        io::ErrorKind::ReadOnlyFilesystem => ": mount the file system for writing",
        // The text names the limit, if it is known.
        io::ErrorKind::FileTooLarge if denied.raw_os_error().is_none() => "",
        io::ErrorKind::FileTooLarge => ": raise the limit for the length of files (ulimit -f)",
        _ => ": let this process write there",
    }
}
