//! Searches of an index: exact, or by bits alone; [`two_stage`](super::two_stage) has those in two stages.

use std::collections::TryReserveError;
use std::num::NonZero;

use super::index::{Index, Kind};
use super::order::{ByCosine, ByHamming, ByProduct, Order};
use super::pairs::{Pair, Triangle};
use super::range::{Threshold, Within};
use super::rows::{Ids, Norm, Part, norms};
use super::scan::Scan;
use super::segment::{Segment, Snapshot, sign_bits};
use super::subset::{Subset, SubsetMemory};
use super::threads::InterruptCheck;
use super::top_k::TopK;
use crate::error::Error;
use crate::memory::filled;
use crate::similarity::asymmetric::Asymmetric;
use crate::similarity::dot::Dot;
use crate::similarity::hamming::Hamming;
use crate::similarity::{Kernels, Matrix};

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

    /// Run a search on the rows of this moment that the filter allows.
    pub(super) fn view<R>(
        &self,
        options: Options<'_>,
        search: impl FnOnce(&View<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let (snapshot, mut memory) = (self.snapshot(), SubsetMemory::default());
        let subset = subset_of(&snapshot, options.filter, &mut memory)?;
        search(&View { snapshot: &snapshot, subset, dims: options.dims, threads: options.threads })
    }

    /// Run a task for int8 queries by any metric.
    pub(super) fn run_by_metric<T: Task>(
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
    pub(super) fn norms_apply(&self, dims: usize) -> bool {
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
pub(super) struct View<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) subset: Subset<'a>,
    pub(super) dims: usize,
    pub(super) threads: Option<NonZero<usize>>,
}

/// The column of a segment that a scan reads.
pub(super) trait ScannedColumn<E> {
    fn of<'a>(&self, segment: &'a Segment) -> &'a [E];
    fn stride(&self, index: &Index) -> usize;
}

pub(super) struct Vectors;
pub(super) struct Bits;

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
pub(super) trait Task {
    type Result;

    fn run<K: Kernels, O: Order>(self, scan: &Scan<'_, K>) -> Result<Self::Result, Error>;
}

pub(super) struct FindTopK<'a> {
    pub(super) k: usize,
    pub(super) check: InterruptCheck<'a>,
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
pub(super) fn with_row_numbers<'a, E>(snapshot: &Snapshot, mut parts: Vec<Part<'a, E>>) -> Vec<Part<'a, E>> {
    for (part, start) in parts.iter_mut().zip(snapshot.starts()) {
        part.ids = Ids::Consecutive(start as i64);
    }
    parts
}

/// The first `bytes` bytes of each query's sign bits.
pub(super) fn query_bits(queries: &[i8], dims: usize, bytes: usize) -> Result<Vec<u8>, TryReserveError> {
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
pub(super) fn subset_of<'a>(
    snapshot: &Snapshot,
    filter: Filter<'_>,
    memory: &'a mut SubsetMemory,
) -> Result<Subset<'a>, Error> {
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
