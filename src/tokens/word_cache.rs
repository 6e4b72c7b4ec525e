//! A cache of the token counts of words, of bounded size.
//!
//! Whole words are compared byte for byte, so a hash collision costs time but never a wrong count. An entry is N integers
//! of 64 bits that hold up to 8 N - 2 bytes of text, the length and the count: no pointers, nothing to free. A set has two
//! neighbouring entries; a new word takes the first, and its former word moves to the second.

use crate::error::Error;
use crate::memory;

/// Bits of the number of entries of each of the three tables.
const BITS: [u32; 3] = [16, 15, 15];

/// Bytes of the longest word that fits an entry of N integers.
const fn longest(words: usize) -> usize {
    8 * words - 2
}

/// Bytes of the longest word that is cached.
pub(super) const LONGEST: usize = longest(8);

/// Words of up to 62 bytes and their counts: 4 MB when full.
#[derive(Debug)]
pub(super) struct WordCache {
    short: Table<2>,
    middle: Table<4>,
    long: Table<8>,
}

impl WordCache {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { short: Table::new(BITS[0])?, middle: Table::new(BITS[1])?, long: Table::new(BITS[2])? })
    }

    /// The count of `text[start..end]`, which is not empty. Calls `count` where the word is not cached.
    #[inline]
    pub(super) fn get(&mut self, text: &[u8], start: usize, end: usize, count: impl FnMut(&[u8]) -> u64) -> u64 {
        let length = end - start;
        if length <= longest(2) {
            self.short.get(text, start, end, count)
        } else if length <= longest(4) {
            self.middle.get(text, start, end, count)
        } else if length <= longest(8) {
            self.long.get(text, start, end, count)
        } else {
            let mut count = count;
            count(&text[start..end])
        }
    }
}

#[derive(Debug)]
struct Table<const N: usize> {
    entries: Vec<[u64; N]>,
    shift: u32,
}

/// The position of the count in the last integer of an entry.
const COUNT_SHIFT: u32 = 56;
/// The last integer without the count.
const KEY: u64 = (1 << COUNT_SHIFT) - 1;

impl<const N: usize> Table<N> {
    fn new(bits: u32) -> Result<Self, Error> {
        memory::check(size_of::<[u64; N]>() << bits)?;
        // The system zeroes pages when they are first touched, so unused ones take no memory. No word is empty, so no
        // key is zero.
        Ok(Self { entries: vec![[0; N]; 1 << bits], shift: 64 - bits })
    }

    #[inline]
    fn get(&mut self, text: &[u8], start: usize, end: usize, mut count: impl FnMut(&[u8]) -> u64) -> u64 {
        let key = key::<N>(text, start, end - start);
        let place = (hash(&key) >> self.shift) as usize;
        for place in [place, place ^ 1] {
            let entry = &self.entries[place];
            // Comparing all integers is faster than stopping at the first difference.
            let text = entry[..N - 1].iter().zip(&key[..N - 1]).fold(0, |differ, (a, b)| differ | (a ^ b));
            if text | (entry[N - 1] ^ key[N - 1]) & KEY == 0 {
                return entry[N - 1] >> COUNT_SHIFT;
            }
        }
        // A token is a byte or more, so the count of a cached word is at most 62.
        let count = count(&text[start..end]);
        self.entries[place ^ 1] = self.entries[place];
        let entry = &mut self.entries[place];
        *entry = key;
        entry[N - 1] |= count << COUNT_SHIFT;
        count
    }
}

/// A word of at most 8 N - 2 bytes, zeros, and the length in the last byte but one. Where the text is long enough, whole
/// integers are read and the bytes after the word masked.
#[inline]
fn key<const N: usize>(text: &[u8], start: usize, length: usize) -> [u64; N] {
    let mut key = [0; N];
    if let Some(eights) = text[start..].as_chunks::<8>().0.get(..N) {
        for (i, (to, &eight)) in key.iter_mut().zip(eights).enumerate() {
            let mine = length.saturating_sub(8 * i).min(8) as u32;
            *to = u64::from_le_bytes(eight) & u64::MAX.checked_shr(64 - 8 * mine).unwrap_or(0);
        }
    } else {
        let (whole, rest) = text[start..start + length].as_chunks::<8>();
        for (to, &eight) in key.iter_mut().zip(whole) {
            *to = u64::from_le_bytes(eight);
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        key[whole.len()] |= u64::from_le_bytes(last);
    }
    key[N - 1] |= (length as u64) << 48;
    key
}

/// Mix all bits into the high ones. The factors are the fractions of the golden ratio and of the square root of 3.
#[inline]
fn hash<const N: usize>(key: &[u64; N]) -> u64 {
    let mut state = 0;
    for &word in key {
        state = fold(state ^ word, 0x9E37_79B9_7F4A_7C15);
    }
    state.wrapping_mul(0xBB67_AE85_84CA_A73B)
}

/// The exclusive or of both halves of a product.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_counted_once_whatever_surrounds_it() {
        for length in 1..=62 {
            let mut cache = WordCache::new().expect("memory");
            let word: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let mut calls = 0;
            for around in [0, 1, 40] {
                let mut text = vec![0xFF; around];
                text.extend(&word);
                text.extend(vec![0xEE; around]);
                let count = cache.get(&text, around, around + length, |found| {
                    calls += 1;
                    assert_eq!(found, word);
                    length as u64
                });
                assert_eq!(count, length as u64);
            }
            assert_eq!(calls, 1);
        }
    }

    #[test]
    fn words_of_zeros_differ_by_their_length() {
        let mut cache = WordCache::new().expect("memory");
        let text = [0; 80];
        for length in 1..=70 {
            assert_eq!(cache.get(&text, 0, length, |_| length as u64 % 62), length as u64 % 62);
        }
        for length in 1..=62 {
            let mut again = 0;
            cache.get(&text, 0, length, |_| {
                again += 1;
                length as u64
            });
            assert!(again <= 1);
        }
    }

    #[test]
    fn counts_stay_right_when_a_full_cache_evicts() {
        let mut cache = WordCache::new().expect("memory");
        for round in 0..2 {
            for i in 0..200_000_u64 {
                let word = format!("{i}{}", "x".repeat(i as usize % 50));
                let expected = i % 61 + 1;
                assert_eq!(cache.get(word.as_bytes(), 0, word.len(), |_| expected), expected, "{round}");
            }
        }
    }
}
