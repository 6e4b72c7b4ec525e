//! The index of packed bits.
#![expect(clippy::doc_markdown, reason = "doc comments are Python docstrings")]

use numpy::PyUntypedArrayMethods;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::num::NonZero;

use super::super::convert::{detached, has_dtype, integer, interruptible, untyped};
use super::super::scalars::{Argument, choice};
use super::arguments::{
    Mask, Queries, SearchMode, dimensions, limit, oversample, recall, stage, thread_count, threshold,
};
use super::common::{
    add, checksums, create, ids_of, not_picklable, open, open_segments, remove, save, seal, stored_calibration, vectors,
};
use super::embeddings::{Given, Use, array_of};
use super::matches::{Matches, Scores};
use super::results::{Calibration, Pairs, RangeMatches};
use crate::search::index::{self, Index, Kind};
use crate::search::query::{Metric, Options};
use crate::search::two_stage::{self, DEFAULT_OVERSAMPLE};
use crate::similarity::Matrix;

/// An index of packed binary vectors, searched by Hamming distance or with int8 queries.
///
/// Parameters
/// ----------
/// dims : int
///     Dimensions (bits) of every vector, a multiple of 8.
/// space : str, optional
///     Name of the space of the vectors. By default an empty index takes it from the first :class:`Embeddings` that are
///     added; arrays are not checked.
///
/// Raises
/// ------
/// TypeError
///     ``dims`` is not an int, or ``space`` is not a str.
/// ValueError
///     ``dims`` is out of its range, or not a multiple of 8.
///
/// Notes
/// -----
/// The index stores a copy of the vectors, ``dims / 8`` bytes per row, and 8 more if ids were given. Threads, files and
/// pickling are as for :class:`Index`.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> index = ctxembed.BinaryIndex(8)
/// >>> index.add(np.array([[3], [1], [0]], dtype=np.uint8), np.array([30, 10, 20]))
/// array([30, 10, 20])
/// >>> ids, scores = index.search(np.array([1], dtype=np.uint8), 2)
/// >>> ids, scores
/// (array([10, 20]), array([0, 1], dtype=int32))
#[pyclass(frozen, name = "BinaryIndex", module = "ctxembed")]
pub(super) struct PyBinaryIndex(pub(super) Index);

#[pymethods]
impl PyBinaryIndex {
    #[new]
    #[pyo3(signature = (dims, *, space=None))]
    fn new(dims: &Bound<'_, PyAny>, space: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        create(Kind::Binary, dims, space).map(Self)
    }

