//! The best `k` rows of a scan.
//!
//! Each thread takes blocks from a shared counter and keeps a selection per query, in a buffer of about `2 k`
//! candidates. When the buffer is full, a linear-time selection keeps the best `k`, and the k-th becomes the limit
//! that later rows must meet: a candidate costs constant work whatever `k` is, and all other rows end in the
//! vectorised filter. The merge orders by score and id, so the result does not depend on which thread took which
//! block. Memory beyond the rows is one block and `O(queries * k)` per thread.

use std::collections::TryReserveError;

use super::blocks::{BlockPlan, BlockRows, BlockScorer};
use super::limit::{CHUNK, find_within};
use super::order::{Candidate, Order};
use super::scan::{MAX_QUERIES, Scan};
use super::threads::{InterruptCheck, Interrupts, run};
use crate::error::Error;
use crate::isa::Isa;
use crate::similarity::{BATCH, Kernels};

/// Most bytes of candidates that one thread keeps.
const MAX_CANDIDATE_BYTES: usize = 64 << 20;

/// The best rows of each query.
#[derive(Clone, Debug)]
pub struct TopK {
    /// Candidates per query.
    pub columns: usize,
    /// Those of the first query, best first, then those of the next.
    pub candidates: Vec<Candidate>,
    /// Whether these are all rows that may be found, so that a larger `k` would find no more.
    pub complete: bool,
}

impl<K: Kernels> Scan<'_, K> {
    /// The best `k` rows of each query in the order `O`; fewer where fewer rows may be found.
    pub fn top_k<O: Order>(&self, k: usize, check: InterruptCheck<'_>) -> Result<TopK, Error> {
        self.select::<O>(k, &mut Interrupts::new(check))
    }

    pub(super) fn select<O: Order>(&self, k: usize, interrupts: &mut Interrupts<'_>) -> Result<TopK, Error> {
        let allowed = self.allowed();
        let columns = k.min(allowed);
        let mut found = TopK { columns, candidates: Vec::new(), complete: columns == allowed };
        if columns == 0 {
            return Ok(found);
        }
        let total = columns.saturating_mul(self.query_count());
        found.candidates.try_reserve_exact(total).map_err(|_| {
            Error::Value(format!("{columns} matches for each of {} queries do not fit in memory", self.query_count()))
        })?;
        for queries in self.queries.chunks(queries_together(columns) * self.query_width()) {
            let scan = Self { queries, ..self.clone() };
            scan.select_together::<O>(columns, interrupts, &mut found.candidates)?;
        }
        Ok(found)
    }

    fn select_together<O: Order>(
        &self,
        k: usize,
        interrupts: &mut Interrupts<'_>,
        out: &mut Vec<Candidate>,
    ) -> Result<(), Error> {
        let threads = self.thread_count();
        let plan = BlockPlan::new(self, threads)?;
        let ascending = self.ids_ascend();
        let by_thread = run(plan.blocks, threads, interrupts, |for_each_block| {
            let mut scorer = BlockScorer::new(self, &plan);
            let mut selections = vec![Selection::new(k); self.query_count()];
            for_each_block(&mut |block| {
                let mut result = Ok(());
                if scorer.load(block, O::USES_NORMS)? {
                    scorer.score(|rows, query, scores| {
                        if result.is_ok() {
                            result = selections[query].add_block::<O>(self.isa, scores, rows, ascending);
                        }
                    });
                }
                result.map_err(Error::from)
            })?;
            selections.iter_mut().for_each(Selection::finish::<O>);
            Ok(selections)
        })?;
        let mut by_thread: Vec<_> = by_thread.into_iter().map(Vec::into_iter).collect();
        for _ in 0..self.query_count() {
            Selection::merge::<O>(by_thread.iter_mut().filter_map(Iterator::next), k, out)?;
        }
        Ok(())
    }
}

/// Queries whose selections of `columns` candidates fit in memory together.
pub(super) fn queries_together(columns: usize) -> usize {
    // A selection holds up to twice its k.
    let together = MAX_CANDIDATE_BYTES / columns.saturating_mul(2 * size_of::<Candidate>());
    (together / BATCH * BATCH).clamp(BATCH, MAX_QUERIES)
}

/// The best `k` candidates of the blocks added so far.
#[derive(Clone, Debug)]
struct Selection {
    k: usize,
    /// Candidates at which the buffer is shrunk.
    capacity: usize,
    candidates: Vec<Candidate>,
    /// The k-th best when the buffer was last shrunk.
    worst: Option<Candidate>,
}

