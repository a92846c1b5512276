//! Tools for a closed log: inspect, verify and dump it; make and restore backups.
//!
//! The log is never changed, neither files nor dates. While one of these functions runs, others
//! cannot open the log; an open log is refused with [`StorageError::InUse`]. The log of a group of
//! a host can be read while the host is closed; meanwhile the host cannot be opened. Memory is
//! bounded by the largest batch, plus 32 bytes for each batch of one segment.
//!
//! Corruption is reported as [`Corruption`], with file, offset and raft index, and does not end the
//! work. An error does: the directory holds no log, or one of a newer version, or its owner or what
//! its node promised cannot be read.
//!
//! A log holds what was appended, committed or not; [`Inspection::hard_state`] says how far it is
//! known to be committed.

mod backup;
mod read_only;

pub use self::backup::{Restore, backup, restore};

use std::io;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use self::read_only::{ReadOnlyDisk, ReadOnlyFile};
use super::directory_lock::DirectoryLock;
use super::error::{corrupt, failed};
use super::format;
use super::fs::{Disk, DiskFile};
use super::host_place::LOCK_NAME;
use super::identity::{IDENTITY_NAME, IdentityFile};
use super::metadata::{Metadata, MetadataFile, STATE_NAME};
use super::recovered_log::RecoveredLog;
use super::recovery;
use super::rewrite::REWRITE_SUFFIX;
use super::segment::Maps;
use super::segment_set::LiveSegment;
use super::spare::SPARE_SUFFIX;
use crate::entry::{Entry, NodeId};
use crate::storage::{
    Base, Batch, Corruption, DirectoryIdentity, HardState, LogOwner, LogPoint, StorageError,
};

/// What a log is, as far as opening it would find out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The id of the directory, and how often it was opened so far.
    pub identity: DirectoryIdentity,
    /// The owner of the log.
    pub owner: LogOwner,
    /// Term, vote and commit hint as they were last saved.
    pub hard_state: HardState,
    /// Where the log begins.
    pub base: Base,
    /// Where it ends. In a corrupt log: the log point after the last batch that can be read.
    pub last: LogPoint,
    /// The directory ids of peers that this node has connected to.
    pub peers: Vec<(NodeId, u128)>,
    /// The unique id of the group. 0: the log does not know it.
    pub group_uid: u128,
    /// The files that make up the log, in order.
    pub segments: Vec<SegmentFile>,
    /// Names of files that opening the log would remove: segments with nothing left of the log, and
    /// spare segments.
    pub leftover: Vec<String>,
    /// What does not read back, as far as opening checks. Empty for an intact log.
    pub corruption: Vec<Corruption>,
}

/// One file of the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentFile {
    /// Its name in the directory.
    pub name: String,
    /// The batches of it that belong to the log.
    pub raft_indexes: Range<u64>,
    /// The index of its first entry, or of the next one if it holds none.
    pub first_index: u64,
    /// The length of the file.
    pub bytes: u64,
    /// Whether it is full and has an index, so that opening reads only its first page.
    pub is_sealed: bool,
}

/// The result of reading every byte of a log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// What the log is.
    pub inspection: Inspection,
    /// How many batches are intact, those that hold no entries included.
    pub batches: u64,
    /// How many entries these hold.
    pub entries: u64,
    /// How many bytes of payload.
    pub payload_bytes: u64,
    /// Everything that does not read back as it was written, in order. Empty for an intact log.
    pub corruption: Vec<Corruption>,
}

/// How far the work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Batches that have been read.
    pub done: u64,
    /// Batches that there are.
    pub total: u64,
}

/// Describes the log in `dir`. Costs as much as opening it: the segments that are not sealed are
/// read.
///
/// # Errors
/// See the [module](self).
pub fn inspect(dir: impl AsRef<Path>) -> Result<Inspection, StorageError> {
    Ok(OpenedLog::open(dir.as_ref())?.inspection)
}

/// Reads every byte of the log in `dir` that counts: each batch with its header, entries and
/// checksums, its place in the chain, the footers of sealed segments, both copies of the identity.
///
/// # Errors
/// See the [module](self). Corruption is not an error, but part of the result.
pub fn verify(dir: impl AsRef<Path>) -> Result<Verification, StorageError> {
    verify_with(dir, |_| ())
}