    /// Add packed vectors.
    ///
    /// Parameters
    /// ----------
    /// vectors : numpy.ndarray or Embeddings
    ///     Packed bits, uint8 of shape ``(n, dims / 8)``, or ``(dims / 8,)`` for one vector, all in the same bit order.
    /// ids : numpy.ndarray or list of int, optional
    ///     int64 of shape ``(n,)``, unique and not yet in the index. By default consecutive numbers from the number
    ///     of vectors ever added.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     The ids, int64 of shape ``(n,)``.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another dtype.
    /// ValueError
    ///     The width is not ``dims / 8``, an array is not C-contiguous, or an id is repeated or already in the index.
    ///     Nothing was added.
    /// SpaceError
    ///     Embeddings of another space, of other dimensions, or of queries were given. Nothing was added.
    #[pyo3(signature = (vectors, ids=None))]
    fn add<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        ids: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        add(py, &self.0, vectors, ids, |rows, ids| self.0.add_binary(rows, ids))
    }

    /// Remove vectors, like :meth:`Index.remove`.
    fn remove(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<()> {
        remove(py, &self.0, ids)
    }

    /// Return a copy of the vectors of some ids, uint8 of shape ``(n, dims / 8)``, like :meth:`Index.vectors`.
    fn vectors<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (index, ids) = (&self.0, ids_of(ids)?);
        vectors::<u8>(py, ids.len(), index.dims() / 8, |visit| index.binary_vectors(&ids, visit))
    }

    /// Find the ``k`` best rows for each query.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray or Embeddings
    ///     Packed bits, uint8 of shape ``(q, dims / 8)``, or int8 vectors of shape ``(q, dims)``; without the first axis
    ///     for one query. With ``dimensions``, queries of that many dimensions are accepted too.
    /// k : int
    ///     Rows to find per query, at least 1. With fewer rows, or fewer allowed by the mask, there are fewer columns.
    /// metric : {"hamming", "asymmetric"}, optional
    ///     "hamming" for packed queries, smallest first. "asymmetric" for int8 queries, greatest first: the inner
    ///     product of the query with the row's bits as +1 and -1, which ranks better than the query's bits do; it needs
    ///     rows packed least significant bit first. The default follows from the dtype of the queries.
    /// stage : {"exact", "two-stage", "binary"}, default "exact"
    ///     "exact" and "binary" compare all rows by the metric. "two-stage", for int8 queries, selects
    ///     ``k * oversample`` candidates by Hamming distance and compares these by "asymmetric"; for packed queries it
    ///     is the same as "exact".
    /// oversample : int, optional
    ///     For "two-stage": candidates per requested row, at least 1. By default :attr:`oversample`.
    /// mask : numpy.ndarray or list of int, optional
    ///     The rows that may be found: bool of shape ``(len(index),)``, in the order in which rows were added, or int64
    ///     ids. Ids that are not in the index are ignored. An empty array that is not of bools holds no ids.
    /// dimensions : int, optional
    ///     Compare only the first so many dimensions. For "hamming" a multiple of 8.
    /// threads : int, optional
    ///     Threads to use, the calling one included. By default as many as are useful. Never changes the result.
    ///
    /// Returns
    /// -------
    /// Matches
    ///     ``ids`` and ``scores``, int32 distances or products, of shape ``(q, k)``, or ``(k,)`` for one query. ``exact``
    ///     is False for two stages, unless the candidates were all rows.
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
    /// Ties are ordered by the lower id, as in :meth:`Index.search`. The interpreter is released, and Ctrl-C interrupts
    /// the call.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, ctxembed
    /// >>> index = ctxembed.BinaryIndex(8)
    /// >>> ids = index.add(np.array([[3], [1], [0]], dtype=np.uint8))
    /// >>> index.search(np.array([9, -7, -1, -1, -1, -1, -1, -1], dtype=np.int8), 2).scores
    /// array([22,  8], dtype=int32)
    #[pyo3(
        signature = (queries, k, *, metric=None, stage=Argument::Default("exact"), oversample=None, mask=None,
                     dimensions=None, threads=None),
        text_signature = "($self, queries, k, *, metric=None, stage='exact', oversample=None, mask=None, \
                          dimensions=None, threads=None)",
    )]
    #[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        metric: Option<&Bound<'py, PyAny>>,
        stage: Argument<'py, &'static str>,
        oversample: Option<&Bound<'py, PyAny>>,
        mask: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Matches> {
        let stage = self::stage(stage)?;
        let oversample = self::oversample(oversample, stage)?;
        let (k, metric) = (integer("k", k, 1)?, metric_of(metric, queries)?);
        let arguments = SearchArguments::extract(&self.0, queries, metric, mask, dimensions, threads)?;
        let (queries, options) = (arguments.values(), arguments.options());
        let (found, exact) = interruptible(py, |py, check| {
            detached(py, || match queries {
                QueryValues::Bits(queries) => Ok((self.0.search_bits(&queries.copied()?, k, options, check)?, true)),
                QueryValues::Int8(queries) if stage == SearchMode::TwoStage => {
                    self.0.search_two_stage(&queries.copied()?, Metric::Asymmetric, k, oversample, options, check)
                }
                QueryValues::Int8(queries) => {
                    Ok((self.0.search(&queries.copied()?, Metric::Asymmetric, k, options, check)?, true))
                }
            })
        })?;
        Matches::wrap(py, found, arguments.len(), arguments.is_single(), &Scores::Integers(metric), exact)
    }

    /// Find all rows within a radius of each query.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray or Embeddings
    ///     As in :meth:`search`.
    /// radius : int
    ///     The largest distance for "hamming", the lowest product for "asymmetric".
    /// metric, mask, dimensions, threads : optional
    ///     As in :meth:`search`.
    ///
    /// Returns
    /// -------
    /// RangeMatches
    ///     ``offsets``, ``ids`` and ``scores``. The rows of each query are ordered best first, ties by the lower id.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another type or dtype than described.
    /// ValueError
    ///     A value is out of range or a shape does not fit; the message names it.
    /// MemoryError
    ///     The rows do not fit in memory. :meth:`count` returns how many there are.
    #[pyo3(signature = (queries, radius, *, metric=None, mask=None, dimensions=None, threads=None))]
    #[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
    fn search_range<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        radius: &Bound<'py, PyAny>,
        metric: Option<&Bound<'py, PyAny>>,
        mask: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<RangeMatches> {
        let metric = metric_of(metric, queries)?;
        let radius = threshold("radius", radius, metric)?;
        let arguments = SearchArguments::extract(&self.0, queries, metric, mask, dimensions, threads)?;
        let (queries, options) = (arguments.values(), arguments.options());
        let found = interruptible(py, |py, check| {
            detached(py, || match queries {
                QueryValues::Bits(queries) => self.0.within_bits(&queries.copied()?, radius, options, check),
                QueryValues::Int8(queries) => {
                    self.0.within(&queries.copied()?, Metric::Asymmetric, radius, options, check)
                }
            })
        })?;
        RangeMatches::wrap(py, found, &Scores::Integers(metric))
    }

    /// Count the rows within a radius of each query, with the arguments of :meth:`search_range`: int64 of shape ``(q,)``,
    /// or an int for one query without a row axis.
    #[pyo3(signature = (queries, radius, *, metric=None, mask=None, dimensions=None, threads=None))]
    #[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
    fn count<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        radius: &Bound<'py, PyAny>,
        metric: Option<&Bound<'py, PyAny>>,
        mask: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let metric = metric_of(metric, queries)?;
        let radius = threshold("radius", radius, metric)?;
        let arguments = SearchArguments::extract(&self.0, queries, metric, mask, dimensions, threads)?;
        let (queries, options) = (arguments.values(), arguments.options());
        let counts = interruptible(py, |py, check| {
            detached(py, || match queries {
                QueryValues::Bits(queries) => self.0.count_within_bits(&queries.copied()?, radius, options, check),
                QueryValues::Int8(queries) => {
                    self.0.count_within(&queries.copied()?, Metric::Asymmetric, radius, options, check)
                }
            })
        })?;
        super::common::counts(py, &counts, arguments.is_single())
    }

    /// Find all pairs of rows whose Hamming distance is at most ``threshold``, an int, or the nearest ``limit`` of them,
    /// like :meth:`Index.near_duplicates`. ``dimensions`` is a multiple of 8.
    #[pyo3(signature = (threshold, *, limit=None, dimensions=None, threads=None))]
    fn near_duplicates(
        &self,
        py: Python<'_>,
        threshold: &Bound<'_, PyAny>,
        limit: Option<&Bound<'_, PyAny>>,
        dimensions: Option<&Bound<'_, PyAny>>,
        threads: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Pairs> {
        let threshold = self::threshold("threshold", threshold, Metric::Hamming)?;
        let dims = self::dimensions(dimensions, &self.0, Metric::Hamming)?;
        let (limit, threads) = (self::limit(limit)?, thread_count(threads)?);
        let pairs = interruptible(py, |py, check| {
            detached(py, || self.0.near_duplicates(Metric::Hamming, threshold, limit, dims, threads, check))
        })?;
        Pairs::wrap(py, &pairs, false)
    }

    /// Find the smallest oversample at which a two-stage search reaches a recall, and make it the default, like
    /// :meth:`Index.calibrate`. The truth is an exact search by "asymmetric" with the same int8 queries.
    ///
    /// For packed queries every search is exact: the result has an oversample of 1 and a recall of 1, and
    /// :attr:`oversample` does not change.
    #[pyo3(
        signature = (queries, k, recall=Argument::Default(0.99), *, mask=None, threads=None),
        text_signature = "($self, queries, k, recall=0.99, *, mask=None, threads=None)",
    )]
    fn calibrate<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        recall: Argument<'py, f64>,
        mask: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Calibration> {
        let (k, recall) = (integer("k", k, 1)?, self::recall(recall)?);
        let metric = metric_of(None, queries)?;
        let arguments = SearchArguments::extract(&self.0, queries, metric, mask, None, threads)?;
        let (queries, options) = (arguments.values(), arguments.options());
        let report = interruptible(py, |py, check| {
            detached(py, || match queries {
                QueryValues::Int8(queries) => self.0.calibrate(&queries.copied()?, k, recall, options, check),
                QueryValues::Bits(_) => {
                    let found = index::Calibration { oversample: 1, k: k as u64, recall: 1.0 };
                    Ok(two_stage::CalibrationReport { found, measured: vec![(1, 1.0)] })
                }
            })
        })?;
        Ok(Calibration::wrap(py, &report, recall, arguments.len()))
    }

    /// Default number of candidates per requested row in a two-stage search: the calibrated number, or 64.
    #[getter]
    fn oversample(&self) -> u64 {
        self.0.calibration().map_or(DEFAULT_OVERSAMPLE as u64, |found| found.oversample)
    }

    /// Write the index to a file, replacing an existing one, like :meth:`Index.save`.
    fn save(&self, py: Python<'_>, path: &Bound<'_, PyAny>) -> PyResult<()> {
        save(py, &self.0, path)
    }

    /// Open an index that was saved, like :meth:`Index.open`.
    #[staticmethod]
    #[pyo3(
        signature = (path, mmap=Argument::Default(true), verify=None),
        text_signature = "(path, mmap=True, verify=None)",
    )]
    fn open(
        py: Python<'_>,
        path: &Bound<'_, PyAny>,
        mmap: Argument<'_, bool>,
        verify: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        open(py, Kind::Binary, path, mmap, verify).map(Self)
    }

    /// Map several index files as one index, like ``Index._open_segments``.
    #[staticmethod]
    #[pyo3(name = "_open_segments", signature = (dims, files, *, space=None, calibration=None))]
    fn open_segments(
        py: Python<'_>,
        dims: &Bound<'_, PyAny>,
        files: &Bound<'_, PyAny>,
        space: Option<&Bound<'_, PyAny>>,
        calibration: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        open_segments(py, Kind::Binary, dims, files, space, calibration).map(Self)
    }

    /// Write raw rows to an index file, like ``Index._seal``. A row has ``dims / 8`` bytes.
    #[staticmethod]
    #[pyo3(name = "_seal", signature = (rows_path, rows, target, dims, *, space=None))]
    fn seal<'py>(
        py: Python<'py>,
        rows_path: &Bound<'py, PyAny>,
        rows: &Bound<'py, PyAny>,
        target: &Bound<'py, PyAny>,
        dims: &Bound<'py, PyAny>,
        space: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        seal(py, Kind::Binary, rows_path, rows, target, dims, space)
    }

    /// Return the CRC-32 of the rows of each range ``(first id, number of ids)``. They are not copied.
    #[pyo3(name = "_checksums")]
    #[expect(clippy::needless_pass_by_value, reason = "extracted from a list")]
    fn checksums(&self, py: Python<'_>, ranges: Vec<(i64, i64)>) -> PyResult<Vec<u32>> {
        checksums(py, &self.0, &ranges)
    }

    /// The result of the last calibration, ``(oversample, k, recall)``, or None.
    #[getter(_calibration)]
    fn stored_calibration(&self) -> Option<(u64, u64, f64)> {
        stored_calibration(&self.0)
    }

    /// Name of the space of the vectors, or None where it is not known, like :attr:`Index.space`.
    #[getter]
    fn space(&self) -> Option<String> {
        self.0.space()
    }

    /// Dimensions (bits) of every vector.
    #[getter]
    fn dims(&self) -> usize {
        self.0.dims()
    }

    /// Dimensions (bits) of every vector; the same as ``dims``.
    #[getter]
    fn dimensions(&self) -> usize {
        self.0.dims()
    }

    fn __len__(&self) -> usize {
        self.0.count()
    }

    fn __repr__(&self) -> String {
        format!("<BinaryIndex: {} packed vectors of {} dimensions>", self.0.count(), self.0.dims())
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(not_picklable(slf))
    }
}

