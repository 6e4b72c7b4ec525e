//! Searches of an index: exact, by bits alone, or in two stages.
//!
//! Two stages: the bits, an eighth of the memory, choose `k * oversample` candidates by Hamming distance, and those
//! are compared by the exact metric. The asymmetric product needs fewer candidates, but Hamming distance measures
//! better: over a million rows of 1,024 dimensions of the benches' vectors, at a recall of 0.99 at 10, one thread took
//! 4.3 ms for 480 candidates by distance, and 10 ms for 200 by the product, beside 35 ms for the exact scan. For many
//! queries at a time the product costs nearly what the exact scan does (179 ms and 206 ms for 64): both multiply bytes.

use std::collections::HashMap;
use std::num::NonZero;

use super::index::{Calibrated, Index, Kind};
use super::pairs::{Pair, Triangle};
use super::range::{Norm, Threshold, Within};
use super::scan::{Found, Ids, Part, Scan, Watch, queries_together, useful_threads};
use super::segment::{Segment, Snapshot, signs};
use super::subset::Subset;
use super::threads::{Pulse, run};
use super::top_k::{Closest, Greatest, Nearest, Order};
use crate::error::Error;
use crate::similarity::asymmetric::Asymmetric;
use crate::similarity::dot::Dot;
use crate::similarity::hamming::Hamming;
use crate::similarity::{Kernels, Matrix};

/// Candidates of the first stage for each row asked for, where nothing was calibrated. On the vectors of the benches,
/// which are made like those of a model, a million rows of 1,024 dimensions need 48 for a recall of 0.99 at 10.
pub const OVERSAMPLE: usize = 64;

/// What rows are ranked by.
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
    /// All.
    None,
    /// One byte a row, in their order: zero hides it.
    Mask(&'a [u8]),
    /// Those that have one of these ids.
    Ids(&'a [i64]),
}

/// What is asked of an index beside the queries.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Rows a query.
    pub k: usize,
    /// Which rows may be found.
    pub filter: Filter<'a>,
    /// Dimensions that are compared, from the first: 1 up to those of the index.
    pub dims: usize,
    /// Threads; none: as many as pay.
    pub threads: Option<NonZero<usize>>,
}

/// What a calibration measured.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// What the index keeps of it.
    pub found: Calibrated,
    /// Oversamples that were tried, in ascending order, and the recall at each.
    pub measured: Vec<(u64, f64)>,
}

impl Index {
    /// The best rows for int8 queries by a metric, every row compared. For a binary index: by `Asymmetric` alone.
    pub fn search(
        &self,
        queries: &[i8],
        metric: Metric,
        options: Options<'_>,
        watch: Watch<'_>,
    ) -> Result<Found, Error> {
        self.each_metric(queries, metric, options, Best { k: options.k, watch })
    }

    /// The nearest rows for packed bits by Hamming distance, every row compared.
    pub fn search_bits(&self, queries: &[u8], options: Options<'_>, watch: Watch<'_>) -> Result<Found, Error> {
        self.hamming(queries, options, Best { k: options.k, watch })
    }

    /// All rows that are near enough to int8 queries, best first.
    pub fn within(
        &self,
        queries: &[i8],
        metric: Metric,
        threshold: Threshold,
        options: Options<'_>,
        watch: Watch<'_>,
    ) -> Result<Within, Error> {
        let norms = norms_for(threshold, queries, options.dims);
        self.each_metric(queries, metric, options, Near { threshold, norms: &norms, watch })
    }

    /// All rows that are near enough to packed bits, nearest first.
    pub fn within_bits(
        &self,
        queries: &[u8],
        threshold: Threshold,
        options: Options<'_>,
        watch: Watch<'_>,
    ) -> Result<Within, Error> {
        self.hamming(queries, options, Near { threshold, norms: &[], watch })
    }

