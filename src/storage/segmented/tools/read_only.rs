//! A directory that is looked at and never changed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::super::file_io::read_exact;
use super::super::fs::{Claims, Disk, DiskFile, DiskMap};

/// Files are read with calls, never mapped: a disk that fails then gives an error and not a signal, and memory is bounded.
#[derive(Debug)]
pub(super) struct ReadOnlyDisk {
    dir: PathBuf,
}

impl ReadOnlyDisk {
    pub(super) fn new(dir: &Path) -> ReadOnlyDisk {
        ReadOnlyDisk { dir: dir.to_path_buf() }
    }

    fn look(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(target_os = "linux")]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        options.open(self.path(name))
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnlyDisk {
    type File = ReadOnlyFile;
    /// A copy of a directory need not have the file that is locked.
    type Lock = Option<File>;

    fn make(&self) -> io::Result<()> {
        refused()
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.dir.clone() } else { self.dir.join(name) }
    }

    /// Keeps out whoever wants to write, not others who look.
    fn lock(&self, name: &str) -> io::Result<Option<Option<File>>> {
        let file = match self.look(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(None)),
            file => file?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Some(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.dir)?.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
    }

    fn create(&self, _name: &str) -> io::Result<ReadOnlyFile> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<ReadOnlyFile> {
        self.look(name).map(|file| ReadOnlyFile(Arc::new(file)))
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn link(&self, name: &str, to: &Path) -> io::Result<()> {
        std::fs::hard_link(self.path(name), to.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn draw(&self) -> u128 {
        0 // only asked for a new directory, and none is made here
    }
}

pub(super) struct ReadOnlyFile(Arc<File>);

impl DiskFile for ReadOnlyFile {
    type Map = ReadOnlyView;

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        DiskFile::read_at(&*self.0, buffer, offset)
    }

    /// Opening writes nothing but what it has just read, to the place where it read it. Here it may as well stay as it is.
    fn write_at(&self, parts: &[IoSlice<'_>], _offset: u64) -> io::Result<usize> {
        Ok(parts.iter().map(|part| part.len()).sum())
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        refused()
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<ReadOnlyView> {
        Ok(ReadOnlyView { bytes: self.size()?, file: self.0.clone() })
    }
}

/// Looks like a map; reads when it is asked.
pub(super) struct ReadOnlyView {
    file: Arc<File>,
    bytes: u64,
}

impl DiskMap for ReadOnlyView {
    /// `None` also if the disk cannot give the bytes: damage all the same.
    fn slice(&self, offset: u64, len: u64) -> Option<Bytes> {
        offset.checked_add(len).filter(|&end| end <= self.bytes)?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        read_exact(&*self.file, &mut bytes, offset).ok()?;
        Some(Bytes::from(bytes))
    }

    /// Slices are copies.
    fn claims(&self) -> Claims {
        Claims::of(Arc::downgrade(&self.file))
    }
}