/// The metric of a name, or the one for the dtype of the queries.
fn metric_of(metric: Option<&Bound<'_, PyAny>>, queries: &Bound<'_, PyAny>) -> PyResult<Metric> {
    let queries = array_of(queries)?;
    let array = untyped("queries", &queries)?;
    match metric {
        Some(name) => choice("metric", name, &[("hamming", Metric::Hamming), ("asymmetric", Metric::Asymmetric)]),
        None if has_dtype::<i8>(array) => Ok(Metric::Asymmetric),
        None if has_dtype::<u8>(array) => Ok(Metric::Hamming),
        None => Err(PyTypeError::new_err(format!(
            "queries must have dtype uint8 (packed bits) or int8, got {}",
            array.dtype()
        ))),
    }
}

/// Queries of the dtype that the metric needs.
enum QueryArrays<'py> {
    Bits(Queries<'py, u8>),
    Int8(Queries<'py, i8>),
}

/// The values of the queries, which can be used while detached.
#[derive(Clone, Copy)]
enum QueryValues<'a> {
    Bits(Matrix<'a, u8>),
    Int8(Matrix<'a, i8>),
}

/// The arguments of a search of an index of packed bits.
struct SearchArguments<'py> {
    queries: QueryArrays<'py>,
    mask: Option<Mask<'py>>,
    dims: usize,
    threads: Option<NonZero<usize>>,
}

impl<'py> SearchArguments<'py> {
    fn extract(
        index: &Index,
        queries: &Bound<'py, PyAny>,
        metric: Metric,
        mask: Option<&Bound<'py, PyAny>>,
        dims: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        // The queries last: an `__index__` of the others could change their shape.
        let (dims, threads, mask) = (dimensions(dims, index, metric)?, thread_count(threads)?, Mask::extract(mask)?);
        let whole = index.dims();
        let queries = &Given::extract(index, queries, dims, Use::Compared)?.array;
        let queries = if metric == Metric::Hamming {
            QueryArrays::Bits(Queries::extract(queries, whole / 8, dims / 8)?)
        } else {
            QueryArrays::Int8(Queries::extract(queries, whole, dims)?)
        };
        Ok(Self { queries, mask, dims, threads })
    }

    fn options(&self) -> Options<'_> {
        Options { filter: Mask::filter(self.mask.as_ref()), dims: self.dims, threads: self.threads }
    }

    fn values(&self) -> QueryValues<'_> {
        match &self.queries {
            QueryArrays::Bits(queries) => QueryValues::Bits(queries.matrix()),
            QueryArrays::Int8(queries) => QueryValues::Int8(queries.matrix()),
        }
    }

    fn len(&self) -> usize {
        match &self.queries {
            QueryArrays::Bits(queries) => queries.len(),
            QueryArrays::Int8(queries) => queries.len(),
        }
    }

    fn is_single(&self) -> bool {
        match &self.queries {
            QueryArrays::Bits(queries) => queries.is_single(),
            QueryArrays::Int8(queries) => queries.is_single(),
        }
    }
}
