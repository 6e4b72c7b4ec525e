//! A scan over all rows, in blocks that stay in a core's cache while all queries pass over them.
//!
//! Threads are started for the call and end with it. They draw blocks from one counter and keep the best `k` of each
//! query on their own; the merge orders by score and id, so that the result does not depend on who drew what. Memory
//! beyond the rows is one block and `O(queries * k)` a thread.
//!
//! How rows lie in memory is known to [`Part`] and [`super::worker`] alone: another layout is another kind of part.

use std::num::NonZero;
use std::ops::Range;
use std::thread;

use super::subset::Subset;
pub use super::threads::Watch;
use super::threads::{Pulse, run};
use super::top_k::{Candidate, Order, Top};
use super::worker::{Plan, Worker};
use crate::error::Error;
use crate::isa::Isa;
use crate::similarity::{BATCH, Kernels};

/// Work for which another thread pays, in bytes that pass through a kernel: some tenths of a millisecond.
const WORK_PER_THREAD: usize = 2 << 20;
/// Bytes of candidates that queries scanned together may keep, a thread.
const KEPT_BYTES: usize = 64 << 20;
/// Queries scanned together, at most.
pub(super) const GROUP_QUERIES: usize = 512;

/// What rows are known by.
#[derive(Clone, Copy, Debug)]
pub enum Ids<'a> {
    /// Numbers that count up from this one.
    From(i64),
    /// A number each.
    Own(&'a [i64]),
}

impl Ids<'_> {
    /// The id of a row.
    #[inline]
    pub fn of(&self, row: usize) -> i64 {
        match self {
            Self::From(first) => first + row as i64,
            Self::Own(ids) => ids[row],
        }
    }

    /// The ids of some rows.
    #[must_use]
    pub fn range(&self, rows: Range<usize>) -> Self {
        match *self {
            Self::From(first) => Self::From(first + rows.start as i64),
            Self::Own(ids) => Self::Own(&ids[rows]),
        }
    }
}

impl Default for Ids<'_> {
    fn default() -> Self {
        Self::From(0)
    }
}

/// Rows that lie one after another.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a, E> {
    /// The rows' elements.
    pub rows: &'a [E],
    /// Their squared norms; none: computed when the order asks for them.
    pub norms: Option<&'a [u32]>,
    /// Their ids.
    pub ids: Ids<'a>,
}

/// What to scan, and for what.
#[derive(Clone, Debug)]
pub struct Scan<'a, K: Kernels> {
    /// The path of the kernels.
    pub isa: Isa,
    /// Elements of a row that are compared, at least one.
    pub width: usize,
    /// Elements from one row to the next, at least `width`.
    pub stride: usize,
    /// The queries, one after another, of `width * K::RATIO` elements each.
    pub queries: &'a [K::Query],
    /// The rows.
    pub parts: &'a [Part<'a, K::Element>],
    /// Those of them that are looked at.
    pub subset: Subset<'a>,
    /// Threads, the calling one included; none: as many as pay.
    pub threads: Option<NonZero<usize>>,
}

/// The best rows of each query: `columns` candidates a query, best first.
#[derive(Clone, Debug)]
pub struct Found {
    /// Candidates a query.
    pub columns: usize,
    /// Query after query.
    pub candidates: Vec<Candidate>,
}