impl Selection {
    fn new(k: usize) -> Self {
        let k = k.max(1);
        // Shrunk early the first time: until then there is no limit, and every row is a candidate.
        Self { k, capacity: k.saturating_mul(2).max(8), candidates: Vec::new(), worst: None }
    }

    /// Add the rows of a block that may be among the best.
    fn add_block<O: Order>(
        &mut self,
        isa: Isa,
        scores: &[i32],
        rows: &BlockRows<'_>,
        ascending: bool,
    ) -> Result<(), TryReserveError> {
        let mut start = 0;
        while self.worst.is_none() && start < scores.len() {
            self.push::<O>(rows, start, scores[start])?;
            start += 1;
        }
        let mut positions = [0; CHUNK];
        for (chunk, scores) in scores[start..].chunks(CHUNK).enumerate() {
            let Some(worst) = self.worst else { break };
            let base = start + chunk * CHUNK;
            let inverse = rows.inverse_norms.get(base..).unwrap_or_default();
            let found = find_within(isa, scores, inverse, O::limit(&worst, ascending), &mut positions);
            for &at in &positions[..found] {
                self.push::<O>(rows, base + usize::from(at), scores[usize::from(at)])?;
            }
        }
        Ok(())
    }

    /// Drop all but the best `k`, so that the merge has less to do.
    fn finish<O: Order>(&mut self) {
        if self.candidates.len() > self.k {
            self.shrink::<O>();
        }
    }

    #[inline]
    fn push<O: Order>(&mut self, rows: &BlockRows<'_>, row: usize, score: i32) -> Result<(), TryReserveError> {
        if rows.allowed.is_some_and(|allowed| allowed[row] == 0) {
            return Ok(());
        }
        let norm = if O::USES_NORMS { rows.norms[row] } else { 0 };
        let id = rows.ids.of(row);
        let candidate = Candidate { score, norm, id };
        if self.worst.is_none_or(|worst| O::compare(&candidate, &worst).is_lt()) {
            self.candidates.try_reserve(1)?;
            self.candidates.push(candidate);
            if self.candidates.len() >= self.capacity {
                self.shrink::<O>();
            }
        }
        Ok(())
    }

    fn shrink<O: Order>(&mut self) {
        if self.candidates.len() >= self.k {
            let (_, &mut worst, _) = self.candidates.select_nth_unstable_by(self.k - 1, O::compare);
            self.candidates.truncate(self.k);
            self.worst = Some(worst);
            self.capacity = self.k.saturating_add(self.k.max(54));
        }
    }

    /// Append the best `k` of several selections to `out`, in order.
    fn merge<O: Order>(
        selections: impl IntoIterator<Item = Self>,
        k: usize,
        out: &mut Vec<Candidate>,
    ) -> Result<(), TryReserveError> {
        let start = out.len();
        for selection in selections {
            out.try_reserve(selection.candidates.len())?;
            out.extend_from_slice(&selection.candidates);
        }
        let candidates = &mut out[start..];
        if k > 0 && candidates.len() > k {
            candidates.select_nth_unstable_by(k - 1, O::compare);
            out.truncate(start + k);
        }
        out[start..].sort_unstable_by(O::compare);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;
    use std::ops::Range;

    use proptest::prelude::*;

    use super::super::order::{ByCosine, ByHamming, ByProduct};
    use super::super::rows::{Ids, Part};
    use super::super::subset::{self, Subset, SubsetMemory};
    use super::*;
    use crate::similarity::asymmetric::Asymmetric;
    use crate::similarity::dot::Dot;
    use crate::similarity::hamming::Hamming;
    use crate::similarity::testing::Random;
    use crate::similarity::{Matrix, cosine};

    /// The best `k` by a sort of all rows.
    fn expected_selection<O: Order>(
        scores: &[i32],
        norms: &[u32],
        ids: &[i64],
        allowed: &[u8],
        k: usize,
    ) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = (0..scores.len())
            .filter(|&row| allowed[row] != 0)
            .map(|row| Candidate { score: scores[row], norm: if O::USES_NORMS { norms[row] } else { 0 }, id: ids[row] })
            .collect();
        all.sort_by(O::compare);
        all.truncate(k);
        all
    }

