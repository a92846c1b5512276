//! Full segments: they are sealed, and later removed.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::error::{broken, corrupt, not_written};
use super::file_io::write_all;
use super::format::{self, INDEX_ENTRY_BYTES, IndexEntry, SEAL_AT, Seal};
use super::fs::{Disk, DiskFile};
use super::log_shared::LogShared;
use super::preallocate;
use super::segment::Segment;
use super::segment_set::SegmentSet;
use super::spare::SpareRequest;
use crate::log_prefix::log_prefix;
use crate::primitives::Mutex;
use crate::storage::{BackgroundTask, StorageError};

/// A segment to be sealed once change number `change` is durable. Not earlier: so a failure to seal
/// says nothing about its records.
pub(super) struct Unsealed<D: Disk> {
    pub(super) segment: Arc<Segment<D>>,
    pub(super) file: Arc<D::File>,
    /// Where its records end.
    pub(super) end: u64,
    pub(super) change: u64,
}

/// Files that are obsolete once change number `change` is durable: before that, a crash may bring
/// back a log that needs them.
struct ObsoleteFiles<D: Disk> {
    segments: Vec<Arc<Segment<D>>>,
    /// Other files.
    names: Vec<String>,
    change: u64,
}

/// The most full segments that are held open. At this limit an append seals them itself, if
/// background tasks have not.
const UNSEALED_MAX: usize = 7;

/// At so many full segments that are not durable yet, a sync is due: see [`Storage::is_behind`].
///
/// [`Storage::is_behind`]: crate::storage::Storage::is_behind
const UNSYNCED_MAX: usize = 4;

const _: () = assert!(UNSYNCED_MAX < UNSEALED_MAX);

/// Segments to seal, and files to remove.
pub(super) struct CleanupQueue<D: Disk> {
    unsealed: Vec<Unsealed<D>>,
    obsolete: Vec<ObsoleteFiles<D>>,
    reports: Arc<Mutex<Reports<D>>>,
    /// Held by the background task that seals a segment. There is one at a time.
    sealing: Arc<()>,
    /// What failed, and in how many calls it is retried.
    postponed: Reports<D>,
    pause: u32,
    /// What `pause` begins at: see [`SegmentOptions`](super::SegmentOptions).
    retry_calls: u32,
}

/// The results of background tasks.
struct Reports<D: Disk> {
    /// Segments that were sealed: they need no record index in memory any more.
    sealed: Vec<Seal>,
    /// Segments that could not be sealed because of a temporary error.
    unsealed: Vec<Unsealed<D>>,
    /// Files that could not be removed: on Windows, those that are open elsewhere.
    names: Vec<String>,
}

impl<D: Disk> Default for Reports<D> {
    fn default() -> Self {
        Reports { sealed: Vec::new(), unsealed: Vec::new(), names: Vec::new() }
    }
}

impl<D: Disk> CleanupQueue<D> {
    pub(super) fn new(retry_calls: u32) -> CleanupQueue<D> {
        CleanupQueue {
            unsealed: Vec::new(),
            obsolete: Vec::new(),
            reports: Arc::default(),
            sealing: Arc::default(),
            postponed: Reports::default(),
            pause: 0,
            retry_calls,
        }
    }

    pub(super) fn seal(&mut self, unsealed: Unsealed<D>) {
        self.unsealed.push(unsealed);
    }

    /// These segments are obsolete once change number `change` is durable.
    pub(super) fn retire(&mut self, segments: Vec<Arc<Segment<D>>>, change: u64) {
        if !segments.is_empty() {
            let is_kept = |unsealed: &Unsealed<D>| {
                !segments.iter().any(|segment| segment.id == unsealed.segment.id)
            };
            self.unsealed.retain(is_kept);
            self.postponed.unsealed.retain(is_kept);
            self.obsolete.push(ObsoleteFiles { segments, names: Vec::new(), change });
        }
    }

    /// Files that no log needs.
    pub(super) fn remove(&mut self, names: Vec<String>) {
        if !names.is_empty() {
            self.obsolete.push(ObsoleteFiles { segments: Vec::new(), names, change: 0 });
        }
    }

    /// The next background task, if one is due.
    pub(super) fn next_task(
        &mut self,
        shared: &Arc<LogShared<D>>,
        request: SpareRequest,
    ) -> Option<BackgroundTask> {
        let durable = shared.durable().change;
        if let Some(ready) = self.obsolete.iter().position(|obsolete| obsolete.change <= durable) {
            let (obsolete, shared) = (self.obsolete.swap_remove(ready), shared.clone());
            let reports = self.reports.clone();
            return Some(Box::new(move || {
                let stuck = delete_obsolete(&shared, request, obsolete);
                reports.lock().names.extend(stuck);
            }));
        }
        if self.is_sealing() {
            return None;
        }
        let ready = self.unsealed.iter().position(|unsealed| unsealed.change <= durable)?;
        let (unsealed, shared, reports) =
            (self.unsealed.swap_remove(ready), shared.clone(), self.reports.clone());
        let sealing = self.sealing.clone();
        Some(Box::new(move || {
            if let Err(error) = seal_and_report(&shared, unsealed, &reports) {
                log::warn!("{}could not seal a segment: {error}", log_prefix());
            }
            drop(sealing);
        }))
    }

    fn is_sealing(&self) -> bool {
        Arc::strong_count(&self.sealing) > 1
    }

    /// Whether too many full segments are not durable, if all changes up to `durable` are.
    pub(super) fn is_behind(&self, durable: u64) -> bool {
        let waiting = self.unsealed.iter().filter(|unsealed| unsealed.change > durable);
        waiting.count() >= UNSYNCED_MAX
    }

