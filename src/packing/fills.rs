//! The sets of documents that fill a request nearly to the last token or chunk, listed.
//!
//! A *fill* is a set of documents that wastes no more of a request than all requests together may, in tokens and in
//! chunks. Few documents have few fills, and [`cover`](super::cover) chooses among them.

use super::few_first::FewFirst;
use super::fill;
use super::search::Clock;

/// Documents among which fills are listed: a set of them is a word.
pub(super) const LISTED: usize = u128::BITS as usize;
/// Steps that listing may take for each fill that may be listed.
const STEPS_A_FILL: u64 = 400;
/// Up to so many documents the sums that they can make are told from those of any number.
const FEW: usize = 2;
/// Words that these sums may take.
const MEMORY: usize = 1 << 22;

/// What is wasted of the dimension with the least room, and of the other.
pub(super) type Waste = [u32; 2];

/// A set of documents, by their places among those left, and what a request with it wastes.
#[derive(Clone, Copy)]
pub(super) struct Fill {
    pub(super) documents: u128,
    pub(super) waste: Waste,
}

/// Whether the sums of documents fit the memory for a request of this size.
pub(super) fn is_listable(capacity: u32) -> bool {
    (capacity as usize / 64 + 1) * (LISTED + 1) * (FEW + 1) <= MEMORY
}

/// Fills are listed along the sums that the rest of the documents can make, so that few ways are dead ends.
pub(super) struct List<'a> {
    few_first: &'a FewFirst<'a>,
    left: &'a [u32],
    /// The sums that documents from one on can make: for each number of them (the last: any), for each first.
    sums: &'a [u64],
    words: usize,
    waste: Waste,
    /// Documents that a fill may hold.
    documents: usize,
    pub(super) fills: Vec<Fill>,
    pub(super) steps: u64,
}

impl<'a> List<'a> {
    /// Nothing listed yet: fills of `left`, which descends, that waste no more than `waste`. Uses the memory of `sums`.
    pub(super) fn new(
        few_first: &'a FewFirst<'a>,
        left: &'a [u32],
        waste: Waste,
        documents: usize,
        sums: &'a mut Vec<u64>,
        clock: &mut Clock<'_>,
    ) -> Self {
        let words = few_first.capacity as usize / 64 + 1;
        let n = left.len();
        let table = (n + 1) * words;
        let few = if documents < LISTED { FEW } else { 0 };
        clock.spend(((few + 1) * n * words / 6) as u64);
        sums.resize(sums.len().max((few + 1) * table), 0);
        for level in 0..=few {
            let (fewer, these) = sums.split_at_mut(level * table);
            these[n * words..table].fill(0);
            these[n * words] = 1;
            for at in (0..n).rev() {
                let size = few_first.sizes[left[at] as usize] as usize;
                let (row, below) = these[at * words..(at + 2) * words].split_at_mut(words);
                if level == few {
                    fill::or_shifted(row, below, size);
                } else if level == 0 {
                    row.copy_from_slice(below);
                    row[size / 64] |= 1 << (size % 64);
                } else {
                    let start = (level - 1) * table + (at + 1) * words;
                    fill::or_shifted(row, &fewer[start..start + words], size);
                    for (to, from) in row.iter_mut().zip(below.iter()) {
                        *to |= from;
                    }
                }
            }
        }
        Self { few_first, left, sums, words, waste, documents, fills: Vec::new(), steps: 0 }
    }

    fn size(&self, at: usize) -> u32 {
        self.few_first.sizes[self.left[at] as usize]
    }

    /// List the fills whose largest document is the one at `first`; false when there are more than `most` by now.
    pub(super) fn extend(&mut self, first: usize, most: usize) -> bool {
        let documents = self.documents.min(self.few_first.instance.limits.documents as usize);
        self.follow(first, 1 << first, self.few_first.capacity - self.size(first), documents - 1, most)
    }

