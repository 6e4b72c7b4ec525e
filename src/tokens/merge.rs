//! How many tokens byte-level BPE makes of a word.
//!
//! The definition: the word's bytes are its first tokens; of all pairs of neighbours that a merge joins, the one whose
//! merge comes first in the file is joined, the leftmost of equals, until no merge applies.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Bits of a token's number and of a merge's rank in an entry of [`Merges`].
const BITS: u32 = 21;
/// Most merges that entries have room for: tokens are the 256 bytes and one a merge.
pub(super) const MOST: usize = (1 << BITS) - 257;
/// The rank of a pair that no merge joins.
const NONE: u32 = u32::MAX;
/// A place of the table that is free. No entry has all bits set: ranks are below [`MOST`].
const FREE: u64 = u64::MAX;
/// Words of at most so many bytes are merged in an array that is searched from end to end.
const SMALL: usize = 64;

/// The merges: pairs of tokens to ranks. Tokens are numbered by how they come about: a byte by its value, what the
/// merge of rank r makes 256 + r.
#[derive(Debug)]
pub(super) struct Merges {
    /// Open addressing; an entry is left, right and rank of [`BITS`] bits each.
    entries: Vec<u64>,
    shift: u32,
    /// Ranks of pairs of bytes, which every word starts with.
    bytes: Vec<u32>,
}

impl Merges {
    /// The table of `merges`: left, right and rank of each; the pairs are distinct.
    pub(super) fn new(merges: &[(u32, u32, u32)]) -> Self {
        let bits = (merges.len() * 3 / 2).next_power_of_two().ilog2().max(4);
        let mut table = Self { entries: vec![FREE; 1 << bits], shift: 64 - bits, bytes: vec![NONE; 1 << 16] };
        let mask = table.entries.len() - 1;
        for &(left, right, rank) in merges {
            if left < 256 && right < 256 {
                table.bytes[(left << 8 | right) as usize] = rank;
            }
            let pair = u64::from(left) << BITS | u64::from(right);
            let mut place = table.place(pair);
            while table.entries[place] != FREE {
                place = (place + 1) & mask;
            }
            table.entries[place] = pair << BITS | u64::from(rank);
        }
        table
    }

