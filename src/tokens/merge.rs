//! How many tokens byte-level BPE makes of a word.
//!
//! The definition: the word's bytes are its first tokens; of all pairs of neighbours that a merge joins, the one whose
//! merge comes first in the file is joined, the leftmost of equals, until no merge applies.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::split::decode;

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

/// Bits of a pair's hash that the filter is indexed by.
const FILTER: u32 = 21;

/// A pair's hash, of which the high bits count.
#[inline]
fn spread(pair: u64) -> u64 {
    let product = u128::from(pair) * 0x9E37_79B9_7F4A_7C15_u128;
    ((product >> 64) as u64 ^ product as u64).wrapping_mul(0xBB67_AE85_84CA_A73B)
}

/// The merges of a file. Tokens are numbered by how they come about: a byte by its value, what the merge of rank r makes
/// 256 + r.
#[derive(Debug, Default)]
pub(super) struct Numbered {
    /// Left, right and rank of each merge that can happen; the pairs are distinct.
    pub(super) merges: Vec<(u32, u32, u32)>,
    /// The last byte of the left and the first of the right token of each merge that can join two characters and a part
    /// of one of them is not in it.
    cuts: Vec<(u8, u8)>,
    /// Characters of two or three bytes that a merge makes.
    characters: Vec<(char, u32)>,
}

impl Numbered {
    /// Note what the merge of a rank is to characters.
    pub(super) fn look_at(&mut self, left: &[u8], right: &[u8], rank: u32) {
        let (Some(&last), Some(&first)) = (left.last(), right.first()) else { return };
        let continues = |byte: u8| byte & 0xC0 == 0x80;
        if !continues(first) {
            if str::from_utf8(left).is_err() || str::from_utf8(right).is_err() {
                self.cuts.push((last, first));
            }
        } else if left.len() + right.len() <= 3
            && let Ok(text) = str::from_utf8(&[left, right].concat())
            && let Some(c) = text.chars().next().filter(|c| c.len_utf8() == text.len())
        {
            self.characters.push((c, 256 + rank));
        }
    }
}

/// The merges as tables.
///
/// A word need not be merged from its bytes. In a vocabulary that was trained, every merge comes after those that make
/// its parts; then the merges within a character are the same whatever stands around it, unless a merge takes a part
/// of it across its border. There are few of those (149 of Qwen3's 151,387 merges), and whether one may apply is told by
/// the two bytes at the border. So a character between two harmless borders starts as the token that its bytes make.
#[derive(Debug)]
pub(super) struct Merges {
    /// Open addressing; an entry is left, right and rank of [`BITS`] bits each.
    entries: Vec<u64>,
    shift: u32,
    /// A bit for each value of [`FILTER`] bits that a pair is hashed to: most pairs are joined by no merge, and this
    /// tells it of most of them within the second level of the processor's cache.
    filter: Vec<u64>,
    /// The token that each character below U+10000 starts as, or 0.
    characters: Vec<u32>,
    /// A bit for each two bytes at a border that a merge may cut a character at.
    cuts: Vec<u64>,
}

impl Merges {
    pub(super) fn new(numbered: &Numbered) -> Self {
        let merges = &numbered.merges;
        let bits = (merges.len() * 3 / 2).next_power_of_two().ilog2().max(4);
        let entries = vec![FREE; 1 << bits];
        let filter = vec![0; 1 << (FILTER - 6)];
        let mut table =
            Self { entries, shift: 64 - bits, filter, characters: vec![0; 1 << 16], cuts: vec![0; 1 << 10] };
        let mask = table.entries.len() - 1;
        for &(left, right, rank) in merges {
            let pair = u64::from(left) << BITS | u64::from(right);
            let hash = spread(pair);
            let bit = (hash >> (64 - FILTER)) as usize;
            table.filter[bit / 64] |= 1 << (bit % 64);
            let mut place = (hash >> table.shift) as usize;
            while table.entries[place] != FREE {
                place = (place + 1) & mask;
            }
            table.entries[place] = pair << BITS | u64::from(rank);
        }
        for &(last, first) in &numbered.cuts {
            let border = usize::from(last) << 8 | usize::from(first);
            table.cuts[border / 64] |= 1 << (border % 64);
        }
        if merges.iter().all(|&(left, right, rank)| left.max(right) < 256 + rank) {
            let alone: Vec<_> = numbered
                .characters
                .iter()
                .filter(|(c, _)| {
                    let mut bytes = [0; 4];
                    table.count(c.encode_utf8(&mut bytes).as_bytes()) == 1
                })
                .collect();
            for &&(c, token) in &alone {
                table.characters[c as usize] = token;
            }
        }
        table
    }

