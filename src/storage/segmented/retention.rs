//! What becomes of segments that take no more records: they are sealed, and one day removed.

use std::io::IoSlice;
use std::sync::Arc;

use super::error::{damaged, failed};
use super::file_io::write_all;
use super::format::{self, PLACE_BYTES, Place, SEAL_AT, Seal};
use super::fs::{Disk, DiskFile};
use super::live::Live;
use super::segment::Segment;
use super::spare::{self, Order};
use super::sync::Shared;
use crate::primitives::Mutex;
use crate::storage::{Chore, StorageError};

/// A segment to be sealed once change number `change` is durable. Not before: then a failure of the sealing says nothing about its records.
pub(super) struct Unsealed<D: Disk> {
    pub(super) segment: Arc<Segment<D>>,
    pub(super) file: Arc<D::File>,
    /// Where its records end.
    pub(super) end: u64,
    pub(super) change: u64,
}

/// What the log does without once change number `change` is durable: before that a crash may bring back a log that needs it.
struct Garbage<D: Disk> {
    segments: Vec<Arc<Segment<D>>>,
    /// Other files.
    names: Vec<String>,
    change: u64,
}

/// What waits for its time.
pub(super) struct Retired<D: Disk> {
    unsealed: Vec<Unsealed<D>>,
    garbage: Vec<Garbage<D>>,
    /// Segments that a chore has sealed: from now on they need no memory.
    sealed: Arc<Mutex<Vec<Seal>>>,
}

impl<D: Disk> Retired<D> {
    pub(super) fn new() -> Retired<D> {
        Retired { unsealed: Vec::new(), garbage: Vec::new(), sealed: Arc::default() }
    }

    pub(super) fn seal(&mut self, unsealed: Unsealed<D>) {
        self.unsealed.push(unsealed);
    }

    /// The log does without these segments once change number `change` is durable.
    pub(super) fn give_up(&mut self, segments: Vec<Arc<Segment<D>>>, change: u64) {
        if !segments.is_empty() {
            self.unsealed.retain(|unsealed| !segments.iter().any(|segment| segment.id == unsealed.segment.id));
            self.garbage.push(Garbage { segments, names: Vec::new(), change });
        }
    }

    /// Files that no log needs.
    pub(super) fn remove(&mut self, names: Vec<String>) {
        if !names.is_empty() {
            self.garbage.push(Garbage { segments: Vec::new(), names, change: 0 });
        }
    }

    /// A chore whose time has come.
    pub(super) fn next_chore(&mut self, shared: &Arc<Shared<D>>, order: Order) -> Option<Chore> {
        let durable = if planted!("files are removed before the log does without them") { u64::MAX } else { shared.durable().change };
        if let Some(ready) = self.garbage.iter().position(|garbage| garbage.change <= durable) {
            let (garbage, shared) = (self.garbage.swap_remove(ready), shared.clone());
            return Some(Box::new(move || clear_away(&shared, order, garbage)));
        }
        let ready = self.unsealed.iter().position(|unsealed| unsealed.change <= durable)?;
        let (unsealed, shared, sealed) = (self.unsealed.swap_remove(ready), shared.clone(), self.sealed.clone());
        Some(Box::new(move || match seal(&shared, &unsealed) {
            Ok(seal) => sealed.lock().push(seal),
            // The segment stays as it is: it is read from memory, and scanned when the log is opened again.
            Err(error) => log::warn!("could not seal a segment: {error}"),
        }))
    }

    /// The log with every segment that has been sealed meanwhile read from its footer. `None` if there is none.
    pub(super) fn settle(&self, directory: u128, live: &Live<D>) -> Option<Live<D>> {
        let seals = std::mem::take(&mut *self.sealed.lock());
        if seals.is_empty() {
            return None;
        }
        let mut settled = Live { base: live.base.clone(), stretches: live.stretches.clone(), gaps: Vec::new() };
        for seal in seals {
            if let Some(stretch) = settled.stretches.iter_mut().find(|stretch| stretch.segment.id == seal.segment) {
                stretch.segment = Arc::new(stretch.segment.once_sealed(directory, seal));
            }
        }
        Some(settled)
    }
}

/// Removes files, or keeps some of them as spares.
fn clear_away<D: Disk>(shared: &Arc<Shared<D>>, order: Order, garbage: Garbage<D>) {
    let Garbage { segments, mut names, .. } = garbage;
    for segment in segments {
        let name = segment.name.clone();
        if !spare::recycle(shared, order, segment) {
            names.push(name);
        }
    }
    for name in names {
        if let Err(error) = shared.disk.remove(&name) {
            // Harmless: the next opening finds it dead again.
            log::warn!("could not remove {}: {error}", shared.disk.path(&name).display());
        }
    }
    shared.spares.try_again();
}

/// Writes the footer and makes it durable, then the seal that points to it.
fn seal<D: Disk>(shared: &Shared<D>, unsealed: &Unsealed<D>) -> Result<Seal, StorageError> {
    let Unsealed { segment, file, end, .. } = unsealed;
    let disk = &*shared.disk;
    let mut footer = Vec::with_capacity(segment.len() as usize * PLACE_BYTES);
    let mut offset = format::RECORDS_AT;
    let mut last = None;
    for ordinal in 0..segment.len() {
        let (header, _) = segment.record(disk, ordinal)?;
        let place = Place {
            offset,
            next_index: header.mark.next_index,
            term: header.mark.term,
            chain: header.mark.chain,
            body_bytes: header.body_bytes,
        };
        footer.extend_from_slice(&place.encode());
        offset += header.record_bytes();
        last = Some(header.mark);
    }
    let last = last.ok_or_else(|| damaged(disk, &segment.name, offset, "an empty segment was to be sealed"))?;
    let seal = Seal {
        segment: segment.id,
        records: segment.len(),
        footer_at: *end,
        footer_crc: format::footer_crc(segment.seed, &footer),
        before: segment.before,
        last,
    };
    let failed = |error| failed(disk, "seal", &segment.name, error);
    let sync = || file.sync_data().map_err(|error| shared.poison(failed(error)));
    write_all(&**file, &mut [IoSlice::new(&footer)], *end).map_err(failed)?;
    sync()?;
    write_all(&**file, &mut [IoSlice::new(&seal.encode(segment.seed))], SEAL_AT as u64).map_err(failed)?;
    sync()?;
    Ok(seal)
}