    fn check_selection<O: Order>(rows: &[(i32, u32, bool)], k: usize, block: usize, shuffled: bool) {
        let scores: Vec<i32> = rows.iter().map(|row| row.0).collect();
        // Each norm is at least as large as its product, so cosines stay within -1 to 1.
        let norms: Vec<u32> = rows.iter().map(|row| row.1).collect();
        let inverse: Vec<f32> = norms.iter().map(|&n| cosine::inverse_norm(n) as f32).collect();
        let allowed: Vec<u8> = rows.iter().map(|row| u8::from(row.2)).collect();
        let ids: Vec<i64> =
            (0..rows.len() as i64).map(|row| if shuffled { (row * 7919) % 10_007 - 50 } else { row }).collect();
        let expected = expected_selection::<O>(&scores, &norms, &ids, &allowed, k);
        for isa in Isa::ALL {
            let mut selections = [Selection::new(k), Selection::new(k)];
            for start in (0..rows.len()).step_by(block) {
                let end = rows.len().min(start + block);
                let part = BlockRows {
                    ids: if shuffled { Ids::Listed(&ids[start..end]) } else { Ids::Consecutive(start as i64) },
                    norms: &norms[start..end],
                    inverse_norms: &inverse[start..end],
                    allowed: Some(&allowed[start..end]),
                };
                let selection = &mut selections[start / block % 2];
                selection.add_block::<O>(isa, &scores[start..end], &part, !shuffled).expect("memory");
            }
            let mut got = vec![];
            Selection::merge::<O>(selections, k, &mut got).expect("memory");
            assert_eq!(got, expected, "{isa:?}");
        }
    }

    proptest! {
        #[test]
        fn a_selection_keeps_the_best_k_rows(
            rows in prop::collection::vec((-40i32..40, 0u32..60, any::<bool>()), 1..2000),
            k in 1usize..80,
            block in 1usize..700,
            shuffled: bool,
        ) {
            // A zero vector's products are zero.
            let rows: Vec<_> = rows.into_iter().map(|(d, n, ok)| (if n == 0 { 0 } else { d }, n, ok)).collect();
            check_selection::<ByHamming>(&rows, k, block, shuffled);
            check_selection::<ByProduct>(&rows, k, block, shuffled);
            check_selection::<ByCosine>(&rows, k, block, shuffled);
        }
    }

    #[test]
    fn cosines_equal_in_double_precision_are_ranked_exactly() {
        // All within 2^-60 of each other: only the integers know the order.
        let rows: Vec<(i32, u32, bool)> =
            (0..500).map(|i| ((1 << 30) + (i * 37 % 101), (1u32 << 30) + (i as u32 * 74 % 202), true)).collect();
        check_selection::<ByCosine>(&rows, 10, 64, false);
        check_selection::<ByCosine>(&rows, 10, 64, true);
    }

    /// The rows of a mask for each query, sorted by their scores on the portable path.
    fn sorted_rows<K: Kernels, O: Order>(scan: &Scan<'_, K>, mask: &[u8]) -> Vec<Vec<Candidate>> {
        let queries = scan.queries.chunks_exact(scan.query_width());
        let sorted = queries.map(|query| {
            let (mut all, mut number) = (vec![], 0);
            for part in scan.parts {
                for (row, data) in part.rows.chunks_exact(scan.stride).enumerate() {
                    let (mut score, mut norm) = ([0], [0]);
                    let data = Matrix::whole(&data[..scan.width], scan.width);
                    K::rows(Isa::Scalar, query, data, &mut score);
                    if O::USES_NORMS {
                        K::squared_norms(Isa::Scalar, data, &mut norm);
                    }
                    if mask[number] != 0 {
                        let id = part.ids.of(row);
                        all.push(Candidate { score: score[0], norm: norm[0], id });
                    }
                    number += 1;
                }
            }
            all.sort_by(O::compare);
            all
        });
        sorted.collect()
    }

