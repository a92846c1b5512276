//! The file seam: the few operations that the log needs of a disk.
//!
//! Every operation on files goes through [`Disk`] and [`DiskFile`], so that a simulated disk sees
//! every call, in order, and can fail, tear or lose any of them. Names are plain file names in one
//! directory.

use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::primitives::atomic::{Ordering, fence};
use crate::storage::{DiskUse, StorageError};

/// One directory of a disk.
pub(crate) trait Disk: Send + Sync + fmt::Debug + 'static {
    /// An open file.
    type File: DiskFile;
    /// Held while the directory is in use; dropping it unlocks.
    type Lock: Send + Sync;

    /// Opens the directory by its name, and creates it durably if it is missing and `may_create`.
    /// Called once, before anything else; all later calls concern the directory that was opened,
    /// whatever has its name by then.
    fn attach(&self, may_create: bool) -> Result<(), StorageError>;
    /// The path of `name`, for messages. The directory itself for an empty name.
    fn path(&self, name: &str) -> PathBuf;
    /// Takes the lock. `None` if it is held already, in this process or another.
    fn lock(&self) -> io::Result<Option<Self::Lock>>;
    /// Extends the lock to a file. Whether that was not locked already.
    fn lock_file(&self, lock: &mut Self::Lock, file: &Arc<Self::File>) -> io::Result<bool>;
    /// The names in the directory, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates a new file for reading and writing. Fails if the name is taken.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Renames a file, replacing one that has the name `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. The bytes remain while the file is open or mapped.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Links a file, under the same name, into the directory `to`. An error changes nothing, and
    /// means that this is not possible.
    fn link(&self, _name: &str, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Whether `name` is a name of `file`. Another process may have removed it.
    fn holds(&self, name: &str, file: &Self::File) -> io::Result<bool>;
    /// Makes names durable: files created, renamed and removed so far.
    fn sync_dir(&self) -> io::Result<()>;
    /// The most bytes of a file.
    fn file_bytes_max(&self) -> u64 {
        u64::MAX
    }
    /// How full the disk is.
    fn usage(&self) -> io::Result<DiskUse> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// A new unique id.
    fn random_id(&self) -> u128;
}

/// One open file.
pub(crate) trait DiskFile: Send + Sync + 'static {
    /// A read-only map of it.
    type Map: DiskMap;

    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads into `buffer` from `offset`; returns the number of bytes, 0 at the end. May read fewer
    /// than there are.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes `parts` in sequence from `offset`; returns the number of bytes, which may be fewer.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Sets the length of a file that was empty, and allocates its blocks. It reads as zeros.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes bytes and length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Starts writing these bytes to the disk, so that less is left for the next sync. Where that
    /// is not possible, the file is synced.
    fn begin_writing(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        self.sync_data()
    }
    /// Whether it has other names too: then its bytes must not be overwritten.
    fn is_linked(&self) -> io::Result<bool> {
        Ok(false)
    }
    /// Maps its present length. Later writes show in the map.
    fn map(&self) -> io::Result<Self::Map>;
}

/// A read-only map of a file.
pub(crate) trait DiskMap: Send + Sync + 'static {
    /// `len` bytes from `offset`, reference-counted. `None` beyond the end of the map.
    fn slice(&self, offset: u64, len: u64) -> Option<Bytes>;

    /// Passes the same bytes to `read`, without a reference count. `None` beyond the end of the
    /// map.
    fn with_bytes<T>(&self, offset: u64, len: u64, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.slice(offset, len).map(|bytes| read(&bytes))
    }

    /// Hints that these bytes will be read, as far as they are in the map and in memory.
    fn prefetch(&self, _offset: u64, _len: u64) {}

    /// Tells when this map and all slices of it are released.
    fn map_refs(&self) -> MapRefs;
}

/// The references to a map of a file. Once all are released, none can be made.
#[derive(Debug)]
pub(crate) struct MapRefs(Weak<dyn Any + Send + Sync>);

impl MapRefs {
    /// The map and each slice of it hold `all`; nothing else does.
    pub(super) fn of<T: Send + Sync + 'static>(all: Weak<T>) -> MapRefs {
        MapRefs(all)
    }

    /// Whether all references are released, so that the file can be reused. All reads through them
    /// happen before this returns.
    pub(super) fn are_released(&self) -> bool {
        let gone = self.0.strong_count() == 0;
        // The last one was dropped with Release. Writes after this fence come after all its reads.
        fence(Ordering::Acquire);
        gone
    }
}

/// The map of an open file of `D`.
pub(super) type MapOf<D> = <<D as Disk>::File as DiskFile>::Map;
