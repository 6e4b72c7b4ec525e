//! Searches of an index: exact, by bits alone, or in two stages.
//!
//! In two stages, the bits, an eighth of the memory, select `k * oversample` candidates by Hamming distance, and these
//! are compared by the exact metric. Selecting by the asymmetric product would need fewer candidates but takes longer.
//! For a recall of 0.99 at 10 over a million of the benches' vectors of 1,024 dimensions, one thread took 4.3 ms with
//! 480 candidates by distance, 10 ms with 200 by product, and 35 ms for the exact scan. For 64 queries at a time the
//! product costs nearly as much as the exact scan (179 ms and 206 ms): both multiply bytes.

use std::collections::{HashMap, TryReserveError};
use std::num::NonZero;

use super::index::{Calibration, Index, Kind};
use super::order::{ByCosine, ByHamming, ByProduct, Order};
use super::pairs::{Pair, Triangle};
use super::range::{Threshold, Within};
use super::rows::{Ids, Norm, Part, norms};
use super::scan::{Scan, useful_threads};
use super::segment::{Segment, Snapshot, sign_bits};
use super::subset::{Subset, SubsetMemory};
use super::threads::{InterruptCheck, Interrupts, run};
use super::top_k::{TopK, queries_together};
use crate::error::Error;
use crate::memory::{collected, filled};
use crate::similarity::asymmetric::Asymmetric;
use crate::similarity::dot::Dot;
use crate::similarity::hamming::Hamming;
use crate::similarity::{Kernels, Matrix};

/// First-stage candidates per requested row, unless calibrated. The benches' vectors, which imitate a model's, need 48
/// for a recall of 0.99 at 10 over a million rows of 1,024 dimensions.
pub const DEFAULT_OVERSAMPLE: usize = 64;

/// The score that rows are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Cosine of int8 vectors.
    Cosine,
    /// Inner product of int8 vectors.
    Dot,
    /// Hamming distance of bits.
    Hamming,
    /// Inner product of an int8 query with the bits as +1 and -1.
    Asymmetric,
}

/// Which rows may be found.
#[derive(Clone, Copy, Debug)]
pub enum Filter<'a> {
    /// All rows.
    None,
    /// One byte per row, in row order; zero hides the row.
    Mask(&'a [u8]),
    /// The rows that have one of these ids.
    Ids(&'a [i64]),
}

/// Options that all searches of an index share.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Which rows may be found.
    pub filter: Filter<'a>,
    /// How many leading dimensions are compared, from 1 to those of the index.
    pub dims: usize,
    /// Threads, the calling one included; None: as many as the work is worth.
    pub threads: Option<NonZero<usize>>,
}

/// All that a calibration measured.
#[derive(Clone, Debug)]
pub struct CalibrationReport {
    /// The result, which the index stores.
    pub found: Calibration,
    /// Oversamples in ascending order, and the recall at each.
    pub measured: Vec<(u64, f64)>,
}

