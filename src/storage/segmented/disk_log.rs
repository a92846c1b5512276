//! The log in the segment files of one directory of any disk: opened, then written, or repaired.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::backup::Source;
use super::corrupt_log::CorruptLog;
use super::error::{broken, corrupt, failed, too_large};
use super::fs::{Disk, DiskFile};
use super::identity::IdentityFile;
use super::log_shared::LogShared;
use super::metadata::{Metadata, MetadataFile, STATE_NAME, WriteError};
use super::options::{Create, SegmentOptions};
use super::real_disk::RealDisk;
use super::recovered_log::RecoveredLog;
use super::segment::Maps;
use super::segment_set::{SegmentReader, SegmentSet};
use super::writer::Writer;
use super::{format, identity, real_disk, recovery, retention, rewrite, spare};
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{
    BackgroundTask, BackupError, Base, Batch, DirectoryIdentity, DiskProbe, HardState, LogOwner,
    LogPoint, LogReader, PendingBackup, PendingSync, Recovered, RepairAction, SegmentInfo, Storage,
    StorageError,
};

/// At most so many obsolete segments are removed when a log is opened. One run makes fewer.
const REMOVED_AT_OPEN_MAX: usize = 64;

/// A log in the segment files of one directory of any disk. [`SegmentedLog`](super::SegmentedLog)
/// is the one on a real disk.
pub(crate) struct DiskLog<D: Disk = RealDisk> {
    disk: Arc<D>,
    options: SegmentOptions,
    pub(super) live: Arc<ArcSwap<SegmentSet<D>>>,
    pub(super) maps: Arc<Maps<D>>,
    mode: Mode<D>,
    /// With `verify_on_open`: the batches in sealed segments that were corrupt at that time.
    corrupt_sealed: Vec<u64>,
}

/// Which operations the log accepts.
enum Mode<D: Disk> {
    /// None: it is not open.
    Closed,
    Writable(Box<Writer<D>>),
    /// It is corrupt: reads and repairs only, so that nothing makes it worse.
    Repairing(Box<CorruptLog<D>>),
}

