//! The index of int8 vectors.
#![expect(clippy::doc_markdown, reason = "docstrings are Python's, in its markup")]
#![expect(clippy::needless_pass_by_value, reason = "an argument that Python gives is owned here")]

use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::super::convert::{detached, integer, interruptible};
use super::super::scalars::Given;
use super::arguments::{
    Ask, Stage, cosine_norms, dimensions, limit, oversample, recall, stage, thread_count, threshold,
};
use super::indexes::{add, create, ids_of, not_picklable, open, remove, save, vectors};
use super::matches::{Matches, Scores};
use super::results::{Calibration, Pairs, RangeMatches};
use crate::search::index::{Index, Kind};
use crate::search::query::{DEFAULT_OVERSAMPLE, Metric};

/// The metrics by name.
const METRICS: [(&str, Metric); 4] = [
    ("cosine", Metric::Cosine),
    ("dot", Metric::Dot),
    ("hamming", Metric::Hamming),
    ("asymmetric", Metric::Asymmetric),
];

/// int8 vectors, searched exactly by cosine, product or bits, or in two stages.
///
/// Parameters
/// ----------
/// dims : int
///     Dimensions of every vector, from 1 to 131,071.
///
/// Raises
/// ------
/// TypeError
///     ``dims`` is no int.
/// ValueError
///     ``dims`` is out of its range.
///
/// Notes
/// -----
/// The index keeps a copy of the vectors, their sign bits (1 for a value of at least 0, least significant bit first)
/// and their norms: ``dims + dims / 8 + 4`` bytes a row, and 8 more where ids were given.
///
/// All methods may be called from any number of threads. A search sees the rows that were there when it began, and
/// neither waits for an addition or a removal nor holds one up. An index is not picklable: save it, and open it where it is needed.
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
pub(super) struct PyIndex(Index);

#[pymethods]
impl PyIndex {
    #[new]
    fn new(dims: &Bound<'_, PyAny>) -> PyResult<Self> {
        create(Kind::Int8, dims).map(Self)
    }

    /// Add vectors.
    ///
    /// Parameters
    /// ----------
    /// vectors : numpy.ndarray
    ///     int8 of shape ``(n, dims)``, or ``(dims,)`` for one.
    /// ids : numpy.ndarray or list of int, optional
    ///     int64 of shape ``(n,)``, each different from the others and from all ids in the index. By default ids go
    ///     on from the number of vectors ever added.
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
    ///     The width is not ``dims``, an array is not C-contiguous, or an id is taken; the message names it, and
    ///     nothing was added.
    ///
    /// Notes
    /// -----
    /// The vectors are copied. The interpreter is released. An index that was opened from a file takes additions too;
    /// they are in memory, and the file stays as it is.
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
    ///     int64 of shape ``(n,)``, each different from the others.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     ``ids`` is neither an array of int64 nor a list of int.
    /// ValueError
    ///     An id is not in the index, or comes twice; the message names it, and nothing was removed.
    ///
    /// Notes
    /// -----
    /// The rows after a removed one move up, in the order in which they were added; their ids stay. A removed id may be
    /// given again, default ids go on as if nothing had been removed. What is left of each segment of up to 64 MB that
    /// a removal touches is copied: remove many at a time. The interpreter is released.
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

