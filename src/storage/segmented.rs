//! The default storage: segments of one directory, written with `pwrite` and read through read-only
//! maps.
//!
//! `format.md` documents every byte. In short: batches are appended to the newest segment, a file
//! of fixed length; a full one is sealed with an index of its records. A conflicting tail is never
//! written over: a new segment begins at the cut, and wins from there on. All that is small and
//! changes (term, vote, base, peers) is in one file of alternating slots.

mod active_segment;
mod backup;
mod corrupt_log;
mod damaged_scan;
#[cfg_attr(not(unix), path = "directory_by_path.rs")]
mod directory;
mod directory_lock;
mod error;
mod file_io;
mod format;
pub(crate) mod fs;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod identity;
mod lookup;
mod maps;
mod metadata;
mod mmap;
mod options;
mod real_disk;
mod recovery;
mod retention;
mod rewrite;
mod salvage;
mod scan;
mod segment;
mod segment_set;
mod segmented_log;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod simulated;
mod spare;
mod sync;
#[cfg(test)]
mod tests;
pub mod tools;
#[cfg(test)]
mod trials;
mod writer;

pub(crate) use mmap::home;
pub use options::{Create, SegmentOptions};
pub use segmented_log::SegmentedLog;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use self::backup::Source;
use self::corrupt_log::CorruptLog;
use self::error::{broken, damaged, failed, too_large};
use self::fs::{Disk, DiskFile};
use self::identity::IdentityFile;
use self::maps::Maps;
use self::metadata::{Metadata, MetadataFile, STATE_NAME, WriteError};
use self::real_disk::RealDisk;
use self::recovery::RecoveredLog;
use self::segment_set::{SegmentReader, SegmentSet};
use self::sync::LogShared;
use self::writer::Writer;
use super::{
    BackgroundTask, BackupError, Base, Batch, DirectoryIdentity, HardState, LogOwner, LogPoint,
    LogReader, PendingBackup, PendingSync, Recovered, RepairAction, Storage, StorageError,
};
use crate::entry::NodeId;
use crate::role::Membership;

/// So many dead segments are removed when a log is opened. A life makes fewer.
const SWEPT_AT_ONCE: usize = 64;

/// A log in the segment files of one directory of some disk. [`SegmentedLog`] is that on a real
/// one.
pub(crate) struct DiskLog<D: Disk = RealDisk> {
    disk: Arc<D>,
    options: SegmentOptions,
    live: Arc<ArcSwap<SegmentSet<D>>>,
    maps: Arc<Maps<D>>,
    access: Mode<D>,
    /// Batches in sealed segments that were damaged when the log was opened, if it was opened to
    /// read everything.
    corrupt_sealed: Vec<u64>,
}

/// What may be done with a log.
enum Mode<D: Disk> {
    /// Nothing: it has not been opened.
    Closed,
    Writable(Box<Writer<D>>),
    /// It is damaged: read, and mended, and nothing else, so that nothing makes it worse.
    Repairing(Box<CorruptLog<D>>),
}

impl DiskLog {
    pub(crate) fn new(dir: impl Into<PathBuf>, options: SegmentOptions) -> DiskLog {
        DiskLog::on(RealDisk::new(dir.into()), options)
    }
}

impl<D: Disk> DiskLog<D> {
    pub(crate) fn on(disk: D, options: SegmentOptions) -> DiskLog<D> {
        let nothing = Base { point: LogPoint::INITIAL, membership: Membership::default() };
        DiskLog {
            disk: Arc::new(disk),
            options,
            live: Arc::new(ArcSwap::from_pointee(SegmentSet::new(nothing))),
            maps: Maps::new(options.mapped_segments_max),
            access: Mode::Closed,
            corrupt_sealed: Vec::new(),
        }
    }

    fn writer(&mut self) -> Result<&mut Writer<D>, StorageError> {
        match &mut self.access {
            Mode::Closed => Err(StorageError::NotContiguous("it has not been opened".to_owned())),
            Mode::Writable(writer) => Ok(writer),
            Mode::Repairing(corrupt_log) => Err(corrupt_log.refusal()),
        }
    }

    /// Finds the directory and keeps everybody else out of it, if this is one that may be opened.
    /// With it comes the file `state`, which is empty in a directory that is new.
    fn enter(&self) -> Result<(D::Lock, Arc<D::File>), StorageError> {
        let disk = &*self.disk;
        let in_use = || StorageError::InUse { path: disk.path("") };
        disk.attach(self.options.create != Create::Never)?;
        let mut lock =
            disk.lock().map_err(|error| failed(disk, "lock", "", error))?.ok_or_else(in_use)?;
        let file = Arc::new(self.state_file(&self.names()?)?);
        let is_locked = disk
            .lock_file(&mut lock, &file)
            .map_err(|error| failed(disk, "lock", STATE_NAME, error))?;
        if is_locked { Ok((lock, file)) } else { Err(in_use()) }
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        self.disk.list().map_err(|error| failed(&*self.disk, "open", "", error))
    }

