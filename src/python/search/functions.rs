//! Similarities and searches of plain arrays.
#![expect(clippy::doc_markdown, reason = "doc comments are Python docstrings")]

use std::collections::TryReserveError;

use numpy::{Element, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::super::convert::{Rows, detached, filled, has_dtype, integer, interruptible, short_repr, untyped};
use super::super::errors;
use super::super::scalars::choice;
use super::arguments::{Mask, thread_count};
use super::matches::{Matches, Scores};
use crate::search::matrix;
use crate::search::order::{ByCosine, ByHamming, ByProduct, Order};
use crate::search::query::{Filter, Metric, pad_queries};
use crate::search::rows::{Ids, Part};
use crate::search::scan::{Scan, query_norms};
use crate::search::subset::{Subset, SubsetMemory};
use crate::search::top_k::TopK;
use crate::similarity::asymmetric::Asymmetric;
use crate::similarity::dot::Dot;
use crate::similarity::hamming::Hamming;
use crate::similarity::{Kernels, MAX_BYTES, MAX_DIMS};

/// Queries and a database of the same width, which the kernels support.
struct Pair<'py, T: Element> {
    queries: Rows<'py, T>,
    database: Rows<'py, T>,
}

impl<'py, T: Element> Pair<'py, T> {
    fn extract(queries: &Bound<'py, PyAny>, database: &Bound<'py, PyAny>, widest: usize) -> PyResult<Self> {
        let queries = Rows::extract("queries", queries)?;
        let database = Rows::extract_matrix("database", database)?;
        if queries.width() != database.width() {
            return Err(PyValueError::new_err(format!(
                "queries and database must have the same width, got {} and {}",
                queries.width(),
                database.width()
            )));
        }
        if !(1..=widest).contains(&queries.width()) {
            return Err(PyValueError::new_err(format!(
                "queries and database must have from 1 to {widest} columns, for which every score fits in int32, got {}",
                queries.width()
            )));
        }
        Ok(Self { queries, database })
    }

    fn binary(queries: &Bound<'py, PyAny>, database: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::extract(queries, database, MAX_BYTES)
    }

    fn int8(queries: &Bound<'py, PyAny>, database: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::extract(queries, database, MAX_DIMS)
    }

    fn part(&self) -> Part<'_, T> {
        Part { rows: self.database.values(), norms: None, ids: Ids::Consecutive(0) }
    }

    /// The shape of the matrix of scores.
    fn shape(&self) -> Vec<usize> {
        let rows = self.database.len();
        if self.queries.is_single() { vec![rows] } else { vec![self.queries.len(), rows] }
    }

    fn scan<'a, K: Kernels<Query = T, Element = T>>(&'a self, parts: &'a [Part<'a, T>]) -> Scan<'a, K> {
        scan_of(self.queries.values(), self.queries.width(), parts)
    }
}

/// A scan of all rows, of `width` elements each.
fn scan_of<'a, K: Kernels>(queries: &'a [K::Query], width: usize, parts: &'a [Part<'a, K::Element>]) -> Scan<'a, K> {
    Scan { isa: K::isa(), width, stride: width, queries, parts, subset: Subset::All, threads: None }
}

/// The scores of all queries with all rows, as an array.
fn all_scores<'py, K, T>(py: Python<'py>, pair: &Pair<'py, T>) -> PyResult<Bound<'py, PyAny>>
where
    K: Kernels<Query = T, Element = T>,
    T: Element + Copy,
{
    let parts = [pair.part()];
    let scan = pair.scan::<K>(&parts);
    // SAFETY: on success `scores` has written one score for each query and row.
    #[expect(unsafe_code, reason = "every element is written")]
    let (out, ()) = interruptible(py, |_, check| unsafe {
        filled(py, &pair.shape(), |memory| matrix::scores(&scan, memory, check))
    })?;
    Ok(out)
}

