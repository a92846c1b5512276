//! Expected log: a plain list of batches.

use std::fmt::Debug;

use crate::batch::OpenBatch;
use crate::entry::Entry;
use crate::storage::{Base, Batch, LogPoint, LogReader, StorageError};

/// Expected state of a log.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// Its base before any purge.
    origin: Base,
    /// Each batch since then, and the log point after it.
    records: Vec<(Batch, LogPoint)>,
    /// Number of purged batches.
    purged: usize,
}

impl Log {
    pub(super) fn new(base: Base) -> Log {
        Log { origin: base, records: Vec::new(), purged: 0 }
    }

    pub(super) fn base(&self) -> Base {
        let point =
            self.purged.checked_sub(1).map_or(self.origin.point, |newest| self.records[newest].1);
        Base { point, ..self.origin.clone() }
    }

    pub(super) fn last(&self) -> LogPoint {
        self.records.last().map_or(self.origin.point, |(_, point)| *point)
    }

    pub(super) fn span(&self) -> String {
        span(&self.base(), self.last())
    }

    fn kept(&self) -> &[(Batch, LogPoint)] {
        &self.records[self.purged..]
    }

    pub(super) fn batches(&self) -> Vec<Batch> {
        self.kept().iter().map(|(batch, _)| batch.clone()).collect()
    }

    /// The base, and the log point after each batch.
    pub(super) fn points(&self) -> impl Iterator<Item = LogPoint> + '_ {
        std::iter::once(self.base().point).chain(self.kept().iter().map(|(_, point)| *point))
    }

    pub(super) fn point(&self, raft_index: u64) -> Option<LogPoint> {
        self.points().find(|point| point.raft_index == raft_index)
    }

    pub(super) fn push(&mut self, batch: Batch) {
        let point =
            batch.point_after(&self.last()).expect("the suite pushes what continues its own list");
        self.records.push((batch, point));
    }

    /// Truncates the batches after `last`.
    pub(super) fn cut(&mut self, last: u64) {
        self.records.retain(|(_, point)| point.raft_index <= last);
    }

    /// Moves the base to `base`. Returns whether that is a log point since the origin.
    pub(super) fn begin_at(&mut self, base: &Base) -> bool {
        self.purged = self
            .records
            .iter()
            .take_while(|(_, point)| point.raft_index <= base.point.raft_index)
            .count();
        self.base() == *base
    }

    /// Makes all reads of `reader`, and returns the first difference from this list.
    pub(super) fn compare(&self, reader: &dyn LogReader) -> Result<(), String> {
        self.compare_base(reader)?;
        self.compare_last(reader)?;
        for (batch, point) in self.kept() {
            let at = point.raft_index;
            same(|| format!("point({at})"), reader.point(at), Some(*point))?;
            same(
                || format!("batches({at}, {at} + 1, 0)"),
                reader.batches(at, at + 1, 0),
                vec![batch.clone()],
            )?;
            for index in some_indexes(batch) {
                same(
                    || format!("batch_with({index})"),
                    reader.batch_containing(index),
                    Some(batch.clone()),
                )?;
                let entry = batch.entry(index).map_err(|error| error.to_string())?;
                same(|| format!("entry({index})"), reader.entry(index), entry)?;
            }
        }
        let from = self.base().point.raft_index + 1;
        same(
            || format!("batches({from}, MAX, MAX)"),
            reader.batches(from, u64::MAX, u64::MAX),
            self.batches(),
        )
    }

    fn compare_base(&self, reader: &dyn LogReader) -> Result<(), String> {
        let base = self.base();
        let LogPoint { raft_index, next_index, .. } = base.point;
        same(|| format!("point({raft_index})"), reader.point(raft_index), Some(base.point))?;
        same(|| "base()".into(), Ok(reader.base()), base)?;
        purged(|| format!("point({} - 1)", raft_index), reader.point(raft_index - 1), next_index)?;
        purged(|| "point(0)".into(), reader.point(0), next_index)?;
        purged(
            || format!("batches({raft_index}, MAX, MAX)"),
            reader.batches(raft_index, u64::MAX, u64::MAX),
            next_index,
        )?;
        if let Some(index) = next_index.checked_sub(1) {
            purged(|| format!("batch_with({index})"), reader.batch_containing(index), next_index)?;
            purged(|| format!("entry({index})"), reader.entry(index), next_index)?;
        }
        Ok(())
    }

    fn compare_last(&self, reader: &dyn LogReader) -> Result<(), String> {
        let LogPoint { raft_index, next_index, .. } = self.last();
        let behind = raft_index + 1;
        same(|| format!("point({behind})"), reader.point(behind), None)?;
        same(|| "point(MAX)".into(), reader.point(u64::MAX), None)?;
        same(|| format!("batch_with({next_index})"), reader.batch_containing(next_index), None)?;
        same(|| "batch_with(MAX)".into(), reader.batch_containing(u64::MAX), None)?;
        same(|| format!("entry({next_index})"), reader.entry(next_index), None)?;
        same(
            || format!("batches({behind}, MAX, MAX)"),
            reader.batches(behind, u64::MAX, u64::MAX),
            Vec::new(),
        )
    }
}