impl DiskLog {
    pub(crate) fn new(dir: impl Into<PathBuf>, options: SegmentOptions) -> DiskLog {
        DiskLog::on(RealDisk::of_lone_log(dir.into()), options)
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
            mode: Mode::Closed,
            corrupt_sealed: Vec::new(),
        }
    }

    pub(super) fn writer(&mut self) -> Result<&mut Writer<D>, StorageError> {
        match &mut self.mode {
            Mode::Closed => Err(StorageError::InvalidState("it has not been opened".to_owned())),
            Mode::Writable(writer) => Ok(writer),
            Mode::Repairing(corrupt_log) => Err(corrupt_log.refusal()),
        }
    }

    /// Finds and locks the directory, if it may be opened. Returns the file `state` too, which is
    /// empty in a new directory.
    fn lock_directory(&self) -> Result<(D::Lock, Arc<D::File>), StorageError> {
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

    /// Opens the file `state`, or creates it if a log may begin here.
    fn state_file(&self, names: &[String]) -> Result<D::File, StorageError> {
        let disk = &*self.disk;
        let is_there = |wanted: &str| names.iter().any(|name| name == wanted);
        let is_log = is_there(identity::IDENTITY_NAME);
        self.check_create(is_log, names)?;
        match is_there(STATE_NAME) {
            true => disk.open(STATE_NAME).map_err(|error| failed(disk, "open", STATE_NAME, error)),
            false if is_log => Err(corrupt(disk, STATE_NAME, 0, "the file is missing")),
            false => {
                disk.create(STATE_NAME).map_err(|error| failed(disk, "create", STATE_NAME, error))
            }
        }
    }

    /// Checks the option `create`: whether a log must, may, or must not exist already.
    fn check_create(&self, is_log: bool, names: &[String]) -> Result<(), StorageError> {
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

    /// Reads and checks the identity of the directory, or creates it for `owner` in a new one.
    fn identify(
        &self,
        owner: &LogOwner,
        names: &[String],
        file: &Arc<D::File>,
    ) -> Result<IdentityFile, StorageError> {
        let disk = &*self.disk;
        let is_log = names.iter().any(|name| name == identity::IDENTITY_NAME);
        // On a network file system it may have been created since the first check.
        self.check_create(is_log, names)?;
        if is_log {
            let identity = IdentityFile::read(disk)?;
            identity.check(disk, owner)?;
            return Ok(identity);
        }
        self.refuse_if_used(file)?;
        let create_failed = |error| failed(disk, "create", STATE_NAME, error);
        let identity = IdentityFile { directory: disk.random_id(), owner: owner.clone() };
        let state =
            Metadata::new(identity.directory, owner.membership.clone(), owner.first_position);
        MetadataFile::<D>::fill(file.clone(), state).map_err(|error| match error {
            WriteError::TooLarge => too_large(disk, STATE_NAME),
            WriteError::Io(error) => create_failed(error),
        })?;
        let written = identity
            .create(disk)
            .map_err(|error| failed(disk, "create", identity::IDENTITY_NAME, error))?;
        written.ok_or_else(|| too_large(disk, identity::IDENTITY_NAME)).map(|()| identity)
    }

    /// A directory without identity is new, or its creation was interrupted. One that was in use
    /// has lost its identity: starting from nothing would forget votes.
    fn refuse_if_used(&self, file: &Arc<D::File>) -> Result<(), StorageError> {
        let read = MetadataFile::<D>::read(file.clone())
            .map_err(|error| failed(&*self.disk, "read", STATE_NAME, error))?;
        let is_used = read.is_some_and(|state| state.state.incarnation > 0);
        if is_used { Err(self.lost_identity()) } else { Ok(()) }
    }

    fn lost_identity(&self) -> StorageError {
        corrupt(
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
                // The bytes may be in the page cache only; the next generation overwrites an older
                // one.
                state.file.sync_data().map_err(|error| broken(disk, "sync", STATE_NAME, error))?;
                Ok(state)
            }
            Some(_) => Err(corrupt(disk, STATE_NAME, 0, "the file belongs to another directory")),
            None => Err(corrupt(disk, STATE_NAME, 0, "no generation of the state is intact")),
        }
    }

    /// Makes durable the new incarnation, and what recovery learned. From a corrupt log nothing is
    /// learned for certain.
    fn begin_incarnation(
        &self,
        file: &mut MetadataFile<D>,
        found: &RecoveredLog<D>,
    ) -> Result<(), StorageError> {
        let mut state = file.state.clone();
        state.incarnation += 1;
        if found.corruption.is_empty() {
            state.hard_state.commit = found.commit_with(&state);
        }
        let disk = &*self.disk;
        let written = save_durable_point(file, found)
            .map_err(WriteError::Io)
            .and_then(|()| file.write(state, 0));
        written.map_err(|error| match error {
            WriteError::TooLarge => too_large(disk, STATE_NAME),
            WriteError::Io(error) => failed(disk, "write", STATE_NAME, error),
        })?;
        let sync = || file.file.sync_data();
        sync().map_err(|error| broken(disk, "sync", STATE_NAME, error))
    }

    /// Continues with the recovered log: writable if it is intact, for repair if it is corrupt.
    fn resume(
        &mut self,
        found: RecoveredLog<D>,
        directory: u128,
        mut state: MetadataFile<D>,
        names: Vec<String>,
        lock: D::Lock,
    ) -> Recovered {
        let identity = state.state.identity();
        let hard_state =
            HardState { commit: found.commit_with(&state.state), ..state.state.hard_state };
        let (base, last, corruption) =
            (found.live.base.clone(), found.last, found.corruption.clone());
        let (peers, group_uid) = (state.state.peers.clone(), state.state.group_uid);
        self.mode = if corruption.is_empty() {
            state.state.hard_state = hard_state;
            Mode::Writable(Box::new(self.begin_writing(found, directory, state, names, lock)))
        } else {
            let corrupt_log = CorruptLog::new(found, directory, state, lock);
            self.live.store(corrupt_log.live());
            Mode::Repairing(Box::new(corrupt_log))
        };
        Recovered { identity, hard_state, base, last, peers, group_uid, corruption }
    }

    /// Recovers the log under repair again, as if it had just been opened.
    fn recover_again(&mut self) -> Result<Recovered, StorageError> {
        let disk = self.disk.clone();
        let Mode::Repairing(corrupt_log) = &mut self.mode else { return Err(not_corrupt()) };
        let recover = || {
            let names = disk.list().map_err(|error| failed(&*disk, "open", "", error))?;
            let watermark = corrupt_log
                .state
                .watermark()
                .map_err(|error| failed(&*disk, "read", STATE_NAME, error))?;
            let mut found =
                recovery::recover(&*disk, &self.maps, &corrupt_log.state.state, watermark, &names)?;
            add_sealed_corruption(
                &*disk,
                &mut found,
                &corrupt_log.state.state,
                &self.corrupt_sealed,
            )?;
            save_durable_point(&corrupt_log.state, &found)
                .map_err(|error| failed(&*disk, "write", STATE_NAME, error))?;
            Ok((found, names))
        };
        let recovered = recover();
        let (found, names) = corrupt_log.record_failure(recovered)?;
        let Mode::Repairing(corrupt_log) = std::mem::replace(&mut self.mode, Mode::Closed) else {
            return Err(not_corrupt());
        };
        let CorruptLog { directory, state, lock, .. } = *corrupt_log;
        Ok(self.resume(found, directory, state, names, lock))
    }

    /// Runs one repair step, and recovers the log again.
    fn repair_step<T>(
        &mut self,
        step: impl FnOnce(&mut CorruptLog<D>, &D, u64) -> Result<T, StorageError>,
    ) -> Result<(T, Recovered), StorageError> {
        let (disk, file_bytes) = (self.disk.clone(), self.options.next_segment_bytes(None));
        let Mode::Repairing(corrupt_log) = &mut self.mode else { return Err(not_corrupt()) };
        corrupt_log.check_poison()?;
        let outcome = step(corrupt_log, &disk, file_bytes);
        let done = corrupt_log.record_failure(outcome)?;
        Ok((done, self.recover_again()?))
    }

    /// The next segment id of this run: newer than all others.
    fn newest_segment(&self) -> Result<u64, StorageError> {
        let Mode::Repairing(corrupt_log) = &self.mode else { return Err(not_corrupt()) };
        let names = self.disk.list().map_err(|error| failed(&*self.disk, "open", "", error))?;
        let incarnation = corrupt_log.state.state.incarnation;
        Ok(incarnation << 32 | segments_begun(&names, incarnation))
    }

    fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes()
    }

    /// Publishes the recovered log to readers, and makes a writer that continues it.
    fn begin_writing(
        &self,
        found: RecoveredLog<D>,
        directory: u128,
        state: MetadataFile<D>,
        names: Vec<String>,
        lock: D::Lock,
    ) -> Writer<D> {
        let begun = segments_begun(&names, state.state.incarnation);
        let last = found.live.segments.last().map(|part| part.segment.name.clone());
        let left = self.remove_leftovers(names, found.obsolete);
        let synced = found.live.durable_point(found.last.raft_index);
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
        if let (None, Some(name)) = (&writer.tail, last) {
            // Without its length, the next segment is a small one.
            writer.newest_bytes = self.disk.open(&name).and_then(|file| file.size()).ok();
        }
        writer.begin_clock();
        found.unsealed.into_iter().for_each(|unsealed| writer.cleanup.seal(unsealed));
        writer.cleanup.remove(left);
        writer
    }

    /// Removes what earlier runs left, before this one creates any file: a process that is killed
    /// again and again before its background tasks run must not leave more each time. Spare
    /// segments are not reused, since they may hold records. Returns the names to be removed later:
    /// obsolete segments beyond [`REMOVED_AT_OPEN_MAX`], so that opening does not wait for them,
    /// and files that cannot be removed now.
    fn remove_leftovers(&self, names: Vec<String>, mut obsolete: Vec<String>) -> Vec<String> {
        let later = obsolete.split_off(obsolete.len().min(REMOVED_AT_OPEN_MAX));
        let is_leftover = |name: &String| {
            name.ends_with(spare::SPARE_SUFFIX) || name.ends_with(rewrite::REWRITE_SUFFIX)
        };
        let leftover = names.into_iter().filter(is_leftover);
        let mut left: Vec<String> = leftover.chain(obsolete).collect();
        left.retain(|name| !retention::is_removed(&*self.disk, name));
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
        let (lock, file) = self.lock_directory()?;
        let names = self.names()?;
        let identity = self.identify(owner, &names, &file)?;
        let mut state = self.read_state(file, &identity)?;
        let watermark =
            state.watermark().map_err(|error| failed(&*disk, "read", STATE_NAME, error))?;
        let mut found = recovery::recover(&*disk, &self.maps, &state.state, watermark, &names)?;
        if self.options.verify_on_open {
            self.corrupt_sealed = verify_sealed(&*disk, &found.live)?;
            add_sealed_corruption(&*disk, &mut found, &state.state, &self.corrupt_sealed)?;
        }
        self.begin_incarnation(&mut state, &found)?;
        Ok(self.resume(found, identity.directory, state, names, lock))
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

    fn pass_time(&mut self, open_for: Duration, unix_ms: u64) {
        if let Mode::Writable(writer) = &mut self.mode {
            writer.pass_time(open_for, unix_ms);
        }
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        match &self.mode {
            Mode::Writable(writer) => writer.segments(),
            Mode::Closed | Mode::Repairing(_) => Vec::new(),
        }
    }

    fn close_segment(&mut self) -> Result<(), StorageError> {
        self.writer()?.close_segment()
    }

    fn disk_probe(&self) -> Option<DiskProbe> {
        let disk = self.disk.clone();
        Some(Arc::new(move || disk.usage()))
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.writer()?.save_peer(peer, directory)
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        self.writer()?.set_complete(complete)
    }

    fn save_group_uid(&mut self, uid: u128) -> Result<(), StorageError> {
        self.writer()?.save_group_uid(uid)
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        match &mut self.mode {
            Mode::Closed => Box::new(()),
            Mode::Writable(writer) => writer.begin_sync(),
            Mode::Repairing(corrupt_log) => Box::new(FailedSync(corrupt_log.refusal())),
        }
    }

    fn begin_backup(&mut self, commit: u64) -> Result<Box<dyn PendingBackup>, BackupError> {
        let state = match &self.mode {
            Mode::Closed => {
                return Err(StorageError::InvalidState("it has not been opened".to_owned()).into());
            }
            Mode::Writable(writer) => writer.state.state.clone(),
            Mode::Repairing(corrupt_log) => corrupt_log.state.state.clone(),
        };
        let (disk, live) = (self.disk.clone(), self.live.clone());
        Ok(Box::new(Source { disk, live, state, commit, last: commit, is_alone: false }))
    }

    fn is_behind(&self) -> bool {
        matches!(&self.mode, Mode::Writable(writer) if writer.is_behind())
    }

    fn next_task(&mut self) -> Option<BackgroundTask> {
        self.writer().ok()?.next_task()
    }

    fn repair(&mut self, repair_action: RepairAction<'_>) -> Result<Recovered, StorageError> {
        let mut recovered = match repair_action {
            RepairAction::Fill(_) => self.recover_again()?,
            RepairAction::Replace(batches) => {
                let segment = self.newest_segment()?;
                self.repair_step(|corrupt_log, disk, file_bytes| {
                    corrupt_log.replace(disk, batches, segment, file_bytes)
                })?
                .1
            }
            RepairAction::TruncateHead(point) => {
                let segment = self.newest_segment()?;
                self.repair_step(|corrupt_log, disk, _| corrupt_log.rebase(disk, point, segment))?.1
            }
        };
        if let RepairAction::Fill(mut batches) = repair_action {
            while !batches.is_empty() && !recovered.corruption.is_empty() {
                let (done, now) = self.repair_step(|corrupt_log, disk, file_bytes| {
                    corrupt_log.fill(disk, batches, file_bytes)
                })?;
                (batches, recovered) = (&batches[done..], now);
            }
        }
        if !recovered.corruption.is_empty() {
            (_, recovered) =
                self.repair_step(|corrupt_log, disk, _| corrupt_log.restore_headers(disk))?;
        }
        Ok(recovered)
    }
}

