//! A disk in memory that does whatever a real one may do, and some of what a broken one does, for
//! tests and simulations.
//!
//! It keeps what readers see apart from what was synced ([`disk_image`] says what a crash makes of
//! the difference), numbers every call, and can be made to fail:
//!
//! - [`crash`](SimulatedDisk::crash) cuts the power, [`kill`](SimulatedDisk::kill) ends only the
//!   process. Both return a new disk; a holder of the old one sees it as it was then, and cannot
//!   change it any more.
//! - [`plan`](SimulatedDisk::plan) makes the n-th call of some kind fail, stop short or write to a
//!   wrong offset. A failed sync drops what it should have written, as on ext4: some of it is on
//!   the disk, and the next sync succeeds without having written anything. A failed sync of the
//!   directory leaves the file system read-only until the next boot, as on ext4 and xfs when the
//!   journal cannot be written.
//! - [`evict`](SimulatedDisk::evict) drops the cache; then readers see what a failed sync has lost.
//! - [`set_room`](SimulatedDisk::set_room) limits its space.
//! - [`flip`](SimulatedDisk::flip) flips a bit.
//! - [`trace`](SimulatedDisk::trace) keeps the disk as it was before every call that changes it.
//!
//! The same seed and the same calls give the same disk, on any machine.

mod disk_image;
mod rng;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use self::disk_image::FileId;
use crate::primitives::Mutex;
use crate::storage::segmented::fs::{Disk, DiskFile, DiskMap, MapRefs};
use crate::storage::{DiskUse, StorageError};

pub(crate) use self::disk_image::{BLOCK_BYTES, DiskImage};
pub(crate) use self::rng::Rng;

/// The kinds of calls that a disk gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    List,
    Create,
    Open,
    Rename,
    Remove,
    SyncDir,
    Size,
    Read,
    Write,
    Allocate,
    Sync,
    Map,
}

impl CallKind {
    const KINDS: usize = CallKind::Map as usize + 1;

    /// Whether such a call changes the disk.
    pub(crate) fn changes(self) -> bool {
        !matches!(
            self,
            CallKind::List | CallKind::Open | CallKind::Size | CallKind::Read | CallKind::Map
        )
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CallFailure {
    /// With this error.
    Error(io::ErrorKind),
    /// A write or read of which only a part is done, and reported.
    Short,
    /// A write that is reported as done, and was done so many bytes behind its offset.
    #[cfg(test)]
    Astray(u64),
    /// The process ends during the call: modelled by a panic, and nothing may be written while it
    /// unwinds.
    #[cfg(test)]
    Panic,
}

/// A planned failure of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallFault {
    /// The kind of call.
    pub(crate) on: CallKind,
    /// How many calls of that kind succeed first, counted from when the fault is planned.
    pub(crate) after: u64,
    /// How many fail then.
    pub(crate) times: u64,
    pub(crate) then: CallFailure,
}

/// The disk as it was before a call.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) struct CrashState {
    /// How many calls that change the disk came before.
    pub(crate) number: usize,
    pub(crate) before: CallKind,
    pub(crate) image: DiskImage,
}

/// One directory on a simulated disk. A clone is the same disk.
#[derive(Clone)]
pub(crate) struct SimulatedDisk {
    machine: Arc<Mutex<DiskState>>,
}

struct DiskState {
    image: DiskImage,
    draws: Rng,
    faults: Vec<CallFault>,
    counts: [u64; CallKind::KINDS],
    /// Bytes that were read, in either way.
    bytes_read: u64,
    changes: usize,
    room: Option<u64>,
    /// The process has no descriptors left.
    poor: bool,
    locked: bool,
    dead: bool,
    read_only: bool,
    failed: bool,
    #[cfg(test)]
    trace: Option<Vec<CrashState>>,
}

