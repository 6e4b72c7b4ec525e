//! Searches in two stages, of an index or of the shards of one.
//!
//! In two stages, the bits, an eighth of the memory, select `k * oversample` candidates by Hamming distance, and these
//! are compared by the exact metric. Selecting by the asymmetric product would need fewer candidates but takes longer.
//! For a recall of 0.99 at 10 over a million of the benches' vectors of 1,024 dimensions, one thread took 4.3 ms with
//! 480 candidates by distance, 10 ms with 200 by product, and 35 ms for the exact scan. For 64 queries at a time the
//! product costs nearly as much as the exact scan (179 ms and 206 ms): both multiply bytes.

use std::collections::HashMap;
use std::num::NonZero;

use super::index::{Calibration, Index, Kind};
use super::order::{ByCosine, ByHamming, ByProduct, Candidate, Order};
use super::query::{Bits, FindTopK, Metric, Options, ScannedColumn, Vectors, View};
use super::query::{pad_queries, query_bits, subset_of, with_row_numbers};
use super::range::Within;
use super::scan::{Scan, useful_threads};
use super::segment::{Snapshot, sign_bits};
use super::subset::{Subset, SubsetMemory};
use super::threads::{InterruptCheck, Interrupts, run};
use super::top_k::{TopK, queries_together};
use crate::error::Error;
use crate::memory::collected;
use crate::similarity::Kernels;
use crate::similarity::asymmetric::Asymmetric;
use crate::similarity::dot::Dot;
use crate::similarity::hamming::Hamming;

/// First-stage candidates per requested row, unless calibrated. The benches' vectors, which imitate a model's, need 48
/// for a recall of 0.99 at 10 over a million rows of 1,024 dimensions.
pub const DEFAULT_OVERSAMPLE: usize = 64;

/// All that a calibration measured.
#[derive(Clone, Debug)]
pub struct CalibrationReport {
    /// The result, which the index stores.
    pub found: Calibration,
    /// Oversamples in ascending order, and the recall at each.
    pub measured: Vec<(u64, f64)>,
}