/// Compute Hamming distances between packed binary vectors.
///
/// Parameters
/// ----------
/// queries : numpy.ndarray
///     Packed bits, uint8 of shape ``(q, bytes)``, or ``(bytes,)`` for one query.
/// database : numpy.ndarray
///     Packed bits, uint8 of shape ``(n, bytes)``, in the bit order of the queries.
///
/// Returns
/// -------
/// numpy.ndarray
///     The number of differing bits, int32 of shape ``(q, n)``, or ``(n,)`` for one query.
///
/// Raises
/// ------
/// TypeError
///     An argument is not an array of uint8.
/// ValueError
///     The widths differ or are zero, or an array is not C-contiguous.
///
/// Notes
/// -----
/// The inputs are not copied. The interpreter is released, large inputs are split between threads, and Ctrl-C
/// interrupts the call. AVX-512 VPOPCNTDQ or AVX2 is used if the CPU has it; results are the same on every path.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> ctxembed.hamming(np.array([1], dtype=np.uint8), np.array([[3], [1], [0]], dtype=np.uint8))
/// array([1, 0, 1], dtype=int32)
#[pyfunction]
pub(super) fn hamming<'py>(
    py: Python<'py>,
    queries: &Bound<'py, PyAny>,
    database: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    all_scores::<Hamming, _>(py, &Pair::binary(queries, database)?)
}

/// Compute exact inner products of int8 vectors.
///
/// Parameters
/// ----------
/// queries : numpy.ndarray
///     int8 of shape ``(q, dims)``, or ``(dims,)`` for one query.
/// database : numpy.ndarray
///     int8 of shape ``(n, dims)``.
///
/// Returns
/// -------
/// numpy.ndarray
///     int32 of shape ``(q, n)``, or ``(n,)`` for one query.
///
/// Raises
/// ------
/// TypeError
///     An argument is not an array of int8.
/// ValueError
///     The widths differ, are zero or exceed 131,071, up to which ``128 * 128 * dims`` fits in int32; or an array is
///     not C-contiguous.
///
/// Notes
/// -----
/// The model's int8 vectors are not normalized: rank them by :func:`cosine`, not by this product. The inputs are not
/// copied. The interpreter is released, large inputs are split between threads, and Ctrl-C interrupts the call. AMX,
/// AVX-512 VNNI or AVX2 is used if the CPU has it; results are the same on every path.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> ctxembed.dot(np.array([1, -128], dtype=np.int8), np.array([[2, -128], [3, 1]], dtype=np.int8))
/// array([16386,  -125], dtype=int32)
#[pyfunction]
pub(super) fn dot<'py>(
    py: Python<'py>,
    queries: &Bound<'py, PyAny>,
    database: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    all_scores::<Dot, _>(py, &Pair::int8(queries, database)?)
}

/// Compute cosine similarities of int8 vectors.
///
/// Parameters
/// ----------
/// queries : numpy.ndarray
///     int8 of shape ``(q, dims)``, or ``(dims,)`` for one query.
/// database : numpy.ndarray
///     int8 of shape ``(n, dims)``.
///
/// Returns
/// -------
/// numpy.ndarray
///     float32 of shape ``(q, n)``, or ``(n,)`` for one query, from -1 to 1. A zero vector has cosine 0 with
///     every vector.
///
/// Raises
/// ------
/// TypeError
///     An argument is not an array of int8.
/// ValueError
///     The widths differ, are zero or exceed 131,071; or an array is not C-contiguous.
///
/// Notes
/// -----
/// Each value is the float32 nearest to the true cosine. Products and norms are exact integers; if double precision
/// cannot tell which of two floats is nearer, integer arithmetic does. The inputs are not copied. The interpreter is
/// released, large inputs are split between threads, and Ctrl-C interrupts the call.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> ctxembed.cosine(np.array([3, 4], dtype=np.int8), np.array([[6, 8], [-4, 3], [0, 0]], dtype=np.int8))
/// array([1., 0., 0.], dtype=float32)
#[pyfunction]
pub(super) fn cosine<'py>(
    py: Python<'py>,
    queries: &Bound<'py, PyAny>,
    database: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let pair = Pair::int8(queries, database)?;
    let parts = [pair.part()];
    let scan = pair.scan::<Dot>(&parts);
    // SAFETY: on success `cosines` has written one cosine for each query and row.
    #[expect(unsafe_code, reason = "every element is written")]
    let (out, ()) = interruptible(py, |_, check| unsafe {
        filled(py, &pair.shape(), |memory| matrix::cosines(&scan, memory, check))
    })?;
    Ok(out)
}

