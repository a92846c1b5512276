//! What remembers: the traits that a log keeps to, and the three things that come with them.
//!
//! A [`Storage`] keeps four things for one node: the log (a run of [`Batch`]es between two
//! [`LogPoint`]s), the [`HardState`] (term, vote), the [`LogOwner`] that it was made with, and the
//! data-directory ids of peers. It is driven by one thread, the engine's. Readers ([`LogReader`])
//! are used from any thread at the same time and take no lock that the writer holds while it works.
//!
//! # The contract
//!
//! 1. What [`append`], [`save`] and [`reset`] took is readable when they return, and durable when a
//!    sync that was begun afterwards ([`begin_sync`]) has returned `Ok`. Not before, and not if it
//!    failed.
//! 2. After a crash the log is a prefix of what was appended, at least as long as what was synced;
//!    or it opens with [`Corruption`] that names file, offset and raft index; or opening fails with
//!    a typed error that names file and offset. A storage never guesses.
//! 3. The hard state after a crash is one that was saved, at least as new as the newest that was
//!    synced. But its commit, which may lie further back then, speaks of no batch that the crash
//!    took.
//! 4. A batch, once read, never changes: cutting a conflicting tail or purging the head does not
//!    touch bytes that were handed out.
//! 5. A failed sync is final. The storage refuses every later write and sync with
//!    [`StorageError::Poisoned`]; readers go on.
//! 6. [`StorageError::Full`], [`StorageError::OutOfResources`] and [`StorageError::Denied`] are not
//!    final ([`is_temporary`](StorageError::is_temporary)): the call that returned them changed
//!    nothing, and may be repeated when there is room, or what was lacking, or leave. A sync never
//!    fails with them.
//! 7. A log that was opened with damage takes nothing but what mends it: every other write and sync
//!    is refused with [`StorageError::Corrupt`]. Readers give what is intact, and the same error
//!    for the rest.
//!
//! A storage never starts a thread. Slow work that need not be done at once (making the next
//! segment ready, deleting purged ones) is handed out as a [`BackgroundTask`], and a sync in
//! progress as a [`PendingSync`]; whoever drives the storage decides where they run.
//!
//! What a storage hands over is made by constructors (`new` of each type, and a function of
//! [`StorageError`] for each of its kinds), so that it can be extended later.
//!
//! [`conformance`] is a test suite for all of this that any implementation can be put to.
//!
//! [`append`]: Storage::append
//! [`save`]: Storage::save
//! [`reset`]: Storage::reset
//! [`begin_sync`]: Storage::begin_sync

mod backup;
pub mod conformance;
mod constructors;
mod memory;
#[cfg(test)]
pub(crate) mod reads;
pub(crate) mod segmented;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::backup::{Backup, BackupError, PendingBackup};
pub use self::memory::MemoryLog;
#[cfg(any(test, fuzzing))]
pub(crate) use self::segmented::testing::fuzz as fuzzing;
pub use self::segmented::{Create, SegmentOptions, SegmentedLog, tools};
pub use crate::batch::{Batch, BatchError, LogPoint};
use crate::entry::{Entry, NodeId};
use crate::role::Membership;

/// What Raft must never forget. A vote that was forgotten can be given twice, and two leaders
/// follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HardState {
    /// The newest term that this node has seen.
    pub term: u64,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// The newest raft index that it knew to be committed. A hint: it may lag behind, and is never
    /// ahead of the log. Nor does it outlive the batches that it spoke of: after a crash that
    /// brings back a tail which had been cut off, it lies before that tail.
    pub commit: u64,
}

/// Where a log begins: the mark before its first batch, and who made up the group at that point.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Base {
    /// The state of the ledger before the first batch that is kept.
    pub point: LogPoint,
    /// The membership at that mark.
    pub membership: Membership,
}

/// Whose log this is. Given to every [`Storage::open`]; the first time it is remembered, later it
/// is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOwner {
    /// The name of the group.
    pub group: String,
    /// The node that the log belongs to.
    pub node: NodeId,
    /// The number that tells this group from others of the same name.
    pub cluster: u64,
    /// The members that the group began with.
    pub membership: Membership,
}

impl fmt::Display for LogOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogOwner { group, node, cluster, membership: Membership { voters, learners } } = self;
        write!(
            f,
            "{node:?} of group {group:?}, cluster {cluster:x}, begun with voters {voters:?}"
        )?;
        if learners.is_empty() { Ok(()) } else { write!(f, " and learners {learners:?}") }
    }
}

