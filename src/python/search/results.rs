//! The results of range searches, searches for near duplicates and calibrations.
#![expect(clippy::doc_markdown, reason = "doc comments are Python docstrings")]

use numpy::{IntoPyArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PySlice, PyTuple};

use super::super::convert::{self, collected, has_dtype, saturated, short_repr, untyped};
use super::keys::Keys;
use super::matches::Scores;
use crate::search::merge::Ranked;
use crate::search::order::Candidate;
use crate::search::pairs::Pair;
use crate::search::query::Metric;
use crate::search::range::Within;
use crate::search::two_stage::CalibrationReport;
use crate::similarity::cosine::{cosine, inverse_norm};

/// Check the dtype and number of dimensions of an array argument, and return its length.
fn checked<T: numpy::Element>(name: &str, object: &Bound<'_, PyAny>, ndim: usize) -> PyResult<usize> {
    let array = untyped(name, object)?;
    if !has_dtype::<T>(array) {
        let expected = numpy::dtype::<T>(object.py());
        return Err(PyTypeError::new_err(format!("{name} must have dtype {expected}, got {}", array.dtype())));
    }
    if array.ndim() != ndim {
        return Err(PyValueError::new_err(format!("{name} must have {ndim} dimensions, got {}", array.ndim())));
    }
    Ok(array.shape()[0])
}

fn checked_scores(scores: &Bound<'_, PyAny>) -> PyResult<usize> {
    let array = untyped("scores", scores)?;
    if has_dtype::<f32>(array) { checked::<f32>("scores", scores, 1) } else { checked::<i32>("scores", scores, 1) }
}

/// All rows within a radius of each query, best first.
///
/// ``search_range`` returns it. It can be pickled.
///
/// Parameters
/// ----------
/// offsets : numpy.ndarray
///     Query ``i`` owns the rows ``offsets[i]:offsets[i + 1]``. int64 of shape ``(queries + 1,)``.
/// ids : numpy.ndarray
///     Ids of the rows of all queries, int64 of shape ``(found,)``.
/// scores : numpy.ndarray
///     Their scores, of the same shape: int32 for Hamming distances and products, float32 for cosines.
/// metric, keys : optional
///     As in :class:`Matches`.
///
/// Raises
/// ------
/// TypeError
///     An argument is not an array, or has another dtype.
/// ValueError
///     The lengths do not fit each other, or the keys do not fit the metric.
///
/// Notes
/// -----
/// ``len(found)`` is the number of queries, and ``found[i]`` the ids and scores of one of them, as views. The object is
/// immutable and may be shared between threads.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> index = ctxembed.BinaryIndex(8)
/// >>> ids = index.add(np.array([[3], [1], [0], [255]], dtype=np.uint8))
/// >>> found = index.search_range(np.array([[1], [255]], dtype=np.uint8), 1)
/// >>> found.offsets, found.ids, found.scores
/// (array([0, 3, 4]), array([1, 0, 2, 3]), array([0, 1, 1, 0], dtype=int32))
/// >>> found[1]
/// (array([3]), array([0], dtype=int32))
#[pyclass(frozen, module = "ctxembed")]
pub(super) struct RangeMatches {
    offsets: Py<PyAny>,
    pub(super) ids: Py<PyAny>,
    pub(super) scores: Py<PyAny>,
    pub(super) starts: Vec<usize>,
    pub(super) keys: Keys,
}

#[pymethods]
impl RangeMatches {
    #[new]
    #[pyo3(signature = (offsets, ids, scores, metric=None, keys=None))]
    fn new(
        offsets: &Bound<'_, PyAny>,
        ids: &Bound<'_, PyAny>,
        scores: &Bound<'_, PyAny>,
        metric: Option<&Bound<'_, PyAny>>,
        keys: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        checked::<i64>("offsets", offsets, 1)?;
        let (found, scored) = (checked::<i64>("ids", ids, 1)?, checked_scores(scores)?);
        let starts = convert::ids("offsets", offsets)?;
        let fits = starts.first() == Some(&0) && starts.is_sorted() && starts.last() == Some(&(found as i64));
        if !fits || found != scored {
            return Err(PyValueError::new_err(format!(
                "offsets must rise from 0 to the number of ids and of scores, got {found} ids and {scored} scores"
            )));
        }
        let starts = starts.into_iter().map(|start| start as usize).collect();
        Ok(Self {
            offsets: offsets.clone().unbind(),
            ids: ids.clone().unbind(),
            scores: scores.clone().unbind(),
            starts,
            keys: Keys::extract(metric, keys, scores)?,
        })
    }

    /// Query ``i`` owns the rows ``offsets[i]:offsets[i + 1]``. int64 of shape ``(queries + 1,)``.
    #[getter]
    fn offsets(&self, py: Python<'_>) -> Py<PyAny> {
        self.offsets.clone_ref(py)
    }

    /// Ids of the rows of all queries, int64.
    #[getter]
    fn ids(&self, py: Python<'_>) -> Py<PyAny> {
        self.ids.clone_ref(py)
    }

