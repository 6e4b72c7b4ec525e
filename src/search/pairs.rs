//! Pairs of rows that are near each other: every row is compared with every later one, tile by tile.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, TryReserveError};
use std::num::NonZero;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::blocks::{BlockPlan, BlockScorer};
use super::range::{Threshold, visit_within};
use super::rows::{Ids, Norm, Part};
use super::scan::{Scan, useful_threads};
use super::subset::Subset;
use super::threads::{InterruptCheck, Interrupts, run};
use crate::error::Error;
use crate::similarity::cosine::{cosine, inverse_norm};
use crate::similarity::{Kernels, Matrix};

/// Rows that are the queries of one tile.
const TILE_QUERIES: usize = 256;
/// Bytes of rows in one tile: some milliseconds of work, after which interrupts are checked.
const TILE_BYTES: usize = 4 << 20;
/// Fewest rows in one tile.
const MIN_TILE_ROWS: usize = 16;

/// Pairs that are sorted together: some milliseconds of work.
const RUN: usize = 1 << 17;

/// Two rows that are near each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Their ids, the lower one first.
    pub ids: [i64; 2],
    /// Hamming distance or inner product.
    pub score: i32,
    /// Their squared norms if they were asked for, else zeros.
    pub norms: [u32; 2],
}

impl Pair {
    /// Orders the nearer pair first, and ties by the lower ids.
    fn compare(&self, other: &Self, threshold: Threshold) -> Ordering {
        let nearer = match threshold {
            Threshold::AtMost(_) => self.score.cmp(&other.score),
            Threshold::AtLeast(_) => other.score.cmp(&self.score),
            Threshold::Cosine(_) => other.compare_cosine(self),
        };
        nearer.then_with(|| self.ids.cmp(&other.ids))
    }

    /// Compares the cosines `d / sqrt(m * n)` exactly.
    fn compare_cosine(&self, other: &Self) -> Ordering {
        let parts = |pair: &Self| {
            let norms = u128::from(pair.norms[0]) * u128::from(pair.norms[1]);
            // A zero vector has product zero, so the signs alone decide.
            (if norms == 0 { 0 } else { i64::from(pair.score) }, norms.max(1))
        };
        let ((d, norms), (e, others)) = (parts(self), parts(other));
        d.signum().cmp(&e.signum()).then_with(|| {
            // Squares are at most 2^62, products of norms below 2^64.
            let (left, right) = (u128::from((d * d).unsigned_abs()), u128::from((e * e).unsigned_abs()));
            let order = (left * others).cmp(&(right * norms));
            if d < 0 { order.reverse() } else { order }
        })
    }

    /// The cosine of the two rows.
    pub fn cosine(&self) -> f32 {
        let [a, b] = self.norms.map(|norm| (norm, inverse_norm(norm)));
        cosine(self.score, a, b)
    }
}

/// The pairs that a thread has found: all, or the nearest `limit`.
struct NearestPairs {
    pairs: Vec<Pair>,
    limit: usize,
    /// The score that further pairs must reach.
    threshold: Threshold,
}

impl NearestPairs {
    fn new(threshold: Threshold, limit: Option<usize>) -> Self {
        Self { pairs: vec![], limit: limit.unwrap_or(usize::MAX), threshold }
    }

    fn push(&mut self, pair: Pair) -> Result<(), Error> {
        self.pairs.try_reserve(1)?;
        self.pairs.push(pair);
        // Twice the limit, so that the selection costs one or two steps per pair.
        if self.pairs.len() >= self.limit.saturating_mul(2).max(RUN) {
            self.cut();
        }
        Ok(())
    }

    /// Keep the nearest `limit` pairs, and tighten the threshold to the last of them.
    fn cut(&mut self) {
        if self.pairs.len() <= self.limit {
            return;
        }
        let threshold = self.threshold;
        let (_, &mut last, _) = self.pairs.select_nth_unstable_by(self.limit - 1, |a, b| a.compare(b, threshold));
        self.pairs.truncate(self.limit);
        self.threshold = match threshold {
            Threshold::AtMost(_) => Threshold::AtMost(last.score),
            Threshold::AtLeast(_) => Threshold::AtLeast(last.score),
            // Rounding is monotonic: a greater cosine never rounds to a lower float32.
            Threshold::Cosine(_) => Threshold::Cosine(f64::from(last.cosine())),
        };
    }
}

/// Rows to compare with each other.
pub(super) struct Triangle<'a, E> {
    pub(super) parts: &'a [Part<'a, E>],
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) threads: Option<NonZero<usize>>,
    /// Maps a row's number over all parts to its id.
    pub(super) id: &'a (dyn Fn(usize) -> i64 + Sync),
}