    /// The vectors of some ids.
    ///
    /// Parameters
    /// ----------
    /// ids : numpy.ndarray or list of int
    ///     int64 of shape ``(n,)``; the same id may come more than once.
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
        let values = ids.as_slice().unwrap_or_default();
        vectors::<i8>(py, values.len(), index.dims(), |visit| index.int8_vectors(values, visit))
    }

    /// Find the best ``k`` rows for each query.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray
    ///     int8 of shape ``(q, dims)``, or ``(dims,)`` for one query; with ``dimensions``, ``(q, dimensions)`` too.
    /// k : int
    ///     Rows a query, at least 1; where fewer are there or allowed, there are that many columns.
    /// metric : {"cosine", "dot", "hamming", "asymmetric"}, default "cosine"
    ///     What rows are ranked by: "hamming" by the distance of the sign bits, smallest first, the others by what is
    ///     greatest; "asymmetric" is the inner product of the query with the row's sign bits as +1 and -1.
    /// stage : {"exact", "two-stage", "binary"}, default "exact"
    ///     "exact" compares all rows by the metric. "two-stage" lets the sign bits, an eighth of the memory, choose
    ///     ``k * oversample`` candidates, and compares those by the metric, "cosine" or "dot". "binary" compares bits
    ///     alone: by Hamming distance, or by "asymmetric" where that is the metric.
    /// oversample : int, optional
    ///     For "two-stage": candidates for each row asked for, at least 1. By default :attr:`oversample`.
    /// mask : numpy.ndarray or list of int, optional
    ///     Which rows may be found: bool of shape ``(len(index),)``, rows counting in the order in which they were
    ///     added, or int64, the ids of the rows; ids that are not in the index are ignored.
    /// dimensions : int, optional
    ///     Compare the first so many dimensions only, as models trained for it (Matryoshka) allow; cosines are those
    ///     of the shortened vectors. Where bits are compared with bits, a multiple of 8.
    /// threads : int, optional
    ///     Threads to use, the calling one included; by default as many as pay. The result does not depend on it.
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
    ///     A value or shape that does not fit, named in the message.
    ///
    /// Notes
    /// -----
    /// Ties go to the lower id; cosines are compared as in :func:`top_k`, exactly. Of rows that tie for the last place
    /// among the candidates of two stages, those that were added first are compared.
    ///
    /// A filter that leaves few rows costs little more than the reading of those rows. Memory grows with ``q * k``
    /// only. The interpreter is released, threads are started for the call and end with it, and Ctrl-C ends the call.
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
        signature = (queries, k, *, metric=Given::Default("cosine"), stage=Given::Default("exact"), oversample=None,
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
        metric: Given<'py, &'static str>,
        stage: Given<'py, &'static str>,
        oversample: Option<&Bound<'py, PyAny>>,
        mask: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Matches> {
        let (named, stage) = (metric.choice("metric", &METRICS)?, self::stage(stage)?);
        let metric = match (stage, named) {
            (Stage::Two, Metric::Hamming | Metric::Asymmetric) => {
                let metric = if named == Metric::Hamming { "hamming" } else { "asymmetric" };
                let message = "stage 'two-stage' needs metric 'cosine' or 'dot': its first stage compares bits already";
                return Err(PyValueError::new_err(format!("{message}, got {metric:?}")));
            }
            (Stage::Bits, Metric::Cosine | Metric::Dot) => Metric::Hamming,
            _ => named,
        };
        let (oversample, exact) = (self::oversample(oversample, stage)?, stage == Stage::Exact);
        let ask = Ask::extract(&self.0, queries, metric, mask, dimensions, threads)?;
        let (k, options) = (integer("k", k, 1)?, ask.options());
        let (index, queries, dims) = (&self.0, ask.queries.matrix(), ask.dims);
        let (found, exact, norms) = interruptible(py, |py, check| {
            detached(py, || {
                let values = queries.packed();
                let (found, exact) = if stage == Stage::Two {
                    index.search_two_stage(&values, metric, k, oversample, options, check)?
                } else {
                    (index.search(&values, metric, k, options, check)?, exact)
                };
                Ok((found, exact, cosine_norms(metric, &values, dims)))
            })
        })?;
        Matches::wrap(py, &found, ask.queries.len(), ask.queries.is_one(), &Scores::of(norms.as_deref()), exact)
    }

    /// Find all rows that are near enough to each query.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray
    ///     As in :meth:`search`.
    /// radius : float or int
    ///     The least score of a row: a float for "cosine", which is compared with the float32 score; an int for "dot"
    ///     and "asymmetric". For "hamming" the largest distance, an int.
    /// metric : {"cosine", "dot", "hamming", "asymmetric"}, default "cosine"
    ///     As in :meth:`search`.
    /// mask, dimensions, threads : optional
    ///     As in :meth:`search`.
    ///
    /// Returns
    /// -------
    /// RangeMatches
    ///     ``offsets``, ``ids`` and ``scores``; the rows of each query best first, ties by the lower id.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another type or dtype than described.
    /// ValueError
    ///     A value or shape that does not fit, named in the message.
    /// MemoryError
    ///     There are more rows than memory holds; :meth:`count` tells how many.
    ///
    /// Notes
    /// -----
    /// Every row is compared. The interpreter is released, and Ctrl-C ends the call.
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
        signature = (queries, radius, *, metric=Given::Default("cosine"), mask=None, dimensions=None, threads=None),
        text_signature = "($self, queries, radius, *, metric='cosine', mask=None, dimensions=None, threads=None)",
    )]
    #[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
    fn search_range<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        radius: &Bound<'py, PyAny>,
        metric: Given<'py, &'static str>,
        mask: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<RangeMatches> {
        let metric = metric.choice("metric", &METRICS)?;
        let threshold = threshold("radius", radius, metric)?;
        let (index, ask) = (&self.0, Ask::extract(&self.0, queries, metric, mask, dimensions, threads)?);
        let (queries, options) = (ask.queries.matrix(), ask.options());
        let (found, norms) = interruptible(py, |py, check| {
            detached(py, || {
                let values = queries.packed();
                let found = index.within(&values, metric, threshold, options, check)?;
                Ok((found, cosine_norms(metric, &values, options.dims)))
            })
        })?;
        RangeMatches::wrap(py, &found, &Scores::of(norms.as_deref()))
    }

    /// Count the rows that are near enough to each query.
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
    /// TypeError
    ///     An argument has another type or dtype than described.
    /// ValueError
    ///     A value or shape that does not fit, named in the message.
    #[pyo3(
        signature = (queries, radius, *, metric=Given::Default("cosine"), mask=None, dimensions=None, threads=None),
        text_signature = "($self, queries, radius, *, metric='cosine', mask=None, dimensions=None, threads=None)",
    )]
    #[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
    fn count<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        radius: &Bound<'py, PyAny>,
        metric: Given<'py, &'static str>,
        mask: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let metric = metric.choice("metric", &METRICS)?;
        let threshold = threshold("radius", radius, metric)?;
        let (index, ask) = (&self.0, Ask::extract(&self.0, queries, metric, mask, dimensions, threads)?);
        let (queries, options) = (ask.queries.matrix(), ask.options());
        let counts = interruptible(py, |py, check| {
            detached(py, || index.count_within(&queries.packed(), metric, threshold, options, check))
        })?;
        super::indexes::counts(py, &counts, ask.queries.is_one())
    }

    /// Find all pairs of rows that are near each other.
    ///
    /// Parameters
    /// ----------
    /// threshold : float or int
    ///     The least score of a pair, or the largest distance: as the radius of :meth:`search_range`.
    /// metric : {"cosine", "dot", "hamming"}, default "cosine"
    ///     What pairs are compared by.
    /// limit : int, optional
    ///     At most so many pairs, at least 1: the nearest, and of those that tie the ones with the lower ids. By default
    ///     all.
    /// dimensions, threads : optional
    ///     As in :meth:`search`.
    ///
    /// Returns
    /// -------
    /// Pairs
    ///     ``ids``, the lower id of each pair first, and ``scores``, in the order of the ids.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another type than described.
    /// ValueError
    ///     A value that does not fit, named in the message.
    /// MemoryError
    ///     There are more pairs than memory holds: ask for nearer ones, or for fewer by ``limit``.
    ///
    /// Notes
    /// -----
    /// Each pair is compared once: ``n * (n - 1) / 2`` comparisons, in tiles that stay in cache. Memory grows with the
    /// pairs found, some hundred bytes each at most, and with a ``limit`` no further than with three times as many for
    /// each thread. The interpreter is released, and Ctrl-C ends the call.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, ctxembed
    /// >>> index = ctxembed.Index(2)
    /// >>> ids = index.add(np.array([[6, 8], [-4, 3], [4, 3]], dtype=np.int8))
    /// >>> index.near_duplicates(0.9).ids
    /// array([[0, 2]])
    /// >>> index.near_duplicates(-1.0, limit=2).ids
    /// array([[0, 1],
    ///        [0, 2]])
    #[pyo3(
        signature = (threshold, *, metric=Given::Default("cosine"), limit=None, dimensions=None, threads=None),
        text_signature = "($self, threshold, *, metric='cosine', limit=None, dimensions=None, threads=None)",
    )]
    fn near_duplicates(
        &self,
        py: Python<'_>,
        threshold: &Bound<'_, PyAny>,
        metric: Given<'_, &'static str>,
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

    /// Find the smallest oversample at which two stages reach a recall, and use it from now on.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray
    ///     int8 of shape ``(q, dims)``: queries like those to come, and not rows of the index, which find themselves.
    /// k : int
    ///     Rows a query, at least 1.
    /// recall : float, default 0.99
    ///     The share of the true best ``k`` rows, over all queries together, that two stages shall find; above 0 and
    ///     at most 1.
    /// threads : int, optional
    ///     Threads to use, the calling one included; by default as many as pay. The result does not depend on it.
    ///
    /// Returns
    /// -------
    /// Calibration
    ///     The oversample, its recall, and the recall at others.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another type or dtype than described.
    /// ValueError
    ///     A value or shape that does not fit, named in the message, or there is no row.
    ///
    /// Notes
    /// -----
    /// The truth is an exact search by cosine of the same queries, and the recall of every oversample follows from the
    /// places that the true rows have in the first stage's order, so that all are measured in few scans. The result is
    /// kept with the index, also in its file, until another calibration; recall changes as rows come and go, so
    /// calibrate again after large changes. The interpreter is released, and Ctrl-C ends the call.
    #[pyo3(
        signature = (queries, k, recall=Given::Default(0.99), *, threads=None),
        text_signature = "($self, queries, k, recall=0.99, *, threads=None)",
    )]
    fn calibrate<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        recall: Given<'py, f64>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Calibration> {
        let recall = self::recall(recall)?;
        let ask = Ask::extract(&self.0, queries, Metric::Cosine, None, None, threads)?;
        let (k, threads) = (integer("k", k, 1)?, ask.options().threads);
        let (index, queries) = (&self.0, ask.queries.matrix());
        let report = interruptible(py, |py, check| {
            detached(py, || index.calibrate(&queries.packed(), k, recall, threads, check))
        })?;
        Ok(Calibration::wrap(py, &report, recall, ask.queries.len()))
    }

    /// Candidates that two stages compare for each row asked for, unless told otherwise: as calibrated, else 64.
    #[getter]
    fn oversample(&self) -> u64 {
        self.0.calibration().map_or(DEFAULT_OVERSAMPLE as u64, |found| found.oversample)
    }

    /// Write the index to a file, replacing what is there.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     Where to.
    ///
    /// Raises
    /// ------
    /// OSError
    ///     The system refused, or a device, a named pipe or a socket is at ``path``; what was there is as it was, and no
    ///     temporary file is left.
    ///
    /// Notes
    /// -----
    /// The file appears whole or not at all: it is written beside its place, flushed to the disk and renamed. The
    /// interpreter is released, and Ctrl-C ends the call. Rows that are added meanwhile are not in the file.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        save(py, &self.0, &path)
    }

    /// Open an index that was saved.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     The file.
    /// mmap : bool, default True
    ///     Map the file, which takes no time and shares its memory with other processes, instead of reading it.
    /// verify : bool, optional
    ///     Compare the checksums of all data, which reads the whole file. By default only where the file is read
    ///     anyway, that is without ``mmap``. The header and the length of the file are always checked.
    ///
    /// Returns
    /// -------
    /// Index
    ///     With the rows, ids and order of the one that was saved.
    ///
    /// Raises
    /// ------
    /// FileNotFoundError
    ///     There is no such file. Other refusals of the system are other ``OSError``.
    /// IndexFileError
    ///     The file is no index, holds another kind of vectors, is damaged or cut short, or was written by a newer
    ///     version.
    ///
    /// Notes
    /// -----
    /// A mapped file must not be changed in place while the index lives: if it is cut short, the process is ended by
    /// the system (SIGBUS) when it reads the lost part, and if it is overwritten, results are of mixed contents.
    /// Replacing it, as ``save`` does, is safe: an open index keeps the file it was opened from.
    #[staticmethod]
    #[pyo3(
        signature = (path, mmap=Given::Default(true), verify=None),
        text_signature = "(path, mmap=True, verify=None)",
    )]
    fn open(py: Python<'_>, path: PathBuf, mmap: Given<'_, bool>, verify: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        open(py, Kind::Int8, &path, mmap, verify).map(Self)
    }

    /// Dimensions of every vector.
    #[getter]
    fn dims(&self) -> usize {
        self.0.dims()
    }

    /// Dimensions of every vector, as ``dims``.
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