    /// Rows of `width + extra` elements of which `width` are compared.
    fn check_scan<K: Kernels, O: Order>(
        (width, extra): (usize, usize),
        queries_of: &mut dyn FnMut(usize) -> Vec<K::Query>,
        elements: &mut dyn FnMut(usize) -> Vec<K::Element>,
    ) {
        let (mut random, stride) = (Random(width as u64), width + extra);
        for queries in [1, 2, 5, 17] {
            let (query_data, rows) = (queries_of(queries * width * K::RATIO), elements(1501 * stride));
            let mut norms = vec![0; 1501];
            K::squared_norms(Isa::Scalar, Matrix::new(&rows, width, stride), &mut norms);
            let ids: Vec<i64> = (0..1501).map(|row| (row * 1003) % 1501 - 7).collect();
            for (own_ids, own_norms) in [(false, false), (true, true)] {
                let part = |range: Range<usize>| Part {
                    rows: &rows[range.start * stride..range.end * stride],
                    norms: own_norms.then_some(&norms[range.clone()]),
                    ids: if own_ids { Ids::Listed(&ids[range]) } else { Ids::Consecutive(range.start as i64) },
                };
                let parts = [part(0..1), part(1..1), part(1..800), part(800..1501)];
                for share in [0, 1, 30, 70, 100] {
                    let mask: Vec<u8> = (0..1501).map(|_| u8::from(random.below(100) < share)).collect();
                    let (mut memory, mut all) = (SubsetMemory::default(), vec![]);
                    subset::each(&mask, |row| all.push(row));
                    let subsets = [
                        Subset::of_mask(&mask, &mut memory).expect("memory"),
                        Subset::Mask(&mask, all.len()),
                        Subset::Rows(&all),
                    ];
                    let mut scan = Scan::<K> {
                        isa: Isa::Scalar,
                        width,
                        stride,
                        queries: &query_data,
                        parts: &parts,
                        subset: Subset::All,
                        threads: NonZero::new(1),
                    };
                    let sorted = sorted_rows::<K, O>(&scan, &mask);
                    for k in [1, 30, 4000] {
                        let best = sorted.iter().flat_map(|rows| &rows[..k.min(rows.len())]);
                        let expected: Vec<Candidate> = best.copied().collect();
                        for (isa, subset) in Isa::ALL.into_iter().flat_map(|isa| subsets.map(|subset| (isa, subset))) {
                            scan.isa = isa;
                            scan.subset = if share < 100 { subset } else { Subset::All };
                            for threads in [1, 3] {
                                scan.threads = NonZero::new(threads);
                                let found = scan.top_k::<O>(k, &mut || Ok(())).expect("no interrupt");
                                assert_eq!(found.columns * queries, expected.len());
                                assert_eq!(found.candidates, expected, "{isa:?}, {k}, {threads} threads, {share} %");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn top_k_equals_a_full_sort_by_hamming_distance() {
        let (mut random, mut other) = (Random(31), Random(131));
        check_scan::<Hamming, ByHamming>((9, 0), &mut |n| random.bytes(n), &mut |n| other.bytes(n));
        check_scan::<Hamming, ByHamming>((3, 6), &mut |n| random.bytes(n), &mut |n| other.bytes(n));
        // Few distinct rows: ties everywhere.
        let few = |bytes: Vec<u8>| bytes.iter().map(|byte| byte & 3).collect();
        check_scan::<Hamming, ByHamming>((1, 0), &mut |n| few(random.bytes(n)), &mut |n| few(other.bytes(n)));
    }

    #[test]
    fn top_k_equals_a_full_sort_by_product_and_cosine() {
        let (mut random, mut other) = (Random(32), Random(132));
        check_scan::<Dot, ByProduct>((7, 0), &mut |n| random.int8(n), &mut |n| other.int8(n));
        check_scan::<Dot, ByCosine>((7, 0), &mut |n| random.int8(n), &mut |n| other.int8(n));
        check_scan::<Dot, ByCosine>((7, 5), &mut |n| random.int8(n), &mut |n| other.int8(n));
        let few = |values: Vec<i8>| values.iter().map(|x| x % 3).collect();
        check_scan::<Dot, ByCosine>((2, 0), &mut |n| few(random.int8(n)), &mut |n| few(other.int8(n)));
    }

    #[test]
    fn top_k_equals_a_full_sort_by_asymmetric_product() {
        let (mut random, mut other) = (Random(33), Random(133));
        check_scan::<Asymmetric, ByProduct>((2, 0), &mut |n| random.int8(n), &mut |n| other.bytes(n));
        check_scan::<Asymmetric, ByProduct>((1, 1), &mut |n| random.int8(n), &mut |n| other.bytes(n));
    }

    #[test]
    fn an_interrupt_check_stops_a_scan() {
        let rows = vec![0u8; 64 << 20];
        let part = Part { rows: &rows, norms: None, ids: Ids::Consecutive(0) };
        let queries = vec![0u8; 512 * 8];
        let scan = Scan::<Hamming> {
            isa: Isa::hamming(),
            width: 8,
            stride: 8,
            queries: &queries,
            parts: &[part],
            subset: Subset::All,
            threads: NonZero::new(2),
        };
        let mut calls = 0;
        let result = scan.top_k::<ByHamming>(10, &mut || {
            calls += 1;
            if calls == 2 { Err(Error::Interrupted) } else { Ok(()) }
        });
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(calls, 2);
    }
}