    /// Their scores: int32 for Hamming distances and products, float32 for cosines.
    #[getter]
    fn scores(&self, py: Python<'_>) -> Py<PyAny> {
        self.scores.clone_ref(py)
    }

    /// The metric that rows are ranked by, or None if the result was made without it.
    #[getter]
    fn metric(&self) -> Option<&'static str> {
        self.keys.metric_name()
    }

    /// What ranks the rows exactly, like :attr:`Matches.keys`.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.keys.array(self.scores.bind(py))
    }

    fn __len__(&self) -> usize {
        self.starts.len() - 1
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        query: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let count = self.starts.len() - 1;
        let number = saturated(query)?
            .ok_or_else(|| PyTypeError::new_err(format!("query must be an int, got {}", short_repr(query))))?;
        let at = if number < 0 { number.saturating_add(count as i64) } else { number };
        let bounds = usize::try_from(at).ok().filter(|&at| at < count).map(|at| (self.starts[at], self.starts[at + 1]));
        let (start, end) = bounds.ok_or_else(|| {
            PyIndexError::new_err(format!("query {} is out of range for {count} queries", short_repr(query)))
        })?;
        let slice = PySlice::new(py, start as isize, end as isize, 1);
        Ok((self.ids.bind(py).get_item(&slice)?, self.scores.bind(py).get_item(&slice)?))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let scores = untyped("scores", self.scores.bind(py))?.dtype();
        let (queries, found) = (self.starts.len() - 1, self.starts.last().copied().unwrap_or_default());
        Ok(format!("RangeMatches(queries={queries}, found={found}, scores={scores})"))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, this) = (slf.py(), slf.get());
        let (ids, scores) = (this.ids.bind(py), this.scores.bind(py));
        let (metric, keys) = (this.keys.metric_name(), this.keys.pickled(scores)?);
        let arguments = (this.offsets.bind(py), ids, scores, metric, keys);
        Ok((slf.get_type().into_any(), arguments.into_pyobject(py)?))
    }
}

impl RangeMatches {
    pub(super) fn wrap(py: Python<'_>, found: Within, scores: &Scores<'_>) -> PyResult<Self> {
        let Within { offsets, candidates } = found;
        let (metric, scores) = match scores {
            Scores::Integers(metric) => {
                let scores = collected(py, &[candidates.len()], candidates.iter().map(|candidate| candidate.score))?;
                (*metric, scores)
            }
            Scores::Cosines(norms) => {
                let cosines = offsets.windows(2).zip(*norms).flat_map(|(bounds, &norm)| {
                    let candidates = &candidates[bounds[0]..bounds[1]];
                    candidates.iter().map(move |row| cosine(row.score, norm, (row.norm, inverse_norm(row.norm))))
                });
                (Metric::Cosine, collected(py, &[candidates.len()], cosines)?)
            }
        };
        Self::with_scores(py, offsets, candidates, &scores, metric)
    }

    /// Rows that were merged.
    pub(super) fn of_ranked(py: Python<'_>, ranked: Ranked, metric: Metric) -> PyResult<Self> {
        let Ranked { offsets, candidates, cosines } = ranked;
        let scores = if metric == Metric::Cosine {
            collected(py, &[cosines.len()], cosines.into_iter())?
        } else {
            collected(py, &[candidates.len()], candidates.iter().map(|candidate| candidate.score))?
        };
        Self::with_scores(py, offsets, candidates, &scores, metric)
    }

    fn with_scores(
        py: Python<'_>,
        starts: Vec<usize>,
        mut candidates: Vec<Candidate>,
        scores: &Bound<'_, PyAny>,
        metric: Metric,
    ) -> PyResult<Self> {
        let ids = collected(py, &[candidates.len()], candidates.iter().map(|candidate| candidate.id))?.unbind();
        let offsets = collected(py, &[starts.len()], starts.iter().map(|&offset| offset as i64))?.unbind();
        let keys = if metric == Metric::Cosine {
            candidates.shrink_to_fit();
            Keys::Cosines(candidates)
        } else {
            Keys::Scores(metric)
        };
        Ok(Self { offsets, ids, scores: scores.clone().unbind(), starts, keys })
    }
}

/// Pairs of rows that are near each other.
///
/// ``near_duplicates`` returns it. It unpacks as ``ids, scores = pairs`` and can be pickled.
///
/// Parameters
/// ----------
/// ids : numpy.ndarray
///     The two ids of each pair, the lower one first, int64 of shape ``(pairs, 2)``.
/// scores : numpy.ndarray
///     The score of each pair, of shape ``(pairs,)``: int32 for Hamming distances and products, float32 for cosines.
///
/// Raises
/// ------
/// TypeError
///     An argument is not an array, or has another dtype.
/// ValueError
///     The shapes do not fit each other.
///
/// Notes
/// -----
/// Pairs are ordered by their ids. ``len(pairs)`` is their number. The object is immutable and may be shared
/// between threads.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> index = ctxembed.BinaryIndex(8)
/// >>> ids = index.add(np.array([[3], [255], [1], [3]], dtype=np.uint8))
/// >>> pairs = index.near_duplicates(1)
/// >>> pairs.ids.tolist(), pairs.scores
/// ([[0, 2], [0, 3], [2, 3]], array([1, 0, 1], dtype=int32))
#[pyclass(frozen, module = "ctxembed")]
pub(super) struct Pairs {
    ids: Py<PyAny>,
    scores: Py<PyAny>,
}