impl<K: Kernels> Scan<'_, K> {
    /// Elements of a query.
    pub fn query_width(&self) -> usize {
        self.width * K::RATIO
    }

    /// Number of queries.
    pub fn query_count(&self) -> usize {
        self.queries.len() / self.query_width()
    }

    /// Number of rows, hidden ones included.
    pub fn row_count(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len() / self.stride).sum()
    }

    /// Number of rows that are looked at.
    pub fn allowed(&self) -> usize {
        self.subset.count(self.row_count())
    }

    /// The best `k` rows of each query in the order `O`; fewer where fewer rows are allowed.
    pub fn top_k<O: Order>(&self, k: usize, watch: Watch<'_>) -> Result<Found, Error> {
        self.best::<O>(k, &mut Pulse::new(watch))
    }

    pub(super) fn best<O: Order>(&self, k: usize, pulse: &mut Pulse<'_>) -> Result<Found, Error> {
        let columns = k.min(self.allowed());
        let mut found = Found { columns, candidates: Vec::new() };
        if columns == 0 {
            return Ok(found);
        }
        let total = columns.saturating_mul(self.query_count());
        found.candidates.try_reserve_exact(total).map_err(|_| {
            Error::Value(format!("{columns} matches for each of {} queries do not fit in memory", self.query_count()))
        })?;
        for queries in self.queries.chunks(queries_together(columns) * self.query_width()) {
            let scan = Self { queries, ..self.clone() };
            scan.best_of_group::<O>(columns, pulse, &mut found.candidates)?;
        }
        Ok(found)
    }

    fn best_of_group<O: Order>(&self, k: usize, pulse: &mut Pulse<'_>, out: &mut Vec<Candidate>) -> Result<(), Error> {
        let threads = self.thread_count();
        let plan = Plan::new(self, threads);
        let ascending = self.ids_ascend();
        let tops = run(plan.blocks, threads, pulse, |blocks| {
            let mut worker = Worker::new(self, &plan);
            let mut tops = vec![Top::new(k); self.query_count()];
            blocks(&mut |block| {
                if worker.load(block, O::NORMS) {
                    worker.score(|rows, query, scores| tops[query].offer::<O>(self.isa, scores, rows, ascending));
                }
                Ok(())
            })?;
            tops.iter_mut().for_each(Top::finish::<O>);
            Ok(tops)
        })?;
        let mut tops: Vec<_> = tops.into_iter().map(Vec::into_iter).collect();
        for _ in 0..self.query_count() {
            Top::merge::<O>(tops.iter_mut().filter_map(Iterator::next), k, out);
        }
        Ok(())
    }

    /// Whether rows come in the order of their ids.
    fn ids_ascend(&self) -> bool {
        let mut next = i64::MIN;
        self.parts.iter().all(|part| match part.ids {
            Ids::From(first) if first >= next => {
                next = first + (part.rows.len() / self.stride) as i64;
                true
            }
            _ => part.rows.is_empty(),
        })
    }

    /// Threads to run, the calling one included.
    pub(super) fn thread_count(&self) -> usize {
        self.threads.map_or_else(
            || {
                // Queries beyond the first find the block in cache.
                let passes = self.query_count().div_ceil(4);
                let bytes = self.allowed().saturating_mul(self.width * size_of::<K::Element>());
                useful_threads(bytes.saturating_mul(passes))
            },
            NonZero::get,
        )
    }
}

/// Threads that pay for so many bytes.
pub(super) fn useful_threads(bytes: usize) -> usize {
    let pays = bytes / WORK_PER_THREAD;
    // Asking the system costs more than a small search.
    if pays <= 1 { 1 } else { thread::available_parallelism().map_or(1, NonZero::get).min(pays) }
}

/// Queries that may keep so many candidates each at one time.
pub(super) fn queries_together(columns: usize) -> usize {
    // A query's candidates: twice k while it is collected.
    let together = KEPT_BYTES / columns.saturating_mul(2 * size_of::<Candidate>());
    (together / BATCH * BATCH).clamp(BATCH, GROUP_QUERIES)
}

#[cfg(test)]
mod tests {
    use super::super::subset;
    use super::super::top_k::{Closest, Greatest, Nearest};
    use super::*;
    use crate::similarity::Matrix;
    use crate::similarity::asymmetric::Asymmetric;
    use crate::similarity::dot::Dot;
    use crate::similarity::hamming::Hamming;
    use crate::similarity::testing::Random;

