//! The index of int8 vectors.
#![expect(clippy::doc_markdown, reason = "doc comments are Python docstrings")]

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::super::convert::{detached, integer, interruptible};
use super::super::scalars::Argument;
use super::arguments::{METRICS, dimensions, limit, oversample, recall, stage, thread_count, threshold};
use super::common::{
    add, checksums, create, ids_of, not_picklable, open, open_segments, remove, save, seal, stored_calibration, vectors,
};
use super::int8::{SearchArguments, metric_of};
use super::matches::Matches;
use super::results::{Calibration, Pairs, RangeMatches};
use crate::search::index::{Index, Kind};
use crate::search::query::Metric;
use crate::search::two_stage::DEFAULT_OVERSAMPLE;

/// An index of int8 vectors, searched by cosine, inner product or sign bits, or in two stages.
///
/// Parameters
/// ----------
/// dims : int
///     Dimensions of every vector, from 1 to 131,071.
/// space : str, optional
///     Name of the space of the vectors. By default an empty index takes it from the first :class:`Embeddings` that are
///     added; arrays are not checked.
///
/// Raises
/// ------
/// TypeError
///     ``dims`` is not an int, or ``space`` is not a str.
/// ValueError
///     ``dims`` is out of its range.
///
/// Notes
/// -----
/// The index stores a copy of the vectors, their sign bits (1 for a value of at least 0, least significant bit first)
/// and their norms: ``dims + dims / 8 + 4`` bytes per row, and 8 more if ids were given.
///
/// All methods may be called from several threads at once. A search sees the rows that were in the index when it began;
/// searches and changes do not block each other. An index cannot be pickled: save it, and open the file in the other
/// process.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> index = ctxembed.Index(2)
/// >>> index.add(np.array([[6, 8], [-4, 3], [4, 3]], dtype=np.int8))
/// array([0, 1, 2])
/// >>> index.search(np.array([3, 4], dtype=np.int8), 2).ids
/// array([0, 2])
#[pyclass(frozen, name = "Index", module = "ctxembed")]
pub(super) struct PyIndex(pub(super) Index);

#[pymethods]
impl PyIndex {
    #[new]
    #[pyo3(signature = (dims, *, space=None))]
    fn new(dims: &Bound<'_, PyAny>, space: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        create(Kind::Int8, dims, space).map(Self)
    }