/// Which copy of the disk this is. A node that comes back with another `directory` has lost its
/// memory, or is a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryIdentity {
    /// A random number, drawn when the storage was made and each time it is marked as
    /// [incomplete](Storage::set_complete). Peers know the disk by it.
    pub directory: u128,
    /// How often it has been opened, this time included. From 1.
    pub incarnation: u64,
    /// Whether the log is all that its node has promised to hold. If not, the node neither votes
    /// nor stands for election before it is, for it may have forgotten a vote, or what it
    /// acknowledged: its directory was wiped, put back to an older copy, or restored from a backup.
    pub complete: bool,
}

/// What a storage held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Which copy of the disk this is.
    pub identity: DirectoryIdentity,
    /// Term, vote and commit hint. `commit` lies between `base.mark.raft_index` and
    /// `last.raft_index`.
    pub hard_state: HardState,
    /// Where the log begins.
    pub base: Base,
    /// Where it ends. Everything up to here is durable. Of a damaged log: the mark after the last
    /// batch that can be read.
    pub last: LogPoint,
    /// The data-directory ids of peers, as far as this node has met them.
    pub peers: Vec<(NodeId, u128)>,
    /// What was synced and cannot be read back, as far as opening the log has looked; by ascending
    /// raft index. Empty for a sound log.
    pub corruption: Vec<Corruption>,
}

/// A part of the log that was synced and does not read back, and what a peer needs to know to send
/// it again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The file, or the directory if a file is missing.
    pub path: PathBuf,
    /// The place in the file, in bytes. 0 if a file is missing.
    pub offset: u64,
    /// The batches that cannot be read whole. Empty if something beside the batches is damaged.
    pub raft_indexes: Range<u64>,
    /// Their term, if it is known.
    pub term: Option<u64>,
    /// The chain value after the last of them, if it is known: a copy of the right batches leads to
    /// it.
    pub chain: Option<u32>,
    /// What does not fit.
    pub reason: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corruption { path, offset, raft_indexes, term, reason, .. } = self;
        write!(f, "{} is damaged at offset {offset}: {reason}", path.display())?;
        match raft_indexes.end.saturating_sub(raft_indexes.start) {
            0 => return Ok(()),
            1 => write!(f, " (raft index {}", raft_indexes.start)?,
            _ => write!(f, " (raft indexes {} to {}", raft_indexes.start, raft_indexes.end - 1)?,
        }
        term.map_or(Ok(()), |term| write!(f, ", term {term}"))?;
        f.write_str(")")
    }
}

impl From<&Corruption> for StorageError {
    fn from(corruption: &Corruption) -> StorageError {
        StorageError::Corrupt {
            path: corruption.path.clone(),
            offset: corruption.offset,
            reason: corruption.reason.clone(),
        }
    }
}

/// Work that a storage wants done on some other thread, when there is time. It reports back by
/// itself.
pub type BackgroundTask = Box<dyn FnOnce() + Send>;

/// The memory of one node. See the [module](self) for the contract.
pub trait Storage: Send {
    /// Opens the log, or makes a new one. Called once, before anything else. A new log is empty,
    /// begins at [`LogPoint::INITIAL`] with the membership of `genesis`, and has the hard state
    /// {term 1, no vote, commit 1}. What is returned has been made durable.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] if the log belongs to another group, cluster or node, or began
    /// with other members; [`StorageError::InUse`] if it is open elsewhere;
    /// [`StorageError::Corrupt`] if it cannot be told whose log this is, or what its node promised.
    /// Batches that cannot be read back are no error: see [`Recovered::corruption`].
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError>;

    /// A reader for any thread, which goes on working after the storage has failed, was closed or
    /// dropped.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// Appends `batches`, which continue each other. The first may stand anywhere behind the base,
    /// up to one behind the last: the batches from there on are cut off first. `commit` is the
    /// newest raft index known to be committed, a hint to be remembered.
    ///
    /// # Errors
    /// [`StorageError::NotContiguous`] if they do not continue the log; a
    /// [temporary](StorageError::is_temporary) error, in which case the log is as before;
    /// [`StorageError::Io`] and [`StorageError::Poisoned`].
    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError>;

