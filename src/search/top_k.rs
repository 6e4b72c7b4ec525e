//! The best `k` of a stream of scored rows.
//!
//! Candidates are collected in a buffer of about `2 k`. When it is full, a selection in linear time keeps the best
//! `k`, and the k-th becomes the limit that later rows must reach: constant work a survivor, whatever `k` is, and no
//! row that fails the limit leaves the vectorised filter.

use std::cmp::Ordering;

use super::filter::{CHUNK, Limit, survivors};
use super::scan::Ids;
use crate::isa::Isa;
use crate::similarity::cosine;

/// A row that may be among the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Hamming distance or inner product.
    pub score: i32,
    /// The row's squared norm where the order is by cosine, else 0.
    pub norm: u32,
    /// What a caller knows the row by.
    pub id: i64,
}

/// What "better" means. Every order breaks ties to the lower id, so that it is total and no schedule can change it.
pub trait Order: Copy + Send + Sync {
    /// Whether it reads the rows' norms.
    const NORMS: bool;

    /// The better candidate is `Less`.
    fn compare(a: &Candidate, b: &Candidate) -> Ordering;

    /// What a row must keep to be better than `worst`. With `ascending` ids a tie with it is already lost.
    fn limit(worst: &Candidate, ascending: bool) -> Limit;
}

/// By Hamming distance: the lowest first.
#[derive(Clone, Copy, Debug)]
pub struct Nearest;

/// By inner product: the greatest first.
#[derive(Clone, Copy, Debug)]
pub struct Greatest;

/// By cosine: the greatest first, compared as the rational numbers they come from.
#[derive(Clone, Copy, Debug)]
pub struct Closest;

impl Order for Nearest {
    const NORMS: bool = false;

    #[inline]
    fn compare(a: &Candidate, b: &Candidate) -> Ordering {
        a.score.cmp(&b.score).then(a.id.cmp(&b.id))
    }

    fn limit(worst: &Candidate, ascending: bool) -> Limit {
        Limit::AtMost(worst.score.saturating_sub(i32::from(ascending)))
    }
}

impl Order for Greatest {
    const NORMS: bool = false;

    #[inline]
    fn compare(a: &Candidate, b: &Candidate) -> Ordering {
        b.score.cmp(&a.score).then(a.id.cmp(&b.id))
    }

    fn limit(worst: &Candidate, ascending: bool) -> Limit {
        Limit::AtLeast(worst.score.saturating_add(i32::from(ascending)))
    }
}

impl Order for Closest {
    const NORMS: bool = true;

    #[inline]
    fn compare(a: &Candidate, b: &Candidate) -> Ordering {
        cosine::compare((b.score, b.norm), (a.score, a.norm)).then(a.id.cmp(&b.id))
    }

    fn limit(worst: &Candidate, _: bool) -> Limit {
        Limit::Cosine(cosine::filter_limit(worst.score, worst.norm))
    }
}

/// Rows of one block, as the selection sees them. All slices are as long as the block has rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    /// Ids of the rows.
    pub ids: Ids<'a>,
    /// Squared norms and inverse norms, where the order is by cosine.
    pub norms: &'a [u32],
    /// See `norms`.
    pub inverse: &'a [f32],
    /// Rows that a mask allows; none: all.
    pub allowed: Option<&'a [u8]>,
}

/// The best `k` candidates so far.
#[derive(Clone, Debug)]
pub struct Top {
    k: usize,
    full: usize,
    kept: Vec<Candidate>,
    worst: Option<Candidate>,
}

impl Top {
    /// Room for the best `k`, at least one.
    pub fn new(k: usize) -> Self {
        let k = k.max(1);
        // The first selection comes early: until then, no row fails.
        Self { k, full: k.saturating_mul(2).max(8), kept: Vec::new(), worst: None }
    }

    /// Take what is good enough of a block's rows.
    pub fn offer<O: Order>(&mut self, isa: Isa, scores: &[i32], rows: &Rows<'_>, ascending: bool) {
        let mut start = 0;
        while self.worst.is_none() && start < scores.len() {
            self.push::<O>(rows, start, scores[start]);
            start += 1;
        }
        let mut positions = [0; CHUNK];
        for (chunk, scores) in scores[start..].chunks(CHUNK).enumerate() {
            let Some(worst) = self.worst else { return };
            let base = start + chunk * CHUNK;
            let inverse = rows.inverse.get(base..).unwrap_or_default();
            let found = survivors(isa, scores, inverse, O::limit(&worst, ascending), &mut positions);
            for &at in &positions[..found] {
                self.push::<O>(rows, base + usize::from(at), scores[usize::from(at)]);
            }
        }
    }

