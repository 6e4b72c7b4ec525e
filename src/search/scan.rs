//! The description of a scan: rows, queries and threads.

use std::collections::TryReserveError;
use std::num::NonZero;
use std::thread;

use super::rows::{Ids, Norm, Part, norms};
use super::subset::Subset;
use crate::isa::Isa;
use crate::similarity::dot::Dot;
use crate::similarity::{Kernels, Matrix};

/// Bytes that pass through a kernel in some tenths of a millisecond: the least work that is worth another thread.
const WORK_PER_THREAD: usize = 2 << 20;
/// Most queries that are compared in one pass over the rows.
pub(super) const MAX_QUERIES: usize = 512;

/// Queries, and the rows to compare them with.
#[derive(Clone, Debug)]
pub struct Scan<'a, K: Kernels> {
    /// The instruction set that the kernels run on.
    pub isa: Isa,
    /// Elements of a row that are compared, at least one.
    pub width: usize,
    /// Elements from the start of one row to the start of the next, at least `width`.
    pub stride: usize,
    /// The queries one after another, `width * K::RATIO` elements each.
    pub queries: &'a [K::Query],
    /// The rows, in one or more parts.
    pub parts: &'a [Part<'a, K::Element>],
    /// The rows that may be found.
    pub subset: Subset<'a>,
    /// Threads, the calling one included; None: as many as the work is worth.
    pub threads: Option<NonZero<usize>>,
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

    /// Number of rows, those outside the subset included.
    pub fn row_count(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len() / self.stride).sum()
    }

    /// Number of rows that may be found.
    pub fn allowed(&self) -> usize {
        self.subset.count(self.row_count())
    }

    /// Rows of a part in the form the kernels read.
    pub(super) fn matrix<'b>(&self, rows: &'b [K::Element]) -> Matrix<'b, K::Element> {
        Matrix::new(rows, self.width, self.stride)
    }

    /// Whether ids rise from each row to the next.
    pub(super) fn ids_ascend(&self) -> bool {
        let mut next = i64::MIN;
        self.parts.iter().all(|part| match part.ids {
            Ids::Consecutive(first) if first >= next => {
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
                // Only the first queries read a block from memory; the others find it in cache.
                let passes = self.query_count().div_ceil(4);
                let bytes = self.allowed().saturating_mul(self.width * size_of::<K::Element>());
                useful_threads(bytes.saturating_mul(passes))
            },
            NonZero::get,
        )
    }
}

/// The norm of each query.
pub fn query_norms(scan: &Scan<'_, Dot>) -> Result<Vec<Norm>, TryReserveError> {
    norms(scan.queries, scan.width)
}

/// How many threads are worth starting to scan so many bytes.
pub(super) fn useful_threads(bytes: usize) -> usize {
    let useful = bytes / WORK_PER_THREAD;
    // Asking the system for its CPUs takes longer than a small search.
    if useful <= 1 { 1 } else { thread::available_parallelism().map_or(1, NonZero::get).min(useful) }
}
