//! A tree of maxima over small values: it finds the next value that is high enough.

/// The highest value. It leaves the high bit of its byte free for comparisons.
pub(super) const HIGHEST: u8 = 127;

const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES << 7;

/// Values up to [`HIGHEST`], eight to a word, below a tree of their maxima.
pub(super) struct MaxTree(Vec<Vec<u64>>);

impl MaxTree {
    /// A tree of `count` zeros, at least one.
    pub(super) fn new(count: usize) -> Self {
        let mut levels = Vec::new();
        let mut words = count;
        loop {
            words = words.div_ceil(8);
            levels.push(vec![0; words]);
            if words <= 1 {
                return Self(levels);
            }
        }
    }

    /// Change one value.
    pub(super) fn set(&mut self, mut at: usize, mut value: u8) {
        let mut rises = false;
        for level in &mut self.0 {
            let word = &mut level[at / 8];
            let shift = 8 * (at % 8);
            let was = (*word >> shift) as u8;
            if was == value || (rises && was > value) {
                return;
            }
            rises = value > was;
            *word ^= u64::from(was ^ value) << shift;
            if !rises {
                // The maximum stays if another value of the word is as high as this one was.
                value = most(*word);
                if value >= was {
                    return;
                }
            }
            at /= 8;
        }
    }

    /// The first position from `start` on whose value is at least `least`, which is above 0.
    pub(super) fn first(&self, start: usize, least: u8) -> Option<usize> {
        let mut at = start;
        for (height, level) in self.0.iter().enumerate() {
            let enough = at_least(*level.get(at / 8)?, least) & (u64::MAX << (8 * (at % 8)));
            if enough != 0 {
                at = at / 8 * 8 + enough.trailing_zeros() as usize / 8;
                for lower in self.0[..height].iter().rev() {
                    at = at * 8 + at_least(lower[at], least).trailing_zeros() as usize / 8;
                }
                return Some(at);
            }
            at = at / 8 + 1;
        }
        None
    }
}

/// The high bit of each byte of `word` that is at least `least`. No subtraction borrows from the next byte.
fn at_least(word: u64, least: u8) -> u64 {
    ((word | HIGH) - ONES * u64::from(least)) & HIGH
}

/// The highest byte.
fn most(word: u64) -> u8 {
    word.to_le_bytes().into_iter().fold(0, u8::max)
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn the_first_value_that_is_high_enough_is_found() {
        let mut random = Random::new(3);
        for count in [1, 7, 8, 9, 64, 65, 513, 4_100] {
            let mut tree = MaxTree::new(count);
            let mut values = vec![0; count];
            for step in 0..4_000 {
                let at = random.below(count as u32) as usize;
                // Mostly zeros first, as with buckets, then mostly others.
                let value = if random.below(4_000) < step { random.below(128) as u8 } else { 0 };
                tree.set(at, value);
                values[at] = value;
                let (start, least) = (random.below(count as u32 + 1) as usize, 1 + random.below(127) as u8);
                let expected = (start..count).find(|&at| values[at] >= least);
                assert_eq!(tree.first(start, least), expected, "{count} values, from {start}, at least {least}");
            }
        }
    }
}
