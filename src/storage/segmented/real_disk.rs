//! The disk of the operating system.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::directory::Directory;
use super::directory_lock::{DirectoryLock, HostLock, LogLock};
use super::fs::{Disk, DiskFile};
use super::mmap::FileMap;
use super::{file_io, host_place};
use crate::entry::is_group_name;
use crate::primitives::OnceLock;
use crate::storage::{DiskUse, StorageError};

/// A directory of the operating system.
#[derive(Debug)]
pub(crate) struct RealDisk {
    place: Place,
    directory: OnceLock<Arc<Directory>>,
}

/// Where a directory is found.
#[derive(Debug)]
enum Place {
    /// By the name that the host gave. Resolved once.
    Named(PathBuf),
    /// The same, for a log: then it must not be the directory of a host, or one in it.
    LoneLog(PathBuf),
    /// In the directory of all groups of a host. A reader does not keep that locked.
    Group { groups: Arc<Directory>, lock: Weak<HostLock>, group: String },
}

impl RealDisk {
    pub(super) fn new(name: PathBuf) -> RealDisk {
        RealDisk { place: Place::Named(name), directory: OnceLock::new() }
    }

    /// The directory of a log that belongs to no host.
    pub(super) fn of_lone_log(name: PathBuf) -> RealDisk {
        RealDisk { place: Place::LoneLog(name), directory: OnceLock::new() }
    }

    /// The directory of a group, in `groups`.
    pub(super) fn of_group(groups: &Arc<Directory>, lock: &Arc<HostLock>, group: &str) -> RealDisk {
        let (groups, lock, group) = (groups.clone(), Arc::downgrade(lock), group.to_owned());
        RealDisk { place: Place::Group { groups, lock, group }, directory: OnceLock::new() }
    }

    /// The directory, as it is found now.
    fn find(&self, may_create: bool) -> Result<Directory, StorageError> {
        let missing = || StorageError::NoLog { path: self.path("") };
        match &self.place {
            Place::Named(name) | Place::LoneLog(name) => match Directory::open(name)? {
                Some(directory) => Ok(directory),
                None if may_create => Directory::create_dir(name),
                None => Err(missing()),
            },
            Place::Group { group, .. } if !is_group_name(group) => {
                Err(StorageError::InvalidState(format!("{group:?} is no name of a group")))
            }
            Place::Group { groups, group, .. } => match groups.open_in(group)? {
                Some(directory) => directory,
                None if may_create => groups.create_in(group)?,
                None => return Err(missing()),
            }
            .close_in(groups, group),
        }
    }

    pub(super) fn directory(&self) -> io::Result<&Arc<Directory>> {
        self.directory.get().ok_or_else(|| io::Error::other("the directory has not been opened"))
    }
}

impl Disk for RealDisk {
    type File = File;
    type Lock = LogLock;

    fn attach(&self, may_create: bool) -> Result<(), StorageError> {
        if self.directory.get().is_none() {
            if let Place::LoneLog(name) = &self.place {
                host_place::refuse_if_of_host(name)?;
            }
            let directory = self.find(may_create)?;
            let _ = self.directory.set(Arc::new(directory));
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        if let Some(directory) = self.directory.get() {
            return directory.path(name);
        }
        let directory = match &self.place {
            Place::Named(name) | Place::LoneLog(name) => name.clone(),
            Place::Group { groups, group, .. } => groups.path(group),
        };
        if name.is_empty() { directory } else { directory.join(name) }
    }

    fn lock(&self) -> io::Result<Option<LogLock>> {
        match &self.place {
            Place::Group { lock, group, .. } => {
                let closed = || io::Error::other("the host has closed its directory");
                let taken = lock.upgrade().ok_or_else(closed)?.take(group);
                Ok(taken.map(|lock| LogLock::Group { _lock: lock }))
            }
            _ => Ok(DirectoryLock::take(self.directory()?, false)?.map(LogLock::Directory)),
        }
    }

    fn lock_file(&self, lock: &mut LogLock, file: &Arc<File>) -> io::Result<bool> {
        match lock {
            LogLock::Directory(lock) => lock.take_file(file),
            LogLock::Group { .. } => Ok(true),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.directory()?.list()
    }

    fn create(&self, name: &str) -> io::Result<File> {
        self.directory()?.create_file(name)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let file = self.directory()?.open_file(name)?;
        refuse_if_longer(file.metadata()?.len(), file_bytes_max())?;
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory()?.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory()?.remove(name)
    }

    fn holds(&self, name: &str, file: &File) -> io::Result<bool> {
        self.directory()?.holds(name, file)
    }

    fn link(&self, name: &str, to: &Path) -> io::Result<()> {
        self.directory()?.link(name, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory()?.sync()
    }

    fn file_bytes_max(&self) -> u64 {
        file_bytes_max()
    }

    fn usage(&self) -> io::Result<DiskUse> {
        self.directory()?.usage()
    }

    fn random_id(&self) -> u128 {
        // RandomState is seeded by the operating system; two of them differ.
        let half = || u128::from(RandomState::new().hash_one(std::process::id()));
        half() << 64 | half()
    }
}

/// Refuses files longer than the limit of the process (`ulimit -f`). A write beyond it would not
/// only fail: by default it ends the process with a signal.
pub(super) fn refuse_if_longer(bytes: u64, limit: u64) -> io::Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    let text = format!(
        "a file of {bytes} bytes, but the process may write none beyond {limit} (RLIMIT_FSIZE): \
         raise that limit, or lower Builder::segment_bytes"
    );
    Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
}

#[cfg(target_os = "linux")]
fn file_bytes_max() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX)
}

/// Elsewhere the limit is not queried.
#[cfg(not(target_os = "linux"))]
fn file_bytes_max() -> u64 {
    u64::MAX
}

impl DiskFile for File {
    type Map = FileMap;

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, buffer, offset)
    }

    #[cfg(target_os = "linux")]
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        // Checked before each write, for the limit may have been lowered: a write across it is
        // partial, and one beyond it raises a signal that ends the process unless the host handles
        // it.
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        refuse_if_longer(offset + bytes, file_bytes_max())?;
        Ok(rustix::io::pwritev(self, parts, offset)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let Some(part) = parts.iter().find(|part| !part.is_empty()) else { return Ok(0) };
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::write_at(self, part, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_write(self, part, offset);
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        refuse_if_longer(bytes, file_bytes_max())?;
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{FallocateFlags, fallocate};
            use rustix::io::{Errno, retry_on_intr};
            // It takes long enough to be interrupted by signals: those of a profiler, for one.
            match retry_on_intr(|| fallocate(self, FallocateFlags::empty(), 0, bytes)) {
                // Not every file system supports it, nor does every sandbox allow it.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                done => return Ok(done?),
            }
        }
        file_io::write_zeros(self, 0..bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    /// `DONTNEED` makes Linux start writing the dirty pages of the range, and drop the clean ones,
    /// of which there are none yet.
    #[cfg(target_os = "linux")]
    fn begin_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fadvise(
            self,
            offset,
            std::num::NonZeroU64::new(bytes),
            rustix::fs::Advice::DontNeed,
        )?)
    }

    #[cfg(unix)]
    fn is_linked(&self) -> io::Result<bool> {
        Ok(std::os::unix::fs::MetadataExt::nlink(&self.metadata()?) > 1)
    }

    fn map(&self) -> io::Result<FileMap> {
        FileMap::new(self)
    }
}