    /// The number of rows that are near enough to int8 queries.
    pub fn count_within(
        &self,
        queries: &[i8],
        metric: Metric,
        threshold: Threshold,
        options: Options<'_>,
        watch: Watch<'_>,
    ) -> Result<Vec<u64>, Error> {
        let norms = norms_for(threshold, queries, options.dims);
        self.each_metric(queries, metric, options, Count { threshold, norms: &norms, watch })
    }

    /// The number of rows that are near enough to packed bits.
    pub fn count_within_bits(
        &self,
        queries: &[u8],
        threshold: Threshold,
        options: Options<'_>,
        watch: Watch<'_>,
    ) -> Result<Vec<u64>, Error> {
        self.hamming(queries, options, Count { threshold, norms: &[], watch })
    }

    /// All pairs of rows that are near enough, or at most `limit` of them, the nearest; in the order of the ids.
    pub fn near_duplicates(
        &self,
        metric: Metric,
        threshold: Threshold,
        limit: Option<NonZero<usize>>,
        options: Options<'_>,
        watch: Watch<'_>,
    ) -> Result<Vec<Pair>, Error> {
        let (snapshot, dims, threads) = (self.snapshot(), options.dims, options.threads);
        let starts = starts(&snapshot);
        let id = &|row: usize| {
            let segment = starts.partition_point(|&start| start <= row) - 1;
            snapshot.segments[segment].ids().of(row - starts[segment])
        };
        if metric == Metric::Hamming {
            let parts = snapshot.parts(|segment| segment.bits.values(), false);
            let (width, stride) = (dims.div_ceil(8), self.bit_bytes());
            Triangle { parts: &parts, width, stride, threads, id }.near::<Hamming>(threshold, limit, watch)
        } else {
            let parts = snapshot.parts(|segment| segment.rows.values(), dims == self.dims());
            let (width, stride) = (dims, self.dims());
            Triangle { parts: &parts, width, stride, threads, id }.near::<Dot>(threshold, limit, watch)
        }
    }

    /// The best rows by cosine or product, or for a binary index by `Asymmetric`, among those that the bits find, and
    /// whether these are the best of all.
    pub fn search_two_stage(
        &self,
        queries: &[i8],
        metric: Metric,
        oversample: Option<usize>,
        options: Options<'_>,
        watch: Watch<'_>,
    ) -> Result<(Found, bool), Error> {
        let snapshot = self.snapshot();
        let oversample = oversample.unwrap_or_else(|| {
            self.calibrated().map_or(OVERSAMPLE, |found| usize::try_from(found.oversample).unwrap_or(usize::MAX))
        });
        let candidates = options.k.saturating_mul(oversample);
        let mut list = vec![];
        let subset = resolve(&snapshot, options.filter, &mut list)?;
        // The first stage looks at whole bytes of bits.
        let bytes = if options.dims == self.dims() { self.bit_bytes() } else { options.dims / 8 };
        if candidates >= subset.count(snapshot.count) || bytes == 0 {
            return Ok((self.search(queries, metric, options, watch)?, true));
        }
        let columns = options.k;
        let mut found = Found { columns, candidates: vec![] };
        let count = queries.len() / options.dims;
        found.candidates.try_reserve_exact(columns.saturating_mul(count))?;
        let mut pulse = Pulse::new(watch);
        for queries in queries.chunks(queries_together(candidates) * options.dims) {
            let bits = bits_of(queries, options.dims, bytes);
            let first = self.candidates(&snapshot, &bits, bytes, candidates, (subset, options.threads), &mut pulse)?;
            let (stage, pulse, found) =
                (Second { snapshot: &snapshot, first: &first, options }, &mut pulse, &mut found);
            match metric {
                Metric::Asymmetric => {
                    let width = options.dims.div_ceil(8);
                    let filled = fill_up(queries, options.dims, 8 * width);
                    let queries = filled.as_deref().unwrap_or(queries);
                    self.second::<Asymmetric, Greatest>(&stage, queries, &Bits, width, pulse, found)?;
                }
                Metric::Dot => self.second::<Dot, Greatest>(&stage, queries, &Vectors, options.dims, pulse, found)?,
                _ => self.second::<Dot, Closest>(&stage, queries, &Vectors, options.dims, pulse, found)?,
            }
        }
        Ok((found, false))
    }

