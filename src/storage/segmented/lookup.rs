//! How one entry is found, and read without the batch around it.
//!
//! What a random read waits for is memory: the place of the record, its header, the entry's slot in the table and the payload, none of which lie near each
//! other. So nothing is looked at twice, nothing is shared but the payload, and what will be looked at is asked for ahead: where the slot lies is
//! known from the places of the records alone, and where the payload lies can be guessed.

use std::fmt;

use super::disk::{Disk, DiskMap};
use super::format::{self, HEADER_BYTES};
use super::segment::{Index, Segment};
use crate::batch::{self, BatchError, PREFIX_BYTES, SLOT_BYTES};
use crate::entry::Entry;
use crate::storage::StorageError;

/// What is asked for ahead of a payload at most, in bytes. The processor sees by itself that a longer one goes on.
const AHEAD_BYTES_MAX: u64 = 1 << 10;

impl<D: Disk> Segment<D> {
    /// The ordinal of the first record below `limit` after which the next index is beyond `index`.
    #[inline]
    pub(super) fn find(&self, disk: &D, index: u64, limit: u64) -> Result<Option<u64>, StorageError> {
        let contents = self.contents(disk)?;
        let known = contents.index.len();
        let end = limit.min(known);
        let found = first_beyond(index, self.before.next_index, end, |ordinal| contents.index.next_index(ordinal));
        match found < end {
            true => Ok(Some(found)),
            false if known < limit.min(self.len()) => Err(self.unreadable(disk)),
            false => Ok(None),
        }
    }

    /// The entry at `index`, which lies in the record of this ordinal: header, prefix and payload are checked.
    #[inline]
    pub(super) fn entry(&self, disk: &D, ordinal: u64, index: u64) -> Result<Entry, StorageError> {
        let contents = self.contents(disk)?;
        let (offset, body_bytes) = self.place(disk, contents, ordinal)?;
        self.ask_ahead(&contents.map, &contents.index, ordinal, index);
        let check = |record: &[u8]| {
            let header = format::check_record(record, self.id, self.seed, self.first + ordinal)?;
            let found = batch::find(&record[HEADER_BYTES..], index).map_err(Wrong::Batch)?;
            Ok((found.ok_or("the index of the segment points to the wrong record")?, header.mark.term))
        };
        let checked = contents.map.look(offset, HEADER_BYTES as u64 + body_bytes, check).unwrap_or(Err(Wrong::Record(OUTSIDE)));
        let (found, term) = checked.map_err(|wrong| self.damaged_at(disk, ordinal, wrong.to_string()))?;
        let at = offset + (HEADER_BYTES + found.payload.start) as u64;
        let payload = contents.map.slice(at, found.payload.len() as u64);
        let payload = payload.ok_or_else(|| self.damaged_at(disk, ordinal, OUTSIDE))?;
        Ok(Entry { payload, index, position: found.position, term, timestamp: found.timestamp })
    }

    /// Asks for the slot of the entry, and for its payload as if all in its batch were of one length.
    #[inline]
    fn ask_ahead(&self, map: &impl DiskMap, places: &Index, ordinal: u64, index: u64) {
        let (offset, body_bytes) = places.place(ordinal);
        let first = if ordinal == 0 { self.before.next_index } else { places.next_index(ordinal - 1) };
        let count = places.next_index(ordinal).saturating_sub(first);
        let payloads = body_bytes.saturating_sub(PREFIX_BYTES as u64 + count.saturating_mul(SLOT_BYTES as u64));
        if index < first || count == 0 {
            return;
        }
        let body = offset + HEADER_BYTES as u64;
        map.ask_ahead(offset, (HEADER_BYTES + PREFIX_BYTES) as u64);
        map.ask_ahead(body + PREFIX_BYTES as u64 + payloads + (index - first) * SLOT_BYTES as u64, SLOT_BYTES as u64);
        let each = payloads / count;
        map.ask_ahead(body + PREFIX_BYTES as u64 + (index - first).saturating_mul(each), each.min(AHEAD_BYTES_MAX));
    }
}

const OUTSIDE: &str = "a record lies outside the file";

/// Why an entry is not believed.
enum Wrong {
    Record(&'static str),
    Batch(BatchError),
}

impl From<&'static str> for Wrong {
    fn from(reason: &'static str) -> Wrong {
        Wrong::Record(reason)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Record(reason) => f.write_str(reason),
            Wrong::Batch(error) => error.fmt(f),
        }
    }
}

/// The first of `count` places whose `key` is beyond `wanted`; keys never descend, and none is below `start`. `count` if there is none.
///
/// The keys of a log rise evenly more often than not, so the search begins where `wanted` would be if they did, and goes on from there in steps that
/// double: two looks if the guess was right, and never more than about twice as many as halving takes.
#[inline]
pub(super) fn first_beyond(wanted: u64, start: u64, count: u64, key: impl Fn(u64) -> u64) -> u64 {
    let Some(last) = count.checked_sub(1) else { return 0 };
    let end = key(last);
    if end <= wanted {
        return count;
    }
    let share = wanted.saturating_sub(start) as f64 / end.saturating_sub(start).max(1) as f64;
    let guess = ((share * count as f64) as u64).min(last);
    // Everything below `low` is not beyond, everything from `high` on is.
    let (mut low, mut high) = (0, last);
    let mut step = 1;
    if key(guess) > wanted {
        high = guess;
        while low < high {
            let probe = high.saturating_sub(step);
            if key(probe) <= wanted {
                low = probe + 1;
                break;
            }
            high = probe;
            step *= 2;
        }
    } else {
        low = guess + 1;
        while low < high {
            let probe = (low + step - 1).min(high);
            if key(probe) > wanted {
                high = probe;
                break;
            }
            low = probe + 1;
            step *= 2;
        }
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if key(middle) > wanted { high = middle } else { low = middle + 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_guess_finds_what_a_look_at_all_finds(steps in prop::collection::vec(prop_oneof![Just(0u64), Just(7), 1..3u64, 0..1_000_000u64], 0..80), start in 0..50u64) {
            let keys: Vec<u64> = steps.iter().scan(start, |key, step| { *key += step; Some(*key) }).collect();
            let around = keys.iter().flat_map(|&key| [key.saturating_sub(1), key, key + 1]).chain([0, u64::MAX]);
            for wanted in around {
                let found = first_beyond(wanted, start, keys.len() as u64, |at| keys[at as usize]);
                prop_assert_eq!(found, keys.partition_point(|&key| key <= wanted) as u64, "{} in {:?}", wanted, keys);
            }
        }
    }

    #[test]
    fn even_keys_take_three_looks() {
        let looks = std::cell::Cell::new(0);
        let key = |at: u64| {
            looks.set(looks.get() + 1);
            (at + 1) * 256
        };
        for index in 0..256 * 1000 {
            looks.set(0);
            assert_eq!(first_beyond(index, 0, 1000, key), index / 256);
            assert!(looks.get() <= 4, "{} looks for {index}", looks.get());
        }
    }
}