    /// The file `state`; made, if a log may begin here.
    fn state_file(&self, names: &[String]) -> Result<D::File, StorageError> {
        let disk = &*self.disk;
        let is_there = |wanted: &str| names.iter().any(|name| name == wanted);
        let is_log = is_there(identity::IDENTITY_NAME);
        self.consent(is_log, names)?;
        match is_there(STATE_NAME) {
            true => disk.open(STATE_NAME).map_err(|error| failed(disk, "open", STATE_NAME, error)),
            false if is_log => Err(damaged(disk, STATE_NAME, 0, "the file is missing")),
            false => {
                disk.create(STATE_NAME).map_err(|error| failed(disk, "create", STATE_NAME, error))
            }
        }
    }

    /// Whether the host wants a log, or none, where there is one, or none.
    fn consent(&self, is_log: bool, names: &[String]) -> Result<(), StorageError> {
        let path = || self.disk.path("");
        if !is_log && names.iter().any(|name| format::parse_segment_name(name).is_some()) {
            return Err(self.lost_identity());
        }
        match self.options.create {
            Create::Never if !is_log => Err(StorageError::NoLog { path: path() }),
            Create::New if is_log => Err(StorageError::HoldsLog { path: path() }),
            _ => Ok(()),
        }
    }

    /// Whose directory this is; makes it if it is nobody's.
    fn identify(
        &self,
        owner: &LogOwner,
        names: &[String],
        file: &Arc<D::File>,
    ) -> Result<IdentityFile, StorageError> {
        let disk = &*self.disk;
        let is_log = names.iter().any(|name| name == identity::IDENTITY_NAME);
        // On a network file system it may have been made since it was looked for.
        self.consent(is_log, names)?;
        if is_log {
            let identity = IdentityFile::read(disk)?;
            identity.check(disk, owner)?;
            return Ok(identity);
        }
        self.refuse_if_used(file)?;
        let create_failed = |error| failed(disk, "create", STATE_NAME, error);
        let identity = IdentityFile { directory: disk.draw(), owner: owner.clone() };
        let state = Metadata::new(identity.directory, owner.membership.clone());
        MetadataFile::<D>::fill(file.clone(), state).map_err(|error| match error {
            WriteError::TooLarge => too_large(disk, STATE_NAME),
            WriteError::Io(error) => create_failed(error),
        })?;
        let written = identity
            .create(disk)
            .map_err(|error| failed(disk, "create", identity::IDENTITY_NAME, error))?;
        written.ok_or_else(|| too_large(disk, identity::IDENTITY_NAME)).map(|()| identity)
    }

    /// A directory without identity is new, or the making of it was cut short. One that was in use
    /// has lost it: to begin anew would be to forget votes.
    fn refuse_if_used(&self, file: &Arc<D::File>) -> Result<(), StorageError> {
        let read = MetadataFile::<D>::read(file.clone())
            .map_err(|error| failed(&*self.disk, "read", STATE_NAME, error))?;
        let is_used = read.is_some_and(|state| state.state.incarnation > 0);
        if is_used { Err(self.lost_identity()) } else { Ok(()) }
    }

    fn lost_identity(&self) -> StorageError {
        damaged(
            &*self.disk,
            identity::IDENTITY_NAME,
            0,
            "the file is missing, but the directory has been in use",
        )
    }

    fn read_state(
        &self,
        file: Arc<D::File>,
        identity: &IdentityFile,
    ) -> Result<MetadataFile<D>, StorageError> {
        let disk = &*self.disk;
        let state = MetadataFile::<D>::read(file)
            .map_err(|error| failed(disk, "read", STATE_NAME, error))?;
        match state {
            Some(state) if state.state.directory == identity.directory => {
                // What was read may be in memory only; the next generation takes the place of an
                // older one.
                state.file.sync_data().map_err(|error| broken(disk, "sync", STATE_NAME, error))?;
                Ok(state)
            }
            Some(_) => Err(damaged(disk, STATE_NAME, 0, "the file belongs to another directory")),
            None => Err(damaged(disk, STATE_NAME, 0, "no generation of the state is intact")),
        }
    }