    #[inline]
    fn cuts(&self, last: u8, first: u8) -> bool {
        let border = usize::from(last) << 8 | usize::from(first);
        self.cuts[border / 64] >> (border % 64) & 1 != 0
    }

    /// The tokens that a word is merged from.
    #[inline]
    fn start(&self, word: &[u8], mut push: impl FnMut(u32)) {
        let mut at = 0;
        while let Some(&first) = word.get(at) {
            if first < 0x80 {
                push(u32::from(first));
                at += 1;
                continue;
            }
            let (scalar, length) = decode(&word[at..]);
            let token = self.characters.get(scalar as usize).copied().unwrap_or(0);
            let end = at + length;
            let cut_before = at > 0 && self.cuts(word[at - 1], first);
            let cut_after = word.get(end).is_some_and(|&next| self.cuts(word[end - 1], next));
            if token == 0 || cut_before || cut_after {
                word[at..end].iter().for_each(|&byte| push(u32::from(byte)));
            } else {
                push(token);
            }
            at = end;
        }
    }

    /// The rank of the merge that joins two tokens.
    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        let pair = u64::from(left) << BITS | u64::from(right);
        let mask = self.entries.len() - 1;
        let hash = spread(pair);
        let bit = (hash >> (64 - FILTER)) as usize;
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return NONE;
        }
        let mut place = (hash >> self.shift) as usize;
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

    /// The tokens of `word`, which is UTF-8, counted.
    pub(super) fn count(&self, word: &[u8]) -> u64 {
        if word.len() <= SMALL { self.count_small(word) } else { self.count_long(word) }
    }

    fn count_small(&self, word: &[u8]) -> u64 {
        let mut tokens = [0_u32; SMALL];
        let mut length = 0;
        self.start(word, |token| {
            tokens[length] = token;
            length += 1;
        });
        // ranks[i] is that of tokens i and i + 1; the last has none.
        let mut ranks = [NONE; SMALL];
        for (to, pair) in ranks.iter_mut().zip(tokens[..length].windows(2)) {
            *to = self.rank(pair[0], pair[1]);
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

    /// The pairs that can be joined in order, those of the start sorted, those that come about in a heap; and a linked
    /// list of the tokens: O(n log n).
    fn count_long(&self, word: &[u8]) -> u64 {
        let mut tokens = Vec::with_capacity(word.len());
        self.start(word, |token| tokens.push(token));
        let end = tokens.len();
        let mut next: Vec<usize> = (1..=end).collect();
        let mut before: Vec<usize> = (0..end).map(|i| i.wrapping_sub(1)).collect();
        let pairs = tokens.windows(2).enumerate().map(|(at, pair)| (self.rank(pair[0], pair[1]), at));
        let mut first: Vec<u64> = pairs.filter(|&(rank, _)| rank != NONE).map(|(rank, at)| keyed(rank, at)).collect();
        first.sort_unstable();
        let mut first = first.into_iter().peekable();
        let mut later: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
        let mut length = end as u64;
        loop {
            let taken = match (first.peek(), later.peek()) {
                (Some(&a), Some(&Reverse(b))) if a > b => later.pop().map(|Reverse(b)| b),
                (None, _) => later.pop().map(|Reverse(b)| b),
                _ => first.next(),
            };
            let Some(key) = taken else { return length };
            let (rank, at) = ((key >> PLACE_BITS) as u32, (key & ((1 << PLACE_BITS) - 1)) as usize);
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
                    later.push(Reverse(keyed(rank, at)));
                }
            }
            let left = before[at];
            if left < end {
                let rank = self.rank(tokens[left], tokens[at]);
                if rank != NONE {
                    later.push(Reverse(keyed(rank, left)));
                }
            }
        }
    }
}

