//! Random numbers. All random choices of a simulation derive from its seed.

use crate::replica::splitmix64;

/// A generator (SplitMix64). The same seed gives the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(splitmix64(seed))
    }

    /// A generator for one part of the simulation: one more draw in a part does not change the
    /// others.
    pub(crate) fn fork(&self, part: u64) -> Rng {
        Rng(splitmix64(self.0 ^ splitmix64(part)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        splitmix64(self.0)
    }

    /// 0 to `limit` - 1. 0 if `limit` is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // Limits are small, so the bias is far below anything that a simulation could notice.
        if limit == 0 { 0 } else { self.next() % limit }
    }

    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// True with a probability of `ppm` millionths.
    pub(crate) fn happens(&mut self, ppm: u64) -> bool {
        ppm > 0 && self.below(1_000_000) < ppm
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.happens(percent * 10_000)
    }

    /// Exponentially distributed with this mean. In integers, as floating-point logarithms differ
    /// between machines.
    pub(crate) fn around(&mut self, mean: u64) -> u64 {
        let draw = self.next() | 1;
        let whole = u64::from(draw.leading_zeros());
        // Linear interpolation of the logarithm between two powers of two.
        let part = !((draw << whole) << 1) >> 48;
        // ln 2 in 1/65536.
        let logarithm = (((whole << 16) + part) * 45_426) >> 16;
        ((u128::from(mean) * u128::from(logarithm)) >> 16) as u64
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// The place of one of `weights`, each with a probability in proportion to it. `None` if all
    /// are 0.
    pub(crate) fn weighted(&mut self, weights: &[u64]) -> Option<usize> {
        let mut left = self.below(weights.iter().sum());
        weights.iter().position(|&weight| {
            let found = left < weight;
            left = left.saturating_sub(weight);
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_around_a_mean_has_that_mean() {
        let mut rng = Rng::new(1);
        let sum: u64 = (0..100_000).map(|_| rng.around(1_000)).sum();
        assert!((950..1_080).contains(&(sum / 100_000)), "{}", sum / 100_000);
    }

    #[test]
    fn weights_are_kept_and_forks_differ() {
        let mut rng = Rng::new(7);
        let mut seen = [0; 3];
        for _ in 0..10_000 {
            seen[rng.weighted(&[3, 0, 1]).unwrap()] += 1;
        }
        assert!(seen[1] == 0 && (7_200..7_800).contains(&seen[0]), "{seen:?}");
        assert_eq!(rng.weighted(&[0, 0]), None);
        assert_ne!(rng.fork(1).next(), rng.fork(2).next());
    }
}