    /// The rows that are nearest by their bits, as numbers over all segments.
    fn candidates(
        &self,
        snapshot: &Snapshot,
        bits: &[u8],
        width: usize,
        k: usize,
        (subset, threads): (Subset<'_>, Option<NonZero<usize>>),
        pulse: &mut Pulse<'_>,
    ) -> Result<Found, Error> {
        let parts = numbered(snapshot, snapshot.parts(|segment| segment.bits.values(), false));
        let stride = self.bit_bytes();
        let scan =
            Scan::<Hamming> { isa: Hamming::isa(), width, stride, queries: bits, parts: &parts, subset, threads };
        scan.best::<Nearest>(k, pulse)
    }

    /// The best of each query's candidates.
    fn second<K: Kernels, O: Order>(
        &self,
        &Second { snapshot, first, options }: &Second<'_>,
        queries: &[K::Query],
        column: &impl Rows<K::Element>,
        width: usize,
        pulse: &mut Pulse<'_>,
        found: &mut Found,
    ) -> Result<(), Error> {
        let (stride, query_width) = (column.stride(self), width * K::RATIO);
        let parts = snapshot.parts(|segment| column.of(segment), self.norms_of(options.dims));
        let each = |query: usize, threads: Option<NonZero<usize>>, pulse: &mut Pulse<'_>| {
            let candidates = &first.candidates[query * first.columns..][..first.columns];
            let mut rows: Vec<usize> = candidates.iter().map(|candidate| candidate.id as usize).collect();
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
            scan.best::<O>(options.k, pulse)
        };
        let count = queries.len() / query_width;
        if count == 1 {
            found.candidates.extend(each(0, options.threads, pulse)?.candidates);
            return Ok(());
        }
        // Rows come from everywhere, and cost more than those of a scan.
        let bytes = first.candidates.len().saturating_mul(options.dims * 4);
        let threads = options.threads.map_or_else(|| useful_threads(bytes), NonZero::get);
        let mut all: Vec<(usize, Found)> = run(count, threads, pulse, |units| {
            let mut own = vec![];
            units(&mut |query| {
                let found = each(query, NonZero::new(1), &mut Pulse::new(&mut || Ok(())))?;
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

    /// Find the smallest oversample at which two stages find this share of the true best `k` rows by cosine, or for a
    /// binary index by `Asymmetric`, over all queries together, and keep it.
    pub fn calibrate(
        &self,
        queries: &[i8],
        recall: f64,
        options: Options<'_>,
        watch: Watch<'_>,
    ) -> Result<Calibration, Error> {
        let (snapshot, dims, k) = (self.snapshot(), self.dims(), options.k);
        if queries.is_empty() || snapshot.count == 0 {
            let message = "queries and the index must have at least one row each to calibrate with";
            return Err(Error::Value(message.to_owned()));
        }
        let width = self.bit_bytes();
        let mut pulse = Pulse::new(watch);
        // The true best rows, known by their numbers.
        let (subset, threads) = (Subset::All, options.threads);
        let best = if self.kind() == Kind::Int8 {
            let parts = numbered(&snapshot, snapshot.parts(|segment| segment.rows.values(), true));
            let isa = Dot::isa();
            let scan = Scan::<Dot> { isa, width: dims, stride: dims, queries, parts: &parts, subset, threads };
            scan.best::<Closest>(k, &mut pulse)?
        } else {
            // Its dimensions are whole bytes.
            let parts = numbered(&snapshot, snapshot.parts(|segment| segment.bits.values(), false));
            let isa = Asymmetric::isa();
            let scan = Scan::<Asymmetric> { isa, width, stride: width, queries, parts: &parts, subset, threads };
            scan.best::<Greatest>(k, &mut pulse)?
        };
        let bits = signs(queries, dims);
        // How many candidates each of them asks for; those that the first stage has not reached yet are left out.
        let (mut needed, mut oversample): (Vec<usize>, usize) = (vec![], 64);
        let total = best.candidates.len();
        // Less what the product may be above a whole number by rounding.
        let wanted = ((recall * total as f64 - 1e-6).ceil() as usize).clamp(1, total.max(1));
        loop {
            let candidates = k.saturating_mul(oversample).min(snapshot.count);
            needed.clear();
            let together = queries_together(candidates);
            for (group, bits) in bits.chunks(together * width).enumerate() {
                let first = self.candidates(&snapshot, bits, width, candidates, (subset, threads), &mut pulse)?;
                for (query, first) in first.candidates.chunks_exact(candidates).enumerate() {
                    let places: HashMap<i64, usize> =
                        first.iter().enumerate().map(|(place, candidate)| (candidate.id, place)).collect();
                    let query = group * together + query;
                    let best = &best.candidates[query * best.columns..][..best.columns];
                    needed.extend(best.iter().filter_map(|row| Some(places.get(&row.id)? / k + 1)));
                }
            }
            if needed.len() >= wanted || candidates == snapshot.count {
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
        let found = Calibrated { oversample: smallest as u64, k: k as u64, recall: reached(smallest) };
        self.set_calibrated(found);
        Ok(Calibration { found, measured: tried.into_iter().map(|o| (o as u64, reached(o))).collect() })
    }

    /// Do something of a scan by any metric with int8 queries.
    fn each_metric<W: Work>(
        &self,
        queries: &[i8],
        metric: Metric,
        options: Options<'_>,
        work: W,
    ) -> Result<W::Result, Error> {
        match metric {
            Metric::Hamming => self.hamming(&signs(queries, options.dims), options, work),
            Metric::Asymmetric => {
                let width = options.dims.div_ceil(8);
                let filled = fill_up(queries, options.dims, 8 * width);
                let queries = filled.as_deref().unwrap_or(queries);
                self.scan::<Asymmetric, Greatest, _>(queries, &Bits, width, options, work)
            }
            Metric::Dot => self.scan::<Dot, Greatest, _>(queries, &Vectors, options.dims, options, work),
            Metric::Cosine => self.scan::<Dot, Closest, _>(queries, &Vectors, options.dims, options, work),
        }
    }

    fn hamming<W: Work>(&self, queries: &[u8], options: Options<'_>, work: W) -> Result<W::Result, Error> {
        self.scan::<Hamming, Nearest, _>(queries, &Bits, options.dims.div_ceil(8), options, work)
    }

    /// Whether the norms that are kept are those of what is compared.
    fn norms_of(&self, dims: usize) -> bool {
        self.kind() == Kind::Int8 && dims == self.dims()
    }

    fn scan<K: Kernels, O: Order, W: Work>(
        &self,
        queries: &[K::Query],
        column: &impl Rows<K::Element>,
        width: usize,
        options: Options<'_>,
        work: W,
    ) -> Result<W::Result, Error> {
        let snapshot = self.snapshot();
        let mut list = vec![];
        let subset = resolve(&snapshot, options.filter, &mut list)?;
        let parts = snapshot.parts(|segment| column.of(segment), self.norms_of(options.dims));
        let (isa, stride, threads) = (K::isa(), column.stride(self), options.threads);
        work.run::<K, O>(&Scan { isa, width, stride, queries, parts: &parts, subset, threads })
    }
}

/// What a second stage has of the first, and what is asked.
struct Second<'a> {
    snapshot: &'a Snapshot,
    first: &'a Found,
    options: Options<'a>,
}

/// Which rows of a segment are scanned.
trait Rows<E> {
    fn of<'a>(&self, segment: &'a Segment) -> &'a [E];
    fn stride(&self, index: &Index) -> usize;
}

struct Vectors;
struct Bits;

impl Rows<i8> for Vectors {
    fn of<'a>(&self, segment: &'a Segment) -> &'a [i8] {
        segment.rows.values()
    }

    fn stride(&self, index: &Index) -> usize {
        index.dims()
    }
}

impl Rows<u8> for Bits {
    fn of<'a>(&self, segment: &'a Segment) -> &'a [u8] {
        segment.bits.values()
    }

    fn stride(&self, index: &Index) -> usize {
        index.bit_bytes()
    }
}

/// What is done of a scan.
trait Work {
    type Result;

