//! A disk in memory that does whatever a real one may do, and some of what a broken one does: for tests and simulations.
//!
//! It keeps what readers see apart from what was synced ([`platter`](self::platter) says what a crash makes of the difference), numbers every call, and
//! can be told to misbehave:
//!
//! - [`crash`](SimulatedDisk::crash) cuts the power, [`kill`](SimulatedDisk::kill) only the process. Both give back a new disk; whoever
//!   still holds the old one sees it as it was then, and cannot change it any more.
//! - [`plan`](SimulatedDisk::plan) makes the n-th call of some kind fail, stop short or go astray. A sync that fails forgets what it should have
//!   written, as ext4 does: some of it is on the disk, and the next sync succeeds without having done anything. A sync of the directory that
//!   fails leaves the file system read-only until the next boot, as a journal that cannot be written does on ext4 and xfs.
//! - [`evict`](SimulatedDisk::evict) drops the cache, which is when readers learn what a failed sync has lost.
//! - [`set_room`](SimulatedDisk::set_room) makes it small.
//! - [`flip`](SimulatedDisk::flip) flips a bit.
//! - [`trace`](SimulatedDisk::trace) keeps the disk as it was before every call that changes it.
//!
//! The same seed and the same calls give the same disk, on any machine.

mod draws;
mod platter;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use self::platter::FileId;
use super::fs::{Claims, Disk, DiskFile, DiskMap};
use crate::primitives::Mutex;
use crate::storage::StorageError;

pub(crate) use self::draws::Draws;
pub(crate) use self::platter::{BLOCK_BYTES, Platter};

/// The kinds of calls that a disk gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
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

impl Call {
    const KINDS: usize = Call::Map as usize + 1;

    /// Whether such a call changes the disk.
    pub(crate) fn changes(self) -> bool {
        !matches!(self, Call::List | Call::Open | Call::Size | Call::Read | Call::Map)
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure {
    /// With this error.
    Error(io::ErrorKind),
    /// A write or read of which only a part is done, and reported as done.
    Short,
    /// A write that is reported as done, and was done so many bytes further on.
    #[cfg(test)]
    Astray(u64),
    /// The process ends in the middle of the call: a panic stands for it, and nothing may be written on its way up.
    #[cfg(test)]
    Panic,
}

/// A call that is to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The kind of call.
    pub(crate) on: Call,
    /// How many calls of that kind succeed before, counted from when the fault is planned.
    pub(crate) after: u64,
    /// How many fail then.
    pub(crate) times: u64,
    pub(crate) then: Failure,
}

/// The disk as it was before a call.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// How many calls that change the disk came before.
    pub(crate) number: usize,
    pub(crate) before: Call,
    pub(crate) platter: Platter,
}

/// One directory on a simulated disk. A clone is the same disk.
#[derive(Clone)]
pub(crate) struct SimulatedDisk {
    machine: Arc<Mutex<Machine>>,
}

struct Machine {
    platter: Platter,
    draws: Draws,
    faults: Vec<Fault>,
    counts: [u64; Call::KINDS],
    /// Bytes that were read, in either way.
    bytes_read: u64,
    changes: usize,
    room: Option<u64>,
    /// The process has no descriptor left.
    poor: bool,
    locked: bool,
    dead: bool,
    read_only: bool,
    failed: bool,
    #[cfg(test)]
    trace: Option<Vec<Cut>>,
}