impl Index {
    /// The best `k` rows for int8 queries, every row compared. A binary index takes the metric `Asymmetric` only.
    pub fn search(
        &self,
        queries: &[i8],
        metric: Metric,
        k: usize,
        options: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<TopK, Error> {
        self.view(options, |view| self.run_by_metric(queries, metric, view, FindTopK { k, check }))
    }

    /// The nearest `k` rows for packed bits by Hamming distance, every row compared.
    pub fn search_bits(
        &self,
        queries: &[u8],
        k: usize,
        options: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<TopK, Error> {
        self.view(options, |view| self.run_hamming(queries, view, FindTopK { k, check }))
    }

    /// All rows within the threshold of int8 queries, best first.
    pub fn within(
        &self,
        queries: &[i8],
        metric: Metric,
        threshold: Threshold,
        options: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<Within, Error> {
        let norms = query_norms(threshold, queries, options.dims)?;
        let task = FindWithin { threshold, norms: &norms, check };
        self.view(options, |view| self.run_by_metric(queries, metric, view, task))
    }

    /// All rows within the threshold of packed bits, nearest first.
    pub fn within_bits(
        &self,
        queries: &[u8],
        threshold: Threshold,
        options: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<Within, Error> {
        self.view(options, |view| self.run_hamming(queries, view, FindWithin { threshold, norms: &[], check }))
    }

    /// The number of rows within the threshold of int8 queries.
    pub fn count_within(
        &self,
        queries: &[i8],
        metric: Metric,
        threshold: Threshold,
        options: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<Vec<u64>, Error> {
        let norms = query_norms(threshold, queries, options.dims)?;
        let task = CountWithin { threshold, norms: &norms, check };
        self.view(options, |view| self.run_by_metric(queries, metric, view, task))
    }

    /// The number of rows within the threshold of packed bits.
    pub fn count_within_bits(
        &self,
        queries: &[u8],
        threshold: Threshold,
        options: Options<'_>,
        check: InterruptCheck<'_>,
    ) -> Result<Vec<u64>, Error> {
        self.view(options, |view| self.run_hamming(queries, view, CountWithin { threshold, norms: &[], check }))
    }

    /// All pairs of rows within the threshold, or the nearest `limit` of them, in the order of their ids.
    pub fn near_duplicates(
        &self,
        metric: Metric,
        threshold: Threshold,
        limit: Option<NonZero<usize>>,
        dims: usize,
        threads: Option<NonZero<usize>>,
        check: InterruptCheck<'_>,
    ) -> Result<Vec<Pair>, Error> {
        let snapshot = self.snapshot();
        let starts = snapshot.starts();
        let id = &|row: usize| {
            let segment = starts.partition_point(|&start| start <= row) - 1;
            snapshot.segments[segment].ids().of(row - starts[segment])
        };
        if metric == Metric::Hamming {
            let parts = snapshot.parts(|segment| segment.bits.values(), false);
            let (width, stride) = (dims.div_ceil(8), self.bit_bytes());
            Triangle { parts: &parts, width, stride, threads, id }.pairs::<Hamming>(threshold, limit, check)
        } else {
            let parts = snapshot.parts(|segment| segment.rows.values(), dims == self.dims());
            let (width, stride) = (dims, self.dims());
            Triangle { parts: &parts, width, stride, threads, id }.pairs::<Dot>(threshold, limit, check)
        }
    }

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
        // The first stage compares whole bytes.
        let bytes = if dims == self.dims() { self.bit_bytes() } else { dims / 8 };
        if candidates >= subset.count(snapshot.count) || bytes == 0 {
            return Ok((self.run_by_metric(queries, metric, view, FindTopK { k, check })?, true));
        }
        let mut found = TopK { columns: k, candidates: vec![] };
        found.candidates.try_reserve_exact(k.saturating_mul(queries.len() / dims))?;
        let mut interrupts = Interrupts::new(check);
        for queries in queries.chunks(queries_together(candidates) * dims) {
            let bits = query_bits(queries, dims, bytes)?;
            let first = self.first_stage(snapshot, &bits, bytes, candidates, (subset, threads), &mut interrupts)?;
            let stage = SecondStage { view, first: &first, k };
            let (interrupts, found) = (&mut interrupts, &mut found);
            match metric {
                Metric::Asymmetric => {
                    let width = dims.div_ceil(8);
                    let padded = pad_queries(queries, dims, 8 * width)?;
                    let queries = padded.as_deref().unwrap_or(queries);
                    self.second_stage::<Asymmetric, ByProduct>(&stage, queries, &Bits, width, interrupts, found)?;
                }
                Metric::Dot => {
                    self.second_stage::<Dot, ByProduct>(&stage, queries, &Vectors, dims, interrupts, found)?;
                }
                _ => self.second_stage::<Dot, ByCosine>(&stage, queries, &Vectors, dims, interrupts, found)?,
            }
        }
        Ok((found, false))
    }

    /// The `k` rows nearest by Hamming distance; their ids are row numbers over all segments.
    fn first_stage(
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
        &SecondStage { view, first, k }: &SecondStage<'_>,
        queries: &[K::Query],
        column: &impl ScannedColumn<K::Element>,
        width: usize,
        interrupts: &mut Interrupts<'_>,
        found: &mut TopK,
    ) -> Result<(), Error> {
        let (stride, query_width) = (column.stride(self), width * K::RATIO);
        let parts = view.snapshot.parts(|segment| column.of(segment), self.norms_apply(view.dims));
        let each = |query: usize, threads: Option<NonZero<usize>>, interrupts: &mut Interrupts<'_>| {
            let candidates = &first.candidates[query * first.columns..][..first.columns];
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

    /// Run a search on the rows of this moment that the filter allows.
    fn view<R>(&self, options: Options<'_>, search: impl FnOnce(&View<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let (snapshot, mut memory) = (self.snapshot(), SubsetMemory::default());
        let subset = subset_of(&snapshot, options.filter, &mut memory)?;
        search(&View { snapshot: &snapshot, subset, dims: options.dims, threads: options.threads })
    }

    /// Run a task for int8 queries by any metric.
    fn run_by_metric<T: Task>(
        &self,
        queries: &[i8],
        metric: Metric,
        view: &View<'_>,
        task: T,
    ) -> Result<T::Result, Error> {
        match metric {
            Metric::Hamming => self.run_hamming(&sign_bits(queries, view.dims)?, view, task),
            Metric::Asymmetric => {
                let width = view.dims.div_ceil(8);
                let padded = pad_queries(queries, view.dims, 8 * width)?;
                let queries = padded.as_deref().unwrap_or(queries);
                self.scan::<Asymmetric, ByProduct, _>(queries, &Bits, width, view, task)
            }
            Metric::Dot => self.scan::<Dot, ByProduct, _>(queries, &Vectors, view.dims, view, task),
            Metric::Cosine => self.scan::<Dot, ByCosine, _>(queries, &Vectors, view.dims, view, task),
        }
    }

    fn run_hamming<T: Task>(&self, queries: &[u8], view: &View<'_>, task: T) -> Result<T::Result, Error> {
        self.scan::<Hamming, ByHamming, _>(queries, &Bits, view.dims.div_ceil(8), view, task)
    }

    /// Whether the stored norms are those of the compared dimensions.
    fn norms_apply(&self, dims: usize) -> bool {
        self.kind() == Kind::Int8 && dims == self.dims()
    }

    fn scan<K: Kernels, O: Order, T: Task>(
        &self,
        queries: &[K::Query],
        column: &impl ScannedColumn<K::Element>,
        width: usize,
        &View { snapshot, subset, dims, threads }: &View<'_>,
        task: T,
    ) -> Result<T::Result, Error> {
        let parts = snapshot.parts(|segment| column.of(segment), self.norms_apply(dims));
        let (isa, stride) = (K::isa(), column.stride(self));
        task.run::<K, O>(&Scan { isa, width, stride, queries, parts: &parts, subset, threads })
    }
}

/// The rows of an index at one moment, and how to search them.
struct View<'a> {
    snapshot: &'a Snapshot,
    subset: Subset<'a>,
    dims: usize,
    threads: Option<NonZero<usize>>,
}

/// The candidates of the first stage, and how many of them to keep.
struct SecondStage<'a> {
    view: &'a View<'a>,
    first: &'a TopK,
    k: usize,
}

/// The column of a segment that a scan reads.
trait ScannedColumn<E> {
    fn of<'a>(&self, segment: &'a Segment) -> &'a [E];
    fn stride(&self, index: &Index) -> usize;
}

struct Vectors;
struct Bits;

impl ScannedColumn<i8> for Vectors {
    fn of<'a>(&self, segment: &'a Segment) -> &'a [i8] {
        segment.rows.values()
    }

