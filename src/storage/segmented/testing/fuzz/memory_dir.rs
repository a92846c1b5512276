//! A directory in memory that is only read.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::storage::StorageError;
use crate::storage::segmented::fs::{Disk, DiskFile, DiskMap, MapRefs};

/// The files by their names.
#[derive(Debug, Default)]
pub(super) struct MemoryDir(pub(super) BTreeMap<String, Bytes>);

pub(super) struct ShelfFile(Bytes);

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for MemoryDir {
    type File = ShelfFile;
    type Lock = ();

    fn attach(&self, _may_make: bool) -> Result<(), StorageError> {
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }

    fn lock(&self) -> io::Result<Option<()>> {
        Ok(Some(()))
    }

    fn lock_file(&self, _lock: &mut (), _file: &Arc<ShelfFile>) -> io::Result<bool> {
        Ok(true)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn create(&self, _name: &str) -> io::Result<ShelfFile> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<ShelfFile> {
        self.0
            .get(name)
            .map(|bytes| ShelfFile(bytes.clone()))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn holds(&self, name: &str, _file: &ShelfFile) -> io::Result<bool> {
        Ok(self.0.contains_key(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn random_id(&self) -> u128 {
        4 // never asked: a shelf is no place for a new log
    }
}

impl DiskFile for ShelfFile {
    type Map = ShelfMap;

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = &self.0[self.0.len().min(offset as usize)..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, _parts: &[IoSlice<'_>], _offset: u64) -> io::Result<usize> {
        refused()
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        refused()
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<ShelfMap> {
        Ok(ShelfMap(Arc::new(self.0.clone())))
    }
}

pub(super) struct ShelfMap(Arc<Bytes>);

impl DiskMap for ShelfMap {
    fn slice(&self, offset: u64, len: u64) -> Option<Bytes> {
        let end = offset.checked_add(len).filter(|&end| end <= self.0.len() as u64)?;
        Some(self.0.slice(offset as usize..end as usize))
    }

    fn map_refs(&self) -> MapRefs {
        MapRefs::of(Arc::downgrade(&self.0))
    }
}