    /// Makes durable that the log has been opened once more, and what was learned about it. Of a
    /// damaged log nothing is learned for certain.
    fn begin_incarnation(
        &self,
        file: &mut MetadataFile<D>,
        found: &RecoveredLog<D>,
    ) -> Result<(), StorageError> {
        let mut state = file.state.clone();
        state.incarnation += 1;
        if found.corruption.is_empty() {
            state.hard_state.commit = commit_of(&state, found);
        }
        let disk = &*self.disk;
        let written =
            note_durable(file, found).map_err(WriteError::Io).and_then(|()| file.write(state, 0));
        written.map_err(|error| match error {
            WriteError::TooLarge => too_large(disk, STATE_NAME),
            WriteError::Io(error) => failed(disk, "write", STATE_NAME, error),
        })?;
        let sync = || {
            if planted!("an incarnation is not synced") { Ok(()) } else { file.file.sync_data() }
        };
        sync().map_err(|error| broken(disk, "sync", STATE_NAME, error))
    }

    /// Goes on with what was found, as far as its soundness allows.
    fn check_owner(
        &mut self,
        found: RecoveredLog<D>,
        directory: u128,
        mut state: MetadataFile<D>,
        names: Vec<String>,
        lock: D::Lock,
    ) -> Recovered {
        let identity = state.state.identity();
        let hard_state =
            HardState { commit: commit_of(&state.state, &found), ..state.state.hard_state };
        let (base, last, corruption) =
            (found.live.base.clone(), found.last, found.corruption.clone());
        let peers = state.state.peers.clone();
        self.access = if corruption.is_empty() {
            state.state.hard_state = hard_state;
            Mode::Writable(Box::new(self.begin_writing(found, directory, state, names, lock)))
        } else {
            let corrupt_log = CorruptLog::new(found, directory, state, lock);
            self.live.store(corrupt_log.live());
            Mode::Repairing(Box::new(corrupt_log))
        };
        Recovered { identity, hard_state, base, last, peers, corruption }
    }

    /// Looks at a log that is being mended as if it had just been opened.
    fn recover_again(&mut self) -> Result<Recovered, StorageError> {
        let disk = self.disk.clone();
        let Mode::Repairing(corrupt_log) = &mut self.access else { return Err(sound()) };
        let look = || {
            let names = disk.list().map_err(|error| failed(&*disk, "open", "", error))?;
            let watermark = corrupt_log
                .state
                .watermark()
                .map_err(|error| failed(&*disk, "read", STATE_NAME, error))?;
            let mut found =
                recovery::recover(&*disk, &self.maps, &corrupt_log.state.state, watermark, &names)?;
            add_cold(&*disk, &mut found, &corrupt_log.state.state, &self.corrupt_sealed)?;
            note_durable(&corrupt_log.state, &found)
                .map_err(|error| failed(&*disk, "write", STATE_NAME, error))?;
            Ok((found, names))
        };
        let seen = look();
        let (found, names) = corrupt_log.note(seen)?;
        let Mode::Repairing(corrupt_log) = std::mem::replace(&mut self.access, Mode::Closed) else {
            return Err(sound());
        };
        let CorruptLog { directory, state, lock, .. } = *corrupt_log;
        Ok(self.check_owner(found, directory, state, names, lock))
    }

    /// Does one step of mending, and looks at what it has come to.
    fn step<T>(
        &mut self,
        step: impl FnOnce(&mut CorruptLog<D>, &D, u64) -> Result<T, StorageError>,
    ) -> Result<(T, Recovered), StorageError> {
        let (disk, file_bytes) = (self.disk.clone(), self.segment_bytes());
        let Mode::Repairing(corrupt_log) = &mut self.access else { return Err(sound()) };
        corrupt_log.check_poison()?;
        let outcome = step(corrupt_log, &disk, file_bytes);
        let done = corrupt_log.note(outcome)?;
        Ok((done, self.recover_again()?))
    }

    /// The next id of this run for a segment that wins over all others.
    fn newest_segment(&self) -> Result<u64, StorageError> {
        let Mode::Repairing(corrupt_log) = &self.access else { return Err(sound()) };
        let names = self.disk.list().map_err(|error| failed(&*self.disk, "open", "", error))?;
        let incarnation = corrupt_log.state.state.incarnation;
        Ok(incarnation << 32 | begun(&names, incarnation))
    }

    fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes()
    }

    /// Shows what was found, and goes on behind it.
    fn begin_writing(
        &self,
        found: RecoveredLog<D>,
        directory: u128,
        state: MetadataFile<D>,
        names: Vec<String>,
        lock: D::Lock,
    ) -> Writer<D> {
        let begun = begun(&names, state.state.incarnation);
        let left = self.sweep(names, found.obsolete);
        let synced = found.live.place(found.last.raft_index);
        let shared = Arc::new(LogShared::new(
            self.disk.clone(),
            directory,
            state.file.clone(),
            self.maps.clone(),
            synced,
            lock,
        ));
        self.live.store(Arc::new(found.live));
        let options = SegmentOptions { segment_bytes: self.segment_bytes(), ..self.options };
        let mut writer =
            Writer::new(shared, self.live.clone(), state, options, found.last, found.tail, begun);
        found.unsealed.into_iter().for_each(|unsealed| writer.retired.seal(unsealed));
        writer.retired.remove(left);
        writer
    }

    /// Removes what earlier lives left behind, before this one makes anything: a process that is
    /// killed over and over before its chores have run must not leave more each time. What was left
    /// ready is not used, for it may hold records. Gives back the names of what is removed later:
    /// so many dead segments that opening would wait for them, and what cannot be removed now.
    fn sweep(&self, names: Vec<String>, mut obsolete: Vec<String>) -> Vec<String> {
        let later = obsolete.split_off(obsolete.len().min(SWEPT_AT_ONCE));
        let is_leftover = |name: &String| {
            name.ends_with(spare::SPARE_SUFFIX) || name.ends_with(rewrite::MEND_SUFFIX)
        };
        let leftover = names.into_iter().filter(is_leftover);
        let mut left: Vec<String> = leftover.chain(obsolete).collect();
        left.retain(|name| {
            planted!("what earlier lives left waits for a chore")
                || !retention::is_removed(&*self.disk, name)
        });
        left.extend(later);
        left
    }
}

impl<D: Disk> Storage for DiskLog<D> {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        let disk = self.disk.clone();
        let (longest, limit) = (self.segment_bytes(), disk.file_bytes_max());
        real_disk::refuse_if_longer(longest, limit)
            .map_err(|error| failed(&*disk, "open", "", error))?;
        let (lock, file) = self.enter()?;
        let names = self.names()?;
        let identity = self.identify(owner, &names, &file)?;
        let mut state = self.read_state(file, &identity)?;
        let watermark =
            state.watermark().map_err(|error| failed(&*disk, "read", STATE_NAME, error))?;
        let mut found = recovery::recover(&*disk, &self.maps, &state.state, watermark, &names)?;
        if self.options.verify_on_open {
            self.corrupt_sealed = cold_damage(&*disk, &found.live)?;
            add_cold(&*disk, &mut found, &state.state, &self.corrupt_sealed)?;
        }
        self.begin_incarnation(&mut state, &found)?;
        Ok(self.check_owner(found, identity.directory, state, names, lock))
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(SegmentReader { disk: self.disk.clone(), live: self.live.clone() })
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.writer()?.append(batches, commit)
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.writer()?.save_hard_state(hard_state)
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.writer()?.reset(base)
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.writer()?.purge(index, commit)
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.writer()?.save_peer(peer, directory)
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        self.writer()?.set_complete(complete)
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        match &mut self.access {
            Mode::Closed => Box::new(()),
            Mode::Writable(writer) => writer.begin_sync(),
            Mode::Repairing(corrupt_log) => Box::new(FailedSync(corrupt_log.refusal())),
        }
    }

    fn begin_backup(&mut self, commit: u64) -> Result<Box<dyn PendingBackup>, BackupError> {
        let state = match &self.access {
            Mode::Closed => {
                return Err(StorageError::NotContiguous("the log was not opened".to_owned()).into());
            }
            Mode::Writable(writer) => writer.state.state.clone(),
            Mode::Repairing(corrupt_log) => corrupt_log.state.state.clone(),
        };
        let (disk, live) = (self.disk.clone(), self.live.clone());
        Ok(Box::new(Source { disk, live, state, commit, last: commit, is_alone: false }))
    }

    fn is_behind(&self) -> bool {
        matches!(&self.access, Mode::Writable(writer) if writer.is_behind())
    }

    fn next_task(&mut self) -> Option<BackgroundTask> {
        self.writer().ok()?.next_task()
    }

    fn repair(&mut self, repair_action: RepairAction<'_>) -> Result<Recovered, StorageError> {
        let mut recovered = match repair_action {
            RepairAction::Fill(_) => self.recover_again()?,
            RepairAction::Replace(batches) => {
                let segment = self.newest_segment()?;
                self.step(|corrupt_log, disk, file_bytes| {
                    corrupt_log.replace(disk, batches, segment, file_bytes)
                })?
                .1
            }
            RepairAction::Rebase(point) => {
                let segment = self.newest_segment()?;
                self.step(|corrupt_log, disk, _| corrupt_log.rebase(disk, point, segment))?.1
            }
        };
        if let RepairAction::Fill(mut batches) = repair_action {
            while !batches.is_empty() && !recovered.corruption.is_empty() {
                let (done, now) = self.step(|corrupt_log, disk, file_bytes| {
                    corrupt_log.fill(disk, batches, file_bytes)
                })?;
                (batches, recovered) = (&batches[done..], now);
            }
        }
        if !recovered.corruption.is_empty() {
            (_, recovered) = self.step(|corrupt_log, disk, _| corrupt_log.mend_heads(disk))?;
        }
        Ok(recovered)
    }
}

