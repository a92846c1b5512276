//! The file seam: the few things that the log asks of a disk, and the real one.
//!
//! Everything that the log does to files goes through [`Disk`] and [`DiskFile`], so that a simulated disk sees every call, in order, and
//! can fail, tear or forget any of them. Names are plain file names in one directory.

use std::any::Any;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Weak;

use bytes::Bytes;

use super::map::FileMap;
use crate::primitives::atomic::{Ordering, fence};

/// One directory of a disk.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// An open file.
    type File: DiskFile;
    /// Held as long as the directory is in use; dropping it lets others in.
    type Lock: Send + Sync;

    /// Makes the directory if it is missing, durably.
    fn make(&self) -> io::Result<()>;
    /// Where `name` is, for messages. The directory itself for an empty name.
    fn path(&self, name: &str) -> PathBuf;
    /// Takes the lock. `None` if somebody else holds it, in this process or another.
    fn lock(&self, name: &str) -> io::Result<Option<Self::Lock>>;
    /// The names in the directory, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new file, empty, to be read and written. Fails if the name is taken.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file to be read and written.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Gives a file a new name, in place of any that had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a name away. The bytes stay for those who have the file open or mapped.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable: what was created, renamed and removed so far.
    fn sync_dir(&self) -> io::Result<()>;
    /// A number that was never drawn before, here or elsewhere.
    fn draw(&self) -> u128;
}

/// One open file.
pub trait DiskFile: Send + Sync + 'static {
    /// A read-only view of it.
    type Map: DiskMap;

    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads into `buffer` from `offset`; returns how many bytes, 0 at the end. May read fewer than there are.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes `parts` one behind the other from `offset`; returns how many bytes were written, which may be fewer.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Makes the file `bytes` long, reading as zeros, with room for them set aside. It was empty before.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes its bytes and its length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Has the disk begin to write these bytes, so that less is left to do for whoever makes them durable. Where only that is possible, it is done.
    fn begin_writing(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        self.sync_data()
    }
    /// Maps it as long as it is now. What is written later shows in the map.
    fn map(&self) -> io::Result<Self::Map>;
}

/// A read-only view of a file.
pub trait DiskMap: Send + Sync + 'static {
    /// `len` bytes from `offset`, shared. `None` if the view does not reach so far.
    fn slice(&self, offset: u64, len: u64) -> Option<Bytes>;

    /// Shows `look` the same bytes, shared with nobody. `None` if the view does not reach so far.
    fn look<T>(&self, offset: u64, len: u64, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.slice(offset, len).map(|bytes| look(&bytes))
    }

    /// Says that these bytes will be looked at, as far as they are in the view and in memory.
    fn ask_ahead(&self, _offset: u64, _len: u64) {}

    /// Tells when this view is gone, and all slices of it.
    fn claims(&self) -> Claims;
}

/// Who has a view of a file, or a slice of the view. None can be made once all are gone.
#[derive(Debug)]
pub struct Claims(Weak<dyn Any + Send + Sync>);

impl Claims {
    /// The view and each slice of it hold `all`; nobody else does.
    pub(super) fn of<T: Send + Sync + 'static>(all: Weak<T>) -> Claims {
        Claims(all)
    }

    /// Whether nobody looks at the file any more, so that it can be used for something else. Whoever did has ended before this returns.
    pub(super) fn are_gone(&self) -> bool {
        let gone = self.0.strong_count() == 0;
        // The last owner gave up with Release. What is written from now on comes after all that he read.
        fence(Ordering::Acquire);
        gone
    }
}

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
        private().open(self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_names_in(&self.dir)
    }

    fn draw(&self) -> u128 {
        // RandomState is seeded by the operating system; two of them differ.
        let half = || u128::from(RandomState::new().hash_one(std::process::id()));
        half() << 64 | half()
    }
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
fn sync_names_in(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Elsewhere directories cannot be opened; their names are as durable as the file system makes them.
#[cfg(not(unix))]
fn sync_names_in(_dir: &Path) -> io::Result<()> {
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
        #[cfg(target_os = "linux")]
        match rustix::fs::fallocate(self, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            done => return Ok(done?),
        }
        super::segment::write_zeros(self, 0..bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    /// Linux begins to write what is dirty of a part that is said not to be read, and forgets what is clean: nothing of it yet.
    #[cfg(target_os = "linux")]
    fn begin_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fadvise(self, offset, std::num::NonZeroU64::new(bytes), rustix::fs::Advice::DontNeed)?)
    }

    fn map(&self) -> io::Result<FileMap> {
        FileMap::new(self)
    }
}
