//! Byte-level BPE: the number of tokens of a word.
//!
//! The definition: a word starts as one token a byte. Of all neighbouring tokens that some merge joins, those whose merge
//! comes first in the file are joined, the leftmost pair of equals first, until no merge applies.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::characters::decode;
use super::interrupts::Poll;
use crate::error::Error;
use crate::memory;

/// Bits of a token's id and of a merge's rank in an entry of [`Merges`].
const BITS: u32 = 21;
/// Most merges that fit the entries: the tokens are the 256 bytes and one for each merge.
pub(super) const MOST: usize = (1 << BITS) - 257;
/// The rank of a pair that no merge joins.
const NONE: u32 = u32::MAX;
/// A free slot of the table. No entry has all bits set, because ranks are below [`MOST`].
const FREE: u64 = u64::MAX;
/// Words up to this many bytes are merged in an array, with a linear search for each merge.
const SMALL: usize = 64;
/// Pairs that are sorted at once: a few milliseconds of work.
const RUN: usize = 1 << 17;
/// Merges between two polls, a power of two.
const POLL_MERGES: usize = 1 << 12;

/// Bits of a pair's hash that index the filter.
const FILTER: u32 = 21;

/// A hash of a pair, to be used by its high bits.
#[inline]
fn hash(pair: u64) -> u64 {
    let product = u128::from(pair) * 0x9E37_79B9_7F4A_7C15_u128;
    ((product >> 64) as u64 ^ product as u64).wrapping_mul(0xBB67_AE85_84CA_A73B)
}

/// The merges of a file, with an id for each token: its value for a byte, 256 + r for the result of the merge of rank
/// r.
#[derive(Debug, Default)]
pub(super) struct Numbered {
    /// Left, right and rank of each merge that can happen; the pairs are distinct.
    pub(super) merges: Vec<(u32, u32, u32)>,
    /// The bytes on both sides of the join, for each merge that joins across a character boundary and has only a part of
    /// one of the two characters.
    cuts: Vec<(u8, u8)>,
    /// Characters of two or three bytes that are the result of a merge.
    characters: Vec<(char, u32)>,
}

