//! Any bytes, taken for a batch.

use bytes::Bytes;

use super::layout::{BATCH_HEADER_BYTES, TABLE_ENTRY_BYTES, index_mask, read_u32};
use super::{Batch, LogPoint, OpenBatch};
use crate::fuzzing::FuzzInput;

/// A batch of any bytes either is refused, or gives every entry that it claims to hold.
pub fn batch(input: &[u8]) {
    let mut fuzz_input = FuzzInput(input);
    let (raft_index, term) = (fuzz_input.u64(), fuzz_input.u64());
    let before =
        LogPoint { raft_index: fuzz_input.u64(), term: fuzz_input.u64(), ..LogPoint::INITIAL };
    let body = fuzz_input.0.to_vec();
    judge(raft_index, term, &before, Bytes::from(body.clone()));
    judge(raft_index, term, &before, Bytes::from(with_sound_payloads(body)));
}

fn judge(raft_index: u64, term: u64, before: &LogPoint, body: Bytes) {
    let Ok(batch) = Batch::new(raft_index, term, body) else { return };
    let _ = batch.point_after(before);
    let Some(first) = batch.first_index() else {
        assert_eq!((batch.count(), batch.entry(0), batch.verify()), (0, Ok(None), Ok(())));
        return;
    };
    let end = first + u64::from(batch.count());
    assert_eq!(batch.entry(end), Ok(None));
    let entries: Result<Vec<_>, _> = (first..end).map(|index| batch.entry(index)).collect();
    if batch.verify().is_ok() {
        let entries = entries.expect("a batch that was verified gives its entries");
        let mut open = OpenBatch::with_capacity(0);
        for entry in entries.iter().flatten() {
            assert_eq!(
                entry.position(),
                batch.header.expect("it has entries").first_position + open.payload_bytes() as u64
            );
            open.push(entry, crc32fast::hash(entry));
        }
        let prefix = batch.header.expect("it has entries");
        assert_eq!(
            open.close(first, prefix.first_position, prefix.timestamp),
            batch.body,
            "there is one way to write a batch"
        );
        follows(&batch, first);
    }
}

/// Behind the mark that it belongs to, it is accepted, and leads to the next one.
fn follows(batch: &Batch, first: u64) {
    let Some(raft_index) = batch.raft_index.checked_sub(1) else { return };
    let prefix = batch.header.expect("it has entries");
    let before = LogPoint {
        raft_index,
        term: batch.term,
        next_index: first,
        next_position: prefix.first_position,
        timestamp: 0,
        chain: 9,
    };
    let after = batch.point_after(&before).expect("it stands where it belongs");
    assert_eq!(Some(after.next_index), batch.end_index());
}

/// `body` with the checksums in its table put right, as far as it has a table.
pub(crate) fn with_sound_payloads(mut body: Vec<u8>) -> Vec<u8> {
    let Ok(batch) = Batch::new(0, 0, Bytes::copy_from_slice(&body)) else { return body };
    let (table, mut start) =
        (body.len() - batch.count() as usize * TABLE_ENTRY_BYTES, BATCH_HEADER_BYTES);
    let first = batch.first_index().unwrap_or(0);
    for (index, slot) in (first..).zip((table..body.len()).step_by(TABLE_ENTRY_BYTES)) {
        let end = BATCH_HEADER_BYTES.saturating_add(read_u32(&body, slot) as usize);
        let Some(payload) = body[..table].get(start..end) else { return body };
        let crc = crc32fast::hash(payload) ^ index_mask(index);
        body[slot + 4..slot + 8].copy_from_slice(&crc.to_le_bytes());
        start = end;
    }
    body
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let bodies = [
        &[&b"one"[..], b"", b"three"][..],
        &[&[7; 100]],
        &[b""],
        &[&[0; 8], &[1; 8]],
        &[&[9; 8][..]; 20],
    ]
    .map(body_of);
    let places = [(7_u64, 3_u64, 6_u64, 3_u64), (1, 1, 1, 1), (u64::MAX, u64::MAX, u64::MAX, 0)];
    let seed = |place: (u64, u64, u64, u64), body: &[u8]| {
        let numbers = [place.0, place.1, place.2, place.3].map(u64::to_le_bytes).concat();
        [&numbers[..], body].concat()
    };
    places
        .iter()
        .flat_map(|&place| bodies.iter().map(move |body| seed(place, body)))
        .chain([seed(places[0], &[])])
        .collect()
}

/// The body of a batch at the beginning of a ledger.
#[cfg(test)]
pub(crate) fn body_of(payloads: &[&[u8]]) -> Bytes {
    let mut open = OpenBatch::with_capacity(0);
    payloads.iter().for_each(|payload| open.push(payload, crc32fast::hash(payload)));
    open.close(0, 0, 1)
}