    fn stride(&self, index: &Index) -> usize {
        index.dims()
    }
}

impl ScannedColumn<u8> for Bits {
    fn of<'a>(&self, segment: &'a Segment) -> &'a [u8] {
        segment.bits.values()
    }

    fn stride(&self, index: &Index) -> usize {
        index.bit_bytes()
    }
}

/// What to compute from a scan.
trait Task {
    type Result;

    fn run<K: Kernels, O: Order>(self, scan: &Scan<'_, K>) -> Result<Self::Result, Error>;
}

struct FindTopK<'a> {
    k: usize,
    check: InterruptCheck<'a>,
}

struct FindWithin<'a> {
    threshold: Threshold,
    norms: &'a [Norm],
    check: InterruptCheck<'a>,
}

struct CountWithin<'a> {
    threshold: Threshold,
    norms: &'a [Norm],
    check: InterruptCheck<'a>,
}

impl Task for FindTopK<'_> {
    type Result = TopK;

    fn run<K: Kernels, O: Order>(self, scan: &Scan<'_, K>) -> Result<TopK, Error> {
        scan.top_k::<O>(self.k, self.check)
    }
}

impl Task for FindWithin<'_> {
    type Result = Within;

    fn run<K: Kernels, O: Order>(self, scan: &Scan<'_, K>) -> Result<Within, Error> {
        scan.within::<O>(self.threshold, self.norms, self.check)
    }
}