/// Notes how far the log reaches: what bore witness to that before may be gone with the power. What
/// opening or mending has found sound, this node answers for from now on. Of a damaged log it is
/// noted once more how far it is known to have reached, though that was read just now: if an
/// earlier run could not sync it, the kernel shows it all the same, and nothing else tells damage
/// from a torn write.
fn note_durable<D: Disk>(file: &MetadataFile<D>, found: &RecoveredLog<D>) -> io::Result<()> {
    let holds_any = found.last.raft_index > found.live.base.point.raft_index
        && !planted!("what is found has no witness");
    let known = match found.corruption.is_empty() {
        true => holds_any.then(|| found.live.place(found.last.raft_index)),
        false => found.max_evidence.filter(|synced| {
            synced.raft_index > 0
                && !planted!("what bears witness to damage is not written once more")
        }),
    };
    known.map_or(Ok(()), |synced| file.write_watermark(synced))
}

/// The batches in sealed segments that do not read back: those that opening does not look at.
fn cold_damage<D: Disk>(disk: &D, live: &SegmentSet<D>) -> Result<Vec<u64>, StorageError> {
    let mut corrupt_sealed = Vec::new();
    for stretch in live.stretches.iter().filter(|stretch| stretch.segment.is_sealed()) {
        for ordinal in 0..stretch.len() {
            if stretch.segment.verify_batch(disk, ordinal)?.is_some() {
                corrupt_sealed.push(stretch.segment.first + ordinal);
            }
        }
    }
    Ok(corrupt_sealed)
}

/// Adds to what was found the damage of these batches, as far as it is still there.
fn add_cold<D: Disk>(
    disk: &D,
    found: &mut RecoveredLog<D>,
    state: &Metadata,
    corrupt_sealed: &[u64],
) -> Result<(), StorageError> {
    let was_sound = found.corruption.is_empty();
    for raft_index in
        corrupt_sealed.iter().filter(|raft_index| **raft_index > found.live.base.point.raft_index)
    {
        let is_told =
            found.corruption.iter().any(|corruption| corruption.raft_indexes.contains(raft_index));
        if !is_told {
            found.corruption.extend(found.live.verify_batch(disk, *raft_index)?);
        }
    }
    found.corruption.sort_by_key(|corruption| corruption.raft_indexes.start);
    if was_sound && !found.corruption.is_empty() {
        found.commit = found
            .commit
            .max(state.hard_state.commit)
            .clamp(found.live.base.point.raft_index, found.last.raft_index);
        loop {
            match found.live.point(disk, found.commit) {
                Ok(Some(_)) => break,
                Ok(None) | Err(StorageError::Corrupt { .. }) => found.commit -= 1,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// How many segments of the run `incarnation` are among `names`, or were: the count that the next
/// one takes.
fn begun(names: &[String], incarnation: u64) -> u64 {
    let ids = names.iter().filter_map(|name| format::parse_segment_name(name)).map(|(id, _)| id);
    ids.filter(|id| id >> 32 == incarnation)
        .map(|id| (id & u64::from(u32::MAX)) + 1)
        .max()
        .unwrap_or(0)
}

/// The newest raft index that is known to be committed, as far as the log reaches. Of a damaged
/// log: as far as a mark can be read.
fn commit_of<D: Disk>(state: &Metadata, found: &RecoveredLog<D>) -> u64 {
    if !found.corruption.is_empty() {
        return found.commit;
    }
    state
        .hard_state
        .commit
        .max(found.commit)
        .clamp(found.live.base.point.raft_index, found.last.raft_index)
}

fn sound() -> StorageError {
    StorageError::NotContiguous("nothing is known to be wrong with it".to_owned())
}

/// The sync of a log that takes nothing.
struct FailedSync(StorageError);

impl PendingSync for FailedSync {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        Err(self.0)
    }
}

impl<D: Disk> fmt::Debug for DiskLog<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentedLog")
            .field("dir", &self.disk.path(""))
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
