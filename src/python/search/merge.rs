//! Results of several indexes as one.
#![expect(clippy::doc_markdown, reason = "doc comments are Python docstrings")]

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::super::convert::{Rows, detached, integer, short_repr};
use super::keys::Keys;
use super::matches::Matches;
use super::results::RangeMatches;
use crate::error::Error;
use crate::search::merge::{Ranked, merge};
use crate::search::order::{ByCosine, ByHamming, ByProduct};
use crate::search::query::Metric;

/// Merge the best rows of several indexes into the best of all of them.
///
/// The result is that of one index with all rows: the same ids, scores and order, ties included.
///
/// Parameters
/// ----------
/// matches : list of Matches
///     Results of the same queries, each of other rows, at least one. Ids must be unique over all of them.
/// k : int
///     Rows to keep per query, at least 1.
///
/// Returns
/// -------
/// Matches
///     With ``min(k, rows found)`` columns. It is ``exact`` if all parts are.
///
/// Raises
/// ------
/// TypeError
///     ``matches`` holds something else, or ``k`` is not an int.
/// ValueError
///     There are no parts, a part has no exact keys (it was made of ids and scores alone), has another metric or number
///     of queries, was searched for fewer than ``k`` rows and may lack some, or shares an id with another part.
///
/// Notes
/// -----
/// float32 cosines cannot be merged exactly: many rows that differ share one. Each part carries the integers they were
/// computed from (:attr:`Matches.keys`), and these are compared. Results in two stages are merged exactly too, but an
/// index with all rows would have chosen its candidates among them. The interpreter is released.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> rows = np.array([[6, 8], [-4, 3], [4, 3], [3, 4]], dtype=np.int8)
/// >>> shards = [ctxembed.Index(2), ctxembed.Index(2)]
/// >>> added = [shards[0].add(rows[:1]), shards[1].add(rows[1:], np.arange(1, 4))]
/// >>> query = np.array([3, 4], dtype=np.int8)
/// >>> ctxembed.merge_top_k([shard.search(query, 3) for shard in shards], 3).ids
/// array([0, 3, 2])
#[pyfunction]
pub(super) fn merge_top_k(py: Python<'_>, matches: &Bound<'_, PyAny>, k: &Bound<'_, PyAny>) -> PyResult<Matches> {
    let (given, k) = (parts::<Matches>("Matches", matches)?, integer("k", k, 1)?);
    let metric = common_metric("matches", given.iter().map(|part| &part.get().keys))?;
    let (mut ranked, mut single, mut exact, mut complete) = (vec![], false, true, true);
    for (number, part) in given.iter().enumerate() {
        let part = part.get();
        let ids = Rows::<i64>::extract("ids", part.ids.bind(py))?;
        let (queries, columns) = (ids.len(), ids.width());
        if number == 0 {
            single = ids.is_single();
        } else if queries != queries_of(&ranked) || single != ids.is_single() {
            let shape = |single, queries| {
                if single { "one query without a row axis".into() } else { format!("{queries} queries") }
            };
            return Err(PyValueError::new_err(format!(
                "matches[{number}] is of {}, and matches[0] of {}: pass results of the same queries",
                shape(ids.is_single(), queries),
                shape(single, queries_of(&ranked))
            )));
        }
        if columns < k && !part.complete {
            return Err(PyValueError::new_err(format!(
                "matches[{number}] holds the best {columns} rows per query, which may not be all among the best {k}: \
                 search it with k={k}, or merge with k={columns}"
            )));
        }
        let offsets = (0..=queries).map(|query| query * columns).collect();
        ranked.push(part.keys.ranked(offsets, &ids, part.scores.bind(py))?);
        (exact, complete) = (exact && part.exact, complete && part.complete);
    }
    let total: usize = ranked.iter().map(|part| part.offsets.get(1).copied().unwrap_or_default()).sum();
    let merged = detached(py, || merged(&ranked, metric, k))?;
    Matches::of_ranked(py, merged, metric, k.min(total), single, exact, complete && total <= k)
}

/// Merge the rows within a radius of several indexes, or the best ``limit`` rows of each query.
#[pyfunction]
#[pyo3(signature = (parts, limit=None))]
pub(super) fn merge_ranges(
    py: Python<'_>,
    parts: &Bound<'_, PyAny>,
    limit: Option<&Bound<'_, PyAny>>,
) -> PyResult<RangeMatches> {
    let given = self::parts::<RangeMatches>("RangeMatches", parts)?;
    let limit = limit.map_or(Ok(usize::MAX), |limit| integer("limit", limit, 1))?;
    let metric = common_metric("parts", given.iter().map(|part| &part.get().keys))?;
    let mut ranked = vec![];
    for (number, part) in given.iter().enumerate() {
        let part = part.get();
        let ids = Rows::<i64>::extract("ids", part.ids.bind(py))?;
        ranked.push(part.keys.ranked(part.starts.clone(), &ids, part.scores.bind(py))?);
        if part.starts.len() - 1 != queries_of(&ranked) {
            return Err(PyValueError::new_err(format!(
                "parts[{number}] is of {} queries, and parts[0] of {}: pass results of the same queries",
                part.starts.len() - 1,
                queries_of(&ranked)
            )));
        }
    }
    RangeMatches::of_ranked(py, detached(py, || merged(&ranked, metric, limit))?, metric)
}

fn merged(parts: &[Ranked], metric: Metric, limit: usize) -> Result<Ranked, Error> {
    match metric {
        Metric::Cosine => merge::<ByCosine>(parts, limit),
        Metric::Dot | Metric::Asymmetric => merge::<ByProduct>(parts, limit),
        Metric::Hamming => merge::<ByHamming>(parts, limit),
    }
}

/// The number of queries of the first part.
fn queries_of(parts: &[Ranked]) -> usize {
    parts.first().map_or(0, |part| part.offsets.len() - 1)
}

/// The elements of a list of results.
fn parts<'py, T: pyo3::PyClass>(class: &str, given: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, T>>> {
    if given.is_instance_of::<T>() {
        return Err(PyTypeError::new_err(format!("a list of {class} is needed, got one: pass [matches, ...]")));
    }
    let mut all = vec![];
    for (number, part) in given.try_iter()?.enumerate() {
        let part = part?;
        let wrong = || PyTypeError::new_err(format!("part {number} must be a {class}, got {}", short_repr(&part)));
        all.push(part.cast::<T>().map_err(|_| wrong())?.clone());
    }
    if all.is_empty() {
        return Err(PyValueError::new_err(format!("at least one {class} is needed, got none")));
    }
    Ok(all)
}

/// The metric that all parts are ranked by.
fn common_metric<'a>(name: &str, keys: impl Iterator<Item = &'a Keys>) -> PyResult<Metric> {
    let mut common: Option<(Metric, &str)> = None;
    for (number, keys) in keys.enumerate() {
        let (Some(metric), Some(own)) = (keys.metric(), keys.metric_name()) else {
            return Err(PyValueError::new_err(format!(
                "{name}[{number}] has no exact keys, since it was made of ids and scores alone: pass its metric and keys too"
            )));
        };
        match common {
            Some((first, other)) if first != metric => {
                return Err(PyValueError::new_err(format!(
                    "{name}[{number}] is ranked by {own:?}, and {name}[0] by {other:?}: pass results of one metric"
                )));
            }
            _ => common = Some((metric, own)),
        }
    }
    common.map(|(metric, _)| metric).ok_or_else(|| PyValueError::new_err(format!("{name} must not be empty")))
}
