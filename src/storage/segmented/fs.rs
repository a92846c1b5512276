//! The file seam: the few things that the log asks of a disk.
//!
//! Everything that the log does to files goes through [`Disk`] and [`DiskFile`], so that a
//! simulated disk sees every call, in order, and can fail, tear or forget any of them. Names are
//! plain file names in one directory.

use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::primitives::atomic::{Ordering, fence};
use crate::storage::StorageError;

/// One directory of a disk.
pub(crate) trait Disk: Send + Sync + fmt::Debug + 'static {
    /// An open file.
    type File: DiskFile;
    /// Held as long as the directory is in use; dropping it lets others in.
    type Lock: Send + Sync;

    /// Finds the directory by its name, and makes it durably if it is missing and `may_create`.
    /// Called once, before anything else; whatever is done afterwards concerns the directory that
    /// was found, and no other that may have its name by then.
    fn attach(&self, may_create: bool) -> Result<(), StorageError>;
    /// Where `name` is, for messages. The directory itself for an empty name.
    fn path(&self, name: &str) -> PathBuf;
    /// Takes the lock. `None` if somebody else holds it, in this process or another.
    fn lock(&self) -> io::Result<Option<Self::Lock>>;
    /// Has the lock extend to a file. Whether nobody else holds that.
    fn lock_file(&self, lock: &mut Self::Lock, file: &Arc<Self::File>) -> io::Result<bool>;
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
    /// Gives a file one more name, the same one, in the directory `to`. Where that is not possible
    /// it is an error, and changes nothing.
    fn link(&self, _name: &str, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Whether `name` is the name of `file`. Others may have taken it away.
    fn holds(&self, name: &str, file: &Self::File) -> io::Result<bool>;
    /// Makes names durable: what was created, renamed and removed so far.
    fn sync_dir(&self) -> io::Result<()>;
    /// How long a file may be at most.
    fn file_bytes_max(&self) -> u64 {
        u64::MAX
    }
    /// A number that was never drawn before, here or elsewhere.
    fn random_id(&self) -> u128;
}

/// One open file.
pub(crate) trait DiskFile: Send + Sync + 'static {
    /// A read-only view of it.
    type Map: DiskMap;

    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads into `buffer` from `offset`; returns how many bytes, 0 at the end. May read fewer than
    /// there are.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes `parts` one behind the other from `offset`; returns how many bytes were written,
    /// which may be fewer.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Makes the file `bytes` long, reading as zeros, with room for them set aside. It was empty
    /// before.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes its bytes and its length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Has the disk begin to write these bytes, so that less is left to do for whoever makes them
    /// durable. Where only that is possible, it is done.
    fn begin_writing(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        self.sync_data()
    }
    /// Whether it has other names as well: then its bytes are somebody else's, too.
    fn is_linked(&self) -> io::Result<bool> {
        Ok(false)
    }
    /// Maps it as long as it is now. What is written later shows in the map.
    fn map(&self) -> io::Result<Self::Map>;
}

/// A read-only view of a file.
pub(crate) trait DiskMap: Send + Sync + 'static {
    /// `len` bytes from `offset`, shared. `None` if the view does not reach so far.
    fn slice(&self, offset: u64, len: u64) -> Option<Bytes>;

    /// Shows `read` the same bytes, shared with nobody. `None` if the view does not reach so far.
    fn with_bytes<T>(&self, offset: u64, len: u64, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.slice(offset, len).map(|bytes| read(&bytes))
    }

    /// Says that these bytes will be looked at, as far as they are in the view and in memory.
    fn prefetch(&self, _offset: u64, _len: u64) {}

    /// Tells when this view is gone, and all slices of it.
    fn map_refs(&self) -> MapRefs;
}

/// Who has a view of a file, or a slice of the view. None can be made once all are gone.
#[derive(Debug)]
pub(crate) struct MapRefs(Weak<dyn Any + Send + Sync>);

impl MapRefs {
    /// The view and each slice of it hold `all`; nobody else does.
    pub(super) fn of<T: Send + Sync + 'static>(all: Weak<T>) -> MapRefs {
        MapRefs(all)
    }

    /// Whether nobody looks at the file any more, so that it can be used for something else.
    /// Whoever did has ended before this returns.
    pub(super) fn are_released(&self) -> bool {
        let gone = self.0.strong_count() == 0;
        // The last owner gave up with Release. What is written from now on comes after all that he
        // read.
        fence(Ordering::Acquire);
        gone
    }
}

/// The map of an open file of `D`.
pub(super) type MapOf<D> = <<D as Disk>::File as DiskFile>::Map;