/// The metric of a name, or the default for the database's dtype.
fn metric_of(metric: Option<&Bound<'_, PyAny>>, database: &Bound<'_, PyAny>) -> PyResult<Metric> {
    let array = untyped("database", database)?;
    let (int8, uint8) = (has_dtype::<i8>(array), has_dtype::<u8>(array));
    let Some(metric) = metric else {
        return match (int8, uint8) {
            (true, _) => Ok(Metric::Cosine),
            (_, true) => Ok(Metric::Hamming),
            _ => Err(PyTypeError::new_err(format!(
                "database must have dtype int8 or uint8, got {} (nothing is cast silently)",
                array.dtype()
            ))),
        };
    };
    let name = metric;
    let metric = choice(
        "metric",
        name,
        &[
            ("hamming", Metric::Hamming),
            ("cosine", Metric::Cosine),
            ("dot", Metric::Dot),
            ("asymmetric", Metric::Asymmetric),
        ],
    )?;
    let (fits, needs) = match metric {
        Metric::Hamming | Metric::Asymmetric => (uint8, "uint8, packed bits"),
        Metric::Cosine | Metric::Dot => (int8, "int8"),
    };
    if !fits {
        return Err(PyTypeError::new_err(format!(
            "metric {} needs a database of dtype {needs}, got {} (nothing is cast silently)",
            short_repr(name),
            array.dtype()
        )));
    }
    Ok(metric)
}