impl Index {
    /// The best `k` rows among the candidates that the bits select, and whether these are the best of all rows. The
    /// metric is `Cosine` or `Dot`, and `Asymmetric` for a binary index.
    pub fn search_two_stage(
        &self,
        queries: &[i8],
        metric: Metric,
        k: usize,
        oversample: Option<usize>,
        options: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<(TopK, bool), Error> {
        let oversample = oversample.unwrap_or_else(|| {
            self.calibration()
                .map_or(DEFAULT_OVERSAMPLE, |found| usize::try_from(found.oversample).unwrap_or(usize::MAX))
        });
        self.view(options, |view| self.run_two_stages(queries, metric, k, k.saturating_mul(oversample), view, check))
    }

    fn run_two_stages(
        &self,
        queries: &[i8],
        metric: Metric,
        k: usize,
        candidates: usize,
        view: &View<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<(TopK, bool), Error> {
        let &View { snapshot, subset, dims, threads } = view;
        let bytes = self.first_stage_bytes(dims);
        if candidates >= subset.count(snapshot.count) || bytes == 0 {
            return Ok((self.run_by_metric(queries, metric, view, FindTopK { k, check })?, true));
        }
        let mut found = TopK { columns: k, candidates: vec![], complete: false };
        found.candidates.try_reserve_exact(k.saturating_mul(queries.len() / dims))?;
        let mut interrupts = Interrupts::new(check);
        for queries in queries.chunks(queries_together(candidates) * dims) {
            let bits = query_bits(queries, dims, bytes)?;
            let first = self.first_stage(snapshot, &bits, bytes, candidates, (subset, threads), &mut interrupts)?;
            let stage = SecondStage { view, first: &first, counts: None, k };
            self.compare_candidates(&stage, queries, metric, &mut interrupts, &mut found)?;
        }
        Ok((found, false))
    }

    /// The rows nearest by the bits, as one shard's part of the first stage: their numbers as ids, and how many rows the
    /// filter allows. The first stage of one index takes the best of all shards, those of an earlier shard first where
    /// distances are equal.
    pub fn first_stage_of_shard(
        &self,
        queries: &[i8],
        candidates: usize,
        options: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<(TopK, usize), Error> {
        let bytes = self.first_stage_bytes(options.dims);
        if bytes == 0 {
            return Err(Error::Value(format!("{} dimensions have no whole byte of bits to compare", options.dims)));
        }
        self.view(options, |&View { snapshot, subset, dims, threads }| {
            let bits = query_bits(queries, dims, bytes)?;
            let interrupts = &mut Interrupts::new(check);
            let found = self.first_stage(snapshot, &bits, bytes, candidates, (subset, threads), interrupts)?;
            Ok((found, subset.count(snapshot.count)))
        })
    }

    /// The best `k` of the rows with these numbers, as one shard's part of the second stage. `rows` has `columns` numbers
    /// for each query, of which the first `counts[query]` are compared.
    pub fn second_stage_of_shard(
        &self,
        queries: &[i8],
        metric: Metric,
        k: usize,
        (rows, columns, counts): (&[i64], usize, &[usize]),
        options: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<Within, Error> {
        let total = self.count();
        let valid = |&row: &i64| usize::try_from(row).is_ok_and(|row| row < total);
        if let Some(row) = rows.iter().find(|row| !valid(row)) {
            return Err(Error::Value(format!("rows must be from 0 to {}, got {row}", total.saturating_sub(1))));
        }
        let candidates = collected(rows.iter().map(|&id| Candidate { score: 0, norm: 0, id }))?;
        let first = TopK { columns, candidates, complete: false };
        let mut found = TopK { columns: k, candidates: vec![], complete: false };
        self.view(options, |view| {
            let stage = SecondStage { view, first: &first, counts: Some(counts), k };
            self.compare_candidates(&stage, queries, metric, &mut Interrupts::new(check), &mut found)
        })?;
        let mut within = Within { offsets: vec![0], candidates: found.candidates };
        within.offsets.try_reserve_exact(counts.len())?;
        let mut end = 0;
        within.offsets.extend(counts.iter().map(|&count| {
            end += count.min(k);
            end
        }));
        Ok(within)
    }

    /// Find and store the smallest oversample at which two stages reach this recall of the true best `k` rows over all
    /// queries together. The truth is an exact search by `Cosine`, or by `Asymmetric` for a binary index. All dimensions
    /// are compared.
    pub fn calibrate(
        &self,
        queries: &[i8],
        k: usize,
        recall: f64,
        Options { filter, threads, .. }: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<CalibrationReport, Error> {
        let (snapshot, dims, mut memory) = (self.snapshot(), self.dims(), SubsetMemory::default());
        let subset = subset_of(&snapshot, filter, &mut memory)?;
        let count = subset.count(snapshot.count);
        if queries.is_empty() || count == 0 {
            let message = "queries and the index must have at least one row each to calibrate with";
            return Err(Error::Value(message.to_owned()));
        }
        let width = self.bit_bytes();
        let mut interrupts = Interrupts::new(check);
        // The true best rows, with row numbers as ids.
        let best = if self.kind() == Kind::Int8 {
            let parts = with_row_numbers(&snapshot, snapshot.parts(|segment| segment.rows.values(), true));
            let isa = Dot::isa();
            let scan = Scan::<Dot> { isa, width: dims, stride: dims, queries, parts: &parts, subset, threads };
            scan.select::<ByCosine>(k, &mut interrupts)?
        } else {
            // A binary index has whole bytes of dimensions.
            let parts = with_row_numbers(&snapshot, snapshot.parts(|segment| segment.bits.values(), false));
            let isa = Asymmetric::isa();
            let scan = Scan::<Asymmetric> { isa, width, stride: width, queries, parts: &parts, subset, threads };
            scan.select::<ByProduct>(k, &mut interrupts)?
        };
        let bits = sign_bits(queries, dims)?;
        // The oversample that each true row needs, as far as the first stage has reached.
        let (mut needed, mut oversample): (Vec<usize>, usize) = (vec![], 64);
        let total = best.candidates.len();
        needed.try_reserve_exact(total)?;
        // The subtraction undoes rounding that puts the product just above a whole number.
        let wanted = ((recall * total as f64 - 1e-6).ceil() as usize).clamp(1, total.max(1));
        loop {
            let candidates = k.saturating_mul(oversample).min(count);
            needed.clear();
            let together = queries_together(candidates);
            for (group, bits) in bits.chunks(together * width).enumerate() {
                let first = self.first_stage(&snapshot, bits, width, candidates, (subset, threads), &mut interrupts)?;
                for (query, first) in first.candidates.chunks_exact(candidates).enumerate() {
                    let mut ranks = HashMap::new();
                    ranks.try_reserve(first.len())?;
                    ranks.extend(first.iter().enumerate().map(|(rank, candidate)| (candidate.id, rank)));
                    let query = group * together + query;
                    let best = &best.candidates[query * best.columns..][..best.columns];
                    needed.extend(best.iter().filter_map(|row| Some(ranks.get(&row.id)? / k + 1)));
                }
            }
            if needed.len() >= wanted || candidates == count {
                break;
            }
            oversample = oversample.saturating_mul(8);
        }
        needed.sort_unstable();
        let reached = |oversample: usize| needed.partition_point(|&need| need <= oversample) as f64 / total as f64;
        let smallest = needed[wanted.min(needed.len()) - 1];
        let mut tried: Vec<usize> =
            (0..usize::BITS).map(|power| 1 << power).take_while(|&o| o < 2 * smallest).collect();
        tried.push(smallest);
        tried.sort_unstable();
        tried.dedup();
        let found = Calibration { oversample: smallest as u64, k: k as u64, recall: reached(smallest) };
        self.set_calibration(found);
        Ok(CalibrationReport { found, measured: tried.into_iter().map(|o| (o as u64, reached(o))).collect() })
    }

    /// Bytes of a row that the first stage compares: whole ones.
    fn first_stage_bytes(&self, dims: usize) -> usize {
        if dims == self.dims() { self.bit_bytes() } else { dims / 8 }
    }

    /// Append the best of each query's candidates to `found`.
    fn compare_candidates(
        &self,
        stage: &SecondStage<'_>,
        queries: &[i8],
        metric: Metric,
        interrupts: &mut Interrupts<'_>,
        found: &mut TopK,
    ) -> Result<(), Error> {
        let dims = stage.view.dims;
        match metric {
            Metric::Asymmetric => {
                let width = dims.div_ceil(8);
                let padded = pad_queries(queries, dims, 8 * width)?;
                let queries = padded.as_deref().unwrap_or(queries);
                self.second_stage::<Asymmetric, ByProduct>(stage, queries, &Bits, width, interrupts, found)
            }
            Metric::Dot => self.second_stage::<Dot, ByProduct>(stage, queries, &Vectors, dims, interrupts, found),
            _ => self.second_stage::<Dot, ByCosine>(stage, queries, &Vectors, dims, interrupts, found),
        }
    }

    /// The `k` rows nearest by Hamming distance; their ids are row numbers over all segments.
    pub(super) fn first_stage(
        &self,
        snapshot: &Snapshot,
        bits: &[u8],
        width: usize,
        k: usize,
        (subset, threads): (Subset<'_>, Option<NonZero<usize>>),
        interrupts: &mut Interrupts<'_>,
    ) -> Result<TopK, Error> {
        let parts = with_row_numbers(snapshot, snapshot.parts(|segment| segment.bits.values(), false));
        let stride = self.bit_bytes();
        let scan =
            Scan::<Hamming> { isa: Hamming::isa(), width, stride, queries: bits, parts: &parts, subset, threads };
        scan.select::<ByHamming>(k, interrupts)
    }

    /// Append the best of each query's candidates to `found`.
    fn second_stage<K: Kernels, O: Order>(
        &self,
        &SecondStage { view, first, counts, k }: &SecondStage<'_>,
        queries: &[K::Query],
        column: &impl ScannedColumn<K::Element>,
        width: usize,
        interrupts: &mut Interrupts<'_>,
        found: &mut TopK,
    ) -> Result<(), Error> {
        let (stride, query_width) = (column.stride(self), width * K::RATIO);
        let parts = view.snapshot.parts(|segment| column.of(segment), self.norms_apply(view.dims));
        let each = |query: usize, threads: Option<NonZero<usize>>, interrupts: &mut Interrupts<'_>| {
            let count = counts.map_or(first.columns, |counts| counts[query]);
            let candidates = &first.candidates[query * first.columns..][..count];
            let mut rows = collected(candidates.iter().map(|candidate| candidate.id as usize))?;
            rows.sort_unstable();
            let scan = Scan::<K> {
                isa: K::isa(),
                width,
                stride,
                queries: &queries[query * query_width..][..query_width],
                parts: &parts,
                subset: Subset::Rows(&rows),
                threads,
            };
            scan.select::<O>(k, interrupts)
        };
        let count = queries.len() / query_width;
        if count == 1 {
            found.candidates.extend(each(0, view.threads, interrupts)?.candidates);
            return Ok(());
        }
        // Scattered rows cost more to read than those of a scan.
        let bytes = first.candidates.len().saturating_mul(view.dims * 4);
        let threads = view.threads.map_or_else(|| useful_threads(bytes), NonZero::get);
        let mut all: Vec<(usize, TopK)> = run(count, threads, interrupts, |for_each_query| {
            let mut own = vec![];
            for_each_query(&mut |query| {
                let found = each(query, NonZero::new(1), &mut Interrupts::new(&mut || Ok(())))?;
                own.push((query, found));
                Ok(())
            })?;
            Ok(own)
        })?
        .into_iter()
        .flatten()
        .collect();
        all.sort_unstable_by_key(|&(query, _)| query);
        for (_, best) in all {
            found.candidates.extend(best.candidates);
        }
        Ok(())
    }
}

/// The candidates of the first stage, and how many of them to keep.
struct SecondStage<'a> {
    view: &'a View<'a>,
    first: &'a TopK,
    /// How many candidates of each query are compared; None: all.
    counts: Option<&'a [usize]>,
    k: usize,
}
