//! The append hook of a simulated node: it marks each payload with its place.
//!
//! A mark is mixed into the payload, so that one that is set twice is none, and depends on the
//! whole place. For some payloads the hook panics.

use std::panic::resume_unwind;
use std::sync::Arc;

use crate::append_hook::{AppendHook, Place};
use crate::replica::splitmix64;

/// Where the mark is: behind the number of the payload, as far as the payload is long enough.
const MARK: std::ops::Range<usize> = 8..16;

/// Marks `payload`, or takes the mark away.
pub(super) fn stamp((index, position, term): (u64, u64, u64), payload: &mut [u8]) {
    let mark = splitmix64(splitmix64(splitmix64(index) ^ position) ^ term).to_le_bytes();
    payload.iter_mut().skip(MARK.start).zip(mark).for_each(|(byte, mark)| *byte ^= mark);
}

/// Whether the hook panics for the payload with this number.
fn is_refused(offer: u64) -> bool {
    splitmix64(offer).is_multiple_of(50)
}

pub(super) fn hook() -> AppendHook {
    Arc::new(|place: &Place, payload: &mut [u8]| {
        stamp((place.index, place.position, place.term), payload);
        if payload.first_chunk().is_some_and(|number| is_refused(u64::from_le_bytes(*number))) {
            // As a panic does, but says nothing.
            resume_unwind(Box::new("planned"));
        }
    })
}
