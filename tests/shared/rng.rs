//! Numbers drawn from a seed, for the tests of every directory here.

use std::hash::{BuildHasher, RandomState};

/// A generator (SplitMix64). The same seed draws the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// From `DLEDGER_SEED`, or a random seed. It is printed, so that the run can be repeated.
    pub(crate) fn new() -> Rng {
        let seed = std::env::var("DLEDGER_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("DLEDGER_SEED={seed} {}", std::thread::current().name().unwrap_or_default());
        Rng(seed)
    }

    pub(crate) fn from_seed(seed: u64) -> Rng {
        Rng(seed)
    }

    /// A generator for a part of the test, which then draws for itself.
    pub(crate) fn fork(&mut self) -> Rng {
        Rng(self.draw())
    }

    /// Any number.
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// True once in `times` on average.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = len.div_ceil(8);
        let mut bytes: Vec<u8> = (0..words).flat_map(|_| self.draw().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    /// A payload: mostly small, sometimes more than a page, now and then more than the smallest
    /// segment.
    pub(crate) fn payload(&mut self) -> Vec<u8> {
        let len = match self.below(40) {
            0..24 => self.below(200),
            24..34 => 400 + self.below(200),
            34..39 => 3_900 + self.below(500),
            _ => 20_000 + self.below(60_000),
        };
        self.bytes(len as usize)
    }
}
