//! The disk of the operating system.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::file_io;
use super::fs::{Disk, DiskFile};
use super::mmap::FileMap;

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    pub(super) fn new(dir: PathBuf) -> RealDisk {
        RealDisk { dir }
    }
}

impl Disk for RealDisk {
    type File = File;
    type Lock = File;

    fn make(&self) -> io::Result<()> {
        let missing: Vec<&Path> = self.dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        for dir in missing.into_iter().rev() {
            match builder.create(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => sync_names_in(dir.parent().unwrap_or(Path::new("")))?,
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.dir.clone() } else { self.dir.join(name) }
    }

    fn lock(&self, name: &str) -> io::Result<Option<File>> {
        let file = private().create(true).truncate(false).open(self.path(name))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is none of ours.
        std::fs::read_dir(&self.dir)?.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
    }

    fn create(&self, name: &str) -> io::Result<File> {
        private().create_new(true).open(self.path(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let file = private().open(self.path(name))?;
        refuse_if_longer(file.metadata()?.len(), file_bytes_max())?;
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn link(&self, name: &str, to: &Path) -> io::Result<()> {
        std::fs::hard_link(self.path(name), to.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_names_in(&self.dir)
    }

    fn file_bytes_max(&self) -> u64 {
        file_bytes_max()
    }

    fn draw(&self) -> u128 {
        // RandomState is seeded by the operating system; two of them differ.
        let half = || u128::from(RandomState::new().hash_one(std::process::id()));
        half() << 64 | half()
    }
}

/// Refuses files beyond the limit that the process has for their length (`ulimit -f`). A write behind
/// it would not only fail: by default it ends the process with a signal.
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

/// Elsewhere the limit is not asked for.
#[cfg(not(target_os = "linux"))]
fn file_bytes_max() -> u64 {
    u64::MAX
}

/// Read and write, for the owner only, never through a symbolic link.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    #[cfg(target_os = "linux")]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    options
}

#[cfg(unix)]
pub(super) fn sync_names_in(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Elsewhere directories cannot be opened; their names are as durable as the file system makes them.
#[cfg(not(unix))]
pub(super) fn sync_names_in(_dir: &Path) -> io::Result<()> {
    Ok(())
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
            // It takes long enough for signals to come between: those of a profiler, for one.
            match retry_on_intr(|| fallocate(self, FallocateFlags::empty(), 0, bytes)) {
                // Not every file system has it, nor does every sandbox let it through.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                done => return Ok(done?),
            }
        }
        file_io::write_zeros(self, 0..bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    /// Linux begins to write what is dirty of a part that is said not to be read, and forgets what is clean: nothing of it yet.
    #[cfg(target_os = "linux")]
    fn begin_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fadvise(self, offset, std::num::NonZeroU64::new(bytes), rustix::fs::Advice::DontNeed)?)
    }

    #[cfg(unix)]
    fn is_linked(&self) -> io::Result<bool> {
        Ok(std::os::unix::fs::MetadataExt::nlink(&self.metadata()?) > 1)
    }

    fn map(&self) -> io::Result<FileMap> {
        FileMap::new(self)
    }
}
