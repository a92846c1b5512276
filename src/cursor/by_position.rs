//! Reads by position and by time. As those by index, they run on the host's thread, and share no
//! lock with the writer.

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;

use super::{committed, damaged, readable};
use crate::batch::{Batch, BatchError};
use crate::entry::Entry;
use crate::error::ReadError;
use crate::shared::NodeShared;
use crate::storage::StorageError;

/// How often a read begins again because the log was purged meanwhile.
const PURGES_MAX: usize = 8;

/// The entry that holds the byte at `position`, if it is committed here.
pub(crate) fn get_at(shared: &NodeShared, position: u64) -> Result<Option<Entry>, ReadError> {
    readable(shared)?;
    if position >= shared.watermark.position() {
        return Ok(None);
    }
    match shared.reader.entry_at(position) {
        Ok(Some(entry)) if holds(&entry, position) => Ok(Some(entry)),
        found => otherwise(shared, position, found.err()).map(Some),
    }
}

/// Payload bytes from `position` on, at least one and at most `max_bytes`, if they are committed
/// here.
pub(crate) fn read_at(
    shared: &NodeShared,
    position: u64,
    max_bytes: usize,
) -> Result<Option<Bytes>, ReadError> {
    readable(shared)?;
    if position >= shared.watermark.position() {
        return Ok(None);
    }
    let max_bytes = max_bytes.max(1);
    match shared.reader.batch_at(position) {
        Ok(Some(batch)) if batch.positions().contains(&position) => {
            bytes_in(&batch, position, max_bytes).map(Some)
        }
        found => {
            let entry = otherwise(shared, position, found.err())?;
            let start = (position - entry.position()) as usize;
            let len = max_bytes.min(entry.len() - start);
            Ok(Some(entry.payload().slice(start..start + len)))
        }
    }
}

/// The index of the first entry of this time or later, if one is committed here.
pub(crate) fn index_at(shared: &NodeShared, timestamp: u64) -> Result<Option<u64>, ReadError> {
    readable(shared)?;
    let mut purges = 0;
    loop {
        let end = shared.watermark.end();
        match shared.reader.first_index_since(timestamp) {
            Ok(index) => return Ok(index.filter(|&index| index < end)),
            // The next search begins where the log now does.
            Err(StorageError::Purged { .. }) if purges < PURGES_MAX => purges += 1,
            Err(StorageError::Purged { first }) => return Err(purged(first)),
            Err(StorageError::Corrupt { .. }) => {
                let order = |entry: &Entry| match entry.timestamp() < timestamp {
                    true => Ordering::Less,
                    false => Ordering::Greater,
                };
                let place = search_entries(shared, order)?.err();
                return Ok(place.filter(|&index| index < end));
            }
            Err(error) => return Err(ReadError::Storage(error)),
        }
    }
}

/// The positions that can be read here: first retained .. committed end.
pub(crate) fn positions(shared: &NodeShared) -> Range<u64> {
    if !shared.home.is_here() {
        return 0..0;
    }
    let end = shared.watermark.position();
    shared.reader.base().point.next_position.min(end)..end
}

fn holds(entry: &Entry, position: u64) -> bool {
    position.checked_sub(entry.position()).is_some_and(|offset| offset < entry.len() as u64)
}

fn bytes_in(batch: &Batch, position: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
    let index = batch.first_index().unwrap_or_default();
    match batch.payload_from(position, max_bytes) {
        Ok(Some(bytes)) => Ok(batch.body().slice(bytes)),
        Ok(None) => Err(damaged(index, "the batch found for the byte does not hold it")),
        Err(error @ BatchError::Checksum { index }) => Err(damaged(index, error.to_string())),
        Err(error) => Err(damaged(index, error.to_string())),
    }
}

/// The error for a position before the first retained one.
fn purged(first: u64) -> ReadError {
    ReadError::Purged { index: first.saturating_sub(1), first }
}

/// The entry that holds a committed byte, after the storage did not find it.
///
/// A storage may give up at a corrupt record that its search met, though the byte lies elsewhere.
/// So all that [`DLedger::get`](crate::DLedger::get) can read is searched.
#[cold]
fn otherwise(
    shared: &NodeShared,
    position: u64,
    error: Option<StorageError>,
) -> Result<Entry, ReadError> {
    match error {
        Some(StorageError::Purged { first }) => return Err(purged(first)),
        None | Some(StorageError::Corrupt { .. }) => {}
        Some(error) => return Err(ReadError::Storage(error)),
    }
    let order = |entry: &Entry| match entry.position() > position {
        true => Ordering::Greater,
        false if holds(entry, position) => Ordering::Equal,
        false => Ordering::Less,
    };
    let base = shared.reader.base().point;
    if position < base.next_position {
        return Err(purged(base.next_index));
    }
    search_entries(shared, order)?
        .map_err(|index| damaged(index, "no entry of the log holds this committed byte"))
}

/// The committed entry that is equal in this order, or the index of the first one that is greater.
/// Where an entry cannot be read, others around it are.
fn search_entries(
    shared: &NodeShared,
    order: impl Fn(&Entry) -> Ordering,
) -> Result<Result<Entry, u64>, ReadError> {
    let mut low = shared.reader.base().point.next_index;
    let mut high = shared.watermark.end().max(low);
    while low < high {
        let entry = any_readable(shared, low..high)?;
        match order(&entry) {
            Ordering::Less => low = entry.index() + 1,
            Ordering::Equal => return Ok(Ok(entry)),
            Ordering::Greater => high = entry.index(),
        }
    }
    Ok(Err(low))
}

/// An entry of `indexes`, the one in the middle if that can be read.
fn any_readable(shared: &NodeShared, indexes: Range<u64>) -> Result<Entry, ReadError> {
    let middle = indexes.start + (indexes.end - indexes.start) / 2;
    let read = |index| committed(shared.reader.entry(index), index);
    let wrong = match read(middle) {
        Err(error @ ReadError::Damaged { .. }) => error,
        found => return found,
    };
    let leaps = || (0..64).map(|power| 1_u64 << power);
    let behind = leaps().map_while(|leap| middle.checked_add(leap));
    let before = leaps().map_while(|leap| middle.checked_sub(leap));
    let around = behind
        .take_while(|&index| index < indexes.end)
        .chain(before.take_while(|&index| index >= indexes.start));
    for index in around {
        match read(index) {
            Err(ReadError::Damaged { .. }) => {}
            found => return found,
        }
    }
    Err(wrong)
}