    /// Remembers the hard state. Its `commit` speaks of batches that the log holds at this moment.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, [`StorageError::Io`],
    /// [`StorageError::Poisoned`].
    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError>;

    /// Forgets the whole log and begins anew after `base`.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, in which case the log is as before;
    /// [`StorageError::Io`], [`StorageError::Poisoned`].
    fn reset(&mut self, base: &Base) -> Result<(), StorageError>;

    /// Gives up entries below `index`, as far as that is possible in whole segments. The log then
    /// begins at a later base; never beyond `commit`, and only up to where something behind is
    /// durable. Space is freed by chores once a sync that was begun afterwards has succeeded, and
    /// nobody reads there any more; until then what was purged may be there again when the log is
    /// reopened.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, [`StorageError::Io`],
    /// [`StorageError::Poisoned`].
    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError>;

    /// Remembers the data-directory id of a peer, replacing what was known of it.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, [`StorageError::Io`],
    /// [`StorageError::Poisoned`].
    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError>;

    /// Remembers whether the log is all that its node has promised to hold: see
    /// [`DirectoryIdentity::complete`]. One that is not gets another [directory
    /// id](Identity::directory), each time anew, so that peers can tell it from the disk that they
    /// knew, and from copies of it. And it forgets the directory ids of peers, for it may be older
    /// than theirs. Returns what the storage is known as from now on.
    ///
    /// # Errors
    /// A [temporary](StorageError::is_temporary) one, [`StorageError::Io`],
    /// [`StorageError::Poisoned`]. [`StorageError::NotContiguous`] from a storage that cannot
    /// remember this, which is the default: a node that learns that its log is not complete then
    /// stops for good.
    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        let _ = complete;
        Err(StorageError::NotContiguous("this storage cannot be marked as incomplete".to_owned()))
    }

    /// Begins to make durable all that was taken so far. The returned value is waited for on
    /// another thread, while this storage takes more. Syncs are waited for in the order in which
    /// they were begun; waiting for a newer one covers those before it.
    fn begin_sync(&mut self) -> Box<dyn PendingSync>;

    /// Mends a log that was opened with damage, as far as `repair_action` goes, and tells what it
    /// is afterwards, durably. With `corruption` empty it takes writes from now on, and readers see
    /// it as it is. Batches must be given in order: the mark in front of the first has to be
    /// readable. Nothing to fill in is a remedy too: for what can be mended without batches.
    ///
    /// # Errors
    /// [`StorageError::NotContiguous`] if they do not fit, if nothing is wrong with the log, or if
    /// this storage cannot be mended; a [temporary](StorageError::is_temporary) one; after both the
    /// log is a legal one, and no worse than before. [`StorageError::Io`],
    /// [`StorageError::Corrupt`] and [`StorageError::Poisoned`], which are final.
    fn repair(&mut self, repair_action: RepairAction<'_>) -> Result<Recovered, StorageError> {
        let _ = repair_action;
        Err(StorageError::NotContiguous("this storage cannot be mended".to_owned()))
    }

    /// Begins a backup: a directory with the log up to raft index `commit`, which is committed and
    /// lies between the base and the last batch, and with what else a node needs to be opened on
    /// it. What this returns does the work on another thread, while this storage takes more. Works
    /// also for a log that was opened with damage, or takes no more writes, as far as it can be
    /// read.
    ///
    /// # Errors
    /// [`BackupError::Unsupported`] from a storage that makes none, which is the default.
    fn begin_backup(&mut self, commit: u64) -> Result<Box<dyn PendingBackup>, BackupError> {
        let _ = commit;
        Err(BackupError::Unsupported)
    }

    /// Whether so much is not durable yet that a sync should be begun ahead of its time, and
    /// nothing be taken on before it has succeeded that can wait. A storage that takes more all the
    /// same may make its durability good within [`append`](Self::append), which then blocks.
    fn is_behind(&self) -> bool {
        false
    }

    /// Work to be done elsewhere, if there is any. Asked after every round of work.
    fn next_task(&mut self) -> Option<BackgroundTask> {
        None
    }
}

