//! What the shards of an index do for a two-stage search of all of them.

use numpy::IntoPyArray;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::super::convert::{Rows, detached, ids, integer, interruptible, short_repr};
use super::super::scalars::choice;
use super::arguments::METRICS;
use super::binary_index::PyBinaryIndex;
use super::index::PyIndex;
use super::int8::{SearchArguments, cosine_norms};
use super::matches::{Matches, Scores};
use super::results::RangeMatches;
use crate::search::index::{Index, Kind};
use crate::search::query::Metric;

/// The ids of all rows of an index, in the order in which they were added.
#[pyfunction]
pub(super) fn ids_of_rows<'py>(py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let index = index_of(index)?;
    Ok(detached(py, || index.ids())?.into_pyarray(py).into_any())
}

/// One shard's part of the first stage of a two-stage search: the numbers of the nearest rows and their distances, and how
/// many rows the mask allows. Ties are ordered by the row number.
#[pyfunction]
#[pyo3(signature = (index, queries, candidates, *, mask=None, dimensions=None, threads=None))]
pub(super) fn first_stage(
    py: Python<'_>,
    index: &Bound<'_, PyAny>,
    queries: &Bound<'_, PyAny>,
    candidates: &Bound<'_, PyAny>,
    mask: Option<&Bound<'_, PyAny>>,
    dimensions: Option<&Bound<'_, PyAny>>,
    threads: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Matches, usize)> {
    let (index, candidates) = (index_of(index)?, integer("candidates", candidates, 1)?);
    let arguments = SearchArguments::extract(index, queries, Metric::Cosine, mask, dimensions, threads)?;
    let (values, options) = (arguments.queries.matrix(), arguments.options());
    let (found, allowed) = interruptible(py, |py, check| {
        detached(py, || index.first_stage_of_shard(&values.copied()?, candidates, options, check))
    })?;
    let (queries, scores) = (&arguments.queries, Scores::Integers(Metric::Hamming));
    Ok((Matches::wrap(py, found, queries.len(), queries.is_single(), &scores, false)?, allowed))
}

/// One shard's part of the second stage: the best ``k`` of ``rows[query, :counts[query]]``, numbers from ``first_stage``.
#[pyfunction]
#[pyo3(signature = (index, queries, k, rows, counts, *, metric, dimensions=None, threads=None))]
#[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
pub(super) fn second_stage(
    py: Python<'_>,
    index: &Bound<'_, PyAny>,
    queries: &Bound<'_, PyAny>,
    k: &Bound<'_, PyAny>,
    rows: &Bound<'_, PyAny>,
    counts: &Bound<'_, PyAny>,
    metric: &Bound<'_, PyAny>,
    dimensions: Option<&Bound<'_, PyAny>>,
    threads: Option<&Bound<'_, PyAny>>,
) -> PyResult<RangeMatches> {
    let (index, k) = (index_of(index)?, integer("k", k, 1)?);
    let known = if index.kind() == Kind::Int8 { &METRICS[..2] } else { &METRICS[3..] };
    let metric = choice("metric", metric, known)?;
    let arguments = SearchArguments::extract(index, queries, metric, None, dimensions, threads)?;
    let (rows, counts) = (Rows::<i64>::extract_matrix("rows", rows)?, ids("counts", counts)?);
    let (queries, columns) = (arguments.queries.len(), rows.width());
    if rows.len() != queries || counts.len() != queries {
        return Err(PyValueError::new_err(format!(
            "rows and counts must have one entry per query, {queries}, got {} and {}",
            rows.len(),
            counts.len()
        )));
    }
    let counts: Vec<usize> = counts
        .into_iter()
        .map(|count| {
            usize::try_from(count).ok().filter(|&count| count <= columns).ok_or_else(|| {
                PyValueError::new_err(format!("counts must be from 0 to {columns}, the columns of rows, got {count}"))
            })
        })
        .collect::<PyResult<_>>()?;
    let (values, options) = (arguments.queries.matrix(), arguments.options());
    let chosen = (rows.values(), columns, &counts[..]);
    let (found, norms) = interruptible(py, |py, check| {
        detached(py, || {
            let values = values.copied()?;
            let found = index.second_stage_of_shard(&values, metric, k, chosen, options, check)?;
            Ok((found, cosine_norms(metric, &values, options.dims)?))
        })
    })?;
    RangeMatches::wrap(py, found, &Scores::of(metric, norms.as_deref()))
}

/// The index behind an `Index` or a `BinaryIndex`.
fn index_of<'a>(object: &'a Bound<'_, PyAny>) -> PyResult<&'a Index> {
    if let Ok(index) = object.cast::<PyIndex>() {
        return Ok(&index.get().0);
    }
    let wrong = |_| PyTypeError::new_err(format!("an Index or a BinaryIndex is needed, got {}", short_repr(object)));
    Ok(&object.cast::<PyBinaryIndex>().map_err(wrong)?.get().0)
}
