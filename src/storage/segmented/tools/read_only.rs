//! A directory that is read and never changed.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::super::directory::Directory;
use super::super::directory_lock::DirectoryLock;
use super::super::error::no_directory;
use super::super::file_io::read_exact;
use super::super::fs::{Disk, DiskFile, DiskMap, MapRefs};
use super::super::host_place;
use crate::storage::StorageError;

/// Files are read with system calls, never mapped: a failing disk then gives an error and not a
/// signal, and memory is bounded.
#[derive(Debug)]
pub(super) struct ReadOnlyDisk {
    directory: Arc<Directory>,
}

impl ReadOnlyDisk {
    /// Finds the directory that has this name now.
    pub(super) fn open(name: &Path) -> Result<ReadOnlyDisk, StorageError> {
        let found = Directory::open(name)?.ok_or_else(|| {
            no_directory(name, io::Error::new(io::ErrorKind::NotFound, "it does not exist"))
        })?;
        Ok(ReadOnlyDisk { directory: Arc::new(found) })
    }

    /// The directory of the host, if this is that of one of its groups.
    pub(super) fn enclosing_host(&self) -> Option<Directory> {
        host_place::enclosing_host(&self.directory)
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnlyDisk {
    type File = ReadOnlyFile;
    type Lock = DirectoryLock;

    fn attach(&self, _may_make: bool) -> Result<(), StorageError> {
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path(name)
    }

    /// Excludes writers, not other readers.
    fn lock(&self) -> io::Result<Option<DirectoryLock>> {
        DirectoryLock::take(&self.directory, true)
    }

    fn lock_file(&self, lock: &mut DirectoryLock, file: &Arc<ReadOnlyFile>) -> io::Result<bool> {
        lock.take_file(&file.0)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.directory.list()
    }

    fn create(&self, _name: &str) -> io::Result<ReadOnlyFile> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<ReadOnlyFile> {
        self.directory.open_to_read(name).map(|file| ReadOnlyFile(Arc::new(file)))
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn link(&self, name: &str, to: &Path) -> io::Result<()> {
        self.directory.link(name, to)
    }

    fn holds(&self, name: &str, file: &ReadOnlyFile) -> io::Result<bool> {
        self.directory.holds(name, &file.0)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn random_id(&self) -> u128 {
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

    /// Recovery writes only what it has just read, at the same offset. Here this is skipped.
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

/// A map that reads on demand.
pub(super) struct ReadOnlyView {
    file: Arc<File>,
    bytes: u64,
}

impl DiskMap for ReadOnlyView {
    /// `None` too if the disk cannot read the bytes: corruption as well.
    fn slice(&self, offset: u64, len: u64) -> Option<Bytes> {
        offset.checked_add(len).filter(|&end| end <= self.bytes)?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        read_exact(&*self.file, &mut bytes, offset).ok()?;
        Some(Bytes::from(bytes))
    }

    /// Slices are copies.
    fn map_refs(&self) -> MapRefs {
        MapRefs::of(Arc::downgrade(&self.file))
    }
}
