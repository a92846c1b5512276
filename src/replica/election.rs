//! Election timeouts, drawn from a seed: the same seed and inputs give the same elections.

use crate::entry::NodeId;

/// Draws election timeouts. Raft's own draw cannot be seeded, so it is replaced after every call
/// that may have made one.
#[derive(Debug)]
pub(crate) struct ElectionTimeouts {
    seed: u64,
    node: NodeId,
    /// The timeout lies in `min..max` ticks.
    min: usize,
    max: usize,
    draws: u64,
}

impl ElectionTimeouts {
    pub(crate) fn new(seed: u64, node: NodeId, min: usize, max: usize) -> ElectionTimeouts {
        assert!(min < max, "the builder leaves at least one timeout to draw");
        ElectionTimeouts { seed, node, min, max, draws: 0 }
    }

    /// The next timeout, in ticks.
    pub(crate) fn draw(&mut self, term: u64) -> usize {
        self.draws += 1;
        let mut drawn = splitmix64(self.seed);
        for value in [self.node.get(), term, self.draws] {
            drawn = splitmix64(drawn ^ value);
        }
        self.min + (drawn % (self.max - self.min) as u64) as usize
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
/// 2014).
pub(crate) fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_timeouts_and_another_node_draws_others() {
        let draw = |seed, node: u64| {
            let mut timeouts = ElectionTimeouts::new(seed, node.into(), 20, 40);
            (0..32).map(|term| timeouts.draw(term)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 1), draw(1, 1));
        assert_ne!(draw(1, 1), draw(1, 2));
        assert_ne!(draw(1, 1), draw(2, 1));
    }

    #[test]
    fn every_timeout_between_the_bounds_is_drawn_and_not_the_same_one_twice_in_a_term() {
        for (min, max) in [(20, 40), (3, 4), (5, 15)] {
            let mut timeouts = ElectionTimeouts::new(1, 1.into(), min, max);
            let drawn: Vec<usize> = (0..40 * max).map(|_| timeouts.draw(7)).collect();
            let seen: std::collections::BTreeSet<usize> = drawn.into_iter().collect();
            assert_eq!(
                seen,
                (min..max).collect(),
                "two that lose patience together would do so for ever"
            );
        }
    }

    #[test]
    fn the_finalizer_is_the_published_one() {
        // The first values of SplitMix64 from the seed 0, whose state grows by the constant that is
        // added here.
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let first = [0, step, step.wrapping_mul(2)].map(splitmix64);
        assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }
}