/// Find the best ``k`` rows of a database for each query, by comparing every row.
///
/// Parameters
/// ----------
/// queries : numpy.ndarray
///     int8 of shape ``(q, dims)`` or packed bits, uint8 of shape ``(q, bytes)``; without the first axis for one query.
/// database : numpy.ndarray
///     Rows of the same dtype and width, shape ``(n, width)``. For "asymmetric", packed bits with as many dimensions as
///     the int8 queries, least significant bit first.
/// k : int
///     Rows to find per query, at least 1. If there are fewer rows, or the mask allows fewer, the result has fewer
///     columns.
/// metric : {"hamming", "cosine", "dot", "asymmetric"}, optional
///     "hamming" for uint8, smallest first. "cosine" or "dot" for int8, greatest first. "asymmetric" for int8 queries
///     and a uint8 database, greatest first: the inner product of the query with a row's bits as +1 and -1. By default
///     "hamming" for uint8 and "cosine" for int8.
/// mask : numpy.ndarray or list of int, optional
///     The rows that may be found: bool of shape ``(n,)``, or int64 row numbers. Numbers that no row has are ignored. An
///     empty array that is not of bools holds no numbers.
/// threads : int, optional
///     Threads to use, the calling one included. By default as many as are useful. The result does not depend on it.
///
/// Returns
/// -------
/// Matches
///     ``ids``, row numbers as int64, and ``scores``, float32 for "cosine" and int32 for the others, both of shape
///     ``(q, k)``, or ``(k,)`` for one query.
///
/// Raises
/// ------
/// TypeError
///     An argument has another type or dtype than described.
/// ValueError
///     A value is out of range or a shape does not fit; the message names it.
///
/// Notes
/// -----
/// Ties are ordered by the lower id. Cosines are compared exactly: rows with equal float32 scores are in their true
/// order, and only equal cosines are ties. A zero vector has cosine 0.
///
/// Queries and rows are not copied, and memory use grows with ``q * k`` only. If another thread changes them meanwhile,
/// scores are of old and new values. The interpreter is released, threads live as long as the call, and Ctrl-C interrupts
/// it.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> rows = np.array([[6, 8], [-4, 3], [4, 3]], dtype=np.int8)
/// >>> matches = ctxembed.top_k(np.array([3, 4], dtype=np.int8), rows, 2)
/// >>> matches.ids, matches.scores
/// (array([0, 2]), array([1.  , 0.96], dtype=float32))
#[pyfunction]
#[pyo3(signature = (queries, database, k, *, metric=None, mask=None, threads=None))]
pub(super) fn top_k<'py>(
    py: Python<'py>,
    queries: &Bound<'py, PyAny>,
    database: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    metric: Option<&Bound<'py, PyAny>>,
    mask: Option<&Bound<'py, PyAny>>,
    threads: Option<&Bound<'py, PyAny>>,
) -> PyResult<Matches> {
    let metric = metric_of(metric, database)?;
    let options = TopKArguments { k: integer("k", k, 1)?, mask: Mask::extract(mask)?, threads: thread_count(threads)? };
    match metric {
        Metric::Hamming => {
            let pair = Pair::binary(queries, database)?;
            let (parts, single) = ([pair.part()], pair.queries.is_single());
            let (found, ()) = options.run::<Hamming, ByHamming, _>(py, &pair.scan(&parts), |_| Ok(()))?;
            Matches::wrap(py, found, pair.queries.len(), single, &Scores::Integers(metric), true)
        }
        Metric::Dot => {
            let pair = Pair::int8(queries, database)?;
            let (parts, single) = ([pair.part()], pair.queries.is_single());
            let (found, ()) = options.run::<Dot, ByProduct, _>(py, &pair.scan(&parts), |_| Ok(()))?;
            Matches::wrap(py, found, pair.queries.len(), single, &Scores::Integers(metric), true)
        }
        Metric::Cosine => {
            let pair = Pair::int8(queries, database)?;
            let (parts, single) = ([pair.part()], pair.queries.is_single());
            let (found, norms) = options.run::<Dot, ByCosine, _>(py, &pair.scan(&parts), query_norms)?;
            Matches::wrap(py, found, pair.queries.len(), single, &Scores::Cosines(&norms), true)
        }
        Metric::Asymmetric => {
            let (queries, database) =
                (Rows::<i8>::extract("queries", queries)?, Rows::<u8>::extract_matrix("database", database)?);
            let (dims, width) = (queries.width(), database.width());
            if dims.div_ceil(8) != width || !(1..=MAX_DIMS).contains(&dims) {
                return Err(PyValueError::new_err(format!(
                    "queries must have from 1 to {MAX_DIMS} columns and database one bit for each, in whole bytes, got \
                     {dims} columns and {width} bytes"
                )));
            }
            let padded =
                pad_queries(queries.values(), dims, 8 * width).map_err(|error| errors::to_py(py, error.into()))?;
            let parts = [Part { rows: database.values(), norms: None, ids: Ids::Consecutive(0) }];
            let scan = scan_of(padded.as_deref().unwrap_or(queries.values()), width, &parts);
            let (found, ()) = options.run::<Asymmetric, ByProduct, _>(py, &scan, |_| Ok(()))?;
            Matches::wrap(py, found, queries.len(), queries.is_single(), &Scores::Integers(metric), true)
        }
    }
}

struct TopKArguments<'py> {
    k: usize,
    mask: Option<Mask<'py>>,
    threads: Option<std::num::NonZero<usize>>,
}

impl<'py> TopKArguments<'py> {
    /// Search, and compute `also` from the scan while the interpreter is released.
    fn run<K: Kernels, O: Order, T: Send>(
        &self,
        py: Python<'py>,
        scan: &Scan<'_, K>,
        also: impl FnOnce(&Scan<'_, K>) -> Result<T, TryReserveError> + Send,
    ) -> PyResult<(TopK, T)> {
        let (rows, mut memory) = (scan.row_count(), SubsetMemory::default());
        let filter = Mask::filter(self.mask.as_ref());
        if let Filter::Mask(mask) = filter
            && mask.len() != rows
        {
            let got = mask.len();
            return Err(PyValueError::new_err(format!(
                "mask must have one entry per row: shape ({rows},), got ({got},)"
            )));
        }
        let (k, threads) = (self.k, self.threads);
        interruptible(py, |py, check| {
            detached(py, || {
                let subset = match filter {
                    Filter::None => Subset::All,
                    Filter::Mask(mask) => Subset::of_mask(mask, &mut memory)?,
                    Filter::Ids(ids) => Subset::of_rows(ids, rows, &mut memory)?,
                };
                let scan = Scan { subset, threads, ..scan.clone() };
                Ok((scan.top_k::<O>(k, check)?, also(&scan)?))
            })
        })
    }
}
