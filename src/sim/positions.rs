//! Reads by position and by time, compared with a read by index of the same entry.

use crate::cursor::{self, by_position};
use crate::entry::Entry;
use crate::error::ReadError;
use crate::shared::NodeShared;

/// Reads `entry`, which was read by its index just now, in every other way.
///
/// # Errors
/// What differs.
pub(super) fn check_reads(
    shared: &NodeShared,
    entry: &Entry,
    first_position: u64,
) -> Result<(), String> {
    let (start, end) = (entry.position(), entry.position() + entry.len() as u64);
    let kept = by_position::positions(shared);
    if kept.start < first_position || start < kept.start || end > kept.end {
        return Err(format!("{entry:?} is shown, and {kept:?} are the positions"));
    }
    if let Some(Some(found)) = readable(by_position::get_at(shared, kept.end))? {
        return Err(format!("{found:?} is shown, and {kept:?} are the positions"));
    }
    if let Some(last) = entry.last() {
        for position in [start, end - 1] {
            let found = by_position::get_at(shared, position);
            match readable(found)? {
                Some(Some(found)) if found == *entry => {}
                None => {}
                found => return Err(format!("at {position} is {found:?}, and {entry:?} was read")),
            }
        }
        match readable(by_position::read_at(shared, end - 1, 1))? {
            Some(Some(bytes)) if bytes[..] == [*last] => {}
            None => {}
            found => return Err(format!("the byte before {end} of {entry:?} is {found:?}")),
        }
    }
    check_time(shared, entry)
}

/// The first entry of its time is of that time, and the one before it is older.
fn check_time(shared: &NodeShared, entry: &Entry) -> Result<(), String> {
    let first = match readable(by_position::index_at(shared, entry.timestamp()))? {
        Some(Some(first)) if first <= entry.index() => first,
        None => return Ok(()),
        found => return Err(format!("the first entry of its time is {found:?}, before {entry:?}")),
    };
    let time = |index: u64| match cursor::get(shared, index) {
        Ok(Some(found)) => Some(found.timestamp()),
        _ => None,
    };
    let later = readable(by_position::index_at(shared, entry.timestamp() + 1))?.flatten();
    let end = shared.watermark.end();
    if let Some(later) = later.filter(|&later| later <= entry.index() || later >= end) {
        return Err(format!("of {end} entries the first after the time of {entry:?} is {later}"));
    }
    let (at, before) = (time(first), first.checked_sub(1).and_then(time));
    let is_first = at.is_none_or(|at| at == entry.timestamp())
        && before.is_none_or(|before| before < entry.timestamp());
    match is_first {
        true => Ok(()),
        false => {
            Err(format!("entry {first} of {at:?}, after {before:?}, begins the time of {entry:?}"))
        }
    }
}

/// `None` where the log is damaged: that is checked by index.
fn readable<T>(found: Result<T, ReadError>) -> Result<Option<T>, String> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(ReadError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