    /// List the fills of `documents` and up to so many `more` after `last`, with `free` left.
    fn follow(&mut self, last: usize, documents: u128, free: u32, more: usize, most: usize) -> bool {
        if free <= self.waste[0] {
            let members = (0..self.left.len()).filter(|at| documents >> at & 1 == 1).map(|at| self.left[at]);
            if let Some(waste) = self.few_first.wasted(members)
                && waste[1] <= self.waste[1]
            {
                self.fills.push(Fill { documents, waste });
            }
            if self.fills.len() > most {
                return false;
            }
        }
        if more == 0 {
            return true;
        }
        let few = if self.documents < LISTED { FEW } else { 0 };
        let level = (more - 1).min(few);
        let low = free.saturating_sub(self.waste[0]).max(1);
        for next in last + 1..self.left.len() {
            self.steps += 4;
            let start = level * (self.left.len() + 1) * self.words + next * self.words;
            let row = &self.sums[start..start + self.words];
            if low > free || !any_between(row, low as usize, free as usize) {
                break;
            }
            let size = self.size(next);
            if size <= free && !self.follow(next, documents | 1 << next, free - size, more - 1, most) {
                return false;
            }
        }
        self.steps <= STEPS_A_FILL * most as u64
    }
}

/// Whether a bit from `low` to `high` is set.
fn any_between(row: &[u64], low: usize, high: usize) -> bool {
    let (first, last) = (low / 64, high / 64);
    let from = u64::MAX << (low % 64);
    let to = u64::MAX >> (63 - high % 64);
    if first == last {
        return row[first] & from & to != 0;
    }
    row[first] & from != 0 || row[last] & to != 0 || row[first + 1..last].iter().any(|&word| word != 0)
}

#[cfg(test)]
mod tests {
    use super::super::{Effort, Instance, Limits};
    use super::*;

    const LIMITS: Limits = Limits { documents: 4, chunks: 12, tokens_per_document: 100, tokens: 100 };

    fn clock() -> Clock<'static> {
        Clock::new(&Effort { seconds: 1.0, interrupted: &|| false })
    }

    fn listed(instance: &Instance, waste: Waste, documents: usize) -> Vec<(u128, Waste)> {
        let few_first = FewFirst::new(instance, 3).expect("three requests are nearly full");
        let left: Vec<u32> = (0..instance.len() as u32).collect();
        let mut sums = Vec::new();
        let mut list = List::new(&few_first, &left, waste, documents, &mut sums, &mut clock());
        assert!((0..left.len()).rev().all(|first| list.extend(first, 1_000)));
        let mut fills: Vec<(u128, Waste)> = list.fills.iter().map(|fill| (fill.documents, fill.waste)).collect();
        fills.sort_unstable();
        fills
    }

    #[test]
    fn every_fill_that_keeps_the_limits_is_listed_once() {
        let tokens = vec![60, 45, 40, 35, 30, 25, 20, 15, 12, 8, 5, 3];
        let chunks = vec![1, 2, 3, 4, 5, 6, 7, 1, 1, 1, 1, 1];
        let instance = Instance { tokens: tokens.clone(), chunks: chunks.clone(), limits: LIMITS };
        for (waste, most) in [([0, 12], LISTED), ([4, 12], LISTED), ([4, 12], 3), ([0, 12], 2), ([4, 3], LISTED)] {
            let wanted: Vec<(u128, Waste)> = (1u128..1 << 12)
                .filter_map(|which| {
                    let sum = |of: &[u32]| (0..12).filter(|i| which >> i & 1 == 1).map(|i| of[i]).sum::<u32>();
                    let wasted = [100u32.checked_sub(sum(&tokens))?, 12u32.checked_sub(sum(&chunks))?];
                    let few = which.count_ones() as usize <= most.min(4);
                    (few && wasted[0] <= waste[0] && wasted[1] <= waste[1]).then_some((which, wasted))
                })
                .collect();
            assert!(!wanted.is_empty());
            assert_eq!(listed(&instance, waste, most), wanted);
        }
    }

    #[test]
    fn any_bit_between_two_is_seen() {
        for bit in 0..256usize {
            let mut row = [0u64; 4];
            row[bit / 64] = 1 << (bit % 64);
            for (low, high) in [(0, 0), (0, 255), (63, 64), (5, 70), (70, 200), (128, 128), (192, 255)] {
                assert_eq!(any_between(&row, low, high), (low..=high).contains(&bit), "{bit} {low} {high}");
            }
        }
    }
}