impl Numbered {
    /// Record the merge in `cuts` or `characters`, if it belongs there.
    pub(super) fn classify(&mut self, left: &[u8], right: &[u8], rank: u32) {
        let (Some(&last), Some(&first)) = (left.last(), right.first()) else { return };
        let is_continuation = |byte: u8| byte & 0xC0 == 0x80;
        if !is_continuation(first) {
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
/// A word need not be merged from its bytes. In a trained vocabulary every merge comes after the merges that make its
/// parts, so the merges within a character do not depend on its neighbours, unless a merge joins a part of it across its
/// boundary. Few merges do (149 of Qwen3's 151,387), and the two bytes at the boundary show where one may apply. At all
/// other boundaries a character starts as the token that its bytes merge to.
#[derive(Debug)]
pub(super) struct Merges {
    /// A hash table with open addressing. An entry is left, right and rank, of [`BITS`] bits each.
    entries: Vec<u64>,
    shift: u32,
    /// A bit for each hash of [`FILTER`] bits that some pair has. No merge joins most pairs; the filter rejects most of
    /// those, and fits the second-level cache.
    filter: Vec<u64>,
    /// The token that each character below U+10000 merges to, or 0.
    characters: Vec<u32>,
    /// A bit for each two bytes at a character boundary across which a merge may join a part of a character.
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
            let hash = hash(pair);
            let bit = (hash >> (64 - FILTER)) as usize;
            table.filter[bit / 64] |= 1 << (bit % 64);
            let mut place = (hash >> table.shift) as usize;
            while table.entries[place] != FREE {
                place = (place + 1) & mask;
            }
            table.entries[place] = pair << BITS | u64::from(rank);
        }
        for &(last, first) in &numbered.cuts {
            let boundary = usize::from(last) << 8 | usize::from(first);
            table.cuts[boundary / 64] |= 1 << (boundary % 64);
        }
        if merges.iter().all(|&(left, right, rank)| left.max(right) < 256 + rank) {
            let alone: Vec<_> = numbered
                .characters
                .iter()
                .filter(|(c, _)| {
                    let mut bytes = [0; 4];
                    table.count_small(c.encode_utf8(&mut bytes).as_bytes()) == 1
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
        let boundary = usize::from(last) << 8 | usize::from(first);
        self.cuts[boundary / 64] >> (boundary % 64) & 1 != 0
    }

    /// Push the tokens that merging a word starts from.
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

    /// The rank of the merge that joins two tokens, or [`NONE`].
    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        let pair = u64::from(left) << BITS | u64::from(right);
        let mask = self.entries.len() - 1;
        let hash = hash(pair);
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

    /// The number of tokens of `word`, which is UTF-8. An error is one of `poll`, or of short memory.
    pub(super) fn count(&self, word: &[u8], poll: &mut Poll<'_>) -> Result<u64, Error> {
        if word.len() <= SMALL { Ok(self.count_small(word)) } else { self.count_long(word, poll) }
    }

    /// The number of tokens of `word`, of at most [`SMALL`] bytes.
    pub(super) fn count_small(&self, word: &[u8]) -> u64 {
        let mut tokens = [0_u32; SMALL];
        let mut length = 0;
        self.start(word, |token| {
            tokens[length] = token;
            length += 1;
        });
        // ranks[i] belongs to tokens i and i + 1.
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

    /// In O(n log n): a linked list of tokens, the first pairs in sorted runs, and later pairs in a heap.
    fn count_long(&self, word: &[u8], poll: &mut Poll<'_>) -> Result<u64, Error> {
        let mut tokens = memory::vector(word.len())?;
        self.start(word, |token| tokens.push(token));
        let end = tokens.len();
        let mut next: Vec<usize> = memory::collected((0..end).map(|i| i + 1))?;
        let mut before: Vec<usize> = memory::collected((0..end).map(|i| i.wrapping_sub(1)))?;
        let mut first = Runs::new(end)?;
        for (number, pairs) in tokens[..end.saturating_sub(1)].chunks(RUN).enumerate() {
            let start = number * RUN;
            let pairs = tokens[start..=start + pairs.len()].windows(2).zip(start..);
            let ranked = pairs.map(|(pair, at)| (self.rank(pair[0], pair[1]), at));
            first.push(ranked.filter(|&(rank, _)| rank != NONE).map(|(rank, at)| keyed(rank, at)))?;
            poll()?;
        }
        let mut later: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
        let mut length = end as u64;
        let mut merges = 0_usize;
        loop {
            merges += 1;
            if merges.is_multiple_of(POLL_MERGES) {
                poll()?;
            }
            if later.capacity() < later.len() + 2 {
                later.try_reserve(2)?;
            }
            let next_key = match (first.peek(), later.peek()) {
                (Some(a), Some(&Reverse(b))) if a > b => later.pop().map(|Reverse(b)| b),
                (None, _) => later.pop().map(|Reverse(b)| b),
                _ => first.next(),
            };
            let Some(key) = next_key else { return Ok(length) };
            let (rank, at) = ((key >> POSITION_BITS) as u32, (key & ((1 << POSITION_BITS) - 1)) as usize);
            // The pair is stale if a token of it was joined since: it has no next token, or makes no pair of this rank.
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

/// Keys in ascending order, sorted in runs: to sort all at once would take seconds that no signal can interrupt.
struct Runs {
    keys: Vec<u64>,
    /// The next key of each run that has one, its place in `keys`, and the end of the run.
    heads: BinaryHeap<Reverse<(u64, usize, usize)>>,
}

impl Runs {
    /// Room for `most` keys.
    fn new(most: usize) -> Result<Self, Error> {
        Ok(Self { keys: memory::vector(most)?, heads: BinaryHeap::new() })
    }

    /// Add a run of keys, in any order.
    fn push(&mut self, keys: impl Iterator<Item = u64>) -> Result<(), Error> {
        let start = self.keys.len();
        self.keys.extend(keys);
        self.keys[start..].sort_unstable();
        if let Some(&key) = self.keys.get(start) {
            self.heads.try_reserve(1)?;
            self.heads.push(Reverse((key, start, self.keys.len())));
        }
        Ok(())
    }

    #[inline]
    fn peek(&self) -> Option<u64> {
        self.heads.peek().map(|&Reverse((key, ..))| key)
    }

    #[inline]
    fn next(&mut self) -> Option<u64> {
        let mut head = self.heads.peek_mut()?;
        let Reverse((key, at, end)) = *head;
        if at + 1 < end {
            *head = Reverse((self.keys[at + 1], at + 1, end));
        } else {
            PeekMut::pop(head);
        }
        Some(key)
    }
}

/// Bits of a position in a word: more than memory has bytes.
const POSITION_BITS: u32 = 64 - BITS;

/// A key ordered by rank, then position.
fn keyed(rank: u32, position: usize) -> u64 {
    u64::from(rank) << POSITION_BITS | position as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(table: &Merges, word: &[u8]) -> u64 {
        table.count(word, &mut || Ok(())).expect("memory")
    }

    fn count_long(table: &Merges, word: &[u8]) -> u64 {
        table.count_long(word, &mut || Ok(())).expect("memory")
    }

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

    /// Distinct merges over three letters, of tokens that other merges make before or after them.
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
        fn short_and_long_words_are_counted_by_the_definition(
            merges in merges(),
            word in proptest::collection::vec(97..100_u8, 1..=SMALL),
            longer in proptest::collection::vec(97..100_u8, SMALL..200),
        ) {
            let table = Merges::new(&numbered(merges.clone()));
            prop_assert_eq!(table.count_small(&word), textbook(&merges, &word));
            prop_assert_eq!(count_long(&table, &word), textbook(&merges, &word));
            prop_assert_eq!(count(&table, &longer), textbook(&merges, &longer));
        }
    }

    /// The bytes of a merge's tokens.
    type Pair = (Vec<u8>, Vec<u8>);

    /// Merges over characters that share bytes, such as "é" and "è", "中" and "丮"; in the order of training or reversed.
    fn merges_of_characters() -> impl Strategy<Value = (Vec<Pair>, String)> {
        let text =
            proptest::collection::vec(proptest::sample::select("aéèŠ中丮亭😀😁".chars().collect::<Vec<_>>()), 1..40);
        let text = text.prop_map(String::from_iter);
        (text, any::<bool>(), proptest::collection::vec(any::<u16>(), 0..40)).prop_map(|(text, trained, picks)| {
            // As training does, each merge joins two neighbours of the text merged so far.
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
        fn merging_from_characters_counts_as_merging_from_bytes((pairs, text) in merges_of_characters()) {
            let number = |token: &[u8]| {
                if let [byte] = token {
                    return Some(u32::from(*byte));
                }
                let made = |(left, right): &Pair| [&left[..], right].concat() == token;
                pairs.iter().position(made).map(|rank| 256 + rank as u32)
            };
            let mut numbered = Numbered::default();
            for (rank, (left, right)) in pairs.iter().enumerate() {
                numbered.classify(left, right, rank as u32);
                if let (Some(left), Some(right)) = (number(left), number(right)) {
                    numbered.merges.push((left, right, rank as u32));
                }
            }
            let expected = textbook(&numbered.merges, text.as_bytes());
            let table = Merges::new(&numbered);
            prop_assert_eq!(count(&table, text.as_bytes()), expected);
            prop_assert_eq!(count_long(&table, text.as_bytes()), expected);
        }
    }

    #[test]
    fn the_leftmost_of_equal_pairs_is_joined_first() {
        let (a, aa) = (97, 256);
        let table = Merges::new(&numbered(vec![(a, a, 0), (aa, aa, 1), (aa, a, 2)]));
        assert_eq!(count(&table, b"aaa"), 1); // aa a
        assert_eq!(count(&table, b"aaaaaaa"), 2); // aaaa aaa
    }

    #[test]
    fn without_merges_every_byte_is_a_token() {
        let table = Merges::new(&numbered(vec![]));
        assert_eq!(count(&table, b"word"), 4);
        assert_eq!(count(&table, &[b'a'; 1000]), 1000);
    }

    #[test]
    fn a_word_of_several_runs_is_merged_in_order_of_rank() {
        let (a, b, ab) = (97, 98, 256);
        let table = Merges::new(&numbered(vec![(a, b, 0), (ab, ab, 1)]));
        let word = b"ab".repeat(RUN + 3);
        assert_eq!(count(&table, &word), (RUN as u64 + 3).div_ceil(2));
        let word = b"ba".repeat(RUN + 3);
        assert_eq!(count(&table, &word), 2 + (RUN as u64 + 2).div_ceil(2));
    }

    #[test]
    fn an_error_of_the_poll_ends_the_count() {
        let table = Merges::new(&numbered(vec![(97, 97, 0)]));
        assert!(matches!(table.count(&[b'a'; 1000], &mut || Err(Error::Interrupted)), Err(Error::Interrupted)));
    }
}
