//! What ranks the rows of a result exactly: with it, results of several indexes merge as if they were of one.

use numpy::{PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::super::convert::{Rows, collected, detached, has_dtype, short_repr, untyped};
use super::super::scalars::choice;
use super::arguments::METRICS;
use crate::memory::{collected as collect, copied};
use crate::search::merge::Ranked;
use crate::search::order::Candidate;
use crate::search::query::Metric;

/// The keys of a result's rows.
#[derive(Debug)]
pub(super) enum Keys {
    /// The result was made of ids and scores alone.
    Unknown,
    /// The scores are the keys: distances and products are exact.
    Scores(Metric),
    /// The inner product and the squared norm of each row, whose cosines are rounded.
    Cosines(Vec<Candidate>),
}

impl Keys {
    /// The keys that a constructor got. `keys` of cosines have the shape of the scores and a last axis of two.
    pub(super) fn extract(
        metric: Option<&Bound<'_, PyAny>>,
        keys: Option<&Bound<'_, PyAny>>,
        scores: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let scored = untyped("scores", scores)?;
        let Some(name) = metric else {
            return match keys {
                Some(_) => Err(PyValueError::new_err("keys need the metric that they are of")),
                None => Ok(Self::Unknown),
            };
        };
        let metric = choice("metric", name, &METRICS)?;
        let fits = if metric == Metric::Cosine { has_dtype::<f32>(scored) } else { has_dtype::<i32>(scored) };
        if !fits {
            return Err(PyTypeError::new_err(format!(
                "scores of metric {} must have dtype {}, got {}",
                short_repr(name),
                if metric == Metric::Cosine { "float32" } else { "int32" },
                scored.dtype()
            )));
        }
        if metric != Metric::Cosine {
            let equal = |keys: &Bound<'_, PyAny>| {
                keys.is(scores) || {
                    let compared = keys.py().import("numpy").and_then(|numpy| numpy.getattr("array_equal"));
                    compared.and_then(|equal| equal.call1((keys, scores))?.extract()).unwrap_or(false)
                }
            };
            return match keys {
                Some(keys) if !equal(keys) => {
                    Err(PyValueError::new_err(format!("keys of metric {} must be the scores", short_repr(name))))
                }
                _ => Ok(Self::Scores(metric)),
            };
        }
        let keys = keys.ok_or_else(|| PyValueError::new_err("metric 'cosine' needs keys"))?;
        let expected = [scored.shape(), &[2]].concat();
        let array = untyped("keys", keys)?;
        if !has_dtype::<i64>(array) {
            return Err(PyTypeError::new_err(format!("keys must have dtype int64, got {}", array.dtype())));
        }
        if array.shape() != expected || !array.is_c_contiguous() {
            return Err(PyValueError::new_err(format!(
                "keys must be C-contiguous of shape {expected:?}, got {:?} with strides {:?}",
                array.shape(),
                array.strides()
            )));
        }
        let values: PyReadonlyArrayDyn<'_, i64> = keys.extract()?;
        let (pairs, _) = values.as_slice()?.as_chunks::<2>();
        let candidate = |&[product, norm]: &[i64; 2]| {
            let (score, norm) = (i32::try_from(product).ok()?, u32::try_from(norm).ok()?);
            Some(Candidate { score, norm, id: 0 })
        };
        let candidates: Option<Vec<_>> = pairs.iter().map(candidate).collect();
        candidates.map(Self::Cosines).ok_or_else(|| {
            PyValueError::new_err("keys must hold inner products of 32 bits and squared norms that are not negative")
        })
    }

    /// The metric that the rows are ranked by.
    pub(super) fn metric(&self) -> Option<Metric> {
        match self {
            Self::Unknown => None,
            Self::Scores(metric) => Some(*metric),
            Self::Cosines(_) => Some(Metric::Cosine),
        }
    }

    /// The name of the metric.
    pub(super) fn metric_name(&self) -> Option<&'static str> {
        let metric = self.metric()?;
        METRICS.iter().find(|(_, known)| *known == metric).map(|(name, _)| *name)
    }

    /// The keys as an array: the scores themselves, or a new array for cosines.
    pub(super) fn array<'py>(&self, scores: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = scores.py();
        match self {
            Self::Unknown => Ok(None),
            Self::Scores(_) => Ok(Some(scores.clone())),
            Self::Cosines(candidates) => {
                let pairs = candidates.iter().flat_map(|row| [i64::from(row.score), i64::from(row.norm)]);
                let flat = collected(py, &[candidates.len() * 2], pairs)?;
                let shape = [untyped("scores", scores)?.shape(), &[2]].concat();
                flat.call_method1("reshape", (shape,)).map(Some)
            }
        }
    }

    /// The keys as an array for a pickle. Scores that are their own keys are pickled once.
    pub(super) fn pickled<'py>(&self, scores: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if matches!(self, Self::Cosines(_)) { self.array(scores) } else { Ok(None) }
    }

    /// The rows with their ids and, where rows are ranked by them, their cosines. Query `i` has `offsets[i]..offsets[i + 1]`.
    pub(super) fn ranked(
        &self,
        offsets: Vec<usize>,
        ids: &Rows<'_, i64>,
        scores: &Bound<'_, PyAny>,
    ) -> PyResult<Ranked> {
        let (py, ids) = (scores.py(), ids.values());
        match self {
            Self::Unknown => Ok(Ranked { offsets, ..Ranked::default() }),
            Self::Scores(_) => {
                let scores = Rows::<i32>::extract("scores", scores)?;
                let rows = ids.iter().zip(scores.values()).map(|(&id, &score)| Candidate { score, norm: 0, id });
                let candidates = detached(py, || Ok(collect(rows)?))?;
                Ok(Ranked { offsets, candidates, cosines: vec![] })
            }
            Self::Cosines(keys) => {
                let scores = Rows::<f32>::extract("scores", scores)?;
                let (rows, cosines) = (ids.iter().zip(keys), scores.values());
                let (candidates, cosines) =
                    detached(py, || Ok((collect(rows.map(|(&id, key)| Candidate { id, ..*key }))?, copied(cosines)?)))?;
                Ok(Ranked { offsets, candidates, cosines })
            }
        }
    }
}
