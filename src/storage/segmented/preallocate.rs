//! Segments made ahead: of full length, with their blocks allocated and a synced header. To
//! activate one is a rename.
//!
//! A file gets the name of a segment only after all this is durable, so a segment with a bad header
//! is corrupt, never new.
//!
//! A spare comes from one of two sources. Both keep the allocation of blocks, which doubles the
//! time of a sync, out of the syncs of the log:
//!
//! * A new file is zero-filled little by little, in step with the filling of the active segment, so
//!   that it is ready in time and no sync of the log waits for many zeros. If so much is written
//!   between two syncs that the disk itself is the limit, zeros would only be more to write, and
//!   none are.
//! * A purged segment without readers is recycled as it is. Its records and their checksums are
//!   bound to another segment id: none is ever taken for a record of the new segment.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use super::error::not_written;
use super::file_io::{write_all, write_zeros, zeros_end};
use super::format::{self, PAGE_BYTES, RECORDS_AT};
use super::fs::{Disk, DiskFile};
use super::log_shared::LogShared;
use super::segment::Segment;
use super::spare::{SPARES_MAX, Spare, SpareRequest};
use crate::log_prefix::log_prefix;
use crate::primitives::atomic::Ordering;
use crate::primitives::thread;
use crate::storage::{BackgroundTask, StorageError};

/// The next background task towards the spare that `request` describes: to create it, or to write
/// more of its zeros, or to remove one that is too short. `None` if it is ready, or a task is
/// running.
pub(super) fn next_task<D: Disk>(
    shared: &Arc<LogShared<D>>,
    request: SpareRequest,
) -> Option<BackgroundTask> {
    let spares = &shared.spares;
    // Only a running task holds the lock for long.
    if spares.backed_off.load(Ordering::Relaxed)
        || spares.busy.load(Ordering::Acquire)
        || spares.is_ready(request)
    {
        return None;
    }
    let working = BusyGuard::begin(shared)?;
    Some(Box::new(move || {
        if let Err(error) = advance(&working.0, request) {
            log::warn!("{}no spare segment could be made ready: {error}", log_prefix());
            working.0.spares.backed_off.store(true, Ordering::Relaxed);
        }
    }))
}

/// Held while a background task works on the spares. Released too if the task is dropped without
/// having run.
struct BusyGuard<D: Disk>(Arc<LogShared<D>>);

impl<D: Disk> BusyGuard<D> {
    fn begin(shared: &Arc<LogShared<D>>) -> Option<BusyGuard<D>> {
        let begun = !shared.spares.busy.swap(true, Ordering::AcqRel);
        begun.then(|| BusyGuard(shared.clone()))
    }
}

impl<D: Disk> Drop for BusyGuard<D> {
    fn drop(&mut self) {
        self.0.spares.busy.store(false, Ordering::Release);
    }
}

/// One step towards the spare that `request` describes.
fn advance<D: Disk>(shared: &LogShared<D>, request: SpareRequest) -> Result<(), StorageError> {
    // Locked during the step: a spare must not be taken, and written to, while it is being
    // zero-filled.
    let mut ready = shared.spares.ready.lock();
    if let Some(outgrown) = ready.iter().position(|spare| spare.is_outgrown(request)) {
        let Spare { name, .. } = ready.swap_remove(outgrown);
        drop(ready);
        remove(shared, &name);
        return Ok(());
    }
    if ready.iter().any(|spare| spare.satisfies(request)) {
        return Ok(()); // a purged segment was used again since this was ordered
    }
    let Some(at) = ready.iter().position(|spare| spare.bytes == request.bytes) else {
        drop(ready);
        let spare = make(shared, request.incarnation, request.bytes, false)?;
        shared.spares.put(spare);
        return Ok(());
    };
    let spare = &mut ready[at];
    let end = zeros_end(spare.written, spare.bytes);
    let file = shared.disk.open(&spare.name);
    match file.and_then(|file| send_zeros(&file, spare.written..end, end == spare.bytes)) {
        Ok(()) => {
            spare.written = end;
            Ok(())
        }
        Err(error) => {
            let spare = ready.remove(at);
            drop(ready);
            Err(discard(shared, &spare.name, error))
        }
    }
}

