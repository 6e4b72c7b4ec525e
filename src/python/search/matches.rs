//! The result of a top-k search.
#![expect(clippy::doc_markdown, reason = "doc comments are Python docstrings")]

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};

use numpy::PyUntypedArrayMethods;

use super::super::convert::{collected, has_dtype, untyped};
use super::keys::Keys;
use crate::search::merge::Ranked;
use crate::search::query::Metric;
use crate::search::rows::Norm;
use crate::search::top_k::TopK;
use crate::similarity::cosine::{cosine, inverse_norm};

/// The best rows of each query, best first.
///
/// Searches return it. It unpacks as ``ids, scores = matches`` and can be pickled.
///
/// Parameters
/// ----------
/// ids : numpy.ndarray
///     Ids of the rows, int64 of shape ``(queries, k)``, or ``(k,)`` for one query without a row axis.
/// scores : numpy.ndarray
///     Their scores, of the same shape: int32 for Hamming distances and products, float32 for cosines.
/// exact : bool, default True
///     Whether every row was compared by the metric itself, so that these are the best rows.
/// metric : {"cosine", "dot", "hamming", "asymmetric"}, optional
///     The metric that rows are ranked by. Without it the result cannot be merged with others.
/// keys : numpy.ndarray, optional
///     What ranks the rows exactly, see :attr:`keys`. Needed for "cosine".
/// complete : bool, default False
///     Whether these are all rows that may be found, so that a search for more would find no more.
///
/// Raises
/// ------
/// TypeError
///     An argument is not an array, or has another dtype.
/// ValueError
///     The shapes differ, or have neither one nor two dimensions, or the keys do not fit the metric.
///
/// Notes
/// -----
/// ``len(matches)`` is ``len(matches.ids)``: the number of queries or, for one query without a row axis, the number of
/// its matches. Iteration gives ``ids`` and ``scores``. The object is immutable and may be shared between threads; its
/// arrays are ordinary, writable arrays.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> rows = np.array([[3], [1], [0]], dtype=np.uint8)
/// >>> ids, scores = ctxembed.top_k(np.array([1], dtype=np.uint8), rows, 2)
/// >>> ids, scores
/// (array([1, 0]), array([0, 1], dtype=int32))
#[pyclass(frozen, module = "ctxembed")]
pub(super) struct Matches {
    pub(super) ids: Py<PyAny>,
    pub(super) scores: Py<PyAny>,
    /// Whether every row was compared by the metric itself, so that these are the best rows.
    #[pyo3(get)]
    pub(super) exact: bool,
    /// Whether these are all rows that may be found, so that a search for more would find no more.
    #[pyo3(get)]
    pub(super) complete: bool,
    pub(super) keys: Keys,
}

#[pymethods]
impl Matches {
    #[new]
    #[pyo3(signature = (ids, scores, exact=true, metric=None, keys=None, complete=false))]
    fn new(
        ids: &Bound<'_, PyAny>,
        scores: &Bound<'_, PyAny>,
        exact: bool,
        metric: Option<&Bound<'_, PyAny>>,
        keys: Option<&Bound<'_, PyAny>>,
        complete: bool,
    ) -> PyResult<Self> {
        let (id_array, score_array) = (untyped("ids", ids)?, untyped("scores", scores)?);
        if !has_dtype::<i64>(id_array) {
            return Err(PyTypeError::new_err(format!("ids must have dtype int64, got {}", id_array.dtype())));
        }
        if !has_dtype::<i32>(score_array) && !has_dtype::<f32>(score_array) {
            return Err(PyTypeError::new_err(format!(
                "scores must have dtype int32 or float32, got {}",
                score_array.dtype()
            )));
        }
        if id_array.shape() != score_array.shape() || !(1..=2).contains(&id_array.ndim()) {
            return Err(PyValueError::new_err(format!(
                "ids and scores must have the same shape of 1 or 2 dimensions, got {:?} and {:?}",
                id_array.shape(),
                score_array.shape()
            )));
        }
        let keys = Keys::extract(metric, keys, scores)?;
        Ok(Self { ids: ids.clone().unbind(), scores: scores.clone().unbind(), exact, complete, keys })
    }

    /// Ids of the rows, int64 of shape ``(queries, k)``, or ``(k,)`` for one query without a row axis.
    #[getter]
    fn ids(&self, py: Python<'_>) -> Py<PyAny> {
        self.ids.clone_ref(py)
    }