#[pymethods]
impl Pairs {
    #[new]
    fn new(ids: &Bound<'_, PyAny>, scores: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (pairs, scored) = (checked::<i64>("ids", ids, 2)?, checked_scores(scores)?);
        let columns = untyped("ids", ids)?.shape()[1];
        if pairs != scored || columns != 2 {
            return Err(PyValueError::new_err(format!(
                "ids must have two columns and one row per score, got shape ({pairs}, {columns}) and {scored} scores"
            )));
        }
        Ok(Self { ids: ids.clone().unbind(), scores: scores.clone().unbind() })
    }

    /// The two ids of each pair, the lower one first, int64 of shape ``(pairs, 2)``.
    #[getter]
    fn ids(&self, py: Python<'_>) -> Py<PyAny> {
        self.ids.clone_ref(py)
    }

    /// The score of each pair: int32 for Hamming distances and products, float32 for cosines.
    #[getter]
    fn scores(&self, py: Python<'_>) -> Py<PyAny> {
        self.scores.clone_ref(py)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.ids.bind(py).len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyTuple::new(py, [&self.ids, &self.scores])?.try_iter()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let scores = untyped("scores", self.scores.bind(py))?.dtype();
        Ok(format!("Pairs({}, scores={scores})", self.__len__(py)?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, this) = (slf.py(), slf.get());
        Ok((slf.get_type().into_any(), (this.ids.bind(py), this.scores.bind(py)).into_pyobject(py)?))
    }
}

impl Pairs {
    /// With `cosines`, scores are the cosines of the pairs, else their integer scores.
    pub(super) fn wrap(py: Python<'_>, pairs: &[Pair], cosines: bool) -> PyResult<Self> {
        let ids = collected(py, &[pairs.len(), 2], pairs.iter().flat_map(|pair| pair.ids))?;
        let scores = if cosines {
            collected(py, &[pairs.len()], pairs.iter().map(Pair::cosine))?
        } else {
            collected(py, &[pairs.len()], pairs.iter().map(|pair| pair.score))?
        };
        Ok(Self { ids: ids.unbind(), scores: scores.unbind() })
    }
}

/// The result of calibrating a two-stage search.
///
/// ``Index.calibrate`` returns it.
///
/// Notes
/// -----
/// The object is immutable. Recall is the share of the true best ``k`` rows that two stages find, over all queries
/// together. An exact search of the same rows gives the truth.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> rng = np.random.default_rng(0)
/// >>> rows = rng.integers(-100, 100, (2000, 64), dtype=np.int8)
/// >>> index = ctxembed.Index(64)
/// >>> ids = index.add(rows)
/// >>> report = index.calibrate(rng.integers(-100, 100, (50, 64), dtype=np.int8), 10, recall=0.95)
/// >>> report.recall >= 0.95, report.oversample == index.oversample
/// (True, True)
/// >>> report.oversamples[0], len(report.oversamples) == len(report.recalls)
/// (np.int64(1), True)
#[pyclass(frozen, module = "ctxembed")]
pub(super) struct Calibration {
    /// The smallest oversample that reached the target; the index uses it from now on.
    #[pyo3(get)]
    oversample: u64,
    /// The recall at that oversample.
    #[pyo3(get)]
    recall: f64,
    /// The requested recall.
    #[pyo3(get)]
    target: f64,
    /// Rows per query.
    #[pyo3(get)]
    k: usize,
    /// Number of queries.
    #[pyo3(get)]
    queries: usize,
    oversamples: Py<PyAny>,
    recalls: Py<PyAny>,
}

#[pymethods]
impl Calibration {
    /// The oversamples that were measured, int64 of shape ``(tried,)``: powers of two, and the one found.
    #[getter]
    fn oversamples(&self, py: Python<'_>) -> Py<PyAny> {
        self.oversamples.clone_ref(py)
    }

    /// The recall at each of them, float64 of shape ``(tried,)``.
    #[getter]
    fn recalls(&self, py: Python<'_>) -> Py<PyAny> {
        self.recalls.clone_ref(py)
    }

    fn __repr__(&self) -> String {
        format!(
            "Calibration(oversample={}, recall={:.4}, target={}, k={}, queries={})",
            self.oversample, self.recall, self.target, self.k, self.queries
        )
    }
}

impl Calibration {
    pub(super) fn wrap(py: Python<'_>, report: &CalibrationReport, target: f64, queries: usize) -> Self {
        let oversamples: Vec<i64> = report.measured.iter().map(|&(oversample, _)| oversample as i64).collect();
        let recalls: Vec<f64> = report.measured.iter().map(|&(_, recall)| recall).collect();
        Self {
            oversample: report.found.oversample,
            recall: report.found.recall,
            target,
            k: report.found.k as usize,
            queries,
            oversamples: oversamples.into_pyarray(py).into_any().unbind(),
            recalls: recalls.into_pyarray(py).into_any().unbind(),
        }
    }
}
