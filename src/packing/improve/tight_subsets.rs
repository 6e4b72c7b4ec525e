//! Enumeration of the tight subsets of documents.
//!
//! A subset is tight if a request with it wastes no more, in tokens and in chunks, than all requests together may. Few
//! documents have few tight subsets, among which [`exact_cover`](super::exact_cover) chooses.

use super::super::budget::Budget;
use super::dimensions::{Dimensions, Waste};

/// Most documents that are enumerated: a set of them fits an integer.
pub(super) const MAX_DOCUMENTS: usize = u128::BITS as usize;
/// Steps that the enumeration may take for each subset that it may find.
const STEPS_PER_SUBSET: u64 = 400;
/// Sums of 1 to this many documents are kept by the number of documents, the others together.
const FEW: usize = 2;
/// Most 64-bit words of the sums.
const MEMORY: usize = 1 << 22;

/// A tight subset as bits, and what a request with it wastes.
#[derive(Clone, Copy)]
pub(super) struct Subset {
    pub(super) documents: u128,
    pub(super) waste: Waste,
}

/// Whether the sums fit the memory for requests of this capacity.
pub(super) fn is_feasible(capacity: u32) -> bool {
    (capacity as usize / 64 + 1) * (MAX_DOCUMENTS + 1) * (FEW + 1) <= MEMORY
}

/// A depth-first enumeration, guided by the sums that the remaining documents can make, so that few branches are dead
/// ends.
pub(super) struct Enumeration<'a> {
    dimensions: Dimensions<'a>,
    /// The documents, by descending size.
    left: &'a [u32],
    /// Row by row, the sums that the documents from a first one on can make: for 1 to [`FEW`] documents, then for any
    /// number.
    sums: &'a [u64],
    words: usize,
    waste: Waste,
    /// Most documents of a subset.
    documents: usize,
    pub(super) subsets: Vec<Subset>,
    pub(super) steps: u64,
}

impl<'a> Enumeration<'a> {
    /// Prepare the enumeration of the subsets of `left` that waste no more than `waste`. `sums` is reused memory.
    pub(super) fn new(
        dimensions: Dimensions<'a>,
        left: &'a [u32],
        waste: Waste,
        documents: usize,
        sums: &'a mut Vec<u64>,
        budget: &mut Budget<'_>,
    ) -> Self {
        let words = dimensions.capacity as usize / 64 + 1;
        let n = left.len();
        let table = (n + 1) * words;
        let few = if documents < MAX_DOCUMENTS { FEW } else { 0 };
        budget.spend(((few + 1) * n * words / 6) as u64);
        sums.resize(sums.len().max((few + 1) * table), 0);
        for level in 0..=few {
            let (fewer, these) = sums.split_at_mut(level * table);
            these[n * words..table].fill(0);
            these[n * words] = 1;
            for at in (0..n).rev() {
                let size = dimensions.sizes[left[at] as usize] as usize;
                let (row, below) = these[at * words..(at + 2) * words].split_at_mut(words);
                if level == few {
                    or_shifted(row, below, size);
                } else if level == 0 {
                    row.copy_from_slice(below);
                    row[size / 64] |= 1 << (size % 64);
                } else {
                    let start = (level - 1) * table + (at + 1) * words;
                    or_shifted(row, &fewer[start..start + words], size);
                    for (to, from) in row.iter_mut().zip(below.iter()) {
                        *to |= from;
                    }
                }
            }
        }
        Self { dimensions, left, sums, words, waste, documents, subsets: Vec::new(), steps: 0 }
    }

    fn size(&self, at: usize) -> u32 {
        self.dimensions.sizes[self.left[at] as usize]
    }

    /// Find the subsets whose largest document is at `first`. False if there are more than `most` in total.
    pub(super) fn extend(&mut self, first: usize, most: usize) -> bool {
        let documents = self.documents.min(self.dimensions.instance.limits.documents as usize);
        self.branch(first, 1 << first, self.dimensions.capacity - self.size(first), documents - 1, most)
    }

    /// Find the subsets of `documents` and up to `more` documents after `last`, with `free` left.
    fn branch(&mut self, last: usize, documents: u128, free: u32, more: usize, most: usize) -> bool {
        if free <= self.waste[0] {
            let members = (0..self.left.len()).filter(|at| documents >> at & 1 == 1).map(|at| self.left[at]);
            if let Some(waste) = self.dimensions.waste(members)
                && waste[1] <= self.waste[1]
            {
                self.subsets.push(Subset { documents, waste });
            }
            if self.subsets.len() > most {
                return false;
            }
        }
        if more == 0 {
            return true;
        }
        let few = if self.documents < MAX_DOCUMENTS { FEW } else { 0 };
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
            if size <= free && !self.branch(next, documents | 1 << next, free - size, more - 1, most) {
                return false;
            }
        }
        self.steps <= STEPS_PER_SUBSET * most as u64
    }
}