    /// Scores in the shape of ``ids``: int32 for Hamming distances and products, float32 for cosines.
    #[getter]
    fn scores(&self, py: Python<'_>) -> Py<PyAny> {
        self.scores.clone_ref(py)
    }

    /// The metric that rows are ranked by, or None if the result was made without it.
    #[getter]
    fn metric(&self) -> Option<&'static str> {
        self.keys.metric_name()
    }

    /// What ranks the rows exactly, or None if the result was made without a metric.
    ///
    /// For cosines, whose scores are rounded, a new int64 array in the shape of ``ids`` with a last axis of two: the inner
    /// product, and the squared norm of the row. Distances and products are exact, and :attr:`scores` is returned.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.keys.array(self.scores.bind(py))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.ids.bind(py).len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyTuple::new(py, [&self.ids, &self.scores])?.try_iter()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let ids = self.ids.bind(py);
        let (shape, dtype) = (untyped("ids", ids)?.shape(), untyped("scores", self.scores.bind(py))?.dtype());
        let exact = if self.exact { "True" } else { "False" };
        Ok(match *shape {
            [k] => format!("Matches(k={k}, scores={dtype}, exact={exact})"),
            [queries, k] => format!("Matches(queries={queries}, k={k}, scores={dtype}, exact={exact})"),
            _ => format!("Matches(shape={shape:?}, scores={dtype}, exact={exact})"),
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, this) = (slf.py(), slf.get());
        let (ids, scores) = (this.ids.bind(py), this.scores.bind(py));
        let arguments = (ids, scores, this.exact, this.keys.metric_name(), this.keys.pickled(scores)?, this.complete);
        Ok((slf.get_type().into_any(), arguments.into_pyobject(py)?))
    }
}

/// How integer scores become those of the result.
pub(super) enum Scores<'a> {
    /// Distances or products, unchanged.
    Integers(Metric),
    /// Cosines, computed with the norm of each query.
    Cosines(&'a [Norm]),
}

impl<'a> Scores<'a> {
    /// Cosines if there are norms.
    pub(super) fn of(metric: Metric, norms: Option<&'a [Norm]>) -> Self {
        norms.map_or(Self::Integers(metric), Self::Cosines)
    }
}

impl Matches {
    /// Matches from the candidates of `queries` queries; a `single` query has no row axis.
    pub(super) fn wrap(
        py: Python<'_>,
        found: TopK,
        queries: usize,
        single: bool,
        scores: &Scores<'_>,
        exact: bool,
    ) -> PyResult<Self> {
        let shape = [queries, found.columns];
        let shape = if single { &shape[1..] } else { &shape[..] };
        let (mut candidates, complete) = (found.candidates, found.complete);
        let ids = collected(py, shape, candidates.iter().map(|candidate| candidate.id))?.unbind();
        let (scores, keys) = match scores {
            Scores::Integers(metric) => {
                (collected(py, shape, candidates.iter().map(|candidate| candidate.score))?, Keys::Scores(*metric))
            }
            Scores::Cosines(norms) => {
                let queries = candidates.chunks(found.columns.max(1)).zip(*norms);
                let cosines = queries.flat_map(|(candidates, &norm)| {
                    candidates.iter().map(move |row| cosine(row.score, norm, (row.norm, inverse_norm(row.norm))))
                });
                let cosines = collected(py, shape, cosines)?;
                // The candidates are the keys: nothing is computed or copied for them.
                candidates.shrink_to_fit();
                (cosines, Keys::Cosines(candidates))
            }
        };
        Ok(Self { ids, scores: scores.unbind(), exact, complete, keys })
    }

    /// Matches from merged rows, `columns` for each query.
    pub(super) fn of_ranked(
        py: Python<'_>,
        Ranked { offsets, candidates, cosines }: Ranked,
        metric: Metric,
        columns: usize,
        single: bool,
        exact: bool,
        complete: bool,
    ) -> PyResult<Self> {
        let shape = [offsets.len() - 1, columns];
        let shape = if single { &shape[1..] } else { &shape[..] };
        let ids = collected(py, shape, candidates.iter().map(|candidate| candidate.id))?.unbind();
        let scores = if metric == Metric::Cosine {
            collected(py, shape, cosines.into_iter())?
        } else {
            collected(py, shape, candidates.iter().map(|candidate| candidate.score))?
        };
        let keys = if metric == Metric::Cosine { Keys::Cosines(candidates) } else { Keys::Scores(metric) };
        Ok(Self { ids, scores: scores.unbind(), exact, complete, keys })
    }
}
