//! Segments made ahead: full length, zeros really written, head in place and synced. Taking one is a rename.
//!
//! A file bears the name of a segment only after all this is durable, so a segment whose head is not intact is damaged, never new.

use std::io::IoSlice;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::format::{self, RECORDS_AT};
use super::segment::{MapOf, write_all, write_zeros};
use super::sync::Shared;
use super::{SegmentOptions, failed};
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::storage::{Chore, StorageError};

/// How the names of spares end. Recovery removes all of them: one that was taken just before a crash may hold records.
pub(super) const SPARE_SUFFIX: &str = ".spare";

/// How much of a spare is written before it is synced.
const ZEROS_A_SYNC: u64 = 4 << 20;

/// A segment that nobody uses yet.
pub(super) struct Spare<D: Disk> {
    pub(super) name: String,
    pub(super) file: Arc<D::File>,
    pub(super) map: MapOf<D>,
    pub(super) bytes: u64,
}

/// The one segment that is kept ready.
pub(super) struct Spares<D: Disk> {
    ready: Mutex<Option<Spare<D>>>,
    being_made: AtomicBool,
    /// The last attempt failed. Not tried again before something has changed: a full disk must not keep a thread busy.
    gave_up: AtomicBool,
    named: AtomicU64,
}

impl<D: Disk> Default for Spares<D> {
    fn default() -> Self {
        Spares { ready: Mutex::new(None), being_made: AtomicBool::new(false), gave_up: AtomicBool::new(false), named: AtomicU64::new(0) }
    }
}

impl<D: Disk> Spares<D> {
    /// The spare, if it is ready and large enough. Otherwise it stays.
    pub(super) fn take(&self, bytes: u64) -> Option<Spare<D>> {
        self.gave_up.store(false, Ordering::Relaxed);
        let mut ready = self.ready.lock();
        ready.take_if(|spare| spare.bytes >= bytes)
    }

    /// Puts one back that was not used after all.
    pub(super) fn put(&self, spare: Spare<D>) {
        *self.ready.lock() = Some(spare);
    }

    /// Room was made on the disk.
    pub(super) fn try_again(&self) {
        self.gave_up.store(false, Ordering::Relaxed);
    }

    fn name(&self, incarnation: u64) -> String {
        format!("{incarnation:016x}-{:016x}{SPARE_SUFFIX}", self.named.fetch_add(1, Ordering::Relaxed))
    }
}

/// The chore of making a spare, unless one is ready or being made.
pub(super) fn chore<D: Disk>(shared: &Arc<Shared<D>>, incarnation: u64, options: &SegmentOptions) -> Option<Chore> {
    let spares = &shared.spares;
    if spares.gave_up.load(Ordering::Relaxed) || spares.ready.lock().is_some() || spares.being_made.swap(true, Ordering::AcqRel) {
        return None;
    }
    let making = Making(shared.clone());
    let SegmentOptions { segment_bytes, zeroed, .. } = *options;
    Some(Box::new(move || {
        let shared = &making.0;
        match make(shared, incarnation, segment_bytes, zeroed) {
            Ok(spare) => shared.spares.put(spare),
            Err(error) => {
                log::warn!("no segment could be made ready: {error}");
                shared.spares.gave_up.store(true, Ordering::Relaxed);
            }
        }
    }))
}

/// Held while a spare is being made. Given back also if the chore is dropped without having run.
struct Making<D: Disk>(Arc<Shared<D>>);

impl<D: Disk> Drop for Making<D> {
    fn drop(&mut self) {
        self.0.spares.being_made.store(false, Ordering::Release);
    }
}

/// Makes a spare of `bytes`. If `zeroed`, its blocks are written with zeros, which doubles the speed of later syncs.
pub(super) fn make<D: Disk>(shared: &Shared<D>, incarnation: u64, bytes: u64, zeroed: bool) -> Result<Spare<D>, StorageError> {
    let disk = &*shared.disk;
    let name = shared.spares.name(incarnation);
    let file = disk.create(&name).map_err(|error| failed(disk, "create", &name, error))?;
    let fill = || {
        file.allocate(bytes)?;
        if zeroed {
            // Little by little, so that the syncs of others need not wait for all of it.
            for from in (RECORDS_AT..bytes).step_by(ZEROS_A_SYNC as usize) {
                write_zeros(&file, from..bytes.min(from + ZEROS_A_SYNC))?;
                file.sync_data()?;
            }
        }
        write_all(&file, &mut [IoSlice::new(&format::segment_head(shared.directory))], 0)?;
        if !planted!("a new segment is not synced") {
            file.sync_data()?;
        }
        file.map()
    };
    match fill() {
        Ok(map) => Ok(Spare { name, file: Arc::new(file), map, bytes }),
        Err(error) => {
            // Gives back what was allocated before the disk was full. If even this fails, the next opening removes the file.
            if let Err(error) = disk.remove(&name) {
                log::warn!("could not remove {}: {error}", disk.path(&name).display());
            }
            Err(failed(disk, "make ready", &name, error))
        }
    }
}
