//! The reading side of a storage: the [`LogReader`] trait.

use std::fmt;

use super::{Base, Batch, Corruption, LogPoint, StorageError};
use crate::entry::Entry;
use crate::search::{Keys, search_keys};

/// Reader of the log, for any thread. It returns committed and uncommitted batches; callers stay
/// below the commit that they know.
pub trait LogReader: Send + Sync {
    /// The log point before the first batch that is kept.
    fn base(&self) -> Base;

    /// The batch that holds entry `index`, or `None` beyond the end of the log. Its header is
    /// verified, its payloads are not.
    ///
    /// # Errors
    /// [`StorageError::Purged`] below the base, [`StorageError::Corrupt`], [`StorageError::Io`].
    fn batch_containing(&self, index: u64) -> Result<Option<Batch>, StorageError>;

    /// The entry at `index`, with its payload verified, or `None` beyond the end of the log. A
    /// storage overrides this if an entry costs less than the [batch with
    /// it](Self::batch_containing).
    ///
    /// # Errors
    /// [`StorageError::Purged`] below the base, [`StorageError::Corrupt`], also if the payload
    /// differs from the appended one, [`StorageError::Io`].
    fn entry(&self, index: u64) -> Result<Option<Entry>, StorageError> {
        let Some(batch) = self.batch_containing(index)? else { return Ok(None) };
        match batch.entry(index) {
            Ok(Some(entry)) => Ok(Some(entry)),
            Ok(None) => Err(corrupt(&batch, "the batch found for the entry does not hold it")),
            Err(error) => Err(corrupt(&batch, error.to_string())),
        }
    }

    /// The batch that holds the byte at `position` of the payloads, or `None` beyond the end of the
    /// log. Its header is verified, its payloads are not.
    ///
    /// The default asks for some of the [log points](Self::point): twice the logarithm of the
    /// number of batches. It fails at a corrupt one, also if that is not the one looked for.
    ///
    /// # Errors
    /// [`StorageError::Purged`] below the base, [`StorageError::Corrupt`], [`StorageError::Io`].
    fn batch_at(&self, position: u64) -> Result<Option<Batch>, StorageError> {
        let base = self.base().point;
        if position < base.next_position {
            return Err(StorageError::Purged { first: base.next_index });
        }
        match first_point_above(self, base.raft_index, position, |point| point.next_position)? {
            Some(raft_index) => {
                Ok(self.batches(raft_index, raft_index.saturating_add(1), 0)?.into_iter().next())
            }
            None => Ok(None),
        }
    }

    /// The entry that holds the byte at `position`, with its payload verified, or `None` beyond the
    /// end of the log. An empty entry holds none. A storage overrides this if an entry costs less
    /// than the [batch with it](Self::batch_at).
    ///
    /// # Errors
    /// Those of [`entry`](Self::entry).
    fn entry_at(&self, position: u64) -> Result<Option<Entry>, StorageError> {
        let Some(batch) = self.batch_at(position)? else { return Ok(None) };
        match batch.entry_at(position) {
            Ok(Some(entry)) => Ok(Some(entry)),
            Ok(None) => Err(corrupt(&batch, "the batch found for the byte does not hold it")),
            Err(error) => Err(corrupt(&batch, error.to_string())),
        }
    }

    /// The index of the first kept entry whose timestamp is `timestamp` or later, in milliseconds
    /// since 1970. `None` if there is none. Timestamps never decrease along the log.
    ///
    /// The default costs as much as that of [`batch_at`](Self::batch_at).
    ///
    /// # Errors
    /// [`StorageError::Corrupt`], [`StorageError::Io`]; [`StorageError::Purged`] if the log was
    /// purged meanwhile.
    fn first_index_since(&self, timestamp: u64) -> Result<Option<u64>, StorageError> {
        let base = self.base().point;
        let before = match timestamp.checked_sub(1).filter(|&below| base.timestamp <= below) {
            // All that is kept is as new.
            None => base,
            Some(below) => {
                let from = base.raft_index;
                let found = first_point_above(self, from, below, |point| point.timestamp)?;
                let Some(raft_index) = found else { return Ok(None) };
                let Some(before) = self.point(raft_index - 1)? else { return Ok(None) };
                before
            }
        };
        let first = self.batch_containing(before.next_index)?;
        Ok(first.map(|_| before.next_index))
    }

    /// The batches from raft index `from` to below `to`, in order: the first of them if there is
    /// one, then more while their bodies together stay within `bytes_max`, up to the first corrupt
    /// one.
    ///
    /// # Errors
    /// [`StorageError::Purged`] at or below the base, [`StorageError::Corrupt`] if the first is
    /// corrupt, [`StorageError::Io`].
    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError>;

    /// The log point after the batch `raft_index`, the base included. `None` after the last.
    ///
    /// # Errors
    /// [`StorageError::Purged`] below the base, [`StorageError::Corrupt`], [`StorageError::Io`].
    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError>;

    /// The term of the batch `raft_index`. As [`point`](Self::point), and may cost less.
    ///
    /// # Errors
    /// Those of [`point`](Self::point).
    fn term(&self, raft_index: u64) -> Result<Option<u64>, StorageError> {
        Ok(self.point(raft_index)?.map(|point| point.term))
    }

    /// Reads every byte of the batch `raft_index`, and returns its corruption. `None` if it is
    /// intact, or not in the log.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn verify_batch(&self, raft_index: u64) -> Result<Option<Corruption>, StorageError> {
        match self.batches(raft_index, raft_index.saturating_add(1), 0) {
            Ok(_) | Err(StorageError::Purged { .. }) => Ok(None),
            Err(StorageError::Corrupt { path, offset, reason }) => {
                let raft_indexes = raft_index..raft_index.saturating_add(1);
                Ok(Some(Corruption { path, offset, raft_indexes, term: None, chain: None, reason }))
            }
            Err(error) => Err(error),
        }
    }
}

fn corrupt(batch: &Batch, reason: impl Into<String>) -> StorageError {
    let path = format!("raft index {}", batch.raft_index()).into();
    StorageError::Corrupt { path, offset: 0, reason: reason.into() }
}

/// The raft index of the first log point behind the one at `base` whose `key` is above `wanted`.
/// The key at `base` is not above it. `None` if there is none.
fn first_point_above<R: LogReader + ?Sized>(
    reader: &R,
    base: u64,
    wanted: u64,
    key: impl Fn(&LogPoint) -> u64,
) -> Result<Option<u64>, StorageError> {
    // Nobody says where the log ends.
    let (mut low, mut leap) = (base, 1_u64);
    let high = loop {
        let probe = low.saturating_add(leap);
        match reader.point(probe)? {
            Some(point) if key(&point) <= wanted => low = probe,
            Some(_) => break probe.saturating_add(1),
            None => break probe,
        }
        leap = leap.saturating_mul(2);
    };
    let middle = low + (high - low) / 2;
    let found = search_keys::<_, StorageError>(low + 1..high, middle, wanted, |raft_index| {
        let key = match reader.point(raft_index)? {
            Some(point) => key(&point),
            // Behind the end every key counts as above, and is not the one looked for.
            None => u64::MAX,
        };
        Ok(Keys { before: None, key, found: key })
    })?;
    Ok(found.filter(|&(_, key)| key < u64::MAX).map(|(raft_index, _)| raft_index))
}

impl fmt::Debug for dyn LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("base", &self.base()).finish()
    }
}