/// What mends a damaged log. Whoever gives it has proved it: a storage checks that the batches are
/// intact and fit, not that they are the right ones.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum RepairAction<'a> {
    /// These batches, which follow each other, are what the log held at their raft indexes. Those
    /// that are intact are left as they are.
    Fill(&'a [Batch]),
    /// The log is these batches from the first of them on: what it held there was never committed.
    Replace(&'a [Batch]),
    /// The log begins behind this mark: what lies before it is committed, and not kept any more.
    /// What lies behind it stays, and what is missing there stays missing; but nothing does of a
    /// log that is known to be another at this mark.
    Rebase(LogPoint),
}

/// A sync under way.
pub trait PendingSync: Send {
    /// Blocks until all that was taken before [`Storage::begin_sync`] is durable.
    ///
    /// # Errors
    /// Final: see rule 5 of the [contract](self).
    fn wait(self: Box<Self>) -> Result<(), StorageError>;
}

/// A sync with nothing left to do.
impl PendingSync for () {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }
}

/// Reads the log from any thread. Shows what the log holds, committed or not; callers keep below
/// what they know to be committed.
pub trait LogReader: Send + Sync {
    /// The mark before the first batch that is kept.
    fn base(&self) -> Base;

    /// The batch that holds entry `index`, or `None` if the log does not reach so far. Its header
    /// has been checked, its payloads have not.
    ///
    /// # Errors
    /// [`StorageError::Purged`] below the base, [`StorageError::Corrupt`], [`StorageError::Io`].
    fn batch_containing(&self, index: u64) -> Result<Option<Batch>, StorageError>;

    /// The entry at `index`, its payload checked, or `None` if the log does not reach so far. A
    /// storage that can give one entry for less than it costs to give the [batch with
    /// it](Self::batch_with) does so here.
    ///
    /// # Errors
    /// [`StorageError::Purged`] below the base, [`StorageError::Corrupt`], also if the payload is
    /// not what was appended, [`StorageError::Io`].
    fn entry(&self, index: u64) -> Result<Option<Entry>, StorageError> {
        let Some(batch) = self.batch_containing(index)? else { return Ok(None) };
        let damaged = |reason: String| StorageError::Corrupt {
            path: format!("raft index {}", batch.raft_index()).into(),
            offset: 0,
            reason,
        };
        match batch.entry(index) {
            Ok(Some(entry)) => Ok(Some(entry)),
            Ok(None) => Err(damaged("the batch found for the entry does not hold it".to_owned())),
            Err(error) => Err(damaged(error.to_string())),
        }
    }

    /// The batches from raft index `from` to below `to`, in order: the first of them if there is
    /// one, then more while the bodies of all together stay within `bytes_max`, and up to the first
    /// that is damaged.
    ///
    /// # Errors
    /// [`StorageError::Purged`] at or below the base, [`StorageError::Corrupt`] if the first is
    /// damaged, [`StorageError::Io`].
    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError>;

    /// The mark after the batch `raft_index`, the base included. `None` behind the last.
    ///
    /// # Errors
    /// [`StorageError::Purged`] below the base, [`StorageError::Corrupt`], [`StorageError::Io`].
    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError>;

    /// The term of the batch `raft_index`. As [`mark`](Self::mark), and may cost less.
    ///
    /// # Errors
    /// Those of [`mark`](Self::mark).
    fn term(&self, raft_index: u64) -> Result<Option<u64>, StorageError> {
        Ok(self.point(raft_index)?.map(|point| point.term))
    }

    /// Reads every byte of the batch `raft_index` and tells what is wrong with it, with what a peer
    /// needs to know to send it again. `None` if it is intact, or not in the log.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn verify_batch(&self, raft_index: u64) -> Result<Option<Corruption>, StorageError> {
        match self.batches(raft_index, raft_index.saturating_add(1), 0) {
            Ok(_) | Err(StorageError::Purged { .. }) => Ok(None),
            Err(StorageError::Corrupt { path, offset, reason }) => {
                let raft_indexes = raft_index..raft_index.saturating_add(1);
                Ok(Some(Corruption { path, offset, raft_indexes, term: None, chain: None, reason }))
            }
            Err(error) => Err(error),
        }
    }
}