impl<E: Copy + Default + Send + Sync> Triangle<'_, E> {
    /// All pairs within the threshold, or the nearest `limit` of them, in the order of their ids.
    pub(super) fn pairs<K: Kernels<Query = E, Element = E>>(
        &self,
        threshold: Threshold,
        limit: Option<NonZero<usize>>,
        check: InterruptCheck<'_>,
    ) -> Result<Vec<Pair>, Error> {
        let limit = limit.map(NonZero::get);
        let count: usize = self.parts.iter().map(|part| part.rows.len() / self.stride).sum();
        let tile_rows = (TILE_BYTES / (self.width * size_of::<E>())).max(MIN_TILE_ROWS);
        // Tiles before each group of queries. A group's first tile begins at the group's first row.
        let mut before = vec![0];
        for first in (0..count).step_by(TILE_QUERIES) {
            before.push(before.last().copied().unwrap_or_default() + (count - first).div_ceil(tile_rows));
        }
        let tiles = before.last().copied().unwrap_or_default();
        let bytes = tiles.saturating_mul(tile_rows.min(count) * self.width * size_of::<E>());
        let threads = self.threads.map_or_else(|| useful_threads(bytes.saturating_mul(TILE_QUERIES / 4)), NonZero::get);
        let mut interrupts = Interrupts::new(check);
        let mut found = run(tiles, threads, &mut interrupts, |for_each_tile| {
            let mut kept = NearestPairs::new(threshold, limit);
            let mut queries = (usize::MAX, vec![]);
            for_each_tile(&mut |tile| {
                let group = before.partition_point(|&tiles| tiles <= tile) - 1;
                if queries.0 != group {
                    queries.0 = group;
                    self.copy(group * TILE_QUERIES..count.min((group + 1) * TILE_QUERIES), &mut queries.1)?;
                }
                let start = group * TILE_QUERIES + (tile - before[group]) * tile_rows;
                self.compare_tile::<K>(&queries.1, group * TILE_QUERIES, start..count.min(start + tile_rows), &mut kept)
            })?;
            kept.cut();
            Ok(kept.pairs)
        })?;
        if let Some(limit) = limit
            && found.iter().map(Vec::len).sum::<usize>() > limit
        {
            let mut all = NearestPairs::new(threshold, Some(limit));
            for pairs in std::mem::take(&mut found) {
                for pair in pairs {
                    all.push(pair)?;
                }
                interrupts.check()?;
            }
            all.cut();
            found.push(all.pairs);
        }
        sorted(found, threads, &mut interrupts)
    }

    /// Compare `queries`, rows from number `first` on, with a range of the rows from there on.
    fn compare_tile<K: Kernels<Query = E, Element = E>>(
        &self,
        queries: &[E],
        first: usize,
        rows: Range<usize>,
        kept: &mut NearestPairs,
    ) -> Result<(), Error> {
        let (isa, threshold) = (K::isa(), kept.threshold);
        let parts = self.cut(rows);
        let scan = Scan::<K> {
            isa,
            width: self.width,
            stride: self.stride,
            queries,
            parts: &parts,
            subset: Subset::All,
            threads: NonZero::new(1),
        };
        let mut norms = vec![0; if threshold.uses_norms() { scan.query_count() } else { 0 }];
        if threshold.uses_norms() {
            K::squared_norms(isa, Matrix::whole(queries, self.width), &mut norms);
        }
        let norms: Vec<Norm> = norms.into_iter().map(|norm| (norm, inverse_norm(norm))).collect();
        let plan = BlockPlan::new(&scan, 1)?;
        let mut scorer = BlockScorer::new(&scan, &plan);
        let mut result = Ok(());
        for block in 0..plan.blocks {
            if scorer.load(block, threshold.uses_norms())? {
                scorer.score(|rows, query, scores| {
                    let norm = norms.get(query).copied().unwrap_or_default();
                    let row = first + query;
                    let visited = visit_within(&scan, scores, rows, threshold, norm, |_, other| {
                        if other.id <= row as i64 {
                            return Ok(());
                        }
                        let (a, b) = ((self.id)(row), (self.id)(other.id as usize));
                        kept.push(Pair { ids: [a.min(b), a.max(b)], score: other.score, norms: [norm.0, other.norm] })
                    });
                    result = std::mem::replace(&mut result, Ok(())).and(visited);
                });
            }
        }
        result
    }

    /// The parts of a range of rows, with row numbers over all parts as ids.
    fn cut(&self, rows: Range<usize>) -> Vec<Part<'_, E>> {
        let (mut cut, mut first) = (vec![], 0);
        for part in self.parts {
            let count = part.rows.len() / self.stride;
            let range = rows.start.clamp(first, first + count) - first..rows.end.clamp(first, first + count) - first;
            if !range.is_empty() {
                cut.push(Part {
                    rows: &part.rows[range.start * self.stride..range.end * self.stride],
                    norms: part.norms.map(|norms| &norms[range.clone()]),
                    ids: Ids::Consecutive((first + range.start) as i64),
                });
            }
            first += count;
        }
        cut
    }

    fn copy(&self, rows: Range<usize>, out: &mut Vec<E>) -> Result<(), TryReserveError> {
        out.clear();
        out.try_reserve_exact(rows.len() * self.width)?;
        for part in self.cut(rows) {
            for row in Matrix::new(part.rows, self.width, self.stride).iter() {
                out.extend_from_slice(row);
            }
        }
        Ok(())
    }
}