/// Writes how far the log reaches, for earlier evidence may be lost in a power cut. An intact log:
/// this node vouches for all that opening or repair accepted. A corrupt log: how far it is known to
/// have reached is written again, though it was read just now; if an earlier run could not sync it,
/// it is in the page cache only, and nothing else tells corruption from a torn write.
fn save_durable_point<D: Disk>(file: &MetadataFile<D>, found: &RecoveredLog<D>) -> io::Result<()> {
    let holds_any = found.last.raft_index > found.live.base.point.raft_index;
    let known = match found.corruption.is_empty() {
        true => holds_any.then(|| found.live.durable_point(found.last.raft_index)),
        false => found.max_evidence.filter(|synced| synced.raft_index > 0),
    };
    known.map_or(Ok(()), |synced| file.write_watermark(synced))
}

/// The batches in sealed segments that do not read back; opening does not read them otherwise.
fn verify_sealed<D: Disk>(disk: &D, live: &SegmentSet<D>) -> Result<Vec<u64>, StorageError> {
    let mut corrupt_sealed = Vec::new();
    for part in live.segments.iter().filter(|part| part.segment.is_sealed()) {
        for ordinal in 0..part.len() {
            if part.segment.verify_batch(disk, ordinal)?.is_some() {
                corrupt_sealed.push(part.segment.first + ordinal);
            }
        }
    }
    Ok(corrupt_sealed)
}

/// Adds those of these batches that are still corrupt.
fn add_sealed_corruption<D: Disk>(
    disk: &D,
    found: &mut RecoveredLog<D>,
    state: &Metadata,
    corrupt_sealed: &[u64],
) -> Result<(), StorageError> {
    let was_sound = found.corruption.is_empty();
    for raft_index in
        corrupt_sealed.iter().filter(|raft_index| **raft_index > found.live.base.point.raft_index)
    {
        let is_known =
            found.corruption.iter().any(|corruption| corruption.raft_indexes.contains(raft_index));
        if !is_known {
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

/// The next segment number of the run `incarnation`: one more than the highest among `names`.
fn segments_begun(names: &[String], incarnation: u64) -> u64 {
    let ids = names.iter().filter_map(|name| format::parse_segment_name(name)).map(|(id, _)| id);
    ids.filter(|id| id >> 32 == incarnation)
        .map(|id| (id & u64::from(u32::MAX)) + 1)
        .max()
        .unwrap_or(0)
}

fn not_corrupt() -> StorageError {
    StorageError::InvalidState("nothing is known to be wrong with it".to_owned())
}

/// The sync of a log that accepts no writes.
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