/// Every way in which a storage can fail.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The disk, or a quota on it, is full. Nothing was changed; free some space and go on.
    #[error("no space left for {}: free some space, the node goes on by itself", path.display())]
    Full {
        /// The file that should have grown.
        path: PathBuf,
    },
    /// The process or the system has run out of something that the operating system counts: open
    /// files, memory, maps. Nothing was changed; go on when there is some again.
    #[error("could not {action} {}: {source}: raise the limit or free some, the node goes on by itself", path.display())]
    #[non_exhaustive]
    OutOfResources {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A log that is open may not be written to: its file system is read-only, its directory or
    /// files were given to somebody else, or the process may write no file of that length. Nothing
    /// was changed; go on when it may. A sync that fails so, and an opening, say [`Io`](Self::Io).
    #[error("could not {action} {}: {source}{}, the node goes on by itself", path.display(), leave(source))]
    #[non_exhaustive]
    Denied {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// Bytes that were synced do not read back as they were written. A node with peers gets them
    /// back from those; one without is restored from a backup.
    #[error("{} is damaged at offset {offset}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The place in it, in bytes.
        offset: u64,
        /// What does not fit.
        reason: String,
    },
    /// The log is open already, in this process or another.
    #[error("{} is in use by another ledger: shut that one down first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is missing, and so is the one in which it would be made.
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
        "{} is a symbolic link to {}, which does not exist: mount or make that directory, or name another one",
        path.display(),
        target.display()
    )]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
    /// What should be a directory is something else.
    #[error("{} is not a directory: name one, or one that can be made in a directory", path.display())]
    NotADirectory {
        /// What is there.
        path: PathBuf,
    },
    /// No log is there, and [`Create::Never`] says that there is to be one.
    #[error(
        "{} holds no log, and none is to be made: mount the file system that it is on, name the right directory, or \
         let a new log begin with another `Create`",
        path.display()
    )]
    NoLog {
        /// The directory. It may be missing too.
        path: PathBuf,
    },
    /// A log is there, and [`Create::New`] says that there is to be none.
    #[error(
        "{} holds a log, and a new one was to be made: name another directory, or go on with that log with another \
         `Create`",
        path.display()
    )]
    HoldsLog {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else removed a file of the log, or put another in its place, while the log was
    /// open. What was written to it since it was last synced is not acknowledged. Nothing more is
    /// accepted.
    #[error(
        "{} was removed or replaced while the log was open: restore this node from its peers or from a backup",
        path.display()
    )]
    Removed {
        /// The file.
        path: PathBuf,
    },
    /// The log belongs to somebody else.
    #[error(
        "{} belongs to {found}, not to {expected}: name the group, the node and the members that the log was begun \
         with, or another directory",
        path.display()
    )]
    Mismatch {
        /// The directory.
        path: PathBuf,
        /// What was asked for.
        expected: String,
        /// What it says of itself.
        found: String,
    },
    /// Written by a version that this one does not know.
    #[error("{} has format version {found}; this build reads version {known}: open it with a newer build", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this build reads.
        known: u32,
    },
    /// Written by a build with features that this one does not have.
    #[error("{} uses features that this build does not know (bits {found:#x}): open it with a newer build", path.display())]
    UnknownFeatures {
        /// The file.
        path: PathBuf,
        /// The bits in the file that this build does not know.
        found: u32,
    },
    /// What was asked for lies before the first batch that is kept.
    #[error("purged: the log is kept from index {first} on")]
    Purged {
        /// The first index that is kept.
        first: u64,
    },
    /// What should be appended does not continue the log. A bug in whoever called.
    #[error("the batches do not continue the log: {0}")]
    NotContiguous(String),
    /// An earlier sync or write failed, so nothing more is accepted: what reached the disk is
    /// unknown. Open the log anew.
    #[error(
        "the log takes no more writes since an earlier one failed ({0}): open it anew once the disk is sound"
    )]
    Poisoned(String),
}

impl StorageError {
    /// Whether the storage is as before the call, which may be repeated: it found no room, or the
    /// process had no open file or memory left for it, or was not allowed to write. Every other
    /// error of a write is final.
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

/// What makes a write possible that was denied.
fn leave(denied: &io::Error) -> &'static str {
    match denied.kind() {
        io::ErrorKind::ReadOnlyFilesystem => ": mount the file system for writing",
        // Where the limit was asked for, the text says it.
        io::ErrorKind::FileTooLarge if denied.raw_os_error().is_none() => "",
        io::ErrorKind::FileTooLarge => ": raise the limit for the length of files (ulimit -f)",
        _ => ": let this process write there",
    }
}

impl fmt::Debug for dyn LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("base", &self.base()).finish()
    }
}