/// [`verify`], which reports to `progress` after each batch.
///
/// # Errors
/// Those of [`verify`].
pub fn verify_with(
    dir: impl AsRef<Path>,
    mut progress: impl FnMut(Progress),
) -> Result<Verification, StorageError> {
    OpenedLog::open(dir.as_ref())?.verify(|now| {
        progress(now);
        Ok::<(), StorageError>(())
    })
}

/// Passes the entries of the log in `dir` with an index in `indexes` to `each`, in order, until it
/// breaks. A batch that cannot be read is passed as its error, once, in place of its entries.
///
/// # Errors
/// See the [module](self).
pub fn dump(
    dir: impl AsRef<Path>,
    indexes: Range<u64>,
    mut each: impl FnMut(Result<Entry, StorageError>) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let opened = OpenedLog::open(dir.as_ref())?;
    let begins: Vec<u64> =
        opened.inspection.segments.iter().map(|segment| segment.first_index).collect();
    for (at, part) in opened.segments.into_iter().enumerate() {
        let is_before = begins.get(at + 1).is_some_and(|&next| next <= indexes.start);
        if is_before || begins[at] >= indexes.end {
            continue;
        }
        // In a corrupt segment the search may find nothing; then all of it is read.
        let hit = part
            .segment
            .contents(&opened.disk)
            .and_then(|view| part.segment.find(&opened.disk, &view, indexes.start, part.len()));
        let first = hit.ok().flatten().map_or(0, |hit| hit.ordinal);
        for ordinal in first..part.len() {
            let found = part.segment.record(&opened.disk, ordinal).map(|(_, batch)| batch);
            if dump_batch(&opened.disk, &part, ordinal, found, &indexes, &mut each).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn dump_batch(
    disk: &ReadOnlyDisk,
    part: &LiveSegment<ReadOnlyDisk>,
    ordinal: u64,
    found: Result<Batch, StorageError>,
    indexes: &Range<u64>,
    each: &mut impl FnMut(Result<Entry, StorageError>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let batch = match found {
        Ok(batch) => batch,
        Err(error) => return each(Err(error)),
    };
    let (Some(first), Some(end)) = (batch.first_index(), batch.end_index()) else {
        return ControlFlow::Continue(());
    };
    if first >= indexes.end {
        return ControlFlow::Break(());
    }
    for index in first.max(indexes.start)..end.min(indexes.end) {
        match batch.entry(index) {
            Ok(entry) => entry.map_or(ControlFlow::Continue(()), |entry| each(Ok(entry)))?,
            Err(error) => each(Err(part.segment.corrupt_at(disk, ordinal, error.to_string())))?,
        }
    }
    ControlFlow::Continue(())
}

/// The error for a directory without the file `identity` names the directory.
fn no_log(disk: &ReadOnlyDisk, error: StorageError) -> StorageError {
    match error {
        StorageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            let why = format!("it holds no log, for no file `{IDENTITY_NAME}` is there");
            failed(disk, "open", "", io::Error::new(io::ErrorKind::NotFound, why))
        }
        error => error,
    }
}

fn state_file(disk: &ReadOnlyDisk) -> Result<Arc<ReadOnlyFile>, StorageError> {
    disk.open(STATE_NAME).map(Arc::new).map_err(|error| failed(disk, "read", STATE_NAME, error))
}

/// Locks the directory of the host that the log belongs to, if it belongs to one: the host does not
/// lock the directories of its groups.
fn lock_host(disk: &ReadOnlyDisk) -> Result<Option<DirectoryLock>, StorageError> {
    let Some(host) = disk.enclosing_host().map(Arc::new) else { return Ok(None) };
    let in_use = || StorageError::InUse { path: host.path("") };
    let lock_failed = |error| failed(disk, "lock", "", error);
    let mut lock = DirectoryLock::take(&host, true).map_err(lock_failed)?.ok_or_else(in_use)?;
    // A copy of a directory need not have the file.
    let is_locked = match host.open_to_read(LOCK_NAME) {
        Ok(file) => lock.take_file(&Arc::new(file)).map_err(lock_failed)?,
        Err(_) => true,
    };
    if is_locked { Ok(Some(lock)) } else { Err(in_use()) }
}

/// A log that is being read.
pub(super) struct OpenedLog {
    disk: ReadOnlyDisk,
    pub(super) inspection: Inspection,
    state: Metadata,
    /// The newest raft index that is known to be committed.
    commit: u64,
    /// Dropped one by one, and with each the record index of its segment.
    segments: Vec<LiveSegment<ReadOnlyDisk>>,
    /// The offset of a copy of the identity that is not intact.
    bad_identity: Option<u64>,
    _lock: Option<<ReadOnlyDisk as Disk>::Lock>,
    /// Of the host that the log belongs to.
    _host: Option<DirectoryLock>,
}

impl OpenedLog {
    fn open(dir: &Path) -> Result<OpenedLog, StorageError> {
        let disk = ReadOnlyDisk::open(dir)?;
        let in_use = || StorageError::InUse { path: disk.path("") };
        let host = lock_host(&disk)?;
        let mut lock =
            disk.lock().map_err(|error| failed(&disk, "lock", "", error))?.ok_or_else(in_use)?;
        let identity = IdentityFile::read(&disk).map_err(|error| no_log(&disk, error))?;
        let bad_identity = IdentityFile::bad_copy(&disk)?;
        let file = state_file(&disk)?;
        if !disk
            .lock_file(&mut lock, &file)
            .map_err(|error| failed(&disk, "lock", STATE_NAME, error))?
        {
            return Err(in_use());
        }
        Ok(OpenedLog {
            bad_identity,
            _lock: Some(lock),
            _host: host,
            ..OpenedLog::recover(disk, identity, file)?
        })
    }

    /// A log that is not visible to others yet, and has no identity of its own.
    pub(super) fn unlocked(dir: &Path, identity: IdentityFile) -> Result<OpenedLog, StorageError> {
        let disk = ReadOnlyDisk::open(dir)?;
        let file = state_file(&disk)?;
        OpenedLog::recover(disk, identity, file)
    }

    fn recover(
        disk: ReadOnlyDisk,
        identity: IdentityFile,
        file: Arc<ReadOnlyFile>,
    ) -> Result<OpenedLog, StorageError> {
        let names = disk.list().map_err(|error| failed(&disk, "open", "", error))?;
        let IdentityFile { directory, owner } = identity;
        let file = MetadataFile::<ReadOnlyDisk>::read(file)
            .map_err(|error| failed(&disk, "read", STATE_NAME, error))?;
        let file = file
            .ok_or_else(|| corrupt(&disk, STATE_NAME, 0, "no generation of the state is intact"))?;
        if file.state.directory != directory {
            return Err(corrupt(&disk, STATE_NAME, 0, "the file belongs to another directory"));
        }
        let watermark =
            file.watermark().map_err(|error| failed(&disk, "read", STATE_NAME, error))?;
        let found = recovery::recover(&disk, &Maps::new(1), &file.state, watermark, &names)?;
        let commit = found.commit_with(&file.state);
        let RecoveredLog { live, last, obsolete, corruption, .. } = found;
        let mut leftover: Vec<String> = names
            .into_iter()
            .filter(|name| name.ends_with(SPARE_SUFFIX) || name.ends_with(REWRITE_SUFFIX))
            .chain(obsolete)
            .collect();
        leftover.sort();
        let state = file.state;
        let identity = state.identity();
        let segments =
            live.segments.iter().map(|part| segment_file(&disk, part)).collect::<Result<_, _>>()?;
        let (hard_state, peers) = (state.hard_state, state.peers.clone());
        let group_uid = state.group_uid;
        let inspection = Inspection {
            identity,
            owner,
            hard_state,
            base: live.base,
            last,
            peers,
            group_uid,
            segments,
            leftover,
            corruption,
        };
        Ok(OpenedLog {
            disk,
            inspection,
            state,
            commit,
            segments: live.segments,
            bad_identity: None,
            _lock: None,
            _host: None,
        })
    }

    /// Reads every byte that counts, until `progress` returns an error.
    pub(super) fn verify<E: From<StorageError>>(
        self,
        mut progress: impl FnMut(Progress) -> Result<(), E>,
    ) -> Result<Verification, E> {
        let total = self
            .inspection
            .segments
            .iter()
            .map(|segment| segment.raft_indexes.end - segment.raft_indexes.start)
            .sum();
        let mut verifier = Verifier::new(&self.disk, self.state.directory, &self.inspection);
        if let Some(offset) = self.bad_identity {
            verifier.report(
                IDENTITY_NAME,
                offset,
                0,
                "a copy of the identity is not intact; the other one is",
            );
        }
        let mut done = 0;
        for part in self.segments {
            verifier.begin(&part)?;
            for ordinal in 0..part.len() {
                verifier.read(&part, ordinal)?;
                done += 1;
                progress(Progress { done, total })?;
            }
        }
        let Verifier { batches, entries, payload_bytes, mut corruption, .. } = verifier;
        corruption.sort_by_key(|corruption| corruption.raft_indexes.start);
        Ok(Verification {
            inspection: self.inspection,
            batches,
            entries,
            payload_bytes,
            corruption,
        })
    }
}

fn segment_file(
    disk: &ReadOnlyDisk,
    part: &LiveSegment<ReadOnlyDisk>,
) -> Result<SegmentFile, StorageError> {
    let segment = &part.segment;
    let bytes = disk
        .open(&segment.name)
        .and_then(|file| file.size())
        .map_err(|error| failed(disk, "read", &segment.name, error))?;
    Ok(SegmentFile {
        name: segment.name.clone(),
        raft_indexes: segment.first..segment.first + part.len(),
        first_index: segment.before.next_index,
        bytes,
        is_sealed: segment.is_sealed(),
    })
}

struct Verifier<'a> {
    disk: &'a ReadOnlyDisk,
    directory: u128,
    /// The log point before the next record, if known.
    before: Option<LogPoint>,
    batches: u64,
    entries: u64,
    payload_bytes: u64,
    corruption: Vec<Corruption>,
}

impl<'a> Verifier<'a> {
    fn new(disk: &'a ReadOnlyDisk, directory: u128, inspection: &Inspection) -> Verifier<'a> {
        let before = Some(inspection.base.point);
        let corruption = inspection.corruption.clone();
        Verifier { disk, directory, before, batches: 0, entries: 0, payload_bytes: 0, corruption }
    }

    /// Checks what a segment has besides its records.
    fn begin(&mut self, part: &LiveSegment<ReadOnlyDisk>) -> Result<(), StorageError> {
        let segment = &part.segment;
        if self.before.is_some_and(|before| before.raft_index + 1 != segment.first) {
            self.before = None;
        }
        let head = segment.head(self.disk)?;
        if format::check_segment_header(&head, self.directory).is_err() {
            self.report(
                &segment.name,
                0,
                segment.first,
                "the header of the segment is not one of this log",
            );
        }
        if let Some(offset) = segment.bad_footer(self.disk)? {
            self.report(
                &segment.name,
                offset,
                segment.first,
                "the footer does not match its checksum",
            );
        }
        Ok(())
    }

    fn read(&mut self, part: &LiveSegment<ReadOnlyDisk>, ordinal: u64) -> Result<(), StorageError> {
        let before = self.before.take();
        if let Some(corruption) = part.segment.verify_batch(self.disk, ordinal)? {
            if !self
                .corruption
                .iter()
                .any(|known| known.raft_indexes.contains(&corruption.raft_indexes.start))
            {
                self.corruption.push(corruption);
            }
            return Ok(());
        }
        let (header, batch) = part.segment.record(self.disk, ordinal)?;
        if before.is_some_and(|before| batch.point_after(&before) != Ok(header.point)) {
            let error =
                part.segment.corrupt_at(self.disk, ordinal, "the batch does not continue the log");
            let raft_indexes = header.point.raft_index..header.point.raft_index + 1;
            self.corruption.extend(as_corruption(error, raft_indexes));
            return Ok(());
        }
        self.before = Some(header.point);
        self.batches += 1;
        self.entries += u64::from(batch.count());
        self.payload_bytes += batch.payload_bytes();
        Ok(())
    }

    /// Adds corruption that loses no batch.
    fn report(&mut self, name: &str, offset: u64, raft_index: u64, reason: &str) {
        let known = |corruption: &Corruption| {
            corruption.path == self.disk.path(name) && corruption.offset == offset
        };
        if !self.corruption.iter().any(known) {
            self.corruption.extend(as_corruption(
                corrupt(self.disk, name, offset, reason),
                raft_index..raft_index,
            ));
        }
    }
}

fn as_corruption(error: StorageError, raft_indexes: Range<u64>) -> Option<Corruption> {
    match error {
        StorageError::Corrupt { path, offset, reason } => {
            Some(Corruption { path, offset, raft_indexes, term: None, chain: None, reason })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