    /// The best `k` by a sort of all scores, on the portable path.
    fn sorted<K: Kernels, O: Order>(scan: &Scan<'_, K>, mask: &[u8], k: usize) -> Vec<Candidate> {
        let mut best = vec![];
        for query in scan.queries.chunks_exact(scan.query_width()) {
            let (mut all, mut number) = (vec![], 0);
            for part in scan.parts {
                for (row, data) in part.rows.chunks_exact(scan.stride).enumerate() {
                    let (mut score, mut norm) = ([0], [0]);
                    let data = Matrix::whole(&data[..scan.width], scan.width);
                    K::rows(Isa::Scalar, query, data, &mut score);
                    if O::NORMS {
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
            best.extend_from_slice(&all[..k.min(all.len())]);
        }
        best
    }

    /// Rows of `width + extra` elements of which `width` are compared.
    fn check<K: Kernels, O: Order>(
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
                    ids: if own_ids { Ids::Own(&ids[range]) } else { Ids::From(range.start as i64) },
                };
                let parts = [part(0..1), part(1..1), part(1..800), part(800..1501)];
                for share in [0, 1, 30, 70, 100] {
                    let mask: Vec<u8> = (0..1501).map(|_| u8::from(random.below(100) < share)).collect();
                    let (mut list, mut all) = (vec![], vec![]);
                    subset::each(&mask, |row| all.push(row));
                    let subsets =
                        [Subset::of_mask(&mask, &mut list), Subset::Mask(&mask, all.len()), Subset::Rows(&all)];
                    for (isa, subset) in Isa::ALL.into_iter().flat_map(|isa| subsets.map(|subset| (isa, subset))) {
                        let mut scan = Scan::<K> {
                            isa,
                            width,
                            stride,
                            queries: &query_data,
                            parts: &parts,
                            subset: if share < 100 { subset } else { Subset::All },
                            threads: NonZero::new(1),
                        };
                        for k in [1, 30, 4000] {
                            let expected = sorted::<K, O>(&scan, &mask, k);
                            for threads in [1, 3] {
                                scan.threads = NonZero::new(threads);
                                let found = scan.top_k::<O>(k, &mut || Ok(())).expect("nothing stops it");
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
    fn a_scan_finds_what_a_sort_finds_by_hamming_distance() {
        let (mut random, mut other) = (Random(31), Random(131));
        check::<Hamming, Nearest>((9, 0), &mut |n| random.bytes(n), &mut |n| other.bytes(n));
        check::<Hamming, Nearest>((3, 6), &mut |n| random.bytes(n), &mut |n| other.bytes(n));
        // Few distinct rows: ties everywhere.
        let few = |bytes: Vec<u8>| bytes.iter().map(|byte| byte & 3).collect();
        check::<Hamming, Nearest>((1, 0), &mut |n| few(random.bytes(n)), &mut |n| few(other.bytes(n)));
    }

    #[test]
    fn a_scan_finds_what_a_sort_finds_by_product_and_cosine() {
        let (mut random, mut other) = (Random(32), Random(132));
        check::<Dot, Greatest>((7, 0), &mut |n| random.int8(n), &mut |n| other.int8(n));
        check::<Dot, Closest>((7, 0), &mut |n| random.int8(n), &mut |n| other.int8(n));
        check::<Dot, Closest>((7, 5), &mut |n| random.int8(n), &mut |n| other.int8(n));
        let few = |values: Vec<i8>| values.iter().map(|x| x % 3).collect();
        check::<Dot, Closest>((2, 0), &mut |n| few(random.int8(n)), &mut |n| few(other.int8(n)));
    }

    #[test]
    fn a_scan_finds_what_a_sort_finds_by_asymmetric_product() {
        let (mut random, mut other) = (Random(33), Random(133));
        check::<Asymmetric, Greatest>((2, 0), &mut |n| random.int8(n), &mut |n| other.bytes(n));
        check::<Asymmetric, Greatest>((1, 1), &mut |n| random.int8(n), &mut |n| other.bytes(n));
    }

    #[test]
    fn a_scan_stops_when_the_watch_says_so() {
        let rows = vec![0u8; 64 << 20];
        let part = Part { rows: &rows, norms: None, ids: Ids::From(0) };
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
        let mut asked = 0;
        let result = scan.top_k::<Nearest>(10, &mut || {
            asked += 1;
            if asked == 2 { Err(Error::Interrupted) } else { Ok(()) }
        });
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(asked, 2);
    }
}
