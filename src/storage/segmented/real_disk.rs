//! The disk of the operating system.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::Directory;
use super::directory_lock::DirectoryLock;
use super::file_io;
use super::fs::{Disk, DiskFile};
use super::mmap::FileMap;
use crate::primitives::OnceLock;
use crate::storage::StorageError;

/// A directory of the operating system.
#[derive(Debug)]
pub(crate) struct RealDisk {
    /// The name that the host gave. Resolved once.
    name: PathBuf,
    directory: OnceLock<Arc<Directory>>,
}

impl RealDisk {
    pub(super) fn new(name: PathBuf) -> RealDisk {
        RealDisk { name, directory: OnceLock::new() }
    }

    fn directory(&self) -> io::Result<&Arc<Directory>> {
        self.directory.get().ok_or_else(|| io::Error::other("the directory has not been opened"))
    }
}

impl Disk for RealDisk {
    type File = File;
    type Lock = DirectoryLock;

    fn attach(&self, may_create: bool) -> Result<(), StorageError> {
        if self.directory.get().is_none() {
            let directory = match Directory::open(&self.name)? {
                Some(directory) => directory,
                None if may_create => Directory::create_dir(&self.name)?,
                None => return Err(StorageError::NoLog { path: self.name.clone() }),
            };
            let _ = self.directory.set(Arc::new(directory));
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        match self.directory.get() {
            Some(directory) => directory.path(name),
            None if name.is_empty() => self.name.clone(),
            None => self.name.join(name),
        }
    }

    fn lock(&self) -> io::Result<Option<DirectoryLock>> {
        DirectoryLock::take(self.directory()?, false)
    }

    fn lock_file(&self, lock: &mut DirectoryLock, file: &Arc<File>) -> io::Result<bool> {
        lock.take_file(file)
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