impl SimulatedDisk {
    /// An empty disk.
    pub(crate) fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk::with(Platter::default(), seed)
    }

    /// A disk that holds what `platter` holds.
    pub(crate) fn with(platter: Platter, seed: u64) -> SimulatedDisk {
        let machine = Machine {
            platter,
            draws: Draws::new(seed),
            faults: Vec::new(),
            counts: [0; Call::KINDS],
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

    /// Cuts the power, and gives back the disk as it is found afterwards: any of the states that are legal.
    pub(crate) fn crash(&self) -> SimulatedDisk {
        let mut machine = self.machine.lock();
        let seed = machine.draws.next();
        // One state keeps nearly all, another nearly nothing; with even odds for each unit, neither would ever be seen.
        let odds = machine.draws.below(257);
        let units = machine.platter.unsynced();
        let draws = &mut machine.draws;
        let choices: Vec<u32> =
            units.iter().map(|unit| if draws.chance(odds) { 1 + draws.below(u64::from(unit.outcomes) - 1) as u32 } else { 0 }).collect();
        let mut torn = Draws::new(seed);
        machine.retire(|platter| platter.settle(&choices, Some(&mut torn)), seed)
    }

    /// Cuts the power when nothing that was unsynced has reached the disk.
    pub(crate) fn crash_keeping_nothing(&self) -> SimulatedDisk {
        let mut machine = self.machine.lock();
        let choices = vec![0; machine.platter.unsynced().len()];
        let seed = machine.draws.next();
        machine.retire(|platter| platter.settle(&choices, None), seed)
    }

    /// Another disk, as this one would be found if the power failed now and nothing unsynced had reached it; or, without a `power_cut`, if only the
    /// process died. This one goes on.
    #[cfg(feature = "sim")]
    pub(crate) fn as_found_after(&self, power_cut: bool) -> SimulatedDisk {
        let platter = &self.machine.lock().platter;
        let left = if power_cut { platter.settle(&vec![0; platter.unsynced().len()], None) } else { platter.clone() };
        SimulatedDisk::with(left, 0)
    }

    /// Kills the process: the disk and the kernel's cache stay as they are.
    pub(crate) fn kill(&self) -> SimulatedDisk {
        let mut machine = self.machine.lock();
        let seed = machine.draws.next();
        let (room, read_only) = (machine.room, machine.read_only);
        let disk = machine.retire(Platter::clone, seed);
        {
            let mut next = disk.machine.lock();
            (next.room, next.read_only) = (room, read_only);
        }
        disk
    }

    /// Plans a fault. Several can wait at the same time.
    pub(crate) fn plan(&self, fault: Fault) {
        self.machine.lock().faults.push(fault);
    }

    /// No call of this kind fails any more that was planned to.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn spare(&self, call: Call) {
        self.machine.lock().faults.retain(|fault| fault.on != call);
    }

    /// Whether a planned fault has come about.
    pub(crate) fn has_failed(&self) -> bool {
        self.machine.lock().failed
    }

    /// Whether the file system has given up until the next boot.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_read_only(&self) -> bool {
        self.machine.lock().read_only
    }

    /// How many calls of this kind there were.
    pub(crate) fn count(&self, call: Call) -> u64 {
        self.machine.lock().counts[call as usize]
    }

    /// How many bytes were read since this was last asked.
    #[cfg(feature = "sim")]
    pub(crate) fn take_bytes_read(&self) -> u64 {
        std::mem::take(&mut self.machine.lock().bytes_read)
    }

    /// Allows files to take this many bytes together, in blocks of 4096. `None`: without end.
    pub(crate) fn set_room(&self, room: Option<u64>) {
        self.machine.lock().room = room;
    }

    /// As long as it is poor, the process opens and maps no more files.
    #[cfg(feature = "sim")]
    pub(crate) fn set_poor(&self, poor: bool) {
        self.machine.lock().poor = poor;
    }

    /// How much of the room is taken.
    pub(crate) fn taken(&self) -> u64 {
        self.machine.lock().platter.taken()
    }

    /// Drops from the cache whatever does not wait to be written.
    pub(crate) fn evict(&self) {
        let mut machine = self.machine.lock();
        machine.platter.evict();
    }

    /// Flips a bit of a file that is there, counted from its beginning.
    pub(crate) fn flip(&self, name: &str, bit: u64) {
        let mut machine = self.machine.lock();
        let file = machine.platter.find(name).expect("only a file that is there has bits");
        machine.platter.flip(file, bit);
    }

    /// The length of a file that is there.
    pub(crate) fn bytes_of(&self, name: &str) -> u64 {
        let machine = self.machine.lock();
        let file = machine.platter.find(name).expect("only a file that is there has a length");
        machine.platter.node(file).live.bytes
    }

    /// Keeps the disk as it is before every call that changes it, from now on.
    #[cfg(test)]
    pub(crate) fn trace(&self) {
        self.machine.lock().trace = Some(Vec::new());
    }

    /// How many calls have changed the disk, or tried to.
    #[cfg(test)]
    pub(crate) fn changes(&self) -> usize {
        self.machine.lock().changes
    }

    /// What was traced so far, and the disk as it is now at the end.
    #[cfg(test)]
    pub(crate) fn take_trace(&self) -> (Vec<Cut>, Platter) {
        let mut machine = self.machine.lock();
        (machine.trace.take().unwrap_or_default(), machine.platter.clone())
    }

    /// All that is on the disk.
    pub(crate) fn platter(&self) -> Platter {
        self.machine.lock().platter.clone()
    }

    fn file(&self, machine: &Machine, file: FileId) -> SimulatedFile {
        SimulatedFile { disk: self.clone(), file, _open: machine.platter.node(file).open.clone() }
    }
}

impl Machine {
    /// Ends this machine; what `left` makes of its platter goes into a new one.
    fn retire(&mut self, left: impl FnOnce(&Platter) -> Platter, seed: u64) -> SimulatedDisk {
        self.dead = true;
        SimulatedDisk::with(left(&self.platter), seed)
    }

