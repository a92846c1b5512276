//! Payloads that tell who they are: the number of the offer, and bytes that follow from it.

use crate::rng::Rng;

/// The payload that was offered under this number. Mostly some dozens of bytes, now and then a
/// page, and never less than its own number takes.
pub(crate) fn payload(seed: u64, number: u64) -> Vec<u8> {
    let mut rng = Rng::from_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let len = if rng.once_in(500) { 1_000 + rng.below(4_000) } else { rng.below(64) };
    let mut payload = number.to_le_bytes().to_vec();
    payload.extend(rng.bytes(len as usize));
    payload
}

/// The number under which exactly these bytes were offered.
pub(crate) fn number_of(seed: u64, bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*bytes.first_chunk()?);
    (payload(seed, number) == bytes).then_some(number)
}
