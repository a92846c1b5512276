//! Expected reads by position and by time.

use super::expected::{Log, purged, same};
use crate::storage::LogReader;

/// Makes all reads by position and by time of `reader`, and returns the first difference from
/// `log`.
pub(super) fn compare(log: &Log, reader: &dyn LogReader) -> Result<(), String> {
    let (base, last) = (log.base().point, log.last());
    if let Some(position) = base.next_position.checked_sub(1) {
        let first = base.next_index;
        purged(|| format!("batch_at({position})"), reader.batch_at(position), first)?;
        purged(|| format!("entry_at({position})"), reader.entry_at(position), first)?;
    }
    for position in [last.next_position, u64::MAX] {
        same(|| format!("batch_at({position})"), reader.batch_at(position), None)?;
        same(|| format!("entry_at({position})"), reader.entry_at(position), None)?;
    }
    let mut times: Vec<(u64, u64)> = Vec::new();
    for batch in log.batches() {
        let bytes = batch.positions();
        for position in [bytes.start, bytes.start.midpoint(bytes.end), bytes.end.saturating_sub(1)]
        {
            if !bytes.contains(&position) {
                continue;
            }
            same(
                || format!("batch_at({position})"),
                reader.batch_at(position),
                Some(batch.clone()),
            )?;
            let entry = batch.entry_at(position).map_err(|error| error.to_string())?;
            same(|| format!("entry_at({position})"), reader.entry_at(position), entry)?;
        }
        let first = batch.first_index().and_then(|index| batch.entry(index).ok().flatten());
        times.extend(first.map(|entry| (entry.timestamp(), entry.index())));
    }
    let since = |time: u64| times.iter().find(|(begun, _)| *begun >= time).map(|(_, index)| *index);
    let around = times.iter().flat_map(|&(time, _)| [time, time + 1]);
    for time in around.chain([0, base.timestamp, u64::MAX]) {
        same(|| format!("first_index_since({time})"), reader.first_index_since(time), since(time))?;
    }
    Ok(())
}