/// `row = below | below << shift`.
fn or_shifted(row: &mut [u64], below: &[u64], shift: usize) {
    row.copy_from_slice(below);
    let (whole, bits) = (shift / 64, shift % 64);
    if whole >= row.len() {
        return;
    }
    let high = &mut row[whole..];
    if bits == 0 {
        for (to, &from) in high.iter_mut().zip(below) {
            *to |= from;
        }
    } else {
        high[0] |= below[0] << bits;
        for (to, pair) in high[1..].iter_mut().zip(below.windows(2)) {
            *to |= pair[1] << bits | pair[0] >> (64 - bits);
        }
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
    use super::super::super::budget::Effort;
    use super::super::super::instance::{Instance, Limits};
    use super::*;

    const LIMITS: Limits = Limits { documents: 4, chunks: 12, tokens_per_document: 100, tokens: 100 };

    fn budget() -> Budget<'static> {
        Budget::new(&Effort { seconds: 1.0, interrupted: &|| false })
    }

    fn enumerated(instance: &Instance, waste: Waste, documents: usize) -> Vec<(u128, Waste)> {
        let (dimensions, _) = Dimensions::new(instance, 3).expect("the documents fit three requests");
        let left: Vec<u32> = (0..instance.len() as u32).collect();
        let mut sums = Vec::new();
        let mut enumeration = Enumeration::new(dimensions, &left, waste, documents, &mut sums, &mut budget());
        assert!((0..left.len()).rev().all(|first| enumeration.extend(first, 1_000)));
        let mut subsets: Vec<(u128, Waste)> =
            enumeration.subsets.iter().map(|subset| (subset.documents, subset.waste)).collect();
        subsets.sort_unstable();
        subsets
    }

    #[test]
    fn every_tight_subset_within_the_limits_is_found_once() {
        let tokens = vec![60, 45, 40, 35, 30, 25, 20, 15, 12, 8, 5, 3];
        let chunks = vec![1, 2, 3, 4, 5, 6, 7, 1, 1, 1, 1, 1];
        let instance = Instance { tokens: tokens.clone(), chunks: chunks.clone(), limits: LIMITS };
        for (waste, most) in
            [([0, 12], MAX_DOCUMENTS), ([4, 12], MAX_DOCUMENTS), ([4, 12], 3), ([0, 12], 2), ([4, 3], MAX_DOCUMENTS)]
        {
            let wanted: Vec<(u128, Waste)> = (1u128..1 << 12)
                .filter_map(|which| {
                    let sum = |of: &[u32]| (0..12).filter(|i| which >> i & 1 == 1).map(|i| of[i]).sum::<u32>();
                    let wasted = [100u32.checked_sub(sum(&tokens))?, 12u32.checked_sub(sum(&chunks))?];
                    let few = which.count_ones() as usize <= most.min(4);
                    (few && wasted[0] <= waste[0] && wasted[1] <= waste[1]).then_some((which, wasted))
                })
                .collect();
            assert!(!wanted.is_empty());
            assert_eq!(enumerated(&instance, waste, most), wanted);
        }
    }

    #[test]
    fn or_shifted_adds_the_sums_with_a_document() {
        for shift in [1, 5, 63, 64, 65, 127, 128, 200] {
            let below = [0b1011, 1 << 63, 7];
            let mut row = [0; 3];
            or_shifted(&mut row, &below, shift);
            let bit = |words: &[u64], s: usize| s < 192 && words[s / 64] >> (s % 64) & 1 == 1;
            for s in 0..192 {
                assert_eq!(bit(&row, s), bit(&below, s) || (s >= shift && bit(&below, s - shift)), "{shift} {s}");
            }
        }
    }

    #[test]
    fn any_between_finds_every_bit_in_range() {
        for bit in 0..256usize {
            let mut row = [0u64; 4];
            row[bit / 64] = 1 << (bit % 64);
            for (low, high) in [(0, 0), (0, 255), (63, 64), (5, 70), (70, 200), (128, 128), (192, 255)] {
                assert_eq!(any_between(&row, low, high), (low..=high).contains(&bit), "{bit} {low} {high}");
            }
        }
    }
}