    #[inline]
    fn place(&self, pair: u64) -> usize {
        (pair.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// The rank of the merge that joins two tokens.
    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        let pair = u64::from(left) << BITS | u64::from(right);
        let mask = self.entries.len() - 1;
        let mut place = self.place(pair);
        loop {
            let entry = self.entries[place & mask];
            if entry >> BITS == pair {
                return (entry & ((1 << BITS) - 1)) as u32;
            }
            if entry == FREE {
                return NONE;
            }
            place += 1;
        }
    }

    #[inline]
    fn byte_rank(&self, left: u8, right: u8) -> u32 {
        self.bytes[usize::from(left) << 8 | usize::from(right)]
    }

    /// The tokens of `word`, counted.
    pub(super) fn count(&self, word: &[u8]) -> u64 {
        if word.len() <= SMALL { self.count_small(word) } else { self.count_long(word) }
    }

    fn count_small(&self, word: &[u8]) -> u64 {
        let mut tokens = [0_u32; SMALL];
        // ranks[i] is that of tokens i and i + 1; the last has none.
        let mut ranks = [NONE; SMALL];
        let mut length = word.len();
        for (to, &byte) in tokens.iter_mut().zip(word) {
            *to = u32::from(byte);
        }
        for (to, pair) in ranks.iter_mut().zip(word.windows(2)) {
            *to = self.byte_rank(pair[0], pair[1]);
        }
        loop {
            let mut best = NONE;
            let mut at = 0;
            for (i, &rank) in ranks[..length].iter().enumerate() {
                if rank < best {
                    best = rank;
                    at = i;
                }
            }
            if best == NONE {
                return length as u64;
            }
            length -= 1;
            tokens[at] = 256 + best;
            tokens.copy_within(at + 2..=length, at + 1);
            ranks.copy_within(at + 1..=length, at);
            ranks[at] = if at + 1 < length { self.rank(tokens[at], tokens[at + 1]) } else { NONE };
            if at > 0 {
                ranks[at - 1] = self.rank(tokens[at - 1], tokens[at]);
            }
        }
    }

    /// A heap of the pairs that can be joined, and a linked list of the tokens: O(n log n).
    fn count_long(&self, word: &[u8]) -> u64 {
        let end = word.len();
        let mut tokens: Vec<u32> = word.iter().map(|&byte| u32::from(byte)).collect();
        let mut next: Vec<usize> = (1..=end).collect();
        let mut before: Vec<usize> = (0..end).map(|i| i.wrapping_sub(1)).collect();
        let initial = word.windows(2).enumerate().map(|(at, pair)| Reverse((self.byte_rank(pair[0], pair[1]), at)));
        let mut heap: BinaryHeap<_> = initial.filter(|&Reverse((rank, _))| rank != NONE).collect();
        let mut length = end as u64;
        while let Some(Reverse((rank, at))) = heap.pop() {
            // A token that is gone has no next, and one that changed makes no pair of this rank any more.
            let right = next[at];
            if right >= end || self.rank(tokens[at], tokens[right]) != rank {
                continue;
            }
            length -= 1;
            tokens[at] = 256 + rank;
            let after = next[right];
            next[at] = after;
            next[right] = usize::MAX;
            if after < end {
                before[after] = at;
                let rank = self.rank(tokens[at], tokens[after]);
                if rank != NONE {
                    heap.push(Reverse((rank, at)));
                }
            }
            let left = before[at];
            if left < end {
                let rank = self.rank(tokens[left], tokens[at]);
                if rank != NONE {
                    heap.push(Reverse((rank, left)));
                }
            }
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, step by step.
    fn textbook(merges: &[(u32, u32, u32)], word: &[u8]) -> u64 {
        let mut tokens: Vec<u32> = word.iter().map(|&byte| u32::from(byte)).collect();
        loop {
            let rank = |pair: &[u32]| merges.iter().find(|merge| [merge.0, merge.1] == *pair).map(|merge| merge.2);
            let found = tokens.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min();
            let Some((rank, at)) = found else { return tokens.len() as u64 };
            tokens.splice(at..at + 2, [256 + rank]);
        }
    }

    /// Merges over three letters, each of two tokens that exist by then or will later, no two alike.
    fn merges() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
        let part = prop_oneof![97..100_u32, 256..280_u32];
        proptest::collection::vec((part.clone(), part), 0..24).prop_map(|pairs| {
            let mut merges: Vec<(u32, u32, u32)> = Vec::new();
            for (left, right) in pairs {
                if !merges.iter().any(|merge| (merge.0, merge.1) == (left, right)) {
                    merges.push((left, right, merges.len() as u32));
                }
            }
            merges
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn both_ways_count_as_the_definition_does(
            merges in merges(),
            word in proptest::collection::vec(97..100_u8, 1..=SMALL),
            longer in proptest::collection::vec(97..100_u8, SMALL..200),
        ) {
            let table = Merges::new(&merges);
            prop_assert_eq!(table.count_small(&word), textbook(&merges, &word));
            prop_assert_eq!(table.count_long(&word), textbook(&merges, &word));
            prop_assert_eq!(table.count(&longer), textbook(&merges, &longer));
        }
    }

    #[test]
    fn the_leftmost_of_equals_is_joined_first() {
        let (a, aa) = (97, 256);
        let table = Merges::new(&[(a, a, 0), (aa, aa, 1), (aa, a, 2)]);
        assert_eq!(table.count(b"aaa"), 1); // aa a
        assert_eq!(table.count(b"aaaaaaa"), 2); // aaaa aaa
    }

    #[test]
    fn no_merges_leave_bytes() {
        let table = Merges::new(&[]);
        assert_eq!(table.count(b"word"), 4);
        assert_eq!(table.count(&[b'a'; 1000]), 1000);
    }
}