    /// Whether segments must be sealed before another one is begun.
    pub(super) fn is_at_limit(&self) -> bool {
        let held = self.unsealed.len() + self.postponed.unsealed.len();
        held + usize::from(self.is_sealing()) >= UNSEALED_MAX
    }

    /// Seals all waiting segments now. All of them are durable.
    pub(super) fn seal_all(&mut self, shared: &LogShared<D>) -> Result<(), StorageError> {
        self.unsealed.append(&mut self.postponed.unsealed);
        while let Some(unsealed) = self.unsealed.pop() {
            match seal_and_report(shared, unsealed, &self.reports) {
                // One that cannot be sealed stays unsealed, and is closed.
                Err(error) if !error.is_temporary() => {
                    log::warn!("{}could not seal a segment: {error}", log_prefix());
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// Postpones what failed, and queues again what has waited long enough.
    fn postpone(&mut self, unsealed: Vec<Unsealed<D>>, names: Vec<String>) {
        if !unsealed.is_empty() || !names.is_empty() {
            self.postponed.unsealed.extend(unsealed);
            self.postponed.names.extend(names);
            self.pause = self.retry_calls;
        } else if self.pause > 0 {
            self.pause -= 1;
            if self.pause == 0 {
                let Reports { unsealed, names, .. } = std::mem::take(&mut self.postponed);
                self.unsealed.extend(unsealed);
                self.remove(names);
            }
        }
    }

    /// The segment set in which every segment sealed since the last call reads its footer. `None`
    /// if there is none.
    pub(super) fn apply_seals(
        &mut self,
        shared: &LogShared<D>,
        live: &SegmentSet<D>,
    ) -> Option<SegmentSet<D>> {
        let Reports { sealed: seals, unsealed, names } = std::mem::take(&mut *self.reports.lock());
        self.postpone(unsealed, names);
        if seals.is_empty() {
            return None;
        }
        let mut updated = SegmentSet {
            base: live.base.clone(),
            segments: live.segments.clone(),
            gaps: Vec::new(),
        };
        for seal in seals {
            if let Some(part) =
                updated.segments.iter_mut().find(|part| part.segment.id == seal.segment)
            {
                part.segment =
                    Arc::new(part.segment.to_sealed(shared.directory, seal, &shared.maps));
            }
        }
        Some(updated)
    }
}

/// Removes files, or recycles them as spares. Returns the names of those that are still there.
fn delete_obsolete<D: Disk>(
    shared: &Arc<LogShared<D>>,
    request: SpareRequest,
    obsolete: ObsoleteFiles<D>,
) -> Vec<String> {
    let ObsoleteFiles { segments, mut names, .. } = obsolete;
    for segment in segments {
        let name = segment.name.clone();
        if !preallocate::recycle(shared, request, segment) {
            names.push(name);
        }
    }
    names.retain(|name| !is_removed(&*shared.disk, name));
    shared.spares.clear_backoff();
    names
}

/// Removes an obsolete file. Whether it is gone. If not, it only takes space: the next opening
/// finds it obsolete again.
pub(super) fn is_removed<D: Disk>(disk: &D, name: &str) -> bool {
    match disk.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("{}could not remove {}: {error}", log_prefix(), disk.path(name).display());
            false
        }
        _ => true,
    }
}

/// Seals a segment, or leaves it unsealed: then its record index stays in memory, and opening scans
/// it. Retried later after a temporary error.
fn seal_and_report<D: Disk>(
    shared: &LogShared<D>,
    unsealed: Unsealed<D>,
    reports: &Mutex<Reports<D>>,
) -> Result<(), StorageError> {
    match seal(shared, &unsealed) {
        Ok(seal) => reports.lock().sealed.push(seal),
        Err(error) => {
            if error.is_temporary() {
                reports.lock().unsealed.push(unsealed);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Writes and syncs the footer, then the seal that points to it.
fn seal<D: Disk>(shared: &LogShared<D>, unsealed: &Unsealed<D>) -> Result<Seal, StorageError> {
    let Unsealed { segment, file, end, .. } = unsealed;
    let disk = &*shared.disk;
    let mut footer = Vec::with_capacity(segment.len() as usize * INDEX_ENTRY_BYTES);
    let mut offset = format::RECORDS_AT;
    let mut last = None;
    for ordinal in 0..segment.len() {
        let (header, _) = segment.record(disk, ordinal)?;
        let place = IndexEntry {
            offset,
            next_index: header.point.next_index,
            term: header.point.term,
            chain: header.point.chain,
            body_bytes: header.body_bytes,
        };
        footer.extend_from_slice(&place.encode());
        offset += header.record_bytes();
        last = Some(header.point);
    }
    let last = last
        .ok_or_else(|| corrupt(disk, &segment.name, offset, "an empty segment was to be sealed"))?;
    let seal = Seal {
        segment: segment.id,
        records: segment.len(),
        footer_at: *end,
        footer_crc: format::footer_crc(segment.seed, &footer),
        before: segment.before,
        last,
        closed: segment.closed.get().copied().unwrap_or_default(),
        file_bytes: segment.bytes,
    };
    let failed = |error| not_written(disk, "seal", &segment.name, error);
    let sync = || {
        file.sync_data().map_err(|error| shared.poison(broken(disk, "sync", &segment.name, error)))
    };
    write_all(&**file, &mut [IoSlice::new(&footer)], *end).map_err(failed)?;
    sync()?;
    write_all(&**file, &mut [IoSlice::new(&seal.encode(segment.seed))], SEAL_AT as u64)
        .map_err(failed)?;
    sync()?;
    Ok(seal)
}
