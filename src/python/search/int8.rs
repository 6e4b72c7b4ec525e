//! Searches of an index of int8 vectors.

use std::collections::TryReserveError;
use std::num::NonZero;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::super::convert::{detached, interruptible};
use super::arguments::{Mask, Queries, SearchMode, dimensions, thread_count};
use super::embeddings::{Given, Use};
use super::matches::{Matches, Scores};
use super::results::RangeMatches;
use crate::search::index::Index;
use crate::search::query::{Metric, Options};
use crate::search::range::Threshold;
use crate::search::rows::{Norm, norms};

/// The metric that a search compares by, where the stage allows the one that was requested.
pub(super) fn metric_of(requested: Metric, stage: SearchMode) -> PyResult<Metric> {
    match (stage, requested) {
        (SearchMode::TwoStage, Metric::Hamming | Metric::Asymmetric) => {
            let metric = if requested == Metric::Hamming { "hamming" } else { "asymmetric" };
            let message = "stage 'two-stage' needs metric 'cosine' or 'dot': its first stage compares bits already";
            Err(PyValueError::new_err(format!("{message}, got {metric:?}")))
        }
        (SearchMode::Binary, Metric::Cosine | Metric::Dot) => Ok(Metric::Hamming),
        _ => Ok(requested),
    }
}

/// The arguments of a search.
pub(super) struct SearchArguments<'a, 'py> {
    pub(super) index: &'a Index,
    pub(super) queries: Queries<'py, i8>,
    mask: Option<Mask<'py>>,
    dims: usize,
    threads: Option<NonZero<usize>>,
}

impl<'a, 'py> SearchArguments<'a, 'py> {
    pub(super) fn extract(
        index: &'a Index,
        queries: &Bound<'py, PyAny>,
        metric: Metric,
        mask: Option<&Bound<'py, PyAny>>,
        dims: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        // The queries last: an `__index__` of the others could change their shape.
        let (dims, threads, mask) = (dimensions(dims, index, metric)?, thread_count(threads)?, Mask::extract(mask)?);
        let given = Given::extract(index, queries, dims, Use::Compared)?;
        Ok(Self { index, queries: Queries::extract(&given.array, index.dims(), dims)?, mask, dims, threads })
    }

    pub(super) fn options(&self) -> Options<'_> {
        Options { filter: Mask::filter(self.mask.as_ref()), dims: self.dims, threads: self.threads }
    }

    pub(super) fn top_k(
        &self,
        py: Python<'py>,
        metric: Metric,
        k: usize,
        stage: SearchMode,
        oversample: Option<usize>,
    ) -> PyResult<Matches> {
        let (index, queries, options) = (self.index, self.queries.matrix(), self.options());
        let (found, exact, norms) = interruptible(py, |py, check| {
            detached(py, || {
                let values = queries.copied()?;
                let (found, exact) = if stage == SearchMode::TwoStage {
                    index.search_two_stage(&values, metric, k, oversample, options, check)?
                } else {
                    (index.search(&values, metric, k, options, check)?, stage == SearchMode::Exact)
                };
                Ok((found, exact, cosine_norms(metric, &values, options.dims)?))
            })
        })?;
        let scores = Scores::of(metric, norms.as_deref());
        Matches::wrap(py, found, self.queries.len(), self.queries.is_single(), &scores, exact)
    }

    pub(super) fn within(&self, py: Python<'py>, metric: Metric, threshold: Threshold) -> PyResult<RangeMatches> {
        let (index, queries, options) = (self.index, self.queries.matrix(), self.options());
        let (found, norms) = interruptible(py, |py, check| {
            detached(py, || {
                let values = queries.copied()?;
                let found = index.within(&values, metric, threshold, options, check)?;
                Ok((found, cosine_norms(metric, &values, options.dims)?))
            })
        })?;
        RangeMatches::wrap(py, found, &Scores::of(metric, norms.as_deref()))
    }

    pub(super) fn count(&self, py: Python<'py>, metric: Metric, threshold: Threshold) -> PyResult<Bound<'py, PyAny>> {
        let (index, queries, options) = (self.index, self.queries.matrix(), self.options());
        let counts = interruptible(py, |py, check| {
            detached(py, || index.count_within(&queries.copied()?, metric, threshold, options, check))
        })?;
        super::common::counts(py, &counts, self.queries.is_single())
    }
}

/// The queries' norms if scores are cosines.
pub(super) fn cosine_norms(metric: Metric, queries: &[i8], dims: usize) -> Result<Option<Vec<Norm>>, TryReserveError> {
    (metric == Metric::Cosine).then(|| norms(queries, dims)).transpose()
}