    /// Every call begins here: counted, traced, and failed if that is the plan. Gives back what else is to go wrong.
    fn begin(&mut self, call: Call) -> io::Result<Option<Failure>> {
        if self.dead && call.changes() {
            return Err(io::Error::other("this machine was switched off"));
        }
        self.counts[call as usize] += 1;
        if call.changes() {
            #[cfg(test)]
            if let Some(trace) = &mut self.trace {
                trace.push(Cut { number: self.changes, before: call, platter: self.platter.clone() });
            }
            self.changes += 1;
            if self.read_only {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
        }
        match self.failure(call) {
            Some(Failure::Error(kind)) => Err(kind.into()),
            #[cfg(test)]
            Some(Failure::Panic) => panic!("the process ends here, as planned"),
            None if self.poor && matches!(call, Call::List | Call::Create | Call::Open | Call::Map) => {
                Err(io::ErrorKind::OutOfMemory.into())
            }
            failure => Ok(failure),
        }
    }

    fn failure(&mut self, call: Call) -> Option<Failure> {
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
        self.platter.find(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// How far `file` may reach, if it shall reach up to `end`.
    fn reach(&self, file: FileId, end: u64) -> u64 {
        let allocated = self.platter.node(file).allocated;
        let free = self.room.map_or(u64::MAX, |room| room.saturating_sub(self.platter.taken()));
        end.min(allocated.saturating_add(free / BLOCK_BYTES * BLOCK_BYTES))
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.machine.lock();
        f.debug_struct("SimulatedDisk")
            .field("changes", &machine.changes)
            .field("names", &machine.platter.names().collect::<Vec<_>>())
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
        machine.begin(Call::List)?;
        Ok(machine.platter.names().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimulatedFile> {
        let mut machine = self.machine.lock();
        machine.begin(Call::Create)?;
        if machine.platter.find(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = machine.platter.create(name);
        Ok(self.file(&machine, file))
    }

    fn open(&self, name: &str) -> io::Result<SimulatedFile> {
        let mut machine = self.machine.lock();
        machine.begin(Call::Open)?;
        let file = machine.find(name)?;
        Ok(self.file(&machine, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.begin(Call::Rename)?;
        let file = machine.find(from)?;
        machine.platter.rename(file, Some(to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.begin(Call::Remove)?;
        let file = machine.find(name)?;
        machine.platter.rename(file, None);
        Ok(())
    }

    fn holds(&self, name: &str, file: &SimulatedFile) -> io::Result<bool> {
        Ok(self.machine.lock().platter.find(name) == Some(file.file))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let done = machine.begin(Call::SyncDir);
        let Machine { platter, draws, dead: false, read_only, .. } = &mut *machine else { return done.map(|_| ()) };
        match done {
            Ok(_) => platter.sync_names(),
            Err(_) => {
                platter.forget_names(draws);
                *read_only = true;
            }
        }
        done.map(|_| ())
    }

    fn draw(&self) -> u128 {
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
        machine.begin(Call::Size)?;
        Ok(machine.platter.node(self.file).live.bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut machine = self.disk.machine.lock();
        let count = match machine.begin(Call::Read)? {
            Some(_) => buffer.len().div_ceil(2),
            None => buffer.len(),
        };
        machine.bytes_read += count as u64;
        Ok(machine.platter.node(self.file).live.read(&mut buffer[..count], offset))
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut machine = self.disk.machine.lock();
        let failure = machine.begin(Call::Write)?;
        let mut data = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| data.extend_from_slice(part));
        if let Some(Failure::Short) = failure {
            data.truncate(data.len().div_ceil(2));
        }
        let offset_written = match failure {
            #[cfg(test)]
            Some(Failure::Astray(by)) => offset + by,
            _ => offset,
        };
        let reach = machine.reach(self.file, offset_written + data.len() as u64);
        data.truncate(reach.saturating_sub(offset_written) as usize);
        if data.is_empty() && parts.iter().any(|part| !part.is_empty()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        machine.platter.node_mut(self.file).write(&data, offset_written);
        Ok(data.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut machine = self.disk.machine.lock();
        machine.begin(Call::Allocate)?;
        let reach = machine.reach(self.file, bytes);
        let node = machine.platter.node_mut(self.file);
        if reach < bytes {
            // ext4 keeps what it had found so far, but does not make the file longer.
            node.allocated = node.allocated.max(reach);
            return Err(io::ErrorKind::StorageFull.into());
        }
        node.set_length(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut machine = self.disk.machine.lock();
        let done = machine.begin(Call::Sync);
        let Machine { platter, draws, dead: false, .. } = &mut *machine else { return done.map(|_| ()) };
        if platter.node(self.file).is_dirty() {
            match done {
                Ok(_) => platter.node_mut(self.file).sync(),
                Err(_) => platter.node_mut(self.file).forget(draws),
            }
        }
        done.map(|_| ())
    }

    /// Whatever is begun a crash may still take.
    fn begin_writing(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<SimulatedMap> {
        let mut machine = self.disk.machine.lock();
        machine.begin(Call::Map)?;
        let bytes = machine.platter.node(self.file).live.bytes;
        Ok(SimulatedMap { file: self.disk.file(&machine, self.file), bytes, view: Arc::default() })
    }
}

/// A file as readers see it. Goes on when the machine is dead, as it was then.
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
        machine.platter.node(self.file.file).live.read(&mut bytes, offset);
        Some(Bytes::from(bytes))
    }

    /// Slices are copies.
    fn claims(&self) -> Claims {
        Claims::of(Arc::downgrade(&self.view))
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