/// Short description of a log.
pub(super) fn span(base: &Base, last: LogPoint) -> String {
    let place = |point: LogPoint| {
        format!(
            "raft index {} (term {}, index {}, chain {:x})",
            point.raft_index, point.term, point.next_index, point.chain
        )
    };
    format!(
        "the log from {} to {} with the members {:?}",
        place(base.point),
        place(last),
        base.membership.voters
    )
}

/// The batch after `before`, with one payload of each of `sizes`; a control record if there are
/// none. Different salts give different bytes.
pub(super) fn batch_after(before: &LogPoint, term: u64, salt: u64, sizes: &[usize]) -> Batch {
    let mut open = OpenBatch::with_capacity(sizes.iter().sum());
    for (slot, &size) in sizes.iter().enumerate() {
        let seed = salt.wrapping_mul(131).wrapping_add(slot as u64);
        let payload: Vec<u8> = (0..size as u64)
            .map(|at| (at.wrapping_mul(7) ^ at >> 8).wrapping_add(seed) as u8)
            .collect();
        open.push(&payload, crc32fast::hash(&payload));
    }
    let timestamp = before.timestamp.max(salt);
    let body = if open.is_empty() {
        Default::default()
    } else {
        open.close(before.next_index, before.next_position, timestamp)
    };
    Batch::new(before.raft_index + 1, term, body).expect("what was just encoded can be decoded")
}

/// Batches that were read, and a copy of their bytes.
pub(super) struct HeldBatches {
    batches: Vec<(Batch, Vec<u8>)>,
    entries: Vec<(Entry, Vec<u8>)>,
}

impl HeldBatches {
    pub(super) fn new(batches: Vec<Batch>) -> HeldBatches {
        let entries = batches.iter().flat_map(|batch| {
            some_indexes(batch).filter_map(|index| batch.entry(index).ok().flatten())
        });
        HeldBatches {
            entries: entries.map(|entry| (entry.clone(), entry.to_vec())).collect(),
            batches: batches
                .into_iter()
                .map(|batch| (batch.clone(), batch.body().to_vec()))
                .collect(),
        }
    }

    /// Returns the first batch that has changed.
    pub(super) fn compare(&self) -> Result<(), String> {
        if let Some((batch, _)) = self.batches.iter().find(|(batch, copy)| batch.body() != copy) {
            return Err(format!("{batch:?} has other bytes than when it was read"));
        }
        if let Some((entry, _)) = self.entries.iter().find(|(entry, copy)| entry.payload() != copy)
        {
            return Err(format!("{entry:?} has other bytes than when it was read"));
        }
        Ok(())
    }
}

/// The first, the second, a middle and the last index of a batch.
fn some_indexes(batch: &Batch) -> impl Iterator<Item = u64> {
    let (first, end) = (batch.first_index().unwrap_or(0), batch.end_index().unwrap_or(0));
    let mut indexes = vec![first, first + 1, first.midpoint(end), end.saturating_sub(1)];
    indexes.retain(|&index| first <= index && index < end);
    indexes.dedup();
    indexes.into_iter()
}

pub(super) fn same<T: PartialEq + Debug>(
    call: impl FnOnce() -> String,
    found: Result<T, StorageError>,
    wanted: T,
) -> Result<(), String> {
    match found {
        Ok(found) if found == wanted => Ok(()),
        Ok(found) if format!("{found:?}") == format!("{wanted:?}") => {
            Err(format!("{} has other bytes than {wanted:?}", call()))
        }
        found => Err(format!("{} gave {found:?} instead of {wanted:?}", call())),
    }
}

pub(super) fn purged<T: Debug>(
    call: impl FnOnce() -> String,
    found: Result<T, StorageError>,
    wanted: u64,
) -> Result<(), String> {
    match found {
        Err(StorageError::Purged { first }) if first == wanted => Ok(()),
        found => Err(format!(
            "{} gave {found:?} instead of an error that says it is purged below {wanted}",
            call()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_batch_whose_bytes_change_is_noticed() {
        let batch = batch_after(&LogPoint::INITIAL, 1, 0, &[3, 5]);
        let mut held = HeldBatches::new(vec![batch]);
        held.compare().unwrap();
        held.entries[1].1[2] ^= 1;
        assert!(held.compare().is_err());
        held.entries[1].1[2] ^= 1;
        held.batches[0].1[33] ^= 1;
        assert!(held.compare().is_err());
    }
}