impl SimulatedDisk {
    /// An empty disk.
    pub(crate) fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk::with(DiskImage::default(), seed)
    }

    /// A disk with the contents of `image`.
    pub(crate) fn with(image: DiskImage, seed: u64) -> SimulatedDisk {
        let machine = DiskState {
            image,
            draws: Rng::new(seed),
            faults: Vec::new(),
            counts: [0; CallKind::KINDS],
            bytes_read: 0,
            changes: 0,
            room: None,
            poor: false,
            locked: false,
            dead: false,
            read_only: false,
            failed: false,
            #[cfg(test)]
            trace: None,
        };
        SimulatedDisk { machine: Arc::new(Mutex::new(machine)) }
    }

    /// Cuts the power, and returns the disk as it is found afterwards: in any of the legal states.
    pub(crate) fn crash(&self) -> SimulatedDisk {
        let mut machine = self.machine.lock();
        let seed = machine.draws.next();
        // One state keeps nearly all, another nearly nothing; with even odds for each change,
        // neither would ever occur.
        let odds = machine.draws.below(257);
        let units = machine.image.unsynced();
        let draws = &mut machine.draws;
        let choices: Vec<u32> = units
            .iter()
            .map(|unit| {
                if draws.chance(odds) {
                    1 + draws.below(u64::from(unit.outcomes) - 1) as u32
                } else {
                    0
                }
            })
            .collect();
        let mut torn = Rng::new(seed);
        machine.retire(|image| image.settle(&choices, Some(&mut torn)), seed)
    }

    /// Cuts the power when no unsynced change has reached the disk.
    pub(crate) fn crash_keeping_nothing(&self) -> SimulatedDisk {
        let mut machine = self.machine.lock();
        let choices = vec![0; machine.image.unsynced().len()];
        let seed = machine.draws.next();
        machine.retire(|image| image.settle(&choices, None), seed)
    }

    /// A copy of this disk as it would be found if the power failed now and no unsynced change had
    /// reached it; or, without a `power_cut`, if only the process died. This one continues.
    #[cfg(feature = "sim")]
    pub(crate) fn as_found_after(&self, power_cut: bool) -> SimulatedDisk {
        let image = &self.machine.lock().image;
        let left = if power_cut {
            image.settle(&vec![0; image.unsynced().len()], None)
        } else {
            image.clone()
        };
        SimulatedDisk::with(left, 0)
    }

    /// Kills the process: the disk and the kernel's cache stay as they are.
    pub(crate) fn kill(&self) -> SimulatedDisk {
        let mut machine = self.machine.lock();
        let seed = machine.draws.next();
        let (room, read_only) = (machine.room, machine.read_only);
        let disk = machine.retire(DiskImage::clone, seed);
        {
            let mut next = disk.machine.lock();
            (next.room, next.read_only) = (room, read_only);
        }
        disk
    }

    /// Plans a fault. Several can wait at the same time.
    pub(crate) fn plan(&self, fault: CallFault) {
        self.machine.lock().faults.push(fault);
    }

    /// Cancels the planned faults of calls of this kind.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn spare(&self, call: CallKind) {
        self.machine.lock().faults.retain(|fault| fault.on != call);
    }

    /// Whether a planned fault has occurred.
    pub(crate) fn has_failed(&self) -> bool {
        self.machine.lock().failed
    }

    /// Whether the file system is read-only until the next boot.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_read_only(&self) -> bool {
        self.machine.lock().read_only
    }

    /// The number of calls of this kind.
    pub(crate) fn count(&self, call: CallKind) -> u64 {
        self.machine.lock().counts[call as usize]
    }

    /// How many bytes were read since this was last asked.
    #[cfg(feature = "sim")]
    pub(crate) fn take_bytes_read(&self) -> u64 {
        std::mem::take(&mut self.machine.lock().bytes_read)
    }

    /// Limits the bytes of all files, in blocks of 4096. `None`: no limit.
    pub(crate) fn set_room(&self, room: Option<u64>) {
        self.machine.lock().room = room;
    }

    /// While `poor`, the process cannot open or map files.
    #[cfg(feature = "sim")]
    pub(crate) fn set_poor(&self, poor: bool) {
        self.machine.lock().poor = poor;
    }

    /// The bytes in use.
    pub(crate) fn taken(&self) -> u64 {
        self.machine.lock().image.taken()
    }

    /// Drops from the cache what is not waiting to be written.
    pub(crate) fn evict(&self) {
        let mut machine = self.machine.lock();
        machine.image.evict();
    }

    /// Flips a bit of an existing file, counted from its beginning.
    pub(crate) fn flip(&self, name: &str, bit: u64) {
        let mut machine = self.machine.lock();
        let file = machine.image.find(name).expect("only a file that is there has bits");
        machine.image.flip(file, bit);
    }

    /// The length of an existing file.
    pub(crate) fn bytes_of(&self, name: &str) -> u64 {
        let machine = self.machine.lock();
        let file = machine.image.find(name).expect("only a file that is there has a length");
        machine.image.node(file).live.bytes
    }

    /// From now on, records the disk before every call that changes it.
    #[cfg(test)]
    pub(crate) fn trace(&self) {
        self.machine.lock().trace = Some(Vec::new());
    }

    /// The number of calls that changed the disk, or tried to.
    #[cfg(test)]
    pub(crate) fn changes(&self) -> usize {
        self.machine.lock().changes
    }

    /// What was recorded so far, and the disk as it is now at the end.
    #[cfg(test)]
    pub(crate) fn take_trace(&self) -> (Vec<CrashState>, DiskImage) {
        let mut machine = self.machine.lock();
        (machine.trace.take().unwrap_or_default(), machine.image.clone())
    }

    /// The contents of the disk.
    pub(crate) fn image(&self) -> DiskImage {
        self.machine.lock().image.clone()
    }

    fn file(&self, machine: &DiskState, file: FileId) -> SimulatedFile {
        SimulatedFile { disk: self.clone(), file, _open: machine.image.node(file).open.clone() }
    }
}