    fn run<K: Kernels, O: Order>(self, scan: &Scan<'_, K>) -> Result<Self::Result, Error>;
}

struct Best<'a> {
    k: usize,
    watch: Watch<'a>,
}

struct Near<'a> {
    threshold: Threshold,
    norms: &'a [Norm],
    watch: Watch<'a>,
}

struct Count<'a> {
    threshold: Threshold,
    norms: &'a [Norm],
    watch: Watch<'a>,
}

impl Work for Best<'_> {
    type Result = Found;

    fn run<K: Kernels, O: Order>(self, scan: &Scan<'_, K>) -> Result<Found, Error> {
        scan.top_k::<O>(self.k, self.watch)
    }
}

impl Work for Near<'_> {
    type Result = Within;

    fn run<K: Kernels, O: Order>(self, scan: &Scan<'_, K>) -> Result<Within, Error> {
        scan.within::<O>(self.threshold, self.norms, self.watch)
    }
}

impl Work for Count<'_> {
    type Result = Vec<u64>;

    fn run<K: Kernels, O: Order>(self, scan: &Scan<'_, K>) -> Result<Vec<u64>, Error> {
        scan.count(self.threshold, self.norms, self.watch)
    }
}

fn norms_for(threshold: Threshold, queries: &[i8], dims: usize) -> Vec<Norm> {
    if threshold.norms() { super::matrix::squared_norms(queries, dims) } else { vec![] }
}