/// All pairs in the order of their ids. Runs are sorted and then merged, so that interrupts are checked in between.
fn sorted(mut found: Vec<Vec<Pair>>, threads: usize, interrupts: &mut Interrupts<'_>) -> Result<Vec<Pair>, Error> {
    let runs: Vec<Mutex<&mut [Pair]>> =
        found.iter_mut().flat_map(|pairs| pairs.chunks_mut(RUN)).map(Mutex::new).collect();
    run(runs.len(), threads, interrupts, |for_each_run| {
        for_each_run(&mut |at| {
            runs[at].lock().unwrap_or_else(PoisonError::into_inner).sort_unstable_by_key(|pair| pair.ids);
            Ok(())
        })
    })?;
    if runs.len() < 2 {
        found.retain(|pairs| !pairs.is_empty());
        return Ok(found.pop().unwrap_or_default());
    }
    let mut all = vec![];
    all.try_reserve_exact(found.iter().map(Vec::len).sum())?;
    let mut runs: Vec<&[Pair]> = found.iter().flat_map(|pairs| pairs.chunks(RUN)).collect();
    let mut next: BinaryHeap<_> = runs.iter().enumerate().map(|(at, pairs)| Reverse((pairs[0].ids, at))).collect();
    while let Some(mut first) = next.peek_mut() {
        let at = first.0.1;
        all.push(runs[at][0]);
        runs[at] = &runs[at][1..];
        match runs[at].first() {
            Some(pair) => first.0.0 = pair.ids,
            None => drop(std::collections::binary_heap::PeekMut::pop(first)),
        }
        if all.len().is_multiple_of(RUN) {
            interrupts.check()?;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::similarity::dot::Dot;
    use crate::similarity::hamming::Hamming;
    use crate::similarity::testing::Random;

    fn check<K>(rows: &[K::Element], (width, stride): (usize, usize), threshold: Threshold)
    where
        K: Kernels<Query = <K as Kernels>::Element>,
    {
        let all = Matrix::new(rows, width, stride);
        let mut expected = vec![];
        for a in 0..all.len() {
            for b in a + 1..all.len() {
                let (mut score, mut norms) = ([0], [[0], [0]]);
                K::rows(Isa::Scalar, all.row(a), Matrix::whole(all.row(b), width), &mut score);
                if threshold.uses_norms() {
                    K::squared_norms(Isa::Scalar, Matrix::whole(all.row(a), width), &mut norms[0]);
                    K::squared_norms(Isa::Scalar, Matrix::whole(all.row(b), width), &mut norms[1]);
                }
                let pair = Pair { ids: [a as i64, b as i64], score: score[0], norms: [norms[0][0], norms[1][0]] };
                let near = match threshold {
                    Threshold::AtMost(most) => pair.score <= most,
                    Threshold::AtLeast(least) => pair.score >= least,
                    Threshold::Cosine(least) => {
                        let product = f64::from(pair.norms[0]) * f64::from(pair.norms[1]);
                        let cosine = if product == 0.0 { 0.0 } else { f64::from(pair.score) / product.sqrt() };
                        f64::from(cosine as f32) >= least
                    }
                };
                if near {
                    expected.push(pair);
                }
            }
        }
        let cut = all.len() / 3 * stride;
        let part = |rows| Part { rows, norms: None, ids: Ids::Consecutive(7) };
        let parts = [part(&rows[..cut]), part(&rows[..0]), part(&rows[cut..])];
        for threads in [1, 3] {
            let id = |row: usize| row as i64;
            let triangle = Triangle { parts: &parts, width, stride, threads: NonZero::new(threads), id: &id };
            let found = triangle.pairs::<K>(threshold, None, &mut || Ok(())).expect("no interrupt");
            assert_eq!(found, expected, "{threshold:?}");
            for limit in [1, 7, 1000, usize::MAX] {
                let found = triangle.pairs::<K>(threshold, NonZero::new(limit), &mut || Ok(())).expect("no interrupt");
                let mut best = expected.clone();
                best.sort_by(|a, b| a.compare(b, threshold));
                best.truncate(limit);
                best.sort_unstable_by_key(|pair| pair.ids);
                assert_eq!(found, best, "{threshold:?}, the nearest {limit}");
            }
        }
    }

    #[test]
    fn pairs_equal_a_double_loop() {
        let mut random = Random(71);
        for count in [0, 1, 2, 255, 256, 257, 700] {
            let bytes: Vec<u8> = random.bytes(count * 3).iter().map(|byte| byte & 0x11).collect();
            for most in [-1, 0, 2] {
                check::<Hamming>(&bytes, (3, 3), Threshold::AtMost(most));
                check::<Hamming>(&bytes, (1, 3), Threshold::AtMost(most));
            }
            let values: Vec<i8> = random.int8(count * 4).iter().map(|x| x % 4).collect();
            for least in [-2.0, -0.5, 0.0, 0.3, 0.99, 1.0, 1.5] {
                check::<Dot>(&values, (4, 4), Threshold::Cosine(least));
                check::<Dot>(&values, (3, 4), Threshold::Cosine(least));
            }
            check::<Dot>(&values, (4, 4), Threshold::AtLeast(15));
        }
    }

    #[test]
    fn unsorted_runs_are_merged_by_id() {
        let mut random = Random(72);
        let mut pairs = |count: usize| -> Vec<Pair> {
            let pair = |_| Pair { ids: [random.next() as i64 % 1000, random.next() as i64], score: 0, norms: [0; 2] };
            (0..count).map(pair).collect()
        };
        for lengths in [&[0, 0][..], &[1], &[0, 5, 0], &[RUN + 1], &[3 * RUN, 0, RUN - 1, 2]] {
            let found: Vec<Vec<Pair>> = lengths.iter().map(|&length| pairs(length)).collect();
            let mut expected = found.concat();
            expected.sort_by_key(|pair| pair.ids);
            for threads in [1, 3] {
                let sorted = sorted(found.clone(), threads, &mut Interrupts::new(&mut || Ok(())));
                assert_eq!(sorted.expect("no interrupt"), expected, "{lengths:?}");
            }
        }
    }

    #[test]
    fn an_interrupt_check_stops_a_sort() {
        let pairs = vec![Pair { ids: [0, 1], score: 0, norms: [0; 2] }; 3 * RUN];
        let mut calls = 0;
        let mut check = || {
            calls += 1;
            Err(Error::Interrupted)
        };
        let stopped = sorted(vec![pairs], 1, &mut Interrupts::overdue(&mut check));
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert_eq!(calls, 1);
    }

    #[test]
    fn a_limit_keeps_the_nearest_of_many_pairs() {
        let mut random = Random(73);
        for threshold in [Threshold::AtMost(99), Threshold::AtLeast(-99), Threshold::Cosine(-1.0)] {
            let pairs: Vec<Pair> = (0..5 * RUN as i64)
                .map(|id| {
                    let norms = [random.next() as u32 % 40, random.next() as u32 % 40];
                    Pair { ids: [id, id + 1], score: random.next() as i32 % 20, norms }
                })
                .collect();
            for limit in [1, 1000, RUN + 5] {
                let mut kept = NearestPairs::new(threshold, Some(limit));
                for &pair in &pairs {
                    kept.push(pair).expect("memory");
                    assert!(kept.pairs.len() < 2 * limit.max(RUN));
                }
                kept.cut();
                kept.pairs.sort_by(|a, b| a.compare(b, threshold));
                let mut expected = pairs.clone();
                expected.sort_by(|a, b| a.compare(b, threshold));
                assert_eq!(kept.pairs, expected[..limit], "{threshold:?}, the nearest {limit}");
            }
        }
    }

    #[test]
    fn cosines_of_pairs_are_compared_exactly() {
        let pair = |score, norms| Pair { ids: [0, 1], score, norms };
        let float = |pair: Pair| f64::from(pair.score) * inverse_norm(pair.norms[0]) * inverse_norm(pair.norms[1]);
        let values = [(0, [0, 4]), (3, [3, 3]), (-3, [3, 3]), (2, [8, 2]), (-1, [2, 2]), (1, [9, 4]), (0, [7, 7])];
        for a in values.map(|(score, norms)| pair(score, norms)) {
            for b in values.map(|(score, norms)| pair(score, norms)) {
                let order = float(a).partial_cmp(&float(b)).expect("finite");
                assert_eq!(a.compare_cosine(&b), order, "{a:?} {b:?}");
            }
        }
        // Equal in double precision.
        let (a, b) = (pair(1 << 30, [1 << 30, (1 << 30) + 2]), pair(1 << 30, [(1 << 30) + 1; 2]));
        assert_eq!(float(a).total_cmp(&float(b)), Ordering::Equal);
        assert_eq!(a.compare_cosine(&b), Ordering::Greater);
        let widest = pair(i32::MIN, [u32::MAX; 2]);
        assert_eq!(widest.compare_cosine(&pair(i32::MIN, [u32::MAX, u32::MAX - 1])), Ordering::Greater);
    }
}