impl DiskState {
    /// Ends this machine; what `left` makes of its image goes into a new one.
    fn retire(&mut self, left: impl FnOnce(&DiskImage) -> DiskImage, seed: u64) -> SimulatedDisk {
        self.dead = true;
        SimulatedDisk::with(left(&self.image), seed)
    }

    /// Every call begins here: it is counted, recorded, and fails if planned. Returns the rest of
    /// the planned failure.
    fn begin(&mut self, call: CallKind) -> io::Result<Option<CallFailure>> {
        if self.dead && call.changes() {
            return Err(io::Error::other("this machine was switched off"));
        }
        self.counts[call as usize] += 1;
        if call.changes() {
            #[cfg(test)]
            if let Some(trace) = &mut self.trace {
                trace.push(CrashState {
                    number: self.changes,
                    before: call,
                    image: self.image.clone(),
                });
            }
            self.changes += 1;
            if self.read_only {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
        }
        match self.failure(call) {
            Some(CallFailure::Error(kind)) => Err(kind.into()),
            #[cfg(test)]
            Some(CallFailure::Panic) => panic!("the process ends here, as planned"),
            None if self.poor
                && matches!(
                    call,
                    CallKind::List | CallKind::Create | CallKind::Open | CallKind::Map
                ) =>
            {
                Err(io::ErrorKind::OutOfMemory.into())
            }
            failure => Ok(failure),
        }
    }

    fn failure(&mut self, call: CallKind) -> Option<CallFailure> {
        let mut failure = None;
        for fault in self.faults.iter_mut().filter(|fault| fault.on == call) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                failure = failure.or(Some(fault.then));
            }
        }
        self.failed |= failure.is_some();
        failure
    }

    fn find(&self, name: &str) -> io::Result<FileId> {
        self.image.find(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// How far `file` may grow, if it is to grow up to `end`.
    fn reach(&self, file: FileId, end: u64) -> u64 {
        let allocated = self.image.node(file).allocated;
        let free = self.room.map_or(u64::MAX, |room| room.saturating_sub(self.image.taken()));
        end.min(allocated.saturating_add(free / BLOCK_BYTES * BLOCK_BYTES))
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.machine.lock();
        f.debug_struct("SimulatedDisk")
            .field("changes", &machine.changes)
            .field("names", &machine.image.names().collect::<Vec<_>>())
            .finish()
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;
    type Lock = SimulatedLock;

    fn attach(&self, _may_make: bool) -> Result<(), StorageError> {
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("(simulated)").join(name)
    }

    fn lock(&self) -> io::Result<Option<SimulatedLock>> {
        let mut machine = self.machine.lock();
        if machine.dead {
            return Err(io::Error::other("this machine was switched off"));
        }
        let free = !std::mem::replace(&mut machine.locked, true);
        Ok(free.then(|| SimulatedLock { disk: self.clone() }))
    }

    fn lock_file(&self, _lock: &mut SimulatedLock, _file: &Arc<SimulatedFile>) -> io::Result<bool> {
        Ok(true)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut machine = self.machine.lock();
        machine.begin(CallKind::List)?;
        Ok(machine.image.names().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimulatedFile> {
        let mut machine = self.machine.lock();
        machine.begin(CallKind::Create)?;
        if machine.image.find(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = machine.image.create(name);
        Ok(self.file(&machine, file))
    }

    fn open(&self, name: &str) -> io::Result<SimulatedFile> {
        let mut machine = self.machine.lock();
        machine.begin(CallKind::Open)?;
        let file = machine.find(name)?;
        Ok(self.file(&machine, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.begin(CallKind::Rename)?;
        let file = machine.find(from)?;
        machine.image.rename(file, Some(to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.begin(CallKind::Remove)?;
        let file = machine.find(name)?;
        machine.image.rename(file, None);
        Ok(())
    }

    fn holds(&self, name: &str, file: &SimulatedFile) -> io::Result<bool> {
        Ok(self.machine.lock().image.find(name) == Some(file.file))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let done = machine.begin(CallKind::SyncDir);
        let DiskState { image, draws, dead: false, read_only, .. } = &mut *machine else {
            return done.map(|_| ());
        };
        match done {
            Ok(_) => image.sync_names(),
            Err(_) => {
                image.forget_names(draws);
                *read_only = true;
            }
        }
        done.map(|_| ())
    }

    fn usage(&self) -> io::Result<DiskUse> {
        let machine = self.machine.lock();
        let used = machine.image.taken();
        let room = machine.room.unwrap_or(u64::MAX / 2);
        Ok(DiskUse::new(used, room.saturating_sub(used)))
    }

    fn random_id(&self) -> u128 {
        let draws = &mut self.machine.lock().draws;
        u128::from(draws.next()) << 64 | u128::from(draws.next())
    }
}

/// An open file of a [`SimulatedDisk`].
pub(crate) struct SimulatedFile {
    disk: SimulatedDisk,
    file: FileId,
    _open: Arc<()>,
}

impl DiskFile for SimulatedFile {
    type Map = SimulatedMap;

    fn size(&self) -> io::Result<u64> {
        let mut machine = self.disk.machine.lock();
        machine.begin(CallKind::Size)?;
        Ok(machine.image.node(self.file).live.bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut machine = self.disk.machine.lock();
        let count = match machine.begin(CallKind::Read)? {
            Some(_) => buffer.len().div_ceil(2),
            None => buffer.len(),
        };
        machine.bytes_read += count as u64;
        Ok(machine.image.node(self.file).live.read(&mut buffer[..count], offset))
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut machine = self.disk.machine.lock();
        let failure = machine.begin(CallKind::Write)?;
        let mut data = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| data.extend_from_slice(part));
        if let Some(CallFailure::Short) = failure {
            data.truncate(data.len().div_ceil(2));
        }
        let offset_written = match failure {
            #[cfg(test)]
            Some(CallFailure::Astray(by)) => offset + by,
            _ => offset,
        };
        let reach = machine.reach(self.file, offset_written + data.len() as u64);
        data.truncate(reach.saturating_sub(offset_written) as usize);
        if data.is_empty() && parts.iter().any(|part| !part.is_empty()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        machine.image.node_mut(self.file).write(&data, offset_written);
        Ok(data.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut machine = self.disk.machine.lock();
        machine.begin(CallKind::Allocate)?;
        let reach = machine.reach(self.file, bytes);
        let node = machine.image.node_mut(self.file);
        if reach < bytes {
            // ext4 keeps the blocks found so far, but does not extend the file.
            node.allocated = node.allocated.max(reach);
            return Err(io::ErrorKind::StorageFull.into());
        }
        node.set_length(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut machine = self.disk.machine.lock();
        let done = machine.begin(CallKind::Sync);
        let DiskState { image, draws, dead: false, .. } = &mut *machine else {
            return done.map(|_| ());
        };
        if image.node(self.file).is_dirty() {
            match done {
                Ok(_) => image.node_mut(self.file).sync(),
                Err(_) => image.node_mut(self.file).forget(draws),
            }
        }
        done.map(|_| ())
    }

    /// A crash may still lose what was only begun.
    fn begin_writing(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<SimulatedMap> {
        let mut machine = self.disk.machine.lock();
        machine.begin(CallKind::Map)?;
        let bytes = machine.image.node(self.file).live.bytes;
        Ok(SimulatedMap { file: self.disk.file(&machine, self.file), bytes, view: Arc::default() })
    }
}

/// A file as readers see it. It stays readable after the machine died, as it was then.
pub(crate) struct SimulatedMap {
    file: SimulatedFile,
    bytes: u64,
    view: Arc<()>,
}

impl DiskMap for SimulatedMap {
    fn slice(&self, offset: u64, len: u64) -> Option<Bytes> {
        offset.checked_add(len).filter(|&end| end <= self.bytes)?;
        let mut bytes = vec![0; len as usize];
        let mut machine = self.file.disk.machine.lock();
        machine.bytes_read += len;
        machine.image.node(self.file.file).live.read(&mut bytes, offset);
        Some(Bytes::from(bytes))
    }

    /// Slices are copies.
    fn map_refs(&self) -> MapRefs {
        MapRefs::of(Arc::downgrade(&self.view))
    }
}

/// The lock on the directory of a [`SimulatedDisk`].
pub(crate) struct SimulatedLock {
    disk: SimulatedDisk,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.disk.machine.lock().locked = false;
    }
}

#[cfg(test)]
mod tests;