impl Task for CountWithin<'_> {
    type Result = Vec<u64>;

    fn run<K: Kernels, O: Order>(self, scan: &Scan<'_, K>) -> Result<Vec<u64>, Error> {
        scan.count(self.threshold, self.norms, self.check)
    }
}

fn query_norms(threshold: Threshold, queries: &[i8], dims: usize) -> Result<Vec<Norm>, TryReserveError> {
    if threshold.uses_norms() { norms(queries, dims) } else { Ok(vec![]) }
}

/// The parts with row numbers over all of them as ids.
fn with_row_numbers<'a, E>(snapshot: &Snapshot, mut parts: Vec<Part<'a, E>>) -> Vec<Part<'a, E>> {
    for (part, start) in parts.iter_mut().zip(snapshot.starts()) {
        part.ids = Ids::Consecutive(start as i64);
    }
    parts
}

/// The first `bytes` bytes of each query's sign bits.
fn query_bits(queries: &[i8], dims: usize, bytes: usize) -> Result<Vec<u8>, TryReserveError> {
    let (bits, whole) = (sign_bits(queries, dims)?, dims.div_ceil(8));
    if bytes == whole { Ok(bits) } else { Matrix::new(&bits, bytes, whole).copied() }
}

/// Queries of `dims` values, each padded with zeros to `width`; None if they have that width already.
pub fn pad_queries(queries: &[i8], dims: usize, width: usize) -> Result<Option<Vec<i8>>, TryReserveError> {
    if width == dims {
        return Ok(None);
    }
    let mut padded = filled(0, (queries.len() / dims).saturating_mul(width))?;
    for (to, from) in padded.chunks_exact_mut(width).zip(queries.chunks_exact(dims)) {
        to[..dims].copy_from_slice(from);
    }
    Ok(Some(padded))
}

/// The rows of a snapshot that a filter allows.
fn subset_of<'a>(snapshot: &Snapshot, filter: Filter<'_>, memory: &'a mut SubsetMemory) -> Result<Subset<'a>, Error> {
    match filter {
        Filter::None => Ok(Subset::All),
        Filter::Mask(mask) if mask.len() != snapshot.count => {
            let (count, got) = (snapshot.count, mask.len());
            Err(Error::Value(format!("mask must have one entry per row: shape ({count},), got ({got},)")))
        }
        Filter::Mask(mask) => Ok(Subset::of_mask(mask, memory)?),
        Filter::Ids(ids) => Ok(Subset::of_list(snapshot.rows_of(ids)?, memory)),
    }
}