/// Bits of a place in a word, which is more than memory has bytes.
const PLACE_BITS: u32 = 64 - BITS;

/// A rank and a place as one number that is ordered by rank, then place.
fn keyed(rank: u32, place: usize) -> u64 {
    u64::from(rank) << PLACE_BITS | place as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbered(merges: Vec<(u32, u32, u32)>) -> Numbered {
        Numbered { merges, ..Numbered::default() }
    }

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
            let table = Merges::new(&numbered(merges.clone()));
            prop_assert_eq!(table.count_small(&word), textbook(&merges, &word));
            prop_assert_eq!(table.count_long(&word), textbook(&merges, &word));
            prop_assert_eq!(table.count(&longer), textbook(&merges, &longer));
        }
    }

    /// The bytes of a merge's tokens.
    type Pair = (Vec<u8>, Vec<u8>);

    /// Merges over the bytes of characters that share some, such as "é" and "è", "中" and "丮"; in the order of training
    /// or in any other.
    fn merges_of_characters() -> impl Strategy<Value = (Vec<Pair>, String)> {
        let text =
            proptest::collection::vec(proptest::sample::select("aéèŠ中丮亭😀😁".chars().collect::<Vec<_>>()), 1..40);
        let text = text.prop_map(String::from_iter);
        (text, any::<bool>(), proptest::collection::vec(any::<u16>(), 0..40)).prop_map(|(text, trained, picks)| {
            // Each merge joins two neighbours of the text as it is merged so far: what training would do.
            let mut tokens: Vec<Vec<u8>> = text.bytes().map(|byte| vec![byte]).collect();
            let mut merges: Vec<Pair> = Vec::new();
            for pick in picks {
                if tokens.len() < 2 {
                    break;
                }
                let at = usize::from(pick) % (tokens.len() - 1);
                let pair = (tokens[at].clone(), tokens[at + 1].clone());
                let joined = [&pair.0[..], &pair.1].concat();
                if merges.iter().any(|(left, right)| [&left[..], right].concat() == joined) {
                    continue;
                }
                let mut i = 0;
                while i + 1 < tokens.len() {
                    if tokens[i] == pair.0 && tokens[i + 1] == pair.1 {
                        tokens.splice(i..i + 2, [joined.clone()]);
                    }
                    i += 1;
                }
                merges.push(pair);
            }
            if !trained {
                merges.reverse();
            }
            (merges, text)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn words_that_start_as_characters_count_as_those_that_start_as_bytes((pairs, text) in merges_of_characters()) {
            let number = |token: &[u8]| {
                if let [byte] = token {
                    return Some(u32::from(*byte));
                }
                let made = |(left, right): &Pair| [&left[..], right].concat() == token;
                pairs.iter().position(made).map(|rank| 256 + rank as u32)
            };
            let mut numbered = Numbered::default();
            for (rank, (left, right)) in pairs.iter().enumerate() {
                numbered.look_at(left, right, rank as u32);
                if let (Some(left), Some(right)) = (number(left), number(right)) {
                    numbered.merges.push((left, right, rank as u32));
                }
            }
            let expected = textbook(&numbered.merges, text.as_bytes());
            let table = Merges::new(&numbered);
            prop_assert_eq!(table.count(text.as_bytes()), expected);
            prop_assert_eq!(table.count_long(text.as_bytes()), expected);
        }
    }

    #[test]
    fn the_leftmost_of_equals_is_joined_first() {
        let (a, aa) = (97, 256);
        let table = Merges::new(&numbered(vec![(a, a, 0), (aa, aa, 1), (aa, a, 2)]));
        assert_eq!(table.count(b"aaa"), 1); // aa a
        assert_eq!(table.count(b"aaaaaaa"), 2); // aaaa aaa
    }

    #[test]
    fn no_merges_leave_bytes() {
        let table = Merges::new(&numbered(vec![]));
        assert_eq!(table.count(b"word"), 4);
        assert_eq!(table.count(&[b'a'; 1000]), 1000);
    }
}
