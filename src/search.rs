//! Search among ordered keys that can only be read one by one.

use std::ops::Range;

/// The keys of one ordinal.
pub(crate) struct Keys<T> {
    /// The key of the ordinal before, if it is known without reading that one.
    pub(crate) before: Option<u64>,
    pub(crate) key: u64,
    /// Returned with the ordinal that is found.
    pub(crate) found: T,
}

/// The first ordinal in `range` whose key is above `wanted`, and what was read there. `None` if
/// there is none. Keys never descend.
///
/// The search begins at `guess` and continues in steps that double, then halves what is left. So it
/// reads O(log n) keys, and one or two if the guess is right.
pub(crate) fn search_keys<T, E>(
    range: Range<u64>,
    guess: u64,
    wanted: u64,
    mut read: impl FnMut(u64) -> Result<Keys<T>, E>,
) -> Result<Option<(u64, T)>, E> {
    // Invariant: keys below `low` are not above `wanted`; `best` is the ordinal at `high`, if that
    // was read and is above.
    let (mut low, mut high, mut best) = (range.start, range.end, None);
    let mut probe = guess;
    let (mut way, mut leap) = (None, Some(1));
    while low < high {
        probe = probe.clamp(low, high - 1);
        let keys = read(probe)?;
        let is_above = keys.key > wanted;
        if !is_above {
            low = probe + 1;
        } else {
            match keys.before {
                Some(before) if before <= wanted => return Ok(Some((probe, keys.found))),
                // The ordinal before it is above too.
                Some(_) => best = None,
                None => best = Some((probe, keys.found)),
            }
            high = probe;
        }
        leap = leap.filter(|_| *way.get_or_insert(is_above) == is_above);
        probe = match leap {
            None => low + high.saturating_sub(low) / 2,
            Some(leap) if is_above => high.saturating_sub(leap),
            Some(leap) => low.saturating_add(leap - 1),
        };
        leap = leap.map(|leap: u64| leap.saturating_mul(2));
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_look_at_all_finds_from_every_guess(
            steps in prop::collection::vec(prop_oneof![Just(0u64), 1..3u64, 0..1000u64], 0..60),
            start in 0..9u64,
            tells_before in any::<bool>(),
        ) {
            let mut key = start;
            let keys: Vec<u64> = steps.iter().map(|step| { key += step; key }).collect();
            let around = keys.iter().flat_map(|&key| [key.saturating_sub(1), key, key + 1]);
            for wanted in around.chain([start, u64::MAX]).filter(|&wanted| wanted >= start) {
                let expected = keys.partition_point(|&key| key <= wanted);
                for guess in [0, expected, keys.len() / 2, keys.len(), usize::MAX] {
                    let reads = Cell::new(0);
                    let read = |at: u64| {
                        reads.set(reads.get() + 1);
                        let before = at.checked_sub(1).map_or(start, |at| keys[at as usize]);
                        let key = keys[at as usize];
                        Ok::<_, Infallible>(Keys {
                            before: tells_before.then_some(before),
                            key,
                            found: key,
                        })
                    };
                    let found = search_keys(0..keys.len() as u64, guess as u64, wanted, read);
                    let hit = keys.get(expected).map(|&key| (expected as u64, key));
                    prop_assert_eq!(found.unwrap(), hit, "{} from {} in {:?}", wanted, guess, keys);
                    prop_assert!(reads.get() <= 14, "{} reads", reads.get());
                }
            }
        }
    }
}
