//! Sorting documents by a key.

use super::instance::Instance;

/// Bits of a digit. The counts of all digits fit the first-level cache.
const DIGIT: u32 = 11;

/// Documents up to which a comparison sort is as fast.
const FEW: usize = 4096;

/// Documents by descending tokens, ties by position.
pub(super) fn decreasing(instance: &Instance) -> Vec<u32> {
    by_descending(instance.tokens.iter().copied())
}

/// Positions by descending key, ties by position.
pub(super) fn by_descending(keys: impl Iterator<Item = u32>) -> Vec<u32> {
    // Key and position in one integer: several times faster than sorting positions by a key function.
    let mut words: Vec<u64> = keys.enumerate().map(|(i, key)| (u64::from(u32::MAX - key) << 32) | i as u64).collect();
    if words.len() <= FEW {
        words.sort_unstable();
    } else {
        by_digits(&mut words);
    }
    words.iter().map(|&word| word as u32).collect()
}

/// Radix sort by the high halves, from the lowest digit up. The low halves ascend and stay in order.
fn by_digits(words: &mut Vec<u64>) {
    // Leading bits that are equal everywhere need no pass.
    let varied = words.iter().fold(0, |bits, word| bits | (word ^ words[0])) >> 32;
    let bits = u64::BITS - varied.leading_zeros();
    let passes = bits.div_ceil(DIGIT);
    let mut sorted = vec![0; words.len()];
    for pass in 0..passes {
        let width = bits.div_ceil(passes);
        let digit = |word: u64| (word >> (32 + pass * width)) as usize & ((1 << width) - 1);
        let mut starts = vec![0u32; 1 << width];
        for &word in &*words {
            starts[digit(word)] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        for &word in &*words {
            let at = &mut starts[digit(word)];
            sorted[*at as usize] = word;
            *at += 1;
        }
        std::mem::swap(words, &mut sorted);
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn keys_descend_and_ties_keep_their_order() {
        let mut random = Random::new(5);
        for most in [1, 7, 2_000, 32_000, 1 << 22, u32::MAX] {
            for n in [0, 1, 100, FEW, FEW + 1, 20_000] {
                let keys: Vec<u32> = (0..n).map(|_| random.below(most)).collect();
                let mut expected: Vec<u32> = (0..n as u32).collect();
                expected.sort_by_key(|&i| std::cmp::Reverse(keys[i as usize]));
                assert_eq!(by_descending(keys.into_iter()), expected, "{n} keys below {most}");
            }
        }
    }
}