/// Parts whose rows are known by their numbers over all of them.
fn numbered<'a, E>(snapshot: &Snapshot, mut parts: Vec<Part<'a, E>>) -> Vec<Part<'a, E>> {
    for (part, start) in parts.iter_mut().zip(starts(snapshot)) {
        part.ids = Ids::From(start as i64);
    }
    parts
}

/// The number of each segment's first row.
fn starts(snapshot: &Snapshot) -> Vec<usize> {
    let ends = snapshot.segments.iter().scan(0, |end, segment| {
        *end += segment.count;
        Some(*end)
    });
    std::iter::once(0).chain(ends).take(snapshot.segments.len()).collect()
}

/// The bits of the first `bytes` bytes of each query.
fn bits_of(queries: &[i8], dims: usize, bytes: usize) -> Vec<u8> {
    let bits = signs(queries, dims);
    Matrix::new(&bits, bytes, dims.div_ceil(8)).packed().into_owned()
}

/// Queries of `dims` values, each filled up with zeros to `width`; none where they are as long already.
pub fn fill_up(queries: &[i8], dims: usize, width: usize) -> Option<Vec<i8>> {
    (width != dims).then(|| {
        let mut filled = vec![0; queries.len() / dims * width];
        for (to, from) in filled.chunks_exact_mut(width).zip(queries.chunks_exact(dims)) {
            to[..dims].copy_from_slice(from);
        }
        filled
    })
}

/// The subset that a filter leaves of a snapshot; `list` is room for it.
fn resolve<'a>(snapshot: &Snapshot, filter: Filter<'a>, list: &'a mut Vec<usize>) -> Result<Subset<'a>, Error> {
    match filter {
        Filter::None => Ok(Subset::All),
        Filter::Mask(mask) if mask.len() != snapshot.count => {
            let (count, got) = (snapshot.count, mask.len());
            Err(Error::Value(format!("mask must have one entry a row: shape ({count},), got ({got},)")))
        }
        Filter::Mask(mask) => Ok(Subset::of_mask(mask, list)),
        Filter::Ids(ids) => {
            *list = snapshot.rows_of(ids);
            Ok(Subset::Rows(list))
        }
    }
}