    /// Add vectors.
    ///
    /// Parameters
    /// ----------
    /// vectors : numpy.ndarray or Embeddings
    ///     int8 of shape ``(n, dims)``, or ``(dims,)`` for one.
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
    ///     The width is not ``dims``, an array is not C-contiguous, or an id is repeated or already in the index.
    ///     Nothing was added.
    /// SpaceError
    ///     Embeddings of another space, of other dimensions, or of queries were given. Nothing was added.
    ///
    /// Notes
    /// -----
    /// The vectors are copied, and the interpreter is released. Additions to an index that was opened from a file are
    /// in memory only; the file does not change.
    #[pyo3(signature = (vectors, ids=None))]
    fn add<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        ids: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        add(py, &self.0, vectors, ids, |rows, ids| self.0.add_int8(rows, ids))
    }

    /// Remove vectors.
    ///
    /// Parameters
    /// ----------
    /// ids : numpy.ndarray or list of int
    ///     int64 of shape ``(n,)``, without repetitions. An empty array may have any dtype.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     ``ids`` is neither an array of int64 nor a list of int.
    /// ValueError
    ///     An id is not in the index or is repeated; the message names it. Nothing was removed.
    ///
    /// Notes
    /// -----
    /// The other rows keep their order and their ids. A removed id may be given again; default ids continue as if nothing
    /// had been removed. A removal copies the remaining rows of each segment of up to 64 MB that it touches, so remove
    /// many ids at a time. The interpreter is released.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, ctxembed
    /// >>> index = ctxembed.Index(2)
    /// >>> ids = index.add(np.array([[6, 8], [-4, 3], [4, 3]], dtype=np.int8))
    /// >>> index.remove(ids[:1])
    /// >>> len(index), index.search(np.array([3, 4], dtype=np.int8), 2).ids
    /// (2, array([2, 1]))
    fn remove(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<()> {
        remove(py, &self.0, ids)
    }

    /// Return the vectors of some ids.
    ///
    /// Parameters
    /// ----------
    /// ids : numpy.ndarray or list of int
    ///     int64 of shape ``(n,)``; ids may be repeated.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     A copy of the vectors, int8 of shape ``(n, dims)``, in the order of ``ids``.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     ``ids`` is neither an array of int64 nor a list of int.
    /// ValueError
    ///     An id is not in the index; the message names it.
    fn vectors<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (index, ids) = (&self.0, ids_of(ids)?);
        vectors::<i8>(py, ids.len(), index.dims(), |visit| index.int8_vectors(&ids, visit))
    }

    /// Find the best ``k`` rows for each query.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray or Embeddings
    ///     int8 of shape ``(q, dims)``, or ``(dims,)`` for one query. With ``dimensions``, ``(q, dimensions)`` too.
    /// k : int
    ///     Rows to find per query, at least 1. With fewer rows, or fewer allowed by the mask, there are fewer columns.
    /// metric : {"cosine", "dot", "hamming", "asymmetric"}, default "cosine"
    ///     The score that rows are ranked by: "hamming" is the distance of the sign bits, smallest first; the others are
    ///     greatest first. "asymmetric" is the inner product of the query with the row's sign bits as +1 and -1.
    /// stage : {"exact", "two-stage", "binary"}, default "exact"
    ///     "exact" compares all rows by the metric. "two-stage" selects ``k * oversample`` candidates by the sign bits,
    ///     an eighth of the memory, and compares these by the metric, "cosine" or "dot". "binary" compares only bits: by
    ///     "asymmetric" if that is the metric, else by Hamming distance.
    /// oversample : int, optional
    ///     For "two-stage": candidates per requested row, at least 1. By default :attr:`oversample`.
    /// mask : numpy.ndarray or list of int, optional
    ///     The rows that may be found: bool of shape ``(len(index),)``, in the order in which rows were added, or int64
    ///     ids. Ids that are not in the index are ignored. An empty array that is not of bools holds no ids.
    /// dimensions : int, optional
    ///     Compare only the first so many dimensions, for models trained for it (Matryoshka). Cosines are those of
    ///     the shortened vectors. Where bits are compared with bits, a multiple of 8.
    /// threads : int, optional
    ///     Threads to use, the calling one included. By default as many as are useful. Never changes the result.
    ///
    /// Returns
    /// -------
    /// Matches
    ///     ``ids`` and ``scores``, float32 cosines or int32, of shape ``(q, k)``, or ``(k,)`` for one query. ``exact``
    ///     is False for "binary", and for "two-stage" unless the candidates were all rows.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another type or dtype than described.
    /// ValueError
    ///     A value is out of range or a shape does not fit; the message names it.
    /// SpaceError
    ///     Embeddings of another space, of other dimensions, or of documents were given.
    ///
    /// Notes
    /// -----
    /// Ties are ordered by the lower id, and cosines are compared exactly, as in :func:`top_k`. Among rows that tie for
    /// the last candidate of a two-stage search, the one added first is taken.
    ///
    /// A mask that allows few rows costs little more than reading those rows. Queries and mask are copied, so another
    /// thread may change them; beside that, memory use grows with ``q * k`` only. The interpreter is released, threads
    /// live as long as the call, and Ctrl-C interrupts it.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, ctxembed
    /// >>> index = ctxembed.Index(2)
    /// >>> ids = index.add(np.array([[6, 8], [-4, 3], [4, 3]], dtype=np.int8), np.array([10, 20, 30]))
    /// >>> query = np.array([3, 4], dtype=np.int8)
    /// >>> index.search(query, 2, metric="dot")
    /// Matches(k=2, scores=int32, exact=True)
    /// >>> index.search(query, 2, mask=np.array([20, 30])).ids
    /// array([30, 20])
    /// >>> index.search(query, 1, stage="two-stage", oversample=2)
    /// Matches(k=1, scores=float32, exact=False)
    #[pyo3(
        signature = (queries, k, *, metric=Argument::Default("cosine"), stage=Argument::Default("exact"), oversample=None,
                     mask=None, dimensions=None, threads=None),
        text_signature = "($self, queries, k, *, metric='cosine', stage='exact', oversample=None, mask=None, \
                          dimensions=None, threads=None)",
    )]
    #[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        metric: Argument<'py, &'static str>,
        stage: Argument<'py, &'static str>,
        oversample: Option<&Bound<'py, PyAny>>,
        mask: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Matches> {
        let (requested, stage) = (metric.choice("metric", &METRICS)?, self::stage(stage)?);
        let metric = metric_of(requested, stage)?;
        let (oversample, k) = (self::oversample(oversample, stage)?, integer("k", k, 1)?);
        let arguments = SearchArguments::extract(&self.0, queries, metric, mask, dimensions, threads)?;
        arguments.top_k(py, metric, k, stage, oversample)
    }

    /// Find all rows within a radius of each query.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray or Embeddings
    ///     As in :meth:`search`.
    /// radius : float or int
    ///     The lowest score to find: a float for "cosine", compared with the float32 score, and an int for "dot" and
    ///     "asymmetric". For "hamming" the largest distance, an int.
    /// metric : {"cosine", "dot", "hamming", "asymmetric"}, default "cosine"
    ///     As in :meth:`search`.
    /// mask, dimensions, threads : optional
    ///     As in :meth:`search`.
    ///
    /// Returns
    /// -------
    /// RangeMatches
    ///     ``offsets``, ``ids`` and ``scores``. The rows of each query are ordered best first, ties by the lower id.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     As in :meth:`search`.
    /// MemoryError
    ///     The rows do not fit in memory. :meth:`count` returns how many there are.
    ///
    /// Notes
    /// -----
    /// Every row is compared. The interpreter is released, and Ctrl-C interrupts the call.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, ctxembed
    /// >>> index = ctxembed.Index(2)
    /// >>> ids = index.add(np.array([[6, 8], [-4, 3], [4, 3]], dtype=np.int8))
    /// >>> index.search_range(np.array([[3, 4], [-1, 1]], dtype=np.int8), 0.9).ids
    /// array([0, 2, 1])
    /// >>> index.count(np.array([[3, 4], [-1, 1]], dtype=np.int8), 0.9)
    /// array([2, 1])
    #[pyo3(
        signature = (queries, radius, *, metric=Argument::Default("cosine"), mask=None, dimensions=None, threads=None),
        text_signature = "($self, queries, radius, *, metric='cosine', mask=None, dimensions=None, threads=None)",
    )]
    #[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
    fn search_range<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        radius: &Bound<'py, PyAny>,
        metric: Argument<'py, &'static str>,
        mask: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<RangeMatches> {
        let metric = metric.choice("metric", &METRICS)?;
        let threshold = threshold("radius", radius, metric)?;
        SearchArguments::extract(&self.0, queries, metric, mask, dimensions, threads)?.within(py, metric, threshold)
    }

    /// Count the rows within a radius of each query.
    ///
    /// Parameters
    /// ----------
    /// queries, radius, metric, mask, dimensions, threads
    ///     As in :meth:`search_range`.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray or int
    ///     int64 of shape ``(q,)``, or an int for one query without a row axis.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     As in :meth:`search`.
    #[pyo3(
        signature = (queries, radius, *, metric=Argument::Default("cosine"), mask=None, dimensions=None, threads=None),
        text_signature = "($self, queries, radius, *, metric='cosine', mask=None, dimensions=None, threads=None)",
    )]
    #[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
    fn count<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        radius: &Bound<'py, PyAny>,
        metric: Argument<'py, &'static str>,
        mask: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let metric = metric.choice("metric", &METRICS)?;
        let threshold = threshold("radius", radius, metric)?;
        SearchArguments::extract(&self.0, queries, metric, mask, dimensions, threads)?.count(py, metric, threshold)
    }

    /// Find all pairs of rows that are near each other.
    ///
    /// Parameters
    /// ----------
    /// threshold : float or int
    ///     The lowest score of a pair, or the largest distance, like the radius of :meth:`search_range`.
    /// metric : {"cosine", "dot", "hamming"}, default "cosine"
    ///     The score that pairs are compared by.
    /// limit : int, optional
    ///     Return only the nearest ``limit`` pairs, at least 1; ties go to the lower ids. By default all pairs.
    /// dimensions, threads : optional
    ///     As in :meth:`search`.
    ///
    /// Returns
    /// -------
    /// Pairs
    ///     ``ids``, the lower id of each pair first, and ``scores``, ordered by the ids.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     As in :meth:`search`.
    /// MemoryError
    ///     The pairs do not fit in memory: use a stricter threshold or a ``limit``.
    ///
    /// Notes
    /// -----
    /// Each pair is compared once: ``n * (n - 1) / 2`` comparisons, in tiles that stay in cache. Memory use grows with
    /// the pairs found, by about a hundred bytes each at most; with a ``limit``, each thread holds up to three times as
    /// many pairs. The interpreter is released, and Ctrl-C interrupts the call.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, ctxembed
    /// >>> index = ctxembed.Index(2)
    /// >>> ids = index.add(np.array([[6, 8], [-4, 3], [4, 3]], dtype=np.int8))
    /// >>> index.near_duplicates(0.9).ids
    /// array([[0, 2]])
    #[pyo3(
        signature = (threshold, *, metric=Argument::Default("cosine"), limit=None, dimensions=None, threads=None),
        text_signature = "($self, threshold, *, metric='cosine', limit=None, dimensions=None, threads=None)",
    )]
    fn near_duplicates(
        &self,
        py: Python<'_>,
        threshold: &Bound<'_, PyAny>,
        metric: Argument<'_, &'static str>,
        limit: Option<&Bound<'_, PyAny>>,
        dimensions: Option<&Bound<'_, PyAny>>,
        threads: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Pairs> {
        let metric = metric.choice("metric", &METRICS[..3])?;
        let threshold = self::threshold("threshold", threshold, metric)?;
        let dims = self::dimensions(dimensions, &self.0, metric)?;
        let (limit, threads) = (self::limit(limit)?, thread_count(threads)?);
        let pairs = interruptible(py, |py, check| {
            detached(py, || self.0.near_duplicates(metric, threshold, limit, dims, threads, check))
        })?;
        Pairs::wrap(py, &pairs, metric == Metric::Cosine)
    }

    /// Find the smallest oversample at which a two-stage search reaches a recall, and make it the default.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray or Embeddings
    ///     int8 of shape ``(q, dims)``: typical queries, not rows of the index, which would find themselves.
    /// k : int
    ///     Rows to find per query, at least 1.
    /// recall : float, default 0.99
    ///     The share of the true best ``k`` rows, over all queries together, that two stages are to find: above 0 and at
    ///     most 1.
    /// mask, threads : optional
    ///     As in :meth:`search`: only the rows of the mask are searched.
    ///
    /// Returns
    /// -------
    /// Calibration
    ///     The oversample, its recall, and the recall at other oversamples.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     As in :meth:`search`, or there is no query or no row.
    ///
    /// Notes
    /// -----
    /// An exact search by cosine gives the true rows. Their ranks in the first stage give the recall of every oversample,
    /// so few scans measure them all. The result is stored with the index and in its file until the next calibration.
    /// Recall changes with the rows, so calibrate again after large changes. The interpreter is released, and Ctrl-C
    /// interrupts the call.
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
        let arguments = SearchArguments::extract(&self.0, queries, Metric::Cosine, mask, None, threads)?;
        let (index, queries, options) = (&self.0, arguments.queries.matrix(), arguments.options());
        let report = interruptible(py, |py, check| {
            detached(py, || index.calibrate(&queries.copied()?, k, recall, options, check))
        })?;
        Ok(Calibration::wrap(py, &report, recall, arguments.queries.len()))
    }

    /// Default number of candidates per requested row in a two-stage search: the calibrated number, or 64.
    #[getter]
    fn oversample(&self) -> u64 {
        self.0.calibration().map_or(DEFAULT_OVERSAMPLE as u64, |found| found.oversample)
    }

    /// Write the index to a file, replacing an existing one.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     The file to write.
    ///
    /// Raises
    /// ------
    /// OSError
    ///     The system refused, or ``path`` is a device, a named pipe or a socket. An existing file is unchanged, and no
    ///     temporary file is left. A symbolic link is kept, and the file that it leads to is written.
    ///
    /// Notes
    /// -----
    /// The file is replaced atomically: a temporary file beside it is written, flushed to the disk and renamed. Rows that
    /// are added during the call are not in the file. The interpreter is released, and Ctrl-C interrupts the call.
    fn save(&self, py: Python<'_>, path: &Bound<'_, PyAny>) -> PyResult<()> {
        save(py, &self.0, path)
    }

    /// Open an index that was saved.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     The file.
    /// mmap : bool, default True
    ///     Map the file instead of reading it. Mapping takes no time and shares memory with other processes.
    /// verify : bool, optional
    ///     Compare the checksums of all data, which reads the whole file. By default only without ``mmap``, where the
    ///     file is read anyway. The header and the length of the file are always checked.
    ///
    /// Returns
    /// -------
    /// Index
    ///     An index with the rows, ids and row order of the saved one.
    ///
    /// Raises
    /// ------
    /// FileNotFoundError
    ///     There is no such file. If the system refuses otherwise, another ``OSError`` is raised.
    /// IndexFileError
    ///     The file is not a regular file, not an index, holds vectors of another type, is damaged or truncated, or was
    ///     written by a newer version.
    ///
    /// Notes
    /// -----
    /// A mapped file must not be changed in place while the index lives. If it is truncated, reading the lost part ends
    /// the process (SIGBUS); if it is overwritten, results mix both contents. Replacing the file, as ``save`` does, is
    /// safe: an open index keeps the file it was opened from.
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
        open(py, Kind::Int8, path, mmap, verify).map(Self)
    }

    /// Map several index files as one index, for a collection.
    ///
    /// ``files`` holds a tuple ``(path, header)`` for each file: ``header`` is the 256 bytes that the file must begin
    /// with, or None. Rows are numbered over all files from 0, and the numbers are their ids. Each file must hold vectors
    /// of ``dims`` and ``space``, without ids of its own; else an ``IndexFileError`` names it. ``calibration`` is None or
    /// ``(oversample, k, recall)``. Added rows are in memory only. A file must not be changed in place while the index
    /// lives, as for ``open``.
    #[staticmethod]
    #[pyo3(name = "_open_segments", signature = (dims, files, *, space=None, calibration=None))]
    fn open_segments(
        py: Python<'_>,
        dims: &Bound<'_, PyAny>,
        files: &Bound<'_, PyAny>,
        space: Option<&Bound<'_, PyAny>>,
        calibration: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        open_segments(py, Kind::Int8, dims, files, space, calibration).map(Self)
    }

    /// Write the first ``rows`` rows of a file of raw rows to the index file ``target``, and return its header.
    ///
    /// The file is byte for byte the one that ``save`` writes for an index to which these rows were added. Rows are read
    /// in steps, so memory holds only their bits and norms. A file that is too short is an ``IndexFileError``.
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
        seal(py, Kind::Int8, rows_path, rows, target, dims, space)
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

    /// Name of the space of the vectors, or None where it is not known.
    ///
    /// An empty index takes it from the first :class:`Embeddings` that are added.
    #[getter]
    fn space(&self) -> Option<String> {
        self.0.space()
    }

    /// Dimensions of every vector.
    #[getter]
    fn dims(&self) -> usize {
        self.0.dims()
    }

    /// Dimensions of every vector; the same as ``dims``.
    #[getter]
    fn dimensions(&self) -> usize {
        self.0.dims()
    }

    fn __len__(&self) -> usize {
        self.0.count()
    }

    fn __repr__(&self) -> String {
        format!("<Index: {} int8 vectors of {} dimensions>", self.0.count(), self.0.dims())
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(not_picklable(slf))
    }
}