/// Zero-fills a part of a spare, and starts writing it to the disk. Only the last part is waited
/// for: each wait would flush the disk, and delay the syncs of the log.
fn send_zeros(file: &impl DiskFile, range: Range<u64>, is_last: bool) -> io::Result<()> {
    write_zeros(file, range.clone())?;
    // Other threads may be waiting for the processor: a write is not preempted.
    thread::yield_now();
    if is_last {
        file.sync_data()
    } else {
        file.begin_writing(range.start, range.end - range.start)
    }
}

/// Recycles an obsolete segment as a spare, if it has no readers. False: it was not, and its file
/// is as before.
pub(super) fn recycle<D: Disk>(
    shared: &Arc<LogShared<D>>,
    request: SpareRequest,
    segment: Arc<Segment<D>>,
) -> bool {
    if shared.spares.ready.lock().len() >= SPARES_MAX {
        return false;
    }
    let name = segment.name.clone();
    // A reader holds the segment, or a slice of its map; and the log does not lead to it any more.
    let unread = Arc::into_inner(segment).is_some_and(Segment::try_release);
    let fit = |file: D::File| is_fit(&file, request).map(|is_fit| is_fit.then_some(file));
    // What cannot be looked at is not used again: it may have another length, or another name.
    let Some(file) =
        unread.then(|| shared.disk.open(&name).and_then(fit)).and_then(Result::ok).flatten()
    else {
        return false;
    };
    match reuse(shared, request, &name, file) {
        Ok(spare) => shared.spares.put(spare),
        Err(error) => {
            log::warn!("{}a purged segment could not be used again: {error}", log_prefix())
        }
    }
    true
}

/// Whether a file may be overwritten. One that has another name belongs to a backup.
fn is_fit(file: &impl DiskFile, request: SpareRequest) -> io::Result<bool> {
    let is_shared = file.is_linked()?;
    Ok(!is_shared && file.size()? == request.bytes)
}

fn reuse<D: Disk>(
    shared: &LogShared<D>,
    request: SpareRequest,
    gone: &str,
    file: D::File,
) -> Result<Spare, StorageError> {
    let disk = &*shared.disk;
    let name = shared.spares.name(request.incarnation);
    disk.rename(gone, &name).map_err(|error| not_written(disk, "rename", gone, error))?;
    let ready = || {
        // The same header as before, and no seal.
        let mut page = [0; PAGE_BYTES];
        page[..format::SEGMENT_HEADER_BYTES]
            .copy_from_slice(&format::segment_header(shared.directory));
        write_all(&file, &mut [IoSlice::new(&page)], 0)?;
        file.sync_data()?;
        Ok(Spare { name: name.clone(), bytes: request.bytes, written: request.bytes })
    };
    ready().map_err(|error| discard(shared, &name, error))
}

/// Removes a spare that could not be completed, and frees its space.
fn discard<D: Disk>(shared: &LogShared<D>, name: &str, error: io::Error) -> StorageError {
    remove(shared, name);
    not_written(&*shared.disk, "make ready", name, error)
}

/// Removes a spare. If this fails, the next opening removes the file.
fn remove<D: Disk>(shared: &LogShared<D>, name: &str) {
    let disk = &*shared.disk;
    if let Err(error) = disk.remove(name) {
        log::warn!("{}could not remove {}: {error}", log_prefix(), disk.path(name).display());
    }
}

/// Creates a spare of `bytes`, zero-filled if `zero_fill`.
pub(super) fn make<D: Disk>(
    shared: &LogShared<D>,
    incarnation: u64,
    bytes: u64,
    zero_fill: bool,
) -> Result<Spare, StorageError> {
    let disk = &*shared.disk;
    let name = shared.spares.name(incarnation);
    let file = disk.create(&name).map_err(|error| not_written(disk, "create", &name, error))?;
    let fill = || {
        file.allocate(bytes)?;
        if zero_fill {
            write_zeros(&file, RECORDS_AT..bytes)?;
        }
        write_all(&file, &mut [IoSlice::new(&format::segment_header(shared.directory))], 0)?;
        file.sync_data()
    };
    match fill() {
        Ok(()) => Ok(Spare { name, bytes, written: if zero_fill { bytes } else { RECORDS_AT } }),
        Err(error) => Err(discard(shared, &name, error)),
    }
}