    /// Keep no more than the best `k`, so that a merge has little to do.
    pub fn finish<O: Order>(&mut self) {
        if self.kept.len() > self.k {
            self.shrink::<O>();
        }
    }

    #[inline]
    fn push<O: Order>(&mut self, rows: &Rows<'_>, row: usize, score: i32) {
        if rows.allowed.is_some_and(|allowed| allowed[row] == 0) {
            return;
        }
        let norm = if O::NORMS { rows.norms[row] } else { 0 };
        let id = rows.ids.of(row);
        let candidate = Candidate { score, norm, id };
        if self.worst.is_none_or(|worst| O::compare(&candidate, &worst).is_lt()) {
            self.kept.push(candidate);
            if self.kept.len() >= self.full {
                self.shrink::<O>();
            }
        }
    }

    fn shrink<O: Order>(&mut self) {
        if self.kept.len() >= self.k {
            let (_, &mut worst, _) = self.kept.select_nth_unstable_by(self.k - 1, O::compare);
            self.kept.truncate(self.k);
            self.worst = Some(worst);
            self.full = self.k.saturating_add(self.k.max(54));
        }
    }

    /// All candidates of several scans over parts of the same rows, the best `k` of them in order.
    pub fn merge<O: Order>(tops: impl IntoIterator<Item = Self>, k: usize, out: &mut Vec<Candidate>) {
        let start = out.len();
        for top in tops {
            out.extend_from_slice(&top.kept);
        }
        let candidates = &mut out[start..];
        if k > 0 && candidates.len() > k {
            candidates.select_nth_unstable_by(k - 1, O::compare);
            out.truncate(start + k);
        }
        out[start..].sort_unstable_by(O::compare);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a sort of all rows gives.
    fn sorted<O: Order>(scores: &[i32], norms: &[u32], ids: &[i64], allowed: &[u8], k: usize) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = (0..scores.len())
            .filter(|&row| allowed[row] != 0)
            .map(|row| Candidate { score: scores[row], norm: if O::NORMS { norms[row] } else { 0 }, id: ids[row] })
            .collect();
        all.sort_by(O::compare);
        all.truncate(k);
        all
    }

    fn check<O: Order>(rows: &[(i32, u32, bool)], k: usize, block: usize, shuffled: bool) {
        let scores: Vec<i32> = rows.iter().map(|row| row.0).collect();
        // A squared norm bounds the product from below, so that cosines stay within what vectors can have.
        let norms: Vec<u32> = rows.iter().map(|row| row.1).collect();
        let inverse: Vec<f32> = norms.iter().map(|&n| cosine::inverse_norm(n) as f32).collect();
        let allowed: Vec<u8> = rows.iter().map(|row| u8::from(row.2)).collect();
        let ids: Vec<i64> =
            (0..rows.len() as i64).map(|row| if shuffled { (row * 7919) % 10_007 - 50 } else { row }).collect();
        let expected = sorted::<O>(&scores, &norms, &ids, &allowed, k);
        for isa in Isa::ALL {
            let mut tops = [Top::new(k), Top::new(k)];
            for start in (0..rows.len()).step_by(block) {
                let end = rows.len().min(start + block);
                let part = Rows {
                    ids: if shuffled { Ids::Own(&ids[start..end]) } else { Ids::From(start as i64) },
                    norms: &norms[start..end],
                    inverse: &inverse[start..end],
                    allowed: Some(&allowed[start..end]),
                };
                tops[start / block % 2].offer::<O>(isa, &scores[start..end], &part, !shuffled);
            }
            let mut got = vec![];
            Top::merge::<O>(tops, k, &mut got);
            assert_eq!(got, expected, "{isa:?}");
        }
    }

    proptest! {
        #[test]
        fn the_best_k_are_those_of_a_sort(
            rows in prop::collection::vec((-40i32..40, 0u32..60, any::<bool>()), 1..2000),
            k in 1usize..80,
            block in 1usize..700,
            shuffled: bool,
        ) {
            // A zero vector's products are zero.
            let rows: Vec<_> = rows.into_iter().map(|(d, n, ok)| (if n == 0 { 0 } else { d }, n, ok)).collect();
            check::<Nearest>(&rows, k, block, shuffled);
            check::<Greatest>(&rows, k, block, shuffled);
            check::<Closest>(&rows, k, block, shuffled);
        }
    }

    #[test]
    fn cosines_that_double_precision_ties_are_kept_apart() {
        // All within 2^-60 of each other: only the integers know the order.
        let rows: Vec<(i32, u32, bool)> =
            (0..500).map(|i| ((1 << 30) + (i * 37 % 101), (1u32 << 30) + (i as u32 * 74 % 202), true)).collect();
        check::<Closest>(&rows, 10, 64, false);
        check::<Closest>(&rows, 10, 64, true);
    }
}
